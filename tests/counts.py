"""Compares a VAE for counts with other models of the same counts, on simulated cells.

    uv run python tests/counts.py [--seeds 3] [--epochs 200] [--scvi PYTHON]

1,000 cells of six kinds have over-dispersed counts of 200 genes. For each seed, 800 cells train the models, and 200 are
held out. The variant `vae` has a negative binomial likelihood with the sum of a cell as its exposure. It is compared
with:

    vae with other likelihoods of counts
    vae, gaussian              of standardised counts, whose bound is converted to a density in the units of counts
    scvi-tools                 with --scvi: the same latent size, width, batch size and epochs; it runs with a Python of
                               its own, once as it is, and once without its dropout and its warm-up of the KL ("plain")
    independent, multinomial   the simple baselines of pipeline.evaluate.baselines
    truth                      the distribution that the cells were drawn from, with and without their kinds
    10 principal components    of log-normalised counts

The probe is a logistic regression of the kind of a cell on the codes.

Bounds are in nats per cell. Each line shows the mean over seeds and the standard deviation between them.
"""

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import logsumexp
from scipy.stats import nbinom
from sklearn.decomposition import PCA

import variants
from pipeline import cli, machine, trainer
from pipeline.data import Data, Source, load
from pipeline.evaluate import baselines, codes, probe
from variants import Batch, Config, Variant
from variants.base.contract import Likelihood

LATENT, WIDTH, BATCH, LR = 10, 128, 128, 1e-3
LIKELIHOODS: tuple[Likelihood, ...] = ("negative-binomial", "zero-inflated", "poisson", "gaussian")
DRAWS = 20  # of z, over which the bound of each cell is averaged
Array = NDArray[Any]


FREQUENCIES = (0.35, 0.25, 0.2, 0.1, 0.07, 0.03)  # of the kinds of cells
DROPPED = 0.3  # the share of the counts that are set to 0


def cells() -> tuple[Array, Array, Array]:
    """Return the counts (1000, 200) and the kinds (1000,) of simulated cells, and the shares of genes by kind (6, 200).

    The mean sum of a cell is some 3,000.
    """
    rng = np.random.default_rng(0)
    kind = rng.choice(6, 1000, p=FREQUENCIES)
    share = np.exp(rng.normal(size=(6, 200)) * (rng.random((6, 200)) < 0.15)) * rng.gamma(0.3, 1.0, 200)
    share = share / share.sum(1, keepdims=True)
    x = rng.poisson(rng.gamma(1.0, share[kind] * np.exp(rng.normal(8, 0.5, 1000))[:, None]))
    x[rng.random(x.shape) < DROPPED] = 0
    return x, kind, share


def _data(x: Array, kind: Array, likelihood: Likelihood, seed: int) -> Data:
    """Return the cells, of which 800 are the training split and all others the test split."""
    source = Source(place="cells", likelihood=likelihood, split_seed=seed)
    data = load(source, {"x": x, "y": kind})
    return replace(data, test=Batch.cat([data.valid, data.test]))


def held_out_bound(variant: Variant, data: Data) -> float:
    """Return the ELBO of the test split in the units of counts, in nats per cell."""
    jacobian = float(data.preprocessing.log_jacobian(data.test).mean())
    bounds = []
    for draw in range(DRAWS):
        totals = trainer.score(variant, data, data.test, seed=draw)
        bounds.append(-float(totals.sums["reconstruction"] + totals.sums["kl"]) / totals.count)
    return statistics.fmean(bounds) + jacobian


def of_variant(data: Data, epochs: int, seed: int) -> tuple[Variant, dict[str, float]]:
    """Train a VAE. Returns it with its scores."""
    torch.manual_seed(seed)
    variant = variants.build("vae", Config(latent=LATENT, width=WIDTH, lr=LR, batch=BATCH), data.spec)
    begin = time.perf_counter()
    trainer.fit(variant, data, epochs=epochs, seed=seed)
    seconds = time.perf_counter() - begin
    train, test = (codes.encode_split(variant, data, split) for split in (data.train, data.test))
    return variant, {"bound": held_out_bound(variant, data), **_probe(train, test, data), "seconds": seconds}


def of_scvi(python: str, data: Data, epochs: int, seed: int, plain: bool) -> dict[str, float]:
    """Train scvi-tools on the same cells in a process of its own. Returns its scores."""
    n = len(data.train)
    x = torch.cat([data.train.x, data.test.x]).numpy()
    with tempfile.TemporaryDirectory() as folder:
        given, result = Path(folder) / "cells.npz", Path(folder) / "result.npz"
        np.savez(
            given, x=x, train=np.arange(n), test=np.arange(n, len(x)), epochs=epochs, width=WIDTH, latent=LATENT,
            seed=seed, plain=plain,
        )  # fmt: skip
        script = Path(__file__).with_name("counts_scvi.py")
        subprocess.run([python, str(script), str(given), str(result)], check=True)
        with np.load(result) as scores:
            encoded = scores["codes"]
            bound, seconds = float(scores["elbo"].mean()), float(scores["seconds"])
    return {"bound": bound, **_probe(encoded[:n], encoded[n:], data), "seconds": seconds}


