"""What changed since the baseline: commits, packages, data, hardware, and the numbers of fixed seeds."""

import json
from collections.abc import Sequence
from contextlib import suppress

from pipeline import machine
from pipeline.benchmark.history import Rerun
from pipeline.tracker import Tracker

PACKAGES = "packages.txt"  # an artifact of every rerun
MANY, LINES = 12, 40  # commits, and changes in all, that are named


def since(base: Sequence[Rerun], now: Rerun, tracker: Tracker) -> list[str]:
    """In words, a line a change, between the newest rerun of a baseline and the one that was just made here."""
    found = _all(base[-1], now, tracker)
    return found if len(found) <= LINES else [*found[:LINES], f"and {len(found) - LINES} changes more"]


def _all(before: Rerun, now: Rerun, tracker: Tracker) -> list[str]:
    found = _commits(before.tags.get("commit", ""), now.tags.get("commit", ""))
    with suppress(Exception):  # the file is gone, or the store: no reason to judge nothing
        found += _packages(tracker.text(before.run, PACKAGES), machine.packages())
    if now.tags.get("python") != before.tags.get("python"):
        found.append(f"Python {before.tags.get('python')} -> {now.tags.get('python')}")
    data, old = (json.loads(r.tags.get("data", "{}")) for r in (now, before))
    found += [f"data set {n}: other data (digest {d[:8]})" for n, d in data.items() if n in old and old[n] != d]
    if now.hardware != before.hardware:
        return [*found, f"hardware: {before.hardware} -> {now.hardware} (speed is not compared)"]
    return found + _numbers(before, now)


def _numbers(before: Rerun, now: Rerun) -> list[str]:
    """Fixed seeds: on the same hardware the same code gives the same bits, so that any change in them has a cause."""
    alike = [c for c, digest in now.cases.items() if before.cases.get(c) == digest]
    other = [
        c
        for c in alike
        if c in now.fingerprints and c in before.fingerprints and now.fingerprints[c] != before.fingerprints[c]
    ]
    return [f"the same seed gives other numbers: {', '.join(sorted(other))}"] if other else []


def _commits(old: str, new: str) -> list[str]:
    if old == new:
        return []
    listed = machine.git("log", "--oneline", f"{old.split('-')[0]}..{new.split('-')[0]}").splitlines()
    found = [f"commit {line[:100]}" for line in listed[:MANY]]
    if len(listed) > MANY:
        found.append(f"and {len(listed) - MANY} commits more")
    if not listed:
        found = [f"commit {old[:12] or 'unknown'} -> {new[:12] or 'unknown'}"]
    if "-dirty" in new:
        found.append("uncommitted changes in the working tree")
    return found


def _packages(old: str, new: str) -> list[str]:
    before, after = (dict(line.split("==", 1) for line in text.splitlines() if "==" in line) for text in (old, new))
    found = [f"{n} {before[n]} -> {after[n]}" for n in sorted(before.keys() & after.keys()) if before[n] != after[n]]
    found += [f"{n} {after[n]} is new" for n in sorted(after.keys() - before.keys())]
    return found + [f"{n} is gone" for n in sorted(before.keys() - after.keys())]
