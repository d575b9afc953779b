"""Finals: chosen configurations that are trained again on seeds that no search used, and scored once on the test split.

The key of a final is a hash of everything that decides its result: the variant, the configuration, the data, the
budget, the seed and what is measured. A final whose key is already in MLflow is not trained again.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from pipeline import executor as executors
from pipeline import machine, training_run
from pipeline.data import Data, Source
from pipeline.evaluate import context, suite
from pipeline.evaluate import report as evaluation
from pipeline.executor import Executor, Report, Resources
from pipeline.progress import Display
from pipeline.tracker import Address, Record, Run, Tracker
from pipeline.training_run import TrainingRun
from variants import Config

NEW_PARAMETERS = ("precision",)  # hyperparameters that were added after the first finals were stored
SCORES_VERSION = 2  # finals that were scored by an older version lack scores, and are trained and scored again
DONE = ("complete", "failed")  # a final that failed is not repeated: a training that diverged would diverge again


@dataclass(frozen=True, kw_only=True)
class Final:
    """A configuration with its budget and seed, and how it is scored: `parts` are names in `suite.PARTS`."""

    variant: str
    config: Config
    epochs: int
    patience: int
    seed: int
    sizes: context.Sizes
    parts: tuple[str, ...]

    def key(self, data: Data) -> str:
        """Return the hash by which this final on these data is found in MLflow."""
        sizes = dataclasses.asdict(self.sizes)
        del sizes["ais_operations"]  # which only leaves a score out, and was added after the first finals were stored
        facts = {
            **dataclasses.asdict(self), "sizes": sizes, "scores": SCORES_VERSION, "config": _hashed(self.config),
            "digest": data.digest,
        }  # fmt: skip
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def config_key(self) -> str:
        return config_key(self.variant, self.config)


def config_key(variant: str, config: Config) -> str:
    """Return a hash of a configuration, which finals of all seeds share."""
    facts = [variant, _hashed(config)]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:8]


def _hashed(config: Config) -> dict[str, Any]:
    """Return the values that are hashed, without new hyperparameters at their default, so that old keys stay valid."""
    fields = [(f, getattr(config, f.name)) for f in dataclasses.fields(config)]
    return {f.name: value for f, value in fields if f.name not in NEW_PARAMETERS or value != f.default}


def existing(tracker: Tracker) -> dict[str, Record]:
    """Return the runs of all finals that were completed or have failed, by their keys."""
    return {r.tags["key"]: r for r in tracker.find(kind="final") if r.tags.get("state") in DONE}


def train(executor: Executor, missing: "Mapping[str, FinalTask]", ready: int, display: Display) -> None:
    """Train and score the finals that are missing. `ready` is the number of those that exist already."""
    note = f"; {ready} are already in MLflow" if ready else ""
    display.say(f"{len(missing)} finals to train on fresh seeds and score on the test split{note}")
    with display.progress("finals", len(missing) + ready, ready) as progress:
        ended = executors.run_with_progress(executor, missing, progress)
    for key, end in ended.items():
        end.result_of(missing[key].title)


@dataclass(frozen=True, kw_only=True)
class FinalTask:
    """Trains and scores a final, in any process. If the training diverges, its run is marked as failed.

    `source` is that of the data, and `digest` is the digest that they must have. `dataset` is the
    MLflow experiment. If `keep` is true, the model and pictures of it are kept beside the scores.
    """

    final: Final
    key: str
    source: Source
    digest: str
    dataset: str
    address: Address
    parent: str
    tags: Mapping[str, str]
    keep: bool = True

    @property
    def title(self) -> str:
        return f"{self.final.variant} seed {self.final.seed}"

    @property
    def steps(self) -> int:
        return self.final.epochs

    def run(self, resources: Resources, report: Report) -> None:
        final = self.final
        data = training_run.cached_data(self.source, self.digest, machine.device(resources.device))
        tags = {
            **self.tags, "kind": "final", "variant": final.variant, "dataset": data.spec.name,
            "seed": str(final.seed), "config": final.config_key,
        }  # fmt: skip
        plan = training_run.TrainingPlan(
            variant=final.variant, config=final.config, epochs=final.epochs, patience=final.patience, seed=final.seed
        )
        tracker = Tracker(self.dataset, self.address)
        with tracker.run(self.title, tags, parent=self.parent, key=self.key) as run:
            try:
                self._train(TrainingRun(plan, data, run), run, report)
            except Exception as error:
                training_run.failed(run, error)

    def _train(self, training: TrainingRun, run: Run, report: Report) -> None:
        for epoch in training.epochs():
            report((epoch.number, epoch.summary()))
        if self.keep:
            training.remark(training.scores(), {})
        variant, data = training.variant, training.data
        parts = list(suite.run(variant, data, sizes=self.final.sizes, only=self.final.parts))
        environment = machine.environment(data.train.x.device, torch.get_num_threads())
        about = evaluation.about(variant, data, parts, 0, environment)
        evaluation.log(run, parts, about, evaluation.rows(data, parts))
        if self.keep:
            test_scores = {score.name: score.value for p in parts for score in p.scores if score.value is not None}
            run.model(variant, data, {**training.kept, **test_scores}, training.best_epoch)
