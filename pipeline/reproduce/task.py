"""An anchor with one seed, as a task of an engine."""

import json
import re
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline import machine
from pipeline.executor import Resources
from pipeline.reproduce import training
from pipeline.reproduce.measure import MEASURES
from pipeline.tracker import Address, Tracker
from studies.anchors import ANCHORS

FOLDER = Path("checkpoints")


@dataclass(frozen=True, kw_only=True)
class AnchorTask:
    """An anchor with one seed, as a task: its trainings, and what is measured of them."""

    name: str
    form: str
    seed: int
    dataset: str  # the experiment
    address: Address
    tags: Mapping[str, str]
    parent: str | None = None  # a run below which this one stands

    @property
    def folder(self) -> Path:
        """Checkpoints and the result, until whoever asked takes them away."""
        return self.place(self.name, self.form, self.seed)

    @staticmethod
    def place(name: str, form: str, seed: int) -> Path:
        return FOLDER / f"{name}-{form}-{seed}"

    def run(self, resources: Resources, report: Callable[[Any], None]) -> dict[str, float]:
        folder = self.folder
        known, result = folder / "run.json", folder / "result.json"
        machine.writable(folder)
        if result.exists():  # of this command, when it was cut off in another seed
            return dict(json.loads(result.read_text()))
        if not known.exists():
            known.write_text(json.dumps({"key": uuid.uuid4().hex}))
        anchor = ANCHORS[self.name]
        budget = anchor.budgets[self.form]
        tracker = Tracker(self.dataset, self.address)
        about = {**self.tags, "kind": "reproduce", "seed": str(self.seed)}
        device = machine.device(resources.device)
        key = json.loads(known.read_text())["key"]
        with tracker.run(f"{self.name} {self.form} {self.seed}", about, parent=self.parent, key=key) as run:
            models = {
                name: training.train(
                    each, self.seed, device, tracker, run, f"{self.name} {name} {self.seed}",
                    folder / f"{name}.safetensors",
                    lambda epoch, name=name: report((name, epoch.number, epoch.metrics)),  # type: ignore[misc]
                    dict(self.tags),
                )
                for name, each in budget.trainings.items()
            }  # fmt: skip
            report(("", 0, {}))
            found = dict(MEASURES[anchor.measure](models, **budget.options))
            run.metrics({f"anchor/{plain(name)}": value for name, value in found.items()}, 0)
            facts = {"measured": found, "published": dict(anchor.published)}
            run.text("anchor/result.json", json.dumps(facts, indent=2))
        result.write_text(json.dumps(found))
        return found


def plain(name: str) -> str:
    """A name that MLflow takes for a metric."""
    return re.sub(r"[^\w\-. /]+", "", name)
