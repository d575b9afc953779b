"""A model with its preprocessing: from a person's rows to codes, scores and samples, also in another process."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import environment
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import check_estimator

from pipeline.data import Preprocessing
from pipeline.model import Model
from variants import Batch, InputError, names

COLUMNS = list("abcdef")
QUICK = {"epochs": 2, "progress": False}
# what the checks of scikit-learn expect and a variational autoencoder with its own reading of data does otherwise
EXCEPTIONS = {
    "check_no_attributes_set_in_init": "the hyperparameters of a variant are keywords, which are kept in one attribute",
}


def table(n: int = 300, seed: int = 0) -> pd.DataFrame:
    """Rows of six correlated columns in unlike units, with a class."""
    rng = np.random.default_rng(seed)
    mixing = np.random.default_rng(99).normal(size=(2, 6))
    z = rng.normal(size=(n, 2))
    x = (z @ mixing + 0.3 * rng.normal(size=(n, 6))) * [1, 10, 1e3, 1e-3, 1, 1] + [0, 5, 1e8, 0, -3, 1]
    index = [f"row {i}" for i in range(n)]
    return pd.DataFrame(x, columns=COLUMNS, index=index).assign(label=np.where(z[:, 0] > 0, "yes", "no"))


def images(n: int = 200, seed: int = 0) -> np.ndarray:
    """Images (n, 8, 8, 3) of a bright square on a dark ground, uint8."""
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 60, (n, 8, 8, 3))
    for image, (top, left) in zip(x, rng.integers(0, 5, (n, 2)), strict=True):
        image[top : top + 3, left : left + 3] += 180
    return x.astype(np.uint8)


def waves(n: int = 120, seed: int = 0) -> list[np.ndarray]:
    """Sequences (T, 2) of unlike lengths: sine waves in two channels of unlike units."""
    rng = np.random.default_rng(seed)
    phases, lengths = rng.uniform(0, 6, n), rng.integers(6, 12, n)
    return [
        np.stack([100 + 20 * np.sin(p + np.arange(t)), 0.01 * np.cos(p + np.arange(t))], 1)
        for p, t in zip(phases, lengths, strict=True)
    ]


def write(kind: str, folder: Path) -> Path:
    """Write data of a kind to a file as a person would have them."""
    if kind == "table":
        table().to_csv(folder / "table.csv", index=False)
        return folder / "table.csv"
    if kind == "images":
        np.savez(folder / "images.npz", x=images(), y=np.arange(200) % 2)
        return folder / "images.npz"
    series = waves()
    padded = np.zeros((len(series), 11, 2))
    for row, s in zip(padded, series, strict=True):
        row[: len(s)] = s
    np.savez(folder / "waves.npz", x=padded, lengths=[len(s) for s in series])
    return folder / "waves.npz"


CASES = [(name, kind) for name in names() if name != "vrae" for kind in ("table", "images")] + [("vrae", "waves")]
ELSEWHERE = """
import sys
import numpy as np
from pathlib import Path
from pipeline.model import Model
for folder in map(Path, sys.argv[1:]):
    model, source = Model.load(folder / "model"), (folder / "source.txt").read_text()
    results = {"codes": model.transform(source), "anomaly": model.anomaly(source), "values": model.reconstruct(source)}
    if (folder / "scored").exists():
        results["scores"] = model.score_samples(source)
    flat = {k: np.concatenate([np.ravel(p) for p in v]) if isinstance(v, list) else v for k, v in results.items()}
    np.savez(folder / "results.npz", **flat)
