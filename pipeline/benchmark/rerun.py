"""One rerun of a suite: train every case, log everything to MLflow, and compare with the baseline.

If something looks worse, the cases in question are trained a second time at once, on other seeds, before anybody is
notified. A rerun that was interrupted continues when the same command is given again.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pipeline import executor as executors
from pipeline import machine
from pipeline.benchmark import cases, control_chart, history, report
from pipeline.benchmark.history import Rerun
from pipeline.benchmark.verdicts import RerunOutcome, SeriesVerdict, assess_rerun
from pipeline.executor import Compute
from pipeline.progress import Display
from pipeline.tracker import ROOT, Run, Tracker, views
from studies import benchmark as suites
from variants import InputError


@dataclass(frozen=True, kw_only=True)
class RerunRequest:
    """What to rerun."""

    suite: str
    slot: str | None = None  # the name of the scheduled time that the rerun is for, if it is scheduled
    aside: bool = False  # whether later reruns are assessed without this one
    compute: Compute = Compute()


def run(request: RerunRequest, display: Display, check_lease: Callable[[], None] = lambda: None) -> RerunOutcome:
    """Rerun a suite, and assess every series.

    Args:
        request: What to rerun.
        display: Shows messages and progress.
        check_lease: Called before the verdict is published; it raises if another process has taken the rerun over.

    Raises:
        InputError: Before anything is trained, if the suite, a variant or a setting is unknown or data are missing.
    """
    suite = suites.get(request.suite)
    threads = machine.prepare(request.compute.threads, request.compute.workers)
    device = machine.device(request.compute.device)
    prepared = cases.prepare(suite, device)
    tags = {
        **machine.environment(device, threads), "suite": request.suite, "seeds": str(suite.seeds),
        "slot": request.slot or "", "aside": "yes" if request.aside else "no",
    }  # fmt: skip
    with machine.exclusive(Path(f"benchmark-{request.suite}.lock"), f"{request.suite} is being rerun"):
        tracker = Tracker(history.experiment(request.suite))
        tracker.catch_up()
        reruns = history.read(tracker, request.suite)
        with _identity(request, tags) as (id_, started), executors.open_executor(request.compute) as executor:
            trainer = cases.CaseTrainer(
                suite=suite, tags=tags, tracker=tracker, executor=executor, display=display, number=len(reruns) + 1,
                cases=prepared,
            )  # fmt: skip
            earlier = [r for r in reruns if r.id != id_ and r.confirms != id_]
            baseline, base = history.latest_baseline(earlier)
            with trainer.open_run(id_, started) as parent:
                now = trainer.measure(parent, id_, started)
                series = assess_rerun(suite, now, base, earlier)
                suspects = {history.case_of(s.series) for s in series if s.verdict == "suspect"}
                confirmation = None
                if suspects:
                    _tag(parent, series, "suspect", baseline)
                    display.say(f"{', '.join(sorted(suspects))}: looks worse, and is trained again on other seeds")
                    second_id = id_ + cases.CONFIRMATION
                    with trainer.open_run(second_id, started, parent=parent.id, confirms=id_) as second:
                        confirmation = trainer.measure(second, second_id, started, only=suspects, confirms=id_)
                    series = assess_rerun(suite, now, base, earlier, confirmation)
                check_lease()
                outcome = RerunOutcome(
                    suite=request.suite, rerun=now, confirmation=confirmation, baseline=baseline,
                    baseline_size=len(base), series=series,
                    changes=history.changes(base[-1], now, tracker) if base else [],
                    no_baseline="" if base else _no_baseline(reruns, request.suite, now),
                )  # fmt: skip
                _tag(parent, series, outcome.verdict, baseline)
                parent.tags({"changes": "\n".join(outcome.changes)})
                parent.describe(report.markdown(outcome))
            problem = parent.wait(60)
            if problem:
                raise InputError(f"the rerun is done, but MLflow does not have it: {problem}; start again to go on")
            trainer.delete_checkpoints(id_)
            views.write_reruns(tracker.client, tracker.experiment, [s.series for s in series])
    return outcome


def _no_baseline(reruns: Sequence[Rerun], suite: str, now: Rerun) -> str:
    same = 1 + sum(1 for r in reruns if not (r.confirms or r.aside or r.failed) and r.cases == now.cases)
    missing = control_chart.MIN_RERUNS - same
    if missing > 0:
        return f"no baseline is pinned, which needs {missing} more reruns (12 in all find small changes)"
    return f"no baseline is pinned; python -m pipeline.benchmark {suite} --pin NAME makes one of {same} reruns"


def _tag(parent: Run, series: Sequence[SeriesVerdict], verdict: str, baseline: str) -> None:
    notable = {s.series: s.verdict for s in series if s.verdict != "ok"}
    parent.tags({"verdict": verdict, "verdicts": json.dumps(notable), "baseline": baseline or "none"})


@contextmanager
def _identity(request: RerunRequest, tags: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Provide the id of this rerun, and when it started.

    The id of a scheduled rerun follows from its slot. Another rerun takes the id of one that was interrupted in this
    folder, if nothing has changed since, so that it continues that one.
    """
    now = datetime.now(UTC)
    started = now.isoformat(timespec="milliseconds")
    if request.slot:
        yield f"slot-{request.slot}", started
        return
    path = ROOT / f"{history.experiment(request.suite)}.json"
    try:
        unfinished = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        unfinished = {}
    if unfinished.get("tags") != tags:
        unfinished = {"tags": tags, "id": now.strftime("%Y-%m-%dT%H%M%SZ"), "started": started}
        machine.writable(path.parent)
        path.write_text(json.dumps(unfinished))
    yield unfinished["id"], unfinished["started"]
    path.unlink(missing_ok=True)
