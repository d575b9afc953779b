"""A comparison on the terminal: bars while it works, plain lines where the output is no terminal."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich import progress as bars
from rich.console import Console

from pipeline.trainer import Epoch


class Display:
    def __init__(self) -> None:
        self.console = Console()
        self._finals: bars.Progress | None = None

    def say(self, line: str) -> None:
        self.console.print(line, highlight=False, soft_wrap=True)

    @contextmanager
    def finals(self, count: int) -> Iterator["Finals"]:
        columns = (
            bars.TextColumn("{task.description}"), bars.BarColumn(bar_width=28), bars.MofNCompleteColumn(),
            bars.TimeElapsedColumn(), bars.TextColumn("left"), bars.TimeRemainingColumn(),
        )  # fmt: skip
        with bars.Progress(*columns, console=self.console, disable=not self.console.is_terminal) as progress:
            yield Finals(self, progress, count)


class Finals:
    """The bar over all finals, and one over the epochs of that at work."""

    def __init__(self, display: Display, progress: bars.Progress, count: int) -> None:
        self._display, self._progress = display, progress
        self._all = progress.add_task("finals", total=count)
        self._epochs = progress.add_task("", total=1, visible=False)
        display.say(f"{count} finals: trained on fresh seeds, scored on the test split")

    @contextmanager
    def one(self, name: str, epochs: int) -> Iterator[Callable[[Epoch], None]]:
        self._progress.reset(self._epochs, description=name, total=epochs, visible=True)
        yield lambda epoch: self._progress.update(self._epochs, completed=epoch.number)
        self._progress.update(self._epochs, visible=False)
        self._progress.advance(self._all)
        if not self._display.console.is_terminal:
            self._display.say(f"{name} done")
