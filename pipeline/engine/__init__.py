"""Where work is done: in this process, in processes of this machine, or on a Ray cluster. One loop for all.

    with engine.open("here", workers=2, threads=1) as workers:
        engine.drive(workers, ask, show, ended)

`ask` gives the next task, each of which runs by itself in a process that may die at any moment; `ended` hears of each
once. A task whose process died is given out again, and goes on from what it left on disk; one whose processes keep
dying is given up. Tasks are plain dataclasses with a method `run(place, show)`; what they return travels by pickle,
between processes that this package started, and is never read from a file or a store.
"""

import os
import signal
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from variants import InputError

__all__ = ["Ended", "Engine", "Kind", "Place", "Task", "drive", "open_engine"]

Kind = Literal["here", "ray"]
DEATHS = 5  # of processes at one task, after which it is given up


@dataclass(frozen=True)
class Place:
    """What a task may use."""

    device: str  # as `machine.device` takes it
    threads: int
    folder: str  # the working directory


class Task(Protocol):
    def run(self, place: Place, show: Callable[[Any], None]) -> Any: ...


@dataclass(frozen=True)
class Ended:
    """A task that ended: with its result, or without one since its process died (`died` says of what)."""

    key: Hashable
    result: Any = None
    died: str = ""


Show = Callable[[Hashable, Any], None]


class Engine(Protocol):
    """Room for `slots` tasks at once, on so many hosts."""

    slots: int

    @property
    def hosts(self) -> int: ...

    def submit(self, key: Hashable, task: Task) -> None: ...

    def wait(self, show: Show) -> list[Ended]:
        """Pass on what tasks tell until at least one of them ended. An exception of a task is raised here."""
        ...

    def close(self, patience: float) -> None:
        """Stop whatever runs, as SIGTERM would; after `patience` seconds, as SIGKILL would."""
        ...


def drive(
    engine: Engine,
    ask: Callable[[], tuple[Hashable, Task] | None],
    show: Show,
    ended: Callable[[Ended], None],
) -> None:
    """Keep every slot at work until `ask` has nothing left. `ended` hears of each task once, in this process."""
    running: dict[Hashable, Task] = {}
    deaths: dict[Hashable, int] = {}
    while True:
        while len(running) < engine.slots and (job := ask()):
            running[job[0]] = job[1]
            engine.submit(*job)
        if not running:
            return
        for end in engine.wait(show):
            deaths[end.key] = deaths.get(end.key, 0) + bool(end.died)
            if end.died and deaths[end.key] < DEATHS:
                engine.submit(end.key, running[end.key])
                continue
            del running[end.key]
            ended(end)


@contextmanager
def open_engine(
    kind: Kind = "here", workers: int = 1, threads: int | None = None, device: str = "auto", address: str | None = None
) -> Iterator[Engine]:
    """An engine for as long as the block lasts. Raises `InputError` for what this machine or cluster cannot give."""
    from pipeline import machine

    if address and kind != "ray":
        raise InputError(f"--ray-address {address}: it goes with --engine ray")
    if workers > 8 * machine.cores() and kind == "here":
        raise InputError(
            f"--workers {workers}: this machine has {machine.cores()} cores; expected a few workers a core"
        )
    made: Engine
    if kind == "ray":
        from pipeline.engine.cluster import Ray

        made = Ray(workers, threads, device, address)
    elif workers == 1:
        from pipeline.engine.local import Inside

        made = Inside(threads, device)
    else:
        from pipeline.engine.local import Pool

        made = Pool(workers, threads, device)
    try:
        yield made
    except KeyboardInterrupt:
        with _impatient():
            made.close(patience=10)
        raise
    except BaseException:
        made.close(patience=2)
        raise
    else:
        made.close(patience=10)


@contextmanager
def _impatient() -> Iterator[None]:
    """A second Ctrl-C ends this process at once; its workers notice, and follow."""
    before = signal.signal(signal.SIGINT, lambda *_: os._exit(130))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
