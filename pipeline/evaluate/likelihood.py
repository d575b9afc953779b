"""How likely a model finds data.

`log_likelihood` is a bound of log p(x) that tightens with k; `parzen` rates samples by a kernel density, and ranks
models otherwise than the former does: never print one beside the other as if they were alike.
"""

import math
from dataclasses import replace

import torch
from torch import Tensor

from pipeline import machine
from pipeline.data import Data
from variants import Batch, InputError, Variant

ROWS = 10_000  # decoder inputs at a time


def log_likelihood(
    variant: Variant,
    data: Data,
    split: Batch,
    k: int,
    *,
    seed: int = 0,
    marginal: bool = True,
) -> Tensor:
    """(N,) the importance weighted bound, log 1/k sum_i p(x, z_i) / q(z_i|x), z_i ~ q(z|x), in nats; float64, CPU.

    Burda et al. 2016, equation 8: k = 1 is a sample of the ELBO; higher k bound log p(x) more tightly. All k draws of
    as many examples as fit are scored at once. Where a variant tells a class (`given` "y"), the bound is of
    log p(x) = log sum_y p(x, y), over all classes, whatever the labels are; not `marginal`, of log p(x, y) for the
    labels as they are. Where a part of x is given, it is of log p(missing|seen).

    Raises `InputError` where q has no density.
    """
    classes = data.spec.classes if variant.given == "y" and marginal else 0
    found = []
    device = split.x.device
    variant.eval()
    with machine.seeded(device, seed):
        for batch in data.batches(split, max(1, ROWS // k)):
            told = [replace(batch, y=torch.full((len(batch),), y, device=device)) for y in range(classes)]
            each = [_bound(variant, known, k) for known in told or [batch]]
            found.append(torch.stack(each).logsumexp(0))
    return torch.cat(found).cpu()


def _bound(variant: Variant, batch: Batch, k: int) -> Tensor:
    """(B,) the bound for a batch, with k draws in portions of at most `ROWS` rows."""
    log_weights = []
    for portion in torch.arange(k).split(max(1, ROWS // len(batch))):
        index = torch.arange(len(batch), device=batch.x.device).repeat_interleave(len(portion))
        many = batch[index]
        proposal = variant.propose(many)
        if proposal is None:
            raise InputError(f"{type(variant).__name__} has no density q(z|x); a likelihood bound needs one")
        z, log_q = proposal
        log_weights.append((variant.log_joint(z, many) - log_q).double().view(len(batch), len(portion)))
    return torch.cat(log_weights, 1).logsumexp(1) - math.log(k)


def parzen(samples: Tensor, x: Tensor, sigma: float) -> Tensor:
    """(N,) log 1/M sum_j N(x; sample_j, sigma^2 I), nats, higher is better: a density of x (N, D), from samples (M, D).

    Breuleux, Bengio & Vincent 2011, as in Goodfellow et al. 2014 and Makhzani et al. 2015.
    """
    scaled = samples.flatten(1) / sigma
    norm = scaled.square().sum(1)
    constant = math.log(len(samples)) + samples[0].numel() * math.log(sigma * math.sqrt(2 * math.pi))
    found = []
    for part in (x.flatten(1) / sigma).split(1000):
        squared = part.square().sum(1, keepdim=True) + norm - 2 * part @ scaled.T
        found.append((-0.5 * squared.clamp(min=0)).logsumexp(1))
    return torch.cat(found) - constant


def parzen_width(samples: Tensor, held: Tensor, grid: tuple[float, ...] = ()) -> float:
    """The sigma at which held-out (validation) examples are likeliest, from a logarithmic grid of .05 to 1."""
    grid = grid or tuple(float(s) for s in torch.logspace(math.log10(0.05), 0, 20))
    return max(grid, key=lambda sigma: float(parzen(samples, held, sigma).mean()))
