"""The evaluation of a trained model: every score has a value or a reason, and is where people look for it."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Command
from mlflow import MlflowClient

import variants
from pipeline import data, metrics, trainer
from pipeline.data import Column, Data, Kind, Preprocessing, Raw, Source
from pipeline.evaluate import classifier, clusters, codes, context, likelihood, quick, report, suite
from pipeline.tracker import Tracker
from pipeline.training_run import TrainingPlan, TrainingRun
from variants import Batch, InputError, Variant
from variants.base.contract import Likelihood
from variants.vae import VAE

SMALL = context.Sizes(
    iw_k=20, iw_n=30, ais_n=4, ais_chains=2, ais_temperatures=20, gap_n=3, labels=(10, 50), draws=2, samples=60,
    one_class_most=2, one_class_steps=20, one_class_n=60, imputed=6, augmented=20,
)  # fmt: skip
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "vae": ("digits", {}),
    "hvae": ("digits", {"levels": 2}),
    "cvae": ("digits", {}),
    "aae": ("digits", {}),
    "aae semi": ("digits", {"supervision": "semi"}),
    "cvae quadrants": ("digits", {"condition": "quadrants"}),
    "cvae network": ("digits", {"condition": "quadrants", "objective": "network"}),
    "vrae": ("digits-rows", {}),
    "vrae teacher": ("digits-rows", {"feeding": "teacher"}),
    "flow": ("digits", {"steps": 2, "prior_steps": 2}),
    "vamp": ("digits", {"pseudo_inputs": 20}),
    "vq": ("digits", {"codes": 16}),
    "vq rows": ("digits-rows", {"codes": 16}),
}

QUICK = ("vae",)


def built(name: str, loaded: Data, settings: Any, epochs: int = 2) -> Variant:
    cls = variants.get(name.split()[0])
    torch.manual_seed(0)
    made = variants.build(name.split()[0], cls.config_type(latent=4, width=16, **settings), loaded.spec)
    trainer.fit(made, loaded, epochs=epochs, seed=0)
    return made


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Classifiers of 60 steps, in a folder that no other test reads."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "hasty"))
    monkeypatch.setitem(classifier.RECIPE, "steps", 60)


@pytest.mark.parametrize("case", [c if c in QUICK else pytest.param(c, marks=pytest.mark.slow) for c in CASES])
def test_every_score_has_a_value_or_a_reason(case: str) -> None:
    """Of every part, on every kind of model; names are known to the registry, and the model stays as it was."""
    source, settings = CASES[case]
    loaded = data.load(source)
    model = built(case, loaded, settings)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    state = torch.get_rng_state()
    parts = list(suite.run(model, loaded, sizes=SMALL))
    assert [p.name for p in parts] == list(suite.PARTS)
    scores = {s.name: s for p in parts for s in p.scores}
    assert len(scores) == sum(len(p.scores) for p in parts)
    for score in scores.values():
        record = score.record(0)
        assert record["unit"] and record["about"], score
        assert (score.value is None) != (score.reason == ""), score
        assert score.value is None or math.isfinite(score.value), score
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)

    def undefined(name: str) -> bool:
        return scores[name].value is None

    assert undefined("test/elbo") == undefined("test/iw20") == case.startswith("aae")
    assert undefined("test/ais_subset") == (case in ("aae semi", "cvae network", "vq", "vq rows"))
    assert undefined("test/ais") == (case in ("aae", "aae semi", "cvae network", "vq", "vq rows"))
    assert undefined("use/interpolation_jump") == (case in ("vq", "vq rows", "cvae quadrants", "cvae network"))
    frame = report.rows(loaded, parts)
    assert len(frame) == len(loaded.test)
    for column, name in {"elbo": "test/elbo", "kl": "test/kl", "reconstruction": "test/reconstruction",
                         "iw": "test/iw20", "ais": "test/ais_subset", "correct": "probe/test_accuracy",
                         "correct_majority": "probe/majority_all"}.items():  # fmt: skip
        assert (column in frame) != undefined(name), name
        if column in frame:
            score, known = scores[name], frame[column].dropna()
            assert known.mean() == pytest.approx(score.value, rel=1e-5)
            assert len(known) == score.n
            assert score.error == pytest.approx(known.std() / math.sqrt(len(known)), rel=1e-5)
    assert undefined(f"use/generation_accuracy_{classifier.HASH}") == (case not in ("cvae", "aae semi"))
    assert undefined("use/forecast_model") == (CASES[case][0] == "digits")
    assert undefined("use/imputation_gibbs") == (case in ("vrae teacher", "cvae quadrants", "cvae network"))
    assert undefined("latent/mig")
    assert not undefined("probe/linear_all")


def as_data(raw: Raw) -> Data:
    """The first 60% of the examples for training, and 20% each for validation and test."""
    n = len(raw.x)
    index = torch.arange(n).split([n - 2 * (n // 5), n // 5, n // 5])
    preprocessing = Preprocessing.fit(raw, index[0])
    whole = preprocessing.encode(raw, is_new=False)
    train, valid, test = (whole[i] for i in index)
    return Data(train=train, valid=valid, test=test, digest=raw.name, preprocessing=preprocessing)


def user_data(name: str) -> Data:
    """Small data of a kind that users have: two classes, one of which is rare and differs from the other."""
    rng = np.random.default_rng(0)
    n = 300
    y = (rng.random(n) < 0.15).astype(np.int64)
    facts: dict[str, Any] = {"name": name, "source": Source(place=name), "y": y, "class_names": ("common", "rare")}
    if name == "counts":
        rates = rng.gamma(1.0, 3.0, 12) * np.exp(y[:, None] * rng.normal(0, 1, 12))
        counts = rng.poisson(rates * rng.gamma(2.0, 0.5, (n, 1))).astype(np.float64)
        return as_data(Raw(x=counts, likelihood="negative-binomial", exposure_kind="sum", **facts))
    if name == "mixed":
        kinds: list[tuple[Kind, Likelihood, int]] = [
            ("category", "categorical", 3), ("real", "gaussian", 0), ("count", "poisson", 0),
            ("positive", "log-normal", 0), ("binary", "bernoulli", 2), ("real", "student-t", 0),
        ]  # fmt: skip
        columns = tuple(
            Column(f"{kind} {i}", kind, tuple(range(k)), family) for i, (kind, family, k) in enumerate(kinds)
        )
        z = rng.normal(0, 1, n) + 2 * y
        x = np.stack([
            rng.integers(0, 3, n), 3 * z + rng.normal(0, 1, n), rng.poisson(np.exp(z / 2)),
            np.exp(z + rng.normal(0, 0.5, n)), rng.random(n) < 0.3, 100 + z,
        ], 1).astype(np.float64)  # fmt: skip
        x[rng.random(x.shape) < 0.2] = np.nan
        return as_data(Raw(x=x, likelihood="mixed", columns=columns, **facts))
    shape = (n, 1, 8, 8) if name == "images" else (n, 6, 2)
    x = rng.normal(0, 1, shape) + y.reshape(-1, *[1] * (len(shape) - 1))
    x[rng.random(shape) < 0.2] = np.nan
    lengths = None if name == "images" else rng.integers(3, 7, n)
    return as_data(Raw(x=x, likelihood="gaussian", lengths=lengths, **facts))


@pytest.mark.one_in(4)
@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("counts", "vae"),
        ("mixed", "vae"),
        pytest.param("images", "vae", marks=pytest.mark.slow),
        pytest.param("sequences", "vrae", marks=pytest.mark.slow),
        *(
            pytest.param(kind, name, marks=pytest.mark.slow)
            for kind in ("counts", "mixed", "images")
            for name in ("aae", "cvae", "hvae")
        ),
    ],
)
def test_every_kind_of_value_is_evaluated(kind: str, name: str) -> None:
    """Counts, mixed columns, and missing values give each metric a finite number or a reason."""
    loaded = user_data(kind)
    model = built(name, loaded, {})
    parts = {p.name: p for p in suite.run(model, loaded, sizes=SMALL)}
    scores = {s.name: s for p in parts.values() for s in p.scores}
    for score in scores.values():
        metrics.find(score.name)
        assert (score.value is None) != (score.reason == ""), score
        assert score.value is None or math.isfinite(score.value), score
    defined = {score.name for score in scores.values() if score.value is not None}
    assert {
        "test/reconstruction",
        "baseline/test_independent",
        "use/interpolation_jump",
        "probe/roc_area_all",
    } <= defined
    assert {"use/anomaly_roc_reconstruction", "use/anomaly_precision_recall_isolation_forest"} <= defined
    assert parts["anomaly"].tables["anomaly_by_class"]["class"] == ["rare"]
    assert set(parts["one_class"].tables["one_class"]["normal"]) == {"common"}
    assert {"use/imputation_mean", "use/imputation_gibbs" if kind == "counts" else "use/imputation_encoder"} <= defined
    assert ("test/elbo_units" in defined) == (kind != "counts" and name != "aae")
    assert ("use/imputation_rmse" in defined) == (kind == "mixed")
    assert ("a density of some values (real, positive)" in parts["bounds"].remark) == (kind == "mixed")
    if kind == "mixed":
        of_kinds = [s.value or 0.0 for s in scores.values() if s.name.startswith("test/reconstruction_")]
        assert len(of_kinds) == 5
        assert sum(of_kinds) == pytest.approx(scores["test/reconstruction"].value, rel=1e-5)


@pytest.mark.parametrize("name", ["vae", "beta", "aae", "cvae", "hvae", "vrae"])
def test_the_parts_of_the_kinds_add_up_to_the_reconstruction(name: str) -> None:
    """Of every variant, with the same draws, also over several batches."""
    loaded = user_data("sequences" if name == "vrae" else "mixed")
    model = built(name, loaded, {}, epochs=1)
    split = Batch.cat([loaded.test] * 20)
    parts = likelihood.by_kind(model, loaded, split, seed=3)
    assert set(parts) == set(loaded.spec.kinds)
    assert all(part.shape == (len(split),) for part in parts.values())
    whole = trainer.score(model, loaded, split, seed=3).sums["reconstruction"]
    assert sum(float(part.sum()) for part in parts.values()) == pytest.approx(float(whole), rel=1e-6)


def test_samples_have_the_missing_values_of_the_examples_that_they_are_compared_with(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loaded, splits, features = user_data("mixed"), [], classifier.features

    def spy(trained: classifier.Classifier, of: Data, split: Batch) -> Any:
        splits.append(split)
        return features(trained, of, split)

    classifier.trained(loaded)
    monkeypatch.setattr(classifier, "features", spy)
    list(suite.run(built("vae", loaded, {}), loaded, sizes=SMALL, only=("samples",)))
    real, fake, _ = splits
    assert torch.equal(fake.observed, real.observed)  # type: ignore[arg-type]
    assert not fake.x[~fake.observed].any()  # type: ignore[operator]
    assert not torch.equal(fake.x, real.x)


def test_an_elbo_that_a_constant_model_reaches_is_called_trivial() -> None:
    loaded = user_data("counts")
    model = built("vae", loaded, {}, epochs=1)
    with torch.no_grad():
        for parameter in model.observation.families.parameters():  # type: ignore[union-attr]
            parameter.fill_(10.0)  # no more dispersion than that of a Poisson distribution
    (part,) = suite.run(model, loaded, sizes=SMALL, only=("bounds",))
    assert "no better than trivial" in part.remark


def test_the_scores_are_those_of_the_trainer(monkeypatch: pytest.MonkeyPatch) -> None:
    """With one draw, -ELBO and its parts exactly as validation counts them; with more, only the noise is smaller."""
    loaded = data.load("digits")
    model = built("vae", loaded, {}, epochs=4)
    as_valid = replace(loaded, valid=loaded.test)
    scored = trainer.score(model, as_valid, as_valid.valid, seed=0)
    one, two = (next(suite.run(model, loaded, sizes=SMALL, only=("bounds",), seed=0)).scores for _ in range(2))
    assert one == two
    scores = {s.name: s for s in one}
    elbo = -float(scored.sums["reconstruction"] + scored.sums["kl"]) / len(loaded.test)
    noise = scores["test/elbo"].monte_carlo_error or 0
    assert 0 < noise < 0.5 * (scores["test/elbo"].error or 0)
    assert abs((scores["test/elbo"].value or 0) - elbo) < 4 * noise * math.sqrt(32)
    assert (scores["test/elbo"].n, scores["test/elbo"].k) == (179, 32)
    monkeypatch.setattr(context, "EXAMPLES_AND_DRAWS", len(loaded.test))
    drawn = {s.name: s for s in next(suite.run(model, loaded, sizes=SMALL, only=("bounds",))).scores}
    assert (drawn["test/elbo"].value, drawn["test/elbo"].k, drawn["test/elbo"].monte_carlo_error) == (elbo, 1, None)
    assert scores["test/iw20"].k == 20
    assert scores["test/iw20"].n == 30
    assert 0 < (scores["test/iw20"].error or 0) < 5
    assert (scores["test/iw20"].value or 0) > (scores["test/elbo"].value or 0) - 2


def test_every_share_area_and_mean_has_its_error_and_its_number_of_examples() -> None:
    """The others are statistics of all examples together. Clusters are compared with the labels that are known."""
    y = np.arange(400) % 3 // 2
    x = np.random.default_rng(0).standard_normal((400, 4)) + y[:, None]
    loaded = data.load(Source(place="mine"), {"x": x, "y": y})
    labels = codes.labels_of(loaded.test).copy()
    labels[::4] = -1
    loaded = replace(loaded, test=replace(loaded.test, y=torch.from_numpy(labels)))
    model = built("vae", loaded, {}, epochs=1)
    only = ("latents", "probe", "clusters", "anomaly", "imputation", "interpolation")
    parts = list(suite.run(model, loaded, sizes=SMALL, only=only))
    scores = {s.name: s for p in parts for s in p.scores if s.value is not None}
    of_all = {
        "latent/active_units_kl", "latent/active_units_cov", "latent/dimension_kl", "latent/mutual_information",
        *(f"latent/{method}_{score}" for method in ("kmeans", "mixture") for score in ("ari", "nmi")),
    }  # fmt: skip
    assert {name for name, score in scores.items() if score.error is None} == of_all
    assert all(score.n for score in scores.values())
    known = labels >= 0
    expected = clusters.scores(codes.encode_split(model, loaded, loaded.test)[known], labels[known])
    assert metrics.defined(expected) == {name: scores[f"latent/{name}"].value for name in metrics.defined(expected)}


def test_codes_are_made_without_labels() -> None:
    """Also of a variant that breaks the contract, and would put the label into its code."""

    class Leak(VAE):
        def encode(self, batch: Batch) -> torch.Tensor:
            y = torch.zeros(len(batch)) if batch.y is None else batch.y.float()
            return y[:, None].expand(-1, 4)

    loaded = data.load("digits")
    assert not codes.encode_split(Leak(VAE.config_type(latent=4, width=4), loaded.spec), loaded, loaded.test).any()


def test_factors_are_scored_where_they_are_known() -> None:
    loaded = data.load("sprites")
    few = torch.arange(600)
    loaded = replace(
        loaded, train=loaded.train[few], valid=loaded.valid[few], test=loaded.test[few],
        factors=tuple(f[few.numpy()] for f in loaded.factors or ()),  # type: ignore[arg-type]
    )  # fmt: skip
    (part,) = suite.run(built("beta", loaded, {}), loaded, only=("disentanglement",))
    assert {f.name for f in part.scores} >= {"latent/mig", "latent/sap", "latent/beta_vae_score"}
    assert all(0 <= (f.value or 0) <= 1 and f.n == 600 for f in part.scores)


def test_samples_are_compared_with_all_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a test split that is sorted by class, as those of archives are, and longer than what is compared."""
    loaded = data.load("digits")
    loaded = replace(loaded, test=loaded.test[loaded.test.y.argsort()])  # type: ignore[union-attr]
    seen, features = [], classifier.features

    def spy(trained: classifier.Classifier, of: Data, split: Batch) -> Any:
        seen.append(split.y)
        return features(trained, of, split)

    monkeypatch.setattr(classifier, "features", spy)
    (part,) = suite.run(built("vae", loaded, {}), loaded, sizes=SMALL, only=("samples",))
    assert all(f.n == 60 for f in part.scores)
    true = next(y for y in seen if y is not None and len(y) == 60)
    assert len(true.unique()) == 10


