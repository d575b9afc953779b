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

import variants
from pipeline.data import Data
from pipeline.tracker.journal import Journal
from pipeline.tracker.sender import Sender
from variants import InputError, Variant

State = Literal["complete", "pruned", "failed", "interrupted"]
PARAM_LIMIT = 6000  # characters that MLflow takes as a param's value
SETTLE = 5.0  # seconds that the end of a run may wait for a store that answers


class Run:
    """An MLflow run that is being written. Leave its `with` block and it ends, in the state that it earned.

    All that is written goes to a journal, and from there to the store by a thread: nothing here waits for the store,
    or fails with it. What is written a second time, by a process that began anew, is dropped.
    """

    def __init__(self, sender: Sender, journal: Journal, seen: int = 0) -> None:
        self.state: State = "complete"
        self._sender, self._journal, self._seen = sender, journal, seen
        self._tables: list[dict[str, str]] = []
        sender.add(journal)

    @property
    def id(self) -> str:
        """Its id in the store, which must answer for that. Raises `InputError` where it does not."""
        with self._journal.changed:
            self._journal.changed.wait_for(lambda: self._journal.run_id or self._journal.trouble, 60)
        if self._journal.run_id is None:
            raise InputError(f"the MLflow store does not answer: {self._journal.trouble}")
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
        self._add("end", state=self.state, time=now())
        self._journal.wait(SETTLE)

    def wait(self, seconds: float) -> str:
        """Until all of a run that ended is in the store. Returns what keeps it from that, if any."""
        return "" if self._journal.wait(seconds) else self._journal.trouble or "no answer"

    def settle(self) -> str:
        """Wait until all is in the store, in which the run stays as it was. Returns what keeps it from that, if any."""
        self._add("end", state="", time=now())
        return self.wait(10 * SETTLE)

    def _add(self, op: str, label: str = "", **content: Any) -> None:
        if self._journal.add(op, label, **content):
            self._sender.poke()

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Points of curves. The same names at the same step are written once."""
        if "time/train_seconds" in values and step <= self._seen:
            return
        label = f"metrics {step} {zlib.crc32(' '.join(sorted(values)).encode())}"
        self._add("metrics", label, values={k: float(v) for k, v in values.items()}, step=step, time=now())

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
        stem = f"{name}+step+{step}+timestamp+{now()}+{mark}"
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
            "model", f"model {step}", file=folder, name=f"{name}-{variant.spec.name}", step=step, time=now(),
            tags={"variant": name, "dataset": variant.spec.name}, values={k: float(v) for k, v in metrics.items()},
        )  # fmt: skip


def now() -> int:
    """Milliseconds since 1970, as MLflow has them."""
    return int(time.time() * 1000)
