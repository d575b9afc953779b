"""The training loop: what it reports, when it ends, and that the same seed gives the same weights."""

import dataclasses
import time
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

import variants
from pipeline import data, trainer
from pipeline.data import Data
from pipeline.trainer import LR_SCHEDULES, Diverged, Epoch, train
from variants import Batch, Config, DataSpec, InputError, Terms, Variant
from variants.iwae import IWAE
from variants.vae import VAE


@pytest.fixture(scope="module")
def digits() -> Data:
    return data.load("digits")


@pytest.fixture(scope="module")
def small(digits: Data) -> Data:
    """Only 60 training examples, on which a network overfits within a few epochs."""
    return dataclasses.replace(digits, train=digits.train[slice(0, 60)])


OVERFITTING = {"width": 128, "lr": 1e-2, "batch": 20}


def vae(spec: DataSpec, **settings: object) -> Variant:
    torch.manual_seed(0)
    return VAE(Config(**{"latent": 4, "width": 32, "lr": 3e-3, **settings}), spec)  # type: ignore[arg-type]


def trained(digits: Data, epochs: int = 3, **settings: object) -> tuple[Variant, list[Epoch]]:
    variant = vae(digits.spec, **settings)
    return variant, list(train(variant, digits, epochs=epochs, seed=1))


def scores(epochs: list[Epoch]) -> list[dict[str, float]]:
    return [{k: v for k, v in e.metrics.items() if not k.startswith("time/")} for e in epochs]


def test_the_same_seed_gives_the_same_weights(digits: Data) -> None:
    first, second = trained(digits), trained(digits)
    assert scores(first[1]) == scores(second[1])
    assert all(torch.equal(a, b) for a, b in zip(first[0].parameters(), second[0].parameters(), strict=True))


def test_another_seed_gives_other_scores(digits: Data) -> None:
    other = list(train(vae(digits.spec), digits, epochs=1, seed=2))
    assert scores(other) != scores(trained(digits, 1)[1])


def test_it_learns(digits: Data) -> None:
    elbos = [e.metrics["valid/elbo"] for e in trained(digits, 15)[1]]
    assert elbos[-1] > elbos[0] + 3


def test_an_epoch_counts_every_example_once_whatever_the_batches(digits: Data) -> None:
    """With a learning rate that moves nothing, the training average is that of the untouched weights."""
    subset = dataclasses.replace(digits, train=digits.valid)  # binary: no noise in the data
    metrics = [trained(subset, 1, lr=1e-8, batch=b)[1][0].metrics for b in (7, 64, 179, 5000)]
    for m in metrics:
        assert m["train/kl"] == pytest.approx(metrics[0]["valid/kl"], rel=1e-4)
        assert m["train/reconstruction"] == pytest.approx(metrics[0]["valid/reconstruction"], rel=5e-3)


def test_validation_is_at_beta_one_whatever_was_trained(digits: Data) -> None:
    cls = variants.get("beta")
    for beta in (0.5, 8.0):
        torch.manual_seed(0)
        variant = cls(cls.config_type(latent=4, width=32, beta=beta, warmup=50), digits.spec)  # type: ignore[call-arg]
        metrics = next(train(variant, digits, epochs=1, seed=0)).metrics
        for part in ("train", "valid"):
            assert metrics[f"{part}/elbo"] == -(metrics[f"{part}/reconstruction"] + metrics[f"{part}/kl"])
        assert metrics["train/loss"] != pytest.approx(-metrics["train/elbo"])


def test_scoring_leaves_the_random_state_alone(digits: Data) -> None:
    variant = vae(digits.spec)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    trainer.score(variant, digits, digits.valid, seed=0)
    assert torch.equal(torch.rand(3), expected)


def test_patience_ends_the_training_and_brings_back_the_best_weights(digits: Data, small: Data) -> None:
    variant = vae(digits.spec, **OVERFITTING)
    epochs = list(train(variant, small, epochs=300, seed=0, patience=5))
    best = max(epochs, key=lambda e: e.metrics["valid/elbo"])
    assert best.best
    assert len(epochs) == best.number + 5
    totals = trainer.score(variant, digits, digits.valid, seed=0)
    kl = float(totals.sums["kl"] / totals.count)
    assert kl == pytest.approx(best.metrics["valid/kl"], rel=1e-6)


