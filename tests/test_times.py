"""Times: which texts and values are read, in which order, and what is refused."""

import contextlib
import datetime
import re
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.data import Source
from pipeline.data._times import describe_step, parse_times
from variants import InputError

DAY = 86400


def parsed(values: Any) -> tuple[list[float], str]:
    """The times, counted from the first one, and their unit."""
    times, unit = parse_times(pd.Series(values, name="when"), Source(place="mine.csv"))
    return (times - times[0]).tolist(), unit


@pytest.mark.parametrize(
    ("values", "expected", "unit"),
    [
        ([3, 1, 10], [0, -2, 7], ""),
        (["3", "1", " 10 ", "1e1"], [0, -2, 7, 7], ""),
        ([0.5, 0.25], [0, -0.25], ""),
        ([20200131, 20200201], [0, 70], ""),  # the order is that of dates
        (pd.array([3, 1], dtype="Int64"), [0, -2], ""),
        (pd.Categorical([3, 1]), [0, -2], ""),
        (["t2", "t10", "t0"], [0, 8, -2], ""),
        (["week 9", "week 10"], [0, 1], ""),
        (["t1.5", "t1.25"], [0, -0.25], ""),
        (["2020-01-31", "2020-02-01"], [0, DAY], "s"),
        (["2020-02", "2020-01"], [0, -31 * DAY], "s"),
        (["2020/01/31", "2020/02/01"], [0, DAY], "s"),
        (["31.01.2020", "1.2.2020"], [0, DAY], "s"),
        (["1/31/2020", "2/1/2020"], [0, DAY], "s"),
        (["31/1/2020", "1/2/2020"], [0, DAY], "s"),
        (["31-1-2020", "1-2-2020"], [0, DAY], "s"),
        (["1/31/2020 1:05 PM", "1/31/2020 12:05 AM"], [0, -13 * 3600], "s"),
        (["1/31/2020 13:05", "1/31/2020 9:05"], [0, -4 * 3600], "s"),
        (["2020-01-31 10:00:00.5", "2020-01-31T10:00:00"], [0, -0.5], "s"),
        (["2020-10-25T02:30:00+02:00", "2020-10-25T02:15:00+01:00"], [0, 2700], "s"),
        (["2020-01-31T10:00Z", "2020-01-31T10:00-0100"], [0, 3600], "s"),
        ([datetime.date(2020, 2, 1), datetime.date(2020, 1, 31)], [0, -DAY], "s"),
        (pd.date_range("2020-10-25", periods=5, freq="2h", tz="Europe/Zurich"), [7200 * k for k in range(5)], "s"),
        (list(pd.date_range("2020-10-25", periods=3, freq="2h", tz="Europe/Zurich")), [0, 7200, 14400], "s"),
        (pd.period_range("2020-01", periods=3, freq="M"), [0, 31 * DAY, 60 * DAY], "s"),
        (pd.to_timedelta([3, 1], unit="min"), [0, -120], "s"),
        (["2/1/2020", "12/1/2020", "1/1/2020"], [0, 1, -1], "order"),  # the first of months, or days of January
    ],
)
def test_times_are_read(values: Any, expected: list[float], unit: str) -> None:
    times, found = parsed(values)
    assert found == unit
    np.testing.assert_allclose(times, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["1", "2", "x"], r"row 3 \(line 4 of the file\) has 'x' in the time column when"),
        (["t1", "t2", "u3"], "row 3 .* has 'u3'"),
        (["t-1", "t-2"], "row 1 .* has 't-1'"),
        (["a", "b"], "row 1 .* has 'a'"),
        (["10:30", "10:40"], "has '10:30'"),
        (["1/31/20", "2/1/20"], "four digits for the year"),
        (["2020-01-01", "2020-02-30"], "has '2020-02-30'"),
        (["1/31/2020", "31/1/2020"], "has '31/1/2020'"),
        (["now", "2020-01-01"], "has 'now'"),
        ([True, False], "has 'True'"),
        ([1.0, np.inf], "has 'inf'"),
        (["1/2/2020", "2/1/2020", "1/3/2020"], "may have the month or the day first"),
        (["2020-01-01T10:00Z", "2020-01-01T11:00"], r"row 2 .* has '2020-01-01T11:00' .* without a time zone"),
        ([1.0, np.nan, np.nan], r"row 2 \(line 3 of the file\) has no time .*2 of 3 rows have none"),
        (["t1", "  ", "t3"], "row 2 .* has no time"),
        ([None, None], "row 1 .* has no time"),
        ([datetime.datetime(2020, 1, 1), None], "row 2 .* has no time"),
    ],
)
def test_what_cannot_be_ordered_is_refused(values: Any, message: str) -> None:
    with pytest.raises(InputError, match=f"^mine.csv: .*{message}"):
        parsed(values)


def test_a_line_is_named_for_text_files_only() -> None:
    times = pd.Series(["1", "x"], name="when")
    for place, header, where in (
        ("mine.parquet", True, "row 2 has"),
        ("mine.csv", False, "row 2 (line 2 of the file)"),
    ):
        with pytest.raises(InputError, match=re.escape(where)):
            parse_times(times, Source(place=place, header=header))


FORMATS = ["%Y-%m-%d %H:%M:%S", "%Y/%m/%d %H:%M:%S", "%d.%m.%Y %H:%M:%S", "%m/%d/%Y %I:%M:%S %p", "%d-%m-%Y %H:%M:%S"]


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.datetimes(datetime.datetime(1900, 1, 1), datetime.datetime(2200, 1, 1)), min_size=1, max_size=8),
    st.sampled_from(FORMATS),
)
def test_dates_in_any_notation_are_read_unless_the_month_is_not_clear(
    dates: list[datetime.datetime], notation: str
) -> None:
    dates = [date.replace(microsecond=0) for date in dates]
    texts = [date.strftime(notation) for date in dates]
    if all(date.day <= 12 for date in dates) and re.match("%[dm][/-]", notation):
        with contextlib.suppress(InputError):
            assert parsed(texts)[1] == "order" or all(date.day == date.month for date in dates)
        return
    assert parsed(texts) == ([(date - dates[0]).total_seconds() for date in dates], "s")


@pytest.mark.parametrize(
    ("step", "unit", "varies", "expected"),
    [
        (1, "", False, "1"),
        (0.5, "", True, "about 0.5"),
        (1, "s", False, "1 s"),
        (0.01, "s", False, "0.01 s"),
        (1800, "s", False, "30 min"),
        (5400, "s", False, "1.5 h"),
        (DAY, "s", False, "1 day"),
        (7 * DAY, "s", False, "7 days"),
        (31 * DAY, "s", True, "about 1 month"),
        (91 * DAY, "s", True, "about 3 months"),
        (365 * DAY, "s", True, "about 1 year"),
    ],
)
def test_steps_are_named_in_a_fitting_unit(step: float, unit: str, varies: bool, expected: str) -> None:
    assert describe_step(step, unit, varies) == expected
