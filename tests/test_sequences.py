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
from pipeline.data import Data, Source
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


def as_csv(folder: Path, series: list[np.ndarray], name: str = "mine.csv") -> str:
    rows = [
        {"series": f"s{i:03}", "time": t, "a": v[0], "b": v[1], "label": "xyz"[i % 3]}
        for i, s in enumerate(series)
        for t, v in enumerate(s)
    ]
    pd.DataFrame(rows).sample(frac=1, random_state=0).to_csv(folder / name, index=False)
    return str(folder / name)


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
    assert loaded.spec.name.endswith("Mine")
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


def test_the_test_file_of_an_archive_is_read_as_new_sequences(tmp_path: Path) -> None:
    for part, first in (("TRAIN", 1), ("TEST", 0)):
        np.savetxt(tmp_path / f"Mine_{part}.tsv", [[i % 2, first, *RNG.random(6)] for i in range(40)], delimiter="\t")
    train = data.load(Source(place=str(tmp_path / "Mine_TRAIN.tsv"), test=str(tmp_path / "Mine_TEST.tsv")))
    assert [len(split) for split in (train.train, train.valid, train.test)] == [36, 4, 40]
    assert (train.preprocessing.decode(train.test.x)[:, 0] == pytest.approx(0, abs=1e-6)) and train.test.y is not None


@pytest.mark.parametrize("name", ["bad_TRAIN.tsv", "bad.tsv"])
def test_bad_tsv_files_are_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text("1\t0.5\t2.5\n2\t0.1\tshort\n")
    with pytest.raises(InputError, match=re.escape(f"{path} cannot be read as labels and values")):
        data.load(str(path))
    path.write_text("\n".join(f"{i / 7}\t0.5\t{i}" for i in range(40)))
    with pytest.raises(InputError, match=re.escape(f"{path}: the labels hold fractions")):
        data.load(str(path))


def test_tsv_files_with_names_or_with_the_option_are_tables(tmp_path: Path) -> None:
    path, rows = tmp_path / "mine.tsv", pd.DataFrame(RNG.random((40, 3)), columns=list("abc"))
    rows.to_csv(path, sep="\t", index=False)
    assert [column.name for column in data.read(Source(place=str(path))).columns] == ["a", "b", "c"]
    rows.assign(a=np.arange(40) % 3).to_csv(path, sep="\t", index=False, header=False)
    assert data.read(Source(place=str(path), header=False)).x.shape == (40, 3)
    archive = data.read(Source(place=str(path)))
    assert archive.x.shape == (40, 2, 1) and any("--no-header" in note for note in archive.notes)


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


SYMBOLS: Any = (("x", "symbols"),)  # what --kind symbols gives


@pytest.mark.parametrize(
    "x",
    [
        np.concatenate([RNG.permutation(np.arange(5).repeat(12)).reshape(10, 6) for _ in range(4)]),  # as letters
        RNG.integers(0, 2, (40, 6)),
        RNG.integers(0, 3000, (40, 50)),  # a sensor
        RNG.integers(-4, 5, (40, 50)),
    ],
)
def test_whole_numbers_are_symbols_only_by_the_option(x: np.ndarray, tmp_path: Path) -> None:
    path = npz(tmp_path, x=x, lengths=np.full(40, x.shape[1]))
    raw = data.read(Source(place=path))
    kind = "bernoulli" if x.max() == 1 else "negative-binomial" if x.min() >= 0 else "gaussian"
    assert raw.likelihood == kind and raw.x.shape == (*x.shape, 1) and np.array_equal(raw.x[..., 0], x)
    assert any("--kind symbols reads" in note for note in raw.notes) == (x.max() == 4 and x.min() == 0)
    if x.min() < 0:
        with pytest.raises(InputError, match="from -4 to 4; expected whole numbers from 0 to 4095 for --kind symbols"):
            data.read(Source(place=path, kinds=SYMBOLS))
        return
    loaded = data.load(Source(place=path, kinds=SYMBOLS))
    assert (loaded.spec.likelihood, loaded.spec.shape) == ("categorical", (x.max() + 1,))
    assert (loaded.batch(loaded.train, slice(0, 9)).x.sum(2) == 1).all()
    symbols = data.read(loaded.source, {"x": x, "lengths": np.full(40, x.shape[1])}, loaded.preprocessing)
    assert np.array_equal(symbols.x.argmax(2), x)