def test_an_epoch_is_best_if_no_earlier_one_was_as_good(small: Data) -> None:
    epochs = list(train(vae(small.spec, **OVERFITTING), small, epochs=12, seed=0))
    elbos = [e.metrics["valid/elbo"] for e in epochs]
    assert [e.best for e in epochs] == [all(v > earlier for earlier in elbos[:i]) for i, v in enumerate(elbos)]
    assert not all(e.best for e in epochs)


def test_an_epoch_has_its_number_its_steps_and_its_times(small: Data) -> None:
    begin = time.perf_counter()
    epochs = list(train(vae(small.spec, batch=20), small, epochs=3, seed=0))
    elapsed = time.perf_counter() - begin
    assert sum(e.metrics["time/train_seconds"] + e.metrics["time/valid_seconds"] for e in epochs) < elapsed
    assert [(e.number, e.step) for e in epochs] == [(1, 3), (2, 6), (3, 9)]  # 60 examples in batches of 20
    for epoch in epochs:
        times = {k: v for k, v in epoch.metrics.items() if k.startswith("time/")}
        assert times.keys() == {"time/train_seconds", "time/valid_seconds", "time/examples_per_second"}
        assert all(v > 0 for v in times.values())
        elbo, error, kl = (epoch.metrics[f"valid/{name}"] for name in ("elbo", "reconstruction", "kl"))
        assert epoch.summary() == f"elbo {elbo:.2f}  reconstruction {error:.2f}  kl {kl:.2f}"
        assert times["time/examples_per_second"] == pytest.approx(60 / times["time/train_seconds"])


class Watched(VAE):
    """A VAE that records for each batch whether it is trained, and the step."""

    def terms(self, batch: Batch, step: Tensor) -> Terms:
        self.modes = [*getattr(self, "modes", []), self.training]
        self.steps = [*getattr(self, "steps", []), int(step)]
        return super().terms(batch, step)


def test_the_mode_of_a_variant_is_switched_for_validation_and_back(small: Data) -> None:
    """Dropout and batch normalization depend on the mode that torch calls `training`."""
    variant = Watched(Config(latent=2, width=8, batch=30), small.spec)
    list(train(variant, small, epochs=2, seed=0))
    assert variant.modes == [True, True, False, True, True, False]


def test_steps_are_counted_over_all_epochs_also_after_an_interruption(small: Data) -> None:
    """The warm-up of the KL depends on the step. Validation is at the step that the weights have reached."""
    variant, rest = (Watched(Config(latent=2, width=8, batch=30), small.spec) for _ in range(2))
    snapshots = [e.snapshot() for e in train(variant, small, epochs=2, seed=0)]
    assert variant.steps == [0, 1, 2, 2, 3, 4]
    list(train(rest, small, epochs=2, seed=0, resume=snapshots[0]))
    assert rest.steps == [2, 3, 4]


def test_a_loss_that_leaves_the_real_numbers_is_named(digits: Data) -> None:
    with pytest.raises(Diverged, match=r"epoch 1: train/\w+ is infinite or not a number"):
        trained(digits, 3, lr=1.0, depth=12, width=512)


def test_clipping_bounds_the_gradient(digits: Data) -> None:
    free, clipped = trained(digits, 1)[1], trained(digits, 1, clip=1e-3)[1]
    assert scores(free) != scores(clipped)


def test_bf16_trains_too(digits: Data) -> None:
    variant = vae(digits.spec, precision="bf16")
    epochs = list(train(variant, digits, epochs=8, seed=1))
    assert epochs[-1].metrics["valid/elbo"] > epochs[0].metrics["valid/elbo"] + 1
    assert epochs[0].metrics["train/loss"] != trained(digits, 1)[1][0].metrics["train/loss"]
    assert next(variant.parameters()).dtype == torch.float32


