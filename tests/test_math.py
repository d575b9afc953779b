"""Identities: closed forms against Monte Carlo, exact sums, finite differences and models with a known likelihood."""

import dataclasses
import math

import pytest
import torch
from test_likelihood import LinearDecoder, LinearEncoder
from torch import Tensor
from torch.distributions import Bernoulli, Independent, Normal, kl_divergence

import variants
from pipeline.evaluate import latents
from variants import Batch, DataSpec
from variants.base import Group, closed_forms, mmd
from variants.beta import BetaConfig
from variants.vae import VAE

torch.manual_seed(0)
MIXED = (
    Group(likelihood="gaussian", size=1), Group(likelihood="student-t", size=1),
    Group(likelihood="log-normal", size=1, spread=(0.5,)), Group(likelihood="gamma", size=1, spread=(2.0,)),
    Group(likelihood="poisson", size=1, offset=(0.5,)), Group(likelihood="negative-binomial", size=1),
    Group(likelihood="zero-inflated", size=1), Group(likelihood="bernoulli", size=1),
    Group(likelihood="categorical", size=2),
)  # fmt: skip
IMAGE = DataSpec(name="image", shape=(1, 28, 28), likelihood="bernoulli")
STEP = torch.tensor(10.0)


def test_kl_in_closed_form_is_that_of_torch_and_of_monte_carlo() -> None:
    mean, log_var = torch.randn(5, dtype=torch.float64), torch.randn(5, dtype=torch.float64)
    kl = closed_forms.kl_standard_normal(mean, log_var)
    q, p = Normal(mean, (0.5 * log_var).exp()), Normal(torch.zeros_like(mean), torch.ones_like(mean))
    torch.testing.assert_close(kl, kl_divergence(q, p))
    z = q.sample((200_000,))
    draws = q.log_prob(z) - p.log_prob(z)
    assert ((draws.mean(0) - kl).abs() < 5 * draws.std(0) / 200_000**0.5).all()


def test_kl_of_equal_gaussians_is_zero() -> None:
    assert torch.equal(closed_forms.kl_standard_normal(torch.zeros(3), torch.zeros(3)), torch.zeros(3))


def test_densities_are_those_of_torch() -> None:
    x, mean, log_var = torch.randn(3, 50, dtype=torch.float64).unbind()
    torch.testing.assert_close(
        closed_forms.log_normal(x, mean, log_var), Normal(mean, (0.5 * log_var).exp()).log_prob(x)
    )
    torch.testing.assert_close(closed_forms.log_standard_normal(x), Normal(0.0, 1.0).log_prob(x))
    bits = (x > 0).double()
    torch.testing.assert_close(-closed_forms.nll_bernoulli(bits, mean), Bernoulli(logits=mean).log_prob(bits))


@pytest.mark.parametrize("log_scale", [-6.0, -3.0, 0.0])
def test_256_probabilities_add_up_to_one(log_scale: float) -> None:
    x = torch.arange(256, dtype=torch.float64) / 255
    scale = torch.tensor(log_scale, dtype=torch.float64)
    for mean in (0.0, 0.3, 0.999):
        total = (-closed_forms.nll_logistic8(x, torch.tensor(mean, dtype=torch.float64), scale)).exp().sum()
        assert float(total) == pytest.approx(1, abs=1e-9)


def test_the_discretised_logistic_is_a_difference_of_sigmoids() -> None:
    x, mean, scale = torch.tensor(100 / 255).double(), torch.tensor(0.37).double(), 0.05
    upper, lower = (torch.sigmoid((x - mean + s * 0.5 / 255) / scale) for s in (1, -1))
    log_p = -closed_forms.nll_logistic8(x, mean, torch.tensor(math.log(scale), dtype=torch.float64))
    torch.testing.assert_close(log_p, (upper - lower).log())


def test_padding_counts_nothing() -> None:
    values = torch.tensor([[[1.0, 2.0], [math.nan, math.inf]], [[3.0, 4.0], [5.0, 6.0]]])
    mask = torch.tensor([[True, False], [True, True]])
    assert closed_forms.per_example(values, mask).tolist() == [3.0, 18.0]


def test_ramp() -> None:
    assert [float(closed_forms.ramp(torch.tensor(s), 10)) for s in (0.0, 5.0, 10.0, 99.0)] == [0.0, 0.5, 1.0, 1.0]
    assert closed_forms.ramp(torch.tensor(3.0), 0) == 1.0


