"""A name or a path -> training, validation and test splits as tensors, and the facts about them.

    data = load("digits")
    data.train.x   (N, C, H, W), (N, D), or (N, T, D) with a mask (N, T), as stored; its type says what it is:
                   bool     binary values                      -> given to a variant as {0., 1.}
                   uint8    grey values of a Bernoulli data set -> binarised anew each time they are drawn (training)
                   uint8    8-bit values (`logistic8`)         -> k / 255
                   float32  continuous, standardised by the training split
    data.batch(data.train, index)    what a variant gets

Splits are fixed: stratified by class where there are labels, drawn with one seed that no option changes, so that
studies with different seeds are compared on the same examples. Validation and test are binarised once.
"""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pipeline.data._catalogue import CATALOGUE, cache, places
from pipeline.data._files import read
from pipeline.data._raw import SPLIT_SEED, Factors, Layout, Raw, stratified
from variants import Batch, DataSpec, InputError

__all__ = ["Data", "Factors", "cache", "load", "names", "places"]


@dataclass(frozen=True, kw_only=True)
class Data:
    """A data set, split and ready. `digest` (sha256) covers values, labels and splits."""

    spec: DataSpec
    train: Batch
    valid: Batch
    test: Batch
    digest: str
    source: str
    shift: Tensor  # continuous data are (x - shift) / scale; 0 and 1 for the other kinds
    scale: Tensor
    layout: Layout
    factors: tuple[Factors, Factors, Factors] | None = None  # of train, valid and test

    def to(self, device: torch.device) -> "Data":
        """The same data with every split on `device`."""
        splits = {name: getattr(self, name).to(device) for name in ("train", "valid", "test")}
        return replace(self, **splits, shift=self.shift.to(device), scale=self.scale.to(device))

    def with_labels(self, n: int) -> "Data":
        """The same data, in which `n` training examples, evenly from all classes, keep their label; others get -1."""
        y = self.train.y
        if y is None or n < self.spec.classes:
            raise InputError(f"{n} labels of {self.spec.name}: expected at least one for each of its classes")
        order = torch.randperm(len(y), generator=torch.Generator().manual_seed(SPLIT_SEED)).to(y.device)
        few = torch.full_like(y, -1)
        for c in range(self.spec.classes):
            chosen = order[y[order] == c][: n // self.spec.classes]
            few[chosen] = c
        return replace(self, train=replace(self.train, y=few))

    def most_frequent(self) -> "Data":
        """The same data, of which only the most frequent class is left for training and validation."""
        if self.train.y is None:
            raise InputError(f"{self.spec.name} has no labels; expected classes, of which one is the most frequent")
        return self.only(int(self.train.y.mode().values))

    def only(self, c: int) -> "Data":
        """The same data, of which only class `c` is left for training and validation."""
        left = []
        for split in (self.train, self.valid):
            chosen = None if split.y is None else torch.eq(split.y, c).nonzero()[:, 0]
            if chosen is None or not len(chosen):
                raise InputError(f"class {c} alone: {self.spec.name} has no examples of it to train and validate on")
            left.append(split[chosen])
        return replace(self, train=left[0], valid=left[1])

    def batch(self, split: Batch, index: Tensor | slice, generator: torch.Generator | None = None) -> Batch:
        """Some examples of a split as a variant gets them: float32. `generator` draws the dynamic binarisation."""
        batch = split[index]
        return replace(batch, x=self._values(batch.x, generator))

    def batches(self, split: Batch, size: int = 1024, seed: int = SPLIT_SEED) -> Iterator[Batch]:
        """A whole split in its order, `size` examples at a time; the last batch may be shorter.

        Grey training values are binarised by `seed`, so that scores and codes of a split are the same each time.
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
    """One draw from Bernoulli(grey / 255) for each of the values (uint8), as float32."""
    return torch.bernoulli(grey.float() / 255, generator=generator)


def names() -> list[str]:
    """The data sets that have a name."""
    return sorted(CATALOGUE)


def load(source: str, *, binarized: bool = True, progress: bool = True) -> Data:
    """Load a data set by name, or from the path of a file (arrays, a table, sequences) or a folder of images.

    `binarized=False` keeps grey values of a Bernoulli data set as probabilities in [0, 1]. That scores no likelihood;
    it is there to reproduce programs that train on them.

    Raises `InputError` for an unknown name, an unreadable file, and values that cannot be modelled.
    """
    if source in CATALOGUE:
        raw = CATALOGUE[source](progress)
    elif Path(source).exists():
        raw = read(Path(source), progress)
    elif re.search(r"[/\\.]", source):
        raise InputError(f"--dataset {source}: there is no such file or folder")
    else:
        raise InputError(f"unknown data set {source!r}: expected {', '.join(names())}, or the path of a file or folder")
    return _prepare(raw, binarized)


def _prepare(raw: Raw, binarized: bool) -> Data:
    """Check, split, standardise and binarise."""
    raw = raw.checked()
    index = raw.splits or stratified(raw.y, len(raw.x), 10)
    x, y = torch.from_numpy(raw.x), None if raw.y is None else torch.from_numpy(raw.y)
    mask = None
    if raw.lengths is not None:
        mask = torch.arange(x.shape[1]) < torch.from_numpy(raw.lengths)[:, None]
    shift, scale = torch.zeros(()), torch.ones(())
    if raw.likelihood == "gaussian":
        # per feature of a table, per channel of sequences, one pair for images
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
    for k in (1, 2):  # validation and test: once, with a fixed seed
        if raw.likelihood == "bernoulli" and splits[k].x.dtype == torch.uint8:
            generator = torch.Generator().manual_seed(SPLIT_SEED + k)
            splits[k] = replace(splits[k], x=binarize(splits[k].x, generator).bool())
    classes = 0 if raw.y is None else int(raw.y.max()) + 1
    shape, steps = (x.shape[1:], 0) if mask is None else (x.shape[2:], x.shape[1])
    spec = DataSpec(name=raw.name, shape=tuple(shape), likelihood=raw.likelihood, classes=classes, steps=steps)
    natural: Layout = "images" if len(shape) == 3 else "table"
    if mask is not None:
        natural = "lines" if raw.likelihood == "gaussian" else "roll"
    layout = raw.layout or natural
    known = raw.factors
    causes = None if known is None else (known[index[0].numpy()], known[index[1].numpy()], known[index[2].numpy()])
    return Data(
        spec=spec,
        train=splits[0],
        valid=splits[1],
        test=splits[2],
        digest=_digest(raw, index),
        source=raw.source,
        shift=shift,
        scale=scale,
        layout=layout,
        factors=causes,
    )


def _digest(raw: Raw, index: list[Tensor]) -> str:
    sha = hashlib.sha256(f"{raw.x.shape}{raw.x.dtype}{raw.likelihood}".encode())
    causes = None if raw.factors is None else raw.factors.values
    for array in (raw.x, raw.y, raw.lengths, causes, *(i.numpy() for i in index)):
        if array is not None:
            sha.update(np.ascontiguousarray(array).data)
    return sha.hexdigest()