class Adversarial(Variant):
    """A toy with two optimizers: `up` raises w * v and `down` lowers it, each by changing one of the weights."""

    paper = "none"

    def __init__(self, config: Config, spec: DataSpec) -> None:
        super().__init__(config, spec)
        self.v, self.w = torch.nn.Parameter(torch.ones(())), torch.nn.Parameter(torch.ones(()))

    def terms(self, batch: Batch, step: Tensor) -> Terms:
        product = self.v * self.w
        each = batch.x.flatten(1).mean(1) * 0 + 1.0
        return Terms(each, None, {"up": -product, "down": product}, {"score": each})

    def optimizers(self) -> Mapping[str, torch.optim.Optimizer]:
        return {"up": torch.optim.SGD([self.v], lr=0.1), "down": torch.optim.SGD([self.w], lr=0.1)}

    def encode(self, batch: Batch) -> Tensor:
        return batch.x.flatten(1)

    def decode(self, z: Tensor, batch: Batch | None = None) -> Tensor:
        return z

    def sample_x(self, z: Tensor, batch: Batch | None = None) -> Tensor:
        return z

    def sample_prior(self, n: int, condition: Batch | None = None) -> Tensor:
        return torch.zeros(n, *self.spec.shape)

    def log_prior(self, z: Tensor, batch: Batch) -> Tensor:
        return torch.zeros(len(z))

    def log_likelihood(self, z: Tensor, batch: Batch) -> Tensor:
        return torch.zeros_like(batch.x)

    def sample_posterior(self, batch: Batch, k: int = 1) -> None:
        return None


def test_two_optimizers_step_at_once_and_each_by_its_own_loss(digits: Data) -> None:
    variant = Adversarial(Config(batch=len(digits.train)), digits.spec)
    epoch = next(train(variant, digits, epochs=1, seed=0))
    assert float(variant.v.detach()) == pytest.approx(1.1)  # from the old w = 1
    assert float(variant.w.detach()) == pytest.approx(0.9)  # from the old v = 1, not from 1.1
    assert epoch.metrics["train/loss_up"] == -1
    assert epoch.metrics["train/loss_down"] == 1
    assert epoch.metrics["valid/score"] == 1


def test_without_a_kl_there_is_no_elbo(digits: Data) -> None:
    epoch = next(train(Adversarial(Config(), digits.spec), digits, epochs=1, seed=0))
    assert "valid/elbo" not in epoch.metrics
    assert "train/elbo" not in epoch.metrics
    assert epoch.best


class InTurn(Adversarial):
    """The same game, in which the loss of `down` is evaluated after `up` has changed its weight."""

    def terms(self, batch: Batch, step: Tensor) -> Terms:
        terms = super().terms(batch, step)
        return dataclasses.replace(terms, losses={"up": terms.losses["up"], "down": lambda: self.v * self.w})


def test_a_loss_that_is_a_function_waits_for_its_turn(digits: Data) -> None:
    variant = InTurn(Config(batch=len(digits.train)), digits.spec)
    epoch = next(train(variant, digits, epochs=1, seed=0))
    assert float(variant.w.detach()) == pytest.approx(1 - 0.1 * 1.1)  # from the new v
    assert epoch.metrics["train/loss_down"] == pytest.approx(1.1)


@pytest.mark.parametrize("name", ["vae", "aae"])
def test_a_training_that_is_continued_ends_in_the_same_weights(digits: Data, name: str) -> None:
    def fresh() -> Variant:
        torch.manual_seed(0)
        cls = variants.get(name)
        return cls(cls.config_type(latent=4, width=16), digits.spec)

    def lr_schedule(epoch: int, epochs: int) -> float:
        return 1 / epoch

    whole, cut, rest = fresh(), fresh(), fresh()
    straight = list(train(whole, digits, epochs=5, seed=1, patience=9, lr_schedule=lr_schedule))
    for epoch in train(cut, digits, epochs=5, seed=1, patience=9, lr_schedule=lr_schedule):
        if epoch.number == 3:
            saved = epoch.snapshot()
            break
    torch.randn(7)  # other work in between
    after = list(train(rest, digits, epochs=5, seed=1, patience=9, lr_schedule=lr_schedule, resume=saved))
    assert [e.number for e in after] == [4, 5]
    assert scores(after) == scores(straight[3:])
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), rest.parameters(), strict=True))


def test_a_training_that_is_interrupted_after_its_best_epoch_keeps_the_weights_of_that_epoch(small: Data) -> None:
    whole, cut, rest, again = (vae(small.spec, **OVERFITTING) for _ in range(4))
    epochs = list(train(whole, small, epochs=300, seed=0, patience=4))
    last = epochs[-1].number
    best = max(epochs, key=lambda e: e.metrics["valid/elbo"]).number
    assert best < last - 1
    for epoch in train(cut, small, epochs=300, seed=0, patience=4):
        if epoch.number == last - 1:
            saved = epoch.snapshot()
            break
    after = list(train(rest, small, epochs=300, seed=0, patience=4, resume=saved))
    assert [e.number for e in after] == [last]  # the epochs without a better score are still counted
    assert not after[0].best
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), rest.parameters(), strict=True))
    ended = after[0].snapshot()  # from which there is nothing left to train
    assert list(train(again, small, epochs=300, seed=0, patience=4, resume=ended)) == []
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), again.parameters(), strict=True))


