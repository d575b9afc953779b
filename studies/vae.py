"""How well can a plain VAE model the data? The only objective is the ELBO."""

from studies import Study, Trial, common
from variants.vae import VAEConfig

STUDY = Study(objectives=("valid/elbo",))


def suggest(trial: Trial) -> VAEConfig:
    return VAEConfig(**common(trial))
