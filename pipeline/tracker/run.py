"""A run of MLflow that is being written."""

import json
import shutil
import time
import uuid
import zlib
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from sqlalchemy.exc import SQLAlchemyError

import variants
from pipeline import artifact
from pipeline.data import Data, Description
from pipeline.evaluate.step_anomaly import TrainingScores, training_scores
from pipeline.tracker import views
from pipeline.tracker.journal import Journal
from pipeline.tracker.sender import Sender
from variants import InputError, Variant

State = Literal["complete", "pruned", "failed", "interrupted"]
PARAM_LIMIT = 6000  # characters that MLflow accepts as the value of a param
END_TIMEOUT = 5.0  # seconds for which the end of a run waits for the store
STORE_ERRORS = (OSError, SQLAlchemyError)  # of a disk or a store: what the run does can be continued


class Run:
    """An MLflow run that is being written. Use it as a context manager: the run ends with the `with` block.

    The run ends in the state `state`. An exception makes it failed; an interruption, or an error of a disk or a store,
    makes it interrupted. Methods write to a journal, which a thread sends to the store, so they neither wait for the
    store nor fail with it. When a training continues from a checkpoint and logs an epoch again, the repetition is
    dropped.
    """

    def __init__(self, sender: Sender, journal: Journal, epochs_stored: int = 0) -> None:
        self.state: State = "complete"
        self._sender, self._journal, self._epochs_stored = sender, journal, epochs_stored
        self._tables: list[dict[str, str]] = []
        sender.add(journal)

    @property
    def id(self) -> str:
        """The id of the run in the store. Raises `InputError` if the store does not answer."""
        with self._journal.changed:
            self._journal.changed.wait_for(lambda: self._journal.run_id or self._journal.error, 60)
        if self._journal.run_id is None:
            raise InputError(f"the MLflow store does not answer: {self._journal.error}")
        return self._journal.run_id

    @property
    def checkpoint(self) -> Path:
        """The path at which the run's training may save its checkpoint."""
        return self._journal.folder / "checkpoint.safetensors"

    def __enter__(self) -> "Run":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is not None:
                is_fault = isinstance(error, Exception) and not isinstance(error, STORE_ERRORS)
                self.state = "failed" if is_fault else "interrupted"
                self.tags({"reason": f"{type(error).__name__}: {error}"})
            self._add("end", state=self.state, time=now())
        except OSError:  # the disk is full; a later process finds that the journal has no end, and adds it
            if error is None:
                raise
            return
        self._journal.wait(END_TIMEOUT)

    def wait(self, seconds: float) -> str:
        """Wait until the store has all of a run that has ended. Return "", or the reason if it does not."""
        return "" if self._journal.wait(seconds) else self._journal.error or "no answer"

    def close(self) -> str:
        """End a run that was opened by `Tracker.reopen`, whose state stays as it was. Returns what `wait` returns."""
        self._add("end", state="", time=now())
        return self.wait(10 * END_TIMEOUT)

    def _add(self, op: str, label: str = "", **content: Any) -> None:
        if self._journal.add(op, label, **content):
            self._sender.wake()

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Log one point of each curve. The same names at the same step are logged once."""
        if "time/train_seconds" in values and step <= self._epochs_stored:
            return
        label = f"metrics {step} {zlib.crc32(' '.join(sorted(values)).encode())}"
        self._add("metrics", label, values={k: float(v) for k, v in values.items()}, step=step, time=now())

    def params(self, values: Mapping[str, Any]) -> None:
        """Log parameters, which MLflow shows as text and does not let change."""
        self._add("params", f"params {sorted(values)}", values={k: str(v)[:PARAM_LIMIT] for k, v in values.items()})

    def tags(self, values: Mapping[str, str]) -> None:
        """Set tags; a tag that exists is replaced."""
        self._add("tags", values={k: str(v) for k, v in values.items()})

    def describe(self, markdown: str) -> None:
        """Set the description that MLflow shows with the run."""
        self.tags({"mlflow.note.content": markdown})

    def picture(self, name: str, pixels: Any, step: int = views.PICTURE_STEP) -> None:
        """Log an image of (height, width, 3) uint8 pixels, which the run's image grid shows under `name`."""
        from mlflow.tracking.multimedia import compress_image_size
        from PIL import Image

        label = f"picture {name} {step}"
        mark = uuid.uuid5(
            uuid.NAMESPACE_URL, label
        )  # always the same: a second file would be shown as a second picture
        stem = f"{name}+step+{step}+timestamp+{now()}+{mark}"
        image = Image.fromarray(pixels)
        image.save(self._journal.file(f"{stem}.png"), compress_level=3)  # half the time, for a tenth of the size
        compress_image_size(image).save(self._journal.file(f"{stem}+compressed.webp"), method=0)
        self._add("file", label, file=f"{stem}.png", path="images")
        self._add("file", f"{label} small", file=f"{stem}+compressed.webp", path="images")
        self._add("tags", "pictures", values={"mlflow.loggedImages": "True"})

    def figure(self, path: str, figure: Any) -> None:
        """Save a matplotlib figure as the artifact `path`, a PNG file."""
        figure.savefig(self._journal.file(path))
        self._file(path)

    def text(self, path: str, text: str) -> None:
        """Save a text as the artifact `path`."""
        self._journal.file(path).write_text(text, encoding="utf-8")
        self._file(path)

    def parquet(self, path: str, frame: Any) -> None:
        """Save a pandas data frame, without its index, as the artifact `path`. `Tracker.parquet` reads it."""
        frame.to_parquet(self._journal.file(path), index=False)
        self._file(path)

    def _file(self, path: str) -> None:
        self._add("file", file=path, path=str(Path(path).parent) if "/" in path else "")

    def files(self, folder: Path, path: str) -> None:
        """Save all files of a folder as artifacts below `path`."""
        shutil.copytree(folder, self._journal.file(path), dirs_exist_ok=True)
        self._add("file", file=path, path=path)

    def table(self, path: str, rows: Mapping[str, list[Any]]) -> None:
        """Save a table, given as its columns, where MLflow's page shows tables. One at the same path is replaced."""
        names = list(rows)
        content = {"columns": names, "data": [list(row) for row in zip(*rows.values(), strict=True)]}
        self.text(path, json.dumps(content))
        self._tables.append({"path": path, "type": "table"})
        self.tags({"mlflow.loggedArtifacts": json.dumps(self._tables)})

    def dataset(self, data: Data) -> None:
        """Log the data that the run is trained on, with their digest, as an input of the run."""
        facts = {part: len(getattr(data, part)) for part in ("train", "valid", "test")}
        self._add("dataset", "dataset", values={
            "name": data.spec.name, "digest": data.digest[:36], "source_type": "local", "source": data.source.json(),
            "schema": json.dumps({"shape": list(data.spec.shape), "likelihood": data.spec.likelihood}),
            "profile": json.dumps(facts | {"classes": data.spec.classes}),
        })  # fmt: skip

    def description(self, description: Description, examples: Any) -> None:
        """Log what was understood of the data, and a picture of examples (height, width, 3), uint8."""
        from PIL import Image

        seed = str(description.source.split_seed)
        self.tags({"likelihood": description.likelihood, "split": description.division, "split_seed": seed})
        self.text("data/description.txt", description.text())
        Image.fromarray(examples).save(self._journal.file("data/examples.png"))
        self._file("data/examples.png")

    def model(self, variant: Variant, data: Data, metrics: Mapping[str, float], step: int) -> TrainingScores:
        """Save a model trained on `data`, with its preprocessing and scores. MLflow lists it as a LoggedModel.

        Returns the scores of training examples that were saved with it, from which thresholds of anomalies follow.
        """
        name = variants.name_of(variant)
        folder = f"model-{step}"
        known = training_scores(variant, data)
        artifact.save(variant, data.preprocessing, self._journal.file(folder), known.json())
        self._add(
            "model", f"model {step}", file=folder, name=f"{name}-{variant.spec.name}", step=step, time=now(),
            tags={"variant": name, "dataset": variant.spec.name}, values={k: float(v) for k, v in metrics.items()},
        )  # fmt: skip
        return known


def now() -> int:
    """Return the time in milliseconds since 1970, as MLflow stores it."""
    return int(time.time() * 1000)
