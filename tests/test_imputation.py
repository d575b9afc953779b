"""Imputed values and draws are compared with closed forms."""

import math
from dataclasses import replace

import pytest
import torch
from test_likelihood import LinearDecoder
from torch import Tensor

from pipeline.evaluate import imputation
from variants import Batch, DataSpec, Variant
from variants.aae import AAE
from variants.base.contract import Group
from variants.cvae import CVAE
from variants.vae import VAE

SIZE, SCALE = 6, 0.6


class Fixed(torch.nn.Module):
    """An encoder that gives the same mean and log-variance of q for all examples."""

    def __init__(self, latent: int, log_var: float) -> None:
        super().__init__()
        self.output = torch.nn.Parameter(torch.tensor([0.0] * latent + [log_var] * latent))

    def forward(self, batch: Batch, extra: Tensor | None = None) -> Tensor:
        return self.output.expand(len(batch), -1)


class FullPosterior(torch.nn.Module):
    """The exact posterior of x = W z + b + s e without missing values; W has orthogonal columns."""

    def __init__(self, w: Tensor, b: Tensor) -> None:
        super().__init__()
        self.variance, self.w, self.b = 1 / (1 + w.square().sum(0) / SCALE**2), w, b

    def forward(self, batch: Batch) -> Tensor:
        mean = (batch.x - self.b) @ self.w / SCALE**2 * self.variance
        return torch.cat([mean, self.variance.log().expand(len(mean), -1)], 1)


def plane(missing: bool, w: Tensor, b: Tensor) -> VAE:
    """x = W z + b + s e with z in 2 dimensions. q is the prior, but exact without missing values if not `missing`."""
    spec = DataSpec(name="plane", shape=(SIZE,), likelihood="gaussian", missing=missing)
    variant = VAE(VAE.config_type(latent=2, width=1), spec)
    decoder = LinearDecoder(2, SIZE)
    variant.encoder = Fixed(2, 0.0) if missing else FullPosterior(w, b)  # type: ignore[assignment]
    variant.decoder = decoder  # type: ignore[assignment]
    with torch.no_grad():
        decoder.weight.copy_(w)
        decoder.bias.copy_(b)
        variant.observation.families[0].log_scale.fill_(math.log(SCALE))
    return variant.eval()


def rows(n: int = 12) -> tuple[Tensor, Tensor, Batch]:
    """W, b, and examples with 40% of their values missing."""
    generator = torch.Generator().manual_seed(1)
    w = torch.linalg.qr(torch.randn(SIZE, 2, generator=generator))[0] * torch.tensor([1.5, 0.8])
    b = torch.randn(SIZE, generator=generator)
    x = torch.randn(n, 2, generator=generator) @ w.T + b + SCALE * torch.randn(n, SIZE, generator=generator)
    observed = torch.rand(n, SIZE, generator=generator) < 0.6
    observed[0], observed[1] = True, False
    return w, b, Batch(torch.where(observed, x, 0.0), observed=observed)


def conditional(w: Tensor, b: Tensor, x: Tensor, observed: Tensor) -> tuple[Tensor, Tensor]:
    """The mean and the covariance of the missing values of one example given the others."""
    covariance = w @ w.T + SCALE**2 * torch.eye(SIZE)
    gain = covariance[~observed][:, observed] @ torch.linalg.inv(covariance[observed][:, observed])
    mean = b[~observed] + gain @ (x[observed] - b[observed])
    return mean, covariance[~observed][:, ~observed] - gain @ covariance[observed][:, ~observed]


@pytest.mark.parametrize("missing", [True, False], ids=["importance sampling", "chains"])
@torch.no_grad()
def test_means_and_draws_are_those_of_the_exact_conditional_distribution(missing: bool) -> None:
    """The model is linear and Gaussian. Chains with the exact q(z|x) are Gibbs sampling, and exact as well."""
    w, b, batch = rows()
    variant = plane(missing, w, b)
    torch.manual_seed(0)
    repeated = batch[torch.arange(len(batch)).repeat_interleave(1 if missing else 100)]
    means = imputation.conditional_mean(variant, repeated, 20_000).unflatten(0, (len(batch), -1)).mean(1)
    draws = imputation.conditional_draws(variant, batch, 3000, 20_000)
    assert draws.shape == (3000, *batch.x.shape)
    assert batch.observed is not None
    torch.testing.assert_close(means[batch.observed], batch.x[batch.observed])
    assert (draws == batch.x)[:, batch.observed].all()
    for x, observed, mean, drawn in zip(batch.x, batch.observed, means, draws.unbind(1), strict=True):
        exact_mean, exact_covariance = conditional(w, b, x, observed)
        torch.testing.assert_close(mean[~observed], exact_mean, atol=0.06, rtol=0)
        if (~observed).any():
            covariance = torch.atleast_2d(drawn[:, ~observed].T.cov())
            torch.testing.assert_close(covariance, exact_covariance, atol=0.2, rtol=0)
            torch.testing.assert_close(drawn[:, ~observed].mean(0), exact_mean, atol=0.13, rtol=0)


