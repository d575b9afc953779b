"""Tables with an example in each row: what their files and columns mean, and what is refused."""

import gzip
import re
import time
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import torch

from pipeline import data
from pipeline.data import Source
from variants import InputError

N = 60
ROW = np.arange(N)


def frame(**columns: Any) -> pandas.DataFrame:
    """Two real columns and others, in 60 rows."""
    rng = np.random.default_rng(0)
    real = pandas.DataFrame(rng.normal(size=(N, 2)), columns=["age", "weight"])
    return real.assign(**columns)


def labelled() -> pandas.DataFrame:
    return frame(label=np.where(ROW % 2, "ja", "nein"))


def read(content: pandas.DataFrame, **options: Any) -> data.Raw:
    return data.read(Source(place="mine", **options), content).checked()


def written(folder: Path, text: str | bytes, name: str = "mine.csv") -> str:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


def read_file(place: str, **options: Any) -> data.Raw:
    return data.read(Source(place=place, **options)).checked()


def kinds(raw: data.Raw) -> dict[str, Any]:
    return {column.name: (column.kind, column.values) for column in raw.columns}


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("decimal", [".", ","])
def test_the_separator_and_the_decimal_mark_are_found(separator: str, decimal: str, tmp_path: Path) -> None:
    """Where the comma has both roles, fields are in quotes."""
    text = labelled().to_csv(index=False, sep=separator, decimal=decimal, quoting=1)
    raw = read_file(written(tmp_path, text))
    np.testing.assert_allclose(raw.x, frame().to_numpy())
    assert raw.class_names == ("ja", "nein")
    assert any("separated by" in note for note in raw.notes) == ((separator, decimal) != (",", "."))


def test_text_may_hold_separators_and_line_ends(tmp_path: Path) -> None:
    words = ["one; two, three", "four\nfive\tsix"]
    raw = read_file(written(tmp_path, frame(label=words * 30).to_csv(index=False)))
    assert set(raw.class_names) == set(words)


def test_numbers_that_may_be_thousands_are_refused(tmp_path: Path) -> None:
    text = "age;weight\n" + "".join(f"{i + 0.5};{i + 1},234\n" for i in ROW)
    with pytest.raises(InputError, match=r"weight holds text .* row 1 \(line 2 of the file\): '1,234'"):
        read_file(written(tmp_path, text))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_unicode_is_read(encoding: str, tmp_path: Path) -> None:
    text = frame(größe=ROW / 7, label=["später", "früher"] * 30).to_csv(index=False)
    raw = read_file(written(tmp_path, text.encode(encoding)))
    assert [c.name for c in raw.columns] == ["age", "weight", "größe"]
    assert raw.class_names == ("früher", "später")


