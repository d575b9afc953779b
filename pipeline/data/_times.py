"""Reads times: numbers, dates, and words that end in a number."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.data._source import Source
from variants import InputError

SLASHES = r"^(\d{1,2})([/-])(\d{1,2})\2(\d{4})(?!\d)"  # 1/31/2020 or 31-1-2020
DOTS = r"^(\d{1,2})\.(\d{1,2})\.(\d{4})(?!\d)"  # 31.1.2020; with dots, the day always stands first
EVEN = 1.2  # differences of time that vary by less than this factor, such as those of months, count as even
ZONE = r"[T ]\d.*(?:Z|[+-]\d{2}(?::?\d{2})?)$"  # a time of the day that ends in a time zone
FORMATS = ("ISO8601", "%Y-%m-%d %I:%M:%S %p", "%Y-%m-%d %I:%M %p")  # the others have AM or PM
WORD = r"^(\D*[^\d.,\u2013\u2212-])(\d+(?:\.\d+)?)$"  # t10 or week 3, but not t-1, in which the sign is not clear
EXPECTED = (
    "numbers, dates with four digits for the year such as 2020-01-31 or 2020-01-31T10:30+01:00, or words that differ "
    "only in a number at the end, such as t1 and t2"
)


def parse_times(values: Any, source: Source) -> tuple[NDArray[np.float64], str]:
    """Convert a pandas Series of times to numbers (N,) in the same order, and return them with their unit.

    The unit is "" for numbers and for words that end in a number, and "s" for dates, which become seconds since 1970 in
    UTC. It is "order" if the day and the month cannot be told apart, but both readings have the same order: the numbers
    are then the positions of the times in this order, and the distances between them mean nothing.

    Raises:
        InputError: If a time is missing, or the times cannot be ordered.
    """
    readings, unit = possible_times(values, source)
    return (readings[0], unit) if len(readings) == 1 else (_ranks(readings[0]).astype(np.float64), "order")


def possible_times(values: Any, source: Source) -> tuple[list[NDArray[np.float64]], str]:
    """Return each way to read a pandas Series of times, as numbers (N,), and the unit of all of them ("" or "s").

    There are two ways, which have the same order, if the day and the month cannot be told apart. Else there is one.

    Raises:
        InputError: If a time is missing, or the times cannot be ordered.
    """
    import pandas
    from pandas.api import types

    name = values.name
    values = (values.astype(object) if isinstance(values.dtype, pandas.CategoricalDtype) else values).infer_objects()
    if isinstance(values.dtype, pandas.PeriodDtype):
        values = values.dt.start_time
    in_seconds = types.is_timedelta64_dtype(values.dtype) or types.is_datetime64_any_dtype(values.dtype)
    is_number = types.is_numeric_dtype(values.dtype) and not types.is_bool_dtype(values.dtype)
    if not in_seconds and not is_number:
        values = values.astype("string[python]").str.strip().replace("", pandas.NA)
    missing = values.isna().to_numpy(bool)
    if missing.any():
        raise InputError(
            f"{source}: {row_name(int(missing.argmax()), source)} has no time in the column {name} ({missing.sum()} of "
            f"{len(values)} rows have none); expected a time in each row"
        )
    if types.is_timedelta64_dtype(values.dtype):
        return [values.dt.total_seconds().to_numpy(np.float64)], "s"
    if in_seconds:
        return [_seconds(values)], "s"

    codes, distinct = values.factorize()  # a table of many sequences has few different times
    different = pandas.Series(distinct)
    readings = [pandas.to_numeric(different, errors="coerce").to_numpy(np.float64, na_value=np.nan)]
    if not is_number:
        readings.append(_numbers_of_words(different))
    for reading in readings:
        if np.isfinite(reading).all():
            return [reading[codes]], ""
    dates = [] if is_number else [_dates(different, month_first) for month_first in (True, False)]
    complete = [reading for reading in dates if np.isfinite(reading).all()]
    if not complete:
        known = max((np.isfinite(reading)[codes] for reading in [*readings, *dates]), key=np.sum)
        row = int(known.argmin())
        raise InputError(
            f"{source}: {row_name(row, source)} has {str(values.iloc[row])!r} in the time column {name}; "
            f"expected {EXPECTED}"
        )
    zoned = different.str.contains(ZONE).to_numpy(bool)[codes]
    if zoned.any() and not zoned.all():
        row = int(zoned.argmin())
        raise InputError(
            f"{source}: {row_name(row, source)} has {values.iloc[row]!r} in the time column {name}, without a time "
            "zone, and other rows have one; expected a zone in all rows or in none"
        )
    if len(complete) == 2 and not np.array_equal(_ranks(complete[0]), _ranks(complete[1])):
        raise InputError(
            f"{source}: dates in the time column {name}, such as {values.iloc[0]!r}, may have the month or the day "
            "first, and these two readings give different orders; expected dates such as 2020-01-31"
        )
    is_clear = np.array_equal(complete[0], complete[-1])
    return [reading[codes] for reading in (complete[:1] if is_clear else complete)], "s"


def _ranks(values: NDArray[np.float64]) -> NDArray[np.int64]:
    return np.unique(values, return_inverse=True)[1]


def row_name(index: int, source: Source, rows: Any = None) -> str:
    """Return the name of a row for messages, such as "row 4 (line 5 of the file)" in a text file.

    `index` counts from 0. If a table is read in parts, `rows` is the pandas Index of the part, which says how many rows
    precede it in the whole table.
    """
    index += getattr(rows, "start", 0)
    is_text = any(ending in source.path.name.lower() for ending in (".csv", ".tsv", ".txt"))
    return f"row {index + 1}" + (f" (line {index + 1 + source.header} of the file)" if is_text else "")


def _numbers_of_words(text: Any) -> NDArray[np.float64]:
    """Return the numbers at the end of words that have the most frequent beginning, and NaN for other words."""
    parts = text.str.extract(WORD)
    beginning = parts[0].mode()
    common = parts[0].eq(beginning.iloc[0] if len(beginning) else "").fillna(False)
    numbers: NDArray[np.float64] = parts[1].where(common).astype("Float64").to_numpy(np.float64, na_value=np.nan)
    return numbers


def _dates(text: Any, month_first: bool) -> NDArray[np.float64]:
    """Return dates as seconds since 1970 in UTC, and NaN for texts that are no dates."""
    import pandas

    iso = text.str.replace(SLASHES, r"\4-\1-\3" if month_first else r"\4-\3-\1", regex=True)
    iso = iso.str.replace(DOTS, r"\3-\2-\1", regex=True)
    iso = iso.where(iso.str.match(r"\d"))  # pandas also reads words such as "now"
    dates = pandas.to_datetime(iso, format=FORMATS[0], utc=True, errors="coerce")
    for other in FORMATS[1:]:
        if dates.isna().any():
            dates = dates.fillna(pandas.to_datetime(iso, format=other, utc=True, errors="coerce"))
    return _seconds(dates)


def _seconds(dates: Any) -> NDArray[np.float64]:
    import pandas

    elapsed = pandas.to_datetime(dates, utc=True) - pandas.Timestamp(0, tz="UTC")
    seconds: NDArray[np.float64] = elapsed.dt.total_seconds().to_numpy(np.float64)
    return seconds


def steps_of(times: NDArray[np.float64], lengths: NDArray[np.int64]) -> Any:
    """Measure the steps of time of each sequence that has two rows or more.

    Args:
        times: The times of all sequences, one sequence after the other, each of them sorted.
        lengths: The number of rows of each sequence, (N,).

    Returns:
        A data frame whose index is the number of the sequence, with the columns `min`, `max`, `usual` and `uneven`.
        `usual` is the median difference; of a sequence of two rows it is that of the others. `uneven` is true if the
        differences vary by a factor of `EVEN` or more, or are as far from the usual one in a sequence of two rows.
    """
    import pandas

    sequence = np.repeat(np.arange(len(lengths)), lengths)
    inside = sequence[1:] == sequence[:-1]
    steps = pandas.Series(np.diff(times)[inside]).groupby(sequence[1:][inside]).agg(["min", "max", "median", "count"])
    single = steps["count"] == 1
    usual = steps["median"].mask(single, (steps if single.all() else steps[~single])["median"].median())
    uneven = steps["max"] >= EVEN * steps["min"]
    uneven |= single & ((steps["max"] >= EVEN * usual) | (usual >= EVEN * steps["max"]))
    return steps[["min", "max"]].assign(usual=usual, uneven=uneven)


def describe_step(step: float, unit: str, varies: bool = False) -> str:
    """Return a step of time in words, such as "30 min" or "about 1 month".

    Args:
        step: The usual difference of time.
        unit: "s" for seconds, or "" for plain numbers.
        varies: Whether other differences are not exactly as large.
    """
    about = "about " if varies else ""
    sizes: dict[str, float] = {"day": 86400, "h": 3600, "min": 60, "s": 1} if unit else {}
    if varies and unit and step >= 28 * 86400:
        sizes = {"year": 365.2425 * 86400, "month": 365.2425 / 12 * 86400}
        step = round(step / sizes["month"]) * sizes["month"]
    for name, size in sizes.items():
        if step >= size * (1 - 1e-9):
            number = f"{step / size:.6g}"
            return f"{about}{number} {name}{'s' if name in ('day', 'month', 'year') and number != '1' else ''}"
    return f"{about}{step:g} {unit}".rstrip()
