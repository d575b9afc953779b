"""Trains the models of an anchor with one seed and measures them, as one task of an executor."""

import hashlib
import json
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import variants
from pipeline import data as datasets
from pipeline import machine
from pipeline.data import Data, Source
from pipeline.executor import Report, Resources
from pipeline.metrics import mlflow_name
from pipeline.reproduce import holes
from pipeline.reproduce.measure import MEASURES
from pipeline.tracker import Address, Tracker
from pipeline.training_run import TrainingPlan, TrainingRun
from studies.anchors import ANCHORS, Training
from variants import Config, DataSpec, InputError

FOLDER = Path("checkpoints")


def checkpoint_folder(anchor: str, budget: str, seed: int) -> Path:
    """Return the folder that holds an anchor's checkpoints and scores until all seeds of a command are measured.

    Its name depends on the settings of the trainings: after these are changed, training starts afresh.
    """
    settings = hashlib.sha256(repr(ANCHORS[anchor].budgets[budget]).encode()).hexdigest()[:8]
    return FOLDER / f"{anchor}-{budget}-{seed}-{settings}"


def prepared(training: Training, seed: int = 0) -> Data:
    """Return the data of a training; the seed chooses hidden values. Raises `InputError` if they cannot be found."""
    if training.hidden:
        return holes.hidden(holes.complete(training.dataset, training.likelihood), training.hidden, seed)
    source = training.dataset
    if "/" in source:
        paths = [folder / source for folder in datasets.search_folders()]
        path = next((p for p in paths if p.exists()), None)
        if path is None:
            raise InputError(f"{source} is in none of the data folders; name a folder that holds it in VARIANTS_DATA")
        source = str(path)
    data = datasets.load(Source(place=source, likelihood=training.likelihood), binarized=not training.grey)
    if training.labels:
        data = data.with_labels(training.labels)
    return data.only_most_frequent_class() if training.normal else data


def check(trainings: Iterable[Training]) -> DataSpec:
    """Raise `InputError` if any of the trainings cannot start. Returns the data spec of the first one."""
    specs = []
    for training in trainings:
        specs.append(prepared(training).spec)
        variants.build(training.variant, _config(training), specs[-1])
    return specs[0]


def _config(training: Training) -> Config:
    return variants.get(training.variant).config_type(**training.settings)


@dataclass(frozen=True, kw_only=True)
class AnchorTask:
    """Trains the models of an anchor with one seed, and measures them on the test split.

    It reports (epochs so far, a note) after each epoch. If it is interrupted and run again, it continues from its
    checkpoints, loads the models that are trained, and does not measure anything twice.
    """

    name: str  # of the anchor
    budget: str  # the name of one of its budgets
    seed: int
    dataset: str  # the MLflow experiment
    address: Address
    tags: Mapping[str, str]
    parent: str | None = None

    @property
    def title(self) -> str:
        return f"{self.name} seed {self.seed}"

    @property
    def steps(self) -> int:
        """The number of epochs of all trainings."""
        return sum(t.epochs for t in ANCHORS[self.name].budgets[self.budget].trainings.values())

    @property
    def folder(self) -> Path:
        return checkpoint_folder(self.name, self.budget, self.seed)

    def run(self, resources: Resources, report: Report) -> dict[str, float]:
        """Return the scores by name."""
        machine.writable(self.folder)
        key_file, result = self.folder / "key", self.folder / "result.json"
        if result.exists():  # another seed of the same command was interrupted after this one had ended
            return dict(json.loads(result.read_text()))
        if not key_file.exists():
            key_file.write_text(uuid.uuid4().hex)
        key = key_file.read_text()
        anchor, device = ANCHORS[self.name], machine.device(resources.device)
        budget = anchor.budgets[self.budget]
        tracker = Tracker(self.dataset, self.address)
        tags = {**self.tags, "kind": "reproduce", "seed": str(self.seed)}
        with tracker.run(f"{self.name} {self.budget} {self.seed}", tags, parent=self.parent, key=key) as run:
            models: dict[str, TrainingRun] = {}
            epochs = 0
            for name, training in budget.trainings.items():
                title, child_tags = f"{self.name} {name} {self.seed}", {**tags, "variant": training.variant}
                with tracker.run(title, child_tags, parent=run.id, key=f"{key}-{name}") as child:
                    plan = TrainingPlan(
                        variant=training.variant, config=_config(training), epochs=training.epochs,
                        patience=training.patience, seed=self.seed, lr_schedule=training.schedule,
                    )  # fmt: skip
                    path = self.folder / f"{name}.safetensors"
                    models[name] = model = TrainingRun(plan, prepared(training, self.seed).to(device), child, path)
                    for epoch in model.epochs():
                        report((epochs + epoch.number, f"{name}  {epoch.summary()}"))
                    logged = path.with_suffix(".logged")
                    if not logged.exists():
                        child.model(model.variant, model.data, model.scores(), model.best_epoch)
                        logged.touch()
                epochs += training.epochs
            report((epochs, "measuring on the test split"))
            scores = dict(MEASURES[anchor.measure](models, **budget.options))
            run.metrics({f"anchor/{mlflow_name(name)}": value for name, value in scores.items()}, 0)
            facts = {"measured": scores, "published": dict(anchor.published)}
            run.text("anchor/result.json", json.dumps(facts, indent=2))
        result.write_text(json.dumps(scores))
        return scores
