"""Each family of p(x|z) is compared with scipy, integrals, finite differences and its samples; then mixed tables."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats
from scipy.special import expit, log_softmax
from torch import Tensor

import variants
from variants import Batch, DataSpec, InputError
from variants.base import Inputs, Observation
from variants.base.contract import KIND_OF, Group, Likelihood
from variants.base.likelihoods import SCALE_LR
from variants.vae import VAE

Array = NDArray[Any]
FAMILIES: list[Likelihood] = [
    "bernoulli", "gaussian", "student-t", "log-normal", "gamma", "poisson", "negative-binomial", "zero-inflated",
    "logistic8", "categorical",
]  # fmt: skip
SPREAD = (0.25, 0.5, 0.75)
PARAMETERS = {  # of three columns
    "log_scale": [-1.0, 0.1, -0.5], "log_tail": [0.5, 1.5, 3.0], "log_shape": [0.5, 1.0, 2.5],
    "log_dispersion": [0.0, 0.7, 2.0],
}  # fmt: skip


def observe(likelihood: Likelihood, **facts: Any) -> Observation:
    """Return the likelihood of three columns in float64, with other parameters than the initial ones."""
    spread = SPREAD if KIND_OF[likelihood] == "positive" else ()
    facts = {"groups": (Group(likelihood=likelihood, size=3, spread=spread),), **facts}
    observation = Observation(DataSpec(name="three", shape=(3,), likelihood=likelihood, **facts)).double()
    with torch.no_grad():
        for name, parameter in observation.families[0].named_parameters():
            parameter.copy_(torch.tensor(PARAMETERS[name]))
            if likelihood == "logistic8":
                parameter.sub_(3)
    return observation


def outputs(likelihood: Likelihood, n: int) -> Tensor:
    """Return what a decoder may give for n examples, in float64."""
    generator = torch.Generator().manual_seed(1)
    size = 6 if likelihood == "zero-inflated" else 3
    return torch.randn(n, size, generator=generator, dtype=torch.float64)


def values(likelihood: Likelihood, n: int) -> Tensor:
    """Return values of the kind, in float64."""
    draw = torch.rand(n, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    kinds: dict[str, Tensor] = {
        "real": 6 * draw - 3, "positive": (4 * draw - 2).exp(), "count": (8 * draw**3).floor(),
        "binary": draw.round(), "pixel": (draw * 255).round() / 255,
        "category": (draw == draw.amax(1, keepdim=True)).double(),
    }  # fmt: skip
    return kinds[KIND_OF[likelihood]]


def log_p(likelihood: Likelihood, x: Array, output: Array, family: torch.nn.Module) -> Array:
    """Return log p of each value by scipy."""
    p = {name: parameter.detach().double().numpy() for name, parameter in family.named_parameters()}
    if likelihood == "bernoulli":
        return np.asarray(stats.bernoulli.logpmf(x, expit(output)))
    if likelihood == "categorical":
        return np.asarray(x * log_softmax(output, axis=-1))
    if likelihood == "gaussian":
        return np.asarray(stats.norm.logpdf(x, output, np.exp(p["log_scale"])))
    if likelihood == "student-t":
        return np.asarray(stats.t.logpdf(x, 2 + np.exp(p["log_tail"]), output, np.exp(p["log_scale"])))
    if likelihood == "log-normal":
        spread = np.array(SPREAD)
        return np.asarray(stats.lognorm.logpdf(x, spread * np.exp(p["log_scale"]), scale=np.exp(spread * output)))
    if likelihood == "gamma":
        shape = np.exp(p["log_shape"])
        return np.asarray(stats.gamma.logpdf(x, shape, scale=np.exp(np.array(SPREAD) * output) / shape))
    if likelihood == "poisson":
        return np.asarray(stats.poisson.logpmf(x, np.exp(output)))
    if likelihood == "logistic8":
        scale = np.exp(p["log_scale"])
        upper = np.where(x == 1, np.inf, (x - expit(output) + 0.5 / 255) / scale)
        lower = np.where(x == 0, -np.inf, (x - expit(output) - 0.5 / 255) / scale)
        far = lower > 0  # where both distribution functions are close to 1
        return np.asarray(np.log(np.where(far, expit(-lower) - expit(-upper), expit(upper) - expit(lower))))
    r, mean = np.exp(p["log_dispersion"]), np.exp(output[..., :3])
    counts = np.asarray(stats.nbinom.logpmf(x, r, r / (r + mean)))
    if likelihood == "negative-binomial":
        return counts
    zero = expit(output[..., 3:])
    return np.asarray(np.log(zero * (x == 0) + (1 - zero) * np.exp(counts)))


def support(likelihood: Likelihood) -> tuple[Tensor, Tensor]:
    """Return values (N, 3) and weights (N, 1) such that a weighted sum over them is the sum or integral over x."""
    u = torch.linspace(-60, 60, 12_001, dtype=torch.float64)[:, None]
    step, ones = 120 / 12_000, torch.ones(1, dtype=torch.float64)
    grids: dict[str, tuple[Tensor, Tensor]] = {
        "real": ((u / 2).sinh(), step / 2 * (u / 2).cosh()), "positive": (u.exp(), step * u.exp()),
        "count": (torch.arange(3000.0, dtype=torch.float64)[:, None], ones),
        "binary": (torch.tensor([[0.0], [1.0]], dtype=torch.float64), ones),
        "pixel": (torch.arange(256.0, dtype=torch.float64)[:, None] / 255, ones),
        "category": (torch.eye(3, dtype=torch.float64), ones),
    }  # fmt: skip
    x, weight = grids[KIND_OF[likelihood]]
    return x.expand(-1, 3), weight


def probabilities(likelihood: Likelihood, observation: Observation, output: Tensor) -> Tensor:
    """Return p(x) at each point of the support for one row of outputs, (N, 3), or (N, 1) for a category."""
    x, _ = support(likelihood)
    nll = observation.nll_each(Batch(x), output.expand(len(x), -1)).detach()
    return (-(nll.sum(1, keepdim=True) if likelihood == "categorical" else nll)).exp()


@pytest.mark.parametrize("likelihood", FAMILIES)
def test_a_likelihood_is_that_of_scipy(likelihood: Likelihood) -> None:
    observation, x, output = observe(likelihood), values(likelihood, 200), outputs(likelihood, 200)
    nll = observation.nll_each(Batch(x), output).detach()
    expected = log_p(likelihood, x.numpy(), output.numpy(), observation.families[0])
    np.testing.assert_allclose(-nll.numpy(), expected, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(observation.nll(Batch(x), output).detach(), nll.sum(1))


@pytest.mark.parametrize("likelihood", FAMILIES)
def test_a_likelihood_adds_up_to_one_and_has_the_mean_that_is_returned(likelihood: Likelihood) -> None:
    observation, (x, weight) = observe(likelihood), support(likelihood)
    for output in outputs(likelihood, 4):
        p = weight * probabilities(likelihood, observation, output)
        torch.testing.assert_close(p.sum(0), torch.ones_like(p[0]), atol=1e-6, rtol=0)
        exactness = 0.02 if likelihood == "logistic8" else 1e-6  # the outer bins pull the mean inwards
        mean = observation.mean(output[None])[0].detach()
        torch.testing.assert_close((p * x).sum(0), mean, atol=exactness, rtol=exactness)


@pytest.mark.parametrize("likelihood", FAMILIES)
def test_draws_have_the_mean_and_the_variance_of_the_likelihood(likelihood: Likelihood) -> None:
    observation, (x, weight) = observe(likelihood), support(likelihood)
    output = outputs(likelihood, 1)
    torch.manual_seed(3)
    with torch.no_grad():
        draws = observation.sample_x(output.expand(60_000, -1))
    p = weight * probabilities(likelihood, observation, output)
    mean = (p * x).sum(0)
    variance = (p * (x - mean).square()).sum(0)
    away = draws - mean
    assert (away.mean(0).abs() < 5 * (variance / 60_000).sqrt()).all()
    assert ((away.square().mean(0) - variance).abs() < 5 * away.square().std(0) / 60_000**0.5).all()
    kind = KIND_OF[likelihood]
    if kind in ("count", "binary", "category"):
        assert torch.equal(draws, draws.round())
    if kind == "category":
        assert (draws.sum(1) == 1).all()
    if kind == "pixel":
        torch.testing.assert_close(draws * 255, (draws * 255).round())
    if kind != "real":
        assert draws.min() >= 0


@pytest.mark.parametrize("likelihood", FAMILIES)
def test_gradients_are_those_of_finite_differences(likelihood: Likelihood) -> None:
    """With respect to the decoder's output and to the parameters of the family."""
    observation, batch = observe(likelihood), Batch(values(likelihood, 4))
    names = [name for name, _ in observation.named_parameters()]

    def nll(output: Tensor, *parameters: Tensor) -> Tensor:
        changed = dict(zip(names, parameters, strict=True))
        value: Tensor = torch.func.functional_call(observation, changed, (batch, output))
        return value

    observation.forward = observation.nll_each
    own = [parameter.detach().clone().requires_grad_() for parameter in observation.parameters()]
    assert torch.autograd.gradcheck(nll, (outputs(likelihood, 4).requires_grad_(), *own))


