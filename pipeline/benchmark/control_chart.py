"""Did it get worse, or did noise move? Statistics on the means of reruns, against a pinned baseline.

A rerun gives each series (a case's metric) a mean over trainings on fresh seeds. R reruns are pinned as the baseline;
their means are x_1 ... x_R, with mean m and standard deviation s. A later rerun x is judged by

    first look      x beyond m - t s sqrt(1 + 1/R), a one-sided t prediction interval at 1%: suspect
    confirmation    the mean of it and of a second rerun beyond m - t s sqrt(1/2 + 1/R), at the level below, and the
                    second alone beyond 5%: worse
    drift           z_i = .3 x_i + .7 z_(i-1), z_0 = m (EWMA, Roberts 1959), over all reruns since, each cut off where
                    a single one would be beyond doubt; z beyond its own prediction limit: drifting

each only where the change is no smaller than what matters. The level of an alarm is a month's share of false alarms,
divided among the series and reruns of that month (Bonferroni).

Where trainings of different reruns differ no more than those of one rerun, as fresh seeds make it, s comes from all of
them (R n - 1 degrees of freedom); where an F test at 1% says that they do, or where a rerun has one value only, as
speed has, from the means alone (R - 1).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from scipy import stats

Word = Literal["failed", "worse", "drifting", "suspect", "no history", "better", "ok"]
WORDS: tuple[Word, ...] = ("failed", "worse", "drifting", "suspect", "no history", "better", "ok")  # worst first
BAD: tuple[Word, ...] = ("failed", "worse", "drifting")  # somebody should hear of it
LEAST = 5  # reruns of a baseline
SUSPECT, SECOND, UNEQUAL = 0.01, 0.05, 0.01
ALARM, DRIFT = 0.045, 0.005  # false ones a month and suite; looks at an EWMA are alike: far fewer in truth
WEIGHT = 0.3  # of the newest rerun, in the EWMA


@dataclass(frozen=True)
class Sample:
    """One rerun of a series: mean and standard deviation of `n` trainings."""

    mean: float
    sd: float = math.nan
    n: int = 1


@dataclass(frozen=True)
class Baseline:
    """`spread` is the standard deviation of a rerun's mean."""

    centre: float
    spread: float
    df: int
    reruns: int

    def reach(self, level: float, reruns: float = 1.0) -> float:
        """How far the mean of so many reruns may lie from the centre, at a one-sided level."""
        return _t(level, self.df) * self.spread * math.sqrt(1 / reruns + 1 / self.reruns)


@dataclass(frozen=True)
class Levels:
    alarm: float
    drift: float


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """A verdict, with its numbers in the metric's unit. `low` and `high` are the limits of the first look."""

    word: Word
    value: float
    centre: float
    low: float
    high: float
    smoothed: float  # the EWMA
    least: float  # the smallest change that matters

    @property
    def change(self) -> float:
        return self.value - self.centre


def levels(series: int, monthly: int) -> Levels:
    """Of a suite with so many judged series, and reruns a month."""
    looks = max(1, series * monthly)
    return Levels(ALARM / looks, DRIFT / looks)


def baseline(samples: Sequence[Sample]) -> Baseline:
    """Of at least `LEAST` reruns; raises `ValueError` for fewer."""
    if len(samples) < LEAST:
        raise ValueError(f"{len(samples)} reruns; expected {LEAST} or more")
    means = np.array([s.mean for s in samples])
    reruns, n = len(samples), samples[0].n
    between = float(means.var(ddof=1)) * n
    spread, df = math.sqrt(between / n), reruns - 1
    if n > 1 and all(s.n == n for s in samples):
        inside = float(np.mean([s.sd**2 for s in samples]))
        apart = between / inside if inside else math.inf if between else 0.0
        if stats.f.sf(apart, reruns - 1, reruns * (n - 1)) > UNEQUAL:
            pooled = (between * (reruns - 1) + inside * reruns * (n - 1)) / (reruns * n - 1)
            spread, df = math.sqrt(pooled / n), reruns * n - 1
    return Baseline(float(means.mean()), spread, df, reruns)


def judge(
    base: Baseline,
    since: Sequence[float],
    better: Literal["maximize", "minimize"],
    share: float,
    level: Levels,
    suspect: float | None = None,
) -> Judgement:
    """The verdict on the last of the means `since` the baseline, in their order.

    `share` of the centre is the smallest change that matters. `suspect` is the mean that the last one is to confirm;
    without it, a first look is taken. Changes are counted as `better` says: worse is below.
    """
    sign = 1.0 if better == "maximize" else -1.0
    least = share * abs(base.centre)
    now = sign * (since[-1] - base.centre)
    smoothed, reach = _smoothed(base, [sign * (x - base.centre) for x in since], level)
    first = base.reach(SUSPECT)
    word: Word = "ok"
    if suspect is None and now < -max(first, least):
        word = "suspect"
    elif suspect is not None and _confirmed(base, now, sign * (suspect - base.centre), least, level):
        word = "worse"
    elif smoothed < -max(reach, least):
        word = "drifting"
    elif now > max(base.reach(level.alarm), least) or smoothed > max(reach, least):
        word = "better"
    c = base.centre
    return Judgement(
        word=word, value=since[-1], centre=c, low=c - first, high=c + first, smoothed=c + sign * smoothed, least=least
    )


def _confirmed(base: Baseline, now: float, before: float, least: float, level: Levels) -> bool:
    both = (now + before) / 2
    return both < -max(base.reach(level.alarm, 2), least) and now < -base.reach(SECOND)


def _smoothed(base: Baseline, changes: Sequence[float], level: Levels) -> tuple[float, float]:
    """The EWMA of changes, and how far it may lie from 0."""
    cut = base.reach(level.alarm)
    z = 0.0
    for change in changes:
        z = WEIGHT * min(max(change, -cut), cut) + (1 - WEIGHT) * z
    rest = (1 - WEIGHT) ** len(changes)
    variance = WEIGHT / (2 - WEIGHT) * (1 - rest**2) + (1 - rest) ** 2 / base.reruns
    return z, _t(level.drift, base.df) * base.spread * math.sqrt(variance)


@lru_cache(maxsize=4096)
def _t(level: float, df: int) -> float:
    return float(stats.t.isf(level, df))
