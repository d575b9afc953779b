"""Files and folders of other libraries: NumPy, HDF5, zarr, anndata, and HuggingFace `datasets`."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from pipeline import data
from pipeline.data import Source
from variants import InputError

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (60, 6, 6), dtype=np.uint8)
ROWS = RNG.normal(size=(60, 4))
NAMES = np.array(["cat", "dog", "eel"] * 20)


def npz(path: Path, **arrays: Any) -> Path:
    np.savez(path.with_suffix(".npz"), **arrays)
    return path.with_suffix(".npz")


def hdf5(path: Path, **arrays: Any) -> Path:
    import h5py

    with h5py.File(path.with_suffix(".H5"), "w") as file:
        for name, array in arrays.items():
            file[name.replace("__", "/")] = array.astype(object) if array.dtype.kind == "U" else array
    return path.with_suffix(".H5")


def zarr(path: Path, **arrays: Any) -> Path:
    import zarr

    group = zarr.open_group(str(path), mode="w")
    for name, array in arrays.items():
        group.create_array(name, data=array)
    return path


@pytest.mark.parametrize("write", [npz, hdf5, zarr])
def test_arrays_of_a_file_are_read_with_their_labels(write: Callable[..., Path], tmp_path: Path) -> None:
    number = np.arange(60) % 3
    loaded = data.load(str(write(tmp_path / "mine", x=IMAGES, y=number, ids=np.arange(60))))
    assert (loaded.spec.shape, loaded.spec.likelihood, loaded.spec.classes) == ((1, 6, 6), "logistic8", 3)
    assert loaded.description.notes == ("these arrays are not used: ids",)
    named = data.load(Source(place=str(write(tmp_path / "other", X=ROWS, kind=number)), label="kind"))
    assert (named.spec.shape, named.spec.classes) == ((4,), 3)
    with pytest.raises(InputError, match=r"third\S* holds .*data.*; expected an array x"):
        data.load(str(write(tmp_path / "third", data=IMAGES, target=number)))


@pytest.mark.parametrize("write", [npz, hdf5])
def test_names_of_classes_are_text(write: Callable[..., Path], tmp_path: Path) -> None:
    loaded = data.load(str(write(tmp_path / "mine", x=IMAGES, y=NAMES)))
    assert loaded.preprocessing.class_names == ("cat", "dog", "eel")


def test_a_single_array_needs_no_name(tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", ROWS)
    (tmp_path / "rows.npy").rename(tmp_path / "ROWS.NPY")
    assert data.load(str(tmp_path / "ROWS.NPY")).spec.shape == (4,)
    loaded = data.load(str(npz(tmp_path / "mine", arr_0=ROWS)))
    assert loaded.description.notes == ("the only array, arr_0, is read as x",)


def test_dsprites_as_published(tmp_path: Path) -> None:
    latents = np.c_[np.ones(60), RNG.integers(0, 3, (60, 5))]
    path = hdf5(tmp_path / "dsprites", imgs=(IMAGES > 99).astype(np.uint8), latents__values=latents)
    loaded = data.load(str(path))
    assert loaded.spec.likelihood == "bernoulli"
    assert loaded.factors is not None and loaded.factors[0].values.shape[1] == 5


@pytest.mark.parametrize("name", ["bad.npz", "bad.npy", "bad.h5", "bad.h5ad", "bad.zarr/zarr.json", "hf/state.json"])
def test_damaged_files_are_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"{ nothing")
    if path.suffix == ".json":
        (path.parent / "dataset_info.json").write_bytes(b"{ nothing")
        path = path.parent
    with pytest.raises(InputError, match=f"{path.name} cannot be read"):
        data.load(str(path))


@pytest.mark.parametrize(("ending", "library"), [("h5", "h5py"), ("h5ad", "anndata")])
def test_a_missing_library_is_named(ending: str, library: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    (tmp_path / f"x.{ending}").write_bytes(b"")
    with pytest.raises(InputError, match=f"without the library {library}: pip install {library}"):
        data.load(str(tmp_path / f"x.{ending}"))


def cells(path: Path, values: np.ndarray, **layers: np.ndarray) -> Path:
    """Write 60 cells of three types and 20 patients. Not every version of anndata can write the strings of pandas 3."""
    import anndata
    from scipy import sparse

    words = lambda prefix, n: pd.Index([f"{prefix}{i}" for i in range(n)], dtype=object)  # noqa: E731
    kinds = pd.Categorical(list(NAMES), categories=pd.Index(["cat", "dog", "eel"], dtype=object))
    obs = pd.DataFrame({"cell_type": kinds, "patient": np.arange(60) // 3}, index=words("cell", 60))
    var = pd.DataFrame(index=words("gene", values.shape[1]))
    anndata.AnnData(sparse.csr_matrix(values), obs=obs, var=var, layers=layers).write_h5ad(path)
    return path


def test_cells_are_a_table_of_genes(tmp_path: Path) -> None:
    values = np.log1p(RNG.random((60, 5)) * (RNG.random((60, 5)) < 0.5))
    values[:, 3] = 0
    path = cells(tmp_path / "cells.h5ad", values)
    raw = data.read(Source(place=str(path), label="cell_type", group="patient"))
    assert [c.name for c in raw.columns] == ["gene0", "gene1", "gene2", "gene4"]
    np.testing.assert_array_equal(raw.x, values[:, [0, 1, 2, 4]])
    assert raw.class_names == ("cat", "dog", "eel")
    assert raw.rows[2] == "cell2"
    assert raw.groups is not None and len(set(raw.groups)) == 20
    unlabelled = data.load(str(path))
    assert unlabelled.spec.classes == 0
    assert any("obs are not used: cell_type and patient; --label" in note for note in unlabelled.description.notes)
    with pytest.raises(InputError, match="--label names kind; expected one of the columns of obs: cell_type"):
        data.load(Source(place=str(path), label="kind"))


@pytest.mark.parametrize("genes", [5, 12])
def test_cells_of_whole_numbers_are_counts(genes: int, tmp_path: Path) -> None:
    counts = RNG.negative_binomial(2, 0.1, (60, genes))
    for values in (counts, counts.astype(np.float32)):
        loaded = data.load(str(cells(tmp_path / "counts.h5ad", values)))
        assert (loaded.spec.likelihood, loaded.spec.exposure) == ("negative-binomial", "sum" if genes == 12 else "")
        raw = data.read(loaded.source)
        assert np.array_equal(raw.x, counts)
        back = loaded.preprocessing.decode(loaded.preprocessing.encode(raw, is_new=False).x)
        assert np.array_equal(back, counts)


def test_a_layer_of_counts_beside_fractions_is_pointed_out(tmp_path: Path) -> None:
    counts = RNG.poisson(3.0, (60, 5))
    path = cells(tmp_path / "normalised.h5ad", np.log1p(counts), counts=counts, scaled=counts / 7)
    notes = data.read(Source(place=str(path))).notes
    assert any("there are whole numbers in counts, which may be the counts: save them as X" in note for note in notes)


def test_missing_values_of_every_format_are_kept(tmp_path: Path) -> None:
    rows = np.where(RNG.random(ROWS.shape) < 0.2, np.nan, ROWS)
    paths = [write(tmp_path / write.__name__, x=rows) for write in (npz, hdf5, zarr)]
    for path in (*paths, cells(tmp_path / "cells.h5ad", rows)):
        raw = data.read(Source(place=str(path)))
        np.testing.assert_array_equal(raw.x, rows)
        assert data.load(str(path)).spec.missing


def saved(folder: Path, parts: dict[str, int], features: dict[str, Any], **columns: Any) -> str:
    """Save a data set, or with `parts` of some sizes several, as HuggingFace's library does."""
    import datasets

    datasets.disable_progress_bars()
    whole = datasets.Dataset.from_dict(columns)
    for name, feature in features.items():
        whole = whole.cast_column(name, feature)
    if parts:
        ends = np.cumsum([0, *parts.values()])
        slices = {part: range(a, b) for part, a, b in zip(parts, ends[:-1], ends[1:], strict=True)}
        datasets.DatasetDict({part: whole.select(s) for part, s in slices.items()}).save_to_disk(folder)
    else:
        whole.save_to_disk(folder)
    return str(folder)


