"""One training step: a batch is scored, and the weights change. On CUDA, steps are recorded once and then replayed."""

import dataclasses
import warnings
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from variants import Batch, Terms, Variant

EAGER = 3  # steps that are run before one is recorded, in which the optimizers and the libraries allocate memory


class Totals:
    """Sums over examples. They stay on the device, in float64, so that an epoch costs one transfer to the host."""

    def __init__(self) -> None:
        self.count = 0
        self.sums: dict[str, Tensor] = {}  # scalars, and vectors for extras of several columns

    def reset(self) -> None:
        """Set all sums to 0, in place."""
        self.count = 0
        for value in self.sums.values():
            value.zero_()

    def add(self, terms: Terms, count: int, losses: Mapping[str, Tensor] | None = None) -> None:
        """Add the terms of a batch, and in training the losses that were minimized, else the extras."""
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


class NamedOptimizer:
    """An optimizer, the name of the loss that it minimizes, and the weights that it changes."""

    def __init__(self, name: str, optimizer: torch.optim.Optimizer) -> None:
        self.name, self.optimizer = name, optimizer
        self.weights = [p for group in optimizer.param_groups for p in group["params"]]
        self._initial_lr = [group["lr"] for group in optimizer.param_groups]

    def scale_lr(self, factor: float) -> None:
        """Set the learning rate to `factor` times its initial value."""
        for group, lr in zip(self.optimizer.param_groups, self._initial_lr, strict=True):
            group["lr"] = lr * factor

    def backward(self, loss: Tensor, retain: bool) -> Tensor:
        """Compute the gradient of a loss with respect to this optimizer's weights. Returns the loss, detached."""
        for weight in self.weights:
            weight.grad = None
        loss.backward(inputs=self.weights, retain_graph=retain)
        return loss.detach()

    def step(self, clip: float) -> None:
        """Change the weights; if `clip` is not 0, the norm of the gradient is first cut to it."""
        if clip:
            torch.nn.utils.clip_grad_norm_(self.weights, clip)
        self.optimizer.step()


class Steps:
    """Takes training steps, and adds up what they score in `totals`.

    A step of a small network consists of hundreds of small operations, and a GPU waits for the program to start each of
    them. On CUDA, a step on a batch of the usual size is therefore recorded as a CUDA graph, which starts all of them
    at once. It does the same operations with the same random numbers. A variant that copies values to the CPU, which
    its contract forbids, cannot be recorded, and is trained without a graph.
    """

    def __init__(
        self,
        variant: Variant,
        optimizers: list[NamedOptimizer],
        step: Tensor,
        precision: Callable[[], AbstractContextManager[Any]],
    ) -> None:
        self.totals = Totals()
        self._variant, self._optimizers, self._step, self._precision = variant, optimizers, step, precision
        self._minimised = frozenset(optimizer.name for optimizer in optimizers)
        self._recorder = _Recorder(self._take) if step.device.type == "cuda" else None
        for optimizer in optimizers if self._recorder else ():
            for group in optimizer.optimizer.param_groups:
                group["capturable"] = True

    def start_stage(self, losses: Iterable[str]) -> None:
        """Minimise only the losses of these names from now on."""
        self._minimised = frozenset(losses)
        self.totals.sums.clear()
        if self._recorder:
            self._recorder.forget()

    def start_epoch(self, lr_factor: float | None) -> None:
        """Set the sums to 0, and the learning rates to `lr_factor` times their initial values unless it is None."""
        self.totals.reset()
        if lr_factor is not None:
            for optimizer in self._optimizers:
                optimizer.scale_lr(lr_factor)
            if self._recorder:
                self._recorder.forget()  # a recorded step has the learning rate in it

    def take(self, batch: Batch) -> None:
        """Take one step on a batch."""
        if self._recorder:
            count = self.totals.count + len(batch)
            self._recorder.run(batch, full=self._variant.config.batch)
            self.totals.count = count
        else:
            self._take(batch)
        self._step += 1

    def _take(self, batch: Batch) -> None:
        with self._precision():
            terms = self._variant.terms(batch, self._step)
        losses = self._update(terms)
        self.totals.add(terms, len(batch), losses)

    def _update(self, terms: Terms) -> dict[str, Tensor]:
        """Let each optimizer of the stage take one step on the loss of its name. Returns the losses by name.

        Losses that are tensors come first: all their gradients are computed before any weight changes. Losses that are
        functions are then evaluated in turn, each after the weights of the one before it have changed.
        """
        clip = self._variant.config.clip
        by_name = {o.name: o for o in self._optimizers}
        minimised = {name: loss for name, loss in terms.losses.items() if name in self._minimised}
        tensors = {name: loss for name, loss in minimised.items() if isinstance(loss, Tensor)}
        last = list(tensors)[-1:]
        values = {name: by_name[name].backward(loss, retain=[name] != last) for name, loss in tensors.items()}
        for name in tensors:
            by_name[name].step(clip)
        for name, loss in minimised.items():
            if not isinstance(loss, Tensor):
                with self._precision():
                    value = loss()
                values[name] = by_name[name].backward(value, retain=False)
                by_name[name].step(clip)
        return values


class _Recorder:
    """Runs a function of a batch on CUDA, and records it as a graph after `EAGER` runs."""

    def __init__(self, function: Callable[[Batch], None]) -> None:
        self._function, self._runs, self._can_record = function, 0, True
        self._stream = torch.cuda.Stream()
        self._graph: torch.cuda.CUDAGraph | None = None
        self._input: Batch | None = None

    def forget(self) -> None:
        """Drop the recorded graph, so that the function is recorded anew."""
        self._graph = self._input = None

    def run(self, batch: Batch, full: int) -> None:
        """Run the function on a batch: by the recorded graph if the batch has `full` examples, the usual number."""
        if len(batch) == full and self._runs >= EAGER and self._can_record and self._graph is None:
            self._record(batch)
        if len(batch) == full and self._graph is not None:
            for to, values in zip(_tensors(self._input), _tensors(batch), strict=True):
                to.copy_(values)
            self._graph.replay()
            return
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):  # memory that a graph uses must not belong to another stream
            self._function(batch)
        torch.cuda.current_stream().wait_stream(self._stream)
        self._runs += 1

    def _record(self, batch: Batch) -> None:
        """Record the function, without running it."""
        graph, copy = torch.cuda.CUDAGraph(), batch[slice(0, len(batch))]
        copy = dataclasses.replace(copy, **{
            f.name: value.clone() for f in dataclasses.fields(Batch) if (value := getattr(batch, f.name)) is not None
        })  # fmt: skip
        try:
            with torch.cuda.graph(graph, stream=self._stream):
                self._function(copy)
        except RuntimeError as error:
            self._can_record = False
            first = (str(error).splitlines() or [type(error).__name__])[0]
            warnings.warn(f"training goes on without a CUDA graph, which is slower: {first}", stacklevel=2)
            return
        self._graph, self._input = graph, copy


def _tensors(batch: Batch | None) -> list[Tensor]:
    return [v for f in dataclasses.fields(Batch) if (v := getattr(batch, f.name)) is not None]
