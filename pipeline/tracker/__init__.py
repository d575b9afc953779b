"""The only writer to MLflow.

One experiment a data set, so that all variants stand on one page. A study is a run, its trials are its children.

    tracker = Tracker("digits")
    with tracker.run("beta-digits", {"kind": "study", ...}) as study:
        with tracker.run("trial 3", {"kind": "trial", ...}, parent=study) as run:
            run.metrics({"valid/elbo": -23.1}, step=1)

A run that is left by an exception is marked for what happened: never as finished, never as still running. What is
written goes to a journal first (`journal`), and from there to the store (`sender`), also from a later process.
"""

import logging
import os
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")  # whoever sends asks again by itself
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")

from mlflow import MlflowClient, artifacts
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

import variants
from pipeline import machine
from pipeline.data import names as known_data
from pipeline.tracker import views
from pipeline.tracker.journal import Journal, left
from pipeline.tracker.run import Run, State, now
from pipeline.tracker.sender import BUFFER, STATUS, Sender
from variants import InputError, Variant

__all__ = [
    "Address",
    "Record",
    "Run",
    "State",
    "Tracker",
    "left",
    "model_files",
    "public",
    "saved_model",
    "store",
    "views",
]

logging.getLogger("mlflow").setLevel(logging.WARNING)
AGAIN = "again-"  # begins the keys of runs that had ended, and to which something is added
_senders: dict[str, Sender] = {}


def store() -> str:
    """The tracking URI: MLFLOW_TRACKING_URI, or `mlflow.db` in the working directory, as plain `mlflow ui` reads it."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{Path('mlflow.db').absolute()}"


class Tracker:
    """An MLflow experiment, opened; made where it is missing. Raises `InputError` where the store cannot be used.

    `known` is the address of one that was opened before, by whoever gave out the task: it is believed.
    """

    def __init__(self, dataset: str, known: "Address | None" = None) -> None:
        if known:
            self.uri, self.experiment, self.dataset = known.uri, known.experiment, dataset
            self.client = MlflowClient(self.uri)
            return
        self.uri, self.dataset = store(), dataset
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

    @property
    def address(self) -> "Address":
        """What another process needs to write to the same experiment."""
        return Address(self.uri, self.experiment)

    def _create(self, dataset: str) -> str:
        # explicit, as the default location of a store that `mlflow ui` opened first is of use to its server alone
        local = None if self.uri.startswith(("http:", "https:")) else (Path("mlruns").absolute() / dataset).as_uri()
        return self.client.create_experiment(dataset, artifact_location=local)

    def run(self, name: str, tags: Mapping[str, str], *, parent: str | None = None, key: str | None = None) -> "Run":
        """A run, below the run of the id `parent`. Whoever asks for a `key` again goes on with the same run."""
        if parent:
            tags = {**tags, "mlflow.parentRunId": parent}
        journal = Journal(self.dataset, key or uuid.uuid4().hex)
        if journal.fresh and key:
            seen = self._epochs(key)
        else:
            seen = 0
        journal.add("begin", name=name, tags=dict(tags), reopen=True)
        return Run(self.sender, journal, seen)

    def again(self, run_id: str) -> "Run":
        """A run that ended, to be added to; its state stays as it is. Call `settle` when all is said."""
        journal = Journal(self.dataset, f"{AGAIN}{run_id}")
        journal.run_id = run_id
        journal.add("begin", name="", tags={}, reopen=False)
        return Run(self.sender, journal)

    def _epochs(self, key: str) -> int:
        """How many epochs of a run the store has, where the folder that its process wrote to is gone."""
        try:
            run = self.sender.find(self.dataset, key)
            last = self.client.get_metric_history(run, "time/train_seconds") if run else []
        except Exception:  # a store that is away: then nothing is known
            return 0
        return max((m.step for m in last), default=0)

    @property
    def sender(self) -> Sender:
        """The thread of this process that sends to this store."""
        if self.uri not in _senders:
            server = self.uri.startswith(("http:", "https:"))
            _senders[self.uri] = Sender(self.client, self._experiment_of, BUFFER if server else 0.0)
        return _senders[self.uri]

    def _experiment_of(self, dataset: str) -> str:
        if dataset == self.dataset:
            return self.experiment
        found = self.client.get_experiment_by_name(dataset)
        return str(found.experiment_id) if found else str(self._create(dataset))

    def catch_up(self, states: Mapping[str, State] | None = None, patience: float = 60.0) -> list[str]:
        """Send what dead processes left behind, and end their runs: as `states` says of their keys, or interrupted.

        Returns what could not be sent, and why.
        """
        problems: list[str] = []
        for experiment, key in left():
            try:
                journal = Journal(experiment, key, patience=0)
            except InputError:  # its process lives
                continue
            if not journal.begun:
                journal.close()
                continue
            if not journal.ended:
                again = key.startswith(AGAIN)
                journal.add("end", state="" if again else (states or {}).get(key, "interrupted"), time=now())
            if not journal.unsent:
                journal.close()
                continue
            self.sender.add(journal)
            if not journal.wait(0.5 if problems else patience):
                problems.append(f"{len(journal.unsent)} entries of {journal.folder}: {journal.trouble or 'no answer'}")
        return problems

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
                found.append(
                    Record(
                        id=run.info.run_id,
                        tags=run.data.tags,
                        params=run.data.params,
                        metrics=run.data.metrics,
                        model=model,
                    )
                )
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

    def mark_ended(self, run_id: str, state: State) -> None:
        """Mark a run whose process died, and left nothing behind."""
        self.client.set_tag(run_id, "state", state)
        self.client.set_terminated(run_id, STATUS[state])


@dataclass(frozen=True)
class Address:
    uri: str
    experiment: str


@dataclass(frozen=True, kw_only=True)
class Record:
    """A run as it was logged."""

    id: str
    tags: Mapping[str, str]
    params: Mapping[str, str]
    metrics: Mapping[str, float]  # the last value of each
    model: str | None  # the id of its LoggedModel


def model_files(uri: str) -> Path:
    """The folder with the files of a model that MLflow keeps, such as "models:/vae-digits@champion-elbo".

    Raises `InputError` if the store has no such model, or does not answer.
    """
    try:
        return Path(artifacts.download_artifacts(uri, tracking_uri=store()))
    except Exception as error:  # of MLflow, of the store, of the network
        raise InputError(f"{uri}: the store {public(store())} cannot provide this model ({error})") from error


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
    return Tracker(experiment).again(run_id), Path(path), source, digest


@contextmanager
def _first_use(uri: str) -> Iterator[None]:
    """Lets one process at a time open an SQLite store: two that make its tables at once crash.

    A new one is made beside its place, and moved there whole: one that a process died at could never be opened.
    """
    if not uri.startswith("sqlite"):
        yield
        return
    from filelock import FileLock

    path = Path(uri.split("///", 1)[1])
    machine.writable(path.parent)
    with FileLock(f"{path}.lock"):
        if not path.exists():
            part = path.with_name(f"{path.name}.part")
            part.unlink(missing_ok=True)
            MlflowClient(f"sqlite:///{part.absolute()}").search_experiments(max_results=1)
            part.replace(path)
        yield


def public(uri: str) -> str:
    """A URI without its credentials."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        return make_url(uri).render_as_string(hide_password=True)
    except ArgumentError:
        return uri
