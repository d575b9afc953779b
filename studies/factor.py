"""What does a penalty on the total correlation by a discriminator cost, and is the code more useful?

The weight `gamma` of the total correlation trades the likelihood for a code with independent dimensions, so there are
two objectives, as in the study of `beta`. The learning rate of the discriminator is searched as well: a slow one
underestimates the total correlation, and the penalty has no effect.
"""

from studies import Study, Trial, common
from variants.factor import FactorConfig

STUDY = Study(objectives=("valid/elbo", "probe/accuracy"))


def suggest(trial: Trial) -> FactorConfig:
    gamma = trial.suggest_float("gamma", 1.0, 100.0, log=True)
    adversary = trial.suggest_float("adversary_lr", 1e-4, 3e-3, log=True)
    return FactorConfig(**common(trial), gamma=gamma, adversary_lr=adversary)
