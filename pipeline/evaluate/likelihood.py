"""How likely data are under a model.

`importance_weighted` is a lower bound of log p(x), which becomes tighter as k grows. It needs an encoder whose q(z|x)
has a density; `pipeline.evaluate.ais` needs none. `parzen` scores samples by a kernel density. It ranks models
differently from the other two, so its values must not be shown beside theirs as if they were comparable.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline import machine
from pipeline.data import Data
from pipeline.evaluate.codes import sampled_codes
from pipeline.metrics import Undefined
from pipeline.steps import Totals
from variants import Batch, Variant
from variants.base.contract import ValueKind

Array = NDArray[np.float64]
ROWS = 2000  # decoder inputs at a time; on a CPU, more of them do not fit into the cache and are slower


def importance_weighted(
    variant: Variant, data: Data, split: Batch, k: int, *, seed: int = 0, marginal: bool = True
) -> Tensor | Undefined:
    """Return the importance weighted lower bound on log p(x) for each example: (N,), in nats, float64, on the CPU.

    The bound is log((1/k) sum_i p(x, z_i) / q(z_i|x)) with z_i ~ q(z|x) (Burda et al. 2016, equation 8). With k = 1 it
    is a one-sample estimate of the ELBO; in expectation, a higher k gives a tighter bound.

    If the variant is conditioned on a class, the result is a bound on log p(x) = log sum_y p(x, y), where y runs over
    all classes; the labels of the examples are not used. With `marginal=False` it is a bound on log p(x, y), with the
    label y of each example. If the variant is conditioned on a part of x, it is a bound on log p(rest of x|this part).

    Returns `Undefined` for a variant whose q(z|x) has no density.
    """
    bounds = []
    variant.eval()
    with machine.seeded(split.x.device, seed):
        for batch in data.batches(split, max(1, ROWS // k)):
            by_class = []
            for labelled in every_class(variant, batch) if marginal else [batch]:
                value = bound(variant, labelled, k)
                if isinstance(value, Undefined):
                    return value
                by_class.append(value)
            bounds.append(torch.stack(by_class).logsumexp(0))
    return torch.cat(bounds).cpu()


@dataclass(frozen=True)
class DrawnTerms:
    """The terms of the ELBO at beta = 1 of N examples, with several draws of z ~ q(z|x), in nats per example.

    `totals` are the sums over all examples and draws. `kl` is None if q(z|x) has no density.
    """

    totals: Totals
    reconstruction: Array  # (draws, N)
    kl: Array | None  # (draws, N)


def drawn_terms(variant: Variant, data: Data, split: Batch, draws: int, seed: int = 0) -> DrawnTerms:
    """Return the terms of the ELBO of each example of a split. The first draw is that of `trainer.score`."""
    totals, step = Totals(), torch.zeros((), device=split.x.device)
    each: dict[str, list[Tensor]] = {"reconstruction": [], "kl": []}
    variant.eval()
    with machine.seeded(split.x.device, seed):
        for _ in range(draws):
            for batch in data.batches(split):
                terms = variant.terms(batch, step)
                totals.add(terms, len(batch))
                each["reconstruction"].append(terms.reconstruction.double().cpu())
                each["kl"] += [] if terms.kl is None else [terms.kl.double().cpu()]
    reconstruction, kl = (torch.cat(p).view(draws, -1).numpy() if p else None for p in each.values())
    assert reconstruction is not None
    return DrawnTerms(totals, reconstruction, kl)


def by_kind(variant: Variant, data: Data, split: Batch, seed: int = 0, *, draws: int = 1) -> dict[ValueKind, Tensor]:
    """Return -log p(x|z) of the values of each kind, the mean over z ~ q(z|x): (N,), in nats, float64, on the CPU.

    The sum over kinds is the reconstruction of `drawn_terms` with as many draws and the same seed. If q(z|x) has no
    density, z is the code of the example; if the variant draws a random z all the same, its reconstruction differs from
    the sum.
    """
    parts: dict[ValueKind, list[Tensor]] = {}
    variant.eval()
    with machine.seeded(split.x.device, seed):
        for _ in range(draws):
            for batch in data.batches(split):
                nll = -variant.log_likelihood(sampled_codes(variant, batch), batch)
                for kind, belongs in variant.spec.kinds.items():
                    parts.setdefault(kind, []).append(nll[..., belongs.to(nll.device)].flatten(1).sum(1).double().cpu())
    return {kind: torch.cat(values).view(draws, -1).mean(0) for kind, values in parts.items()}


def every_class(variant: Variant, batch: Batch) -> list[Batch]:
    """Return the batch once with each class as its label; as it is if the variant is not conditioned on a class."""
    if variant.conditioned_on != "y":
        return [batch]
    return [replace(batch, y=torch.full((len(batch),), y, device=batch.x.device)) for y in range(variant.spec.classes)]


def repeated_positions(batch: Batch, n: int) -> Tensor:
    """Return the positions of the examples of a batch, each n times in a row, (B n,)."""
    return torch.arange(len(batch), device=batch.x.device).repeat_interleave(n)


def weighted_samples(variant: Variant, batch: Batch, k: int) -> tuple[Tensor, Tensor] | None:
    """Return k samples z of q(z|x) for each example, (B, k, Z), and log p(x, z) - log q(z|x) of each, (B, k).

    The latter is in nats, float64. At most about `ROWS` rows are decoded at a time. Returns None if q has no density.
    """
    samples, log_weights = [], []
    for draws in torch.arange(k).split(max(1, ROWS // len(batch))):
        proposal = variant.sample_posterior(batch, len(draws))
        if proposal is None:
            return None
        z, log_q = proposal
        index = repeated_positions(batch, len(draws))
        samples.append(z.unflatten(0, (len(batch), len(draws))))
        log_weights.append((variant.log_joint(z, batch[index]) - log_q).double().view(len(batch), len(draws)))
    return torch.cat(samples, 1), torch.cat(log_weights, 1)


def bound(variant: Variant, batch: Batch, k: int) -> Tensor | Undefined:
    """Return the importance weighted bound of a batch with k draws: (B,), nats, float64."""
    weighted = weighted_samples(variant, batch, k)
    if weighted is None:
        return Undefined(f"{type(variant).__name__} has no density q(z|x), which a likelihood bound needs")
    return weighted[1].logsumexp(1) - math.log(k)


def log_jacobian(data: Data, split: Batch) -> Tensor:
    """Return what has to be added to log p(x) of each example to get it in the units of the source: (N,), in nats."""
    return torch.cat([data.preprocessing.log_jacobian(batch) for batch in data.batches(split)])


def parzen(samples: Tensor, x: Tensor, sigma: float) -> Tensor:
    """Return the log-density of x (N, D) under Gaussian kernels at samples (M, D): (N,), nats, higher is better.

    It is log 1/M sum_j N(x; sample_j, sigma^2 I) (Breuleux, Bengio & Vincent 2011), as in Goodfellow et al. 2014 and
    Makhzani et al. 2015.
    """
    scaled = samples.flatten(1) / sigma
    norm = scaled.square().sum(1)
    constant = math.log(len(samples)) + samples[0].numel() * math.log(sigma * math.sqrt(2 * math.pi))
    densities = []
    for part in (x.flatten(1) / sigma).split(1000):
        squared = part.square().sum(1, keepdim=True) + norm - 2 * part @ scaled.T
        densities.append((-0.5 * squared.clamp(min=0)).logsumexp(1))
    return torch.cat(densities) - constant


def parzen_width(samples: Tensor, validation: Tensor, grid: tuple[float, ...] = ()) -> float:
    """Return the sigma that makes validation examples most likely, of a logarithmic grid from 0.05 to 1."""
    grid = grid or tuple(float(s) for s in torch.logspace(math.log10(0.05), 0, 20))
    return max(grid, key=lambda sigma: float(parzen(samples, validation, sigma).mean()))
