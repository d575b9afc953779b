"""The one training loop: a generator of epochs.

    for epoch in train(variant, data, epochs=50, seed=0):
        ...                                   # log, prune, checkpoint, or stop by leaving the loop

It knows the contract and nothing else: no variant, no tracker, no pruner. Whoever iterates decides.
"""

import copy
import math
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from pipeline.data import Data
from variants import Batch, InputError, Terms, Variant

Precision = Literal["auto", "fp32", "bf16"]


class Diverged(ArithmeticError):
    """A loss or a score left the real numbers."""


@dataclass(frozen=True)
class Epoch:
    """One pass over the training split and what it led to.

    `metrics`: `train/...` are averages over the epoch while the weights moved, `valid/...` are of the weights after
    it; `elbo` (higher is better), `reconstruction` and `kl` (lower) in nats per example at beta = 1; `train/loss`, or
    a name per player, is what was minimised; `time/train_seconds`, `time/valid_seconds`, `time/examples_per_second`.
    """

    number: int  # from 1
    step: int  # optimisation steps so far
    metrics: dict[str, float]
    vectors: dict[str, Tensor]  # validation averages of extras with several columns, such as kl_per_dimension (Z,)
    best: bool  # no earlier epoch had a better validation score


def check(variant: type[Variant], data: Data) -> None:
    """Raise `InputError` where a variant cannot be trained on a data set."""
    missing = variant.needs - data.spec.fields
    if missing:
        words = {"y": "class labels", "mask": "sequences"}
        lacks = " and ".join(words[m] for m in sorted(missing))
        raise InputError(f"{variant.__name__} needs {lacks}; data set {data.spec.name} has none")


def train(
    variant: Variant,
    data: Data,
    *,
    epochs: int,
    seed: int,
    patience: int | None = None,
    precision: Precision = "auto",
) -> Iterator[Epoch]:
    """Train on `data.train`, score `data.valid` after each epoch, and yield an `Epoch`.

    Training runs on the device that `data` lies on. The order of the examples depends on `seed` alone, so that
    variants are compared on the same order. With `patience`, training ends after that many epochs without a better
    validation score (the ELBO, or the reconstruction where there is none), and the weights of the best epoch are put
    back. `precision` `auto` is bf16 autocast on CUDA and fp32 elsewhere.

    Raises `Diverged` at the end of an epoch in which a loss or score left the real numbers.
    """
    device = data.train.x.device
    variant.to(device)
    players = [
        _Player(name, optimizer, [p for g in optimizer.param_groups for p in g["params"]])
        for name, optimizer in variant.players().items()
    ]
    order = torch.Generator().manual_seed(seed)
    noise = torch.Generator(device).manual_seed(seed)
    torch.manual_seed(seed)
    step = torch.zeros((), device=device)
    size = variant.config.batch
    best, best_epoch, best_weights = -math.inf, 0, copy.deepcopy(variant.state_dict()) if patience else None
    for number in range(1, epochs + 1):
        begin = time.perf_counter()
        variant.train()
        totals = _Totals()
        for index in torch.randperm(len(data.train), generator=order).to(device).split(size):
            batch = data.batch(data.train, index, noise)
            with _autocast(device, precision):
                terms = variant.terms(batch, step)
            _update(players, terms, variant.config.clip)
            totals.add(terms, len(batch), training=True)
            step += 1
        _synchronize(device)
        trained = time.perf_counter()
        scored = score(variant, data, data.valid, seed=seed, step=step, precision=precision)
        metrics, vectors = _means({"train": totals, "valid": scored}, number)
        seconds = trained - begin
        metrics["time/train_seconds"] = seconds
        metrics["time/valid_seconds"] = time.perf_counter() - trained
        metrics["time/examples_per_second"] = len(data.train) / seconds
        value = metrics.get("valid/elbo", -metrics["valid/reconstruction"])
        improved = value > best
        if improved:
            best, best_epoch = value, number
            if best_weights is not None:
                _copy(variant.state_dict(), best_weights)
        yield Epoch(number, int(number * math.ceil(len(data.train) / size)), metrics, vectors, improved)
        if patience and number - best_epoch >= patience:
            break
    if best_weights is not None:
        variant.load_state_dict(best_weights)


