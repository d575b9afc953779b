"""Splits: which examples are for training, for validation and for test."""

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.data._raw import Raw
from pipeline.data._source import SPLIT_SEED


def split(raw: Raw, *, test: bool = True) -> tuple[Raw, list[torch.Tensor]]:
    """Return the sorted indices of training, validation and test examples, and the data with notes about the splits.

    Without `test`, there are indices of training and validation examples only.

    Raises:
        InputError: If a class or a group cannot be divided as `raw.source` asks for.
    """
    if raw.splits is not None:
        return raw, raw.splits
    index = stratified(raw.y, len(raw.x), 10, test=test, seed=raw.source.split_seed)
    return replace(raw), index


def stratified(
    y: NDArray[np.int64] | None, n: int, share: int, *, test: bool = True, seed: int = SPLIT_SEED
) -> list[torch.Tensor]:
    """Split `n` examples at random, each class by itself, and return the sorted indices of each split.

    Validation gets 1/`share` of each class, test as many if `test` is true, and training the rest.
    """
    rng = np.random.default_rng(seed)
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
