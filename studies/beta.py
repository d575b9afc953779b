"""What is the effect of beta? It trades the likelihood for a more useful code, so there are two objectives.

The ELBO, which is computed at beta = 1 for every beta, measures how well the data are modelled. The probe measures how
well a linear classifier predicts the class from the code. The result is a Pareto front. The loss would always prefer
the smallest beta, because it contains beta, and is therefore not accepted as an objective.
"""

from studies import Study, Trial, common
from variants.beta import BetaConfig

STUDY = Study(objectives=("valid/elbo", "probe/accuracy"))


def suggest(trial: Trial) -> BetaConfig:
    return BetaConfig(**common(trial), beta=trial.suggest_float("beta", 0.25, 8.0, log=True))