def mixed(n: int = 40) -> list[np.ndarray]:
    """Sequences with a real, a binary, a count and a category channel, far from each other in scale."""
    return [
        np.column_stack([
            1e6 + 100 * RNG.normal(size=7 + i % 3), RNG.choice([2, 5], 7 + i % 3), RNG.poisson(9, 7 + i % 3),
            RNG.integers(3, 6, 7 + i % 3),
        ])
        for i in range(n)
    ]  # fmt: skip


def mixed_frame(series: list[np.ndarray]) -> pd.DataFrame:
    frame = pd.concat([pd.DataFrame(s, columns=["real", "flag", "count", "stage"]) for s in series], ignore_index=True)
    lengths = [len(s) for s in series]
    frame["stage"] = np.array(["", "", "", "a", "b", "c"])[frame["stage"].astype(int)]
    return frame.assign(series=np.repeat(np.arange(len(series)), lengths), time=np.concatenate([*map(range, lengths)]))


@pytest.mark.parametrize("form", ["arrays", "csv", "parquet"])
@pytest.mark.parametrize("window", [None, 4])
def test_channels_of_several_kinds_have_their_own_likelihoods_and_scales(
    form: str, window: int | None, tmp_path: Path
) -> None:
    series = mixed()
    for s in series:
        s[2, 0] = np.nan
    content: Any = series
    source, name = Source(place="mine", kinds=(("x3", "category"),), window=window), "x3"
    if form != "arrays":
        path = tmp_path / f"mine.{form}"
        getattr(mixed_frame(series), f"to_{form}")(path, index=False)
        source, content, name = Source(place=str(path), window=window), None, "stage"
    loaded = data.load(source, content)
    families = ["gaussian", "bernoulli", "negative-binomial", "categorical"]
    assert loaded.spec.likelihood == "mixed" and [c.likelihood for c in loaded.preprocessing.columns] == families
    assert [(g.likelihood, g.size) for g in loaded.spec.groups] == [
        ("gaussian", 1), ("negative-binomial", 1), ("bernoulli", 1), ("categorical", 3),
    ]  # fmt: skip
    mask = loaded.train.mask
    assert mask is not None and (loaded.train.x[~mask] == 0).all()
    real = loaded.train.x[mask]
    assert real[real[:, 0] != 0, 0].std() == pytest.approx(1, abs=0.01) and 7 < real[:, 1].mean() < 11
    assert set(real[:, 2].tolist()) == {0, 1} and (real[:, 3:].sum(1) == 1).all()
    shares = torch.tensor(loaded.spec.groups[3].offset).exp()
    torch.testing.assert_close(shares, real[:, 3:].mean(0), atol=0.01, rtol=0)  # padding does not count
    raw = data.read(loaded.source, content, loaded.preprocessing)
    back = loaded.preprocessing.decode(loaded.preprocessing.encode(raw).x)
    known = ~np.isnan(raw.x) & raw.mask[..., None]
    np.testing.assert_allclose(back[known], raw.x[known], rtol=1e-6)
    assert loaded.description is not None
    table = loaded.description.text()
    assert all(family in table for family in families) and "categories\n" in table and name in table


