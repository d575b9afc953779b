"""How well can a plain VAE model the data? The only objective is the ELBO."""

from studies import Study, Trial, common
from variants import Config

STUDY = Study(objectives=("valid/elbo",))


def suggest(trial: Trial) -> Config:
    return Config(**common(trial))
