"""How fast each case trains, as one task that has the machine to itself as far as the suite is concerned.

The cases take turns, an epoch each, so that whatever else the machine does falls on all of them. Two figures:

    speed/examples_per_second   the median over rounds, after one that warms up
    speed/standard           examples trained in the time of a fixed little training of plain torch, both in their best
                                tenth of rounds: other work on the machine only ever slows down, and a slower machine
                                slows down both. This one is judged.
"""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from pipeline import final, machine, trainer, training_run
from pipeline.data import Data
from pipeline.executor import Resources
from variants import Config

ROUNDS = 31
EXAMPLES = 1000  # of the training split, at most
ECHO = "speed/examples_per_second"
JUDGED = "speed/standard"


@dataclass(frozen=True)
class Speed:
    """`cases`: name -> (variant, its config, source and digest of its data)."""

    cases: Mapping[str, tuple[str, Config, str, str]]

    def run(
        self, resources: Resources, report: Callable[[Any], None]
    ) -> tuple[dict[str, dict[str, float]], dict[str, str]]:
        """Of each case its speeds; and the environment that they were measured in."""
        device = machine.device(resources.device)
        turns = {name: self._epochs(case, device) for name, case in self.cases.items()}
        rates: dict[str, list[float]] = {name: [] for name in turns}
        fixed: list[float] = []
        reference = _Reference(device)
        for number in range(ROUNDS):
            for name, turn in turns.items():
                fixed.append(reference.seconds())
                rate = next(turn).metrics["time/examples_per_second"]
                if number:
                    rates[name].append(rate)
            report((number + 1, {}))
        unit = float(np.quantile(fixed, 0.1))
        found = {
            name: {ECHO: statistics.median(each), JUDGED: float(np.quantile(each, 0.9)) * unit}
            for name, each in rates.items()
        }
        return found, machine.environment(device, torch.get_num_threads())

    def _epochs(self, case: tuple[str, Config, str, str], device: torch.device) -> Any:
        variant, config, source, digest = case
        data = _some(training_run.cached_data(source, digest, device))
        torch.manual_seed(final.FIRST_SEED)
        made = trainer.build(variant, config, data.spec)
        return trainer.train(made, data, epochs=ROUNDS, seed=final.FIRST_SEED)


def _some(data: Data) -> Data:
    """A part of the data: whole batches of training, and little to score after each epoch."""
    return replace(data, train=data.train[slice(0, EXAMPLES)], valid=data.valid[slice(0, 50)])


class _Reference:
    """A fixed training, of plain torch and a few layers, that no change of this project touches."""

    def __init__(self, device: torch.device) -> None:
        with machine.seeded(device, 0):
            self.x = torch.rand(64, 64, device=device)
            self.net = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64)).to(device)
        self.optimizer = torch.optim.Adam(self.net.parameters(), 1e-4)

    def seconds(self) -> float:
        """Of a dozen steps."""
        begin = time.perf_counter()
        for _ in range(12):
            self.optimizer.zero_grad()
            loss = (self.net(self.x) - self.x).square().mean()
            loss.backward()
            self.optimizer.step()
        loss.item()
        return time.perf_counter() - begin