@pytest.mark.parametrize(
    ("likelihood", "x", "message"),
    [
        ("symbols", np.arange(200).reshape(40, 5) * 22, r"to 4378.* expected whole numbers from 0 to 4095"),
        ("symbols", RNG.random((40, 5)), "expected whole numbers"),
        ("symbols", RNG.random((40, 5, 2)), "one symbol in each step"),
        ("categorical", RNG.integers(0, 9, (40, 5)), "is for channels of the kind category"),
        ("bernoulli", RNG.random((40, 5)), "is for channels of the kind binary"),
        ("logistic8", RNG.integers(0, 256, (40, 5)), "is for 8-bit pixels of images"),
        ("poisson", RNG.random((40, 5)), "whole numbers from 0, and sequence 1 has [0-9.]+ at step 1"),
        ("gamma", np.where(np.arange(200).reshape(40, 5) == 17, 0.0, 1.5), "above 0, and sequence 4 has 0 at step 3"),
    ],
)
def test_a_likelihood_that_does_not_fit_is_refused(
    likelihood: Any, x: np.ndarray, message: str, tmp_path: Path
) -> None:
    x[0, 0] += 1
    path = npz(tmp_path, x=x, lengths=np.full(40, 5))
    option = {"kinds": SYMBOLS} if likelihood == "symbols" else {"likelihood": likelihood}
    with pytest.raises(InputError, match=f"^{re.escape(path)}: .*{message}"):
        data.read(Source(place=path, **option))


@pytest.mark.parametrize(
    ("likelihood", "x"),
    [
        ("student-t", RNG.normal(size=(40, 5, 2))),
        ("gamma", RNG.gamma(2, 1, (40, 5, 2))),
        ("log-normal", RNG.integers(1, 9, (40, 5, 2))),
        ("poisson", np.stack([RNG.integers(0, 9, (40, 5)), 2 * RNG.integers(0, 2, (40, 5))], axis=2)),
        ("zero-inflated", RNG.integers(0, 9, (40, 5, 2)).astype(float)),
        ("negative-binomial", RNG.integers(0, 2, (40, 5, 2))),
    ],
)
def test_a_likelihood_applies_to_all_channels(likelihood: Any, x: np.ndarray) -> None:
    content = {"x": x, "lengths": 1 + np.arange(40) % 5}
    loaded = data.load(Source(place="mine", likelihood=likelihood), content)
    assert loaded.spec.likelihood == likelihood and loaded.train.x.dtype == torch.float32
    raw = data.read(loaded.source, content, loaded.preprocessing)
    back = loaded.preprocessing.decode(loaded.preprocessing.encode(raw).x)
    np.testing.assert_allclose(back[raw.mask], x[raw.mask], rtol=1e-5)
    wrong = [x[0], np.where(np.arange(5)[:, None] == 3, -1, x[1])]
    if likelihood == "student-t":
        assert data.read(Source(place="new"), wrong, loaded.preprocessing).x.min() <= -1
        return
    with pytest.raises(InputError, match=f"the likelihood {likelihood} .* sequence 2 has -1 at step 4"):
        data.read(Source(place="new"), wrong, loaded.preprocessing)


def test_two_values_are_binary(tmp_path: Path) -> None:
    x = np.where(RNG.random((40, 6, 3)) < 0.5, -1, 1)
    raw = data.read(Source(place=npz(tmp_path, x=x, lengths=np.full(40, 6))))
    assert raw.likelihood == "bernoulli" and raw.x.dtype == np.bool_
    assert np.array_equal(raw.x, x == 1) and {column.values for column in raw.columns} == {(-1, 1)}


@pytest.mark.parametrize(
    "option", [{"label": "a"}, {"drop": ("a",)}, {"wide": True}, {"dates": "day-first"}, {"kinds": (("q", "real"),)}]
)
def test_options_of_tables_are_refused_for_arrays(option: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"--{'kind' if 'kinds' in option else next(iter(option))} "):
        data.read(Source(place=as_ts(tmp_path, waves()), **option))


