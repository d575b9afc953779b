"""Missing values given the observed ones: their conditional means, and draws.

If the training data had missing values and q(z|x) has a density, the posterior p(z|observed values) is represented by
samples of q with self-normalised weights p(observed values, z) / q(z|x) (Mattei & Frellsen 2019, MIWAE,
arXiv:1812.02633, equations 12 and 13). If the variant is conditioned on a class, it is the posterior of the class and z
together; labels are not used.

If the training data had no missing values, z and the missing values are drawn in turn (pseudo-Gibbs sampling, Rezende
et al. 2014, appendix F). The encoder would take a zero for a value, and propose z that are far from the posterior; the
chain shows it values like those of its training data. For the same reason there are no chains for an encoder that was
trained on data with missing values, which never saw a complete example: on the breast cancer table they diverged. If
its q(z|x) has no density, z is the code of the observed values.
"""

import math
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from pipeline.evaluate.likelihood import ROWS, every_class
from variants import Batch, Variant

GIBBS_ROUNDS = 40  # of a chain; the first half is discarded


def conditional_mean(variant: Variant, batch: Batch, samples: int = 1000) -> Tensor:
    """Return E[x|observed values], (B, *shape), in the units of `Batch.x`; observed values stay as they are.

    For categories, and binary values, these are probabilities. `samples` is the number of z behind each mean, if it
    rests on importance sampling. At most about `ROWS` of them are decoded at a time.
    """
    if _has_weights(variant, batch):
        mean = torch.cat([_weighted_mean(variant, part, samples) for part in _parts(batch, samples)])
    else:
        mean = torch.cat([_chain_mean(variant, part) for part in _parts(batch, 1)])
    return mean if batch.observed is None else torch.where(batch.observed, batch.x, mean)


def conditional_draws(variant: Variant, batch: Batch, n: int, samples: int = 1000) -> Tensor:
    """Return `n` draws of x from approximately p(x|observed values), (n, B, *shape); see `conditional_mean`."""
    if _has_weights(variant, batch):
        parts = [_weighted_draws(variant, part, n, samples) for part in _parts(batch, max(n, samples))]
    else:
        parts = [_chain_draws(variant, part, n) for part in _parts(batch, n)]
    draws = torch.cat(parts).unflatten(0, (len(batch), n)).transpose(0, 1)
    return draws if batch.observed is None else torch.where(batch.observed, batch.x, draws)


def _has_weights(variant: Variant, batch: Batch) -> bool:
    return variant.spec.missing and variant.sample_posterior(batch[slice(0, 1)]) is not None


def _parts(batch: Batch, rows: int) -> Iterator[Batch]:
    """Yield a batch in parts of at most `ROWS` decoder inputs, of which each example needs `rows`."""
    size = max(1, ROWS // rows)
    return (batch[slice(i, i + size)] for i in range(0, len(batch), size))


def _repeated(batch: Batch, n: int) -> Tensor:
    """Return the positions of the examples of a batch, each n times in a row, (B n,)."""
    return torch.arange(len(batch), device=batch.x.device).repeat_interleave(n)


def _weighted_mean(variant: Variant, batch: Batch, samples: int) -> Tensor:
    z, y, weight = _posterior(variant, batch, samples)
    total, index = torch.zeros_like(batch.x), _repeated(batch, weight.shape[1])
    for some in torch.arange(len(index), device=z.device).split(ROWS):
        means = variant.decode(z.flatten(0, 1)[some], replace(batch[index[some]], y=y.flatten()[some]))
        shares = weight.flatten()[some].to(means.dtype).view(-1, *[1] * (means.ndim - 1))
        total.index_add_(0, index[some], shares * means)
    return total


def _weighted_draws(variant: Variant, batch: Batch, n: int, samples: int) -> Tensor:
    z, y = _chosen(*_posterior(variant, batch, samples), n)
    return variant.sample_x(z, replace(batch[_repeated(batch, n)], y=y))


def _posterior(variant: Variant, batch: Batch, samples: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return samples z (B, M, Z) of q, their classes (B, M), and their weights (B, M), which add up to 1.

    M is about `samples`. If the variant is conditioned on a class, they are divided evenly among the classes; otherwise
    the class is -1, which is unknown.
    """
    z, y, log_weights = [], [], []
    by_class = every_class(variant, replace(batch, y=batch.x.new_full((len(batch),), -1, dtype=torch.int64)))
    for labelled in by_class:
        k = math.ceil(samples / len(by_class))
        for draws in torch.arange(k).split(max(1, ROWS // len(batch))):
            examples = labelled[_repeated(batch, len(draws))]
            proposal = variant.sample_posterior(labelled, len(draws))
            assert proposal is not None and examples.y is not None
            log_weight = variant.log_joint(proposal[0], examples) - proposal[1]
            z.append(proposal[0].unflatten(0, (len(batch), -1)))
            y.append(examples.y.view(len(batch), -1))
            log_weights.append(log_weight.double().view(len(batch), -1))
    return torch.cat(z, 1), torch.cat(y, 1), torch.cat(log_weights, 1).softmax(1)


def _chosen(z: Tensor, y: Tensor, weight: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Return n samples for each example, drawn by their weights: z (B n, Z) and the classes (B n,)."""
    choice = weight.multinomial(n, replacement=True)
    return z.gather(1, choice[..., None].expand(-1, -1, z.shape[2])).flatten(0, 1), y.gather(1, choice).flatten()


def _chain_mean(variant: Variant, batch: Batch) -> Tensor:
    means = [variant.decode(z, given) for z, given, _ in _gibbs(variant, batch.unlabelled)]
    return torch.stack(means[GIBBS_ROUNDS // 2 :]).mean(0)


def _chain_draws(variant: Variant, batch: Batch, n: int) -> Tensor:
    """Return the last states of n chains for each example, (B n, *shape)."""
    *_, (_, _, x) = _gibbs(variant, batch[_repeated(batch, n)].unlabelled)
    return x


def _gibbs(variant: Variant, batch: Batch) -> Iterator[tuple[Tensor, Batch, Tensor]]:
    """Yield, for each round, z, the condition under which it is decoded, and x with missing values from p(x|z).

    An encoder that was trained on data with missing values always reads the observed values alone.
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
    """Return one z for each example of `current`, whose missing values are filled in, and the condition to decode it.

    If the variant is conditioned on a class, the class is drawn as well, by the likelihood of the observed values.
    """
    if variant.conditioned_on != "y":
        proposal = variant.sample_posterior(current)
        return (variant.encode(current) if proposal is None else proposal[0]), batch
    z, log_weights = [], []
    for labelled in every_class(variant, current):
        proposal = variant.sample_posterior(labelled)
        assert proposal is not None
        z.append(proposal[0])
        log_weights.append(variant.log_joint(proposal[0], replace(batch, y=labelled.y)) - proposal[1])
    every_y = torch.arange(len(z), device=batch.x.device).expand(len(batch), -1)
    code, y = _chosen(torch.stack(z, 1), every_y, torch.stack(log_weights, 1).double().softmax(1), 1)
    return code, replace(batch, y=y)