def of_truth(data: Data, share: Array) -> dict[str, dict[str, float]]:
    """Return log p of the test cells under the distribution they were drawn from, with and without the kinds.

    The sum of a cell before counts were set to 0 is estimated by its sum after that.
    """
    x = data.test.x.double().numpy()
    size = x.sum(1, keepdims=True) / (1 - DROPPED)

    def log_p(share: Array) -> Array:
        drawn = nbinom.logpmf(x, 1, 1 / (1 + share * size + 1e-12))
        return np.asarray(np.logaddexp(np.log(1 - DROPPED) + drawn, np.where(x == 0, np.log(DROPPED), -np.inf)).sum(1))

    known = logsumexp([np.log(p) + log_p(row) for p, row in zip(FREQUENCIES, share, strict=True)], axis=0)
    unknown = log_p(np.array(FREQUENCIES) @ share)
    return {"truth": {"bound": float(known.mean())}, "truth without kinds": {"bound": float(unknown.mean())}}


def of_components(data: Data) -> dict[str, float]:
    """Return the probe on the principal components of log-normalised counts."""
    size = float(data.train.x.sum(1).median())

    def normalised(batch: Batch) -> Array:
        return np.asarray((batch.x / batch.x.sum(1, keepdim=True).clamp(min=1) * size).log1p())

    components = PCA(LATENT, random_state=0).fit(normalised(data.train))
    train, test = (components.transform(normalised(split)) for split in (data.train, data.test))
    return _probe(train, test, data)


def _probe(train: Array, test: Array, data: Data) -> dict[str, float]:
    train_y, test_y = codes.labels_of(data.train), codes.labels_of(data.test)
    predicted = probe.predictions(train, train_y, test)
    return {
        "accuracy": float((predicted == test_y).mean()), "balanced accuracy": probe.balanced_accuracy(test_y, predicted)
    }  # fmt: skip


def print_samples(variant: Variant, data: Data) -> None:
    """Print whether samples are counts, and their shares of zeros and variances beside those of the cells."""
    with machine.seeded(variant.device, 0):
        sampled = np.concatenate([variant.sample(1000, noise=True).numpy() for _ in range(5)])
    real = data.train.x.numpy()
    whole = bool((sampled == sampled.round()).all() and (sampled >= 0).all())
    print(f"\nsamples of vae, {data.spec.likelihood}, are whole numbers from 0: {'yes' if whole else 'NO'}")
    print(f"share of zeros: {(real == 0).mean():.3f} in the cells, {(sampled == 0).mean():.3f} in samples")
    print("genes by their mean in the cells, in five groups of 40: median of mean and variance")
    for genes in np.array_split(real.mean(0).argsort(), 5):
        numbers = [float(np.median(f(x[:, genes], axis=0))) for x in (real, sampled) for f in (np.mean, np.var)]
        print("  cells {:9.2f} {:9.1f}    samples {:9.2f} {:9.1f}".format(*numbers))


def main(words: list[str]) -> int:
    parser = cli.parser("counts", str(__doc__), "--threads")
    parser.prog = "python tests/counts.py"
    parser.add_argument("--seeds", type=cli.positive, default=3, metavar="N", help="number of seeds, from 0 (3)")
    parser.add_argument("--epochs", type=cli.positive, default=200, metavar="N", help="epochs of each training (200)")
    parser.add_argument("--scvi", metavar="PYTHON", help="the Python of an environment that has scvi-tools")
    options = parser.parse_args(words)
    machine.prepare(options.threads)
    x, kind, share = cells()
    share = share[:, (x != x[0]).any(0)]  # genes of which all counts are equal are left out
    results: dict[str, list[Mapping[str, float]]] = {}
    trained: dict[Likelihood, tuple[Variant, Data]] = {}  # of the last seed
    for seed in range(options.seeds):
        by_name: dict[str, dict[str, float]] = {}
        for likelihood in LIKELIHOODS:
            data = _data(x, kind, likelihood, seed)
            variant, by_name[f"vae, {likelihood}"] = of_variant(data, options.epochs, seed)
            trained[likelihood] = variant, data
        data = trained["negative-binomial"][1]
        trivial = baselines.means(baselines.log_p(data, data.test))
        by_name |= {name: {"bound": bound} for name, bound in trivial.items()}
        by_name |= of_truth(data, share)
        by_name["10 principal components"] = of_components(data)
        if options.scvi:
            for name, plain in (("scvi-tools", False), ("scvi-tools, plain", True)):
                by_name[name] = of_scvi(options.scvi, data, options.epochs, seed, plain)
        for name, scores in by_name.items():
            results.setdefault(name, []).append(scores)
            print(f"seed {seed}  {name:<24}", "  ".join(f"{k} {v:.3f}" for k, v in scores.items()), flush=True)
    print(f"\nmean ± standard deviation of {options.seeds} seeds, {options.epochs} epochs, 200 held-out cells")
    for name, of_seeds in results.items():
        columns = {key: [scores[key] for scores in of_seeds] for key in of_seeds[0]}
        print(f"{name:<24}", "  ".join(f"{key} {_mean_and_spread(v)}" for key, v in columns.items()))
    for counted in ("negative-binomial", "zero-inflated"):
        print_samples(*trained[counted])
    return 0


def _mean_and_spread(values: list[float]) -> str:
    spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.3f}{spread}"


if __name__ == "__main__":
    cli.run(main)
