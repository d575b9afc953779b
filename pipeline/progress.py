"""Messages to the user, and the progress of long work.

On a terminal the progress is shown live, as bars. Elsewhere, such as in a log file, it is printed as lines, and at
least one line appears every `INTERVAL` seconds for as long as the work lasts. Output that cannot be written, because a
pipe was closed or a disk is full, is dropped: it never stops the work.

    display = Display()
    with display.progress("study beta-digits", total=20) as progress:
        progress.start(3, "trial 3", steps=100)
        progress.update(3, 17, "ELBO -23.10")
        progress.finish(3, "trial 3 complete")
"""

import os
import threading
import time
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TypeVar

from rich import progress as bars
from rich.console import Console, RenderableType

WIDTH = 120  # characters of a line where there is no terminal
INTERVAL = 25.0  # seconds after which a line is printed if nothing else was
Part = TypeVar("Part")
WRITE_ERRORS = (OSError, SystemExit)  # `rich` raises SystemExit when a pipe is closed


class Display:
    """Prints messages and shows progress. One object serves a whole command."""

    def __init__(self) -> None:
        self.console = Console()
        if not self.console.is_terminal and "COLUMNS" not in os.environ:
            self.console.width = WIDTH
        self._last_output = time.monotonic()

    def say(self, line: str) -> None:
        """Print one line of plain text."""
        self._last_output = time.monotonic()
        with suppress(*WRITE_ERRORS):
            self.console.print(line, highlight=False, markup=False, soft_wrap=True)

    def show(self, content: RenderableType) -> None:
        """Print a table or another object of `rich`."""
        self._last_output = time.monotonic()
        with suppress(*WRITE_ERRORS):
            self.console.print(content, highlight=False)

    @contextmanager
    def progress(self, name: str, total: int, finished: int = 0, unit: str = "") -> Iterator["Progress"]:
        """Show the progress of `total` tasks, of which `finished` have ended before, for as long as the block lasts.

        With a `unit`, such as `epochs`, the bar counts these instead of tasks. `total` is then a number of epochs, and
        `Progress.spend` moves the bar.
        """
        columns = (
            bars.TextColumn("{task.description}"), bars.BarColumn(bar_width=28), bars.MofNCompleteColumn(),
            bars.TextColumn("{task.fields[unit]}"), bars.TimeElapsedColumn(), bars.TextColumn("left"),
            bars.TimeRemainingColumn(elapsed_when_finished=False), bars.TextColumn("{task.fields[note]}"),
        )  # fmt: skip
        live = bars.Progress(*columns, console=self.console, disable=not self.console.is_terminal)
        progress = Progress(self, live, name, total, finished, unit)
        stop = threading.Event()
        if not self.console.is_terminal:
            threading.Thread(target=self._keep_talking, args=(progress, stop), daemon=True).start()
        try:
            with suppress(*WRITE_ERRORS):
                live.start()
            yield progress
        finally:
            stop.set()
            with suppress(*WRITE_ERRORS):
                live.stop()

    def _keep_talking(self, progress: "Progress", stop: threading.Event) -> None:
        while not stop.wait(max(0.1, self._last_output + INTERVAL - time.monotonic())):
            if time.monotonic() - self._last_output >= INTERVAL:
                self.say(progress.line())


@dataclass(kw_only=True)
class _Running:
    """A task that is running, and its bar."""

    name: str
    steps: int | None
    bar: bars.TaskID
    step: int = 0
    note: str = ""

    def line(self) -> str:
        of = "" if self.steps is None else f" of {self.steps}"
        return ", ".join(filter(None, [f"{self.name}: epoch {self.step}{of}" if self.step else self.name, self.note]))


class Progress:
    """One bar over all tasks, and one bar for each task that is running. Made by `Display.progress`.

    Messages about a task that is not running, such as one that arrives late from another process, are ignored.
    """

    def __init__(self, display: Display, live: bars.Progress, name: str, total: int, finished: int, unit: str) -> None:
        self._display, self._live = display, live
        self._name, self._total, self._finished = name, total, finished
        self._begin = time.monotonic()
        self._state = ""
        done = 0 if unit else finished
        self._all = live.add_task(name, total=total, completed=done, unit=unit, note="", visible=total > 0)
        self._running: dict[Hashable, _Running] = {}

    def start(self, key: Hashable, name: str, steps: int | None = None) -> None:
        """Show that a task starts, which takes `steps` epochs at most (None if that is not known)."""
        with suppress(*WRITE_ERRORS):
            bar = self._live.add_task(name, total=steps, unit="epochs" if steps else "", note="")
            self._running[key] = _Running(name=name, steps=steps, bar=bar)

    def update(self, key: Hashable, step: int, note: str = "") -> None:
        """Show that a running task has finished its epoch number `step`, with a note beside its bar."""
        if task := self._running.get(key):
            task.step, task.note = step, note
            self._live.update(task.bar, completed=step, note=note)

    def finish(self, key: Hashable, line: str = "") -> None:
        """Show that a task has ended, and print `line`, or without a terminal a short one if `line` is empty."""
        task = self._running.pop(key, None)
        if task:
            self._live.remove_task(task.bar)
        self.advance()
        if task and not line and not self._display.console.is_terminal:
            line = f"{task.name} done ({self._finished} of {self._total})"
        if line:
            self._display.say(line)

    def advance(self) -> None:
        """Show that one more task has ended."""
        self._finished += 1
        self._live.advance(self._all)

    def each(self, parts: Sequence[Part]) -> Iterator[Part]:
        """Yield the parts of a task, and count each of them as a task as well."""
        self._total += len(parts)
        self._live.update(self._all, total=self._total)
        for part in parts:
            yield part
            self.advance()

    def note(self, note: str) -> None:
        """Show a note beside the bar over all tasks, such as the best score so far."""
        self._live.update(self._all, note=note)

    def spend(self, amount: float, state: str) -> None:
        """Move the bar over all tasks to `amount` of its unit. `state` is the text where there is no terminal."""
        self._state = state
        self._live.update(self._all, completed=amount)

    def line(self) -> str:
        """Return the state in words, for an output that is no terminal."""
        running = "; ".join(task.line() for task in list(self._running.values()))
        seconds = time.monotonic() - self._begin
        state = self._state or f"{self._finished} of {self._total} finished"
        state = f"{self._name}: {state} after {seconds:.0f} s"
        return f"{state}; running: {running}" if running else state
