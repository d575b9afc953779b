"""Studies whose processes are killed at random moments, and what is left of them: `python tests/chaos.py --help`.

Each round begins a study in an empty folder, kills (-9) its driver, a worker, or a Ray node up to three times, gives
the same command again where the driver died, and then holds what stands in Optuna against what stands in MLflow.
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


def children(of: int) -> list[int]:
    """All processes below one, and what they are called."""
    parents: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            words = stat.read_text().rsplit(")", 1)[1].split()
            parents.setdefault(int(words[1]), []).append(int(stat.parent.name))
    found, left = [], [of]
    while left:
        below = parents.get(left.pop(), [])
        found += below
        left += below
    return found


def named(pid: int, word: str) -> bool:
    try:
        return word in Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    except OSError:
        return False


def workers(driver: int, executor: str) -> list[int]:
    """The processes in which trials run."""
    if executor == "here":
        return [p for p in children(driver) if named(p, "spawn_main")]
    every = [int(p.name) for p in Path("/proc").glob("[0-9]*")]
    return [p for p in every if named(p, "ray::_work")]


@contextlib.contextmanager
def cluster(executor: str) -> Iterator[Any]:
    """A Ray cluster of a head, on which nothing runs, and two nodes of one CPU each."""
    if executor == "here":
        yield None
        return
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        for _ in range(2):
            made.add_node(num_cpus=1)
        yield made
    finally:
        made.shutdown()


def start(folder: Path, executor: str, address: str | None, storage: str | None) -> "subprocess.Popen[bytes]":
    words = ["--variant", "beta", "--trials", str(TRIALS), "--epochs", str(EPOCHS), "--workers", "2", "--threads", "1"]
    words += ["--engine", "ray", "--ray-address", str(address)] if executor == "ray" else []
    words += ["--storage", storage] if storage else []
    log = (folder / "log.txt").open("ab")
    line = [sys.executable, "-m", "pipeline.study", *words]
    return subprocess.Popen(line, cwd=folder, env=environment(), stdout=log, stderr=log)


def strike(rng: random.Random, driver: "subprocess.Popen[bytes]", executor: str, nodes: Any) -> str:
    """Kill something. Returns what it was."""
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


def held(folder: Path, storage: str) -> list[str]:
    """What does not hold. Empty where everything does."""
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


def one(seed: int, executor: str, nodes: Any) -> tuple[Counter[str], int, list[str]]:
    """A round: what was killed, how often the driver was started, and what does not hold."""
    rng = random.Random(seed)
    killed: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        address = nodes.address if nodes else None
        driver, starts = start(folder, executor, address, None), 1
        for _ in range(rng.randint(1, 3)):
            deadline = time.monotonic() + rng.uniform(1, 18 if executor == "here" else 36)  # Ray takes longer to begin
            while time.monotonic() < deadline and driver.poll() is None:
                time.sleep(0.05)
            if driver.poll() is None:
                killed[strike(rng, driver, executor, nodes)] += 1
            if driver.poll() not in (None, 0):
                driver, starts = start(folder, executor, address, None), starts + 1
        code = driver.wait(timeout=300)
        wrong = held(folder, f"sqlite:///{folder}/optuna.db") if code == 0 else [f"exit code {code}"]
        if wrong:
            print((folder / "log.txt").read_text()[-3000:])
    return killed, starts, wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", choices=("here", "ray"), default="here")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    killed: Counter[str] = Counter()
    bad = 0
    with cluster(asked.executor) as nodes:
        for seed in range(asked.seed, asked.seed + asked.rounds):
            struck, starts, wrong = one(seed, asked.executor, nodes)
            killed += struck
            bad += bool(wrong)
            what = ", ".join(f"{n} {k}" for k, n in struck.items()) or "nothing in time"
            print(f"round {seed}: killed {what}; {starts} starts; {'; '.join(wrong) or 'all holds'}", flush=True)
    print(
        f"{asked.engine}: {asked.rounds} rounds, killed {dict(killed)}; {bad} rounds in which something does not hold"
    )
    return bool(bad)


if __name__ == "__main__":
    sys.exit(main())
