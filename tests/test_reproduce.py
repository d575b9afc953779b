"""Anchors: every one can be built, a small one runs to its table, and an interrupted one continues."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from mlflow import MlflowClient

import variants
from pipeline import checkpoint, data, training_run
from pipeline.reproduce import __main__ as reproduce
from pipeline.reproduce import picture, task
from pipeline.reproduce.measure import MEASURES
from pipeline.trainer import LR_SCHEDULES
from studies import anchors
from studies.anchors import ANCHORS, Anchor, Budget, Training
from variants import InputError, Variant

SMALL = {"latent": 4, "width": 16, "lr": 3e-3}
LADDER = Training(variant="hvae", settings={**SMALL, "levels": 2}, epochs=3, dataset="digits")
VAE = Training(variant="vae", settings=SMALL, epochs=3, dataset="digits")


def anchor(measure: str, expected: Any = None, options: Any = None, **trainings: Training) -> Anchor:
    budgets = {"cpu": Budget(trainings, expected or {}, options or {})}
    return Anchor(
        about="a toy",
        source="nobody",
        published={"-log p(x)": 20.0, "ladder/-elbo": 31.5},
        differs="everything",
        measure=measure,
        budgets=budgets,
        cost="seconds",
    )


TOY = anchor("likelihoods", {"ladder/-elbo": ("<=", 1000.0)}, {"k": 5, "n": 20}, ladder=LADDER, vae=VAE)


@pytest.mark.parametrize("name", ANCHORS)
def test_every_anchor_can_be_built(name: str) -> None:
    """Its settings are those of the variant, and its measure and learning-rate schedules exist."""
    anchor = ANCHORS[name]
    assert anchor.measure in MEASURES
    assert "cpu" in anchor.budgets
    for budget in anchor.budgets.values():
        for each in budget.trainings.values():
            variants.get(each.variant).config_type(**each.settings)
            assert 0 < LR_SCHEDULES[each.schedule](each.epochs, each.epochs) <= 1


def test_a_small_anchor_from_end_to_end(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(ANCHORS, "toy", replace(TOY, pictured={"-elbo": "-ELBO (nats)"}))
    assert reproduce.main(["toy", "--seeds", "2", "--threads", "1"]) == 0
    output = capsys.readouterr().out
    assert "reached" in output
    assert f"the picture: {folder / 'reports' / 'toy.png'}" in output and (folder / "reports" / "toy.png").exists()
    assert "differs: everything" in output
    assert "ladder 31.5" in output
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    experiment = client.get_experiment_by_name("digits")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    assert len(runs) == 2 * 3
    assert {r.data.tags["state"] for r in runs} == {"complete"}
    parent = next(r for r in runs if "anchor/ladder/-elbo" in r.data.metrics)
    assert {"anchor/vae/-log px", "anchor/ladder/kl_level_2"} <= set(parent.data.metrics)
    children = [r for r in runs if r.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert sorted(r.data.tags["variant"] for r in children) == ["hvae", "vae"]
    curve = client.get_metric_history(children[0].info.run_id, "time/train_seconds")
    assert [m.step for m in curve] == [1, 2, 3]
    assert not list((folder / "checkpoints").iterdir())


def test_an_expectation_that_is_missed_is_reported(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(ANCHORS, "toy", anchor("likelihoods", {"vae/-elbo": ("<=", 1.0)}, {"k": 2, "n": 10}, vae=VAE))
    assert reproduce.main(["toy", "--threads", "1"]) == 1
    assert "SHORT" in capsys.readouterr().out


def test_trained_models_are_only_loaded_and_logged_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command is interrupted while it measures, and given again."""
    monkeypatch.setitem(ANCHORS, "toy", anchor("likelihoods", None, {"k": 2, "n": 10}, vae=VAE))

    measures: Any = MEASURES

    def interrupt(models: Any, **options: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setitem(measures, "likelihoods", interrupt)
        with pytest.raises(KeyboardInterrupt):
            reproduce.main(["toy", "--threads", "1"])
    with monkeypatch.context() as patch:
        patch.setattr(Variant, "terms", None)  # nothing is trained
        patch.setitem(measures, "likelihoods", lambda models, **options: {"seconds": models["vae"].seconds})
        assert reproduce.main(["toy", "--threads", "1"]) == 0
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    runs = client.search_runs(["1"])
    assert {r.data.tags["state"] for r in runs} == {"complete"}
    child = next(r for r in runs if "mlflow.parentRunId" in r.data.tags)
    assert len(runs) == 2 and child.outputs is not None and len(child.outputs.model_outputs) == 1
    expected = {"time/train_seconds": [1, 2, 3], "latent/mmd": [3, 3]}  # the latter of the run and of its model
    for metric, steps in expected.items():
        assert [m.step for m in client.get_metric_history(child.info.run_id, metric)] == steps


def test_the_validation_curve_of_an_anchor_ends_in_the_weights_that_are_kept(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    early = anchors.replace(VAE, epochs=40, patience=1, settings={**SMALL, "lr": 0.05})
    monkeypatch.setitem(ANCHORS, "toy", anchor("likelihoods", None, {"k": 2, "n": 10}, vae=early))
    assert reproduce.main(["toy", "--threads", "1"]) == 0
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    child = next(r for r in client.search_runs(["1"]) if "mlflow.parentRunId" in r.data.tags)
    curve = client.get_metric_history(child.info.run_id, "valid/elbo")
    epochs = len(client.get_metric_history(child.info.run_id, "time/train_seconds"))
    last = max(curve, key=lambda m: m.step)
    assert epochs < 40
    assert last.step == epochs + 1
    assert last.value == max(m.value for m in curve) > next(m.value for m in curve if m.step == epochs)


def test_an_interrupted_anchor_continues_and_ends_in_the_same_numbers(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ANCHORS, "toy", TOY)
    monkeypatch.setattr(training_run, "SAVE_EVERY", 0.0)

    def result(last: bool = True) -> Any:
        client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
        experiment = client.get_experiment_by_name("digits")
        assert experiment is not None
        runs = client.search_runs([experiment.experiment_id], order_by=["attributes.start_time ASC"])
        return [r for r in runs if "anchor/ladder/-elbo" in r.data.metrics], runs

    real, calls = checkpoint.save, []

    def dies(path: Path, tensors: Any, about: Any) -> None:
        real(path, tensors, about)
        calls.append(path.stem)
        if calls.count("vae") == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", dies)
        with pytest.raises(KeyboardInterrupt):
            reproduce.main(["toy", "--threads", "1"])
    assert [r.data.tags["state"] for r in result()[1]].count("interrupted") == 2  # the anchor's and the vae's
    assert reproduce.main(["toy", "--threads", "1"]) == 0
    (first,), runs = result()
    assert len(runs) == 3
    assert {r.data.tags["state"] for r in runs} == {"complete"}
    vae = next(r for r in runs if r.data.tags.get("variant") == "vae")
    history = MlflowClient(f"sqlite:///{folder}/mlflow.db").get_metric_history(vae.info.run_id, "time/train_seconds")
    assert [m.step for m in history] == [1, 2, 3]
    assert reproduce.main(["toy", "--threads", "1"]) == 0
    straight = result()[0][-1]
    for name, value in first.data.metrics.items():
        if not name.endswith("seconds"):
            assert value == straight.data.metrics[name], name


def test_a_picture_has_every_seed_and_the_interval_of_every_model(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Any] = []
    subplots = Figure.subplots

    def recorded(self: Figure, *words: Any, **options: Any) -> Any:
        drawn.append(subplots(self, *words, **options))
        return drawn[-1]

    monkeypatch.setattr(Figure, "subplots", recorded)
    scores = {"a/mig": [0.1, 0.2, 0.3], "b/mig": [0.5, 0.5, 0.8], "a/elbo": [-1.0, -2.0, -3.0]}
    picture.compared(scores, ["a", "b"], {"mig": "MIG", "elbo": "ELBO (nats)"})
    ((mig, elbo),) = drawn[0]
    assert (mig.get_xlabel(), elbo.get_xlabel()) == ("MIG", "ELBO (nats)")
    assert [label.get_text() for label in mig.get_yticklabels()] == ["a", "b"]
    assert len(mig.containers) == 2 and len(elbo.containers) == 1  # b has no ELBO
    for place, (bar, values) in enumerate(zip(mig.containers, list(scores.values())[:2], strict=True)):
        (((low, height), (high, _)),) = bar.lines[2][0].get_segments()
        reach = (
            4.302653 * np.std(values, ddof=1) / 3**0.5
        )  # the 97.5% quantile of Student's t with 2 degrees of freedom
        assert (low, high) == pytest.approx((np.mean(values) - reach, np.mean(values) + reach)) and height == place
    dots = [line.get_xdata().tolist() for line in mig.lines if len(line.get_xdata()) == 3]
    assert dots == [scores["a/mig"], scores["b/mig"]]


@pytest.mark.slow
def test_measures_run_on_every_kind(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each with trainings of a moment: what is measured, by name, and within its range."""
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(120, 9, 1, generator=rng).cumsum(1)
    y = torch.arange(120) % 3
    arrays = {"x": x.numpy(), "y": y.numpy(), "lengths": torch.full((120,), 9).numpy()}
    (folder / "UCR").mkdir()
    np.savez(folder / "UCR" / "waves.npz", **arrays)
    monkeypatch.setenv("VARIANTS_DATA", str(folder))
    vrae = Training(variant="vrae", settings=SMALL, epochs=1, dataset="UCR/waves.npz")
    cvae = Training(variant="cvae", settings=SMALL, epochs=1, dataset="digits")
    aae = Training(
        variant="aae", settings={**SMALL, "supervision": "semi"}, epochs=1, dataset="digits", grey=True, labels=50
    )
    seen = {**SMALL, "condition": "quadrants"}
    measured = {}
    for measure, options, trainings in (
        ("labels", {"k": 3, "n": 10}, {"cvae": cvae, "vae": VAE}),
        ("parzen", {"samples": 1000}, {"aae": aae}),
        ("classification", {}, {"aae": aae}),
        ("ecg", {}, {"all": vrae, "normal": anchors.replace(vrae, normal=True)}),
        ("steps", {"k": 3}, {"vrae": vrae}),
        (
            "quadrants",
            {"k": 3},
            {
                f"{o} {n}": Training(
                    variant="cvae", settings={**seen, "observed": n, "objective": o}, epochs=1, dataset="digits"
                )
                for n in (1, 2, 3)
                for o in ("network", "cvae")
            },
        ),
    ):
        monkeypatch.setitem(ANCHORS, "toy", anchor(measure, None, options, **trainings))
        assert reproduce.main(["toy", "--threads", "1"]) == 0
        files = sorted((folder / "mlruns").rglob("result.json"), key=lambda p: p.stat().st_mtime)
        measured[measure] = json.loads(files[-1].read_text())["measured"]
    assert measured["labels"]["cvae/-log p(x)"] < measured["labels"]["cvae/-log p(x, y)"]  # the sum is more than a term
    assert 0.5 < measured["classification"]["error"] <= 1
    assert {"accuracy", "auc", "kl"} <= set(measured["ecg"])
    assert 0 <= measured["ecg"]["auc"] <= 1
    assert measured["steps"]["kl a sequence"] == pytest.approx(9 * measured["steps"]["kl a step"])
    assert measured["quadrants"]["network 1"] > measured["quadrants"]["network 3"]  # fewer pixels are missing
    assert measured["parzen"]["samples"] == 1000


def test_the_list_and_bad_arguments(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    assert reproduce.main([]) == 0
    output = capsys.readouterr().out
    assert all(name in output for name in ANCHORS)
    with pytest.raises(InputError, match="unknown anchor 'vae-mnst': did you mean vae-mnist"):
        reproduce.main(["vae-mnst"])
    with pytest.raises(InputError, match="cvae-labels has no budget paper: expected cpu"):
        reproduce.main(["cvae-labels", "--budget", "paper"])


def test_missing_data_are_reported_before_anything_starts(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VARIANTS_DATA", str(folder))
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    with pytest.raises(InputError, match=r"UCR/ECG5000_TRAIN\.tsv is in none of the data folders"):
        reproduce.main(["vrae-ecg"])
    assert not (folder / "mlruns").exists()


@pytest.mark.slow
def test_hidden_values_of_an_anchor_are_imputed_and_compared(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = Training(
        variant="iwae", settings={**SMALL, "samples": 3}, epochs=2, dataset="breast-cancer", hidden=0.5,
        likelihood="gaussian",
    )  # fmt: skip
    hidden = task.prepared(table, seed=1).train
    assert hidden.observed is not None and float(hidden.observed.float().mean()) == pytest.approx(0.5, abs=0.02)
    assert not hidden.x[~hidden.observed].any()
    other = task.prepared(table, seed=2).train
    assert other.observed is not None and not torch.equal(hidden.observed, other.observed)
    monkeypatch.setitem(ANCHORS, "toy", anchor("imputation", None, {"draws": 10}, vae=table))
    assert reproduce.main(["toy", "--threads", "1"]) == 0
    (file,) = (folder / "mlruns").rglob("result.json")
    measured = json.loads(file.read_text())["measured"]
    assert measured["mse, mean"] == pytest.approx(1, abs=0.1)
    assert measured["mse, iterative"] < measured["mse, mean"]
    assert 0 < measured["vae/mse"] < 2


def test_semi_supervised_labels_are_hidden_from_training() -> None:
    loaded = task.prepared(Training(variant="aae", settings={}, epochs=1, dataset="digits", labels=50))
    assert loaded.train.y is not None and int((loaded.train.y >= 0).sum()) == 50
    assert data.load("digits").digest == loaded.digest
