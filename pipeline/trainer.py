"""The one training loop: a generator of epochs.

    for epoch in train(variant, data, epochs=50, seed=0):
        ...                                   # log, prune, save a checkpoint, or stop by leaving the loop

The trainer knows the contract of a variant and nothing else: no particular variant, no tracker, no pruner. The caller
decides what to do after each epoch. An interrupted training can continue from `Epoch.snapshot`, and on a CPU it then
ends in exactly the same weights as an uninterrupted one.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from pipeline import machine
from pipeline.data import Data
from pipeline.steps import NamedOptimizer, Steps, Totals
from variants import Batch, Variant
from variants.base.contract import Stage

LRSchedule = Callable[[int, int], float]  # (epoch, from 1; number of epochs) -> factor on the first learning rate


class Diverged(ArithmeticError):
    """A loss or a score is infinite or not a number."""


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """The result of one pass over the training split.

    The scores in `metrics` are averages over examples. Those that begin with `train/` were taken while the weights
    changed, those that begin with `valid/` belong to the weights after the epoch. `elbo` (higher is better),
    `reconstruction` and `kl` (lower is better) are in nats per example at beta = 1. `train/loss` is the loss that was
    minimized; if a variant has several optimizers, it is `train/loss_NAME` for each of them. The rest are
    `time/train_seconds`, `time/valid_seconds` and `time/examples_per_second`.
    """

    number: int  # from 1
    step: int  # optimization steps so far
    metrics: dict[str, float]
    vectors: dict[str, Tensor]  # validation averages of extras with several columns, such as kl_per_dimension (Z,)
    best: bool  # whether the validation score is better than after every earlier epoch
    snapshot: Callable[[], dict[str, Tensor]]  # returns all that `train(resume=...)` needs to continue from here

    def summary(self) -> str:
        """Return the most important validation scores as a line of text."""
        names = ("elbo", "reconstruction", "kl")
        return "  ".join(f"{n} {self.metrics[f'valid/{n}']:.2f}" for n in names if f"valid/{n}" in self.metrics)


def constant(epoch: int, epochs: int) -> float:
    """Return 1: the learning rate stays as it is."""
    return 1.0


def cosine(epoch: int, epochs: int) -> float:
    """Fall from 1 to almost 0 along half a cosine (Loshchilov & Hutter 2017, equation 5, without restarts)."""
    return 0.5 * (1 + math.cos(math.pi * (epoch - 1) / epochs))


def burda(epoch: int, epochs: int) -> float:
    """Return 10^(-i/7) for 3^i epochs, i = 0, 1, 2, ... (Burda et al. 2016, section 5.1)."""
    stage, end = 0, 1
    while epoch > end:
        stage += 1
        end += 3**stage
    return float(10 ** (-stage / 7))


LR_SCHEDULES: Mapping[str, LRSchedule] = {f.__name__: f for f in (constant, cosine, burda)}


def fit(variant: Variant, data: Data, *, epochs: int, seed: int) -> None:
    """Train a variant to the end. Nothing is logged or saved: this is for models that are thrown away afterwards."""
    for _ in train(variant, data, epochs=epochs, seed=seed):
        pass


def train(
    variant: Variant,
    data: Data,
    *,
    epochs: int,
    seed: int,
    patience: int | None = None,
    lr_schedule: LRSchedule | None = None,
    resume: Mapping[str, Tensor] | None = None,
) -> Iterator[Epoch]:
    """Train on `data.train`, score `data.valid` after each epoch, and yield an `Epoch`.

    Training runs on the device of `data`, to which the variant is moved. The order of the examples depends on `seed`
    alone, so that all variants see them in the same order. With `patience`, training ends early after that many
    epochs without a better validation score (the ELBO, or the extra `bound` if the variant gives one, or the negative
    reconstruction if it has no ELBO). At the end, early or not, the weights of the best epoch are then restored. With
    `Config.precision` of bf16, training uses autocast; scores are in fp32. `lr_schedule(epoch, epochs)` returns the
    factor by which the initial learning rates are multiplied in one epoch. `resume` is what `Epoch.snapshot` returned;
    training continues with the next epoch.

    Raises:
        Diverged: At the end of an epoch, if a loss or a score was infinite or not a number.
    """
    device = data.train.x.device
    variant.to(device)
    optimizers = [NamedOptimizer(name, optimizer) for name, optimizer in variant.optimizers().items()]
    state = _State(variant, optimizers, device, seed, keep=bool(patience))
    if resume is not None:
        state.restore(resume)
    steps = math.ceil(data.epoch / variant.config.batch)
    epochs_of_batches = _batches(data, variant.config.batch, state, seed)
    step = torch.full((), float(state.epoch * steps), device=device)
    training = Steps(variant, optimizers, step, lambda: autocast(device, variant.config.precision))
    stages = variant.stages or (Stage(tuple(optimizer.name for optimizer in optimizers), 1.0),)
    lengths = _lengths(stages, epochs)
    for stage in range(state.stage, len(stages)):
        training.start_stage(stages[stage].losses)
        while state.epoch < state.stage_start + lengths[stage]:
            if patience and state.epoch - max(state.best_epoch, state.stage_start) >= patience:
                break
            number = state.epoch + 1
            factor = lr_schedule(number - state.stage_start, lengths[stage]) if lr_schedule else None
            begin = time.perf_counter()
            variant.train()
            training.start_epoch(factor)
            for batch in next(epochs_of_batches):
                training.take(batch)
            machine.synchronize(device)
            end = time.perf_counter()
            valid_totals = score(variant, data, data.valid, seed=seed, step=step)
            metrics, vectors = _means({"train": training.totals, "valid": valid_totals}, number)
            seconds = end - begin
            metrics["time/train_seconds"] = seconds
            metrics["time/valid_seconds"] = time.perf_counter() - end
            metrics["time/examples_per_second"] = data.epoch / seconds
            value = metrics.get("valid/bound", metrics.get("valid/elbo", -metrics["valid/reconstruction"]))
            best = state.end_epoch(number, value)
            yield Epoch(
                number=number, step=number * steps, metrics=metrics, vectors=vectors, best=best, snapshot=state.snapshot
            )
        state.end_stage()


def _lengths(stages: Sequence[Stage], epochs: int) -> list[int]:
    """Return the epochs of each stage: at least one of the first, and one of each if there are as many as stages."""
    ends, total = [0], 0.0
    for number, stage in enumerate(stages, 1):
        total += stage.share
        later = len(stages) - number
        ends.append(max(min(max(round(epochs * total), number), max(epochs - later, 1)), ends[-1]))
    return [end - start for start, end in pairwise([*ends[:-1], epochs])]


def _batches(data: Data, size: int, state: "_State", seed: int) -> Iterator[Iterator[Batch]]:
    """Yield the training batches of each epoch, from the state's epoch on, without end."""
    if data.stream:
        for stored in data.stream.epochs(seed, size, state.epoch):
            yield (data.as_float(batch, state.noise) for batch in stored)
        return
    device = data.train.x.device
    while True:
        order = torch.randperm(len(data.train), generator=state.order).to(device)
        yield (data.batch(data.train, index, state.noise) for index in order.split(size))


