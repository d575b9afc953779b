"""Scores of examples that depend neither on other examples nor on their order.

Each example of a batch gets the same random numbers, so the caller only has to set the seed before each batch.
"""

import math

import torch
from torch import Tensor

from pipeline import machine
from pipeline.evaluate.codes import sampled_codes
from pipeline.evaluate.likelihood import bound, every_class
from pipeline.metrics import Undefined
from variants import Batch, Variant

DRAWS = 16  # of z behind a score


def bounds(variant: Variant, batch: Batch) -> Tensor | Undefined:
    """Return the importance weighted bound of log p(x), (B,), in nats, float64 (Burda et al. 2016, equation 8).

    It sums over the classes if the variant is conditioned on them. It is undefined if q(z|x) has no density.
    """
    by_class = []
    for labelled in every_class(variant, batch):
        draws = []
        for _ in range(DRAWS):
            with machine.EqualNoise(len(batch)):
                log_weight = bound(variant, labelled, 1)
            if isinstance(log_weight, Undefined):
                return log_weight
            draws.append(log_weight)
        by_class.append(torch.stack(draws).logsumexp(0) - math.log(DRAWS))
    return torch.stack(by_class).logsumexp(0)


def log_likelihoods(variant: Variant, batch: Batch) -> Tensor:
    """Return E log p(x_i|z) of each value, (B, *shape), under q(z|x), or at the code if q has no density."""
    total = torch.zeros_like(batch.x)
    for _ in range(DRAWS):
        with machine.EqualNoise(len(batch)):
            z = sampled_codes(variant, batch)
        total += variant.log_likelihood(z, batch)
    return total / DRAWS


def unusualness(variant: Variant, batch: Batch) -> Tensor:
    """Return how unusual each example is, (B,), float64: minus its bound, or -log p(x|z) at its code without one."""
    value = bounds(variant, batch)
    if isinstance(value, Undefined):
        return -log_likelihoods(variant, batch).flatten(1).sum(1).double()
    return -value
