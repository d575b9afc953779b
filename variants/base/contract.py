"""What a variant is. Read this first.

A variant scores a batch. Everything else in the project (training, search, tracking, evaluation, comparison) knows
variants only through the names in this file.

Shapes: B examples in a batch, T time steps, D features of a step, Z latent dimensions.
Units: every likelihood and divergence is in nats per example, summed over pixels (or steps) and latents.
"""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, get_type_hints

import torch
from torch import Tensor, nn


class InputError(ValueError):
    """Something a person gave is wrong. The message names the value, what was expected, and what to do."""


@dataclass(frozen=True)
class Batch:
    """Examples to be scored. `x` is (B, *shape), or (B, T, D) with `mask` (B, T), true where a step is real.

    Real steps come first: padding stands at the end. A label of -1 is unknown.
    """

    x: Tensor
    y: Tensor | None = None  # (B,) class labels, int64
    mask: Tensor | None = None  # (B, T) bool

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: Tensor | slice) -> Batch:
        if isinstance(index, Tensor):
            return self._each(lambda field: field.index_select(0, index))
        return self._each(lambda field: field[index])

    def to(self, device: torch.device | str) -> Batch:
        return self._each(lambda field: field.to(device))

    def _each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        y, mask = (None if f is None else change(f) for f in (self.y, self.mask))
        return Batch(change(self.x), y, mask)


Likelihood = Literal["bernoulli", "gaussian", "logistic8", "categorical"]


@dataclass(frozen=True, kw_only=True)
class DataSpec:
    """Facts about a data set, which nobody searches.

    `likelihood` is the family of p(x|z) that fits the values: `bernoulli` for {0, 1}; `gaussian` (one learned scale)
    for continuous values; `logistic8`, the discretised logistic, for 8-bit values, given to a variant as k/255;
    `categorical` for one of `shape[-1]` symbols, given as one-hot vectors.
    """

    name: str
    shape: tuple[int, ...]  # of one example: (C, H, W) or (D,); of one step, (D,), where `steps` > 0
    likelihood: Likelihood
    classes: int = 0  # 0: no labels
    steps: int = 0  # 0: no sequences; else the longest

    @property
    def fields(self) -> frozenset[str]:
        """The optional fields of `Batch` that this data set fills: a subset of {"y", "mask"}."""
        return frozenset(["y"] * (self.classes > 0) + ["mask"] * (self.steps > 0))


def number(default: float, low: float, high: float = math.inf, *, help: str) -> Any:
    """A numeric `Config` field with its default and its range, both ends included."""
    return field(default=default, metadata={"low": low, "high": high, "help": help})


def choice(default: str, *others: str, help: str) -> Any:
    """A `Config` field that takes one of a few words."""
    return field(default=default, metadata={"choices": (default, *others), "help": help})


@dataclass(frozen=True, kw_only=True)
class Config:
    """What is chosen, searched and logged. A variant extends it by its own hyperparameters.

    `Config(**params)` rebuilds it from what was logged. `warmup` and `free_bits` change what is minimised,
    never what is compared.
    """

    latent: int = number(16, 1, 65536, help="latent dimensions")
    width: int = number(256, 1, 65536, help="units of a hidden layer")
    depth: int = number(1, 1, 64, help="hidden layers of the encoder, and of the decoder")
    network: str = choice("mlp", "conv", help="mlp, or conv for images of 28x28 and larger")
    lr: float = number(1e-3, 1e-8, 1.0, help="Adam's learning rate")
    batch: int = number(128, 1, 1_000_000, help="examples in a training step")
    warmup: int = number(0, 0, help="steps over which the weight of the KL rises from 0; 0 for none")
    free_bits: float = number(0.0, 0.0, 1e6, help="nats per latent dimension that cost nothing (Kingma et al. 2016)")
    clip: float = number(0.0, 0.0, help="largest norm of a player's gradient; 0 for no clipping")

    def __post_init__(self) -> None:
        types = get_type_hints(type(self))
        for f in dataclasses.fields(self):
            value, limits = getattr(self, f.name), f.metadata
            if "choices" in limits:
                if value not in limits["choices"]:
                    raise InputError(f"{f.name}={value!r}: expected one of {', '.join(limits['choices'])}")
                continue
            whole = types[f.name] is int
            if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
                raise InputError(f"{f.name}={value!r}: expected {'a whole number' if whole else 'a number'}")
            if not limits["low"] <= value <= limits["high"]:
                upper = f" to {limits['high']:g}" if limits["high"] < math.inf else " or more"
                raise InputError(f"{f.name}={value!r}: expected {limits['low']:g}{upper} ({limits['help']})")


Loss = Tensor | Callable[[], Tensor]


