"""An evaluation as a table, as files, and in a run of MLflow."""

import dataclasses
import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.table import Table

import variants
from pipeline import metrics
from pipeline.data import Data
from pipeline.evaluate.context import Part, Score
from variants import Variant

if TYPE_CHECKING:
    import pandas as pd

    from pipeline.tracker import Run

FILE = "evaluation.json"
ROWS = "rows.parquet"
TABLE = "scores.json"  # shown as a table on the page of a run
MOST_ROWS = 40  # of a table on the terminal


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
        "tables": {name: columns for p in parts for name, columns in p.tables.items()},
        "scores": [score.record(seed) for p in parts for score in p.scores],
    }


def rows(data: Data, parts: Iterable[Part]) -> "pd.DataFrame":
    """Return the scores of each test example, which are NaN for an example that was not scored.

    The column `row` is the position of the example in its source, counted from 0, or in the test split for data that do
    not know it. The others are:

    elbo, reconstruction, kl    nats, as in `test/elbo`: means over the draws of z
    iw, ais                     log p(x), nats, by the importance weighted bound and by annealing
    baseline_NAME               log p(x), nats, under a simple baseline model
    label                       the class, counted from 0
    correct                     1 if the probe of `probe/test_accuracy` predicts this class, else 0
    correct_NAME                the same for a trivial probe: `raw`, `untrained` or `majority`
    """
    import pandas as pd

    row = np.arange(len(data.test)) if data.test_rows is None else data.test_rows.numpy()
    return pd.DataFrame({"row": row, **{name: column for part in parts for name, column in part.rows.items()}})


def write(folder: Path, parts: Iterable[Part], facts: Mapping[str, Any], rows: "pd.DataFrame") -> str:
    """Write the file, the scores of each example, and the pictures as PNG, into a folder. Return the file's path."""
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    for part in parts:
        for name, pixels in part.pictures.items():
            Image.fromarray(pixels).save(folder / f"{name}.png")
    rows.to_parquet(folder / ROWS, index=False)
    (folder / FILE).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    return str(folder / FILE)


def log(run: "Run", parts: Sequence[Part], facts: Mapping[str, Any], rows: "pd.DataFrame") -> str:
    """Log the scores, the pictures, the files, and the remarks as a tag, to a run of MLflow. Return where they are."""
    for part in parts:
        run.metrics({s.name: s.value for s in part.scores if s.value is not None}, 0)
        for name, pixels in part.pictures.items():
            run.picture(name, pixels, 0)
        for name, columns in part.tables.items():
            run.table(f"{name}.json", columns)
    if facts["words"]:
        run.tags({"verdict": "; ".join(facts["words"])})
    run.text(FILE, json.dumps(facts, indent=2) + "\n")
    run.parquet(ROWS, rows)
    scores = [score for part in parts for score in part.scores if score.value is not None]
    run.table(TABLE, {
        "metric": [s.name for s in scores], "value": [s.value for s in scores],
        "standard error": [s.error for s in scores], "n": [s.n for s in scores], "k": [s.k for s in scores],
        "unit": [metrics.find(s.name).unit for s in scores],
    })  # fmt: skip
    return f"run {run.id} of MLflow, in metrics, pictures, {FILE}, {TABLE} and {ROWS}"


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


def other_table(name: str, columns: Mapping[str, list[Any]]) -> Table:
    """Return the first rows of one of the `tables` of a part; "—" where it has no value.

    A column NAME_error is shown as the standard error of the column NAME.
    """
    shown = with_errors(columns)
    n = len(next(iter(shown.values())))
    left_out = f" (the first {MOST_ROWS} of {n:,} rows; {FILE} has all)" if n > MOST_ROWS else ""
    page = Table(*shown, title=f"{name.replace('_', ' ')}{left_out}", title_justify="left")
    for row in itertools.islice(zip(*shown.values(), strict=True), MOST_ROWS):
        page.add_row(*row)
    return page


def with_errors(columns: Mapping[str, list[Any]]) -> dict[str, list[str]]:
    """Return the columns of a table as texts, with each column NAME_error joined to the column NAME, after a ±."""
    texts = {name: ["—" if v is None else _text(v) for v in values] for name, values in columns.items()}
    joined = {name: values for name, values in texts.items() if name.removesuffix("_error") not in {*texts} - {name}}
    for name, values in joined.items():
        if f"{name}_error" in columns:
            errors = ["" if error is None else f" ± {error:.2g}" for error in columns[f"{name}_error"]]
            joined[name] = [value + error for value, error in zip(values, errors, strict=True)]
    return joined


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _value(score: Score) -> str:
    return f"{score.value:.4g}" + (f" ± {score.error:.2g}" if score.error is not None else "")
