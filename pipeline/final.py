"""A final: one configuration, trained on a seed that no search saw, scored once on the test split, and kept.

What a final is follows from its key alone: variant, configuration, data, budget, seed and what is measured. Whoever
asks for one that exists already gets that run.
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from pipeline import evaluate, machine, pictures, trainer
from pipeline.data import Data
from pipeline.evaluate import report, subject, suite
from pipeline.tracker import Record, Run, Tracker, views
from pipeline.trainer import Diverged, Epoch
from variants import Config

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


def existing(final: Final, data: Data, tracker: Tracker) -> Record | None:
    """The run of this final, where one has ended by itself."""
    found = tracker.find(kind="final", key=final.key(data))
    return next((r for r in found if r.tags.get("state") in DONE), None)


def run(
    final: Final, data: Data, tracker: Tracker, parent: Run | None, tags: Mapping[str, str],
    show: Callable[[Epoch], None] = lambda epoch: None,
) -> Record:  # fmt: skip
    """The run of this final: as it stands, or trained and scored now. One that diverges is a failed run.

    `data` lie on the device to be used, `tags` join the run's own.
    """
    ready = existing(final, data, tracker)
    if ready:
        return ready
    own = {
        **tags, "kind": "final", "variant": final.variant, "dataset": data.spec.name, "seed": str(final.seed),
        "key": final.key(data), "config": final.config_key,
    }  # fmt: skip
    with tracker.run(f"{final.variant} seed {final.seed}", own, parent=parent) as run:
        try:
            _train(final, data, run, show)
        except (Diverged, torch.OutOfMemoryError) as error:
            run.state = "failed"
            run.tags({"reason": str(error)})
    made = existing(final, data, tracker)
    assert made is not None
    return made


def _train(final: Final, data: Data, run: Run, show: Callable[[Epoch], None]) -> None:
    torch.manual_seed(final.seed)
    variant = trainer.build(final.variant, final.config, data.spec)
    weights = sum(p.numel() for p in variant.parameters())
    run.params({**dataclasses.asdict(final.config), "epochs": final.epochs, "weights": weights})
    run.dataset(data)
    if variant.given:
        run.tags({"given": variant.given})
    best = last = None
    seconds = 0.0
    for last in trainer.train(variant, data, epochs=final.epochs, seed=final.seed, patience=final.patience):
        best = last if last.best or best is None else best
        seconds += last.metrics["time/train_seconds"] + last.metrics["time/valid_seconds"]
        run.metrics(last.metrics, last.number)
        show(last)
    assert best and last, "a training has at least one epoch"
    kl = best.vectors.get("kl_per_dimension")
    kept = {k: v for k, v in best.metrics.items() if k.startswith("valid/")}
    scores = {**kept, **evaluate.cheap(variant, data, kl), "time/trial_seconds": seconds}
    end = last.number + (not last.best)
    run.metrics(scores, end)
    for name, pixels in pictures.all_of(variant, data, kl).items():
        run.picture(name, pixels, views.PICTURE_STEP)
    parts = list(suite.run(variant, data, sizes=final.sizes, only=final.parts))
    facts = report.about(variant, data, parts, 0, machine.environment(data.train.x.device, torch.get_num_threads()))
    report.log(run, parts, facts)
    tested = {f.name: f.value for p in parts for f in p.figures if f.value is not None}
    run.model(variant, {**kept, **tested}, best.number)
