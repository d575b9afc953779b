"""Areas under the curves of a score (N,) that is high for positive examples, with standard errors over the examples."""

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluate.estimates import Estimate

Array = NDArray[np.float64]
Flags = NDArray[np.bool_]
RESAMPLES = 100  # of the bootstrap


def roc_area(score: Array, is_positive: Flags) -> Estimate:
    """Return the area under the ROC curve, with the standard error of DeLong et al. 1988.

    The area is the probability that a positive example has a higher score than a negative one; a tie counts half. There
    is no error if there is a single positive or a single negative example, or if the score separates both completely.
    """
    return _mean(*_shares_below_and_above(score, is_positive))


def roc_difference(first: Array, second: Array, is_positive: Flags) -> Estimate:
    """Return the ROC area of the first score minus that of the second, of the same examples (DeLong et al. 1988)."""
    of_first, of_second = (_shares_below_and_above(score, is_positive) for score in (first, second))
    return _mean(of_first[0] - of_second[0], of_first[1] - of_second[1])


def average_precision(score: Array, is_positive: Flags) -> Estimate:
    """Return the area under the precision-recall curve as the average precision, with its standard error.

    By chance, the area is the share of positive examples. The error is the standard deviation over bootstrap samples,
    which have as many positive and as many negative examples as there are. There is no error if there is a single
    positive example, or if all samples have the same area.
    """
    order = np.argsort(-score, kind="stable")
    score, is_positive = score[order], is_positive[order]
    last = np.searchsorted(-score, -score, side="right") - 1  # the last example with the same score

    def area(weights: Array) -> float:
        hits = weights * is_positive
        precision = (hits.cumsum() / weights.cumsum().clip(min=1))[last]
        return float((hits * precision).sum() / hits.sum())

    rng, weights, areas = np.random.default_rng(0), np.ones(len(score)), []
    value = area(weights)
    if is_positive.sum() < 2:
        return Estimate(value, None)
    for _ in range(RESAMPLES):
        for group in (is_positive, ~is_positive):
            n = int(group.sum())
            weights[group] = rng.multinomial(n, np.full(n, 1 / n))
        areas.append(area(weights))
    return Estimate(value, _above_0(float(np.std(areas, ddof=1))))


def _shares_below_and_above(score: Array, is_positive: Flags) -> tuple[Array, Array]:
    """Return for each positive example the share of negative ones below it, and for each of these that of those above.

    The mean of either is the area under the ROC curve. They are computed from ranks (Sun & Xu 2014).
    """
    from scipy.stats import rankdata

    ranks, is_negative = rankdata(score), ~is_positive
    below = (ranks[is_positive] - rankdata(score[is_positive])) / is_negative.sum()
    above = 1 - (ranks[is_negative] - rankdata(score[is_negative])) / is_positive.sum()
    return below, above


def _mean(positive: Array, negative: Array) -> Estimate:
    """Return the mean of what `_shares_below_and_above` returns, or of differences of it."""
    value = float(positive.mean())
    if min(len(positive), len(negative)) < 2:
        return Estimate(value, None)
    variance = positive.var(ddof=1) / len(positive) + negative.var(ddof=1) / len(negative)
    return Estimate(value, _above_0(float(np.sqrt(variance))))


def _above_0(error: float) -> float | None:
    return error if error > 1e-9 else None
