"""A trained model that is evaluated, how much is spent on it, and the scores, pictures and remarks that result."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline import machine, metrics
from pipeline.data import Data
from pipeline.evaluate import classifier, likelihood, probe
from pipeline.evaluate.codes import encode_split, labels_of
from pipeline.evaluate.drawing import Picture
from pipeline.evaluate.likelihood import DrawnTerms
from pipeline.metrics import Undefined
from pipeline.steps import Totals
from variants import Variant

Array = NDArray[np.float64]
EXAMPLES_AND_DRAWS, MOST_DRAWS = 20_000, 32  # z is drawn until there are as many pairs, or so often for each example


@dataclass(frozen=True, kw_only=True)
class Score:
    """One number. If it is undefined, `value` is None and `reason` says why."""

    name: str
    value: float | None
    n: int | None = None  # number of examples, or of draws, behind it
    error: float | None = None  # standard error over these examples
    monte_carlo_error: float | None = None  # the part of `error` that more draws of z would reduce
    k: int | None = None  # number of draws of z, importance samples, chains, neighbours or labels
    reason: str = ""

    def record(self, seed: int) -> dict[str, Any]:
        """Return it for JSON, together with what is known of the metric."""
        metric = metrics.find(self.name)
        about = {"unit": metric.unit, "better": metric.better, "about": metric.about, "seed": seed}
        return {k: v for k, v in dataclasses.asdict(self).items() if k == "value" or v not in (None, "")} | about


@dataclass(frozen=True, kw_only=True)
class Part:
    """The result of one part of an evaluation.

    `rows` are columns (N,) of scores of each test example, in the order of the split. They are NaN for examples that
    were not scored. `tables` have other rows; each is given as its columns.
    """

    name: str
    scores: list[Score]
    pictures: Mapping[str, Picture] = field(default_factory=dict)
    vectors: Mapping[str, list[float]] = field(default_factory=dict)
    rows: Mapping[str, Array] = field(default_factory=dict)
    tables: Mapping[str, Mapping[str, list[Any]]] = field(default_factory=dict)
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
    ais_operations: float = math.inf  # more than these, and log p(x) is not estimated by annealing
    labels: tuple[int, ...] = (10, 100, 1000)  # labels of the probes, and draws of each number
    draws: int = 5
    samples: int = 10_000  # examples that samples and codes are compared on
    one_class_most: int = 3  # classes at most, seeds, training steps and examples of the one-class protocol
    one_class_seeds: int = 1
    one_class_steps: int = 1000
    one_class_n: int = 2000
    imputed: int = 50  # examples of imputation and forecasts
    augmented: int = 100  # labels of augmentation


@dataclass(frozen=True, kw_only=True)
class Context:
    """A trained model, its data, and what several parts compute from both."""

    variant: Variant
    data: Data
    sizes: Sizes
    seed: int
    normal: int | None = None  # the class that counts as normal when anomalies are detected; None: frequent ones

    @cached_property
    def classifier(self) -> classifier.Classifier | Undefined:
        return classifier.trained(self.data)

    @property
    def draws(self) -> int:
        """The number of draws of z for each test example, so that few examples have a small Monte Carlo error."""
        return min(MOST_DRAWS, -(-EXAMPLES_AND_DRAWS // len(self.data.test)))

    @cached_property
    def terms(self) -> DrawnTerms:
        """The terms of the ELBO of the test examples."""
        return likelihood.drawn_terms(self.variant, self.data, self.data.test, self.draws, self.seed)

    @property
    def totals(self) -> Totals:
        """The sums of all terms over the test examples and their draws."""
        return self.terms.totals

    @cached_property
    def importance_weighted(self) -> Array | Undefined:
        """The importance weighted bound of each example of a subset of the test examples, (iw_n,), in nats."""
        split = probe.subset(self.data.test, self.sizes.iw_n)
        bound = likelihood.importance_weighted(self.variant, self.data, split, self.sizes.iw_k, seed=self.seed)
        return bound if isinstance(bound, Undefined) else bound.numpy()

    @cached_property
    def untrained(self) -> Variant:
        """The same model with its first weights."""
        with machine.seeded(self.variant.device, self.seed):
            return type(self.variant)(self.variant.config, self.variant.spec).to(self.variant.device)

    def column(self, values: NDArray[Any], where: NDArray[Any] | None = None) -> Array:
        """Return values (n,) of some test examples as a column of all, (N,), with NaN for the others.

        `where` are their positions, or a mask (N,). By default they are those of `probe.subset`.
        """
        column = np.full(len(self.data.test), np.nan)
        column[probe.subset_positions(len(column), len(values)) if where is None else where] = values
        return column

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
