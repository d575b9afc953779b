"""The schedule in real processes that are killed."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import stores
from conftest import environment
from test_benchmark import plugin

from pipeline.schedule.cron import Cron
from pipeline.schedule.ledger import FINAL, Ledger

WORKER = """
import os, sys, time
from pipeline.schedule import ledger as ledgers, slot
ledgers.LEASE_SECONDS, ledgers.HEARTBEAT, ledgers.BACKOFF = 2.0, 0.3, 0.5
slot.LEASE_SECONDS, slot.HEARTBEAT = 2.0, 0.3
ledger = ledgers.Ledger(sys.argv[1])
def note(*words):
    with open(sys.argv[2], "a") as stream:
        stream.write(" ".join(map(str, words)) + "\\n")
def rerun(name, check_lease):
    note("begin", name, os.getpid(), time.time())
    time.sleep(0.25)
    check_lease()
    note("end", name, os.getpid(), time.time())
    return 0
while True:
    slot.run(ledger, "smoke", rerun, lambda line: None)
    time.sleep(0.05)
"""


def killed(url: str, folder: Path, seconds: float) -> None:
    """Let four processes compete for one slot each second, and kill and replace one after the other."""
    log = folder / "log"
    ledger = Ledger(url)
    ledger.set_schedule("smoke", Cron("* * * * * *", "UTC"), ledger.now())
    command = [sys.executable, "-c", WORKER, url, str(log)]
    start = lambda: subprocess.Popen(command, env=environment(), cwd=folder)  # noqa: E731
    workers = [start() for _ in range(4)]
    chance = random.Random(0)
    kills: dict[str, float] = {}
    deadline = time.monotonic() + 60
    while not (log.exists() and log.read_text()) and time.monotonic() < deadline:
        time.sleep(0.1)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(chance.uniform(0.4, 1.2))
        kind, pid, soon = "", 0, time.monotonic() + 3
        while len(kills) % 2 and kind != "begin" and time.monotonic() < soon:  # every other one in the middle
            time.sleep(0.01)
            kind, _, pid = log.read_text().splitlines()[-1].split()[:3]
        victim = next((w for w in workers if kind == "begin" and w.pid == int(pid)), workers[0])
        os.kill(victim.pid, signal.SIGKILL)
        victim.wait()
        kills[str(victim.pid)] = time.time()
        workers[workers.index(victim)] = start()
    time.sleep(6)  # what was cut off is given out again
    for worker in workers:
        worker.kill()
        worker.wait()
    rows = ledger.rows("smoke")
    entries = [entry.split() for entry in log.read_text().splitlines()]
    ended = [w[1] for w in entries if w[0] == "end"]
    assert len(kills) > 3
    assert sum("died" in r.note for r in rows) > 1  # some were cut off in the middle
    assert len(ended) > 5
    assert len(ended) == len(set(ended))  # no slot ended twice
    assert sum(r.state == "done" for r in rows) in (len(ended), len(ended) - 1)  # killed between its end and the ledger
    assert all(r.state in FINAL for r in rows[:-3])
    running: set[str] = set()
    for kind, name, pid, when in entries:  # never two at once: whoever began before has ended, or is dead
        if kind == "begin":
            others = [p for p in running if p not in kills or kills[p] > float(when)]
            assert not others, f"{name} began at {when} beside {others}"
            running.add(pid)
        else:
            running.remove(pid)


@pytest.mark.slow
def test_processes_that_are_killed_on_sqlite(tmp_path: Path) -> None:
    killed(f"sqlite:///{tmp_path}/ledger.db", tmp_path, 20)


@pytest.mark.slow
def test_processes_that_are_killed_on_postgresql(tmp_path: Path, database: str) -> None:
    killed(database, tmp_path, 20)


@pytest.mark.slow
def test_a_killed_service_leaves_no_slot_undone(folder: Path) -> None:
    """Its slot continues without it. The next service runs the next slots, and SIGTERM ends it and its child."""
    plugin(folder / "packages")
    env = {**environment(), "PYTHONPATH": f"{environment()['PYTHONPATH']}:{folder / 'packages'}"}
    command = [sys.executable, "-m", "pipeline.schedule", "tiny", "--cron", "*/30 * * * * *", "--threads", "1"]
    ledger = Ledger(f"sqlite:///{folder}/optuna.db")

    def until(holds: Callable[[], bool], seconds: float = 120) -> None:
        deadline = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < deadline, ledger.rows("tiny")
            time.sleep(0.1)

    def states() -> list[str]:
        return [r.state for r in ledger.rows("tiny")]

    first = subprocess.Popen(command, env=env, cwd=folder, stdout=subprocess.DEVNULL)
    until(lambda: "running" in states())
    first.kill()
    first.wait()
    until(lambda: "done" in states())
    second = subprocess.Popen(command, env=env, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until(lambda: states().count("done") >= 2 and "running" in states())
    second.send_signal(signal.SIGTERM)
    assert second.wait(timeout=60) == 130
    assert "running" not in states()  # what was cut off waits, and is not lost
    assert ledger.rows("tiny")[-1].attempts == 0
    history = subprocess.run(
        [*command[:3], "--history"], env=env, cwd=folder, capture_output=True, text=True, check=True
    )
    assert "done" in history.stdout
    assert "tiny" in history.stdout
    one_slot = subprocess.run([*command, "--once"], env=env, cwd=folder, capture_output=True, text=True, timeout=300)
    assert one_slot.returncode == 0, one_slot.stderr
    runs = stores.runs("rerun", "benchmark-tiny")
    slots = [r.data.tags["slot"] for r in runs if r.data.tags.get("state") == "complete"]
    assert len(slots) == len(set(slots)) == states().count("done")
