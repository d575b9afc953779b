"""Hides values of a complete table at random, so that imputed values can be compared with the true ones."""

from dataclasses import replace

import torch

from pipeline.data import Data, Source, load
from variants import Batch, InputError
from variants.base.contract import Likelihood


def complete(name: str, likelihood: Likelihood | None = None) -> Data:
    """Return a table that comes with scikit-learn, standardised by all rows. All rows are in each of the three splits.

    Raises:
        InputError: If the name is not `breast-cancer`.
    """
    from sklearn.datasets import load_breast_cancer

    if name != "breast-cancer":
        raise InputError(f"{name}: expected breast-cancer, the table with hidden values")
    data = load(Source(place=name, likelihood=likelihood), load_breast_cancer().data)
    whole = Batch.cat([data.train, data.valid, data.test])
    x = (whole.x - whole.x.mean(0)) / whole.x.std(0, correction=0)
    return _with_rows(data, Batch(x))


def hidden(data: Data, share: float, seed: int) -> Data:
    """Return the same data, in which a share of the values of `data.train` is missing. All splits are these rows."""
    x = data.train.x
    observed = torch.rand(x.shape, generator=torch.Generator().manual_seed(seed)) >= share
    spec = replace(data.spec, missing=True)
    data = replace(data, preprocessing=replace(data.preprocessing, spec=spec))
    return _with_rows(data, replace(data.train, x=torch.where(observed, x, 0.0), observed=observed))


def _with_rows(data: Data, rows: Batch) -> Data:
    return replace(data, train=rows, valid=rows, test=rows)
