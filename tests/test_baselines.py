"""The simple baselines of the likelihood are compared with closed forms and with other programs."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import optimize, special, stats
from sklearn.decomposition import PCA

from pipeline.data import Column, Data, Preprocessing, Raw, Source
from pipeline.evaluate import baselines
from pipeline.metrics import Undefined
from variants import DataSpec
from variants.base.contract import KIND_OF, Likelihood

N = 600
RNG = np.random.default_rng(0)
Array = NDArray[Any]


def data_of(x: Array, *families: Likelihood, **facts: Any) -> Data:
    """Split rows 4:1:1 in their order. Several families are those of the columns of a table."""
    columns = tuple(
        Column(str(i), "real", tuple(np.unique(x[:, i])) if family == "categorical" else (), family)
        for i, family in enumerate(families if len(families) > 1 else families * x.shape[-1])
    )
    likelihood = families[0] if len(families) == 1 else "mixed"
    raw = Raw(name="d", source=Source(place="d"), x=x, y=None, likelihood=likelihood,
              columns=columns if x.ndim == 2 else (), **facts)  # fmt: skip
    index = torch.arange(len(x)).split([len(x) * 4 // 6, len(x) // 6, len(x) - len(x) * 4 // 6 - len(x) // 6])
    preprocessing = Preprocessing.fit(raw, index[0])
    whole = preprocessing.encode(raw, is_new=False)
    splits = [whole[i] for i in index]
    return Data(train=splits[0], valid=splits[1], test=splits[2], digest="", preprocessing=preprocessing)


def values(data: Data, name: str) -> Array:
    """log p(x) of each validation example under a baseline, in the units of `Batch.x`."""
    result = baselines.log_p(data, data.valid)[name]
    assert isinstance(result, torch.Tensor), result
    return result.numpy()


def correlated(n: int = N, d: int = 4) -> Array:
    return RNG.standard_normal((n, d)) @ RNG.standard_normal((d, d)) + 3


def with_holes(x: Array, share: float) -> Array:
    return np.where(np.random.default_rng(1).random(x.shape) < share, np.nan, x)


COUNTS = RNG.negative_binomial(2, [0.1, 0.3, 0.5], (N, 3)).astype(float)


def fitted_nbinom(column: Array, test: Array) -> Array:
    def parameters(logs: Array) -> tuple[float, float]:
        r, mean = np.exp(logs)
        return r, r / (r + mean)

    logs = optimize.minimize(
        lambda p: -stats.nbinom.logpmf(column, *parameters(p)).sum(), np.zeros(2), method="Nelder-Mead",
        options={"xatol": 1e-8, "fatol": 1e-8},
    ).x  # fmt: skip
    return np.asarray(stats.nbinom.logpmf(test, *parameters(logs)))


def fitted_zero_inflated(column: Array, test: Array) -> Array:
    def log_p(p: Array, x: Array) -> Array:
        r, mean, share = np.exp(p[0]), np.exp(p[1]), 1 / (1 + np.exp(-p[2]))
        return np.asarray(np.log(share * (x == 0) + (1 - share) * stats.nbinom.pmf(x, r, r / (r + mean))))

    best = optimize.minimize(lambda p: -log_p(p, column).sum(), np.zeros(3), method="Nelder-Mead",
                             options={"xatol": 1e-8, "fatol": 1e-8, "maxiter": 5000}).x  # fmt: skip
    return log_p(best, test)


def fitted_t(column: Array, test: Array) -> Array:
    return np.asarray(stats.t.logpdf(test, *stats.t.fit(column)))


def frequencies(column: Array, test: Array) -> Array:
    share = (column.sum() + 1) / (len(column) + 2)
    return np.asarray(np.where(test > 0, np.log(share), np.log1p(-share)))


SINGLE: dict[Likelihood, tuple[Array, Any]] = {
    "gaussian": (correlated(d=3), lambda a, b: stats.norm.logpdf(b, a.mean(), a.std())),
    "student-t": (RNG.standard_t(4, (N, 3)) * 2 + 1, fitted_t),
    "log-normal": (RNG.lognormal(1, 0.7, (N, 3)), lambda a, b: stats.lognorm.logpdf(b, *stats.lognorm.fit(a, floc=0))),
    "gamma": (RNG.gamma(2.5, 3, (N, 3)), lambda a, b: stats.gamma.logpdf(b, *stats.gamma.fit(a, floc=0))),
    "poisson": (RNG.poisson([1, 5, 30], (N, 3)), lambda a, b: stats.poisson.logpmf(b, a.mean())),
    "negative-binomial": (COUNTS, fitted_nbinom),
    "zero-inflated": (COUNTS * (RNG.random((N, 3)) < 0.6), fitted_zero_inflated),
    "bernoulli": (RNG.random((N, 3)) < 0.3, frequencies),
}


@pytest.mark.parametrize("family", SINGLE)
def test_columns_are_fitted_by_maximum_likelihood_one_by_one(family: Likelihood) -> None:
    """The fits equal those of scipy on the training split, in the units of the model."""
    x, fit = SINGLE[family]
    data = data_of(x, family)
    train, valid = data.train.x.double().numpy(), data.valid.x.double().numpy()
    expected = np.sum([fit(train[:, i], valid[:, i]) for i in range(3)], axis=0)
    changed = replace(data, test=replace(data.test, x=data.test.x * 0))  # which takes no part
    np.testing.assert_allclose(values(changed, "independent"), expected, rtol=5e-3, atol=5e-3)


@pytest.mark.parametrize("family", ["gaussian", "student-t", "negative-binomial"])
def test_all_steps_of_a_channel_have_one_distribution(family: Likelihood) -> None:
    x = SINGLE[family][0]
    steps = values(data_of(x, family), "independent").reshape(-1, 2).sum(1)
    sequences = data_of(x.reshape(-1, 2, 3), family, lengths=np.full(N // 2, 2))
    np.testing.assert_allclose(values(sequences, "independent"), steps, rtol=5e-3, atol=5e-3)


def test_each_column_of_a_mixed_table_has_its_family_and_missing_values_do_not_count() -> None:
    x = np.column_stack([correlated(d=2), RNG.integers(0, 3, N), RNG.random(N) < 0.2, COUNTS[:, 0]])
    x = with_holes(x, 0.3)
    data = data_of(x, "gaussian", "gaussian", "categorical", "bernoulli", "poisson")
    known, scale = ~np.isnan(x), data.preprocessing.scale.numpy()
    train, valid = slice(0, N * 4 // 6), slice(N * 4 // 6, N * 5 // 6)
    expected = np.zeros(N)
    for i in range(5):
        a, b = x[train][known[train, i], i], np.nan_to_num(x[:, i])
        if i < 2:
            log_p = stats.norm.logpdf(b, a.mean(), a.std()) + np.log(scale[i])
        elif i == 2:
            log_p = np.log((np.bincount(a.astype(int)) + 1) / (len(a) + 3))[b.astype(int)]
        else:
            log_p = frequencies(a, b) if i == 3 else stats.poisson.logpmf(b, a.mean())
        expected += np.where(known[:, i], log_p, 0)
    np.testing.assert_allclose(values(data, "independent"), expected[valid], rtol=1e-3, atol=5e-3)


@pytest.mark.parametrize("likelihood", [
    "bernoulli", "gaussian", "logistic8", "mixture8", "continuous-bernoulli", "poisson", "categorical",
])  # fmt: skip
def test_pixels_and_channels_are_fitted_too(likelihood: Likelihood) -> None:
    """Each pixel has its own distribution, and all steps of sequences share one; padding does not count."""
    grey = RNG.integers(0, 256, (N, 2, 4, 4)).astype(np.uint8)
    if likelihood == "categorical":
        lengths = RNG.integers(2, 5, N)
        x = np.eye(3, dtype=bool)[RNG.choice(3, (N, 4), p=[0.6, 0.3, 0.1])]
        x &= (np.arange(4) < lengths[:, None])[..., None]
        data = data_of(x, likelihood, lengths=lengths)
        shares = np.log((x[:400].sum((0, 1)) + 1) / (lengths[:400].sum() + 3))
        np.testing.assert_allclose(values(data, "independent"), (x[400:500] * shares).sum((1, 2)), rtol=1e-6)
        return
    means = np.arange(32).reshape(2, 4, 4)
    counts = np.random.default_rng(2).poisson(means, grey.shape).astype(np.float32)
    x = {
        "bernoulli": grey > 180, "gaussian": grey / 255.0, "logistic8": grey, "mixture8": grey, "poisson": counts,
        "continuous-bernoulli": (grey / 255.0) ** (0.5 + means / 8),
    }[likelihood]  # fmt: skip
    data = data_of(x, likelihood)
    log_p = values(data, "independent")
    train, valid = data.train.x.double().numpy(), data.valid.x.double().numpy()
    if likelihood == "bernoulli":
        shares = (train.sum(0) + 1) / (len(train) + 2)
        np.testing.assert_allclose(log_p, stats.bernoulli.logpmf(valid, shares).sum((1, 2, 3)), rtol=1e-6)
    elif likelihood == "poisson":
        fitted = (train.sum(0) + 0.5) / len(train)
        np.testing.assert_allclose(log_p, stats.poisson.logpmf(valid, fitted).sum((1, 2, 3)), rtol=1e-6)
    elif likelihood == "gaussian":
        scale = np.sqrt(train.var(0).mean((1, 2), keepdims=True))
        np.testing.assert_allclose(log_p, stats.norm.logpdf(valid, train.mean(0), scale).sum((1, 2, 3)), rtol=1e-5)
    elif likelihood == "continuous-bernoulli":
        sums, n = train.sum(0) + 0.5, len(train) + 1  # smoothed, as frequencies are

        def nll(logit: float, total: float) -> float:
            log_normaliser = np.log(np.expm1(abs(logit)) / abs(logit)) + min(logit, 0)
            return float(n * log_normaliser - logit * total)

        fits = [optimize.minimize_scalar(nll, bounds=(-50, 50), args=(total,)) for total in sums.ravel()]
        logits = np.array([fit.x for fit in fits]).reshape(sums.shape)
        normalisers = np.log(np.expm1(abs(logits)) / abs(logits)) + np.minimum(logits, 0)
        np.testing.assert_allclose(log_p, (valid * logits - normalisers).sum((1, 2, 3)), rtol=5e-3)
    else:  # the values are uniform, and a wide logistic distribution is nearly so
        assert log_p.mean() / 32 == pytest.approx(-np.log(256), abs=0.25)


def test_a_joint_gaussian_is_that_of_scipy() -> None:
    data = data_of(correlated(), "gaussian")
    train, valid = data.train.x.double().numpy(), data.valid.x.double().numpy()
    expected = stats.multivariate_normal(train.mean(0), np.cov(train.T, bias=True)).logpdf(valid)
    np.testing.assert_allclose(values(data, "gaussian"), expected, rtol=1e-6)


def test_positive_values_enter_a_joint_gaussian_as_logarithms() -> None:
    """The Jacobian makes it a density of the values. Values of other kinds are independent."""
    logs = correlated(d=3) / 3
    x = np.column_stack([logs[:, 0], np.exp(logs[:, 1:]), RNG.random(N) < 0.4])
    data = data_of(x, "gaussian", "log-normal", "log-normal", "bernoulli")
    train, valid = (part.x.double().numpy()[:, :3] for part in (data.train, data.valid))
    train[:, 1:], valid[:, 1:] = np.log(train[:, 1:]), np.log(valid[:, 1:])
    expected = stats.multivariate_normal(train.mean(0), np.cov(train.T, bias=True)).logpdf(valid)
    expected += frequencies(x[:400, 3], x[400:500, 3]) - valid[:, 1:].sum(1)
    np.testing.assert_allclose(values(data, "gaussian"), expected, rtol=1e-5, atol=1e-5)


def test_a_joint_gaussian_with_missing_values_maximises_the_likelihood_of_the_observed_ones() -> None:
    """A general optimizer finds nothing better than the fit, and examples are scored by their observed values."""
    data = data_of(with_holes(correlated(2000), 0.4), "gaussian")
    joint = baselines.fit_gaussian(data)
    assert isinstance(joint, baselines.GaussianOfValues)
    mean, covariance = joint.mean.numpy(), joint.covariance.numpy()
    x, known = data.valid.x.double().numpy(), data.valid.observed
    assert known is not None
    expected = [
        stats.multivariate_normal(mean[k], covariance[np.ix_(k, k)]).logpdf(row[k]) if k.any() else 0.0
        for row, k in zip(x, known.numpy(), strict=True)
    ]
    np.testing.assert_allclose(values(data, "gaussian"), expected, rtol=1e-6, atol=1e-9)
    root = torch.linalg.cholesky(joint.covariance)
    parameters = [joint.mean.clone().requires_grad_(), root.contiguous().requires_grad_()]
    fitted = float(joint.log_p(data.train).mean())
    optimizer = torch.optim.LBFGS(parameters, max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> float:
        optimizer.zero_grad()
        covariance = parameters[1] @ parameters[1].T
        value = -replace(joint, mean=parameters[0], covariance=covariance).log_p(data.train).mean()
        value.backward()
        return float(value.detach())

    optimizer.step(loss)
    assert -0.1 < fitted + loss() < 0.005  # the optimizer gains less than .005 nats
    parameters[0].data += 0.3
    assert fitted + loss() > 0.02  # another mean is worse


def test_probabilistic_pca_is_that_of_scikit_learn() -> None:
    data = data_of(correlated(d=6), "gaussian")
    train, valid = data.train.x.double().numpy(), data.valid.x.double().numpy()
    for latent in (1, 3):
        result = baselines.ppca(data, data.valid, latent)
        assert isinstance(result, torch.Tensor)
        expected = PCA(latent, svd_solver="full").fit(train).score_samples(valid)
        np.testing.assert_allclose(result.numpy(), expected, rtol=0.02)  # its covariance is divided by N - 1
    result = baselines.ppca(data, data.valid, 50)
    assert isinstance(result, torch.Tensor)
    np.testing.assert_allclose(result.numpy(), values(data, "gaussian"), rtol=1e-9)


@pytest.mark.parametrize("share", [0.0, 0.3])
def test_a_multinomial_is_that_of_scipy_also_for_observed_counts_alone(share: float) -> None:
    x = with_holes(RNG.poisson(RNG.gamma(2, 3, 12), (N, 12)).astype(float), share)
    data = data_of(x, "poisson", exposure_kind="sum")
    known, counts = ~np.isnan(x), np.nan_to_num(x)

    def nll(logits: Array) -> float:
        log_shares = logits - special.logsumexp(np.where(known[:400], logits, -np.inf), 1, keepdims=True)
        return float(-(counts[:400] * log_shares).sum())

    rates = np.exp(optimize.minimize(nll, np.log(counts[:400].sum(0))).x)
    expected = [
        stats.multinomial(int(row[k].sum()), rates[k] / rates[k].sum()).logpmf(row[k])
        for row, k in zip(x[400:500], known[400:500], strict=True)
    ]
    np.testing.assert_allclose(values(data, "multinomial"), expected, rtol=1e-2, atol=1e-2)
    assert values(data, "multinomial").mean() > values(data, "independent").mean()  # it knows the sum


def test_the_sum_of_all_counts_is_estimated_where_some_are_missing() -> None:
    """One column has half of all counts, so that the sum of the others says little; another one is never known."""
    shares = np.array([0.5] + [0.05] * 10)
    x = with_holes(RNG.multinomial(200, shares, N).astype(float), 0.5)
    data = data_of(np.hstack([x, np.full((N, 1), np.nan)]), "poisson", exposure_kind="sum")
    assert data.spec.exposures[10] == pytest.approx(200 * 12 / 11, rel=0.03)
    rates = np.exp(data.spec.groups[0].offset)
    np.testing.assert_allclose(rates[:11] / rates[:11].sum(), shares, atol=0.01)


def test_a_column_that_is_constant_in_training_keeps_its_unit() -> None:
    """The standard deviation of equal values may differ from 0 by rounding, and is no unit."""
    x = np.abs(correlated()) + 0.1
    x[:400, 2:] = 0.1
    for family in ("gaussian", "log-normal"):
        data = data_of(x, *[family] * 3, "gaussian")
        assert data.preprocessing.scale[3] == 1
        assert data.test.x.abs().max() < 1000
        assert all(1e-6 < spread <= 10 for group in data.spec.groups for spread in group.spread)


def test_counts_given_their_sum_are_fitted_with_it() -> None:
    """Rows differ only in their sums: a multinomial given the sum fits; without the sum, counts are overdispersed."""
    x = RNG.poisson(RNG.gamma(1, 50, (N, 1)) * RNG.dirichlet(np.ones(10)), (N, 10)).astype(float)
    given, alone = (data_of(x, "negative-binomial", exposure_kind=kind) for kind in ("sum", ""))
    poisson = data_of(x, "poisson", exposure_kind="sum")
    mean = values(given, "independent").mean()
    assert mean > values(alone, "independent").mean() + 5
    assert mean == pytest.approx(values(poisson, "independent").mean(), abs=0.3)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (data_of(COUNTS, "poisson"), "for 2 to 500 real values; d has 0"),
        (data_of(RNG.random((N, 1)), "gaussian"), "d has 1"),
        (data_of(RNG.random((30, 600)), "gaussian"), "d has 600"),
        (data_of(RNG.random((30, 40)), "gaussian"), "20 training examples are too few for a covariance matrix of 40"),
        (data_of(RNG.random((30, 5, 2)), "gaussian", lengths=np.full(30, 5)), "not for sequences"),
    ],
)
def test_a_baseline_that_is_not_defined_has_a_reason(data: Data, reason: str) -> None:
    result = baselines.log_p(data, data.valid)
    for value in (result["gaussian"], result["multinomial"], baselines.ppca(data, data.valid, 2)):
        assert isinstance(value, Undefined)
    assert isinstance(result["gaussian"], Undefined)
    assert reason in result["gaussian"].reason
    assert baselines.means(result).keys() == {"independent"}


def test_columns_that_repeat_each_other_have_a_finite_density() -> None:
    x = correlated(d=3)
    data = data_of(np.column_stack([x, x[:, 0]]), "gaussian")
    assert np.isfinite(values(data, "gaussian")).all()


def test_every_family_has_a_baseline() -> None:
    assert set(SINGLE) | {"categorical", "logistic8", "mixture8", "continuous-bernoulli"} == set(KIND_OF)


def test_the_verdict_names_the_best_baseline_that_a_model_does_not_beat() -> None:
    spec = DataSpec(name="d", shape=(4,), likelihood="gaussian")
    titles = baselines.titled({"baseline/valid_independent": -12.3, "baseline/valid_gaussian": -9.0, "x": 1.0}, spec)
    assert titles == {"independent columns": -12.3, "a Gaussian with full covariance": -9.0}
    words = "no better than trivial (a Gaussian with full covariance: -9.00 nats)"
    assert baselines.verdict(-9.0, titles) == baselines.verdict(-11.0, titles) == words
    assert baselines.verdict(-8.9, titles) == baselines.verdict(-8.9, {}) == ""
    errors = {"independent columns": 9.0, "a Gaussian with full covariance": 0.1}
    assert baselines.verdict(-8.81, titles, errors) == words  # by 1.9 standard errors
    assert baselines.verdict(-8.79, titles, errors) == ""