@dataclass(frozen=True)
class Terms:
    """What one scored batch means, in three kinds that never mix.

    Compared: `reconstruction` = -E_q log p(x|z) and `kl`, at beta = 1, without schedule or free bits; lower is better.
    Minimised: `losses`, one scalar per player. Only logged: `extras`, (B,) or (B, n) each; one called `..._score` says
    how ordinary an example looks, higher for the ordinary.

    Players move in the order of `losses`. A loss that is given as a function is computed when its player's turn has
    come, at the weights that the players before it left: so alternate the phases of an adversarial game. Players whose
    losses are tensors share no weights.
    """

    reconstruction: Tensor  # (B,)
    kl: Tensor | None  # (B,), None where q(z|x) has no density
    losses: Mapping[str, Loss]  # a scalar per player, by the names of `Variant.players`
    extras: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def elbo(self) -> Tensor | None:
        """(B,) the evidence lower bound, higher is better; None where the KL is."""
        return None if self.kl is None else -(self.reconstruction + self.kl)


class Variant(nn.Module, ABC):
    """A model and its objective. A subclass is abstract or final; no variant extends another.

    `terms` is pure in (weights, batch, step, random state): no counters, no logging, no host synchronisation and no
    branch on tensor values, so that a training step can be captured as a graph. Running averages in buffers, as batch
    normalisation has them, may move in training mode, where nothing that `terms` returns depends on them.
    """

    paper: ClassVar[str]  # citation
    required_fields: ClassVar[frozenset[str]] = frozenset()  # fields of Batch without which `terms` cannot score
    conditioned_on: str = ""  # what the likelihood is conditioned on: "" for p(x), "y" for p(x, y), "x" for a part of x
    config_type: ClassVar[type[Config]] = Config
    levels: tuple[int, ...] = ()  # sizes of the levels of z, in the layout of `encode`; empty where there is but one
    latent_classes: int = 0  # so many last columns of z are a class, as a one-hot vector in the prior
    factorized: bool = True  # whether the values of x are independent, given z
    class_conditional: bool = False  # whether `sample` heeds the classes that it is asked for
    config: Config
    spec: DataSpec

    def __init__(self, config: Config, spec: DataSpec) -> None:
        super().__init__()
        self.config, self.spec = config, spec

    @abstractmethod
    def terms(self, batch: Batch, step: Tensor) -> Terms:
        """Score a batch. `step`, a scalar tensor, counts optimisation steps: schedules read it, nothing else does."""

    @abstractmethod
    def encode(self, batch: Batch) -> Tensor:
        """(B, Z) the representation that is probed. Deterministic; never looks at `batch.y`."""

    @abstractmethod
    def decode(self, z: Tensor, batch: Batch | None = None) -> Tensor:
        """The mean of p(x|z), (B, *shape), in the units of the data. `batch` holds conditions, where there are any."""

    @abstractmethod
    def sample_x(self, z: Tensor, batch: Batch | None = None) -> Tensor:
        """A draw from p(x|z), (B, *shape), in the units of the data. `batch` as in `decode`."""

    @abstractmethod
    def sample_prior(self, n: int, condition: Batch | None = None) -> Tensor:
        """(n, Z) draws of z from the prior, in the layout of `encode`; for conditions, from that of each of `given`."""

    def prior_from_noise(self, noise: Tensor, condition: Batch | None = None) -> Tensor:
        """(n, Z) z from standard normal noise (n, Z): what `prior` does to its draws. `given` as there.

        Noise that is drawn from N(0, I) gives draws of the prior. For codes without a class; the noise itself, where
        the prior is N(0, I).
        """
        return noise

    def sample(self, n: int, y: Tensor | None = None, noise: bool = False) -> Tensor:
        """(n, *shape): z from the prior, then the mean of p(x|z), or with `noise` a draw from it: what a model says
        data are like. `y` (n,) asks for classes, where it can.
        """
        z = self.sample_prior(n)
        return self.sample_x(z) if noise else self.decode(z)

    @abstractmethod
    def log_prior(self, z: Tensor, batch: Batch) -> Tensor:
        """(B,) log p(z) in nats; for a class that is told, log p(z|y) + log p(y), with p(y) uniform."""

    @abstractmethod
    def log_likelihood(self, z: Tensor, batch: Batch) -> Tensor:
        """(B, *shape) log p of each value of x, given z, in nats; 0 where nothing is modelled, such as padding."""

    def log_joint(self, z: Tensor, batch: Batch) -> Tensor:
        """(B,) log p(x, z) in nats."""
        return self.log_prior(z, batch) + self.log_likelihood(z, batch).flatten(1).sum(1)

    @abstractmethod
    def sample_posterior(self, batch: Batch, k: int = 1) -> tuple[Tensor, Tensor] | None:
        """z (B k, Z), `k` draws from q(z|x) of each example in turn, and log q(z|x) (B k,) in nats.

        None where q has no density.
        """

    def forecast(self, batch: Batch, prefix: Tensor) -> Tensor | None:
        """Sequences (B, T, D) whose first `prefix` (B,) steps are as given, the others foretold from those alone.

        None where it cannot.
        """
        return None

    def pictures(self, batch: Batch) -> Mapping[str, Tensor]:
        """What is worth seeing of this variant alone, by name: values (rows, columns, *shape), NaN for nothing."""
        return {}

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def optimizers(self) -> Mapping[str, torch.optim.Optimizer]:
        """One optimiser for each of `Terms.losses`. Most variants have a single player, called `loss`."""
        return {"loss": torch.optim.Adam(self.parameters(), lr=self.config.lr, fused=True)}
