"""One configuration, trained in one run of MLflow: logged, checkpointed, and gone on with where it was cut off.

A trial and a final are such attempts. On a CPU one that was cut off ends in the same bits as one that was not.
"""

import dataclasses
import time
import traceback
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from pipeline import checkpoint, trainer
from pipeline import data as datasets
from pipeline.data import Data
from pipeline.evaluate import pictures, quick
from pipeline.tracker import Run, views
from pipeline.trainer import Diverged, Epoch
from variants import Config, InputError, Variant

SAVE_EVERY = 1.0  # seconds: a checkpoint an epoch, and fewer where epochs are shorter than that


class TrainingTooLong(TimeoutError):
    """A training that had more seconds than it was given."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingPlan:
    """What is trained. `timeout` is in seconds of training, over all its parts."""

    variant: str
    config: Config
    epochs: int
    patience: int
    seed: int
    timeout: float | None = None


_cached: dict[tuple[str, str, str], Data] = {}


def cache_data(source: str, device: torch.device, data: Data) -> None:
    """Keep data at hand for tasks of this process."""
    _cached[(source, str(device), data.digest)] = data


def cached_data(source: str, digest: str, device: torch.device) -> Data:
    """The data of a task, loaded once a process. Raises `InputError` where they are other than what was asked for."""
    key = (source, str(device), digest)
    if key not in _cached:
        loaded = datasets.load(source)
        if loaded.digest != digest:
            raise InputError(f"{source} is not here what it was where the task was given out (digest {digest[:8]})")
        cache_data(source, device, loaded.to(device))
    return _cached[key]


def failed(run: Run, error: Exception) -> str:
    """Mark a run whose training failed, and return the reason. Errors that are not of the training are raised again."""
    if isinstance(error, OSError | InputError) and not isinstance(error, TrainingTooLong):
        raise error
    if isinstance(error, Diverged | TrainingTooLong | MemoryError | torch.OutOfMemoryError):
        reason = str(error) or type(error).__name__
    else:  # of the variant's own code
        run.text("error.txt", "".join(traceback.format_exception(error)))
        reason = f"{type(error).__name__}: {error}"
    run.state = "failed"
    run.tags({"reason": reason})
    return reason


class TrainingRun:
    """Iterate over `epochs`, then take `scores`; leave the loop to prune."""

    variant: Variant

    def __init__(self, training: TrainingPlan, data: Data, run: Run) -> None:
        self._training, self._data, self._run = training, data, run
        torch.manual_seed(training.seed)
        self.variant = trainer.build(training.variant, training.config, data.spec)
        saved = checkpoint.load(run.checkpoint)
        state, about = saved or ({}, {"best": {}, "best_epoch": 0, "epoch": 0, "seconds": 0.0})
        self._kl: Tensor | None = state.pop("kl", None)
        self._state: Mapping[str, Tensor] | None = state or None
        self._best: dict[str, float] = about["best"]
        self.best_epoch: int = about["best_epoch"]
        self.epoch: int = about["epoch"]  # the last that is behind us
        self.seconds: float = about["seconds"]  # of training and scoring, over all parts
        weights = sum(p.numel() for p in self.variant.parameters())
        run.params({**dataclasses.asdict(training.config), "epochs": training.epochs, "weights": weights})
        run.dataset(data)
        if self.variant.conditioned_on:  # what its likelihood is conditioned on: say so wherever its ELBO stands
            run.tags({"given": self.variant.conditioned_on})

    @property
    def kept(self) -> dict[str, float]:
        """The validation scores of the weights that training leaves behind."""
        return dict(self._best)

    def epochs(self) -> Iterator[Epoch]:
        """The epochs that are still to come. Raises `Diverged` and `TooLong`."""
        t = self._training
        saved = time.monotonic()
        before, begin = self.seconds, time.perf_counter()
        for last in trainer.train(
            self.variant, self._data, epochs=t.epochs, seed=t.seed, patience=t.patience, resume=self._state
        ):
            if last.best or not self._best:
                self._best = {k: v for k, v in last.metrics.items() if k.startswith("valid/")}
                self._kl, self.best_epoch = last.vectors.get("kl_per_dimension"), last.number
            self._run.metrics(last.metrics, last.number)
            self.epoch, self.seconds = last.number, before + time.perf_counter() - begin
            if time.monotonic() - saved > SAVE_EVERY:
                self._save(last)
                saved = time.monotonic()
            if t.timeout and self.seconds > t.timeout:
                raise TrainingTooLong(
                    f"{self.seconds:.0f} s of training after epoch {last.number}; {t.timeout:.0f} s were given"
                )
            yield last

    def _save(self, last: Epoch) -> None:
        about = {"best": self._best, "best_epoch": self.best_epoch, "epoch": self.epoch, "seconds": self.seconds}
        kl = {} if self._kl is None else {"kl": self._kl}
        checkpoint.save(self._run.checkpoint, {**last.snapshot(), **kl}, about)

    def scores(self) -> dict[str, float]:
        """The cheap scores on validation data, logged with pictures. After the last epoch."""
        found = {**self._best, **quick.scores(self.variant, self._data, self._kl), "time/trial_seconds": self.seconds}
        # the last point of a curve is the model that was kept, also where that is of an earlier epoch
        self._run.metrics(found, self.epoch + (self.best_epoch != self.epoch))
        for name, pixels in pictures.all_of(self.variant, self._data, self._kl).items():
            self._run.picture(name, pixels, views.PICTURE_STEP)
        return found
