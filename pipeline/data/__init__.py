"""Loads a data set from a name or a path, and splits it into training, validation and test tensors.

    data = load("digits")
    batch = data.batch(data.train, index)    # some examples as a variant gets them, in float32

`data.train.x` is stored as (N, C, H, W), (N, D), or (N, T, D) with a mask (N, T). Its type decides how `batch`
converts it:

    bool     binary values become 0.0 and 1.0
    uint8    grey values of a Bernoulli data set are binarised again each time a training example is read
    uint8    8-bit values (`logistic8`) are divided by 255
    float32  continuous values are standardised by the training split when the data are loaded

The splits are stratified by class where there are labels, and drawn with a seed that no option changes, so that all
studies use the same examples. Validation and test are binarised once.
"""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pipeline.data._catalogue import CATALOGUE, as_sequences, cache, search_folders
from pipeline.data._files import read
from pipeline.data._raw import SPLIT_SEED, Factors, Layout, Raw, stratified
from variants import Batch, DataSpec, InputError

__all__ = ["Data", "Factors", "as_sequences", "cache", "load", "names", "search_folders"]


@dataclass(frozen=True, kw_only=True)
class Data:
    """A data set that is split and ready for training. `digest` (sha256) covers values, labels and splits."""

    spec: DataSpec
    train: Batch
    valid: Batch
    test: Batch
    digest: str
    source: str
    shift: Tensor  # continuous values are stored as (x - shift) / scale; 0 and 1 for other likelihoods
    scale: Tensor
    layout: Layout
    factors: tuple[Factors, Factors, Factors] | None = None  # of train, valid and test

    def to(self, device: torch.device) -> "Data":
        """Return the same data with every split on `device`."""
        splits = {name: getattr(self, name).to(device) for name in ("train", "valid", "test")}
        return replace(self, **splits, shift=self.shift.to(device), scale=self.scale.to(device))

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
        return self.only_class(int(self.train.y.mode().values))

    def only_class(self, c: int) -> "Data":
        """Return the same data with only the examples of class `c` for training and validation.

        Raises:
            InputError: If a split has no example of the class.
        """
        splits = []
        for split in (self.train, self.valid):
            chosen = None if split.y is None else torch.eq(split.y, c).nonzero()[:, 0]
            if chosen is None or not len(chosen):
                raise InputError(f"class {c}: {self.spec.name} has no examples of it to train and validate on")
            splits.append(split[chosen])
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
        if x.dtype == torch.uint8 and self.spec.likelihood == "bernoulli":
            return binarize(x, generator)
        if x.dtype == torch.uint8:
            return x.float() / 255
        return x.float()


def binarize(grey: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Draw from Bernoulli(grey / 255) for each value (uint8). Returns float32 of the same shape."""
    return torch.bernoulli(grey.float() / 255, generator=generator)


def names() -> list[str]:
    """Return the names of the data sets that `load` knows, sorted."""
    return sorted(CATALOGUE)


def load(source: str, *, binarized: bool = True) -> Data:
    """Load a data set.

    Args:
        source: A name, or the path of a file (arrays, a table, sequences) or of a folder of images.
        binarized: False keeps the grey values of a Bernoulli data set as probabilities in [0, 1]. The training loss is
            then no likelihood; this only serves to reproduce programs that train in this way.

    Raises:
        InputError: If the name is unknown, the file cannot be read, or its values cannot be modelled.
    """
    if source in CATALOGUE:
        raw = CATALOGUE[source]()
    elif Path(source).exists():
        raw = read(Path(source))
    elif re.search(r"[/\\.]", source):
        raise InputError(f"--dataset {source}: there is no such file or folder")
    else:
        raise InputError(f"unknown data set {source!r}: expected {', '.join(names())}, or the path of a file or folder")
    return _prepare(raw, binarized)


def _prepare(raw: Raw, binarized: bool) -> Data:
    """Check, split, standardise and binarise what was read."""
    raw = raw.checked()
    index = raw.splits or stratified(raw.y, len(raw.x), 10)
    x, y = torch.from_numpy(raw.x), None if raw.y is None else torch.from_numpy(raw.y)
    mask = None
    if raw.lengths is not None:
        mask = torch.arange(x.shape[1]) < torch.from_numpy(raw.lengths)[:, None]
    shift, scale = torch.zeros(()), torch.ones(())
    if raw.likelihood == "gaussian":
        # one mean and scale for each feature of a table, for each channel of sequences, and for all pixels of images
        train = x[index[0]] if mask is None else x[index[0]][mask[index[0]]]
        axes = (0,) if train.ndim == 2 else tuple(range(train.ndim))
        shift, scale = train.mean(axes), train.std(axes)
        scale = torch.where(scale > 0, scale, 1.0)
        x = (x - shift) / scale
        if mask is not None:
            x = x * mask[..., None]
    if raw.likelihood == "bernoulli" and x.dtype == torch.uint8 and not binarized:
        x = x.float() / 255
    splits = [Batch(*(None if field is None else field[i] for field in (x, y, mask))) for i in index]  # type: ignore[arg-type]
    for k in (1, 2):  # validation and test are binarised once, with a fixed seed
        if raw.likelihood == "bernoulli" and splits[k].x.dtype == torch.uint8:
            generator = torch.Generator().manual_seed(SPLIT_SEED + k)
            splits[k] = replace(splits[k], x=binarize(splits[k].x, generator).bool())
    classes = 0 if raw.y is None else int(raw.y.max()) + 1
    shape, steps = (x.shape[1:], 0) if mask is None else (x.shape[2:], x.shape[1])
    spec = DataSpec(name=raw.name, shape=tuple(shape), likelihood=raw.likelihood, classes=classes, steps=steps)
    layout: Layout = "images" if len(shape) == 3 else "table"
    if mask is not None:
        layout = "lines" if raw.likelihood == "gaussian" else "roll"
    factors = None
    if raw.factors is not None:
        train_factors, valid_factors, test_factors = (raw.factors[i.numpy()] for i in index)
        factors = (train_factors, valid_factors, test_factors)
    return Data(
        spec=spec, train=splits[0], valid=splits[1], test=splits[2], digest=_digest(raw, index), source=raw.source,
        shift=shift, scale=scale, layout=raw.layout or layout, factors=factors,
    )  # fmt: skip


def _digest(raw: Raw, index: list[Tensor]) -> str:
    sha = hashlib.sha256(f"{raw.x.shape}{raw.x.dtype}{raw.likelihood}".encode())
    factors = None if raw.factors is None else raw.factors.values
    for array in (raw.x, raw.y, raw.lengths, factors, *(i.numpy() for i in index)):
        if array is not None:
            sha.update(np.ascontiguousarray(array).data)
    return sha.hexdigest()
