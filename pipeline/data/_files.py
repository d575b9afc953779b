"""Reads a data set from its place or from memory. No file is executed or unpickled."""

import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.data import _arrays, _images, _sequences, _tables
from pipeline.data._catalogue import CATALOGUE
from pipeline.data._preprocessing import Preprocessing
from pipeline.data._raw import Raw
from pipeline.data._source import Source, file_name
from variants import InputError


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
        allowed = {"split_seed"} if like is None else set(source.options)
        if refused := [f"--{name.replace('_', '-')}" for name in source.options if name not in allowed]:
            raise InputError(
                f"{', '.join(refused)}: {source.place} is an embedded data set, and is always read in the same way; "
                "of the options of data only --split-seed applies to it"
            )
        return replace(CATALOGUE[source.place](), source=source)
    path = source.path
    if not path.exists():
        if path.suffix or len(path.parts) > 1:
            raise InputError(f"{path}: there is no such file or folder")
        known = ", ".join(sorted(CATALOGUE))
        raise InputError(f"unknown data set {source.place!r}: expected {known}, or the path of a file or folder")
    source = replace(source, place=str(path.resolve()))
    if path.is_dir():
        return _images.read(path, source, _name(path), like)
    endings = [ending for ending in READERS if path.name.lower().endswith(ending)]
    if not endings:
        raise InputError(f"{path}: expected a folder of images, or a file that ends in {', '.join(READERS)}")
    return READERS[max(endings, key=len)](path, source, _name(path), like)


def _name(path: Path) -> str:
    return file_name(path, [*CATALOGUE])


def _from_memory(source: Source, content: Any, like: Preprocessing | None) -> Raw:
    import pandas

    name = source.place
    if isinstance(content, pandas.DataFrame):
        return _tables.from_frame(content, source, name, like)
    if isinstance(content, Mapping):
        return _arrays.from_arrays(content, source, name, like)
    if isinstance(content, list | tuple) and all(isinstance(s, np.ndarray) for s in content):
        return _sequences.from_series(content, None, source, name, like)
    return _arrays.from_arrays({"x": np.asarray(content)}, source, name, like)


def _npz(path: Path, source: Source, name: str, like: Preprocessing | None) -> Raw:
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files if key in _arrays.KEYS}
            keys = ", ".join(file.files) or "nothing"
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"{path} cannot be read ({type(error).__name__}: {error})") from error
    if "x" not in arrays:
        raise InputError(f"{path} holds {keys}; expected an array x (N, ...), and optionally y (N,)")
    return _arrays.from_arrays(arrays, source, name, like)


READERS: Mapping[str, Callable[[Path, Source, str, Preprocessing | None], Raw]] = {
    ".npz": _npz,
    ".csv": _tables.read,
    ".parquet": _tables.read,
    ".ts": _sequences.ucr,
    ".tsv": _sequences.ucr,
    ".mat": _sequences.music,
}
