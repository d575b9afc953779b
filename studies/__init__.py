"""The hyperparameter searches of the variants, one file for each.

A file `studies/NAME.py` defines `suggest(trial) -> Config`, which samples a configuration with `trial.suggest_*` of
Optuna, and `STUDY`, which holds the objectives and the default budget. Another package adds such a module with an entry
point in the group `vae.studies`. The file is optional: without it, `latent`, `width`, `depth` and `lr` are
searched for the best ELBO.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, NotRequired, Protocol, TypedDict

import variants
from variants import InputError

if TYPE_CHECKING:
    from variants import Config, DataSpec

__all__ = ["Parameters", "SearchBudget", "SearchSpace", "Study", "Trial", "common", "get"]


class Parameters(Protocol):
    """The methods of `optuna.Trial` that a search space may use."""

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float: ...
    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> int: ...
    def suggest_categorical(self, name: str, choices: Any) -> Any: ...


class Trial(Parameters, Protocol):
    """What a search space samples from, with the properties of the data; None if these are not known."""

    @property
    def spec(self) -> DataSpec | None: ...


@dataclass(frozen=True, kw_only=True)
class Study:
    """The objectives of a study, and the budget that is used if the command line gives none.

    `objectives` are names of metrics (see `pipeline.metrics`); the result for several of them is a Pareto front. A
    trial ends early after `patience` epochs without a better validation score.
    """

    objectives: tuple[str, ...]
    dataset: str = "digits"
    trials: int = 20
    epochs: int = 100
    patience: int = 15


@dataclass(frozen=True)
class SearchBudget:
    """What the trials of a study may spend together: epochs, or seconds of training and scoring. Exactly one is set."""

    epochs: int | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        if (self.epochs is None) == (self.seconds is None):
            raise ValueError("a budget is either a number of epochs or a number of seconds")

    @property
    def unit(self) -> str:
        return "epochs" if self.seconds is None else "s"

    @property
    def amount(self) -> float:
        return self.seconds or self.epochs or 0

    def __str__(self) -> str:
        if self.seconds is None:
            return "1 epoch" if self.epochs == 1 else f"{self.epochs} epochs"
        unit, size = next(((u, n) for u, n in (("h", 3600), ("min", 60)) if self.seconds % n == 0), ("s", 1))
        return f"{self.seconds / size:g} {unit}"


class CommonFields(TypedDict):
    latent: int
    width: int
    depth: int
    lr: float
    network: NotRequired[str]
    batch: NotRequired[int]


def common(
    trial: Trial, *, image_latents: tuple[int, int] = (32, 512), config_type: type[Config] | None = None
) -> CommonFields:
    """Sample the hyperparameters that most studies search, so that they all search the same ranges.

    For large grey images, for colour images and for sequences of up to 100 steps, the network is searched too. Longer
    sequences have convolutions over time, because recurrent networks take many times as long. Images with residual
    networks need codes of more dimensions, whose range is `image_latents`. They and sequences learn faster from smaller
    batches. `width` has one range for all networks but those of sequences: a residual network has width/8 channels in
    its largest map. `config_type` is the class of the configuration, if it chooses other networks than `Config`.
    """
    from variants import Config

    default = (config_type or Config)().network_for(trial.spec) if trial.spec else "mlp"
    others = {"mlp": [], "conv": ["mlp"], "resnet": ["conv"], "gru": ["tcn"], "tcn": []}[default]
    is_map, is_sequence = default == "resnet", default in ("gru", "tcn")
    fields: CommonFields = {
        "latent": trial.suggest_int("latent", *(image_latents if is_map else (2, 64)), log=True),
        "width": trial.suggest_int("width", *((32, 256) if is_sequence else (64, 512)), log=True),
        "depth": trial.suggest_int("depth", 1, 2),
        "lr": trial.suggest_float("lr", 3e-4, 1e-2, log=True),
    }
    if others:
        fields["network"] = trial.suggest_categorical("network", [default, *others])
    if is_map or is_sequence:
        fields["batch"] = trial.suggest_categorical("batch", [32, 128])
    return fields


class SearchSpace(Protocol):
    """The interface of a module of this folder."""

    @property
    def STUDY(self) -> Study: ...

    def suggest(self, trial: Trial) -> Config: ...


@dataclass(frozen=True)
class _DefaultSpace:
    """The search space of a variant without a study file."""

    variant: str
    STUDY = Study(objectives=("valid/elbo",))

    def suggest(self, trial: Trial) -> Config:
        return variants.get(self.variant).config_type(**common(trial))


def get(name: str) -> SearchSpace:
    """Return the study of a variant.

    Raises:
        InputError: If the study's module lacks `suggest` or `STUDY`.
    """
    plugins = {point.name: point for point in entry_points(group="vae.studies")}
    if (Path(__file__).parent / f"{name}.py").exists():
        where = f"studies/{name}.py"
        module: Any = importlib.import_module(f"studies.{name}")
    elif name in plugins:
        where = plugins[name].value
        module = plugins[name].load()
    else:
        return _DefaultSpace(name)
    missing = [n for n in ("suggest", "STUDY") if not hasattr(module, n)]
    if missing:
        raise InputError(f"{where} is incomplete: it does not define {', '.join(missing)}")
    space: SearchSpace = module
    return space
