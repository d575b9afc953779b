"""`python -m pipeline.benchmark`: rerun a suite of fixed trainings, and report whether anything got worse."""

from datetime import UTC, datetime
from pathlib import Path

from pipeline import cli

ABOUT = """Rerun a suite of fixed trainings, and report whether anything got worse since the pinned baseline.

Each case is trained on fresh seeds, scored on the test split, and timed. All results are in MLflow. A case that looks
worse is trained a second time on other seeds before it is called worse. A baseline needs five reruns (for speed on five
days), and twelve make it good; --pin pins the last reruns."""

EPILOG = """verdicts: ok, better, no history, suspect (being confirmed), drifting, worse, failed
exit codes: 0 nothing got worse; 1 something is worse, drifting or failed; 2 bad usage; 3 a defect of this program;
130 interrupted

examples:
  python -m pipeline.benchmark smoke --workers 2            a few minutes on two cores
  python -m pipeline.benchmark smoke --pin v1               compare later reruns with the last ones until now
  python -m pipeline.benchmark smoke --report               write the page, and train nothing
  python -m pipeline.benchmark smoke --aside --summary out.md      for a pull request

suites:
"""


def main(arguments: list[str]) -> int:
    from studies import benchmark as suites

    helps = {name: suites.get(name) for name in suites.names()} if {"-h", "--help"} & set(arguments) else {}
    lines = "\n".join(f"  {name:<8} {suite.about}; {suite.cost}" for name, suite in helps.items())
    parser = cli.parser("benchmark", ABOUT, "--out", *cli.COMPUTE, epilog=EPILOG + lines)
    parser.add_argument("suite", metavar="SUITE", help=f"one of {', '.join(suites.names())}")
    parser.add_argument("--pin", metavar="NAME", help="pin the last reruns as a baseline, and train nothing")
    parser.add_argument("--last", type=cli.positive, metavar="N", help="with --pin: the most reruns to pin (20)")
    parser.add_argument("--report", action="store_true", help="write the page of the reruns so far, and train nothing")
    parser.add_argument("--aside", action="store_true", help="do not use this rerun to assess later reruns")
    parser.add_argument("--summary", type=Path, metavar="FILE", help="append a summary in Markdown to this file")
    options = parser.parse_args(arguments)

    from pipeline.benchmark import control_chart, history, report, rerun, verdicts
    from pipeline.progress import Display
    from pipeline.tracker import Tracker
    from variants import InputError

    suite, display = options.suite, Display()
    suites.get(suite)
    if options.last and not options.pin:
        raise InputError(f"--last {options.last}: this option needs --pin NAME")
    if options.pin:
        tracker, last = Tracker(history.experiment(suite)), options.last or history.BASELINE_SIZE
        pinned = history.pin(tracker, suite, options.pin, last, datetime.now(UTC).isoformat(timespec="seconds"))
        alarms = [r.id for r in pinned if r.tags.get("verdict") in control_chart.ALARMS]
        if alarms:
            display.say(f"warning: {len(alarms)} of them were worse, drifting or failed: {', '.join(alarms)}")
        display.say(f"{suite}: baseline {options.pin} of {len(pinned)} reruns, {pinned[0].id} to {pinned[-1].id}")
        found = verdicts.noise_found(verdicts.baselines_of(suites.get(suite), pinned[-1], pinned))
        if problem := history.note_noise(tracker, pinned[-1], options.pin, found):
            display.say(f"warning: MLflow does not have the kinds of noise: {problem}")
        for line in found:
            display.say(f"  {line}")
        return 0
    if options.report:
        display.say(f"the page: {report.write_page(suite, options.out)}")
        return 0
    report.check_output(options.out, options.summary)
    request = rerun.RerunRequest(suite=suite, aside=options.aside, compute=cli.compute(options))
    return report.publish(rerun.run(request, display), display, options.out, options.summary)


if __name__ == "__main__":
    cli.run(main, "the same command continues where this one stopped")