def test_data_without_labels(tmp_path: Path) -> None:
    loaded = data.load("digits")
    bare = {s: replace(getattr(loaded, s), y=None) for s in ("train", "valid", "test")}
    spec = replace(loaded.spec, classes=0)
    loaded = replace(loaded, preprocessing=replace(loaded.preprocessing, spec=spec), **bare)
    parts = {p.name: p for p in suite.run(built("vae", loaded, {}), loaded, sizes=SMALL)}
    for name in ("probe", "clusters", "samples", "anomaly", "one_class", "augmentation"):
        assert all(f.value is None and "label" in f.reason for f in parts[name].scores), name
    assert {s.name: s for s in parts["bounds"].scores}["test/iw20"].value is not None


def test_a_run_gets_its_evaluation(folder: Path, call: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """Metrics, pictures and the file join the run of the trial, whose state stays; a folder gets them as files."""
    monkeypatch.setattr(suite, "Sizes", lambda: SMALL)
    loaded = data.load("digits")
    model = built("vae", loaded, {})
    with Tracker("digits").run("vae 0", {"kind": "trial"}) as run:
        run.dataset(loaded)
        run.metrics({"latent/active_units": 4.0, "probe/accuracy": 0.5}, 2)
        run.model(model, loaded, {"valid/elbo": -1.0}, 2)
    parts = [word for name in ("bounds", "latents", "probe", "anomaly") for word in ("--only", name)]
    done = call("evaluate", "--run", run.id, "--normal", "7", "--threads", "1", *parts)
    assert done.returncode == 0, done.stderr
    assert "test/iw20" in done.stdout
    assert "nats per example" in done.stdout
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    tracked = client.get_run(run.id)
    assert tracked.info.status == "FINISHED"
    assert tracked.data.tags["state"] == "complete"
    file = Path(client.download_artifacts(run.id, report.FILE))
    facts = json.loads(file.read_text())
    assert any("probe_curve" in a.path for a in client.list_artifacts(run.id, "images"))
    assert {f["name"]: f["value"] for f in facts["scores"]}["test/elbo"] == tracked.data.metrics["test/elbo"]
    assert tracked.data.metrics["probe/accuracy"] == 0.5
    by_name = {f["name"]: f for f in facts["scores"]}
    assert by_name["test/iw20"].items() >= {"k": 20, "n": 30, "unit": "nats per example", "seed": 0}.items()
    assert facts["digest"] == loaded.digest
    assert len(facts["vectors"]["kl_per_dimension"]) == 4
    table = facts["tables"]["anomaly_by_class"]
    assert table["class"] == ["0", "1", "2", "3", "4", "5", "6", "8", "9"]
    shown = json.loads(Path(client.download_artifacts(run.id, "anomaly_by_class.json")).read_text())
    assert shown["columns"] == list(table)
    assert facts["environment"]["torch"] == torch.__version__.split("+")[0] or facts["environment"]["torch"]

    model.spec = replace(model.spec, class_shares=())  # as older versions, which did not know them, saved it
    saved = variants.save(model, folder / "model")
    done = call("evaluate", "--model", str(saved), "--only", "bounds", "--threads", "1")
    assert done.returncode == 0, done.stderr
    same = {f["name"]: f["value"] for f in json.loads((saved / "evaluation" / report.FILE).read_text())["scores"]}
    assert same["test/elbo"] == pytest.approx(by_name["test/elbo"]["value"], rel=1e-5)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "either --run RUN_ID or --model FOLDER"),
        (("--run", "x", "--model", "y"), "either --run RUN_ID or --model FOLDER"),
        (("--run", "nonsense"), "has no such run"),
        (("--model", "nowhere"), "holds no model"),
        (("--model", "nowhere", "--only", "poetry"), "'poetry': expected bounds, annealing"),
    ],
)
def test_bad_input_is_told_in_a_line(call: Command, words: tuple[str, ...], message: str) -> None:
    done = call("evaluate", *words, "--threads", "1")
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_model_is_scored_on_its_own_data_alone(folder: Path, command: Command) -> None:
    loaded = data.load("digits")
    model = built("vae", loaded, {}, epochs=1)
    saved = variants.save(model, folder / "model")
    done = command("evaluate", "--model", str(saved), "--dataset", "digits-rows")
    assert done.returncode == 2
    assert "the model was made for" in done.stderr
    tracker = Tracker("digits")
    with tracker.run("study", {"kind": "study"}) as study:
        pass
    done = command("evaluate", "--run", study.id)
    assert done.returncode == 2
    assert "holds no model; a study keeps" in done.stderr
    with tracker.run("changed", {"kind": "trial"}) as run:
        run.dataset(replace(loaded, digest="0" * 64))
        run.model(model, loaded, {}, 1)
    done = command("evaluate", "--run", run.id)
    assert done.returncode == 2
    assert "changed since the run was trained on it" in done.stderr


