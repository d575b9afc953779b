"""Studies that are stopped, killed, refused or started twice: nothing is lost, and the same command continues."""

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import Command, environment
from mlflow import MlflowClient
from stores import client, curve, runs, started_trials, trials
from test_study import quick

from pipeline import checkpoint
from pipeline.executor import Compute
from pipeline.study.driver import StudyRequest, run
from pipeline.tracker import Tracker
from variants import InputError


@pytest.mark.slow
def test_a_study_that_is_run_again_continues(folder: Path) -> None:
    run(quick(trials=2))
    for _ in range(2):  # the second time there is nothing to do
        trials = run(quick(trials=3)).study.trials
        assert len(trials) == len({json.dumps(t.params) for t in trials}) == 3
        assert len(runs("study")) == 1


@pytest.mark.slow
def test_a_full_disk_ends_the_study_which_can_continue(command: Command, folder: Path) -> None:
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


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGKILL])
def test_a_study_that_was_stopped_continues(sent: signal.Signals, command: Command, folder: Path) -> None:
    """Stopped in the middle of a trial, by SIGTERM or SIGKILL: the same command then ends with what was requested."""
    words = ["--variant", "vae", "--epochs", "10", "--fix", "width=256", "--threads", "1"]
    line = [sys.executable, "-m", "pipeline.study", *words, "--trials", "50"]
    process = subprocess.Popen(
        line, cwd=folder, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and started_trials() < 2:
        time.sleep(0.1)
    process.send_signal(sent)
    _, errors = process.communicate(timeout=60)
    if sent == signal.SIGTERM:
        assert process.returncode == 130
        assert "the same command continues" in errors
        assert "Traceback" not in errors
    before = len([t for t in trials("vae-digits") if t.state.is_finished()])
    done = command("study", *words, "--trials", str(before + 2))
    assert done.returncode == 0, done.stderr
    finished = trials("vae-digits")
    assert [t.state.is_finished() for t in finished] == [True] * (before + 2)
    assert not [r for r in client().search_runs(["1"]) if r.info.status == "RUNNING"]
    assert len([r for r in runs("trial") if r.data.tags["state"] == "interrupted"]) <= 1
    plan = StudyRequest(
        variant="vae",
        trials=before + 2,
        epochs=10,
        compute=Compute(threads=1),
        fixed={"width": 256},
        storage="sqlite:///whole.db",
    )
    whole = run(plan).study
    assert [t.values for t in whole.trials] == [t.values for t in finished]
    assert [t.params for t in whole.trials] == [t.params for t in finished]


@pytest.mark.slow
def test_a_trial_killed_at_three_random_epochs_ends_in_the_same_weights(command: Command, folder: Path) -> None:
    """By SIGKILL. Values, curves and weights are compared with those of a study in another folder."""
    words = ["--variant", "vae", "--trials", "1", "--epochs", "100", "--threads", "1"]
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
        saved_state = checkpoint.load(path)
        assert saved_state is not None
        killed_at.append(saved_state[1]["epoch"])
    assert command("study", *words).returncode == 0
    (pieces,) = runs("trial")
    epochs = int(pieces.data.metrics["time/epochs"])  # 100, or fewer if patience ran out, which depends on rounding
    assert 0 < killed_at[0] < killed_at[1] < killed_at[2] < epochs
    (kept,) = (folder / "mlruns" / "digits" / "models").glob("*/artifacts/model.safetensors")
    weights = kept.read_bytes()
    seconds = client().get_metric_history(pieces.info.run_id, "time/train_seconds")
    assert [m.step for m in seconds] == list(range(1, epochs + 1))
    curves = {m: curve(pieces, m) for m in ("train/elbo", "valid/elbo", "valid/kl")}

    (folder / "whole").mkdir()
    assert command("study", *words, cwd=folder / "whole").returncode == 0
    (again,) = (folder / "whole" / "mlruns" / "digits" / "models").glob("*/artifacts/model.safetensors")
    assert again.read_bytes() == weights
    store = MlflowClient(f"sqlite:///{folder}/whole/mlflow.db")
    (whole,) = store.search_runs(["1"], "tags.kind = 'trial'")
    for metric, values in curves.items():
        history = sorted(store.get_metric_history(whole.info.run_id, metric), key=lambda m: m.step)
        assert [m.value for m in history] == values


def test_a_study_is_run_by_one_process(folder: Path) -> None:
    from pipeline.study import store

    with (
        store._exclusive("sqlite:///optuna.db", "vae-digits"),
        pytest.raises(InputError, match="running in another process"),
    ):
        run(quick())


@pytest.mark.slow
def test_two_trackers_may_open_a_fresh_store_at_once(tmp_path: Path) -> None:
    code = "import os; from pipeline.tracker import Tracker; os.fork(); print(Tracker('digits').experiment)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=120
    )
    assert done.stdout.split() == ["1", "1"], done.stderr


def test_a_damaged_store_is_refused(folder: Path) -> None:
    Path("mlflow.db").write_bytes(b"not a database" * 100)
    with pytest.raises(InputError, match=r"mlflow\.db cannot be opened"):
        Tracker("digits")
