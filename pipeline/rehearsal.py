"""Takes a few training steps before a study starts.

They tell how long an epoch takes, how much memory it needs, and which precision is faster.
"""

import dataclasses
import math
import statistics
import time
from dataclasses import dataclass

import torch

import variants
from pipeline import machine, trainer
from pipeline.data import Data
from pipeline.steps import EAGER, NamedOptimizer, Steps
from variants import Config

LARGE = 5e7  # weights times examples of a batch; another precision is tried only if there are at least as many
GAIN = 1.5  # bf16 is taken only if it is at least this many times as fast
STEPS, MOST = 5, 2.0  # steps that are timed, and the seconds after which no further one is


@dataclass(frozen=True, kw_only=True)
class Rehearsal:
    """What was measured: the precision to train in, and the estimated seconds of an epoch with its validation."""

    precision: str
    epoch_seconds: float
    memory: int  # bytes that a training process takes at most, on the device if that is a GPU
    steps: int  # in an epoch
    bf16_gain: float | None = None  # how many times as fast steps in bf16 are; None if this was not measured

    def __str__(self) -> str:
        text = (
            f"with the default settings, an epoch of {self.steps:,} steps takes about {self.epoch_seconds:.2g} s, and "
            f"{self.memory / 1e9:.2g} GB of memory"
        )
        if self.bf16_gain is not None:
            text += (
                f"; steps in bf16 are {self.bf16_gain:.1f} times as fast as in fp32, so the precision is "
                f"{self.precision} (--fix precision=bf16 or fp32)"
            )
        return text


def rehearse(variant: str, config: Config, data: Data, *, compare_precisions: bool) -> Rehearsal:
    """Measure training steps of a configuration. The random state stays as it was.

    With `compare_precisions`, the precision is bf16 if a step is large, this device supports bf16, and it is faster by
    `GAIN`. Otherwise, it is that of `config`.
    """
    seconds, weights = _step_seconds(variant, config, data)
    gain, precision = None, config.precision
    if compare_precisions and weights * config.batch >= LARGE and _has_bf16(data.train.x.device):
        other, _ = _step_seconds(variant, dataclasses.replace(config, precision="bf16"), data)
        gain = seconds / other
        if gain >= GAIN:
            seconds, precision = other, "bf16"
    steps = math.ceil(data.epoch / config.batch)
    validation = len(data.valid) / config.batch / 3  # a step without gradients and without a change of weights
    computing, reading = seconds * (steps + validation), _reading_seconds(data)
    on_gpu = data.train.x.device.type == "cuda"
    return Rehearsal(
        precision=precision, steps=steps, bf16_gain=gain, memory=machine.peak_memory(data.train.x.device),
        epoch_seconds=max(computing, reading) if on_gpu else computing + reading,  # which share the cores of the CPU
    )  # fmt: skip


def _reading_seconds(data: Data) -> float:
    """Return the seconds in which the training examples of an epoch are read from disk, by reading one window."""
    if data.stream is None:
        return 0.0
    begin = time.perf_counter()
    next(next(data.stream.epochs(0, 1, 0)))
    share = data.epoch / min(len(data.stream), data.stream.block * data.stream.window)
    return (time.perf_counter() - begin) * share


def _step_seconds(variant: str, config: Config, data: Data) -> tuple[float, int]:
    """Return the seconds of a training step, and the number of weights."""
    device = data.train.x.device
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(0)
        model = variants.build(variant, config, data.spec).to(device)
        optimizers = [NamedOptimizer(name, optimizer) for name, optimizer in model.optimizers().items()]
        step = torch.zeros((), device=device)
        steps = Steps(model, optimizers, step, lambda: trainer.autocast(device, model.config.precision))
        batch = data.batch(data.train, slice(0, config.batch), torch.Generator(device).manual_seed(0))
        for _ in range(EAGER + 2 if device.type == "cuda" else 1):
            steps.take(batch)
        times: list[float] = []
        while len(times) < STEPS and sum(times) < MOST:
            machine.synchronize(device)
            begin = time.perf_counter()
            steps.take(batch)
            machine.synchronize(device)
            times.append(time.perf_counter() - begin)
    weights = sum(p.numel() for p in model.parameters())
    return statistics.median(times) * config.batch / len(batch), weights


def _has_bf16(device: torch.device) -> bool:
    """Whether the device multiplies matrices of bf16 numbers by instructions of its own."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    return bool(torch.cpu._is_avx512_bf16_supported()) or bool(torch.cpu._is_amx_tile_supported())