def test_free_bits_count_the_mean_of_a_dimension_up_to_the_floor() -> None:
    kl = torch.tensor([[0.0, 2.0], [0.2, 4.0]])
    assert float(closed_forms.free_bits(kl, 0.5)) == pytest.approx(0.5 + 3.0)
    assert float(closed_forms.free_bits(kl, 0.0)) == pytest.approx(0.1 + 3.0)


def test_mmd_of_losses_is_that_of_evaluation_and_has_the_right_gradient() -> None:
    generator = torch.Generator().manual_seed(6)
    x, y = (torch.randn(n, 3, dtype=torch.float64, generator=generator) for n in (40, 50))
    x = (1.5 * x + 0.3).requires_grad_()
    expected = latents.mmd(x.detach().numpy(), y.numpy())
    assert float(mmd(x, y).detach()) == pytest.approx(expected, rel=1e-9)
    assert float(mmd(x.detach().float(), y.float())) == pytest.approx(expected, abs=1e-6)
    assert float(mmd(x, y.float()).detach()) == pytest.approx(expected, abs=1e-6)
    assert torch.autograd.gradcheck(lambda part: mmd(part, y), x)
    single = torch.randn(1, 3, requires_grad=True)
    (slope,) = torch.autograd.grad(mmd(single, torch.randn(1, 3)), single)
    assert slope.isfinite().all()


def test_the_bound_has_the_sample_that_its_reconstruction_belongs_to() -> None:
    variant, batch = VAE(VAE.config_type(latent=3, width=8), IMAGE), Batch(torch.rand(4, 1, 28, 28).round())
    bound = variant.bound(batch)
    torch.testing.assert_close(variant.nll(batch, bound.z), bound.reconstruction)
    torch.testing.assert_close(closed_forms.kl_standard_normal(bound.mean, bound.log_var), bound.kl)
    assert bound.z.requires_grad


def test_a_decoder_of_zeros_loses_784_ln_2() -> None:
    variant = VAE(VAE.config_type(latent=3, width=8), IMAGE)
    for p in variant.decoder.parameters():
        torch.nn.init.zeros_(p)
    terms = variant.terms(Batch((torch.rand(4, 1, 28, 28) > 0.5).float()), STEP)
    torch.testing.assert_close(terms.reconstruction, torch.full((4,), 784 * math.log(2)))


def test_beta_of_one_minimises_the_negative_elbo_and_is_the_vae() -> None:
    batch = Batch((torch.rand(16, 1, 28, 28) > 0.5).float())
    losses = []
    for cls, config in ((VAE, VAE.config_type()), (variants.get("beta"), BetaConfig(beta=1.0))):
        torch.manual_seed(3)
        terms = cls(config, IMAGE).terms(batch, STEP)
        assert terms.elbo is not None
        torch.testing.assert_close(terms.losses["loss"], -terms.elbo.mean())
        losses.append(terms.losses["loss"])
    assert torch.equal(losses[0], losses[1])


@pytest.mark.parametrize("beta", [0.25, 4.0])
def test_beta_weighs_the_kl_alone(beta: float) -> None:
    terms = variants.get("beta")(BetaConfig(beta=beta), IMAGE).terms(Batch(torch.rand(8, 1, 28, 28).round()), STEP)
    assert terms.kl is not None
    torch.testing.assert_close(terms.losses["loss"], terms.reconstruction.mean() + beta * terms.kl.mean())


def test_capacity_penalises_the_distance_of_the_kl_from_a_rising_target() -> None:
    config = BetaConfig(objective="capacity", capacity=20.0, capacity_steps=100, gamma=7.0)
    terms = variants.get("beta")(config, IMAGE).terms(Batch(torch.rand(8, 1, 28, 28).round()), torch.tensor(25.0))
    assert terms.kl is not None
    expected = terms.reconstruction.mean() + 7.0 * (terms.kl.mean() - 5.0).abs()
    torch.testing.assert_close(terms.losses["loss"], expected)


def linear_gaussian() -> tuple[VAE, Batch, Tensor]:
    """A linear VAE whose posterior is exact, so that its ELBO is log p(x): x = w z + b + s e, z and e ~ N(0, 1).

    Returns the model, data, and log N(x; b, w w' + s^2) from a multivariate normal (Lucas et al. 2019).
    """
    w, b, s = torch.tensor([1.5, -0.5, 2.0]), torch.tensor([0.1, 0.2, -0.3]), 0.7
    variant = VAE(
        VAE.config_type(latent=1, width=1, depth=64), DataSpec(name="line", shape=(3,), likelihood="gaussian")
    )
    variant.encoder, variant.decoder = LinearEncoder(3, 2), LinearDecoder(1, 3)  # type: ignore[assignment]
    precision = 1 + (w @ w) / s**2
    with torch.no_grad():
        variant.decoder.weight.copy_(w[:, None])
        variant.decoder.bias.copy_(b)
        variant.observation.families[0].log_scale.fill_(math.log(s))
        variant.encoder.weight.copy_(torch.stack([w / s**2 / precision, torch.zeros(3)]))
        variant.encoder.bias.copy_(torch.stack([-(w @ b) / s**2 / precision, -precision.log()]))
    x = torch.randn(5, 1) * w + b + s * torch.randn(5, 3)
    exact = torch.distributions.MultivariateNormal(b, w[:, None] * w + s**2 * torch.eye(3)).log_prob(x)
    return variant, Batch(x), exact


