"""Tables with an example in each row: what their files and columns mean, and what is refused."""

import gzip
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest

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