@pytest.mark.parametrize("write", [as_npz, as_csv, as_parquet, as_ts])
def test_missing_values_and_steps_are_kept(write: Any, tmp_path: Path) -> None:
    series = waves()
    for number, s in enumerate(series):
        s[1, number % 2] = np.nan  # a value of one channel
        s[2] = np.nan  # a whole step
    loaded = data.load(write(tmp_path, series))
    assert loaded.spec.missing and loaded.train.observed is not None and loaded.train.mask is not None
    assert (loaded.train.x[~loaded.train.observed] == 0).all()
    assert loaded.train.observed[~loaded.train.mask].all()  # padding is not missing
    shares = loaded.train.observed.float().mean((0, 2))
    assert shares[[0, 3]].tolist() == [1, 1] and shares[2] == 0 and 0.4 < shares[1] < 0.6
    real = loaded.train.x[loaded.train.mask][loaded.train.observed[loaded.train.mask].all(1)]
    assert real.mean(0).abs().max() < 0.5  # standardised by the known values
    new = data.read(Source(place="new"), series, loaded.preprocessing)
    batch = loaded.preprocessing.encode(new)
    assert batch.observed is not None and batch.mask is not None
    back, known = loaded.preprocessing.decode(batch.x), (batch.observed & batch.mask[..., None]).numpy()
    for number, s in enumerate(series):
        expected = s[~np.isnan(s)]
        np.testing.assert_allclose(back[number][known[number]], expected, rtol=1e-5)


def test_missing_steps_at_the_end_are_warned_of() -> None:
    x = np.stack([np.where(np.arange(6)[:, None] < 4 + i % 3, RNG.normal(size=(6, 2)), np.nan) for i in range(40)])
    raw = data.read(Source(place="mine", kinds=(("x", "sequence"),)), {"x": x})
    assert np.array_equal(raw.x, x, equal_nan=True)
    assert any("27 of 40 sequences end with steps that have no values" in w and "lengths" in w for w in raw.warnings)
    trimmed = data.read(Source(place="mine"), {"x": x, "lengths": 4 + np.arange(40) % 3})
    assert trimmed.known is None and not trimmed.warnings


@pytest.mark.parametrize("convert", [np.array, lambda s: np.where(s > 2, -7, 9)])
def test_missing_symbols_and_binary_values_are_kept(convert: Any) -> None:
    symbols = [RNG.permutation(np.arange(5).repeat(3 + i % 2)) for i in range(40)]
    hidden = [RNG.random(len(s)) < 0.2 for s in symbols]
    series = [np.ma.array(convert(s), mask=h) for s, h in zip(symbols, hidden, strict=True)]
    source = Source(place="mine", kinds=SYMBOLS if convert is np.array else ())
    loaded = data.load(source, series)
    assert loaded.spec.likelihood == ("categorical" if convert is np.array else "bernoulli")
    raw = data.read(loaded.source, series[:1], loaded.preprocessing)
    batch = loaded.preprocessing.encode(raw)
    assert batch.observed is not None and np.array_equal(batch.observed[0, :, 0].numpy(), ~hidden[0])
    assert np.array_equal(batch.observed[0].all(1).numpy(), ~hidden[0])
    assert batch.x.dtype == torch.bool and not batch.x[~batch.observed].any()
    values = batch.x[0].numpy().argmax(1) if convert is np.array else np.where(batch.x[0, :, 0].numpy(), 9, -7)
    assert np.array_equal(values[~hidden[0]], series[0].data[~hidden[0]])


@pytest.mark.parametrize("convert", [np.asarray, torch.tensor])
def test_a_list_of_arrays_or_tensors_holds_sequences(convert: Any) -> None:
    series = waves()
    loaded = data.load(Source(place="mine"), [convert(s) for s in series])
    same(whole(loaded), series)
    labelled = data.read(Source(place="mine"), {"x": [convert(s) for s in series], "y": np.arange(40) % 3})
    assert labelled.y is not None and labelled.y.tolist() == [i % 3 for i in range(40)]


def test_new_arrays_have_the_channels_of_training(tmp_path: Path) -> None:
    series = [np.column_stack([np.ones(len(s)), s]) for s in waves()]  # the first channel is constant
    loaded = data.load(Source(place="mine"), series)
    like = loaded.preprocessing
    assert loaded.spec.shape == (2,) and any("x0" in note for note in loaded.description.notes)  # type: ignore[union-attr]
    for new in (series[0], series[0][:, 1:], np.tile(series[0], (9, 1))):
        raw = data.read(Source(place="new"), [new], like)
        assert np.array_equal(raw.x[0], new[:, -2:])
    for wrong, count in ((series[0][:, 0], 1), (np.tile(series[0], 2), 6)):
        with pytest.raises(InputError, match=rf"{count} channels; the model was trained on 2 \(x1 and x2\)"):
            data.read(Source(place="new"), [wrong], like)


