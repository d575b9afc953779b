"""log p(x) of any decoder with a prior, by annealed importance sampling, and how inaccurate the estimate may be.

Between the prior and the posterior lie the distributions f_b(z) = p(z) p(x|z)^b with b from 0 to 1. Samples of the
prior are moved by Hamiltonian Monte Carlo from one distribution to the next. The weights w, with log w = sum_t (b_t -
b_{t-1}) log p(x|z_{t-1}), satisfy E w = p(x) (Neal 2001). The chains live in the standard normal noise that a variant
transforms into its prior (`prior_from_noise`): there, the levels of a hierarchy, whose scales depend on the levels
above, are independent. If a variant has no such function, they live in z, where its prior is p(z). The encoder is not
used, so the estimate compares all variants, also those whose encoder has no density (Wu et al. 2017, arXiv:1611.04273).
There are two exceptions. Improbable classes of a conditional variant may be left out, which can only make the estimate
smaller; and a prior may itself be made from an encoder.

The mean of log w is a lower bound of log p(x) in expectation. A backward run that starts from an exact sample of the
posterior gives an upper bound. For examples that the model itself generated, whose z is known, the two bounds enclose
the true value (bidirectional Monte Carlo, Grosse et al. 2015, arXiv:1511.02543). Their difference, the gap, indicates
the error of the estimates.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.evaluate import likelihood
from pipeline.metrics import Undefined, defined
from variants import Batch, Variant

LEAPS = 5  # leapfrog steps per move; with tuned scales, more steps are less accurate at equal cost
ACCEPTED = 0.65  # the acceptance rate that step sizes are tuned to (Neal 2011, section 5.4.4.3)
STEEPNESS = 4.0  # of the sigmoid schedule
NEGLIGIBLE = 15.0  # nats; a class whose bound is smaller than the best one by more than this is left out
ROWS = 2000  # chains at a time


@dataclass(frozen=True)
class Tuned:
    """The settings of the moves, found by a pilot run.

    They do not depend on the chains that they will move, which keeps the estimate unbiased.
    """

    betas: Tensor  # (T + 1,) from 0 to 1
    step: Tensor  # (T,) leapfrog step at each temperature from the second on, in units of `scale`
    scale: Tensor  # (T, Z) scale of each latent dimension


@dataclass(frozen=True, kw_only=True)
class Annealed:
    """The result of a run.

    `rate`, KL(f_b || p(z)), and `distortion`, -E log p(x|z), are means over examples for each of `betas`, in nats
    (Huang et al. 2020, arXiv:2008.06653). For a variant that is conditioned on a class they are given the most
    probable one.
    """

    log_p: Tensor  # (N,) nats, float64
    accepted: float  # share of moves
    betas: Tensor  # (T + 1,)
    rate: Tensor  # (T + 1,)
    distortion: Tensor  # (T + 1,)


def schedule(temperatures: int) -> Tensor:
    """Return inverse temperatures from 0 to 1, (T + 1,): a rescaled sigmoid over [-4, 4], densest at both ends."""
    curve = torch.linspace(-STEEPNESS, STEEPNESS, temperatures + 1, dtype=torch.float64).sigmoid()
    return (curve - curve[0]) / (curve[-1] - curve[0])


def tune(variant: Variant, batch: Batch, temperatures: int, *, chains: int = 8, seed: int = 0) -> Tuned | Undefined:
    """Find the step sizes, and the scale of each latent dimension, by a run on examples that will not be scored.

    The step size follows the acceptance rate from one temperature to the next. The scale is the spread of the chains of
    an example. The result is undefined if z is not continuous or not random.
    """
    if variant.latent_classes:
        return Undefined(f"{type(variant).__name__} has a class in its code; Hamiltonian moves need a continuous one")
    if variant.discrete:
        return Undefined(f"{type(variant).__name__} has a discrete code; Hamiltonian moves need a continuous one")
    with _sampling(variant, batch, 3 * seed):
        with torch.no_grad():
            same = batch[torch.zeros(2, dtype=torch.int64, device=batch.x.device)]
            first, second = variant.sample_prior(2, same)
        if torch.equal(first, second):
            return Undefined(f"{type(variant).__name__} draws no z; its likelihood is exact as it is")
        torch.manual_seed(3 * seed)
        rows = batch[likelihood.repeated_positions(batch, chains)]
        chain = _Chain(variant, rows, _start(variant, rows, len(first)))
        betas = schedule(temperatures).to(batch.x.device)
        spread, step = chain.z.std(0), 0.5
        steps, scales = [], []
        for beta in betas[1:].tolist():
            accepted = chain.move(beta, step, spread)
            step *= math.exp(0.3 * (accepted - ACCEPTED))
            within = chain.z.view(len(batch), chains, -1).var(1).mean(0).sqrt()
            spread = spread.lerp(within, 0.1).clamp(min=1e-4)
            steps.append(step)
            scales.append(spread)
        return Tuned(betas, torch.tensor(steps), torch.stack(scales))


def operations(variant: Variant, batch: Batch, chains: int, temperatures: int) -> float:
    """Return about how many additions and multiplications the moves of so many chains take, in matrix products alone.

    They are counted for as many chains of the examples of `batch` as are moved together, because a part of the cost of
    a prior may not depend on their number. A gradient counts as twice its function.
    """
    rows = batch[torch.arange(min(chains, ROWS), device=batch.x.device) % len(batch)]
    products = 0

    def count(layer: nn.Module, inputs: tuple[Tensor, ...], output: Any) -> None:
        nonlocal products
        for weight in (w for w in layer.parameters(recurse=False) if w.ndim > 1):
            if isinstance(layer, nn.RNNBase):
                positions = output[0].numel() // layer.hidden_size
            else:
                of = inputs[0] if isinstance(layer, nn.ConvTranspose2d) else output
                positions = of.numel() // weight.shape[0]
            products += positions * weight.numel()

    counted = nn.Linear | nn.Conv1d | nn.Conv2d | nn.ConvTranspose2d | nn.RNNBase
    layers = [m for m in variant.modules() if isinstance(m, counted)]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    try:
        with _sampling(variant, rows, 0), torch.no_grad():
            variant.log_likelihood(variant.sample_prior(len(rows), rows), rows)
    finally:
        for hook in hooks:
            hook.remove()
    return float(3 * 2 * products / len(rows) * chains * temperatures * LEAPS)


def estimate(variant: Variant, batch: Batch, tuned: Tuned, *, chains: int = 4, seed: int = 0) -> Annealed:
    """Estimate log p(x) of each example, with `chains` chains for each.

    If the variant is conditioned on a class, it is log sum_y p(y) p(x|y); if it is conditioned on a part
    of x, log p(missing|observed).
    """
    with _sampling(variant, batch, 3 * seed + 1):
        labelled, owner = _with_classes(variant, batch)
        portions = _portions(len(labelled), chains, batch.x.device)
        parts = [_forward(variant, labelled[i], tuned, chains) for i in portions]
        each, rate, distortion = (torch.cat(column) for column in list(zip(*parts, strict=True))[:3])
        table = each.new_full((len(batch), len(labelled)), -math.inf)
        if variant.conditioned_on == "y":
            each = each + variant.spec.class_probabilities.to(each)[labelled.y].log()
        table[owner, torch.arange(len(labelled), device=owner.device)] = each
        best = table.argmax(1)
        accepted = sum(p[3] * len(p[0]) for p in parts) / len(labelled)
        return Annealed(
            log_p=table.logsumexp(1).cpu(), accepted=accepted,
            betas=tuned.betas.cpu(), rate=rate[best].mean(0).cpu(), distortion=distortion[best].mean(0).cpu(),
        )  # fmt: skip


def gap(variant: Variant, batch: Batch, tuned: Tuned, *, chains: int = 4, seed: int = 0) -> Tensor:
    """Return the upper minus the lower bound of log p(x): (N,), nats.

    The bounds are of examples that the model generates in place of the given ones, with the same conditions, classes,
    lengths, missing values and exposures. Their mean difference is at least 0 except for noise. An estimate is too
    small by no more than about this, as far as the data resemble what the model generates.
    """
    with _sampling(variant, batch, 3 * seed + 2):
        start = _start(variant, batch, tuned.scale.shape[1])
        with torch.no_grad():
            x = variant.sample_x(_latent(variant, start, batch)[0], batch)
        generated = replace(batch, x=x if batch.known is None else torch.where(batch.known, x, 0.0))
        gaps = []
        for part in _portions(len(batch), chains, batch.x.device):
            lower = _forward(variant, generated[part], tuned, chains)[0]
            gaps.append(_backward(variant, generated[part], start[part], tuned, chains) - lower)
        return torch.cat(gaps).cpu()


def _start(variant: Variant, rows: Batch, size: int) -> Tensor:
    """Return a sample of the prior for each row, (R, Z), in the space in which chains move: of noise, or of z."""
    noise = torch.randn(len(rows), size, device=rows.x.device)
    with torch.no_grad():
        return variant.sample_prior(len(rows), rows) if variant.prior_from_noise(noise, rows) is None else noise


def _latent(variant: Variant, z: Tensor, rows: Batch) -> tuple[Tensor, Tensor]:
    """Return z of points of the space in which chains move, (R, Z), and their log-density there, (R,).

    The density lacks a constant that does not depend on z.
    """
    latent = variant.prior_from_noise(z, rows)
    return (z, variant.log_prior(z, rows)) if latent is None else (latent, -0.5 * z.square().sum(1))


class _Chain:
    """Points at which f_b is evaluated, each with its prior log-density, log p(x|z), and the gradients of both."""

    def __init__(self, variant: Variant, rows: Batch, z: Tensor) -> None:
        self.variant, self.rows = variant, rows
        self.z = z.detach()
        self._state = self._at(self.z)

    @property
    def likelihood(self) -> Tensor:
        """(R,) log p(x|z), float64."""
        return self._state[1].double()

    def _at(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        z = z.detach().requires_grad_()
        latent, prior = _latent(self.variant, z, self.rows)
        likelihood = self.variant.log_likelihood(latent, self.rows).flatten(1).sum(1)
        slopes = [torch.autograd.grad(part.sum(), z, materialize_grads=True)[0] for part in (prior, likelihood)]
        return prior.detach(), likelihood.detach(), slopes[0], slopes[1]

    def move(self, beta: float, step: float, scale: Tensor) -> float:
        """Make one Hamiltonian move, which leaves f_beta invariant. Return the share of rows that accepted it.

        The step size of each row varies by up to a fifth, so that trajectories do not return to where they began.
        """
        z, (prior, like, *slopes) = self.z, self._state
        size = step * (0.8 + 0.4 * torch.rand(len(z), 1, device=z.device)) * scale
        start = momentum = torch.randn_like(z)
        slope = slopes[0] + beta * slopes[1]
        for _ in range(LEAPS):
            momentum = momentum + 0.5 * size * slope
            z = z + size * momentum
            state = self._at(z)
            slope = state[2] + beta * state[3]
            momentum = momentum + 0.5 * size * slope
        energy = (state[0] - prior) + beta * (state[1] - like)
        energy = energy - 0.5 * (momentum.square() - start.square()).sum(1)
        accepted = torch.rand_like(energy).log() < energy  # False for a row that is NaN
        self.z = torch.where(accepted[:, None], z, self.z)
        self._state = tuple(  # type: ignore[assignment]
            torch.where(accepted if new.ndim == 1 else accepted[:, None], new, old)
            for new, old in zip(state, self._state, strict=True)
        )
        return float(accepted.float().mean())


def _forward(variant: Variant, batch: Batch, tuned: Tuned, chains: int) -> tuple[Tensor, Tensor, Tensor, float]:
    """Anneal from the prior. Return log p(x) (B,), rate and distortion (B, T + 1), and the share of accepted moves."""
    rows = batch[likelihood.repeated_positions(batch, chains)]
    chain = _Chain(variant, rows, _start(variant, rows, tuned.scale.shape[1]))
    weight = torch.zeros(len(batch), chains, dtype=torch.float64, device=batch.x.device)
    rates, distortions, accepted = [], [], 0.0
    betas = tuned.betas.tolist()
    for t, beta in enumerate(betas):
        if t:
            weight = weight + (beta - betas[t - 1]) * chain.likelihood.view(weight.shape)
            accepted += chain.move(beta, float(tuned.step[t - 1]), tuned.scale[t - 1])
        mean = (weight.softmax(1) * chain.likelihood.view(weight.shape)).sum(1)
        distortions.append(-mean)
        rates.append(beta * mean - _mean_exp(weight))
    return _mean_exp(weight), torch.stack(rates, 1), torch.stack(distortions, 1), accepted / (len(betas) - 1)


def _backward(variant: Variant, batch: Batch, start: Tensor, tuned: Tuned, chains: int) -> Tensor:
    """Anneal from `start`, a sample of p(z|x), back to the prior. Return an upper bound of log p(x), (B,)."""
    index = likelihood.repeated_positions(batch, chains)
    chain = _Chain(variant, batch[index], start[index])
    weight = torch.zeros(len(batch), chains, dtype=torch.float64, device=batch.x.device)
    betas = tuned.betas.tolist()
    for t in range(len(betas) - 1, 0, -1):
        chain.move(betas[t], float(tuned.step[t - 1]), tuned.scale[t - 1])
        weight = weight - (betas[t] - betas[t - 1]) * chain.likelihood.view(weight.shape)
    return -_mean_exp(weight)


def _with_classes(variant: Variant, batch: Batch) -> tuple[Batch, Tensor]:
    """Return the examples with every class that is not negligible as their label, and the index of the example of each.

    If the variant is not conditioned on a class, the examples are returned as they are.
    """
    options = likelihood.every_class(variant, batch)
    everyone = torch.arange(len(batch), device=batch.x.device)
    if len(options) == 1:
        return batch, everyone
    near = torch.ones(len(options), len(batch), dtype=torch.bool, device=batch.x.device)
    with torch.no_grad():
        if variant.sample_posterior(batch):
            bounds = torch.stack([defined(likelihood.bound(variant, option, 16)) for option in options])
            near = bounds > bounds.max(0).values - NEGLIGIBLE
    chosen = [(option[i], i) for option, kept in zip(options, near, strict=True) if len(i := kept.nonzero()[:, 0])]
    return Batch.cat([labelled for labelled, _ in chosen]), torch.cat([i for _, i in chosen])


def _mean_exp(weight: Tensor) -> Tensor:
    return weight.logsumexp(1) - math.log(weight.shape[1])


def _portions(n: int, chains: int, device: torch.device) -> Iterator[Tensor]:
    return iter(torch.arange(n, device=device).split(max(1, ROWS // chains)))


@contextmanager
def _sampling(variant: Variant, batch: Batch, seed: int) -> Iterator[None]:
    """Use a random state of its own, and compute gradients, which cuDNN's recurrent layers refuse in evaluation."""
    device = batch.x.device
    variant.eval()
    fork = torch.random.fork_rng([device] if device.type == "cuda" else [])
    with fork, torch.enable_grad(), torch.backends.cudnn.flags(enabled=False):
        torch.manual_seed(seed)
        yield
