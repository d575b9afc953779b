"""The only writer to MLflow.

One experiment a data set, so that all variants stand on one page. A study is a run, its trials are its children.

    tracker = Tracker("digits")
    with tracker.run("beta-digits", {"kind": "study", ...}) as study:
        with tracker.run("trial 3", {"kind": "trial", ...}, parent=study) as run:
            run.metrics({"valid/elbo": -23.1}, step=1)

A run that is left by an exception is marked for what happened: never as finished, never as still running. What is
written goes to a journal first (`journal`), and from there to the store (`sender`), also from a later process.
"""

import json
import logging
import os
import shutil
import tempfile
import time
import uuid
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")  # whoever sends asks again by itself
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")

from mlflow import MlflowClient, artifacts
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

import variants
from pipeline import machine
from pipeline.data import Data
from pipeline.data import names as known_data
from pipeline.tracker import views
from pipeline.tracker.journal import Journal, left
from pipeline.tracker.sender import BUFFER, STATUS, Sender
from variants import InputError, Variant

__all__ = ["Address", "Record", "Run", "State", "Tracker", "left", "public", "saved_model", "store", "views"]

State = Literal["complete", "pruned", "failed", "interrupted"]
logging.getLogger("mlflow").setLevel(logging.WARNING)
PARAM_LIMIT = 6000  # characters that MLflow takes as a param's value
SETTLE = 5.0  # seconds that the end of a run may wait for a store that answers
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
        return Run(self, journal, seen)

    def again(self, run_id: str) -> "Run":
        """A run that ended, to be added to; its state stays as it is. Call `settle` when all is said."""
        journal = Journal(self.dataset, f"{AGAIN}{run_id}")
        journal.run_id = run_id
        journal.add("begin", name="", tags={}, reopen=False)
        return Run(self, journal)

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
            if not journal.ended:
                again = key.startswith(AGAIN)
                journal.add("end", state="" if again else (states or {}).get(key, "interrupted"), time=_now())
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

    def set_right(self, run_id: str, state: State) -> None:
        """Mark a run whose process died, and left nothing behind."""
        self.client.set_tag(run_id, "state", state)
        self.client.set_terminated(run_id, STATUS[state])


@dataclass(frozen=True)
class Address:
    uri: str
    experiment: str


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
    return Tracker(experiment).again(run_id), Path(path), source, digest


