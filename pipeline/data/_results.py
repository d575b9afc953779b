"""Gives decoded values the form of the source: data frames with names and categories, arrays, or lists of sequences."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from pipeline.data._preprocessing import Preprocessing
from variants.base.contract import DENSITIES, KIND_OF

Array = NDArray[Any]


def in_source_form(values: Array, preprocessing: Preprocessing, rows: Any = None, mask: Tensor | None = None) -> Any:
    """Return decoded values (see `Preprocessing.decode`) in the form of the source.

    Tables become data frames if their columns have names, and sequences, without their padding, a list of such frames
    or arrays (T, D). Category columns hold their categories, and binary columns of words the more probable word. A
    value of a binary column of numbers lies between its two numbers, at the probability of the second one; if the
    column is modelled as continuous, it is the nearer of the two.

    Args:
        values: Decoded values, (N, ...).
        preprocessing: The preprocessing of the model.
        rows: The labels of the rows of a table.
        mask: Which steps of padded sequences are real, (N, T); None if all are.
    """
    if preprocessing.spec.likelihood == "categorical":  # the most probable symbol
        values = values.argmax(-1)[..., None]
    if preprocessing.spec.steps:
        lengths = [values.shape[1]] * len(values) if mask is None else mask.sum(1).tolist()
        return [_with_categories(v[:n], preprocessing, None) for v, n in zip(values, lengths, strict=True)]
    return _with_categories(values, preprocessing, rows) if preprocessing.layout == "table" else values


def with_names(values: Array, preprocessing: Preprocessing, rows: Any = None) -> Any:
    """Return values (N, D) or (T, D) as a data frame if the columns, or channels, have names."""
    import pandas

    names = [column.name for column in preprocessing.columns]
    if preprocessing.width or len(names) != values.shape[1]:
        return values
    return pandas.DataFrame(values, index=rows, columns=names)


def _with_categories(values: Array, preprocessing: Preprocessing, rows: Any) -> Any:
    """Return decoded values (N, D) or (T, D), with names if there are any, and with the values of discrete columns."""
    texts = {}
    for i, column in enumerate(preprocessing.columns):
        if not column.values:
            continue
        own, family = values[:, i], column.likelihood or preprocessing.spec.likelihood
        if column.kind == "category" or isinstance(column.values[0], str) or KIND_OF[family] in DENSITIES:
            codes = (own if column.kind == "category" else own > 0.5).astype(np.int64)
            if isinstance(column.values[0], str):
                texts[column.name] = np.array(column.values, dtype=object)[codes]
            else:
                values[:, i] = np.array(column.values, dtype=np.float64)[codes]
        else:
            low, high = map(float, column.values)
            values[:, i] = low * (1 - own) + high * own  # exact at both ends
    frame = with_names(values, preprocessing, rows)
    for name, text in texts.items():
        frame[name] = text
    return frame
