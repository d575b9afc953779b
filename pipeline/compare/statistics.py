"""Means, intervals and probabilities for comparisons, on plain arrays.

The unit of evidence is a *repetition*: a search, a split of the data and a training, repeated together from the start.
Arrays of scores are (R,), one value for each of R repetitions. Higher is better everywhere, so metrics of which lower
is better change their sign first. Scores of two variants from the same repetition are a pair, because both saw the same
split, and what is compared is the mean of their R differences.

If each repetition has a split of its own, its error includes that of its test examples, but the training splits
overlap, so the differences are not independent. The variance of their mean is then (1/R + n_test / n_train) s^2 instead
of s^2 / R, where s^2 is the variance of the differences (Nadeau & Bengio 2003, "Inference for the generalization
error", the corrected resampled t-test). If all repetitions share one split, as several seeds of one configuration do,
the variance of the mean is s^2 / R plus that of a mean over the n test examples, which more repetitions do not reduce.

The posterior of the true mean difference, with a flat prior, is Student's distribution around the mean with the root of
this variance as its scale and R - 1 degrees of freedom (Corani & Benavoli 2015, "A Bayesian approach for comparing
cross-validated algorithms on multiple data sets", the correlated t-test, where the correlation of two repetitions is
n_test / (n_test + n_train); Benavoli et al. 2017, "Time for a change"). Its central interval is the frequentist
confidence interval.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from variants import InputError

Array = NDArray[np.float64]
LEVEL = 0.95  # of intervals
PROBABLE = 0.95  # the probability from which a verdict is given
MOST_REPETITIONS = 100  # that are considered for an undecided pair
ROUNDING = 1e-9  # a spread below this, relative to the values or to 1, is that of equal values which were rounded
Verdict = Literal["better", "equal", "worse", "undecided"]


@dataclass(frozen=True)
class Chances:
    """The probabilities that a true mean difference is above, within, and below plus or minus what matters."""

    better: float
    equal: float
    worse: float

    @property
    def verdict(self) -> Verdict:
        """The statement whose probability is at least `PROBABLE`, or "undecided"."""
        named: dict[Verdict, float] = {"better": self.better, "equal": self.equal, "worse": self.worse}
        return next((name for name, chance in named.items() if chance >= PROBABLE), "undecided")


@dataclass(frozen=True, kw_only=True)
class Mean:
    """A mean over repetitions, and what is known about the true one.

    Args:
        value: The mean.
        spread: The standard deviation of a single repetition; NaN if it is unknown, as with one repetition.
        repetitions: Their number, R.
        overlap: n_test / n_train if each repetition has its own split, otherwise 0.
        row_error: The standard error over the test examples if all repetitions share them, otherwise 0.
        rows: The number of test examples of a repetition, the smallest one if splits differ; 0 if their single scores
            are not known.
    """

    value: float
    spread: float
    repetitions: int
    overlap: float = 0.0
    row_error: float = 0.0
    rows: int = 0

    @property
    def error(self) -> float:
        """The standard error of the mean; NaN if it is unknown."""
        return math.sqrt(self._of_repetitions + self.row_error**2)

    @property
    def df(self) -> float:
        """The degrees of freedom of the error (Welch 1947, Satterthwaite 1946, if it has two parts)."""
        by_rows = self.row_error**4 / (self.rows - 1) if self.rows > 1 else 0.0
        by_repetitions = self._of_repetitions**2 / (self.repetitions - 1) if self.repetitions > 1 else math.nan
        parts = by_repetitions + by_rows
        return self.error**4 / parts if parts else math.nan

    @property
    def _of_repetitions(self) -> float:
        """The variance of the mean that stems from the repetitions."""
        return (1 / self.repetitions + self.overlap) * self.spread**2

    @property
    def is_known(self) -> bool:
        """Whether the error is known and above 0, so that there are an interval and probabilities."""
        return self.error > 0

    def interval(self, level: float = LEVEL) -> tuple[float, float]:
        """Return the central interval of this level; infinite if the error is not known."""
        if not self.is_known:
            return -math.inf, math.inf
        reach = float(stats.t.ppf((1 + level) / 2, self.df)) * self.error
        return self.value - reach, self.value + reach

    def chances(self, matters: float) -> Chances | None:
        """Return the probabilities of the correlated t-test with the region +-`matters`; None if no error is known."""
        if not self.is_known:
            return None
        worse = float(stats.t.cdf((-matters - self.value) / self.error, self.df))
        better = float(stats.t.sf((matters - self.value) / self.error, self.df))
        return Chances(better, max(0.0, 1 - better - worse), worse)

    def repetitions_needed(self, matters: float) -> int | None:
        """Return the smallest number of repetitions that would give a verdict, if mean and spread stayed as they are.

        They will not stay exactly so; in simulations, this number then gave a verdict in about half of the cases. None
        means that more than `MOST_REPETITIONS` would be needed, or that even many of them would give no verdict.
        """
        for repetitions in range(self.repetitions + 1, MOST_REPETITIONS + 1):
            chances = replace(self, repetitions=repetitions).chances(matters)
            if chances and chances.verdict != "undecided":
                return repetitions
        return None


def mean(values: Array, rows: Sequence[Array] | None = None, *, overlap: float | None = None) -> Mean:
    """Return the mean of the scores, or of the differences, of R repetitions.

    Args:
        values: One value for each repetition, (R,).
        rows: For each repetition, the values of its test examples, (N,) each, of which `values` are the means. None if
            they were not kept.
        overlap: n_test / n_train if each repetition has its own split; None if all of them share one split.

    The spread over repetitions with their own splits is never taken to be smaller than the error over the test examples
    of one of them, which it includes. Without this, equal differences, as accuracies on small test splits often have,
    would have no error at all. If the values are equal and the rows are not known, the error is unknown.

    Raises:
        InputError: If there are no values, a value is not finite, or the rows are not those of the repetitions.
    """
    n = len(values)
    if values.ndim != 1 or not n or not np.isfinite(values).all():
        raise InputError(f"scores {values}: expected one finite number for each repetition")
    if rows is not None and (len(rows) != n or min(map(len, rows)) < 2):
        raise InputError(f"rows of {len(rows)} repetitions: expected those of all {n}, with two examples or more")
    spread = float(values.std(ddof=1)) if n > 1 else math.nan
    if spread < ROUNDING * max(1.0, float(np.abs(values).max())):
        spread = 0.0
    middle = float(values.mean())
    if rows is None:
        return Mean(value=middle, spread=spread or math.nan, repetitions=n, overlap=overlap or 0.0)
    if overlap is not None:
        floor = math.sqrt(float(np.mean([r.var(ddof=1) / len(r) for r in rows])))
        spread = max(spread, floor) if n > 1 else math.nan
        return Mean(value=middle, spread=spread, repetitions=n, overlap=overlap, rows=min(map(len, rows)))
    if len({len(r) for r in rows}) > 1:
        raise InputError("rows of repetitions on one split: expected the same test examples in all of them")
    each = np.stack(list(rows)).mean(axis=0)
    row_error = float(each.std(ddof=1)) / math.sqrt(len(each))
    return Mean(value=middle, spread=spread, repetitions=n, row_error=row_error, rows=len(each))


def scaled(value: Mean, factor: float) -> Mean:
    """Return the mean of scores that were multiplied by a factor, such as -1 to change their sign."""
    size = abs(factor)
    return replace(value, value=factor * value.value, spread=size * value.spread, row_error=size * value.row_error)


def simultaneous_level(intervals: int) -> float:
    """Return the level that makes all of so many intervals right at once with the probability `LEVEL` (Bonferroni)."""
    return 1 - (1 - LEVEL) / max(1, intervals)


@dataclass(frozen=True)
class RankTest:
    """Ranks of variants over data sets.

    Attributes:
        ranks: The average rank of each variant; 1 is the best.
        p: The probability of ranks as unequal as these if all variants were equal: that of Friedman's test (1937), or
            of the sign test for two variants.
        critical_difference: Two average ranks that differ by less cannot be told apart (Nemenyi 1963), at 5%.
        datasets: The number of data sets.
    """

    ranks: Mapping[str, float]
    p: float
    critical_difference: float
    datasets: int

    def tells_apart(self, first: str, second: str) -> bool:
        """Return whether the ranks of two variants differ, which needs that p is at most 5% (Demsar 2006)."""
        distance = abs(self.ranks[first] - self.ranks[second])
        return self.p <= 1 - LEVEL and distance >= self.critical_difference


def rank_test(scores: Mapping[str, Array]) -> RankTest:
    """Compare variants over data sets, which are the unit: each has one score (T,) on each of T data sets.

    See Demsar 2006, "Statistical comparisons of classifiers over multiple data sets", section 3.2. The statistic of
    Friedman's test is corrected for ties. With two variants, the test is the sign test (section 3.1), without the data
    sets on which both are equal.

    Raises:
        InputError: If there are fewer than two variants or two data sets, or if shapes differ.
    """
    table = np.stack([scores[name] for name in scores]) if len({s.shape for s in scores.values()}) == 1 else np.empty(0)
    if table.ndim != 2 or len(table) < 2 or table.shape[1] < 2:
        raise InputError(f"scores of {len(scores)} variants: expected at least two, with scores on the same data sets")
    variants, datasets = table.shape
    ranks = stats.rankdata(-table, axis=0).mean(axis=1)
    if variants == 2:
        wins, losses = int((table[0] > table[1]).sum()), int((table[0] < table[1]).sum())
        p = float(stats.binomtest(wins, wins + losses).pvalue) if wins + losses else 1.0
    else:
        p = float(stats.friedmanchisquare(*table).pvalue) if np.ptp(table, axis=0).any() else 1.0
    quantile = float(stats.studentized_range.ppf(LEVEL, variants, np.inf)) / math.sqrt(2)
    difference = quantile * math.sqrt(variants * (variants + 1) / (6 * datasets))
    return RankTest(dict(zip(scores, map(float, ranks), strict=True)), p, difference, datasets)
