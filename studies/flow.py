"""Does a more flexible posterior, or a more flexible prior, model the data better? The objective is the ELBO."""

from studies import Study, Trial, common
from variants.flow import FlowConfig

STUDY = Study(objectives=("valid/elbo",))


def suggest(trial: Trial) -> FlowConfig:
    return FlowConfig(
        **common(trial), steps=trial.suggest_int("steps", 0, 6), prior_steps=trial.suggest_int("prior_steps", 0, 6)
    )
