"""One training of an anchor: checkpointed each half minute, so that a long one survives, and logged to MLflow."""

import dataclasses
import math
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

import variants
from pipeline import checkpoint, data, trainer
from pipeline.data import Data
from pipeline.evaluate import pictures, quick
from pipeline.tracker import Run, Tracker, views
from pipeline.trainer import Epoch
from studies.anchors import Schedule, Training
from variants import Config, DataSpec, InputError, Variant

SAVE_EVERY = 30.0  # seconds


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trained:
    """A trained variant, its data, and what it took."""

    variant: Variant
    data: Data
    seconds: float  # of training, over all its parts
    run: str
    path: Path  # of its checkpoint; what is measured for long is kept beside it


def lr_schedule(schedule: Schedule, epochs: int) -> Callable[[int], float]:
    """The factor on the learning rate by epoch, from 1.

    cosine falls from 1 to almost 0 (Loshchilov & Hutter 2017); burda: 10^(-i/7) over 3^i epochs (Burda et al. 2016).
    """

    def burda(epoch: int) -> float:
        stage, end = 0, 1
        while epoch > end:
            stage += 1
            end += 3**stage
        return float(10 ** (-stage / 7))

    def cosine(epoch: int) -> float:
        return 0.5 * (1 + math.cos(math.pi * (epoch - 1) / epochs))

    return {"constant": lambda epoch: 1.0, "cosine": cosine, "burda": burda}[schedule]


def prepared(training: Training) -> Data:
    """The data of a training. Raises `InputError` where they are not to be had."""
    source = training.dataset
    if "/" in source:
        found = next((p for root in data.places() if (p := root / source).exists()), None)
        if found is None:
            raise InputError(f"{source} is in none of the data folders; name one that holds it in VARIANTS_DATA")
        source = str(found)
    loaded = data.load(source, binarized=not training.grey)
    if training.labels:
        loaded = loaded.with_labels(training.labels)
    return loaded.most_frequent() if training.normal else loaded


def _config(training: Training) -> Config:
    return variants.get(training.variant).config_type(**training.settings)


def check(trainings: Iterable[Training]) -> DataSpec:
    """Raise `InputError` for whatever cannot be trained, before anything is. Returns the first one's data spec."""
    specs = []
    for training in trainings:
        specs.append(prepared(training).spec)
        trainer.build(training.variant, _config(training), specs[-1])
    return specs[0]


class Bars:
    """A progress bar for each training of each seed. Use it as a context manager."""

    def __init__(self, trainings: Mapping[str, Training], seeds: Sequence[int], console: Console) -> None:
        self._bars = Progress(
            TextColumn("{task.description}"), BarColumn(bar_width=28), MofNCompleteColumn(), TimeElapsedColumn(),
            TextColumn("left"), TimeRemainingColumn(), TextColumn("{task.fields[note]}"), console=console,
        )  # fmt: skip
        self._tasks = {
            (seed, k): self._bars.add_task(f"{k} seed {seed}", total=t.epochs, note="", start=False)
            for seed in seeds
            for k, t in trainings.items()
        }

    def __enter__(self) -> "Bars":
        self._bars.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bars.stop()

    def show(self, seed: Any, told: tuple[str, int, Mapping[str, float]]) -> None:
        """What a seed tells after each epoch of a training, and once all are trained."""
        name, epoch, scores = told
        if not name:
            self._bars.console.print(f"seed {seed}: measuring on the test split ...", style="dim")
            return
        task = self._tasks[(seed, name)]
        self._bars.start_task(task)
        parts = ("valid/elbo", "valid/reconstruction", "valid/kl")
        note = "  ".join(f"{p.split('/')[1]} {scores[p]:.2f}" for p in parts if p in scores)
        self._bars.update(task, completed=epoch, note=note)


def train(
    training: Training, seed: int, device: torch.device, tracker: Tracker, parent: Run, name: str, path: Path,
    show: Callable[[Epoch], None], tags: dict[str, str],
) -> Trained:  # fmt: skip
    """Train, or go on from the checkpoint at `path`; a finished training is only loaded. One run in MLflow."""
    loaded = prepared(training).to(device)
    config = _config(training)
    torch.manual_seed(seed)
    variant = trainer.build(training.variant, config, loaded.spec)
    this = {"training": {**dataclasses.asdict(training), "settings": dict(training.settings)}, "seed": seed}
    saved = checkpoint.load(path)
    state, about = (
        saved if saved and saved[1]["this"] == this else ({}, {"seconds": 0.0, "key": uuid.uuid4().hex, "done": False})
    )
    kl = state.pop("kl", None)
    tags = {**tags, "variant": training.variant, "seed": str(seed), "kind": "reproduce"}
    with tracker.run(name, tags, parent=parent.id, key=about["key"]) as run:
        if about["done"]:
            variant.load_state_dict({k.removeprefix("weights/"): v for k, v in state.items()})
            return Trained(variant=variant.to(device), data=loaded, seconds=about["seconds"], run=run.id, path=path)
        if not state:
            run.params({**dataclasses.asdict(config), "epochs": training.epochs, "schedule": training.schedule})
            run.dataset(loaded)
            if variant.conditioned_on:
                run.tags({"given": variant.conditioned_on})
        begin = saved_at = time.perf_counter()
        before, last = about["seconds"], None
        epochs = trainer.train(
            variant, loaded, epochs=training.epochs, seed=seed, patience=training.patience,
            lr_schedule=lr_schedule(training.schedule, training.epochs), resume=state or None,
        )  # fmt: skip
        for last in epochs:
            run.metrics(last.metrics, last.number)
            show(last)
            if last.best or not training.patience:
                kl = last.vectors.get("kl_per_dimension", kl)
            now = time.perf_counter()
            if now - saved_at > SAVE_EVERY:
                facts = {"this": this, "seconds": before + now - begin, "key": about["key"], "done": False}
                checkpoint.save(path, last.snapshot() | ({} if kl is None else {"kl": kl}), facts)
                saved_at = time.perf_counter()
        seconds = before + time.perf_counter() - begin
        scores = quick.scores(variant, loaded, kl) | {"time/trial_seconds": seconds}
        run.metrics(scores, training.epochs)
        for picture, pixels in pictures.all_of(variant, loaded, kl).items():
            run.picture(picture, pixels, views.PICTURE_STEP)
        run.model(variant, scores, training.epochs)
        weights = {f"weights/{k}": v.cpu().contiguous() for k, v in variant.state_dict().items()}
        checkpoint.save(path, weights, {"this": this, "seconds": seconds, "key": about["key"], "done": True})
        return Trained(variant=variant, data=loaded, seconds=seconds, run=run.id, path=path)