@torch.no_grad()
def test_portions_of_samples_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the noise depends on the number of samples that are computed at a time."""
    w, b, batch = rows()
    variant, means = plane(True, w, b), []
    for size in (50, 100_000):
        monkeypatch.setattr(imputation, "ROWS", size)
        torch.manual_seed(0)
        means.append(imputation.conditional_mean(variant, batch, 10_000))
    torch.testing.assert_close(means[0], means[1], atol=0.08, rtol=0)


@pytest.mark.parametrize("missing", [True, False], ids=["importance sampling", "chains"])
@torch.no_grad()
def test_the_class_is_inferred_from_the_observed_values(missing: bool) -> None:
    """Two classes, x1 = x2 = 3 or -3, with the frequencies .8 and .2. The label of an example is not used."""
    spec = DataSpec(
        name="two", shape=(2,), likelihood="gaussian", classes=2, class_shares=(0.8, 0.2), missing=missing
    )  # fmt: skip
    variant = CVAE(CVAE.config_type(latent=1, width=1), spec).eval()
    decoder = LinearDecoder(3, 2, bias=False)
    decoder.weight.copy_(torch.tensor([[0.0, 3.0, -3.0], [0.0, 3.0, -3.0]]))
    variant.encoder, variant.decoder = Fixed(1, 0.0), decoder  # type: ignore[assignment]
    variant.prior_net.weight.zero_()  # type: ignore[union-attr, operator]
    variant.prior_net.bias.zero_()  # type: ignore[union-attr, operator]
    x = torch.tensor([[3.0, 0.0], [-3.0, 0.0], [0.0, 0.0], [0.0, 0.0]])
    observed = torch.tensor([[True, False], [True, False], [True, False], [False, False]])
    batch = Batch(x, torch.tensor([1, 0, 1, 1]), observed=observed)
    torch.manual_seed(0)
    repeated = batch[torch.arange(4).repeat_interleave(200)]
    means = imputation.conditional_mean(variant, repeated, 200).unflatten(0, (4, 200)).mean(1)
    expected = torch.tensor([3.0, -3.0, 3 * 0.6, 3 * 0.6])  # where x1 = 0 says nothing, p(y) decides
    torch.testing.assert_close(means[:, 1], expected, atol=0.15, rtol=0)
    draws = imputation.conditional_draws(variant, batch, 2000, 2000)[:, :, 1]
    torch.testing.assert_close((draws > 0).float().mean(0), torch.tensor([1.0, 0.0, 0.8, 0.8]), atol=0.04, rtol=0)


@torch.no_grad()
def test_missing_counts_follow_from_the_observed_sum() -> None:
    """The exposure is the sum of the observed counts, and a missing count has its share relative to theirs."""
    spec = DataSpec(
        name="counts", shape=(3,), likelihood="poisson", missing=True, exposure="sum", exposures=(10.0, 20.0, 30.0),
        groups=(Group(likelihood="poisson", size=3, offset=(math.log(0.5), math.log(0.3), math.log(0.2))),),
    )  # fmt: skip
    variant: Variant = VAE(VAE.config_type(latent=1, width=2), spec).eval()
    for parameter in variant.parameters():
        parameter.zero_()
    x, observed = torch.tensor([[50.0, 30.0, 0.0], [0.0, 0.0, 0.0]]), torch.tensor([[True, True, False], [False] * 3])
    batch = Batch(x, observed=observed, exposure=torch.tensor([80.0, 0.0]))
    means = imputation.conditional_mean(variant, batch, 10)
    # without any observed count the exposure is the median
    torch.testing.assert_close(means, torch.tensor([[50.0, 30.0, 20.0], [10.0, 6.0, 4.0]]))
    draws = imputation.conditional_draws(variant, batch, 500, 10)[:, 0, 2]
    assert (draws == draws.round()).all() and draws.mean().item() == pytest.approx(20, abs=1)
    chain = type(variant)(variant.config, replace(spec, missing=False)).eval()
    for parameter in chain.parameters():
        parameter.zero_()
    torch.testing.assert_close(imputation.conditional_mean(chain, batch)[0, 2], torch.tensor(20.0))


@torch.no_grad()
def test_without_a_density_the_code_of_the_observed_values_decides() -> None:
    """An encoder that was trained with missing values is never shown its own values as if they were observed."""
    _, _, batch = rows()
    assert batch.observed is not None
    spec = DataSpec(name="plane", shape=(SIZE,), likelihood="gaussian", missing=True)
    variant = AAE(AAE.config_type(latent=2, width=8), spec).eval()
    means = imputation.conditional_mean(variant, batch)
    expected = torch.where(batch.observed, batch.x, variant.decode(variant.encode(batch)))
    torch.testing.assert_close(means, expected)
    draws = imputation.conditional_draws(variant, batch, 2000)
    torch.testing.assert_close(draws.mean(0), means, atol=0.15, rtol=0)
