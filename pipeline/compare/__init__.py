"""Compares variants on a data set: which one, with which settings, and how certain the answer is.

criteria     what the variants are compared by, and what a difference has to exceed to matter
statistics   means, intervals and probabilities on plain arrays
formats      numbers as text
analysis     leaderboards, verdicts on every pair of variants, and conclusions in sentences
request      what a user asks for
searches     a study of each variant, and the configurations that are chosen on validation data
remarks      warnings, and notes beside single scores
protocol     repetitions of the searches, finals on fresh seeds, and the results
sentences    the answers at the top of the report
tables       the tables of the report
figures      the figures of the report
examples     the same test examples by every variant
report       the report as one HTML file, and what is logged to MLflow
across       ranks over several data sets

`load("digits")` returns the tracked scores as pandas frames, for plots of your own.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

if TYPE_CHECKING:
    from pipeline.tracker import Record, Tracker

__all__ = ["Frames", "curves", "load"]

CURVES = ("train/elbo", "train/reconstruction", "train/kl", "valid/elbo", "valid/reconstruction", "valid/kl")


@dataclass(frozen=True)
class Frames:
    """The runs of a data set as tidy tables. Metrics keep their names, and are NaN where they are undefined.

    `finals` has a row for each final: run, variant, config, seed, state, params and metrics. `trials` has a row for
    each trial, also with the study and the number of the trial. `curves` has a row for each epoch of a final: run,
    variant, config, seed, epoch and metrics.
    """

    finals: pd.DataFrame
    trials: pd.DataFrame
    curves: pd.DataFrame


def load(dataset: str) -> Frames:
    """Load the runs of a data set from the store of MLFLOW_TRACKING_URI, or else from `mlflow.db`.

    The trials include those on the same images row by row (`pipeline.data.as_sequences`).

    Raises:
        InputError: If the store cannot be opened.
    """
    from pipeline import data
    from pipeline.tracker import Tracker

    tracker = Tracker(dataset)
    rows = data.as_sequences(dataset)
    trackers = [tracker, Tracker(rows)] if rows else [tracker]
    finals = tracker.find(kind="final")
    points = [
        {"run": r.id, **{tag: r.tags.get(tag) for tag in ("variant", "config", "seed")}, "epoch": epoch, **values}
        for r in finals
        for epoch, values in sorted(curves(tracker, r.id, CURVES).items())
    ]
    trials = [_row(r, "variant", "study", "trial", "seed", "state") for t in trackers for r in t.find(kind="trial")]
    return Frames(
        pd.DataFrame([_row(r, "variant", "config", "seed", "state", "reason") for r in finals]),
        pd.DataFrame(trials),
        pd.DataFrame(points),
    )


def curves(tracker: "Tracker", run_id: str, metrics: Sequence[str]) -> dict[int, dict[str, float]]:
    """Return the values of metrics of a run by epoch."""
    values: dict[int, dict[str, float]] = {}
    for metric in metrics:
        for epoch, value in tracker.curve(run_id, metric):
            values.setdefault(epoch, {})[metric] = value
    return values


def _row(record: "Record", *tags: str) -> dict[str, Any]:
    params = {name: _number(text) for name, text in record.params.items()}
    return {
        "run": record.id, **{tag: record.tags.get(tag) for tag in tags}, "model": record.model, **params,
        **record.metrics,
    }  # fmt: skip


def _number(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
