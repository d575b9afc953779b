"""Forecasts rest on draws from the posterior of z given the first steps; a linear model has it in closed form."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

import variants
from variants import Batch, DataSpec
from variants.base import GaussianVariant, Terms, sequences

STEPS, CHANNELS, LATENT, DEVIATION = 24, 2, 6, 0.3
SPEC = DataSpec(name="linear", shape=(CHANNELS,), likelihood="gaussian", steps=STEPS)


class Linear(GaussianVariant):
    """x = W z + noise, so that the posterior of z given some values of x is a Gaussian.

    W depends on the length of a sequence, as the outputs of networks do.
    """

    paper = "none"

    def terms(self, batch: Batch, step: Tensor) -> Terms:
        raise NotImplementedError

    def decoder_output(self, z: Tensor, batch: Batch | None) -> Tensor:
        share = 1 if batch is None else sequences.real_steps(batch).sum(1)[:, None, None] / STEPS
        return (z @ WEIGHTS.T).view(len(z), STEPS, CHANNELS) * share


WEIGHTS = torch.randn(STEPS * CHANNELS, LATENT, generator=torch.Generator().manual_seed(0)).double()


def linear() -> Linear:
    torch.manual_seed(0)
    variant = Linear(Linear.config_type(latent=LATENT, width=8), SPEC).double().eval()
    with torch.no_grad():
        variant.observation.families[0].log_scale.fill_(math.log(DEVIATION))  # type: ignore[operator]
    return variant


def series(n: int) -> Batch:
    z, noise = torch.randn(n, LATENT).double(), torch.randn(n, STEPS, CHANNELS).double()
    x = (z @ WEIGHTS.T).view(n, STEPS, CHANNELS) + DEVIATION * noise
    observed = torch.rand(x.shape) > 0.2
    return Batch(torch.where(observed, x, 0.0), None, torch.ones(n, STEPS, dtype=torch.bool), observed=observed)


def exact(batch: Batch, prefix: Tensor) -> tuple[Tensor, Tensor]:
    """The mean (B, T, D) and the variance of x given the known values of the first steps."""
    assert batch.observed is not None
    means, variances = [], []
    for x, observed, n in zip(batch.x, batch.observed, prefix, strict=True):
        known = (observed & (torch.arange(STEPS)[:, None] < n)).flatten()
        part = WEIGHTS[known]
        covariance = torch.linalg.inv(torch.eye(LATENT) + part.T @ part / DEVIATION**2)
        means.append(WEIGHTS @ covariance @ part.T @ x.flatten()[known] / DEVIATION**2)
        variances.append((WEIGHTS @ covariance @ WEIGHTS.T).diagonal() + DEVIATION**2)
    return torch.stack(means).view_as(batch.x), torch.stack(variances).view_as(batch.x)


def test_forecasts_follow_the_exact_conditional_distribution() -> None:
    variant = linear()
    torch.manual_seed(1)
    batch, prefix = series(20), torch.tensor([0, 1, 2, 12] * 5)
    mean, variance = exact(batch, prefix)
    with torch.no_grad():
        drawn = variant.forecast(batch, prefix, 1000, noise=True)
        means = variant.forecast(batch, prefix, 1000)
    assert drawn is not None
    assert means is not None
    ahead = torch.arange(STEPS) >= prefix[:, None]
    error = ((drawn.mean(0) - mean) / variance.sqrt())[ahead]
    assert float(error.square().mean().sqrt()) < 0.2  # the Monte Carlo error of about 60 effective draws is 0.13
    assert float((drawn.var(0) / variance)[ahead].mean()) == pytest.approx(1, abs=0.1)
    assert float((means.var(0) / (variance - DEVIATION**2))[ahead].mean()) == pytest.approx(1, abs=0.15)


def test_a_forecast_keeps_the_known_values_of_the_prefix_and_fills_in_the_others() -> None:
    variant = linear()
    torch.manual_seed(1)
    batch, prefix = series(4), torch.full((4,), 12)
    assert batch.observed is not None
    known = batch.observed & (torch.arange(STEPS)[:, None] < 12)
    drawn = []
    for x in (batch.x, torch.where(known, batch.x, 9.0)):
        torch.manual_seed(2)
        with torch.no_grad():
            drawn.append(variant.forecast(replace(batch, x=x), prefix, 3))
    first, second = drawn
    assert first is not None
    assert second is not None
    assert torch.equal(first, second)
    assert torch.equal(first[1][known], batch.x[known])
    assert not torch.equal(first[0], first[1])


@pytest.mark.one_in(4)
@pytest.mark.parametrize("name", variants.names())
def test_every_variant_continues_sequences(name: str) -> None:
    torch.manual_seed(0)
    spec = DataSpec(name="waves", shape=(2,), likelihood="gaussian", classes=3, steps=9)
    variant = variants.build(name, variants.get(name).config_type(latent=4, width=16), spec).eval()
    batch = Batch(torch.randn(5, 9, 2), torch.arange(5) % 3, torch.arange(9) < torch.tensor([9, 9, 7, 5, 2])[:, None])
    with torch.no_grad():
        ahead = variant.forecast(batch, torch.tensor([5, 0, 3, 4, 1]), 4, noise=True)
    assert ahead is not None
    assert ahead.shape == (4, 5, 9, 2)
    assert ahead.isfinite().all()
    assert torch.equal(ahead[2, 0, :5], batch.x[0, :5])
