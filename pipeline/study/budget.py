"""The budget of a study: what its finished trials have spent, and what another trial may spend.

All of it is read from the Optuna store, so that a study that was interrupted continues with the same trials.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import optuna
from optuna.trial import FrozenTrial, TrialState

from pipeline.study import pruning, store
from studies import SearchBudget
from variants import InputError

ALLOWANCE = "allowance"  # the attribute of a trial: under each budget, the epochs or seconds that it may be trained for
GOAL = "goal"  # the attribute of a study: what it was last asked to reach, such as `2000 epochs` or `20 trials`
CUT_OFF = "the budget was spent"  # the reason of a pruned trial that has used up its allowance


@dataclass(frozen=True)
class Goal:
    """What a study is to reach: a budget, or a number of finished trials, or whichever of the two comes first."""

    budget: SearchBudget | None
    trials: int | None
    epochs: int  # the largest number of epochs of a trial

    def __str__(self) -> str:
        trials = f"{self.trials} trials" if self.trials else None
        return " or ".join(str(part) for part in (self.budget, trials) if part)

    @property
    def total(self) -> int:
        """The budget as a whole number, or the number of trials if there is no budget. A progress bar ends there."""
        return int(self.budget.amount) if self.budget else self.trials or 0

    @property
    def unit(self) -> str:
        return self.budget.unit if self.budget else ""

    def spent(self, trials: Iterable[FrozenTrial]) -> float:
        """Return what finished trials have spent together, in the unit of the budget; 0 if there is none."""
        if self.budget is None:
            return 0.0
        return sum(trained_epochs(t, self.epochs) if self.budget.epochs else spent_seconds(t) for t in trials)

    def state(self, finished: list[FrozenTrial], running: float = 0.0) -> str:
        """Return in words what is spent and how many trials have finished. `running` is the share of running trials."""
        trials = f"{len(finished)} of {self.trials} trials" if self.trials else count(len(finished))
        if self.budget is None:
            return f"{trials} finished"
        return f"{self.spent(finished) + running:.0f} of {self.budget.amount:g} {self.unit}, {trials} finished"


def trained_epochs(trial: FrozenTrial, most: int) -> int:
    """Return the number of epochs that a finished trial was trained for.

    Older versions did not store it. It is then the epoch of the last score in the store. A complete trial without any
    counts as `most`, which is the largest number of epochs of a trial of its study.
    """
    if store.EPOCHS in trial.user_attrs:
        return int(trial.user_attrs[store.EPOCHS])
    is_complete = trial.state == TrialState.COMPLETE
    scored = trial.intermediate_values or ([most] if is_complete else trial.user_attrs.get(pruning.RUNGS, {}))
    return max(map(int, scored), default=1)


def spent_seconds(trial: FrozenTrial) -> float:
    """Return the seconds that a finished trial has taken. Older versions stored those of its training only, if any."""
    of_training = trial.user_attrs.get("metrics", {}).get("time/trial_seconds", 0.0)
    return float(trial.user_attrs.get(store.SECONDS, of_training))


def check(budget: SearchBudget | None, most: int) -> None:
    """Raise `InputError` if a budget has fewer epochs than a trial may take, which is `most`."""
    if budget and budget.epochs and budget.epochs < most:
        raise InputError(
            f"--budget {budget.epochs}epochs: a trial takes up to {most} epochs; expected at least {most}epochs, or "
            f"--epochs {budget.epochs} or fewer"
        )


def allowance(trial: FrozenTrial | optuna.Trial, budget: SearchBudget | None) -> float | None:
    """Return what a trial may spend, in the unit of the budget. Return None if nothing is stored under this budget."""
    stored: float | None = trial.user_attrs.get(ALLOWANCE, {}).get(str(budget))
    return stored


def is_cut_off(trial: FrozenTrial) -> bool:
    """Return whether a trial was ended because it had used up its allowance."""
    return trial.state == TrialState.PRUNED and trial.user_attrs.get("reason") == CUT_OFF


def summary(trials: list[FrozenTrial], most: int) -> str:
    """Return what finished trials have spent, such as `2000 epochs and 95 s in 23 trials: 14 complete, 9 pruned`."""
    ends = Counter("cut off" if is_cut_off(t) else store.STATES[t.state] for t in trials)
    notes = {"cut off": "cut off when the budget was spent"}
    states = ", ".join(f"{ends[end]} {notes.get(end, end)}" for end in (*store.STATES.values(), "cut off") if ends[end])
    epochs, seconds = sum(trained_epochs(t, most) for t in trials), sum(map(spent_seconds, trials))
    return f"{epochs} epochs and {seconds:.0f} s in {count(len(trials))}{': ' * bool(trials)}{states}"


def count(trials: int) -> str:
    """Return a number of trials in words."""
    return "1 trial" if trials == 1 else f"{trials} trials"
