"""Statistics that tell a real change from noise: control charts of the means of reruns.

A *suite* is a list of fixed trainings, its *cases*. A *rerun* trains every case n times with fresh seeds. A *series* is
one metric of one case; its value in a rerun is the mean over the n trainings. The values of R earlier reruns are chosen
("pinned") as the baseline. Their centre m is the Hodges-Lehmann estimate, the median of the means of all pairs, which a
rerun far from the others hardly moves. Its variance is s^2 / r, where s is the standard deviation of a rerun's value
and r = .955 R, since this estimate has 95.5% of the efficiency of a mean.

Three tests assess a later value x. They are written here for a metric of which higher values are better. t is the
quantile of Student's t distribution at the level of the test.

- First look: the series is *suspect* if x < m - t s sqrt(1 + 1/r) at the level 1%, that is, if x is below a one-sided t
  prediction interval.
- Confirmation: the case is trained again with other seeds, which gives a second value. The share c of the variance
  s^2 is common to both values. The series is *worse* if the mean of both is below m - t s sqrt((1 + c)/2 + 1/r) at the
  level alpha, and the second value alone is below m - t s sqrt(1 + 1/r) at the level 1%.
- Drift: the exponentially weighted moving average z_i = .3 x_i + .7 z_(i-1), z_0 = m (EWMA, Roberts 1959), runs over
  all reruns since the baseline. The series is *drifting* if z_i is below the prediction limit of this average. Each x_i
  is first clipped to m +- t s sqrt(1 + 1/r) at the level alpha, so that a single outlier has little effect. A series
  with one training a rerun, such as speed, is never drifting, since its successive values may be correlated.

All three also require that the change is larger than the smallest change that matters, a share of |m|. The levels of
the confirmation and the drift are 23% and .5% a month, divided by the number of tests in the month (series times
reruns; Bonferroni). All conditions of a confirmation together are met much more rarely than that of its mean alone.
With 23%, a suite has a false alarm in about 5% of months or fewer in simulations (`python tests/control_charts.py`).

The noise is described by three numbers:

- The ratio f of the variance between reruns to that within them, which is 1 if reruns have nothing in common but their
  code. With n trainings, F = n var(values) / W, where W is the mean variance within reruns. The suite's ratio f_0 is
  exp of the mean of log F over its series, less the expectation of log F at f = 1, and at least 1. Where an F test at
  the level 1% finds the F of a series larger than f_0, f = F, with R - 1 degrees of freedom. Otherwise
  f = max(f_0, (3 f_0 + F) / 4), with 4 (R - 1) degrees of freedom for f and R (n - 1) for W, whose reciprocals are
  added (Satterthwaite 1946). Then s^2 = h f W / n, and c = 1 - 1/f, since all that reruns differ by more than their
  trainings may be common to both trainings of a confirmation.
- The factor h of variances for heavy tails: the variance of log sd^2 over the reruns of a series, as a mean over the
  series, divided by its value for normal noise, trigamma((n - 1)/2). It is 1 unless it is above 1 by more than two
  standard errors. Simulations show that this is wide enough for Student's t with 3 degrees of freedom.
- The correlation a of successive values, for a series with one training a rerun: the lag-one correlation r_1, corrected
  for its bias (Kendall 1954), (R r_1 + 1) / (R - 4), and limited to [0, .9]. Such values are worth
  e = max(3, R (1 - a) / (1 + a)) independent ones. Then r = .955 e, s^2 is the variance of the values times
  (1 - 1/R) / (1 - 1/e), with e - 2 degrees of freedom (for the mean and a), and c = 1.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

Verdict = Literal["failed", "worse", "drifting", "suspect", "no history", "better", "ok"]
VERDICTS: tuple[Verdict, ...] = ("failed", "worse", "drifting", "suspect", "no history", "better", "ok")  # worst first
ALARMS: tuple[Verdict, ...] = ("failed", "worse", "drifting")  # verdicts that people are notified of
MIN_RERUNS = 5  # the fewest reruns that make a baseline
SUSPECT_LEVEL, SECOND_LEVEL, UNEQUAL_LEVEL = 0.01, 0.01, 0.01
# The levels of a month. All conditions of a confirmation together, and a correlated EWMA, raise far fewer false alarms.
MONTHLY_ALARMS, MONTHLY_DRIFTS = 0.23, 0.005
SUITE_WEIGHT = 3  # of the ratio of variances of the suite, where that of a series has the weight 1
EFFICIENCY = 0.955  # of the Hodges-Lehmann estimate, compared with the mean of normal values
MAX_CORRELATION = 0.9
NOTABLE_RATIO, NOTABLE_CORRELATION = 1.1, 0.1  # from here on, people are told
EWMA_WEIGHT = 0.3  # of the newest rerun


@dataclass(frozen=True)
class Sample:
    """One series in one rerun: mean and standard deviation of `n` trainings."""

    mean: float
    sd: float = math.nan
    n: int = 1


@dataclass(frozen=True)
class Noise:
    """How the noise of a whole suite differs from independent and normal trainings, in which both numbers are 1."""

    ratio: float = 1.0  # the variance between reruns over that within reruns
    tails: float = 1.0  # the factor of variances that allows for heavy tails


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """A series in the baseline.

    `spread` is the standard deviation of a rerun's value, with `df` degrees of freedom, and `effective` the number of
    independent values that give the centre the same precision. The share `common` of the variance is the same in a
    rerun and in its confirmation. `found` says in words which kind of noise was found.
    """

    centre: float
    spread: float
    df: float
    effective: float
    common: float = 0.0
    is_single: bool = False  # whether each rerun has one training
    found: str = ""

    def reach(self, level: float, values: int = 1) -> float:
        """Return how far the mean of a rerun and its confirmation (`values` 2) may lie from the centre.

        The level is one-sided. With `values` 1, this is for a rerun alone.
        """
        variance = self.common + (1 - self.common) / values
        return _t(level, self.df) * self.spread * math.sqrt(variance + 1 / self.effective)


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


def noise(suite: Iterable[Sequence[Sample]]) -> Noise:
    """Estimate the noise that the series of a suite have in common, each given by its samples in the baseline."""
    ratios, tails, errors = [], [], []
    for samples in suite:
        reruns, n = len(samples), samples[0].n
        if not _has_equal_trainings(samples) or min(s.sd for s in samples) <= 0 or _ratio(samples) == 0:
            continue  # a single training, or values without noise
        first, second = reruns - 1, reruns * (n - 1)
        expected = _log_chi2(first) - _log_chi2(second)
        ratios.append(math.log(_ratio(samples)) - expected)
        normal = special.polygamma(1, (n - 1) / 2)
        tails.append(float(np.log([s.sd**2 for s in samples]).var(ddof=1)) / normal)
        errors.append((2 + special.polygamma(3, (n - 1) / 2) / normal**2) / first)
    if not ratios:
        return Noise()
    heavy = float(np.mean(tails))
    error = math.sqrt(sum(errors)) / len(errors)
    return Noise(max(1.0, math.exp(float(np.mean(ratios)))), heavy if heavy > 1 + 2 * error else 1.0)


def baseline(samples: Sequence[Sample], suite: Noise = Noise()) -> Baseline:
    """Estimate the centre and the spread of one series, with what is known of the noise of its suite.

    Raises `ValueError` for fewer than `MIN_RERUNS` samples.
    """
    if len(samples) < MIN_RERUNS:
        raise ValueError(f"{len(samples)} reruns; expected {MIN_RERUNS} or more")
    means = np.array([s.mean for s in samples])
    rows, columns = np.triu_indices(len(means))
    centre = float(np.median((means[rows] + means[columns]) / 2))
    reruns, n = len(samples), samples[0].n
    within = float(np.mean([s.sd**2 for s in samples]))
    if not _has_equal_trainings(samples) or within == 0:
        return _baseline_of_single_values(means, centre, n == 1)
    ratio = _ratio(samples)
    first, second = reruns - 1, reruns * (n - 1)
    if stats.f.sf(ratio / suite.ratio, first, second) < UNEQUAL_LEVEL:
        df, found = float(first), f"reruns differ by more than their trainings do: limits from {reruns} reruns"
    else:
        weight = SUITE_WEIGHT + 1
        ratio = max(suite.ratio, (SUITE_WEIGHT * suite.ratio + ratio) / weight)
        df = 1 / (1 / (weight * first) + 1 / second)
        if suite.ratio > NOTABLE_RATIO:
            found = f"the variance between reruns is {suite.ratio:.1f} times that within them: limits from all series"
        else:
            found = f"trainings differ as much within a rerun as between reruns: limits from {reruns * n} trainings"
    if suite.tails > 1:
        found += f"; heavy tails: limits are {math.sqrt(suite.tails):.2f} times as wide"
    return Baseline(
        centre=centre, spread=math.sqrt(suite.tails * ratio * within / n), df=df, effective=EFFICIENCY * reruns,
        common=1 - 1 / ratio, found=found,
    )  # fmt: skip


def _baseline_of_single_values(means: NDArray[np.float64], centre: float, is_single: bool) -> Baseline:
    reruns, changes = len(means), means - means.mean()
    squares = float((changes**2).sum())
    correlation = float((changes[1:] * changes[:-1]).sum()) / squares if squares else 0.0
    correlation = min(max((reruns * correlation + 1) / (reruns - 4), 0.0), MAX_CORRELATION)
    independent = max(3.0, reruns * (1 - correlation) / (1 + correlation))
    variance = squares / reruns / (1 - 1 / independent)
    found = f"limits from {reruns} values"
    if correlation > NOTABLE_CORRELATION:
        found = f"successive values are correlated ({correlation:.1f}): limits from {reruns} values are widened"
    return Baseline(
        centre=centre, spread=math.sqrt(variance), df=independent - 2, effective=EFFICIENCY * independent, common=1.0,
        is_single=is_single, found=found,
    )  # fmt: skip


def _has_equal_trainings(samples: Sequence[Sample]) -> bool:
    return samples[0].n > 1 and all(s.n == samples[0].n for s in samples)


def _ratio(samples: Sequence[Sample]) -> float:
    """Return the variance between reruns over that within reruns, whose expectation is about 1 if both are equal."""
    between = float(np.var([s.mean for s in samples], ddof=1)) * samples[0].n
    return between / float(np.mean([s.sd**2 for s in samples]))


def _log_chi2(df: int) -> float:
    """Return E[log(X / df)], where X has a chi-squared distribution with `df` degrees of freedom."""
    return float(special.digamma(df / 2)) - math.log(df / 2)


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
    variance = EWMA_WEIGHT / (2 - EWMA_WEIGHT) * (1 - rest**2) + (1 - rest) ** 2 / base.effective
    if base.is_single:
        return z, math.inf
    return z, _t(level.drift, base.df) * base.spread * math.sqrt(variance)


@lru_cache(maxsize=4096)
def _t(level: float, df: float) -> float:
    return float(stats.t.isf(level, df))
