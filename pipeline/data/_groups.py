"""Facts about the training examples that a model needs: groups of one likelihood, exposures, and shares of classes."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.data._raw import Raw
from variants.base.contract import KIND_OF, Group, Likelihood, ValueKind

ORDER: tuple[ValueKind, ...] = ("real", "positive", "count", "binary", "category")  # the order of the groups
QUANTILES = 21  # how many quantiles describe the exposures of the training data
ROUNDS = 50  # of the iteration that finds the shares of counts of which some are missing
Array = NDArray[Any]


def order_of(raw: Raw) -> tuple[int, ...]:
    """Return the columns of a mixed table, or channels, in the order of their groups; empty for any other data."""
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
        is_plain = KIND_OF[raw.likelihood] not in ("positive", "count")
        return () if is_plain else (_group(raw, raw.likelihood, np.arange(raw.x.shape[-1]), train, spread),)
    result: list[Group] = []
    order = np.array(order_of(raw))
    likelihoods = np.array(raw.likelihoods)[order]
    for likelihood in dict.fromkeys(likelihoods.tolist()):
        columns = order[likelihoods == likelihood]
        if likelihood == "categorical":
            result += [_categorical_group(raw, i, train) for i in columns]
        else:
            result.append(_group(raw, likelihood, columns, train, spread))
    return tuple(result)


def complete_exposure(raw: Raw, train: Array) -> Array | None:
    """Return the exposure of each training example, (n,), as if none of its counts were missing; None without one.

    A sum of known counts is divided by the share that their columns have of all counts. The shares have the largest
    likelihood of the known counts given their sum. The exposure is NaN for examples without any known count.
    """
    exposure = None if raw.exposure is None else raw.exposure[train]
    if exposure is None or raw.exposure_kind != "sum" or raw.known is None:
        return exposure
    is_count = np.array([KIND_OF[likelihood] == "count" for likelihood in raw.likelihoods])
    known = raw.known[train][:, is_count].astype(np.float64)
    totals = np.where(known, raw.x[train][:, is_count], 0.0).sum(0)
    complete, known_share = exposure, known.mean(1)
    for _ in range(ROUNDS):
        rates = (totals + 0.5) / np.maximum(known.T @ complete, 0.5 * len(totals))
        known_share = known @ (rates / rates.sum())
        complete = np.divide(exposure, known_share, out=np.zeros_like(exposure), where=known_share > 0)
    return np.where(known_share > 0, complete, np.nan)


def quantiles(values: Array) -> tuple[float, ...]:
    """Return evenly spaced quantiles of exposures (N,) that are not NaN, from the smallest to the largest."""
    return tuple(np.nanquantile(values.astype(np.float64), np.linspace(0, 1, QUANTILES)).tolist())


def class_shares(y: NDArray[np.int64] | None, classes: int) -> tuple[float, ...]:
    """Return the share of each class among the known labels, as if a class without examples had one."""
    if y is None:
        return ()
    counts = np.bincount(y[y >= 0], minlength=classes).clip(min=1)
    return tuple((counts / counts.sum()).tolist())


def _group(raw: Raw, likelihood: Likelihood, columns: Array, train: Array, spread: Array) -> Group:
    """Return the group of columns, channels, or columns of pixels, of one likelihood that is not categorical."""
    kind, offset, of_group = KIND_OF[likelihood], np.zeros(0), np.zeros(0)
    if kind == "count":
        offset = _log_means(raw, train, columns)
    elif kind == "binary":
        frequencies = np.array([_counts(raw, i, train, 2) for i in columns])
        offset = np.log(frequencies[:, 1] / frequencies[:, 0])
    elif kind == "positive":
        of_group = spread[columns] if spread.ndim else spread.reshape(1)
    return Group(
        likelihood=likelihood, size=len(columns), offset=tuple(offset.tolist()), spread=tuple(of_group.tolist())
    )


def _categorical_group(raw: Raw, column: int, train: Array) -> Group:
    counts = _counts(raw, column, train, len(raw.columns[column].values))
    offset = tuple(np.log(counts / counts.sum()).tolist())
    return Group(likelihood="categorical", size=len(counts), offset=offset)


def _counts(raw: Raw, column: int, train: Array, categories: int) -> Array:
    """Return how often each category of a column occurs in the training data, plus one half, so that none is 0."""
    codes = raw.x[train][..., column]
    codes = codes if raw.lengths is None else codes[raw.mask[train]]
    known = codes[np.isfinite(codes)].astype(np.int64)
    counts: Array = np.bincount(known, minlength=categories) + 0.5
    return counts


def _log_means(raw: Raw, train: Array, columns: Array) -> Array:
    """Return the logarithm of the mean count of each column, of each channel, or of each column of pixels of images.

    If there is an exposure, it is the logarithm of the mean count per unit of exposure.
    """
    every, exposure = raw.known, complete_exposure(raw, train)
    smallest = 0.5 * (len(columns) if raw.exposure_kind == "sum" else 1)
    x = raw.x[train][..., columns]
    known = np.ones(x.shape, np.bool_) if every is None else every[train][..., columns]
    x = np.where(known, x, 0.0)
    if raw.lengths is not None:
        known = known & raw.mask[train][..., None]
    axes = tuple(range(x.ndim - 1))
    units = known if exposure is None else np.where(known, exposure[:, None], 0.0)
    log_means: Array = np.log((x.sum(axes) + 0.5) / np.maximum(units.sum(axes), smallest))
    return log_means
