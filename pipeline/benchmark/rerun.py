"""One rerun: every case on fresh seeds and once on its fixed one, speed, and the environment, all in MLflow; judged.

A rerun in which something looks worse is repeated at once for the cases in question, on other seeds, before anybody
is told. Cut off, it goes on where it was when the same command is given again.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pipeline import executor as executors
from pipeline import machine
from pipeline.benchmark import changes, control_chart, history, summary
from pipeline.benchmark.cases import AGAIN, Maker, prepared
from pipeline.benchmark.history import Rerun
from pipeline.benchmark.verdicts import Line, RerunOutcome, lines
from pipeline.executor import Compute
from pipeline.progress import Display
from pipeline.tracker import Run, Tracker, views
from studies import benchmark as suites
from variants import InputError

NOTE = "mlflow.note.content"  # the description that MLflow shows with a run


@dataclass(frozen=True, kw_only=True)
class RerunRequest:
    """A rerun as it is asked for. `slot` names the time of a schedule that it is for."""

    suite: str
    slot: str | None = None
    aside: bool = False
    compute: Compute = Compute()


def experiment(suite: str) -> str:
    return f"benchmark-{suite}"


def run(request: RerunRequest, display: Display, alive: Callable[[], None] = lambda: None) -> RerunOutcome:
    """Rerun a suite, and judge. `alive` raises where the rerun is no longer ours, before anything is made of it.

    Raises `InputError` before anything is trained for an unknown suite, variant or setting, and for data that are
    not here.
    """
    suite = suites.get(request.suite)
    threads = machine.prepare(request.compute.threads, request.compute.workers)
    device = machine.device(request.compute.device)
    cases = prepared(suite, device)
    tags = {
        **machine.environment(device, threads), "suite": request.suite, "seeds": str(suite.seeds),
        "slot": request.slot or "", "aside": "yes" if request.aside else "no",
    }  # fmt: skip
    with machine.exclusive(Path(f"benchmark-{request.suite}.lock"), f"{request.suite} is being rerun"):
        tracker = Tracker(experiment(request.suite))
        tracker.catch_up()
        known = history.read(tracker, request.suite)
        with (
            _identity(request, tags) as (id_, started),
            executors.open_executor(request.compute) as executor,
        ):
            maker = Maker(
                suite=suite,
                tags=tags,
                tracker=tracker,
                executor=executor,
                display=display,
                number=len(known) + 1,
                timed=cases,
            )
            before = [r for r in known if r.id != id_ and r.confirms != id_]
            with maker.begin(id_, started) as parent:
                now = maker.make(parent, id_, started, cases)
                name, base = history.pinned(before)
                found = lines(suite, now, base, before)
                suspected = {history.case_of(x.series) for x in found if x.word == "suspect"}
                again = None
                if suspected:
                    _tell(parent, found, "suspect", name)
                    display.say(f"{', '.join(sorted(suspected))}: looks worse; trained once more on other seeds")
                    few = {n: c for n, c in cases.items() if n in suspected}
                    anchors = tuple(a for a in suite.anchors if a in suspected)
                    more = {"confirms": id_}
                    with maker.begin(id_ + AGAIN, started, parent.id, more) as second:
                        again = maker.make(second, id_ + AGAIN, started, few, anchors, more)
                    found = lines(suite, now, base, before, again)
                alive()
                changed = changes.since(base, now, tracker) if base else []
                lacks = "" if base else _lacks(known, request.suite, now)
                outcome = RerunOutcome(
                    suite=request.suite,
                    rerun=now,
                    again=again,
                    baseline=name,
                    reruns=len(base),
                    lines=found,
                    changes=changed,
                    missing=lacks,
                )
                _tell(parent, found, outcome.word, name)
                parent.tags({"changes": "\n".join(changed), NOTE: summary.markdown(outcome)})
            problem = parent.wait(60)
            if problem:
                raise InputError(f"trained, but not yet in MLflow: {problem}; the same command goes on")
            maker.forget(id_)
            views.write_reruns(tracker.client, tracker.experiment, [x.series for x in found])
    return outcome


def _lacks(known: Sequence[Rerun], suite: str, now: Rerun) -> str:
    whole = 1 + sum(1 for r in known if not (r.confirms or r.aside or r.failed) and r.cases == now.cases)
    need = control_chart.LEAST - whole
    if need > 0:
        return f"no baseline is pinned: {whole} reruns of this kind, {need} more are needed (12 find small changes)"
    return f"no baseline is pinned: {whole} reruns can be; python -m pipeline.benchmark {suite} --pin NAME"


def _tell(parent: Run, found: Sequence[Line], word: str, baseline: str) -> None:
    notable = {x.series: x.word for x in found if x.word != "ok"}
    parent.tags({"verdict": word, "verdicts": json.dumps(notable), "baseline": baseline or "none"})


@contextmanager
def _identity(request: RerunRequest, tags: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """The id of this rerun, and when it was begun.

    A slot has its own; another is that of a rerun that was cut off here, if there is one, and nothing changed since.
    """
    now = datetime.now(UTC)
    started = now.isoformat(timespec="milliseconds")
    if request.slot:
        yield f"slot-{request.slot}", started
        return
    mine = Path("mlruns") / ".runs" / f"{experiment(request.suite)}.json"
    try:
        kept = json.loads(mine.read_text())
    except (FileNotFoundError, ValueError):
        kept = {}
    if kept.get("tags") != tags:
        kept = {"tags": tags, "id": now.strftime("%Y-%m-%dT%H%M%SZ"), "started": started}
        machine.writable(mine.parent)
        mine.write_text(json.dumps(kept))
    yield kept["id"], kept["started"]
    mine.unlink(missing_ok=True)
