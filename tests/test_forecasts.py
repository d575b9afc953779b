"""Forecasts whose errors are known by mathematics, the baselines beside them, and what is said about them in words."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import norm
from torch import Tensor

from pipeline.data import Data, Preprocessing, Source
from pipeline.data._raw import Column
from pipeline.evaluate import forecasts, simple_forecasts
from pipeline.evaluate.estimates import Estimate
from pipeline.evaluate.forecasts import Forecasts
from pipeline.evaluate.simple_forecasts import Halves
from pipeline.metrics import Undefined, defined
from variants import Batch, DataSpec
from variants.base.contract import Group
from variants.vae import VAE

Draws = Callable[[Tensor, Tensor, int], Tensor]
STEPS = 100


class Forecaster(VAE):
    """Continues sequences as a function of x (B, T, D), the prefixes (B,) and k says."""

    draws: Draws

    def forecast(self, batch: Batch, prefix: Tensor, k: int = 1, *, noise: bool = False) -> Tensor | None:
        assert noise
        return self.draws(batch.x, prefix, k)


def forecaster(draws: Draws) -> Forecaster:
    made = Forecaster(VAE.config_type(width=4, latent=1), DataSpec(name="x", shape=(1,), likelihood="gaussian"))
    made.draws = draws
    return made


def repeated(change: Callable[[Tensor], Tensor]) -> Draws:
    """Draws that all are equal to a change of the true values."""
    return lambda x, prefix, k: change(x).expand(k, *x.shape)


def sequences(
    *splits: Batch, scale: float = 1.0, groups: tuple[Group, ...] = (), columns: tuple[Column, ...] = ()
) -> Data:
    """Data with three splits, or with the same one three times."""
    train, valid, test = splits * (3 // len(splits))
    shape, family = (train.x.shape[2],), "mixed" if groups else "gaussian"
    spec = DataSpec(name="sequences", shape=shape, likelihood=family, steps=train.x.shape[1], groups=groups)  # type: ignore[arg-type]
    return Data(
        train=train, valid=valid, test=test, digest="",
        preprocessing=Preprocessing(
            spec=spec, layout="lines", source=Source(place="mine"), columns=columns,
            scale=torch.full((len(columns) or shape[0],), scale, dtype=torch.float64),
            order=tuple(range(len(columns))),
        ),
    )  # fmt: skip


def whole(x: Any, known: Any = None) -> Batch:
    """Sequences (N, T) or (N, T, D) of equal length."""
    values = torch.as_tensor(np.asarray(x), dtype=torch.float32)
    values = values[..., None] if values.ndim == 2 else values
    observed = None if known is None else torch.as_tensor(known).view_as(values)
    return Batch(values, mask=torch.ones(values.shape[:2], dtype=torch.bool), observed=observed)


def scored(draws: Draws, data: Data, k: int = 2) -> Forecasts:
    return defined(forecasts.forecast(forecaster(draws), data, data.test, k))


def rows(found: Forecasts, **wanted: str) -> list[dict[str, Any]]:
    """The rows of the table with these entries."""
    table = found.table()
    lines = [dict(zip(table, values, strict=True)) for values in zip(*table.values(), strict=True)]
    return [line for line in lines if wanted.items() <= line.items()]


def halves(x: np.ndarray, known: np.ndarray | None = None) -> Halves:
    known = np.ones(x.shape, bool) if known is None else known
    return Halves(values=x[..., None], known=known[..., None], lengths=np.full(len(x), x.shape[1]))


def reason(value: object) -> str:
    assert isinstance(value, Undefined), value
    return value.reason


def random_walks(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, STEPS)).cumsum(axis=1)


def sines(n: int, drift: float = 0.0, noise: float = 0.0, period: int = 12, seed: int = 0) -> np.ndarray:
    rng, t = np.random.default_rng(seed), np.arange(STEPS)
    phases = rng.integers(0, period, (n, 1))
    return np.asarray(np.sin(2 * np.pi * (t + phases) / period) + drift * t + noise * rng.normal(size=(n, STEPS)))


def first_order(n: int, slope: float, seed: int = 0) -> np.ndarray:
    """Stationary autoregressive series of the first order, whose innovations have the standard deviation 1."""
    rng = np.random.default_rng(seed)
    x: np.ndarray = np.empty((n, STEPS))
    x[:, 0] = rng.normal(size=n) / math.sqrt(1 - slope**2)
    for t in range(1, STEPS):
        x[:, t] = slope * x[:, t - 1] + rng.normal(size=n)
    return x


def test_forecasts_are_scored_on_the_second_half_in_the_units_of_the_data() -> None:
    mask = torch.arange(5) < torch.tensor([[4], [5]])
    x = torch.tensor([[1.0, 2, 4, 7, 99], [0, 1, 2, 3, 5]])[..., None]
    data = sequences(Batch(x, mask=mask), scale=2.0)
    found = scored(repeated(lambda x: x + 1), data)
    scores = found.scores()
    # steps ahead: 4 and 7 after 2; 3 and 5 after 2; the means of the steps are 3, 5 and 5
    assert scores["model"] == pytest.approx((2, 0))
    assert scores["persistence"].value == pytest.approx(2 * math.sqrt((4 + 25 + 1 + 9) / 4))  # type: ignore[union-attr]
    assert scores["mean"].value == pytest.approx(2 * math.sqrt((1 + 4 + 4 + 0) / 4))  # type: ignore[union-attr]
    # the naive forecasts within the series have the absolute errors 1, 2, 3; 1, 1, 1, 2
    assert scores["mase"] == pytest.approx((1 / (11 / 7), 0))
    assert reason(scores["seasonal"]).startswith("no season was found")
    assert [line["horizon"] for line in rows(found, method="model")] == ["all", "1", "2"]
    one, two = rows(found, method="persistence")[1:]
    assert one["rmse"] == pytest.approx(2 * math.sqrt(5 / 2)) and two["mae"] == pytest.approx(2 * (5 + 3) / 2)
    assert one["n"] == two["n"] == 2


def test_forecasts_are_scored_where_values_are_known() -> None:
    """Persistence repeats the last known value; a missing value neither counts nor is repeated."""
    gaps = np.array([[1, 0, 1, 0], [1, 1, 1, 1]]) > 0
    split = whole([[3.0, 0, 5, 0], [1, 2, 4, 6]], gaps)
    scores = scored(repeated(lambda x: x + 1), sequences(split)).scores()
    assert scores["model"].value == pytest.approx(1)  # type: ignore[union-attr]
    # 5 after 3, and 4 and 6 after 2; 4.5 and 6 are the means of the steps
    assert scores["persistence"].value == pytest.approx(math.sqrt((4 + 4 + 16) / 3))  # type: ignore[union-attr]
    assert scores["mean"].value == pytest.approx(math.sqrt((0.25 + 0.25 + 0) / 3))  # type: ignore[union-attr]


def test_there_is_a_reason_where_no_forecast_can_be_scored() -> None:
    split = whole([[3.0, 0, 5, 0], [1, 2, 4, 6]])
    data, model = sequences(split), forecaster(repeated(lambda x: x))
    assert reason(forecasts.forecast(model, data, Batch(split.x))) == "sequences holds no sequences"
    single = Batch(split.x, mask=torch.arange(4).expand(2, 4) < 1)
    assert "no value of the second half" in reason(forecasts.forecast(model, sequences(single), single))
    silent = forecaster(lambda x, prefix, k: None)  # type: ignore[arg-type,return-value]
    assert reason(forecasts.forecast(silent, data, split)) == "Forecaster makes no forecasts of sequences"


def test_persistence_is_not_beaten_on_random_walks_and_this_is_said() -> None:
    """Its root mean square error h steps ahead is sqrt(h) times the deviation of a step."""
    data = sequences(*(whole(random_walks(n, n)) for n in (100, 40, 400)), scale=3.0)
    rng = torch.Generator().manual_seed(0)

    def near_persistence(x: Tensor, prefix: Tensor, k: int) -> Tensor:
        last = x[:, STEPS // 2 - 1 : STEPS // 2]
        return (last + 0.5 * torch.randn(len(x), 1, 1, generator=rng)).expand(k, *x.shape)

    found = scored(near_persistence, data)
    for line in rows(found, method="persistence")[1:]:
        first, _, last = line["horizon"].partition("-")
        wanted = 3 * math.sqrt(np.arange(int(first), int(last or first) + 1).mean())
        assert abs(line["rmse"] - wanted) < 4 * line["rmse_error"] < wanted
    remark = found.remark()
    assert remark.startswith("in forecasts, no season was found in the training data")
    assert "the forecasts of the model are no better than persistence" in remark or "autoregression" in remark
    assert "difference of the mean squares" in remark


def test_a_model_that_is_better_than_all_baselines_is_not_called_trivial() -> None:
    data = sequences(*(whole(random_walks(n, n)) for n in (60, 30, 50)))
    assert "no better" not in scored(repeated(lambda x: x + 0.1), data).remark()
    assert "no better" in scored(repeated(lambda x: x + 100), data).remark()


def test_windows_of_one_series_are_no_independent_evidence() -> None:
    alone, five = (sequences(whole(np.repeat(random_walks(12), k, axis=0))) for k in (1, 5))

    def found(data: Data, series: Tensor | None) -> Forecasts:
        model = forecaster(repeated(lambda x: x + (9 * x).sin()))
        return defined(forecasts.forecast(model, data, data.test, 2, series=series))

    numbers = torch.arange(12).repeat_interleave(5)
    one, many = found(alone, None), found(five, numbers)
    assert one.scores()["model"] == pytest.approx(many.scores()["model"])
    assert rows(one, method="model")[0]["n"] == rows(many, method="model")[0]["n"] == many.n == 12
    only = found(five, 0 * numbers)
    assert only.scores()["model"] == (many.scores()["model"].value, None)  # type: ignore[union-attr]
    assert "no standard errors" in only.remark() and "no better" not in only.remark()


@pytest.mark.parametrize(("gains", "is_better"), [((3.0, -2.5), False), ((0.3, 0.2), True)])
def test_a_mean_gain_within_its_error_is_no_gain(gains: tuple[float, float], is_better: bool) -> None:
    """Both model's mean square errors are 0.25 below that of persistence, the best baseline."""
    found = scored(repeated(lambda x: x), sequences(whole(random_walks(10))))
    gain = np.tile(gains, 5)[:, None, None]
    of_persistence = np.full(found.known.shape, 4.0)
    squared = {name: np.full(found.known.shape, 9.0) for name in found.squared}
    found = replace(found, squared=squared | {"persistence": of_persistence, "model": of_persistence - gain})
    assert ("no better than persistence" in found.remark()) != is_better