EXTREMES: list[
    tuple[Likelihood, float, list[float], float]
] = [  # x, the decoder's output, the parameters of the family
    ("bernoulli", 1.0, [1e4], 0.0),
    ("bernoulli", 1.0, [-1e4], 0.0),
    ("bernoulli", 0.0, [1e4], 0.0),
    ("gaussian", 1e6, [0.0], 0.0),
    ("gaussian", 0.0, [0.0], -7.0),
    ("student-t", 1e6, [0.0], 0.0),
    ("student-t", 1.0, [0.0], math.log(1e6)),
    ("student-t", 0.1, [0.0], -7.0),
    ("log-normal", 1e-20, [0.0], 0.0),
    ("log-normal", 1e20, [0.0], -1.0),
    ("gamma", 1e-20, [0.0], 0.0),
    ("gamma", 1e20, [0.0], 0.0),
    ("gamma", 1.01, [0.0], math.log(1e6)),
    ("gamma", 2.0, [1.0], math.log(1e-4)),
    ("poisson", 0.0, [-1e4], 0.0),
    ("poisson", 3.0, [-1e4], 0.0),
    ("poisson", 1e6, [math.log(1e6)], 0.0),
    ("negative-binomial", 0.0, [-1e4], 0.0),
    ("negative-binomial", 1e6, [math.log(1e6)], math.log(1e6)),
    ("negative-binomial", 1e6, [0.0], math.log(1e-4)),
    ("negative-binomial", 7.0, [math.log(5)], math.log(1e6)),
    ("negative-binomial", 0.0, [math.log(1e6)], math.log(1e-4)),
    ("negative-binomial", 3.0, [math.log(1e6)], math.log(1e-4)),
    ("zero-inflated", 0.0, [0.0, 1e4], 0.0),
    ("zero-inflated", 0.0, [0.0, -1e4], math.log(1e6)),
    ("zero-inflated", 2.0, [0.0, -1e4], math.log(1e-4)),
    ("zero-inflated", 2.0, [0.0, 1e4], 0.0),
    ("zero-inflated", 0.0, [math.log(1e6), -1e4], math.log(1e6)),
    ("logistic8", 1.0, [1e4], -20.0),
    ("logistic8", 0.0, [1e4], -2.0),
    ("logistic8", 0.5, [1e4], -7.0),
]


