"""What is the effect of giving the class to the decoder?

There are two objectives: the bound of log p(x), which includes the log(classes) nats for the class, and the accuracy of
a linear classifier on the code. The code need not contain the class, which the decoder gets anyway, so the accuracy
tends to fall as the bound rises. The result is a Pareto front.
"""

from studies import Study, Trial, common
from variants.cvae import CVAEConfig

STUDY = Study(objectives=("valid/elbo", "probe/accuracy"))


def suggest(trial: Trial) -> CVAEConfig:
    return CVAEConfig(**common(trial), drop=trial.suggest_float("drop", 0.05, 0.5))
