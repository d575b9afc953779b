"""Splits: nothing is lost, groups and equal rows stay whole, rare classes are everywhere, the latest are the test."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import data
from pipeline.data import Column, Raw, Source
from pipeline.data._splits import equal_examples, split, with_warnings
from variants import InputError

FAST = settings(max_examples=60, deadline=None, derandomize=True)
Values = dict[str, Any]


def rows(n: int, seed: int = 0, **options: Any) -> Raw:
    """A table of `n` rows that are all different, with `options` of the source and other fields."""
    fields = {name: options.pop(name) for name in ("y", "groups", "times", "splits", "x") if name in options}
    x = fields.pop("x", np.random.default_rng(seed).normal(size=(n, 3)))
    y = fields.pop("y", None)
    names = () if y is None else tuple(f"kind {c}" for c in range(int(y.max()) + 1))
    return Raw(
        name="mine",
        source=Source(place="mine.csv", **options),
        x=x,
        y=y,
        class_names=names,
        likelihood="gaussian",
        **fields,
    )


def parts_of(raw: Raw) -> list[Any]:
    """The indices of the three splits, which must hold each row once."""
    parts = [part.numpy() for part in split(raw)[1]]
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(len(raw.x)))
    assert all(np.array_equal(part, np.unique(part)) for part in parts)
    return parts


def classes_in(parts: list[Any], y: Any) -> list[set[int]]:
    return [set(y[part][y[part] >= 0].tolist()) for part in parts]


labelled = st.integers(0, 2**32 - 1).flatmap(
    lambda seed: st.lists(st.integers(3, 60), min_size=1, max_size=6).map(
        lambda sizes: np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)), sizes))
    )
)


@FAST
@given(y=labelled, unknown=st.integers(0, 40), seed=st.integers(0, 1000))
def test_every_class_is_in_each_split_and_rows_without_a_label_are_kept(y: Any, unknown: int, seed: int) -> None:
    y = np.concatenate([y, np.full(unknown, -1)])
    parts = parts_of(rows(len(y), y=y, split_seed=seed))
    assert classes_in(parts, y) == [set(range(int(y.max()) + 1))] * 3
    for part in parts[1:]:
        assert abs((y[part] < 0).sum() - unknown / 10) <= 0.6 + (3 <= unknown < 10)
        assert abs(len(part) - len(y) / 10) <= 1 + len(set(y.tolist()))


@FAST
@given(
    sizes=st.lists(st.integers(1, 40), min_size=3, max_size=60), classes=st.integers(1, 4), seed=st.integers(0, 1000)
)
def test_groups_are_whole_and_their_classes_are_in_each_split_or_it_is_refused(
    sizes: list[int], classes: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    groups = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    y = rng.integers(classes, size=len(sizes))[groups]
    y = np.unique(y, return_inverse=True)[1]
    raw = rows(len(y), y=y, groups=groups, group="patient", split_seed=seed)
    if min(len(set(groups[y == c])) for c in range(y.max() + 1)) < 3:
        with pytest.raises(
            InputError, match=r"kind \d' has \d+ rows? in \d+ groups?.* at least 3 groups of each class"
        ):
            split(raw)
        return
    parts = parts_of(raw)
    assert not any(set(groups[a]) & set(groups[b]) for a, b in zip(parts, [*parts[1:], parts[0]], strict=True))
    assert classes_in(parts, y) == [set(range(y.max() + 1))] * 3


@FAST
@given(number=st.integers(20, 80), classes=st.integers(2, 5), seed=st.integers(0, 1000))
def test_groups_may_hold_several_classes(number: int, classes: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    groups = rng.integers(number, size=10 * number)
    y = rng.choice(classes, p=rng.dirichlet(np.full(classes, 3.0)), size=len(groups))
    y = np.unique(y, return_inverse=True)[1]
    rarest = min(len(set(groups[y == c])) for c in range(y.max() + 1))
    try:
        parts = parts_of(rows(len(y), y=y, groups=groups, group="patient", split_seed=seed))
    except InputError:
        assert rarest < 3
        return
    assert classes_in(parts, y) == [set(range(y.max() + 1))] * 3


@pytest.mark.parametrize("sizes", [[1] * 200, [100, 80] + [5] * 60, [500] + [10] * 50, list(range(1, 60))])
def test_groups_of_very_different_sizes_are_divided_about_eight_to_one_to_one(sizes: list[int]) -> None:
    groups = np.repeat(np.arange(len(sizes)), sizes)
    for seed in range(5):
        parts = parts_of(rows(len(groups), groups=groups, group="patient", split_seed=seed))
        assert [len(part) / len(groups) for part in parts] == pytest.approx([0.8, 0.1, 0.1], abs=0.02)


@FAST
@given(copies=st.lists(st.integers(1, 6), min_size=20, max_size=80), seed=st.integers(0, 100))
def test_equal_rows_stay_in_one_split(copies: list[int], seed: int) -> None:
    number = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(copies)), copies))
    x = np.random.default_rng(1).normal(size=(len(copies), 3))[number]
    raw, index = split(rows(len(x), x=x, split_seed=seed))
    train, valid, test = (set(number[i.numpy()]) for i in index)
    assert not train & test and not train & valid and not valid & test
    repeated = sum(c for c in copies if c > 1)
    assert any(f"{repeated} of {len(x)} rows are equal to another one" in w for w in raw.warnings) == (repeated > 0)


def test_equal_rows_are_divided_where_that_is_asked_for_or_cannot_be_otherwise() -> None:
    x = np.tile(np.random.default_rng(0).normal(size=(50, 3)), (2, 1))
    raw = with_warnings(*split(rows(100, x=x, split="random")))
    assert any("test rows are equal to a training row" in w for w in raw.warnings)
    parts_of(rows(100, x=np.tile(x[:2], (50, 1))))  # two different rows cannot be divided in three
    few = np.random.default_rng(0).integers(2, size=(200, 3)).astype(float)  # 8 different rows at most
    raw = with_warnings(*split(rows(200, x=few)))
    assert raw.warnings == ()
    assert any("equal to another one, which is to be expected" in note for note in raw.notes)


@pytest.mark.parametrize("form", ["NaN", "other bits of NaN", "observed"])
def test_rows_are_equal_if_the_same_values_are_missing_and_the_others_are_equal(form: str) -> None:
    rng = np.random.default_rng(0)
    x = np.repeat(rng.normal(size=(30, 4)), 2, axis=0)
    known = np.repeat(rng.random((30, 4)) < 0.7, 2, axis=0)
    known[:, 0], known[0, 1:], known[1, 1:] = True, False, [False, False, True]  # the first two differ in this alone
    known[-2:] = False  # these have no values at all, so they are no copies
    if form == "observed":
        raw = replace(rows(60, x=np.where(known, x, rng.normal(size=x.shape))), observed=known)
    else:
        x[~known] = np.nan
        if form == "other bits of NaN":
            x.view(np.int64)[1::2][~known[1::2]] |= 1
        raw = rows(60, x=x)
    numbers = equal_examples(raw)
    assert numbers is not None and len(set(numbers)) == 32
    assert all((numbers[i] == numbers[i + 1]) == (0 < i < 58) for i in range(0, 60, 2))
    raw, _ = split(raw)
    assert any("56 of 60 rows are equal to another one" in warning for warning in raw.warnings)


@FAST
@given(times=st.lists(st.integers(0, 50), min_size=30, max_size=200), seed=st.integers(0, 10))
def test_the_latest_rows_are_the_test_and_equal_times_stay_together(times: list[int], seed: int) -> None:
    values = np.array(times, dtype=float)
    raw = rows(len(values), times=values, time="day", split="time")
    if len(set(times)) < 3:
        with pytest.raises(InputError, match=r"\d different times; expected at least 3"):
            split(raw)
        return
    train, valid, test = parts_of(raw)
    assert values[train].max() < values[valid].min() <= values[valid].max() < values[test].min()


def test_a_split_by_time_has_about_a_tenth_for_test_and_warns_of_classes_that_are_missing() -> None:
    y = (np.arange(200) < 150).astype(np.int64)  # the last 50 rows are of class 0
    raw, index = split(rows(200, y=y, times=np.arange(200.0), split="time"))
    assert [len(i) for i in index] == [160, 20, 20]
    assert index[2].tolist() == list(range(180, 200))
    assert "the test split has no example of class 'kind 1'" in with_warnings(raw, index).warnings


@pytest.mark.parametrize("options", [{}, {"groups": np.arange(300) // 3, "group": "patient"}, {"split": "random"}])
def test_the_seed_decides_the_split(options: Values) -> None:
    y = np.arange(300) % 3
    draws = [[part.tolist() for part in parts_of(rows(300, y=y, split_seed=s, **options))] for s in (1, 1, 2)]
    assert draws[0] == draws[1] != draws[2]


def test_given_splits_are_kept_and_a_missing_validation_split_is_taken_from_training() -> None:
    import torch

    train, held_out, empty = torch.arange(80), torch.arange(80, 100), torch.arange(0)
    y = np.arange(100) % 2
    whole = [train[:60], train[60:], held_out]
    assert [i.tolist() for i in split(rows(100, y=y, splits=whole))[1]] == [i.tolist() for i in whole]
    _, index = split(rows(100, y=y, splits=[train, empty, held_out]))
    assert [len(i) for i in index] == [72, 8, 20] and index[2].tolist() == held_out.tolist()
    _, again = split(rows(100, y=y, splits=[train, empty, held_out], split_seed=5))
    assert index[1].tolist() != again[1].tolist()
    _, random = split(rows(100, y=y, splits=whole, split="random"))
    assert random[2].tolist() != held_out.tolist()


FEW = np.repeat([0, 1, 2], [50, 48, 2])
CASES: dict[str, tuple[Values, str]] = {
    "a rare class": ({"y": FEW}, r"mine\.csv: class 'kind 2' has 2 rows; expected at least 3 rows of each class"),
    "a rare class among copies": (
        {"y": np.repeat([0, 1], [96, 4]), "x": np.r_[np.random.default_rng(0).normal(size=(96, 3)), np.ones((4, 3))]},
        r"kind 1' has 4 rows, of which 1 differ.*--split random, which divides equal rows",
    ),
    "one group": ({"groups": np.zeros(100, int), "group": "clinic"}, "clinic names 1 group; expected at least 3"),
    "no groups": ({"split": "group"}, "--split group needs --group COLUMN"),
    "no times": ({"split": "time"}, "--split time needs --time COLUMN"),
    "a seed of a split by time": (
        {"split": "time", "times": np.arange(100.0), "split_seed": 1}, "--split-seed has no effect.*by time"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_what_cannot_be_split_is_refused(case: str) -> None:
    options, message = CASES[case]
    with pytest.raises(InputError, match=message):
        split(rows(100, **options))


@pytest.mark.parametrize("value", [0.1, np.nan])
def test_a_column_without_two_values_to_train_on_is_a_warning(value: float) -> None:
    x = np.random.default_rng(0).normal(size=(30, 2))
    x[:20, 1] = value
    splits = [torch.arange(30)[part] for part in (slice(0, 20), slice(20, 25), slice(25, 30))]
    columns = (Column("a", "real"), Column("b", "real"))
    (warning,) = with_warnings(replace(rows(30, x=x), columns=columns), splits).warnings
    assert "in the training split" in warning and ": b;" in warning


def test_groups_that_are_divided_are_a_warning() -> None:
    raw = with_warnings(*split(rows(90, groups=np.arange(90) // 30, group="patient", split="random")))
    assert any("belong to groups of which other rows are in the training split" in w for w in raw.warnings)


def table(folder: Path, name: str, n: int, seed: int = 0, **columns: Any) -> str:
    frame = pandas.DataFrame(np.random.default_rng(seed).normal(size=(n, 5)), columns=list("abcde"))
    frame.assign(**columns).to_csv(folder / name, index=False)
    return str(folder / name)


def test_other_data_are_the_test_split(tmp_path: Path) -> None:
    monday, tuesday = table(tmp_path, "monday.csv", 60), table(tmp_path, "tuesday.csv", 25, seed=1)
    loaded = data.load(Source(place=monday, test=tuesday))
    assert [len(s) for s in (loaded.train, loaded.valid, loaded.test)] == [54, 6, 25]
    assert loaded.description is not None and loaded.description.division.endswith(f"the test split is {tuesday}")
    values = pandas.read_csv(tuesday).to_numpy()
    assert loaded.preprocessing.decode(loaded.test.x) == pytest.approx(values, abs=1e-5)
    again = data.load(Source(place=monday, test=monday))
    assert again.description is not None
    assert any("equal to a training row" in w for w in again.description.warnings)


def test_the_seed_of_the_split_is_part_of_the_digest(tmp_path: Path) -> None:
    place = table(tmp_path, "mine.csv", 60)
    digests = [data.load(Source(place=place, split_seed=s)).digest for s in (1, 1, 2)]
    assert digests[0] == digests[1] != digests[2]
    assert data.load(Source(place="digits", split_seed=3)).digest != data.load("digits").digest
