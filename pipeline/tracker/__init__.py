"""The only writer to MLflow.

Each data set has one experiment, so that MLflow shows all variants on one page. A study is a run, and its trials are
the runs below it.

    tracker = Tracker("digits")
    with tracker.run("beta-digits", {"kind": "study"}) as study:
        with tracker.run("trial 3", {"kind": "trial"}, parent=study.id) as run:
            run.metrics({"valid/elbo": -23.1}, step=1)

A run that ends by an exception is marked as failed or interrupted, never as finished. Everything is first written to a
`journal` on disk. The `sender` transmits it to the store; if this process dies before that, a later process does it.
"""

import logging
import os
import tempfile
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")  # the sender retries by itself
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")

from mlflow import MlflowClient, artifacts
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.utils.models import get_model_name_and_version
from sqlalchemy.exc import SQLAlchemyError

import variants
from pipeline.data import Data
from pipeline.data import names as known_data
from pipeline.tracker import views
from pipeline.tracker.journal import ARTIFACTS, ROOT, Journal, unsent_runs
from pipeline.tracker.local import first_use, follow_move, sqlite_path, sqlite_uri, without_credentials
from pipeline.tracker.run import Run, State, now
from pipeline.tracker.sender import STATUS, Sender
from variants import InputError, Variant

__all__ = [
    "ROOT", "Address", "Record", "Run", "State", "Tracker", "model_files", "saved_model", "sqlite_path",
    "tracking_uri", "unsent_runs", "views", "without_credentials",
]  # fmt: skip

logging.getLogger("mlflow").setLevel(logging.WARNING)
logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # errors of the store are raised as well
REOPENED = "again-"  # prefix of the journals of runs that were reopened; older versions wrote it, so it stays
_senders: dict[str, Sender] = {}


