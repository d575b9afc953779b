"""The one training loop: a generator of epochs.

    for epoch in train(variant, data, epochs=50, seed=0):
        ...                                   # log, prune, checkpoint, or stop by leaving the loop

It knows the contract and nothing else: no variant, no tracker, no pruner. Whoever iterates decides. A training that
was cut off goes on from what `Epoch.snapshot` gave, and ends in the same bits on a CPU.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

import variants
from pipeline import machine
from pipeline.data import Data
from variants import Batch, Config, DataSpec, InputError, Terms, Variant

Precision = Literal["auto", "fp32", "bf16"]


class Diverged(ArithmeticError):
    """A loss or a score left the real numbers."""


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """One pass over the training split and what it led to.

    `metrics`: `train/...` are averages over the epoch while the weights moved, `valid/...` are of the weights after
    it; `elbo` (higher is better), `reconstruction` and `kl` (lower) in nats per example at beta = 1; `train/loss`, or
    `train/loss_PLAYER` of several, is what was minimised; `time/train_seconds`, `time/valid_seconds`,
    `time/examples_per_second`.
    """

    number: int  # from 1
    step: int  # optimisation steps so far
    metrics: dict[str, float]
    vectors: dict[str, Tensor]  # validation averages of extras with several columns, such as kl_per_dimension (Z,)
    best: bool  # no earlier epoch had a better validation score
    snapshot: Callable[[], dict[str, Tensor]]  # all that `train(resume=...)` needs to go on after this epoch


def build(name: str, config: Config, spec: DataSpec) -> Variant:
    """A fresh variant. Raises `InputError`, in words, where it cannot be trained on such data."""
    variant = variants.get(name)
    missing = variant.required_fields - spec.fields
    if missing:
        words = {"y": "class labels", "mask": "sequences"}
        lacks = " and ".join(words[m] for m in sorted(missing))
        raise InputError(f"{name} needs {lacks}; data set {spec.name} has none")
    return variant(config, spec)


def train(
    variant: Variant,
    data: Data,
    *,
    epochs: int,
    seed: int,
    patience: int | None = None,
    precision: Precision = "auto",
    lr_schedule: Callable[[int], float] | None = None,
    resume: Mapping[str, Tensor] | None = None,
) -> Iterator[Epoch]:
    """Train on `data.train`, score `data.valid` after each epoch, and yield an `Epoch`.

    Training runs on the device that `data` lies on. The order of the examples depends on `seed` alone, so that
    variants are compared on the same order. With `patience`, training ends after that many epochs without a better
    validation score (the ELBO, or the reconstruction where there is none), and the weights of the best epoch are put
    back. `precision` `auto` is bf16 autocast on CUDA and fp32 elsewhere. `rate` gives the factor on every player's
    learning rate by the number of the epoch. `resume` is a snapshot, after whose epoch training goes on.

    Raises `Diverged` at the end of an epoch in which a loss or score left the real numbers.
    """
    device = data.train.x.device
    variant.to(device)
    optimizers = [_NamedOptimizer(name, optimizer) for name, optimizer in variant.optimizers().items()]
    state = _State(variant, optimizers, device, seed, keep=bool(patience))
    if resume is not None:
        state.restore(resume)
    steps = math.ceil(len(data.train) / variant.config.batch)
    step = torch.full((), float(state.epoch * steps), device=device)
    for number in range(state.epoch + 1, epochs + 1):
        if patience and state.epoch - state.best_epoch >= patience:
            break
        begin = time.perf_counter()
        variant.train()
        totals = _Totals()
        for optimizer in optimizers if lr_schedule else ():
            optimizer.scale_lr(lr_schedule(number) if lr_schedule else 1.0)
        for index in torch.randperm(len(data.train), generator=state.order).to(device).split(variant.config.batch):
            batch = data.batch(data.train, index, state.noise)
            with _autocast(device, precision):
                terms = variant.terms(batch, step)
            losses = _update(optimizers, terms, variant.config.clip, lambda: _autocast(device, precision))
            totals.add(terms, len(batch), losses)
            step += 1
        _synchronize(device)
        trained = time.perf_counter()
        scored = score(variant, data, data.valid, seed=seed, step=step, precision=precision)
        metrics, vectors = _means({"train": totals, "valid": scored}, number)
        seconds = trained - begin
        metrics["time/train_seconds"] = seconds
        metrics["time/valid_seconds"] = time.perf_counter() - trained
        metrics["time/examples_per_second"] = len(data.train) / seconds
        improved = state.ended(number, metrics.get("valid/elbo", -metrics["valid/reconstruction"]))
        yield Epoch(
            number=number, step=number * steps, metrics=metrics, vectors=vectors, best=improved, snapshot=state.snapshot
        )
    if state.best_weights is not None:
        variant.load_state_dict(state.best_weights)


class _State:
    """What a training is at the end of an epoch: weights, optimisers, random states, and the best so far."""

    def __init__(
        self, variant: Variant, optimizers: list["_NamedOptimizer"], device: torch.device, seed: int, keep: bool
    ) -> None:
        self.variant, self.optimizers, self.device = variant, optimizers, device
        self.epoch, self.best, self.best_epoch = 0, -math.inf, 0
        self.best_weights = {k: v.clone() for k, v in variant.state_dict().items()} if keep else None
        self.order = torch.Generator().manual_seed(seed)
        self.noise = torch.Generator(device).manual_seed(seed)
        torch.manual_seed(seed)

    def ended(self, number: int, value: float) -> bool:
        """Note an epoch's validation score (higher is better); true where it is the best."""
        self.epoch = number
        if value <= self.best:
            return False
        self.best, self.best_epoch = value, number
        for name, weight in self.variant.state_dict().items() if self.best_weights else ():
            self.best_weights[name].copy_(weight)  # type: ignore[index]
        return True

    def snapshot(self) -> dict[str, Tensor]:
        """Flat, on the CPU, and a copy."""
        found = {f"weights/{k}": v for k, v in self.variant.state_dict().items()}
        found |= {f"best/{k}": v for k, v in (self.best_weights or {}).items()}
        for optimizer in self.optimizers:
            for i, moments in optimizer.optimizer.state_dict()["state"].items():
                found |= {f"players/{optimizer.name}/{i}/{k}": torch.as_tensor(v) for k, v in moments.items()}
        found |= {"order": self.order.get_state(), "noise": self.noise.get_state(), "random": torch.get_rng_state()}
        if self.device.type == "cuda":
            found["random_cuda"] = torch.cuda.get_rng_state(self.device)
        found["epochs"] = torch.tensor([self.epoch, self.best_epoch])
        found["best_value"] = torch.tensor(self.best, dtype=torch.float64)
        return {k: v.detach().cpu().clone() for k, v in found.items()}

    def restore(self, saved: Mapping[str, Tensor]) -> None:
        def part(prefix: str) -> dict[str, Tensor]:
            return {k.removeprefix(prefix): v for k, v in saved.items() if k.startswith(prefix)}

        self.variant.load_state_dict(part("weights/"))
        for name, weight in part("best/").items() if self.best_weights else ():
            self.best_weights[name].copy_(weight)  # type: ignore[index]
        for optimizer in self.optimizers:
            moments: dict[int, dict[str, Tensor]] = {}
            for path, value in part(f"players/{optimizer.name}/").items():
                index, name = path.split("/")
                moments.setdefault(int(index), {})[name] = value
            optimizer.optimizer.load_state_dict({**optimizer.optimizer.state_dict(), "state": moments})
        self.order.set_state(saved["order"])
        self.noise.set_state(saved["noise"])
        torch.set_rng_state(saved["random"])
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(saved["random_cuda"], self.device)
        self.epoch, self.best_epoch = map(int, saved["epochs"])
        self.best = float(saved["best_value"])


