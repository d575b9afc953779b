"""Studies as a person runs them: real processes, real stores."""

import dataclasses
import re
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
from conftest import Command
from stores import client, curve, runs, trials

import variants
from pipeline import executor as executors
from pipeline.compare import protocol
from pipeline.compare.__main__ import main as compare
from pipeline.evaluate import pictures
from pipeline.evaluate.context import Sizes
from pipeline.executor import Compute, Ended
from pipeline.study import pruning, store
from pipeline.study.driver import StudyRequest, run
from pipeline.study.trial import TrialTask
from pipeline.tracker import Tracker, views
from pipeline.trainer import Diverged
from variants import Config, InputError


def quick(variant: str = "vae", **options: Any) -> StudyRequest:
    """A study of one trial of one epoch with a small network, unless `options` say otherwise."""
    defaults = {"trials": 1, "epochs": 1, "compute": Compute(threads=1), "fixed": {"width": 64, "depth": 1}}
    return StudyRequest(**{"variant": variant, **defaults, **options})


def test_the_main_job(command: Command, folder: Path) -> None:
    """One command: everything that a trial and a study are to leave behind."""
    done = command("study", "--variant", "beta", "--trials", "3", "--epochs", "4", "--threads", "1")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "* Pareto front of valid/elbo and probe/accuracy" in " ".join(done.stdout.split())
    assert "python -m pipeline.ui --dataset digits --open" in done.stdout
    assert "viewStateShareKey=" in done.stdout
    assert "\x1b" not in done.stdout  # plain lines where the output is no terminal

    (study,) = runs("study")
    children = runs("trial")
    assert study.info.status == "FINISHED"
    assert len(children) == 3
    for child, trial in zip(children, trials("beta-digits"), strict=True):
        tags, params, scores = child.data.tags, child.data.params, child.data.metrics
        assert child.info.status == "FINISHED"
        assert tags["mlflow.parentRunId"] == study.info.run_id
        assert {k: tags[k] for k in ("kind", "variant", "dataset", "study", "trial", "seed", "state")} == {
            "kind": "trial", "variant": "beta", "dataset": "digits", "study": "beta-digits",
            "trial": str(trial.number), "seed": str(trial.number), "state": "complete",
        }  # fmt: skip
        assert {"latent", "width", "depth", "lr", "batch", "beta", "warmup", "weights"} <= params.keys()
        assert float(params["beta"]) == trial.params["beta"]
        assert len(curve(child, "train/elbo")) == 4
        assert scores["valid/elbo"] == pytest.approx(-(scores["valid/reconstruction"] + scores["valid/kl"]))
        assert trial.values == [scores["valid/elbo"], scores["probe/accuracy"]]
        assert {"probe/random_projection", "latent/active_units", "time/examples_per_second"} <= scores.keys()
        pictures = {a.path.split("+")[0] for a in client().list_artifacts(child.info.run_id, "images")}
        names = ("reconstructions", "samples", "traversals", "interpolations", "latent", "kl")
        assert pictures >= {f"images/{n}" for n in names}
        assert child.inputs.dataset_inputs[0].dataset.name == "digits"
    assert {"probe/raw_pixels", "baseline/valid_independent"} <= study.data.metrics.keys()
    files = {a.path for a in client().list_artifacts(study.info.run_id, "study")}
    assert {"study/trials.csv", "study/pareto_front.png", "study/history_elbo.png"} <= files
    table = pandas.read_csv(client().download_artifacts(study.info.run_id, "study/trials.csv"))
    assert table[["valid/elbo", "probe/accuracy"]].to_numpy().tolist() == [t.values for t in trials("beta-digits")]


MIXED = ("--dataset", "mixed.csv", "--label", "churn", "--trials", "2", "--epochs", "3", "--threads", "1")


@pytest.fixture
def mixed_table(folder: Path) -> Path:
    """A table of real values, counts, categories and binary values with missing ones, and a rare class."""
    generator = np.random.default_rng(0)
    z = generator.standard_normal(240)
    table = pandas.DataFrame({
        "height": 40 * z + generator.standard_normal(240), "weight": 30 * z + generator.standard_normal(240),
        "visits": generator.poisson(np.exp(1 + z)),
        "colour": np.array(["red", "green", "blue"])[generator.integers(0, 3, 240)],
        "smokes": np.where(z > 0, "yes", "no"),
    })  # fmt: skip
    table = table.mask(generator.random(table.shape) < 0.15)
    table["churn"] = np.where(np.arange(240) % 8 == 0, "left", "stayed")
    table.to_csv("mixed.csv", index=False)
    return folder / "mixed.csv"