def test_a_damaged_file_in_the_cache_ends_the_evaluation(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It is an error that names the file, not a reason beside a dash."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    loaded = data.load("digits")
    path = tmp_path / "vae-variants" / "judges" / f"digits-{loaded.digest[:16]}-{classifier.HASH}.safetensors"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"no tensors")
    with pytest.raises(InputError, match=rf"{path.name} is damaged"):
        list(suite.run(built("vae", loaded, {}, epochs=1), loaded, sizes=SMALL, only=("samples",)))


@pytest.mark.one_in(2)
@pytest.mark.parametrize("case", CASES)
def test_every_metric_of_a_trial_is_known(case: str, folder: Path) -> None:
    """All that a training run logs, of every kind of variant, has a unit, a direction or none, and a description."""
    source, settings = CASES[case]
    loaded = data.load(source)
    config = variants.get(case.split()[0]).config_type(latent=4, width=16, **settings)
    plan = TrainingPlan(variant=case.split()[0], config=config, epochs=1, patience=0, seed=0)
    with Tracker("digits").run(case, {"kind": "trial"}) as run:
        training = TrainingRun(plan, loaded, run)
        for _ in training.epochs():
            pass
        names = set(training.scores())
    names |= set(MlflowClient(f"sqlite:///{folder}/mlflow.db").get_run(run.id).data.metrics)
    assert any(name.startswith("train/loss") for name in names)
    for name in [*names, *quick.baselines(loaded)]:
        known = metrics.find(name)
        assert known.unit and known.about and known.better in ("maximize", "minimize", ""), name


