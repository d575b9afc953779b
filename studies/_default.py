"""The search space of a variant that brings none: the fields that all variants share, for the ELBO."""

from dataclasses import dataclass

import variants
from studies import SearchSpace, Study, Trial
from variants import Config


def common(trial: Trial) -> dict[str, float]:
    """Latent size, network size and learning rate: what every variant's study searches, on the same ranges."""
    return {
        "latent": trial.suggest_int("latent", 2, 64, log=True),
        "width": trial.suggest_int("width", 64, 512, log=True),
        "depth": trial.suggest_int("depth", 1, 2),
        "lr": trial.suggest_float("lr", 3e-4, 1e-2, log=True),
    }


@dataclass(frozen=True)
class _Space:
    variant: str
    STUDY: Study

    def suggest(self, trial: Trial) -> Config:
        return variants.get(self.variant).config_type(**common(trial))  # type: ignore[arg-type]


def for_variant(name: str) -> SearchSpace:
    return _Space(name, Study(objectives=("valid/elbo",), pruner="halving"))
