"""Reads a data set from its place or from memory. No file is executed or unpickled."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.data import _arrays, _containers, _images, _sequence_files, _tables
from pipeline.data._catalogue import CATALOGUE
from pipeline.data._pixels import EIGHT_BIT
from pipeline.data._preprocessing import Preprocessing
from pipeline.data._raw import Raw
from pipeline.data._source import Source, file_name
from variants import InputError
from variants.base.contract import Likelihood


def read(source: Source, content: Any = None, like: Preprocessing | None = None) -> Raw:
    """Read a data set from its place, or from an object in memory.

    Args:
        source: The place, and the options of how it is read.
        content: Data in memory; see `load`.
        like: The preprocessing of a trained model. The data are then new rows for this model: they are read in the same
            way, columns are selected and ordered by their names, and nothing is inferred. Labels are not needed.

    Raises:
        InputError: If the place is unknown, or its content cannot be read, is ambiguous, or does not fit `like`.
    """
    if content is not None:
        return _from_memory(source, content, like)
    if source.place in CATALOGUE:
        refused = [option for option in source.option_names if option not in ("--split-seed", "--likelihood")]
        if refused and like is None:
            raise InputError(
                f"{', '.join(refused)}: {source.place} is a built-in data set, which is always read in the same way; "
                "leave these options out (of the options of data, only --split-seed and --likelihood can apply to it)"
            )
        raw = replace(CATALOGUE[source.place](), source=source)
        return raw if source.likelihood is None else _with_likelihood(raw, source.likelihood)
    path = source.path
    if not path.exists():
        if path.suffix or len(path.parts) > 1:
            raise InputError(f"{path}: there is no such file or folder; check the path")
        known = ", ".join(sorted(CATALOGUE))
        raise InputError(f"unknown data set {source.place!r}: expected {known}, or the path of a file or folder")
    source = replace(source, place=str(path.resolve()))
    if path.is_dir():
        reader = next((reader for file, reader in FOLDERS.items() if (path / file).exists()), _images.read)
        return reader(path, source, name_of(path), like)
    endings = [ending for ending in READERS if path.name.lower().endswith(ending)]
    if not endings:
        known = ", ".join(ending for ending in READERS if ending not in _images.IMAGES)
        raise InputError(f"{path}: expected a folder of images, or a file that ends in {known}")
    return READERS[max(endings, key=len)](path, source, name_of(path), like)


def _with_likelihood(raw: Raw, likelihood: Likelihood) -> Raw:
    """Return a built-in data set with another likelihood. Raises `InputError` unless its pixels are 8-bit values."""
    is_eight_bit = raw.x.ndim == 4 and raw.x.dtype == np.uint8
    choices = ("bernoulli", *EIGHT_BIT) if is_eight_bit else (raw.likelihood,)
    if likelihood not in choices:
        raise InputError(
            f"--likelihood {likelihood}: expected {' or '.join(choices)} for the built-in data set {raw.source.place}"
        )
    return replace(raw, likelihood=likelihood, why="--likelihood was given")


def read_parts(source: Source, like: Preprocessing, rows: int) -> tuple[int, Iterator[Raw]]:
    """Read new rows for a trained model in parts: text and parquet tables `rows` rows at a time, all else as a whole.

    Returns about how many parts there are, and an iterator over them. Raises `InputError` as `read` does.
    """
    path = source.path
    if like.layout == "table" and path.is_file() and path.name.lower().endswith(IN_PARTS):
        source = replace(source, place=str(path.resolve()))
        return _tables.read_parts(path, source, name_of(path), like, rows)
    return 1, iter([read(source, like=like)])


def name_of(path: Path) -> str:
    """Return the name of the data set in a file or folder."""
    return file_name(path, [*CATALOGUE])


def _from_memory(source: Source, content: Any, like: Preprocessing | None) -> Raw:
    import pandas

    name = source.place
    if isinstance(content, pandas.DataFrame):
        return _tables.from_frame(content, source, name, like)
    if isinstance(content, Mapping):
        arrays, notes = _containers.by_roles(map(str, content), content.__getitem__, source)
        return _arrays.from_arrays(arrays, source, name, like).with_notes(notes)
    return _arrays.from_arrays({"x": content}, source, name, like)


def _tsv(path: Path, source: Source, name: str, like: Preprocessing | None) -> Raw:
    """Read a table with tabs between fields, or sequences in the form of the UCR archive."""
    read = _tables.read if _sequence_files.is_table(path, source) else _sequence_files.ucr
    return read(path, source, name, like)


IN_PARTS = (*_tables.TEXT, ".parquet")
READERS: Mapping[str, Callable[[Path, Source, str, Preprocessing | None], Raw]] = {
    ".npz": _containers.npz,
    ".npy": _containers.npy,
    ".h5": _containers.hdf5,
    ".hdf5": _containers.hdf5,
    ".h5ad": _containers.h5ad,
    ".csv": _tables.read,
    ".csv.gz": _tables.read,
    ".parquet": _tables.read,
    ".feather": _tables.read,
    ".ts": _sequence_files.ucr,
    ".tsv": _tsv,
    ".mat": _sequence_files.music,
    **dict.fromkeys(_images.IMAGES, _images.read),
}
FOLDERS: Mapping[str, Callable[[Path, Source, str, Preprocessing | None], Raw]] = {  # by a file that lies in them
    "dataset_dict.json": _containers.saved_dataset,
    "dataset_info.json": _containers.saved_dataset,
    "zarr.json": _containers.zarr,
    ".zgroup": _containers.zarr,
    ".zarray": _containers.zarr,
}
