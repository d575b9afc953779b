"""Data sets that are read from disk in parts: uncompressed arrays, HDF5, zarr, and folders of images."""

from __future__ import annotations

import math
import os
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.data import _arrays, _containers, _images
from pipeline.data._catalogue import CATALOGUE
from pipeline.data._preprocessing import Preprocessing
from pipeline.data._raw import Raw
from pipeline.data._source import Source, file_name, reading
from pipeline.data._splits import listed
from variants import InputError

Array = NDArray[Any]
Indices = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Stored:
    """A data set on disk whose examples can be read in parts.

    `take(positions, chunk, like)` reads the examples at sorted positions, without labels; `chunk` is the number of
    neighbouring examples that are read together. It raises `InputError` if a file has changed since it was opened.
    """

    source: Source
    name: str
    examples: int
    bytes: int  # that all examples occupy in memory, in the type of the source
    chunk: int  # the smallest number of neighbouring examples that are worth reading
    take: Callable[[Indices, int, Preprocessing | None], Raw]
    y: Any = None
    groups: Any = None
    splits: list[torch.Tensor] | None = None
    rows: Any = None  # a pandas Index with the labels of the examples
    notes: tuple[str, ...] = ()


def stored(source: Source) -> Stored | None:
    """Return what is needed to read a data set in parts; None if its format does not allow it."""
    path = source.path.resolve()
    source = replace(source, place=str(path))
    if path.is_dir():
        if any((path / file).exists() for file in ("zarr.json", ".zgroup", ".zarray")):
            return _arrays_on_disk(source, _zarr(path))
        if any((path / file).exists() for file in ("dataset_dict.json", "dataset_info.json")):
            images = _containers.saved_images(path, source, None)
            return None if images is None else _on_disk(*images, _Files([*path.rglob("*.arrow")]))
        listing = _images.listing(path, source, None)
        return _on_disk(source, listing, _Files([*map(Path, listing.openers)]), one_each=True)
    if not path.is_file():
        return None
    name = path.name.lower()
    openers: Mapping[str, Callable[[Path], Mapping[str, Rows] | None]] = {
        ".npy": _npy, ".npz": _npz, ".h5": _hdf5, ".hdf5": _hdf5,
    }  # fmt: skip
    opener = next((opener for ending, opener in openers.items() if name.endswith(ending)), None)
    return _arrays_on_disk(source, opener(path)) if opener else None


