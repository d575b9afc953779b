"""A study on the terminal: a live view, plain lines where the output is no terminal, and a table at the end."""

from collections.abc import Hashable, Mapping
from types import TracebackType

import optuna
from optuna.trial import FrozenTrial, TrialState
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from pipeline.metrics import OBJECTIVES
from pipeline.study import store

COLUMNS = {  # metric -> heading and format, in the order in which they are shown
    "valid/elbo": ("ELBO", ".2f"),
    "valid/reconstruction": ("reconstruction", ".2f"),
    "valid/kl": ("KL", ".2f"),
    "latent/mmd": ("MMD", ".4f"),
    "probe/accuracy": ("probe", ".3f"),
    "time/trial_seconds": ("seconds", ".1f"),
}


class Display:
    """Shows what the study tells it. Use it as a context manager."""

    def __init__(self, name: str, trials: int, epochs: int, objectives: tuple[str, ...], done: int) -> None:
        self.console = Console()
        self._epochs, self._trials, self._objectives = epochs, trials, objectives
        self._columns = _columns(objectives)
        self._best: dict[str, tuple[float, int]] = {}
        self._bars = Progress(
            TextColumn("{task.description}", style="bold"),
            BarColumn(bar_width=28),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(elapsed_when_finished=False),
            TextColumn("{task.fields[note]}"),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self._study = self._bars.add_task(name, total=trials, completed=done, note="")
        self._running: dict[Hashable, TaskID] = {}  # trial -> its bar
        if not self.console.is_terminal:
            self.say(f"study {name}: {done} of {trials} trials finished, at most {epochs} epochs each")

    def __enter__(self) -> "Display":
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for bar in self._running.values():
            self._bars.update(bar, visible=False)
        self._bars.stop()

    def say(self, line: str) -> None:
        self.console.print(line, highlight=False, soft_wrap=True)

    def began(self, number: int) -> None:
        self._running[number] = self._bars.add_task(f"trial {number}", total=self._epochs, note="")

    def epoch(self, number: Hashable, epoch: int, scores: Mapping[str, float]) -> None:
        shown = [f"{COLUMNS[k][0]} {scores[k]:{COLUMNS[k][1]}}" for k in COLUMNS if k in scores]
        self._bars.update(self._running[number], completed=epoch, note="  ".join(shown))

    def ended(self, trial: FrozenTrial) -> None:
        scores = trial.user_attrs.get("metrics", {})
        if trial.state == TrialState.COMPLETE:
            self._remember(trial)
        shown = [f"{COLUMNS[k][0]} {scores[k]:{COLUMNS[k][1]}}" for k in self._columns if k in scores]
        params = " ".join(f"{k}={_short(v)}" for k, v in trial.params.items())
        state = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned  ", TrialState.FAIL: "failed  "}[
            trial.state
        ]
        why = f"  {trial.user_attrs['reason']}" if "reason" in trial.user_attrs else ""
        self.say(f"trial {trial.number:>3} {state} {'  '.join(shown)}  {params}{why}")
        best = "  ".join(f"{COLUMNS[n][0]} {v:{COLUMNS[n][1]}} (#{t})" for n, (v, t) in self._best.items())
        self._bars.update(self._study, advance=1, note=f"best {best}" if best else "")
        self._bars.remove_task(self._running.pop(trial.number))

    def _remember(self, trial: FrozenTrial) -> None:
        for name, value in zip(self._objectives, trial.values, strict=True):
            sign = 1 if OBJECTIVES[name].better == "maximize" else -1
            if name not in self._best or sign * value > sign * self._best[name][0]:
                self._best[name] = (value, trial.number)


def summary(study: optuna.Study, objectives: tuple[str, ...], rows: int = 8) -> Table:
    """The best trials by the first objective; of several, those of the Pareto front come first, starred."""
    several = len(objectives) > 1
    sign = 1 if OBJECTIVES[objectives[0]].better == "minimize" else -1
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    front = {t.number for t in study.best_trials} if several else set()
    chosen = sorted(complete, key=lambda t: (t.number not in front, sign * t.values[0]))[:rows]
    # ELBO and KL are named also where there are none: a variant without a density q has a dash, never a number
    measured = {"valid/elbo", "valid/kl"}.union(*(t.user_attrs["metrics"] for t in chosen))
    shown = [k for k in _columns(objectives) if k in measured]
    star = f"; * Pareto front of {' and '.join(objectives)}" if several else ""
    caption = f"{_counts(study)}; ELBO, reconstruction and KL in nats{star}"
    table = Table(title=f"{study.study_name}: best trials", caption=caption)
    for heading in ["trial", *(COLUMNS[k][0] for k in shown)]:
        table.add_column(heading, justify="right")
    table.add_column("parameters")
    for t in chosen:
        found = t.user_attrs["metrics"]
        scores = [f"{found[k]:{COLUMNS[k][1]}}" if k in found else "—" for k in shown]
        table.add_row(
            f"{t.number}{'*' * (t.number in front)}", *scores, " ".join(f"{k}={_short(v)}" for k, v in t.params.items())
        )
    return table


def _columns(objectives: tuple[str, ...]) -> list[str]:
    """Headings that a table has room for: the discrepancy from the prior only where it is an aim."""
    return [k for k in COLUMNS if k != "latent/mmd" or k in objectives]


def _counts(study: optuna.Study) -> str:
    words = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}
    states = [t.state for t in store.finished(study)]
    return ", ".join(f"{states.count(s)} {word}" for s, word in words.items() if s in states)


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
