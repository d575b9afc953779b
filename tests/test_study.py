"""Studies as a person runs them: real processes, real stores."""

import dataclasses
import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import torch
from conftest import Command, environment
from mlflow import MlflowClient
from mlflow.entities import Run

import studies
import variants
from pipeline import checkpoint, metrics
from pipeline.study import space
from pipeline.study.driver import Plan, run
from pipeline.tracker import Tracker, views
from variants import DataSpec, InputError

QUICK = {"trials": 2, "epochs": 2, "threads": 1}


def client() -> MlflowClient:
    return MlflowClient(f"sqlite:///{Path('mlflow.db').absolute()}")  # absolute: MLflow keeps stores by their URI


def runs(kind: str, experiment: str = "digits") -> list[Run]:
    found = client().get_experiment_by_name(experiment)
    assert found is not None
    return list(
        client().search_runs([found.experiment_id], f"tags.kind = '{kind}'", order_by=["attributes.start_time"])
    )


def curve(run: Run, metric: str) -> list[float]:
    return [m.value for m in sorted(client().get_metric_history(run.info.run_id, metric), key=lambda m: m.step)]


def trials(name: str) -> list[optuna.trial.FrozenTrial]:
    return optuna.load_study(study_name=name, storage="sqlite:///optuna.db").trials


def test_the_main_job(command: Command, folder: Path) -> None:
    """One command: everything that a trial and a study are to leave behind."""
    done = command("study", "--variant", "beta", "--trials", "3", "--epochs", "4", "--threads", "1")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "* Pareto front of valid/elbo and probe/accuracy" in done.stdout
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
    assert "probe/raw_pixels" in study.data.metrics
    files = {a.path for a in client().list_artifacts(study.info.run_id, "study")}
    assert {"study/trials.csv", "study/pareto_front.png", "study/history_elbo.png"} <= files


OWN = {"cvae": "classes", "hvae": "levels", "vrae": "forecasts"}


@pytest.mark.parametrize("name", variants.names())
def test_every_variant_is_searched_on_its_embedded_default(name: str, folder: Path) -> None:
    outcome = run(Plan(name, trials=1, epochs=2, threads=1))
    (trial,) = outcome.study.trials
    assert trial.state.name == "COMPLETE"
    assert len(trial.values) == len(outcome.objectives)
    logged = {p.name.split("+")[0] for p in (folder / "mlruns").rglob("images/*.png")}
    wanted = {"reconstructions", "samples", "traversals", "interpolations", "latent", "aggregate"}
    assert wanted | {OWN.get(name, "samples")} <= logged
    assert set(logged) <= set(views.PICTURES)


def test_the_best_models_can_be_loaded(folder: Path) -> None:
    outcome = run(Plan("vae", **QUICK))  # type: ignore[arg-type]
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
        outcome = run(Plan("beta", study_name=name, seed=seed, trials=3, epochs=2, threads=1))
        kept = [dict(t.user_attrs["metrics"]) for t in outcome.study.trials]
        return [{k: v for k, v in m.items() if not k.startswith("time/")} for m in kept]

    first = scores("one", 0)
    assert first == scores("two", 0)
    assert first != scores("three", 1)
    one, two = ([r for r in runs("trial") if r.data.tags["study"] == n] for n in ("one", "two"))
    for a, b in zip(one, two, strict=True):
        for metric in ("train/loss", "train/elbo", "valid/elbo", "valid/kl"):
            assert curve(a, metric) == curve(b, metric)


def test_run_again_it_goes_on(folder: Path) -> None:
    run(Plan("vae", **QUICK))  # type: ignore[arg-type]
    again = run(Plan("vae", trials=3, epochs=2, threads=1))
    assert len(again.study.trials) == 3
    assert len({json.dumps(t.params) for t in again.study.trials}) == 3
    assert len(runs("study")) == 1
    enough = run(Plan("vae", trials=3, epochs=2, threads=1))
    assert len(enough.study.trials) == 3


