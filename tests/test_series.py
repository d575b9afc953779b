"""Sequences in the rows of long tables: their order in time, gaps, other names, and new series."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
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
        ([f"{month}/1/2020" for month in range(1, 13)], ""),
        (["10/9/2019", "11/9/2019", "12/9/2019", "1/9/2020"], ""),  # even if these are months
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
    assert any("not known" in note for note in raw.notes) == (step == "")


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
    ("times", "gap"),
    [
        ([0, 1, 2, 3, 9, 10, 11], "goes from 3 to 9, and its usual step is 1"),
        ([0, 10, 20, 25, 35], "goes from 20 to 25, and its usual step is 10"),
        (["2020-01-01", "2020-01-02", "2020-01-03", "2020-01-06"], "from 2020-01-03 to 2020-01-06, .* 1 day"),
        (["1/1/2020", "2/1/2020", "3/1/2020", "7/1/2020"], "from 3/1/2020 to 7/1/2020"),
    ],
)
def test_gaps_are_never_closed_silently(times: list[Any], gap: str) -> None:
    frame = rising(times)
    with pytest.raises(
        InputError, match=f"uneven in 12 of 12 sequences: s0 goes .*{gap}.*--gaps ignore.*--gaps differences"
    ):
        read_frame(frame)
    raw = read_frame(frame, gaps="ignore")
    assert rises(raw) and any("consecutive" in note for note in raw.notes)
    if isinstance(times[0], int):
        raw = read_frame(frame, gaps="differences")
        assert [column.name for column in raw.columns] == ["v", "time difference"]
        assert (raw.x[:, :, 1] == [0, *np.diff(times)]).all()
    elif "/" in times[0]:
        with pytest.raises(InputError, match="the month or the day may stand first"):
            read_frame(frame, gaps="differences")


@pytest.mark.parametrize(
    ("times", "known"),
    [
        ([0, 1, 2, 3, 9, 10, 11], [0, 1, 2, 3, 9, 10, 11]),
        ([5, 7, 9, 15, 17], [0, 1, 2, 5, 6]),
        (["2020-01-01", "2020-01-02", "2020-01-03", "2020-01-06"], [0, 1, 2, 5]),
        (["2020-01-01", "2020-02-01", "2020-03-01", "2020-04-01", "2020-09-01", "2021-09-01"], [0, 1, 2, 3, 8, 20]),
    ],
)
def test_gaps_may_be_missing_steps(times: list[Any], known: list[int]) -> None:
    frame = rising(times)
    frame = frame[(frame["series"] != "s3") | (frame["time"] == times[2])]  # a series of one row has no gap
    raw = read_frame(frame, gaps="missing")
    assert raw.lengths is not None and raw.lengths.tolist() == [known[-1] + 1] * 5 + [1] + [known[-1] + 1] * 6
    assert raw.x.shape == (12, known[-1] + 1, 1)
    where = np.flatnonzero(~np.isnan(raw.x[0, :, 0]))
    assert where.tolist() == known and (np.diff(raw.x[0, where, 0]) == 1).all()
    assert any(f"{11 * (known[-1] + 1 - len(times))} missing steps" in note for note in raw.notes)


@pytest.mark.parametrize(
    ("times", "message"),
    [
        ([0, 10, 20, 25, 35], "s0 goes from 20 to 25, which is no multiple of its usual step, 10"),
        ([0, 10, 20, 30, 65], "s0 goes from 30 to 65"),
        (["1/1/2020", "2/1/2020", "3/1/2020", "7/1/2020"], "the month or the day may stand first"),
        ([0, 1, 2, 10**6], "sequence s0 has 1000001 steps; expected 1 to 100000"),
    ],
)
def test_gaps_that_are_no_steps_are_refused(times: list[Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_frame(rising(times), gaps="missing")


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


def test_gaps_of_new_series_are_treated_as_in_training() -> None:
    frame = rising([0, 1, 2, 9], n=20)
    like = fitted(frame, gaps="differences")
    raw = data.read(Source(place="new", gaps="differences"), rising([5, 6, 7], n=1), like)
    assert raw.x[0, :, 1].tolist() == [0, 1, 1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.assign(a=f.a.where(f.index != 7, np.inf)), "the column a has 1 infinite values"),
        (lambda f: f.assign(label=[*f.label[:-1], "q"]), "has several values in the column label"),
        (lambda f: f.assign(time=0), r"sequence s000 has the time 0 twice, in row \d+ \(line \d+ of the file\) and in"),
        (lambda f: f.assign(time=f.time.where(f.index != 7)), r"row 8 \(line 9 of the file\) has no time"),
        (lambda f: f.assign(series=f.series.where(f.index != 7)), r"row 8 .* has no value in the column series"),
        (lambda f: f.assign(a=f.series), "a: these channels hold categories, which cannot be modelled as continuous"),
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
