"""Learned priors, flows and discrete codes, against closed forms, numerical integrals and samples."""

import math
from typing import Any

import pytest
import torch
from torch.autograd.functional import jacobian

import variants
from pipeline import data, trainer
from pipeline.evaluate import ais
from pipeline.metrics import Undefined
from variants import Batch, DataSpec, InputError
from variants.base import flows
from variants.base.contract import Group
from variants.vq import DEAD, VQ, CodePrior

TABLE = DataSpec(name="table", shape=(3,), likelihood="gaussian")
IMAGES = DataSpec(name="images", shape=(1, 16, 16), likelihood="bernoulli")
STEP = torch.tensor(0.0)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def make(name: str, spec: DataSpec = TABLE, **settings: Any) -> Any:
    torch.manual_seed(0)
    return variants.build(name, variants.get(name).config_type(**{"width": 8, **settings}), spec).eval()


def rows(n: int = 5) -> Batch:
    return Batch(torch.randn(n, 3, generator=torch.Generator().manual_seed(1)))


def stirred(module: torch.nn.Module, scale: float = 0.5) -> torch.nn.Module:
    """The same module with noise in its weights, so that flows are far from linear, and networks from constant."""
    torch.manual_seed(2)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(scale * torch.randn_like(parameter))
    return module


@pytest.mark.parametrize("size", [1, 2, 5])
@pytest.mark.parametrize("width", [3, 16])
def test_an_autoregressive_step_has_the_determinant_that_it_returns(size: int, width: int) -> None:
    step = stirred(flows.Autoregressive(size, width, context=2)).double()
    z, context = torch.randn(1, size, dtype=torch.float64), torch.randn(1, 2, dtype=torch.float64)
    slopes = jacobian(lambda z: step(z, context)[0][0], z)[:, 0]
    torch.testing.assert_close(step(z, context)[1][0], torch.linalg.slogdet(slopes)[1])
    slopes = slopes.flip(0)  # before the order of the dimensions was reversed
    assert torch.equal(slopes.triu(1), torch.zeros_like(slopes))
    assert (slopes.diagonal() > 0).all()
    if width >= size:
        assert (slopes[torch.ones_like(slopes).tril(-1) > 0] != 0).any() == (size > 1)
    of_context = jacobian(lambda c: step(z, c)[0][0], context)[:, 0]
    assert (of_context != 0).any()


