"""How the scale of a Gaussian likelihood is best learned: the ELBO after a fixed number of epochs, for several ways.

    uv run python tests/scales.py [--seeds 2] [--images]

On scikit-learn's breast cancer table (569 rows, 30 columns), or with --images on crops of 16x16 pixels of its two
colour photographs, a `vae` is trained with several learning rates of the networks, and with its scales in each of
these ways:

    one             one scale for all values, learned at the learning rate of the networks
    one, 0.02       one scale for all values, learned at this rate of its own
    networks'       a scale for each column or channel, learned at the learning rate of the networks
    0.005 ... 0.1   a scale for each column or channel, learned at this rate of its own
    batch           the mean squared error of each batch, through which gradients flow (Rybkin et al. 2021); validation
                    uses its running average
    detached        the same without gradients through the scale

Each line shows the ELBO of the validation split in nats per example, as the mean over seeds: first of the trained
model, and then after its scales were set to the root mean squared errors of the training split. The difference shows
how far the scales were from their best values.
"""

import statistics
import sys
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from sklearn.datasets import load_breast_cancer, load_sample_images
from torch import Tensor

from pipeline import cli, machine, trainer
from pipeline.data import Data, Source, load
from variants import Config
from variants.base import abstract, closed_forms
from variants.base.likelihoods import Gaussian
from variants.vae import VAE

RATES = (0.005, 0.01, 0.02, 0.05, 0.1)
LEARNING_RATES = (3e-4, 1e-3, 3e-3)
CROPS, SIDE = 2000, 16


class BatchScale(Gaussian):
    """Real values, whose variance is the mean squared error of the batch; in validation, its running average."""

    variance: Tensor

    def __init__(self, shape: tuple[int, ...], is_detached: bool) -> None:
        super().__init__(torch.ones(shape))
        self.is_detached = is_detached
        self.register_buffer("variance", torch.ones(shape))

    def nll(self, x: Tensor, output: Tensor) -> Tensor:
        if not self.training:
            return -closed_forms.log_normal(x, output, self.variance.log())
        variance = mean_square(x - output.detach() if self.is_detached else x - output).clamp(min=1e-6)
        self.variance.lerp_(variance.detach(), 0.1)
        return -closed_forms.log_normal(x, output, variance.log())


def mean_square(error: Tensor) -> Tensor:
    """Return the mean square of each column, (D,), or of each channel of images, (C, 1, 1)."""
    return error.square().mean(0) if error.ndim == 2 else error.square().mean((0, 2, 3)).view(-1, 1, 1)


def table() -> Data:
    source = Source(place="breast-cancer", likelihood="gaussian")
    return load(source, load_breast_cancer().data)


def crops() -> Data:
    """Return crops of two photographs, (N, 3, 16, 16), as real values."""
    rng = np.random.default_rng(0)
    images = load_sample_images().images
    pieces = []
    for _ in range(CROPS):
        image = images[rng.integers(len(images))]
        top, left = (rng.integers(size - SIDE) for size in image.shape[:2])
        pieces.append(image[top : top + SIDE, left : left + SIDE] + rng.random((SIDE, SIDE, 3)))
    return load(Source(place="crops", likelihood="gaussian"), np.stack(pieces).astype(np.float32))


def bound(variant: VAE, data: Data) -> float:
    totals = trainer.score(variant, data, data.valid, seed=0)
    return -float(totals.sums["reconstruction"] + totals.sums["kl"]) / totals.count


def refit(variant: VAE, data: Data) -> None:
    """Set the scales to the roots of the mean squared errors of the training split."""
    with torch.no_grad(), machine.seeded(variant.device, 0):
        errors = torch.cat([b.x - variant.decode(variant.sample_posterior(b)[0]) for b in data.batches(data.train)])
        square = mean_square(errors)
    shape = square.shape
    variant.observation.families[0] = Gaussian(torch.ones(shape))
    with torch.no_grad():
        variant.observation.families[0].log_scale.copy_(square.log() / 2)  # type: ignore[operator]


def trained(data: Data, way: str, lr: float, width: int, epochs: int, seed: int) -> VAE:
    torch.manual_seed(seed)
    variant = VAE(Config(latent=10, width=width, lr=lr), data.spec)
    families = variant.observation.families
    shape = tuple(families[0].log_scale.shape)  # type: ignore[arg-type]
    if way.startswith("one"):
        families[0] = Gaussian(torch.ones((1,) * len(shape)))
    elif way in ("batch", "detached"):
        families[0] = BatchScale(shape, way == "detached")
    own = float(way.split()[-1]) if way[-1].isdigit() else lr
    with mock.patch.object(abstract, "SCALE_LR", own):
        trainer.fit(variant, data, epochs=epochs, seed=seed)
    variant.eval()
    return variant


def main(words: list[str]) -> int:
    parser = cli.parser("scales", str(__doc__), "--threads")
    parser.prog = "python tests/scales.py"
    parser.add_argument("--seeds", type=cli.positive, default=2, metavar="N", help="number of seeds, from 0 (2)")
    parser.add_argument("--epochs", type=cli.positive, metavar="N", help="epochs of each training (100; images 30)")
    parser.add_argument("--images", action="store_true", help="train on crops of colour photographs")
    options = parser.parse_args(words)
    machine.prepare(options.threads)
    data, width = (crops(), 256) if options.images else (table(), 128)
    epochs = options.epochs or (30 if options.images else 100)
    seeds = range(options.seeds)
    print(f"{data.spec.name}, {epochs} epochs, {len(seeds)} seeds: validation ELBO as trained -> with scales refitted")
    print(f"{'':<10}" + "".join(f"{'lr ' + format(lr, 'g'):>22}" for lr in LEARNING_RATES))
    for way in ("one", "one, 0.02", "networks'", *map(str, RATES), "batch", "detached"):
        cells = []
        for lr in LEARNING_RATES:
            variants = [trained(data, way, lr, width, epochs, seed) for seed in seeds]
            before = statistics.fmean(bound(variant, data) for variant in variants)
            for variant in variants:
                refit(variant, data)
            after = statistics.fmean(bound(variant, data) for variant in variants)
            cells.append(f"{before:10.2f} -> {after:8.2f}")
        print(f"{way:<10}" + "".join(f"{cell:>22}" for cell in cells), flush=True)
    return 0


if __name__ == "__main__":
    cli.run(main)
