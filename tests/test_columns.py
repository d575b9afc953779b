"""Columns of tables: their kinds, likelihoods and exposures, and what becomes of missing values."""

import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import torch
from test_tables import ROW, N, frame, kinds, read

from pipeline import data
from pipeline.data import Source
from variants import InputError

COLUMNS: dict[str, tuple[Any, str, tuple[Any, ...]]] = {
    "fractions": (ROW * 1.5, "real", ()),
    "negative whole numbers": (-(ROW % 5), "real", ()),
    "whole numbers": (ROW % 5, "count", ()),
    "whole numbers as floats": ((ROW % 5).astype(np.float32), "count", ()),
    "nullable whole numbers": (pandas.array(ROW % 5, dtype="Int64"), "count", ()),
    "whole numbers that vary less than counts": (2000 + ROW % 7, "real", ()),
    "very large whole numbers": (ROW**2 * 1000, "real", ()),
    "three words": (["c", "a", "b"] * 20, "category", ("a", "b", "c")),
    "ordinals": (["1st", "2nd", "3rd"] * 20, "category", ("1st", "2nd", "3rd")),
    "numbered categories": (pandas.Categorical([30, 2, 11] * 20), "category", (2, 11, 30)),
    "decimals": ([Decimal(f"{i}.5") for i in ROW], "real", ()),
    "two numbers": (np.where(ROW % 2, 2.5, -1), "binary", (-1, 2.5)),
    "booleans": (ROW % 2 == 0, "binary", (False, True)),
    "nullable booleans": (pandas.array(ROW % 2 == 0, dtype="boolean"), "binary", (False, True)),
    "two words": (np.where(ROW % 2, "yes", "no"), "binary", ("no", "yes")),
    "two categories": (pandas.Categorical(np.where(ROW % 2, "yes", "no")), "binary", ("no", "yes")),
    "sparse": (pandas.arrays.SparseArray((ROW % 7) * 0.5), "real", ()),
}


@pytest.mark.parametrize("with_holes", [False, True])
@pytest.mark.parametrize("case", COLUMNS)
def test_the_kind_of_a_column_follows_from_its_values(case: str, with_holes: bool) -> None:
    """The kind and the values are the same if some values are missing."""
    values, kind, known = COLUMNS[case]
    series = pandas.Series(values)
    plain = series.astype(object).tolist()
    expected = [float(known.index(value)) if known else float(value) for value in plain]
    if with_holes:
        series = series.mask(ROW % 7 == 0)
        expected = [np.nan if i % 7 == 0 else value for i, value in enumerate(expected)]
    raw = read(frame(new=series))
    assert kinds(raw)["new"] == (kind, known)
    np.testing.assert_array_equal(raw.x[:, 2], expected)


GIVEN: dict[str, tuple[Any, str, tuple[Any, ...]]] = {
    "counts are real": (ROW % 5, "real", ()),
    "two numbers are real": (ROW % 2, "real", ()),
    "fractions are positive": (ROW + 0.5, "positive", ()),
    "small whole numbers are counts": (2000 + ROW % 7, "count", ()),
    "two numbers are counts": (ROW % 2, "count", ()),
    "two words are categories": (["b", "a"] * 30, "category", ("a", "b")),
    "whole numbers are categories": (ROW % 5 + 3, "category", (3, 4, 5, 6, 7)),
    "many words are categories": ([f"place {i % 50:02}" for i in ROW], "category",
                                  tuple(f"place {i:02}" for i in range(50))),
    "a question mark is a value": (["?", "yes"] * 30, "binary", ("?", "yes")),
}  # fmt: skip


@pytest.mark.parametrize("case", GIVEN)
def test_an_option_gives_a_column_another_kind(case: str) -> None:
    values, kind, known = GIVEN[case]
    raw = read(frame(new=values), kinds=(("new", kind),))
    assert kinds(raw)["new"] == (kind, known)
    expected = [known.index(value) for value in pandas.Series(values).tolist()] if known else values
    np.testing.assert_array_equal(raw.x[:, 2], expected)