@pytest.mark.parametrize("size", [2, 5])
def test_a_coupling_has_an_inverse_and_the_determinant_that_it_returns(size: int) -> None:
    step = stirred(flows.Coupling(size, 6)).double()
    z = torch.randn(4, size, dtype=torch.float64)
    there, log_determinant = step(z)
    back, again = step.inverse(there)
    torch.testing.assert_close(back, z)
    torch.testing.assert_close(again, log_determinant)
    slopes = jacobian(lambda z: step(z)[0][0], z[:1])[:, 0]
    torch.testing.assert_close(log_determinant[0], torch.linalg.slogdet(slopes)[1])
    assert not torch.allclose(there[:, -(size // 2) :], z[:, -(size // 2) :])
    assert torch.equal(there[:, -(size // 2) :], z[:, : size // 2])


def test_the_density_of_a_flow_posterior_integrates_to_one() -> None:
    """E_q [r(z) / q(z|x)] is the integral of the density r, which is 1, only if log q has the right determinant."""
    variant = make("flow", latent=2, steps=3, flow_width=16)
    stirred(variant.posterior_flow, 0.2)
    n = 40_000
    with torch.no_grad():
        z, log_q = variant.sample_posterior(rows(1), n)
        centre, spread = z.mean(0), 0.4 * z.std(0)
        log_r = torch.distributions.Normal(centre, spread).log_prob(z).sum(1)
        ratio = (log_r - log_q).exp()
    assert abs(float(ratio.mean()) - 1) < 5 * float(ratio.std()) / n**0.5 < 0.1


def test_a_flow_posterior_without_steps_is_gaussian_and_its_kl_is_unbiased() -> None:
    variant = make("flow", latent=2, steps=0)
    with torch.no_grad():
        mean, log_var, _ = variant.encoder(rows(1)).split(variant.sizes, 1)
        exact = 0.5 * (mean.square() + log_var.exp() - 1 - log_var).sum()
        kl = variant.terms(rows(1)[torch.zeros(20_000, dtype=torch.int64)], STEP).kl
    assert abs(float(kl.mean() - exact)) < 5 * float(kl.std()) / 20_000**0.5


def test_a_flow_prior_has_the_density_of_its_samples() -> None:
    variant = make("flow", latent=3, steps=1, prior_steps=3).double()
    stirred(variant.prior_flow)
    noise = torch.randn(2, 3, dtype=torch.float64)
    z = variant.prior_from_noise(noise)
    log_p = variant.log_prior(z, rows(2))
    for i in range(2):
        slopes = jacobian(lambda e: variant.prior_from_noise(e)[0], noise[i : i + 1])[:, 0]
        expected = torch.distributions.Normal(0.0, 1.0).log_prob(noise[i]).sum() - torch.linalg.slogdet(slopes)[1]
        torch.testing.assert_close(log_p[i], expected)
    with pytest.raises(InputError, match="latent=1"):
        make("flow", latent=1, prior_steps=1)


def test_free_bits_of_a_flow_and_of_a_vamp_prior_are_a_floor_of_the_whole_kl() -> None:
    for name in ("flow", "vamp"):
        for floor in (0.0, 50.0):
            variant = make(name, latent=2, free_bits=floor)
            torch.manual_seed(0)
            terms = variant.terms(rows(), STEP)
            expected = terms.reconstruction.mean() + max(float(terms.kl.detach().mean()), 2 * floor)
            torch.testing.assert_close(terms.losses["loss"], expected.detach(), check_device=False)


def test_the_density_of_a_vamp_prior_integrates_to_one_and_is_that_of_its_samples() -> None:
    variant = make("vamp", latent=1, pseudo_inputs=4)
    stirred(variant.encoder)
    z = torch.linspace(-30, 30, 20_001)[:, None]
    density = variant.log_prior(z, rows()).detach().exp().double()
    assert float(torch.trapezoid(density, z[:, 0].double())) == pytest.approx(1, abs=1e-4)
    samples = variant.sample_prior(20_000)[:, 0].sort().values
    distribution = torch.cumulative_trapezoid(density, z[:, 0].double())
    at = distribution[torch.bucketize(samples, z[1:, 0]).clamp(max=len(distribution) - 1)]
    assert float((at - torch.linspace(0, 1, 20_000)).abs().max()) < 0.015  # 1.36 / sqrt(n) at the level of 5%: .0096
    means, log_vars = variant.posterior(variant.pseudo_inputs())
    assert float(means.detach().std()) > 0.5  # the components differ, so a single Gaussian would not do
    components = torch.distributions.Normal(means[:, 0], (0.5 * log_vars[:, 0]).exp())
    few = z[9_000:9_005]
    torch.testing.assert_close(variant.log_prior(few, rows()), components.log_prob(few).logsumexp(1) - math.log(4))


def test_pseudo_inputs_lie_in_the_domain_of_the_data_and_start_near_it() -> None:
    groups = (
        Group(likelihood="gaussian", size=2), Group(likelihood="poisson", size=2, offset=(3.0, -1.0)),
        Group(likelihood="categorical", size=3, offset=(0.0, -2.0, -2.0)),
        Group(likelihood="log-normal", size=1, spread=(0.5,)), Group(likelihood="bernoulli", size=1, offset=(-2.0,)),
    )  # fmt: skip
    spec = DataSpec(name="mixed", shape=(9,), likelihood="mixed", groups=groups)
    x = make("vamp", spec, pseudo_inputs=4000).pseudo_inputs().x.detach()
    reals, counts, category, positive, binary = x.split([2, 2, 3, 1, 1], 1)
    assert (counts > 0).all() and (positive > 0).all() and (binary > 0).all() and (binary < 1).all()
    torch.testing.assert_close(category.sum(1), torch.ones(len(x)))
    torch.testing.assert_close(reals.mean(0), torch.zeros(2), atol=0.1, rtol=0)
    torch.testing.assert_close(counts.log().mean(0), torch.tensor([3.0, -1.0]), atol=0.1, rtol=0)
    assert 0.4 < float(positive.log().std()) < 0.6
    assert float(binary.median()) == pytest.approx(1 / (1 + math.exp(2)), abs=0.03)
    assert float(category[:, 0].mean()) > 0.6


def test_annealing_in_the_space_of_z_agrees_with_a_sum_over_a_grid() -> None:
    """For a prior that is no function of noise; the mixture has two far components, only one of which explains x."""
    variant = make("vamp", latent=1, pseudo_inputs=2)
    stirred(variant)
    assert variant.prior_from_noise(torch.zeros(1, 1)) is None
    batch = rows(6)
    grid = torch.linspace(-25, 25, 5001)[:, None]
    each = batch[torch.arange(6).repeat_interleave(len(grid))]
    log_joint = variant.log_joint(grid.repeat(6, 1), each).double().view(6, -1)
    exact = log_joint.logsumexp(1) + math.log(0.01)
    tuned = ais.tune(variant, batch, 200)
    assert not isinstance(tuned, Undefined)
    annealed = ais.estimate(variant, batch, tuned, chains=32)
    torch.testing.assert_close(annealed.log_p, exact.detach(), atol=0.15, rtol=0)
    gap = ais.gap(variant, batch, tuned, chains=16)
    assert abs(float(gap.mean())) < 0.3


def small_vq(spec: DataSpec = TABLE, **settings: Any) -> Any:
    return make("vq", spec, **{"latent": 2, "positions": 4, "codes": 6, "prior_width": 8, **settings})


def optimised(variant: Any, batch: Batch) -> None:
    """One step of the optimizer of the code book."""
    optimizer = variant.optimizers()["codes"]
    optimizer.zero_grad()
    variant.terms(batch, STEP).losses["codes"].backward()
    optimizer.step()


def test_the_code_book_is_the_running_mean_of_what_is_assigned_to_it() -> None:
    variant, batch = small_vq(), rows(8)
    counts, sums = torch.full((6,), 1.0), torch.randn(6, 2)
    with torch.no_grad():
        variant.averages.copy_(torch.cat([counts[:, None], sums], 1))
    vectors = variant.vectors(batch).detach()
    for _ in range(3):
        nearest = (vectors.flatten(0, 1)[:, None] - sums / counts[:, None]).square().sum(2).argmin(1)
        for j in range(6):
            chosen = vectors.flatten(0, 1)[nearest == j]
            counts[j] = 0.99 * counts[j] + 0.01 * len(chosen) * 6 / 32
            sums[j] = 0.99 * sums[j] + 0.01 * chosen.sum(0) * 6 / 32
        optimised(variant, batch)
        torch.testing.assert_close(variant.averages.detach(), torch.cat([counts[:, None], sums], 1))
    torch.testing.assert_close(variant.code_book, sums / counts[:, None])
    twice = Batch(batch.x.repeat(2, 1))
    torch.testing.assert_close(
        variant.averaged(vectors, variant.nearest(vectors)),
        variant.averaged(variant.vectors(twice).detach(), variant.nearest(variant.vectors(twice))),
    )


def test_unused_codes_start_anew_from_outputs_of_the_encoder_and_are_never_divided_by_0() -> None:
    variant, batch = small_vq(codes=40), rows(8)
    assert (variant.averages[:, 0] < DEAD).all()
    assert variant.code_book.isfinite().all()
    vectors = variant.vectors(batch).detach().flatten(0, 1)
    unused = torch.ones(40, dtype=torch.bool)
    unused[variant.nearest(variant.vectors(batch)).flatten()] = False
    assert unused.any()
    optimised(variant, batch)
    assert torch.cdist(variant.code_book[unused], vectors).amin(1).max() < 1e-6
    torch.testing.assert_close(variant.averages[unused, 0].detach(), torch.ones(int(unused.sum())))
    with torch.no_grad():
        variant.averages[5] = torch.tensor([1.0, 1e3, 1e3])  # far from everything, so it is never chosen
    steps = 0
    while variant.code_book[5].abs().max() > 100:
        optimised(variant, batch)
        steps += 1
        assert (variant.averages[:, 0] > 0.98 * DEAD).all()
    assert steps == math.ceil(math.log(DEAD) / math.log(0.99))


def test_every_loss_of_vq_reaches_its_own_weights_only() -> None:
    variant, batch = small_vq(), rows(8)
    terms = variant.terms(batch, STEP)
    optimizers = variant.optimizers()
    for name, loss in terms.losses.items():
        variant.zero_grad()
        loss.backward(retain_graph=True)
        own = {id(p) for group in optimizers[name].param_groups for p in group["params"]}
        reached = {id(p) for p in variant.parameters() if p.grad is not None}
        assert reached == own, name


def test_the_commitment_moves_the_encoder_towards_its_codes_and_the_likelihood_passes_straight_through() -> None:
    variant, batch = small_vq(beta=0.0), rows(8)
    vectors = variant.vectors(batch).detach().requires_grad_()
    slopes = {}
    for beta in (0.0, 2.0):
        object.__setattr__(variant.config, "beta", beta)
        variant.vectors = lambda _: vectors
        slopes[beta] = torch.autograd.grad(variant.terms(batch, STEP).losses["loss"], vectors)[0]
    chosen = variant.code_book[variant.nearest(vectors)]
    torch.testing.assert_close(slopes[2.0] - slopes[0.0], 2 * 2 * (vectors - chosen).detach() / 8)
    z = chosen.flatten(1).requires_grad_()
    (of_code,) = torch.autograd.grad(variant.nll(batch, z).mean(), z)
    torch.testing.assert_close(slopes[0.0].flatten(1), of_code)


def test_reconstruction_and_kl_of_vq_are_a_bound_with_probabilities_of_codes() -> None:
    variant, batch = small_vq(), rows(8)
    terms = variant.terms(batch, STEP)
    torch.testing.assert_close(terms.kl, torch.full((8,), 4 * math.log(6)))  # a new prior is uniform
    stirred(variant.prior)
    z, log_q = variant.sample_posterior(batch)
    assert torch.equal(z, variant.encode(batch)) and not log_q.any()
    terms = variant.terms(batch, STEP)
    torch.testing.assert_close(variant.log_joint(z, batch), -(terms.reconstruction + terms.kl))
    assert terms.kl.min() > 0 and terms.kl.std() > 0.1


@pytest.mark.parametrize("columns", [1, 2, 4])
def test_the_probabilities_of_all_codes_add_up_to_one_and_are_the_frequencies_of_samples(columns: int) -> None:
    prior = CodePrior(codes=3, positions=4, columns=columns, width=8)
    stirred(prior)
    every = torch.cartesian_prod(*[torch.arange(3)] * 4)
    with torch.no_grad():
        p = (-prior.nll(every)).exp()
        drawn = prior.sample(20_000)
    assert float(p.sum()) == pytest.approx(1, abs=1e-5)
    found = torch.bincount((drawn * torch.tensor([27, 9, 3, 1])).sum(1), minlength=81) / 20_000
    assert ((found - p).abs() <= 5 * (p * (1 - p) / 20_000).sqrt() + 1e-4).all()
    assert p.max() > 3 * p.min()


def test_finite_scalar_quantisation_has_all_levels_and_rounds_to_the_nearest() -> None:
    variant = small_vq(quantizer="fsq", levels=5)
    assert variant.code_book.shape == (25, 2)
    assert variant.code_book.unique().tolist() == [-1, -0.5, 0, 0.5, 1]
    assert len(variant.code_book.unique(dim=0)) == 25
    vectors = variant.vectors(Batch(30 * rows(50).x))
    assert float(vectors.detach().abs().max()) <= 1
    rounded = variant.code_book[variant.nearest(vectors)]
    torch.testing.assert_close(rounded, (2 * vectors.detach()).round() / 2)
    assert variant.optimizers().keys() == variant.terms(rows(), STEP).losses.keys() == {"loss", "prior"}
    for settings, message in (
        ({"quantizer": "fsq", "latent": 16, "levels": 5}, "5\\^16 codes"), ({"clip": 1.0}, "clip=1"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=message):
            small_vq(**settings)


@pytest.mark.parametrize("quantizer", ["ema", "fsq"])
def test_the_codes_of_images_are_maps_that_depend_on_their_place(quantizer: str) -> None:
    variant = small_vq(IMAGES, quantizer=quantizer, width=32)
    assert variant.map is not None and (variant.map.height, variant.map.width) == (4, 4)
    x = torch.zeros(2, 1, 16, 16)
    x[1, 0, :4, :4] = 1  # changes the first position most
    vectors = variant.vectors(Batch(x)).detach()
    assert vectors.shape == (2, 16, 2)
    assert int((vectors[1] - vectors[0]).norm(dim=1).argmax()) in (0, 1, 4, 5)
    z = variant.encode(Batch(x))
    other = z.clone()
    other[:, -2:] += 5  # the last position is at the bottom right
    changed = (variant.decoder_output(other, None) - variant.decoder_output(z, None)).detach().abs()[0, 0]
    assert float(changed[8:, 8:].sum()) > 0.9 * float(changed.sum()) > 0
    (shown,) = variant.pictures(Batch(x)).values()
    assert shown.shape == (2, 3, 1, 16, 16)


def test_vq_is_trained_in_two_stages_and_learns_a_prior_of_its_final_codes() -> None:
    loaded = data.load("digits")
    torch.manual_seed(0)
    variant = VQ(VQ.config_type(latent=4, positions=4, codes=16, width=64, lr=3e-3, prior_share=0.5), loaded.spec)
    epochs, books, priors = [], [], []
    for epoch in trainer.train(variant, loaded, epochs=12, seed=0):
        epochs.append(epoch)
        books.append(variant.averages.detach().clone())
        priors.append(variant.prior.output.weight.detach().clone())
    assert all(torch.equal(prior, priors[0]) for prior in priors[:6])
    assert all(torch.equal(book, books[5]) for book in books[6:])
    assert not torch.equal(books[4], books[5]) and not torch.equal(priors[5], priors[6])
    kl = [epoch.metrics["valid/kl"] for epoch in epochs]
    assert kl[5] == pytest.approx(4 * math.log(16))
    assert kl[11] < 0.9 * kl[5]
    losses = [epoch.metrics["valid/reconstruction"] for epoch in epochs]
    assert losses[11] == losses[5] < losses[0]
    assert 1 < epochs[11].metrics["valid/perplexity"] <= 16
    assert 0 <= epochs[11].metrics["valid/dead_codes"] < 16
