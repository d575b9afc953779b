"""Trains one configuration in one MLflow run: tracked, checkpointed, and resumable.

Every model that is kept is trained here: trials of studies, finals and anchors. On a CPU, a training that was
interrupted and continued ends in exactly the same weights as one that was not.
"""

import dataclasses
import time
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

import variants
from pipeline import checkpoint, trainer
from pipeline import data as datasets
from pipeline.data import Data, Source
from pipeline.evaluate import baselines, bits, latents, likelihood, pictures, quick
from pipeline.tracker import Run, views
from pipeline.trainer import Diverged, Epoch
from variants import Config, InputError, Variant

FIRST_FINAL_SEED = 10_000  # finals use seeds from here on, and trials only smaller ones
SAVE_EVERY = 1.0  # seconds between two checkpoints, each at the end of an epoch


class TrainingTooLong(TimeoutError):
    """A training took more seconds than its plan allows."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingPlan:
    """What is trained, and for how long.

    Args:
        patience: Training ends after this many epochs without a better validation score, and the weights of the best
            epoch are kept. None or 0 trains all epochs and keeps the last weights.
        seed: The seed of the first weights, of the order of examples and of all noise.
        lr_schedule: The name of a schedule in `trainer.LR_SCHEDULES`; None keeps the learning rate constant.
        timeout: The largest number of seconds of training, counted over all interruptions.
    """

    variant: str
    config: Config
    epochs: int
    patience: int | None
    seed: int
    lr_schedule: str | None = None
    timeout: float | None = None


_cached: dict[tuple[Source, str, str], Data] = {}


def cache_data(source: Source, device: torch.device, data: Data) -> None:
    """Cache data for the tasks of this process."""
    _cached[(source, str(device), data.digest)] = data


def cached_data(source: Source, digest: str, device: torch.device) -> Data:
    """Return the data of a task, which are loaded once in each process. Raises `InputError` if the digest differs."""
    key = (source, str(device), digest)
    if key not in _cached:
        loaded = datasets.load(source)
        if loaded.digest != digest:
            raise InputError(
                f"{loaded.source.absolute} holds other data here than where the work was started; expected the same "
                "files on all machines, unchanged while the command runs"
            )
        cache_data(source, device, loaded.to(device))
    return _cached[key]


def failed(run: Run, error: Exception) -> str:
    """Mark a run as failed, and return the reason. Errors that the training did not cause are raised again."""
    if isinstance(error, OSError | InputError) and not isinstance(error, TrainingTooLong):
        raise error
    if isinstance(error, Diverged | TrainingTooLong | MemoryError | torch.OutOfMemoryError):
        reason = str(error) or type(error).__name__
    else:  # an error in the code of the variant
        run.text("error.txt", "".join(traceback.format_exception(error)))
        reason = f"{type(error).__name__}: {error}"
    run.state = "failed"
    run.tags({"reason": reason})
    return reason


class TrainingRun:
    """Trains one configuration, and logs it to one MLflow run.

    Iterate over `epochs()`, then call `scores()`. To prune the trial, leave the loop over `epochs()`.

    If the checkpoint exists, training continues from there. If training had already finished, `epochs` yields nothing
    and only restores the model.

    `path` is the file of the checkpoint. By default it is in the folder with what MLflow has not yet received of the
    run, which is deleted when the run has ended and MLflow has received everything.
    """

    def __init__(self, plan: TrainingPlan, data: Data, run: Run, path: Path | None = None) -> None:
        self.data, self.path = data, path or run.checkpoint
        self._plan, self._run = plan, run
        torch.manual_seed(plan.seed)
        self.variant: Variant = variants.build(plan.variant, plan.config, data.spec)
        state, about = checkpoint.load(self.path) or ({}, {"best": {}, "best_epoch": 0, "epoch": 0, "seconds": 0.0})
        self._kl: Tensor | None = state.pop("kl", None)
        self._state = state or None
        self.kept: dict[str, float] = about["best"]  # validation scores of the weights that are kept
        self.best_epoch: int = about["best_epoch"]  # the epoch whose weights are kept
        self.epoch: int = about["epoch"]  # the last one that has ended
        self.seconds: float = about["seconds"]  # of training and validation, counted over all interruptions
        weights = sum(p.numel() for p in self.variant.parameters())
        schedule = {"schedule": plan.lr_schedule} if plan.lr_schedule else {}
        run.params({**dataclasses.asdict(self.variant.config), "epochs": plan.epochs, "weights": weights, **schedule})
        run.dataset(data)
        if self.variant.conditioned_on:  # p(x) of this model is conditional, which its ELBO does not tell
            run.tags({"conditioned_on": self.variant.conditioned_on})

    @property
    def lengths(self) -> dict[str, float]:
        """The seconds and the epochs of the training so far, and the epoch whose weights are kept, as metrics."""
        return {"time/trial_seconds": self.seconds, "time/epochs": self.epoch, "time/best_epoch": self.best_epoch}

    def epochs(self) -> Iterator[Epoch]:
        """Train, and yield the epochs that remain. Raises `Diverged` and `TrainingTooLong`."""
        plan = self._plan
        last: Epoch | None = None
        saved = time.monotonic()
        before, begin = self.seconds, time.perf_counter()
        for last in trainer.train(
            self.variant, self.data, epochs=plan.epochs, seed=plan.seed, patience=plan.patience,
            lr_schedule=trainer.LR_SCHEDULES[plan.lr_schedule] if plan.lr_schedule else None, resume=self._state,
        ):  # fmt: skip
            if last.best or not plan.patience:
                self.kept = {k: v for k, v in last.metrics.items() if k.startswith("valid/")}
                self._kl, self.best_epoch = last.vectors.get("kl_per_dimension"), last.number
            self._run.metrics(last.metrics, last.number)
            self.epoch, self.seconds = last.number, before + time.perf_counter() - begin
            if plan.timeout and self.seconds > plan.timeout:
                raise TrainingTooLong(
                    f"{self.seconds:.0f} s of training after epoch {last.number}; {plan.timeout:.0f} s were given"
                )
            yield last
            if time.monotonic() - saved > SAVE_EVERY:  # by now, the caller has stored what it makes of the epoch
                self._save(last)
                saved = time.monotonic()
        if last is not None:
            self._save(last)

    def _save(self, last: Epoch) -> None:
        about = {"best": self.kept, "best_epoch": self.best_epoch, "epoch": self.epoch, "seconds": self.seconds}
        kl = {} if self._kl is None else {"kl": self._kl}
        checkpoint.save(self.path, {**last.snapshot(), **kl}, about)

    def scores(self) -> dict[str, float]:
        """Compute and log the quick scores on validation data, with pictures, after the last epoch.

        The validation scores are logged once more, so that the last point of each curve belongs to the weights
        that are kept. If the likelihood is a density, the ELBO is also logged in the units of the source, in which
        models with different likelihoods of the same data can be compared. For 8-bit pixels, it is also logged in bits
        per dimension. The reconstruction of mixed tables is also logged for each kind of value.
        """
        variant, data = self.variant, self.data
        begin = time.perf_counter()
        scores = {**self.kept, **quick.scores(variant, data, self._kl), **self.lengths}
        if data.spec.has_density and "valid/elbo" in self.kept:
            change = float(likelihood.log_jacobian(data, data.valid).mean())
            scores["valid/elbo_units"] = self.kept["valid/elbo"] + change
        if bits.is_defined(data.spec) and "valid/elbo" in self.kept and variant.conditioned_on != "x":
            scores["valid/bits_per_dimension"] = bits.per_dimension(self.kept["valid/elbo"], data.spec)
        if len(data.spec.kinds) > 1:
            parts = likelihood.by_kind(variant, data, data.valid, self._plan.seed)
            scores |= {f"valid/reconstruction_{kind}": float(part.mean()) for kind, part in parts.items()}
        scored = time.perf_counter()
        for name, pixels in pictures.all_of(self.variant, self.data, self._kl).items():
            self._run.picture(name, pixels, views.PICTURE_STEP)
        scores["time/scores_seconds"], scores["time/pictures_seconds"] = scored - begin, time.perf_counter() - scored
        self._run.metrics(scores, self.epoch + (self.best_epoch != self.epoch))
        return scores

    def remark(self, scores: Mapping[str, float], trivial: Mapping[str, float]) -> str:
        """Return a remark on a model that has failed to learn, and set it as a tag of the run; "" for other models.

        Whether its code has collapsed is judged by the KL on validation data (`latents.has_collapsed`): that of each
        dimension, or of all together if the variant does not tell them apart. It is no better than trivial if its ELBO,
        or its tighter `bound` if it has one, does not exceed all baselines: those in `trivial`, by their titles, and
        those among its `scores`. A model that is conditioned on a part of x is not compared with baselines, which model
        all of x.
        """
        kl, is_compared = self._kl, "valid/elbo" in scores and self.variant.conditioned_on != "x"
        if kl is None and is_compared:
            kl = torch.tensor([scores["valid/kl"]])
        remarks = ["collapsed"] * (kl is not None and latents.has_collapsed(kl))
        if is_compared:
            titles = {**trivial, **baselines.titled(scores, self.data.spec)}
            remarks += filter(None, [baselines.verdict(scores.get("valid/bound", scores["valid/elbo"]), titles)])
        if remarks:
            self._run.tags({"remark": "; ".join(remarks)})
        return "; ".join(remarks)