@pytest.mark.usefixtures("mixed_table")
@pytest.mark.slow
def test_a_mixed_table_with_missing_values_from_the_search_to_the_report(
    command: Command, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The ELBO is shown with its parts and with baselines, and a model that does not exceed them has a remark."""
    done = command("study", "--variant", "vae", *MIXED)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    (study,) = runs("study", "mixed")
    baselines = {name: study.data.metrics[f"baseline/valid_{name}"] for name in ("independent", "gaussian")}
    assert baselines["gaussian"] > baselines["independent"]
    assert "baseline/valid_multinomial" not in study.data.metrics
    table = " ".join(done.stdout.split())
    assert f"independent columns {baselines['independent']:.2f}" in table
    assert "it adds log densities (real) and log probabilities (binary, category, count)" in table
    first = runs("trial", "mixed")[0].data
    words = f"no better than trivial (a Gaussian with full covariance: {baselines['gaussian']:.2f} nats)"
    assert first.metrics["valid/elbo"] < baselines["gaussian"]
    assert first.tags["remark"].endswith(words)
    assert words in done.stdout  # in the line of the trial
    assert {"valid/reconstruction_count", "valid/elbo_units", "probe/roc_area"} <= first.metrics.keys()
    monkeypatch.setattr(protocol, "PARTS", ("bounds", "latents"))
    monkeypatch.setattr(protocol, "SIZES", Sizes(iw_k=5, iw_n=10))
    monkeypatch.setattr(pictures, "all_of", lambda *_: {})
    assert compare(["--run", "--variant", "vae", "--variant", "aae", *MIXED, "--seeds", "2"]) == 0
    answers = capsys.readouterr().out
    assert re.search(r"Even vae, which has the best mean of test/elbo .*, is no better than trivial", answers), answers
    assert "vae is no better than trivial" in (folder / "reports" / "mixed" / "report.html").read_text()
    board = pandas.read_csv(folder / "reports" / "mixed" / "tables" / "board_elbo.csv").set_index("name")
    shown = float(board.loc["a Gaussian with full covariance", "mean"])
    for final in runs("final", "mixed"):
        assert final.data.metrics["baseline/test_gaussian"] == pytest.approx(shown, rel=0.02)  # rounded by its error


@pytest.mark.usefixtures("no_pictures")
def test_real_values_stand_beside_probabilistic_pca_of_as_many_latents(folder: Path) -> None:
    generator = np.random.default_rng(0)
    x = generator.normal(size=(300, 3)) @ generator.normal(size=(3, 6)) + 0.2 * generator.normal(size=(300, 6))
    np.savez("real.npz", x=x)
    linear = {}
    for latent in (1, 3):
        outcome = run(quick(dataset="real.npz", study_name=f"of-{latent}", fixed={"latent": latent}))
        (trial,) = outcome.study.trials
        linear[latent] = trial.user_attrs["metrics"]["baseline/valid_ppca"]
    assert linear[3] > linear[1] + 1  # the data have three dimensions
    assert "no better than trivial" in trial.user_attrs[store.REMARK]


@pytest.mark.usefixtures("no_pictures")
def test_collapse_is_called_collapse_where_the_trial_is_listed(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fixed = {"beta": 1e4, "latent": 2, "width": 16, "depth": 1, "lr": 1e-2}
    outcome = run(quick("beta", epochs=3, fixed=fixed))
    (trial,) = outcome.study.trials
    assert trial.user_attrs[store.REMARK].startswith("collapsed; no better than trivial (independent pixels: ")
    assert "collapsed" in next(line for line in capsys.readouterr().out.splitlines() if line.startswith("trial   0"))
    assert runs("trial")[0].data.tags["remark"] == trial.user_attrs[store.REMARK]


OWN = {"cvae": "classes", "hvae": "levels", "vrae": "forecasts", "vamp": "pseudo_inputs"}


@pytest.mark.one_in(4)
@pytest.mark.parametrize("name", variants.names())
def test_every_variant_is_searched_on_its_embedded_default(name: str, folder: Path) -> None:
    outcome = run(StudyRequest(variant=name, trials=1, epochs=2, compute=Compute(threads=1)))
    (trial,) = outcome.study.trials
    assert trial.state.name == "COMPLETE"
    assert len(trial.values) == len(outcome.objectives)
    logged = {p.name.split("+")[0] for p in (folder / "mlruns").rglob("images/*.png")}
    wanted = {"reconstructions", "samples", "latent", OWN.get(name, "samples")}
    if not variants.get(name).discrete:
        wanted |= {"traversals", "interpolations", "aggregate"}
    assert wanted <= logged
    assert set(logged) <= set(views.PICTURES)


@pytest.mark.usefixtures("no_pictures")
def test_the_best_models_can_be_loaded(folder: Path) -> None:
    outcome = run(quick(trials=2))
    experiment = client().get_experiment_by_name("digits")
    assert experiment is not None
    models = client().search_logged_models([experiment.experiment_id])
    by_run = {m.source_run_id: m for m in models}
    (run_id,) = [r.info.run_id for r in runs("trial") if r.data.tags["trial"] == str(outcome.study.best_trial.number)]
    best = by_run[run_id]
    assert {m.key: m.value for m in best.metrics or []}["valid/elbo"] == outcome.study.best_value
    assert best.artifact_location.startswith("file:") or Path(best.artifact_location).exists()
    model = variants.load(best.artifact_location.removeprefix("file://"))
    assert model.config.latent == outcome.study.best_trial.params["latent"]


@pytest.mark.slow
def test_the_same_seed_gives_the_same_study(folder: Path) -> None:
    def scores(name: str, seed: int) -> list[dict[str, float]]:
        outcome = run(
            StudyRequest(variant="beta", study_name=name, seed=seed, trials=3, epochs=2, compute=Compute(threads=1))
        )
        kept = [dict(t.user_attrs["metrics"]) for t in outcome.study.trials]
        return [{k: v for k, v in m.items() if not k.startswith("time/")} for m in kept]

    first = scores("one", 0)
    assert first == scores("two", 0)
    assert first != scores("three", 1)
    one, two = ([r for r in runs("trial") if r.data.tags["study"] == n] for n in ("one", "two"))
    for a, b in zip(one, two, strict=True):
        for metric in ("train/loss", "train/elbo", "valid/elbo", "valid/kl"):
            assert curve(a, metric) == curve(b, metric)


@pytest.mark.usefixtures("no_pictures")
def test_another_search_under_the_same_name_is_refused(folder: Path) -> None:
    run(quick())
    with pytest.raises(InputError, match="'vae-digits' was started with epochs = 1, and 2 is asked for now"):
        run(quick(epochs=2))
    with pytest.raises(InputError, match=r"started with fix = \{.*\}, and \{'latent': 2\} is asked for now"):
        run(quick(fixed={"latent": 2}))
    with pytest.raises(InputError, match=r"started with objectives = \['valid/elbo'\]"):
        run(quick("beta", study_name="vae-digits"))
    assert len(trials("vae-digits")) == 1


@pytest.mark.usefixtures("no_pictures")
def test_pinned_parameters_are_not_searched(folder: Path) -> None:
    outcome = run(quick("beta", trials=2, fixed={"latent": 3, "beta": 20.0, "batch": 50}))
    assert all(t.params.keys() == {"width", "depth", "lr"} for t in outcome.study.trials)
    for child in runs("trial"):
        assert (child.data.params["latent"], child.data.params["beta"], child.data.params["batch"]) == (
            "3",
            "20.0",
            "50",
        )


@pytest.mark.usefixtures("no_pictures")
def test_labels_of_one_class_alone_are_searched_without_a_probe(folder: Path) -> None:
    np.savez("one.npz", x=np.random.default_rng(0).random((60, 4)), y=np.zeros(60, int))
    outcome = run(quick("beta", dataset="one.npz"))
    assert outcome.objectives == ("valid/elbo",)


@pytest.mark.usefixtures("no_pictures")
def test_a_pruned_trial_keeps_its_scores(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pruning, "ends_early", lambda study, *_: len(study.trials) == 2)
    complete, pruned = run(quick(trials=2, epochs=8)).study.trials
    assert (complete.state.name, pruned.state.name) == ("COMPLETE", "PRUNED")
    assert list(complete.user_attrs[pruning.RUNGS]) == ["1", "2", "4"]
    assert complete.user_attrs[store.EPOCHS] == 8
    ((epoch, scores_at_rung),) = pruned.user_attrs[pruning.RUNGS].items()
    assert (epoch, pruned.user_attrs[store.EPOCHS]) == ("1", 1)
    assert pruned.user_attrs["reason"] == pruning.REASON
    scores = pruned.user_attrs["metrics"]
    assert [scores["valid/elbo"]] == scores_at_rung
    assert scores["time/trial_seconds"] > 0
    first, second = runs("trial")
    assert (first.data.tags["state"], first.info.status) == ("complete", "FINISHED")
    assert (second.data.tags["state"], second.info.status) == ("pruned", "KILLED")
    assert second.data.tags["reason"] == pruning.REASON
    assert len(curve(second, "valid/elbo")) == 1
    assert runs("study")[0].data.tags["pruning"].startswith("ended 1 of 2 trials early, which saved about 44% of the")
    assert first.data.metrics["time/trial_seconds"] == complete.user_attrs["metrics"]["time/trial_seconds"]


@pytest.mark.usefixtures("no_pictures")
def test_a_trial_has_its_number_its_seed_and_its_name(folder: Path) -> None:
    outcome = run(quick("beta", trials=3, seed=7))
    children = runs("trial")
    assert [r.data.tags["trial"] for r in children] == ["0", "1", "2"]
    assert [r.data.tags["seed"] for r in children] == ["7", "8", "9"]
    assert [r.info.run_name for r in children] == ["beta 0", "beta 1", "beta 2"]
    assert len({r.data.tags["mlflow.runColor"] for r in children}) == 3
    assert len({r.data.tags["key"] for r in children}) == 3
    (parent,) = runs("study")
    assert parent.data.tags["seed"] == "7"
    assert all(r.data.tags["mlflow.parentRunId"] == parent.info.run_id for r in children)
    assert parent.data.params["epochs"] == "1"
    assert "0.25 to 8, log" in parent.data.params["space_beta"]
    values = np.array([t.values for t in outcome.study.trials])
    for i, name in enumerate(("best/elbo", "best/accuracy")):  # the best so far, after each trial
        assert curve(parent, name) == np.maximum.accumulate(values[:, i]).tolist()
    kept = {m.source_run_id for m in client().search_logged_models([parent.info.experiment_id])}
    for number, child in enumerate(children):  # a model is kept unless an earlier trial is better in all objectives
        better = [(values[k] >= values[number]).all() and (values[k] > values[number]).any() for k in range(number)]
        assert (child.info.run_id in kept) == (not any(better)), number


@pytest.mark.usefixtures("no_pictures")
def test_the_time_limit_of_a_study_ends_it_between_trials(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(quick(trials=3, timeout=1e-9)).study.trials == []
    message = "the time limit is reached after 0 of 3 trials; the same command continues the study"
    assert capsys.readouterr().out.count(message) == 1
    assert len(run(quick(timeout=1000.0)).study.trials) == 1


@pytest.mark.usefixtures("no_pictures")
def test_runs_get_the_state_that_optuna_has(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes died after they told Optuna and before they told MLflow. One left a run without a trial."""

    def diverge(*_: Any) -> None:
        raise Diverged("epoch 1")

    fails = quick(study_name="fails")
    run(quick())
    with monkeypatch.context() as patch:
        patch.setattr(TrialTask, "_train", diverge)
        run(fails)
    tracker = Tracker("digits")
    for record in tracker.find(kind="trial"):
        client().set_tag(record.id, "state", "interrupted")
        client().set_terminated(record.id, "KILLED")
    tags = {"kind": "trial", "study": "vae-digits", "key": "vae-digits-00000000-0"}
    stray = client().create_run(tracker.experiment, tags=tags).info.run_id
    run(quick())
    run(fails)
    states = {r.info.run_id: (r.data.tags["study"], r.data.tags["state"], r.info.status) for r in runs("trial")}
    assert states.pop(stray) == ("vae-digits", "interrupted", "KILLED")
    assert sorted(states.values()) == [("fails", "failed", "FAILED"), ("vae-digits", "complete", "FINISHED")]


class DyingExecutor:
    """An executor whose processes all die."""

    slots, hosts = 1, 1

    def submit(self, key: Any, task: Any) -> None:
        self.key = key

    def wait(self, on_progress: Any) -> list[Ended]:
        return [Ended(self.key, died="signal 9")]


@pytest.mark.usefixtures("no_pictures")
def test_a_trial_whose_processes_all_die_fails_with_the_reason(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def dying(*_: Any) -> Any:
        yield DyingExecutor()

    monkeypatch.setattr(executors, "open_executor", dying)
    failed = run(quick(trials=2)).study.trials
    assert [t.state.name for t in failed] == ["FAIL", "FAIL"]
    reason = "given up after 5 processes died while running it; the last: signal 9"
    assert [t.user_attrs["reason"] for t in failed] == [reason] * 2


def test_a_cluster_of_several_machines_needs_a_database_server(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def cluster(*_: Any) -> Any:
        executor = DyingExecutor()
        executor.hosts = 2
        yield executor

    monkeypatch.setattr(executors, "open_executor", cluster)
    with pytest.raises(InputError, match="an SQLite file serves one machine only, and the cluster has 2"):
        run(quick())


@pytest.mark.slow
@pytest.mark.usefixtures("no_pictures")
def test_a_study_that_was_deleted_and_started_again_has_new_runs(folder: Path) -> None:
    """The study has the same name, and the runs of the old one stay as they are."""
    run(quick())
    Path("optuna.db").rename("old.db")
    for _ in range(2):  # the second time, the new study continues
        run(quick())
        assert len(runs("trial")) == len(runs("study")) == 2
    assert {r.data.tags["state"] for r in runs("trial")} == {"complete"}


@pytest.mark.usefixtures("no_pictures")
def test_a_diverged_trial_fails_and_the_study_goes_on(folder: Path) -> None:
    outcome = run(quick(trials=2, epochs=3, fixed={"lr": 1.0, "width": 64, "depth": 16}))
    assert [t.state.name for t in outcome.study.trials] == ["FAIL", "FAIL"]
    for child in runs("trial"):
        assert (child.data.tags["state"], child.info.status) == ("failed", "FAILED")
        assert "is infinite or not a number" in child.data.tags["reason"]


@pytest.mark.usefixtures("no_pictures")
def test_a_trial_that_raises_fails_with_its_reason(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from variants.vae import VAE

    terms = VAE.terms

    def odd(self: VAE, batch: Any, step: Any) -> Any:
        if self.config.latent == Config.latent:
            raise ValueError(f"odd: {len(batch)} examples")
        return terms(self, batch, step)

    monkeypatch.setattr(VAE, "terms", odd)
    outcome = run(quick(trials=2))
    assert [t.state.name for t in outcome.study.trials] == ["FAIL", "COMPLETE"]  # the first has the defaults
    failed = runs("trial")[0]
    assert failed.data.tags["reason"].startswith("ValueError: odd")
    assert "raise ValueError" in Path(client().download_artifacts(failed.info.run_id, "error.txt")).read_text()
    with pytest.raises(InputError, match="the first 3 trials all failed in the same way: ValueError: odd"):
        run(quick(trials=9, fixed={"latent": 16}, study_name="always"))
    assert len(trials("always")) == 3


@pytest.mark.usefixtures("no_pictures")
def test_data_without_labels_are_searched_for_the_elbo_alone(folder: Path) -> None:
    np.savez("bare.npz", x=np.random.default_rng(0).normal(size=(200, 5)))
    outcome = run(quick("beta", dataset="bare.npz"))
    assert outcome.objectives == ("valid/elbo",)
    assert "probe/accuracy" not in runs("trial", "bare")[0].data.metrics


@pytest.mark.usefixtures("no_pictures")
def test_no_test_example_is_touched(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A study whose test split is poisoned ends with the same numbers."""
    from pipeline import data as datasets

    clean = run(quick("beta", trials=2, study_name="clean"))
    real = datasets.load("digits")
    broken = dataclasses.replace(real.test, x=real.test.x.float() * float("nan"))
    monkeypatch.setattr(datasets, "load", lambda *_, **__: dataclasses.replace(real, test=broken))
    poisoned = run(quick("beta", trials=2, study_name="poisoned"))
    assert [t.values for t in clean.study.trials] == [t.values for t in poisoned.study.trials]