def test_new_symbols_and_binary_values_are_those_of_training(tmp_path: Path) -> None:
    symbols = [RNG.permutation(np.arange(5).repeat(3)) for _ in range(40)]
    like = data.load(Source(place="mine", kinds=SYMBOLS), symbols).preprocessing
    raw = data.read(Source(place="new"), [np.array([3, 0])], like)
    assert raw.x.shape == (1, 2, 5) and raw.x.argmax(2).tolist() == [[3, 0]]
    with pytest.raises(InputError, match="has 5 in the channel x0; expected one of the values 0, 1, 2, 3 and 4 of"):
        data.read(Source(place="new"), [np.array([3, 5])], like)
    tens = data.load(Source(place="mine", kinds=(("x0", "category"),)), [10 + 10 * s for s in symbols]).preprocessing
    assert data.read(Source(place="new"), [np.array([40, 10])], tens).x.argmax(2).tolist() == [[3, 0]]
    signs = [np.where(RNG.random((6, 2)) < 0.5, -1, 1) for _ in range(40)]
    like = data.load(Source(place="mine"), signs).preprocessing
    assert data.read(Source(place="new"), [np.array([[1, -1]])], like).x.tolist() == [[[True, False]]]
    with pytest.raises(InputError, match=r"sequence 2 has 0 in the channel x1; .* the values -1 and 1"):
        data.read(Source(place="new"), [np.ones((2, 2)), np.array([[1, 1], [-1, 0]])], like)


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
        ("@data\n1,2:3", "line 2: the channels have 1 and 2 values; expected as many in each channel, with [?]"),
        ("@data\n1:2\n1:2:3", r"sequence 2 has steps of shape \(3,\); expected \(2,\)"),
        ("@data\n", "there are no sequences"),
        ("@problemName a\n1,2,3", "has no line @data"),
    ],
)
def test_bad_ts_files_are_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "bad.ts").write_text(text)
    with pytest.raises(InputError, match=message):
        data.load(str(tmp_path / "bad.ts"))


@pytest.mark.parametrize(
    ("header", "lengths"),
    [
        (["@equalLength false"], [4, 3]),  # missing values at the end are padding
        (["@EQUALLENGTH true", "@missing true", "@serieslength 4"], [4, 4]),
    ],
)
def test_files_of_the_archive_are_read_with_their_quirks(header: list[str], lengths: list[int], tmp_path: Path) -> None:
    lines = [
        "\ufeff% a comment", "@problemname quirks", "", "@TimeStamps FALSE", "@univariate false", *header,
        "@classLabel true Yes no", "  @DATA  ", "# another",
        *["1.5, ? ,NaN,4:5,6,7,8: Yes ", "1,2,3,?:5,6,7,NaN:no", ""] * 20,
    ]  # fmt: skip
    (tmp_path / "quirks.ts").write_text("\n".join(lines))
    raw = data.read(Source(place=str(tmp_path / "quirks.ts")))
    assert raw.lengths is not None and raw.lengths.tolist() == lengths * 20 and raw.class_names == ("Yes", "no")
    np.testing.assert_array_equal(raw.x[0], [[1.5, 5], [np.nan, 6], [np.nan, 7], [4, 8]])


def test_targets_of_a_regression_are_no_classes(tmp_path: Path) -> None:
    lines = ["@targetLabel true", "@data", *(f"{i % 7},2,{i}:{i / 3}" for i in range(40))]
    (tmp_path / "target.ts").write_text("\n".join(lines))
    raw = data.read(Source(place=str(tmp_path / "target.ts")))
    assert raw.y is None and raw.x.shape == (40, 3, 1) and any("targets of a regression" in note for note in raw.notes)


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
    roll = [(RNG.random((6, 6)) < 0.5).astype(np.uint8) for _ in range(40)]
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
