"""`load`, which reads, splits and encodes a data set, `Data`, which it returns, and what else this package exports."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.data._catalogue import CATALOGUE, as_sequences, cache, search_folders
from pipeline.data._description import Description, describe, near_duplicate_warning
from pipeline.data._files import name_of, read, read_parts
from pipeline.data._preprocessing import Preprocessing, as_float
from pipeline.data._raw import Column, Factors, Layout, PixelFormat, Raw
from pipeline.data._results import in_source_form, with_names
from pipeline.data._source import KINDS, SPLIT_SEED, Kind, Source
from pipeline.data._splits import split, with_warnings
from variants import Batch, DataSpec, InputError

__all__ = [
    "KINDS", "SPLIT_SEED", "Column", "Data", "Description", "Factors", "Kind", "PixelFormat", "Preprocessing", "Raw",
    "Source", "as_sequences", "cache", "in_source_form", "load", "name_of", "names", "read", "read_parts",
    "search_folders", "with_names",
]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Data:
    """A data set that is split and ready for training. `digest` (sha256) covers values, labels and splits."""

    train: Batch
    valid: Batch
    test: Batch
    digest: str
    preprocessing: Preprocessing
    description: Description | None = None
    factors: tuple[Factors, Factors, Factors] | None = None  # of train, valid and test
    test_rows: Tensor | None = None  # (N,) positions of the test examples among all of their source, from 0
    drawn: tuple[str, ...] = ()  # the splits that `--split-seed` changes: validation, test, both or none

    @property
    def spec(self) -> DataSpec:
        return self.preprocessing.spec

    @property
    def layout(self) -> Layout:
        return self.preprocessing.layout

    @property
    def source(self) -> Source:
        return self.preprocessing.source

    def inspect(self) -> Description:
        """Return the description with a warning if test examples are nearly equal to training examples.

        The comparison takes about a second. Built-in data sets are not examined.
        """
        assert self.description is not None
        warning = ""
        if self.source.place not in CATALOGUE:
            warning = near_duplicate_warning(self.train, self.test, self.preprocessing)
        return replace(self.description, warnings=(*self.description.warnings, *([warning] if warning else [])))

    def to(self, device: torch.device) -> "Data":
        """Return the same data with every split on `device`."""
        return replace(self, **{name: getattr(self, name).to(device) for name in ("train", "valid", "test")})

    def with_labels(self, n: int) -> "Data":
        """Return the same data with `n` labelled training examples, evenly from all classes; other labels become -1.

        Raises:
            InputError: If there are no labels, or `n` is less than the number of classes.
        """
        y = self.train.y
        if y is None or n < self.spec.classes:
            raise InputError(
                f"{n} labels of {self.spec.name}: expected at least one for each of its {self.spec.classes} classes"
            )
        order = torch.randperm(len(y), generator=torch.Generator().manual_seed(SPLIT_SEED)).to(y.device)
        labels = torch.full_like(y, -1)
        for c in range(self.spec.classes):
            chosen = order[y[order] == c][: n // self.spec.classes]
            labels[chosen] = c
        return replace(self, train=replace(self.train, y=labels))

    def only_most_frequent_class(self) -> "Data":
        """Return the same data with only the examples of the most frequent class for training and validation."""
        if self.train.y is None:
            raise InputError(f"{self.spec.name} has no labels; expected a data set with classes")
        return self.only_class(int(self.train.y[self.train.y >= 0].mode().values))

    def only_class(self, c: int) -> "Data":
        """Return the same data with only the examples of class `c` for training and validation.

        Raises:
            InputError: If a split has no example of the class.
        """
        splits = []
        for part in (self.train, self.valid):
            chosen = None if part.y is None else torch.eq(part.y, c).nonzero()[:, 0]
            if chosen is None or not len(chosen):
                raise InputError(f"class {c}: {self.spec.name} has no examples of it to train and validate on")
            splits.append(part[chosen])
        return replace(self, train=splits[0], valid=splits[1])

    def batch(self, split: Batch, index: Tensor | slice, generator: torch.Generator | None = None) -> Batch:
        """Return some examples of a split in float32. `generator` draws the binarisation of grey training values."""
        batch = split[index]
        return replace(batch, x=self._values(batch.x, generator))

    def batches(self, split: Batch, size: int = 1024, seed: int = SPLIT_SEED) -> Iterator[Batch]:
        """Yield a whole split in its order, in batches of `size` examples; the last batch may be shorter.

        Grey training values are binarised with `seed`, so that every call yields the same batches.
        """
        generator = torch.Generator(split.x.device).manual_seed(seed)
        for start in range(0, len(split), size):
            yield self.batch(split, slice(start, start + size), generator)

    def _values(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        return binarize(x, generator) if self.preprocessing.is_grey(x) else as_float(x)


def binarize(grey: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Draw from Bernoulli(grey / 255) for each value (uint8). Returns float32 of the same shape."""
    return torch.bernoulli(as_float(grey), generator=generator)


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
    for k in (1, 2):  # validation and test are binarised once, with a fixed seed
        if preprocessing.is_grey(splits[k].x):
            generator = torch.Generator().manual_seed(SPLIT_SEED + k)
            splits[k] = replace(splits[k], x=binarize(splits[k].x, generator).bool())
    factors = None
    if raw.factors is not None:
        train_factors, valid_factors, test_factors = (raw.factors[i.numpy()] for i in index)
        factors = (train_factors, valid_factors, test_factors)
    return Data(
        train=splits[0], valid=splits[1], test=splits[2], digest=digest, preprocessing=preprocessing,
        description=describe(raw, index), factors=factors, drawn=raw.drawn,
        test_rows=index[2] if source.test is None else torch.arange(len(index[2])),
    )  # fmt: skip


def _with_test(raw: Raw, index: list[Tensor]) -> tuple[Raw, list[Tensor]]:
    """Read the data at `raw.source.test`, and append them as the test split.

    Returns the joined data and the indices of the three splits.
    """
    source = raw.source
    test = read(replace(source, place=str(source.test), test=None), like=Preprocessing.fit(raw, index[0]))
    x, parts = [raw.x, test.x], [raw, test]
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
    if raw.rows is not None and test.rows is not None:
        joined["rows"] = raw.rows.append(test.rows)
    return replace(raw, **joined), [*index, torch.arange(len(raw.x), len(joined["x"]))]


def _digest(raw: Raw, index: list[Tensor]) -> str:
    sha = hashlib.sha256(f"{raw.x.shape}{raw.x.dtype}{raw.likelihood}".encode())
    factors = None if raw.factors is None else raw.factors.values
    if raw.likelihood == "mixed" or raw.exposure_kind:
        kinds = [(column.kind, column.values, column.likelihood) for column in raw.columns]
        sha.update(f"{kinds}{raw.exposure_kind}".encode())
    for array in (raw.x, raw.y, raw.lengths, factors, raw.observed, raw.given_exposure, *(i.numpy() for i in index)):
        if array is not None:
            sha.update(np.ascontiguousarray(array).data)
    return sha.hexdigest()
