"""Checks of the densities p(z), q(z|x) and p(x, z): by quadrature, by automatic differentiation, and by samples."""

import math
from dataclasses import replace
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor

from variants.base.closed_forms import log_standard_normal
from variants.base.contract import Batch, Variant
from variants.check.subject import (
    ChangedNoise,
    Result,
    Subject,
    expect,
    in_precision,
    is_accepted,
    is_close,
    mean_and_error,
    repeated,
    score,
    skipped,
)

POINTS = {1: 2001, 2: 161, 3: 51}  # of the grid in each dimension, by the number of dimensions
SAMPLES = 10_000
CODES = 5_000  # samples of a discrete prior


def log_q_is_the_density_of_the_samples(subject: Subject) -> str | Result:
    """log q(z|x) = log N(e) - log |dz/de| for the noise e that a sample z is made from, by automatic differentiation.

    It finds the wrong sign of a log-determinant.
    """
    tried = []
    for each in subject.configurations():
        variant = each.perturbed().double().eval()
        batch, worst = in_precision(each.examples(3, 1, factors=2), torch.float64), 0.0
        with torch.no_grad(), ChangedNoise(torch.clone, everywhere=True) as noise:
            sample = variant.sample_posterior(batch[slice(0, 1)])
        if sample is None or variant.discrete:
            continue
        if noise.count != sample[0].numel():
            return skipped(f"a sample of {sample[0].numel()} dimensions is made from {noise.count} normal numbers")
        for n in range(3):
            sampled, e = partial(_sample_from, variant, batch[slice(n, n + 1)]), torch.randn_like(sample[0][0])
            slope, _ = torch.autograd.functional.jacobian(sampled, e)
            expected, log_q = log_standard_normal(e).sum() - torch.linalg.slogdet(slope)[1], sampled(e)[1].detach()
            expect(
                is_close(log_q, expected, 1e-6),
                f"with {each}, log q(z|x) is {log_q:.4f}; the density of its samples is {expected:.4f}",
            )
            worst = max(worst, float((log_q - expected).abs()))
        tried.append(f"{each}: {worst:.0e}")
    return f"Largest differences with {'; '.join(tried)}." if tried else skipped("q has no density")


def _sample_from(variant: Variant, one: Batch, e: Tensor) -> tuple[Tensor, Tensor]:
    """Return the sample of q(z|x), (Z,), that is made from the noise e, (Z,), and its log q."""
    rest = e

    def taken(noise: Tensor) -> Tensor:
        nonlocal rest
        part, rest = rest[: noise.numel()], rest[noise.numel() :]
        return part.view_as(noise)

    with ChangedNoise(taken, everywhere=True):
        sample = variant.sample_posterior(one)
    assert sample is not None
    return sample[0][0], sample[1][0]


def the_prior_integrates_to_one(subject: Subject) -> str | Result:
    """p(z) integrates to 1 in few dimensions, and its samples are distributed as it says.

    If z is discrete, its probabilities add up to 1, and are the frequencies of its samples. The weights are perturbed,
    so that a learned prior is not N(0, I).
    """
    tried, sums = [], []
    for each in subject.configurations():
        small = _of_few_dimensions(each)
        if small is None:
            continue
        variant = small.perturbed().eval()
        one = each.examples(1)
        with torch.no_grad():
            total, away = (_of_codes if variant.discrete else _on_a_grid)(variant, one)
        expect(abs(total - 1) < 0.01, f"with {small}, the prior integrates to {total:.4f}; expected 1")
        limit = 1.95 / SAMPLES**0.5 + 0.005
        expect(
            away < limit,
            f"with {small}, the distribution functions of the samples of the prior and of its density "
            f"differ by {away:.3f}; expected less than {limit:.3f}",
        )
        tried.append(str(small))
        sums.append(f"{total:.4f}")
    return (
        f"The integral is {', '.join(sums)} with {'; '.join(tried)}."
        if tried
        else skipped("it has no configuration with at most 3 latent dimensions")
    )


def _of_few_dimensions(subject: Subject) -> Subject | None:
    """Return the subject with as few latent dimensions as it accepts, if these are at most three; else None."""
    lowest = {
        name: field.metadata["low"]
        for name, field in subject.variant.config_type.__dataclass_fields__.items()
        if isinstance(field.default, int) and name not in ("latent", "width", "depth", "batch", "warmup")
        and name not in dict(subject.settings)
    }  # fmt: skip
    for settings in ({"latent": 1}, {"latent": 2}, {"latent": 1, **lowest}):
        small = subject.with_settings(**settings)
        if is_accepted(small.build) and small.build().sample_prior(1).shape[1] - small.build().latent_classes <= 3:
            return small
    return None