def test_the_learning_rate_schedules() -> None:
    stages = [LR_SCHEDULES["burda"](e, 3280) for e in range(1, 3281)]
    assert [stages.count(r) for r in sorted(set(stages), reverse=True)] == [3**i for i in range(8)]
    assert stages[-1] == pytest.approx(0.1)
    cosine = LR_SCHEDULES["cosine"]
    assert cosine(1, 10) == 1
    assert cosine(6, 10) == pytest.approx(0.5)
    assert 0 < cosine(10, 10) < 0.03
    assert LR_SCHEDULES["constant"](7, 10) == 1


def test_a_schedule_scales_the_learning_rate_of_every_optimizer(digits: Data) -> None:
    frozen = vae(digits.spec)
    before = [p.clone() for p in frozen.parameters()]
    epochs = list(train(frozen, digits, epochs=2, seed=0, lr_schedule=lambda epoch, epochs: 0.0))
    assert all(torch.equal(a, b) for a, b in zip(before, frozen.parameters(), strict=True))
    assert [e.best for e in epochs] == [True, False]  # the second is exactly as good


@pytest.mark.parametrize(
    ("name", "dataset", "settings", "message"),
    [
        ("vrae", "digits", {}, "vrae needs sequences; data set digits has none"),
        ("vae", "digits-rows", {"network": "mlp"}, "network='mlp': digits-rows has sequences; expected auto"),
        ("cvae", "frey-faces", {}, "cvae needs class labels, and data set frey-faces has none"),
        (
            "cvae",
            "table",
            {"condition": "quadrants"},
            r"condition='quadrants': table has examples of 7; expected images",
        ),
        ("aae", "frey-faces", {"supervision": "semi"}, "supervision='semi' needs class labels; data set frey-faces"),
    ],
)
def test_a_variant_that_does_not_fit_is_refused(
    name: str, dataset: str, settings: dict[str, object], message: str
) -> None:
    spec = {
        "digits": DataSpec(name="digits", shape=(1, 8, 8), likelihood="bernoulli", classes=10),
        "digits-rows": DataSpec(name="digits-rows", shape=(8,), likelihood="bernoulli", classes=10, steps=8),
        "frey-faces": DataSpec(name="frey-faces", shape=(1, 28, 20), likelihood="logistic8"),
        "table": DataSpec(name="table", shape=(7,), likelihood="gaussian", classes=2),
    }[dataset]
    with pytest.raises(InputError, match=message):
        variants.build(name, variants.get(name).config_type(**settings), spec)  # type: ignore[arg-type]


def test_a_training_epoch_copies_to_the_host_once(digits: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    """One host synchronisation an epoch: no `item`, `float` or `tolist` of a tensor inside the loop."""
    calls: list[str] = []
    for name in ("item", "tolist", "__float__", "__bool__", "__int__", "cpu"):
        real = getattr(Tensor, name)

        def counted(self: Tensor, *a: object, name: str = name, real: object = real) -> object:
            calls.append(name)
            return real(self, *a)  # type: ignore[operator]

        monkeypatch.setattr(Tensor, name, counted)
    variant = vae(digits.spec)
    epochs = train(variant, digits, epochs=2, seed=0)
    next(epochs)
    first = len(calls)
    next(epochs)
    for epoch in (calls[:first], calls[first:]):
        assert epoch.count("cpu") == 1
        assert epoch[0] == "cpu"  # what follows reads numbers that are on the host already


def test_a_tighter_bound_than_the_elbo_decides_which_epoch_is_best(small: Data) -> None:
    """Models that are trained with several samples of z have an ELBO that may fall while their bound rises."""
    variant = IWAE(IWAE.config_type(latent=2, width=8, batch=30, samples=20, lr=0.01), small.spec)  # type: ignore[call-arg]
    best = -float("inf")
    for epoch in train(variant, small, epochs=6, seed=0):
        bound = epoch.metrics["valid/bound"]
        assert bound > epoch.metrics["valid/elbo"]
        assert epoch.best == (bound > best)
        best = max(best, bound)
