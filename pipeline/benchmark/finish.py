"""What comes of a rerun: words, a page, a notification, an exit code."""

from pathlib import Path

from pipeline import notify
from pipeline.benchmark import page, summary, verdict
from pipeline.benchmark.judged import Outcome
from pipeline.benchmark.rerun import experiment
from pipeline.progress import Display


def finish(found: Outcome, display: Display, out: Path, to: Path | None = None) -> int:
    """Say what a rerun found, and tell those who are to hear of it. Returns the exit code."""
    words = summary.markdown(found)
    display.say(words)
    if to:
        with to.open("a", encoding="utf-8") as stream:
            stream.write(words)
    display.say(f"the page: {page.write(found.suite, out / experiment(found.suite))}")
    bad = found.word in verdict.BAD
    if bad:
        problem = notify.send(f"Benchmark {found.suite}: {found.word}", words, "failure")
        if problem:
            display.say(f"mind: {problem}")
    return 1 if bad else 0
