"""A data set that is split and ready for training."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pipeline.data._catalogue import CATALOGUE
from pipeline.data._description import Description, near_duplicate_warning
from pipeline.data._preprocessing import Preprocessing, as_float
from pipeline.data._raw import Factors, Layout
from pipeline.data._source import SPLIT_SEED, Source
from pipeline.data._stream import Stream
from variants import Batch, DataSpec, InputError

BATCH_VALUES = 1 << 21  # most values of the examples in a batch that is evaluated


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
    test_series: Tensor | None = None  # (N,) the number of the series of each test example, if examples are windows
    drawn: tuple[str, ...] = ()  # the splits that `--split-seed` changes: validation, test, both or none
    stream: Stream | None = None  # all training examples, if they do not fit in memory; `train` then has some of them

    @property
    def epoch(self) -> int:
        """The number of training examples in an epoch."""
        return self.stream.portion if self.stream else len(self.train)

    @property
    def spec(self) -> DataSpec:
        return replace(self.preprocessing.spec, examples=len(self.stream.index) if self.stream else len(self.train))

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
        stream = self.stream and replace(self.stream, device=device)
        splits = {name: getattr(self, name).to(device) for name in ("train", "valid", "test")}
        return replace(self, **splits, stream=stream)

    def with_labels(self, n: int) -> "Data":
        """Return the same data with `n` labelled training examples, evenly from all classes; other labels become -1.

        Raises:
            InputError: If there are no labels, or `n` is less than the number of classes.
        """
        y = self.train.y
        assert self.stream is None, "labels are hidden only in data that are in memory"
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
        return replace(self, train=splits[0], valid=splits[1], stream=self.stream and self.stream.only_class(c))

    def batch(self, split: Batch, index: Tensor | slice, generator: torch.Generator | None = None) -> Batch:
        """Return some examples of a split in float32. `generator` draws the binarisation of grey training values."""
        return self.as_float(split[index], generator)

    def as_float(self, batch: Batch, generator: torch.Generator | None = None) -> Batch:
        """Return stored examples in float32. `generator` draws the binarisation of grey values."""
        is_grey = self.preprocessing.is_grey(batch.x)
        return replace(batch, x=binarize(batch.x, generator) if is_grey else as_float(batch.x))

    def batches(self, split: Batch, size: int | None = None, seed: int = SPLIT_SEED) -> Iterator[Batch]:
        """Yield a whole split in its order, in batches of `size` examples; the last batch may be shorter.

        By default, a batch has 1,024 examples, or fewer if these have more than `BATCH_VALUES` values together. Grey
        training values are binarised with `seed`, so that every call yields the same batches.
        """
        size = size or max(1, min(1024, BATCH_VALUES // max(1, split.x.shape[1:].numel())))
        generator = torch.Generator(split.x.device).manual_seed(seed)
        for start in range(0, len(split), size):
            yield self.batch(split, slice(start, start + size), generator)


def binarize(grey: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Draw from Bernoulli(grey / 255) for each value (uint8). Returns float32 of the same shape."""
    return torch.bernoulli(as_float(grey), generator=generator)


def held_out(split: Batch, k: int, preprocessing: Preprocessing) -> Batch:
    """Return validation (k = 1) or test examples (k = 2), whose grey values are binarised once, with a fixed seed."""
    if not preprocessing.is_grey(split.x):
        return split
    generator = torch.Generator().manual_seed(SPLIT_SEED + k)
    return replace(split, x=binarize(split.x, generator).bool())