@pytest.mark.parametrize(("likelihood", "value", "output", "parameter"), EXTREMES)
def test_extreme_values_are_finite_in_float32(
    likelihood: Likelihood, value: float, output: list[float], parameter: float
) -> None:
    """Values and gradients are finite, and equal those of scipy in float64 where scipy returns a number."""
    observation = observe(likelihood).float()
    with torch.no_grad():
        for each in observation.parameters():
            each.fill_(parameter)
    x, decoded = torch.full((1, 3), value), torch.tensor([output]).repeat_interleave(3, 1).requires_grad_()
    nll = observation.nll_each(Batch(x), decoded)
    slopes = torch.autograd.grad(nll.sum(), [decoded, *observation.parameters()], materialize_grads=True)
    assert nll.isfinite().all()
    assert all(slope.isfinite().all() for slope in slopes)
    with np.errstate(all="ignore"):
        expected = log_p(likelihood, x.double().numpy(), decoded.detach().double().numpy(), observation.families[0])
    if likelihood != "logistic8" and np.isfinite(expected).all():
        np.testing.assert_allclose(-nll.detach().numpy(), expected, rtol=1e-5, atol=1e-4)


def test_a_category_of_probability_one_or_zero_is_finite() -> None:
    observation, output = observe("categorical").float(), torch.tensor([[1e4, 0.0, -1e4]], requires_grad=True)
    for one_hot, expected in zip(torch.eye(3), (0.0, 1e4, 2e4), strict=True):
        nll = observation.nll(Batch(one_hot[None]), output)
        assert float(nll.detach()) == pytest.approx(expected)
        assert torch.autograd.grad(nll.sum(), output)[0].isfinite().all()


