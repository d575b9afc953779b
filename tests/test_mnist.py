"""Known results on MNIST, from real trainings. Slow: each takes a minute or two on two cores."""

from pathlib import Path

import pytest
import torch
from speed import tutorial_data

import variants
from pipeline import data, machine
from pipeline.trainer import train
from variants import Config
from variants.vae import VAE

pytestmark = pytest.mark.slow


def test_the_tutorials_losses(mnist_folder: Path) -> None:
    """784-400-20, batch 128, Adam 1e-3, grey pixels: 164.4 after epoch 1 and 106.3 after epoch 10 are published."""
    machine.prepare()
    grey = tutorial_data()
    torch.manual_seed(1)
    variant = VAE(Config(latent=20, width=400, depth=1, lr=1e-3, batch=128), grey.spec)
    losses = [e.metrics["train/loss"] for e in train(variant, grey, epochs=10, seed=1)]
    assert losses[0] == pytest.approx(164.4, abs=2)
    assert losses[9] == pytest.approx(106.3, abs=0.5)


def test_beta_trades_reconstruction_for_kl(mnist_folder: Path) -> None:
    machine.prepare()
    mnist = data.load("mnist")
    cls = variants.get("beta")
    scores = []
    for beta in (0.5, 1.0, 4.0, 16.0):
        torch.manual_seed(0)
        variant = cls(cls.config_type(latent=20, width=400, beta=beta), mnist.spec)  # type: ignore[call-arg]
        *_, last = train(variant, mnist, epochs=5, seed=0)
        scores.append((last.metrics["valid/kl"], last.metrics["valid/reconstruction"], last.metrics["valid/elbo"]))
        print(
            f"beta {beta:>4}: KL {scores[-1][0]:6.2f}  reconstruction {scores[-1][1]:7.2f}  ELBO {scores[-1][2]:8.2f}"
        )
    kls, reconstructions, elbos = zip(*scores, strict=True)
    assert list(kls) == sorted(kls, reverse=True)
    assert list(reconstructions) == sorted(reconstructions)
    assert max(elbos) == elbos[1]  # the ELBO is the training objective at beta = 1


@pytest.mark.parametrize(("network", "depth"), [("conv", 1), ("mlp", 2), ("resnet", 1)])
def test_no_network_collapses(mnist_folder: Path, network: str, depth: int) -> None:
    """One epoch is enough to learn digits. The ELBO of a collapsed code stays at -206."""
    machine.prepare()
    mnist = data.load("mnist")
    torch.manual_seed(0)
    variant = VAE(Config(latent=16, lr=2e-3, network=network, depth=depth), mnist.spec)
    (epoch,) = train(variant, mnist, epochs=1, seed=0)
    assert epoch.metrics["valid/elbo"] > -150
    assert epoch.metrics["valid/kl"] > 10
