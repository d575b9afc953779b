"""Which variant, with which settings, for my data, and how sure.

statistics   estimates, intervals and tests, on plain arrays
analysis     from scores of finals to leaderboards, pairs and verdicts in words
protocol     equal budgets, a choice on validation data, fresh seeds, one look at the test split
figures      the figures of the report
report       one HTML file, its tables, what joins MLflow
across       ranks over several data sets

`load("digits")` gives what was tracked as pandas frames, for plots of your own.
"""

from dataclasses import dataclass
from typing import Any

import pandas as pd

__all__ = ["Frames", "load"]


@dataclass(frozen=True)
class Frames:
    """Tidy tables of what MLflow holds on a data set. Metrics keep their names; what is undefined is NaN.

    `finals`: a row a final, with run, variant, config, seed, state, params and metrics. `trials`: a row a trial, with
    study and trial number as well. `curves`: a row an epoch of a final: run, variant, config, seed, epoch, metrics.
    """

    finals: pd.DataFrame
    trials: pd.DataFrame
    curves: pd.DataFrame


CURVES = ("train/elbo", "train/reconstruction", "train/kl", "valid/elbo", "valid/reconstruction", "valid/kl")


def load(dataset: str) -> Frames:
    """What was tracked of a data set, from the store of MLFLOW_TRACKING_URI or `mlflow.db` here.

    Trials of a variant that takes images row by row (`vrae`) are those of DATASET-rows, and are among them. Raises
    `InputError` where the store cannot be opened.
    """
    from pipeline import data
    from pipeline.tracker import Record, Tracker

    tracker = Tracker(dataset)
    sources = [tracker, *(Tracker(rows) for rows in [f"{dataset}-rows"] if rows in data.names())]

    def row(record: Record, *tags: str) -> dict[str, Any]:
        known = {name: record.tags.get(name) for name in tags}
        params = {k: _number(v) for k, v in record.params.items()}
        return {"run": record.id, **known, "model": record.model, **params, **record.metrics}

    finals = tracker.find(kind="final")
    names = ("variant", "config", "seed", "state", "reason")
    points = []
    for record in finals:
        by: dict[int, dict[str, float]] = {}
        for metric in CURVES:
            for step, value in tracker.curve(record.id, metric):
                by.setdefault(step, {})[metric] = value
        about = {"run": record.id, **{name: record.tags.get(name) for name in names[:3]}}
        points += [{**about, "epoch": step, **by[step]} for step in sorted(by)]
    return Frames(
        pd.DataFrame([row(r, *names) for r in finals]),
        pd.DataFrame(
            [row(r, "variant", "study", "trial", "seed", "state") for t in sources for r in t.find(kind="trial")]
        ),
        pd.DataFrame(points),
    )


def _number(word: str) -> Any:
    for kind in (int, float):
        try:
            return kind(word)
        except ValueError:
            continue
    return word
