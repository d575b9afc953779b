"""Arranges the columns of a table in groups with one likelihood each, with the initial offsets of a new model."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.data._raw import Raw
from variants.base.contract import KIND_OF, Group, Likelihood, ValueKind

ORDER: tuple[ValueKind, ...] = ("real", "positive", "count", "binary", "category")  # the order of the groups, in which categories come last
QUANTILES = 21  # how many quantiles describe the exposures of the training data
Array = NDArray[Any]


def order_of(raw: Raw) -> tuple[int, ...]:
    """Return the columns of a mixed table in the order of their groups; empty for any other data."""
    if raw.likelihood != "mixed":
        return ()
    positions = {kind: i for i, kind in enumerate(ORDER)}
    return tuple(sorted(range(len(raw.columns)), key=lambda i: positions[KIND_OF[raw.likelihoods[i]]]))


def groups(raw: Raw, train: Array, spread: Array) -> tuple[Group, ...]:
    """Return the groups of values (see `variants.base.contract.Group`), described by the training examples.

    Args:
        raw: The data.
        train: The indices of the training examples.
        spread: The standard deviation of the logarithms of positive values, one for each column or channel.

    Returns:
        The groups in the order of the last axis of `Batch.x`; empty if all values have one family without offset and
        spread.
    """
    if raw.likelihood != "mixed":
        kind = KIND_OF[raw.likelihood]
        if kind == "positive":
            return (_group(raw.likelihood, raw.x.shape[-1], spread=np.atleast_1d(spread)),)
        if kind == "count":
            every = np.arange(raw.x.shape[-1])
            return (_group(raw.likelihood, raw.x.shape[-1], offset=_log_means(raw, train, every)),)
        return ()
    result: list[Group] = []
    order = np.array(order_of(raw))
    likelihoods = np.array(raw.likelihoods)[order]
    for likelihood in dict.fromkeys(likelihoods.tolist()):
        chosen = order[likelihoods == likelihood]
        kind = KIND_OF[likelihood]
        if kind == "category":
            for i in chosen:
                counts = _counts(raw.x[train, i], len(raw.columns[i].values))
                result.append(_group(likelihood, len(counts), offset=np.log(counts / counts.sum())))
            continue
        offset, of_group = np.zeros(0), np.zeros(0)
        if kind == "count":
            offset = _log_means(raw, train, chosen)
        elif kind == "binary":
            frequencies = np.array([_counts(raw.x[train, i], 2) for i in chosen])
            offset = np.log(frequencies[:, 1] / frequencies[:, 0])
        elif kind == "positive":
            of_group = spread[chosen]
        result.append(_group(likelihood, len(chosen), offset=offset, spread=of_group))
    return tuple(result)


def exposure(raw: Raw) -> Array | None:
    """Return the exposure of each example, (N,), to which the means of its counts are proportional; None without one."""
    if raw.exposure_kind == "sum":
        is_count = [KIND_OF[likelihood] == "count" for likelihood in raw.likelihoods]
        counts = raw.x[:, is_count] if raw.columns else raw.x
        known = _known(raw)[:, is_count] if raw.columns else _known(raw)
        total: Array = np.where(known, counts, 0.0).sum(axis=1)
        return total
    return raw.exposure


def quantiles(values: Array) -> tuple[float, ...]:
    """Return evenly spaced quantiles of exposures (N,), from the smallest to the largest."""
    return tuple(np.quantile(values.astype(np.float64), np.linspace(0, 1, QUANTILES)).tolist())


def one_hot(codes: Array, categories: int) -> Array:
    """Return codes (N,) as one-hot vectors, (N, categories); zeros where a code is missing (NaN)."""
    vectors: Array = codes[:, None] == np.arange(categories)
    return vectors.astype(np.float64)


def _group(likelihood: Likelihood, size: int, offset: Array | None = None, spread: Array | None = None) -> Group:
    tuples = [tuple(np.asarray(v, np.float64).tolist()) if v is not None else () for v in (offset, spread)]
    return Group(likelihood=likelihood, size=size, offset=tuples[0], spread=tuples[1])


def _known(raw: Raw) -> Array:
    return np.ones(raw.x.shape, np.bool_) if raw.known is None else raw.known


def _counts(codes: Array, categories: int) -> Array:
    """Return how often each category occurs, plus one half, so that no frequency is 0."""
    known = codes[np.isfinite(codes)].astype(np.int64)
    counts: Array = np.bincount(known, minlength=categories) + 0.5
    return counts


def _log_means(raw: Raw, train: Array, columns: Array) -> Array:
    """Return the logarithm of the mean count of each column, of each channel, or of each column of pixels of images.

    If there is an exposure, it is the logarithm of the mean count per unit of exposure.
    """
    known = _known(raw)[train][..., columns]
    x = np.where(known, raw.x[train][..., columns], 0.0)
    if raw.lengths is not None:
        known = known & raw.mask[train][..., None]
    axes = tuple(range(x.ndim - 1))
    given = exposure(raw)
    units = known if given is None else known * given[train].reshape(-1, *[1] * (x.ndim - 1))
    log_means: Array = np.log((x.sum(axes) + 0.5) / np.maximum(units.sum(axes), 0.5))
    return log_means


def class_shares(y: NDArray[np.int64] | None, classes: int) -> tuple[float, ...]:
    """Return the share of each class among the known labels, as if a class without examples had one."""
    if y is None:
        return ()
    counts = np.bincount(y[y >= 0], minlength=classes).clip(min=1)
    return tuple((counts / counts.sum()).tolist())
