"""The reruns of a suite as MLflow stores them: results, baselines, and what changed since a baseline."""

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pipeline import machine
from pipeline.benchmark.control_chart import MIN_RERUNS, Sample
from pipeline.tracker import Record, Tracker
from variants import InputError

PIN = "baseline."  # prefix of a tag: baseline.NAME = when the rerun was pinned as a part of the baseline NAME
NOISE = "noise."  # prefix of a tag of the last rerun of a baseline: noise.NAME = which kinds of noise it has
SD = "sd/"  # prefix of the names of standard deviations over seeds
SPEED = "speed/"  # prefix of the metrics that depend on the hardware
BASELINE_SIZE = 20  # the most reruns that are pinned, unless another number is asked for
PACKAGES = "packages.txt"  # artifact of a rerun: the versions of all installed packages
MAX_COMMITS, MAX_CHANGES = 12, 40  # the most commits, and changes in all, that are listed


def experiment(suite: str) -> str:
    """Return the name of the MLflow experiment that holds the reruns of a suite."""
    return f"benchmark-{suite}"


def case_of(series: str) -> str:
    """Return the case, or the anchor, of a series such as `vae/test/elbo`."""
    return series.split("/", 1)[0]


def metric_of(series: str) -> str:
    return series.split("/", 1)[1]


def is_speed(series: str) -> bool:
    return metric_of(series).startswith(SPEED)


@dataclass(frozen=True)
class Rerun:
    """A rerun as it was tracked: its MLflow run, tags and metrics. The names of metrics are series."""

    run: str
    tags: Mapping[str, str]
    metrics: Mapping[str, float]

    @property
    def id(self) -> str:
        return self.tags["rerun"]

    @property
    def started(self) -> str:
        """When it started, in ISO format and UTC."""
        return self.tags["started"]

    @property
    def confirms(self) -> str:
        """The id of the rerun whose suspect cases it repeated; empty for an ordinary rerun."""
        return self.tags.get("confirms", "")

    @property
    def aside(self) -> bool:
        """Whether later reruns are assessed without it."""
        return self.tags.get("aside") == "yes"

    @property
    def complete(self) -> bool:
        return self.tags.get("state") == "complete"

    @property
    def hardware(self) -> str:
        return f"{self.tags.get('hardware', '')}, {self.tags.get('threads', '')} threads"

    @cached_property
    def cases(self) -> dict[str, str]:
        """For each case, a digest of all that defines it: variant, settings, data and evaluation."""
        return self._json("cases")

    @cached_property
    def failed(self) -> dict[str, str]:
        """For each case without numbers, the reason."""
        return self._json("failed")

    @cached_property
    def fingerprints(self) -> dict[str, str]:
        """For each case, a digest of the test scores of the training on its fixed seed."""
        return self._json("bits")

    @cached_property
    def verdicts(self) -> dict[str, str]:
        """For each series that is not ok, its verdict."""
        return self._json("verdicts")

    @property
    def changes(self) -> list[str]:
        """What had changed since the baseline of that time."""
        return self.tags.get("changes", "").splitlines()

    @property
    def baselines(self) -> dict[str, str]:
        """For each baseline that it belongs to, when that was pinned."""
        return {k.removeprefix(PIN): v for k, v in self.tags.items() if k.startswith(PIN)}

    def _json(self, tag: str) -> dict[str, Any]:
        try:
            return dict(json.loads(self.tags.get(tag, "{}")))
        except ValueError:  # MLflow truncated it
            return {}

    def sample(self, series: str) -> Sample | None:
        """Return the mean and standard deviation of a series over its trainings, or None if it has no value."""
        if series not in self.metrics:
            return None
        n = int(self.tags["seeds"]) if SD + series in self.metrics else 1
        return Sample(self.metrics[series], self.metrics.get(SD + series, float("nan")), n)


def read(tracker: Tracker, suite: str) -> list[Rerun]:
    """Return all complete reruns, oldest first. One that confirms another follows that one."""
    records: list[Record] = tracker.find(kind="rerun", suite=suite)
    reruns = [Rerun(r.id, r.tags, r.metrics) for r in records]
    return sorted((r for r in reruns if r.complete), key=lambda r: r.started)


def latest_baseline(reruns: Sequence[Rerun]) -> tuple[str, list[Rerun]]:
    """Return the name and the reruns of the baseline that was pinned last, or an empty name and list."""
    pinned = {name: when for r in reruns for name, when in r.baselines.items() if _is_pinned(reruns, name)}
    if not pinned:
        return "", []
    name = max(pinned, key=lambda n: pinned[n])
    return name, [r for r in reruns if name in r.baselines]


def _is_pinned(reruns: Sequence[Rerun], name: str) -> bool:
    return sum(name in r.baselines for r in reruns) >= MIN_RERUNS


