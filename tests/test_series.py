"""Sequences in the rows of long tables: their order in time, grids of steps, other names, and new series."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_sequences import as_csv, waves

from pipeline import data
from pipeline.data import Preprocessing, Raw, Source
from variants import InputError


def test_text_in_steps_is_a_symbol_and_may_be_missing() -> None:
    frame = rising(range(12)).assign(v=lambda f: np.array(["walk", "run", "sit"])[(f["v"] % 3).astype(int)])
    frame.loc[frame["time"] == 4, "v"] = None
    loaded = data.load("mine", frame)
    assert (loaded.spec.likelihood, loaded.spec.shape) == ("categorical", (3,))
    assert loaded.preprocessing.columns[0].values == ("run", "sit", "walk")
    assert loaded.train.observed is not None
    assert (~loaded.train.observed).any(2).nonzero()[:, 1].unique().tolist() == [4]


def test_a_long_table_needs_no_labels(tmp_path: Path) -> None:
    path = as_csv(tmp_path, waves())
    pd.read_csv(path).drop(columns="label").to_csv(path, index=False)
    loaded = data.load(path)
    assert (loaded.spec.steps, loaded.spec.shape, loaded.spec.classes) == (8, (2,), 0)
    assert loaded.train.y is None


def rising(times: Any, n: int = 12) -> pd.DataFrame:
    """A long table in which `v` rises by 1 from step to step, with its rows in any order."""
    frame = pd.DataFrame([(f"s{i}", time, k + 100.5 * i) for i in range(n) for k, time in enumerate(times)])
    return frame.set_axis(["series", "time", "v"], axis=1).sample(frac=1, random_state=0)


def read_frame(frame: pd.DataFrame, **options: Any) -> Raw:
    return data.read(Source(place="mine", **options), frame)


def rises(raw: Raw) -> bool:
    assert raw.lengths is not None
    return all((np.diff(s[:n, 0]) == 1).all() for s, n in zip(raw.x, raw.lengths, strict=True))


@pytest.mark.parametrize(
    ("times", "step"),
    [
        (range(12), "1"),
        ([2.5 * k for k in range(12)], "2.5"),
        ([f"t{k}" for k in range(12)], "1"),
        ([f"2020-{month:02}-01" for month in range(1, 13)], "about 1 month"),
        ([f"{month}/31/2020" for month in (1, 3, 5, 7)], "about 2 months"),
        ([f"{day}.1.2020 08:00" for day in range(1, 13)], "1 day"),
        (pd.date_range("2020-10-25", periods=12, freq="30min", tz="Europe/Zurich"), "30 min"),
        ([t.isoformat() for t in pd.date_range("2020-10-25", periods=12, freq="1h", tz="Europe/Zurich")], "1 h"),
        (pd.period_range("1999-01", periods=12, freq="Y"), "about 1 year"),
    ],
)
def test_rows_are_sorted_by_time(times: Any, step: str) -> None:
    raw = read_frame(rising(times))
    assert rises(raw) and raw.x.shape == (12, len(times), 1) and raw.step == step
    assert raw.rows.tolist() == sorted(f"s{i}" for i in range(12)) and raw.rows.name == "series"


@pytest.mark.parametrize(
    ("times", "dates", "step"),
    [
        ([f"{month}/1/2020" for month in range(1, 13)], "month-first", "about 1 month"),
        ([f"{month}/1/2020" for month in range(1, 13)], "day-first", "1 day"),
        (["9/10/2019", "9/11/2019", "9/12/2019", "9/1/2020"], "day-first", "about 1 month"),
        (["1/2/2020", "1/3/2020", "2/3/2020"], None, ""),  # the readings have different orders
    ],
)
def test_the_option_settles_whether_the_month_or_the_day_is_first(times: list[str], dates: Any, step: str) -> None:
    with pytest.raises(InputError, match=r"month or the day first, .*--dates month-first or --dates day-first"):
        read_frame(rising(times))
    if dates is not None:
        raw = read_frame(rising(times), dates=dates)
        assert rises(raw) and raw.step == step


@settings(deadline=None, max_examples=25)
@given(
    st.lists(st.integers(2, 6), min_size=2, max_size=6), st.integers(-(10**9), 10**9), st.randoms(use_true_random=False)
)
def test_the_order_of_rows_does_not_matter(lengths: list[int], start: int, random: Any) -> None:
    rows = [(name, start + 7 * step, step + name / 2) for name, n in enumerate(lengths) for step in range(n)]
    raw = read_frame(pd.DataFrame(rows, columns=["series", "time", "v"]))
    again = read_frame(pd.DataFrame(random.sample(rows, len(rows)), columns=["series", "time", "v"]))
    assert raw.lengths is not None and raw.lengths.tolist() == lengths and rises(raw)
    assert np.array_equal(raw.x, again.x)


@pytest.mark.parametrize(
    ("times", "gap", "step"),
    [
        ([0, 1, 2, 3, 9, 10, 11], "goes from 3 to 9, and its usual step is 1", "--step 1 "),
        ([0, 10, 20, 25, 35], "goes from 20 to 25, and its usual step is 10", "--step 5 "),
        ([0.0, 0.5, 1.0, 2.5], "goes from 1.0 to 2.5", "--step 0.5 "),
        (["2020-01-01", "2020-01-02", "2020-01-03", "2020-01-06"], "2020-01-03 to 2020-01-06, .* 1 day", "--step 1d "),
        (["2020-01-01", "2020-02-01", "2020-03-01", "2020-08-01"], "2020-03-01 to 2020-08-01", "--step 1mo "),
        (
            ["2020-01-01 10:00", "2020-01-01 10:30", "2020-01-01 11:00", "2020-01-01 12:30"],
            "from .* 11:00 to",
            "--step 30min ",
        ),
        ([0, 1, 2, 10**9 + 0.123456789], "from 2", "--step STEP puts .* no step fits"),
    ],
)
def test_gaps_are_never_closed_silently(times: list[Any], gap: str, step: str) -> None:
    frame = rising(times)
    with pytest.raises(
        InputError, match=f"uneven in 12 of 12 sequences: s0 goes .*{gap}.*{step}.*--step rows.*--time-as-input"
    ):
        read_frame(frame)
    raw = read_frame(frame, step="rows")
    assert rises(raw) and any("consecutive" in note for note in raw.notes)


GRIDS = [
    ([0, 1, 2, 3, 9, 10, 11], "1", [0, 1, 2, 3, 9, 10, 11]),
    ([5, 7, 9, 15, 17], "2", [0, 1, 2, 5, 6]),
    ([0, 0.1, 0.2, 0.3, 0.7], "0.1", [0, 1, 2, 3, 7]),
    (["t3", "t4", "t6"], "1", [0, 1, 3]),
    (["2020-01-01", "2020-01-02", "2020-01-03", "2020-01-06"], "1d", [0, 1, 2, 5]),
    (["2020-01-31", "2020-02-29", "2020-04-30"], "1mo", [0, 1, 3]),  # the last days of months
    (["2020-01-31 08:00", "2020-02-29 08:00", "2020-03-31 08:00"], "1mo", [0, 1, 2]),
    (["2020-01-15", "2021-01-15", "2024-01-15"], "1y", [0, 1, 4]),
    (["31.1.2020 10:00", "31.1.2020 13:00"], "1h", [0, 3]),
    # an hour that exists twice, and one that does not exist, where clocks are set
    (["2020-10-25T02:30+02:00", "2020-10-25T02:30+01:00", "2020-10-25T04:30+01:00"], "1h", [0, 1, 3]),
    (["2020-03-29T01:30+01:00", "2020-03-29T03:30+02:00", "2020-03-29T05:30+02:00"], "1h", [0, 1, 3]),
    (["2020-03-28T00:00+01:00", "2020-03-29T00:00+01:00", "2020-03-31T00:00+02:00"], "1d", [0, 1, 3]),  # local days
    (pd.DatetimeIndex(["2020-03-28", "2020-03-29", "2020-03-31"], tz="Europe/Zurich"), "1d", [0, 1, 3]),
    (pd.DatetimeIndex(["2020-03-29 00:00", "2020-03-29 05:00"], tz="Europe/Zurich"), "1h", [0, 4]),
    (pd.to_timedelta([0, 1, 3], unit="h"), "1h", [0, 1, 3]),
]


@pytest.mark.parametrize(("times", "step", "known"), GRIDS)
def test_absent_steps_of_a_grid_are_missing_values(times: Any, step: str, known: list[int]) -> None:
    frame = rising(times)
    frame = frame[(frame["series"] != "s3") | (frame["time"] == times[1])]  # a series of one row
    raw = read_frame(frame, step=step)
    length = known[-1] + 1
    assert raw.lengths is not None and raw.lengths.tolist() == [length] * 5 + [1] + [length] * 6
    where = np.flatnonzero(~np.isnan(raw.x[0, :, 0]))
    assert where.tolist() == known and (np.diff(raw.x[0, where, 0]) == 1).all()
    stamps = raw.stamps[:length]
    assert raw.stamps.name == "time" and len(raw.stamps) == 11 * length + 1
    if not isinstance(times[0], str) or times[0][:4] == "2020":  # as in the source
        assert stamps[known].tolist() == list(times)
    if not isinstance(times[0], str) or "+" not in times[0]:
        again = read_frame(frame[frame["series"] == "s0"][:0].reindex(range(length)).assign(
            series="s0", time=list(stamps), v=np.sqrt(np.arange(length))), step=step)  # fmt: skip
        assert again.lengths is not None and again.lengths.tolist() == [length] and not np.isnan(again.x).any()


MIDNIGHT = ["2020-01-02 00:00", "2020-01-02 00:30"]


@pytest.mark.parametrize(
    ("times", "step", "stamps"),
    [
        ([3, 4, 6], "1", [3, 4, 5, 6]),
        (["t3", "t5"], "1", ["t3", "t4", "t5"]),
        (["2020-01", "2020-03"], "1mo", ["2020-01", "2020-02", "2020-03"]),
        (["2020-01-01 23:30", MIDNIGHT[1]], "30min", ["2020-01-01 23:30", *MIDNIGHT]),
        (["1/31/2020", "2/2/2020"], "1d", ["2020-01-31", "2020-02-01", "2020-02-02"]),
        (["31.1.2020 10:00", "31.1.2020 12:00"], "1h", ["2020-01-31T10:00", "2020-01-31T11:00", "2020-01-31T12:00"]),
        (
            ["2020-10-25T01:30:00+02:00", "2020-10-25T02:30:00+01:00"], "1h",
            ["2020-10-25T01:30:00+02:00", "2020-10-25T02:30:00+02:00", "2020-10-25T02:30:00+01:00"],
        ),
        (["2020-01-31T10:00Z", "2020-01-31T12:00Z"], "1h", [f"2020-01-31T{h}:00Z" for h in (10, 11, 12)]),
        (["2020-01-31", "2020-03-31"], "1mo", ["2020-01-31", "2020-02-29", "2020-03-31"]),
    ],
)  # fmt: skip
def test_times_of_all_steps_have_the_form_of_the_source(times: list[Any], step: str, stamps: list[Any]) -> None:
    raw = read_frame(rising(times, n=12), step=step)
    assert raw.stamps[: len(stamps)].tolist() == stamps and raw.stamps.tolist() == stamps * 12


@pytest.mark.parametrize(
    ("times", "step", "message"),
    [
        ([0, 10, 20, 25, 35], "10", "has the time 25, which is not .* steps of 10 after 0, the first .* --step 5 fits"),
        ([0, 1, 2, 2.5], "1", "has the time 2.5, .*--step 0.5 fits all times; --step rows .* --time-as-input"),
        (["2020-01-30", "2020-03-01"], "1mo", "has the time 2020-03-01.* --step 31d fits all times"),
        (["2020-01-01T00:00Z", "2020-01-01T00:00:10Z"], "15s", "--step 10s fits"),
        ([0, 1, 2, 200_000], "1", "sequence s0 has 200,001 steps; expected 1 to 100,000, or --window N"),
        ([0, 1, 2, 10**8], "1", "the 48 rows would become 1,200,000,012 steps"),
        ([0, 1, 2], "1h", "--step 1h: expected a number, such as 1 or 0.5"),
        (["2020-01-01", "2020-01-02"], "1", "--step 1: expected a number with a unit, such as 30s"),
        (["2020-01-01", "2020-01-02"], "0d", "--step 0d: expected a number with a unit"),
        (["2020-01-01", "2020-01-02"], "1.5mo", "--step 1.5mo: expected"),
    ],
)
def test_times_off_the_grid_and_wrong_steps_are_refused(times: list[Any], step: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_frame(rising(times), step=step)


def test_a_step_needs_times_and_excludes_times_as_input() -> None:
    frame = rising(range(5))
    with pytest.raises(InputError, match="--step and --time-as-input were given; expected one of them"):
        read_frame(frame, step="1", time_as_input=True)
    for option in ({"step": "1"}, {"time_as_input": True}):
        with pytest.raises(InputError, match="needs the time of each step; expected --time COLUMN"):
            read_frame(frame.drop(columns="time"), kinds=(("series", "sequence"),), **option)


def test_numbers_that_are_dates_are_refused_where_their_differences_count() -> None:
    with pytest.raises(InputError, match=r"such as 20200131, look like dates.* expected dates such as 2020-01-31"):
        read_frame(rising([20200131, 20200201]).sort_index())
    assert read_frame(rising([20200130, 20200131])).step == "1"  # the same steps as those of dates
    assert read_frame(rising([20000199, 20000200])).step == "1"


def test_a_clock_that_was_set_back_is_named_where_a_time_is_repeated() -> None:
    hours = pd.date_range("2020-10-25", periods=6, freq="1h", tz="Europe/Zurich")
    with pytest.raises(InputError, match=r"has the time 2020-10-25 02:00 twice.*daylight saving time.*with their zone"):
        read_frame(rising([t.strftime("%Y-%m-%d %H:%M") for t in hours]))


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ([5, 6, 8, 18], [0, 1, 3, 13]),
        (["2020-01-01", "2020-01-03", "2020-01-05", "2020-01-06"], [0, 2 * 86400, 4 * 86400, 5 * 86400]),
        (["2020-10-25T02:30+02:00", "2020-10-25T02:30+01:00"], [0, 3600]),
    ],
)
def test_times_are_given_to_the_networks(times: list[Any], expected: list[int]) -> None:
    frame = rising(times, n=20)
    frame = frame[(frame["series"] != "s3") | (frame["time"] != times[-1])]
    loaded = data.load(Source(place="mine", time_as_input=True), frame)
    raw = data.read(Source(place="mine", time_as_input=True), frame)
    assert raw.elapsed is not None and raw.elapsed[0].tolist() == expected
    unit = float(np.median(np.diff(expected)))
    assert loaded.preprocessing.elapsed_unit == unit and loaded.spec.elapsed == expected[-1] / unit
    for split in (loaded.train, loaded.valid, loaded.test):
        assert split.elapsed is not None and split.mask is not None and split.elapsed.dtype == torch.float32
        assert (split.elapsed[~split.mask] == 0).all()
        known = torch.tensor(expected)[None].expand(len(split), -1)[split.mask] / unit
        torch.testing.assert_close(split.elapsed[split.mask], known.float())


def test_new_series_have_times_as_those_of_training(tmp_path: Path) -> None:
    frame = rising([0, 1, 2, 9], n=20)
    loaded = data.load(Source(place="mine", time_as_input=True), frame)
    loaded.preprocessing.save(tmp_path)
    like = Preprocessing.load(tmp_path)
    assert like is not None
    raw = data.read(Source(place="new"), rising([5, 6, 9], n=1), like)
    batch = like.encode(raw)
    assert batch.elapsed is not None and batch.elapsed.tolist() == [[0, 1, 4]]
    with pytest.raises(
        InputError, match="times are dates, such as 2020-01-01, and those of the training data are plain"
    ):
        data.read(Source(place="new"), rising(["2020-01-01", "2020-01-02"], n=1), like)
    with pytest.raises(InputError, match="no column time"):
        data.read(Source(place="new"), frame[:3].drop(columns=["time", "series"]).assign(series="a"), like)
    joined = data.load(
        Source(place=as_csv(tmp_path, waves()), time_as_input=True, test=as_csv(tmp_path, waves(), "test.csv"))
    )
    assert joined.test.elapsed is not None and len(joined.test.elapsed) == len(joined.test)


def test_the_digest_covers_times_only_if_they_are_an_input() -> None:
    digests = {
        data.load(Source(place="mine", **options), frame).digest
        for frame in (rising([0, 1, 2, 3], n=20), rising([0, 1, 2, 8], n=20))
        for options in ({"step": "rows"}, {"time_as_input": True})
    }
    assert len(digests) == 3


def test_an_option_of_older_versions_is_read_or_named() -> None:
    assert Source.parse('{"place": "a.csv", "gaps": "ignore"}') == Source(place="a.csv", step="rows")
    with pytest.raises(InputError, match=r"a\.csv: these data were read with --gaps differences of an older version"):
        Source.parse('{"place": "a.csv", "gaps": "differences"}')


def test_one_gap_in_one_short_series_is_found() -> None:
    frame = rising(range(12)).query("series != 's3' or time in (2, 7)")
    with pytest.raises(InputError, match="uneven in 1 of 12 sequences: s3 goes from 2 to 7, and its usual step is 1"):
        read_frame(frame)


def test_different_steps_are_warned_of() -> None:
    frame = rising(range(12))
    frame["time"] *= np.where(frame["series"] == "s3", 10, 1)
    raw = read_frame(frame)
    assert rises(raw) and raw.step == "1 to 10"
    assert any("time differ between sequences, from 1 " in w and "to 10 (such as s3)" in w for w in raw.warnings)


def test_series_and_time_may_have_other_names() -> None:
    frame = rising(range(12)).rename(columns={"series": "machine", "time": "when"})
    assert rises(read_frame(frame, kinds=(("machine", "sequence"),), time="when"))
    in_order = frame.sort_values(["machine", "when"]).drop(columns="when")
    raw = read_frame(in_order, kinds=(("machine", "sequence"),))
    assert rises(raw) and any("in their order" in note for note in raw.notes)
    with pytest.raises(InputError, match=r"no column time; expected --time COLUMN .* --kind series=sequence .* --drop"):
        read_frame(in_order.rename(columns={"machine": "series"}))
    upper = rising(range(12)).rename(columns=str.upper)
    assert rises(read_frame(upper))
    assert rises(read_frame(rising(range(12)).set_index(["series", "time"])))
    with pytest.raises(InputError, match=r"no two rows have the same value in the column series; .* --drop series"):
        read_frame(rising(range(1)))


def test_facts_of_a_series_are_the_same_in_all_its_rows() -> None:
    frame = rising(range(5), n=40)
    number = frame["series"].str[1:].astype(int)
    frame = frame.assign(patient=number // 4, part=np.where(number < 30, "train", "test"), kind="ab")
    frame["kind"] = np.where(number % 2, "odd", "even")
    raw = read_frame(frame, group="patient", label="kind")
    assert [column.name for column in raw.columns] == ["v"] and raw.class_names == ("even", "odd")
    names = raw.rows.str[1:].astype(int)
    assert raw.y is not None and (raw.y == names % 2).all()
    assert raw.groups is not None and len({*zip(raw.groups, names // 4, strict=True)}) == 10
    assert raw.splits is not None and sorted(names[raw.splits[2].numpy()]) == [*range(30, 40)]
    for column in ("patient", "kind", "part"):
        changed = frame.copy()
        changed.loc[7, column] = {"patient": 99, "kind": "even", "part": "test"}[column]
        with pytest.raises(InputError, match=f"sequence s1 has several values in the column {column}"):
            read_frame(changed, group="patient", label="kind")


def test_the_first_times_are_kept_for_a_split_by_time() -> None:
    assert read_frame(rising(range(5))).times is None
    with pytest.raises(InputError, match="begin at the same time"):
        read_frame(rising(range(5)), split="time")
    frame = rising(range(5))
    frame["time"] += frame["series"].str[1:].astype(int) * 3
    raw = read_frame(frame)
    assert raw.times is not None and (raw.times == raw.rows.str[1:].astype(int) * 3).all()


def fitted(frame: pd.DataFrame, **options: Any) -> Preprocessing:
    return data.load(Source(place="mine", **options), frame).preprocessing


def test_new_series_are_read_as_those_of_training() -> None:
    frame = rising(range(6), n=20).assign(w=lambda f: -f["v"], label=lambda f: f["series"].isin(["s1", "s2", "s3"]))
    like = fitted(frame)
    new = rising(range(9), n=1)  # a longer one, without the label
    new = new.assign(extra=1.0, w=-new["v"])[["w", "extra", "time", "v", "series"]]
    raw = data.read(Source(place="new"), new, like)
    assert raw.x.shape == (1, 9, 2) and rises(raw) and raw.y is None
    assert any("extra" in note for note in raw.notes)
    np.testing.assert_allclose(like.decode(like.encode(raw).x), raw.x, atol=1e-3)
    one = data.read(Source(place="new"), new.drop(columns="series"), like)
    assert np.array_equal(one.x, raw.x)
    labelled = data.read(Source(place="new"), new.assign(label=True), like)
    assert labelled.y is not None and labelled.y.tolist() == [1]
    for change, message in (
        (new.drop(columns="w"), "columns are missing: w"),
        (new.assign(w="text"), "column w holds text"),
        (new.drop(columns="time"), "no column time"),
        (new.assign(time=0), "has the time 0 twice"),
        (new.assign(time=new["time"] ** 2), "steps of time are uneven"),
    ):
        with pytest.raises(InputError, match=message):
            data.read(Source(place="new"), change, like)
    spread = data.read(Source(place="new"), new.assign(time=new["time"] * 10), like)
    assert any("10, and 1 in the training data" in warning for warning in spread.warnings)


def test_names_of_sequences_may_be_of_several_types_that_can_be_ordered() -> None:
    def read(names: list[Any]) -> Raw:
        rows = [{"series": n, "time": t, "v": t + i / 7} for i, n in enumerate(names) for t in range(4)]
        return data.read(Source(place="mine"), pd.DataFrame(rows))

    assert read([3, "b", 1, "a"]).rows.tolist() == [1, 3, "a", "b"]
    with pytest.raises(InputError, match="the values of the column series cannot be compared"):
        read([pd.Timestamp("2020-01-01"), "b", 1, (3, "x")])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.assign(a=f.a.where(f.index != 7, np.inf)), "the column a has 1 infinite values"),
        (lambda f: f.assign(label=[*f.label[:-1], "q"]), "has several values in the column label"),
        (lambda f: f.assign(time=0), r"sequence s000 has the time 0 twice, in row \d+ \(line \d+ of the file\) and in"),
        (lambda f: f.assign(time=f.time.where(f.index != 7)), r"row 8 \(line 9 of the file\) has no time"),
        (lambda f: f.assign(series=f.series.where(f.index != 7)), r"row 8 .* has no value in the column series"),
        (lambda f: f.assign(a=np.nan, b=np.nan), "no columns of values to model.* one value or none"),
        (lambda f: f.rename(columns={"a": "target"}), "target looks like the label"),
        (lambda f: f.drop(columns=["a", "b"]), "there are no columns of values"),
        (lambda f: f.assign(label=f.label.where(f.index != 7)), "has several values in the column label"),
        (lambda f: f[f.series < "s005"].drop(columns="label"), "5 examples; expected at least"),
        (lambda f: f[:0], "0 rows"),
    ],
)
def test_bad_long_tables_are_refused(change: Any, message: str, tmp_path: Path) -> None:
    path = as_csv(tmp_path, waves())
    change(pd.read_csv(path)).to_csv(path, index=False)
    with pytest.raises(InputError, match=message):
        data.load(path)
