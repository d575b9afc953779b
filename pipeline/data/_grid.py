"""A step of time, such as 1h or 1mo, the grid that it makes, and the times of this grid in the form of the source."""

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.data._source import Source
from pipeline.data._times import DATE_PARTS, WORD, ZONE, Times, describe_step
from variants import InputError

DAY = 86400.0
UNITS = {"ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0, "d": DAY, "w": 7 * DAY}  # in seconds
MONTHS = {"mo": 1, "y": 12}
TICKS = (1.0, 0.1, 0.01, 1e-3, 1e-6)  # differences of time that are whole multiples of one of these have a common step
Array = NDArray[Any]


@dataclass(frozen=True)
class Step:
    """A step of time: a plain number, seconds if `unit` is "s", or a number of months if `unit` is "mo"."""

    size: float
    unit: str

    def __str__(self) -> str:
        if self.unit == "mo":
            return f"{self.size:g} month{'s' if self.size != 1 else ''}"
        return describe_step(self.size, self.unit)

    @property
    def by_clock(self) -> bool:
        """Whether times are counted by the clock: days differ in length where a clock is set back or forward."""
        return self.unit == "mo" or (self.unit == "s" and self.size % DAY == 0)


def parse_step(text: str, unit: str, source: Source) -> Step:
    """Read the option `--step`. `unit` is that of the times; see `Times`.

    Raises:
        InputError: If it is no step above 0, or does not fit the unit.
    """
    match = re.fullmatch(r"(\d+\.?\d*|\.\d+)\s*([a-z]*)", text.strip().lower())
    number, word = (float(match[1]), match[2]) if match else (0.0, "")
    if number > 0 and not unit and not word:
        return Step(number, "")
    if number > 0 and unit and word in UNITS:
        return Step(number * UNITS[word], "s")
    if number > 0 and unit and word in MONTHS and number % 1 == 0:
        return Step(number * MONTHS[word], "mo")
    known = "a number, such as 1 or 0.5, because the times are numbers"
    if unit:
        known = "a number with a unit, such as 30s, 15min, 1h, 1d, 1w, 1mo or 1y, because the times are dates"
    raise InputError(f"{source}: --step {text}: expected {known}, or rows")


def places(times: Times, step: Step, first: NDArray[np.int64]) -> Array:
    """Return how many steps each time is after that of the row `first` (R,), as fractions; NaN if no month fits."""
    seconds = times.clock if step.by_clock else times.numbers
    if step.unit != "mo":
        return np.asarray((seconds - seconds[first]) / step.size)
    month, day, rest, last = _calendar(seconds)
    ends = (day == last) & (day == last)[first]  # the last days of months are whole months apart
    fits = (rest == rest[first]) & ((day == np.minimum(day[first], last)) | ends)
    return np.where(fits, (month - month[first]) / step.size, np.nan)


def _calendar(seconds: Array) -> tuple[Array, Array, Array, Array]:
    """Return months since 1970, days of the month from 0, seconds of the day, and the last day of the month."""
    month = np.floor(seconds).astype("M8[s]").astype("M8[M]")
    begin = month.astype("M8[s]").astype(np.float64)
    day, rest = np.divmod(seconds - begin, DAY)
    last = ((month + 1).astype("M8[s]").astype(np.float64) - begin) / DAY - 1
    return month.astype(np.int64), day, rest, last


def fitting_step(times: Times, sequence: NDArray[np.int64], most: int) -> str:
    """Return the longest step of which all times are whole numbers apart, as `--step` takes it.

    The text is empty if there is none, or the grid would have more than `most` steps. `sequence` (R,) is the number of
    the sequence of each time.
    """
    first = np.searchsorted(sequence, sequence)
    if times.unit:
        months = places(times, Step(1, "mo"), first)
        inside = np.diff(sequence) == 0
        if not np.isnan(months).any() and (np.diff(months)[inside] >= 1).all():
            common = int(np.gcd.reduce(months.astype(np.int64)))
            return f"{common // 12}y" if common and common % 12 == 0 else f"{common}mo" if common else ""
    passed = times.numbers - times.numbers[first]
    for tick in TICKS:
        ticks = (passed / tick).round()
        if np.allclose(passed, ticks * tick, rtol=1e-9, atol=1e-3 * tick):
            size = int(np.gcd.reduce(ticks.astype(np.int64))) * tick
            if not size or passed.max() / size * (sequence[-1] + 1) > most:
                return ""
            unit = next((u for u in ("d", "h", "min", "s", "ms") if abs(size / UNITS[u] % 1) < 1e-9), "s")
            return f"{size / UNITS[unit]:g}{unit}" if times.unit else f"{size:.9g}"
    return ""


def stamps(times: Times) -> Any:
    """Return times as a pandas Index in the form of the source, with dates as text in the form of ISO 8601."""
    import pandas

    values = times.values
    if times.unit and values.dtype == "string" and not values.str.fullmatch(DATE_PARTS).all():
        values = _iso(times.clock, "") + _zones(times)
    return pandas.Index(values, name=times.values.name)


def stamps_on_grid(times: Times, step: Step, begins: Array, lengths: Array, at: Array) -> Any:
    """Return the times of all steps of a grid, one sequence after the other, in the form in which `stamps` does.

    Args:
        times: The times of the rows.
        step: The step of the grid.
        begins: The first row of each sequence, (S,).
        lengths: The steps of each sequence, (S,).
        at: The step of each row, (R,), counted from the first step of the first sequence.
    """
    import pandas

    known = stamps(times)
    is_new = np.ones(int(lengths.sum()), np.bool_)
    is_new[at] = False
    if not is_new.any():
        return known
    row = np.cumsum(~is_new)[is_new] - 1  # the row before each absent step
    sequence = np.repeat(np.arange(len(lengths)), lengths)[is_new]
    place = np.flatnonzero(is_new) - (np.cumsum(lengths) - lengths)[sequence]
    seconds = times.clock if step.by_clock else times.numbers
    if step.unit == "mo":
        numbers = _months_later(seconds, begins, sequence, place * int(step.size))
    else:
        numbers = seconds[begins][sequence] + place * step.size
    name, dtype = times.values.name, times.values.dtype
    if dtype.kind in "iuf":
        whole = np.empty(len(is_new), np.int64 if dtype.kind in "iu" and (numbers % 1 == 0).all() else np.float64)
        whole[at], whole[is_new] = known, numbers
        return pandas.Index(whole, name=name)
    if dtype.kind == "m":
        new: Any = pandas.to_timedelta(numbers, unit="s")
    elif dtype.kind == "M":
        new = pandas.DatetimeIndex((numbers * 1e6).round().astype("M8[us]"))
        if times.zoned and step.by_clock:
            in_summer = np.ones(len(new), np.bool_)
            new = new.tz_localize(times.values.dt.tz, ambiguous=in_summer, nonexistent="shift_forward")
        elif times.zoned:
            new = new.tz_localize("UTC").tz_convert(times.values.dt.tz)
    elif times.unit:
        if times.zoned and not step.by_clock:  # in the zone of the row before
            numbers = numbers + (times.clock - times.numbers)[row]
        new = _iso(numbers, str(known[0])) + _zones(times[row])
    else:
        beginning = re.match(WORD, str(known[0]))
        new = np.array([f"{beginning[1] if beginning else ''}{number:g}" for number in numbers], object)
    order = np.empty(len(is_new), np.int64)
    order[at], order[is_new] = np.arange(len(at)), len(at) + np.arange(len(new))
    return known.append(pandas.Index(new, name=name, dtype=known.dtype if dtype == "string" else None)).take(order)


def _months_later(seconds: Array, begins: Array, sequence: Array, months: Array) -> Array:
    """Return the times that are a number of months (G,) after the first one of their sequences, in seconds."""
    _, day, rest, last = _calendar(seconds)
    is_end = np.logical_and.reduceat(day == last, begins)[sequence]  # all times are the last days of months
    month, day, rest, _ = (part[begins][sequence] for part in _calendar(seconds))
    later = (month + months).astype("M8[M]")
    begin = later.astype("M8[s]").astype(np.float64)
    last = ((later + 1).astype("M8[s]").astype(np.float64) - begin) / DAY - 1
    return np.asarray(begin + np.where(is_end, last, np.minimum(day, last)) * DAY + rest)


def _iso(seconds: Array, example: str) -> Any:
    """Return times without a zone as text such as 2020-01-31 or 2020-01-31T10:30, as precise as they and an example."""
    moments = (seconds * 1e3).round().astype(np.int64).astype("M8[ms]")
    units = ["M", "D", "m", "s", "ms"]
    coarsest = {7: 0, 10: 1, 16: 2}.get(len(re.sub(ZONE, "", example) if ":" in example else example), 3)
    coarsest = 1 if not example else 4 if "." in example else coarsest
    unit = next((u for u in units[coarsest:] if (moments.astype(f"M8[{u}]") == moments).all()), "ms")
    text = np.datetime_as_string(moments, unit=unit).astype(object)  # type: ignore[call-overload]
    return np.char.replace(text.astype(str), "T", " ").astype(object) if example[10:11] == " " else text


def _zones(times: Times) -> Any:
    """Return the text of the time zone of each time, which is empty if there are none."""
    return times.values.str.extract(f"({ZONE})")[0].to_numpy(object) if times.zoned else ""
