"""Runs tasks one after the other in this process, or several at a time in processes of this machine."""

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
from pipeline.executor import Compute, Ended, OnProgress, Resources, Task


class InProcess:
    """Runs one task at a time in this process. Nothing has to be started, and a debugger can follow it."""

    slots = hosts = 1

    def __init__(self, compute: Compute) -> None:
        self._resources = Resources(compute.device, machine.prepare(compute.threads), os.getcwd())
        self._submitted: tuple[Hashable, Task] | None = None

    def submit(self, key: Hashable, task: Task) -> None:
        self._submitted = key, task

    def wait(self, on_progress: OnProgress) -> list[Ended]:
        assert self._submitted is not None
        key, task = self._submitted
        return [Ended(key, task.run(self._resources, lambda message: on_progress(key, message)))]

    def close(self, patience: float) -> None:
        pass


class ProcessPool:
    """Runs each task in one of several processes of this machine.

    The processes are spawned, never forked, because torch's threads do not survive a fork. They share the cores evenly
    and take the GPUs in turn. A process that dies is replaced. When this process dies, all of them end.
    """

    hosts = 1

    def __init__(self, compute: Compute) -> None:
        self.slots = compute.workers
        threads = machine.prepare(compute.threads, compute.workers)
        devices = _devices(compute.device)
        self._workers = [
            _Worker(Resources(devices[i % len(devices)], threads, os.getcwd())) for i in range(compute.workers)
        ]

    def submit(self, key: Hashable, task: Task) -> None:
        next(w for w in self._workers if w.key is None).submit(key, task)

    def wait(self, on_progress: OnProgress) -> list[Ended]:
        while True:
            busy = [w for w in self._workers if w.key is not None]
            ready = wait([w.pipe for w in busy])
            ends = [end for w in busy if w.pipe in ready for end in w.receive(on_progress)]
            if ends:
                return ends

    def close(self, patience: float) -> None:
        for worker in self._workers:
            worker.terminate()
        deadline = time.monotonic() + patience
        for worker in self._workers:
            worker.join(deadline)


def _devices(name: str) -> list[str]:
    """The devices that workers take in turn: every GPU where `auto` finds some, else the one that is named."""
    import torch

    if name == "auto" and torch.cuda.is_available():
        return [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    return ["cpu" if name == "auto" else name]


class _Worker:
    """A process, the pipe that leads to it, and the key of the task that it runs."""

    def __init__(self, resources: Resources) -> None:
        self._resources = resources
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.key: Hashable | None = None
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(theirs, self._resources), daemon=False)
        self.process.start()
        theirs.close()

    def submit(self, key: Hashable, task: Task) -> None:
        self.key = key
        with suppress(OSError):  # the process died while it was idle: `receive` finds the end of the pipe
            self.pipe.send(task)

    def receive(self, on_progress: OnProgress) -> list[Ended]:
        """Receive one message. If the pipe has ended, the process has died, and another one takes its place."""
        key = self.key
        try:
            kind, content = self.pipe.recv()
        except (EOFError, OSError):
            self.process.join()
            self.pipe.close()
            died = _cause_of_death(self.process.exitcode)
            self._start()
            return [Ended(key, died=died)]
        if kind == "progress":
            on_progress(key, content)
            return []
        self.key = None
        if kind == "raised":
            raise content
        return [Ended(key, content)]

    def terminate(self) -> None:
        if self.key is None:
            self.pipe.close()  # an idle process ends when its pipe does
        else:
            self.process.terminate()

    def join(self, deadline: float) -> None:
        self.process.join(max(0.0, deadline - time.monotonic()))
        if self.process.exitcode is None:
            self.process.kill()
            self.process.join()
        self.pipe.close()


def _cause_of_death(code: int | None) -> str:
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        memory = ", possibly because the machine ran out of memory" if name == "SIGKILL" else ""
        return f"its process was ended by {name}{memory}"
    return f"its process ended with code {code}"


def _work(pipe: Connection, resources: Resources) -> None:
    """The main function of a worker process. It ignores SIGINT: the driver stops its workers by SIGTERM."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    machine.prepare(resources.threads)
    while True:
        try:
            task: Task = pipe.recv()
        except (EOFError, KeyboardInterrupt):
            return
        try:
            pipe.send(("ended", task.run(resources, lambda message: pipe.send(("progress", message)))))
        except KeyboardInterrupt:
            sys.exit(130)
        except Exception as error:
            pipe.send(("raised", _picklable(error)))


def _picklable(error: Exception) -> Exception:
    """The exception itself, or a `RuntimeError` with its message if it does not survive pickling."""
    import pickle

    try:
        pickle.loads(pickle.dumps(error))  # made by this process a moment ago
        return error
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")


def _end_with_parent() -> Any:
    """End this process as soon as its parent has ended, whatever ended it."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)
