"""Do flows in the posterior or the prior model the data better than Gaussian ones? The objective is the ELBO.

A warm-up of the KL keeps information in the code early in training.
"""

from studies import Study, Trial, common
from variants.flow import FlowConfig

STUDY = Study(objectives=("valid/elbo",))


def suggest(trial: Trial) -> FlowConfig:
    return FlowConfig(
        **common(trial),
        steps=trial.suggest_int("steps", 0, 6),
        prior_steps=trial.suggest_int("prior_steps", 0, 6),
        warmup=trial.suggest_categorical("warmup", [0, 300]),
    )
