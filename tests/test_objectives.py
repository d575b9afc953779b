"""The objectives of variants with the shared networks: tcvae, factor, dip, info and iwae.

Each is compared with a closed form, an explicit loop, or a toy whose values are known.
"""

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Normal

import variants
from variants import Batch, DataSpec, InputError, Terms, Variant
from variants.base import KLParts, closed_forms, kl_parts, permute_dims

IMAGE = DataSpec(name="image", shape=(1, 8, 8), likelihood="bernoulli", examples=1000)
STEP = torch.tensor(10.0)


def make(name: str, spec: DataSpec = IMAGE, **settings: object) -> Variant:
    torch.manual_seed(0)
    cls = variants.get(name)
    return cls(cls.config_type(**{"latent": 3, "width": 8, **settings}), spec)  # type: ignore[arg-type]


def images(n: int = 16) -> Batch:
    return Batch(torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(1)).round())


def scored(variant: Variant, batch: Batch) -> Terms:
    torch.manual_seed(3)
    return variant.terms(batch, STEP)


def loss_of(variant: Variant, batch: Batch) -> Tensor:
    loss = scored(variant, batch).losses["loss"]
    assert isinstance(loss, Tensor)
    return loss


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("tcvae", {"beta": 1.0}), ("factor", {"gamma": 0.0}), ("dip", {"lambda_od": 0.0, "lambda_d": 0.0}),
        ("info", {"alpha": 0.0, "lambda_mmd": 1.0}), ("iwae", {"samples": 1}),
    ],
)  # fmt: skip
def test_without_its_own_weights_an_objective_is_that_of_the_vae(name: str, settings: dict[str, float]) -> None:
    vae = make("vae")
    expected = loss_of(vae, images())
    if name == "iwae":  # whose bound has log q - log p of the sample instead of the KL in closed form
        torch.manual_seed(3)
        z, log_q = vae.sample_posterior(images()) or ()
        expected = (log_q - vae.log_joint(z, images())).mean()
    torch.testing.assert_close(loss_of(make(name, **settings), images()), expected)


@pytest.mark.parametrize("name", ["tcvae", "factor", "dip", "info"])
def test_warmup_and_free_bits_change_the_loss(name: str) -> None:
    losses = [loss_of(make(name, **s), images()) for s in ({}, {"warmup": 20}, {"free_bits": 1.0})]
    assert len({float(loss.detach()) for loss in losses}) == 3


# --- tcvae


def toy() -> tuple[Tensor, Tensor, Tensor]:
    """20,000 posteriors of 10 dimensions with a standard deviation of .15, and a sample of each."""
    generator = torch.Generator().manual_seed(0)
    mean = math.sqrt(1 - 0.15**2) * torch.randn(20_000, 10, generator=generator)
    return (
        mean + 0.15 * torch.randn(20_000, 10, generator=generator), mean, torch.full_like(mean, 2 * math.log(0.15))
    )  # fmt: skip


def means(parts: KLParts) -> tuple[float, float, float]:
    return (
        float(parts.mutual_information.mean()), float(parts.total_correlation.mean()), float(parts.dimension_kl.mean())
    )  # fmt: skip


def test_the_parts_of_a_kl_on_a_toy_with_known_values() -> None:
    """The exact values are 9.90 and 9.07; a batch of 64 has the known bias of 1.2 in the total correlation."""
    z, mean, log_var = toy()
    mutual_information, total_correlation, _ = means(kl_parts(z, mean, log_var, examples=20_000, batch=64))
    assert mutual_information == pytest.approx(9.90, abs=0.02)
    assert total_correlation == pytest.approx(10.22, abs=0.12)
    some = z[:300]
    each = closed_forms.log_normal(some[:, None], mean, log_var)
    log_q = each.sum(2).logsumexp(1) - math.log(20_000)
    log_q_dimensions = (each.logsumexp(1) - math.log(20_000)).sum(1)
    log_q_x = closed_forms.log_normal(some, mean[:300], log_var[:300]).sum(1)
    assert float((log_q_x - log_q).mean()) == pytest.approx(9.90, abs=0.02)
    assert float((log_q - log_q_dimensions).mean()) == pytest.approx(9.07, abs=0.15)


