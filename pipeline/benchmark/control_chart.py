"""Statistics that tell a real change from noise: control charts of the means of reruns.

A *suite* is a list of fixed trainings, its *cases*. A *rerun* trains every case n times with fresh seeds. A *series* is
one metric of one case; its value in a rerun is the mean over the n trainings. The values of R earlier reruns are chosen
("pinned") as the baseline. Their mean is m, and s is an estimate of the standard deviation of a rerun's value (see the
last paragraph).

Three tests assess a later value x. They are written here for a metric of which higher values are better. t is the
quantile of Student's t distribution at the level of the test.

- First look: the series is *suspect* if x < m - t s sqrt(1 + 1/R) at the level 1%, that is, if x is below a one-sided t
  prediction interval.
- Confirmation: the case is trained again with other seeds, which gives a second value. The series is *worse* if the
  mean of both values is below m - t s sqrt(1/2 + 1/R) at the level alpha, and the second value alone is below
  m - t s sqrt(1 + 1/R) at the level 5%.
- Drift: the exponentially weighted moving average z_i = .3 x_i + .7 z_(i-1), z_0 = m (EWMA, Roberts 1959), runs over
  all reruns since the baseline. The series is *drifting* if z_i is below the prediction limit of this average. Each x_i
  is first clipped to m +- t s sqrt(1 + 1/R) at the level alpha, so that a single outlier has little effect.

All three also require that the change is larger than the smallest change that matters, a share of |m|. Within a month,
the probability of at least one false *worse* is limited to 4.5%, and that of a false *drifting* to 0.5%. Each is
divided by the number of tests in the month (series times reruns; Bonferroni). This gives the level alpha of a
confirmation, and the level of a drift test.

Normally s is estimated from all R n trainings (R n - 1 degrees of freedom), since with fresh seeds trainings should
differ as much within a rerun as between reruns. If an F test at the level 1% finds the variance between reruns larger
than within them, or if a rerun has only one training, as for speed, s is the standard deviation of the R values (R - 1
degrees of freedom).
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
