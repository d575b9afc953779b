"""The only writer to MLflow.

One experiment a data set, so that all variants stand on one page. A study is a run, its trials are its children.

    tracker = Tracker("digits")
    with tracker.run("beta-digits", {"kind": "study", ...}) as study:
        with tracker.run("trial 3", {"kind": "trial", ...}, parent=study) as run:
            run.metrics({"valid/elbo": -23.1}, step=1)

A run that is left by an exception is marked for what happened: never as finished, never as still running.
"""

import logging
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")

from mlflow import MlflowClient, artifacts
from mlflow.entities import Dataset, DatasetInput, InputTag, LoggedModelOutput, Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

import variants
from pipeline import machine
from pipeline.data import Data
from pipeline.data import names as known_data
from pipeline.tracker import views
from variants import InputError, Variant

__all__ = ["Record", "Run", "State", "Tracker", "public", "saved_model", "store", "views"]

State = Literal["complete", "pruned", "failed", "interrupted"]
logging.getLogger("mlflow").setLevel(logging.WARNING)
STATUS = {"complete": "FINISHED", "pruned": "KILLED", "failed": "FAILED", "interrupted": "KILLED"}
PARAM_LIMIT = 6000  # characters that MLflow takes as a param's value


def store() -> str:
    """The tracking URI: MLFLOW_TRACKING_URI, or `mlflow.db` in the working directory, as plain `mlflow ui` reads it."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{Path('mlflow.db').absolute()}"


class Tracker:
    """An MLflow experiment, opened; made where it is missing. Raises `InputError` where the store cannot be used."""

    def __init__(self, dataset: str) -> None:
        self.uri = store()
        with _first_use(self.uri):
            try:
                self.client = MlflowClient(self.uri)
                found = self.client.get_experiment_by_name(dataset)
                self.experiment = found.experiment_id if found else self._create(dataset)
            except (MlflowException, SQLAlchemyError, OSError) as error:
                raise InputError(f"the MLflow store {public(self.uri)} cannot be opened: {error}") from error
        if found and found.lifecycle_stage != "active":
            raise InputError(
                f"the MLflow experiment {dataset!r} is deleted: `mlflow experiments restore` brings it back"
            )

    def _create(self, dataset: str) -> str:
        # explicit, as the default location of a store that `mlflow ui` opened first is of use to its server alone
        local = None if self.uri.startswith(("http:", "https:")) else (Path("mlruns").absolute() / dataset).as_uri()
        return self.client.create_experiment(dataset, artifact_location=local)

    def run(
        self, name: str, tags: Mapping[str, str], *, parent: "Run | None" = None, resume: str | None = None
    ) -> "Run":
        """A new run, or the one with the id `resume` again, if the store still holds it."""
        if parent:
            tags = {**tags, "mlflow.parentRunId": parent.id}
        if resume and self._exists(resume):
            self.client.update_run(resume, status="RUNNING")
            run = Run(self, resume)
            run.tags(tags)
            return run
        return Run(self, self.client.create_run(self.experiment, tags=dict(tags), run_name=name).info.run_id)

    def _exists(self, run_id: str) -> bool:
        try:
            return self.client.get_run(run_id).info.lifecycle_stage == "active"
        except MlflowException:
            return False

    def find(self, **tags: str) -> "list[Record]":
        """Every run of this experiment that bears these tags, oldest first."""
        words = " and ".join(f"tags.`{name}` = '{value}'" for name, value in tags.items())
        found: list[Record] = []
        token = None
        while True:
            page = self.client.search_runs(
                [self.experiment], words, max_results=1000, order_by=["attributes.start_time ASC"], page_token=token
            )
            for run in page:
                outputs = run.outputs.model_outputs if run.outputs else []
                model = outputs[-1].model_id if outputs else None
                found.append(Record(run.info.run_id, run.data.tags, run.data.params, run.data.metrics, model))
            token = page.token
            if not token:
                return found

    def curve(self, run_id: str, metric: str) -> list[tuple[int, float]]:
        """(step, value) of a metric, by step."""
        return sorted((m.step, m.value) for m in self.client.get_metric_history(run_id, metric))

    def model(self, model_id: str, folder: Path) -> Variant:
        """A kept model, whose files are fetched into `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        uri = f"models:/{model_id}"
        return variants.load(artifacts.download_artifacts(uri, dst_path=str(folder), tracking_uri=self.uri))

    def text(self, run_id: str, path: str) -> str:
        """An artifact of a run as text."""
        with tempfile.TemporaryDirectory() as folder:
            return Path(self.client.download_artifacts(run_id, path, folder)).read_text(encoding="utf-8")

    def register(self, name: str, model_id: str, alias: str) -> None:
        """Make a kept model a version of the registered model `name`, where it is none yet, and give it the alias."""
        with suppress(MlflowException):  # it may exist
            self.client.create_registered_model(name)
        model = self.client.get_logged_model(model_id)
        versions = self.client.search_model_versions(f"name = '{name}'")
        version = next((v.version for v in versions if v.source == model.artifact_location), None)
        if version is None:
            made = self.client.create_model_version(
                name, model.artifact_location, run_id=model.source_run_id, model_id=model_id
            )
            version = made.version
        self.client.set_registered_model_alias(name, alias, version)

    def close(self, run_id: str, state: State) -> None:
        """Set right a run whose process died without a word."""
        if self._exists(run_id):
            self.client.set_tag(run_id, "state", state)
            self.client.set_terminated(run_id, STATUS[state])


@dataclass(frozen=True)
class Record:
    """A run as it was logged."""

    id: str
    tags: Mapping[str, str]
    params: Mapping[str, str]
    metrics: Mapping[str, float]  # the last value of each
    model: str | None  # the id of its LoggedModel


def saved_model(run_id: str, folder: Path) -> "tuple[Run, Path, str, str]":
    """The run of that id, to add to (its state stays); its model's files, put into `folder`; its data set and digest.

    The data set is a name, or the path that it was read from. Raises `InputError` where the run holds no model.
    """
    client = MlflowClient(store())
    try:
        found = client.get_run(run_id)
    except MlflowException as error:
        raise InputError(f"--run {run_id}: the store {public(store())} has no such run") from error
    models = found.outputs.model_outputs if found.outputs else []
    if not models:
        kept = "a study keeps the models of its best trials: name one of those runs"
        raise InputError(f"--run {run_id}: this run ({found.info.run_name}) holds no model; {kept}")
    path = artifacts.download_artifacts(f"models:/{models[-1].model_id}", dst_path=str(folder), tracking_uri=store())
    inputs = found.inputs.dataset_inputs if found.inputs else []
    name, source, digest = next(((i.dataset.name, i.dataset.source, i.dataset.digest) for i in inputs), ("", "", ""))
    source = name if name in known_data() else source
    experiment = client.get_experiment(found.info.experiment_id).name
    return Run(Tracker(experiment), run_id), Path(path), source, digest


class Run:
    """An MLflow run that is being written. Leave its `with` block and it ends, in the state that it earned."""

    def __init__(self, tracker: Tracker, run_id: str) -> None:
        self.id = run_id
        self.state: State = "complete"
        self._tracker, self._client = tracker, tracker.client

    def __enter__(self) -> "Run":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self.state = "failed" if isinstance(error, Exception) else "interrupted"
            self.tags({"reason": f"{type(error).__name__}: {error}"})
        self.tags({"state": self.state})
        self._client.set_terminated(self.id, STATUS[self.state])

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """One call to the store for all of them."""
        now = int(time.time() * 1000)
        self._client.log_batch(self.id, [Metric(k, v, now, step) for k, v in values.items()], synchronous=True)

    def params(self, values: Mapping[str, Any]) -> None:
        self._client.log_batch(self.id, params=[Param(k, str(v)[:PARAM_LIMIT]) for k, v in values.items()])

    def tags(self, values: Mapping[str, str]) -> None:
        self._client.log_batch(self.id, tags=[RunTag(k, str(v)) for k, v in values.items()])

    def picture(self, name: str, pixels: Any, step: int) -> None:
        """(height, width, 3) uint8, shown in the run's image grid under `name`."""
        self._client.log_image(self.id, pixels, key=name, step=step, synchronous=True)

    def figure(self, path: str, figure: Any) -> None:
        """A matplotlib figure as a PNG file."""
        self._client.log_figure(self.id, figure, path)

    def text(self, path: str, text: str) -> None:
        self._client.log_text(self.id, text, path)

    def files(self, folder: Path, path: str) -> None:
        """All files of a folder, as artifacts below `path`."""
        self._client.log_artifacts(self.id, str(folder), path)

    def table(self, path: str, rows: Mapping[str, list[Any]]) -> None:
        """A table, column by column, as MLflow's page shows them."""
        self._client.log_table(self.id, dict(rows), path)

    def dataset(self, data: Data) -> None:
        """Record what was trained on as an MLflow input, by its digest."""
        facts = {part: len(getattr(data, part)) for part in ("train", "valid", "test")}
        about = Dataset(
            name=data.spec.name,
            digest=data.digest[:36],
            source_type="local",
            source=data.source,
            schema=f'{{"shape": {list(data.spec.shape)}, "likelihood": "{data.spec.likelihood}"}}',
            profile=str(facts | {"classes": data.spec.classes}).replace("'", '"'),
        )
        self._client.log_inputs(self.id, [DatasetInput(about, [InputTag("mlflow.data.context", "training")])])

    def model(self, variant: Variant, metrics: Mapping[str, float], step: int) -> str:
        """Keep a trained model as a LoggedModel, safetensors and config.json, with the scores it is judged by."""
        name = variants.name_of(variant)
        about = {"variant": name, "dataset": variant.spec.name}
        model = self._client.create_logged_model(
            self._tracker.experiment, name=f"{name}-{variant.spec.name}", source_run_id=self.id, tags=about,
            model_type="vae",
        )  # fmt: skip
        with tempfile.TemporaryDirectory() as folder:
            self._client.log_model_artifacts(model.model_id, str(variants.save(variant, folder)))
        self._client.finalize_logged_model(model.model_id, "READY")
        self._client.log_outputs(self.id, [LoggedModelOutput(model.model_id, step)])
        now = int(time.time() * 1000)
        scores = [Metric(k, v, now, step, model_id=model.model_id, run_id=self.id) for k, v in metrics.items()]
        self._client.log_batch(self.id, scores, synchronous=True)
        return str(model.model_id)


@contextmanager
def _first_use(uri: str) -> Iterator[None]:
    """Lets one process at a time open an SQLite store: two that make its tables at once crash."""
    if not uri.startswith("sqlite"):
        yield
        return
    from filelock import FileLock

    path = Path(uri.split("///", 1)[1])
    machine.writable(path.parent)
    with FileLock(f"{path}.lock"):
        yield


def public(uri: str) -> str:
    """A URI without its credentials."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        return make_url(uri).render_as_string(hide_password=True)
    except ArgumentError:
        return uri
