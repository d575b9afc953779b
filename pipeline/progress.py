"""Many trainings on the terminal: bars while it works, plain lines where the output is no terminal."""

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Any

from rich import progress as bars
from rich.console import Console


class Display:
    def __init__(self) -> None:
        self.console = Console()

    def say(self, line: str) -> None:
        self.console.print(line, highlight=False, markup=False, soft_wrap=True)

    def _bars(self) -> bars.Progress:
        columns = (
            bars.TextColumn("{task.description}"), bars.BarColumn(bar_width=28), bars.MofNCompleteColumn(),
            bars.TimeElapsedColumn(), bars.TextColumn("left"), bars.TimeRemainingColumn(),
        )  # fmt: skip
        return bars.Progress(*columns, console=self.console, disable=not self.console.is_terminal)

    @contextmanager
    def finals(self, missing: int, ready: int) -> Iterator["Finals"]:
        with self._bars() as progress:
            yield Finals(self, progress, missing, ready)

    @contextmanager
    def jobs(self, what: str, total: int) -> Iterator[Callable[[], None]]:
        """A bar over so many jobs; call what it gives at the end of each."""
        with self._bars() as progress:
            bar = progress.add_task(what, total=total, visible=total > 0)
            yield lambda: progress.advance(bar)


class Finals:
    """The bar over all finals, and one over the epochs of each at work."""

    def __init__(self, display: Display, progress: bars.Progress, missing: int, ready: int) -> None:
        self._display, self._progress = display, progress
        self._all = progress.add_task("finals", total=missing)
        self._running: dict[Hashable, tuple[str, bars.TaskID]] = {}
        known = f"; {ready} are in MLflow" if ready else ""
        display.say(f"{missing} finals to train on fresh seeds and score on the test split{known}")

    def began(self, key: Hashable, name: str, epochs: int) -> None:
        self._running[key] = name, self._progress.add_task(name, total=epochs)

    def show(self, key: Hashable, told: Any) -> None:
        self._progress.update(self._running[key][1], completed=told[0])

    def ended(self, key: Hashable) -> None:
        name, bar = self._running.pop(key)
        self._progress.remove_task(bar)
        self._progress.advance(self._all)
        if not self._display.console.is_terminal:
            self._display.say(f"{name} done")
