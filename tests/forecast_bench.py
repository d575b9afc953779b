"""Train variants on series whose best forecast is known, and compare their forecasts with simple methods.

    python -m tests.forecast_bench --seconds 60 vae:network=tcn vae:network=gru vrae

There are 200 training series of each kind: a noisy sine with drift, a random walk, which nothing forecasts better than
its last value, and windows of 96 steps of hourly values with a season of 24 steps. For each kind it prints the table of
root mean square errors by horizon, the share of the values in the central 80% intervals, and the remark.
"""

import argparse
import sys
import time

import numpy as np
import torch

import variants
from pipeline import cli, machine, trainer
from pipeline.data import Source, load
from pipeline.evaluate import forecasts
from pipeline.metrics import Undefined
from pipeline.study import space

SERIES = 250  # of which 200 are for training
FALL = 0.3  # the share of the seconds over which the learning rate falls


def series(kind: str, rng: np.random.Generator) -> np.ndarray:
    """Return series of a kind, (N, T)."""
    if kind == "noisy sine with drift":
        t = np.arange(140)
        phase, drift = rng.uniform(0, 2 * np.pi, (SERIES, 1)), rng.normal(0.02, 0.005, (SERIES, 1))
        return np.sin(2 * np.pi * t / 20 + phase) + drift * t + 0.2 * rng.normal(size=(SERIES, 140))
    if kind == "random walk":
        return rng.normal(size=(SERIES, 100)).cumsum(axis=1)
    hour = (np.arange(96) + rng.integers(0, 24, (SERIES, 1))) % 24
    level, size = rng.normal(100, 10, (SERIES, 1)), rng.uniform(10, 30, (SERIES, 1))
    day = np.exp(-((hour - 8) ** 2) / 8) + 0.7 * np.exp(-((hour - 19) ** 2) / 6)
    return level + size * day + 2 * rng.normal(size=(SERIES, 96))


KINDS = ("noisy sine with drift", "random walk", "daily windows")


def contend(contender: str, kind: str, seconds: float, seed: int) -> None:
    """Train one contender on series of a kind, and print its forecasts."""
    data = load(Source(place=kind.replace(" ", "-")), [*series(kind, np.random.default_rng(seed))[..., None]])
    name, _, assignments = contender.partition(":")
    config_type = variants.get(name).config_type
    fixed = space.parse_fixed([part for part in assignments.split(",") if part], config_type)
    torch.manual_seed(seed)
    variant = variants.build(name, config_type(**fixed).for_data(data.spec), data.spec)  # type: ignore[arg-type]
    begin = time.perf_counter()

    def rate(epoch: int, epochs: int) -> float:
        return min(1.0, max(0.02, (1 - (time.perf_counter() - begin) / seconds) / FALL))

    best, kept, number = float("-inf"), dict[str, torch.Tensor](), 0
    for epoch in trainer.train(variant, data, epochs=sys.maxsize, seed=seed, lr_schedule=rate):
        if epoch.metrics["valid/elbo"] > best:
            best, number = epoch.metrics["valid/elbo"], epoch.number
            kept = {key: value.clone() for key, value in variant.state_dict().items()}
        if time.perf_counter() - begin > seconds:
            break
    variant.load_state_dict(kept)
    trained, begin = time.perf_counter() - begin, time.perf_counter()
    with torch.no_grad():
        found = forecasts.forecast(variant.eval(), data, data.test)
    assert not isinstance(found, Undefined)
    print(
        f"\n{contender} on {kind}: {len(data.train)} training series of {data.spec.steps} steps, {trained:.0f} s of "
        f"training (best epoch {number}, ELBO {best:.1f}), {time.perf_counter() - begin:.0f} s for {len(found.known)} "
        "forecasts"
    )
    table = found.table()
    errors = dict(zip(zip(table["method"], table["horizon"], strict=True), table["rmse"], strict=True))
    horizons = ["all", *found.horizons]
    print("  root mean square error" + "".join(f"{horizon:>9}" for horizon in horizons))
    for method in found.methods:
        print(f"  {method:22}" + "".join(f"{errors[method, horizon]:9.3f}" for horizon in horizons))
    scores = found.scores()
    print("  " + ", ".join(f"{name} {scores[name]}" for name in ("mase", "coverage", "crps")))
    print(f"  {found.remark()}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("contenders", nargs="+", metavar="VARIANT[:NAME=VALUE,...]")
    parser.add_argument("--kind", action="append", choices=KINDS, help="a kind of series; may be repeated (all)")
    parser.add_argument("--seconds", type=cli.positive, default=60, help="of training (60)")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    machine.prepare(1)
    for kind in arguments.kind or KINDS:
        for contender in arguments.contenders:
            contend(contender, kind, arguments.seconds, arguments.seed)


if __name__ == "__main__":
    main()
