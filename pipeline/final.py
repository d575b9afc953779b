"""A final: one configuration, trained on a seed that no search saw, scored once on the test split, and kept.

What a final is follows from its key alone: variant, configuration, data, budget, seed and what is measured. Whoever
asks for one that exists already gets that run.
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from pipeline import attempt, machine
from pipeline import engine as engines
from pipeline.attempt import Attempt
from pipeline.data import Data
from pipeline.engine import Ended, Engine, Place
from pipeline.evaluate import report, subject, suite
from pipeline.progress import Display
from pipeline.tracker import Address, Record, Run, Tracker
from variants import Config, InputError

FIRST_SEED = 10_000  # of finals: searches count from their own seed, and never come here
DONE = ("complete", "failed")  # a training that diverged would diverge again


@dataclass(frozen=True)
class Final:
    """What is to be trained, and how it is scored. `parts` are those of `suite.PARTS`."""

    variant: str
    config: Config
    epochs: int
    patience: int
    seed: int
    sizes: subject.Sizes
    parts: tuple[str, ...]

    def key(self, data: Data) -> str:
        facts = {**dataclasses.asdict(self), "digest": data.digest}
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def config_key(self) -> str:
        return config_key(self.variant, self.config)


def config_key(variant: str, config: Config) -> str:
    """The same for all seeds of one configuration."""
    facts = [variant, dataclasses.asdict(config)]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:8]


def existing(tracker: Tracker) -> dict[str, Record]:
    """The runs of all finals that ended by themselves, by their keys."""
    return {r.tags["key"]: r for r in tracker.find(kind="final") if r.tags.get("state") in DONE}


def train(engine: Engine, missing: "Mapping[str, Task]", ready: int, display: Display) -> None:
    """Train and score what is missing; `ready` is how many there are already."""
    left = list(missing.items())

    def ask() -> "tuple[str, Task] | None":
        if not left:
            return None
        key, task = left.pop(0)
        bar.began(key, f"{task.final.variant} seed {task.final.seed}", task.final.epochs)
        return key, task

    def ended(end: Ended) -> None:
        if end.died:
            raise InputError(f"a final was given up after {engines.DEATHS} processes died at it: {end.died}")
        bar.ended(end.key)

    with display.finals(len(missing), ready) as bar:
        engines.drive(engine, ask, bar.show, ended)


@dataclass(frozen=True)
class Task:
    """A final to be trained and scored, in whatever process. One that diverges is a failed run.

    `data` are loaded by their `source`; `tags` join the run's own. `keep` says whether the model and pictures of it
    are wanted, beside the figures.
    """

    final: Final
    key: str
    source: str
    digest: str
    dataset: str  # the experiment
    address: Address
    parent: str
    tags: Mapping[str, str]
    keep: bool = True

    def run(self, place: Place, show: Callable[[Any], None]) -> None:
        final = self.final
        data = attempt.held(self.source, self.digest, machine.device(place.device))
        own = {
            **self.tags, "kind": "final", "variant": final.variant, "dataset": data.spec.name,
            "seed": str(final.seed), "config": final.config_key,
        }  # fmt: skip
        training = attempt.Training(final.variant, final.config, final.epochs, final.patience, final.seed)
        tracker = Tracker(self.dataset, self.address)
        name = f"{final.variant} seed {final.seed}"
        with tracker.run(name, own, parent=self.parent, key=self.key) as run:
            try:
                self._train(Attempt(training, data, run), data, run, show)
            except Exception as error:
                attempt.failed(run, error)

    def _train(self, made: Attempt, data: Data, run: Run, show: Callable[[Any], None]) -> None:
        for last in made.epochs():
            show((last.number, last.metrics))
        if self.keep:
            made.scores()
        parts = list(suite.run(made.variant, data, sizes=self.final.sizes, only=self.final.parts))
        device = data.train.x.device
        facts = report.about(made.variant, data, parts, 0, machine.environment(device, torch.get_num_threads()))
        report.log(run, parts, facts)
        if self.keep:
            tested = {f.name: f.value for p in parts for f in p.figures if f.value is not None}
            run.model(made.variant, {**made.kept, **tested}, made.best_epoch)
