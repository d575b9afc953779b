"""Bounds and anomaly scores on a simulated table of payments with several kinds of values, missing ones, and frauds.

    uv run python tests/fraud.py [--seeds 3] [--epochs 60]

4,000 payments have an amount, an age of which a tenth is missing, an hour, a merchant, a country, a count of previous
payments and a flag; 2% of them are frauds. For each seed, 3,200 rows train the variants without labels, and 800 are
held out. The amount is once read as a real value, and once, as the description proposes, as a positive one.

The lines show the parts of the ELBO in nats per row, in the units of the model; the ELBO, and log p(x) of simple
baselines, in the units of the table; and the areas under the ROC curve and under the precision-recall curve of anomaly
scores, compared with an isolation forest. Each number is the mean and the standard deviation over seeds.
"""

import statistics
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import pandas as pd
import torch

import variants
from pipeline import cli, machine, trainer
from pipeline.data import Data, Kind, Source, load
from pipeline.evaluate import anomaly, baselines, likelihood
from pipeline.metrics import Undefined, defined
from variants import Batch

NAMES = ("vae", "aae", "hvae")
SETTINGS: dict[str, Any] = {"latent": 4, "width": 128}


def payments() -> pd.DataFrame:
    rng, n = np.random.default_rng(0), 4000
    y = (rng.random(n) < 0.02).astype(int)
    table = pd.DataFrame({
        "amount": np.exp(rng.normal(3 + y, 1.2)), "age": rng.normal(45, 15, n).clip(18, 90).round(),
        "hour": rng.integers(0, 24, n),
        "merchant": rng.choice(["food", "travel", "shop", "online", "fuel"], n, p=[0.4, 0.1, 0.2, 0.25, 0.05]),
        "country": np.where(y, rng.choice(["US", "NG"], n), rng.choice(["CH", "DE", "FR", "US", "NG"], n)),
        "previous": rng.poisson(3 + 4 * y), "new": rng.integers(0, 2, n), "label": np.where(y, "fraud", "ok"),
    })  # fmt: skip
    table.loc[rng.random(n) < 0.1, "age"] = np.nan
    return table


def split(kinds: tuple[tuple[str, Kind], ...], seed: int) -> Data:
    """Return the table with four fifths of its rows for training, and the others as the test split."""
    data = load(Source(place="payments", label="label", kinds=kinds, split_seed=seed), payments())
    return replace(data, test=Batch.cat([data.valid, data.test]))


def scores(name: str, data: Data, epochs: int, seed: int) -> dict[str, float]:
    """Train a variant, and return its scores on the test split."""
    torch.manual_seed(seed)
    variant = variants.build(name, variants.get(name).config_type(**SETTINGS), data.spec)
    trainer.fit(variant, data, epochs=epochs, seed=seed)
    totals = trainer.score(variant, data, data.test, seed=0)
    parts = likelihood.by_kind(variant, data, data.test)
    values = {f"-log p(x|z), {kind} values": float(part.mean()) for kind, part in parts.items()}
    jacobian = float(data.preprocessing.log_jacobian(data.test).mean())
    if "kl" in totals.sums:
        values["KL"] = float(totals.sums["kl"]) / totals.count
        values["ELBO"] = jacobian - float(totals.sums["reconstruction"]) / totals.count - values["KL"]
    for model, log_p in baselines.log_p(data, data.test).items():
        if not isinstance(log_p, Undefined):
            values[f"log p(x), {model}"] = float(log_p.mean()) + jacobian
    found = defined(anomaly.detect(variant, data))
    areas = {name: area.value for name, area in found.areas().items()}
    return values | {"share of anomalies": found.share} | areas


def main(words: list[str]) -> int:
    parser = cli.parser("fraud", str(__doc__), "--threads")
    parser.prog = "python tests/fraud.py"
    parser.add_argument("--seeds", type=cli.positive, default=3, metavar="N", help="number of seeds, from 0 (3)")
    parser.add_argument("--epochs", type=cli.positive, default=60, metavar="N", help="epochs of each training (60)")
    options = parser.parse_args(words)
    machine.prepare(options.threads)
    seeds = range(options.seeds)
    kinds: tuple[Kind, ...] = ("real", "positive")
    for kind in kinds:
        print(f"\namount as a {kind} value, {options.epochs} epochs, seeds {seeds[0]} to {seeds[-1]}")
        for name in NAMES:
            of_seeds = [scores(name, split((("amount", kind),), seed), options.epochs, seed) for seed in seeds]
            print(name)
            for score in of_seeds[0]:
                values = [each[score] for each in of_seeds]
                spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
                print(f"    {score:<36} {statistics.fmean(values):8.3f}{spread}", flush=True)
    return 0


if __name__ == "__main__":
    cli.run(main)
