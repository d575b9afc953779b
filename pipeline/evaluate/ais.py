"""log p(x) of any decoder with a prior, by annealed importance sampling; and how far off that may be.

Between the prior and the posterior stand f_b(z) = p(z) p(x|z)^b, b from 0 to 1. Draws of the prior are moved by
Hamiltonian Monte Carlo from one to the next, and log w = sum_t (b_t - b_{t-1}) log p(x|z_{t-1}) has E w = p(x)
(Neal 2001). They move in the standard normal noise that the prior is made of (`place`), where the levels of a
hierarchy, whose scales depend on those above, are independent. No encoder is asked, so that it compares all variants,
also those whose encoder has no density (Wu et al. 2017, arXiv:1611.04273); but for the classes that may be left out
where one is told, which can only make an estimate fall short.

The mean of log w is a lower bound of log p(x) in expectation. Backwards from an exact posterior draw it is an upper
bound: on examples that the model itself made, whose z is known, the two enclose the truth (bidirectional Monte Carlo,
Grosse et al. 2015, arXiv:1511.02543). Their distance is the gap that every estimate carries.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pipeline.evaluate import likelihood
from variants import Batch, InputError, Variant

LEAPS = 5  # leapfrog steps of a move: with scales tuned, more of them cost accuracy at equal cost
ACCEPTED = 0.65  # the share of moves that step sizes are tuned to (Neal 2011, section 5.4.4.3)
STEEPNESS = 4.0  # of the sigmoid schedule
NEGLIGIBLE = 15.0  # nats: a class whose bound is that far behind the best one is left out
ROWS = 2000  # chains at a time


@dataclass(frozen=True)
class Tuned:
    """Moves that a pilot run settled. They depend on no chain they will move, which leaves the estimate unbiased."""

    betas: Tensor  # (T + 1,) 0 ... 1
    step: Tensor  # (T,) leapfrog step at each temperature from the second on, in units of `scale`
    scale: Tensor  # (T, Z)


@dataclass(frozen=True, kw_only=True)
class Annealed:
    """What a run found. `log_p` (N,) in nats, float64; `accepted` is the share of moves.

    The means over examples of what the codes of f_b cost and what they leave (Huang et al. 2020, arXiv:2008.06653):
    `rate` (T + 1,) KL(f_b || p(z)) and `distortion` (T + 1,) -E log p(x|z), nats, for each of `betas`; where
    classes are told, given the likeliest.
    """

    log_p: Tensor
    accepted: float
    betas: Tensor
    rate: Tensor
    distortion: Tensor


def schedule(temperatures: int) -> Tensor:
    """(T + 1,) inverse temperatures from 0 to 1, densest at both ends: a sigmoid over [-4, 4], stretched."""
    curve = torch.linspace(-STEEPNESS, STEEPNESS, temperatures + 1, dtype=torch.float64).sigmoid()
    return (curve - curve[0]) / (curve[-1] - curve[0])


def tune(variant: Variant, batch: Batch, temperatures: int, *, chains: int = 8, seed: int = 0) -> Tuned:
    """Find step sizes, and the scale of each latent dimension, by a run on examples that are not to be scored.

    Steps follow the acceptance from one temperature to the next; the scale is the spread of an example's chains.
    Raises `InputError` where z is not continuous, or not random.
    """
    with _sampling(variant, batch, 3 * seed) as size:
        rows = batch[_repeat(len(batch), chains, batch.x.device)]
        chain = _Chain(variant, rows, torch.randn(len(rows), size, device=batch.x.device))
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


def estimate(variant: Variant, batch: Batch, tuned: Tuned, *, chains: int = 4, seed: int = 0) -> Annealed:
    """log p(x) of each example, from `chains` runs; where a variant tells a class, of log sum_y p(x, y), y uniform.

    Where a part of x is given, of log p(missing|seen). `batch` is as the variant gets it.
    """
    with _sampling(variant, batch, 3 * seed + 1) as size:
        told, owner = _told(variant, batch)
        parts = [_forward(variant, told[i], size, tuned, chains) for i in _portions(len(told), chains, batch.x.device)]
        each, rate, distortion = (torch.cat(column) for column in list(zip(*parts, strict=True))[:3])
        table = each.new_full((len(batch), len(told)), -math.inf)
        table[owner, torch.arange(len(told), device=owner.device)] = each
        classes = variant.spec.classes if variant.conditioned_on == "y" else 1
        best = table.argmax(1)
        accepted = sum(p[3] * len(p[0]) for p in parts) / len(told)
        return Annealed(
            log_p=(table.logsumexp(1) - math.log(classes)).cpu(), accepted=accepted,
            betas=tuned.betas.cpu(), rate=rate[best].mean(0).cpu(), distortion=distortion[best].mean(0).cpu(),
        )  # fmt: skip


def gap(variant: Variant, batch: Batch, tuned: Tuned, *, chains: int = 4, seed: int = 0) -> Tensor:
    """(N,) upper less lower bound of log p(x) in nats, on examples that the model makes in the place of those given.

    Conditions, classes and lengths stay. Its mean is at least 0 but for noise. An estimate is short by no more than
    about this, as far as data are like what the model makes.
    """
    with _sampling(variant, batch, 3 * seed + 2) as size:
        noise = torch.randn(len(batch), size, device=batch.x.device)
        with torch.no_grad():
            x = variant.sample_x(variant.prior_from_noise(noise, batch), batch)
        made = replace(batch, x=x if batch.mask is None else torch.where(batch.mask[..., None], x, 0.0))
        found = []
        for part in _portions(len(batch), chains, batch.x.device):
            lower = _forward(variant, made[part], size, tuned, chains)[0]
            found.append(_backward(variant, made[part], noise[part], tuned, chains) - lower)
        return torch.cat(found).cpu()


class _Chain:
    """Rows of noise, each with its log density and log p(x|z) of its example, and their gradients."""

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
        placed = self.variant.prior_from_noise(z, self.rows)
        likelihood = self.variant.log_likelihood(placed, self.rows).flatten(1).sum(1)
        (slope,) = torch.autograd.grad(likelihood.sum(), z, materialize_grads=True)
        z = z.detach()
        return -0.5 * z.square().sum(1), likelihood.detach(), -z, slope

    def move(self, beta: float, step: float, scale: Tensor) -> float:
        """One Hamiltonian move that leaves f_beta as it is. Returns the share of rows that it moved.

        A row's step varies by a fifth to either side, lest a trajectory close on itself.
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
        taken = torch.rand_like(energy).log() < energy  # false for a row that left the real numbers
        self.z = torch.where(taken[:, None], z, self.z)
        self._state = tuple(  # type: ignore[assignment]
            torch.where(taken if new.ndim == 1 else taken[:, None], new, old)
            for new, old in zip(state, self._state, strict=True)
        )
        return float(taken.float().mean())