def test_the_three_parts_add_up_to_the_kl() -> None:
    generator = torch.Generator().manual_seed(1)
    mean, log_var = torch.randn(2, 4000, 3, generator=generator)
    z = mean + (0.5 * log_var).exp() * torch.randn(4000, 3, generator=generator)
    parts = kl_parts(z, mean, log_var, examples=9000, batch=100)
    total = parts.mutual_information + parts.total_correlation + parts.dimension_kl
    sampled = (closed_forms.log_normal(z, mean, log_var) - closed_forms.log_standard_normal(z)).sum(1)
    torch.testing.assert_close(total, sampled, atol=1e-4, rtol=1e-4)
    exact = closed_forms.kl_standard_normal(mean, log_var).sum(1)
    assert float((total - exact).mean().abs()) < 5 * float((total - exact).std()) / 4000**0.5


def test_the_estimate_of_the_aggregated_posterior_is_unbiased() -> None:
    """Over all batches of 3 of 6 examples that contain the first one, it is the mean of all 6 posteriors."""
    generator = torch.Generator().manual_seed(2)
    mean, log_var = torch.randn(2, 6, 2, dtype=torch.float64, generator=generator)
    z = mean + (0.5 * log_var).exp() * torch.randn(6, 2, dtype=torch.float64, generator=generator)
    estimates, of_dimensions = [], []
    for others in itertools.combinations(range(1, 6), 2):
        rows = torch.tensor([0, *others])
        parts = kl_parts(z[rows], mean[rows], log_var[rows], examples=6, batch=3)
        log_q_x = closed_forms.log_normal(z[0], mean[0], log_var[0]).sum()
        estimates.append((log_q_x - parts.mutual_information[0]).exp())
        one = kl_parts(z[rows, :1], mean[rows, :1], log_var[rows, :1], examples=6, batch=3)
        of_dimensions.append((one.dimension_kl[0] + closed_forms.log_standard_normal(z[0, 0])).exp())
    densities = closed_forms.log_normal(z[0], mean, log_var)
    torch.testing.assert_close(torch.stack(estimates).mean(), densities.sum(1).exp().mean())
    torch.testing.assert_close(torch.stack(of_dimensions).mean(), densities[:, 0].exp().mean())


def test_larger_batches_are_decomposed_in_groups_of_the_size_of_a_training_batch() -> None:
    z, mean, log_var = (values[:7] for values in toy())
    whole = kl_parts(z, mean, log_var, examples=50, batch=4)
    groups = [kl_parts(z[g], mean[g], log_var[g], examples=50, batch=4) for g in (slice(0, 4), slice(4, 7))]
    for name, values in vars(whole).items():
        torch.testing.assert_close(values, torch.cat([getattr(group, name) for group in groups]))
    single = kl_parts(z[:1], mean[:1], log_var[:1], examples=50, batch=4)
    assert float(single.mutual_information) == pytest.approx(math.log(50), rel=1e-5)


def test_without_a_number_of_examples_the_batch_is_the_data_set() -> None:
    z, mean, log_var = (values[:40] for values in toy())
    assert means(kl_parts(z, mean, log_var, examples=0, batch=40)) == pytest.approx(
        means(kl_parts(z, mean, log_var, examples=40, batch=40))
    )


@pytest.mark.parametrize(
    ("weight", "part"),
    [("alpha", "mutual_information"), ("beta", "total_correlation"), ("gamma", "dimension_kl")],
)
def test_each_weight_of_a_tcvae_belongs_to_one_part(weight: str, part: str) -> None:
    extras = scored(make("tcvae"), images()).extras
    base = {"alpha": 1.0, "beta": 1.0, "gamma": 1.0}
    difference = loss_of(make("tcvae", **{**base, weight: 3.0}), images()) - loss_of(make("tcvae", **base), images())
    torch.testing.assert_close(difference, 2 * extras[part].mean(), atol=1e-4, rtol=1e-4)


# --- factor


def test_columns_are_permuted_over_the_batch_independently() -> None:
    torch.manual_seed(0)
    z = torch.randn(2000, 1).expand(2000, 3) + torch.tensor([0.0, 10.0, 20.0])
    permuted = permute_dims(z)
    assert torch.equal(permuted.sort(0).values, z.sort(0).values)
    assert float(torch.corrcoef(permuted.T).triu(1).abs().max()) < 5 / 2000**0.5
    assert not torch.equal(permuted, permute_dims(z))