def tracking_uri() -> str:
    """Return MLFLOW_TRACKING_URI, or the URI of `mlflow.db` in the working directory, which plain `mlflow ui` shows.

    Raises:
        InputError: If `mlflow.db` was moved without its artifacts; see `local.follow_move`.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI") or sqlite_uri(Path("mlflow.db").absolute())
    path = sqlite_path(uri)
    if path and path.exists() and path.parent == Path.cwd():
        follow_move(path)
    return uri


class Tracker:
    """The MLflow experiment of a data set, which is created if it does not exist.

    With the `address` of an experiment that another process has opened, nothing is checked. Otherwise `InputError` is
    raised if the store cannot be opened, or the experiment was deleted.
    """

    def __init__(self, dataset: str, address: "Address | None" = None) -> None:
        self.dataset, self.uri = dataset, address.uri if address else tracking_uri()
        if address:
            self.experiment, self.client = address.experiment, MlflowClient(self.uri)
            return
        with first_use(self.uri):
            try:
                self.client = MlflowClient(self.uri)
                existing = self.client.get_experiment_by_name(dataset)
                self.experiment = existing.experiment_id if existing else self._create(dataset)
            except (MlflowException, SQLAlchemyError, OSError) as error:
                raise InputError(
                    f"the MLflow store {without_credentials(self.uri)} cannot be opened: {error}"
                ) from error
        if existing and existing.lifecycle_stage != "active":
            raise InputError(f"the MLflow experiment {dataset!r} is deleted; `mlflow experiments restore` restores it")

    @property
    def address(self) -> "Address":
        """The address by which another process opens the same experiment."""
        return Address(self.uri, self.experiment)

    def claim(self, data: Data) -> None:
        """Remember in the experiment to which file or data set it belongs.

        Raises:
            InputError: If it belongs to another one, which held other data.
        """
        now = {"source": str(data.source.absolute), "digest": data.digest}
        tags = self.client.get_experiment(self.experiment).tags
        before = {name: tags.get(name, value) for name, value in now.items()}
        if before["source"] != now["source"] and before["digest"] != now["digest"]:
            raise InputError(
                f"the MLflow experiment {self.dataset!r} belongs to {before['source']}, and {now['source']} holds "
                "other data of that name; rename the file, or start in another folder"
            )
        for name, value in now.items():
            if tags.get(name) != value:
                self.client.set_experiment_tag(self.experiment, name, value)

    def _create(self, dataset: str) -> str:
        # explicit, since only a server can use the default location in a store that `mlflow ui` opened first
        local = None if self.uri.startswith(("http:", "https:")) else (ARTIFACTS.absolute() / dataset).as_uri()
        return self.client.create_experiment(dataset, artifact_location=local)

    def run(
        self, name: str, tags: Mapping[str, str], *, parent: str | None = None, key: str | None = None,
        color: int | None = None,
    ) -> Run:  # fmt: skip
        """Start a run, or continue the run that was started with the same `key` before.

        MLflow lists it below the run of the id `parent`, in the colour of the number `color` (see `views.COLOURS`).
        """
        if parent:
            tags = {**tags, "mlflow.parentRunId": parent}
        if color is not None:
            tags = {**tags, "mlflow.runColor": views.COLOURS[color % len(views.COLOURS)]}
        journal = Journal(self.dataset, key or uuid.uuid4().hex)
        epochs_stored = self._epochs_stored(key) if key and journal.is_new else 0
        journal.add("begin", name=name, tags=dict(tags), reopen=True)
        return Run(self.sender, journal, epochs_stored)

    def reopen(self, run_id: str) -> Run:
        """Open a run that has ended, to add to it. Its state stays as it is. Call `Run.close` at the end."""
        journal = Journal(self.dataset, f"{REOPENED}{run_id}")
        journal.run_id = run_id
        journal.add("begin", name="", tags={}, reopen=False)
        return Run(self.sender, journal)

    def _epochs_stored(self, key: str) -> int:
        """Return the number of epochs that the store has of a run whose journal is not on this machine."""
        try:
            run = self.sender.find_run(self.dataset, key)
            points = self.client.get_metric_history(run, "time/train_seconds") if run else []
        except Exception:  # the store cannot be reached
            return 0
        return max((p.step for p in points), default=0)

    @property
    def sender(self) -> Sender:
        """The sender of this process for this store."""
        if self.uri not in _senders:
            _senders[self.uri] = Sender(self.client, self._experiment_id)
        return _senders[self.uri]

    def _experiment_id(self, dataset: str) -> str:
        if dataset == self.dataset:
            return self.experiment
        existing = self.client.get_experiment_by_name(dataset)
        return str(existing.experiment_id) if existing else str(self._create(dataset))

    def catch_up(self, states: Mapping[str, State] | None = None, patience: float = 60.0) -> list[str]:
        """Send the journals of processes that have died, and end their runs. Return what could not be sent, and why.

        A run ends in the state that `states` has for its key, otherwise as interrupted. `patience` is in seconds.
        """
        problems: list[str] = []
        for experiment, key in unsent_runs():
            try:
                journal = Journal(experiment, key, patience=0)
            except InputError:  # its process is alive
                continue
            if not journal.begun:
                journal.close()
                continue
            if not journal.ended:
                state = "" if key.startswith(REOPENED) else (states or {}).get(key, "interrupted")
                journal.add("end", state=state, time=now())
            if not journal.unsent:
                journal.close()
                continue
            self.sender.add(journal)
            if not journal.wait(0.5 if problems else patience):
                problems.append(f"{len(journal.unsent)} entries of {journal.folder}: {journal.error or 'no answer'}")
        return problems

    def find(self, **tags: str) -> "list[Record]":
        """Return every run of this experiment that has these tags, oldest first."""
        query = " and ".join(f"tags.`{name}` = '{value}'" for name, value in tags.items())
        records: list[Record] = []
        token = None
        while True:
            page = self.client.search_runs(
                [self.experiment], query, max_results=1000, order_by=["attributes.start_time ASC"], page_token=token
            )
            for run in page:
                outputs = run.outputs.model_outputs if run.outputs else []
                model = outputs[-1].model_id if outputs else None
                data = run.data
                records.append(
                    Record(id=run.info.run_id, tags=data.tags, params=data.params, metrics=data.metrics, model=model)
                )
            token = page.token
            if not token:
                return records

    def curve(self, run_id: str, metric: str) -> list[tuple[int, float]]:
        """Return the (step, value) pairs of a metric, in the order of steps."""
        return sorted((m.step, m.value) for m in self.client.get_metric_history(run_id, metric))

    def model(self, model_id: str, folder: Path) -> Variant:
        """Load a model whose id is `model_id`, and download its files into `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        return variants.load(_download(self.client, f"models:/{model_id}", folder))

    def text(self, run_id: str, path: str) -> str:
        """Return an artifact of a run as text."""
        with tempfile.TemporaryDirectory() as folder:
            return Path(self.client.download_artifacts(run_id, path, folder)).read_text(encoding="utf-8")

    def parquet(self, run_id: str, path: str) -> Any:
        """Return an artifact of a run that `Run.parquet` saved, as a pandas data frame."""
        import pandas as pd

        with tempfile.TemporaryDirectory() as folder:
            return pd.read_parquet(self.client.download_artifacts(run_id, path, folder))

    def register(self, name: str, model_id: str, alias: str) -> None:
        """Set the alias of the registered model `name` to a model, which becomes a version of it if it is none yet."""
        try:
            self.client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        model = self.client.get_logged_model(model_id)
        versions = self.client.search_model_versions(f"name = '{name}'")
        version = next((v.version for v in versions if v.source == model.artifact_location), None)
        if version is None:
            version = self.client.create_model_version(
                name, model.artifact_location, run_id=model.source_run_id, model_id=model_id
            ).version
        self.client.set_registered_model_alias(name, alias, version)

    def group(self, groups: Mapping[str, str]) -> None:
        """Set the group of each final, given by the id of its run; MLflow's page shows the mean over a group.

        Finals that are not among them belong to an earlier comparison, and get a group that says so.
        """
        for record in self.find(kind="final"):
            group = groups.get(record.id, f"{record.tags['variant']}, not in the latest comparison")
            if record.tags.get("group") != group:
                self.client.set_tag(record.id, "group", group)

    def mark_ended(self, run_id: str, state: State) -> None:
        """Set the state of a run whose process died without a journal on this machine."""
        self.client.set_tag(run_id, "state", state)
        self.client.set_terminated(run_id, STATUS[state])


@dataclass(frozen=True)
class Address:
    """Identifies an experiment for other processes."""

    uri: str
    experiment: str


@dataclass(frozen=True, kw_only=True)
class Record:
    """A run as it stands in the store."""

    id: str
    tags: Mapping[str, str]
    params: Mapping[str, str]
    metrics: Mapping[str, float]  # the last value of each curve
    model: str | None  # the id of its LoggedModel, if it has one


def model_files(uri: str) -> Path:
    """The folder with the files of a model that MLflow keeps, such as "models:/vae-digits@champion-elbo".

    Raises `InputError` if the store has no such model, or does not answer.
    """
    try:
        return _download(MlflowClient(tracking_uri()), uri)
    except Exception as error:  # of MLflow, of the store, of the network
        raise InputError(
            f"{uri}: the store {without_credentials(tracking_uri())} cannot provide this model ({error}); expected a "
            "name such as models:/vae-digits@champion-elbo"
        ) from error


def saved_model(run_id: str, folder: Path) -> tuple[Run, Path, str, str]:
    """Download the model of a run into `folder`, and reopen the run to add scores to it.

    Returns the run, the folder with the model's files, the source of its training data as text for `Source.parse`, and
    the digest of the data. Raises `InputError` if there is no such run, or it has no model.
    """
    client = MlflowClient(tracking_uri())
    try:
        stored = client.get_run(run_id)
    except MlflowException as error:
        raise InputError(f"--run {run_id}: the store {without_credentials(tracking_uri())} has no such run") from error
    models = stored.outputs.model_outputs if stored.outputs else []
    if not models:
        raise InputError(
            f"--run {run_id}: this run ({stored.info.run_name}) holds no model; a study keeps the models of its best "
            "trials: give the id of such a run"
        )
    path = _download(client, f"models:/{models[-1].model_id}", folder)
    inputs = stored.inputs.dataset_inputs if stored.inputs else []
    name, source, digest = next(((i.dataset.name, i.dataset.source, i.dataset.digest) for i in inputs), ("", "", ""))
    if not source.startswith("{"):  # an older version of this program wrote it
        source = name if name in known_data() else source.removeprefix("--dataset ")
    experiment = client.get_experiment(stored.info.experiment_id).name
    return Tracker(experiment).reopen(run_id), path, source, digest


def _download(client: MlflowClient, uri: str, folder: Path | None = None) -> Path:
    """Return the folder with the files of a model, given as `models:/...`, which is looked up by this client.

    `mlflow.artifacts.download_artifacts` would look it up in MLflow's default store.
    """
    name = get_model_name_and_version(client, uri)  # type: ignore[no-untyped-call]
    by_id = len(name) == 1
    location = (
        client.get_logged_model(*name).artifact_location if by_id else client.get_model_version_download_uri(*name)
    )
    target = None if folder is None else str(folder)
    return Path(artifacts.download_artifacts(location, dst_path=target, tracking_uri=client.tracking_uri))
