"""How fast each case trains. All cases are timed by one task, so that they run under the same conditions.

The cases take turns, one epoch each, so that other work on the machine slows all of them down. Two metrics come of it:

    speed/examples_per_second   the median over the rounds after the first one, which warms up
    speed/standard              examples trained in the time of a small fixed training in plain torch, both at their
                                fastest tenth of rounds. Other work can only slow a training down, and a slower machine
                                slows down both trainings. Verdicts rest on this metric.
"""

import statistics
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

import variants
from pipeline import machine, trainer, training_run
from pipeline.benchmark.history import SPEED
from pipeline.data import Data, Source
from pipeline.executor import Report, Resources
from pipeline.trainer import Epoch
from variants import Config

ROUNDS = 31
EXAMPLES = 1000  # of the training split, at most
TimedCase = tuple[str, Config, Source, str]  # variant, its configuration, source and digest of its data


@dataclass(frozen=True)
class SpeedTask:
    """Time the trainings of all cases, as a task of an executor."""

    title, steps = "speed", ROUNDS
    cases: Mapping[str, TimedCase]

    def run(self, resources: Resources, report: Report) -> tuple[dict[str, dict[str, float]], dict[str, str]]:
        """Return the metrics of each case, and the environment in which they were measured."""
        device = machine.device(resources.device)
        trainings = {name: _epochs(case, device) for name, case in self.cases.items()}
        rates: dict[str, list[float]] = {name: [] for name in trainings}
        reference_seconds: list[float] = []
        reference = _Reference(device)
        for number in range(ROUNDS):
            for name, epochs in trainings.items():
                reference_seconds.append(reference.seconds())
                rate = next(epochs).metrics["time/examples_per_second"]
                if number:
                    rates[name].append(rate)
            report((number + 1, ""))
        unit = float(np.quantile(reference_seconds, 0.1))
        medians = {name: statistics.median(each) for name, each in rates.items()}
        standard = {name: float(np.quantile(each, 0.9)) * unit for name, each in rates.items()}
        speeds = {n: {f"{SPEED}examples_per_second": medians[n], f"{SPEED}standard": standard[n]} for n in rates}
        return speeds, machine.environment(device, torch.get_num_threads())


def _epochs(case: TimedCase, device: torch.device) -> Iterator[Epoch]:
    name, config, source, digest = case
    data = _subset(training_run.cached_data(source, digest, device))
    torch.manual_seed(training_run.FIRST_FINAL_SEED)
    variant = variants.build(name, config, data.spec)
    return trainer.train(variant, data, epochs=ROUNDS, seed=training_run.FIRST_FINAL_SEED)


def _subset(data: Data) -> Data:
    """Return data with fewer training examples, and with few to score after each epoch."""
    return replace(data, train=data.train[slice(0, EXAMPLES)], valid=data.valid[slice(0, 50)])


class _Reference:
    """A fixed training of a few layers in plain torch, which no change of this project affects."""

    def __init__(self, device: torch.device) -> None:
        with machine.seeded(device, 0):
            self.x = torch.rand(64, 64, device=device)
            self.net = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64)).to(device)
        self.optimizer = torch.optim.Adam(self.net.parameters(), 1e-4)

    def seconds(self) -> float:
        """Train for twelve steps, and return how long that took."""
        begin = time.perf_counter()
        for _ in range(12):
            self.optimizer.zero_grad()
            loss = (self.net(self.x) - self.x).square().mean()
            loss.backward()
            self.optimizer.step()
        loss.item()
        return time.perf_counter() - begin