def pin(tracker: Tracker, suite: str, name: str, last: int, now: str) -> list[Rerun]:
    """Pin the last complete reruns of a suite, at most `last` of them, as the baseline `name`, and return them.

    Raises:
        InputError: If the baseline exists, or if there are too few reruns with the same cases.
    """
    reruns = read(tracker, suite)
    if _is_pinned(reruns, name):
        raise InputError(f"--pin {name}: this baseline exists; choose another name for a new one, which replaces it")
    whole = [r for r in reruns if not (r.confirms or r.aside or r.failed)]
    same = [r for r in whole if r.cases == whole[-1].cases] if whole else []
    chosen = same[-last:]
    if len(chosen) < MIN_RERUNS:
        raise InputError(
            f"--pin {name}: a baseline needs {MIN_RERUNS} or more reruns with the present cases, and 12 to find small "
            f"changes; {suite} has {len(chosen)}; python -m pipeline.benchmark {suite} adds one"
        )
    for rerun in chosen:
        run = tracker.reopen(rerun.run)
        run.tags({PIN + name: now})
        problem = run.close()
        if problem:
            raise InputError(f"--pin {name}: MLflow did not accept it ({problem}); run the same command again")
    return chosen


def note_noise(tracker: Tracker, rerun: Rerun, name: str, found: Sequence[str]) -> str:
    """Tag a rerun of the baseline `name` with its kinds of noise. Returns why MLflow did not accept it, or nothing."""
    run = tracker.reopen(rerun.run)
    run.tags({NOISE + name: "\n".join(found)})
    return run.close()


def comparable(reruns: Iterable[Rerun], now: Rerun, series: str) -> list[Rerun]:
    """Return the reruns in which a series has the same meaning: the same case and, for speed, the same hardware.

    Speeds of one day are not independent, since whatever else the machine does lasts for hours. Of the reruns of a day,
    only the last one counts for speed.
    """
    case = case_of(series)
    same = [
        r
        for r in reruns
        if r.cases.get(case) == now.cases.get(case)
        and series in r.metrics
        and (r.hardware == now.hardware or not is_speed(series))
    ]
    return list({r.started[:10]: r for r in same}.values()) if is_speed(series) else same


def changes(before: Rerun, now: Rerun, tracker: Tracker) -> list[str]:
    """Return what changed between two reruns, one line for each change. `now` is a rerun of this process."""
    lines = _changes(before, now, tracker)
    extra = len(lines) - MAX_CHANGES
    return [*lines[:MAX_CHANGES], f"and {extra} more changes"] if extra > 0 else lines


def _changes(before: Rerun, now: Rerun, tracker: Tracker) -> list[str]:
    lines = _changed_commits(before.tags.get("commit", ""), now.tags.get("commit", ""))
    with suppress(Exception):  # without the list of packages, the verdicts still hold
        lines += _changed_packages(tracker.text(before.run, PACKAGES), machine.packages())
    if now.tags.get("python") != before.tags.get("python"):
        lines.append(f"Python {before.tags.get('python')} -> {now.tags.get('python')}")
    data, old = (json.loads(r.tags.get("data", "{}")) for r in (now, before))
    lines += [f"data set {n}: other data (digest {d[:8]})" for n, d in data.items() if n in old and old[n] != d]
    if now.hardware != before.hardware:
        return [*lines, f"hardware: {before.hardware} -> {now.hardware} (speed is not compared)"]
    # on the same hardware, the same code gives the same numbers for the same seed: a difference has a cause
    same = [c for c, digest in now.cases.items() if before.cases.get(c) == digest]
    shared = [c for c in same if c in now.fingerprints and c in before.fingerprints]
    other = sorted(c for c in shared if now.fingerprints[c] != before.fingerprints[c])
    return [*lines, f"the same seed gives other numbers: {', '.join(other)}"] if other else lines


def _changed_commits(old: str, new: str) -> list[str]:
    if old == new:
        return []
    log = machine.git("log", "--oneline", f"{old.split('-')[0]}..{new.split('-')[0]}").splitlines()
    lines = [f"commit {line[:100]}" for line in log[:MAX_COMMITS]]
    if len(log) > MAX_COMMITS:
        lines.append(f"and {len(log) - MAX_COMMITS} more commits")
    if not log:
        lines = [f"commit {old[:12] or 'unknown'} -> {new[:12] or 'unknown'}"]
    if "-dirty" in new:
        lines.append("uncommitted changes in the working tree")
    return lines


def _changed_packages(old: str, new: str) -> list[str]:
    before, after = (dict(line.split("==", 1) for line in text.splitlines() if "==" in line) for text in (old, new))
    lines = [f"{n} {before[n]} -> {after[n]}" for n in sorted(before.keys() & after.keys()) if before[n] != after[n]]
    lines += [f"{n} {after[n]} is new" for n in sorted(after.keys() - before.keys())]
    return lines + [f"{n} was removed" for n in sorted(before.keys() - after.keys())]
