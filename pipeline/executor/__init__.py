"""Runs tasks in this process, in several processes of this machine, or on a Ray cluster.

    with open_executor(Compute(workers=2, threads=1)) as executor:
        run_all(executor, next_task, on_progress, on_end)

A task is a plain dataclass with a method `run(resources, report)`. It may run in any process, and that process may die
at any moment. A task whose process died is submitted again and continues from what it left on disk; after `MAX_DEATHS`
deaths it is given up. What a task returns travels by pickle between processes that this package started. No pickle is
ever read from a file or a store.
"""

import os
import signal
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from variants import InputError

if TYPE_CHECKING:
    from pipeline.progress import Progress

Kind = Literal["local", "ray"]
MAX_DEATHS = 5  # after so many processes died while running one task, the task is given up


@dataclass(frozen=True, kw_only=True)
class Compute:
    """What a command may use for its work.

    Args:
        device: `auto`, `cpu`, `cuda` or `cuda:0`, as `machine.device` takes it.
        threads: CPU threads of each worker; None for its share of the cores.
        workers: Number of tasks that run at the same time.
        executor: `local` for processes of this machine, `ray` for a Ray cluster.
        address: Address of an existing Ray cluster; None starts one on this machine.
    """

    device: str = "auto"
    threads: int | None = None
    workers: int = 1
    executor: Kind = "local"
    address: str | None = None


@dataclass(frozen=True)
class Resources:
    """What one task may use: a device, a number of CPU threads, and the working directory."""

    device: str
    threads: int
    folder: str


Report = Callable[[Any], None]  # a task calls this with a message about its progress


class Task(Protocol):
    def run(self, resources: Resources, report: Report) -> Any: ...


class TitledTask(Task, Protocol):
    """A task whose progress can be shown. It reports (number of the step that has ended, a note)."""

    @property
    def title(self) -> str: ...

    @property
    def steps(self) -> int: ...


@dataclass(frozen=True)
class Ended:
    """A task that has ended, either with its result, or because its process died (`died` then gives the reason)."""

    key: Hashable
    result: Any = None
    died: str = ""

    def result_of(self, title: str) -> Any:
        """Return the result of the task with that title. Raises `InputError` if the task was given up."""
        if self.died:
            raise InputError(f"{title} was given up after {MAX_DEATHS} processes died while running it: {self.died}")
        return self.result


OnProgress = Callable[[Hashable, Any], None]  # receives a task's key and the message that it reported


class Executor(Protocol):
    """Runs up to `slots` tasks at the same time, on `hosts` machines."""

    slots: int

    @property
    def hosts(self) -> int: ...

    def submit(self, key: Hashable, task: Task) -> None: ...

    def wait(self, on_progress: OnProgress) -> list[Ended]:
        """Pass on progress messages until at least one task has ended. An exception of a task is raised here."""
        ...

    def close(self, patience: float) -> None:
        """Stop all running tasks as SIGTERM would, and after `patience` seconds as SIGKILL would."""
        ...


def run_all(
    executor: Executor,
    next_task: Callable[[], tuple[Hashable, Task] | None],
    on_progress: OnProgress,
    on_end: Callable[[Ended], None],
) -> None:
    """Run tasks until `next_task` returns None while no task is running.

    After it has returned None, `next_task` is asked again whenever a running task has ended. `on_progress` receives
    the key of a task and each message that the task reports. A task whose process died is submitted again; after
    `MAX_DEATHS` deaths it is given up. `on_end` is called once for each task, in the calling process; for a task that
    was given up, `Ended.died` is set.
    """
    running: dict[Hashable, Task] = {}
    deaths: dict[Hashable, int] = {}
    while True:
        while len(running) < executor.slots and (task := next_task()):
            running[task[0]] = task[1]
            executor.submit(*task)
        if not running:
            return
        for end in executor.wait(on_progress):
            deaths[end.key] = deaths.get(end.key, 0) + bool(end.died)
            if end.died and deaths[end.key] < MAX_DEATHS:
                executor.submit(end.key, running[end.key])
                continue
            del running[end.key]
            on_end(end)


def run_with_progress(executor: Executor, tasks: Mapping[str, TitledTask], progress: "Progress") -> dict[str, Ended]:
    """Run tasks and show their progress. Returns how each of them ended."""
    waiting = list(tasks.items())
    ended: dict[str, Ended] = {}

    def next_task() -> tuple[str, Task] | None:
        if not waiting:
            return None
        key, task = waiting.pop(0)
        progress.start(key, task.title, task.steps)
        return key, task

    def on_end(end: Ended) -> None:
        ended[str(end.key)] = end
        progress.finish(end.key)

    run_all(executor, next_task, lambda key, message: progress.update(key, *message), on_end)
    return ended


@contextmanager
def open_executor(compute: Compute) -> Iterator[Executor]:
    """Open the executor that `compute` describes, and close it at the end of the block.

    Raises:
        InputError: If this machine or the cluster cannot provide what was asked for.
    """
    from pipeline import machine

    if compute.address and compute.executor != "ray":
        raise InputError(f"--ray-address {compute.address}: it needs --executor ray")
    if compute.executor == "local" and compute.workers > 8 * machine.cores():
        raise InputError(
            f"--workers {compute.workers}: this machine has {machine.cores()} cores; expected at most "
            f"{8 * machine.cores()} workers"
        )
    executor: Executor
    if compute.executor == "ray":
        from pipeline.executor.cluster import RayExecutor

        executor = RayExecutor(compute)
    elif compute.workers == 1:
        from pipeline.executor.local import InProcess

        executor = InProcess(compute)
    else:
        from pipeline.executor.local import ProcessPool

        executor = ProcessPool(compute)
    try:
        yield executor
    except KeyboardInterrupt:
        with _second_interrupt_exits():
            executor.close(patience=10)
        raise
    except BaseException:
        executor.close(patience=2)
        raise
    else:
        executor.close(patience=10)


@contextmanager
def _second_interrupt_exits() -> Iterator[None]:
    """While the block runs, another Ctrl-C ends this process at once. Its workers notice that and end too."""
    before = signal.signal(signal.SIGINT, lambda *_: os._exit(130))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
