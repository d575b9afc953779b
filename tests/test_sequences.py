"""Sequences and tables: what is read, how it is padded, split and standardised, and how it can be wrong."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.io import savemat

from pipeline import data
from pipeline.data import Data
from pipeline.evaluate import pictures
from variants import InputError

RNG = np.random.default_rng(0)


def waves(n: int = 40, channels: int = 2) -> list[np.ndarray]:
    return [10 + 3 * RNG.standard_normal((4 + i % 5, channels)).astype(np.float32) for i in range(n)]


def npz(folder: Path, **arrays: Any) -> str:
    np.savez(folder / "mine.npz", **arrays)
    return str(folder / "mine.npz")


def whole(loaded: Data) -> list[np.ndarray]:
    """All sequences in their own units, without padding, in no order."""
    sequences = []
    for split in (loaded.train, loaded.valid, loaded.test):
        assert split.mask is not None
        x = loaded.preprocessing.decode(split.x) if split.x.is_floating_point() else split.x.numpy()
        sequences += [row[m] for row, m in zip(x, split.mask.numpy(), strict=True)]
    return sequences


def same(a: list[np.ndarray], b: list[np.ndarray]) -> None:
    assert len(a) == len(b)
    for p, q in zip(*(sorted(s, key=lambda r: (len(r), float(r.flat[0]))) for s in (a, b)), strict=True):
        np.testing.assert_allclose(p, q, rtol=1e-4, atol=1e-4)


def padded(series: list[np.ndarray], fill: float) -> np.ndarray:
    x = np.full((len(series), max(map(len, series)), *series[0].shape[1:]), fill, dtype=series[0].dtype)
    for row, s in zip(x, series, strict=True):
        row[: len(s)] = s
    return x


def as_npz(folder: Path, series: list[np.ndarray]) -> str:
    lengths = np.array([len(s) for s in series])
    return npz(folder, x=padded(series, np.nan), lengths=lengths, y=np.arange(len(series)) % 3)


def as_csv(folder: Path, series: list[np.ndarray]) -> str:
    rows = [
        {"series": f"s{i:03}", "time": t, "a": v[0], "b": v[1], "label": "xyz"[i % 3]}
        for i, s in enumerate(series)
        for t, v in enumerate(s)
    ]
    pd.DataFrame(rows).sample(frac=1, random_state=0).to_csv(folder / "mine.csv", index=False)
    return str(folder / "mine.csv")


def as_parquet(folder: Path, series: list[np.ndarray]) -> str:
    pd.read_csv(as_csv(folder, series)).to_parquet(folder / "mine.parquet")
    return str(folder / "mine.parquet")


def as_ts(folder: Path, series: list[np.ndarray]) -> str:
    lines = ["#comment", "@problemName Mine", "@timeStamps false", "@classLabel true x y z", "@data"]
    for i, s in enumerate(series):
        lines.append(":".join([*(",".join(map(str, s[:, c])) for c in range(s.shape[1])), "xyz"[i % 3]]))
    (folder / "mine.ts").write_text("\n".join(lines))
    return str(folder / "mine.ts")


@pytest.mark.parametrize("write", [as_npz, as_csv, as_parquet, as_ts])
def test_sequences_of_all_kinds_are_what_was_written(write: Any, tmp_path: Path) -> None:
    series = waves()
    loaded = data.load(write(tmp_path, series))
    assert loaded.spec.shape == (2,)
    assert (loaded.spec.steps, loaded.spec.classes, loaded.spec.likelihood) == (8, 3, "gaussian")
    assert loaded.spec.fields == {"y", "mask"}
    assert loaded.layout == "lines"
    same(whole(loaded), series)


def test_padding_is_zero_and_does_not_count_in_the_standardisation(tmp_path: Path) -> None:
    loaded = data.load(as_npz(tmp_path, waves()))
    mask = loaded.train.mask
    assert mask is not None
    assert (loaded.train.x[~mask] == 0).all()
    real = loaded.train.x[mask]
    torch.testing.assert_close(real.mean(0), torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(real.std(0), torch.ones(2), atol=1e-5, rtol=0)
    batch = loaded.batch(loaded.train, torch.tensor([0, 3]))
    assert batch.mask is not None
    assert torch.equal(batch.mask, mask[[0, 3]])


def test_a_train_file_takes_its_test_file_along(tmp_path: Path) -> None:
    rows = RNG.standard_normal((60, 12))
    rows[3, 9:] = np.nan  # a shorter one
    labels = np.repeat([1, 2, 3], 20)
    for part, chosen in (("TRAIN", slice(0, None, 2)), ("TEST", slice(1, None, 2))):
        table = np.column_stack([labels[chosen], rows[chosen]])
        np.savetxt(tmp_path / f"Mine_{part}.tsv", table, delimiter="\t")
    loaded = data.load(str(tmp_path / "Mine_TRAIN.tsv"))
    assert loaded.spec.name == "Mine"
    assert [len(s) for s in (loaded.train, loaded.valid, loaded.test)] == [24, 6, 30]
    assert loaded.test.y is not None and torch.bincount(loaded.test.y).tolist() == [10, 10, 10]
    assert loaded.test.mask is not None and sorted(loaded.test.mask.sum(1).tolist())[:2] == [9, 12]
    with pytest.raises(InputError, match="name the file that ends in _TRAIN"):
        data.load(str(tmp_path / "Mine_TEST.tsv"))


def test_a_fifth_of_each_class_of_a_train_file_is_for_validation(tmp_path: Path) -> None:
    """This holds for rare classes too."""
    for part, counts in (("TRAIN", (50, 10, 5)), ("TEST", (4, 4, 4))):
        rows = [[c, *RNG.random(6)] for c, n in enumerate(counts) for _ in range(n)]
        np.savetxt(tmp_path / f"Rare_{part}.tsv", rows, delimiter="\t")
    loaded = data.load(str(tmp_path / "Rare_TRAIN.tsv"))
    labels = [split.y for split in (loaded.train, loaded.valid, loaded.test)]
    counted = [torch.bincount(y, minlength=3).tolist() for y in labels if y is not None]
    assert counted == [[40, 8, 4], [10, 2, 1], [4, 4, 4]]


@pytest.mark.parametrize("name", ["bad_TRAIN.tsv", "bad.tsv"])
def test_bad_tsv_files_are_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text("1\t0.5\tlong\n2\t0.1\tshort\n")
    with pytest.raises(InputError, match=re.escape(f"--dataset {path} cannot be read as labels and values")):
        data.load(str(path))
    path.write_text("\n".join(f"{i / 7}\t0.5\t{i}" for i in range(40)))
    with pytest.raises(InputError, match=re.escape(f"--dataset {path}: y holds fractions")):
        data.load(str(path))


def test_music_keeps_its_splits(tmp_path: Path) -> None:
    def cells(n: int) -> np.ndarray:
        pieces = np.empty((1, n), dtype=object)
        for i in range(n):
            pieces[0, i] = (RNG.random((5 + i % 3, 88)) > 0.9).astype(np.uint8)
        return pieces

    savemat(tmp_path / "roll.mat", {"traindata": cells(20), "validdata": cells(8), "testdata": cells(9)})
    loaded = data.load(str(tmp_path / "roll.mat"))
    assert [len(s) for s in (loaded.train, loaded.valid, loaded.test)] == [20, 8, 9]
    assert (loaded.spec.likelihood, loaded.spec.shape, loaded.layout) == ("bernoulli", (88,), "roll")
    savemat(tmp_path / "other.mat", {"a": 1})
    with pytest.raises(InputError, match="holds a; expected cells traindata"):
        data.load(str(tmp_path / "other.mat"))


def test_symbols_become_one_hot(tmp_path: Path) -> None:
    x = RNG.integers(0, 5, (40, 6))
    x[0, 0] = 4
    loaded = data.load(npz(tmp_path, x=x, lengths=np.full(40, 6)))
    assert (loaded.spec.likelihood, loaded.spec.shape) == ("categorical", (5,))
    assert (loaded.batch(loaded.train, slice(0, 9)).x.sum(2) == 1).all()


@pytest.mark.parametrize("symbol", [-1, 4096])
def test_symbols_out_of_range_are_refused(symbol: int, tmp_path: Path) -> None:
    x = RNG.integers(0, 9, (40, 5))
    x[3, 2] = symbol
    path = npz(tmp_path, x=x, lengths=np.full(40, 5))
    message = f"--dataset {path}: symbols from {x.min()} to {x.max()}; expected 0 to 4095"
    with pytest.raises(InputError, match=re.escape(message)):
        data.load(path)


def test_a_long_table_needs_no_labels(tmp_path: Path) -> None:
    path = as_csv(tmp_path, waves())
    pd.read_csv(path).drop(columns="label").to_csv(path, index=False)
    loaded = data.load(path)
    assert (loaded.spec.steps, loaded.spec.shape, loaded.spec.classes) == (8, (2,), 0)
    assert loaded.train.y is None


def test_rows_of_images_are_their_pixels() -> None:
    digits, rows = data.load("digits"), data.load("digits-rows")
    assert (rows.spec.shape, rows.spec.steps, rows.layout) == ((8,), 8, "images")
    assert torch.equal(digits.test.x[:, 0], rows.test.x)
    assert rows.test.y is not None and digits.test.y is not None and torch.equal(rows.test.y, digits.test.y)


def test_a_table_with_labels(tmp_path: Path) -> None:
    frame = pd.DataFrame(RNG.standard_normal((50, 3)), columns=list("abc"))
    frame["label"] = np.where(np.arange(50) % 2, "yes", "no")
    for name in ("t.csv", "t.parquet"):
        getattr(frame, f"to_{name[2:]}")(tmp_path / name, **({"index": False} if name.endswith("csv") else {}))
        loaded = data.load(str(tmp_path / name))
        assert (loaded.spec.shape, loaded.spec.classes, loaded.spec.steps) == ((3,), 2, 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.assign(a=f.a.where(f.index != 7)), r"sequence \d+ holds NaN or infinity inside"),
        (lambda f: f.assign(label=[*f.label[:-1], "q"]), "has several labels"),
        (lambda f: f.assign(time=0), "two rows of one time"),
        (lambda f: f.assign(a="text"), "columns a hold no numbers"),
        (lambda f: f.drop(columns=["a", "b"]), "there are no columns of values"),
        (lambda f: f.assign(label=f.label.where(f.index != 7)), "1 rows have no label"),
        (lambda f: f[f.series < "s010"], "expected at least 30"),
    ],
)
def test_bad_long_tables_are_refused(change: Any, message: str, tmp_path: Path) -> None:
    path = as_csv(tmp_path, waves())
    change(pd.read_csv(path)).to_csv(path, index=False)
    with pytest.raises(InputError, match=message):
        data.load(path)


@pytest.mark.parametrize(
    ("lengths", "message"),
    [
        (np.full(40, 9), r"lengths from 9 to 9; expected 1 to T = 8"),
        (np.zeros(40, dtype=int), "lengths from 0 to 0"),
        (np.full(39, 5), r"lengths \(39,\)"),
        (np.full(40, 5.0), "float64"),
    ],
)
def test_bad_lengths_are_refused(lengths: np.ndarray, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        data.load(npz(tmp_path, x=padded(waves(), 0), lengths=lengths))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("@timeStamps true\n@data\n(0,1)", "holds time stamps"),
        ("@classLabel true a b\n@data\n1,x,3:a", "line 3: could not convert"),
        ("@data\n1,2:3", "line 2: all input arrays must have the same shape"),
        ("@data\n", "there is no sequence in it"),
    ],
)
def test_bad_ts_files_are_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "bad.ts").write_text(text)
    with pytest.raises(InputError, match=message):
        data.load(str(tmp_path / "bad.ts"))


def test_a_ts_file_may_have_bytes_that_are_not_utf8(tmp_path: Path) -> None:
    lines = ["# Universit\xe9", "@data", *(f"{i},{i % 7},0.5" for i in range(30))]
    (tmp_path / "old.ts").write_bytes("\n".join(lines).encode("latin-1"))
    assert data.load(str(tmp_path / "old.ts")).spec.steps == 3


def test_archives_as_they_are(mnist_folder: Path) -> None:
    ecg = data.load(str(mnist_folder / "UCR" / "ECG5000_TRAIN.tsv"))
    assert (ecg.spec.steps, ecg.spec.classes, len(ecg.test)) == (140, 5, 4500)
    vowels = data.load(str(mnist_folder / "UCR" / "JapaneseVowels_TRAIN.ts"))
    assert (vowels.spec.shape, vowels.spec.steps, vowels.spec.classes) == ((12,), 29, 9)
    assert vowels.test.mask is not None and int(vowels.test.mask.sum(1).min()) == 7
    jsb = data.load(str(mnist_folder / "music" / "JSB_Chorales.mat"))
    assert [len(s) for s in (jsb.train, jsb.valid, jsb.test)] == [229, 76, 77]
    faces = data.load("frey-faces")
    assert (faces.spec.shape, faces.spec.likelihood) == ((1, 28, 20), "logistic8")


def test_sequences_are_drawn_as_lines_or_rolls(tmp_path: Path) -> None:
    """A line where the values are: a straight one from the lower left to the upper right corner of its panel."""
    series = [np.linspace(0, 1, 20, dtype=np.float32)[:, None] + 1e-3 * i for i in range(40)]
    lines = data.load(as_npz(tmp_path, series))
    picture = pictures.grid(lines.valid.x[:1], lines, columns=1)
    inside = picture[8:-8, 8:-8].astype(int)
    ys, xs = np.nonzero(inside.min(axis=2) < 150)
    assert np.corrcoef(xs, ys)[0, 1] < -0.99
    roll = [np.eye(6, dtype=np.uint8)] * 20 + [np.zeros((6, 6), np.uint8)] * 20
    rolls = data.load(npz(tmp_path, x=np.stack(roll), lengths=np.full(40, 6)))
    drawn = pictures.grid(torch.eye(6)[None], rolls, columns=1)[2:-2, 2:-2, 0]
    side = len(drawn) // 6
    assert (drawn[side // 2 :: side, side // 2 :: side] == 255 * np.fliplr(np.eye(6)).T).all()


def test_labels_are_hidden_evenly_and_one_class_is_taken() -> None:
    digits = data.load("digits")
    few = digits.with_labels(50)
    assert few.train.y is not None and digits.train.y is not None
    known = few.train.y >= 0
    assert torch.bincount(few.train.y[known]).tolist() == [5] * 10
    assert torch.equal(few.train.y[known], digits.train.y[known])
    one = digits.only_most_frequent_class()
    assert one.train.y is not None and one.valid.y is not None and len(one.train) < 200
    assert one.train.y.unique().tolist() == one.valid.y.unique().tolist()
    with pytest.raises(InputError, match="expected at least one for each"):
        digits.with_labels(5)