# --- composition

MIXED = (
    Group(likelihood="gaussian", size=2),
    Group(likelihood="student-t", size=1),
    Group(likelihood="log-normal", size=2, spread=(0.5, 2.0)),
    Group(likelihood="gamma", size=1, spread=(0.7,)),
    Group(likelihood="poisson", size=1, offset=(0.5,)),
    Group(likelihood="negative-binomial", size=2, offset=(0.3, -1.0)),
    Group(likelihood="zero-inflated", size=2, offset=(1.0, 0.2)),
    Group(likelihood="bernoulli", size=2, offset=(-3.0, 0.0)),
    Group(likelihood="categorical", size=3, offset=(-0.5, -1.0, -2.0)),
    Group(likelihood="categorical", size=2, offset=(-0.1, -2.4)),
)
WIDTH = sum(group.size for group in MIXED)


def mixed(**facts: Any) -> tuple[Observation, Batch, Tensor]:
    """Return the likelihood of a table with all kinds of values, five rows of it, and outputs of a decoder."""
    spec = DataSpec(name="mixed", shape=(WIDTH,), likelihood="mixed", groups=MIXED, **facts)
    observation = Observation(spec).double()
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in observation.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    columns = [values(group.likelihood, 5).repeat(1, 2)[:, : group.size] for group in MIXED[:8]]
    columns += [torch.eye(3)[[0, 2, 1, 1, 0]], torch.eye(2)[[0, 1, 1, 0, 1]]]
    return observation, Batch(torch.cat(columns, 1).double()), torch.randn(5, observation.outputs).double()


def alone(observation: Observation, position: int) -> Observation:
    """Return the likelihood of one group of a mixed table by itself."""
    group = MIXED[position]
    spec = DataSpec(name="alone", shape=(group.size,), likelihood=group.likelihood, groups=(group,))
    single = Observation(spec).double()
    single.families[0].load_state_dict(observation.families[position].state_dict())
    return single


def test_a_mixed_likelihood_is_that_of_its_groups_one_by_one() -> None:
    observation, batch, output = mixed()
    sizes = [group.size for group in MIXED]
    numbers = [2 * group.size if group.likelihood == "zero-inflated" else group.size for group in MIXED]
    assert observation.outputs == sum(numbers)
    each = observation.nll_each(batch, output).split(sizes, 1)
    means = observation.mean(output).split(sizes, 1)
    for i, (x, part) in enumerate(zip(batch.x.split(sizes, 1), output.split(numbers, 1), strict=True)):
        single = alone(observation, i)
        torch.testing.assert_close(each[i], single.nll_each(Batch(x), part))
        torch.testing.assert_close(means[i], single.mean(part))
    draws = observation.sample_x(output).split(sizes, 1)
    assert all((draws[i] > 0).all() for i in (2, 3))
    assert all(torch.equal(draws[i], draws[i].round()) for i in range(4, 10))
    assert all((draws[i].sum(1) == 1).all() for i in (8, 9))


