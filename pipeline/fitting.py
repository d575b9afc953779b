"""What fitting a `Model` takes: the configuration, data in memory as `pipeline.data` takes them, and the training."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import torch
from sklearn.utils import check_array

import variants
from pipeline import trainer
from pipeline.data import Data, Description, Source
from pipeline.evaluate import pictures, step_anomaly
from pipeline.progress import Display
from pipeline.trainer import Epoch
from variants import Config, InputError, Variant

FIXED_OPTIONS = "new data are read with the options of the training, which cannot be changed here"


@dataclass(frozen=True)
class Fitted:
    """A trained variant, a data frame with the scores after each epoch, and the quantiles of its training scores.

    `run_id` is the run of MLflow in which it was trained; None if it was not tracked.
    """

    variant: Variant
    history: pandas.DataFrame
    training_scores: step_anomaly.TrainingScores
    run_id: str | None = None


def config_of(variant: str, hyperparameters: Mapping[str, Any]) -> Config:
    """Return the configuration of a variant. Raises `InputError` for a name that is no hyperparameter of it."""
    try:
        return variants.get(variant).config_type(**hyperparameters)
    except TypeError as error:
        names = ", ".join(variants.get(variant).config_type.__dataclass_fields__)
        advice = "options that say how data are read belong in data_options"
        raise InputError(f"{variant}: {error}; its hyperparameters are {names}; {advice}") from error


def source_of(X: Any, name: str, label: str | None, data_options: Mapping[str, Any] | None) -> Source:
    """Return the source of training data. Data in memory have `name` as their place."""
    options = dict(data_options or {})
    if isinstance(options.get("drop"), str):
        options["drop"] = (options["drop"],)
    if isinstance(options.get("kinds"), Mapping):
        options["kinds"] = tuple(options["kinds"].items())
    if label is not None:
        options["label"] = label
    try:
        return Source(place=os.fspath(X) if isinstance(X, str | Path) else name, **options)
    except TypeError as error:
        names = ", ".join(n for n in Source.__dataclass_fields__ if n != "place")
        raise InputError(f"data_options: {error}; expected some of {names}") from error


@contextmanager
def about_options(advice: str) -> Iterator[None]:
    """Add advice to an `InputError` that names options of the commands."""
    try:
        yield
    except InputError as error:
        if " --" not in str(error) or advice in str(error):
            raise
        raise InputError(f"{error} ({advice})") from error


def content_of(X: Any, fits: bool = False) -> Any:
    """Return data in memory in a form that `pipeline.data.load` takes, and None for a path."""
    if isinstance(X, str | Path):
        return None
    is_series = isinstance(X, list | tuple) and all(isinstance(s, np.ndarray) for s in X)
    if isinstance(X, pandas.DataFrame | np.ma.MaskedArray) or type(X) is dict or is_series:
        return X
    least = 2 if fits and getattr(X, "ndim", 2) < 3 else 1  # one sequence may be cut into windows
    return check_array(X, allow_nd=True, ensure_all_finite=False, ensure_min_samples=least)


def with_labels(source: Source, content: Any, y: Any) -> Any:
    """Return data in memory with labels."""
    if content is None:
        raise InputError(
            f"{source}: y cannot be given for a file; name the column of the file that holds the class with label"
        )
    if isinstance(content, pandas.DataFrame):
        name = source.label or "label"
        if name in content:
            raise InputError(f"y is given, but the data also have a column {name!r}; leave one of them out")
        return content.assign(**{name: np.asarray(y)})
    if isinstance(content, dict):
        return {**content, "y": y}
    return {"x": content, "y": y}


def train(
    name: str, config: Config, data: Data, tracked: Description | None, *, epochs: int, patience: int | None, seed: int,
    progress: bool,
) -> Fitted:  # fmt: skip
    """Train a variant, and return it on the device of the data.

    Args:
        name: The name of the variant.
        config: Its hyperparameters.
        data: The data.
        tracked: The description of the data, which is logged to MLflow with all else; None if nothing is tracked.
        epochs: The largest number of epochs.
        patience: See `Model`.
        seed: The seed of weights, order and noise.
        progress: Whether the progress is shown.
    """
    torch.manual_seed(seed)
    if tracked is None:
        variant = variants.build(name, config, data.spec)
        history = _history(
            trainer.train(variant, data, epochs=epochs, seed=seed, patience=patience), name, epochs, progress
        )
        return Fitted(variant, history, step_anomaly.training_scores(variant, data))
    from pipeline.tracker import Tracker  # MLflow takes seconds to import
    from pipeline.training_run import TrainingPlan, TrainingRun

    plan = TrainingPlan(variant=name, config=config, epochs=epochs, patience=patience, seed=seed)
    tags = {"kind": "model", "variant": name, "dataset": data.spec.name, "seed": str(seed)}
    tracker = Tracker(data.spec.name)
    tracker.claim(data)
    with tracker.run(f"{name}-{data.spec.name}", tags) as run:
        training = TrainingRun(plan, data, run)
        run.description(tracked, pictures.examples(data))
        history = _history(training.epochs(), name, epochs, progress)
        training_scores = run.model(training.variant, data, training.scores(), training.best_epoch)
    return Fitted(training.variant, history, training_scores, run.id)


def _history(trained: Iterator[Epoch], name: str, epochs: int, progress: bool) -> pandas.DataFrame:
    """Train, and return the scores after each epoch."""
    shown = _shown(trained, name, epochs) if progress else trained
    return pandas.DataFrame([{"epoch": epoch.number, **epoch.metrics} for epoch in shown])


def _shown(trained: Iterator[Epoch], name: str, epochs: int) -> Iterator[Epoch]:
    with Display().progress(f"training {name}", 1) as shown:
        shown.start(0, name, epochs)
        summary = ""
        for epoch in trained:
            summary = epoch.summary()
            shown.update(0, epoch.number, summary)
            yield epoch
        shown.finish(0, f"{name}: {epoch.number} epochs, validation {summary}")