def test_a_sine_with_drift_is_forecast_exactly_by_an_autoregression_and_but_for_the_drift_by_its_season() -> None:
    data = sequences(*(whole(sines(n, drift=0.05, seed=n)) for n in (30, 10, 20)))
    found = scored(repeated(lambda x: x), data)
    scores = found.scores()
    seasons = np.ceil(np.arange(1, STEPS // 2 + 1) / 12)
    assert scores["seasonal"].value == pytest.approx(0.05 * 12 * math.sqrt((seasons**2).mean()), rel=1e-3)  # type: ignore[union-attr]
    assert scores["autoregression"].value < 1e-3  # type: ignore[union-attr]
    assert "a season of 12 steps was found in the training data" in found.remark()
    (line,) = rows(found, method="seasonal", horizon="1")
    assert line["mase"] == pytest.approx(1, rel=1e-3)  # within the training series, its error is the drift of a season


@pytest.mark.parametrize(("series", "wanted"), [
    (lambda: sines(5), 12), (lambda: sines(40, drift=3.0, noise=0.3), 12),
    (lambda: sines(40, noise=0.7, period=30), 30), (lambda: np.tile([0.0, 1.0], (4, STEPS // 2)), 2),
    (lambda: random_walks(40), 0), (lambda: random_walks(1), 0),
    (lambda: np.random.default_rng(0).normal(size=(40, STEPS)), 0), (lambda: first_order(40, 0.9), 0),
    (lambda: np.linspace(0, [[1], [2]], STEPS, axis=1)[..., 0], 0), (lambda: np.ones((3, STEPS)), 0),
    (lambda: sines(5, period=80), 0),  # a series has no two of these
])  # fmt: skip
def test_a_season_is_found_where_there_is_one(series: Callable[[], np.ndarray], wanted: int) -> None:
    x = series()
    assert simple_forecasts.season(halves(x), [0], np.ones(1)) == wanted
    known = np.random.default_rng(1).random(x.shape) < 0.8
    assert simple_forecasts.season(halves(np.where(known, x, 1e6), known), [0], np.ones(1)) == wanted


def test_squared_differences_are_those_of_known_pairs() -> None:
    rng = np.random.default_rng(0)
    x, known = rng.normal(size=(3, 7)), rng.random((3, 7)) < 0.7
    sums, counts = simple_forecasts.squared_differences(x, known)
    for m in range(7):
        both = known[:, m:] & known[:, : 7 - m]
        assert counts[m] == both.sum()
        assert sums[m] == pytest.approx(((x[:, m:] - x[:, : 7 - m]) ** 2)[both].sum(), abs=1e-9)


def test_draws_of_the_true_distribution_are_calibrated_and_an_autoregression_comes_close() -> None:
    """Of x[t] = a x[t-1] + e, the forecast is a^h x, with the variance (1 - a^2h) / (1 - a^2)."""
    slope, h = 0.8, np.arange(1, STEPS // 2 + 1)
    deviation = np.sqrt((1 - slope ** (2 * h)) / (1 - slope**2))
    data = sequences(*(whole(first_order(n, slope, seed=n)) for n in (300, 50, 150)))
    rng = torch.Generator().manual_seed(0)

    def exact(x: Tensor, prefix: Tensor, k: int) -> Tensor:
        drawn = x.repeat(k, 1, 1, 1)
        mean = torch.as_tensor(slope**h).float()[:, None] * x[:, STEPS // 2 - 1 : STEPS // 2]
        noise = torch.randn(k, len(x), len(h), 1, generator=rng) * torch.as_tensor(deviation).float()[:, None]
        drawn[:, :, STEPS // 2 :] = mean + noise
        return drawn

    found = scored(exact, data, k=50)
    scores = found.scores()
    coverage, crps = scores["coverage"], scores["crps"]
    assert isinstance(coverage, Estimate) and coverage.error and isinstance(crps, Estimate) and crps.error
    assert abs(coverage.value - 0.8) < 3 * coverage.error < 0.03
    assert abs(crps.value - (deviation / math.sqrt(math.pi)).mean()) < 3 * crps.error
    model, fitted = scores["model"], scores["autoregression"]
    assert isinstance(model, Estimate) and isinstance(fitted, Estimate) and model.error
    assert abs(model.value - math.sqrt((deviation**2).mean() * (1 + 1 / 50))) < 3 * model.error
    assert fitted.value == pytest.approx(model.value, rel=0.02)
    assert "no better than a linear autoregression" in found.remark() and "intervals" not in found.remark()
    narrow = scored(lambda x, prefix, k: x.repeat(k, 1, 1, 1) + 0.1 + 0.01 * torch.rand(k, *x.shape), data, k=9)
    assert "the central 80% intervals of its forecasts contain 0% of the values" in narrow.remark()


def test_scores_of_normal_draws_are_the_closed_forms() -> None:
    """The score of a normal distribution is that of Gneiting & Raftery 2007, equation 5."""
    rng, mean, deviation = np.random.default_rng(0), 2.0, 3.0
    truth = np.array([-4.0, 1.0, 2.0, 9.0])
    drawn = rng.normal(mean, deviation, (30, 4000, 4))
    found = {
        name: values.mean(axis=0) for name, values in forecasts.scores_of_draws(drawn, truth + 0 * drawn[0]).items()
    }
    z = (truth - mean) / deviation
    wanted = deviation * (z * (2 * norm.cdf(z) - 1) + 2 * norm.pdf(z) - 1 / math.sqrt(math.pi))
    np.testing.assert_allclose(found["crps"], wanted, atol=0.03)
    np.testing.assert_allclose(found["error"], mean - truth, atol=0.03)
    known = rng.normal(mean, deviation, (4000, 4))
    assert forecasts.scores_of_draws(drawn, known)["coverage"].mean() == pytest.approx(0.8, abs=0.01)
    width = 2 * norm.ppf(0.9) * deviation
    np.testing.assert_allclose(found["width"], width, rtol=0.1)


def test_channels_of_several_kinds_are_scored_each_by_its_own_rule() -> None:
    """A real channel, a binary one and a category, in the order of the source: category, real, binary."""
    rng = np.random.default_rng(0)
    n, steps = 40, 20
    real, binary, category = rng.normal(size=(n, steps)), rng.integers(0, 2, (n, steps)), rng.integers(0, 3, (n, steps))
    x = np.concatenate([real[..., None], binary[..., None], np.eye(3)[category]], axis=2)
    groups = (Group(likelihood="gaussian", size=1), Group(likelihood="bernoulli", size=1),
              Group(likelihood="categorical", size=3))  # fmt: skip
    columns = (
        Column("sky", "category", ("sun", "rain", "snow"), "categorical"), Column("heat", "real", (), "gaussian"),
        Column("open", "binary", (), "bernoulli"),
    )  # fmt: skip
    data = sequences(whole(x), groups=groups, columns=columns)
    object.__setattr__(data.preprocessing, "order", (1, 2, 0))
    object.__setattr__(data.preprocessing, "scale", torch.tensor([1.0, 10.0, 1.0], dtype=torch.float64))
    found = scored(repeated(lambda x: 0.5 * x), data)
    lines = {line["channel"]: line for line in rows(found, method="model", horizon="all")}
    assert list(lines) == ["all channels", "sky", "heat", "open"]
    ahead = slice(10, None)
    assert lines["heat"]["rmse"] == pytest.approx(5 * math.sqrt((real[:, ahead] ** 2).mean()), rel=1e-5)
    assert lines["heat"]["mae"] == pytest.approx(5 * np.abs(real[:, ahead]).mean(), rel=1e-5)
    assert lines["open"]["rmse"] == pytest.approx(0.5 * math.sqrt(binary[:, ahead].mean()), rel=1e-5)
    assert lines["sky"]["rmse"] == pytest.approx(0.5)
    of_numbers = ("mae", "mase", "coverage", "width", "crps")
    assert all(lines["sky"][name] is None and lines["open"][name] is None for name in of_numbers)
    squares = [lines["sky"]["rmse"] ** 2, (lines["heat"]["rmse"] / (10 * real.std())) ** 2, lines["open"]["rmse"] ** 2]
    assert lines["all channels"]["rmse"] == pytest.approx(math.sqrt(np.mean(squares)), rel=1e-3)
    assert lines["all channels"]["mae"] == pytest.approx(lines["heat"]["mae"] / (10 * real.std()), rel=1e-3)
    (persistent,) = rows(found, method="persistence", horizon="all", channel="sky")
    changes = (category[:, ahead] != category[:, 9:10]).mean()
    assert persistent["rmse"] == pytest.approx(math.sqrt(2 * changes))


def test_each_channel_has_its_own_season_and_its_own_verdict() -> None:
    x = [np.stack([sines(n, noise=0.1, seed=n), random_walks(n, n)], axis=2) for n in (40, 20, 60)]
    data = sequences(*map(whole, x))

    def half_right(x: Tensor, prefix: Tensor, k: int) -> Tensor:
        return torch.cat([x[..., :1] + 0.01, 0 * x[..., 1:] + 30.0], 2).expand(k, *x.shape)

    remark = scored(half_right, data).remark()
    assert "seasons were found in the training data: 12 steps (x0); none in x1" in remark
    assert "the forecasts of the model are no better than" in remark  # of all channels together

    def nearly_right(x: Tensor, prefix: Tensor, k: int) -> Tensor:
        return torch.cat([x[..., :1] + 0.5, x[..., 1:] + 0.1], 2).expand(k, *x.shape)

    assert (
        "in some channels, the model forecasts no better than the best of the others: x0"
        in scored(nearly_right, data).remark()
    )


def test_the_mean_of_each_step_is_used_where_it_is_better_on_validation_series() -> None:
    t = np.arange(STEPS) / STEPS
    rng = np.random.default_rng(0)
    aligned = [5 * t + rng.normal(size=(n, STEPS)) for n in (50, 20, 40)]
    found = scored(repeated(lambda x: x + 9), sequences(*map(whole, aligned)))
    assert found.is_by_step and "the training mean of each step" in found.remark()
    assert found.scores()["mean"].value == pytest.approx(1, abs=0.05)  # type: ignore[union-attr]
    windows = [sines(n, noise=1.0, seed=n) for n in (50, 20, 40)]
    assert not scored(repeated(lambda x: x), sequences(*map(whole, windows))).is_by_step