def test_offsets_are_added_to_the_output() -> None:
    observation, batch, output = mixed()
    plain = tuple(Group(likelihood=group.likelihood, size=group.size, spread=group.spread) for group in MIXED)
    without = Observation(DataSpec(name="mixed", shape=(WIDTH,), likelihood="mixed", groups=plain)).double()
    without.load_state_dict(observation.state_dict())
    offsets = [
        [*(group.offset or [0.0] * group.size), *[0.0] * (group.size * (group.likelihood == "zero-inflated"))]
        for group in MIXED
    ]
    moved = output + torch.tensor([number for group in offsets for number in group])
    torch.testing.assert_close(observation.nll_each(batch, output), without.nll_each(batch, moved))
    torch.testing.assert_close(observation.mean(output), without.mean(moved))


@pytest.mark.parametrize("hidden", [0.0, math.nan, math.inf, -5.0])
@pytest.mark.parametrize("exposure", ["", "sum", "column"])
def test_missing_values_count_nothing_whatever_stands_in_their_place(hidden: float, exposure: str) -> None:
    """They change neither the likelihood nor a gradient. One row has no observed value, and one no observed count."""
    observation, batch, output = mixed(exposure=exposure, exposures=(1.0, 2.0, 3.0))
    observed = torch.rand(5, WIDTH, generator=torch.Generator().manual_seed(4)) > 0.4
    observed[:, -5:] = observed[:, [-5, -5, -5, -1, -1]]  # a category is missing as a whole
    observed[3], observed[4, 6:11] = False, False
    given = torch.tensor([9.0, 4.0, 30.0, 0.0, 0.0]).double() if exposure else None
    results = []
    for stand_in in (0.0, hidden):
        x = torch.where(observed, batch.x, stand_in)
        decoded = output.clone().requires_grad_()
        nll = observation.nll_each(Batch(x, observed=observed, exposure=given), decoded)
        slopes = torch.autograd.grad(nll.sum(), [decoded, *observation.parameters()], materialize_grads=True)
        results.append((nll, *slopes))
    nll, slope = results[1][:2]
    assert (nll[~observed] == 0).all()
    assert (nll[:, :-5][observed[:, :-5]] != 0).all()
    assert all(torch.equal(a, b) and b.isfinite().all() for a, b in zip(*results, strict=True))
    assert (slope[3] == 0).all()
    if not exposure:
        complete = observation.nll_each(batch, output)
        torch.testing.assert_close(nll[observed], complete[observed])


def counts(likelihood: Likelihood, exposure: str) -> tuple[Observation, Tensor, Tensor, Tensor]:
    """Return a likelihood of counts given an exposure, four rows of counts, their exposure, and outputs."""
    observation = observe(likelihood, exposure=exposure, exposures=tuple(np.linspace(10, 30, 21).tolist()))
    x = torch.tensor([[3.0, 0, 5], [0, 0, 1], [10, 2, 0], [0, 0, 0]]).double()
    return observation, x, x.sum(1), outputs(likelihood, 4)


def test_poisson_counts_given_their_sum_are_multinomial_and_a_poisson_sum() -> None:
    observation, x, total, output = counts("poisson", "sum")
    log_p = -observation.nll(Batch(x, exposure=total), output)[:3]
    shares = output.softmax(1).numpy()
    multinomial = [stats.multinomial.logpmf(x[i].numpy(), int(total[i]), shares[i]) for i in range(3)]
    expected = np.array(multinomial) + stats.poisson.logpmf(total[:3].numpy(), total[:3].numpy())
    np.testing.assert_allclose(log_p.numpy(), expected, rtol=1e-9)


@pytest.mark.parametrize("likelihood", ["poisson", "negative-binomial", "zero-inflated"])
@pytest.mark.parametrize("exposure", ["sum", "column"])
def test_means_of_counts_are_the_exposure_times_shares_or_rates(likelihood: Likelihood, exposure: str) -> None:
    observation, x, total, output = counts(likelihood, exposure)
    of_means = output[:, :3]
    log_mean = total.clamp(min=1e-6).log()[:, None] + (of_means.log_softmax(1) if exposure == "sum" else of_means)
    batch = Batch(x, exposure=total)
    plain = observe(likelihood)
    as_given = torch.cat([log_mean, output[:, 3:]], 1)
    torch.testing.assert_close(observation.nll_each(batch, output), plain.nll_each(Batch(x), as_given))
    torch.testing.assert_close(observation.mean(output, batch), plain.mean(as_given))
    if exposure == "sum" and likelihood != "zero-inflated":
        torch.testing.assert_close(observation.mean(output, batch).sum(1)[:3], total[:3])


