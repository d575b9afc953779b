"""Metrics against closed forms, other libraries, and explicit loops."""

import math

import numpy as np
import pytest
import torch
from sklearn.neighbors import KernelDensity
from torch import Tensor

from pipeline.data import Data
from pipeline.evaluate import latents, likelihood
from variants import Batch, DataSpec, InputError, Variant
from variants.aae import AAE
from variants.cvae import CVAE
from variants.vae import VAE

NONE = torch.zeros(0, 3)


def linear_gaussian(widen: float) -> tuple[Variant, Data, Tensor]:
    """x = W z + b + s e with z in 2 and x in 4 dimensions, and q with variances `widen` times those of the posterior.

    Returns the model, data, and log N(x; b, W W' + s^2) of each example from a multivariate normal. The columns of W
    are orthogonal, so that the true posterior has a diagonal covariance.
    """
    generator = torch.Generator().manual_seed(0)
    w = torch.linalg.qr(torch.randn(4, 2, generator=generator))[0] * torch.tensor([1.5, 0.8])
    b, s = torch.randn(4, generator=generator), 0.6
    spec = DataSpec("plane", (4,), "gaussian")
    variant = VAE(VAE.config_type(latent=2, width=1), spec)
    variant.encoder, variant.decoder = torch.nn.Linear(4, 4), torch.nn.Linear(2, 4)  # type: ignore[assignment]
    variance = 1 / (1 + w.square().sum(0) / s**2)
    with torch.no_grad():
        variant.decoder.weight.copy_(w)
        variant.decoder.bias.copy_(b)
        variant.observation.log_scale.fill_(math.log(s))
        mean = variance[:, None] * w.T / s**2
        variant.encoder.weight.copy_(torch.cat([mean, torch.zeros(2, 4)]))
        variant.encoder.bias.copy_(torch.cat([-mean @ b, (widen * variance).log()]))
    x = torch.randn(300, 2, generator=generator) @ w.T + b + s * torch.randn(300, 4, generator=generator)
    exact = torch.distributions.MultivariateNormal(b, w @ w.T + s**2 * torch.eye(4)).log_prob(x)
    split = Batch(x)
    data = Data(spec, split, split, split, "", "", torch.zeros(()), torch.ones(()), "table")
    return variant, data, exact.double()


def test_with_the_exact_posterior_the_bound_is_the_likelihood_for_every_k() -> None:
    variant, data, exact = linear_gaussian(1.0)
    for k in (1, 7, 20_000):
        few = data.test[slice(0, 3 if k > 100 else 300)]
        torch.testing.assert_close(
            likelihood.log_likelihood(variant, data, few, k), exact[: len(few)], atol=1e-4, rtol=0
        )


def test_with_a_wrong_posterior_the_bound_tightens_to_the_likelihood() -> None:
    variant, data, exact = linear_gaussian(3.0)
    bounds = [float(likelihood.log_likelihood(variant, data, data.test, k).mean()) for k in (1, 5, 50, 2000)]
    gaps = [float(exact.mean()) - b for b in bounds]
    # at k = 1 the gap is KL(q || posterior), in closed form for Gaussians of one mean: (v - 1 - log v) / 2 a dimension
    assert gaps[0] == pytest.approx(2 * 0.5 * (3 - 1 - math.log(3)), abs=0.15)
    assert gaps[0] > gaps[1] > gaps[2] > abs(gaps[3])
    assert gaps[3] == pytest.approx(0, abs=0.01)


def test_the_bound_is_that_of_an_explicit_loop() -> None:
    """Same draws, one example and one sample at a time."""
    variant, data, _ = linear_gaussian(2.0)
    few = data.test[slice(0, 2)]
    vectorised = likelihood.log_likelihood(variant, data, few, 3, seed=5)
    torch.manual_seed(5)
    with torch.no_grad():
        mean, log_var = variant.posterior(few)  # type: ignore[operator]
        noise = torch.randn(6, 2).view(2, 3, 2)
        for n in range(2):
            weights = []
            for i in range(3):
                z = mean[n] + (0.5 * log_var[n]).exp() * noise[n, i]
                prior, q = (
                    torch.distributions.Normal(0.0, 1.0),
                    torch.distributions.Normal(mean[n], (0.5 * log_var[n]).exp()),
                )
                p = torch.distributions.Normal(variant.decoder(z), variant.observation.log_scale.exp())  # type: ignore[operator,union-attr]
                weights.append(p.log_prob(few.x[n]).sum() + prior.log_prob(z).sum() - q.log_prob(z).sum())
            expected = math.log(sum(math.exp(float(w)) for w in weights) / 3)
            assert float(vectorised[n]) == pytest.approx(expected, abs=1e-4)


