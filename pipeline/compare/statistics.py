"""How sure a comparison is: estimates, intervals and decisions from a few seeds, on plain arrays.

`scores` are (..., R, T): R runs (seeds) on T data sets, of any number of such tables at once. Higher is better
throughout; turn round what is not. Runs in one row of two variants are a pair: they saw the same examples in the same
order.

An interval here is of one of two kinds. Of a mean difference it is Student's, of pairs, which at five seeds keeps what
it promises where differences are about normal. Of other statistics it is the percentile interval of a stratified
bootstrap, as Agarwal et al. 2021 (arXiv:2108.13264) have it; at five seeds that is too narrow, and decides nothing.
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
    """Of a pair of variants, the first less the second. `p` is of the test that the mean difference is 0."""

    mean: Estimate
    p: float
    effect: float  # mean over standard deviation of the differences, corrected for few pairs; NaN for one pair
    pairs: int


def iqm(scores: Array) -> Array:
    """The mean of the middle half of all scores (..., R, T): a quarter is cut at either end (Agarwal et al. 2021)."""
    return np.asarray(stats.trim_mean(scores.reshape(*scores.shape[:-2], -1), 0.25, axis=-1))


def improvement(x: Array, y: Array) -> Array:
    """P(X > Y) + P(X = Y) / 2 of a run of each, averaged over data sets; .5 where they are alike.

    `x` is (..., R, T), `y` (..., S, T). Mann & Whitney 1947, as in Agarwal et al. 2021, section 4.3. Raises
    `InputError` for unlike numbers of data sets.
    """
    if x.ndim < 2 or y.ndim < 2 or x.shape[-1] != y.shape[-1]:
        raise InputError(f"scores of shape {x.shape} and {y.shape}: expected (runs, data sets), of the same data sets")
    apart = x[..., :, None, :] - y[..., None, :, :]
    return np.asarray(((apart > 0) + 0.5 * (apart == 0)).mean(axis=(-3, -2, -1)))


def interval(statistic: Callable[..., Array], *scores: Array, resamples: int = RESAMPLES, seed: int = 0) -> Estimate:
    """A statistic of one or more tables of scores (R, T) with its percentile interval.

    Runs are drawn anew with replacement, within each data set and each table by itself (Efron 1979).
    """
    rng = np.random.default_rng(seed)
    drawn = [np.take_along_axis(s[None], rng.integers(len(s), size=(resamples, *s.shape)), axis=1) for s in scores]
    low, high = np.quantile(statistic(*drawn), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(float(statistic(*scores)), float(low), float(high))


def paired(x: Array, y: Array) -> Difference:
    """Student's paired comparison (1908) of x less y, (R,) each; the effect size is Hedges' (1981) of the differences.

    Of a single pair there is a mean, and nothing else. Raises `InputError` for unlike numbers.
    """
    if x.shape != y.shape or x.ndim != 1 or not len(x):
        raise InputError(f"scores of shape {x.shape} and {y.shape}: expected (runs,) of both, in pairs")
    apart, n = x - y, len(x)
    middle = float(apart.mean())
    if n == 1:
        return Difference(Estimate(middle, -math.inf, math.inf), math.nan, math.nan, 1)
    spread = float(apart.std(ddof=1))
    if spread == 0:  # to the last bit: nothing was random
        sign = math.copysign(math.inf, middle) if middle else 0.0
        return Difference(Estimate(middle, middle, middle), float(middle == 0), sign, n)
    test = stats.ttest_rel(x, y)
    bounds = test.confidence_interval(LEVEL)
    effect = middle / spread * (1 - 3 / (4 * (n - 1) - 1))
    return Difference(Estimate(middle, float(bounds.low), float(bounds.high)), float(test.pvalue), effect, n)


def holm(p: Sequence[float]) -> list[float]:
    """p values that may be held against .05 each, however many there are (Holm 1979). NaN stays, and counts as none."""
    known = [i for i, value in enumerate(p) if not math.isnan(value)]
    found, largest = list(p), 0.0
    for rank, i in enumerate(sorted(known, key=lambda i: p[i])):
        largest = max(largest, min(1.0, (len(known) - rank) * p[i]))
        found[i] = largest
    return found


def ranks(scores: Mapping[str, Array], resamples: int = RESAMPLES, seed: int = 0) -> dict[str, Estimate]:
    """The rank of each variant's mean, 1 for the best, averaged over data sets, with a percentile interval.

    Tables are (R, T); pairs stay pairs when runs are drawn anew. Raises `InputError` for unlike shapes.
    """
    shapes = {s.shape for s in scores.values()}
    if len(shapes) != 1:
        raise InputError(f"scores of shapes {sorted(shapes)}: expected one shape, (runs, data sets)")
    table = np.stack(list(scores.values()))  # (V, R, T)
    rng = np.random.default_rng(seed)

    def ranked(of: Array) -> Array:  # (V, ..., R, T) -> (V, ...)
        return np.asarray(stats.rankdata(-of.mean(axis=-2), axis=0).mean(axis=-1))

    runs, sets = table.shape[1:]
    drawn = ranked(table[:, rng.integers(runs, size=(resamples, runs, sets)), np.arange(sets)])
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=1)
    values = ranked(table)
    return {name: Estimate(float(values[i]), float(low[i]), float(high[i])) for i, name in enumerate(scores)}


def expected_best(values: Array) -> tuple[Array, Array]:
    """Mean and standard deviation (N,) of the best of n = 1 ... N trials like these (N,), higher is better.

    Dodge et al. 2019 (arXiv:1909.03004), equations 3 to 6: of n draws with replacement from the trials' values. What
    one variant wins only because it was tuned for longer shows as curves that cross.
    """
    ordered = np.sort(values)
    n = np.arange(1, len(ordered) + 1)
    share = n / len(ordered)
    chance = share[None] ** n[:, None] - (share - 1 / len(ordered)).clip(min=0)[None] ** n[:, None]  # (n, value)
    first, second = chance @ ordered, chance @ ordered**2
    return first, np.sqrt((second - first**2).clip(min=0))