def test_with_the_exact_posterior_every_draw_gives_the_exact_likelihood() -> None:
    variant, batch, exact = linear_gaussian()
    with torch.no_grad():
        for _ in range(3):
            z, log_q = variant.sample_posterior(batch)
            torch.testing.assert_close(variant.log_joint(z, batch) - log_q, exact, atol=1e-4, rtol=1e-5)


def test_with_the_exact_posterior_the_elbo_is_the_likelihood_on_average() -> None:
    variant, batch, exact = linear_gaussian()
    with torch.no_grad():
        draws = torch.stack([e for _ in range(2000) if (e := variant.terms(batch, STEP).elbo) is not None])
    assert ((draws.mean(0) - exact).abs() < 5 * draws.std(0) / 2000**0.5).all()


@pytest.mark.parametrize("name", [n for n in variants.names() if not variants.get(n).discrete])
@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian", "logistic8", "mixed"])
def test_gradients_are_those_of_finite_differences(name: str, likelihood: str) -> None:
    """In float64, along a random direction in the space of all weights. A mixed table has missing values.

    The straight-through estimator of a discrete z is not the derivative of the loss.
    """
    torch.manual_seed(4)
    cls = variants.get(name)
    x, y = torch.rand(4, 1, 3, 3).round().double(), torch.tensor([0, 1, 0, 1])
    spec, batch = DataSpec(name="few", shape=(1, 3, 3), likelihood=likelihood, classes=2), Batch(x, y)  # type: ignore[arg-type]
    if "mask" in cls.required_fields:
        spec, batch = DataSpec(name="few", shape=(3,), likelihood=likelihood, classes=2, steps=3), Batch(x[:, 0], y)  # type: ignore[arg-type]
    if likelihood == "mixed":
        spec = dataclasses.replace(spec, shape=(10,), groups=MIXED, missing=True)
        x = torch.cat([torch.rand(12, 8).double() + 0.5, torch.eye(2)[[0, 1] * 6]], 1)
        x[:, 4:7] = x[:, 4:7].mul(3).floor()
        x, observed = x.view(4, 3, 10), torch.rand(4, 3, 10) > 0.3
        batch = Batch(x, y, observed=observed) if spec.steps else Batch(x[:, 0], y, observed=observed[:, 0])
    variant = cls(cls.config_type(latent=2, width=4), spec).double()

    def losses() -> dict[str, Tensor]:
        torch.manual_seed(5)
        return {
            k: loss if isinstance(loss, Tensor) else loss() for k, loss in variant.terms(batch, STEP).losses.items()
        }

    for player, optimizer in variant.optimizers().items():
        weights = [p for g in optimizer.param_groups for p in g["params"]]
        direction = [torch.randn_like(p) for p in weights]
        gradients = torch.autograd.grad(losses()[player], weights)
        slope = sum(float((g * d).sum()) for g, d in zip(gradients, direction, strict=True))

        def moved(
            h: float, weights: list[Tensor] = weights, direction: list[Tensor] = direction, player: str = player
        ) -> float:
            with torch.no_grad():
                for p, d in zip(weights, direction, strict=True):
                    p.add_(d, alpha=h)
                value = float(losses()[player])
                for p, d in zip(weights, direction, strict=True):
                    p.sub_(d, alpha=h)
            return value

        assert (moved(1e-6) - moved(-1e-6)) / 2e-6 == pytest.approx(slope, rel=1e-5)


def test_the_joint_is_prior_times_likelihood() -> None:
    variant = VAE(VAE.config_type(latent=3, width=8), IMAGE)
    z, batch = torch.randn(4, 3), Batch(torch.rand(4, 1, 28, 28).round())
    prior = Independent(Normal(torch.zeros(3), torch.ones(3)), 1).log_prob(z)
    likelihood = Independent(Bernoulli(variant.decode(z)), 3).log_prob(batch.x)
    torch.testing.assert_close(variant.log_joint(z, batch), prior + likelihood)