BAD_COLUMNS: dict[str, tuple[Any, str]] = {
    "thousands": ([f"{1000 + i:,}" for i in ROW], r"new holds text where numbers are expected, .*row 1: '1,000'"),
    "percent": ([f"{i}%" for i in ROW], r"new holds text .*row 1: '0%'"),
    "one question mark": (["?" if i == 6 else f"{i}.5" for i in ROW], r"new holds text .*row 7: '\?'"),
    "words and numbers": (["n/a" if i == 6 else i for i in ROW], r"new holds text .*row 7: 'n/a'"),
    "a word and a question mark": (["yes", "?"] * 30, r"new holds '\?', which may stand for a missing value"),
    "units": ([f"{i} kg" for i in ROW], r"new holds text .*row 1: '0 kg'"),
    "words and a question mark": (["a", "b", "?"] * 20, r"new holds '\?', .* --kind new=category"),
    "free text": ([f"word{i % 40} etc." for i in ROW], r"too many .* values .* new \(40 different.*--drop.*--label"),
    "dates": (pandas.date_range("2020-01-01", periods=N), "new holds dates or times .*--time new"),
    "dates as text": ([f"{1 + i % 28}.3.2020" for i in ROW], "new holds dates or times .*--time new"),
    "durations": (pandas.to_timedelta(ROW, unit="s"), "new holds dates or times"),
    "infinite": (np.where(ROW == 6, np.inf, ROW), "new has 1 infinite values, the first in row 7"),
    "too large": (2**60 + ROW**2, "whole numbers beyond"),
    "complex": (ROW * 1j, "values of the type complex"),
    "lists": ([[1, 2]] * N, "values of the type mixed"),
}


@pytest.mark.parametrize("case", BAD_COLUMNS)
def test_columns_that_are_no_numbers_are_refused(case: str) -> None:
    values, message = BAD_COLUMNS[case]
    with pytest.raises(InputError, match=f"mine: .*{message}"):
        read(frame(new=values))
    assert read(frame(new=values), drop=("new",)).x.shape == (N, 2)


def test_all_columns_of_free_text_are_named_at_once() -> None:
    with pytest.raises(InputError, match=r"country \(60 different values\) and shop \(31 different values\)"):
        read(frame(country=[f"country{i}" for i in ROW], shop=[f"shop{i % 31}" for i in ROW]))


def test_constant_and_empty_columns_are_left_out_and_named() -> None:
    some = np.where(ROW % 2, np.nan, 5)
    raw = read(frame(one=1, word="a", empty=None, undated=pandas.Series([pandas.NaT] * N, dtype=object), some=some))
    assert raw.x.shape == (N, 2)
    assert any("one, word, empty, undated and some" in note for note in raw.notes)


def test_binary_columns_alone_are_bernoulli() -> None:
    raw = read(frame().assign(age=ROW % 2, weight=np.where(ROW % 3, "yes", "no")))
    assert raw.likelihood == "bernoulli"
    assert raw.x.dtype == np.bool_
    assert raw.x.tolist() == np.stack([ROW % 2, ROW % 3 > 0], axis=1).tolist()


WORDS = np.array(["red", "green", "blue"])[ROW % 3]
KINDS: dict[str, tuple[Any, str, list[str]]] = {  # values of a kind, its default likelihood, and others
    "real": (ROW * 0.5 - 7, "gaussian", ["student-t"]),
    "positive": (np.exp(ROW / 10), "log-normal", ["gamma"]),
    "count": (ROW % 5, "negative-binomial", ["poisson", "zero-inflated"]),
    "binary": (ROW % 2, "bernoulli", []),
    "category": (WORDS, "categorical", []),
}


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_has_its_likelihoods(kind: str) -> None:
    """Alone, columns have the likelihood of the whole, except for categories; beside others, each has its own."""
    values, default, others = KINDS[kind]
    alone = pandas.DataFrame({"a": values, "b": np.roll(values, 1)})
    mixed = pandas.DataFrame({"a": values, **{f"other {k}": v for k, (v, *_) in KINDS.items() if k != kind}})
    given = {name: "positive" for name in ("a", "b") if kind == "positive"} | {"other positive": "positive"}
    for likelihood in (None, default, *others):
        options = {"likelihood": likelihood} if likelihood != "gaussian" else {}
        raw = read(alone, kinds=tuple((n, k) for n, k in given.items() if n in alone), **options)
        family = likelihood or default
        assert raw.likelihoods == [family] * 2
        assert raw.likelihood == ("mixed" if kind == "category" else family)
        raw = read(mixed, kinds=tuple((n, k) for n, k in given.items() if n in mixed), **options)
        expected = [family, *(default for k, (_, default, _) in KINDS.items() if k != kind)]
        assert (raw.likelihood, raw.likelihoods) == ("mixed", expected)


@pytest.mark.parametrize("kind", KINDS)
def test_a_likelihood_without_a_column_of_its_kind_is_refused(kind: str) -> None:
    """The message names the option that gives a column this kind."""
    name = "count" if kind == "real" else "real"
    content = pandas.DataFrame({"a": KINDS[name][0], "b": KINDS[name][0][::-1]})
    likelihood = "student-t" if kind == "real" else KINDS[kind][1]
    with pytest.raises(InputError, match=f"--likelihood {likelihood} is for .* {kind}, .*{name}: a and b.*=({kind})"):
        read(content, likelihood=likelihood)


