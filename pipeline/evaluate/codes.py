"""Codes of data, draws of the posterior and of the prior, and the raw values that codes are compared with."""

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline import machine
from pipeline.data import Data
from pipeline.evaluate import probe
from variants import Batch, Variant

MMD_SAMPLES = 2000


def encode_split(variant: Variant, data: Data, split: Batch) -> NDArray[np.float64]:
    """(N, Z) what `encode` gives for each example of a split. Labels are taken away first."""
    variant.eval()
    with torch.no_grad():
        parts = [variant.encode(Batch(b.x, mask=b.mask)) for b in data.batches(split)]
    return torch.cat(parts).float().cpu().numpy().astype(np.float64)


def posterior_and_prior(
    variant: Variant, data: Data, split: Batch, n: int = MMD_SAMPLES
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(N, Z) z ~ q(z|x) of at most `n` examples (codes where it has no density), and `n` of the prior."""
    few = probe.subset(split, n)
    variant.eval()
    with machine.seeded(split.x.device, 0):
        parts = []
        for batch in data.batches(few):
            proposal = variant.sample_posterior(batch)
            parts.append(variant.encode(batch) if proposal is None else proposal[0])
        prior = variant.sample_prior(n)
    return torch.cat(parts).double().cpu().numpy(), prior.double().cpu().numpy()


def raw_values(data: Data, split: Batch) -> NDArray[np.float64]:
    """(N, pixels) a split as the variants see it."""
    return torch.cat([b.x.flatten(1) for b in data.batches(split)]).cpu().numpy().astype(np.float64)


def labels_of(split: Batch) -> NDArray[np.int64]:
    assert split.y is not None
    labels: NDArray[np.int64] = split.y.cpu().numpy()
    return labels


def labelled(split: Batch) -> Batch:
    """The examples whose label is known."""
    assert split.y is not None
    return split[torch.ge(split.y, 0).nonzero()[:, 0]]
