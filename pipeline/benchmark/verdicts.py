"""Which series of a rerun are judged, and how each stands."""

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

from pipeline import metrics
from pipeline.benchmark import control_chart, history
from pipeline.benchmark.control_chart import Judgement, Word
from pipeline.benchmark.history import Rerun
from pipeline.reproduce.task import plain
from studies.anchors import ANCHORS
from studies.benchmark import Suite
from variants import InputError

Better = Literal["maximize", "minimize"]


@dataclass(frozen=True)
class Line:
    """A series and its verdict: with its numbers, or with the reason why there are none."""

    series: str
    word: Word
    judgement: Judgement | None = None
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class RerunOutcome:
    """What a rerun found. `lines` has one for each judged series, the worst first."""

    suite: str
    rerun: Rerun
    again: Rerun | None  # the repetition of what looked worse
    baseline: str
    reruns: int  # of the baseline
    lines: list[Line]
    changes: list[str]
    missing: str  # what a baseline lacks, where there is none

    @property
    def word(self) -> Word:
        return overall(self.lines)


def overall(found: Sequence[Line]) -> Word:
    """The worst verdict. Where some series have no history, those that have speak for the suite."""
    words = {line.word for line in found}
    known = words - {"no history"} or words
    return next((w for w in control_chart.WORDS if w in known), "no history")


def series_of(suite: Suite, now: Rerun) -> dict[str, tuple[Better, float]]:
    """The judged series of a rerun: which way is better, and the smallest change that matters as a share."""
    found: dict[str, tuple[Better, float]] = {}
    for series in now.metrics:
        if series.startswith(history.SD) or history.case_of(series) not in suite.cases:
            continue
        metric = history.metric_of(series)
        for name, share in suite.judged.items():
            if metric == name or metric.startswith(f"{name}_"):
                better = metrics.find(metric).better
                assert better, metric  # which `check` saw to
                found[series] = better, share
    for name in suite.anchors:
        for metric, (sign, _) in ANCHORS[name].budgets["cpu"].expected.items():
            if of_anchor(name, plain(metric)) in now.metrics:
                better = "minimize" if sign == "<=" else "maximize"
                found[of_anchor(name, plain(metric))] = better, suite.anchor_effect
    return found


def _lost(suite: Suite, base: Sequence[Rerun], now: Rerun) -> list[str]:
    """Judged series that the same case had in the baseline, and has no more under any name."""

    def kinds(rerun: Rerun) -> dict[tuple[str, str], str]:
        return {
            (history.case_of(s), next((n for n in suite.judged if history.metric_of(s).startswith(n)), s)): s
            for s in series_of(suite, rerun)
        }

    had, has = kinds(base[-1]), kinds(now)
    alike = {c for c, digest in now.cases.items() if base[-1].cases.get(c) == digest and c not in now.failed}
    return [series for kind, series in had.items() if kind not in has and kind[0] in alike]


def of_anchor(name: str, metric: str) -> str:
    return f"{name}/{metric}"


def check(suite: Suite) -> None:
    """Raise `InputError` for a suite that has something judged of which nobody knows what is better."""
    for name in suite.judged:
        better = ""
        for spelt in (name, f"{name}_{'0' * 6}"):  # some metrics bear the name of their judge
            with suppress(KeyError):
                better = better or metrics.find(spelt).better
        if not better:
            raise InputError(
                f"judged metric {name!r}: it has no better direction, or does not exist; see pipeline/metrics.py"
            )


def lines(
    suite: Suite, now: Rerun, base: Sequence[Rerun], before: Sequence[Rerun], again: Rerun | None = None
) -> list[Line]:
    """A verdict for each judged series of a rerun, the worst first. `again` repeats the cases that were suspected."""
    judged = series_of(suite, now)
    level = control_chart.levels(len(judged), suite.monthly)
    found = [Line(case, "failed", reason=reason) for case, reason in now.failed.items()]
    if again:
        found += [Line(case, "failed", reason=reason) for case, reason in again.failed.items()]
    if base:
        found += [
            Line(s, "failed", reason="the baseline has a number, and this rerun none") for s in _lost(suite, base, now)
        ]
    last = base[-1].started if base else ""
    since = [r for r in before if r.started > last and not r.aside]
    for series, (better, share) in judged.items():
        known = [s for r in history.comparable(base, now, series) if (s := r.sample(series)) and math.isfinite(s.mean)]
        if not math.isfinite(now.metrics[series]):
            found.append(Line(series, "failed", reason=f"it is {now.metrics[series]}"))
            continue
        if len(known) < control_chart.LEAST:
            why = (
                f"{len(known)} comparable reruns in the baseline; {control_chart.LEAST} are needed"
                if base
                else "no baseline"
            )
            found.append(Line(series, "no history", reason=why))
            continue
        means = [x for r in history.comparable(since, now, series) if math.isfinite(x := r.metrics[series])]
        means.append(now.metrics[series])
        pinned = control_chart.baseline(known)
        first = control_chart.judge(pinned, means, better, share, level)
        if again and first.word == "suspect" and math.isfinite(again.metrics.get(series, math.nan)):
            both = [*means, again.metrics[series]]
            first = control_chart.judge(pinned, both, better, share, level, suspect=means[-1])
        found.append(Line(series, first.word, first))
    return sorted(found, key=lambda x: control_chart.WORDS.index(x.word))
