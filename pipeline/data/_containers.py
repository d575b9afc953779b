"""Reads files and folders of other programs: .npz, .npy, HDF5, zarr, anndata, and Hugging Face `datasets`.

The libraries for the last four are the extra `formats` of this package.
"""

import importlib
import io
import warnings
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.data import _arrays, _images, _special_columns, _tables
from pipeline.data._preprocessing import Preprocessing
from pipeline.data._raw import Raw, consecutive
from pipeline.data._source import OF_SEQUENCES, Source, reading, refuse_options
from pipeline.data._splits import listed
from variants import InputError


def npz(path: Path, source: Source, name: str, like: Preprocessing | None) -> Raw:
    """Read the arrays of an .npz file."""
    with reading(path), path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
        arrays, notes = by_roles(file.files, file.__getitem__, source)
    return _arrays.from_arrays(arrays, source, name, like).with_notes(notes)


def npy(path: Path, source: Source, name: str, like: Preprocessing | None) -> Raw:
    """Read the array of an .npy file."""
    with reading(path):
        x = np.load(path, allow_pickle=False)
    return _arrays.from_arrays({"x": x}, source, name, like)


def hdf5(path: Path, source: Source, name: str, like: Preprocessing | None) -> Raw:
    """Read the arrays of an HDF5 file, also those in its groups."""
    h5py = library("h5py", path)

    def load(key: str) -> Any:
        return file[key].asstr()[()] if h5py.check_string_dtype(file[key].dtype) else file[key][()]

    with reading(path), h5py.File(path, "r") as file:
        names: list[str] = []
        file.visititems(lambda key, node: names.append(key) if isinstance(node, h5py.Dataset) else None)
        arrays, notes = by_roles(names, load, source)
    return _arrays.from_arrays(arrays, source, name, like).with_notes(notes)


def zarr(path: Path, source: Source, name: str, like: Preprocessing | None) -> Raw:
    """Read the arrays of a zarr folder, or the cells if anndata wrote it."""
    zarr_library = library("zarr", path)
    with reading(path):
        node = zarr_library.open(path, mode="r")
        if node.attrs.get("encoding-type") == "anndata":
            return _cells(library("anndata", path).read_zarr, path, source, name, like)
        if isinstance(node, zarr_library.Array):
            arrays, notes = {"x": node[...]}, list[str]()
        else:
            members = {key: m for key, m in node.members(max_depth=None) if isinstance(m, zarr_library.Array)}
            arrays, notes = by_roles(members, lambda key: members[key][...], source)
    return _arrays.from_arrays(arrays, source, name, like).with_notes(notes)


def h5ad(path: Path, source: Source, name: str, like: Preprocessing | None) -> Raw:
    """Read the cells of an .h5ad file; see `_cells`."""
    return _cells(library("anndata", path).read_h5ad, path, source, name, like)


def by_roles(names: Iterable[str], load: Callable[[str], Any], source: Source) -> tuple[dict[str, Any], list[str]]:
    """Load the arrays that are used, by their roles (see `_arrays.roles`). Returns them, and notes about the others."""
    names = list(names)
    roles = _arrays.roles(names, source)
    notes = []
    if len(names) == 1 and names[0].lower() != "x":
        notes.append(f"the only array, {names[0]}, is read as x")
    if unused := [name for name in names if name not in roles.values()]:
        notes.append(f"these arrays are not used: {listed(unused)}")
    return {role: load(key) for role, key in roles.items()}, notes


def _cells(read: Callable[[Path], Any], path: Path, source: Source, name: str, like: Preprocessing | None) -> Raw:
    """Make a `Raw` of what anndata reads: a table of X with a column for each gene. Other layers are not used.

    `--label`, `--group`, `--time` and `--exposure` name columns of its `obs`, whose index labels the rows.
    """
    import pandas
    from scipy import sparse

    with reading(path), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about versions of the file format
        cells = read(path)
    x, obs, notes = cells.X, cells.obs, list[str]()
    if x is None:
        raise InputError(f"{path} has no X; expected the values of the genes there")
    if not cells.var_names.is_unique:
        notes.append("several genes have the same name; numbers are added to their names")
        cells.var_names_make_unique()
    chosen = []
    named = {option: getattr(source, option) for option in ("label", "group", "time")}
    for option, column in {**named, "exposure": source.exposure_column}.items():
        if column is None or (like is not None and column not in obs):
            continue
        if column not in obs or column in cells.var_names:
            known = listed([*map(str, obs)], 20) or "none"
            also = ", which is also the name of a gene" if column in cells.var_names else ""
            raise InputError(f"{path}: --{option} names {column}{also}; expected one of the columns of obs: {known}")
        chosen.append(column)
    if like is None and (unused := [str(c) for c in obs if c not in chosen]):
        hint = "" if source.label else "; --label COLUMN says which one holds the class"
        notes.append(f"these columns of obs are not used: {listed(unused)}{hint}")
    if like is None and not _is_whole(x):
        layers = {**cells.layers, **({} if cells.raw is None else {"raw": cells.raw.X})}
        if counts := [key for key, values in layers.items() if _is_whole(values)]:
            notes.append(
                f"X holds fractions, and is read as real values; there are whole numbers in {listed(counts)}, which "
                "may be the counts: save them as X to model counts"
            )
    values = x.toarray() if sparse.issparse(x) else np.asarray(x)
    frame = pandas.DataFrame(values, index=cells.obs_names, columns=cells.var_names)
    frame = pandas.concat([frame, obs[chosen].astype(object)], axis=1)
    return _tables.from_frame(frame, source, name, like).with_notes(notes)


