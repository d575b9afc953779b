"""Which configuration a study tries next."""

import dataclasses
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState

from pipeline.study import pruning
from variants import Config

Params = Mapping[str, Any]

STARTUP_TRIALS = (
    6  # trials that have ended before the Gaussian process is asked; if they are not given, they are random
)
PRIOR_TRIALS = 3  # configurations that are taken over from other studies


class Sampler(optuna.samplers.BaseSampler):
    """Tries the default configuration, then what a prior suggests, and then what a Gaussian process expects most of.

    The sampler has no random state. What it draws depends only on the seed, the number of the trial, the name of the
    parameter, and the trials before. A study that was interrupted, even between two parameters, therefore ends like one
    that was not.

    Args:
        seed: The seed of the study.
        defaults: The default value of each parameter. A value outside the searched range is replaced by the nearest one
            in it. A parameter without a default is drawn at random.
        prior: Configurations that were good in other studies, the best first. Each is tried once, with defaults for the
            parameters that it lacks. Once one of them has turned out no better than the defaults, the rest are dropped.
    """

    def __init__(self, seed: int, defaults: Params, prior: Sequence[Params] = ()) -> None:
        self.seed, self.defaults, self.prior = seed, defaults, prior

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        if self._given(study, trial) is not None:
            return {}
        return self._inner(trial).infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Ask the Gaussian process. It takes the last scores of trials that were ended early as their final ones."""
        if not search_space:
            return {}
        view = optuna.create_study(directions=study.directions, sampler=self._inner(trial))
        others = (t for t in study.get_trials(deepcopy=False) if t.number != trial.number)
        view.add_trials([t for t in map(_with_values, others) if t is not None])
        return dict(view.ask(search_space).params)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        given = self._given(study, trial) or {}
        if param_name in given:
            return nearest(given[param_name], param_distribution)
        return self._inner(trial, param_name).sample_independent(study, trial, param_name, param_distribution)

    def _inner(self, trial: FrozenTrial, name: str = "") -> optuna.samplers.BaseSampler:
        seed = zlib.crc32(f"{self.seed} {trial.number} {name}".encode())
        return optuna.samplers.GPSampler(seed=seed, n_startup_trials=STARTUP_TRIALS, warn_independent_sampling=False)

    def _given(self, study: optuna.Study, trial: FrozenTrial) -> Params | None:
        """Return the configuration of a trial that is not drawn, which are the first one and those of the prior."""
        if trial.number == 0:
            return self.defaults
        if trial.number > len(self.prior) or _misleads(study.get_trials(deepcopy=False)[: trial.number], study):
            return None
        return {**self.defaults, **self.prior[trial.number - 1]}


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


def _with_values(trial: FrozenTrial) -> FrozenTrial | None:
    """Return a complete or running trial without its attributes, and a pruned one as if complete; None for others."""
    values = trial.values
    if trial.state == TrialState.PRUNED and (rungs := trial.user_attrs.get(pruning.RUNGS)):
        values = rungs[max(rungs, key=int)]
    if values is None and trial.state != TrialState.RUNNING:
        return None
    state = TrialState.RUNNING if values is None else TrialState.COMPLETE
    return optuna.trial.create_trial(state=state, params=trial.params, distributions=trial.distributions, values=values)


def default_params(config_type: type[Config]) -> dict[str, Any]:
    """Return the default of each field of a configuration that has one."""
    fields = dataclasses.fields(config_type)
    return {field.name: field.default for field in fields if field.default is not dataclasses.MISSING}


def nearest(value: Any, distribution: BaseDistribution) -> Any:
    """Return the value of a distribution that is nearest to `value`. Of choices, it is the first if `value` is none."""
    if isinstance(distribution, CategoricalDistribution):
        return value if value in distribution.choices else distribution.choices[0]
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    inside = min(max(value, distribution.low), distribution.high)
    return round(inside) if isinstance(distribution, IntDistribution) else inside