class Run:
    """An MLflow run that is being written. Leave its `with` block and it ends, in the state that it earned.

    All that is written goes to a journal, and from there to the store by a thread: nothing here waits for the store,
    or fails with it. What is written a second time, by a process that began anew, is dropped.
    """

    def __init__(self, tracker: Tracker, journal: Journal, seen: int = 0) -> None:
        self.state: State = "complete"
        self._tracker, self._journal, self._seen = tracker, journal, seen
        self._tables: list[dict[str, str]] = []
        tracker.sender.add(journal)

    @property
    def id(self) -> str:
        """Its id in the store, which must answer for that. Raises `InputError` where it does not."""
        with self._journal.changed:
            self._journal.changed.wait_for(lambda: self._journal.run_id or self._journal.trouble, 60)
        if self._journal.run_id is None:
            raise InputError(f"the MLflow store {public(self._tracker.uri)} does not answer: {self._journal.trouble}")
        return self._journal.run_id

    @property
    def checkpoint(self) -> Path:
        """Where its training may leave what it needs to go on."""
        return self._journal.folder / "checkpoint.safetensors"

    def __enter__(self) -> "Run":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self.state = "failed" if isinstance(error, Exception) else "interrupted"
            self.tags({"reason": f"{type(error).__name__}: {error}"})
        self._add("end", state=self.state, time=_now())
        self._journal.wait(SETTLE)

    def settle(self) -> str:
        """Wait until all is in the store, in which the run stays as it was. Returns what keeps it from that, if any."""
        self._add("end", state="", time=_now())
        return "" if self._journal.wait(10 * SETTLE) else self._journal.trouble or "no answer"

    def _add(self, op: str, label: str = "", **content: Any) -> None:
        if self._journal.add(op, label, **content):
            self._tracker.sender.poke()

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Points of curves. The same names at the same step are written once."""
        if "time/train_seconds" in values and step <= self._seen:
            return
        label = f"metrics {step} {zlib.crc32(' '.join(sorted(values)).encode())}"
        self._add("metrics", label, values={k: float(v) for k, v in values.items()}, step=step, time=_now())

    def params(self, values: Mapping[str, Any]) -> None:
        self._add("params", f"params {sorted(values)}", values={k: str(v)[:PARAM_LIMIT] for k, v in values.items()})

    def tags(self, values: Mapping[str, str]) -> None:
        self._add("tags", values={k: str(v) for k, v in values.items()})

    def picture(self, name: str, pixels: Any, step: int) -> None:
        """(height, width, 3) uint8, shown in the run's image grid under `name`."""
        from mlflow.tracking.multimedia import compress_image_size
        from PIL import Image

        label = f"picture {name} {step}"
        mark = uuid.uuid5(uuid.NAMESPACE_URL, label)  # the same each time: a second file would be a second picture
        stem = f"{name}+step+{step}+timestamp+{_now()}+{mark}"
        image = Image.fromarray(pixels)
        image.save(self._journal.file(f"{stem}.png"))
        compress_image_size(image).save(self._journal.file(f"{stem}+compressed.webp"))
        self._add("file", label, file=f"{stem}.png", path="images")
        self._add("file", f"{label} small", file=f"{stem}+compressed.webp", path="images")
        self._add("tags", "pictures", values={"mlflow.loggedImages": "True"})

    def figure(self, path: str, figure: Any) -> None:
        """A matplotlib figure as a PNG file."""
        figure.savefig(self._journal.file(path))
        self._file(path)

    def text(self, path: str, text: str) -> None:
        self._journal.file(path).write_text(text, encoding="utf-8")
        self._file(path)

    def _file(self, path: str) -> None:
        self._add("file", file=path, path=str(Path(path).parent) if "/" in path else "")

    def files(self, folder: Path, path: str) -> None:
        """All files of a folder, as artifacts below `path`."""
        shutil.copytree(folder, self._journal.file(path), dirs_exist_ok=True)
        self._add("file", file=path, path=path)

    def table(self, path: str, rows: Mapping[str, list[Any]]) -> None:
        """A table, column by column, as MLflow's page shows them (`mlflow.log_table`, but replaced, not added to)."""
        names = list(rows)
        content = {"columns": names, "data": [list(row) for row in zip(*rows.values(), strict=True)]}
        self.text(path, json.dumps(content))
        self._tables.append({"path": path, "type": "table"})
        self.tags({"mlflow.loggedArtifacts": json.dumps(self._tables)})

    def dataset(self, data: Data) -> None:
        """Record what was trained on as an MLflow input, by its digest."""
        facts = {part: len(getattr(data, part)) for part in ("train", "valid", "test")}
        self._add("dataset", "dataset", values={
            "name": data.spec.name, "digest": data.digest[:36], "source_type": "local", "source": data.source,
            "schema": json.dumps({"shape": list(data.spec.shape), "likelihood": data.spec.likelihood}),
            "profile": json.dumps(facts | {"classes": data.spec.classes}),
        })  # fmt: skip

    def model(self, variant: Variant, metrics: Mapping[str, float], step: int) -> None:
        """Keep a trained model as a LoggedModel, safetensors and config.json, with the scores it is judged by."""
        name = variants.name_of(variant)
        folder = f"model-{step}"
        variants.save(variant, self._journal.file(folder))
        self._add(
            "model", f"model {step}", file=folder, name=f"{name}-{variant.spec.name}", step=step, time=_now(),
            tags={"variant": name, "dataset": variant.spec.name}, values={k: float(v) for k, v in metrics.items()},
        )  # fmt: skip


def _now() -> int:
    return int(time.time() * 1000)


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
