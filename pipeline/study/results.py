"""The results of a study as plain values, so that no other package needs Optuna."""

import warnings
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import optuna
from optuna.trial import FixedTrial, FrozenTrial

import studies
import variants
from pipeline.metrics import OBJECTIVES
from pipeline.study import space, store, summary
from studies import SearchSpace
from variants import Config, InputError


@dataclass(frozen=True, kw_only=True)
class TrialRecord:
    """A finished trial: what was trained, and its scores on validation data."""

    number: int
    state: str  # complete, pruned or failed
    config: Config
    params: Mapping[str, Any]  # the values that the search chose
    metrics: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class StudyRecord:
    """A study as it stands in the store, with its finished trials."""

    name: str
    variant: str
    dataset: str
    digest: str
    data: str  # the options that name the data and say how they are read; "" if an older version ran the study
    objectives: tuple[str, ...]
    epochs: int
    patience: int
    seed: int
    space: Mapping[str, str]  # the range of each searched parameter, in words
    trials: tuple[TrialRecord, ...]
    importances: Mapping[str, Mapping[str, float]]  # objective -> parameter -> its share of the variance

    @property
    def seconds(self) -> float:
        """The seconds that all trials took."""
        return sum(t.metrics.get("time/trial_seconds", 0.0) for t in self.trials)

    def best(self, metric: str) -> TrialRecord | None:
        """Return the complete trial that is best by a metric of validation data; None if no trial has the metric."""
        sign = 1 if OBJECTIVES[metric].better == "maximize" else -1
        scored = [t for t in self.trials if t.state == "complete" and metric in t.metrics]
        return max(scored, key=lambda t: sign * t.metrics[metric], default=None)


def read_study(url: str, name: str) -> StudyRecord | None:
    """Read a study and its finished trials from the Optuna store at `url`. Return None if it has no study of that name.

    Older versions of this project did not store the configurations of trials. The configuration of such a trial is
    rebuilt from the current search space, and a warning is issued.

    Raises:
        InputError: If the store cannot be read, or the configuration of a trial no longer fits the variant.
    """
    study = store.load_study(url, name)
    if study is None:
        return None
    search = study.user_attrs["search"]
    variant = search["variant"]
    finished = store.finished_trials(study)
    configs = [store.stored_config(t, variants.get(variant).config_type) for t in finished]
    if None in configs:
        warnings.warn(
            f"study {name!r}: {configs.count(None)} of {len(finished)} trials come from an older version, which did "
            f"not store their configurations; these are rebuilt from today's search space of {variant}, and are wrong "
            "if it has changed since",
            stacklevel=2,
        )
    search_space = studies.get(variant)
    trials = tuple(
        TrialRecord(
            number=t.number, state=store.STATES[t.state], params=t.params, metrics=t.user_attrs.get("metrics", {}),
            config=config or _rebuilt_config(search_space, t, search["fix"]),
        )
        for t, config in zip(finished, configs, strict=True)
    )  # fmt: skip
    objectives = tuple(search["objectives"])
    return StudyRecord(
        name=name, variant=variant, dataset=search["dataset"], digest=search["digest"],
        data=search.get("data", ""), objectives=objectives, epochs=search["epochs"],
        patience=search.get("patience", search_space.STUDY.patience), seed=search["seed"], space=search["space"],
        trials=trials, importances=_importances(study, objectives),
    )  # fmt: skip


def _rebuilt_config(search_space: SearchSpace, trial: FrozenTrial, fixed: Mapping[str, space.Value]) -> Config:
    try:
        return space.suggest(search_space, FixedTrial(trial.params), fixed)
    except ValueError as error:  # today's search space asks for a parameter that the trial does not have
        raise InputError(
            f"the configuration of trial {trial.number} cannot be rebuilt ({error}); restore the search space that the "
            "study was run with"
        ) from error


def _importances(study: optuna.Study, objectives: tuple[str, ...]) -> dict[str, dict[str, float]]:
    """Return Optuna's importances (PED-ANOVA); nothing where trials are too few, or their values too similar."""
    complete = store.complete_trials(study)
    if len(complete) < 4 or len({tuple(t.params.values()) for t in complete}) < 2:
        return {}
    importances: dict[str, dict[str, float]] = {}
    for i, name in enumerate(objectives):
        target = partial(summary.minimized_value, i, OBJECTIVES[name].better)
        with warnings.catch_warnings(), suppress(ValueError, RuntimeError):  # too few different values
            warnings.simplefilter("ignore")  # Optuna warns of a direction, which `minimized_value` takes care of
            importances[name] = dict(optuna.importance.get_param_importances(study, target=target))
    return importances
