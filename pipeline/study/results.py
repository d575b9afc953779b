"""The results of a study as plain values, so that no other package needs Optuna."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import optuna
from optuna.trial import FixedTrial, FrozenTrial

import studies
from pipeline.metrics import OBJECTIVES, Undefined
from pipeline.study import budget, space, store
from studies import SearchBudget, SearchSpace
from variants import Config, InputError

MIN_IMPORTANCE_TRIALS = 10  # the fewest complete trials from which importances are computed


@dataclass(frozen=True, kw_only=True)
class TrialRecord:
    """A finished trial: what was trained, what that took, and its scores on validation data."""

    number: int
    state: str  # complete, pruned or failed
    is_cut_off: bool  # whether it was pruned because the budget was spent
    epochs: int  # for which it was trained
    seconds: float  # of training, validation and scoring
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
    goal: str  # what it was last asked to reach, such as `2000 epochs` or `20 trials`; "" if an older version ran it
    epochs: int  # the largest number of epochs of a trial
    patience: int
    seed: int
    space: Mapping[str, str]  # the range of each searched parameter, in words
    trials: tuple[TrialRecord, ...]
    started_from: tuple[str, ...]  # the studies whose best settings were tried first
    importances: Mapping[str, Mapping[str, float] | Undefined]  # by objective, as `importances` returns them

    @property
    def complete(self) -> int:
        """The number of complete trials, from which the importances come."""
        return sum(t.state == "complete" for t in self.trials)

    @property
    def spent_epochs(self) -> int:
        """The epochs for which all trials were trained."""
        return sum(t.epochs for t in self.trials)

    @property
    def seconds(self) -> float:
        """The seconds that all trials took."""
        return sum(t.seconds for t in self.trials)

    def spent(self, budget: SearchBudget) -> float:
        """Return what all trials have spent, in the unit of a budget."""
        return self.spent_epochs if budget.epochs else self.seconds

    def longest_trial(self, budget: SearchBudget) -> float:
        """Return what one trial may spend, in the unit of a budget: its epochs, or the seconds of the longest trial."""
        return self.epochs if budget.epochs else max((t.seconds for t in self.trials), default=0.0)

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
    configs = [store.stored_config(t, variant) for t in finished]
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
            config=config or _rebuilt_config(search_space, t, search["fix"]), is_cut_off=budget.is_cut_off(t),
            epochs=budget.trained_epochs(t, search["epochs"]), seconds=budget.spent_seconds(t),
        )
        for t, config in zip(finished, configs, strict=True)
    )  # fmt: skip
    objectives = tuple(search["objectives"])
    return StudyRecord(
        name=name, variant=variant, dataset=search["dataset"], digest=search["digest"],
        data=search.get("data", ""), objectives=objectives, goal=study.user_attrs.get(budget.GOAL, ""),
        epochs=search["epochs"],
        patience=search.get("patience", search_space.STUDY.patience), seed=search["seed"], space=search["space"],
        trials=trials, importances=importances(study, objectives),
        started_from=tuple(study.user_attrs.get(store.PRIOR, {}).get("studies", ())),
    )  # fmt: skip


def _rebuilt_config(search_space: SearchSpace, trial: FrozenTrial, fixed: Mapping[str, space.Value]) -> Config:
    try:
        config = space.suggest(search_space, FixedTrial(trial.params), fixed, None)
        return replace(config, network="mlp") if config.network == "auto" else config  # older versions had no "auto"
    except ValueError as error:  # today's search space asks for a parameter that the trial does not have
        raise InputError(
            f"the configuration of trial {trial.number} cannot be rebuilt ({error}); restore the search space that the "
            "study was run with"
        ) from error


def importances(study: optuna.Study, objectives: tuple[str, ...]) -> dict[str, dict[str, float] | Undefined]:
    """Return the importance of each parameter for each objective by PED-ANOVA (Watanabe et al. 2023, IJCAI).

    The importances for an objective are shares, which add up to 1. They measure how far the values that a parameter
    has in the best tenth of the complete trials differ from its values in all of them. They are undefined for fewer
    than `MIN_IMPORTANCE_TRIALS` complete trials, and for trials with equal parameters or equal scores.
    """
    complete = store.complete_trials(study)
    by_objective: dict[str, dict[str, float] | Undefined] = {}
    for i, name in enumerate(objectives):
        if len(complete) < MIN_IMPORTANCE_TRIALS:
            trials = f"{len(complete)} complete trial{'s' * (len(complete) != 1)}"
            by_objective[name] = Undefined(f"{trials}, at least {MIN_IMPORTANCE_TRIALS} are needed")
        elif len({tuple(t.params.items()) for t in complete}) < 2:
            by_objective[name] = Undefined("all complete trials have the same parameters")
        elif len({t.values[i] for t in complete}) < 2:
            by_objective[name] = Undefined(f"all complete trials have the same {name}")
        else:
            target = partial(minimized_value, i, OBJECTIVES[name].better)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Optuna warns of a direction, which `minimized_value` takes care of
                by_objective[name] = dict(optuna.importance.get_param_importances(study, target=target))
    return by_objective


def minimized_value(index: int, better: str, trial: FrozenTrial) -> float:
    """Return a trial's value, negated if higher is better, because PED-ANOVA explains what makes a target low."""
    return -float(trial.values[index]) if better == "maximize" else float(trial.values[index])
