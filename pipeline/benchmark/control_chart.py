"""Statistics that tell a real change from noise: control charts of the means of reruns.

A *series* is one metric of one case of a suite. Each rerun gives it one value: the mean over n trainings on fresh
seeds. The values of R earlier reruns are fixed ("pinned") as the baseline; they have the mean m and the standard
deviation s. A later value x is assessed by three tests, which are written here for a metric whose higher values are
better:

    first look      x < m - t s sqrt(1 + 1/R), a one-sided t prediction interval at the level 1%: suspect
    confirmation    the mean of x and of the value of a second rerun is below m - t s sqrt(1/2 + 1/R) at the level a,
                    and the second value alone is below its limit at 5%: worse
    drift           z_i = .3 x_i + .7 z_(i-1) with z_0 = m (EWMA, Roberts 1959), over all reruns since the baseline, is
                    below its own prediction limit: drifting. Each x_i is first clipped to the limits at the level a,
                    so that a single outlier is soon forgotten.

All three also require that the change is at least as large as the smallest change that matters. The probability of a
false alarm in a month is limited to 4.5%, and to 0.5% for drift. Dividing it by the number of tests in a month gives
the level of one test (Bonferroni), which is a.

If the trainings of different reruns differ no more than those of one rerun, as expected with fresh seeds, s is
estimated from all trainings (R n - 1 degrees of freedom). It is estimated from the R values alone (R - 1 degrees of
freedom) if an F test of the variance between reruns over that within reruns is significant at 1%, or if a rerun has
only one value, as for speed.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from scipy import stats

Verdict = Literal["failed", "worse", "drifting", "suspect", "no history", "better", "ok"]
VERDICTS: tuple[Verdict, ...] = ("failed", "worse", "drifting", "suspect", "no history", "better", "ok")  # worst first
ALARMS: tuple[Verdict, ...] = ("failed", "worse", "drifting")  # verdicts that people are notified of
MIN_RERUNS = 5  # the fewest reruns that make a baseline
SUSPECT_LEVEL, SECOND_LEVEL, UNEQUAL_LEVEL = 0.01, 0.05, 0.01
# Shares of months with a false alarm. Successive values of an EWMA are correlated: it raises far fewer than its share.
MONTHLY_ALARMS, MONTHLY_DRIFTS = 0.045, 0.005
EWMA_WEIGHT = 0.3  # of the newest rerun


@dataclass(frozen=True)
class Sample:
    """One series in one rerun: mean and standard deviation of `n` trainings."""

    mean: float
    sd: float = math.nan
    n: int = 1


@dataclass(frozen=True)
class Baseline:
    """A series in the baseline. `spread` is the standard deviation of a rerun's mean, with `df` degrees of freedom."""

    centre: float
    spread: float
    df: int
    reruns: int

    def reach(self, level: float, reruns: float = 1.0) -> float:
        """Return how far the mean of `reruns` reruns may lie from the centre, at a one-sided level."""
        return _t(level, self.df) * self.spread * math.sqrt(1 / reruns + 1 / self.reruns)


@dataclass(frozen=True)
class Levels:
    """The one-sided levels of a single test of one series in one rerun."""

    alarm: float
    drift: float


@dataclass(frozen=True, kw_only=True)
class Assessment:
    """A verdict and its numbers, in the metric's unit. `low` and `high` are the limits of the first look."""

    verdict: Verdict
    value: float
    centre: float
    low: float
    high: float
    ewma: float

    @property
    def change(self) -> float:
        return self.value - self.centre


def levels(series: int, monthly: int) -> Levels:
    """Return the levels for a suite with that many series and reruns in a month."""
    tests = max(1, series * monthly)
    return Levels(MONTHLY_ALARMS / tests, MONTHLY_DRIFTS / tests)


def baseline(samples: Sequence[Sample]) -> Baseline:
    """Estimate the centre and the spread of one series. Raises `ValueError` for fewer than `MIN_RERUNS` samples."""
    if len(samples) < MIN_RERUNS:
        raise ValueError(f"{len(samples)} reruns; expected {MIN_RERUNS} or more")
    means = np.array([s.mean for s in samples])
    reruns, n = len(samples), samples[0].n
    between = float(means.var(ddof=1)) * n
    spread, df = math.sqrt(between / n), reruns - 1
    if n > 1 and all(s.n == n for s in samples):
        within = float(np.mean([s.sd**2 for s in samples]))
        ratio = between / within if within else math.inf if between else 0.0
        if stats.f.sf(ratio, reruns - 1, reruns * (n - 1)) > UNEQUAL_LEVEL:
            pooled = (between * (reruns - 1) + within * reruns * (n - 1)) / (reruns * n - 1)
            spread, df = math.sqrt(pooled / n), reruns * n - 1
    return Baseline(float(means.mean()), spread, df, reruns)


def assess(
    base: Baseline,
    values: Sequence[float],
    better: Literal["maximize", "minimize"],
    share: float,
    level: Levels,
    suspect: float | None = None,
) -> Assessment:
    """Assess the last one of the values that a series took since its baseline, oldest first.

    Args:
        base: The baseline of the series.
        values: The means of all reruns since then.
        better: Which direction of change is an improvement.
        share: The smallest change that matters, as a share of the centre.
        level: The levels of the confirmation and of the drift.
        suspect: The suspect value that the last value is to confirm; None takes a first look.
    """
    sign = 1.0 if better == "maximize" else -1.0
    smallest = share * abs(base.centre)
    change = sign * (values[-1] - base.centre)  # negative if it is worse
    ewma, ewma_reach = _ewma(base, [sign * (x - base.centre) for x in values], level)
    first = base.reach(SUSPECT_LEVEL)
    verdict: Verdict = "ok"
    if suspect is None and change < -max(first, smallest):
        verdict = "suspect"
    elif suspect is not None and _confirmed(base, change, sign * (suspect - base.centre), smallest, level):
        verdict = "worse"
    elif ewma < -max(ewma_reach, smallest):
        verdict = "drifting"
    elif change > max(base.reach(level.alarm), smallest) or ewma > max(ewma_reach, smallest):
        verdict = "better"
    c = base.centre
    return Assessment(
        verdict=verdict, value=values[-1], centre=c, low=c - first, high=c + first, ewma=c + sign * ewma,
    )  # fmt: skip


def _confirmed(base: Baseline, second: float, first: float, smallest: float, level: Levels) -> bool:
    mean = (second + first) / 2
    return mean < -max(base.reach(level.alarm, 2), smallest) and second < -base.reach(SECOND_LEVEL)


def _ewma(base: Baseline, changes: Sequence[float], level: Levels) -> tuple[float, float]:
    """Return the EWMA of the clipped changes, and how far it may lie from 0."""
    limit = base.reach(level.alarm)
    z = 0.0
    for change in changes:
        z = EWMA_WEIGHT * min(max(change, -limit), limit) + (1 - EWMA_WEIGHT) * z
    rest = (1 - EWMA_WEIGHT) ** len(changes)
    variance = EWMA_WEIGHT / (2 - EWMA_WEIGHT) * (1 - rest**2) + (1 - rest) ** 2 / base.reruns
    return z, _t(level.drift, base.df) * base.spread * math.sqrt(variance)


@lru_cache(maxsize=4096)
def _t(level: float, df: int) -> float:
    return float(stats.t.isf(level, df))
