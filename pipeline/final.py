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

from pipeline import executor as executors
from pipeline import machine, training_run
from pipeline.data import Data
from pipeline.evaluate import context, suite
from pipeline.evaluate import report as evaluation
from pipeline.executor import Ended, Executor, Resources
from pipeline.progress import Display
from pipeline.tracker import Address, Record, Run, Tracker
from pipeline.training_run import TrainingRun
from variants import Config, InputError

FIRST_SEED = 10_000  # of finals: searches count from their own seed, and never come here
DONE = ("complete", "failed")  # a training that diverged would diverge again


@dataclass(frozen=True, kw_only=True)
class Final:
    """What is to be trained, and how it is scored. `parts` are those of `suite.PARTS`."""

    variant: str
    config: Config
    epochs: int
    patience: int
    seed: int
    sizes: context.Sizes
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


def train(executor: Executor, missing: "Mapping[str, FinalTask]", ready: int, display: Display) -> None:
    """Train and score what is missing; `ready` is how many there are already."""
    left = list(missing.items())

    def ask() -> "tuple[str, FinalTask] | None":
        if not left:
            return None
        key, task = left.pop(0)
        bar.began(key, f"{task.final.variant} seed {task.final.seed}", task.final.epochs)
        return key, task

    def ended(end: Ended) -> None:
        if end.died:
            raise InputError(f"a final was given up after {executors.MAX_DEATHS} processes died at it: {end.died}")
        bar.ended(end.key)

    with display.finals(len(missing), ready) as bar:
        executors.run_all(executor, ask, bar.show, ended)


@dataclass(frozen=True, kw_only=True)
class FinalTask:
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

    def run(self, resources: Resources, report: Callable[[Any], None]) -> None:
        final = self.final
        data = training_run.cached_data(self.source, self.digest, machine.device(resources.device))
        own = {
            **self.tags, "kind": "final", "variant": final.variant, "dataset": data.spec.name,
            "seed": str(final.seed), "config": final.config_key,
        }  # fmt: skip
        training = training_run.TrainingPlan(
            variant=final.variant, config=final.config, epochs=final.epochs, patience=final.patience, seed=final.seed
        )
        tracker = Tracker(self.dataset, self.address)
        name = f"{final.variant} seed {final.seed}"
        with tracker.run(name, own, parent=self.parent, key=self.key) as run:
            try:
                self._train(TrainingRun(training, data, run), data, run, report)
            except Exception as error:
                training_run.failed(run, error)

    def _train(self, made: TrainingRun, data: Data, run: Run, report: Callable[[Any], None]) -> None:
        for last in made.epochs():
            report((last.number, last.metrics))
        if self.keep:
            made.scores()
        parts = list(suite.run(made.variant, data, sizes=self.final.sizes, only=self.final.parts))
        device = data.train.x.device
        facts = evaluation.about(made.variant, data, parts, 0, machine.environment(device, torch.get_num_threads()))
        evaluation.log(run, parts, facts)
        if self.keep:
            tested = {f.name: f.value for p in parts for f in p.scores if f.value is not None}
            run.model(made.variant, {**made.kept, **tested}, made.best_epoch)