"""


@pytest.mark.slow
def test_another_process_computes_the_same_from_the_saved_folder_and_the_raw_file(tmp_path: Path) -> None:
    expected: dict[Path, dict[str, Any]] = {}
    for variant, kind in CASES:
        folder = tmp_path / f"{variant}-{kind}"
        folder.mkdir()
        path = write(kind, folder)
        model = Model(variant, **QUICK).fit(path)
        model.save(folder / "model")
        (folder / "source.txt").write_text(str(path))
        results = {"codes": model.transform(path), "anomaly": model.anomaly(path), "values": model.reconstruct(path)}
        if model.variant_.sample_posterior(next(iter(_batches(model, path)))) is not None:
            (folder / "scored").touch()
            results["scores"] = model.score_samples(path)
        expected[folder] = results
    program = [sys.executable, "-c", ELSEWHERE, *map(str, expected)]
    done = subprocess.run(program, env=environment(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    for folder, results in expected.items():
        with np.load(folder / "results.npz") as there:
            assert set(there) == set(results)
            for name, values in results.items():
                here = np.concatenate([np.ravel(v) for v in values]) if isinstance(values, list) else values
                np.testing.assert_allclose(there[name], here, rtol=1e-6, atol=1e-6, err_msg=f"{folder.name} {name}")


def _batches(model: Model, path: Path) -> list[Any]:
    whole = model.preprocessing_.encode(model.new_rows.read(path))
    return [model.preprocessing_.binarized(whole[slice(0, 4)])]


def test_reconstructions_and_samples_are_in_the_units_of_the_data() -> None:
    frame, pictures, series = table(), images(), waves()
    model = Model("vae", epochs=30, lr=3e-3, latent=2, progress=False).fit(frame)
    rebuilt = model.reconstruct(frame)
    assert list(rebuilt) == COLUMNS and list(rebuilt.index) == list(frame.index)
    residual = (rebuilt - frame[COLUMNS]).std() / frame[COLUMNS].std()
    assert residual.max() < 0.8
    np.testing.assert_allclose(model.sample(2000).mean(), frame[COLUMNS].mean(), atol=0.2 * frame[COLUMNS].std().max())
    np.testing.assert_allclose(model.inverse_transform(model.transform(frame)), rebuilt, rtol=1e-5, atol=1e-6)
    model = Model("vae", epochs=10, lr=3e-3, progress=False).fit(pictures)
    assert model.reconstruct(pictures).shape == pictures.shape
    assert model.sample(5).shape == (5, 8, 8, 3)
    assert model.sample(5).dtype == np.uint8
    model = Model("vrae", epochs=1, width=8, latent=2, progress=False).fit(series)
    assert [s.shape for s in model.reconstruct(series)] == [s.shape for s in series]
    forecast = model.forecast(series[:3], steps=4)
    assert [len(f) for f in forecast] == [4] * 3
    assert all(40 < f["x0_mean"].mean() < 160 for f in forecast)


@pytest.mark.parametrize(
    ("low", "high", "likelihood"),
    [(-1, 1, "bernoulli"), (2.5, 4.0, "mixed"), (2.5, 4.0, "gaussian")],
    ids=["two values", "beside numbers", "modelled as continuous"],
)
def test_two_values_come_back_as_the_values_of_the_data(low: float, high: float, likelihood: str) -> None:
    rng = np.random.default_rng(0)
    x = np.where(rng.random((60, 3)) < 0.5, low, high)
    if likelihood != "bernoulli":
        x = np.concatenate([x, rng.normal(size=(60, 1))], axis=1)
    options = {"likelihood": likelihood} if likelihood == "gaussian" else {}
    model = Model("vae", data_options=options, **QUICK).fit(x)
    assert model.preprocessing_.spec.likelihood == likelihood
    rebuilt = np.asarray(model.reconstruct(x))[:, :3]
    if likelihood == "gaussian":
        assert set(np.unique(rebuilt)) <= {low, high}
    else:  # the means of p(x|z)
        assert (abs(rebuilt.mean(0) - (low + high) / 2) < (high - low) / 3).all()
    assert set(np.unique(model.sample(50)[:, :3])) == {low, high}
    series = [np.where(rng.random((5, 2)) < 0.5, low, high) for _ in range(40)]
    model = Model("vrae", width=8, latent=2, **QUICK).fit(series)
    values = np.concatenate(model.sample(50))
    assert set(np.unique(values)) == {low, high}


def test_words_come_back_from_a_file_without_names(tmp_path: Path) -> None:
    rows = [f"{i**1.5},{'yes' if i % 3 else 'no'}" for i in range(60)]
    (tmp_path / "mine.csv").write_text("\n".join(rows))
    model = Model("vae", data_options={"header": False}, **QUICK).fit(tmp_path / "mine.csv")
    assert set(model.reconstruct(tmp_path / "mine.csv")["x1"]) <= {"yes", "no"}


def test_symbols_come_back_as_symbols() -> None:
    series = [np.random.default_rng(i).integers(0, 4, 8 + i % 3) for i in range(80)]
    model = Model("vrae", width=8, latent=2, data_options={"kinds": {"x": "symbols"}}, **QUICK).fit(series)
    assert model.preprocessing_.spec.likelihood == "categorical"
    for sequences in (model.reconstruct(series), model.sample(20), model.impute(series)):
        assert set(np.unique(np.concatenate(sequences))) <= {0, 1, 2, 3}
        assert {s.shape[1] for s in sequences} == {1}
    assert all((s == known[:, None]).all() for s, known in zip(model.impute(series), series, strict=True))


def test_series_of_a_table_come_back_with_the_names_of_their_channels() -> None:
    rows = [
        {"series": f"s{i}", "time": t, "level": v[0], "slope": v[1]}
        for i, series in enumerate(waves(40)) for t, v in enumerate(series)
    ]  # fmt: skip
    frame = pd.DataFrame(rows)
    model = Model("vrae", width=8, latent=2, **QUICK).fit(frame)
    assert list(model.transform(frame).index) == sorted({row["series"] for row in rows})
    by_value = model.score_samples(frame, by_value=True)
    assert [len(s) for s in by_value] == frame.groupby("series").size().tolist()
    frames = (*model.reconstruct(frame), *by_value)
    assert {tuple(s) for s in frames} == {("level", "slope")}


def test_scores_in_the_units_of_the_data_depend_on_them() -> None:
    """The density of x in milligrams is a thousandth of that in grams. Counts, words and missing values have none."""
    grams = table()[["a", "e", "label"]]
    grams = grams.assign(visits=np.random.default_rng(0).poisson(2, 300), amount=np.exp(grams["a"]))
    grams.loc[grams.index[::3], "a"] = np.nan
    milligrams = grams.assign(**{name: grams[name] * 1000 for name in ("a", "amount")})
    options = {"kinds": {"amount": "positive"}}
    models = [Model("vae", data_options=options, **QUICK).fit(frame) for frame in (grams, milligrams)]
    for in_units in (False, True):
        pairs = zip(models, (grams, milligrams), strict=True)
        of_grams, of_milligrams = (model.score_samples(frame, in_units=in_units) for model, frame in pairs)
        expected = np.log(1000) * (grams["a"].notna() + 1.0) * in_units
        np.testing.assert_allclose(of_grams - of_milligrams, expected, atol=0.01)
        pairs = zip(models, (grams, milligrams), strict=True)
        each = [model.score_samples(frame, by_value=True, in_units=in_units) for model, frame in pairs]
        difference = (each[0] - each[1]).mean()
        expected = pd.Series({"a": 1.0, "e": 0.0, "visits": 0.0, "amount": 1.0}) * np.log(1000) * in_units
        assert list(difference.index) == list(expected.index)
        np.testing.assert_allclose(difference, expected, atol=0.01)
        assert each[0].isna().sum().to_dict() == {"a": 100, "e": 0, "visits": 0, "amount": 0}


def test_wrong_arguments_are_refused_in_words() -> None:
    with pytest.raises(InputError, match="epochs=0: expected 1 or more"):
        Model("vae", epochs=0).fit(table())
    with pytest.raises(InputError, match=r"'group'.*data_options"):
        Model("vae", group="patient", **QUICK).fit(table())
    with pytest.raises(InputError, match=r"target looks like the label.*data_options"):
        Model("vae", **QUICK).fit(table().rename(columns={"label": "target"}))
    with pytest.raises(InputError, match="unexpected keyword argument 'patient'; expected some of label, group"):
        Model("vae", data_options={"patient": 1}, **QUICK).fit(table())
    with pytest.raises(InputError, match="n=0: expected a whole number, 1 or more"):
        Model("vae", **QUICK).fit(table()).sample(0)


def test_a_forecast_begins_after_the_last_step(monkeypatch: pytest.MonkeyPatch) -> None:
    series = waves(40)
    model = Model("vrae", width=8, latent=2, **QUICK).fit(series)

    def position(batch: Batch, prefix: torch.Tensor, k: int, *, noise: bool) -> torch.Tensor:
        assert noise
        each = torch.arange(batch.x.shape[1])[:, None].expand(batch.x.shape).float()
        return each + torch.linspace(-1, 1, k)[:, None, None, None]

    monkeypatch.setattr(model.variant_, "forecast", position)
    forecasts = model.forecast(series, steps=3, draws=5, levels=(0.0, 0.25, 1.0))
    for own, forecast in zip(series, forecasts, strict=True):
        assert list(forecast) == ["step", *(f"x{i}_{what}" for i in (0, 1) for what in ("mean", "q0", "q0.25", "q1"))]
        assert forecast["step"].tolist() == [1, 2, 3]
        for i in (0, 1):
            shift, scale = (float(v[i]) for v in (model.preprocessing.shift, model.preprocessing.scale))
            for what, away in (("mean", 0), ("q0", -1), ("q0.25", -0.5), ("q1", 1)):
                steps = (forecast[f"x{i}_{what}"] - shift) / scale
                np.testing.assert_allclose(steps, np.arange(len(own), len(own) + 3) + away, rtol=1e-6)


@pytest.mark.parametrize("kind", ["counts", "words"])
def test_forecasts_of_counts_and_words_are_values_that_occur(kind: str) -> None:
    rng = np.random.default_rng(0)
    rows = [
        {"series": i, "time": t, "own": rng.poisson(3) if kind == "counts" else rng.choice(["on", "off"])}
        for i in range(40) for t in range(12)
    ]  # fmt: skip
    options = {"kinds": {"own": "count"}} if kind == "counts" else None
    model = Model("vrae", width=8, latent=2, data_options=options, **QUICK).fit(pd.DataFrame(rows))
    (forecast,) = model.forecast(pd.DataFrame(rows[:12]), steps=3)
    if kind == "words":
        assert list(forecast)[1:] == ["own_mode", "own_share"]
        assert set(forecast["own_mode"]) <= {"on", "off"} and forecast["own_share"].between(0.5, 1).all()
        return
    quantiles = forecast[["own_q0.1", "own_q0.5", "own_q0.9"]].to_numpy()
    assert (quantiles % 1 == 0).all() and (np.diff(quantiles, axis=1) >= 0).all()


def test_a_forecast_beyond_the_longest_training_sequence_is_refused_unless_the_decoder_has_no_limit() -> None:
    series = waves(40)
    with pytest.raises(InputError, match=r"longest training sequence, 11 steps.*--window"):
        Model("vae", width=8, latent=2, **QUICK).fit(series).forecast(series[:1], steps=20)
    assert len(Model("vrae", width=8, latent=2, **QUICK).fit(series).forecast(series[:1], steps=20)[0]) == 20


def test_a_classifier_on_codes_of_raw_rows_is_as_good_as_in_training(tmp_path: Path) -> None:
    """Codes of rows that were not standardised by the training data would be useless."""
    frame = table(600)
    frame.to_csv(tmp_path / "mine.csv", index=False)
    model = Model("vae", epochs=20, lr=3e-3, latent=2, progress=False).fit(tmp_path / "mine.csv")
    new = table(400, seed=1)
    model.save(tmp_path / "model")
    loaded = Model.load(tmp_path / "model")
    classifier = LogisticRegression().fit(model.transform(frame), frame["label"])
    there, here = (
        roc_auc_score(new["label"] == "yes", classifier.predict_proba(m.transform(new.drop(columns="label")))[:, 1])
        for m in (model, loaded)
    )
    assert here == there > 0.95


def test_scores_say_what_is_unusual_and_do_not_depend_on_other_rows() -> None:
    frame = table(600)
    model = Model("vae", epochs=30, lr=3e-3, latent=2, progress=False).fit(frame)
    odd = frame.iloc[:20].copy()
    odd.iloc[3, 1] += 60  # column b, whose deviation is about 10
    scores = model.score_samples(odd)
    assert scores.idxmin() == "row 3"
    assert model.anomaly(odd).idxmax() == "row 3"
    assert model.score_samples(odd, by_value=True).stack().idxmin() == ("row 3", "b")
    np.testing.assert_allclose(model.score_samples(odd.iloc[[3, 1]]), scores.iloc[[3, 1]], rtol=1e-5)


def test_the_score_of_a_conditional_variant_does_not_need_the_class() -> None:
    frame = table()
    model = Model("cvae", **QUICK).fit(frame)
    np.testing.assert_allclose(model.score_samples(frame.drop(columns="label")), model.score_samples(frame))
    yes, no = model.sample(3, label="yes"), model.sample(3, label="no")
    assert not np.allclose(yes, no)
    with pytest.raises(InputError, match="label='maybe': expected one of the classes no, yes"):
        model.sample(3, label="maybe")
    with pytest.raises(InputError, match="not conditioned on a class"):
        Model("vae", **QUICK).fit(frame).sample(3, label="yes")


def test_codes_of_sequences_are_decoded_with_a_class() -> None:
    series = waves(60)
    model = Model("cvae", network="gru", width=8, latent=2, **QUICK).fit(series, np.arange(60) % 2)
    first, second = (np.asarray(model.inverse_transform(model.transform(series), label)) for label in (0, 1))
    assert first.shape == (60, 11, 2) and not np.allclose(first, second)


@pytest.mark.parametrize("has_holes", [False, True], ids=["trained without", "trained with"])
def test_missing_values_are_filled_in_and_known_ones_stay(has_holes: bool) -> None:
    frame = table(600)
    holes = frame[COLUMNS].copy()
    holes.loc[frame.index[::3], "a"] = np.nan
    trained_on = holes.assign(label=frame["label"]) if has_holes else frame
    model = Model("vae", epochs=40, lr=3e-3, latent=2, progress=False).fit(trained_on)
    filled = model.impute(holes)
    known = holes.notna()
    np.testing.assert_array_equal(filled.to_numpy()[known], holes.to_numpy()[known])
    error = (filled["a"] - frame["a"])[::3].std()
    assert error < 0.65 * frame["a"].std()
    draws = model.impute(holes, draws=30)
    assert len(draws) == 30 and all(draw[known].equals(holes[known]) for draw in draws)
    drawn = np.stack([draw["a"][::3] for draw in draws])
    assert 0.7 * error < drawn.std(0).mean() < 1.5 * error  # they are as uncertain as they are wrong
    if has_holes:
        assert np.isfinite(model.transform(holes)).all(axis=None) and np.isfinite(model.score_samples(holes)).all()
        return
    for compute in (model.transform, model.score_samples, model.anomaly, model.reconstruct):
        with pytest.raises(InputError, match=r"200 of 600 rows have missing values in a, the first in row 1;.*impute"):
            compute(holes)


def test_batches_with_and_without_missing_values_are_imputed(monkeypatch: pytest.MonkeyPatch) -> None:
    frame = table()
    model = Model("vae", **QUICK).fit(frame)
    holes = frame.drop(columns="label")
    holes.iloc[60:70, 1] = np.nan
    expected = model.impute(holes)
    monkeypatch.setattr("pipeline.new_rows.BATCH", 50)
    for filled in (model.impute(holes), *model.impute(holes, draws=2)):
        assert filled.drop(columns="b").equals(expected.drop(columns="b"))
        assert filled["b"].notna().all() and filled["b"][holes["b"].notna()].equals(holes["b"].dropna())


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.bool_])
def test_missing_pixels_are_filled_in_and_known_ones_stay(dtype: Any) -> None:
    rng = np.random.default_rng(0)
    grey = images() if dtype == np.uint8 else images() / 256
    pictures = grey > 0.5 if dtype == np.bool_ else grey.astype(dtype)
    holes = np.ma.masked_array(pictures, rng.random(pictures.shape) < 0.2)
    model = Model("vae", **QUICK).fit(holes)
    some, known = holes[:20], ~holes.mask[:20]
    for filled in (model.impute(some, importance=100), *model.impute(some, draws=2, importance=100)):
        assert filled.shape == some.shape and np.isfinite(filled).all()
        np.testing.assert_array_equal(filled[known], pictures[:20][known])
    assert np.isfinite(model.score_samples(holes)).all()
    assert np.isnan(model.score_samples(holes, by_value=True)).sum() == holes.mask.sum()


def test_wrong_arguments_of_imputation_are_refused_in_words() -> None:
    model = Model("vae", **QUICK).fit(table())
    with pytest.raises(InputError, match="draws=-1: expected a whole number, 0 or more"):
        model.impute(table(), draws=-1)
    with pytest.raises(InputError, match="importance=0: expected a whole number, 1 or more"):
        model.impute(table(), importance=0)
    quadrants = Model("cvae", condition="quadrants", **QUICK).fit(images())
    with pytest.raises(InputError, match="cvae models a part of x given the rest"):
        quadrants.impute(images())


def test_it_is_an_estimator_of_scikit_learn() -> None:
    results = check_estimator(
        Model(epochs=1, latent=2, width=8, progress=False),
        expected_failed_checks=EXCEPTIONS,
        on_skip=None,
        on_fail=None,
    )
    failed = {r["check_name"]: r["exception"] for r in results if r["status"] == "failed"}
    assert failed == {}
    assert {r["check_name"] for r in results if r["status"] == "xfail"} == EXCEPTIONS.keys()
    assert sum(r["status"] == "passed" for r in results) >= 41


def test_it_works_in_a_pipeline_and_can_be_cloned() -> None:
    frame = table()
    x, y = frame[COLUMNS].to_numpy(), frame["label"].to_numpy()
    pipeline = make_pipeline(
        Model("beta", epochs=15, lr=3e-3, latent=2, beta=0.5, progress=False), LogisticRegression()
    )
    assert clone(pipeline).fit(x, y).score(x, y) > 0.8
    model = clone(pipeline[0]).set_params(latent=3, variant="vae")
    assert {"latent": 3, "beta": 0.5, "variant": "vae"}.items() <= model.get_params().items()
    with pytest.raises(InputError, match=r"vae: .*'beta'; its hyperparameters are latent, width"):
        model.fit(x)
    with pytest.raises(NotFittedError, match="not fitted"):
        model.transform(x)


@pytest.mark.slow
def test_the_same_seed_gives_the_same_model_tracked_or_not(folder: Path) -> None:
    frame = table()
    models = [Model("vae", seed=3, track=track, **QUICK).fit(frame) for track in (False, True)]
    np.testing.assert_array_equal(*(m.transform(frame) for m in models))
    pd.testing.assert_frame_equal(
        *(m.history_.filter(regex="valid/").reset_index(drop=True) for m in models), check_exact=True
    )
    assert not np.allclose(models[0].transform(frame), Model("vae", seed=4, **QUICK).fit(frame).transform(frame))
    from pipeline.tracker import Tracker

    (record,) = Tracker("data").find(kind="model")
    assert record.model is not None
    loaded = Model.load(f"models:/{record.model}")
    np.testing.assert_array_equal(loaded.transform(frame), models[0].transform(frame))


def test_a_folder_of_an_older_version_says_that_its_preprocessing_is_not_known(tmp_path: Path) -> None:
    frame = table()
    model = Model("vae", **QUICK).fit(frame)
    saved = model.save(tmp_path / "model")
    for path in saved.glob("preprocessing.*"):
        path.unlink()
    old = Model.load(saved)
    assert old.variant_ is not None
    with pytest.raises(InputError, match="preprocessing of this model is not known, because an older version"):
        old.transform(frame)


def test_preprocessing_is_saved_whole(tmp_path: Path) -> None:
    frame = table().assign(flag=np.arange(300) % 2 == 0, city=["Rome", "Oslo", np.nan] * 100, amount=np.arange(1, 301))
    options = {"kinds": {"flag": "binary", "amount": "positive"}, "drop": "f"}
    fitted = Model("vae", data_options=options, **QUICK).fit(frame).preprocessing_
    fitted.save(tmp_path)
    again = Preprocessing.load(tmp_path)
    assert again is not None
    for name in ("spec", "layout", "source", "class_names", "columns", "width", "pixels", "step", "order", "digest"):
        assert getattr(again, name) == getattr(fitted, name), name
    for name in ("shift", "scale", "low", "high"):
        assert getattr(again, name).equal(getattr(fitted, name)), name