def test_all_columns_may_be_modelled_as_continuous() -> None:
    content = frame(flag=ROW % 2 == 0, visits=ROW % 5)
    raw = read(content, likelihood="gaussian")
    assert (raw.likelihood, raw.likelihoods) == ("gaussian", ["gaussian"] * 4)
    assert "flag and visits: the values are discrete" in raw.warnings[0]
    raw = read(content, likelihood="gaussian", kinds=(("visits", "count"),))
    assert raw.likelihoods == ["gaussian"] * 3 + ["negative-binomial"]
    with pytest.raises(InputError, match=r"colour: .* categories, .*--drop colour, or --kind colour=category"):
        read(frame(colour=WORDS), likelihood="gaussian")
    mixed = read(frame(colour=WORDS), likelihood="gaussian", kinds=(("colour", "category"),))
    assert mixed.likelihoods == ["gaussian", "gaussian", "categorical"]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (ROW % 5 / 2, "discrete.*--kind new=category"),
        (2000 + ROW % 5, "discrete.*--kind new=category.*--kind new=count"),
        (2000 + ROW, "discrete.*--kind new=count fits counts and --kind new=real"),
        (ROW - 30, "discrete.*--kind new=real"),
        (ROW % 5, "counts, but the largest one is common.*--kind new=category.*--kind new=count"),
        (np.exp(ROW / 6), "much larger.*--kind new=positive"),
    ],
)
def test_a_density_that_does_not_fit_comes_with_a_warning_and_the_kind_that_does(values: Any, words: str) -> None:
    new = np.random.default_rng(0).permutation(values)
    (warning,) = read(frame(new=new)).warnings
    assert re.search(f"new: .*{words}", warning)
    kind = re.findall(r"new=(\w+)", warning)[-1]
    assert not read(frame(new=new), kinds=(("new", kind),)).warnings
    assert not read(frame()).warnings


@pytest.mark.parametrize("usual", [ROW % 7, ROW / 7 - 3, np.where(ROW % 9, ROW % 7, np.nan)])
def test_a_value_far_from_all_others_comes_with_a_warning(usual: Any) -> None:
    new = np.random.default_rng(0).permutation(usual)
    assert not any("times larger" in warning for warning in read(frame(new=new)).warnings)
    new[7] = 1e6
    assert any(re.search(r"times larger .* new \(1,000,000\)", warning) for warning in read(frame(new=new)).warnings)


def genes(n: int = 12) -> pandas.DataFrame:
    """Counts of 12 genes in 60 cells, of which the last one is rare, and the first one varies little by chance."""
    rng = np.random.default_rng(0)
    counts = rng.negative_binomial(2, 0.3, size=(N, n)) + (ROW % 3)[:, None]
    counts[:, -1] = ROW % 30 == 0
    counts[:, 0] = rng.permutation(2 + ROW % 4)
    return pandas.DataFrame(counts, columns=[f"gene {i}" for i in range(n)])


def test_many_columns_of_counts_are_modelled_given_their_sum() -> None:
    """A rare gene with only two values, and a gene that varies little, are counts like all others."""
    raw = read(genes())
    assert (raw.likelihood, raw.exposure_kind) == ("negative-binomial", "sum")
    assert any("--exposure none" in note for note in raw.notes)
    assert any("gene 0 and gene 11; --kind" in note for note in raw.notes)
    assert read(genes(), kinds=(("gene 11", "binary"),)).likelihood == "mixed"
    assert read(genes().assign(flag=ROW % 2)).likelihoods[-1] == "bernoulli"
    assert read(genes().assign(opened=2000 + ROW % 20)).likelihoods[-1] == "gaussian"
    loaded = data.load("mine", genes())
    assert loaded.spec.exposure == "sum"
    assert loaded.train.exposure is not None
    torch.testing.assert_close(loaded.train.exposure, loaded.train.x.sum(1).float())
    assert read(genes(), exposure="none").exposure_kind == ""
    assert read(genes().assign(age=ROW / 7)).exposure_kind == ""
    assert read(genes(5)).exposure_kind == ""
    assert read(genes(5), exposure="sum", kinds=(("gene 4", "count"),)).exposure_kind == "sum"