def _forward(
    variant: Variant, batch: Batch, size: int, tuned: Tuned, chains: int
) -> tuple[Tensor, Tensor, Tensor, float]:
    """log p(x) (B,), rate and distortion (B, T + 1), and the share of moves, from the prior on."""
    rows = batch[_repeat(len(batch), chains, batch.x.device)]
    chain = _Chain(variant, rows, torch.randn(len(rows), size, device=batch.x.device))
    weight = torch.zeros(len(batch), chains, dtype=torch.float64, device=batch.x.device)
    rates, distortions, moved = [], [], 0.0
    betas = tuned.betas.tolist()
    for t, beta in enumerate(betas):
        if t:
            weight = weight + (beta - betas[t - 1]) * chain.likelihood.view(weight.shape)
            moved += chain.move(beta, float(tuned.step[t - 1]), tuned.scale[t - 1])
        mean = (weight.softmax(1) * chain.likelihood.view(weight.shape)).sum(1)
        distortions.append(-mean)
        rates.append(beta * mean - _mean_exp(weight))
    return _mean_exp(weight), torch.stack(rates, 1), torch.stack(distortions, 1), moved / (len(betas) - 1)


def _backward(variant: Variant, batch: Batch, noise: Tensor, tuned: Tuned, chains: int) -> Tensor:
    """(B,) an upper bound of log p(x) in expectation, from the noise of a draw of p(z|x), back to the prior."""
    index = _repeat(len(batch), chains, batch.x.device)
    chain = _Chain(variant, batch[index], noise[index])
    weight = torch.zeros(len(batch), chains, dtype=torch.float64, device=batch.x.device)
    betas = tuned.betas.tolist()
    for t in range(len(betas) - 1, 0, -1):
        chain.move(betas[t], float(tuned.step[t - 1]), tuned.scale[t - 1])
        weight = weight - (betas[t] - betas[t - 1]) * chain.likelihood.view(weight.shape)
    return -_mean_exp(weight)


