"""What tests read in the stores of the folder that they run in."""

from pathlib import Path

import optuna
from mlflow import MlflowClient
from mlflow.entities import Run


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