def test_the_gradient_of_each_loss_reaches_only_the_weights_of_its_own_optimizer() -> None:
    variant = make("factor")
    terms = variant.terms(images(), STEP)
    discriminator = {id(p) for p in variant.discriminator.parameters()}  # type: ignore[union-attr]
    for name, reached in (("discriminator", True), ("loss", False)):
        variant.zero_grad()
        loss = terms.losses[name]
        (loss if isinstance(loss, Tensor) else loss()).backward()  # type: ignore[no-untyped-call]
        assert all((p.grad is not None) == ((id(p) in discriminator) == reached) for p in variant.parameters())


def test_the_discriminator_measures_the_total_correlation_of_a_gaussian() -> None:
    """Codes of 4 dimensions with correlations of .7, whose total correlation is -1/2 log det = 1.24 nats."""
    variant = make("factor", latent=4, adversary_width=64, adversary_depth=2, adversary_lr=3e-3)
    correlation = 0.7 + 0.3 * torch.eye(4)
    factor = torch.linalg.cholesky(correlation)
    variant.posterior = lambda batch: (batch.x @ factor.T, torch.full_like(batch.x, -60.0))  # type: ignore[method-assign,assignment]
    variant.nll = lambda batch, z: torch.zeros(len(z))  # type: ignore[method-assign,assignment]
    optimizer = variant.optimizers()["discriminator"]
    for step in range(1000):
        if step == 700:
            optimizer.param_groups[0]["lr"] *= 0.1
        loss = variant.terms(Batch(torch.randn(512, 4)), STEP).losses["discriminator"]
        optimizer.zero_grad()
        loss().backward()  # type: ignore[operator]
        optimizer.step()
    with torch.no_grad():
        estimate = variant.terms(Batch(torch.randn(20_000, 4)), STEP).extras["total_correlation"].mean()
    assert float(estimate) == pytest.approx(-0.5 * float(torch.logdet(correlation)), rel=0.1)


def test_the_weight_of_a_factor_vae_belongs_to_the_estimate() -> None:
    estimate = scored(make("factor"), images()).extras["total_correlation"].mean()
    difference = loss_of(make("factor", gamma=5.0), images()) - loss_of(make("factor", gamma=2.0), images())
    torch.testing.assert_close(difference, 3 * estimate, atol=1e-4, rtol=1e-4)


# --- dip


@pytest.mark.parametrize("kind", ["I", "II"])
def test_the_penalties_on_the_covariance_are_those_of_numpy(kind: str) -> None:
    variant, batch = make("dip", type=kind, lambda_od=3.0, lambda_d=7.0), images()
    mean, log_var = (values.detach().double().numpy() for values in variant.posterior(batch))  # type: ignore[operator]
    covariance = np.cov(mean, rowvar=False, bias=True)
    if kind == "II":
        covariance += np.diag(np.exp(log_var).mean(0))
    off_diagonal = np.square(covariance[~np.eye(3, dtype=bool)]).sum()
    diagonal = np.square(np.diag(covariance) - 1).sum()
    difference = loss_of(variant, batch) - loss_of(make("vae"), batch)
    assert float(difference.detach()) == pytest.approx(3 * off_diagonal + 7 * diagonal, rel=1e-4)
    extras = variant.terms(batch, STEP).extras
    assert float(extras["off_diagonal"][0].detach()) == pytest.approx(off_diagonal, rel=1e-4)
    assert float(extras["diagonal"][0].detach()) == pytest.approx(diagonal, rel=1e-4)


# --- info


def test_the_weights_of_the_kl_and_of_the_mmd() -> None:
    terms = scored(make("info"), images())
    assert terms.kl is not None
    for alpha, lambda_mmd in ((0.0, 5.0), (0.7, 2.0), (1.0, 40.0)):
        loss = loss_of(make("info", alpha=alpha, lambda_mmd=lambda_mmd), images())
        expected = terms.reconstruction.mean() + (1 - alpha) * terms.kl.mean()
        torch.testing.assert_close(loss, expected + (alpha + lambda_mmd - 1) * terms.extras["mmd"][0])


