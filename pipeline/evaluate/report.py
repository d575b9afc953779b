"""An evaluation as a table, as a file, and in a run of MLflow."""

import dataclasses
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

import variants
from pipeline import metrics
from pipeline.data import Data
from pipeline.evaluate.context import Part, Score
from variants import Variant

if TYPE_CHECKING:
    from pipeline.tracker import Run

FILE = "evaluation.json"


def about(
    variant: Variant, data: Data, parts: Iterable[Part], seed: int, environment: Mapping[str, str]
) -> dict[str, Any]:
    """Return the content of the file: the model, the data, the versions, and every score."""
    parts = list(parts)
    return {
        "variant": variants.name_of(variant),
        "config": dataclasses.asdict(variant.config),
        "weights": sum(p.numel() for p in variant.parameters()),
        "conditioned_on": variant.conditioned_on,
        "dataset": data.spec.name,
        "digest": data.digest,
        "split": "test",
        "seed": seed,
        "environment": dict(environment),
        "words": [p.remark for p in parts if p.remark],
        "vectors": {name: values for p in parts for name, values in p.vectors.items()},
        "scores": [score.record(seed) for p in parts for score in p.scores],
    }


def write(folder: Path, parts: Iterable[Part], facts: Mapping[str, Any]) -> str:
    """Write the file, and the pictures as PNG, into a folder. Return the path of the file."""
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    for part in parts:
        for name, pixels in part.pictures.items():
            Image.fromarray(pixels).save(folder / f"{name}.png")
    (folder / FILE).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    return str(folder / FILE)


def log(run: "Run", parts: Iterable[Part], facts: Mapping[str, Any]) -> str:
    """Log the scores, the pictures, the file, and the remarks as a tag, to a run of MLflow. Return where they are."""
    for part in parts:
        run.metrics({s.name: s.value for s in part.scores if s.value is not None}, 0)
        for name, pixels in part.pictures.items():
            run.picture(name, pixels, 0)
    if facts["words"]:
        run.tags({"verdict": "; ".join(facts["words"])})
    run.text(FILE, json.dumps(facts, indent=2) + "\n")
    return f"run {run.id} of MLflow, in metrics, pictures and {FILE}"


def table(parts: Iterable[Part]) -> Table:
    """Return a table of all scores with their standard errors, units and sizes; "—" and the reason if undefined."""
    page = Table("metric", "", "better", "unit", "n", "k")
    page.columns[0].no_wrap = page.columns[1].no_wrap = True
    page.columns[1].justify = page.columns[4].justify = page.columns[5].justify = "right"
    for part in parts:
        page.add_section()
        for score in part.scores:
            metric = metrics.find(score.name)
            better = {"maximize": "higher", "minimize": "lower"}.get(metric.better, "")
            if score.value is None:
                page.add_row(score.name, "—", "", f"[dim]{score.reason}[/]", "", "")
                continue
            n, k = ("" if size is None else f"{size:,}" for size in (score.n, score.k))
            page.add_row(score.name, _value(score), better, metric.unit, n, k)
    return page


def _value(score: Score) -> str:
    return f"{score.value:.4g}" + (f" ± {score.error:.2g}" if score.error is not None else "")