def _grid(variant: Variant, condition: Batch) -> tuple[Tensor, float]:
    """Return the points of a grid in z that covers the prior, (N, Z) without a class, and the volume of a cell."""
    z = variant.sample_prior(SAMPLES, repeated(condition, SAMPLES))
    z = z[:, : z.shape[1] - variant.latent_classes]
    low, high, spread = z.amin(0), z.amax(0), z.std(0)
    axes = [
        torch.linspace(float(a - 4 * s), float(b + 4 * s), POINTS[z.shape[1]], device=z.device, dtype=torch.float64)
        for a, b, s in zip(low, high, spread, strict=True)
    ]
    volume = math.prod(float(axis[1] - axis[0]) for axis in axes)
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).flatten(0, -2), volume


def _on_a_grid(variant: Variant, one: Batch) -> tuple[float, float]:
    """Return the integral of the prior, and the largest difference of distribution functions of the first dimension."""
    grid, volume = _grid(variant, one)
    given = repeated(one, len(grid))
    z = grid.float()
    of_classes = [(z, given)]
    if variant.latent_classes:
        identity = torch.eye(variant.latent_classes, device=grid.device)
        of_classes = [(torch.cat([z, row.expand(len(grid), -1)], 1), given) for row in identity]
    elif given.y is not None and variant.conditioned_on == "y":
        of_classes = [(z, replace(given, y=torch.full_like(given.y, y))) for y in range(variant.spec.classes)]
    density = torch.stack([variant.log_prior(codes, batch).double().exp() for codes, batch in of_classes]).sum(0)
    of_first = density.view(POINTS[grid.shape[1]], -1).sum(1).cumsum(0) * volume
    condition = None if variant.conditioned_on != "x" else repeated(one, SAMPLES)
    first = variant.sample_prior(SAMPLES, condition)[:, 0].double().sort().values
    axis = grid[:, 0].view(POINTS[grid.shape[1]], -1)[:, 0].contiguous()
    half = (axis[1] - axis[0]) / 2  # the sum up to a point contains the whole of its cell
    frequencies = torch.searchsorted(first, axis + half).double() / len(first)
    return float(density.sum() * volume), float((of_first - frequencies).abs().max())


def _of_codes(variant: Variant, one: Batch) -> tuple[float, float]:
    """Return the sum of the probabilities of the codes found, and the largest difference from their frequencies."""
    z = variant.sample_prior(CODES, repeated(one, CODES))
    codes, counts = z.unique(dim=0, return_counts=True)
    probabilities = variant.log_prior(codes, repeated(one, len(codes))).double().exp()
    single = float((counts == 1).sum()) / CODES  # an estimate of the probability of the codes that were not found
    return float(probabilities.sum()) + single, float((probabilities - counts / CODES).abs().max())


def samples_of_the_prior_have_its_density(subject: Subject) -> str | Result:
    """E[r(z) / p(z)] = 1 for samples z of the prior and a density r, and E[d log p / dz_i f(z_i) + f'(z_i)] = 0.

    r is a Gaussian that is narrower than the samples. The second identity is Stein's, with f(z) = z. The weights are
    perturbed, so that a learned prior is not N(0, I). It finds samples from another prior than the one that is scored.
    """
    tried = []
    for each in subject.configurations():
        variant = each.perturbed().eval()
        if variant.discrete or variant.latent_classes:
            continue
        one = each.examples(1)
        with torch.no_grad():
            many = repeated(one, SAMPLES)
            z = variant.sample_prior(SAMPLES, many)
        if not z.std(0).min() > 0:
            continue  # it draws no z
        z = z.requires_grad_()
        log_p = variant.log_prior(z, many)
        (slope,) = torch.autograd.grad(log_p.sum(), z)
        z, log_p = z.detach(), log_p.detach()
        stein = slope * (z - z.mean(0)) + 1
        worst = float((stein.mean(0) / (stein.std(0) / SAMPLES**0.5)).abs().max())
        expect(
            worst < 6,
            f"with {each}, the mean of d log p / dz (z - mean z) over samples z of the prior is {worst:.0f} "
            "standard errors from -1",
        )
        if variant.conditioned_on == "y" and many.y is not None:
            log_p = log_p - variant.spec.class_probabilities.to(z.device)[many.y].log()
        r = torch.distributions.MultivariateNormal(z.mean(0), 0.5 * z.T.cov())
        ratio = (r.log_prob(z) - log_p).exp()
        mean, error = mean_and_error(ratio)
        if error > 0.1:
            tried.append(f"{each}: Stein's identity alone")
            continue
        expect(
            abs(mean - 1) < 5 * error,
            f"with {each}, E[r(z) / p(z)] is {mean:.3f} +- {error:.3f} over samples z of the prior; expected 1",
        )
        tried.append(f"{each}: {mean:.3f} +- {error:.3f}")
    return f"E[r(z) / p(z)] with {'; '.join(tried)}." if tried else skipped("z is discrete, or is not drawn")


