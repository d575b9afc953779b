"""The mixture of logistic distributions of 8-bit pixels and the continuous Bernoulli, by sums, integrals and scipy."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import integrate, stats
from scipy.special import expit, log_softmax
from torch import Tensor

from variants import Batch, DataSpec, InputError
from variants.base import Observation, closed_forms
from variants.base.likelihoods import COMPONENTS, LARGEST_LOGIT, output_shape

K = COMPONENTS
LEVELS = torch.arange(256.0, dtype=torch.float64) / 255


def observation(channels: int, height: int = 1, width: int = 1, **facts: Any) -> Observation:
    spec = DataSpec(name="pixels", shape=(channels, height, width), likelihood="mixture8", **facts)
    return Observation(spec).double()


def output(channels: int, n: int = 1, size: float = 1.0, seed: int = 0) -> Tensor:
    """Return what a decoder may give for n images of one pixel."""
    spec = DataSpec(name="pixels", shape=(channels, 1, 1), likelihood="mixture8")
    generator = torch.Generator().manual_seed(seed)
    return size * torch.randn(n, *output_shape(spec), generator=generator, dtype=torch.float64)


def logistic_bin(x: float, mean: NDArray[Any], scale: NDArray[Any]) -> NDArray[Any]:
    """Return the probability of the bin of x by scipy's distribution function."""
    upper = 1.0 if x == 1 else stats.logistic.cdf(x + 0.5 / 255, mean, scale)
    lower = 0.0 if x == 0 else stats.logistic.cdf(x - 0.5 / 255, mean, scale)
    return np.asarray(upper - lower)


def expected_log_p(x: NDArray[Any], output: NDArray[Any]) -> float:
    """Return log p of the colour x (C,) by the definition of PixelCNN++, component by component."""
    c = len(x)
    parts = np.split(output, np.cumsum([K, K * c, K * c]))
    weights = np.exp(log_softmax(parts[0]))
    first = np.linspace(-2, 2, K)
    means = expit(parts[1].reshape(K, c) + first[:, None])
    scales = np.exp(np.clip(parts[2].reshape(K, c) - 2, -7, 2))
    slopes = parts[3].reshape(K, -1)
    p = weights.copy()
    for channel in range(c):
        mean = means[:, channel].copy()
        for before in range(channel):
            mean += slopes[:, channel * (channel - 1) // 2 + before] * (x[before] - means[:, before])
        p *= [float(logistic_bin(x[channel], m, s)) for m, s in zip(mean, scales[:, channel], strict=True)]
    return math.log(p.sum())


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_the_mixture_is_that_of_its_definition(channels: int) -> None:
    model, outputs = observation(channels), output(channels, 40)
    x = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (40, channels, 1, 1)) / 255)
    x[:8] = x[:8].round()  # also the outer bins
    log_p = -model.nll(Batch(x), outputs).numpy()
    expected = [expected_log_p(a.ravel(), b.ravel()) for a, b in zip(x.numpy(), outputs.numpy(), strict=True)]
    np.testing.assert_allclose(log_p, expected, rtol=1e-6)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_probabilities_of_a_channel_given_those_before_it_add_up_to_one(channels: int) -> None:
    """By the chain rule, those of all 256^3 colours do so too. The scales range from tiny to wide ones."""
    model = observation(channels)
    for seed, size in enumerate((0.5, 2.0, 6.0)):
        for channel in range(channels):
            x = torch.rand(channels, generator=torch.Generator().manual_seed(seed)).double()
            x = ((x * 255).round() / 255).expand(256, channels).clone()
            x[:, channel] = LEVELS
            nll = model.nll_each(Batch(x[..., None, None]), output(channels, 1, size, seed).expand(256, -1, 1, 1))
            assert float((-nll[:, channel]).exp().sum()) == pytest.approx(1, abs=1e-9)


def test_all_colours_of_two_channels_add_up_to_one() -> None:
    x = torch.cartesian_prod(LEVELS, LEVELS)[..., None, None]
    nll = observation(2).nll(Batch(x), output(2).expand(len(x), -1, 1, 1))
    assert float((-nll).exp().sum()) == pytest.approx(1, abs=1e-9)


def test_green_rises_with_red_if_its_coefficient_is_positive() -> None:
    model = observation(2)
    outputs = torch.zeros(1, *output_shape(model.spec), dtype=torch.float64)
    outputs[:, -K:] = 0.9
    outputs[:, 3 * K : 5 * K] = -1.5  # small scales
    x = torch.stack([torch.tensor([0.9, 0.9]), torch.tensor([0.9, 0.3])]).double()[..., None, None]
    alike, different = model.nll(Batch((x * 255).round() / 255), outputs.expand(2, -1, 1, 1))
    assert float(alike) < float(different) - 1


