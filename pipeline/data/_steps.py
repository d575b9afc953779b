"""Steps of sequences: whether they are even in time, how they are put on a grid, and what time has passed at each."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.data._grid import Step, fitting_step, parse_step, places, stamps, stamps_on_grid
from pipeline.data._preprocessing import Preprocessing
from pipeline.data._raw import Raw
from pipeline.data._times import Times, describe_step
from variants import InputError

EVEN = 1.2  # differences of time that vary by less than this factor, such as those of months, count as even
INEXACT = 0.01  # the largest distance of a time from its place on the grid, in steps
MOST = 10_000_000  # steps of all sequences; a grid has more only if it has fewer than `SPARSE` times as many as rows
SPARSE = 10
Array = NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class TimedRows:
    """The rows of sequences, R in number, one sequence after the other, in the order of time."""

    times: Times
    lengths: NDArray[np.int64]  # the rows of each sequence, (S,)
    name: Callable[[int], str]  # returns what a row is called in messages

    @property
    def sequence(self) -> NDArray[np.int64]:
        """The number of the sequence of each row, (R,)."""
        return np.repeat(np.arange(len(self.lengths)), self.lengths)

    @property
    def begins(self) -> NDArray[np.int64]:
        """The first row of each sequence, (S,)."""
        begins: NDArray[np.int64] = np.cumsum(self.lengths) - self.lengths
        return begins


def with_times(raw: Raw, x: Array, rows: TimedRows, like: Preprocessing | None) -> tuple[Raw, Array]:
    """Add what the times say about the steps to what was read, and return it with the values (R, D) of all steps.

    `--step` adds steps without values (NaN), where times are absent. `--time-as-input` adds `Raw.elapsed`, (R,).

    Raises:
        InputError: If a time is repeated or not on the grid, or if steps are uneven and no option says what to do.
    """
    options, unit = raw.source if like is None else like.source, rows.times.unit
    if options.step is not None and options.time_as_input:
        raise InputError(
            f"{raw.source}: --step and --time-as-input were given; expected one of them, because steps of --step are "
            "even and need no times"
        )
    if like is not None and like.time_unit not in (None, unit):
        kinds = {"s": "dates", "": "plain numbers"}
        raise InputError(
            f"{raw.source}: the times are {kinds[unit]}, such as {rows.times.values.iloc[0]}, and those of the "
            f"training data are {kinds[str(like.time_unit)]}; expected times of the same kind"
        )
    _refuse_repeated(raw, rows)
    raw = replace(raw, time_unit=unit)
    if options.step not in (None, "rows"):
        return _on_grid(raw, x, rows, parse_step(str(options.step), unit, raw.source))
    raw = replace(raw, stamps=stamps(rows.times))
    steps = steps_of(rows)
    uneven = steps.index[steps["uneven"]]
    share = f"the steps of time are uneven in {len(uneven)} of {len(rows.lengths)} sequences"
    if len(uneven) and options.step is None and not options.time_as_input:
        gaps = "; ".join(_gap(raw, rows, steps, sequence) for sequence in uneven[:3])
        raise InputError(f"{raw.source}: {share}: {gaps}; expected even steps, or an option: {_advice(rows)}")
    notes = list[str]()
    if len(steps):
        raw = _with_step(raw, steps, unit, None if options.time_as_input else like)
    if options.time_as_input:
        first = np.repeat(rows.times.numbers[rows.begins], rows.lengths)
        raw = replace(raw, elapsed=rows.times.numbers - first)
        notes.append("the networks are given the time of each step, because of --time-as-input")
    elif len(uneven):
        notes.append(f"{share}, and rows are taken as consecutive steps")
    elif options.step == "rows" and like is None:
        notes.append("the steps of time are even, so --step rows changes nothing")
    return replace(raw, notes=(*raw.notes, *notes)), x


def without_times(raw: Raw, like: Preprocessing | None) -> None:
    """Raise `InputError` if an option needs the times of the steps, which are not known."""
    options = raw.source if like is None else like.source
    if options.step not in (None, "rows") or options.time_as_input:
        option = "--time-as-input" if options.time_as_input else f"--step {options.step}"
        raise InputError(
            f"{raw.source}: {option} needs the time of each step; expected --time COLUMN for a table, or an array "
            "times (N, T) beside x"
        )


def steps_of(rows: TimedRows) -> Any:
    """Measure the steps of time of each sequence that has two rows or more.

    Returns:
        A data frame whose index is the number of the sequence, with the columns `min`, `max`, `usual` and `uneven`.
        `usual` is the median difference; of a sequence of two rows it is that of the others. `uneven` is true if the
        differences vary by a factor of `EVEN` or more, or are as far from the usual one in a sequence of two rows.
    """
    import pandas

    sequence = rows.sequence
    inside = sequence[1:] == sequence[:-1]
    differences = pandas.Series(np.diff(rows.times.numbers)[inside])
    steps = differences.groupby(sequence[1:][inside]).agg(["min", "max", "median", "count"])
    single = steps["count"] == 1
    usual = steps["median"].mask(single, (steps if single.all() else steps[~single])["median"].median())
    uneven = steps["max"] >= EVEN * steps["min"]
    uneven |= single & ((steps["max"] >= EVEN * usual) | (usual >= EVEN * steps["max"]))
    return steps[["min", "max"]].assign(usual=usual, uneven=uneven)


def _refuse_repeated(raw: Raw, rows: TimedRows) -> None:
    """Raise `InputError` if the times of a sequence do not rise from row to row."""
    sequence, times = rows.sequence, rows.times
    bad = (np.diff(times.numbers) <= 0) & (np.diff(sequence) == 0)
    if not bad.any():
        return
    at = int(bad.argmax())
    first, second, name = rows.name(at), rows.name(at + 1), sequence_name(raw, sequence[at])
    if times.numbers[at + 1] < times.numbers[at]:  # only in arrays, because the rows of tables are sorted
        raise InputError(
            f"{raw.source}: the times of sequence {name} fall from {times.values.iloc[at]} in {first} to "
            f"{times.values.iloc[at + 1]} in {second}; expected times that rise"
        )
    advice = ""
    if len(rows.lengths) == 1 and raw.rows is not None:
        advice = "; if there are several sequences, --kind COLUMN=sequence says which column names them"
    if times.unit and not times.zoned and times.numbers[at] % 86400:
        advice += (
            "; if a clock was set back there at the end of daylight saving time, write times with their zone, such as "
            "2020-10-25T02:30+02:00"
        )
    raise InputError(
        f"{raw.source}: sequence {name} has the time {times.values.iloc[at]} twice, in {first} and in {second} "
        f"({bad.sum()} repeated times in all); expected one row for each step of a sequence{advice}"
    )


def sequence_name(raw: Raw, number: int) -> Any:
    """Return what a sequence is called in messages: its name, or its number, counted from 1."""
    return number + 1 if raw.rows is None else raw.rows[number]


def _advice(rows: TimedRows, before: Step | None = None) -> str:
    """Return the options that say what is done about uneven steps, or about times that are not on the grid."""
    step = fitting_step(rows.times, rows.sequence, SPARSE * len(rows.times.numbers))
    grid = f"--step {step} puts each sequence on a grid, in which absent steps are missing values" if step else ""
    if before is not None:
        grid = f"--step {step} fits all times" if step else "another step"
    elif not step:
        grid = "--step STEP puts each sequence on a grid, but no step fits all of these times"
    return (
        f"{grid}; --step rows takes the rows as consecutive steps, whatever their times are; --time-as-input takes the "
        "rows as steps, and gives their times to the networks"
    )


def _with_step(raw: Raw, steps: Any, unit: str, like: Preprocessing | None) -> Raw:
    """Note the time between two steps in words, and warn if it differs between sequences."""
    low, high = steps["usual"].min(), steps["usual"].max()
    if high >= EVEN * low:
        shortest, longest = (describe_step(value, unit) for value in (low, high))
        first, last = (sequence_name(raw, sequence) for sequence in (steps["usual"].idxmin(), steps["usual"].idxmax()))
        warning = (
            f"the steps of time differ between sequences, from {shortest} (such as {first}) to {longest} (such as "
            f"{last}); a model takes all steps as equal"
        )
        warnings = () if raw.source.time_as_input else (warning,)
        return replace(raw, step=f"{shortest} to {longest}", warnings=(*raw.warnings, *warnings))
    has_gaps = steps["uneven"].any()
    varies = not has_gaps and steps["max"].max() > 1.001 * steps["min"].min()
    step = describe_step(steps["usual"].median(), unit, varies) + (", with gaps" if has_gaps else "")
    is_other = like is not None and like.step not in ("", step) and "about" not in step + like.step
    warnings = (f"the step of time is {step}, and {like.step} in the training data",) if like and is_other else ()
    return replace(raw, step=step, warnings=(*raw.warnings, *warnings))


def _on_grid(raw: Raw, x: Array, rows: TimedRows, step: Step) -> tuple[Raw, Array]:
    """Put the rows x (R, D) of each sequence on a grid that begins with its first time, with NaN for absent steps.

    Raises:
        InputError: If a time is not on the grid, or two times have the same place.
    """
    sequence, begins, source = rows.sequence, rows.begins, raw.source
    exact = places(rows.times, step, begins[sequence])
    place = np.nan_to_num(exact).round().astype(np.int64)
    with np.errstate(invalid="ignore"):
        is_bad = ~(np.abs(exact - place) <= INEXACT)
    is_bad[1:] |= (np.diff(sequence) == 0) & (np.diff(place) < 1)
    if is_bad.any():
        row = int(is_bad.argmax())
        raise InputError(
            f"{source}: {rows.name(row)} has the time {rows.times.values.iloc[row]}, which is not a whole number of "
            f"steps of {step} after {rows.times.values.iloc[begins[sequence[row]]]}, the first time of sequence "
            f"{sequence_name(raw, sequence[row])} ({is_bad.sum():,} such times in all); expected times on the grid, or "
            f"an option: {_advice(rows, step)}"
        )
    lengths = place[begins + rows.lengths - 1] + 1
    total = int(lengths.sum())
    if total > max(MOST, SPARSE * len(x)):
        longest = int(lengths.argmax())
        raise InputError(
            f"{source}: with a step of {step}, the {len(x):,} rows would become {total:,} steps, most of them without "
            f"values ({lengths[longest]:,} in sequence {sequence_name(raw, longest)}); expected a longer step, or "
            "--time-as-input"
        )
    at = (np.cumsum(lengths) - lengths)[sequence] + place
    whole = np.full((total, x.shape[1]), np.nan)
    whole[at] = x
    notes = [f"a step is {step}, and {total - len(x):,} of {total:,} steps are absent and read as missing values"]
    warnings = [f"most steps of {step} are absent; a longer --step may fit"] if total > 2 * len(x) else []
    largest = np.abs(exact - place).max()
    if largest > 1e-6:
        notes.append(f"times differ by at most {largest:.1%} of a step from their place on the grid")
    return (
        replace(
            raw, lengths=lengths, step=str(step), notes=(*raw.notes, *notes), warnings=(*raw.warnings, *warnings),
            stamps=stamps_on_grid(rows.times, step, begins, lengths, at),
        ), whole,
    )  # fmt: skip


def _gap(raw: Raw, rows: TimedRows, steps: Any, sequence: int) -> str:
    """Describe the difference of time in a sequence that is least like its usual step."""
    begin = rows.begins[sequence]
    inside = slice(begin, begin + rows.lengths[sequence])
    usual = steps["usual"][sequence]
    at = begin + int(np.abs(np.log(np.diff(rows.times.numbers[inside]) / usual)).argmax())
    values = rows.times.values
    return (
        f"{sequence_name(raw, sequence)} goes from {values.iloc[at]} to {values.iloc[at + 1]}, and its usual step is "
        f"{describe_step(usual, rows.times.unit)}"
    )
