"""Does a prior that is learned from pseudo-inputs model the data better? The objective is the ELBO."""

from studies import Study, Trial, common
from variants.vamp import VampConfig

STUDY = Study(objectives=("valid/elbo",))


def suggest(trial: Trial) -> VampConfig:
    return VampConfig(**common(trial), pseudo_inputs=trial.suggest_int("pseudo_inputs", 10, 500, log=True))