class _State:
    """The state of a training after an epoch: weights, optimizers, random states, and the best weights so far."""

    def __init__(
        self, variant: Variant, optimizers: list["NamedOptimizer"], device: torch.device, seed: int, keep: bool
    ) -> None:
        self.variant, self.optimizers, self.device = variant, optimizers, device
        self.epoch, self.best, self.best_epoch = 0, -math.inf, 0
        self.stage, self.stage_start = 0, 0  # the number of the stage, and the epochs before it
        self.best_weights = {k: v.clone() for k, v in variant.state_dict().items()} if keep else {}
        self.order = torch.Generator().manual_seed(seed)
        self.noise = torch.Generator(device).manual_seed(seed)
        torch.manual_seed(seed)

    def end_epoch(self, number: int, value: float) -> bool:
        """Record an epoch's validation score (higher is better). Returns whether it is the best so far."""
        self.epoch = number
        if value <= self.best:
            return False
        self.best, self.best_epoch = value, number
        weights = self.variant.state_dict()
        for name, weight in self.best_weights.items():
            weight.copy_(weights[name])
        return True

    def end_stage(self) -> None:
        """Restore the best weights so far, and go on to the next stage."""
        if self.best_weights:
            self.variant.load_state_dict(self.best_weights)
        self.stage, self.stage_start = self.stage + 1, self.epoch

    def snapshot(self) -> dict[str, Tensor]:
        """Return a copy of the state as a flat mapping of tensors on the CPU."""
        tensors = {f"weights/{k}": v for k, v in self.variant.state_dict().items()}
        tensors |= {f"best/{k}": v for k, v in self.best_weights.items()}
        for optimizer in self.optimizers:
            for i, moments in optimizer.optimizer.state_dict()["state"].items():
                # the prefix is an earlier name of the optimizers; it stays, so that old checkpoints can be continued
                tensors |= {f"players/{optimizer.name}/{i}/{k}": torch.as_tensor(v) for k, v in moments.items()}
        tensors |= {"order": self.order.get_state(), "noise": self.noise.get_state(), "random": torch.get_rng_state()}
        if self.device.type == "cuda":
            tensors["random_cuda"] = torch.cuda.get_rng_state(self.device)
        tensors["epochs"] = torch.tensor([self.epoch, self.best_epoch, self.stage, self.stage_start])
        tensors["best_value"] = torch.tensor(self.best, dtype=torch.float64)
        return {k: v.detach().cpu().clone() for k, v in tensors.items()}

    def restore(self, saved: Mapping[str, Tensor]) -> None:
        """Put back what `snapshot` returned."""

        def part(prefix: str) -> dict[str, Tensor]:
            return {k.removeprefix(prefix): v for k, v in saved.items() if k.startswith(prefix)}

        self.variant.load_state_dict(part("weights/"))
        for name, weight in part("best/").items():
            if name in self.best_weights:
                self.best_weights[name].copy_(weight)
        for optimizer in self.optimizers:
            moments: dict[int, dict[str, Tensor]] = {}
            for path, value in part(f"players/{optimizer.name}/").items():
                index, name = path.split("/")
                weight = optimizer.weights[int(index)]
                if value.shape == weight.shape:  # in the memory format of the weight, as the optimizer expects it
                    value = torch.empty_like(weight).copy_(value)
                moments.setdefault(int(index), {})[name] = value
            optimizer.optimizer.load_state_dict({**optimizer.optimizer.state_dict(), "state": moments})
        self.order.set_state(saved["order"])
        self.noise.set_state(saved["noise"])
        torch.set_rng_state(saved["random"])
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(saved["random_cuda"], self.device)
        self.epoch, self.best_epoch, *stage = map(int, saved["epochs"])
        self.stage, self.stage_start = stage or (0, 0)  # a checkpoint of an earlier version has no stages
        self.best = float(saved["best_value"])


