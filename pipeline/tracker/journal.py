"""What a run tracks is first written to a journal on disk, from which the `sender` transmits it to the store in order.

Training therefore never waits for an MLflow server, and loses nothing while the server cannot be reached. Until a run
has ended and everything was transmitted, it has a folder `mlruns/.runs/EXPERIMENT/KEY/`:

    journal.jsonl             one entry per line, in order
    sent                      the number of entries that the store has
    run                       the id of the run in the store
    files/                    pictures and files that wait for transmission
    checkpoint.safetensors    from which an interrupted training continues
    lock                      held by the one process that writes

An entry may have a label. An entry whose label was written before is dropped, so that a training that continues from
an older checkpoint tracks nothing twice. Sending an entry a second time does no harm.
"""

import errno
import json
import os
import re
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from pipeline import machine
from variants import InputError

ARTIFACTS = Path("mlruns")  # in the working directory
ROOT = ARTIFACTS / ".runs"
Entry = dict[str, Any]


class Journal:
    """The journal of one run, locked for this process.

    Raises `InputError` if another process still holds the lock after `patience` seconds, or if the experiment or the
    key cannot be the name of a folder.
    """

    def __init__(self, experiment: str, key: str, patience: float = 30.0) -> None:
        for name in (experiment, key):
            if not re.fullmatch(r"[\w-][\w. -]*", name):
                raise InputError(f"{name!r} cannot name a folder: expected letters, digits, '_', '-', '.' and spaces")
        self.experiment, self.key = experiment, key
        self.folder = (ROOT / experiment / key).absolute()
        machine.writable(self.folder)
        try:
            self._lock = FileLock(self.folder / "lock", thread_local=False)  # the sender's thread releases it
            self._lock.acquire(timeout=patience)
        except Timeout as error:
            raise InputError(f"the run in {self.folder} is written by another process; wait for it") from error
        self.changed = threading.Condition()
        self.entries = list(self._read())
        self.is_new = not self.entries
        self._labels = {e["label"] for e in self.entries if e["label"]}
        self._sent = int(_read_text(self.folder / "sent") or 0)
        self._run_id = _read_text(self.folder / "run") or None
        self.closed = False
        self.error = ""  # why the last transmission failed; empty if it succeeded

    def _read(self) -> Iterator[Entry]:
        """Read the entries that are there. A last line that is not complete is removed from the file."""
        path = self.folder / "journal.jsonl"
        complete = 0
        if path.exists():
            with path.open("rb") as stream:
                for line in stream:
                    if not line.endswith(b"\n"):
                        break
                    yield json.loads(line)
                    complete += len(line)
            os.truncate(path, complete)
        self._stream = path.open("ab", buffering=0)

    def add(self, op: str, label: str = "", **content: Any) -> bool:
        """Append an entry, and return whether its label is new. Raises `OSError` if the disk is full."""
        with self.changed:
            if label and label in self._labels:
                return False
            entry = {"op": op, "label": label, **content}
            self._write(json.dumps(entry).encode() + b"\n")
            self.entries.append(entry)
            self._labels.add(label)
            self.changed.notify_all()
        return True

    def _write(self, line: bytes) -> None:
        """Append a line. If that fails, the file stays as it was."""
        size = self._stream.seek(0, os.SEEK_END)
        try:
            if self._stream.write(line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            self._stream.truncate(size)
            raise OSError(error.errno, error.strerror, str(self.folder / "journal.jsonl")) from error

    def file(self, name: str) -> Path:
        """Return the path at which to save a file before an entry names it."""
        path = self.folder / "files" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    @property
    def run_id(self) -> str | None:
        """The id of the run in the store; None until the store has the run."""
        return self._run_id

    @run_id.setter
    def run_id(self, value: str) -> None:
        with self.changed:
            _replace(self.folder / "run", value)
            self._run_id = value
            self.changed.notify_all()

    @property
    def unsent(self) -> list[Entry]:
        """The entries that the store does not have yet."""
        return self.entries[self._sent :]

    @property
    def begun(self) -> bool:
        """Whether there is a first entry. A process may have died before it wrote one."""
        return any(e["op"] == "begin" for e in self.entries)

    @property
    def ended(self) -> bool:
        """Whether the run has ended, so that no more entries will follow."""
        last = next((e for e in reversed(self.entries) if e["op"] in ("begin", "end")), None)
        return bool(last and last["op"] == "end")

    def mark_sent(self, count: int) -> None:
        """Record that the store has `count` more entries."""
        with self.changed:
            _replace(self.folder / "sent", str(self._sent + count))
            self._sent += count
            self.changed.notify_all()

    def wait(self, seconds: float) -> bool:
        """Wait until everything is sent, and return whether it is.

        The wait ends early when a transmission fails. A run that has ended counts as sent once its journal is closed.
        """
        with self.changed:
            self.changed.wait_for(lambda: self._done() or bool(self.error), seconds)
            return self._done()

    def _done(self) -> bool:
        return self.closed or not (self.unsent or self.ended)

    def close(self) -> None:
        """Release the lock. The folder is removed if the run has ended for good and everything was sent."""
        self._stream.close()
        done = self.ended and not self.unsent and self.entries[-1].get("state") != "interrupted"
        if done or not self.begun:
            shutil.rmtree(self.folder)
        self._lock.release()
        with self.changed:
            self.closed = True
            self.changed.notify_all()


def unsent_runs() -> list[tuple[str, str]]:
    """Return the experiment and the key of each run that has a folder here."""
    return sorted((p.parent.parent.name, p.parent.name) for p in ROOT.glob("*/*/journal.jsonl"))


def _read_text(path: Path) -> str:
    try:
        return path.read_text()
    except FileNotFoundError:
        return ""


def _replace(path: Path, text: str) -> None:
    part = path.with_name(path.name + ".part")
    part.write_text(text)
    part.replace(path)
