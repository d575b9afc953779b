"""A study on PostgreSQL, with an MLflow server that goes away in the middle and comes back."""

import subprocess
import sys
from pathlib import Path

import optuna
import pytest
from conftest import environment
from mlflow import MlflowClient
from servers import MLflowServer

from pipeline.executor import Compute
from pipeline.study import store
from pipeline.study.driver import StudyRequest, run
from variants import InputError

WORDS = ("--variant", "beta", "--epochs", "6", "--trials", "4", "--workers", "2", "--threads", "1")


def test_one_driver_a_study_also_on_postgresql(folder: Path, database: str) -> None:
    with store._exclusive(database, "vae-digits"):
        with pytest.raises(InputError, match="running in another process"):
            run(StudyRequest(variant="vae", trials=1, epochs=1, compute=Compute(threads=1), storage=database))
        with store._exclusive(database, "another"):
            pass
    outcome = run(StudyRequest(variant="vae", trials=1, epochs=1, compute=Compute(threads=1), storage=database))
    assert [t.state.name for t in outcome.study.trials] == ["COMPLETE"]


@pytest.mark.slow
def test_what_a_server_missed_is_sent_later(tmp_path: Path, database: str) -> None:
    """The server is stopped while trials run, and started after the study: `sync` sends everything, once."""
    server = MLflowServer(tmp_path / "mlflow")
    server.start()
    env = {**environment(), "MLFLOW_TRACKING_URI": server.uri}
    line = [sys.executable, "-m", "pipeline.study", *WORDS, "--storage", database]
    study = subprocess.Popen(line, cwd=tmp_path, env=env, stdout=subprocess.PIPE, text=True)
    assert study.stdout is not None
    while not study.stdout.readline().startswith("trial "):
        pass
    server.stop()
    output, _ = study.communicate(timeout=200)
    assert study.returncode == 0
    assert "`python -m pipeline.sync` sends it later" in output
    server.start()
    try:
        done = subprocess.run(
            [sys.executable, "-m", "pipeline.sync"], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stdout + done.stderr
        client = MlflowClient(server.uri)
        trials = optuna.load_study(study_name="beta-digits", storage=database).trials
        runs = client.search_runs(["1"], "tags.kind = 'trial'")
        assert len(runs) == len(trials) == 4
        for child in runs:
            state = {"COMPLETE": "complete", "PRUNED": "pruned"}[trials[int(child.data.tags["trial"])].state.name]
            assert child.data.tags["state"] == state
            steps = [m.step for m in client.get_metric_history(child.info.run_id, "time/train_seconds")]
            assert steps == list(range(1, len(steps) + 1))
            assert state == "pruned" or len(client.list_artifacts(child.info.run_id, "images")) >= 12
    finally:
        server.stop()
