"""What a study found, in plain values, for whoever compares: nothing of Optuna leaves this folder."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import optuna
from optuna.trial import FixedTrial, TrialState

import studies
from pipeline.metrics import OBJECTIVES
from pipeline.study import figures, space, store
from pipeline.study.trial import STATES
from variants import Config


@dataclass(frozen=True, kw_only=True)
class TrialRecord:
    """One finished trial: its configuration, and its scores on validation data by the names of metrics."""

    number: int
    state: str  # complete, pruned or failed
    config: Config
    params: Mapping[str, Any]  # what was searched
    metrics: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class StudyRecord:
    """A study as it stands in the store."""

    name: str
    variant: str
    dataset: str
    digest: str
    objectives: tuple[str, ...]
    epochs: int
    patience: int
    seed: int
    space: Mapping[str, str]
    trials: tuple[TrialRecord, ...]
    importances: Mapping[str, Mapping[str, float]]  # of each objective, the shares of the searched parameters

    @property
    def seconds(self) -> float:
        """What all its trials took."""
        return sum(t.metrics.get("time/trial_seconds", 0.0) for t in self.trials)

    def best(self, metric: str) -> TrialRecord | None:
        """The complete trial that is best by a metric of validation data; None where no trial has it."""
        sign = 1 if OBJECTIVES[metric].better == "maximize" else -1
        scored = [t for t in self.trials if t.state == "complete" and metric in t.metrics]
        return max(scored, key=lambda t: sign * t.metrics[metric], default=None)


def read_study(url: str, name: str) -> StudyRecord | None:
    """The study of that name in a store; None where there is none. Raises `InputError` where it cannot be read."""
    study = store.stored(url, name)
    if study is None:
        return None
    search = study.user_attrs["search"]
    asked = studies.get(search["variant"])
    trials = tuple(
        TrialRecord(
            number=t.number,
            state=STATES[t.state],
            config=space.suggest(asked, FixedTrial(t.params), search["fix"]),
            params=t.params,
            metrics=t.user_attrs.get("metrics", {}),
        )
        for t in store.finished(study)
    )
    objectives = tuple(search["objectives"])
    return StudyRecord(
        name=name,
        variant=search["variant"],
        dataset=search["dataset"],
        digest=search["digest"],
        objectives=objectives,
        epochs=search["epochs"],
        patience=asked.STUDY.patience,
        seed=search["seed"],
        space=search["space"],
        trials=trials,
        importances=_importances(study, objectives),
    )


def _importances(study: optuna.Study, objectives: tuple[str, ...]) -> dict[str, dict[str, float]]:
    """By Optuna's default (PED-ANOVA); nothing where trials are too few or too alike to tell."""
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if len(complete) < 4 or len({tuple(t.params.values()) for t in complete}) < 2:
        return {}
    found: dict[str, dict[str, float]] = {}
    for i, name in enumerate(objectives):
        target = partial(figures.lowest, i, OBJECTIVES[name].better)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # it warns of what `lowest` sees to
                found[name] = dict(optuna.importance.get_param_importances(study, target=target))
        except (ValueError, RuntimeError):  # too few different values
            continue
    return found