def importance_weights_give_the_likelihood(subject: Subject) -> str | Result:
    """log p(x) from importance weights w = p(x, z) / q(z|x) is that of quadrature, in at most three latent dimensions.

    The bound log 1/k sum_i w_i does not fall from k = 1 to 500. It finds densities that do not belong to the samples.
    The model is new: its posterior is wide, so that no sample has most of the weight.
    """
    tried = []
    for each in subject.configurations():
        small = _of_few_dimensions(each)
        variant = (small or each).build().eval()
        batch = each.examples(8, 1, factors=2)
        if not small or variant.discrete or variant.latent_classes or variant.sample_posterior(batch) is None:
            continue
        with torch.no_grad():
            log_w = {k: _log_weights(variant, batch, k) for k in (1, 5, 50, 500)}
            exact, is_covered = zip(*(_quadrature(variant, batch[slice(n, n + 1)]) for n in range(8)), strict=True)
        bounds = {k: mean_and_error((w.logsumexp(2) - math.log(k)).mean(0)) for k, w in log_w.items()}
        text = ", ".join(f"{bound:.3f} with {k}" for k, (bound, _) in bounds.items())
        rises = all(b[0] - a[0] > -5 * (a[1] + b[1]) - 1e-3 for a, b in pairwise(bounds.values()))
        expect(rises, f"with {small}, the bound of log p(x) falls with the number of samples: {text}")
        weights = (log_w[500].flatten(1) - torch.stack(exact)[:, None]).exp()  # their mean is 1
        error = 5 * weights.std(1) / weights.shape[1] ** 0.5 + 0.005
        usable = torch.tensor(is_covered, device=error.device) & (error < 0.5)
        if not usable.any():
            continue  # q(z|x) is too far from p(z|x) for 2,000 samples
        away = torch.where(usable, weights.mean(1) - 1, 0.0)
        worst = int((away.abs() / error).argmax())
        expect(
            bool(away[worst].abs() < error[worst]),
            f"with {small}, the mean of p(x, z) / q(z|x) over samples of q is {1 + away[worst]:.3f} times p(x); "
            "expected 1",
        )
        tried.append(f"{small}: {text}; {torch.stack(exact).mean():.3f} exactly")
    return (
        f"log p(x) with {'. '.join(tried)}."
        if tried
        else skipped("q has no density or is too far from p(z|x), or z has more than 3 dimensions")
    )


def _log_weights(variant: Variant, batch: Batch, k: int) -> Tensor:
    """Return log p(x, z) - log q(z|x) of 2,000 samples of each of B examples, (B, 2000 / k, k), drawn k at a time."""
    several = repeated(batch, 2000 // k)
    samples = variant.sample_posterior(several, k)
    assert samples is not None
    log_w = variant.log_joint(samples[0], repeated(several, k)) - samples[1]
    return log_w.double().view(len(batch), -1, k)


def _quadrature(variant: Variant, one: Batch) -> tuple[Tensor, bool]:
    """Return log p(x) of one example by quadrature, and whether samples of q(z|x) are where p(z|x) has its mass."""
    grid, volume = _grid(variant, one)
    log_joint = variant.log_joint(grid.float(), repeated(one, len(grid))).double()
    samples = variant.sample_posterior(one, 500)
    assert samples is not None
    inside = ((grid >= samples[0].amin(0)) & (grid <= samples[0].amax(0))).all(1)
    return log_joint.logsumexp(0) + math.log(volume), bool(log_joint.softmax(0)[inside].sum() > 0.99)


def bound_lies_between_the_elbo_and_the_likelihood(subject: Subject) -> str | Result:
    """An extra `bound` is at least the ELBO, and at most the bound of many more importance samples."""
    found = []
    for each in subject.configurations():
        batch = each.examples(64, 1, factors=2)
        if (first := score(each.build(), batch)).elbo is None or "bound" not in first.extras:
            continue
        variant = each.trained().eval()
        with torch.no_grad():
            drawn = [score(variant, batch) for _ in range(40)]
            bound = torch.stack([t.extras["bound"] for t in drawn]).mean(1)
            elbo = torch.stack([t.elbo for t in drawn if t.elbo is not None]).mean(1)
            samples = variant.sample_posterior(batch, 2000)
            assert samples is not None
            log_w = (variant.log_joint(samples[0], repeated(batch, 2000)) - samples[1]).view(64, 2000)
            most = (log_w.logsumexp(1) - math.log(2000)).mean()
        (low, low_error), (middle, error) = mean_and_error(elbo), mean_and_error(bound)
        expect(
            low - 5 * (low_error + error) <= middle <= float(most) + 5 * error + 0.01,
            f"with {each}, `bound` is {middle:.3f}; expected a value from {low:.3f}, the ELBO, to {most:.3f}, log p(x)",
        )
        found.append(f"{low:.2f}, {middle:.2f} and {most:.2f}")
    return (
        f"ELBO, bound, and the bound of 2,000 samples: {'; '.join(found)} nats."
        if found
        else skipped("it has no ELBO, or no extra `bound`")
    )
