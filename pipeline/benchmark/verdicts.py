"""Which series of a rerun get a verdict, and what it is."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

from pipeline import metrics
from pipeline.benchmark import control_chart, history
from pipeline.benchmark.control_chart import Assessment, Baseline, Sample, Verdict
from pipeline.benchmark.history import Rerun
from studies.anchors import ANCHORS
from studies.benchmark import Suite
from variants import InputError

Better = Literal["maximize", "minimize"]


@dataclass(frozen=True)
class SeriesVerdict:
    """The verdict on one series, with either the numbers that it rests on or the reason why there are none.

    A case that failed as a whole has one verdict, whose `series` is the name of the case.
    """

    series: str
    verdict: Verdict
    assessment: Assessment | None = None
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class RerunOutcome:
    """The result of a rerun."""

    suite: str
    rerun: Rerun
    confirmation: Rerun | None  # the second rerun of the suspect cases, if there were any
    baseline: str  # its name; empty if none is pinned
    baseline_size: int
    series: list[SeriesVerdict]  # the worst first
    changes: list[str]  # since the baseline
    no_baseline: str  # what a baseline needs, if none is pinned

    @property
    def verdict(self) -> Verdict:
        return overall(self.series)


def overall(series: Sequence[SeriesVerdict]) -> Verdict:
    """Return the worst verdict. Series without a history count only if no series has one."""
    verdicts = {s.verdict for s in series}
    informed = verdicts - {"no history"} or verdicts
    return next((v for v in control_chart.VERDICTS if v in informed), "no history")


def anchor_series(anchor: str, metric: str) -> str:
    """Return the name of the series of an anchor's metric."""
    return f"{anchor}/{metrics.mlflow_name(metric)}"


def series_of(suite: Suite, rerun: Rerun) -> dict[str, tuple[Better, float]]:
    """Return the series that get a verdict: for each, the better direction and the smallest effect as a share."""
    series: dict[str, tuple[Better, float]] = {}
    for name in rerun.metrics:
        if name.startswith(history.SD) or history.case_of(name) not in suite.cases:
            continue
        metric = history.metric_of(name)
        for declared, share in suite.smallest_effects.items():
            if metric == declared or metric.startswith(f"{declared}_"):
                better = metrics.find(metric).better
                assert better, metric  # `check` has refused the suite otherwise
                series[name] = better, share
    for anchor in suite.anchors:
        for metric, (sign, _) in ANCHORS[anchor].budgets["cpu"].expected.items():
            if (name := anchor_series(anchor, metric)) in rerun.metrics:
                series[name] = "minimize" if sign == "<=" else "maximize", suite.anchor_effect
    return series


def _missing_series(suite: Suite, before: Rerun, now: Rerun) -> list[str]:
    """Return the series that the same case had in the baseline and has no longer, under any name of the metric."""

    def by_metric(rerun: Rerun) -> dict[tuple[str, str], str]:
        declared = suite.smallest_effects
        return {
            (history.case_of(s), next((n for n in declared if history.metric_of(s).startswith(n)), s)): s
            for s in series_of(suite, rerun)
        }

    had, has = by_metric(before), by_metric(now)
    same = {c for c, digest in now.cases.items() if before.cases.get(c) == digest and c not in now.failed}
    return [series for key, series in had.items() if key not in has and key[0] in same]


def check(suite: Suite) -> None:
    """Raise `InputError` if a metric of the suite does not exist, or if it has no better direction."""
    for name in suite.smallest_effects:
        better = ""
        for spelling in (name, f"{name}_{'0' * 6}"):  # some metrics end in the digest of their classifier
            with suppress(KeyError):
                better = better or metrics.find(spelling).better
        if not better:
            raise InputError(
                f"metric {name!r} of the suite does not exist, or neither direction of it is better; expected one of "
                "pipeline/metrics.py"
            )


def baselines_of(suite: Suite, now: Rerun, base: Sequence[Rerun]) -> dict[str, Baseline]:
    """Return the baseline of each series of a rerun that has enough comparable reruns among the pinned ones."""
    samples = {series: _samples(base, now, series) for series in series_of(suite, now)}
    enough = {series: s for series, s in samples.items() if len(s) >= control_chart.MIN_RERUNS}
    noise = control_chart.noise(enough.values())
    return {series: control_chart.baseline(s, noise) for series, s in enough.items()}


def noise_found(baselines: Mapping[str, Baseline]) -> list[str]:
    """Return which kinds of noise the baselines of a suite have, in words, each with the number of its series."""
    counts = Counter(b.found for b in baselines.values())
    return [f"{found} ({number} series)" for found, number in counts.most_common()]


def _samples(base: Sequence[Rerun], now: Rerun, series: str) -> list[Sample]:
    samples = [r.sample(series) for r in history.comparable(base, now, series)]
    return [s for s in samples if s and math.isfinite(s.mean)]


def assess_rerun(
    suite: Suite, now: Rerun, base: Sequence[Rerun], earlier: Sequence[Rerun], confirmation: Rerun | None = None
) -> list[SeriesVerdict]:
    """Return a verdict for each series of a rerun, the worst first.

    Args:
        suite: Declares which metrics get a verdict.
        now: The rerun to assess.
        base: The reruns of the baseline, which is empty if none is pinned.
        earlier: All reruns before this one.
        confirmation: The second rerun of the cases that were suspect at the first look, if it has been made.
    """
    judged = series_of(suite, now)
    baselines = baselines_of(suite, now, base)
    level = control_chart.levels(len(judged), suite.monthly)
    reasons = [*now.failed.items(), *(confirmation.failed.items() if confirmation else ())]
    if base:
        missing = "the baseline has a number, and this rerun has none"
        reasons += [(series, missing) for series in _missing_series(suite, base[-1], now)]
    verdicts = [SeriesVerdict(series, "failed", reason=reason) for series, reason in reasons]
    last = base[-1].started if base else ""
    since = [r for r in earlier if r.started > last and not r.aside]
    for series, (better, share) in judged.items():
        if not math.isfinite(now.metrics[series]):
            verdicts.append(SeriesVerdict(series, "failed", reason=f"its value is {now.metrics[series]}"))
            continue
        if series not in baselines:
            unit = "days with comparable speeds" if history.is_speed(series) else "comparable reruns"
            number = len(_samples(base, now, series))
            needed = f"the baseline has {number} {unit}; {control_chart.MIN_RERUNS} are needed"
            reason = needed if base else "no baseline is pinned"
            verdicts.append(SeriesVerdict(series, "no history", reason=reason))
            continue
        values = [x for r in history.comparable(since, now, series) if math.isfinite(x := r.metrics[series])]
        values.append(now.metrics[series])
        baseline = baselines[series]
        assessment = control_chart.assess(baseline, values, better, share, level)
        if confirmation and assessment.verdict == "suspect":
            second = confirmation.metrics.get(series, math.nan)
            if math.isfinite(second):
                both = [*values, second]
                assessment = control_chart.assess(baseline, both, better, share, level, suspect=values[-1])
        verdicts.append(SeriesVerdict(series, assessment.verdict, assessment))
    return sorted(verdicts, key=lambda v: control_chart.VERDICTS.index(v.verdict))
