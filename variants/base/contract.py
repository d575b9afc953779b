"""The contract between a variant and the rest of the project. Read this file first.

A variant scores batches of data. Training, search, tracking, evaluation and comparison know a variant only through the
classes of this file.

Shapes: B is the number of examples in a batch, T the number of time steps, D the number of features of a step, and Z
the number of latent dimensions. `shape` is the shape of one example.

Units: all likelihoods and divergences are in nats per example, summed over pixels (or steps) and latent dimensions.
"""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, ClassVar, Literal, Self, get_type_hints

import torch
from torch import Tensor, nn

from variants._values import DENSITIES, KIND_OF, InputError, Likelihood, ValueKind
from variants.base.adam import Adam

__all__ = [
    "DENSITIES", "KIND_OF", "Batch", "Config", "DataSpec", "Group", "InputError", "Likelihood", "Loss", "Stage",
    "Terms", "ValueKind", "Variant", "choice", "number",
]  # fmt: skip


@dataclass(frozen=True)
class Batch:
    """A batch of examples. Sequences of different lengths are padded at the end. Missing values are 0 in `x`."""

    x: Tensor  # (B, *shape), or (B, T, D) for sequences
    y: Tensor | None = None  # (B,) class labels, int64; -1 for an unknown label
    mask: Tensor | None = None  # (B, T) bool, true for real steps and false for padding
    _: KW_ONLY
    observed: Tensor | None = None  # bool, in the shape of `x`: false for missing values; None if there are none
    exposure: Tensor | None = None  # (B,) the means of counts are proportional to it: for instance their sum
    elapsed: Tensor | None = None  # (B, T) time since the first step, in units of `DataSpec.elapsed`; None: even steps

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: Tensor | slice) -> Batch:
        """Return the examples at the given positions."""
        if isinstance(index, Tensor):
            return self._each(lambda field: field.index_select(0, index))
        return self._each(lambda field: field[index])

    @property
    def known(self) -> Tensor | None:
        """Which values count in the likelihood: observed values of real steps, not of padding. None if all do.

        It is bool, in the shape of `x`, or (B, T, 1) for sequences without missing values.
        """
        if self.mask is None:
            return self.observed
        return self.mask[..., None] if self.observed is None else self.mask[..., None] & self.observed

    @property
    def unlabelled(self) -> Batch:
        """The same examples without their labels."""
        return dataclasses.replace(self, y=None)

    @staticmethod
    def cat(batches: Sequence[Batch]) -> Batch:
        """Return one batch with the examples of several, which must have the same optional fields."""
        names = [f.name for f in dataclasses.fields(Batch) if getattr(batches[0], f.name) is not None]
        return Batch(**{name: torch.cat([getattr(batch, name) for batch in batches]) for name in names})

    def to(self, device: torch.device | str) -> Batch:
        return self._each(lambda field: field.to(device))

    def _each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        changed: dict[str, Any] = {}
        for f in dataclasses.fields(self):
            value = getattr(self, f.name)
            changed[f.name] = None if value is None else change(value)
        return Batch(**changed)


@dataclass(frozen=True, kw_only=True)
class Group:
    """Neighbouring values in the last axis of x whose likelihoods belong to one family.

    A categorical group is one variable, as a one-hot vector. `offset` is added to the output of the decoder, so that a
    new model starts near the frequencies and means of the training data: it holds logits of the frequencies, or
    logarithms of the means of counts. It has one number for each value, or is empty.
    """

    likelihood: Likelihood
    size: int  # number of values in the last axis of x
    offset: tuple[float, ...] = ()
    spread: tuple[float, ...] = ()  # for positive values: the standard deviation of log x in the training data

    @property
    def kind(self) -> ValueKind:
        return KIND_OF[self.likelihood]


