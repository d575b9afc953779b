"""Reads tables with a row for each step of a sequence."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.data import _columns, _sequences, _special_columns, _steps, _times, _windows
from pipeline.data._preprocessing import Preprocessing
from pipeline.data._raw import Column, Raw
from pipeline.data._source import OF_SEQUENCES, Source, refuse_options
from pipeline.data._splits import listed
from variants import InputError


def with_levels(frame: Any, source: Source) -> Any:
    """Return a data frame in which the levels of the index that hold the sequence, or dates, are columns.

    Dates without a name are called time.
    """
    import pandas

    dates = (pandas.DatetimeIndex, pandas.PeriodIndex, pandas.TimedeltaIndex)
    wanted = {"series", "time", source.time, *(column for column, kind in source.kinds if kind == "sequence")} - {None}
    names = list(frame.index.names)
    for number, name in enumerate(names):
        values = frame.index.levels[number] if len(names) > 1 else frame.index
        if isinstance(values, dates):
            names[number] = name or "time"
            wanted.add(names[number])
    levels = [name for name in names if name in wanted and name not in frame]
    return frame.rename_axis(index=names).reset_index(levels) if levels else frame


def is_long(frame: Any, source: Source, like: Preprocessing | None = None) -> bool:
    """Whether the rows of a table are steps of sequences.

    They are if a column is called series or is of the kind sequence, or if an option was given that is for sequences.
    """
    if like is not None:
        return bool(like.spec.steps)
    if set(OF_SEQUENCES) & set(source.options):
        return True
    return any(kind == "sequence" for _, kind in source.kinds) or _column_called("series", frame, source) is not None


def _column_called(word: str, frame: Any, source: Source) -> str | None:
    """Return the column with this name, in upper or lower case, unless an option says that it is something else."""
    others = {source.label, *source.drop, *(column for column, _ in source.kinds)}
    return next((column for column in frame if column.lower() == word and column not in others), None)


def read_long(frame: Any, source: Source, name: str, like: Preprocessing | None = None) -> Raw:
    """Make a `Raw` of a table with a row for each step of a sequence.

    The column series, or another one whose kind is sequence, names the sequence of each row. Without it, all rows are
    steps of one sequence. The column time, or `source.time`, sorts the rows of each sequence. Without it, the rows have
    to be in order, and the column of sequences must be given the kind sequence. Labels, groups and splits are the same
    in all rows of a sequence. Empty fields are missing values.

    Raises:
        InputError: If a time is missing, repeated or cannot be read, if the steps of time are uneven and no option says
            what to do, or if a column cannot be modelled.
    """
    refuse_options(source, ("size", "alpha", "exposure"), "sequences in tables", like)
    frame = _special_columns.without_dropped(frame, source) if like is None else frame
    series_column, time_column = _series_and_time(frame, source, like)
    codes, keys = _sequence_of_rows(frame, series_column, source, like)
    notes, times = [], None
    if series_column is None:
        notes.append("there is no column of sequences, so the rows are taken as one sequence")
    elif time_column is not None:
        notes.append(
            f"each row is a step: the column {series_column} names its sequence, and {time_column} sorts the steps"
        )
    if time_column is None:
        notes.append("there is no column of times, so the rows of each sequence are taken in their order")
        order = np.argsort(codes, kind="stable")
    else:
        times = _times.read_times(frame[time_column], source, (source if like is None else like.source).dates)
        order = np.lexsort((times.numbers, codes))
    lengths = np.bincount(codes)
    raw = Raw(
        name=name, source=source, x=np.zeros(0), y=None, likelihood="gaussian", lengths=lengths,
        rows=keys.rename(series_column), notes=tuple(notes),
    )  # fmt: skip
    first = order[np.cumsum(lengths) - lengths]  # the first row of each sequence
    raw, used = _with_facts(raw, frame, codes, first, like)
    special = {*used, series_column, time_column}
    values = frame.drop(columns=[c for c in frame if c in special])
    columns: Sequence[Column]
    if like is None:
        columns, x, column_notes = _columns.read_columns(values, source)
    else:
        columns = like.columns
        x, column_notes = _columns.new_columns(values, source, like, {"label", source.group, *source.drop})
    raw, x = replace(raw, notes=(*raw.notes, *column_notes)), x[order]
    if times is None:
        _steps.without_times(raw, like)
    else:
        begins = times.numbers[first]
        if len(set(begins)) > 1:
            raw = replace(raw, times=begins)
        elif source.split == "time" and source.window is None and like is None:
            raise InputError(f"{source}: all sequences begin at the same time, so --split time cannot order them")
        rows = _steps.TimedRows(
            times=times[order], lengths=lengths, name=lambda row: _times.row_name(int(order[row]), source)
        )
        raw, x = _steps.with_times(raw, x, rows, like)
    raw = _sequences.with_likelihood(columns, x, raw) if like is None else _sequences.fit_to_training(x, raw, like)
    return _windows.as_examples(raw, like)


def _sequence_of_rows(
    frame: Any, column: str | None, source: Source, like: Preprocessing | None
) -> tuple[NDArray[np.int64], Any]:
    """Return the number of the sequence of each row, (R,), and the names of the sequences as a pandas Index."""
    import pandas

    if column is None:
        return np.zeros(len(frame), dtype=np.int64), pandas.Index(["the only sequence"])
    codes, names = _special_columns.codes_of(frame, column, "kind", source, "a sequence in each row", sort=True)
    if like is None and len(names) == len(frame):
        raise InputError(
            f"{source}: no two rows have the same value in the column {column}; expected several rows for each "
            f"sequence, or --kind {column}=real or --drop {column} if each row is an example"
        )
    return codes, names


def _series_and_time(frame: Any, source: Source, like: Preprocessing | None) -> tuple[str | None, str | None]:
    """Return the names of the columns that hold the sequence and the time of each row.

    Raises:
        InputError: If several columns are of the kind sequence, or there is no time and no option that replaces it.
    """
    named = [column for column, kind in source.kinds if kind == "sequence"]
    if len(named) > 1:
        raise InputError(f"{source}: --kind COLUMN=sequence was given for {listed(named)}; expected one such column")
    series = named[0] if named and named[0] in frame else _column_called("series", frame, source)
    known = None if like is None or like.source.time not in frame else like.source.time
    time = source.time or known or _column_called("time", frame, source)
    if source.time is not None:
        _special_columns.find(frame, source.time, "time", source)
    if time is None and series is not None and series not in named:
        raise InputError(
            f"{source}: there is a column {series}, but no column time; expected --time COLUMN if the rows are steps "
            f"of sequences, or --kind {series}=sequence if they are and stand in the right order, or --kind "
            f"{series}=real or --drop {series} if each row is an example"
        )
    return series, time


def _with_facts(
    raw: Raw, frame: Any, codes: NDArray[np.int64], first: NDArray[np.int64], like: Preprocessing | None
) -> tuple[Raw, list[str]]:
    """Add the label, the group and the split of each sequence, and also return the names of their columns.

    `codes` (R,) is the number of the sequence of each row, and `first` (N,) the first row of each sequence.

    Raises:
        InputError: If they differ between the rows of a sequence.
    """
    source, one_each = raw.source, frame.iloc[first]
    used, parts, labels, notes = list[str](), list[str](), None, list[str]()
    label = _special_columns.label_column(frame, source)
    if label is not None and (like is None or (like.class_names and label in frame)):
        labels = _special_columns.labels(one_each, label, source)
        used.append(label)
    if like is None:
        parts = [column for column in frame if _special_columns.is_split(frame[column])]
        used += parts
        if source.group is not None:
            groups, _ = _special_columns.codes_of(frame, source.group, "group", source, "a group in each row")
            raw = replace(raw, groups=groups[first])
            used.append(source.group)
    for column in used:
        differs = frame[column].groupby(codes).nunique(dropna=False) > 1
        if differs.any():
            raise InputError(
                f"{source}: sequence {raw.rows[int(differs.argmax())]} has several values in the column {column}; "
                f"expected the same value in all rows of a sequence, or {_special_columns.as_option('drop', column)}"
            )
    raw = raw.with_labels(labels, like.class_names if like else None)
    if parts:
        raw = replace(raw, splits=_special_columns.given_splits(one_each, parts, source, notes))
    return replace(raw, notes=(*raw.notes, *notes)), used
