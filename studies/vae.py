"""How well can a plain VAE model these data? One objective, the ELBO; Hyperband ends hopeless trials early."""

from studies import Study, Trial
from studies._default import common
from variants.vae import VAE

STUDY = Study(objectives=("valid/elbo",), pruner="hyperband")


def suggest(trial: Trial) -> VAE.Config:
    return VAE.Config(**common(trial))  # type: ignore[arg-type]