def test_shares_are_of_the_observed_counts() -> None:
    """Their means add up to the exposure, which is the sum of the observed counts."""
    observation, x, _, output = counts("poisson", "sum")
    observed = torch.tensor([[True, True, False]]).expand(4, 3)
    total = x[:, :2].sum(1)
    batch = Batch(torch.where(observed, x, 0.0), observed=observed, exposure=total)
    mean = observation.mean(output, batch)
    torch.testing.assert_close(mean[:, :2].sum(1)[[0, 2]], total[[0, 2]])
    torch.testing.assert_close(mean[:, 2] / mean[:, 0], (output[:, 2] - output[:, 0]).exp())
    pair = DataSpec(name="two", shape=(2,), likelihood="poisson", exposure="sum")
    expected = Observation(pair).nll(Batch(x[:, :2], exposure=total), output[:, :2])
    torch.testing.assert_close(observation.nll(batch, output), expected)


def test_an_exposure_of_a_million_is_finite_and_exact_in_float32() -> None:
    observation = observe("negative-binomial", exposure="sum", exposures=(1e6, 1e6)).float()
    x = torch.tensor([[990_000.0, 10_000, 0], [0, 0, 0]])
    output = torch.tensor([[4.6, 0, -1e4], [0, 0, 0]], requires_grad=True)
    nll = observation.nll_each(Batch(x, exposure=x.sum(1)), output)
    slopes = torch.autograd.grad(nll.sum(), [output, *observation.parameters()])
    assert all(slope.isfinite().all() for slope in slopes)
    r = observation.families[0].log_dispersion.detach().double().exp().numpy()  # type: ignore[operator]
    mean = x[0].sum().double().numpy() * output[0].detach().double().softmax(0).numpy()
    expected = stats.nbinom.logpmf(x[0].numpy(), r, r / (r + mean))
    np.testing.assert_allclose(-nll[0].detach().numpy(), expected, rtol=1e-5, atol=1e-4)


def test_without_a_batch_samples_draw_exposures_and_means_have_the_median() -> None:
    observation, _, _, output = counts("poisson", "sum")
    many = output[:1].expand(20_000, -1)
    torch.testing.assert_close(observation.mean(many).sum(1), torch.full((20_000,), 20.0).double())
    torch.manual_seed(0)
    total = observation.sample_x(many).sum(1)
    # uniform from 10 to 30, and Poisson around it
    assert float(total.mean()) == pytest.approx(20, abs=5 * (400 / 12 + 20) ** 0.5 / 20_000**0.5)
    assert float(total.var()) == pytest.approx(400 / 12 + 20, rel=0.05)
    given = observation.sample_x(many, Batch(many, exposure=torch.full((20_000,), 500.0).double())).sum(1)
    assert float(given.mean()) == pytest.approx(500, abs=5 * 500**0.5 / 20_000**0.5)


def test_a_row_without_any_observed_count_has_the_median_exposure() -> None:
    observation, x, _, output = counts("poisson", "sum")
    none = torch.zeros(4, 3, dtype=torch.bool)
    batch = Batch(torch.zeros_like(x), observed=none, exposure=torch.zeros(4).double())
    torch.testing.assert_close(observation.mean(output, batch), 20 * output.softmax(1))
    assert (observation.nll_each(batch, output) == 0).all()


# --- parameters, and what networks read


@pytest.mark.parametrize("likelihood", ["gaussian", "logistic8"])
@pytest.mark.parametrize("shape", [(4,), (3, 6, 5)])
def test_weights_of_older_versions_with_a_single_scale_load(likelihood: Likelihood, shape: tuple[int, ...]) -> None:
    variant = VAE(VAE.config_type(latent=2, width=4), DataSpec(name="old", shape=shape, likelihood=likelihood))
    weights = variant.state_dict()
    del weights["observation.families.0.log_scale"]
    loaded = VAE(variant.config, variant.spec)
    loaded.load_state_dict({**weights, "observation.log_scale": torch.tensor(-1.25)})
    scale = torch.full((shape[0], *[1] * (len(shape) - 1)), -1.25)
    expected = {**weights, "observation.families.0.log_scale": scale}
    assert loaded.state_dict().keys() == expected.keys()
    assert all(torch.equal(weight, expected[name]) for name, weight in loaded.state_dict().items())


