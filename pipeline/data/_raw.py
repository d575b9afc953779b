"""A data set as it was read from its source, before it is split."""

import re
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from variants import InputError
from variants.base.contract import Likelihood

MINIMUM = 30  # with fewer examples, a validation or test split would have two or less
SPLIT_SEED = 20131220  # changing it changes every split (the VAE appeared on arXiv on that day)
Layout = Literal["images", "table", "lines", "roll"]  # how examples are drawn in pictures


@dataclass(frozen=True)
class Factors:
    """The known factors of variation of each example.

    `values` (N, F) are numbers, one column for each of `names`. The values of factors in `unordered` are classes, which
    have neither an order nor distances.
    """

    names: tuple[str, ...]
    values: NDArray[Any]
    unordered: tuple[str, ...] = ()

    def __getitem__(self, index: Any) -> "Factors":
        return Factors(self.names, self.values[index], self.unordered)

    def checked(self, source: str, n: int) -> "Factors":
        """Return these factors. Raises `InputError` if they do not fit `n` examples."""
        shape, kind = self.values.shape, self.values.dtype
        if len(shape) != 2 or shape[0] != n or kind.kind not in "biuf" or not np.isfinite(self.values).all():
            raise InputError(f"{source}: factors are {kind} of shape {shape}; expected finite numbers ({n}, factors)")
        if len(self.names) != shape[1]:
            raise InputError(
                f"{source}: {len(self.names)} factor_names for {shape[1]} factors; expected a name for each"
            )
        for name in set(self.unordered) - set(self.names):
            raise InputError(f"{source}: unordered names {name!r}; expected names out of {', '.join(self.names)}")
        return self


@dataclass(frozen=True, kw_only=True)
class Raw:
    """Values `x` (N, ...) as bool, uint8 or float32, and labels `y` (N,) from 0 to classes - 1.

    Sequences are (N, T, D) with `lengths` (N,), and padded with zeros. `splits` holds the indices of training,
    validation and test examples if the source defines them.
    """

    name: str
    source: str
    x: NDArray[Any]
    y: NDArray[np.int64] | None
    likelihood: Likelihood
    splits: list[torch.Tensor] | None = None
    lengths: NDArray[np.int64] | None = None
    layout: Layout | None = None  # None: follows from the shape
    factors: Factors | None = None

    def checked(self) -> "Raw":
        """Return this data set. Raises `InputError` if it has too few examples, missing or constant values."""
        if len(self.x) < MINIMUM:
            raise InputError(f"{self.source}: {len(self.x)} examples; expected at least {MINIMUM} for three splits")
        if self.x[0].size == 0:
            raise InputError(f"{self.source}: x has shape {self.x.shape}; expected examples with values")
        if self.x.dtype.kind == "f" and not np.isfinite(self.x).all():
            bad = ~np.isfinite(self.x.reshape(len(self.x), -1)).all(1)
            raise InputError(
                f"{self.source}: {bad.sum()} of {len(bad)} examples hold NaN or infinity, the first at index "
                f"{int(bad.argmax())}; drop them or fill them in"
            )
        if (self.x == self.x[:1]).all():
            raise InputError(f"{self.source}: all {len(self.x)} examples are equal; there is nothing to model")
        if self.factors is not None:
            self.factors.checked(self.source, len(self.x))
        return self


def from_values(source: str, name: str, x: NDArray[Any], y: NDArray[Any] | None) -> Raw:
    """Make a `Raw` of arrays, and choose the likelihood by their type and values.

    The likelihood is Bernoulli for binary values (bool, or only 0 and 1), a discretised logistic for other uint8, and
    Gaussian for other numbers. Raises `InputError` for other types and for shapes that are no examples.
    """
    if x.dtype.kind not in "biuf":
        raise InputError(f"{source}: x has type {x.dtype}; expected numbers")
    if x.ndim not in (2, 3, 4):
        raise InputError(f"{source}: x has shape {x.shape}; expected (N, D), (N, H, W), (N, C, H, W) or (N, H, W, C)")
    if x.ndim == 3:
        x = x[:, None]
    elif x.ndim == 4 and x.shape[3] in (1, 3) and x.shape[1] not in (1, 3):
        x = x.transpose(0, 3, 1, 2)
    likelihood: Likelihood = "gaussian"
    if x.dtype == np.bool_ or (x.size and np.isin(x, (0, 1)).all()):
        x, likelihood = x.astype(np.bool_), "bernoulli"
    elif x.dtype == np.uint8:
        likelihood = "logistic8"
    else:
        x = x.astype(np.float32)
    codes = None if y is None else labels(source, y, len(x))
    return Raw(name=slug(name), source=source, x=np.ascontiguousarray(x), y=codes, likelihood=likelihood)


def slug(name: str) -> str:
    """Return a name that is safe in paths and URLs."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-") or "data"


def stratified(y: NDArray[np.int64] | None, n: int, share: int, test: bool = True) -> list[torch.Tensor]:
    """Split `n` examples at random, each class by itself, and return the sorted indices of each split.

    Validation gets 1/`share` of each class, test as many if `test` is true, and training the rest.
    """
    rng = np.random.default_rng(SPLIT_SEED)
    groups = [np.arange(n)] if y is None else [np.flatnonzero(y == c) for c in range(int(y.max()) + 1)]
    parts: list[list[NDArray[np.int64]]] = [[], [], []]
    for group in groups:
        group = rng.permutation(group)
        size = round(len(group) / share)
        rest = 2 * size if test else size
        for part, chosen in zip(parts, (group[rest:], group[:size], group[size:rest]), strict=True):
            part.append(chosen)
    splits = [torch.from_numpy(np.sort(np.concatenate(part))) for part in parts]
    return splits if test else splits[:2]


def labels(source: str, y: NDArray[Any], n: int) -> NDArray[np.int64]:
    """Convert whole numbers or strings to labels (N,) from 0 to classes - 1. Raises `InputError` for other labels."""
    if y.dtype == object:
        y = y.astype(str)
    if y.ndim != 1 or len(y) != n:
        raise InputError(f"{source}: y has shape {y.shape}; expected ({n},), a label for each example in x")
    if y.dtype.kind == "f" and not (np.isfinite(y).all() and (y == np.round(y)).all()):
        raise InputError(f"{source}: y holds fractions or NaN; expected class labels (whole numbers or strings)")
    if y.dtype.kind not in "biufUS":
        raise InputError(f"{source}: y has type {y.dtype}; expected whole numbers or strings")
    classes, codes = np.unique(y, return_inverse=True)
    if len(classes) > n // 2:
        raise InputError(f"{source}: y has {len(classes)} different values in {n} examples; expected class labels")
    return np.asarray(codes, dtype=np.int64)