def _is_whole(values: Any) -> bool:
    """Whether all values of an array or of a sparse matrix are whole numbers."""
    values = np.asarray(getattr(values, "data", values) if hasattr(values, "nnz") else values)
    return bool((values % 1 == 0).all())


def saved_dataset(path: Path, source: Source, name: str, like: Preprocessing | None) -> Raw:
    """Read a folder that Hugging Face `datasets` saved: images, or a table.

    The parts train, validation and test of a `DatasetDict` are the splits. The only column of class labels is the label
    unless `--label` names another one.
    """
    if images := saved_images(path, source, like):
        source, found = images
        raw = _images.from_images(found.openers, source, name, like, found.classes)
        return replace(raw, splits=found.splits).with_notes(found.notes)
    whole, splits = _joined_parts(path, like)
    source, notes = _with_label(whole, source)
    frame = whole.to_pandas()
    for column, names in _class_names(whole).items():
        frame[column] = frame[column].map(names)
    raw = _tables.from_frame(frame, source, name, like)
    if splits is not None and raw.lengths is not None:
        raise InputError(
            f"{path} has several parts, and their rows are the steps of sequences; expected one part, with a column "
            "that names the split of each sequence"
        )
    return replace(raw, splits=raw.splits if splits is None else splits).with_notes(notes)


def saved_images(path: Path, source: Source, like: Preprocessing | None) -> tuple[Source, _images.Listing] | None:
    """Find the images in a folder that Hugging Face `datasets` saved. Return None if it has no column of images.

    The images stay on disk until they are opened. The source is returned with the label.
    """
    whole, splits = _joined_parts(path, like)
    datasets = library("datasets", path)
    source, notes = _with_label(whole, source)
    images = [c for c, f in whole.features.items() if isinstance(f, datasets.Image) and c not in source.drop]
    if not images:
        return None
    refuse_options(source, ("group", "time", "dates", "header", "exposure", "wide", *OF_SEQUENCES), "images", like)
    if len(images) > 1:
        raise InputError(f"{path} has several columns of images: {listed(images)}; leave all but one out with --drop")
    has_label = source.label in whole.features
    if source.label is not None and not has_label and like is None:
        raise InputError(
            f"{path}: --label {source.label}: there is no column of this name; expected one of "
            f"{listed(whole.column_names, 20)}"
        )
    if unused := [c for c in whole.features if c not in (images[0], source.label, *source.drop)]:
        notes.append(f"these columns are not used: {listed(unused)}")
    labels = None
    if has_label:
        names = _class_names(whole).get(source.label or "")
        labels = [names.get(value) if names else value for value in whole[source.label]]
    encoded = whole.cast_column(images[0], datasets.Image(decode=False))
    openers = {f"{path}, row {i + 1}": partial(_open, encoded, i, images[0]) for i in range(len(whole))}
    return source, _images.Listing(openers=openers, classes=labels, splits=splits, rows=None, notes=tuple(notes))


def _with_label(whole: Any, source: Source) -> tuple[Source, list[str]]:
    """Return the source with the label, which is the only column of class labels by default, and notes about it."""
    classes = [*_class_names(whole)]
    if source.label is not None or len(classes) != 1:
        return source, []
    return replace(source, label=classes[0]), [f"the label is the column {classes[0]}, which holds class labels"]


def _class_names(whole: Any) -> dict[str, dict[int, str]]:
    """Return the names of the classes, by their numbers, of each column of class labels."""
    return {column: dict(enumerate(f.names)) for column, f in whole.features.items() if hasattr(f, "names")}


def _joined_parts(path: Path, like: Preprocessing | None) -> tuple[Any, list[torch.Tensor] | None]:
    """Return the rows of all parts, and the indices of the three splits if there are several parts.

    If `like` is given, the rows are new data for a trained model, which are not divided into splits.
    """
    datasets = library("datasets", path)
    with reading(path):
        loaded = datasets.load_from_disk(str(path))
        if not isinstance(loaded, datasets.DatasetDict):
            return loaded.with_format(None), None
        parts = {_special_columns.SPLIT_NUMBERS.get(name.lower(), -1): part for name, part in loaded.items()}
        if len(loaded) == 1:
            parts = dict(enumerate(loaded.values()))
        if -1 in parts or len(parts) < len(loaded):
            raise InputError(f"{path} has the parts {listed([*loaded])}; expected train, validation and test")
        whole = datasets.concatenate_datasets([parts[k] for k in sorted(parts)]).with_format(None)
        is_split = len(parts) > 1 and like is None
        return whole, consecutive(len(parts.get(k, ())) for k in range(3)) if is_split else None


def _open(encoded: Any, row: int, column: str) -> Any:
    """Open an image of a row, where it is stored as bytes or as a path."""
    from PIL import Image

    value = encoded[row][column]
    return Image.open(value["path"] if value["bytes"] is None else io.BytesIO(value["bytes"]))


def library(module: str, path: Path) -> Any:
    """Return a library that is not installed with this package."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise InputError(f"{path} cannot be read without the library {module}: pip install {module}") from error