def score(
    variant: Variant, data: Data, split: Batch, *, seed: int, step: Tensor | None = None, precision: Precision = "auto"
) -> "_Totals":
    """Sums of a split's terms, with noise that depends on `seed` alone; the caller's random state is left as it was."""
    device = split.x.device
    step = torch.zeros((), device=device) if step is None else step
    totals = _Totals()
    variant.eval()
    with (
        torch.random.fork_rng([device] if device.type == "cuda" else []),
        torch.no_grad(),
        _autocast(device, precision),
    ):
        torch.manual_seed(seed)
        for batch in data.batches(split):
            totals.add(variant.terms(batch, step), len(batch))
    return totals


class _Totals:
    """Sums over examples, kept on the device in float64, so that an epoch costs one transfer to the host."""

    def __init__(self) -> None:
        self.count = 0
        self.sums: dict[str, Tensor] = {}  # scalars, and vectors for extras of several columns

    def add(self, terms: Terms, count: int, training: bool = False) -> None:
        """Add a batch's scores: with the losses of its players in training, with the extras elsewhere."""
        self.count += count
        self._add("reconstruction", terms.reconstruction.detach().sum())
        if terms.kl is not None:
            self._add("kl", terms.kl.detach().sum())
        for name, loss in terms.losses.items() if training else ():
            self._add(name, loss.detach(), count)
        for name, extra in () if training else terms.extras.items():
            self._add(name, extra.detach().sum(0))

    def _add(self, name: str, value: Tensor, weight: int = 1) -> None:
        if name not in self.sums:
            self.sums[name] = torch.zeros_like(value, dtype=torch.float64)
        self.sums[name].add_(value, alpha=weight)


def _means(totals: dict[str, _Totals], number: int) -> tuple[dict[str, float], dict[str, Tensor]]:
    """Averages by name, in one transfer: scalars, and vectors apart. The ELBO is derived where there is a KL."""
    flat = {f"{part}/{name}": value / t.count for part, t in totals.items() for name, value in t.sums.items()}
    host = torch.cat([v.reshape(-1) for v in flat.values()]).cpu().split([v.numel() for v in flat.values()])
    scalars: dict[str, float] = {}
    vectors: dict[str, Tensor] = {}
    for (name, value), numbers in zip(flat.items(), host, strict=True):
        if not numbers.isfinite().all():
            raise Diverged(f"epoch {number}: {name} left the real numbers; try a smaller lr, or clip")
        if value.ndim:
            vectors[name.split("/", 1)[1]] = numbers
        else:
            scalars[name] = float(numbers)
    for part in totals:
        if f"{part}/kl" in scalars:
            scalars[f"{part}/elbo"] = -(scalars[f"{part}/reconstruction"] + scalars[f"{part}/kl"])
    return scalars, vectors


@dataclass(frozen=True)
class _Player:
    name: str
    optimizer: torch.optim.Optimizer
    weights: list[Tensor]


def _update(players: list[_Player], terms: Terms, clip: float) -> None:
    """One step of every player on its own loss. All gradients are taken before any weight moves."""
    for player in players:
        for weight in player.weights:
            weight.grad = None
        terms.losses[player.name].backward(inputs=player.weights, retain_graph=player is not players[-1])
    for player in players:
        if clip:
            torch.nn.utils.clip_grad_norm_(player.weights, clip)
        player.optimizer.step()


def _autocast(device: torch.device, precision: Precision) -> Any:
    if precision == "bf16" or (precision == "auto" and device.type == "cuda" and torch.cuda.is_bf16_supported()):
        return torch.autocast(device.type, torch.bfloat16)
    return nullcontext()


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _copy(source: dict[str, Tensor], target: dict[str, Tensor]) -> None:
    for name, value in source.items():
        target[name].copy_(value)
