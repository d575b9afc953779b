"""What does beta buy? It trades likelihood for the usefulness of the code, so there are two objectives.

The ELBO (at beta = 1, for every beta) says how well the data are modelled, the probe how well a linear classifier
reads the class from the code. The result is a Pareto front, not a winner; the loss, which contains beta, would
always prefer the smallest beta, and is refused as an objective.
"""

from studies import Study, Trial
from studies._default import common
from variants.beta import BetaConfig

STUDY = Study(objectives=("valid/elbo", "probe/accuracy"), pruner="halving")


def suggest(trial: Trial) -> BetaConfig:
    return BetaConfig(**common(trial), beta=trial.suggest_float("beta", 0.25, 8.0, log=True))  # type: ignore[arg-type]