@pytest.mark.parametrize("name", ["mine.csv", "MINE.CSV", "mine.csv.gz", "mine.parquet", "mine.Feather"])
def test_every_kind_of_file_gives_the_same_table(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    if name.endswith("parquet"):
        labelled().to_parquet(path)
    elif name.endswith("Feather"):
        labelled().to_feather(path)
    else:
        text = labelled().to_csv(index=False).encode()
        path.write_bytes(gzip.compress(text) if name.endswith("gz") else text)
    raw = read_file(str(path))
    np.testing.assert_allclose(raw.x, frame().to_numpy())
    assert raw.class_names == ("ja", "nein")


ROWS = "1.5,2.25,yes\n3.5,4.75,no\n" * 20
BAD_FILES: dict[str, tuple[str | bytes, str]] = {
    "names twice": ("a,b,a\n" + ROWS, "several columns are called a"),
    "a line above the names": ("# made today\na,b,c\n" + ROWS, "first line has 1 fields and the next one 3"),
    "more values than names": ("a,b,c\n" + ROWS.replace("\n", ",\n"), "first line has 3 fields and the next one 4"),
    "a long line": ("a,b,c\n" + ROWS + "1,2,3,4\n", "cannot be read .*Expected 3 fields in line 42, saw 4"),
    "names alone": ("a,b,c\n", "0 rows and 3 columns"),
    "empty": ("", "is empty"),
    "latin-1": ("größe,b,c\n".encode("latin-1") + ROWS.encode(), "is not text in UTF-8"),
    "latin-1 far below": (b"a,b,c\n" + ROWS.encode() * 2000 + b"1,2,j\xe4\n", "is not text in UTF-8"),
    "UTF-16 without a mark": (("a,b,c\n" + ROWS).encode("utf-16-le"), "is not text in UTF-8"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_text_files_are_refused(case: str, tmp_path: Path) -> None:
    text, message = BAD_FILES[case]
    with pytest.raises(InputError, match=rf"mine\.csv.*{message}"):
        read_file(written(tmp_path, text))


@pytest.mark.parametrize("name", ["mine.csv.gz", "mine.parquet", "mine.feather"])
def test_damaged_files_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"{name} cannot be read"):
        read_file(written(tmp_path, b"PAR1 and then nothing", name))


@pytest.mark.parametrize("label", ["", ",setosa"])
def test_a_file_without_names_needs_an_option(label: str, tmp_path: Path) -> None:
    lines = [f"{a},{b}{label}" for a, b in frame().itertuples(index=False)]
    path = written(tmp_path, "\n".join(lines))
    with pytest.raises(InputError, match=r"names of the columns are numbers .*--no-header"):
        read_file(path)
    raw = read_file(path, header=False)
    assert [c.name for c in raw.columns] == ["x0", "x1"]
    np.testing.assert_allclose(raw.x, frame().to_numpy())


def test_the_option_for_files_without_names_is_refused_where_names_are_stored(tmp_path: Path) -> None:
    labelled().to_parquet(tmp_path / "mine.parquet")
    with pytest.raises(InputError, match="--no-header applies to text files only"):
        read_file(str(tmp_path / "mine.parquet"), header=False)


@pytest.mark.parametrize("names", [["0", "1", "2"], ["2019", "2020", "2021"], ["400.5", "402.0", "403.5"], [3, 12, 7]])
def test_numbers_may_be_names(names: list[Any]) -> None:
    raw = read(pandas.DataFrame(np.random.default_rng(0).normal(size=(N, 3)), columns=names))
    assert [c.name for c in raw.columns] == [str(name) for name in names]


@pytest.mark.parametrize("first", [0, 1])
def test_row_numbers_are_no_feature(first: int, tmp_path: Path) -> None:
    numbered = frame().set_axis(ROW + first)
    path = written(tmp_path, numbered.to_csv())
    raw = read_file(path)
    assert [c.name for c in raw.columns] == ["age", "weight"]
    assert "number the rows: Unnamed: 0" in raw.notes[0]
    assert read_file(path, kinds=(("Unnamed: 0", "real"),)).columns[0].name == "Unnamed: 0"
    assert [c.name for c in read(numbered.reset_index(names="nr")).columns] == ["age", "weight"]


def test_the_index_of_a_frame_labels_the_rows(tmp_path: Path) -> None:
    named = frame().set_axis([f"patient {i}" for i in ROW])
    named.to_parquet(tmp_path / "mine.parquet")
    for raw in (read(named), read_file(str(tmp_path / "mine.parquet"))):
        assert list(raw.rows) == list(named.index)
        assert len(raw.columns) == 2


IDENTIFIERS = {
    "id": ROW[::-1], "ID": ROW * 3, "patient_id": ROW // 3, "PatientID": ROW // 3, "customer id": ROW[::-1],
    "uuid": [f"key{i}" for i in ROW], "Unnamed: 0": ROW * 2, "number": ROW + 1000,
}  # fmt: skip


@pytest.mark.parametrize("name", IDENTIFIERS)
def test_identifiers_are_no_features_without_a_word(name: str) -> None:
    content = frame(**{name: IDENTIFIERS[name]})
    with pytest.raises(InputError, match=f"the column {name} looks like an identifier .*--drop .*--group .*--kind"):
        read(content)
    assert read(content, drop=(name,)).x.shape == (N, 2)
    assert read(content, group=name).x.shape == (N, 2)
    if name != "uuid":
        assert read(content, kinds=((name, "real"),)).x.shape == (N, 3)


@pytest.mark.parametrize("name", ["acid", "humid", "idle", "classic", "yield", "class_size"])
def test_other_names_are_features(name: str) -> None:
    assert name in kinds(read(frame(**{name: ROW * 3})))


@pytest.mark.parametrize(
    "name", ["Label", "labels", "TARGET", "class", "y", "Outcome", "cell type", "Cell_Type", "species", "is_target"]
)
def test_a_column_that_looks_like_the_label_is_no_feature_without_a_word(name: str) -> None:
    content = frame(**{name: ROW % 2})
    with pytest.raises(InputError, match=f"the column {name} looks like the label.*--label .*--kind .*=real.*--drop"):
        read(content)
    raw = read(content, label=name)
    assert raw.y is not None
    assert raw.y.tolist() == (ROW % 2).tolist()
    assert "label" not in str(raw.notes)
    assert read(content, drop=(name,)).y is None
    assert read(content, kinds=((name, "real"),)).x.shape == (N, 3)


def test_x_and_y_are_coordinates() -> None:
    assert list(kinds(read(frame().set_axis(["x", "y"], axis=1)))) == ["x", "y"]


def test_labels_may_be_missing_and_are_kept_as_they_were_given(tmp_path: Path) -> None:
    words = np.where(ROW % 3, np.where(ROW % 2, "None", "mild"), "")
    raw = read_file(written(tmp_path, frame(label=words).to_csv(index=False)))
    assert raw.class_names == ("None", "mild")
    assert raw.y is not None
    assert (raw.y == -1).tolist() == (ROW % 3 == 0).tolist()


def test_white_space_around_text_does_not_count(tmp_path: Path) -> None:
    rows = [f"{i**1.5},{'yes ' if i % 3 else 'no'},p{i % 9}{' ' * (i % 2)},{'ab'[i % 2]}\t" for i in ROW]
    raw = read_file(written(tmp_path, "\n".join(["a,answer,patient,label", *rows])), group="patient")
    assert kinds(raw)["answer"] == ("binary", ("no", "yes"))
    assert raw.class_names == ("a", "b")
    assert raw.groups is not None and raw.groups.max() == 8


@pytest.mark.parametrize("option", ["group", "series"])
def test_groups_and_sequences_have_values_that_can_be_compared(option: str) -> None:
    content = frame(time=ROW, **{option: [[i % 10] for i in ROW]})
    with pytest.raises(InputError, match=f"the values of the column {option} cannot be compared"):
        read(content, group="group" if option == "group" else None)


@pytest.mark.parametrize("backend", ["numpy_nullable", "pyarrow"])
def test_the_types_of_columns_in_memory_do_not_matter(backend: Any) -> None:
    content = frame(b=ROW % 3 == 0, c=np.where(ROW % 2, "u", "v"))
    expected, raw = read(content), read(content.convert_dtypes(dtype_backend=backend))
    np.testing.assert_array_equal(raw.x, expected.x)
    assert kinds(raw) == kinds(expected)


def test_a_table_of_many_thousand_columns_is_read_in_seconds() -> None:
    content = pandas.DataFrame(np.random.default_rng(0).normal(size=(40, 5000))).add_prefix("gene ")
    begin = time.process_time()
    loaded = data.load("mine", content)
    data.read(loaded.source, content, loaded.preprocessing)
    assert time.process_time() - begin < 8


def test_a_number_to_predict_is_no_label() -> None:
    with pytest.raises(InputError, match=r"the label column price holds fractions such as 0\.5; expected classes"):
        read(frame(price=ROW + 0.5), label="price")


def test_labels_of_several_types_are_refused() -> None:
    with pytest.raises(InputError, match="the labels have type object; expected whole numbers or strings"):
        read(frame(label=pandas.Series([1, "one"] * 30, dtype=object)))


def test_groups_and_times_are_no_features() -> None:
    content = frame(patient=[f"p{i // 3}" for i in ROW], day=pandas.date_range("2020-01-01", periods=N).astype(str))
    raw = read(content, group="patient", time="day")
    assert raw.groups is not None
    assert raw.groups.tolist() == (ROW // 3).tolist()
    assert raw.times is not None
    assert np.diff(raw.times).tolist() == [86400.0] * (N - 1)
    assert len(raw.columns) == 2
    content.loc[7, "patient"] = None
    with pytest.raises(InputError, match="row 8 has no value in the column patient"):
        read(content, group="patient", time="day")


def test_a_column_may_name_the_splits() -> None:
    words = ["Train"] * 40 + ["val"] * 10 + ["test"] * 10
    loaded = data.load("mine", frame(split=words))
    assert [len(s) for s in (loaded.train, loaded.valid, loaded.test)] == [40, 10, 10]
    np.testing.assert_allclose(loaded.preprocessing.decode(loaded.test.x), frame().to_numpy()[50:], rtol=1e-6)
    loaded = data.load("mine", frame(part=["training"] * 50 + ["testing"] * 10))
    assert [len(s) for s in (loaded.train, loaded.valid, loaded.test)] == [45, 5, 10]
    with pytest.raises(InputError, match="the column split names train and val; expected training and test rows"):
        read(frame(split=["train", "val"] * 30))
    assert read(frame(split=words), split="random").splits is None


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


OPTIONS: dict[str, tuple[dict[str, Any], str]] = {
    "label": ({"label": "Age"}, r"--label Age: there is no column of this name \(did you mean age\?\)"),
    "group": ({"group": "wait"}, r"--group wait: .*did you mean weight"),
    "time": ({"time": "day"}, "--time day: there is no column"),
    "drop": ({"drop": ("ages",)}, "--drop ages: there is no column"),
    "kind of no column": ({"kinds": (("ages", "real"),)}, "--kind ages: there is no column"),
    "count of fractions": (
        {"kinds": (("age", "count"),)},
        "row 1 has .* in the column age, .* kind count; expected whole numbers from 0, or --kind age=real",
    ),
    "binary of many": ({"kinds": (("age", "binary"),)}, "--kind age=binary does not fit the 60 different values"),
    "positive of negative numbers": ({"kinds": (("age", "positive"),)}, "row 3 has -.* kind positive; .* above 0"),
    "sequence of rows with an example each": ({"kinds": (("x", "pixels"), ("age", "sequence"))}, "age"),
    "mixed": ({"likelihood": "mixed"}, "--likelihood mixed cannot be chosen; expected one of gaussian"),
    "logistic8": ({"likelihood": "logistic8"}, "--likelihood logistic8 is for 8-bit pixels of images"),
    "size": ({"size": (1, 2)}, "--size does not apply .*--kind x=pixels"),
    "pixels of fractions": ({"kinds": (("x", "pixels"),), "size": (1, 2)}, "whole numbers from 0 to 255"),
    "pixels of no image": ({"kinds": (("x", "pixels"),)}, "2 columns of pixels are no image"),
}


@pytest.mark.parametrize("case", OPTIONS)
def test_options_that_do_not_fit_are_refused(case: str) -> None:
    options, message = OPTIONS[case]
    with pytest.raises(InputError, match=f"mine: .*{message}"):
        read(frame(), **options)


def test_bad_frames_are_refused() -> None:
    with pytest.raises(InputError, match="the names of the columns have 2 levels"):
        read(frame().set_axis(pandas.MultiIndex.from_tuples([("a", 1), ("a", 2)]), axis=1))
    with pytest.raises(InputError, match="several columns are called a"):
        read(frame().set_axis(["a", "a"], axis=1))
    with pytest.raises(InputError, match=r"no columns of values.* one value or none: a"):
        read(pandas.DataFrame({"a": np.ones(N)}))


def test_rows_of_pixels_are_images() -> None:
    rng = np.random.default_rng(0)
    names = [f"pixel{i}" for i in range(6)]
    pixels = pandas.DataFrame(rng.integers(0, 256, (N, 6)), columns=names).assign(pixel0=0)
    source = Source(place="mine", kinds=(("x", "pixels"),), size=(2, 3))
    loaded = data.load(source, pixels.assign(label=ROW % 2))
    assert (loaded.spec.shape, loaded.spec.likelihood, loaded.spec.classes) == ((1, 2, 3), "logistic8", 2)
    new = data.read(source, pixels[names[::-1]], loaded.preprocessing)
    assert new.x.reshape(N, 6).tolist() == pixels.to_numpy().tolist()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> data.Preprocessing:
    """What a model knows of the table of `new_rows`, after it was saved and loaded."""
    folder = tmp_path_factory.mktemp("model")
    data.load(Source(place="mine", kinds=(("price", "positive"),)), new_rows()).preprocessing.save(folder)
    loaded = data.Preprocessing.load(folder)
    assert loaded is not None
    return loaded


def new_rows(**columns: Any) -> pandas.DataFrame:
    """A table with columns of each kind, with some changed."""
    content = frame(visits=ROW % 5, flag=ROW % 2 == 0, sex=np.where(ROW % 3, "m", "f"), code=np.where(ROW % 2, 7, 5))
    content = content.assign(town=np.array(["Ulm", "Bonn", "Köln"])[ROW % 3], price=np.exp(ROW / 20))
    return content.assign(empty=1, label=np.where(ROW % 2, "ja", "nein")).assign(**columns)


def encoded(content: Any, trained: data.Preprocessing, **options: Any) -> Any:
    return trained.encode(data.read(Source(place="new", **options), content, trained)).x


def test_new_rows_are_read_by_the_names_of_their_columns(trained: data.Preprocessing, tmp_path: Path) -> None:
    content = new_rows()
    x = encoded(content, trained)
    assert (encoded(content[content.columns[::-1]], trained) == x).all()
    assert (encoded(content.drop(columns=["label", "empty"]), trained) == x).all()
    assert (encoded(content[3:4], trained) == x[3:4]).all()
    same = {"flag": ROW % 2 ^ 1, "sex": pandas.Categorical(content["sex"]), "code": content["code"].astype(float)}
    assert (encoded(new_rows(**same), trained) == x).all()
    restored = pandas.DataFrame(trained.decode(x), columns=[c.name for c in trained.columns])
    numbers = ["age", "weight", "visits", "price"]
    np.testing.assert_allclose(restored[numbers], content[numbers], rtol=1e-5, atol=1e-6)
    assert (restored["town"].map(dict(enumerate(["Bonn", "Köln", "Ulm"]))) == content["town"]).all()
    path = written(tmp_path, content[:5].to_csv(sep=";", decimal=","))
    raw = data.read(Source(place=path), None, trained)
    np.testing.assert_allclose(trained.encode(raw).x, x[:5], atol=1e-6)
    assert raw.y is not None
    assert raw.y.tolist() == [1, 0, 1, 0, 1]
    assert any("Unnamed: 0" in note for note in raw.notes)


BAD_ROWS: dict[str, tuple[dict[str, Any], str]] = {
    "text": ({"age": ["old"] * N}, "age holds text where numbers are expected, the first in row 1: 'old'"),
    "dates": ({"age": pandas.date_range("2020-01-01", periods=N)}, "age holds dates"),
    "another word": ({"sex": ["m"] * 59 + ["d"]}, "row 60 has 'd' in the column sex; .*'f' and 'm'"),
    "another number": ({"code": 6}, "row 1 has 6 in the column code; .*5 and 7"),
    "another class": ({"label": "vielleicht"}, "unknown classes vielleicht"),
    "missing": ({"age": np.nan}, "missing values in age"),
    "all missing": ({"sex": None}, "missing values in sex"),
    "another category": ({"town": ["Bonn"] * 6 + ["Rome"] * 54},
                         "row 7 has 'Rome' in the column town; .*'Bonn', 'Köln' and 'Ulm'"),
    "a negative count": ({"visits": -ROW}, "row 2 has -1 in the column visits, .* kind count; .*trained on"),
    "a fraction of a count": ({"visits": ROW + 0.5}, "row 1 has 0.5 in the column visits"),
    "zero": ({"price": ROW}, "row 1 has 0 in the column price, which is of the kind positive"),
    "infinite": ({"age": np.inf}, "age has 60 infinite values"),
    "other units": ({"weight": ROW * 1e6}, "weight .*the same units"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_ROWS)
def test_new_rows_that_do_not_fit_are_refused(case: str, trained: data.Preprocessing) -> None:
    columns, message = BAD_ROWS[case]
    with pytest.raises(InputError, match=f"new: .*{message}"):
        encoded(new_rows(**columns), trained)


def test_columns_that_are_missing_or_renamed_are_named(trained: data.Preprocessing) -> None:
    with pytest.raises(InputError, match=r"columns are missing: age and sex \(did you mean Sex\?\)"):
        encoded(new_rows().rename(columns={"sex": "Sex"}).drop(columns="age"), trained)


def test_new_rows_without_names_keep_their_positions(tmp_path: Path) -> None:
    text = frame().to_csv(index=False, header=False)
    source = Source(place=written(tmp_path, text), header=False)
    like = data.load(source).preprocessing
    new = Source(place=written(tmp_path, text[: text.index("\n") + 1], "new.csv"), header=False)
    np.testing.assert_allclose(data.read(new, None, like).x, frame().to_numpy()[:1])
    narrow = Source(place=written(tmp_path, "1.5\n2.5\n", "narrow.csv"), header=False)
    with pytest.raises(InputError, match="columns are missing: x1"):
        data.read(narrow, None, like)


@pytest.mark.parametrize("values", [np.arange(15), 1000 + np.arange(15), [f"p{i}" for i in range(15)]])
@pytest.mark.parametrize("name", ["patient", "Subject", "device_nr", "user 2"])
def test_values_that_may_name_groups_are_pointed_out(name: str, values: Any) -> None:
    content = frame(**{name: np.repeat(values, 4)})
    (warning,) = (w for w in read(content).warnings if "--group" in w)
    assert name in warning
    assert not [w for w in read(content, group=name).warnings if "--group" in w]
    kind = re.findall(r"=(\w+)", warning)[0]
    assert not [w for w in read(content, kinds=((name, kind),)).warnings if "--group" in w]


@pytest.mark.parametrize("name", ["is_fraud", "Klasse", "Étiquette", "churn"])
def test_labels_of_other_languages_and_trades_are_asked_for(name: str) -> None:
    frame = pandas.DataFrame({"a": np.random.default_rng(0).normal(size=60), name: np.arange(60) % 2})
    with pytest.raises(InputError, match=f"{name} looks like the label.*--label '?{name}"):
        data.load("mine", frame)


def test_only_columns_that_are_called_like_pixels_are_offered_as_images() -> None:
    counts = np.random.default_rng(0).integers(0, 200, (60, 25))
    with pytest.raises(InputError, match="--size 5x5"):
        data.load("mine", pandas.DataFrame(counts, columns=[f"pixel{i}" for i in range(25)]))
    assert read(pandas.DataFrame(counts, columns=[f"GENE{i}" for i in range(25)])).likelihood == "negative-binomial"
    pixels = pandas.DataFrame(counts, columns=[f"pixel{i}" for i in range(25)])
    assert read(pixels, likelihood="negative-binomial").likelihood == "negative-binomial"


def test_new_rows_and_test_rows_may_have_missing_values(tmp_path: Path) -> None:
    content = every_kind()
    loaded = data.load(POSITIVE, content)
    new = data.read(POSITIVE, content.iloc[::-1].assign(**{"a count": None}), loaded.preprocessing)
    batch = loaded.preprocessing.encode(new)
    assert batch.observed is not None and batch.observed.any() and not batch.observed.all()
    content.to_csv(tmp_path / "other.csv", index=False)
    source = Source(place="mine", kinds=POSITIVE.kinds, test=str(tmp_path / "other.csv"))
    tested = data.load(source, content[:40])
    expected = loaded.preprocessing.encode(data.read(POSITIVE, content, loaded.preprocessing)).observed
    assert tested.test.observed is not None and expected is not None
    assert torch.equal(tested.test.observed, expected)
    content.assign(**{"a category": "pink"}).to_csv(tmp_path / "other.csv", index=False)
    with pytest.raises(InputError, match=r"other\.csv: row 1 .* has 'pink' in the column a category"):
        data.load(source, content[:40])
