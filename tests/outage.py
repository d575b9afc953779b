"""A study with two workers and PostgreSQL, whose MLflow server is stopped in the middle: `python tests/outage.py`.

It prints how many points were written, lost or doubled, and how long an epoch took, in turn for a study whose server
was stopped and for one whose server was not.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from servers import MLflowServer, postgresql

ROOT = Path(__file__).parents[1]


def study(folder: Path, server: MLflowServer, storage: str, name: str, trials: int, away: float) -> dict[str, Any]:
    """Run a study whose server is stopped after 20 seconds, for `away` seconds."""
    env = {
        **os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "MLFLOW_TRACKING_URI": server.uri,
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }  # fmt: skip
    words = ["--variant", "beta", "--epochs", "100", "--trials", str(trials), "--workers", "2", "--threads", "1"]
    line = [sys.executable, "-m", "pipeline.study", *words, "--storage", storage, "--study-name", name]
    begin = time.monotonic()
    process = subprocess.Popen(
        line, cwd=folder, env=env, stdout=(folder / f"{name}.txt").open("w"), stderr=subprocess.STDOUT
    )
    if away:
        time.sleep(20)
        server.stop()
        time.sleep(away)
        alive = process.poll() is None
        server.start()
        assert alive, "the study was over before the server came back: give more --trials"
    code = process.wait(timeout=900)
    seconds = time.monotonic() - begin
    if code:
        print((folder / f"{name}.txt").read_text()[-2000:])
    return {"code": code, "seconds": f"{seconds:.1f}", **points(server, storage, name)}


def points(server: MLflowServer, storage: str, name: str) -> dict[str, Any]:
    """Compare what the server has of a study with the trials in Optuna and the epochs that each curve must have.

    The epochs of a run are counted by its last score, which is written after them; pictures by those of complete runs.
    """
    import optuna
    from mlflow import MlflowClient

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    client = MlflowClient(server.uri)
    experiment = client.get_experiment_by_name("digits")
    assert experiment is not None
    trials = {t.number: t for t in optuna.load_study(study_name=name, storage=storage).trials}
    runs = client.search_runs([experiment.experiment_id], f"tags.kind = 'trial' and tags.study = '{name}'")
    written = lost = twice = wrong = 0
    pictures: set[int] = set()
    epoch: list[float] = []
    for run in runs:
        state = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed"}[
            trials.pop(int(run.data.tags["trial"])).state.name
        ]
        wrong += run.data.tags.get("state") != state
        series = {
            m: client.get_metric_history(run.info.run_id, m) for m in ("train/elbo", "train/kl", "time/train_seconds")
        }
        epochs = max(m.step for points in series.values() for m in points)
        for points in series.values():
            written += len(points)
            lost += epochs - len({m.step for m in points})
            twice += len(points) - len({m.step for m in points})
        epoch += [m.value for m in series["time/train_seconds"]]
        if state == "complete":
            last = max(m.step for m in client.get_metric_history(run.info.run_id, "valid/elbo"))
            lost += last not in (epochs, epochs + 1)
            pictures.add(len(client.list_artifacts(run.info.run_id, "images")))
    return {
        "trials": len(runs), "missing": len(trials), "wrong states": wrong, "points": written, "lost": lost,
        "twice": twice, "pictures a run": pictures, "ms an epoch": f"{1000 * statistics.median(epoch):.1f}",
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--away", type=float, default=60, help="seconds")
    parser.add_argument("--rounds", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        server = MLflowServer(folder / "mlflow")
        with postgresql(folder / "postgresql") as storage:
            server.start()
            try:
                for n in range(arguments.rounds):
                    for away in (0.0, arguments.away):
                        result = study(folder, server, storage, f"away{away:.0f}-{n}", arguments.trials, away)
                        print(
                            f"server away for {away:.0f} s:",
                            ", ".join(f"{k} {v}" for k, v in result.items()),
                            flush=True,
                        )
            finally:
                server.stop()


if __name__ == "__main__":
    main()
