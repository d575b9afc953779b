"""Likelihoods: bounds, annealing and kernel densities against closed forms and explicit loops."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.neighbors import KernelDensity
from torch import Tensor

from pipeline.data import Data, Preprocessing, Source
from pipeline.evaluate import ais, bits, likelihood, probe, suite
from pipeline.evaluate.context import Sizes
from pipeline.metrics import Undefined, defined
from variants import Batch, DataSpec, InputError, Variant
from variants.aae import AAE
from variants.cvae import CVAE
from variants.hvae import HVAE
from variants.vae import VAE


def importance_weighted(*arguments: Any, **options: Any) -> Tensor:
    return defined(likelihood.importance_weighted(*arguments, **options))


def tune(*arguments: Any) -> ais.Tuned:
    return defined(ais.tune(*arguments))


class LinearEncoder(torch.nn.Linear):
    def forward(self, batch: Batch) -> Tensor:  # type: ignore[override]
        return super().forward(batch.x)


class LinearDecoder(torch.nn.Linear):
    def forward(self, z: Tensor, batch: Batch | None = None) -> Tensor:  # type: ignore[override]
        return super().forward(z)


def data_of(spec: DataSpec, split: Batch) -> Data:
    """Return data with three equal splits."""
    preprocessing = Preprocessing(spec=spec, layout="table", source=Source(place="mine"))
    return Data(train=split, valid=split, test=split, digest="", preprocessing=preprocessing)


def linear_gaussian(widen: float) -> tuple[Variant, Data, Tensor]:
    """x = W z + b + s e with z in 2 and x in 4 dimensions, and q with variances `widen` times those of the posterior.

    Returns the model, data, and log N(x; b, W W' + s^2) of each example from a multivariate normal. The columns of W
    are orthogonal, so that the true posterior has a diagonal covariance.
    """
    generator = torch.Generator().manual_seed(0)
    w = torch.linalg.qr(torch.randn(4, 2, generator=generator))[0] * torch.tensor([1.5, 0.8])
    b, s = torch.randn(4, generator=generator), 0.6
    spec = DataSpec(name="plane", shape=(4,), likelihood="gaussian")
    variant = VAE(VAE.config_type(latent=2, width=1), spec)
    variant.encoder, variant.decoder = LinearEncoder(4, 4), LinearDecoder(2, 4)  # type: ignore[assignment]
    variance = 1 / (1 + w.square().sum(0) / s**2)
    with torch.no_grad():
        variant.decoder.weight.copy_(w)
        variant.decoder.bias.copy_(b)
        variant.observation.families[0].log_scale.fill_(math.log(s))
        mean = variance[:, None] * w.T / s**2
        variant.encoder.weight.copy_(torch.cat([mean, torch.zeros(2, 4)]))
        variant.encoder.bias.copy_(torch.cat([-mean @ b, (widen * variance).log()]))
    x = torch.randn(300, 2, generator=generator) @ w.T + b + s * torch.randn(300, 4, generator=generator)
    exact = torch.distributions.MultivariateNormal(b, w @ w.T + s**2 * torch.eye(4)).log_prob(x)
    return variant, data_of(spec, Batch(x)), exact.double()


# a linear-Gaussian model of six columns, of which three depend on each latent dimension, and with a scale for each
# column; then the posterior given any part of the columns has a diagonal covariance
W = torch.tensor([[1.5, 0], [-0.8, 0], [0.6, 0], [0, 1.0], [0, -1.2], [0, 0.4]])
B = torch.tensor([0.3, -0.2, 0.5, -1.0, 0.1, 0.0])
SCALES = torch.tensor([0.5, 0.3, 0.9, 0.4, 0.7, 0.2])
COVARIANCE = W @ W.T + SCALES.square().diag()


class ExactEncoder(torch.nn.Module):
    """Return the posterior given the observed values, with its variances multiplied by `widen`."""

    def __init__(self, widen: float) -> None:
        super().__init__()
        self.widen = widen

    def forward(self, batch: Batch) -> Tensor:
        assert batch.observed is not None
        weights = batch.observed / SCALES.square()
        variance = 1 / (1 + weights @ W.square())
        mean = variance * (torch.where(batch.observed, batch.x - B, 0.0) * weights @ W)
        return torch.cat([mean, (self.widen * variance).log()], 1)


def with_holes(widen: float) -> tuple[VAE, Data, Tensor, Tensor]:
    """Return the model, data of which 40% are missing at random, and two results in closed form.

    They are log N(x_o; b_o, (W W' + S^2)_oo) of the observed values, (N,), and x with E[x_m | x_o] in place of the
    missing values, (N, 6).
    """
    generator = torch.Generator().manual_seed(0)
    n = 200
    x = torch.randn(n, 2, generator=generator) @ W.T + B + SCALES * torch.randn(n, 6, generator=generator)
    observed = torch.rand(n, 6, generator=generator) > 0.4
    observed[0] = False  # nothing is known about this example
    spec = DataSpec(name="holes", shape=(6,), likelihood="gaussian", missing=True)
    variant = VAE(VAE.config_type(latent=2, width=1), spec)
    variant.encoder, variant.decoder = ExactEncoder(widen), LinearDecoder(2, 6)  # type: ignore[assignment]
    with torch.no_grad():
        variant.decoder.weight.copy_(W)
        variant.decoder.bias.copy_(B)
        variant.observation.families[0].log_scale.copy_(SCALES.log())  # type: ignore[operator, union-attr]
    log_p, means = torch.zeros(n), x.clone()
    for i, o in enumerate(observed):
        if o.any():
            seen = COVARIANCE[o][:, o]
            log_p[i] = torch.distributions.MultivariateNormal(B[o], seen).log_prob(x[i, o])
            means[i, ~o] = B[~o] + COVARIANCE[~o][:, o] @ torch.linalg.solve(seen, x[i, o] - B[o])
        else:
            means[i] = B
    return variant, data_of(spec, Batch(torch.where(observed, x, 0.0), observed=observed)), log_p.double(), means


def test_with_missing_values_the_bound_is_of_the_observed_marginal() -> None:
    variant, data, exact, _ = with_holes(1.0)
    for k in (1, 7):
        torch.testing.assert_close(importance_weighted(variant, data, data.test, k), exact, atol=1e-4, rtol=0)
    assert exact[0] == 0
    with torch.no_grad():
        draws = torch.stack(
            [e for _ in range(500) if (e := variant.terms(data.test, torch.tensor(1.0)).elbo) is not None]
        )
    assert ((draws.mean(0) - exact).abs() <= 5 * draws.std(0) / 500**0.5 + 1e-5).all()


def test_with_missing_values_a_wrong_posterior_is_corrected_by_more_samples() -> None:
    variant, data, exact, _ = with_holes(3.0)
    gaps = [float((exact - importance_weighted(variant, data, data.test, k)).mean()) for k in (1, 10, 1000)]
    assert gaps[0] == pytest.approx(2 * 0.5 * (3 - 1 - math.log(3)), abs=0.2)
    assert gaps[0] > gaps[1] > abs(gaps[2])
    assert gaps[2] == pytest.approx(0, abs=0.01)


def test_with_missing_values_annealing_hits_the_observed_marginal() -> None:
    variant, data, exact, _ = with_holes(1.0)
    few = data.test[slice(0, 100)]
    annealed = ais.estimate(variant, few, tune(variant, data.test[slice(190, 198)], 400), chains=16)
    short = exact[:100] - annealed.log_p
    assert abs(float(short.mean())) < 0.03
    assert float(short.std()) < 0.15


def test_importance_weights_give_the_exact_conditional_mean_of_missing_values() -> None:
    """E[x_m|x_o] is the mean of decoded samples of q, weighted by p(x_o, z) / q(z|x_o), as in MIWAE."""
    variant, data, _, exact = with_holes(2.0)
    few, k = data.test[slice(0, 50)], 4000
    torch.manual_seed(0)
    with torch.no_grad():
        z, log_q = variant.sample_posterior(few, k)
        log_weight = variant.log_joint(z, few[torch.arange(50).repeat_interleave(k)]) - log_q
        means = (log_weight.view(50, k).softmax(1)[..., None] * variant.decode(z).view(50, k, 6)).sum(1)
    assert few.observed is not None
    assert float((means - exact[:50])[~few.observed].abs().max()) < 0.1
    assert float((means - exact[:50])[~few.observed].square().mean().sqrt()) < 0.03


def test_with_the_exact_posterior_the_bound_is_the_likelihood_for_every_k() -> None:
    variant, data, exact = linear_gaussian(1.0)
    for k in (1, 7, 20_000):
        few = data.test[slice(0, 3 if k > 100 else 300)]
        torch.testing.assert_close(importance_weighted(variant, data, few, k), exact[: len(few)], atol=1e-4, rtol=0)


def test_with_a_wrong_posterior_the_bound_tightens_to_the_likelihood() -> None:
    variant, data, exact = linear_gaussian(3.0)
    bounds = [float(importance_weighted(variant, data, data.test, k).mean()) for k in (1, 5, 50, 2000)]
    gaps = [float(exact.mean()) - b for b in bounds]
    # at k = 1 the gap is KL(q || posterior), in closed form for Gaussians of one mean: (v - 1 - log v) / 2 a dimension
    assert gaps[0] == pytest.approx(2 * 0.5 * (3 - 1 - math.log(3)), abs=0.15)
    assert gaps[0] > gaps[1] > gaps[2] > abs(gaps[3])
    assert gaps[3] == pytest.approx(0, abs=0.01)


def test_the_bound_is_that_of_an_explicit_loop() -> None:
    """Same draws, one example and one sample at a time."""
    variant, data, _ = linear_gaussian(2.0)
    few = data.test[slice(0, 2)]
    vectorised = importance_weighted(variant, data, few, 3, seed=5)
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
                p = torch.distributions.Normal(variant.decoder(z), variant.observation.families[0].log_scale.exp())  # type: ignore[operator,union-attr]
                weights.append(p.log_prob(few.x[n]).sum() + prior.log_prob(z).sum() - q.log_prob(z).sum())
            expected = math.log(sum(math.exp(float(w)) for w in weights) / 3)
            assert float(vectorised[n]) == pytest.approx(expected, abs=1e-4)


def test_the_bound_of_a_conditional_variant_sums_over_classes_whatever_the_labels() -> None:
    spec = DataSpec(name="table", shape=(4,), likelihood="gaussian", classes=3)
    torch.manual_seed(0)
    variant = CVAE(CVAE.config_type(latent=2, width=8), spec).eval()
    with torch.no_grad():  # near the prior, so that the weights vary little
        variant.decoder.net[0].weight[:, :2] *= 0.3  # type: ignore[index,union-attr]
        variant.encoder.head[-1].weight *= 0.3  # type: ignore[index,union-attr]
    x = torch.randn(5, 4)
    splits = [Batch(x, torch.full((5,), c)) for c in range(3)]
    data = data_of(spec, splits[0])
    marginal = [importance_weighted(variant, data, s, 20_000) for s in splits]
    assert torch.equal(marginal[0], marginal[2])
    each = [importance_weighted(variant, data, s, 20_000, marginal=False, seed=1) for s in splits]
    torch.testing.assert_close(torch.stack(each).logsumexp(0), marginal[0], atol=0.05, rtol=0)


def test_without_a_density_there_is_no_bound() -> None:
    _, data, _ = linear_gaussian(1.0)
    aae = AAE(AAE.config_type(width=4), data.spec)
    bound = likelihood.importance_weighted(aae, data, data.test, 2)
    assert bound == Undefined("AAE has no density q(z|x), which a likelihood bound needs")


def test_parzen_is_a_kernel_density() -> None:
    samples, x = torch.rand(500, 2, 3), torch.rand(40, 2, 3)
    ours = likelihood.parzen(samples, x, 0.3)
    theirs = KernelDensity(bandwidth=0.3).fit(samples.flatten(1).numpy()).score_samples(x.flatten(1).numpy())
    np.testing.assert_allclose(ours.numpy(), theirs, atol=1e-3)


def test_parzen_width_is_near_the_true_one() -> None:
    """Samples and held-out points of one Gaussian with few samples: too narrow and too wide are both worse."""
    samples, valid = torch.randn(2000, 2), torch.randn(500, 2)
    sigma = likelihood.parzen_width(samples, valid)
    assert 0.1 < sigma < 0.7


def test_bits_are_of_a_value_to_base_two() -> None:
    spec = DataSpec(name="grey", shape=(3, 2, 2), likelihood="logistic8")
    assert bits.per_dimension(-12 * 8 * math.log(2), spec) == pytest.approx(8)
    with pytest.raises(InputError, match="8-bit values; the likelihood of grey is bernoulli"):
        bits.per_dimension(-1.0, DataSpec(name="grey", shape=(3, 2, 2), likelihood="bernoulli"))


@pytest.mark.parametrize(
    ("temperatures", "exactness"), [(300, 0.03), pytest.param(1000, 0.015, marks=pytest.mark.slow)]
)
def test_annealing_hits_the_likelihood_and_its_gap_covers_it(temperatures: int, exactness: float) -> None:
    """In nats of the mean over examples; the truth lies between the lower and the upper bound, but for their noise."""
    variant, data, exact = linear_gaussian(3.0)
    few, pilot = data.test[slice(0, 100)], data.test[slice(200, 208)]
    tuned = tune(variant, pilot, temperatures)
    annealed = ais.estimate(variant, few, tuned, chains=16)
    short = exact[:100] - annealed.log_p
    assert abs(float(short.mean())) < exactness
    assert float(short.std()) < 0.15
    assert 0.55 < annealed.accepted < 0.85
    gap = ais.gap(variant, few, tuned, chains=16)
    noise = float(short.std() + gap.std()) / 10
    assert -3 * noise < float(gap.mean()) < 0.05
    assert float(short.mean()) < float(gap.mean()) + 3 * noise


def test_with_few_temperatures_the_estimate_falls_short_and_the_gap_says_so() -> None:
    variant, data, exact = linear_gaussian(1.0)
    few = data.test[slice(0, 100)]
    short, gaps = [], []
    for temperatures in (3, 48):
        tuned = tune(variant, data.test[slice(200, 208)], temperatures)
        short.append(float((exact[:100] - ais.estimate(variant, few, tuned, chains=2).log_p).mean()))
        gaps.append(float(ais.gap(variant, few, tuned, chains=2).mean()))
    assert short[0] > 2 * short[1] > 0
    assert gaps[0] > 2 * gaps[1] > 0
    assert gaps[0] > short[0]
    assert gaps[1] > short[1] - 0.25  # three standard errors


def test_rate_and_distortion_are_those_of_the_tempered_posterior() -> None:
    """N(z) N(x; W z + b, s^2)^beta is a Gaussian: its KL to the prior and its mean -log p(x|z) in closed form."""
    variant, data, _ = linear_gaussian(1.0)
    few = data.test[slice(0, 100)]
    annealed = ais.estimate(variant, few, tune(variant, data.test[slice(200, 208)], 200), chains=32)
    w, b, s = variant.decoder.weight.detach().double(), variant.decoder.bias.detach().double(), 0.6  # type: ignore[union-attr, operator]
    x = few.x.double() - b
    for t in (50, 100, 150, 200):
        beta = float(annealed.betas[t])
        variance = 1 / (1 + beta * w.square().sum(0) / s**2)
        mean = variance * beta * (x @ w) / s**2
        rate = 0.5 * (mean.square() + variance - 1 - variance.log()).sum(1).mean()
        away = (x - mean @ w.T).square().sum(1) + (w.square().sum(0) * variance).sum()
        distortion = (away / (2 * s**2)).mean() + 2 * math.log(2 * math.pi * s**2)
        assert float(annealed.rate[t]) == pytest.approx(float(rate), abs=0.1)
        assert float(annealed.distortion[t]) == pytest.approx(float(distortion), abs=0.15)


@pytest.mark.slow
def test_the_choice_of_the_annealed_examples_does_not_move_the_corrected_estimate() -> None:
    """Three disjoint sets, of which the plain means differ by much, give log p(x) of all; the bound alone does not."""
    variant, data, exact = linear_gaussian(0.05)  # the bound of one sample is 2 nats below log p(x)
    truth, few, by_likelihood = float(exact.mean()), 60, exact.argsort()
    sizes = Sizes(iw_k=1, iw_n=300, ais_n=few, ais_temperatures=100, gap_n=2)
    for start in (20, 120, 220):
        chosen = by_likelihood[start : start + few]
        order = torch.empty(300, dtype=torch.int64)
        taken = torch.zeros(300, dtype=torch.bool)
        taken[probe.subset_positions(300, few)] = True
        order[taken], order[~taken] = chosen, torch.tensor(sorted(set(range(300)) - set(chosen.tolist())))
        ordered = replace(data, test=data.test[order])
        (part,) = suite.run(variant, ordered, sizes=sizes, only=("annealing",))
        scores = {s.name: s for s in part.scores}
        value, error = (getattr(scores["test/ais"], name) or math.nan for name in ("value", "error"))
        less = scores["test/ais_less_iw"]
        assert abs(value - truth) < 3.5 * (less.error or 0)
        assert abs(value - (less.value or 0) - truth) > 3.5 * (less.error or 0)
        assert (scores["test/ais"].n, scores["test/ais_subset"].n, less.n) == (300, few, few)
        assert error == pytest.approx(math.hypot(less.error or 0, float(exact.std()) / math.sqrt(300)), rel=0.2)
        subset = scores["test/ais_subset"]
        assert subset.value == pytest.approx(float(exact[chosen].mean()), abs=0.1)
        assert (abs((subset.value or 0) - truth) > 5 * (less.error or 0)) == (start != 120)


def test_rows_have_the_scores_of_their_own_examples() -> None:
    """With the exact posterior, the bounds of each example are its log p(x)."""
    variant, data, exact = linear_gaussian(1.0)
    sizes = Sizes(iw_k=5, iw_n=100, ais_n=50, ais_temperatures=100, gap_n=2)
    rows = [part.rows for part in suite.run(variant, data, sizes=sizes, only=("bounds", "annealing"))]
    for column, n, tolerance in (("iw", 100, 1e-4), ("ais", 50, 1.5), ("elbo", 300, 1.5)):
        values = (rows[0] | rows[1])[column]
        known = ~np.isnan(values)
        assert known.sum() == n
        np.testing.assert_allclose(values[known], exact.numpy()[known], atol=tolerance)
    np.testing.assert_allclose(rows[0]["elbo"], -rows[0]["kl"] - rows[0]["reconstruction"])


def test_the_monte_carlo_error_is_the_spread_of_repeated_evaluations() -> None:
    variant, data, _ = linear_gaussian(2.0)
    terms = [likelihood.drawn_terms(variant, data, data.test, 4, seed) for seed in range(60)]
    scores = [suite._drawn("test/reconstruction", t.totals.sums["reconstruction"], t.reconstruction) for t in terms]
    spread = np.std([s.value for s in scores])
    assert spread == pytest.approx(np.mean([s.monte_carlo_error for s in scores]), rel=0.25)
    assert all((s.error or 0) > (s.monte_carlo_error or 0) for s in scores)


@pytest.mark.slow
def test_annealing_needs_no_encoder() -> None:
    """An adversarial autoencoder, whose q has no density, with a linear decoder and a prior of width 5."""
    variant, data, _ = linear_gaussian(1.0)
    aae = AAE(AAE.config_type(latent=2, width=1, scale=5.0), data.spec)
    aae.decoder, aae.observation = variant.decoder, variant.observation  # type: ignore[assignment]
    w, b = variant.decoder.weight.detach(), variant.decoder.bias.detach()  # type: ignore[union-attr, operator]
    few = data.test[slice(0, 50)]
    covariance = 25 * w @ w.T + 0.36 * torch.eye(4)
    exact = torch.distributions.MultivariateNormal(b, covariance).log_prob(few.x)
    annealed = ais.estimate(aae, few, tune(aae, data.test[slice(200, 208)], 1000), chains=16)
    assert float(annealed.log_p.mean()) == pytest.approx(float(exact.mean()), abs=0.02)


@pytest.mark.slow
def test_annealing_of_a_ladder_whose_levels_are_far_apart_in_scale() -> None:
    """Two levels, linear and Gaussian: z_1 hangs on z_2 by a wide slope and a narrow spread. Exact in closed form."""
    spec = DataSpec(name="plane", shape=(4,), likelihood="gaussian")
    torch.manual_seed(0)
    ladder = HVAE(HVAE.config_type(latent=2, width=4, levels=2), spec).eval()
    slope, spread, w, s = torch.tensor([[3.0, 0.5], [-2.0, 1.0]]), 0.02, torch.randn(4, 2), 0.5

    class Down(torch.nn.Module):
        def forward(self, above: torch.Tensor) -> torch.Tensor:
            raw = math.log(math.expm1(spread**2 - 1e-5))  # softplus and the floor give spread^2
            return torch.cat([above @ slope.T, torch.full_like(above, raw)], 1)

    ladder.down = torch.nn.ModuleList([Down()])
    ladder.foot, ladder.decoder = torch.nn.Identity(), LinearDecoder(2, 4, bias=False)  # type: ignore[assignment]
    with torch.no_grad():
        ladder.decoder.weight.copy_(w)
        ladder.observation.families[0].log_scale.fill_(math.log(s))
    inner = slope @ slope.T + spread**2 * torch.eye(2)
    density = torch.distributions.MultivariateNormal(torch.zeros(4), w @ inner @ w.T + s**2 * torch.eye(4))
    x = density.sample((60,))
    annealed = ais.estimate(ladder, Batch(x), tune(ladder, Batch(density.sample((8,))), 300), chains=16)
    assert float((density.log_prob(x) - annealed.log_p).mean()) == pytest.approx(0, abs=0.03)


class ExactConditionalEncoder(torch.nn.Module):
    """The posterior of `uneven_mixture` given x and the class."""

    def __init__(self, w: Tensor, of_class: Tensor, means: Tensor, variances: Tensor, s: float) -> None:
        super().__init__()
        self.w, self.of_class, self.means, self.variances, self.s = w, of_class, means, variances, s

    def forward(self, batch: Batch, c: Tensor) -> Tensor:
        prior_mean, prior_variance = c @ self.means, c @ self.variances
        variance = 1 / (1 / prior_variance + self.w.square().sum(0) / self.s**2)
        mean = variance * (prior_mean / prior_variance + (batch.x - c @ self.of_class) @ self.w / self.s**2)
        return torch.cat([mean, variance.log()], 1)


def uneven_mixture() -> tuple[CVAE, Batch, Tensor]:
    """z ~ N(m_y, v_y) and x = W z + c_y + s e, with uneven p(y), so that p(x) is a mixture of three Gaussians.

    Returns the model with the exact posterior, data, and log p(x) in closed form.
    """
    generator = torch.Generator().manual_seed(1)
    shares, s = torch.tensor([0.7, 0.25, 0.05]), 0.6
    w = torch.linalg.qr(torch.randn(4, 2, generator=generator))[0] * torch.tensor([1.2, 0.7])
    of_class, means = torch.randn(3, 4, generator=generator), torch.randn(3, 2, generator=generator)
    variances = torch.tensor([[0.5, 1.0], [2.0, 0.3], [1.0, 1.5]])
    spec = DataSpec(name="table", shape=(4,), likelihood="gaussian", classes=3, class_shares=tuple(shares.tolist()))
    variant = CVAE(CVAE.config_type(latent=2, width=1), spec).eval()
    variant.encoder = ExactConditionalEncoder(w, of_class, means, variances, s)  # type: ignore[assignment]
    variant.decoder = LinearDecoder(5, 4, bias=False)  # type: ignore[assignment]
    with torch.no_grad():
        variant.decoder.weight.copy_(torch.cat([w, of_class.T], 1))
        variant.prior_net.weight.copy_(torch.cat([means.T, variances.log().T]))  # type: ignore[operator, union-attr]
        variant.prior_net.bias.zero_()  # type: ignore[operator, union-attr]
        variant.observation.families[0].log_scale.fill_(math.log(s))  # type: ignore[operator, union-attr]
    components = torch.distributions.MultivariateNormal(
        means @ w.T + of_class, torch.stack([w @ v.diag() @ w.T + s**2 * torch.eye(4) for v in variances])
    )
    x = components.sample((40,)).flatten(0, 1)
    log_p = (components.log_prob(x[:, None]) + shares.log()).logsumexp(1)
    return variant, Batch(x, torch.zeros(len(x), dtype=torch.int64)), log_p.double()


def test_the_likelihood_of_a_conditional_variant_weighs_classes_by_their_frequencies() -> None:
    torch.manual_seed(2)
    variant, split, exact = uneven_mixture()
    bound = importance_weighted(variant, data_of(variant.spec, split), split, 3)
    torch.testing.assert_close(bound, exact, atol=1e-4, rtol=0)
    few = split[slice(0, 40)]
    annealed = ais.estimate(variant, few, tune(variant, split[slice(100, 108)], 100), chains=8)
    assert float((exact[:40] - annealed.log_p).mean()) == pytest.approx(0, abs=0.1)


def test_annealing_says_where_it_does_not_apply() -> None:
    spec = DataSpec(name="table", shape=(4,), likelihood="gaussian", classes=3)
    semi = AAE(AAE.config_type(width=4, supervision="semi"), spec)
    tuned = ais.tune(semi, Batch(torch.randn(3, 4)), 5)
    assert isinstance(tuned, Undefined) and "AAE has a class in its code" in tuned.reason
    image = DataSpec(name="image", shape=(1, 4, 4), likelihood="bernoulli")
    network = CVAE(CVAE.config_type(width=4, condition="quadrants", objective="network"), image)
    tuned = ais.tune(network, Batch(torch.zeros(3, 1, 4, 4)), 5)
    assert isinstance(tuned, Undefined) and "CVAE draws no z" in tuned.reason


def test_a_comparison_leaves_annealing_out_where_it_is_too_slow() -> None:
    variant, data, _ = linear_gaussian(0.05)
    sizes = Sizes(ais_n=4, ais_chains=2, ais_temperatures=10, gap_n=1)
    products = 2 * sum(w.numel() for w in variant.decoder.parameters() if w.ndim == 2)  # type: ignore[union-attr, operator]
    needed = 3 * products * (4 * 2 + 2 * 2) * 10 * ais.LEAPS
    for limit in (1.01 * needed, 0.99 * needed):
        (part,) = suite.run(variant, data, sizes=replace(sizes, ais_operations=limit), only=("annealing",))
        scores = {score.name: score for score in part.scores}
        assert (scores["test/ais"].value is None) == (limit < needed)
    assert "a comparison spends at most" in scores["test/ais"].reason


def test_the_work_of_annealing_counts_all_layers_of_a_network_over_time() -> None:
    spec = DataSpec(name="series", shape=(2,), likelihood="gaussian", steps=8)
    variant = VAE(VAE.config_type(width=16, latent=3, network="tcn"), spec)
    batch = Batch(torch.zeros(3, 8, 2), mask=torch.ones(3, 8, dtype=torch.bool))
    writer = variant.decoder.net
    once = writer.start.weight.numel()  # all other layers compute each of the 8 steps
    products = once + 8 * (sum(w.numel() for w in variant.decoder.parameters() if w.ndim > 1) - once)
    assert ais.operations(variant, batch, 5, 7) == 3 * 2 * products * 5 * 7 * ais.LEAPS
