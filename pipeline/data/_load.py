"""`load`, which reads, splits and encodes a data set, and what else this package exports."""

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.data._catalogue import CATALOGUE, as_sequences, cache, search_folders
from pipeline.data._data import Data, held_out
from pipeline.data._description import Description, describe
from pipeline.data._files import name_of, read, read_parts
from pipeline.data._large import is_large, load_large, may_be_large
from pipeline.data._preprocessing import Preprocessing, as_float
from pipeline.data._raw import Column, Factors, PixelFormat, Raw
from pipeline.data._results import in_source_form, with_names
from pipeline.data._source import KINDS, SPLIT_SEED, Kind, Source
from pipeline.data._splits import split, with_warnings
from pipeline.data._stored import stored
from variants import InputError

__all__ = [
    "KINDS", "SPLIT_SEED", "Column", "Data", "Description", "Factors", "Kind", "PixelFormat", "Preprocessing", "Raw",
    "Source", "as_sequences", "cache", "in_source_form", "load", "name_of", "names", "read", "read_parts",
    "search_folders", "with_names",
]  # fmt: skip


def names() -> list[str]:
    """Return the names of the data sets that `load` knows, sorted."""
    return sorted(CATALOGUE)


def load(source: str | Source, content: Any = None, *, binarized: bool = True) -> Data:
    """Load a data set.

    Args:
        source: A name, the path of a file or folder, or a `Source` with options.
        content: Data in memory, which take the place of a file: an array (N, ...), a pandas data frame, a list of
            sequences (T, D), or a mapping with the arrays that an .npz file may hold.
        binarized: False keeps the grey values of a Bernoulli data set as probabilities in [0, 1]. The training loss is
            then no likelihood; this only serves to reproduce programs that train in this way.

    Raises:
        InputError: If the name is unknown, the file cannot be read, or its values cannot be modelled.
    """
    source = Source.parse(source) if isinstance(source, str) else source
    if source.test is not None and source.test not in CATALOGUE:
        source = replace(source, test=str(Path(source.test).expanduser().resolve()))
    if content is None and source.test is None and may_be_large(source):
        found = stored(source)
        if found is not None and is_large(found):
            return load_large(found)
    if source.portion is not None:
        raise InputError(
            f"{source}: --portion {source.portion} is for arrays (.npy, .npz without compression, HDF5, zarr) and "
            "folders of images, without --test; leave it out"
        )
    raw = read(source, content).checked()
    raw, index = split(raw, test=source.test is None)
    if source.test is not None:
        raw, index = _with_test(raw, index)
    raw = with_warnings(raw, index)
    preprocessing = Preprocessing.fit(raw, index[0])
    digest = _digest(raw, index)
    preprocessing = replace(preprocessing, digest=digest)
    whole = preprocessing.encode(raw, is_new=False)
    if whole.observed is not None and not preprocessing.spec.missing:
        warning = (
            "values are missing in the validation or test split, but in no training example, so a model does not learn "
            "to read examples with missing values"
        )
        raw = replace(raw, warnings=(*raw.warnings, warning))
    if preprocessing.is_grey(whole.x) and not binarized:
        whole = replace(whole, x=as_float(whole.x))
    splits = [whole[i] for i in index]
    splits[1:] = [held_out(splits[k], k, preprocessing) for k in (1, 2)]
    factors = None
    if raw.factors is not None:
        train_factors, valid_factors, test_factors = (raw.factors[i.numpy()] for i in index)
        factors = (train_factors, valid_factors, test_factors)
    return Data(
        train=splits[0], valid=splits[1], test=splits[2], digest=digest, preprocessing=preprocessing,
        description=describe(raw, index), factors=factors, drawn=raw.drawn,
        test_series=None if raw.windows is None else torch.from_numpy(raw.windows.series)[index[2]],
        test_rows=index[2] if source.test is None else torch.arange(len(index[2])),
    )  # fmt: skip


def _with_test(raw: Raw, index: list[torch.Tensor]) -> tuple[Raw, list[torch.Tensor]]:
    """Read the data at `raw.source.test`, and append them as the test split.

    Returns the joined data and the indices of the three splits.
    """
    source = raw.source
    test = read(replace(source, place=str(source.test), test=None), like=Preprocessing.fit(raw, index[0]))
    x, parts = [raw.x, test.x], [raw, test]
    longest = 0
    if raw.lengths is not None:
        longest = max(part.shape[1] for part in x)
        x = [np.pad(part, ((0, 0), (0, longest - part.shape[1]), (0, 0))) for part in x]
    joined: dict[str, Any] = {"x": np.concatenate(x)}
    if any(part.observed is not None for part in parts):
        joined["observed"] = np.ones(joined["x"].shape, np.bool_)
        for part, start in zip(parts, (0, len(raw.x)), strict=True):
            if part.observed is not None:
                joined["observed"][start : start + len(part.x), : part.x.shape[1]] = part.observed
    for name in ("y", "lengths", "groups", "times", "given_exposure"):
        values = [getattr(part, name) for part in parts]
        joined[name] = None if any(v is None for v in values) else np.concatenate(values)
    if raw.y is not None and test.y is None:
        joined["y"] = np.concatenate([raw.y, np.full(len(test.x), -1)])
    if raw.factors is not None and test.factors is not None:
        joined["factors"] = replace(raw.factors, values=np.concatenate([raw.factors.values, test.factors.values]))
    for name in ("rows", "stamps"):
        if getattr(raw, name) is not None and getattr(test, name) is not None:
            joined[name] = getattr(raw, name).append(getattr(test, name))
    if raw.elapsed is not None and test.elapsed is not None:
        elapsed = [np.pad(e, ((0, 0), (0, longest - e.shape[1]))) for e in (raw.elapsed, test.elapsed)]
        joined["elapsed"] = np.concatenate(elapsed)
    if raw.windows is not None and test.windows is not None:
        joined["windows"] = raw.windows.joined(test.windows)
    return replace(raw, **joined), [*index, torch.arange(len(raw.x), len(joined["x"]))]


def _digest(raw: Raw, index: list[torch.Tensor]) -> str:
    sha = hashlib.sha256(f"{raw.x.shape}{raw.x.dtype}{raw.likelihood}".encode())
    factors = None if raw.factors is None else raw.factors.values
    if raw.likelihood == "mixed" or raw.exposure_kind:
        kinds = [(column.kind, column.values, column.likelihood) for column in raw.columns]
        sha.update(f"{kinds}{raw.exposure_kind}".encode())
    for array in (raw.x, raw.y, raw.lengths, factors, raw.observed, raw.given_exposure, raw.elapsed,
                  *(i.numpy() for i in index)):  # fmt: skip
        if array is not None:
            sha.update(np.ascontiguousarray(array).data)
    return sha.hexdigest()
