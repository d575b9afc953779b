"""Reads arrays: rows of values, images, and padded sequences."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.data import _sequences
from pipeline.data._preprocessing import Preprocessing
from pipeline.data._raw import Column, Factors, PixelFormat, Raw, encode_labels
from pipeline.data._source import Source
from variants import InputError
from variants.base.contract import Likelihood

KEYS = ("x", "y", "lengths", "factors", "factor_names", "unordered")


def from_arrays(arrays: Mapping[str, Any], source: Source, name: str, like: Preprocessing | None = None) -> Raw:
    """Make a `Raw` of the arrays x (N, ...) and optionally y (N,), lengths (N,), factors (N, F), factor_names (F,)."""
    x, y = np.asarray(arrays["x"]), arrays.get("y")
    if "lengths" in arrays:
        raw = _sequences.padded(x, y, np.asarray(arrays["lengths"]), source, name, like)
    else:
        raw = _values(x, y, source, name, like)
    if "factors" not in arrays:
        return raw
    factors = np.asarray(arrays["factors"])
    columns = factors.shape[1] if factors.ndim == 2 else 0
    factor_names = arrays.get("factor_names", [f"factor {i}" for i in range(columns)])
    unordered = tuple(map(str, arrays.get("unordered", ())))
    return replace(raw, factors=Factors(tuple(map(str, factor_names)), factors, unordered))


def _values(x: NDArray[Any], y: Any, source: Source, name: str, like: Preprocessing | None) -> Raw:
    if x.dtype.kind not in "biuf":
        raise InputError(f"{source}: x has type {x.dtype}; expected numbers")
    if x.ndim not in (2, 3, 4):
        raise InputError(f"{source}: x has shape {x.shape}; expected (N, D), (N, H, W), (N, C, H, W) or (N, H, W, C)")
    axis, high = "first", 1.0
    if x.ndim == 3:
        x, axis = x[:, None], "none"
    elif x.ndim == 4 and x.shape[3] in (1, 3) and x.shape[1] not in (1, 3):
        x, axis = x.transpose(0, 3, 1, 2), "last"
    likelihood: Likelihood = "gaussian"
    dtype = str(x.dtype)
    if x.dtype == np.bool_ or (x.size and np.isin(x, (0, 1)).all()):
        x, likelihood = x.astype(np.bool_), "bernoulli"
    elif x.dtype == np.uint8:
        likelihood, high = "logistic8", 255.0
    codes, classes, notes = (None, (), ()) if y is None else encode_labels(source, y, len(x))
    table = x.ndim == 2
    return Raw(
        name=name, source=source, x=np.ascontiguousarray(x), y=codes, class_names=classes, likelihood=likelihood,
        columns=tuple(Column(f"x{i}", "real") for i in range(x.shape[1])) if table else (),
        pixels=None if table else PixelFormat(dtype=dtype, high=high, channel_axis=axis),  # type: ignore[arg-type]
        notes=notes,
    )  # fmt: skip