def test_each_column_and_each_channel_has_a_scale() -> None:
    for shape, steps, expected in (((4,), 0, (4,)), ((4,), 9, (4,)), ((3, 6, 5), 0, (3, 1, 1))):
        spec = DataSpec(name="scales", shape=shape, likelihood="gaussian", steps=steps)
        (scale,) = Observation(spec).parameters()
        assert scale.shape == expected
        x = torch.randn(2, *([9] if steps else []), *shape)
        apart = Observation(spec)
        with torch.no_grad():
            next(apart.parameters()).copy_(torch.arange(shape[0]).view(expected))
        axis = 1 if len(shape) == 3 else -1
        each = apart.nll_each(Batch(x), torch.zeros_like(x)).movedim(axis, 0).detach().numpy()
        for i, part in enumerate(x.movedim(axis, 0).numpy()):
            np.testing.assert_allclose(-each[i], stats.norm.logpdf(part, 0, math.exp(i)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", [n for n in variants.names() if "mask" not in variants.get(n).required_fields])
def test_scales_and_dispersions_have_a_learning_rate_of_their_own(name: str) -> None:
    cls = variants.get(name)
    spec = DataSpec(name="mixed", shape=(WIDTH,), likelihood="mixed", groups=MIXED, classes=2)
    variant = cls(cls.config_type(latent=2, width=4, lr=1e-4), spec)
    rates = {id(p): g["lr"] for o in variant.optimizers().values() for g in o.param_groups for p in g["params"]}
    own = {id(p) for p in variant.observation.parameters()}  # type: ignore[union-attr]
    assert {rates[i] for i in own} == {SCALE_LR}
    assert SCALE_LR not in {rate for i, rate in rates.items() if i not in own}


def test_networks_read_logarithms_of_counts_and_of_positive_values() -> None:
    groups = (
        Group(likelihood="gaussian", size=1), Group(likelihood="gamma", size=1, spread=(0.5,)),
        Group(likelihood="poisson", size=1), Group(likelihood="categorical", size=2),
    )  # fmt: skip
    x = torch.tensor([[-1.5, math.e, 6.0, 0.0, 1.0], [2.0, 0.0, 0.0, 1.0, 0.0]])
    expected = torch.tensor([[-1.5, 2.0, math.log(7), 0.0, 1.0], [2.0, 0.0, 0.0, 1.0, 0.0]])
    observed = torch.tensor([[True] * 5, [True, False, True, True, True]])
    x[1, 1] = math.nan
    for missing in (False, True):
        inputs = Inputs(DataSpec(name="few", shape=(5,), likelihood="mixed", groups=groups, missing=missing))
        read = inputs(Batch(x, observed=observed))
        assert read.shape == (2, *inputs.shape) == (2, 10 if missing else 5)
        torch.testing.assert_close(read[:, :5], expected)
        if missing:
            assert torch.equal(read[:, 5:], observed.float())
            assert (inputs(Batch(expected.abs()))[:, 5:] == 1).all()


def test_the_mask_of_images_is_further_channels() -> None:
    spec = DataSpec(name="holes", shape=(3, 4, 5), likelihood="gaussian", missing=True)
    x, observed = torch.randn(2, 3, 4, 5), torch.rand(2, 3, 4, 5) > 0.5
    read = Inputs(spec)(Batch(torch.where(observed, x, torch.nan), observed=observed))
    assert torch.equal(read, torch.cat([torch.where(observed, x, 0.0), observed.float()], 1))


def test_zero_inflated_images_are_refused() -> None:
    with pytest.raises(InputError, match="zero-inflated is for tables and sequences; expected negative-binomial"):
        Observation(DataSpec(name="photons", shape=(1, 4, 4), likelihood="zero-inflated"))
