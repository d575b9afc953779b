"""A variant can be trained in stages, in each of which only some of its losses are minimised."""

import torch
from torch import Tensor, nn

from pipeline import data, trainer
from variants import Batch, Config, DataSpec, Terms
from variants.base import Adam, GaussianVariant, Stage


class Staged(GaussianVariant):
    """A VAE, and then a bias that is trained alone. For tests."""

    paper = "for tests"
    stages = (Stage(("loss",), 0.75), Stage(("second",), 0.25))

    def __init__(self, config: Config, spec: DataSpec) -> None:
        super().__init__(config, spec)
        self.bias = nn.Parameter(torch.zeros(()))

    def terms(self, batch: Batch, step: Tensor) -> Terms:
        bound = self.bound(batch)
        reconstruction = bound.reconstruction + (self.bias - 3).square().detach()
        loss = bound.reconstruction.mean() + bound.kl.sum(1).mean()
        return Terms(reconstruction, bound.kl.sum(1), {"loss": loss, "second": lambda: (self.bias - 3).square()})

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        first = [p for p in self.parameters() if p is not self.bias]
        return {"loss": Adam(first, lr=1e-2), "second": Adam([self.bias], lr=0.1)}


def built() -> tuple[Staged, data.Data]:
    loaded = data.load("digits")
    torch.manual_seed(0)
    return Staged(Config(latent=2, width=8, batch=500), loaded.spec), loaded


def test_each_stage_trains_its_own_weights_for_its_share_of_the_epochs() -> None:
    variant, loaded = built()
    seen = []
    for epoch in trainer.train(variant, loaded, epochs=8, seed=0, lr_schedule=lambda n, of: {6: 1.0, 2: 0.5}[of]):
        seen.append((float(variant.bias.detach()), variant.decoder.net[0].weight.detach().sum().item()))  # type: ignore[index,union-attr]
        assert ("train/loss" in epoch.metrics) == (epoch.number <= 6)
        assert ("train/loss_second" in epoch.metrics) == (epoch.number > 6)
    assert [bias for bias, _ in seen[:6]] == [0.0] * 6
    assert 0 < seen[6][0] < seen[7][0]
    assert len({weight for _, weight in seen[:6]}) == 6
    assert seen[5][1] == seen[6][1] == seen[7][1]


def test_an_early_end_of_a_stage_restores_its_best_weights_and_goes_on_to_the_next() -> None:
    variant, loaded = built()
    epochs = list(trainer.train(variant, loaded, epochs=400, seed=0, patience=3, lr_schedule=lambda n, of: 30.0))
    second = [e.number for e in epochs if "train/loss_second" in e.metrics]
    assert len(second) > 3
    first = second[0] - 1
    assert first < 300
    best = max(epochs[:first], key=lambda e: e.metrics["valid/elbo"])
    assert best.number <= first - 3
    kept = epochs[first].metrics["valid/kl"]
    assert kept == best.metrics["valid/kl"]


def test_an_interrupted_stage_goes_on_where_it_stopped() -> None:
    whole, loaded = built()
    for _ in trainer.train(whole, loaded, epochs=8, seed=0, patience=20):
        pass
    for stop in (3, 6, 7):
        part, _ = built()
        for epoch in trainer.train(part, loaded, epochs=8, seed=0, patience=20):
            if epoch.number == stop:
                break
        saved = epoch.snapshot()
        resumed, _ = built()
        for _ in trainer.train(resumed, loaded, epochs=8, seed=0, patience=20, resume=saved):
            pass
        assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))


def test_every_stage_has_an_epoch_if_there_are_enough() -> None:
    stages = (Stage(("a",), 0.9), Stage(("b",), 0.05), Stage(("c",), 0.05))
    lengths = {epochs: trainer._lengths(stages, epochs) for epochs in (1, 2, 3, 10, 100)}
    assert all(sum(each) == epochs for epochs, each in lengths.items())
    assert lengths[3] == [1, 1, 1]
    assert lengths[100] == [90, 5, 5]
    assert min(lengths[10]) == 1
    assert lengths[1] == [1, 0, 0]
