"""Anomalies of steps: the surprise in closed form, planted anomalies, thresholds, ranges, and series in windows."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from test_model import QUICK, table

from pipeline import artifact, findings
from pipeline.data import Raw
from pipeline.data._raw import Windows
from pipeline.evaluate import ahead, detectors, step_anomaly
from pipeline.model import Model
from pipeline.progress import Display
from variants import InputError

LENGTH = 24


def waves(n: int, seed: int = 0) -> list[np.ndarray]:
    """Sequences (24, 2) of sine waves with noise, in two channels of unlike units."""
    rng = np.random.default_rng(seed)
    phases, t = rng.uniform(0, 6, n), np.arange(LENGTH)
    x = np.stack([100 + 20 * np.sin(phases[:, None] + t / 3), np.cos(phases[:, None] + t / 3)], 2)
    return list(x + rng.normal(size=x.shape) * [2, 0.1])


@pytest.fixture(scope="module")
def model() -> Model:
    options: Any = {"network": "gru", "width": 32, "latent": 3, "batch": 32, "lr": 5e-3}
    return Model("vae", epochs=25, progress=False, **options).fit(waves(300))


@pytest.fixture(scope="module")
def windows() -> tuple[Model, Raw]:
    """A model of windows of 8 steps, and two series of 12 and 10 steps in such windows, with a missing value."""
    parts = [w for s in waves(60) for w in (s[:8], s[8:16], s[16:])]
    parts[0] = np.where(np.arange(16).reshape(8, 2) == 5, np.nan, parts[0])
    model = Model("vae", network="gru", width=8, latent=2, **QUICK).fit(parts)
    long, short = waves(2, seed=5)
    long[6, 1] = np.nan
    starts = [(0, 0), (0, 4), (1, 0), (1, 2)]
    raw = model.new_rows.read([(long, short)[s][b : b + 8] for s, b in starts])
    cut = Windows(
        series=np.array([0, 0, 1, 1]), starts=np.array([0, 4, 0, 2]), lengths=np.array([12, 10]),
        names=pd.Index(["long", "short"], name="machine"),
    )  # fmt: skip
    stamps: Any = pd.Index([*range(100, 112), *range(50, 60)], name="day")
    return model, dataclasses.replace(raw, windows=cut, stamps=stamps)


@pytest.mark.parametrize("off", [0.0, 0.3], ids=["q is the posterior", "q is another distribution"])
def test_the_surprise_is_the_density_of_a_value_given_all_others(off: float) -> None:
    """x = W z + noise with z ~ N(0, I) is Gaussian, so p(x_i|others) and the posterior are known exactly."""
    rng = np.random.default_rng(0)
    draws, examples, values, latent, noise = 4000, 20, 12, 2, 0.7
    w = rng.normal(size=(values, latent))
    x = rng.normal(size=(examples, latent)) @ w.T + noise * rng.normal(size=(examples, values))
    x[:, 0] += 3
    precision = np.linalg.inv(w @ w.T + noise**2 * np.eye(values))
    variance = 1 / np.diag(precision)
    exact = 0.5 * ((x @ precision) ** 2 * variance + np.log(2 * np.pi * variance))
    covariance = np.linalg.inv(np.eye(latent) + w.T @ w / noise**2)
    root, e = np.linalg.cholesky(covariance), rng.normal(size=(draws, examples, latent))
    z = x @ w @ covariance / noise**2 + ((1 + off) * e + off) @ root.T
    log_p = -0.5 * ((x - z @ w.T) / noise) ** 2 - 0.5 * np.log(2 * np.pi * noise**2)
    log_q = -0.5 * (e**2).sum(2) - latent * np.log(1 + off)
    log_w = log_p.sum(2) - 0.5 * (z**2).sum(2) - log_q
    found = step_anomaly.surprise(log_p, log_w)
    np.testing.assert_allclose(found, exact, atol=0.15)
    assert abs(-log_p.mean(0) - exact)[:, 0].mean() > 5 * abs(found - exact)[:, 0].mean()


def test_a_planted_anomaly_is_found_in_its_channel_and_at_its_steps(model: Model) -> None:
    series = waves(10, seed=1)
    series[4][10:12, 1] += 1.5
    for score in ("surprise", "reconstruction"):
        frame = model.anomaly(series, share=0.01, score=score)
        assert list(frame)[:6] == ["series", "step", "anomaly", "anomaly_x0", "anomaly_x1", "is_anomaly"]
        np.testing.assert_allclose(frame["anomaly"], frame["anomaly_x0"] + frame["anomaly_x1"])
        planted = (frame["series"] == 4) & frame["step"].between(10, 11)
        assert set(frame.nlargest(2, "anomaly_x1").index) == set(frame.index[planted])
        assert frame["is_anomaly_x1"][planted].all() and frame["is_anomaly"][planted].all()
        assert frame["is_anomaly_x0"].mean() < 0.05
    assert model.anomaly(series, by_series=True).argmax() == 4


def test_a_threshold_is_exceeded_by_its_share_of_the_training_data(model: Model, tmp_path: Path) -> None:
    again = Model.load(model.save(tmp_path / "model"))
    assert again.training_scores_ == model.training_scores_
    for share in (0.05, 0.2):
        frame = again.anomaly(waves(300), share=share)
        for column in ("is_anomaly", "is_anomaly_x0", "is_anomaly_x1"):
            assert 0.5 * share < frame[column].mean() < 1.7 * share
        assert 0.3 * share < again.anomaly(waves(300), share=share, by_series=True)["is_anomaly"].mean() < 2.5 * share
    (tmp_path / "model" / artifact.SCORES).unlink()
    old = Model.load(tmp_path / "model")
    assert len(old.anomaly(waves(2))) == 2 * LENGTH
    with pytest.raises(InputError, match="thresholds of this model are not known, because an older version"):
        old.anomaly(waves(2), share=0.1)


def test_a_share_below_the_smallest_quantile_is_refused() -> None:
    quantiles = {"step surprise": tuple(np.linspace(8, 0, 41))}
    known = step_anomaly.TrainingScores(examples=20, steps=200_000, quantiles=quantiles)
    assert known.threshold("step surprise", 1e-4) == 8.0
    with pytest.raises(InputError, match="share=5e-05: expected a share from 1/10000"):
        known.threshold("step surprise", 5e-5)


def test_rows_have_marks_as_well() -> None:
    frame = table()
    model = Model("vae", **QUICK).fit(frame)
    marked = model.anomaly(frame, share=0.1)
    assert list(marked) == ["anomaly", "is_anomaly"] and list(marked.index) == list(frame.index)
    assert 0.05 < marked["is_anomaly"].mean() < 0.2
    np.testing.assert_array_equal(marked["anomaly"], -model.score_samples(frame))
    with pytest.raises(InputError, match=r"share=0.001: expected a share from 1/\d+"):
        model.anomaly(frame, share=0.001)


def test_scores_of_steps_depend_neither_on_other_series_nor_on_missing_values(model: Model) -> None:
    series = waves(5, seed=2)
    whole, alone = model.anomaly(series), model.anomaly(series[3:4])
    np.testing.assert_allclose(whole["anomaly"][whole["series"] == 3], alone["anomaly"], rtol=1e-5, atol=1e-5)
    holes = [s.copy() for s in waves(80)]
    for s in holes:
        s[3, 0] = s[7] = np.nan
    frame = Model("vae", network="gru", width=8, latent=2, **QUICK).fit(holes).anomaly(holes[:2])
    assert frame["anomaly_x0"].isna().tolist() == 2 * [t in (3, 7) for t in range(LENGTH)]
    assert frame["anomaly"].isna().tolist() == 2 * [t == 7 for t in range(LENGTH)]


@pytest.mark.parametrize("options", [{"variant": "aae"}, {"variant": "vrae", "feeding": "teacher"}], ids=str)
def test_a_variant_without_a_surprise_has_reconstructions(options: dict[str, Any]) -> None:
    model = Model(width=8, latent=2, **options, **QUICK).fit(waves(40))
    assert set(model.anomaly_scores(waves(3))) == {"reconstruction"}
    with pytest.raises(InputError, match="score='surprise': expected reconstruction"):
        model.anomaly(waves(3), score="surprise")


def test_values_of_windows_are_put_back_together_on_the_series(windows: tuple[Model, Raw]) -> None:
    model, raw = windows
    apart = dataclasses.replace(raw, windows=None, stamps=None)
    of_windows = np.stack([np.asarray(w) for w in model.reconstruct(apart)])
    long, short = (np.asarray(s) for s in model.reconstruct(raw))
    assert long.shape == (12, 2) and short.shape == (10, 2)
    np.testing.assert_allclose(long[:4], of_windows[0, :4])
    np.testing.assert_allclose(long[4:8], (of_windows[0, 4:] + of_windows[1, :4]) / 2, rtol=1e-6)
    np.testing.assert_allclose(short[8:], of_windows[3, 6:])
    for filled in (model.impute(raw, importance=50), *model.impute(raw, draws=2, importance=50)):
        known = np.concatenate([raw.x[0], raw.x[1, 4:]])
        np.testing.assert_array_equal(np.asarray(filled[0])[~np.isnan(known)], known[~np.isnan(known)])
        assert np.isfinite(np.asarray(filled[0])).all()


def test_windows_are_named_by_their_series_and_time(windows: tuple[Model, Raw]) -> None:
    model, raw = windows
    labels = [("long", 100), ("long", 104), ("short", 50), ("short", 52)]
    for result in (model.transform(raw), model.score_samples(raw)):
        assert result.index.tolist() == labels and list(result.index.names) == ["machine", "day"]
    frame = model.anomaly(raw, share=0.1)
    assert list(frame)[:3] == ["machine", "day", "anomaly"] and frame["day"].tolist() == list(raw.stamps)
    assert frame["anomaly_x1"].isna().sum() == 1
    of_series = model.anomaly(raw, by_series=True)
    assert of_series.index.tolist() == ["long", "short"]
    each = -model.score_samples(raw).to_numpy() / 8
    expected = (each[0] * 4 + each[1] * 4 + 4 * (each[0] + each[1]) / 2) / 12
    np.testing.assert_allclose(of_series["long"], expected, rtol=1e-6)
    with pytest.raises(InputError, match="thresholds of this model are those of windows"):
        model.anomaly(raw, share=0.1, by_series=True)


def test_long_series_of_a_table_are_read_in_windows_and_scored_by_their_times() -> None:
    long = [np.concatenate(waves(3, seed=i))[: 60 + i] for i in range(20)]
    rows = pd.concat(
        pd.DataFrame(x, columns=["level", "slope"]).assign(series=f"s{i}", time=range(10, 10 + len(x)))
        for i, x in enumerate(long)
    )
    options: Any = {"data_options": {"window": 16, "stride": 8}}
    model = Model("vae", network="gru", width=8, latent=2, **options, **QUICK).fit(rows)
    ordered = rows.sort_values(["series", "time"])
    frame = model.anomaly(rows.sample(frac=1, random_state=0), share=0.1)
    assert frame[["series", "time"]].to_numpy().tolist() == ordered[["series", "time"]].to_numpy().tolist()
    filled = pd.concat(model.impute(rows))
    np.testing.assert_array_equal(filled[["level", "slope"]], ordered[["level", "slope"]])
    assert [f["time"].tolist() for f in model.forecast(rows, steps=2)[:1]] == [[70, 71]]


def test_a_forecast_continues_the_last_window(windows: tuple[Model, Raw]) -> None:
    model, raw = windows
    first, second = model.forecast(raw, steps=3)
    assert first["day"].tolist() == [112, 113, 114] and second["day"].tolist() == [60, 61, 62]
    context = ahead.context(raw, 3, 8, False)
    np.testing.assert_array_equal(context.x, raw.x[[1, 3], 3:])
    with pytest.raises(InputError, match=r"steps=8: the model was trained on windows of 8 steps.*at most 7"):
        model.forecast(raw, steps=8)


def marks(*ranges: tuple[int, int], n: int = 50) -> np.ndarray:
    """Flags of n steps that are true from the first to the last step of each range."""
    flags = np.zeros(n, bool)
    for first, last in ranges:
        flags[first : last + 1] = True
    return flags


@pytest.mark.parametrize(
    ("real", "found", "recall", "precision"),
    [
        # the example of the evaluator that the authors published, with its flat bias
        (marks((20, 21), (25, 27), (44, 47)), marks((19, 20), (23, 30), (37, 37), (49, 49)), 0.5, 7 / 32),
        (marks((0, 9)), marks((1, 2), (5, 6)), 0.4 / 2, 1.0),  # two ranges find one, so the overlap counts half
        (marks((0, 1), (3, 4)), marks((0, 4)), 1.0, 0.8 / 2),
        (marks((0, 1)), marks(), 0.0, None),
    ],
)  # fmt: skip
def test_recall_and_precision_of_ranges(real: Any, found: Any, recall: float, precision: float | None) -> None:
    assert detectors.range_recall(real, found) == pytest.approx(recall)
    assert detectors.range_recall(found, real) == (None if precision is None else pytest.approx(precision))


def test_trivial_detectors_in_closed_form() -> None:
    x = np.array([[0.0, 5.0], [2.0, np.nan], [1.0, 5.0], [np.nan, np.nan], [9.0, 5.0]])
    found = detectors.trivial_scores([x], np.array([1.0, 5.0]), np.array([2.0, 1.0]))
    np.testing.assert_allclose(found["deviation"][0], [0.5, 0.5, 0.0, np.nan, 4.0])
    np.testing.assert_allclose(found["moving"][0], [0.0, 0.0, 0.0, np.nan, 8.0])  # mean 1 and deviation 1 before


def test_a_score_is_called_better_only_if_it_beats_the_best_trivial_one() -> None:
    rng = np.random.default_rng(0)
    lengths = np.full(30, 40)
    truth = np.concatenate([marks((k, k + 3), n=40) for k in rng.integers(0, 36, 30)]).astype(float)
    good, poor, none = truth + rng.normal(size=1200), 0.5 * truth + rng.normal(size=1200), rng.normal(size=1200)
    limits = {"surprise": 2.0, "deviation": 2.0}
    for ours, trivial, verdict in ((good, poor, "better"), (poor, good, "no better"), (none, -poor, "no better")):
        judged = detectors.judge_steps({"surprise": ours, "deviation": trivial}, limits, truth, lengths)
        assert f"surprise is {verdict} than the best trivial score" in judged.text()
    assert judged.best == "chance"
    assert all(row.roc.error is not None and 0 < row.roc.error < 0.1 for row in judged.rows)
    few = detectors.judge_steps({"surprise": good[:80], "deviation": poor[:80]}, limits, truth[:80], lengths[:2])
    assert few.rows[0].roc.error is None and "no standard errors" in few.text()
    assert "surprise is not known to be better than the best trivial score" in few.text()


@pytest.mark.parametrize(
    ("stamps", "expected"),
    [
        ([3, 5, 7], [9, 11]),
        (["2020-01-30", "2020-01-31", "2020-02-01"], ["2020-02-02", "2020-02-03"]),
        (["2020-01-01", "2020-02-01", "2020-03-01"], ["2020-04-01", "2020-05-01"]),
        (["2020-01", "2020-02", "2020-03"], ["2020-04", "2020-05"]),
        (["2020-01-01T22:00Z", "2020-01-01T23:00Z"], ["2020-01-02T00:00Z", "2020-01-02T01:00Z"]),
        ([0.5, 1.0], [1.5, 2.0]),
        (["2020-01-01T22:00", "2020-01-01T23:00", "2020-01-02T00:00"], ["2020-01-02T01:00", "2020-01-02T02:00"]),
        (pd.to_datetime(["2020-01-01", "2020-01-02"]), list(pd.to_datetime(["2020-01-03", "2020-01-04"]))),
        (["2020-01-01 00:00:00", "2020-01-01 00:00:30"], ["2020-01-01 00:01:00", "2020-01-01 00:01:30"]),
        (["2020-10-25T02:00+02:00", "2020-10-25T02:00+01:00", "2020-10-25T03:00+01:00"],
         ["2020-10-25T04:00+01:00", "2020-10-25T05:00+01:00"]),
        ([1, 2, 7], None),
        (["a", "b", "c"], None),
        ([4], None),
    ],
)  # fmt: skip
def test_the_next_time_stamps_have_the_form_of_the_known_ones(stamps: Any, expected: Any) -> None:
    found = ahead.next_stamps(pd.Index(stamps), 2)
    assert found is None if expected is None else list(map(str, found)) == list(map(str, expected))


def test_a_picture_shows_the_most_unusual_parts_of_long_series() -> None:
    long, short = np.zeros(1000), np.full(50, -9.0)
    long[[100, 750]], long[400:600], long[400] = (50, 60), 9, -np.inf  # a step without values
    (first, at_first), (second, at_second), (third, _) = findings._unusual_parts([short, long])
    assert (first, second, third) == (1, 1, 1) and 750 in range(*at_first.indices(1000))
    assert 100 in range(*at_second.indices(1000)) and at_second.stop - at_second.start == findings.SHOWN_STEPS
    assert findings._unusual_parts([short]) == [(0, slice(0, findings.SHOWN_STEPS))]


def test_steps_ahead_of_uneven_ones_are_as_far_apart_as_the_networks_are_told() -> None:
    assert list(ahead.next_stamps(pd.Index([1, 2, 7]), 2, 1.5)) == [8.5, 10]
    days = pd.Index(["2020-01-01", "2020-01-31", "2020-02-03"])
    assert ahead.next_stamps(days, 2, 7 * 86400.0) == ["2020-02-10", "2020-02-17"]
    assert ahead.next_stamps(pd.Index(["a", "b"]), 2, 1.0) is None


def test_the_scores_of_the_whole_sequence_are_those_of_anomaly(model: Model) -> None:
    series = waves(100, seed=3)
    batch = model.new_rows.encoded(model.new_rows.read(series))
    with torch.no_grad():
        _, found = step_anomaly.value_scores(model.variant_, batch, model.preprocessing, model.seed)
    other = model.anomaly(series, by_series=True)  # of other draws, which all series share
    assert found.mean() == pytest.approx(other.mean(), abs=3.0)
    assert np.corrcoef(found, other)[0, 1] > 0.8


def test_the_parts_of_a_long_computation_are_counted(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_anomaly, "VALUES", 1)  # one sequence at a time
    with Display().progress("anomaly", 1) as progress:
        model.anomaly_scores(waves(3), progress.each)
        assert progress.line().startswith("anomaly: 3 of 4 finished")
