"""How well can a plain VAE model these data? One objective, the ELBO; Hyperband ends hopeless trials early."""

from studies import Study, Trial
from studies._default import common
from variants import Config

STUDY = Study(objectives=("valid/elbo",), pruner="halving")


def suggest(trial: Trial) -> Config:
    return Config(**common(trial))  # type: ignore[arg-type]
