"""Checks of extras with a fixed meaning, on posteriors whose divergences are known."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor

from variants.base import closed_forms
from variants.base.contract import Terms, Variant
from variants.check.subject import (
    Result,
    Subject,
    expect,
    is_close,
    losses,
    mean_and_error,
    repeated,
    score,
    skipped,
    take_step,
    weights_of,
    without_likelihood,
)

PARTS = ("mutual_information", "total_correlation", "dimension_kl")


@contextmanager
def posterior_of(variant: Variant, mean: Tensor, log_var: Tensor) -> Iterator[None]:
    """Within this context, q(z|x) has these parameters, (B, Z) each, whatever x is."""
    variant.posterior = lambda batch: (mean, log_var)  # type: ignore[assignment]
    try:
        yield
    finally:
        del variant.posterior


def _extras(subject: Subject) -> set[str]:
    """Return the names of the extras of a variant whose q(z|x) can be replaced by a known one; else none."""
    variant = subject.build()
    return set(score(variant, subject.examples()).extras) if hasattr(variant, "posterior") else set()


def _terms(variant: Variant, subject: Subject, mean: Tensor, log_var: Tensor) -> Terms:
    """Return the terms of a batch with this posterior."""
    with posterior_of(variant, mean, log_var):
        return score(variant, subject.examples(len(mean)))


def a_decomposition_adds_up(subject: Subject) -> str | Result:
    """`kl_per_dimension` adds up to the KL without -log p(y), and the three parts of a KL to its mean."""
    variant, batch = subject.trained().eval(), repeated(subject.examples(64, 1, factors=2), 20)
    with torch.no_grad():
        terms, found = score(variant, batch), []
    if terms.kl is None:
        return skipped("q has no density")
    if "kl_per_dimension" in terms.extras:
        expected, sums = terms.kl, terms.extras["kl_per_dimension"].sum(1)
        if variant.conditioned_on == "y" and batch.y is not None:
            expected = expected + variant.spec.class_probabilities.to(batch.y.device)[batch.y].log()
        away = float((sums - expected).abs().max())
        expect(is_close(sums, expected, 1e-3), f"kl_per_dimension adds up to other numbers than kl: {away:.3g} away")
        found.append(f"the sum of kl_per_dimension differs from kl by at most {away:.0e} nats")
    if all(part in terms.extras for part in PARTS):
        total = torch.stack([terms.extras[part] for part in PARTS]).sum(0)
        mean, error = mean_and_error(total - terms.kl)
        expect(
            abs(mean) < 5 * error + 1e-3,
            f"the three parts add up to {float(total.mean()):.3f}; expected {float(terms.kl.mean()):.3f}, the mean KL",
        )
        found.append(f"the sum of the three parts differs from the mean KL by {mean:.3f} +- {error:.3f} nats")
    return f"After training, {'; '.join(found)}." if found else skipped("the KL has no parts")


def the_parts_of_a_kl_are_those_of_a_known_posterior(subject: Subject) -> str | Result:
    """Mutual information and total correlation are those of two posteriors for which they are computed exactly.

    One has 20,000 separate components in 10 dimensions, the other 2,000 that overlap and are correlated. An estimate
    that is learned, by a loss of its own, is trained on the second one first. It finds stratified weights of which the
    own example of a sample gets the wrong one, and a discriminator's logit with the wrong sign.
    """
    estimated = _extras(subject) & set(PARTS[:2])
    if not estimated:
        return skipped("it logs neither mutual_information nor total_correlation, or has no method posterior")
    if "mutual_information" not in estimated:
        return _learned_total_correlation(subject)
    found = []
    for n, d, sigma, correlation, tolerances in ((20_000, 10, 0.15, 0.0, (1.0, 3.0)), (2_000, 4, 0.5, 0.8, (0.5, 0.5))):
        means = _correlated(n, d, correlation, subject.device)
        log_var = torch.full_like(means, 2 * math.log(sigma))
        variant = subject.build(replace(subject.spec, examples=n), latent=d, batch=64)
        with torch.no_grad():
            drawn = [
                _terms(variant, subject, means[rows], log_var[rows]).extras
                for rows in torch.randperm(n, device=means.device)[:1280].split(64)
            ]
        exact = _exact_parts(means, sigma)
        for part, expected, tolerance in zip(PARTS, exact, tolerances, strict=False):
            value = float(torch.cat([extras[part] for extras in drawn]).mean())
            expect(
                abs(value - expected) < tolerance,
                f"{part} of {n} components in {d} dimensions is {value:.2f} nats; expected {expected:.2f}",
            )
            found.append(f"{part} {value:.2f} (exact {expected:.2f})")
    return f"In nats: {'; '.join(found)}."


def _correlated(n: int, d: int, correlation: float, device: str) -> Tensor:
    """Return samples of a Gaussian with unit variances, (n, d), whose dimensions have this correlation."""
    shared = torch.randn(n, 1, device=device)
    return math.sqrt(1 - correlation) * torch.randn(n, d, device=device) + math.sqrt(correlation) * shared


def _exact_parts(means: Tensor, sigma: float) -> tuple[float, float]:
    """Return the mutual information and the total correlation of a mixture of Gaussians, from 300 of its samples."""
    z = means[:300] + sigma * torch.randn_like(means[:300])
    log_var = torch.full_like(means[0], 2 * math.log(sigma))
    each = closed_forms.log_normal(z[:, None], means, log_var)  # (300, N, Z)
    log_n = math.log(len(means))
    log_q = each.sum(2).logsumexp(1) - log_n
    log_q_dimensions = (each.logsumexp(1) - log_n).sum(1)
    log_q_x = closed_forms.log_normal(z, means[:300], log_var).sum(1)
    return float((log_q_x - log_q).mean()), float((log_q - log_q_dimensions).mean())


def _learned_total_correlation(subject: Subject) -> str | Result:
    d, correlation, sigma = 4, 0.8, 0.1
    variant = subject.build(latent=d, batch=256)
    optimizers = variant.optimizers()
    of_decoder = (
        {id(p) for p in variant.get_submodule("decoder").parameters()} if hasattr(variant, "decoder") else set()
    )
    learned = {name: o for name, o in optimizers.items() if not of_decoder & {id(w) for w in weights_of(o)}}

    def drawn(n: int) -> Terms:
        means = _correlated(n, d, correlation, subject.device)
        return _terms(variant, subject, means, torch.full_like(means, 2 * math.log(sigma)))

    with without_likelihood(variant):
        for _ in range(600):
            take_step(drawn(256), learned)
        with torch.no_grad():
            value = float(drawn(4096).extras["total_correlation"].mean())
    covariance = torch.full((d, d), correlation / (1 + sigma**2)).fill_diagonal_(1.0)
    expected = float(-0.5 * torch.logdet(covariance))
    expect(
        abs(value - expected) < 0.25 * expected,
        f"total_correlation of correlated codes is {value:.2f} nats after 600 "
        f"steps of {', '.join(learned)}; expected {expected:.2f}",
    )
    return f"total_correlation of correlated codes is {value:.2f} nats, after 600 steps; it is {expected:.2f} exactly."


def the_covariance_of_a_known_posterior_is_measured(subject: Subject) -> str | Result:
    """`off_diagonal` and `diagonal` are those of posteriors with a known covariance, wherever their mean is.

    It finds a covariance that is centred over the latent dimensions, or not divided by the number of examples.
    """
    names = ("off_diagonal", "diagonal")
    if not set(names) <= _extras(subject):
        return skipped("it does not log off_diagonal and diagonal, or has no method posterior")
    variant, found = subject.build(), []
    for n, shift in ((64, 0.0), (256, 3.0)):
        scale, place = torch.tensor([[0.5, 1.0, 1.5, 2.0], [1.0, -1.0, 0.5, 0.0]], device=subject.device)
        means = _correlated(n, 4, 0.5, subject.device) * scale + shift * place
        with torch.no_grad():
            extras = _terms(variant, subject, means, torch.full_like(means, -20.0)).extras
        covariance = means.T.cov(correction=0)
        variances = covariance.diagonal()
        exact = (covariance.square().sum() - variances.square().sum(), (variances - 1).square().sum())
        for name, expected in zip(names, map(float, exact), strict=True):
            value = float(extras[name].mean())
            expect(
                abs(value - expected) < 0.05 * expected,
                f"{name} of {n} codes, {shift:g} from 0, is {value:.3f}; expected {expected:.3f}",
            )
            found.append(f"{name} {value:.2f} (exact {expected:.2f})")
    return f"Of two posteriors: {'; '.join(found)}."


def mmd_is_zero_for_equal_distributions(subject: Subject) -> str | Result:
    """`mmd` has the mean 0 if q(z) = p(z), and is positive and the same in all batches if q(z) lies elsewhere.

    Of two posteriors with the same KL, the loss is larger for the one that is further from the prior. It finds an
    estimate that is divided twice by the number of pairs, and the wrong sign in the loss.
    """
    if "mmd" not in _extras(subject):
        return skipped("it logs no mmd, or has no method posterior")
    variant = subject.build().eval()
    with torch.no_grad():
        equal = [_mmd(variant, subject, variant.sample_prior(64)) for _ in range(300)]
        small = [_mmd(variant, subject, variant.sample_prior(32) + 1.5) for _ in range(40)]
        large = [_mmd(variant, subject, variant.sample_prior(128) + 1.5) for _ in range(40)]
    (mean, error), (of_small, small_error), (of_large, large_error) = (
        mean_and_error(torch.tensor(values)) for values in (equal, small, large)
    )
    expect(abs(mean) < 5 * error, f"mmd is {mean:.5f} +- {error:.5f} for equal distributions; expected 0")
    expect(of_large > 5 * large_error, f"mmd of distributions 1.5 apart is {of_large:.5f}; expected a positive number")
    expect(
        abs(of_small - of_large) < 5 * (small_error + large_error),
        f"mmd of distributions 1.5 apart is {of_small:.5f} in batches of 32, and {of_large:.5f} in batches of 128",
    )
    signs = torch.randn(256, 4, device=subject.device).sign()
    log_var = torch.full_like(signs, -1.0)
    with torch.no_grad(), without_likelihood(variant):
        near, far = (float(sum(losses(_terms(variant, subject, m, log_var)).values())) for m in (signs, signs.abs()))
    expect(
        far > near,
        f"of two posteriors with the same KL, the loss is {near:.4g} for the one near the prior and "
        f"{far:.4g} for the other",
    )
    return (
        f"mmd is {mean:.5f} +- {error:.5f} for equal distributions and {of_large:.4f} for others; the loss rises from "
        f"{near:.4g} to {far:.4g}."
    )


def _mmd(variant: Variant, subject: Subject, z: Tensor) -> float:
    return float(_terms(variant, subject, z, torch.full_like(z, -20.0)).extras["mmd"].mean())
