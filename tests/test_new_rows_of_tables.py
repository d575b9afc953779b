"""New rows for the preprocessing of a table: they are read by the names of its columns, and refused unless they fit."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import torch
from test_columns import POSITIVE, every_kind
from test_tables import ROW, N, frame, written

from pipeline import data
from pipeline.data import Source
from variants import InputError


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
