"""Estimates, intervals and tests for comparisons with few seeds, on plain arrays.

Arrays of scores are (..., R, T), for R runs (seeds) on T data sets. Higher is better everywhere, so metrics of which
lower is better change their sign first. Runs of two variants in the same row are a pair, because they saw the same
examples in the same order.

There are two kinds of intervals. The interval of a mean difference is Student's for pairs, which is accurate with five
seeds if differences are roughly normal. The interval of any other statistic is the percentile interval of a stratified
bootstrap (Agarwal et al. 2021, arXiv:2108.13264), which is too narrow with five seeds, and on which nothing is decided.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from variants import InputError

Array = NDArray[np.float64]
LEVEL = 0.95
RESAMPLES = 5000


@dataclass(frozen=True)
class Estimate:
    """A number and its 95% interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Difference:
    """The difference between the paired scores of two variants."""

    mean: Estimate
    p: float  # of the test that the mean difference is 0; NaN for one pair
    effect: float  # mean over standard deviation of the differences, corrected for few pairs; NaN for one pair
    pairs: int


def iqm(scores: Array) -> Array:
    """Return the interquartile mean of all scores (..., R, T): the mean of the middle half (Agarwal et al. 2021)."""
    return np.asarray(stats.trim_mean(scores.reshape(*scores.shape[:-2], -1), 0.25, axis=-1))


def improvement(x: Array, y: Array) -> Array:
    """Return the probability of improvement, P(X > Y) + P(X = Y) / 2, averaged over data sets.

    `x` is (..., R, T) and `y` is (..., S, T). See Mann & Whitney 1947 and Agarwal et al. 2021, section 4.3.

    Raises:
        InputError: If the numbers of data sets differ.
    """
    if x.ndim < 2 or y.ndim < 2 or x.shape[-1] != y.shape[-1]:
        raise InputError(f"scores of shape {x.shape} and {y.shape}: expected (runs, data sets) with the same data sets")
    difference = x[..., :, None, :] - y[..., None, :, :]
    return np.asarray(((difference > 0) + 0.5 * (difference == 0)).mean(axis=(-3, -2, -1)))


def interval(statistic: Callable[..., Array], *scores: Array, resamples: int = RESAMPLES, seed: int = 0) -> Estimate:
    """Return a statistic of one or more arrays of scores (R, T), with its bootstrap percentile interval (Efron 1979).

    Runs are resampled with replacement, separately for each data set and each array.
    """
    rng = np.random.default_rng(seed)
    samples = [np.take_along_axis(s[None], rng.integers(len(s), size=(resamples, *s.shape)), axis=1) for s in scores]
    low, high = np.quantile(statistic(*samples), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(float(statistic(*scores)), float(low), float(high))


def paired(x: Array, y: Array) -> Difference:
    """Test the differences between the paired scores x and y, (R,) each, with Student's t test (1908).

    The effect size is that of Hedges (1981) for the differences. With one pair, p and the effect size are NaN, and the
    interval is infinite.

    Raises:
        InputError: If the scores are not (R,) each, or there are none.
    """
    if x.shape != y.shape or x.ndim != 1 or not len(x):
        raise InputError(f"scores of shape {x.shape} and {y.shape}: expected (runs,) for both, in pairs")
    differences, n = x - y, len(x)
    middle = float(differences.mean())
    if n == 1:
        return Difference(Estimate(middle, -math.inf, math.inf), math.nan, math.nan, 1)
    spread = float(differences.std(ddof=1))
    if spread == 0:
        sign = math.copysign(math.inf, middle) if middle else 0.0
        return Difference(Estimate(middle, middle, middle), float(middle == 0), sign, n)
    test = stats.ttest_rel(x, y)
    bounds = test.confidence_interval(LEVEL)
    effect = middle / spread * (1 - 3 / (4 * (n - 1) - 1))
    return Difference(Estimate(middle, float(bounds.low), float(bounds.high)), float(test.pvalue), effect, n)


def holm(p: Sequence[float]) -> list[float]:
    """Correct p values for multiple tests (Holm 1979). NaN stays NaN, and does not count as a test."""
    valid = [i for i, value in enumerate(p) if not math.isnan(value)]
    corrected, largest = list(p), 0.0
    for rank, i in enumerate(sorted(valid, key=lambda i: p[i])):
        largest = max(largest, min(1.0, (len(valid) - rank) * p[i]))
        corrected[i] = largest
    return corrected


def ranks(scores: Mapping[str, Array], resamples: int = RESAMPLES, seed: int = 0) -> dict[str, Estimate]:
    """Return the rank of each variant's mean, 1 for the best, averaged over data sets, with a percentile interval.

    Arrays are (R, T). Runs are resampled in pairs, that is, the same runs for all variants.

    Raises:
        InputError: If the shapes differ.
    """
    shapes = {s.shape for s in scores.values()}
    if len(shapes) != 1:
        raise InputError(f"scores of shapes {sorted(shapes)}: expected one shape, (runs, data sets)")
    table = np.stack(list(scores.values()))  # (V, R, T)
    rng = np.random.default_rng(seed)

    def mean_rank(runs: Array) -> Array:  # (V, ..., R, T) -> (V, ...)
        return np.asarray(stats.rankdata(-runs.mean(axis=-2), axis=0).mean(axis=-1))

    runs, sets = table.shape[1:]
    samples = mean_rank(table[:, rng.integers(runs, size=(resamples, runs, sets)), np.arange(sets)])
    low, high = np.quantile(samples, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=1)
    values = mean_rank(table)
    return {name: Estimate(float(values[i]), float(low[i]), float(high[i])) for i, name in enumerate(scores)}


def expected_best(values: Array) -> tuple[Array, Array]:
    """Return mean and standard deviation (N,) of the best of n = 1 ... N draws from the values (N,) of trials.

    Higher is better, and the draws are with replacement: Dodge et al. 2019 (arXiv:1909.03004), equations 3 to 6. If
    the curves of two variants cross, the winner depends on the budget.
    """
    ordered = np.sort(values)
    n = np.arange(1, len(ordered) + 1)
    share = n / len(ordered)
    chance = share[None] ** n[:, None] - (share - 1 / len(ordered)).clip(min=0)[None] ** n[:, None]  # (n, value)
    first, second = chance @ ordered, chance @ ordered**2
    return first, np.sqrt((second - first**2).clip(min=0))