def test_saved_data_sets(tmp_path: Path) -> None:
    import datasets

    kind = datasets.ClassLabel(names=["no", "yes"])
    columns = {"a": ROWS[:, 0], "b": ROWS[:, 1], "answer": np.arange(60) % 2}
    table = data.load(saved(tmp_path / "table", {}, {"answer": kind}, **columns))
    assert (table.spec.shape, table.preprocessing.class_names) == ((2,), ("no", "yes"))
    parts = {"train": 40, "validation": 12, "test": 8}
    split = data.load(saved(tmp_path / "parts", parts, {"answer": kind}, **columns))
    assert [len(s) for s in (split.train, split.valid, split.test)] == [40, 12, 8]
    pictures = [Image.fromarray(image) for image in IMAGES]
    images = saved(tmp_path / "images", {"test": 8, "train": 52}, {"answer": kind}, image=pictures,
                   answer=np.arange(60) % 2, id=list(range(60)))  # fmt: skip
    loaded = data.load(images)
    assert (loaded.spec.shape, loaded.preprocessing.class_names) == ((1, 6, 6), ("no", "yes"))
    assert torch.equal(loaded.test.x[:, 0], torch.from_numpy(IMAGES[:8]))
    assert any("these columns are not used: id" in note for note in loaded.description.notes)
    with pytest.raises(InputError, match="has the parts train and unlike; expected train, validation and test"):
        data.load(saved(tmp_path / "unlike", {"train": 40, "unlike": 20}, {}, **columns))


def test_the_parts_of_a_saved_data_set_hold_no_steps_of_sequences(tmp_path: Path) -> None:
    steps = {"series": np.repeat(np.arange(12), 5), "time": np.tile(np.arange(5), 12), "a": ROWS[:, 0]}
    assert len(data.read(data.Source(place=saved(tmp_path / "one", {"train": 60}, {}, **steps))).x) == 12
    with pytest.raises(InputError, match="several parts, and their rows are the steps of sequences"):
        data.load(saved(tmp_path / "several", {"train": 50, "test": 10}, {}, **steps))