def test_the_mmd_is_zero_on_average_if_the_codes_have_the_distribution_of_the_prior_and_positive_otherwise() -> None:
    variant, batch = make("info"), images(30)
    for p in variant.encoder.parameters():  # type: ignore[union-attr]
        torch.nn.init.zeros_(p)
    with torch.no_grad():
        draws = torch.stack([variant.terms(batch, STEP).extras["mmd"][0] for _ in range(1000)])
        assert float(draws.mean().abs()) < 5 * float(draws.std()) / 1000**0.5
        variant.encoder.head[-1].bias[:3] = 2.0  # type: ignore[union-attr,index]
        assert float(variant.terms(batch, STEP).extras["mmd"][0]) > 0.1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"alpha": 0.25, "lambda_mmd": 0.5}, r"lambda_mmd=0\.5: .*would be negative; expected 0\.75 or more"),
        ({"alpha": 1.0, "warmup": 10}, "alpha=1: the objective has no KL term; expected warmup=0 and free_bits=0"),
        ({"alpha": 1.0, "free_bits": 0.1}, "alpha=1: the objective has no KL term"),
    ],
)
def test_settings_of_info_without_effect_or_sense_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make("info", **settings)


# --- iwae


def test_the_loss_is_the_importance_weighted_bound_of_an_explicit_loop() -> None:
    """One example and one sample at a time, with missing values."""
    spec = DataSpec(name="holes", shape=(4,), likelihood="gaussian", missing=True)
    variant = make("iwae", spec, latent=2, samples=5)
    observed = torch.rand(3, 4) > 0.4
    batch = Batch(torch.randn(3, 4) * observed, observed=observed)
    torch.manual_seed(1)
    terms = variant.terms(batch, STEP)
    torch.manual_seed(1)
    noise = torch.randn(15, 2).view(3, 5, 2)
    mean, log_var = variant.posterior(batch)  # type: ignore[operator]
    bounds, reconstructions = [], []
    for n in range(3):
        ratios, nlls = [], []
        for k in range(5):
            z = mean[n] + (0.5 * log_var[n]).exp() * noise[n, k]
            prior, q = Normal(0.0, 1.0).log_prob(z).sum(), Normal(mean[n], (0.5 * log_var[n]).exp()).log_prob(z).sum()
            p = Normal(variant.decoder(z[None])[0], 1.0).log_prob(batch.x[n])[observed[n]].sum()  # type: ignore[operator]
            ratios.append((prior + p - q).exp())
            nlls.append(-p)
        bounds.append(torch.stack(ratios).mean().log())
        reconstructions.append(torch.stack(nlls).mean())
    torch.testing.assert_close(terms.extras["bound"], torch.stack(bounds))
    torch.testing.assert_close(terms.losses["loss"], -torch.stack(bounds).mean())
    torch.testing.assert_close(terms.reconstruction, torch.stack(reconstructions))


def test_the_bound_rises_with_the_number_of_samples_and_the_elbo_stays() -> None:
    bounds, elbos = [], []
    batch = images(8)
    many = batch[torch.arange(8).repeat_interleave(300)]
    for samples in (1, 2, 5, 20):
        with torch.no_grad():
            torch.manual_seed(1)
            variant = make("iwae", samples=samples)
            for p in variant.encoder.parameters():  # type: ignore[union-attr]
                p.mul_(3)  # so that q is far from the posterior, and the bound loose
            terms = variant.terms(many, STEP)
        assert terms.elbo is not None
        bounds.append(terms.extras["bound"])
        elbos.append(terms.elbo)
    difference = bounds[0] - elbos[0]
    assert float(difference.mean().abs()) < 5 * float(difference.std()) / len(many) ** 0.5
    for fewer, more in itertools.pairwise(bounds):
        assert float((more - fewer).mean()) > 5 * float((more - fewer).std()) / len(many) ** 0.5
    for elbo in elbos[1:]:
        assert float((elbo - elbos[0]).mean().abs()) < 5 * float((elbo - elbos[0]).std()) / len(many) ** 0.5


class Fixed(torch.nn.Module):
    """An encoder whose output for each example is a weight of its own, so that each example has its own gradient."""

    def __init__(self, output: Tensor) -> None:
        super().__init__()
        self.output = torch.nn.Parameter(output)

    def forward(self, batch: Batch) -> Tensor:
        return self.output


class LinearDecoder(torch.nn.Linear):
    def forward(self, z: Tensor, batch: Batch | None = None) -> Tensor:
        return super().forward(z)


