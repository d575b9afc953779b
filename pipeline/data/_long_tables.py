"""Reads tables with a row for each step of a sequence."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.data import _columns, _sequences, _special_columns, _times
from pipeline.data._preprocessing import Preprocessing
from pipeline.data._raw import Column, Raw
from pipeline.data._source import Source, refuse_options
from pipeline.data._splits import listed
from variants import InputError

DIFFERENCE = "time difference"  # the name of the channel that --gaps differences adds
INEXACT = 0.25  # a gap is a multiple of the usual step if it differs from one by less than this share of a step


def with_levels(frame: Any, source: Source) -> Any:
    """Return a data frame in which the levels of the index that hold the sequence or the time are columns."""
    names = ["series", "time", source.time, *(column for column, kind in source.kinds if kind == "sequence")]
    levels = [level for level in frame.index.names if level is not None and level in names and level not in frame]
    return frame.reset_index(levels) if levels else frame


def is_long(frame: Any, source: Source, like: Preprocessing | None = None) -> bool:
    """Whether the rows of a table are steps of sequences: a column is called series or is of the kind sequence."""
    if like is not None:
        return bool(like.spec.steps)
    return any(kind == "sequence" for _, kind in source.kinds) or _column_called("series", frame, source) is not None


def _column_called(word: str, frame: Any, source: Source) -> str | None:
    """Return the column with this name, in upper or lower case, unless an option says that it is something else."""
    others = {source.label, *source.drop, *(column for column, _ in source.kinds)}
    return next((column for column in frame if column.lower() == word and column not in others), None)


def read_long(frame: Any, source: Source, name: str, like: Preprocessing | None = None) -> Raw:
    """Make a `Raw` of a table with a row for each step of a sequence.

    The column series, or another one whose kind is sequence, names the sequence of each row. The column time, or
    `source.time`, sorts the rows of each sequence. Without it, the rows have to be in order, and the column of
    sequences must be given the kind sequence. Labels, groups and splits are the same in all rows of a sequence. Empty
    fields are missing values.

    Raises:
        InputError: If a time is missing, repeated or cannot be read, if the steps of time are uneven and `source.gaps`
            does not say what to do, or if a column cannot be modelled.
    """
    refuse_options(source, ("size", "alpha", "exposure"), "sequences in tables", like)
    frame = _special_columns.without_dropped(frame, source) if like is None else frame
    series_column, time_column = _series_and_time(frame, source)
    codes, keys = _sequence_of_rows(frame, series_column, source, like)
    notes = []
    if series_column is None:
        notes.append("there is no column of sequences, so the rows are taken as one sequence")
    elif time_column is not None:
        notes.append(
            f"each row is a step: the column {series_column} names its sequence, and {time_column} sorts the steps"
        )
    readings, unit = [np.arange(len(frame), dtype=np.float64)], ""
    if time_column is None:
        notes.append("there is no column of times, so the rows of each sequence are taken in their order")
    else:
        readings, unit = _times.possible_times(frame[time_column], source)
    order = np.lexsort((readings[0], codes))
    lengths = np.bincount(codes)
    _check_lengths(lengths, keys, source)
    raw = Raw(
        name=name, source=source, x=np.zeros(0), y=None, likelihood="gaussian", lengths=lengths,
        rows=keys.rename(series_column), notes=tuple(notes),
    )  # fmt: skip
    first = order[np.cumsum(lengths) - lengths]  # the first row of each sequence
    if time_column is not None:
        _check_repeated(raw, frame[time_column], readings[0], order)
        raw, differences = _with_steps(raw, frame[time_column], readings, unit, order, like)
        if differences is not None:
            frame = frame.assign(**{DIFFERENCE: differences})
        if len(set(readings[0][first])) > 1:
            raw = replace(raw, times=readings[0][first])
        elif source.split == "time" and like is None:
            raise InputError(f"{source}: all sequences begin at the same time, so --split time cannot order them")
    raw, used = _with_facts(raw, frame, codes, first, like)
    special = {*used, series_column, time_column}
    columns, x, column_notes = _channels(frame.drop(columns=[c for c in frame if c in special]), source, like)
    raw, x = replace(raw, notes=(*raw.notes, *column_notes)), x[order]
    if time_column is not None and source.gaps == "missing":
        raw, x = _with_missing_steps(raw, x, readings[0][order], frame[time_column].iloc[order], unit)
    return _sequences.pad_steps(
        _sequences.with_likelihood(columns, x, raw) if like is None else _sequences.fit_to_training(x, raw, like)
    )


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


def _channels(
    values: Any, source: Source, like: Preprocessing | None
) -> tuple[Sequence[Column], NDArray[np.float64], list[str]]:
    """Return the channels, their values (R, D), and notes."""
    columns: Sequence[Column]
    if like is None:
        kinds: Any = (*source.kinds, (DIFFERENCE, "real"))
        columns, x, notes = _columns.read_columns(values, replace(source, kinds=kinds))
    else:
        columns = like.columns
        x, notes = _columns.new_columns(values, source, like, {"label", source.group, *source.drop})
    return columns, x, notes


def _series_and_time(frame: Any, source: Source) -> tuple[str | None, str | None]:
    """Return the names of the columns that hold the sequence and the time of each row.

    Raises:
        InputError: If several columns are of the kind sequence, or there is no time and no option that replaces it.
    """
    named = [column for column, kind in source.kinds if kind == "sequence"]
    if len(named) > 1:
        raise InputError(f"{source}: --kind COLUMN=sequence was given for {listed(named)}; expected one such column")
    series = named[0] if named and named[0] in frame else _column_called("series", frame, source)
    time = source.time or _column_called("time", frame, source)
    if source.time is not None:
        _special_columns.find(frame, source.time, "time", source)
    if time is None and series is not None and series not in named:
        raise InputError(
            f"{source}: there is a column {series}, but no column time; expected --time COLUMN if the rows are steps "
            f"of sequences, or --kind {series}=sequence if they are and stand in the right order, or --kind "
            f"{series}=real or --drop {series} if each row is an example"
        )
    return series, time


def _check_repeated(raw: Raw, texts: Any, times: NDArray[np.float64], order: NDArray[np.int64]) -> None:
    """Raise `InputError` if two rows of a sequence have the same time."""
    assert raw.lengths is not None
    sequence = np.repeat(np.arange(len(raw.lengths)), raw.lengths)
    repeated = (np.diff(times[order]) == 0) & (np.diff(sequence) == 0)
    if repeated.any():
        at = int(repeated.argmax())
        first, second = (_times.row_name(int(row), raw.source) for row in sorted(order[at : at + 2]))
        raise InputError(
            f"{raw.source}: sequence {raw.rows[sequence[at]]} has the time {texts.iloc[order[at]]} twice, in {first} "
            f"and in {second} ({repeated.sum()} repeated times in all); expected one row for each step of a sequence"
        )


def _with_steps(
    raw: Raw, texts: Any, readings: list[NDArray[np.float64]], unit: str, order: NDArray[np.int64],
    like: Preprocessing | None,
) -> tuple[Raw, NDArray[np.float64] | None]:  # fmt: skip
    """Add the step of time to what was read, and also return the time since the row before, if this is a channel.

    `texts` and `readings` have the times of all rows of the table (R,), and `order` sorts the rows.

    Raises:
        InputError: If steps are uneven, and `--gaps` does not say what to do.
    """
    source, lengths = raw.source, raw.lengths
    assert lengths is not None
    steps, *other = [_times.steps_of(times[order], lengths) for times in readings]
    uneven = steps.index[np.logical_and.reduce([reading["uneven"] for reading in (steps, *other)])]
    is_channel = source.gaps == "differences" and len(uneven) > 0
    if like is not None:
        is_channel = any(column.name == DIFFERENCE for column in like.columns)
    share = f"the steps of time are uneven in {len(uneven)} of {len(lengths)} sequences"
    if other and (is_channel or (source.gaps == "missing" and len(uneven))):
        raise InputError(
            f"{source}: the differences between times such as {texts.iloc[0]} are not known, because the month or the "
            "day may stand first; expected dates such as 2020-01-31"
        )
    if len(uneven) and source.gaps is None and not is_channel:
        gaps = "; ".join(_gap(raw, texts, readings[0], unit, order, steps, sequence) for sequence in uneven[:3])
        options = "--gaps ignore takes the rows as consecutive steps, --gaps missing reads gaps as missing steps"
        if like is None:
            options += (
                ", and --gaps differences takes the rows as consecutive steps and adds the time since the row before "
                f"as a channel {DIFFERENCE!r}"
            )
        raise InputError(f"{source}: {share}: {gaps}; expected even steps, or an option: {options}")
    notes, warnings = list[str](), list[str]()
    if other:
        notes.append(
            "the dates may have the month or the day first; the order of the rows is the same in both readings, but "
            "the step of time is not known"
        )
    elif len(steps):
        raw, warnings = _with_step(raw, steps, unit, like)
    if len(uneven) and source.gaps != "missing":
        notes.append(f"{share}, and rows are taken as consecutive steps")
    elif not len(uneven) and source.gaps is not None and like is None:
        notes.append(f"the steps of time are even, so --gaps {source.gaps} changes nothing")
    differences = None
    if is_channel:
        differences = np.empty(len(order))
        differences[order] = np.diff(readings[0][order], prepend=0)
        differences[order[np.cumsum(lengths) - lengths]] = 0
        seconds = " in seconds" if unit else ""
        notes.append(f"the channel {DIFFERENCE!r} holds the time since the row before{seconds}, and begins with 0")
    return replace(raw, notes=(*raw.notes, *notes), warnings=(*raw.warnings, *warnings)), differences


def _with_step(raw: Raw, steps: Any, unit: str, like: Preprocessing | None) -> tuple[Raw, list[str]]:
    """Add the step of time in words to what was read, and also return warnings about different steps."""
    low, high = steps["usual"].min(), steps["usual"].max()
    if high >= _times.EVEN * low:
        shortest, longest = (_times.describe_step(value, unit) for value in (low, high))
        first, last = (raw.rows[sequence] for sequence in (steps["usual"].idxmin(), steps["usual"].idxmax()))
        warning = (
            f"the steps of time differ between sequences, from {shortest} (such as {first}) to {longest} (such as "
            f"{last}); a model takes all steps as equal"
        )
        return replace(raw, step=f"{shortest} to {longest}"), [warning]
    has_gaps = steps["uneven"].any()
    varies = not has_gaps and steps["max"].max() > 1.001 * steps["min"].min()
    step = _times.describe_step(steps["usual"].median(), unit, varies) + (", with gaps" if has_gaps else "")
    is_other = like is not None and like.step not in ("", step) and "about" not in step + like.step
    warnings = [f"the step of time is {step}, and {like.step} in the training data"] if like and is_other else []
    return replace(raw, step=step), warnings


def _with_missing_steps(
    raw: Raw, x: NDArray[np.float64], times: NDArray[np.float64], texts: Any, unit: str
) -> tuple[Raw, NDArray[np.float64]]:
    """Add steps without values (NaN) to the steps x (R, D) of all sequences, where their sorted times have gaps.

    Raises:
        InputError: If a gap is not a multiple of the usual step of its sequence.
    """
    lengths = raw.lengths
    assert lengths is not None
    sequence, begins = np.repeat(np.arange(len(lengths)), lengths), np.cumsum(lengths) - lengths
    usual = _times.steps_of(times, lengths)["usual"].reindex(np.arange(len(lengths))).to_numpy()
    exact = np.diff(times, prepend=0) / usual[sequence]
    exact[begins] = 0
    steps = exact.round()  # since the row before
    is_bad = (np.abs(exact - steps) >= INEXACT) | ((steps < 1) & (np.arange(len(steps)) != begins[sequence]))
    if is_bad.any():
        row = int(is_bad.argmax())
        raise InputError(
            f"{raw.source}: sequence {raw.rows[sequence[row]]} goes from {texts.iloc[row - 1]} to {texts.iloc[row]}, "
            f"which is no multiple of its usual step, {_times.describe_step(usual[sequence[row]], unit)}; expected "
            "such multiples for --gaps missing, or --gaps ignore or --gaps differences"
        )
    position = steps.cumsum().astype(np.int64)
    position -= position[begins][sequence]
    lengths = position[begins + lengths - 1] + 1
    _check_lengths(lengths, raw.rows, raw.source)
    whole = np.full((lengths.sum(), x.shape[1]), np.nan)
    whole[(np.cumsum(lengths) - lengths)[sequence] + position] = x
    note = f"gaps are read as {len(whole) - len(x):,} missing steps"
    return replace(raw, lengths=lengths, notes=(*raw.notes, note)), whole


def _check_lengths(lengths: NDArray[np.int64], keys: Any, source: Source) -> None:
    if lengths.max() > _sequences.LIMIT:
        raise InputError(
            f"{source}: sequence {keys[lengths.argmax()]} has {lengths.max()} steps; expected 1 to {_sequences.LIMIT}"
        )


def _gap(
    raw: Raw, texts: Any, times: NDArray[np.float64], unit: str, order: NDArray[np.int64], steps: Any, sequence: int
) -> str:
    """Describe the difference of time in a sequence that is least like its usual step."""
    assert raw.lengths is not None
    end = int(raw.lengths[: sequence + 1].sum())
    rows = order[end - raw.lengths[sequence] : end]
    usual = steps["usual"][sequence]
    at = int(np.abs(np.log(np.diff(times[rows]) / usual)).argmax())
    return (
        f"{raw.rows[sequence]} goes from {texts.iloc[rows[at]]} to {texts.iloc[rows[at + 1]]}, and its usual step is "
        f"{_times.describe_step(usual, unit)}"
    )


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
                "expected the same value in all rows of a sequence"
            )
    raw = raw.with_labels(labels, like.class_names if like else None)
    if parts:
        raw = replace(raw, splits=_special_columns.given_splits(one_each, parts, source, notes))
    return replace(raw, notes=(*raw.notes, *notes)), used