def score(variant: Variant, data: Data, split: Batch, *, seed: int, step: Tensor | None = None) -> Totals:
    """Return the sums of a split's terms. The noise depends on `seed` alone, and the global random state is kept."""
    device = split.x.device
    step = torch.zeros((), device=device) if step is None else step
    totals = Totals()
    variant.eval()
    with machine.seeded(device, seed):
        for batch in data.batches(split):
            totals.add(variant.terms(batch, step), len(batch))
    return totals


def _means(totals: dict[str, Totals], number: int) -> tuple[dict[str, float], dict[str, Tensor]]:
    """Return averages by name, first the scalars and then the vectors. The ELBO is derived where there is a KL."""
    flat = {f"{part}/{name}": value / t.count for part, t in totals.items() for name, value in t.sums.items()}
    host = torch.cat([v.reshape(-1) for v in flat.values()]).cpu().split([v.numel() for v in flat.values()])
    scalars: dict[str, float] = {}
    vectors: dict[str, Tensor] = {}
    for (name, value), numbers in zip(flat.items(), host, strict=True):
        if not numbers.isfinite().all():
            raise Diverged(f"epoch {number}: {name} is infinite or not a number; try a smaller lr, or clip")
        if value.ndim:
            vectors[name.split("/", 1)[1]] = numbers
        else:
            scalars[name] = float(numbers)
    for part in totals:
        if f"{part}/kl" in scalars:
            scalars[f"{part}/elbo"] = -(scalars[f"{part}/reconstruction"] + scalars[f"{part}/kl"])
    return scalars, vectors


def autocast(device: torch.device, precision: str) -> Any:
    """Return a context in which matrix products are in bf16, or one that changes nothing."""
    return torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else nullcontext()
