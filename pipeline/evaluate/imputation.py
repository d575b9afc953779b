"""Conditional means and draws of missing values given the observed ones.

If the training data had missing values and q(z|x) has a density, the posterior p(z|observed values) is approximated by
samples of q(z|x) with weights that are proportional to p(observed values, z) / q(z|x). This is self-normalised
importance sampling, as in MIWAE (Mattei & Frellsen 2019, arXiv:1812.02633, section on imputation). If the variant is
conditioned on a class, the samples are of z and the class together, and labels are not used.

If the training data had no missing values, z and the missing values are drawn in turn (pseudo-Gibbs sampling, Rezende
et al. 2014, appendix F), so that the encoder always reads complete examples, as in training. It would mistake the zero
in place of a missing value for an observed value, and q(z|x) would be far from the posterior.

An encoder that was trained with missing values has hardly seen complete examples, and chains with it diverged on the
breast cancer table. If its q(z|x) has no density, z is therefore the code of the observed values.
"""

import math
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from pipeline.evaluate.codes import sampled_codes
from pipeline.evaluate.likelihood import ROWS, every_class, repeated_positions, weighted_samples
from variants import Batch, Variant

GIBBS_ROUNDS = 40  # rounds of a chain, of which the first half is discarded


def conditional_mean(variant: Variant, batch: Batch, samples: int = 1000) -> Tensor:
    """Return E[x|observed values], (B, *shape), in the units of `Batch.x`; observed values stay as they are.

    The means of categories and binary values are probabilities. With importance sampling, each mean is over `samples`
    draws of z. At most about `ROWS` draws are decoded at a time.
    """
    if _has_weights(variant, batch):
        mean = torch.cat([_weighted_mean(variant, part, samples) for part in _parts(batch, samples)])
    else:
        mean = torch.cat([_chain_mean(variant, part) for part in _parts(batch, 1)])
    return mean if batch.observed is None else torch.where(batch.observed, batch.x, mean)


def conditional_draws(variant: Variant, batch: Batch, n: int, samples: int = 1000) -> Tensor:
    """Return `n` approximate draws from p(x|observed values), (n, B, *shape); arguments as in `conditional_mean`."""
    if _has_weights(variant, batch):
        parts = [_weighted_draws(variant, part, n, samples) for part in _parts(batch, max(n, samples))]
    else:
        parts = [_chain_draws(variant, part, n) for part in _parts(batch, n)]
    draws = torch.cat(parts).unflatten(0, (len(batch), n)).transpose(0, 1)
    return draws if batch.observed is None else torch.where(batch.observed, batch.x, draws)


def _has_weights(variant: Variant, batch: Batch) -> bool:
    return variant.spec.missing and variant.sample_posterior(batch[slice(0, 1)]) is not None


def _parts(batch: Batch, rows: int) -> Iterator[Batch]:
    """Yield parts of a batch with at most `ROWS` inputs of the decoder, if each example needs `rows` of them."""
    size = max(1, ROWS // rows)
    return (batch[slice(i, i + size)] for i in range(0, len(batch), size))


def _weighted_mean(variant: Variant, batch: Batch, samples: int) -> Tensor:
    z, y, weight = _posterior(variant, batch, samples)
    total, index = torch.zeros_like(batch.x), repeated_positions(batch, weight.shape[1])
    for some in torch.arange(len(index), device=z.device).split(ROWS):
        means = variant.decode(z.flatten(0, 1)[some], replace(batch[index[some]], y=y.flatten()[some]))
        shares = weight.flatten()[some].to(means.dtype).view(-1, *[1] * (means.ndim - 1))
        total.index_add_(0, index[some], shares * means)
    return total


def _weighted_draws(variant: Variant, batch: Batch, n: int, samples: int) -> Tensor:
    z, y = _resampled(*_posterior(variant, batch, samples), n)
    return variant.sample_x(z, replace(batch[repeated_positions(batch, n)], y=y))


def _posterior(variant: Variant, batch: Batch, samples: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return samples z (B, M, Z) of q, their classes (B, M), and their weights (B, M), which add up to 1.

    M is about `samples`. If the variant is conditioned on a class, they are divided evenly among the classes; otherwise
    the class is -1, which is unknown.
    """
    z, y, log_weights = [], [], []
    by_class = every_class(variant, replace(batch, y=batch.x.new_full((len(batch),), -1, dtype=torch.int64)))
    for labelled in by_class:
        weighted = weighted_samples(variant, labelled, math.ceil(samples / len(by_class)))
        assert weighted is not None and labelled.y is not None
        z.append(weighted[0])
        y.append(labelled.y[:, None].expand_as(weighted[1]))
        log_weights.append(weighted[1])
    return torch.cat(z, 1), torch.cat(y, 1), torch.cat(log_weights, 1).softmax(1)


def _resampled(z: Tensor, y: Tensor, weight: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Return n samples for each example, drawn by their weights: z (B n, Z) and the classes (B n,)."""
    choice = weight.multinomial(n, replacement=True)
    return z.gather(1, choice[..., None].expand(-1, -1, z.shape[2])).flatten(0, 1), y.gather(1, choice).flatten()


def _chain_mean(variant: Variant, batch: Batch) -> Tensor:
    means = [variant.decode(z, given) for z, given, _ in _gibbs(variant, batch.unlabelled)]
    return torch.stack(means[GIBBS_ROUNDS // 2 :]).mean(0)


def _chain_draws(variant: Variant, batch: Batch, n: int) -> Tensor:
    """Return the last states of n chains for each example, (B n, *shape)."""
    *_, (_, _, x) = _gibbs(variant, batch[repeated_positions(batch, n)].unlabelled)
    return x


def _gibbs(variant: Variant, batch: Batch) -> Iterator[tuple[Tensor, Batch, Tensor]]:
    """Yield for each round: z, the batch that conditions its decoding, and x with missing values drawn from p(x|z).

    An encoder that was trained on data with missing values reads only the observed values in each round.
    """
    current = batch
    for _ in range(GIBBS_ROUNDS):
        z, given = _code(variant, current, batch)
        x = variant.sample_x(z, given)
        if batch.observed is not None:
            x = torch.where(batch.observed, batch.x, x)
        if not variant.spec.missing:
            current = replace(batch, x=x, observed=None)
        yield z, given, x


def _code(variant: Variant, current: Batch, batch: Batch) -> tuple[Tensor, Batch]:
    """Return one z for each example of `current`, a completed batch, and the batch that conditions its decoding.

    If the variant is conditioned on a class, the class is drawn as well, by the likelihood of the observed values.
    """
    if variant.conditioned_on != "y":
        return sampled_codes(variant, current), batch
    z, log_weights = [], []
    for labelled in every_class(variant, current):
        proposal = variant.sample_posterior(labelled)
        assert proposal is not None
        z.append(proposal[0])
        log_weights.append(variant.log_joint(proposal[0], replace(batch, y=labelled.y)) - proposal[1])
    every_y = torch.arange(len(z), device=batch.x.device).expand(len(batch), -1)
    code, y = _resampled(torch.stack(z, 1), every_y, torch.stack(log_weights, 1).double().softmax(1), 1)
    return code, replace(batch, y=y)