def test_another_search_under_the_same_name_is_refused(folder: Path) -> None:
    run(Plan("vae", **QUICK))  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"'vae-digits' was begun with epochs = 2, and is now asked with 3"):
        run(Plan("vae", trials=2, epochs=3, threads=1))
    with pytest.raises(InputError, match=r"begun with fix = \{\}, and is now asked with \{'latent': 2\}"):
        run(Plan("vae", trials=2, epochs=2, threads=1, fixed={"latent": 2}))
    with pytest.raises(InputError, match=r"begun with objectives = \['valid/elbo'\]"):
        run(Plan("beta", trials=2, epochs=2, threads=1, study_name="vae-digits"))
    assert len(trials("vae-digits")) == 2


def test_pinned_parameters_are_not_searched(folder: Path) -> None:
    outcome = run(Plan("beta", fixed={"latent": 3, "beta": 20.0, "batch": 50}, **QUICK))  # type: ignore[arg-type]
    assert all(t.params.keys() == {"width", "depth", "lr"} for t in outcome.study.trials)
    for child in runs("trial"):
        assert (child.data.params["latent"], child.data.params["beta"], child.data.params["batch"]) == (
            "3",
            "20.0",
            "50",
        )


def test_labels_of_one_class_alone_are_searched(folder: Path) -> None:
    np.savez("one.npz", x=np.random.default_rng(0).random((60, 4)), y=np.zeros(60, int))
    (trial,) = run(Plan("beta", dataset="one.npz", trials=1, epochs=1, threads=1)).study.trials
    assert trial.values[1] == 1


