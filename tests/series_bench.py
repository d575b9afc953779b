"""Compare the networks of long series by their speed, and by their ELBO after equal seconds.

    python -m tests.series_bench                  an epoch of 200 series x 2,000 steps x 6 channels, tcn against gru
    python -m tests.series_bench --seconds 300    also the validation ELBO after so many seconds of training
    python -m tests.series_bench --device cuda    on a GPU
    python -m tests.series_bench --rows           an epoch of vrae on the pixel rows of MNIST

Both networks have as many weights, up to 3%. Each epoch is timed after a first one that is not counted.
"""

import argparse
import sys
import time
from itertools import islice

import numpy as np
import torch

import variants
from pipeline import cli, machine, trainer
from pipeline.data import Data, Source, load
from variants import Variant

SERIES, STEPS, CHANNELS = 250, 2000, 6  # a tenth is for validation, and a tenth for test


def waves() -> Data:
    """Return series of six channels that are mixtures of three waves with a drift, and noise."""
    rng = np.random.default_rng(0)
    t = np.arange(STEPS)
    periods = rng.uniform(20, 400, (SERIES, 3, 1))
    waves = np.sin(2 * np.pi * (t / periods + rng.random((SERIES, 3, 1)))) * rng.uniform(0.5, 1.5, (SERIES, 3, 1))
    mixing = rng.normal(size=(3, CHANNELS))
    drift = np.cumsum(rng.normal(0, 0.02, (SERIES, STEPS, CHANNELS)), axis=1)
    x = np.einsum("nkt,kc->ntc", waves, mixing) + drift + rng.normal(0, 0.3, drift.shape)
    return load(Source(place="waves"), list(x.astype(np.float32)))


def build(data: Data, network: str, width: int) -> Variant:
    torch.manual_seed(0)
    config = variants.get("vae").config_type(latent=32, width=width, network=network, batch=32, lr=1e-3, clip=5.0)
    return variants.build("vae", config, data.spec)


def weights(variant: Variant) -> int:
    return sum(parameter.numel() for parameter in variant.parameters())


def as_many_weights(data: Data, network: str, wanted: int) -> Variant:
    """Return the model whose number of weights is nearest to `wanted`."""
    models = (build(data, network, width) for width in range(8, 400, 2))
    return min(models, key=lambda model: abs(weights(model) - wanted))


def seconds_of_an_epoch(variant: Variant, data: Data, epochs: int = 2) -> float:
    """Return the shortest training time of several epochs, without the validation."""
    trained = islice(trainer.train(variant, data, epochs=epochs + 1, seed=0), epochs + 1)
    return min([epoch.metrics["time/train_seconds"] for epoch in trained][1:])


def elbo_after(variant: Variant, data: Data, seconds: float) -> tuple[float, int]:
    """Return the best validation ELBO after so many seconds of training, in nats, and the number of epochs."""
    best, begin = float("-inf"), time.perf_counter()
    for epoch in trainer.train(variant, data, epochs=sys.maxsize, seed=0):
        best = max(best, epoch.metrics["valid/elbo"])
        if time.perf_counter() - begin > seconds:
            break
    return best, epoch.number


def main(words: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seconds", type=cli.seconds, metavar="SECONDS", help="also compare the ELBO after so long")
    parser.add_argument("--width", type=cli.positive, default=64, help="channels of the convolutions (64)")
    parser.add_argument("--rows", action="store_true", help="time vrae on the pixel rows of MNIST instead")
    parser.add_argument("--device", **cli.OPTIONS["--device"])
    parser.add_argument("--threads", **cli.OPTIONS["--threads"])
    arguments = parser.parse_args(words)
    machine.prepare(arguments.threads)
    device = machine.device(arguments.device)
    if arguments.rows:
        data = load("mnist-rows").to(device)
        config = variants.get("vrae").config_type()
        taken = seconds_of_an_epoch(variants.build("vrae", config, data.spec), data, epochs=1)
        print(f"vrae: {taken:.1f} s for an epoch of {len(data.train):,} images of {data.spec.steps} rows")
        return 0
    data = waves().to(device)
    convolutions = build(data, "tcn", arguments.width)
    models = {"tcn": convolutions, "gru": as_many_weights(data, "gru", weights(convolutions))}
    times = {}
    for name, model in models.items():
        times[name] = seconds_of_an_epoch(model, data)
        size = f"{weights(model):,} weights, width {model.config.width}"
        print(f"{name}: {times[name]:.2f} s for an epoch of {len(data.train)} series ({size})", flush=True)
    print(f"tcn is {times['gru'] / times['tcn']:.1f} times as fast as gru")
    if arguments.seconds:
        for name, model in models.items():
            elbo, epochs = elbo_after(build(data, name, model.config.width), data, arguments.seconds)
            print(
                f"{name}: validation ELBO {elbo:.0f} nats after {epochs} epochs in {arguments.seconds:g} s", flush=True
            )
    return 0


if __name__ == "__main__":
    cli.run(main)
