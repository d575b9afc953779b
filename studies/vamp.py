"""Does a prior that is learned from pseudo-inputs model the data better than N(0, I)? The objective is the ELBO.

A warm-up of the KL keeps the code from collapsing early in training, when the prior can follow the posterior.
"""

from studies import Study, Trial, common
from variants.vamp import VampConfig

STUDY = Study(objectives=("valid/elbo",))


def suggest(trial: Trial) -> VampConfig:
    return VampConfig(
        **common(trial),
        pseudo_inputs=trial.suggest_int("pseudo_inputs", 10, 500, log=True),
        warmup=trial.suggest_categorical("warmup", [0, 300]),
    )
