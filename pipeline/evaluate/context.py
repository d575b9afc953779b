"""A trained model that is evaluated, how much is spent on it, and the scores, pictures and remarks that result."""

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
from pipeline.evaluate.codes import encode_split, labels_of
from pipeline.evaluate.drawing import Picture
from pipeline.metrics import Undefined
from pipeline.trainer import Totals
from variants import Variant

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Score:
    """One number. If it is undefined, `value` is None and `reason` says why."""

    name: str
    value: float | None
    n: int | None = None  # number of examples, or of draws, behind it
    error: float | None = None  # standard error
    k: int | None = None  # number of importance samples, chains, neighbours or labels
    reason: str = ""

    def record(self, seed: int) -> dict[str, Any]:
        """Return it for JSON, together with what is known of the metric."""
        metric = metrics.find(self.name)
        about = {"unit": metric.unit, "better": metric.better, "about": metric.about, "seed": seed}
        return {k: v for k, v in dataclasses.asdict(self).items() if k == "value" or v not in (None, "")} | about


@dataclass(frozen=True, kw_only=True)
class Part:
    """The result of one part of an evaluation."""

    name: str
    scores: list[Score]
    pictures: Mapping[str, Picture] = field(default_factory=dict)
    vectors: Mapping[str, list[float]] = field(default_factory=dict)
    remark: str = ""


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How much is spent. With the defaults an evaluation on MNIST takes minutes on two cores."""

    iw_k: int = 500  # importance samples
    iw_n: int = 1000  # examples of the importance weighted bound
    ais_n: int = 50  # examples, chains and temperatures of annealing
    ais_chains: int = 4
    ais_temperatures: int = 500
    gap_n: int = 20  # simulated examples of its gap
    labels: tuple[int, ...] = (10, 100, 1000)  # labels of the probes, and draws of each number
    draws: int = 5
    samples: int = 10_000  # examples that samples and codes are compared on
    anomaly_classes: int = 3  # classes, training steps and examples of anomaly detection
    anomaly_steps: int = 1000
    anomaly_n: int = 2000
    imputed: int = 50  # examples of imputation and forecasts
    augmented: int = 100  # labels of augmentation


@dataclass(frozen=True)
class Context:
    """A trained model, its data, and what several parts compute from both."""

    variant: Variant
    data: Data
    sizes: Sizes
    seed: int

    @cached_property
    def classifier(self) -> classifier.Classifier | Undefined:
        return classifier.trained(self.data)

    @cached_property
    def totals(self) -> Totals:
        """The sums of all terms over the test examples."""
        return trainer.score(self.variant, self.data, self.data.test, seed=self.seed, precision="fp32")

    @cached_property
    def kl(self) -> torch.Tensor | None:
        """The mean KL per dimension of the test examples, (Z,), nats, on the CPU; None if the variant has none."""
        totals = self.totals
        return None if "kl_per_dimension" not in totals.sums else (totals.sums["kl_per_dimension"] / totals.count).cpu()

    @cached_property
    def codes(self) -> Array:
        """The codes of the test examples, (N, Z)."""
        return encode_split(self.variant, self.data, self.data.test)

    @cached_property
    def labels(self) -> NDArray[np.int64]:
        """The labels of the test examples, (N,); -1 where the label is unknown."""
        return labels_of(self.data.test)