@dataclass(frozen=True, kw_only=True)
class DataSpec:
    """The properties of a data set that a variant needs to know. They are facts, not hyperparameters.

    `likelihood` is the family of p(x|z) that fits the values, which are in these units:

        bernoulli                        values in {0, 1}
        gaussian, student-t              real values, standardised by the training data
        log-normal, gamma                positive values, divided by their geometric mean in the training data
        poisson, negative-binomial       counts as they are
        zero-inflated                    counts as they are, with a negative binomial that has additional zeros
        logistic8                        8-bit values k, as k/255, with a discretised logistic distribution
        mixture8                         8-bit pixels, as k/255, with a mixture of such distributions for each pixel,
                                         whose channels depend on each other
        continuous-bernoulli             values in [0, 1], with a density
        categorical                      one of `shape[-1]` symbols, as a one-hot vector
        mixed                            columns of several kinds, each of the family of its group
    """

    name: str
    shape: tuple[int, ...]  # of one example, (C, H, W) or (D,); for sequences, of one step, (D,)
    likelihood: Likelihood
    classes: int = 0  # number of classes; 0 if there are no labels
    steps: int = 0  # length of the longest sequence; 0 if the examples are no sequences
    groups: tuple[Group, ...] = ()  # of the last axis of x, in order; empty for one family without offset and spread
    missing: bool = False  # whether values of the training data are missing
    exposure: Literal["", "sum", "column"] = ""  # what `Batch.exposure` is: the sum of counts, or a column; "": none
    exposures: tuple[float, ...] = ()  # quantiles, evenly spaced from 0 to 1, of training data without gaps
    class_shares: tuple[float, ...] = ()  # among labelled training examples; empty if all classes are equal
    elapsed: float = 0.0  # longest time of a sequence, in units of the usual step; 0 if all steps are even
    examples: int = 0  # number of training examples; 0 if it is not known

    @property
    def fields(self) -> frozenset[str]:
        """The optional fields of `Batch` that this data set provides: a subset of {"y", "mask"}."""
        return frozenset(["y"] * (self.classes > 0) + ["mask"] * (self.steps > 0))

    @property
    def parts(self) -> tuple[Group, ...]:
        """The groups of values along the last axis of x; a single one if all values have one family."""
        return self.groups or (Group(likelihood=self.likelihood, size=self.shape[-1]),)

    @property
    def kinds(self) -> dict[ValueKind, Tensor]:
        """Which positions of the last axis of x hold values of each kind, bool."""
        of_each = [group.kind for group in self.parts for _ in range(group.size)]
        return {kind: torch.tensor([k == kind for k in of_each]) for kind in dict.fromkeys(of_each)}

    @property
    def in_unit(self) -> bool:
        """Whether all values lie between 0 and 1."""
        return set(self.kinds) <= {"binary", "pixel", "fraction"}

    @property
    def class_probabilities(self) -> Tensor:
        """p(y), (K,): the shares of the classes, or equal ones if these are not known."""
        return torch.tensor(self.class_shares or (1 / self.classes,) * self.classes)

    @property
    def median_exposure(self) -> float | None:
        """The median of `Batch.exposure` in the training data; None if there are no exposures."""
        return self.exposures[len(self.exposures) // 2] if self.exposures else None

    @property
    def has_density(self) -> bool:
        """Whether the likelihood of an example is a density. Otherwise it is a probability."""
        return any(group.kind in DENSITIES for group in self.parts)

    @classmethod
    def from_json(cls, facts: Mapping[str, Any]) -> DataSpec:
        """Return the spec whose `dataclasses.asdict` was saved as JSON, where tuples have become lists."""
        lists = {name: tuple(value) for name, value in facts.items() if isinstance(value, list | tuple)}
        if "groups" in lists:
            lists["groups"] = tuple(
                Group(**{**group, **{name: tuple(group[name]) for name in ("offset", "spread")}})
                for group in lists["groups"]
            )
        return cls(**{**facts, **lists})


def number(default: float, low: float, high: float = math.inf, *, help: str) -> Any:
    """Return a numeric field of a `Config` with its default and its range, which includes both ends."""
    return field(default=default, metadata={"low": low, "high": high, "help": help})


def choice(default: str, *others: str, help: str) -> Any:
    """Return a field of a `Config` that takes one of several strings."""
    return field(default=default, metadata={"choices": (default, *others), "help": help})


LONG_SEQUENCE = 100  # steps; a recurrent network takes much longer for longer sequences than convolutions


@dataclass(frozen=True, kw_only=True)
class Config:
    """The hyperparameters of a variant. A variant adds its own in a subclass.

    The fields are searched by a study and logged with each run, and `Config(**params)` restores the object from the
    logged values. `warmup` and `free_bits` change only the loss that is minimised, never the scores that are compared.
    A value of the wrong type or out of its range raises `InputError`.

    `network` is the kind of network between x and z. What `width` and `depth` mean depends on it:

        mlp       `depth` hidden layers of `width` units each
        conv      convolutions with 32 and 64 channels, for images of at least 28x28, and the same hidden layers between
                  them and z
        gru, lstm `depth` recurrent layers with states of `width` numbers, for sequences
        tcn       convolutions over time, for sequences: width/4 channels for single steps, and more at coarser time
                  scales, with `depth` pairs of blocks at each (see `variants.base.sequences`)
        resnet    residual blocks, for images with sides of 16 to 256: the largest map has width/8 channels, each
                  smaller one twice as many, at most `width`, and each has `depth` blocks (see `variants.base.images`)
        auto      the choice of `network_for`
    """

    latent: int = number(16, 1, 65536, help="latent dimensions")
    width: int = number(256, 1, 65536, help="units of a hidden layer")
    depth: int = number(1, 1, 64, help="hidden layers of the encoder, and of the decoder")
    network: str = choice(
        "auto", "mlp", "conv", "resnet", "gru", "lstm", "tcn",
        help="auto, mlp, for images conv or resnet, for sequences gru, lstm or tcn; see Config",
    )  # fmt: skip
    lr: float = number(1e-3, 1e-8, 1.0, help="Adam's learning rate")
    batch: int = number(128, 1, 1_000_000, help="examples in a training batch")
    warmup: int = number(0, 0, help="steps over which the weight of the KL rises from 0 to 1; 0 for no warm-up")
    free_bits: float = number(
        0.0, 0.0, 1e6, help="nats of KL per latent dimension that cost nothing (Kingma et al. 2016)"
    )
    clip: float = number(0.0, 0.0, help="largest norm of the gradient of each loss; 0 for no clipping")
    precision: str = choice("fp32", "bf16", help="of matrix products in training; scores are always in fp32")

    def network_for(self, spec: DataSpec) -> str:
        """Return the kind of network for such data: `network`, or what "auto" stands for.

        It stands for `resnet` for colour images, for `conv` for grey images, for `gru` or `tcn` for sequences, and for
        `mlp` for all other data, for images below 28x28, and for binary images, where convolutions take eight times as
        long on a CPU.
        """
        if self.network != "auto":
            return self.network
        if spec.steps:
            return "tcn" if spec.steps > LONG_SEQUENCE else "gru"
        is_large_image = len(spec.shape) == 3 and min(spec.shape[1:]) >= 28
        if not is_large_image or spec.likelihood == "bernoulli":
            return "mlp"
        return "resnet" if spec.shape[0] >= 3 and max(spec.shape[1:]) <= 256 else "conv"

    def for_data(self, spec: DataSpec) -> Self:
        """Return the configuration with the kind of network that `auto` stands for on such data."""
        return dataclasses.replace(self, network=self.network_for(spec))

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
    """The scores of one batch. There are three kinds, which must be kept apart.

    Scores that are **compared** between variants: `reconstruction`, which is -E_q log p(x|z) or an estimate of it from
    samples, and `kl`, in nats, without any coefficient, warm-up or free bits. Lower is better. `kl` may be an estimate
    from the same samples, log q(z|x) - log p(z), which can be negative for single examples, but not on average.

    Scores that are **minimised**: `losses` has one scalar for each optimizer. The trainer first takes the steps for all
    losses that are tensors, and then those for losses that are functions without arguments, each group in the order
    of `losses`. A function is called just before its own step, when the earlier optimizers have already changed the
    parameters. Adversarial training alternates in this way. If two losses are tensors, no parameter may belong to
    the optimizers of both. The gradient of a loss reaches no parameters but those of its own optimizer: an opponent is
    evaluated with `frozen`, and codes that it learns from are detached. A loss that does not belong to the
    current stage (see `Stage`) is not minimised, and is not even computed if it is a function.

    Scores that are **only logged**: each of `extras` is (B,) or (B, n). An extra whose name ends in `_score` is used to
    detect anomalies; a higher value means that the example is more typical of the training data. The extra `bound`, if
    there is one, is a lower bound of log p(x) that is tighter than the ELBO. The best epoch of a training is then the
    one with the highest `bound`. Some more names have a fixed meaning, by which `python -m variants.check` checks them:

        kl_per_dimension      (B, Z), a KL that adds up to `kl`, without the -log p(y) of a class
        mutual_information    I(x; z) under q, and
        total_correlation     KL(q(z) || prod_j q(z_j)), and
        dimension_kl          sum_j KL(q(z_j) || p(z_j)), estimates in nats; the three add up to the mean of `kl`
        mmd                   the squared maximum mean discrepancy between q(z) and p(z)
        off_diagonal          the sum of the squared covariances of all pairs of two dimensions of the code, and
        diagonal              the sum of the squared distances of the variances of the dimensions from 1
    """

    reconstruction: Tensor  # (B,)
    kl: Tensor | None  # (B,), or None if q(z|x) has no density
    losses: Mapping[str, Loss]  # one scalar for each optimizer, with the same keys as `Variant.optimizers()`
    extras: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def elbo(self) -> Tensor | None:
        """The evidence lower bound of each example, (B,), in nats; higher is better. None if `kl` is None."""
        return None if self.kl is None else -(self.reconstruction + self.kl)


@dataclass(frozen=True)
class Stage:
    """A part of a training in which only the losses of these names are minimised."""

    losses: tuple[str, ...]
    share: float  # of the epochs of the training; the shares of all stages add up to 1


class Variant(nn.Module, ABC):
    """A model together with its training objective.

    A concrete variant must not be subclassed. `terms` must be a pure function of the parameters, the batch, the step
    and the random state. It must not keep counters, write to a log, copy values to the CPU (`.item()`) or branch on
    tensor values. This allows a training step to be captured as a CUDA graph. Running averages in buffers, such as
    those of batch normalisation, may be updated in training mode if the result of `terms` does not depend on them.
    """

    paper: ClassVar[str]  # citation
    required_fields: ClassVar[frozenset[str]] = frozenset()  # the optional fields of `Batch` that `terms` needs
    config_type: ClassVar[type[Config]] = Config
    conditioned_on: str = ""  # "" nothing; "y" the class, whose log p(y) `log_joint` includes; "x" a part of x
    levels: tuple[int, ...] = ()  # dimensions of each level of z, in the order of `encode`; empty if there is only one
    latent_classes: int = 0  # how many dimensions at the end of z encode a class, one-hot in samples of the prior
    factorized: bool = True  # whether the values of x are independent given z
    class_conditional: bool = False  # whether `sample` uses its argument `y`
    any_length: bool = False  # whether the decoder makes sequences that are longer than those of the training data
    discrete: bool = False  # whether z has a countable number of values, so that `log_prior` is a log probability
    stages: tuple[Stage, ...] = ()  # of a training, one after the other; empty: all losses are minimised together
    config: Config
    spec: DataSpec

    def __init__(self, config: Config, spec: DataSpec) -> None:
        super().__init__()
        self.config, self.spec = config.for_data(spec), spec

    @abstractmethod
    def terms(self, batch: Batch, step: Tensor) -> Terms:
        """Score a batch. `step` is a scalar tensor with the number of training steps so far, for schedules only."""

    @abstractmethod
    def encode(self, batch: Batch) -> Tensor:
        """Return the representation of each example, (B, Z). It is deterministic and never depends on `batch.y`."""

    @abstractmethod
    def decode(self, z: Tensor, batch: Batch | None = None) -> Tensor:
        """Return the mean of p(x|z), (B, *shape), in the units of `Batch.x`.

        A conditional variant reads its conditions from `batch`, and a variant of sequences their length.
        """

    @abstractmethod
    def sample_x(self, z: Tensor, batch: Batch | None = None) -> Tensor:
        """Return one sample from p(x|z) for each z, (B, *shape), in the units of `Batch.x`; `batch` as in `decode`."""

    @abstractmethod
    def sample_prior(self, n: int, condition: Batch | None = None) -> Tensor:
        """Return n samples from the prior, (n, Z), or from the prior given each of the n examples of `condition`."""

    def prior_from_noise(self, noise: Tensor, condition: Batch | None = None) -> Tensor | None:
        """Turn standard normal noise, (n, Z), into samples of the prior, (n, Z), by a smooth function.

        This default is right for the prior N(0, I). A variant for whose prior there is no such function, for instance a
        mixture, returns None. The method is not used for variants with `latent_classes`, or if z is `discrete`.
        """
        return noise

    def sample(self, n: int, y: Tensor | None = None, noise: bool = False) -> Tensor:
        """Return n samples of x, (n, *shape): z from the prior, then the mean of p(x|z).

        With `noise` they are samples from p(x|z) instead of its means. `y` (n,) holds the classes to generate, and is
        ignored by variants that are not `class_conditional`.
        """
        z = self.sample_prior(n)
        return self.sample_x(z) if noise else self.decode(z)

    @abstractmethod
    def log_prior(self, z: Tensor, batch: Batch) -> Tensor:
        """Return log p(z), (B,), in nats; given a class y, log p(z|y) + log p(y)."""

    @abstractmethod
    def log_likelihood(self, z: Tensor, batch: Batch) -> Tensor:
        """Return log p(x|z) of each value, (B, *shape), in nats; 0 for missing values and padding."""

    def log_joint(self, z: Tensor, batch: Batch) -> Tensor:
        """Return log p(x, z), (B,), in nats."""
        return self.log_prior(z, batch) + self.log_likelihood(z, batch).flatten(1).sum(1)

    @abstractmethod
    def sample_posterior(self, batch: Batch, k: int = 1) -> tuple[Tensor, Tensor] | None:
        """Return `k` samples from q(z|x) for each example and their log q(z|x) in nats.

        The shapes are (B * k, Z) and (B * k,); the k samples of one example are consecutive rows. Returns None if
        q(z|x) has no density.
        """

    def forecast(self, batch: Batch, prefix: Tensor, k: int = 1, *, noise: bool = False) -> Tensor | None:
        """Continue sequences, (B, T, D), in `k` ways: the first `prefix` (B,) steps are kept, the rest is forecast.

        Each continuation rests on one draw of z given the prefix. It has the means of p(x|z), or with `noise` a sample.
        Missing values of the prefix are filled in as well. What `batch` holds after the prefix is not used, except the
        lengths and the times of the steps.

        Returns:
            The continuations, (k, B, T, D), or None if the variant cannot forecast.
        """
        return None

    def pictures(self, batch: Batch) -> Mapping[str, Tensor]:
        """Return grids of examples that show what is special about this variant: name -> (rows, columns, *shape).

        Values that are NaN are left empty.
        """
        return {}

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def optimizers(self) -> Mapping[str, torch.optim.Optimizer]:
        """Return one optimizer for each of `Terms.losses`. The default is a single Adam for the loss `loss`."""
        return {"loss": Adam(self.parameters(), lr=self.config.lr, fused=True)}
