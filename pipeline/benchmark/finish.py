"""What comes of a rerun: words, a notification, a page, an exit code."""

from pathlib import Path

from pipeline import machine, notify
from pipeline.benchmark import control_chart, page, summary
from pipeline.benchmark.rerun import experiment
from pipeline.benchmark.verdicts import RerunOutcome
from pipeline.progress import Display
from variants import InputError


def check(out: Path, to: Path | None = None) -> None:
    """Raise `InputError` where nobody could be told, or nothing be written, before any work."""
    notify.check()
    machine.writable(out)
    if to:
        machine.writable(to.absolute().parent)


def finish(found: RerunOutcome, display: Display, out: Path, to: Path | None = None) -> int:
    """Say what a rerun found, and tell those who are to hear of it, first of all. Returns the exit code."""
    words = summary.markdown(found)
    bad = found.word in control_chart.BAD
    problem = notify.send(f"Benchmark {found.suite}: {found.word}", words, "failure") if bad else ""
    display.say(words)
    if problem:
        display.say(f"mind: {problem}")
    try:
        if to:
            with to.open("a", encoding="utf-8") as stream:
                stream.write(words)
        display.say(f"the page: {page.write(found.suite, out / experiment(found.suite))}")
    except (OSError, InputError) as error:  # the verdict stands, and was told
        display.say(f"mind: not written: {error}")
    return 1 if bad else 0