def test_a_column_may_be_the_exposure() -> None:
    hours = 1 + ROW % 4
    content = frame(visits=ROW % 5, hours=hours)
    loaded = data.load(Source(place="mine", exposure="hours", split="random"), content)
    assert [c.name for c in loaded.preprocessing.columns] == ["age", "weight", "visits"]
    assert loaded.spec.exposure == "column"
    assert loaded.train.exposure is not None and set(loaded.train.exposure.tolist()) == {1.0, 2.0, 3.0, 4.0}
    source = loaded.source
    new = data.read(source, content[:4], loaded.preprocessing)
    assert loaded.preprocessing.encode(new).exposure.tolist() == hours[:4].tolist()  # type: ignore[union-attr]
    with pytest.raises(InputError, match="--exposure hours: there is no column"):
        data.read(source, content.drop(columns="hours"), loaded.preprocessing)
    bad = content.assign(hours=hours * (ROW != 6))
    for like in (None, loaded.preprocessing):
        with pytest.raises(InputError, match="row 7 has 0 in the column hours; expected an exposure above 0"):
            data.read(source, bad, like)
    with pytest.raises(InputError, match="row 7 has no value in the column hours"):
        read(content.assign(hours=np.where(ROW == 6, np.nan, hours)), exposure="hours")


@pytest.mark.parametrize("exposure", ["sum", "weight"])
def test_an_exposure_without_counts_is_refused(exposure: str) -> None:
    content = frame().abs()
    with pytest.raises(InputError, match=f"--exposure {exposure} is for counts, .*no columns of counts.*--kind"):
        read(content, exposure=exposure)


@pytest.mark.parametrize(
    "content",
    [
        {"x": np.arange(20 * 16).reshape(20, 4, 4)},
        [np.arange(n, 2 * n) for n in range(5, 25)],
        {"x": np.arange(20 * 12).reshape(20, 6, 2), "lengths": np.arange(20) % 6 + 1},
        pandas.DataFrame({"series": np.arange(60) // 3, "time": np.arange(60) % 3, "n": np.arange(60)}),
    ],
    ids=["images", "a list of sequences", "padded sequences", "a table of steps"],
)
def test_only_a_table_has_an_exposure(content: Any) -> None:
    with pytest.raises(InputError, match=r"--exposure cannot be used with (images|sequences)"):
        data.read(Source(place="mine", likelihood="poisson", exposure="sum"), content)


def every_kind() -> pandas.DataFrame:
    """A column of each kind, each with missing values in other rows."""
    content = pandas.DataFrame({f"a {kind}": values for kind, (values, *_) in KINDS.items()}).astype(object)
    for i, column in enumerate(content):
        content[column] = content[column].mask((ROW + i) % 6 == 0)
    return content


POSITIVE = Source(place="mine", kinds=(("a positive", "positive"),))


def test_missing_values_of_each_kind_survive_the_way_to_tensors_and_back(tmp_path: Path) -> None:
    content = every_kind()
    path = tmp_path / "mine.csv"
    content.to_csv(path, index=False)
    for place in (Source(place=str(path), kinds=POSITIVE.kinds), POSITIVE):
        loaded = data.load(place, None if place.place != "mine" else content)
        raw = data.read(loaded.source, None if place.place != "mine" else content, loaded.preprocessing)
        batch = loaded.preprocessing.encode(raw)
        assert loaded.spec.missing and batch.observed is not None
        assert ((batch.x == 0) | batch.observed).all()
        assert batch.x.shape == (N, 4 + 3)  # three categories
        restored = loaded.preprocessing.decode(batch.x)
        expected = content.replace({"blue": 0, "green": 1, "red": 2}).astype(float)
        is_known = content.notna().to_numpy()
        np.testing.assert_allclose(restored[is_known], expected.to_numpy()[is_known], rtol=1e-5, atol=1e-5)
        assert (np.isnan(raw.x) == ~is_known).all()


def test_rows_without_values_are_kept_with_a_warning() -> None:
    content = frame()
    content.loc[[3, 5]] = np.nan
    loaded = data.load("mine", content)
    assert sum(map(len, (loaded.train, loaded.valid, loaded.test))) == N
    assert any("2 of 60 rows have no values at all" in warning for warning in loaded.inspect().warnings)


def test_the_digest_covers_kinds_categories_and_exposures() -> None:
    content = frame(visits=ROW % 5, colour=WORDS, hours=1 + ROW % 4)
    hole = content.assign(age=content["age"].where(ROW != 7))
    other_words = content.assign(colour=[f"light {word}" for word in WORDS])
    variants_of_it = {
        "plain": data.load("mine", content),
        "another kind": data.load(Source(place="mine", kinds=(("visits", "category"),)), content),
        "another family": data.load(Source(place="mine", likelihood="poisson"), content),
        "other categories": data.load("mine", other_words),
        "a missing value": data.load("mine", hole),
        "an exposure": data.load(Source(place="mine", exposure="hours"), content),
        "another exposure": data.load(Source(place="mine", exposure="hours"), content.assign(hours=2 + ROW % 4)),
    }
    assert len({loaded.digest for loaded in variants_of_it.values()}) == len(variants_of_it)
    assert data.load("mine", content).digest == variants_of_it["plain"].digest
