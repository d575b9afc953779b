"""A trained model that is scored, how much is spent on it, and what is found: figures, pictures, words."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline import metrics, trainer
from pipeline.data import Data
from pipeline.evaluate import classifier
from pipeline.evaluate.codes import encode_split
from pipeline.evaluate.pictures import Picture
from variants import Batch, InputError, Variant

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Score:
    """One number. `value` is None where it is undefined, and `reason` says why. `error` is a standard error."""

    name: str
    value: float | None
    n: int | None = None  # examples, or draws, that it rests on
    error: float | None = None
    k: int | None = None  # importance samples, chains or neighbours
    reason: str = ""

    def record(self, seed: int) -> dict[str, Any]:
        """As JSON takes it, with what is known of the metric."""
        metric = metrics.find(self.name)
        about = {"unit": metric.unit, "better": metric.better, "about": metric.about, "seed": seed}
        return {k: v for k, v in dataclasses.asdict(self).items() if k == "value" or v not in (None, "")} | about


@dataclass(frozen=True, kw_only=True)
class Part:
    """What one function of this file found."""

    name: str
    scores: list[Score]
    pictures: Mapping[str, Picture] = field(default_factory=dict)
    vectors: Mapping[str, list[float]] = field(default_factory=dict)
    words: str = ""


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How much is spent. The defaults are minutes for MNIST on two cores."""

    iw_k: int = 500
    iw_n: int = 1000
    ais_n: int = 50
    ais_chains: int = 4
    ais_temperatures: int = 500
    gap_n: int = 20
    labels: tuple[int, ...] = (10, 100, 1000)
    draws: int = 5
    samples: int = 10_000
    anomaly_classes: int = 3
    anomaly_steps: int = 1000
    anomaly_n: int = 2000
    imputed: int = 50
    augmented: int = 100


@dataclass(frozen=True)
class Context:
    """A trained model, its data, and what several parts need of both."""

    variant: Variant
    data: Data
    sizes: Sizes
    seed: int

    @cached_property
    def referee(self) -> classifier.Classifier:
        return classifier.trained(self.data)

    @cached_property
    def kl(self) -> torch.Tensor | None:
        """(Z,) mean KL per dimension of test examples, nats, on the CPU."""
        totals = self.totals
        return None if "kl_per_dimension" not in totals.sums else (totals.sums["kl_per_dimension"] / totals.count).cpu()

    @cached_property
    def totals(self) -> Any:
        return trainer.score(self.variant, self.data, self.data.test, seed=self.seed, precision="fp32")

    @cached_property
    def codes(self) -> tuple[Array, Array]:
        """Codes of the labelled training and of the test examples."""
        return encode_split(self.variant, self.data, self.known), encode_split(self.variant, self.data, self.data.test)

    @cached_property
    def known(self) -> Batch:
        y = self.data.train.y
        return self.data.train if y is None else self.data.train[torch.ge(y, 0).nonzero()[:, 0]]

    def labels(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        if not self.data.spec.classes:
            raise InputError(f"data set {self.data.spec.name} has no labels")
        return self.known.y.cpu().numpy(), self.data.test.y.cpu().numpy()  # type: ignore[union-attr]
