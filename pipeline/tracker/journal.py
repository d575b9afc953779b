"""What is to be tracked goes into a file first, and is sent from there in order: a store that is away costs nothing.

A run has a folder, `mlruns/.runs/EXPERIMENT/KEY/`, until it has ended and all of it was sent:

    journal.jsonl   an entry a line, in order      sent       how many of them the store has
    run             the run's id in the store      files/     pictures and files on their way
    checkpoint.safetensors                         lock       of the one process that writes

An entry may have a label: what bears the same label is written down once, however often a process begins anew. Entries
are such that sending one twice does no harm.
"""

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

ROOT = Path("mlruns") / ".runs"
Entry = dict[str, Any]


class Journal:
    """The journal of one run, written by this process alone. Raises `InputError` where another process holds it."""

    def __init__(self, experiment: str, key: str, patience: float = 30.0) -> None:
        for word in (experiment, key):
            if not re.fullmatch(r"[\w-][\w. -]*", word):
                raise InputError(f"{word!r} cannot name a folder: expected letters, digits, '_', '-', '.' and spaces")
        self.experiment, self.key = experiment, key
        self.folder = (ROOT / experiment / key).absolute()
        machine.writable(self.folder)
        try:
            self._lock = FileLock(self.folder / "lock", thread_local=False)  # the thread that sends gives it back
            self._lock.acquire(timeout=patience)
        except Timeout as error:
            raise InputError(f"the run in {self.folder} is written by another process; wait for it") from error
        self.changed = threading.Condition()
        self.entries = list(self._read())
        self.fresh = not self.entries
        self._labels = {e["label"] for e in self.entries if e["label"]}
        self._sent = int(_text(self.folder / "sent") or 0)
        self._run = _text(self.folder / "run") or None
        self.closed = False
        self.trouble = ""  # why the store takes nothing at present

    def _read(self) -> Iterator[Entry]:
        """What is there; a last line that was cut off is taken away."""
        path = self.folder / "journal.jsonl"
        whole = 0
        if path.exists():
            with path.open("rb") as stream:
                for line in stream:
                    if not line.endswith(b"\n"):
                        break
                    yield json.loads(line)
                    whole += len(line)
            os.truncate(path, whole)
        self._stream = path.open("ab")

    def add(self, op: str, label: str = "", **content: Any) -> bool:
        """Write an entry down. False where one with that label is there already. Raises `OSError` for a full disk."""
        with self.changed:
            if label and label in self._labels:
                return False
            entry = {"op": op, "label": label, **content}
            self._stream.write(json.dumps(entry).encode() + b"\n")
            self._stream.flush()
            self.entries.append(entry)
            self._labels.add(label)
            self.changed.notify_all()
        return True

    def file(self, name: str) -> Path:
        """Where to put a file that an entry is going to name."""
        path = self.folder / "files" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    @property
    def run_id(self) -> str | None:
        return self._run

    @run_id.setter
    def run_id(self, value: str) -> None:
        with self.changed:
            _replace(self.folder / "run", value)
            self._run = value
            self.changed.notify_all()

    @property
    def unsent(self) -> list[Entry]:
        return self.entries[self._sent :]

    @property
    def begun(self) -> bool:
        """Whether anything is said: a process may have died before it came to that."""
        return any(e["op"] == "begin" for e in self.entries)

    @property
    def ended(self) -> bool:
        """Whether all is said."""
        last = next((e for e in reversed(self.entries) if e["op"] in ("begin", "end")), None)
        return bool(last and last["op"] == "end")

    def sent(self, count: int) -> None:
        """So many more entries are in the store."""
        with self.changed:
            _replace(self.folder / "sent", str(self._sent + count))
            self._sent += count
            self.changed.notify_all()

    def wait(self, seconds: float) -> bool:
        """Until all is sent, or the store is in trouble, or the time is up. True where all is sent.

        Of a run that ended, until its folder is given back.
        """
        with self.changed:
            self.changed.wait_for(lambda: self._done() or bool(self.trouble), seconds)
            return self._done()

    def _done(self) -> bool:
        return self.closed or not (self.unsent or self.ended)

    def close(self) -> None:
        """Give the folder back; take it away where the run ended for good, and all was sent."""
        self._stream.close()
        done = self.ended and not self.unsent and self.entries[-1].get("state") != "interrupted"
        if done or not self.begun:
            shutil.rmtree(self.folder)
        self._lock.release()
        with self.changed:
            self.closed = True
            self.changed.notify_all()


def left() -> list[tuple[str, str]]:
    """(experiment, key) of the runs that have a folder here."""
    return sorted((p.parent.parent.name, p.parent.name) for p in ROOT.glob("*/*/journal.jsonl"))


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except FileNotFoundError:
        return ""


def _replace(path: Path, text: str) -> None:
    part = path.with_name(path.name + ".part")
    part.write_text(text)
    part.replace(path)
