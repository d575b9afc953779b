"""Studies whose processes are killed at random moments: `python tests/chaos.py --help`.

Each round starts a study in an empty folder, and kills (-9) its driver, a worker, or a Ray node up to three times. If
the driver died, the same command is run again. In the end, the trials in Optuna are compared with the runs in MLflow.
"""

import argparse
import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
TRIALS, EPOCHS = 6, 12
STUDY = "beta-digits"
CODE = {"complete": "FINISHED", "pruned": "KILLED", "failed": "FAILED"}


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "MLFLOW_DISABLE_TELEMETRY": "true"}


def children(parent: int) -> list[int]:
    """Return all processes below one."""
    parents: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = stat.read_text().rsplit(")", 1)[1].split()
            parents.setdefault(int(fields[1]), []).append(int(stat.parent.name))
    processes, remaining = [], [parent]
    while remaining:
        below = parents.get(remaining.pop(), [])
        processes += below
        remaining += below
    return processes


def named(pid: int, word: str) -> bool:
    try:
        return word in Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    except OSError:
        return False


def workers(driver: int, executor: str) -> list[int]:
    """Return the processes in which trials run."""
    if executor == "local":
        return [p for p in children(driver) if named(p, "spawn_main")]
    every = [int(p.name) for p in Path("/proc").glob("[0-9]*")]
    return [p for p in every if named(p, "ray::_work")]


@contextlib.contextmanager
def cluster(executor: str) -> Iterator[Any]:
    """A Ray cluster of a head, on which nothing runs, and two nodes of one CPU each."""
    if executor == "local":
        yield None
        return
    from ray.cluster_utils import Cluster

    ray_cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        for _ in range(2):
            ray_cluster.add_node(num_cpus=1)
        yield ray_cluster
    finally:
        ray_cluster.shutdown()


def start(folder: Path, executor: str, address: str | None, storage: str | None) -> "subprocess.Popen[bytes]":
    words = ["--variant", "beta", "--trials", str(TRIALS), "--epochs", str(EPOCHS), "--workers", "2", "--threads", "1"]
    words += ["--executor", "ray", "--ray-address", str(address)] if executor == "ray" else []
    words += ["--storage", storage] if storage else []
    log = (folder / "log.txt").open("ab")
    line = [sys.executable, "-m", "pipeline.study", *words]
    return subprocess.Popen(line, cwd=folder, env=environment(), stdout=log, stderr=log)


def strike(rng: random.Random, driver: "subprocess.Popen[bytes]", executor: str, nodes: Any) -> str:
    """Kill something, and return what it was."""
    victim = rng.choice(["driver", "worker", *(["node"] if nodes else [])])
    if victim == "driver":
        driver.kill()
        driver.wait()
        return victim
    if victim == "node":
        nodes.remove_node(rng.choice(sorted(nodes.worker_nodes, key=lambda n: n.node_id)), allow_graceful=False)
        nodes.add_node(num_cpus=1)
        return victim
    alive = workers(driver.pid, executor)
    if not alive:
        return "nobody"
    with contextlib.suppress(ProcessLookupError):
        os.kill(rng.choice(sorted(alive)), signal.SIGKILL)
    return victim


def problems(folder: Path, storage: str) -> list[str]:
    """Return the differences between Optuna and MLflow, and whatever else is wrong."""
    import optuna
    from mlflow import MlflowClient

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    wrong = []
    trials = optuna.load_study(study_name=STUDY, storage=storage).trials
    if len(trials) != TRIALS or not all(t.state.is_finished() for t in trials):
        wrong.append(f"trials {[t.state.name for t in trials]}")
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    (experiment,) = [e for e in client.search_experiments() if e.name == "digits"]
    runs = client.search_runs([experiment.experiment_id], "tags.kind = 'trial'")
    if sorted(int(r.data.tags["trial"]) for r in runs) != list(range(TRIALS)):
        wrong.append(f"runs of trials {sorted(int(r.data.tags['trial']) for r in runs)}")
    for run in runs:
        trial = trials[int(run.data.tags["trial"])]
        state = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed"}.get(trial.state.name, "")
        if (run.data.tags.get("state"), run.info.status) != (state, CODE.get(state)):
            wrong.append(f"trial {trial.number} is {state}, its run {run.data.tags.get('state')} {run.info.status}")
        steps = [m.step for m in client.get_metric_history(run.info.run_id, "time/train_seconds")]
        if sorted(steps) != list(range(1, len(steps) + 1)) or (state == "complete" and len(steps) != EPOCHS):
            wrong.append(f"trial {trial.number} {state} has epochs {sorted(steps)}")
        if state == "complete" and run.data.metrics["valid/elbo"] != trial.values[0]:
            wrong.append(
                f"trial {trial.number}: {run.data.metrics['valid/elbo']} in MLflow, {trial.values[0]} in Optuna"
            )
    if any(r.info.status == "RUNNING" for r in client.search_runs([experiment.experiment_id])):
        wrong.append("a run is RUNNING")
    if list(folder.glob("mlruns/.runs/*/*/journal.jsonl")):
        wrong.append("journals are left")
    return wrong


def play_round(seed: int, executor: str, nodes: Any) -> tuple[Counter[str], int, list[str]]:
    """Return what was killed, how often the driver was started, and what is wrong at the end."""
    rng = random.Random(seed)
    killed: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        address = nodes.address if nodes else None
        driver, starts = start(folder, executor, address, None), 1
        for _ in range(rng.randint(1, 3)):
            deadline = time.monotonic() + rng.uniform(1, 18 if executor == "local" else 36)  # Ray takes longer to begin
            while time.monotonic() < deadline and driver.poll() is None:
                time.sleep(0.05)
            if driver.poll() is None:
                killed[strike(rng, driver, executor, nodes)] += 1
            if driver.poll() not in (None, 0):
                driver, starts = start(folder, executor, address, None), starts + 1
        code = driver.wait(timeout=300)
        wrong = problems(folder, f"sqlite:///{folder}/optuna.db") if code == 0 else [f"exit code {code}"]
        if wrong:
            print((folder / "log.txt").read_text()[-3000:])
    return killed, starts, wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--executor", choices=("local", "ray"), default="local")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    killed: Counter[str] = Counter()
    bad = 0
    with cluster(arguments.executor) as nodes:
        for seed in range(arguments.seed, arguments.seed + arguments.rounds):
            struck, starts, wrong = play_round(seed, arguments.executor, nodes)
            killed += struck
            bad += bool(wrong)
            what = ", ".join(f"{n} {k}" for k, n in struck.items()) or "nothing in time"
            print(f"round {seed}: killed {what}; {starts} starts; {'; '.join(wrong) or 'nothing is wrong'}", flush=True)
    print(f"{arguments.executor}: {arguments.rounds} rounds, killed {dict(killed)}; something is wrong in {bad}")
    return bool(bad)


if __name__ == "__main__":
    sys.exit(main())
