"""Reads times: numbers, dates, and words that end in a number."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.data._source import Source
from variants import InputError

SLASHES = r"^(\d{1,2})([/-])(\d{1,2})\2(\d{4})(?!\d)"  # 1/31/2020 or 31-1-2020
DOTS = r"^(\d{1,2})\.(\d{1,2})\.(\d{4})(?!\d)"  # 31.1.2020; with dots, the day always stands first
ZONE = r"\s*(?:Z|[+-]\d{2}(?::?\d{2})?)$"  # the time zone at the end of a date with a time of the day
DATE_PARTS = r"\d{4}-\d{2}(?:-\d{2}(?:[T ]\d[^M]*)?)?"  # a date that begins as in ISO 8601, without AM or PM
ZONED = (r"[T ]\d.*Z$", r"[T ]\d.*[+-]\d\d:?\d*$")  # simple patterns, which are found fast
FORMATS = ("ISO8601", "%Y-%m-%d %I:%M:%S %p", "%Y-%m-%d %I:%M %p")  # the others have AM or PM
WORD = r"^(\D*[^\d.,\u2013\u2212-])(\d+(?:\.\d+)?)$"  # t10 or week 3, but not t-1, in which the sign is not clear
DAY_OR_MONTH = r"^\d{1,2}[-/.]"  # how the notations of `SLASHES` and `DOTS` begin
EXPECTED = (
    "numbers, dates with four digits for the year such as 2020-01-31 or 2020-01-31T10:30+01:00, or words that differ "
    "only in a number at the end, such as t1 and t2"
)
Array = NDArray[Any]
Unit = Literal["", "s"]


@dataclass(frozen=True, kw_only=True)
class Times:
    """The times of R rows or steps.

    `numbers` (R,) are seconds since 1970 in UTC if `unit` is "s", for dates, and otherwise plain numbers. `values` (R,)
    is a pandas Series with the times as the source has them. `zoned` says whether they are dates with a time zone.
    """

    numbers: NDArray[np.float64]
    unit: Unit
    values: Any
    zoned: bool = False

    def __getitem__(self, index: Any) -> "Times":
        return Times(numbers=self.numbers[index], unit=self.unit, values=self.values.iloc[index], zoned=self.zoned)

    @property
    def clock(self) -> NDArray[np.float64]:
        """The times that a clock shows at the place of the source, (R,), as seconds since 1970 without a time zone."""
        import pandas

        if not self.zoned:
            return self.numbers
        if self.values.dtype.kind == "M":
            return _seconds(self.values.dt.tz_localize(None))
        codes, distinct = self.values.factorize()
        dates = _dates(pandas.Series(distinct).str.replace(ZONE, "", regex=True), True)
        clock: NDArray[np.float64] = dates[codes]
        return clock


def parse_times(values: Any, source: Source) -> tuple[NDArray[np.float64], str]:
    """Convert a pandas Series of times to numbers (N,) in the same order, and return them with their unit.

    The unit is that of `Times`. It is "order" if the day and the month cannot be told apart, but both readings have the
    same order: the numbers are then the positions of the times in this order, and the distances between them mean
    nothing.

    Raises:
        InputError: If a time is missing, or the times cannot be ordered.
    """
    _, readings, unit, _ = _readings(values, source, source.dates)
    if len(readings) == 1:
        return readings[0], unit
    if not np.array_equal(_ranks(readings[0]), _ranks(readings[1])):
        raise _ambiguous(values, source, "these two readings give different orders")
    return _ranks(readings[0]).astype(np.float64), "order"


def read_times(values: Any, source: Source, dates: str | None) -> Times:
    """Read a pandas Series of times. `dates` is the option `--dates`.

    Raises:
        InputError: If a time is missing or cannot be read, or the day and the month cannot be told apart.
    """
    values, readings, unit, zoned = _readings(values, source, dates)
    if len(readings) > 1:
        raise _ambiguous(values, source, "the steps of time are not known")
    if not unit and _are_dates(readings[0]):
        raise InputError(
            f"{source}: the numbers in the time column {values.name}, such as {values.iloc[0]}, look like dates, whose "
            "differences are not those of the numbers; expected dates such as 2020-01-31"
        )
    return Times(numbers=readings[0], unit=unit, values=values, zoned=zoned)


def _ambiguous(values: Any, source: Source, consequence: str) -> InputError:
    return InputError(
        f"{source}: dates in the time column {values.name}, such as {values.iloc[0]!r}, may have the month or the day "
        f"first, and {consequence}; expected --dates month-first or --dates day-first, or dates such as 2020-01-31"
    )


def _readings(
    values: Any, source: Source, dates: str | None
) -> tuple[Any, list[NDArray[np.float64]], Unit, bool]:  # fmt: skip
    """Return times without white space, each way to read them as numbers (N,), their unit, and whether they are zoned.

    There are two ways if the day and the month cannot be told apart. Otherwise there is one.
    """
    import pandas
    from pandas.api import types

    name = values.name
    if isinstance(values.dtype, pandas.CategoricalDtype | pandas.ArrowDtype):
        values = values.astype(object)
    values = values.infer_objects()
    if isinstance(values.dtype, pandas.PeriodDtype):
        values = values.dt.start_time
    in_seconds = types.is_timedelta64_dtype(values.dtype) or types.is_datetime64_any_dtype(values.dtype)
    is_number = types.is_numeric_dtype(values.dtype) and not types.is_bool_dtype(values.dtype)
    if not in_seconds and not is_number:
        values = values.astype("string").str.strip().replace("", pandas.NA)
    missing = values.isna().to_numpy(bool)
    if missing.any():
        raise InputError(
            f"{source}: {row_name(int(missing.argmax()), source)} has no time in the column {name} ({missing.sum()} of "
            f"{len(values)} rows have none); expected a time in each row"
        )
    if types.is_timedelta64_dtype(values.dtype):
        return values, [values.dt.total_seconds().to_numpy(np.float64)], "s", False
    if in_seconds:
        return values, [_seconds(values)], "s", isinstance(values.dtype, pandas.DatetimeTZDtype)

    codes, distinct = values.factorize()  # a table of many sequences has few different times
    different = pandas.Series(distinct)
    readings = [pandas.to_numeric(different, errors="coerce").to_numpy(np.float64, na_value=np.nan)]
    if not is_number and not str(different.iloc[0])[0].isdigit():
        readings.append(_numbers_of_words(different))
    for reading in readings:
        if np.isfinite(reading).all():
            return values, [reading[codes]], "", False
    orders = {"month-first": [True], "day-first": [False]}.get(str(dates), [True, False])
    if is_number or not different.str.contains(DAY_OR_MONTH).any():
        orders = orders[:1]
    read = [] if is_number else [_dates(different, month_first) for month_first in orders]
    complete = [reading for reading in read if np.isfinite(reading).all()]
    if not complete:
        known = max((np.isfinite(reading)[codes] for reading in [*readings, *read]), key=np.sum)
        row = int(known.argmin())
        raise InputError(
            f"{source}: {row_name(row, source)} has {str(values.iloc[row])!r} in the time column {name}; "
            f"expected {EXPECTED}{f', with --dates {dates}' if dates else ''}"
        )
    zoned = np.logical_or(*(different.str.contains(ending).to_numpy(bool) for ending in ZONED))[codes]
    if zoned.any() and not zoned.all():
        row = int(zoned.argmin())
        raise InputError(
            f"{source}: {row_name(row, source)} has {values.iloc[row]!r} in the time column {name}, without a time "
            "zone, and other rows have one; expected a zone in all rows or in none"
        )
    is_clear = np.array_equal(complete[0], complete[-1])
    return values, [reading[codes] for reading in (complete[:1] if is_clear else complete)], "s", bool(zoned.all())


def _are_dates(numbers: NDArray[np.float64]) -> bool:
    """Whether numbers are dates of several months without separators, such as 20200131."""
    import pandas

    if numbers.min() < 19000101 or numbers.max() > 21001231 or len(np.unique(numbers // 100)) == 1:
        return False
    dates = pandas.to_datetime(pandas.Series(np.unique(numbers)).astype(str), format="%Y%m%d.0", errors="coerce")
    return bool(dates.notna().all())


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

    iso = text
    if text.str.contains(DAY_OR_MONTH).any():  # a fast search, because there may be a million different times
        iso = iso.str.replace(SLASHES, r"\4-\1-\3" if month_first else r"\4-\3-\1", regex=True)
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
