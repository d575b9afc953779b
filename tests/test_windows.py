"""Windows of long sequences: what they contain, how they are split, and wide tables and times in arrays."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pipeline import cli, data
from pipeline.data import Raw, Source
from variants import InputError

RNG = np.random.default_rng(0)


def walks(lengths: Any) -> list[np.ndarray]:
    return [RNG.normal(size=(n, 2)).cumsum(0) for n in lengths]


def as_frame(series: list[np.ndarray]) -> pd.DataFrame:
    parts = [
        pd.DataFrame(s, columns=["a", "b"]).assign(series=f"s{i:03}", time=np.arange(len(s)))
        for i, s in enumerate(series)
    ]
    return pd.concat(parts).sample(frac=1, random_state=0)


def padded(series: list[np.ndarray]) -> dict[str, np.ndarray]:
    lengths = np.array([len(s) for s in series])
    x = np.zeros((len(series), lengths.max(), 2))
    for row, s in zip(x, series, strict=True):
        row[: len(s)] = s
    return {"x": x, "lengths": lengths}


def in_ts(folder: Path, series: list[np.ndarray]) -> str:
    lines = ["@equalLength false", "@data", *(":".join(",".join(map(str, c)) for c in s.T) for s in series)]
    (folder / "mine.ts").write_text("\n".join(lines))
    return str(folder / "mine.ts")


def back(raw: Raw) -> list[np.ndarray]:
    """The sequences that the windows were cut from, put together again; NaN where no window has a step."""
    assert raw.windows is not None and raw.lengths is not None
    series = [np.full((n, raw.x.shape[2]), np.nan) for n in raw.windows.lengths]
    for i, n in enumerate(raw.lengths):
        start = raw.windows.starts[i]
        series[raw.windows.series[i]][start : start + n] = raw.x[i, :n]
    return series


@pytest.mark.parametrize("form", ["list", "arrays", "frame", "ts"])
@pytest.mark.parametrize(("window", "stride"), [(8, None), (8, 3), (8, 8), (1, None), (50, 7)])
def test_windows_contain_all_steps_of_all_sequences(form: str, window: int, stride: Any, tmp_path: Path) -> None:
    lengths = [3, 8, 9, 24, 31, *[20] * 8]
    series = walks(lengths)
    source, content = Source(place="mine", window=window, stride=stride), None
    if form == "ts":
        source = replace(source, place=in_ts(tmp_path, series))
    else:
        content = {"list": lambda s: s, "arrays": padded, "frame": as_frame}[form](series)
    raw = data.read(source, content)
    assert raw.windows is not None and raw.lengths is not None
    assert raw.windows.lengths.tolist() == lengths and raw.x.shape[1] == min(window, 31)
    for whole, original in zip(back(raw), series, strict=True):
        np.testing.assert_allclose(whole, original)
    for number, n in enumerate(lengths):
        starts = raw.windows.starts[raw.windows.series == number]
        sizes = raw.lengths[raw.windows.series == number]
        assert (sizes == min(n, window)).all() and starts[0] == 0 and starts[-1] + sizes[-1] == n
        assert (np.diff(starts)[:-1] == (stride or window)).all() and (np.diff(starts) > 0).all()
    assert (raw.x[~raw.mask] == 0).all()
    if form == "frame":
        assert raw.windows.names.tolist() == [f"s{i:03}" for i in range(13)] and len(raw.rows) == len(raw.x)
        assert raw.stamps.tolist() == [t for n in lengths for t in range(n)]


def test_new_sequences_are_cut_as_those_of_training() -> None:
    loaded = data.load(Source(place="mine", window=8, stride=4), walks([30] * 20))
    series = walks([50, 5])
    raw = data.read(Source(place="new"), series, loaded.preprocessing)
    assert raw.windows is not None and raw.x.shape == (13, 8, 2)
    for whole, original in zip(back(raw), series, strict=True):
        np.testing.assert_allclose(whole, original)
    part = raw[slice(3, 5)]
    assert part.windows is not None and part.windows.starts.tolist() == [12, 16] and len(part.windows.lengths) == 2


def test_facts_of_a_sequence_are_those_of_each_of_its_windows() -> None:
    series, y = walks([30] * 20), np.arange(20) % 2
    raw = data.read(Source(place="mine", window=8), {**padded(series), "y": y, "factors": np.arange(20)[:, None]})
    assert raw.windows is not None and raw.y is not None and raw.factors is not None
    assert np.array_equal(raw.y, y[raw.windows.series]) and np.array_equal(raw.factors.values[:, 0], raw.windows.series)
    frame = as_frame(series)
    number = frame["series"].str[1:].astype(int)
    frame = frame.assign(label=number % 2, patient=number // 2, part=np.where(number < 15, "train", "test"))
    raw = data.read(Source(place="mine", window=8, group="patient"), frame)
    assert raw.windows is not None and raw.y is not None and raw.groups is not None and raw.splits is not None
    assert np.array_equal(raw.y, raw.windows.series % 2) and np.array_equal(
        raw.groups, raw.groups[raw.windows.series * 4]
    )
    assert {*raw.windows.series[raw.splits[2].numpy()]} == set(range(15, 20))


def sides(source: Source, content: Any) -> tuple[Raw, list[set[tuple[int, int]]]]:
    """The steps (series, step) of the windows of each split."""
    raw = data.read(source, content)
    loaded = data.load(source, content)
    assert raw.windows is not None and raw.lengths is not None
    found = []
    for split in (loaded.train, loaded.valid, loaded.test):
        x = loaded.preprocessing.decode(split.x)
        steps = set()
        for values in x:
            (i,) = np.flatnonzero(np.abs(raw.x - values).max((1, 2)) < 1e-3)
            number, start = int(raw.windows.series[i]), int(raw.windows.starts[i])
            steps |= {(number, start + k) for k in range(raw.lengths[i])}
        found.append(steps)
    return raw, found


def test_windows_of_a_sequence_are_in_one_split() -> None:
    _, found = sides(Source(place="mine", window=8, stride=3), walks([30] * 20))
    numbers = [{number for number, _ in side} for side in found]
    assert not numbers[0] & numbers[1] and not (numbers[0] | numbers[1]) & numbers[2]
    assert sum(map(len, numbers)) == 20 and all(numbers)
    owners = data.load(
        Source(place="mine", window=8, group="patient"),
        as_frame(walks([30] * 24)).assign(patient=lambda f: f["series"].str[1:].astype(int) // 2),
    )
    assert owners.description is not None and "groups (patient) are kept whole" in owners.description.division


@pytest.mark.parametrize("options", [{"split": "time"}, {}])
def test_few_sequences_are_split_by_time(options: Any) -> None:
    count = 12 if options else 3
    raw, found = sides(Source(place="mine", window=8, stride=3, **options), walks([100] * count))
    for number in range(count):
        steps = [sorted(step for n, step in side if n == number) for side in found]
        assert steps[0][0] == 0 and steps[0][-1] < steps[1][0] and steps[1][-1] < steps[2][0]
        assert steps[2][-1] == 99 and all(len(side) >= 8 for side in steps)
    loaded = data.load(raw.source, walks([100] * count))
    assert loaded.description is not None and loaded.drawn == ()
    assert any("windows with steps of two splits are left out" in note for note in loaded.description.notes)


def test_a_split_that_would_leak_or_be_empty_is_refused() -> None:
    series = walks([32] * 20)
    with pytest.raises(InputError, match="--split random would put overlapping windows into different splits"):
        data.load(Source(place="mine", window=8, stride=4, split="random"), series)
    apart = data.load(Source(place="mine", window=8, split="random"), series)
    assert apart.description is not None
    assert any("windows of one sequence are in several splits" in w for w in apart.description.warnings)
    with pytest.raises(InputError, match="sequences of up to 300 steps cannot be split by time into windows of 200"):
        data.load(Source(place="mine", window=200, stride=10), walks([300]))
    with pytest.raises(InputError, match=r"1 examples; expected at least 10 .*, or --window N"):
        data.load("mine", walks([300]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stride": 4}, "--stride 4 needs --window N"),
        ({"window": 4, "stride": 5}, "--stride 5 is larger than --window 4"),
        ({"window": 0}, "--window 0: expected a whole number"),
    ],
)
def test_windows_that_make_no_sense_are_refused(options: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        data.read(Source(place="mine", **options), walks([30] * 20))
    for content in (RNG.random((40, 3)), (RNG.random((40, 6, 6, 3)) * 255).astype(np.uint8)):
        with pytest.raises(InputError, match=r"--(window|stride)"):
            data.read(Source(place="mine", **options), content)


def test_long_sequences_are_cut_without_padding_them_first() -> None:
    series = [RNG.normal(size=300_000), RNG.normal(size=100)]  # padded as (2, 300,000), the second would be mostly zero
    with pytest.raises(InputError, match="sequence 1 has 300,000 steps; expected 1 to 100,000, or --window N"):
        data.read(Source(place="mine"), series)
    raw = data.read(Source(place="mine", window=1000), series)
    assert raw.x.shape == (301, 1000, 1)
    assert np.array_equal(back(raw)[0][:, 0], series[0]) and np.array_equal(back(raw)[1][:, 0], series[1])


def test_a_description_says_how_sequences_were_cut() -> None:
    loaded = data.load(Source(place="mine", window=8, stride=4), walks([*[30] * 20, 5]))
    assert loaded.description is not None
    assert loaded.description.extent == "21 sequences of 5 to 30 steps, 2 channels, cut into 141 windows of 8 steps"
    text = loaded.description.text()
    for clause in ("20 of 21 sequences are longer than 8", "1 of 21 sequences are shorter", "as if windows were"):
        assert clause in text


def test_a_test_file_is_cut_as_well(tmp_path: Path) -> None:
    for name, count in (("a.csv", 20), ("b.csv", 3)):
        as_frame(walks([30] * count)).to_csv(tmp_path / name, index=False)
    source = Source(place=str(tmp_path / "a.csv"), window=8, test=str(tmp_path / "b.csv"), time_as_input=True)
    loaded = data.load(source)
    assert len(loaded.test) == 12 and loaded.test.elapsed is not None
    assert loaded.test.elapsed[0].tolist() == [*range(8)] and loaded.spec.elapsed == 7


def test_times_of_windows_begin_with_their_first_step() -> None:
    frame = as_frame(walks([30] * 20))
    frame["time"] = frame["time"] ** 2
    raw = data.read(Source(place="mine", window=10, time_as_input=True), frame)
    assert raw.elapsed is not None and raw.windows is not None
    expected = [(s + k) ** 2 - s**2 for s in (0, 10, 20) for k in range(10)]
    assert raw.elapsed[:3].ravel().tolist() == expected


def test_many_irregular_stamps_are_put_on_a_grid_and_cut(tmp_path: Path) -> None:
    """Each window holds what pandas finds at its stamps, and the stamps of all steps follow each other."""
    parts = []
    for i in range(20):
        minutes = np.sort(RNG.choice(600, 400, replace=False)) + 1000 * i
        stamps = (np.datetime64("2024-03-30T20:00:00") + minutes.astype("m8[m]")).astype(str)
        parts.append(pd.DataFrame({"series": f"s{i:02}", "time": stamps, "v": RNG.normal(size=400)}))
    frame = pd.concat(parts)
    frame.sample(frac=1, random_state=0).to_csv(tmp_path / "long.csv", index=False)
    raw = data.read(Source(place=str(tmp_path / "long.csv"), step="1min", window=64, stride=32))
    assert raw.windows is not None and raw.lengths is not None and raw.stamps.name == "time"
    begins = raw.windows.lengths.cumsum() - raw.windows.lengths
    values = frame.set_index(["series", "time"])["v"]
    for i in RNG.choice(len(raw.x), 40):
        number, n = raw.windows.series[i], raw.lengths[i]
        first = begins[number] + raw.windows.starts[i]
        stamps = raw.stamps[first : first + n]
        assert (np.diff(stamps.to_numpy(str).astype("M8[m]")) == np.timedelta64(1, "m")).all()
        keys = pd.MultiIndex.from_product([[raw.windows.names[number]], stamps])
        np.testing.assert_array_equal(values.reindex(keys), raw.x[i, :n, 0])


@pytest.mark.parametrize("convert", [np.asarray, lambda t: np.datetime64("2020-01-01") + t.astype("m8[h]")])
def test_arrays_may_have_times(convert: Any, tmp_path: Path) -> None:
    x, times = RNG.normal(size=(20, 6, 2)), np.tile([0, 1, 2, 5, 6, 7], (20, 1))
    np.savez(tmp_path / "mine.npz", x=x, times=convert(times), lengths=np.full(20, 5))
    source = Source(place=str(tmp_path / "mine.npz"))
    with pytest.raises(InputError, match="uneven in 20 of 20 sequences: 1 goes from"):
        data.read(source)
    step = "1" if convert is np.asarray else "1h"
    raw = data.read(replace(source, step=step))
    assert raw.x.shape == (20, 7, 2) and np.isnan(raw.x[:, 3:5]).all() and not np.isnan(raw.x[:, [0, 1, 2, 5, 6]]).any()
    raw = data.read(replace(source, time_as_input=True))
    assert raw.elapsed is not None and raw.elapsed[0, :5].tolist() == [
        t * (1 if step == "1" else 3600) for t in (0, 1, 2, 5, 6)
    ]
    np.savez(tmp_path / "mine.npz", x=x, times=convert(times[:, ::-1]))
    with pytest.raises(InputError, match=r"the times of sequence 1 fall from .* in step 1 of sequence 1"):
        data.read(source)


def test_times_beside_an_array_are_never_lost() -> None:
    x, times = RNG.normal(size=(20, 6, 2)), np.array([0, 1, 2, 5, 6, 7])
    series = [s[: 4 + i % 3] for i, s in enumerate(x)]
    own = [times[: len(s)] for s in series]
    for content in ({"x": x, "times": times}, {"x": x[..., 0], "times": times}, {"x": series, "times": own}):
        raw = data.read(Source(place="mine", step="1"), content)
        assert raw.noun == "sequences" and raw.x.shape[1] == 8 and np.isnan(raw.x[2, 3:5]).all()
    with pytest.raises(InputError, match="the times do not fit the sequences"):
        data.read(Source(place="mine"), {"x": series, "times": own[:-1]})
    table = data.read(Source(place="mine"), {"x": x[..., 0], "times": np.arange(20)})
    assert table.noun == "rows" and any("times (20,) is not used" in note for note in table.notes)


@pytest.mark.parametrize("time", [True, False])
def test_each_column_of_a_wide_table_is_a_sequence(time: bool, tmp_path: Path) -> None:
    frame = pd.DataFrame(RNG.normal(size=(24, 15)).cumsum(0), columns=[f"shop {i}" for i in range(15)])
    frame.loc[20:, "shop 3"] = np.nan  # a shorter sequence
    frame.loc[4, "shop 5"] = np.nan
    values = frame.to_numpy().copy()
    if time:
        frame.insert(0, "when", pd.date_range("2020-01-01", periods=24, freq="1h").astype(str))
        frame = frame.drop(index=7).sample(frac=1, random_state=0)  # an absent row
        values[7] = np.nan
    frame.to_csv(tmp_path / "wide.csv", index=False)
    source = Source(
        place=str(tmp_path / "wide.csv"), wide=True, time="when" if time else None, step="1h" if time else None
    )
    raw = data.read(source)
    assert raw.lengths is not None and raw.lengths.tolist() == [24] * 3 + [20] + [24] * 11
    assert raw.rows.tolist() == [f"shop {i}" for i in range(15)] and [c.name for c in raw.columns] == ["value"]
    np.testing.assert_allclose(np.where(raw.mask, raw.x[..., 0], np.nan), values.T)
    assert any("1 of 15 columns end before the last row" in note for note in raw.notes)
    like = data.load(replace(source, window=6)).preprocessing
    new = data.read(replace(like.source, place="new"), frame[["when", "shop 2"] if time else ["shop 2"]], like)
    assert new.x.shape == (4, 6, 1) and new.rows.tolist() == ["shop 2"] * 4
    wrong: Any = [({"label": "shop 1"}, "--label cannot be used with --wide"), ({"time": "no"}, "--time no")]
    for options, message in wrong:
        with pytest.raises(InputError, match=message):
            data.read(replace(source, **options))
    frame.assign(text="a").to_csv(tmp_path / "wide.csv", index=False)
    with pytest.raises(InputError, match="the column text holds text"):
        data.read(source)


def test_rows_of_a_table_are_one_sequence_with_an_option_of_sequences() -> None:
    frame = pd.DataFrame(RNG.normal(size=(300, 2)).cumsum(0), columns=["a", "b"]).assign(time=np.arange(300))
    raw = data.read(Source(place="mine", window=20), frame.sample(frac=1, random_state=0))
    np.testing.assert_array_equal(back(raw)[0], frame[["a", "b"]])
    assert any("rows are taken as one sequence" in note for note in raw.notes)
    with pytest.raises(InputError, match=r"has the time 0 twice, .* --kind COLUMN=sequence says which column"):
        data.read(Source(place="mine", window=20), pd.concat([frame, frame]))


@pytest.mark.parametrize("wide", [False, True])
def test_an_index_of_dates_is_the_time_of_the_steps(wide: bool) -> None:
    days = pd.date_range("2020-01-01", periods=41).delete(7)
    frame = pd.DataFrame(RNG.normal(size=(40, 2)), columns=["a", "b"], index=days)
    source = Source(place="mine", window=5, wide=wide)
    with pytest.raises(InputError, match=r"goes from 2020-01-07 .* to 2020-01-09"):
        data.read(source, frame)
    raw = data.read(replace(source, step="1d"), frame)
    assert raw.stamps.name == "time" and raw.stamps[7] == pd.Timestamp("2020-01-08")
    with pytest.raises(InputError, match="--time day"):
        data.read(source, frame.rename_axis("day"))
    assert data.read(replace(source, step="1d", time="day"), frame.rename_axis("day")).stamps.name == "day"


def test_an_option_of_sequences_reads_an_array_as_sequences_unless_it_may_be_a_single_one() -> None:
    x = RNG.normal(size=(3, 40, 2)).cumsum(1)
    loaded = data.load(Source(place="mine", window=10, stride=5, split="group"), {"x": x})
    assert loaded.test_series is not None and len(loaded.test_series) == len(loaded.test) == 7
    assert len(loaded.test_series.unique()) == 1
    for array, shape in ((x[0], r"\(1, 40, 2\)"), (x[0, :, 0], r"\(1, 40, 1\)")):
        with pytest.raises(InputError, match=rf"such as {shape} if x is one sequence"):
            data.read(Source(place="mine", window=10), {"x": array})
    raw = data.read(Source(place="mine", window=10, kinds=(("x", "sequence"),)), {"x": x[..., 0]})
    assert raw.windows is not None and raw.windows.lengths.tolist() == [40] * 3


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "--window N if all rows are one series, --kind COLUMN=sequence .* or --wide"),
        ({"wide": True}, "--time day, if it is the time of each step"),
    ],
)
def test_a_column_of_dates_is_refused_with_the_options_that_make_it_the_time_of_series(
    options: Any, words: str
) -> None:
    days = pd.date_range("2020-01-01", periods=20).astype(str)
    frame = pd.DataFrame(RNG.normal(size=(20, 2)), columns=["a", "b"]).assign(day=days)
    with pytest.raises(InputError, match=words):
        data.read(Source(place="mine", **options), frame)


def test_the_options_of_sequences_are_those_of_the_commands() -> None:
    words = "--time when --dates day-first --step 1h --window 8 --stride 4 --wide --kind symbols --kind a=count "
    source = cli.source(cli.parser("data", "", *cli.DATA).parse_args([*words.split(), "--no-header"]), "mine.csv")
    assert source == Source(
        place="mine.csv", time="when", dates="day-first", step="1h", window=8, stride=4, wide=True, header=False,
        kinds=(("x", "symbols"), ("a", "count")),
    )  # fmt: skip
    line = cli.command_line(replace(source, time_as_input=True)).split()
    parser = cli.parser("data", "", "--dataset", *cli.DATA)
    assert cli.source(parser.parse_args(line), "mine.csv") == replace(source, time_as_input=True)
    assert Source.parse(source.json()) == source
