"""`python -m pipeline.benchmark`: rerun a suite of fixed trainings, and say whether anything got worse."""

from datetime import UTC, datetime
from pathlib import Path

from pipeline import cli

ABOUT = """Rerun a suite of fixed trainings, and say whether anything got worse since the pinned baseline.

Each case is trained on fresh seeds, scored on the test split, and timed; everything is in MLflow. What looks worse is
trained once more on other seeds before it is called so. A baseline takes five reruns, and is good with twelve: --pin
names them."""

EPILOG = """verdicts: ok, better, no history, suspect (confirming), drifting, worse, failed
exit codes: 0 nothing got worse; 1 something is worse, drifts or failed; 2 bad usage; 3 a fault of this program;
130 interrupted

examples:
  python -m pipeline.benchmark smoke --workers 2            some minutes on two cores
  python -m pipeline.benchmark smoke --pin v1               the last reruns are what later ones are judged by
  python -m pipeline.benchmark smoke --report               the page, of what is known
  python -m pipeline.benchmark smoke --aside --summary out.md      for a pull request: judged, and not remembered

suites:
"""


def main(words: list[str]) -> int:
    from studies import benchmark as suites

    helped = {"-h", "--help"} & set(words)
    made = {name: suites.get(name) for name in suites.names()} if helped else {}
    listed = "\n".join(f"  {name:<8} {s.about}; {s.cost}" for name, s in made.items())
    parser = cli.parser("benchmark", ABOUT, *cli.COMPUTE, epilog=EPILOG + listed)
    parser.add_argument("suite", metavar="SUITE", help=f"one of {', '.join(suites.names())}")
    parser.add_argument("--pin", metavar="NAME", help="make a baseline of the last reruns, and rerun nothing")
    parser.add_argument("--last", type=cli.positive, metavar="N", help="with --pin: how many, at most (20)")
    parser.add_argument("--report", action="store_true", help="write the page of what is known, and rerun nothing")
    parser.add_argument("--out", type=Path, default=Path("reports"), metavar="FOLDER", help="where pages go (reports)")
    parser.add_argument("--aside", action="store_true", help="leave it out of what later reruns are judged by")
    parser.add_argument("--summary", type=Path, metavar="FILE", help="add the summary in Markdown to a file")
    arguments = parser.parse_args(words)

    from pipeline.benchmark import control_chart, history, page, rerun
    from pipeline.benchmark.finish import check, finish
    from pipeline.progress import Display
    from pipeline.tracker import Tracker
    from variants import InputError

    suite, display = arguments.suite, Display()
    suites.get(suite)
    if arguments.last and not arguments.pin:
        raise InputError(f"--last {arguments.last}: it goes with --pin NAME")
    if arguments.pin:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        chosen = history.pin(
            Tracker(rerun.experiment(suite)), suite, arguments.pin, arguments.last or history.DEFAULT, now
        )
        doubtful = [r.id for r in chosen if r.tags.get("verdict") in control_chart.BAD]
        if doubtful:
            display.say(f"mind: {len(doubtful)} of them were no good news when they came: {', '.join(doubtful)}")
        display.say(f"{suite}: baseline {arguments.pin} of {len(chosen)} reruns, {chosen[0].id} to {chosen[-1].id}")
        return 0
    if arguments.report:
        display.say(f"the page: {page.write(suite, arguments.out / rerun.experiment(suite))}")
        return 0
    check(arguments.out, arguments.summary)
    request = rerun.RerunRequest(suite=suite, aside=arguments.aside, compute=cli.compute(arguments))
    found = rerun.run(request, display)
    return finish(found, display, arguments.out, arguments.summary)


if __name__ == "__main__":
    cli.run(main, "the same command goes on where this one stopped")