@pytest.mark.parametrize(("channels", "exactness"), [(1, 0.002), (3, 0.02)])
def test_samples_have_the_probabilities_and_the_mean_of_the_mixture(channels: int, exactness: float) -> None:
    model, outputs, other = observation(channels), output(channels, 1, 0.7, seed=3), output(channels, 1, 0.7, seed=4)
    torch.manual_seed(0)
    draws = model.sample_x(outputs.expand(100_000, -1, 1, 1))
    torch.testing.assert_close(draws * 255, (draws * 255).round(), atol=1e-9, rtol=0)
    assert draws.min() >= 0
    assert draws.max() <= 1
    error = 5 * draws.std(0) / len(draws) ** 0.5
    assert ((draws.mean(0) - model.mean(outputs)[0]).abs() < exactness + error).all()
    # over samples of p, the mean of q(x) / p(x) is 1 for any other distribution q
    near = 0.9 * outputs + 0.1 * other
    log_p, log_q = (-model.nll(Batch(draws), each.expand(len(draws), -1, 1, 1)) for each in (outputs, near))
    ratio = (log_q - log_p).exp()
    assert float((ratio.mean() - 1).abs()) < 5 * float(ratio.std()) / len(draws) ** 0.5
    assert float(ratio.std()) < 3


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [0.0, 1.0, 30.0, 1e4])
def test_the_mixture_and_its_gradients_are_finite_in_float32(channels: int, size: float) -> None:
    model = observation(channels).float()
    outputs = output(channels, 60, size).float().requires_grad_()
    x = torch.from_numpy(np.random.default_rng(1).integers(0, 256, (60, channels, 1, 1)) / 255).float()
    x[:20], x[20:40] = 0, 1
    nll = model.nll_each(Batch(x), outputs)
    assert nll.isfinite().all()
    assert torch.autograd.grad(nll.sum(), outputs)[0].isfinite().all()
    assert model.mean(outputs).isfinite().all()
    assert model.sample_x(outputs).isfinite().all()


def test_gradients_of_the_mixture_are_those_of_finite_differences() -> None:
    model = observation(3)
    x = torch.tensor([[0.0, 0.4, 1.0], [0.2, 1.0, 0.0]]).double()[..., None, None]
    x = (x * 255).round() / 255
    assert torch.autograd.gradcheck(lambda o: model.nll_each(Batch(x), o), output(3, 2).requires_grad_())


def test_each_pixel_of_an_image_has_its_own_mixture() -> None:
    model, alone = observation(3, 2, 3), observation(3)
    outputs = torch.randn(4, *output_shape(model.spec), dtype=torch.float64)
    x = (torch.rand(4, 3, 2, 3).double() * 255).round() / 255
    each = model.nll_each(Batch(x), outputs)
    one = alone.nll_each(Batch(x[..., 1:, 2:]), outputs[..., 1:, 2:])
    torch.testing.assert_close(each[..., 1:, 2:], one)


def test_the_mixture_is_for_images_alone() -> None:
    with pytest.raises(InputError, match="is for the pixels of images; expected logistic8"):
        Observation(DataSpec(name="table", shape=(3,), likelihood="mixture8"))


# --- the continuous Bernoulli

LOGITS = [-1000.0, -80.0, -3.0, -0.6, -0.49, -0.2, -1e-3, -1e-8, 0.0, 1e-5, 0.3, 0.51, 2.0, 40.0, 900.0]


@pytest.mark.parametrize("logit", LOGITS)
def test_the_continuous_bernoulli_is_a_density_with_the_mean_that_is_returned(logit: float) -> None:
    at = torch.tensor(logit, dtype=torch.float64)

    def p(x: float) -> float:
        return math.exp(-float(closed_forms.nll_continuous_bernoulli(torch.tensor(x, dtype=torch.float64), at)))

    points = [min(1, 10 / max(1, abs(logit)))] if logit < 0 else [1 - min(1, 10 / max(1, abs(logit)))]
    whole = integrate.quad(p, 0, 1, points=points, limit=200)[0]
    first = integrate.quad(lambda x: x * p(x), 0, 1, points=points, limit=200)[0]
    assert whole == pytest.approx(1, abs=1e-8)
    assert float(closed_forms.mean_continuous_bernoulli(at)) == pytest.approx(first, abs=1e-8)


def test_the_continuous_bernoulli_is_that_of_pytorch() -> None:
    logits = torch.linspace(-8, 8, 41, dtype=torch.float64)
    other = torch.distributions.ContinuousBernoulli(logits=logits)
    for x in (0.0, 0.3, 1.0):
        nll = closed_forms.nll_continuous_bernoulli(torch.tensor(x).double(), logits)
        torch.testing.assert_close(-nll, other.log_prob(torch.tensor(x).double()), atol=1e-8, rtol=0)


def test_samples_of_the_continuous_bernoulli_have_its_distribution() -> None:
    torch.manual_seed(0)
    for logit in (-20.0, -1e-7, 0.4, 6.0):
        draws = closed_forms.sample_continuous_bernoulli(torch.full((5000,), logit, dtype=torch.float64)).numpy()
        result = stats.kstest(draws, lambda x, a=logit: np.expm1(a * x) / np.expm1(a))
        assert result.pvalue > 1e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_slopes_of_the_continuous_bernoulli_are_mean_minus_value(dtype: torch.dtype) -> None:
    """That is an identity of exponential families. It holds where the series ends, too."""
    logits = torch.tensor(LOGITS, dtype=dtype).requires_grad_()
    slope = torch.autograd.grad(
        closed_forms.nll_continuous_bernoulli(torch.tensor(0.3, dtype=dtype), logits).sum(), logits
    )[0]
    expected = closed_forms.mean_continuous_bernoulli(logits.detach().double()) - 0.3
    torch.testing.assert_close(slope.double(), expected, atol=1e-5 if dtype == torch.float32 else 1e-8, rtol=0)


def test_the_density_of_the_continuous_bernoulli_is_limited() -> None:
    spec = DataSpec(name="floats", shape=(1, 1, 2), likelihood="continuous-bernoulli")
    model, x = Observation(spec), Batch(torch.tensor([0.0, 1.0]).view(1, 1, 1, 2))
    nll = model.nll_each(x, torch.tensor([-1e9, 1e9]).view(1, 1, 1, 2))
    torch.testing.assert_close(nll, torch.full_like(nll, -math.log(LARGEST_LOGIT)))
    assert spec.has_density
