"""An evaluation as people get it: a progress bar, a table, a file, and what joins a run in MLflow."""

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import progress as bars
from rich.console import Console
from rich.table import Table

import variants
from pipeline import metrics
from pipeline.data import Data
from pipeline.evaluate.context import Part, Score
from variants import Variant

if TYPE_CHECKING:
    from pipeline.tracker import Run

FILE = "evaluation.json"


class Progress:
    """A bar over the parts of an evaluation, with the name of the one at work. Use it as a context manager."""

    def __init__(self, names: Sequence[str], console: Console) -> None:
        self._names = [*names, "done"]
        columns = (
            bars.TextColumn("{task.description:<16}"), bars.BarColumn(bar_width=28), bars.MofNCompleteColumn(),
            bars.TimeElapsedColumn(),
        )  # fmt: skip
        self._bars = bars.Progress(*columns, console=console)
        self._task = self._bars.add_task(self._names[0], total=len(names))

    def __enter__(self) -> "Progress":
        self._bars.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bars.stop()

    def done(self, part: Part) -> None:
        following = self._names[self._names.index(part.name) + 1]
        self._bars.update(self._task, advance=1, description=following)


def about(variant: Variant, data: Data, parts: Iterable[Part], seed: int, made: Mapping[str, str]) -> dict[str, Any]:
    """Everything that the file holds: the model, the data, the versions, and every figure."""
    return {
        "variant": variants.name_of(variant),
        "config": dataclasses.asdict(variant.config),
        "weights": sum(p.numel() for p in variant.parameters()),
        "given": variant.conditioned_on,
        "dataset": data.spec.name,
        "digest": data.digest,
        "split": "test",
        "seed": seed,
        "environment": dict(made),
        "words": [p.words for p in parts if p.words],
        "vectors": {name: values for p in parts for name, values in p.vectors.items()},
        "figures": [f.record(seed) for p in parts for f in p.scores],
    }


def write(folder: Path, parts: Iterable[Part], facts: Mapping[str, Any]) -> str:
    """Into a folder: the file, and the pictures as PNG. Returns the file's path."""
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    for part in parts:
        for name, pixels in part.pictures.items():
            Image.fromarray(pixels).save(folder / f"{name}.png")
    (folder / FILE).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    return str(folder / FILE)


def log(run: "Run", parts: Iterable[Part], facts: Mapping[str, Any]) -> str:
    """Into a run of MLflow: figures as metrics, pictures, the file, and the verdict as a tag. Returns where."""
    for part in parts:
        run.metrics({f.name: f.value for f in part.scores if f.value is not None}, 0)
        for name, pixels in part.pictures.items():
            run.picture(name, pixels, 0)
    if facts["words"]:
        run.tags({"verdict": " ".join(facts["words"])})
    run.text(FILE, json.dumps(facts, indent=2) + "\n")
    return f"run {run.id} of MLflow, in metrics, pictures and {FILE}"


def table(parts: Iterable[Part]) -> Table:
    """Every figure, with its standard error, unit and size; "—" and the reason where there is none."""
    page = Table("metric", "", "better", "unit", "n", "k")
    page.columns[0].no_wrap = page.columns[1].no_wrap = True
    page.columns[1].justify = page.columns[4].justify = page.columns[5].justify = "right"
    for part in parts:
        page.add_section()
        for figure in part.scores:
            metric = metrics.find(figure.name)
            sign = {"maximize": "higher", "minimize": "lower"}.get(metric.better, "")
            if figure.value is None:
                page.add_row(figure.name, "—", "", f"[dim]{figure.reason}[/]", "", "")
                continue
            n, k = ("" if size is None else f"{size:,}" for size in (figure.n, figure.k))
            page.add_row(figure.name, _value(figure), sign, metric.unit, n, k)
    return page


def _value(figure: Score) -> str:
    return f"{figure.value:.4g}" + (f" ± {figure.error:.2g}" if figure.error is not None else "")
