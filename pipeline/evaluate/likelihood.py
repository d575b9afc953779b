"""How likely a model finds data.

`importance_weighted` bounds log p(x), more tightly as k grows, and needs an encoder with a density; `ais`, the module
beside this one, needs none. `parzen` rates samples by a kernel density, and ranks models otherwise than those do: never
print it beside them as if they were alike.
"""

import math
from dataclasses import replace

import torch
from torch import Tensor

from pipeline import machine
from pipeline.data import Data
from variants import Batch, DataSpec, InputError, Variant

ROWS = 2000  # decoder inputs at a time: on a CPU, more of them leave the cache and are slower


def importance_weighted(
    variant: Variant,
    data: Data,
    split: Batch,
    k: int,
    *,
    seed: int = 0,
    marginal: bool = True,
) -> Tensor:
    """(N,) the importance weighted bound, log 1/k sum_i p(x, z_i) / q(z_i|x), z_i ~ q(z|x), in nats; float64, CPU.

    Burda et al. 2016, equation 8: k = 1 is a sample of the ELBO; higher k bound log p(x) more tightly. An example is
    encoded once, and all draws of as many examples as fit are scored at once. Where a variant tells a class (`given`
    "y"), the bound is of log p(x) = log sum_y p(x, y), over all classes, whatever the labels are; not `marginal`, of
    log p(x, y) for the labels as they are. Where a part of x is given, it is of log p(missing|seen).

    Raises `InputError` where q has no density.
    """
    found = []
    variant.eval()
    with machine.seeded(split.x.device, seed):
        for batch in data.batches(split, max(1, ROWS // k)):
            told = every_class(variant, batch) if marginal else [batch]
            found.append(torch.stack([bound(variant, known, k) for known in told]).logsumexp(0))
    return torch.cat(found).cpu()


def every_class(variant: Variant, batch: Batch) -> list[Batch]:
    """The examples told each class in turn, where the variant's likelihood wants one; else as they are."""
    if variant.conditioned_on != "y":
        return [batch]
    return [replace(batch, y=torch.full((len(batch),), y, device=batch.x.device)) for y in range(variant.spec.classes)]


def bound(variant: Variant, batch: Batch, k: int) -> Tensor:
    """(B,) the importance weighted bound of a batch, with k draws in portions of at most `ROWS` rows; float64."""
    log_weights = []
    for portion in torch.arange(k).split(max(1, ROWS // len(batch))):
        proposal = variant.sample_posterior(batch, len(portion))
        if proposal is None:
            raise InputError(f"{type(variant).__name__} has no density q(z|x); a likelihood bound needs one")
        z, log_q = proposal
        index = torch.arange(len(batch), device=batch.x.device).repeat_interleave(len(portion))
        log_weights.append((variant.log_joint(z, batch[index]) - log_q).double().view(len(batch), len(portion)))
    return torch.cat(log_weights, 1).logsumexp(1) - math.log(k)


def bits_per_dimension(log_p: float, spec: DataSpec) -> float:
    """-log2 p(x) a value, from log p(x) in nats; of 8-bit values, where that is what a lossless code would need.

    Raises `InputError` for data whose likelihood is a density or of other than 8-bit values.
    """
    if spec.likelihood != "logistic8":
        raise InputError(f"bits per dimension are of 8-bit values; the likelihood of {spec.name} is {spec.likelihood}")
    return -log_p / (math.prod(spec.shape) * math.log(2))


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
