"""A data set as it was read, before it is split."""

import re
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from variants import InputError
from variants.base.contract import Likelihood

LEAST = 30  # fewer examples cannot be split into three parts that mean anything
SPLIT_SEED = 20131220  # the day the VAE appeared on arXiv; changing it changes every split
Layout = Literal["images", "table", "lines", "roll"]  # how examples are best drawn


@dataclass(frozen=True)
class Factors:
    """The known causes of each example: `values` (N, F), whole numbers or not, one column for each of `names`.

    The values of those in `unordered` are classes: they have neither an order nor distances.
    """

    names: tuple[str, ...]
    values: NDArray[Any]
    unordered: tuple[str, ...] = ()

    def __getitem__(self, index: Any) -> "Factors":
        return Factors(self.names, self.values[index], self.unordered)

    def checked(self, source: str, n: int) -> "Factors":
        """Itself, if it fits `n` examples. Raises `InputError`."""
        shape, kind = self.values.shape, self.values.dtype
        if len(shape) != 2 or shape[0] != n or kind.kind not in "biuf" or not np.isfinite(self.values).all():
            raise InputError(f"{source}: factors are {kind} of shape {shape}; expected finite numbers ({n}, factors)")
        if len(self.names) != shape[1]:
            raise InputError(f"{source}: {len(self.names)} factor_names for {shape[1]} factors; expected one for each")
        for name in set(self.unordered) - set(self.names):
            raise InputError(f"{source}: unordered names {name!r}; expected some of {', '.join(self.names)}")
        return self


@dataclass(frozen=True, kw_only=True)
class Raw:
    """Values (N, ...) as bool, uint8 or float32; labels (N,) as 0 .. classes - 1; the source's own splits, if any.

    Sequences are (N, T, D) with `lengths` (N,), and zeros behind their ends.
    """

    name: str
    source: str
    x: NDArray[Any]
    y: NDArray[np.int64] | None
    likelihood: Likelihood
    splits: list[torch.Tensor] | None = None
    lengths: NDArray[np.int64] | None = None
    layout: Layout | None = None  # where another than the natural one is wanted
    factors: Factors | None = None

    def checked(self) -> "Raw":
        """Itself, if it can be modelled. Raises `InputError` for too few, missing or constant values."""
        if len(self.x) < LEAST:
            raise InputError(f"{self.source}: {len(self.x)} examples; expected at least {LEAST}, to split three ways")
        if self.x[0].size == 0:
            raise InputError(f"{self.source}: x has shape {self.x.shape}; an example holds no value")
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
    """A `Raw` from a person's own arrays: the likelihood is chosen by their type and values.

    Binary (bool, or only 0 and 1): Bernoulli. uint8: discretised logistic. Other numbers: Gaussian.
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
    known = None if y is None else labels(source, y, len(x))
    return Raw(name=slug(name), source=source, x=np.ascontiguousarray(x), y=known, likelihood=likelihood)


def slug(name: str) -> str:
    """A name that is safe in paths and addresses."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-") or "data"


def stratified(y: NDArray[np.int64] | None, n: int, share: int, test: bool = True) -> list[torch.Tensor]:
    """Indices for training, validation (1/share) and, with `test`, test (as many), of each class by itself."""
    rng = np.random.default_rng(SPLIT_SEED)
    groups = [np.arange(n)] if y is None else [np.flatnonzero(y == c) for c in range(int(y.max()) + 1)]
    parts: list[list[NDArray[np.int64]]] = [[], [], []]
    for group in groups:
        group = rng.permutation(group)
        held = round(len(group) / share)
        rest = 2 * held if test else held
        for part, chosen in zip(parts, (group[rest:], group[:held], group[held:rest]), strict=True):
            part.append(chosen)
    found = [torch.from_numpy(np.sort(np.concatenate(part))) for part in parts]
    return found if test else found[:2]


def labels(source: str, y: NDArray[Any], n: int) -> NDArray[np.int64]:
    """Labels of any kind as 0 .. classes - 1."""
    if y.dtype == object:
        y = y.astype(str)
    if y.ndim != 1 or len(y) != n:
        raise InputError(f"{source}: y has shape {y.shape}; expected ({n},), a label for each of the examples in x")
    if y.dtype.kind == "f" and not (np.isfinite(y).all() and (y == np.round(y)).all()):
        raise InputError(f"{source}: y holds fractions or NaN; expected class labels (whole numbers or strings)")
    if y.dtype.kind not in "biufUS":
        raise InputError(f"{source}: y has type {y.dtype}; expected whole numbers or strings")
    classes, codes = np.unique(y, return_inverse=True)
    if len(classes) > n // 2:
        raise InputError(f"{source}: y has {len(classes)} different values in {n} examples; expected class labels")
    found: NDArray[np.int64] = codes.astype(np.int64)
    return found
