"""Which configuration a study tries next."""

import dataclasses
import math
import warnings
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState

from variants import Config

Params = Mapping[str, Any]

STARTUP_TRIALS = 6  # trials that have ended before TPE is asked; those that are not given are drawn at random
GOOD_SHARE = 0.15  # of the trials, which TPE takes as good ones; with Optuna's own .1, the best of ten would be alone
PRIOR_TRIALS = 3  # configurations that are taken over from other studies


class Sampler(optuna.samplers.BaseSampler):
    """Tries the default configuration first, then the prior, and then what TPE expects most of.

    The sampler has no random state. What it draws depends only on the seed, the number of the trial, the name of the
    parameter, and the trials before. A study that was interrupted, even between two parameters, therefore ends like one
    that was not.

    Args:
        seed: The seed of the study.
        defaults: The default value of each parameter. A value outside the searched range is replaced by the nearest one
            in it. A parameter without a default is drawn at random.
        prior: Settings that were good in other studies, the best first. Each is tried once. Parameters that it lacks
            are drawn. Once one of these trials has turned out no better than the defaults, the rest are dropped.
    """

    def __init__(self, seed: int, defaults: Params, prior: Sequence[Params] = ()) -> None:
        self.seed, self.defaults, self.prior = seed, defaults, prior

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        if self._given(study, trial) is not None:
            return {}
        return self._tpe(trial).infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return self._tpe(trial).sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        given = self._given(study, trial) or {}
        if param_name in given:
            return nearest(given[param_name], param_distribution)
        return self._tpe(trial, param_name).sample_independent(study, trial, param_name, param_distribution)

    def _tpe(self, trial: FrozenTrial, name: str = "") -> optuna.samplers.TPESampler:
        seed = zlib.crc32(f"{self.seed} {trial.number} {name}".encode())
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "`gamma` has been deprecated")  # until Optuna 6, which is excluded
            return optuna.samplers.TPESampler(seed=seed, n_startup_trials=STARTUP_TRIALS, gamma=_good_trials)

    def _given(self, study: optuna.Study, trial: FrozenTrial) -> Params | None:
        """Return the parameters of a trial that are not drawn, which the first trial and those of the prior have."""
        if trial.number == 0:
            return self.defaults
        if trial.number > len(self.prior) or _misleads(study.get_trials(deepcopy=False)[: trial.number], study):
            return None
        return self.prior[trial.number - 1]


def _good_trials(trials: int) -> int:
    return max(2, math.ceil(GOOD_SHARE * trials))


def _misleads(trials: Sequence[FrozenTrial], study: optuna.Study) -> bool:
    """Return whether one of the trials after the first has ended, and is not better than it by the first objective."""
    sign = 1 if study.directions[0] == optuna.study.StudyDirection.MAXIMIZE else -1
    first, *others = trials
    if first.state != TrialState.COMPLETE:
        return False
    return any(
        t.state.is_finished() and not (t.state == TrialState.COMPLETE and sign * (t.values[0] - first.values[0]) > 0)
        for t in others
    )


def default_params(config_type: type[Config]) -> dict[str, Any]:
    """Return the default value of each hyperparameter of a variant."""
    return {f.name: f.default for f in dataclasses.fields(config_type)}


def nearest(value: Any, distribution: BaseDistribution) -> Any:
    """Return the value of a distribution that is nearest to `value`.

    If `value` is not among choices, it is the first of them; if it is no number, it is the lowest of numbers.
    """
    if isinstance(distribution, CategoricalDistribution):
        return value if value in distribution.choices else distribution.choices[0]
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    if not isinstance(value, int | float):  # a study may search a number where another one had choices
        return distribution.low
    inside = min(max(value, distribution.low), distribution.high)
    return round(inside) if isinstance(distribution, IntDistribution) else inside