def test_a_pruned_trial_says_so(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([False] * 3 + [True] * 100)
    monkeypatch.setattr(optuna.trial.Trial, "should_prune", lambda self: next(answers))
    run(Plan("vae", trials=2, epochs=3, threads=1))
    states = [(t.data.tags["state"], t.info.status) for t in runs("trial")]
    assert states == [("complete", "FINISHED"), ("pruned", "KILLED")]
    assert [t.state.name for t in trials("vae-digits")] == ["COMPLETE", "PRUNED"]


def test_a_diverged_trial_fails_and_the_study_goes_on(folder: Path) -> None:
    outcome = run(Plan("vae", trials=2, epochs=3, threads=1, fixed={"lr": 1.0, "width": 600, "depth": 16}))
    assert [t.state.name for t in outcome.study.trials] == ["FAIL", "FAIL"]
    for child in runs("trial"):
        assert (child.data.tags["state"], child.info.status) == ("failed", "FAILED")
        assert "left the real numbers" in child.data.tags["reason"]


def test_a_trial_that_raises_fails_with_its_reason(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from variants.vae import VAE

    terms = VAE.terms

    def odd(self: VAE, batch: Any, step: Any) -> Any:
        if self.config.latent == 2:
            raise ValueError(f"odd: {len(batch)} examples")
        return terms(self, batch, step)

    monkeypatch.setattr(VAE, "terms", odd)
    outcome = run(Plan("vae", **QUICK))  # type: ignore[arg-type]
    assert [t.state.name for t in outcome.study.trials] == ["FAIL", "COMPLETE"]  # the first has 2 latents
    failed = runs("trial")[0]
    assert failed.data.tags["reason"].startswith("ValueError: odd")
    assert "raise ValueError" in Path(client().download_artifacts(failed.info.run_id, "error.txt")).read_text()
    with pytest.raises(InputError, match="the first 3 trials all failed alike: ValueError: odd"):
        run(Plan("vae", trials=9, epochs=2, threads=1, fixed={"latent": 2}, study_name="always"))
    assert len(trials("always")) == 3


@pytest.mark.slow
def test_a_full_disk_ends_the_study_and_it_can_go_on(command: Command, folder: Path) -> None:
    """No file may grow beyond 5 MB, and a checkpoint of this network takes ten times as much."""
    words = ["--variant", "vae", "--trials", "1", "--epochs", "5", "--threads", "1"]
    words += ["--fix", "width=1000", "--fix", "depth=3", "--fix", "batch=20", "--fix", "lr=0.0003"]
    line = f"ulimit -f 5000; exec {sys.executable} -m pipeline.study {' '.join(words)}"
    done = subprocess.run(
        ["bash", "-c", line], cwd=folder, env=environment(), capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 2, done.stderr
    assert "the study had to stop: the checkpoint" in done.stderr
    assert "Traceback" not in done.stderr
    assert [t.state.name for t in trials("vae-digits")] == ["RUNNING"]
    again = command("study", *words)
    assert again.returncode == 0, again.stderr
    assert [t.state.name for t in trials("vae-digits")] == ["COMPLETE"]
    assert [r.data.tags["state"] for r in runs("trial")] == ["complete"]


def test_when_no_trial_completes_the_exit_code_is_1(command: Command) -> None:
    done = command("study", "--variant", "vae", "--trials", "1", "--epochs", "3", "--fix", "lr=1", "--fix", "depth=16",
                   "--fix", "width=600")  # fmt: skip
    assert done.returncode == 1
    assert "no trial was completed" in done.stderr


def test_data_without_labels_are_searched_for_the_elbo_alone(folder: Path) -> None:
    np.savez("bare.npz", x=np.random.default_rng(0).normal(size=(200, 5)))
    outcome = run(Plan("beta", dataset="bare.npz", **QUICK))  # type: ignore[arg-type]
    assert outcome.objectives == ("valid/elbo",)
    assert "probe/accuracy" not in runs("trial", "bare")[0].data.metrics


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGKILL])
def test_a_study_that_was_stopped_goes_on(sent: signal.Signals, command: Command, folder: Path) -> None:
    """Stopped in mid-trial, by a polite signal or by the hardest: the same command brings exactly what was asked."""
    words = ["--variant", "vae", "--epochs", "10", "--fix", "width=256", "--threads", "1"]
    line = [sys.executable, "-m", "pipeline.study", *words, "--trials", "50"]
    process = subprocess.Popen(
        line, cwd=folder, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not ((folder / "optuna.db").exists() and len(_seen()) >= 2):
        time.sleep(0.1)
    process.send_signal(sent)
    _, errors = process.communicate(timeout=60)
    if sent == signal.SIGTERM:
        assert process.returncode == 130
        assert "the same command goes on" in errors
        assert "Traceback" not in errors
    before = len([t for t in trials("vae-digits") if t.state.is_finished()])
    done = command("study", *words, "--trials", str(before + 2))
    assert done.returncode == 0, done.stderr
    finished = trials("vae-digits")
    assert [t.state.is_finished() for t in finished] == [True] * (before + 2)
    assert not [r for r in client().search_runs(["1"]) if r.info.status == "RUNNING"]
    assert len([r for r in runs("trial") if r.data.tags["state"] == "interrupted"]) <= 1
    plan = Plan("vae", trials=before + 2, epochs=10, threads=1, fixed={"width": 256}, storage="sqlite:///whole.db")
    whole = run(plan).study  # of the same name, on which Hyperband depends
    assert [t.values for t in whole.trials] == [t.values for t in finished]
    assert [t.params for t in whole.trials] == [t.params for t in finished]


@pytest.mark.slow
def test_a_trial_killed_at_three_random_epochs_ends_in_the_same_bits(command: Command, folder: Path) -> None:
    """kill -9, with a study that stores elsewhere for comparison: values, curves and weights."""
    words = ["--variant", "vae", "--trials", "1", "--epochs", "40", "--threads", "1"]
    for name, value in {"width": 400, "depth": 2, "latent": 8, "lr": 0.0005, "batch": 20}.items():
        words += ["--fix", f"{name}={value}"]
    rng, killed_at = random.Random(0), []
    for _ in range(3):
        line = [sys.executable, "-m", "pipeline.study", *words]
        process = subprocess.Popen(line, cwd=folder, env=environment(), stdout=subprocess.DEVNULL)
        saved = folder / "mlruns" / ".runs" / "digits"
        known = {p: p.stat().st_mtime for p in saved.glob("*/checkpoint.safetensors")}
        deadline = time.monotonic() + 60  # until it has gone on from there
        while (
            time.monotonic() < deadline
            and {p: p.stat().st_mtime for p in saved.glob("*/checkpoint.safetensors")} == known
        ):
            time.sleep(0.05)
        time.sleep(rng.uniform(0, 2))
        process.kill()
        process.wait()
        (path,) = saved.glob("*/checkpoint.safetensors")
        found = checkpoint.load(path)
        assert found is not None
        killed_at.append(found[1]["epoch"])
    assert 0 < killed_at[0] < killed_at[1] < killed_at[2] < 40
    assert command("study", *words).returncode == 0
    (pieces,) = runs("trial")
    (kept,) = (folder / "mlruns" / "digits" / "models").glob("*/artifacts/*.safetensors")
    weights = kept.read_bytes()
    assert [m.step for m in client().get_metric_history(pieces.info.run_id, "time/train_seconds")] == list(range(1, 41))
    curves = {m: curve(pieces, m) for m in ("train/elbo", "valid/elbo", "valid/kl")}

    (folder / "whole").mkdir()
    assert command("study", *words, cwd=folder / "whole").returncode == 0
    (again,) = (folder / "whole" / "mlruns" / "digits" / "models").glob("*/artifacts/*.safetensors")
    assert again.read_bytes() == weights
    store = MlflowClient(f"sqlite:///{folder}/whole/mlflow.db")
    (whole,) = store.search_runs(["1"], "tags.kind = 'trial'")
    for metric, values in curves.items():
        history = sorted(store.get_metric_history(whole.info.run_id, metric), key=lambda m: m.step)
        assert [m.value for m in history] == values


def _seen() -> list[Any]:
    try:
        return trials("vae-digits")
    except Exception:  # the tables are being made
        return []


def test_a_study_is_held_by_one_process(folder: Path) -> None:
    from pipeline.study import store

    with (
        store._alone("sqlite:///optuna.db", "vae-digits"),
        pytest.raises(InputError, match="running in another process"),
    ):
        run(Plan("vae", **QUICK))  # type: ignore[arg-type]


BAD = [
    (["--variant", "bta"], "unknown variant 'bta': did you mean beta"),
    ([], "--variant is missing: expected one of aae, beta, cvae, hvae, vae, vrae"),
    (["--variant", "vae", "--dataset", "minst"], "unknown data set 'minst'"),
    (["--variant", "vae", "--dataset", "none.npz"], "there is no such file"),
    (["--variant", "vae", "--fix", "beta=2"], "there is no parameter 'beta'"),
    (["--variant", "vae", "--fix", "laten=2"], "did you mean latent"),
    (["--variant", "vae", "--fix", "latent=0"], "--fix latent=0: expected 1 to 65536"),
    (["--variant", "vae", "--fix", "latent=two"], "--fix latent=two: expected a whole number"),
    (["--variant", "vae", "--fix", "latent"], "--fix latent: expected NAME=VALUE"),
    (["--variant", "vae", "--fix", "network=conv"], "network='conv': digits has examples of 1x8x8"),
    (["--variant", "vae", "--trials", "0"], "'0': expected a whole number, 1 or more"),
    (["--variant", "vae", "--trials", "-3"], "'-3': expected a whole number, 1 or more"),
    (["--variant", "vae", "--timeout", "soon"], "'soon': expected seconds above 0"),
    (["--variant", "vae", "--device", "cuda"], "sees 0 CUDA devices here"),
    (["--variant", "vae", "--device", "tpu"], "expected auto, cpu, cuda"),
    (["--variant", "vae", "--study-name", "../up"], "expected letters, digits"),
    (["--variant", "vae", "--storage", "sqlite:////proc/optuna.db"], "cannot"),
    (["--variant", "vae", "--storage", "postgresql://me:secret@127.0.0.1:1/db"], "postgresql://me:***@127.0.0.1:1/db"),
]


@pytest.mark.parametrize(("words", "message"), BAD, ids=lambda v: " ".join(v) if isinstance(v, list) else "")
def test_bad_input_ends_in_one_line_before_anything_starts(
    words: list[str], message: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if "cuda" in words and torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    from pipeline import cli
    from pipeline.study.__main__ import main

    monkeypatch.setattr(sys, "argv", ["study", *words])
    with pytest.raises(SystemExit) as ended:
        cli.run(main)
    assert ended.value.code == 2
    errors = capsys.readouterr().err
    assert message in errors
    assert "secret" not in errors
    assert "Traceback" not in errors
    assert not (folder / "mlruns").exists()


def test_bad_input_on_the_command_line(command: Command) -> None:
    done = command("study", "--variant", "bta")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: unknown variant 'bta'")
    assert len(done.stderr.splitlines()) == 1


def test_a_folder_that_cannot_be_written_to(command: Command) -> None:
    """/proc takes no file from anybody, root included."""
    done = command("study", "--variant", "vae", "--trials", "1", cwd="/proc")
    assert done.returncode == 2
    assert "start in a folder" in done.stderr
    assert "Traceback" not in done.stderr


def test_help_teaches(command: Command) -> None:
    general = command("study", "--help").stdout
    assert "examples:" in general
    assert "beta     Higgins et al. 2017" in general
    assert "searched: 0.25 to 8, log" in command("study", "--variant", "beta", "--help").stdout


@pytest.mark.parametrize(
    ("objective", "why"),
    [
        ("train/loss", "what is minimised contains weights that are searched"),
        ("valid/loss", "what is minimised contains weights that are searched"),
        ("test/elbo", "the test split is for the final report"),
        ("valid/beauty", "not a metric that variants can be compared by"),
    ],
)
def test_objectives_that_would_mislead_are_refused(objective: str, why: str) -> None:
    with pytest.raises(InputError, match=why):
        metrics.objectives((objective,), DataSpec("d", (4,), "bernoulli", classes=2))


def test_such_an_objective_stops_a_study_before_it_starts(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bad = dataclasses.replace(studies.get("beta").STUDY, objectives=("train/loss",))
    monkeypatch.setattr("studies.beta.STUDY", bad)
    with pytest.raises(InputError, match="objective 'train/loss' is refused"):
        run(Plan("beta", **QUICK))  # type: ignore[arg-type]
    assert not Path("optuna.db").exists()


def test_no_test_example_is_touched(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A study whose test split is poisoned ends with the same numbers."""
    from pipeline import data as datasets

    clean = run(Plan("beta", study_name="clean", **QUICK))  # type: ignore[arg-type]
    real = datasets.load("digits")
    broken = dataclasses.replace(real.test, x=real.test.x.float() * float("nan"))
    monkeypatch.setattr(datasets, "load", lambda *_, **__: dataclasses.replace(real, test=broken))
    poisoned = run(Plan("beta", study_name="poisoned", **QUICK))  # type: ignore[arg-type]
    assert [t.values for t in clean.study.trials] == [t.values for t in poisoned.study.trials]


def test_two_trackers_may_open_a_fresh_store_at_once(tmp_path: Path) -> None:
    code = "from pipeline.tracker import Tracker; print(Tracker('digits').experiment)"
    lines = [[sys.executable, "-c", code]] * 3
    started = [subprocess.Popen(x, cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, text=True) for x in lines]
    assert {p.communicate(timeout=120)[0].strip() for p in started} == {"1"}


def test_a_store_that_is_no_store(folder: Path) -> None:
    Path("mlflow.db").write_bytes(b"not a database" * 100)
    with pytest.raises(InputError, match=r"mlflow\.db cannot be opened"):
        Tracker("digits")


def test_pinned_values_take_the_type_of_their_field() -> None:
    config = variants.get("beta").config_type
    assert space.pinned(["latent=2", "beta=3", "network=conv"], config) == {"latent": 2, "beta": 3.0, "network": "conv"}
