"""Reads tables: one example in each row, or one step of a sequence in each row."""

from pathlib import Path
from typing import Any

import numpy as np

from pipeline.data import _sequences
from pipeline.data._preprocessing import Preprocessing
from pipeline.data._raw import Column, Raw, encode_labels
from pipeline.data._source import Source
from variants import InputError
from variants.base.contract import Likelihood


def read(path: Path, source: Source, name: str, like: Preprocessing | None = None) -> Raw:
    """Read a table from a file."""
    import pandas

    try:
        frame = pandas.read_csv(path) if path.suffix == ".csv" else pandas.read_parquet(path)
    except Exception as error:  # pandas and pyarrow raise many types
        raise InputError(f"{path} cannot be read ({type(error).__name__}: {error})") from error
    return from_frame(frame, source, name, like)


def from_frame(frame: Any, source: Source, name: str, like: Preprocessing | None = None) -> Raw:
    """Make a `Raw` of a data frame with one row for each example, or, with the columns series and time, for each step.

    A column called label holds the class.
    """
    values = frame.drop(columns=["series", "time", "label"], errors="ignore")
    text = [str(c) for c in values if values[c].dtype.kind not in "biuf"]
    if text or not len(values.columns):
        what = f"columns {', '.join(text[:5])} hold no numbers" if text else "there are no columns of values"
        raise InputError(f"{source}: {what}; expected numbers, and optionally label, or series and time")
    if {"series", "time"} <= set(frame.columns):
        return _sequences.long(frame, source, name, like)
    y = frame["label"].to_numpy() if "label" in frame else None
    x = values.to_numpy(np.float64)
    likelihood: Likelihood = "bernoulli" if np.isin(x, (0, 1)).all() else "gaussian"
    codes, classes, notes = (None, (), ()) if y is None else encode_labels(source, y, len(x))
    return Raw(
        name=name, source=source, x=x.astype(np.bool_) if likelihood == "bernoulli" else x, y=codes,
        class_names=classes, likelihood=likelihood, columns=tuple(Column(str(c), "real") for c in values), notes=notes,
        rows=frame.index,
    )  # fmt: skip