@dataclass(frozen=True)
class Rows:
    """An array (N, ...) on disk. `read(start, stop)` returns the rows from `start` to `stop`, without the latter."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    chunk: int  # the smallest number of rows that are worth reading
    read: Callable[[int, int], Array]


def _npy(path: Path) -> Mapping[str, Rows] | None:
    rows = _header(path, 0)
    return {"x": rows} if rows else None


def _npz(path: Path) -> Mapping[str, Rows] | None:
    arrays: dict[str, Rows] = {}
    with reading(path), zipfile.ZipFile(path) as archive, path.open("rb") as file:
        for member in archive.infolist():
            if member.compress_type != zipfile.ZIP_STORED:
                return None
            file.seek(member.header_offset + 26)  # the lengths of the name and of the extra field
            lengths = np.frombuffer(file.read(4), "<u2")
            rows = _header(path, member.header_offset + 30 + int(lengths.sum()))
            if rows is None:
                return None
            arrays[member.filename.removesuffix(".npy")] = rows
    return arrays


def _header(path: Path, offset: int) -> Rows | None:
    """Return the array whose .npy header begins at `offset` (bytes); None if its rows do not lie together."""
    with reading(path), path.open("rb") as file:
        file.seek(offset)
        version = np.lib.format.read_magic(file)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, in_columns, dtype = read_header(file)
        begin = file.tell()
    if in_columns or dtype.hasobject or not shape:
        return None
    row = math.prod(shape[1:])

    def read(start: int, stop: int) -> Array:
        size = (stop - start) * row
        # a memory map would end the process without a message where the file has become shorter
        x = np.fromfile(path, dtype, size, offset=begin + start * row * dtype.itemsize)
        if x.size < size:
            raise InputError(
                f"{path} ends in example {start + x.size // row + 1} of {shape[0]}, so it was cut off; restore the "
                "file, and run the same command again"
            )
        return x.reshape(stop - start, *shape[1:])

    return Rows(shape, dtype, 1, read)


def _hdf5(path: Path) -> Mapping[str, Rows]:
    h5py = _containers.library("h5py", path)
    arrays: dict[str, Rows] = {}

    def add(key: str, node: Any) -> None:
        if isinstance(node, h5py.Dataset) and node.shape and not h5py.check_string_dtype(node.dtype):
            arrays[key] = _sliced(node)

    with reading(path):
        h5py.File(path, "r").visititems(add)
    return arrays


def _zarr(path: Path) -> Mapping[str, Rows] | None:
    library = _containers.library("zarr", path)
    with reading(path):
        node = library.open(path, mode="r")
        if node.attrs.get("encoding-type") == "anndata":
            return None
        members = {"x": node} if isinstance(node, library.Array) else dict(node.members(max_depth=None))
    return {key: _sliced(member) for key, member in members.items() if isinstance(member, library.Array)}


def _sliced(array: Any) -> Rows:
    """Return an array of h5py or zarr as `Rows`."""
    chunk = array.chunks[0] if array.chunks else 1
    return Rows(array.shape, array.dtype, chunk, lambda start, stop: np.asarray(array[start:stop]))


def _without(source: Source, roles: Mapping[str, str]) -> Source:
    """Return the source without the options that name arrays of labels and groups, because x is read by itself."""
    return replace(
        source, label=None if "y" in roles else source.label, group=None if "group" in roles else source.group
    )


def _arrays_on_disk(source: Source, arrays: Mapping[str, Rows] | None) -> Stored | None:
    """Return images or rows of values of one array x, with its labels; None for other contents, such as sequences."""
    if not arrays:
        return None
    roles = _arrays.roles(arrays, source)
    if "x" not in roles or {"lengths", "times", "factors", "dsprites"} & set(roles) or source.kind("x") == "sequence":
        return None
    x = arrays[roles["x"]]
    if len(x.shape) not in (2, 3, 4) or x.dtype.kind not in "biuf" or not len(x.shape):
        return None
    files = _Files([source.path] if source.path.is_file() else [])
    small = {role: arrays[key].read(0, arrays[key].shape[0]) for role, key in roles.items() if role != "x"}
    y = small.get("y", small.get("labels"))
    unused = [key for key in arrays if key not in roles.values()]
    notes = [f"these arrays are not used: {listed(unused)}"] if unused else []
    bare = _without(source, roles)

    def take(positions: Indices, chunk: int, like: Preprocessing | None) -> Raw:
        with files.unchanged():
            block = np.concatenate([*_parts(x, positions, chunk)])
        return replace(_arrays.from_arrays({"x": block}, bare, name, like), source=source)

    name = file_name(source.path, [*CATALOGUE])
    row = math.prod(x.shape[1:]) * x.dtype.itemsize
    return Stored(
        source=source, name=name, examples=x.shape[0], bytes=x.shape[0] * row, chunk=x.chunk, take=take,
        y=y, groups=small.get("group"), notes=tuple(notes),
    )  # fmt: skip


def _parts(x: Rows, positions: Indices, chunk: int) -> Iterator[Array]:
    """Yield the rows of x at sorted positions. Rows in the same chunk, and neighbouring ones, are read together."""
    number = positions // chunk
    for chosen in np.split(positions, np.flatnonzero(np.diff(number)) + 1):
        start = int(chosen[0])
        yield x.read(start, int(chosen[-1]) + 1)[chosen - start]


def _on_disk(source: Source, listing: _images.Listing, files: _Files, *, one_each: bool = False) -> Stored:
    """Return images that are opened one by one; `one_each` means that each has its own file."""
    names = list(listing.openers)
    name = file_name(source.path, [*CATALOGUE])

    def take(positions: Indices, chunk: int, like: Preprocessing | None) -> Raw:
        openers = {names[i]: listing.openers[names[i]] for i in positions.tolist()}
        with files.unchanged(positions if one_each else None):
            return _images.from_images(openers, source, name, like, None)

    first = _images.pixels(names[0], listing.openers[names[0]], source.alpha)[0]
    size = first.nbytes if source.size is None else len(first) * math.prod(source.size)
    return Stored(
        source=source, name=name, examples=len(names), bytes=len(names) * size, chunk=1, take=take,
        y=listing.classes, splits=listing.splits, rows=listing.rows, notes=listing.notes,
    )  # fmt: skip


class _Files:
    """Notices that files have changed since this object was made, by their sizes and times of modification."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths
        self._facts = np.array([self._size_and_time(path) for path in paths], np.int64).reshape(-1, 2)

    @staticmethod
    def _size_and_time(path: Path) -> tuple[int, int]:
        try:
            facts = os.stat(path)
        except OSError as error:
            raise InputError(
                f"{path} cannot be read any more ({error}); restore it, and run the same command again"
            ) from error
        return facts.st_size, facts.st_mtime_ns

    @contextmanager
    def unchanged(self, chosen: Indices | None = None) -> Iterator[None]:
        """Raise `InputError` if a file has changed by the end of a block of code, whatever else the block raises.

        `chosen` are the positions of the files that the block reads; None means all.
        """
        try:
            yield
        finally:
            for i in range(len(self._paths)) if chosen is None else chosen.tolist():
                size, time = self._size_and_time(self._paths[i])
                if (size, time) != tuple(self._facts[i]):
                    raise InputError(
                        f"{self._paths[i]} has changed while it was read ({self._facts[i, 0]:,} bytes before, {size:,} "
                        "now); expected data that stay as they are until the command has ended"
                    )
