"""Executors run tasks, whatever happens to their processes."""

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pipeline import executor
from pipeline.executor import Ended, Resources
from pipeline.progress import Display
from variants import InputError


@dataclass(frozen=True)
class Square:
    number: int

    def run(self, resources: Resources, report: Callable[[Any], None]) -> int:
        report(f"at {self.number}")
        return self.number**2


@dataclass(frozen=True)
class Mortal:
    """Its process is killed `deaths` times before it ends."""

    file: str
    deaths: int

    def run(self, resources: Resources, report: Callable[[Any], None]) -> str:
        with open(self.file, "a") as stream:
            stream.write("x")
        if len(Path(self.file).read_text()) <= self.deaths:
            os.kill(os.getpid(), signal.SIGKILL)
        return "alive"


@dataclass(frozen=True)
class Broken:
    def run(self, resources: Resources, report: Callable[[Any], None]) -> None:
        raise InputError("the store is away")


@dataclass(frozen=True)
class Slow:
    file: str

    def run(self, resources: Resources, report: Callable[[Any], None]) -> None:
        Path(self.file).write_text(str(os.getpid()))
        time.sleep(60)


@dataclass(frozen=True)
class Where:
    def run(self, resources: Resources, report: Callable[[Any], None]) -> tuple[int, int]:
        import torch

        return os.getpid(), torch.get_num_threads()


def run(tasks: list[Any], **options: Any) -> tuple[dict[Any, Ended], list[Any]]:
    """Run tasks. Returns how each ended, by its number, and all progress messages."""
    queue, ends, messages = list(enumerate(tasks)), {}, []
    with executor.open_executor(executor.Compute(**options)) as opened:
        executor.run_all(
            opened, lambda: queue.pop(0) if queue else None, lambda key, message: messages.append((key, message)),
            lambda end: ends.update({end.key: end}),
        )  # fmt: skip
    return ends, messages


@dataclass(frozen=True)
class Steps:
    title: str
    steps: int

    def run(self, resources: Resources, report: Callable[[Any], None]) -> str:
        for step in range(1, self.steps + 1):
            report((step, f"note {step}"))
        return self.title


def test_the_progress_of_tasks_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    display = Display()
    tasks = {"a": Steps("first", 2), "b": Steps("second", 3)}
    with executor.open_executor(executor.Compute(threads=1)) as opened, display.progress("all", 2) as progress:
        ended = executor.run_with_progress(opened, tasks, progress)
        assert progress.line().startswith("all: 2 of 2 finished after")
    assert {key: end.result_of(key) for key, end in ended.items()} == {"a": "first", "b": "second"}
    assert capsys.readouterr().out == "first done (1 of 2)\nsecond done (2 of 2)\n"


@pytest.mark.parametrize("workers", [1, 2])
def test_each_task_ends_once_and_reports(workers: int) -> None:
    ends, messages = run([Square(n) for n in range(5)], workers=workers, threads=1)
    assert {k: e.result for k, e in ends.items()} == {n: n**2 for n in range(5)}
    assert sorted(messages) == [(n, f"at {n}") for n in range(5)]


@pytest.mark.slow
def test_a_task_whose_process_dies_is_run_again(tmp_path: Path) -> None:
    ends, _ = run([Mortal(str(tmp_path / "a"), 2), Square(3)], workers=2, threads=1)
    assert ends[0].result == "alive"
    assert ends[1].result == 9
    assert (tmp_path / "a").read_text() == "xxx"


@pytest.mark.slow
def test_a_task_that_keeps_dying_is_given_up(tmp_path: Path) -> None:
    ends, _ = run([Mortal(str(tmp_path / "a"), 99), Square(3)], workers=2, threads=1)
    assert "SIGKILL" in ends[0].died
    assert ends[1].result == 9
    assert len((tmp_path / "a").read_text()) == executor.MAX_DEATHS
    with pytest.raises(InputError, match="the task was given up after 5 processes died while running it: its process"):
        ends[0].result_of("the task")


def test_cores_are_shared_among_processes() -> None:
    ends, _ = run([Where(), Where()], workers=2, threads=1)
    results = [e.result for e in ends.values()]
    assert {threads for _, threads in results} == {1}
    assert os.getpid() not in {pid for pid, _ in results}


@pytest.mark.slow
def test_what_a_task_raises_is_raised_here_and_the_others_end(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the store is away"):
        run([Slow(str(tmp_path / "pid")), Broken()], workers=2, threads=1)
    if (tmp_path / "pid").exists():  # the task may not have started yet
        with pytest.raises(ProcessLookupError):
            os.kill(int((tmp_path / "pid").read_text()), 0)


def test_more_workers_than_make_sense_are_refused() -> None:
    with pytest.raises(InputError, match="expected at most"):
        run([], workers=10_000)
    with pytest.raises(InputError, match="it needs --executor ray"):
        run([], address="auto")


@pytest.mark.slow
def test_ray_runs_the_same_tasks(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    ends, _ = run(
        [Mortal(str(tmp_path / "a"), 1), *(Square(n) for n in range(3))], executor="ray", workers=2, threads=1
    )
    assert [ends[i].result for i in range(4)] == ["alive", 0, 1, 4]
