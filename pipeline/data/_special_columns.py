"""Finds the columns of tables that are no values to model: labels, groups, sequences, and splits."""

import difflib
import re
import shlex
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.data import _times
from pipeline.data._source import Source
from pipeline.data._splits import listed
from variants import InputError

OWNERS = {  # words for those who have several rows, which belong together
    "subject", "patient", "participant", "person", "donor", "family", "household", "animal", "mouse", "user",
    "customer", "client", "account", "card", "device", "machine", "sensor", "recording", "session", "plate", "slide",
}  # fmt: skip
MOST_WORDS = 100  # a column with more different values does not name splits
SPLIT_NUMBERS = {"train": 0, "training": 0, "val": 1, "valid": 1, "validation": 1, "dev": 1, "test": 2, "testing": 2}


def without_dropped(frame: Any, source: Source) -> Any:
    """Return the columns that are not left out. Raises `InputError` if an option names a column that is not there."""
    for column in source.drop:
        find(frame, column, "drop", source)
    frame = frame.drop(columns=list(source.drop))
    for column, kind in source.kinds:
        if not (column == "x" and kind in ("pixels", "symbols")) and column not in source.drop:
            find(frame, column, "kind", source)
    return frame


def label_column(frame: Any, source: Source) -> str | None:
    """Return the name of the column that holds the class."""
    return source.label or ("label" if "label" in frame and source.kind("label") is None else None)


def labels(frame: Any, label: str, source: Source) -> Any:
    """Return the column of the label. Raises `InputError` if there is none, or it holds fractions."""
    from pandas.api import types

    series = find(frame, label, "label", source)
    if types.is_float_dtype(series) and (series.dropna() % 1 != 0).any():
        raise InputError(
            f"{source}: the label column {label} holds fractions such as {series[series % 1 != 0].dropna().iloc[0]}; "
            f"expected classes (whole numbers or text); {as_option('kind', label, '=real')} without --label models the "
            f"column as a value, and {as_option('drop', label)} leaves it out"
        )
    return series


def codes_of(
    frame: Any, column: str, option: str, source: Source, expected: str, *, sort: bool = False
) -> tuple[NDArray[np.int64], Any]:
    """Return the number of each value of a column that names groups or sequences, (N,), and the different values.

    Raises:
        InputError: If there is no such column, or a value is missing, or has a type that cannot be compared.
    """
    try:
        codes, distinct = find(frame, column, option, source).factorize(sort=sort)
    except TypeError as error:
        raise InputError(
            f"{source}: the values of the column {column} cannot be compared ({error}); expected numbers or text"
        ) from error
    if (codes < 0).any():
        where = _times.row_name(int(codes.argmin()), source)
        raise InputError(f"{source}: {where} has no value in the column {column}; expected {expected}")
    return codes.astype(np.int64), distinct


def is_split(series: Any) -> bool:
    """Whether all values of a column name a split, and some name training."""
    from pandas.api import types

    if types.is_numeric_dtype(series) or types.infer_dtype(series.astype(object), skipna=False) != "string":
        return False
    words = {word.strip().lower() for word in series.unique()[: MOST_WORDS + 1]}
    return len(words) > 1 and words <= set(SPLIT_NUMBERS) and bool(words & {"train", "training"})


def given_splits(values: Any, names: Sequence[str], source: Source, notes: list[str]) -> list[torch.Tensor] | None:
    """Return the splits that a column names, of which validation may be empty; None if `--split` is given."""
    if len(names) > 1:
        raise InputError(f"{source}: the columns {listed(names)} name splits; leave all but one out with --drop")
    if source.split is not None:
        notes.append(f"the column {names[0]} is left out, because --split {source.split} was given")
        return None
    part = values[names[0]].str.strip().str.lower().map(SPLIT_NUMBERS).to_numpy()
    splits = [torch.from_numpy(np.flatnonzero(part == k)) for k in range(3)]
    if not len(splits[0]) or bool(len(splits[2])) == (source.test is not None):
        expected = "training rows alone, because of --test" if source.test else "training and test rows"
        raise InputError(f"{source}: the column {names[0]} names {listed(sorted(set(values[names[0]])))}; expected "
                         f"{expected}, or {as_option('drop', names[0])}")  # fmt: skip
    notes.append(f"the splits are those of the column {names[0]}")
    return splits


def looks_like_owner(name: str) -> bool:
    """Whether a column is called like the owner of several rows, such as `patient` or `device`."""
    return bool(OWNERS & set(re.split(r"[\W\d_]+", name.lower())))


def find(frame: Any, column: str, option: str, source: Source) -> Any:
    """Return a column that an option names. Raises `InputError` if there is none."""
    if column not in frame:
        raise InputError(
            f"{source}: {as_option(option, column)}: there is no column of this name{near(column, frame.columns)}; "
            f"expected one of {listed(list(frame.columns), 20)}"
        )
    return frame[column]


def near(name: str, names: Iterable[str]) -> str:
    """Return a question that proposes similar names, or an empty text."""
    folded = {str(n).casefold(): str(n) for n in names}
    similar = difflib.get_close_matches(name.casefold(), list(folded), n=3)
    return f" (did you mean {' or '.join(folded[n] for n in similar)}?)" if similar else ""


def as_option(option: str, column: Any, ending: str = "") -> str:
    """Return an option with its value as one types it in a shell."""
    return f"--{option} {shlex.quote(f'{column}{ending}')}"
