"""Reads tables with a column for each sequence, and a row for each step."""

from typing import Any

import numpy as np

from pipeline.data import _columns, _sequences, _special_columns, _times, _windows
from pipeline.data._preprocessing import Preprocessing
from pipeline.data._raw import Raw
from pipeline.data._source import Source, refuse_options
from variants import InputError

CHANNEL = "value"  # the name of the only channel


def read_wide(frame: Any, source: Source, name: str, like: Preprocessing | None = None) -> Raw:
    """Make a `Raw` of a table in which each column is a sequence of one channel, and each row a step.

    The column time, or `source.time`, has the time of each row. Rows after the last value of a column are no steps of
    its sequence. Other empty fields are missing values.

    Raises:
        InputError: If a column holds no numbers, or what `_sequences.read_steps` raises.
    """
    import pandas

    refuse_options(source, ("label", "group", "exposure", "size", "alpha"), "--wide", like)
    for column in source.drop if like is None else ():
        _special_columns.find(frame, column, "drop", source)
    frame = frame.drop(columns=[column for column in source.drop if column in frame])
    time = source.time or next((column for column in frame if str(column).lower() == "time"), None)
    if source.time is not None:
        _special_columns.find(frame, source.time, "time", source)
    values = frame.drop(columns=[time] if time is not None else [])
    if values.empty:
        raise InputError(f"{source}: there are no columns of values; expected a column for each sequence")
    x = np.stack([_columns.numbers_of(values[column], source) for column in values], axis=1)
    times = None
    if time is not None:
        times = _times.read_times(frame[time], source, (source if like is None else like.source).dates)
        order = np.argsort(times.numbers, kind="stable")
        x, times = x[order], times[order]
    last = len(x) - np.argmax(~np.isnan(x[::-1]), axis=0)
    lengths = np.where(np.isnan(x).all(0), 0, last)
    if not lengths.all():
        raise InputError(
            f"{source}: the column {values.columns[int(lengths.argmin())]} is empty; expected values, or --drop"
        )
    if times is not None:
        times = times[np.concatenate([np.arange(n) for n in lengths])]
    raw = _sequences.read_steps(
        [column[:n, None] for column, n in zip(x.T, lengths, strict=True)], source, name, like,
        times=times, channels=[CHANNEL], rows=pandas.Index(values.columns, name="series"),
    )  # fmt: skip
    notes = [f"each column is a sequence, and each row a step{f', at the time in the column {time}' if time else ''}"]
    if short := int((lengths < len(x)).sum()):
        notes.append(f"{short:,} of {len(lengths):,} columns end before the last row, and their sequences are shorter")
    return _windows.as_examples(raw.with_notes(notes), like)
