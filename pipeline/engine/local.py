"""Tasks in this process, one after the other, or in processes of this machine."""

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Hashable
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from typing import Any

from pipeline import machine
from pipeline.engine import Ended, Place, Show, Task


class Inside:
    """One task at a time, here: nothing to start, and the simplest thing to follow in a debugger."""

    slots = hosts = 1

    def __init__(self, threads: int | None, device: str) -> None:
        self._place = Place(device, machine.prepare(threads), os.getcwd())
        self._job: tuple[Hashable, Task] | None = None

    def submit(self, key: Hashable, task: Task) -> None:
        self._job = key, task

    def wait(self, show: Show) -> list[Ended]:
        assert self._job is not None
        key, task = self._job
        return [Ended(key, task.run(self._place, lambda message: show(key, message)))]

    def close(self, patience: float) -> None:
        pass


class Pool:
    """Processes that are spawned, never forked: torch's threads do not survive a fork.

    Cores are shared among them, GPUs dealt out in turn. A process that dies is replaced; when this process dies, they
    all end.
    """

    hosts = 1

    def __init__(self, workers: int, threads: int | None, device: str) -> None:
        self.slots = workers
        share = machine.prepare(threads, workers)
        names = _devices(device)
        self._workers = [_Worker(Place(names[i % len(names)], share, os.getcwd())) for i in range(workers)]

    def submit(self, key: Hashable, task: Task) -> None:
        next(w for w in self._workers if w.key is None).give(key, task)

    def wait(self, show: Show) -> list[Ended]:
        while True:
            by_pipe = {w.pipe: w for w in self._workers if w.key is not None}
            ends = []
            for pipe in wait(list(by_pipe)):
                ends += by_pipe[pipe].hear(show)  # type: ignore[index]
            if ends:
                return ends

    def close(self, patience: float) -> None:
        for worker in self._workers:
            worker.stop()
        deadline = time.monotonic() + patience
        for worker in self._workers:
            worker.end(deadline)


def _devices(name: str) -> list[str]:
    """The devices that workers are dealt: every GPU, where `auto` finds some."""
    import torch

    if name == "auto" and torch.cuda.is_available():
        return [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    return ["cpu" if name == "auto" else name]


class _Worker:
    """A process, the pipe to it, and the task that it is at."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.key: Hashable | None = None
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(theirs, self._place), daemon=False)
        self.process.start()
        theirs.close()

    def give(self, key: Hashable, task: Task) -> None:
        self.key = key
        with suppress(OSError):  # it died while it was idle: `hear` finds the pipe's end
            self.pipe.send(task)

    def hear(self, show: Show) -> list[Ended]:
        """One message. A pipe that has ended is a process that has died: another takes its place."""
        key = self.key
        try:
            kind, content = self.pipe.recv()
        except (EOFError, OSError):
            self.process.join()
            self.pipe.close()
            died = _why(self.process.exitcode)
            self._start()
            return [Ended(key, died=died)]
        if kind == "told":
            show(key, content)
            return []
        self.key = None
        if kind == "raised":
            raise content
        return [Ended(key, content)]

    def stop(self) -> None:
        if self.key is None:
            self.pipe.close()  # an idle one ends when its pipe does
        else:
            self.process.terminate()

    def end(self, deadline: float) -> None:
        self.process.join(max(0.0, deadline - time.monotonic()))
        if self.process.exitcode is None:
            self.process.kill()
            self.process.join()
        self.pipe.close()


def _why(code: int | None) -> str:
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        return f"its process was ended by {name}" + (", as for want of memory" if name == "SIGKILL" else "")
    return f"its process ended with code {code}"


def _work(pipe: Connection, place: Place) -> None:
    """What a worker does. SIGINT is for the driver, which tells its workers by SIGTERM."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    threading.Thread(target=_follow, daemon=True).start()
    machine.prepare(place.threads)
    while True:
        try:
            task: Task = pipe.recv()
        except (EOFError, KeyboardInterrupt):
            return
        try:
            pipe.send(("ended", task.run(place, lambda message: pipe.send(("told", message)))))
        except KeyboardInterrupt:
            sys.exit(130)
        except Exception as error:
            pipe.send(("raised", _portable(error)))


def _portable(error: Exception) -> Exception:
    """An exception that can be sent: itself, or its words where it cannot be taken apart and put together again."""
    import pickle

    try:
        pickle.loads(pickle.dumps(error))  # our own, of a moment ago
        return error
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")


def _follow() -> Any:
    """End with the driver, however it ends."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)
