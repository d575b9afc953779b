"""What MLflow knows of a suite: its reruns in their order, and which of them are a baseline."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pipeline.benchmark import speed
from pipeline.benchmark.control_chart import LEAST, Sample
from pipeline.tracker import Record, Tracker
from variants import InputError

PIN = "baseline."  # begins the tag of a rerun that belongs to one: baseline.NAME = when it was pinned
SD = "sd/"  # begins the names of standard deviations over seeds
DEFAULT = 20  # reruns that are pinned, at most


@dataclass(frozen=True)
class Rerun:
    """A rerun as it was tracked. `cases`: case -> digest of all that it is made of."""

    run: str
    tags: Mapping[str, str]
    metrics: Mapping[str, float]

    @property
    def id(self) -> str:
        return self.tags["rerun"]

    @property
    def started(self) -> str:
        return self.tags["started"]

    @property
    def confirms(self) -> str:
        """The id of the rerun that it repeats in part, or nothing."""
        return self.tags.get("confirms", "")

    @property
    def aside(self) -> bool:
        """Whether it is left out of what later ones are judged by."""
        return self.tags.get("aside") == "yes"

    @property
    def complete(self) -> bool:
        return self.tags.get("state") == "complete"

    @property
    def hardware(self) -> str:
        return f"{self.tags.get('hardware', '')}, {self.tags.get('threads', '')} threads"

    @cached_property
    def cases(self) -> dict[str, str]:
        return self._json("cases")

    @cached_property
    def failed(self) -> dict[str, str]:
        """case -> why it has no numbers."""
        return self._json("failed")

    @cached_property
    def fingerprints(self) -> dict[str, str]:
        """case -> digest of what its fixed seed gave."""
        return self._json("bits")

    @cached_property
    def verdicts(self) -> dict[str, str]:
        """series -> verdict, but for those that are ok."""
        return self._json("verdicts")

    @property
    def changes(self) -> list[str]:
        """What had changed since the baseline of then."""
        return self.tags.get("changes", "").splitlines()

    @property
    def baselines(self) -> dict[str, str]:
        """The baselines it belongs to, and when they were pinned."""
        return {k.removeprefix(PIN): v for k, v in self.tags.items() if k.startswith(PIN)}

    def _json(self, tag: str) -> dict[str, Any]:
        try:
            return dict(json.loads(self.tags.get(tag, "{}")))
        except ValueError:  # longer than MLflow takes
            return {}

    def sample(self, series: str) -> Sample | None:
        """Mean, spread and number of a series, such as vae/test/elbo."""
        if series not in self.metrics:
            return None
        single = SD + series not in self.metrics
        return Sample(self.metrics[series], self.metrics.get(SD + series, float("nan")), 1 if single else self._n)

    @property
    def _n(self) -> int:
        return int(self.tags["seeds"])


def record(made: Record) -> Rerun:
    return Rerun(made.id, made.tags, made.metrics)


def read(tracker: Tracker, suite: str) -> list[Rerun]:
    """All that ended by themselves, oldest first; one that repeats another in part comes right after it."""
    found = [record(r) for r in tracker.find(kind="rerun", suite=suite)]
    return sorted((r for r in found if r.complete), key=lambda r: r.started)


def pinned(reruns: Sequence[Rerun], name: str | None = None) -> tuple[str, list[Rerun]]:
    """A baseline's name and reruns; the one that was pinned last, where none is named. Nothing where there is none."""
    when = {n: at for r in reruns for n, at in r.baselines.items() if _members(reruns, n) >= LEAST}
    if not when:
        return "", []
    name = name or max(when, key=lambda n: when[n])
    return name, [r for r in reruns if name in r.baselines]


def _members(reruns: Sequence[Rerun], name: str) -> int:
    return sum(name in r.baselines for r in reruns)


def pin(tracker: Tracker, suite: str, name: str, last: int, now: str) -> list[Rerun]:
    """Make a baseline of the last complete reruns. Raises `InputError` where there are too few that are alike."""
    reruns = read(tracker, suite)
    if _members(reruns, name) >= LEAST:
        raise InputError(f"--pin {name}: there is a baseline of that name; choose another, which then takes its place")
    whole = [r for r in reruns if not (r.confirms or r.aside or r.failed)]
    alike = [r for r in whole if r.cases == whole[-1].cases] if whole else []
    chosen = alike[-last:]
    if len(chosen) < LEAST:
        raise InputError(
            f"--pin {name}: {len(chosen)} reruns of {suite} as it is now; a baseline needs {LEAST} or more, and 12 "
            f"find small changes; python -m pipeline.benchmark {suite} adds one"
        )
    for rerun in chosen:
        run = tracker.again(rerun.run)
        run.tags({PIN + name: now})
        problem = run.settle()
        if problem:
            raise InputError(f"--pin {name}: MLflow does not take it: {problem}; give the same command again")
    return chosen


def comparable(reruns: Iterable[Rerun], now: Rerun, series: str) -> list[Rerun]:
    """Those whose numbers of a series mean the same: the same case and data; of speed, the same hardware as well."""
    case = case_of(series)
    return [
        r
        for r in reruns
        if r.cases.get(case) == now.cases.get(case)
        and series in r.metrics
        and (metric_of(series) not in (speed.JUDGED, speed.ECHO) or r.hardware == now.hardware)
    ]


def case_of(series: str) -> str:
    return series.split("/", 1)[0]


def metric_of(series: str) -> str:
    return series.split("/", 1)[1]
