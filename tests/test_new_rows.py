"""New rows for a trained model: what fits gives the same codes, and what does not is refused in words."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from test_model import COLUMNS, QUICK, images, table, waves

from pipeline.model import Model
from variants import InputError

Change = Callable[[Any], Any]


@pytest.fixture(scope="module")
def models() -> dict[str, Model]:
    """Return models of a table with a binary column, of a mixed table with missing values, of images, and of sequences.

    There are colour images, and images whose values are scaled.
    """
    frame = table().assign(member=np.where(np.arange(300) % 3, "yes", "no"))
    scaled = np.random.default_rng(0).random((100, 9, 6))
    return {
        "table": Model("vae", data_options={"kinds": (("member", "binary"),)}, **QUICK).fit(frame),
        "mixed": Model("vae", **QUICK).fit(mixed(300)),
        "images": Model("vae", **QUICK).fit(images()),
        "scaled": Model("vae", data_options={"kinds": (("x", "pixels"),)}, **QUICK).fit(scaled),
        "sequences": Model("vrae", width=8, latent=2, **QUICK).fit(waves()),
    }


def rows() -> pd.DataFrame:
    return table(20, seed=5).assign(member=np.where(np.arange(20) % 3, "yes", "no"))


def mixed(n: int = 20) -> pd.DataFrame:
    """Rows with numbers, counts and categories, of which some are missing."""
    row = np.arange(n)
    frame = table(n).drop(columns="label").assign(visits=row % 5, town=np.array(["Ulm", "Bonn", "Köln"])[row % 3])
    return frame.mask(np.random.default_rng(0).random(frame.shape) < 0.2)


SAME: dict[str, tuple[str, Any, Change]] = {
    "another order of columns": ("table", rows(), lambda f: f[[*reversed(f.columns)]]),
    "no label": ("table", rows(), lambda f: f.drop(columns="label")),
    "a column more": ("table", rows(), lambda f: f.assign(more=1)),
    "unknown classes": ("table", rows(), lambda f: f.assign(label=np.nan)),
    "float32 of small numbers": ("table", rows(), lambda f: f.astype({"a": np.float32, "e": np.float32})),
    "numbers as objects": ("table", rows(), lambda f: f.astype({"a": object})),
    "nullable types": ("mixed", mixed(), lambda f: f.convert_dtypes()),
    "counts as text": ("mixed", mixed(), lambda f: f.astype({"visits": object, "town": "category"})),
    "wider integers": ("images", images(5), lambda x: x.astype(np.int64)),
    "whole floats": ("images", images(5), lambda x: x.astype(np.float64)),
    "a list of shorter sequences": ("sequences", waves(5), lambda s: s),
}


@pytest.mark.parametrize("name", SAME)
def test_rows_that_fit_give_the_same_codes(models: dict[str, Model], name: str) -> None:
    kind, plain, change = SAME[name]
    model = models[kind]
    expected = model.transform(plain)
    np.testing.assert_allclose(model.transform(change(plain)), expected, rtol=1e-5, atol=1e-5)
    first = plain[:1] if kind == "sequences" else change(plain)[:1]
    np.testing.assert_allclose(model.transform(first), np.asarray(expected)[:1], rtol=1e-4, atol=1e-4)


def with_value(column: str, row: int, value: Any) -> Change:
    def change(frame: pd.DataFrame) -> pd.DataFrame:
        frame = frame.astype({column: object})
        frame.iloc[row, frame.columns.get_loc(column)] = value
        return frame

    return change


REFUSED: dict[str, tuple[str, Any, Change, str]] = {
    "a column is missing": ("table", rows(), lambda f: f.drop(columns="b"), r"\bb\b"),
    "a column has another name": ("table", rows(), lambda f: f.rename(columns={"b": "B"}), r"\bb\b.*B"),
    "a column of text": ("table", rows(), lambda f: f.assign(b="much"), "b.*much"),
    "one word among numbers": ("table", rows(), with_value("b", 3, "12 kg"), "12 kg"),
    "a missing value": ("table", rows(), with_value("b", 3, np.nan), "missing.* b"),
    "infinity": ("table", rows(), with_value("b", 3, np.inf), "infinite|infinity"),
    "another category": ("mixed", mixed(), with_value("town", 3, "Rome"), "row 4 .*'Rome'.*'Bonn', 'Köln' and 'Ulm'"),
    "half a visit": ("mixed", mixed(), with_value("visits", 3, 0.5), "row 4.* 0.5 .*visits.*whole numbers"),
    "another word in a binary column": ("table", rows(), with_value("member", 3, "perhaps"), "perhaps"),
    "other units": ("table", rows(), lambda f: f.assign(b=f["b"] * 1e4), "values of b are .*units"),
    "an array without names": ("table", rows(), lambda f: f[COLUMNS].to_numpy(), "column|7"),
    "no rows": ("table", rows(), lambda f: f[:0], "0 rows|no rows|minimum|expected"),
    "channels first": ("images", images(5), lambda x: x.transpose(0, 3, 1, 2), r"order \(N, C, H, W\)"),
    "another size": ("images", images(5), lambda x: x[:, :6], "6x8|8x8"),
    "no colour": ("images", images(5), lambda x: x[..., 0], "channel|colour|3x8x8"),
    "1 for 255": ("images", images(5), lambda x: x / 255.0, "255"),
    "levels beyond 8 bits": ("images", images(5), lambda x: x.astype(np.uint16) * 257, "255"),
    "one image without the first axis": ("images", images(5), lambda x: x[0], "1x8x3"),
    "255 for 1": ("scaled", np.random.default_rng(1).random((5, 9, 6)), lambda x: x * 255, "255|units|pixels"),
    "a turned image": ("scaled", np.random.default_rng(1).random((5, 9, 6)), lambda x: x.transpose(0, 2, 1), "6x9|9x6"),
    "a channel less": ("sequences", waves(5), lambda s: [v[:, :1] for v in s], "channel|shape"),
    "an empty sequence": ("sequences", waves(5), lambda s: [*s, np.zeros((0, 2))], "shape|step|empty"),
    "a missing step": ("sequences", waves(5), lambda s: [np.where(np.arange(2), np.nan, v) for v in s], "NaN|missing"),
    "sequences for rows": ("table", rows(), lambda f: waves(5), "shape|sequence|column"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_rows_that_do_not_fit_are_refused_in_words(models: dict[str, Model], name: str) -> None:
    kind, plain, change, message = REFUSED[name]
    models[kind].transform(plain)
    with pytest.raises((InputError, ValueError), match=message) as caught:
        models[kind].transform(change(plain))
    print(f"{name}: {caught.value}")


def test_files_are_read_as_in_training(models: dict[str, Model], tmp_path: Path) -> None:
    """Another order of columns, another separator, and images in another mode make no difference."""
    frame = rows()
    expected = models["table"].transform(frame)
    frame[[*reversed(frame.columns)]].to_csv(tmp_path / "new.csv", index=False, sep=";", decimal=",")
    np.testing.assert_allclose(models["table"].transform(tmp_path / "new.csv"), expected, rtol=1e-5, atol=1e-5)
    (tmp_path / "pictures").mkdir()
    for number, pixels in enumerate(images(12)):
        Image.fromarray(pixels).save(tmp_path / "pictures" / f"{number:02}.png")
    trained = Model("vae", **QUICK).fit(tmp_path / "pictures")
    opaque = tmp_path / "opaque"
    opaque.mkdir()
    for number, pixels in enumerate(images(12)):
        Image.fromarray(pixels).convert("RGBA").save(opaque / f"{number:02}.png")
    np.testing.assert_allclose(
        trained.transform(opaque), trained.transform(tmp_path / "pictures"), rtol=1e-6, atol=1e-6
    )