@pytest.mark.parametrize("kind", ["random", "test file"])
def test_rows_of_an_evaluation_name_the_rows_of_the_source(kind: str, folder: Path) -> None:
    x, other = np.random.default_rng(0).standard_normal((2, 60, 3))
    np.savez("mine.npz", x=x)
    np.savez("other.npz", x=other)
    loaded = data.load(Source(place="mine.npz", test=None if kind == "random" else "other.npz"))
    row = report.rows(loaded, [])["row"].to_numpy()
    source = (x if kind == "random" else other)[row]
    assert len(row) == len(loaded.test) == len(set(row))
    assert np.corrcoef(source[:, 1], loaded.test.x[:, 1].numpy())[0, 1] == pytest.approx(1)


def test_the_error_of_few_labels_is_of_the_examples_and_of_the_draws() -> None:
    """Against the spread of simulated evaluations, in each of which examples and draws are new."""
    rng = np.random.default_rng(0)
    easy, lucky = rng.normal(1, 1, (300, 1, 200)), rng.normal(0, 0.5, (300, 5, 1))
    correct = (easy + lucky + rng.normal(0, 0.3, (300, 5, 200)) > 0).astype(float)
    scores = [suite._over_draws("probe/linear_10", each, k=10) for each in correct]
    spread = np.std([s.value for s in scores])
    assert spread == pytest.approx(np.mean([s.error for s in scores]), rel=0.15)


def test_names_are_written_down_once() -> None:
    assert metrics.find("test/iw5000").better == "maximize"
    assert metrics.find("valid/elbo").unit == "nats per example"
    for name in ("use/dreaming", "probe/linear_few", "best/dreaming", "sd/vae/use/dreaming"):
        with pytest.raises(KeyError, match=name):
            metrics.find(name)


def test_series_of_studies_reruns_and_anchors_are_known() -> None:
    assert metrics.find("best/elbo") == metrics.find("valid/elbo")
    assert metrics.find("vae/test/iw50") == metrics.find("test/iw50")
    assert metrics.find("vae/speed/standard") == metrics.find("speed/standard")
    spread = metrics.find("sd/vae/sample/frechet_8548b8")
    assert (spread.better, spread.unit) == ("", "squared distance")
    assert metrics.find("anchor/vae/-log px").unit == metrics.find("vae-mnist/-elbo").unit == "as published"
    for metric in metrics.METRICS.values():
        assert metric.unit and metric.about