def linear_gaussian(gradient: str, posterior: Tensor, copies: int) -> tuple[Variant, Batch]:
    """Return x = (1.5, -0.8) z + e with one example (1, 0.5), `copies` times; q has these mean and log-variance."""
    spec = DataSpec(name="line", shape=(2,), likelihood="gaussian")
    variant = make("iwae", spec, latent=1, samples=4, gradient=gradient).double()
    variant.encoder = Fixed(posterior.double().repeat(copies, 1))
    variant.decoder = LinearDecoder(1, 2, dtype=torch.float64)
    with torch.no_grad():
        variant.decoder.weight.copy_(torch.tensor([[1.5], [-0.8]]))
        variant.decoder.bias.zero_()
    return variant, Batch(torch.tensor([[1.0, 0.5]], dtype=torch.float64).repeat(copies, 1))


def gradients(gradient: str, posterior: Tensor, copies: int = 100_000) -> tuple[Tensor, Tensor]:
    """Return the gradients of the bound for mean and log-variance, (copies, 2), and the mean one for the decoder."""
    variant, batch = linear_gaussian(gradient, posterior, copies)
    torch.manual_seed(5)
    variant.terms(batch, STEP).extras["bound"].sum().backward()  # type: ignore[no-untyped-call]
    return variant.encoder.output.grad, variant.decoder.weight.grad / copies  # type: ignore[union-attr,return-value,operator]


def test_the_doubly_reparameterised_gradient_has_the_same_mean_and_less_variance() -> None:
    posterior = torch.tensor([[-0.5, 0.2]])  # the exact one is (0.28, -1.36)
    (standard, decoder), (doubly, same_decoder) = gradients("standard", posterior), gradients("dreg", posterior)
    torch.testing.assert_close(decoder, same_decoder)
    slopes = []
    for moved in (torch.tensor([[1e-3, 0.0]]), torch.tensor([[0.0, 1e-3]])):
        values = []
        for sign in (1, -1):
            variant, batch = linear_gaussian("dreg", posterior + sign * moved, 400_000)
            torch.manual_seed(6)
            with torch.no_grad():
                values.append(variant.terms(batch, STEP).extras["bound"].mean())
        slopes.append((values[0] - values[1]) / 2e-3)
    for estimate in (standard, doubly):
        error = 5 * (estimate.var(0) / 100_000 + standard.var(0) / 400_000).sqrt()
        assert ((estimate.mean(0) - torch.stack(slopes)).abs() < error).all()
    assert (doubly.var(0) < 0.5 * standard.var(0)).all()


def test_with_the_exact_posterior_the_doubly_reparameterised_gradient_is_zero() -> None:
    """Then all weights are equal, and do not depend on z. The standard gradient is zero only on average."""
    w = torch.tensor([1.5, -0.8], dtype=torch.float64)
    precision = 1 + w @ w
    exact = torch.stack([w @ torch.tensor([1.0, 0.5], dtype=torch.float64) / precision, -precision.log()])[None]
    doubly, standard = gradients("dreg", exact, 50)[0], gradients("standard", exact, 50)[0]
    assert float(doubly.abs().max()) < 1e-7
    assert float(standard.abs().max()) > 0.1


@pytest.mark.parametrize("setting", [{"warmup": 10}, {"free_bits": 0.1}])
def test_the_importance_weighted_bound_has_no_kl_to_weigh(setting: dict[str, float]) -> None:
    with pytest.raises(InputError, match="the importance-weighted bound has no KL term; expected warmup=0"):
        make("iwae", **setting)


@pytest.mark.parametrize(("samples", "name"), [(1, "vae"), (20, "iwae")])
def test_a_vae_that_was_saved_with_a_number_of_samples_loads(samples: int, name: str, tmp_path: Path) -> None:
    """`samples` was a setting of `vae` before `iwae` was a variant."""
    saved = make("vae")
    about = variants.save(saved, tmp_path) / "config.json"
    facts = json.loads(about.read_text())
    facts["config"]["samples"] = samples
    about.write_text(json.dumps(facts))
    loaded = variants.load(tmp_path)
    assert variants.name_of(loaded) == name
    assert getattr(loaded.config, "samples", 1) == samples
    assert torch.equal(loaded.encode(images()), saved.encode(images()))
