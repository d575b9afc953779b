"""Runs the scheduled slots of a day in an hour or less, and watches the memory, files, threads and connections of the
service.

python tests/soak.py FOLDER [--slots 144] [--every 20] [--storage postgresql://...]

A suite with small variants is scheduled every few seconds, in real processes. Prints a line about every five slots. The
exit code is 1 if the service uses more at the end than after its first tenth.
"""

import argparse
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]


def usage(pid: int) -> dict[str, int]:
    """Return what a process uses: its private memory in kB, open files, threads and children."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line)
    children = subprocess.run(["ps", "--ppid", str(pid), "-o", "pid="], capture_output=True, text=True, check=False)
    return {
        "kB": int(status["RssAnon"].split()[0]), "files": len(os.listdir(f"/proc/{pid}/fd")),
        "threads": int(status["Threads"]), "children": len(children.stdout.split()),
    }  # fmt: skip


def connections(url: str) -> int:
    """Return the number of other connections to a PostgreSQL database; 0 for SQLite."""
    import sqlalchemy

    if not url.startswith("postgresql"):
        return 0
    engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.pool.NullPool)
    with engine.connect() as connection:
        count = connection.execute(sqlalchemy.text("select count(*) from pg_stat_activity where datname = 'optuna'"))
        return int(count.scalar_one()) - 1


def main() -> int:
    from test_benchmark import plugin

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--slots", type=int, default=144)
    parser.add_argument("--every", type=int, default=20, help="seconds between slots; a divisor of 60")
    parser.add_argument("--storage", default="sqlite:///optuna.db")
    arguments = parser.parse_args()
    packages = arguments.folder.absolute() / "packages"
    plugin(packages)
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{packages}", "OMP_NUM_THREADS": "1"}
    cron = f"*/{arguments.every} * * * * *"  # with seconds, before minutes
    command = [sys.executable, "-m", "pipeline.schedule", "tiny", "--cron", cron, "--storage", arguments.storage]
    log = (arguments.folder / "service.log").open("w")
    service = subprocess.Popen(command, cwd=arguments.folder, env=environment, stdout=log, stderr=log)
    os.chdir(arguments.folder)
    from pipeline.schedule.ledger import FINAL, Ledger

    ledger = Ledger(arguments.storage)
    samples: list[dict[str, int]] = []
    begin = time.monotonic()
    done = 0
    while done < arguments.slots and service.poll() is None:
        time.sleep(5)
        rows = ledger.rows("tiny")
        states = {state: sum(r.state == state for r in rows) for state in FINAL}
        if sum(states.values()) >= done + 5:
            done = sum(states.values())
            samples.append({**usage(service.pid), "connections": connections(arguments.storage)})
            print(f"{time.monotonic() - begin:5.0f} s {states} {samples[-1]}", flush=True)
    service.send_signal(signal.SIGTERM)
    code = service.wait(60)
    pgrep = ["pgrep", "-f", "pipeline.schedule tiny"]
    processes = subprocess.run(pgrep, capture_output=True, text=True, check=False).stdout.split()
    journals = list(Path("mlruns/.runs").glob("*/*/journal.jsonl"))
    print(f"exit code {code}; processes left: {processes}; journals left: {len(journals)}; slots {done}")
    early = samples[len(samples) // 10]
    more = {k: (early[k], max(s[k] for s in samples[-3:])) for k in early}
    grown = {k: v for k, v in more.items() if v[1] > v[0] * (1.05 if k == "kB" else 1) + (0 if k == "kB" else 1)}
    print(f"after a tenth, and at the end: {more}; grown: {grown or 'nothing'}")
    return 1 if grown or processes else 0


if __name__ == "__main__":
    sys.exit(main())