def _told(variant: Variant, batch: Batch) -> tuple[Batch, Tensor]:
    """Examples, each told every class that is not negligible, where one is wanted; and whose they are."""
    options = likelihood.every_class(variant, batch)
    everyone = torch.arange(len(batch), device=batch.x.device)
    if len(options) == 1:
        return batch, everyone
    with torch.no_grad():
        bounds = (
            [likelihood.bound(variant, known, 16) for known in options] if variant.sample_posterior(batch) else None
        )
    near = torch.ones(len(options), len(batch), dtype=torch.bool, device=batch.x.device)
    if bounds:
        near = torch.stack(bounds) > torch.stack(bounds).max(0).values - NEGLIGIBLE
    chosen = [(option[i], i) for option, one in zip(options, near, strict=True) if len(i := one.nonzero()[:, 0])]
    y, x = torch.cat([o.y for o, _ in chosen if o.y is not None]), torch.cat([o.x for o, _ in chosen])
    mask = None if batch.mask is None else torch.cat([batch.mask[i] for _, i in chosen])
    return Batch(x, y, mask), torch.cat([i for _, i in chosen])


def _size(variant: Variant, batch: Batch) -> int:
    """How many dimensions z has. Raises `InputError` where there is nothing to anneal."""
    name = type(variant).__name__
    if variant.latent_classes:
        raise InputError(f"{name} has a class in its code; Hamiltonian moves need a continuous one")
    with torch.no_grad():
        two = variant.sample_prior(2, batch[torch.zeros(2, dtype=torch.int64, device=batch.x.device)])
    if torch.equal(two[0], two[1]):
        raise InputError(f"{name} draws no z; its likelihood is exact as it is")
    return int(two.shape[1])


def _mean_exp(weight: Tensor) -> Tensor:
    return weight.logsumexp(1) - math.log(weight.shape[1])


def _repeat(n: int, chains: int, device: torch.device) -> Tensor:
    return torch.arange(n, device=device).repeat_interleave(chains)


def _portions(n: int, chains: int, device: torch.device) -> Iterator[Tensor]:
    return iter(torch.arange(n, device=device).split(max(1, ROWS // chains)))


@contextmanager
def _sampling(variant: Variant, batch: Batch, seed: int) -> Iterator[int]:
    """A random state of its own, and gradients on, which cuDNN's recurrent layers refuse outside of training.

    Yields the number of dimensions of z. Raises `InputError` where there is nothing to anneal.
    """
    device = batch.x.device
    variant.eval()
    fork = torch.random.fork_rng([device] if device.type == "cuda" else [])
    with fork, torch.enable_grad(), torch.backends.cudnn.flags(enabled=False):
        size = _size(variant, batch)
        torch.manual_seed(seed)
        yield size
