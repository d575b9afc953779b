"""Plants faults, one at a time, into a copy of the project, and shows what the benchmark `smoke` reports of each.

python tests/drills.py FOLDER [--baseline 8] [--honest 10]      an hour or more on two cores

FOLDER keeps the stores, and may hold reruns already. First come honest reruns that become the baseline, then honest
reruns that must not raise an alarm, and then one rerun with each fault. Prints a table of verdicts. The exit code is 1
if an honest rerun raised an alarm.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pipeline.benchmark.history import Rerun

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))


class Fault(NamedTuple):
    name: str
    file: str
    right: str  # text that occurs once in the file
    wrong: str  # its replacement


TRAINER = "pipeline/trainer.py"
FAULTS = (
    Fault(
        "KL weighted 1.05", "variants/base/closed_forms.py", "if floor else mean).sum()",
        "if floor else mean).sum() * 1.05",
    ),
    Fault(
        "learning rate x 3", "pipeline/steps.py", "        self.name, self.optimizer = name, optimizer\n",
        "        self.name, self.optimizer = name, optimizer\n"
        "        for group in optimizer.param_groups:\n            group['lr'] *= 3\n",
    ),
    Fault(
        "first encoder layer frozen", TRAINER, "    state = _State(variant,",
        "    optimizers[0].weights = optimizers[0].weights[2:]  # an optimizer skips weights without a gradient\n"
        "    state = _State(variant,",
    ),
    Fault(
        "shuffling off", TRAINER, "torch.randperm(len(data.train), generator=state.order)",
        "torch.arange(len(data.train))",
    ),
    Fault(
        "last partial batch dropped", TRAINER, "            training.take(batch)\n",
        "            if len(batch) == variant.config.batch:\n                training.take(batch)\n",
    ),
    Fault(
        "20% sleep in the step", TRAINER, "            training.take(batch)\n",
        "            began = time.perf_counter()\n            training.take(batch)\n"
        "            time.sleep(0.2 * (time.perf_counter() - began))\n",
    ),
)  # fmt: skip


def copy(folder: Path) -> Path:
    """Copy the three packages into a folder, and return it."""
    for package in ("variants", "studies", "pipeline"):
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def plant(root: Path, fault: Fault) -> None:
    """Replace the right text by the wrong one in a copy of the project."""
    path = root / fault.file
    text = path.read_text(encoding="utf-8")
    assert text.count(fault.right) == 1, f"{fault.name}: {fault.right!r} occurs {text.count(fault.right)} times"
    path.write_text(text.replace(fault.right, fault.wrong), encoding="utf-8")


def benchmark(root: Path, *options: str) -> int:
    """Run the benchmark with the code of a copy in the working directory, and return its exit code."""
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pipeline.benchmark", "smoke", *options]
    return subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=False).returncode


def reruns() -> "list[Rerun]":
    from pipeline.benchmark import history
    from pipeline.tracker import Tracker

    return history.read(Tracker(history.experiment("smoke")), "smoke")


def print_row(name: str, code: int) -> None:
    """Print the newest rerun as a row of the table."""
    last = [r for r in reruns() if not r.confirms][-1]
    notable = [f"{s}: {v}" for s, v in sorted(last.verdicts.items()) if v not in ("better", "no history")]
    confirmed = "yes" if any(r.confirms == last.id for r in reruns()) else "no"
    cells = [name, last.tags["verdict"], str(code), confirmed, "; ".join(notable) or "-", json.dumps(last.id)]
    print(f"| {' | '.join(cells)} |", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--baseline", type=int, default=8)
    parser.add_argument("--honest", type=int, default=10)
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    os.chdir(arguments.folder)
    alarms = 0
    print("| rerun | verdict | exit code | repeated | series | id |\n|---|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        honest = copy(Path(scratch) / "honest")
        existing = sum(1 for r in reruns() if not (r.confirms or r.aside))
        for number in range(existing, arguments.baseline + arguments.honest):
            code = benchmark(honest, "--workers", "2")
            alarms += code != 0
            print_row(f"honest {number + 1}", code)
            if number + 1 == arguments.baseline:
                benchmark(honest, "--pin", "first")
        benchmark(honest, "--pin", "all")
        for fault in FAULTS:
            faulty = copy(Path(scratch) / fault.name.replace(" ", "-"))
            plant(faulty, fault)
            print_row(fault.name, benchmark(faulty, "--workers", "2", "--aside"))
    return 1 if alarms else 0


if __name__ == "__main__":
    sys.exit(main())