def score(
    variant: Variant, data: Data, split: Batch, *, seed: int, step: Tensor | None = None, precision: Precision = "auto"
) -> "_Totals":
    """Sums of a split's terms, with noise that depends on `seed` alone; the caller's random state is left as it was."""
    device = split.x.device
    step = torch.zeros((), device=device) if step is None else step
    totals = _Totals()
    variant.eval()
    with machine.seeded(device, seed), _autocast(device, precision):
        for batch in data.batches(split):
            totals.add(variant.terms(batch, step), len(batch))
    return totals


class _Totals:
    """Sums over examples, kept on the device in float64, so that an epoch costs one transfer to the host."""

    def __init__(self) -> None:
        self.count = 0
        self.sums: dict[str, Tensor] = {}  # scalars, and vectors for extras of several columns

    def add(self, terms: Terms, count: int, losses: Mapping[str, Tensor] | None = None) -> None:
        """Add a batch's scores: with the losses that its players minimised in training, with the extras elsewhere."""
        self.count += count
        self._add("reconstruction", terms.reconstruction.detach().sum())
        if terms.kl is not None:
            self._add("kl", terms.kl.detach().sum())
        for name, loss in (losses or {}).items():
            self._add(name if name == "loss" else f"loss_{name}", loss, count)
        for name, extra in terms.extras.items() if losses is None else ():
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


class _NamedOptimizer:
    def __init__(self, name: str, optimizer: torch.optim.Optimizer) -> None:
        self.name, self.optimizer = name, optimizer
        self.weights = [p for group in optimizer.param_groups for p in group["params"]]
        self._rates = [group["lr"] for group in optimizer.param_groups]

    def scale_lr(self, factor: float) -> None:
        """Set the learning rate to its `factor` of what it was at first."""
        for group, lr_schedule in zip(self.optimizer.param_groups, self._rates, strict=True):
            group["lr"] = lr_schedule * factor

    def backward(self, loss: Tensor, retain: bool) -> Tensor:
        """Take the gradient of a loss. Returns its value."""
        for weight in self.weights:
            weight.grad = None
        loss.backward(inputs=self.weights, retain_graph=retain)
        return loss.detach()

    def step(self, clip: float) -> None:
        if clip:
            torch.nn.utils.clip_grad_norm_(self.weights, clip)
        self.optimizer.step()


def _update(
    optimizers: list[_NamedOptimizer], terms: Terms, clip: float, context: Callable[[], Any]
) -> dict[str, Tensor]:
    """One step of every player on its own loss. Returns the losses.

    Of losses that are tensors all gradients are taken before any weight moves; then come, in turn, those that are
    functions.
    """
    by_name = {p.name: p for p in optimizers}
    ready = {n: loss for n, loss in terms.losses.items() if isinstance(loss, Tensor)}
    last = list(ready)[-1:]
    done = {n: by_name[n].backward(loss, retain=[n] != last) for n, loss in ready.items()}
    for name in ready:
        by_name[name].step(clip)
    for name, loss in terms.losses.items():
        if not isinstance(loss, Tensor):
            with context():
                value = loss()
            done[name] = by_name[name].backward(value, retain=False)
            by_name[name].step(clip)
    return done


def _autocast(device: torch.device, precision: Precision) -> Any:
    if precision == "bf16" or (precision == "auto" and device.type == "cuda" and torch.cuda.is_bf16_supported()):
        return torch.autocast(device.type, torch.bfloat16)
    return nullcontext()


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
