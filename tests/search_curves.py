"""Train random configurations to the end, and keep their learning curves for `tests.search_bench`.

    python -m tests.search_curves --workers 2

It takes about half an hour on two cores. What has been trained is kept in a folder, so a run that was interrupted
continues. At the end, everything is written to `tests/search_curves.npz`.

Each table has one row for each training: its parameters, its seed, and after each epoch the validation ELBO and KL. Row
0 has the default configuration. The probe is measured after the epochs in `PROBED` only. No training stops early.
"""

import argparse
import json
import multiprocessing
import time
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch

import studies
import variants
from pipeline import data as datasets
from pipeline import machine, trainer
from pipeline.data import Data
from pipeline.evaluate import probe
from pipeline.evaluate.codes import encode_split, labels_of
from pipeline.study import space

FILE = Path(__file__).with_suffix(".npz")
PROBED = (1, 3, 6, 11, 17, 25, 33, 50, 70, 100)


@dataclass(frozen=True)
class Table:
    """What is trained for one table.

    The defaults and `repeated` of the configurations are trained with two further seeds. `examples` is the number of
    training examples that are used, and a fifth as many are used for validation; None uses all.
    """

    variant: str
    dataset: str
    configurations: int
    epochs: int
    repeated: int = 0
    examples: int | None = None

    @property
    def name(self) -> str:
        return f"{self.variant}-{self.dataset}"


TABLES = (
    Table("vae", "digits", 160, 100, repeated=10),
    Table("beta", "digits", 160, 100, repeated=10),
    Table("hvae", "digits", 160, 100, repeated=10),
    Table("vae", "fashion-mnist", 60, 40, repeated=0, examples=4000),
)


@dataclass(frozen=True)
class Training:
    """One row of a table: the parameters that the search would choose, and the seed."""

    table: Table
    row: int
    params: dict[str, Any]
    seed: int


def trainings(table: Table) -> list[Training]:
    """Return the trainings of a table: the defaults, random configurations, and some of them with further seeds."""
    search_space = studies.get(table.variant)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=zlib.crc32(table.name.encode())))
    drawn = []
    for _ in range(table.configurations):
        trial = study.ask()
        space.suggest(search_space, trial, {}, None)
        drawn.append(trial.params)
    defaults = variants.get(table.variant).config_type()
    first = {name: getattr(defaults, name) for name in drawn[0]}
    pairs = [(first, 0)] + [(params, i + 1) for i, params in enumerate(drawn)]
    pairs += [(params, 1000 * s + i) for s in (1, 2) for i, params in enumerate([first, *drawn[: table.repeated]])]
    return [Training(table, row, params, seed) for row, (params, seed) in enumerate(pairs)]


_loaded: dict[str, Data] = {}


def load(table: Table) -> Data:
    if table.name not in _loaded:
        data = datasets.load(table.dataset)
        if table.examples:
            data = replace(data, train=data.train[: table.examples], valid=data.valid[: table.examples // 5])
        _loaded[table.name] = data
    return _loaded[table.name]


def train(training: Training) -> tuple[Training, dict[str, list[float]]]:
    """Train one row. Return a value for each epoch, and of the probe for each epoch in `PROBED`."""
    table, data = training.table, load(training.table)
    config = variants.get(table.variant).config_type(**training.params)
    torch.manual_seed(training.seed)
    variant = variants.build(table.variant, config, data.spec)
    curves: dict[str, list[float]] = {"elbo": [], "kl": [], "probe": [], "seconds": []}
    try:
        for epoch in trainer.train(variant, data, epochs=table.epochs, seed=training.seed):
            curves["elbo"].append(round(epoch.metrics["valid/elbo"], 3))
            curves["kl"].append(round(epoch.metrics["valid/kl"], 3))
            curves["seconds"].append(epoch.metrics["time/train_seconds"] + epoch.metrics["time/valid_seconds"])
            if epoch.number in PROBED and table.dataset == "digits":
                part = probe.subset(data.train)
                codes = encode_split(variant, data, part), encode_split(variant, data, data.valid)
                score = probe.accuracy(codes[0], labels_of(part), codes[1], labels_of(data.valid))
                curves["probe"].append(round(score, 4))
    except trainer.Diverged:
        pass
    return training, curves


def _prepare() -> None:
    machine.prepare(1)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.search_curves", description=str(__doc__).splitlines()[0])
    parser.add_argument("--workers", type=int, default=2, help="number of simultaneous trainings (2)")
    parser.add_argument("--folder", type=Path, default=Path("search_curves"), help="where trained rows are kept")
    parser.add_argument("--table", action="append", help="only these tables")
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    arguments.folder.mkdir(exist_ok=True)
    for table in TABLES:
        if arguments.table and table.name not in arguments.table:
            continue
        rows = trainings(table)
        missing = [t for t in rows if not _path(arguments.folder, t).exists()]
        begin = time.monotonic()
        with multiprocessing.get_context("spawn").Pool(arguments.workers, _prepare) as pool:
            for n, (training, curves) in enumerate(pool.imap(train, missing), 1):
                _path(arguments.folder, training).write_text(json.dumps(curves))
                if n % 20 == 0 or n == len(missing):
                    seconds = time.monotonic() - begin
                    print(f"{table.name}: {n} of {len(missing)} trained in {seconds:.0f} s", flush=True)


def write(folder: Path) -> None:
    """Write all curves to `FILE`. What follows an epoch in which a training diverged is NaN."""
    arrays: dict[str, Any] = {}
    for table in TABLES:
        rows = [t for t in trainings(table) if _path(folder, t).exists()]
        curves = [json.loads(_path(folder, t).read_text()) for t in rows]
        for key, length in (("elbo", table.epochs), ("kl", table.epochs), ("probe", len(PROBED))):
            padded = [c[key] + [np.nan] * (length - len(c[key])) for c in curves]
            arrays[f"{table.name}/{key}"] = np.array(padded, dtype=np.float32)
        arrays[f"{table.name}/seconds"] = np.array([np.mean(c["seconds"]) for c in curves], dtype=np.float32)
        arrays[f"{table.name}/params"] = np.array([json.dumps(t.params) for t in rows])
        arrays[f"{table.name}/seed"] = np.array([t.seed for t in rows])
    np.savez_compressed(FILE, **arrays)


def _path(folder: Path, training: Training) -> Path:
    return folder / f"{training.table.name}-{training.row}.json"


if __name__ == "__main__":
    main()
