"""Engines run tasks, whatever happens to the processes that do it."""

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
from variants import InputError


@dataclass(frozen=True)
class Square:
    number: int

    def run(self, resources: Resources, report: Callable[[Any], None]) -> int:
        report(f"at {self.number}")
        return self.number**2


@dataclass(frozen=True)
class Mortal:
    """Dies by SIGKILL so many times before it lives to the end."""

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


def done(tasks: list[Any], **options: Any) -> tuple[dict[Any, Ended], list[Any]]:
    left, ends, told = list(enumerate(tasks)), {}, []
    with executor.open_executor(executor.Compute(**options)) as made:
        executor.run_all(
            made, lambda: left.pop(0) if left else None, lambda key, message: told.append((key, message)),
            lambda end: ends.update({end.key: end}),
        )  # fmt: skip
    return ends, told


@pytest.mark.parametrize("workers", [1, 2])
def test_each_task_ends_once_and_tells(workers: int) -> None:
    ends, told = done([Square(n) for n in range(5)], workers=workers, threads=1)
    assert {k: e.result for k, e in ends.items()} == {n: n**2 for n in range(5)}
    assert sorted(told) == [(n, f"at {n}") for n in range(5)]


def test_a_task_whose_process_dies_is_given_out_again(tmp_path: Path) -> None:
    ends, _ = done([Mortal(str(tmp_path / "a"), 2), Square(3)], workers=2, threads=1)
    assert ends[0].result == "alive"
    assert ends[1].result == 9
    assert (tmp_path / "a").read_text() == "xxx"


@pytest.mark.slow
def test_one_that_keeps_dying_is_given_up(tmp_path: Path) -> None:
    ends, _ = done([Mortal(str(tmp_path / "a"), 99), Square(3)], workers=2, threads=1)
    assert "SIGKILL" in ends[0].died
    assert ends[1].result == 9
    assert len((tmp_path / "a").read_text()) == executor.DEATHS


def test_cores_are_shared_among_processes() -> None:
    ends, _ = done([Where(), Where()], workers=2, threads=1)
    found = [e.result for e in ends.values()]
    assert {threads for _, threads in found} == {1}
    assert os.getpid() not in {pid for pid, _ in found}


def test_what_a_task_raises_is_raised_here_and_the_others_end(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the store is away"):
        done([Slow(str(tmp_path / "pid")), Broken()], workers=2, threads=1)
    if (tmp_path / "pid").exists():  # it may not have come so far
        with pytest.raises(ProcessLookupError):
            os.kill(int((tmp_path / "pid").read_text()), 0)


def test_more_workers_than_make_sense_are_refused() -> None:
    with pytest.raises(InputError, match="expected a few workers a core"):
        done([], workers=10_000)
    with pytest.raises(InputError, match="it goes with --executor ray"):
        done([], address="auto")


@pytest.mark.slow
def test_ray_runs_the_same_tasks(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    ends, _ = done([Mortal(str(tmp_path / "a"), 1), *(Square(n) for n in range(3))], kind="ray", workers=2, threads=1)
    assert [ends[i].result for i in range(4)] == ["alive", 0, 1, 4]
