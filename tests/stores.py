"""Helpers that read the stores in the working directory of a test."""

import sqlite3
from contextlib import closing, suppress
from pathlib import Path

import optuna
from mlflow import MlflowClient
from mlflow.entities import Run


def client() -> MlflowClient:
    return MlflowClient(
        f"sqlite:///{Path('mlflow.db').absolute()}"
    )  # absolute, because MLflow caches stores by their URI


def runs(kind: str, experiment: str = "digits") -> list[Run]:
    existing = client().get_experiment_by_name(experiment)
    assert existing is not None
    return list(
        client().search_runs([existing.experiment_id], f"tags.kind = '{kind}'", order_by=["attributes.start_time"])
    )


def curve(run: Run, metric: str) -> list[float]:
    return [m.value for m in sorted(client().get_metric_history(run.info.run_id, metric), key=lambda m: m.step)]


def trials(name: str) -> list[optuna.trial.FrozenTrial]:
    return optuna.load_study(study_name=name, storage="sqlite:///optuna.db").trials


def started_trials() -> int:
    """Return how many trials a study has begun in `optuna.db`, while another process may still create its tables.

    Optuna would create missing tables itself, and one of the two processes would then fail.
    """
    with suppress(sqlite3.OperationalError), closing(sqlite3.connect("file:optuna.db?mode=ro", uri=True)) as connection:
        return int(connection.execute("select count(*) from trials").fetchone()[0])
    return 0
