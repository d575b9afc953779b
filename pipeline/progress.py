"""Messages to the user, and the progress of long work.

On a terminal the progress is shown live, as bars. Elsewhere, such as in a log file, it is printed as lines, and at
least one line appears every `INTERVAL` seconds for as long as the work lasts.
"""

import threading
import time
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rich import progress as bars
from rich.console import Console, RenderableType

INTERVAL = 25.0  # seconds after which a line is printed if nothing else was


class Display:
    """Prints messages and shows progress. One object serves a whole command."""

    def __init__(self) -> None:
        self.console = Console()
        self._last_output = time.monotonic()

    def say(self, line: str) -> None:
        """Print one line of plain text."""
        self._last_output = time.monotonic()
        self.console.print(line, highlight=False, markup=False, soft_wrap=True)

    def show(self, content: RenderableType) -> None:
        """Print a table or another object of `rich`."""
        self._last_output = time.monotonic()
        self.console.print(content, highlight=False)

    @contextmanager
    def progress(self, name: str, total: int, finished: int = 0) -> Iterator["Progress"]:
        """Show the progress of `total` tasks, of which `finished` have ended before, for as long as the block lasts."""
        columns = (
            bars.TextColumn("{task.description}"), bars.BarColumn(bar_width=28), bars.MofNCompleteColumn(),
            bars.TimeElapsedColumn(), bars.TextColumn("left"),
            bars.TimeRemainingColumn(elapsed_when_finished=False), bars.TextColumn("{task.fields[note]}"),
        )  # fmt: skip
        live = bars.Progress(*columns, console=self.console, disable=not self.console.is_terminal)
        progress = Progress(self, live, name, total, finished)
        stop = threading.Event()
        if not self.console.is_terminal:
            threading.Thread(target=self._keep_talking, args=(progress, stop), daemon=True).start()
        try:
            with live:
                yield progress
        finally:
            stop.set()

    def _keep_talking(self, progress: "Progress", stop: threading.Event) -> None:
        while not stop.wait(max(0.1, self._last_output + INTERVAL - time.monotonic())):
            if time.monotonic() - self._last_output >= INTERVAL:
                self.say(progress.line())


@dataclass
class _Running:
    name: str
    steps: int | None
    bar: bars.TaskID
    step: int = 0
    note: str = ""

    def words(self) -> str:
        of = "" if self.steps is None else f" of {self.steps}"
        return ", ".join(filter(None, [f"{self.name}: epoch {self.step}{of}" if self.step else self.name, self.note]))


class Progress:
    """One bar over all tasks, and one bar for each task that is running. Made by `Display.progress`."""

    def __init__(self, display: Display, live: bars.Progress, name: str, total: int, finished: int) -> None:
        self._display, self._live = display, live
        self._name, self._total, self._finished = name, total, finished
        self._begin = time.monotonic()
        self._all = live.add_task(name, total=total, completed=finished, note="", visible=total > 0)
        self._running: dict[Hashable, _Running] = {}

    def start(self, key: Hashable, name: str, steps: int | None = None) -> None:
        """A task starts, which takes `steps` epochs at most (None if that is not known)."""
        bar = self._live.add_task(name, total=steps, note="")
        self._running[key] = _Running(name, steps, bar)

    def update(self, key: Hashable, step: int, note: str = "") -> None:
        """A running task has finished its epoch number `step`; `note` is shown beside its bar."""
        task = self._running[key]
        task.step, task.note = step, note
        self._live.update(task.bar, completed=step, note=note)

    def finish(self, key: Hashable, line: str = "") -> None:
        """A task has ended. `line` is printed; if it is empty, a short one is printed where there is no terminal."""
        task = self._running.pop(key)
        self._live.remove_task(task.bar)
        self.advance()
        if line or not self._display.console.is_terminal:
            self._display.say(line or f"{task.name} done ({self._finished} of {self._total})")

    def advance(self) -> None:
        """One more task has ended."""
        self._finished += 1
        self._live.advance(self._all)

    def note(self, note: str) -> None:
        """Show a note beside the bar over all tasks, such as the best score so far."""
        self._live.update(self._all, note=note)

    def line(self) -> str:
        """The state in words, for an output that is no terminal."""
        running = "; ".join(task.words() for task in list(self._running.values()))
        seconds = time.monotonic() - self._begin
        state = f"{self._name}: {self._finished} of {self._total} finished after {seconds:.0f} s"
        return f"{state}; running: {running}" if running else state
