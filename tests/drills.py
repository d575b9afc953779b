"""Faults planted one at a time into a copy of the project, and what the benchmark `smoke` says of each.

python tests/drills.py FOLDER [--baseline 8] [--honest 10]      an hour or more on two cores

In FOLDER, which keeps the stores and may hold reruns already: honest reruns that become the baseline, honest reruns
that must raise no alarm, and then one rerun with each fault. A table of verdicts; exit code 1 where an honest rerun
alarms.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))


class Fault(NamedTuple):
    what: str
    file: str
    right: str  # stands once in the file
    wrong: str


TRAINER = "pipeline/trainer.py"
FAULTS = (
    Fault(
        "KL weighted 1.05", "variants/closed_forms.py", "clamp(min=floor).sum()", "clamp(min=floor).sum() * 1.05"
    ),
    Fault(
        "learning rate x 3", TRAINER, "        self.name, self.optimizer = name, optimizer\n",
        "        self.name, self.optimizer = name, optimizer\n"
        "        for group in optimizer.param_groups:\n            group['lr'] *= 3\n",
    ),
    Fault(
        "first encoder layer frozen", TRAINER, "    state = _State(variant,",
        "    players[0].weights = players[0].weights[2:]  # without gradients, its optimiser leaves them\n"
        "    state = _State(variant,",
    ),
    Fault(
        "shuffling off", TRAINER, "torch.randperm(len(data.train), generator=state.order)",
        "torch.arange(len(data.train))",
    ),
    Fault(
        "last partial batch dropped", TRAINER, "            batch = data.batch(data.train, index, state.noise)\n",
        "            if len(index) < variant.config.batch:\n                continue\n"
        "            batch = data.batch(data.train, index, state.noise)\n",
    ),
    Fault(
        "20% sleep in the step", TRAINER, "            step += 1\n",
        "            step += 1\n            time.sleep(0.2 * (time.perf_counter() - began))\n",
    ),
)  # fmt: skip
BEGAN = ("            batch = data.batch(", "            began = time.perf_counter()\n            batch = data.batch(")


def copy(folder: Path) -> Path:
    for part in ("variants", "studies", "pipeline"):
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def plant(root: Path, fault: Fault) -> None:
    path = root / fault.file
    text = path.read_text(encoding="utf-8")
    assert text.count(fault.right) == 1, f"{fault.what}: {fault.right!r} stands {text.count(fault.right)} times"
    if "began" in fault.wrong:
        text = text.replace(*BEGAN)
    path.write_text(text.replace(fault.right, fault.wrong), encoding="utf-8")


def rerun(root: Path, where: Path, *words: str) -> int:
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    line = [sys.executable, "-m", "pipeline.benchmark", "smoke", *words]
    return subprocess.run(line, cwd=where, env=environment, stdout=subprocess.DEVNULL, check=False).returncode


def row(what: str, code: int) -> None:
    """The newest whole rerun, in a line of the table."""
    from pipeline.benchmark import history, rerun
    from pipeline.tracker import Tracker

    reruns = history.read(Tracker(rerun.experiment("smoke")), "smoke")
    last = [r for r in reruns if not r.confirms][-1]
    bad = [f"{s}: {w}" for s, w in sorted(last.verdicts.items()) if w not in ("better", "no history")]
    again = "yes" if any(r.confirms == last.id for r in reruns) else "no"
    line = [what, last.tags["verdict"], str(code), again, "; ".join(bad) or "-", json.dumps(last.tags["rerun"])]
    print(f"| {' | '.join(line)} |", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--baseline", type=int, default=8)
    parser.add_argument("--honest", type=int, default=10)
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    os.chdir(arguments.folder)
    from pipeline.benchmark import history
    from pipeline.benchmark import rerun as reruns
    from pipeline.tracker import Tracker

    alarms = 0
    print("| rerun | verdict | exit code | repeated | series | id |\n|---|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        honest = copy(Path(scratch) / "honest")

        def known() -> int:
            found = history.read(Tracker(reruns.experiment("smoke")), "smoke")
            return sum(1 for r in found if not (r.confirms or r.aside))

        for number in range(known(), arguments.baseline + arguments.honest):
            code = rerun(honest, Path(), "--workers", "2")
            alarms += code != 0
            row(f"honest {number + 1}", code)
            if number + 1 == arguments.baseline:
                rerun(honest, Path(), "--pin", "first")
        rerun(honest, Path(), "--pin", "all")
        for fault in FAULTS:
            faulty = copy(Path(scratch) / fault.what.replace(" ", "-"))
            plant(faulty, fault)
            row(fault.what, rerun(faulty, Path(), "--workers", "2", "--aside"))
    return 1 if alarms else 0


if __name__ == "__main__":
    sys.exit(main())