def test_the_bound_of_a_conditional_variant_sums_over_classes_whatever_the_labels() -> None:
    spec = DataSpec("table", (4,), "gaussian", classes=3)
    torch.manual_seed(0)
    variant = CVAE(CVAE.config_type(latent=2, width=8), spec).eval()
    with torch.no_grad():  # near the prior, so that the weights vary little
        variant.decoder.net[0].weight[:, :2] *= 0.3  # type: ignore[index,union-attr]
        variant.encoder.head[-1].weight *= 0.3  # type: ignore[index,union-attr]
    x = torch.randn(5, 4)
    splits = [Batch(x, torch.full((5,), c)) for c in range(3)]
    data = Data(spec, splits[0], splits[0], splits[0], "", "", torch.zeros(()), torch.ones(()), "table")
    marginal = [likelihood.log_likelihood(variant, data, s, 20_000) for s in splits]
    assert torch.equal(marginal[0], marginal[2])
    each = [likelihood.log_likelihood(variant, data, s, 20_000, marginal=False, seed=1) for s in splits]
    torch.testing.assert_close(torch.stack(each).logsumexp(0), marginal[0], atol=0.05, rtol=0)


def test_without_a_density_there_is_no_bound() -> None:
    _, data, _ = linear_gaussian(1.0)
    with pytest.raises(InputError, match="AAE has no density"):
        likelihood.log_likelihood(AAE(AAE.config_type(width=4), data.spec), data, data.test, 2)


def test_parzen_is_a_kernel_density() -> None:
    samples, x = torch.rand(500, 2, 3), torch.rand(40, 2, 3)
    ours = likelihood.parzen(samples, x, 0.3)
    theirs = KernelDensity(bandwidth=0.3).fit(samples.flatten(1).numpy()).score_samples(x.flatten(1).numpy())
    np.testing.assert_allclose(ours.numpy(), theirs, atol=1e-3)


def test_parzen_width_is_near_the_true_one() -> None:
    """Samples and held-out points of one Gaussian with few samples: too narrow and too wide are both worse."""
    samples, held = torch.randn(2000, 2), torch.randn(500, 2)
    sigma = likelihood.parzen_width(samples, held)
    assert 0.1 < sigma < 0.7


def test_mmd_is_that_of_explicit_sums_and_tells_distributions_apart() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((30, 3)), rng.standard_normal((20, 3)) + 1
    c = 2 * b.var(axis=0).sum()

    def kernel(p: np.ndarray, q: np.ndarray) -> float:
        return float(c / (c + ((p - q) ** 2).sum()))

    within = [np.mean([kernel(s[i], s[j]) for i in range(len(s)) for j in range(len(s)) if i != j]) for s in (a, b)]
    across = np.mean([kernel(p, q) for p in a for q in b])
    assert latents.mmd(a, b) == pytest.approx(sum(within) - 2 * across)
    same = [latents.mmd(rng.standard_normal((500, 3)), rng.standard_normal((500, 3))) for _ in range(20)]
    assert abs(np.mean(same)) < 5 * np.std(same) / 20**0.5
    assert latents.mmd(rng.standard_normal((500, 3)) + 0.5, rng.standard_normal((500, 3))) > 5 * np.std(same)


def test_moments_are_in_units_of_the_prior() -> None:
    rng = np.random.default_rng(0)
    found = latents.moments(rng.standard_normal((50_000, 2)) * 2.5 + 5, rng.standard_normal((50_000, 2)) * 5)
    assert found["latent/posterior_mean"] == pytest.approx(1, abs=0.02)
    assert found["latent/posterior_spread"] == pytest.approx(0.5, abs=0.01)


def test_levels_add_up() -> None:
    found = latents.by_level(torch.tensor([1.0, 2.0, 0.001, 3.0]), (2, 2))
    assert found == {
        "latent/kl_level_1": 3.0, "latent/active_units_level_1": 2.0,
        "latent/kl_level_2": pytest.approx(3.001), "latent/active_units_level_2": 1.0,
    }  # fmt: skip
