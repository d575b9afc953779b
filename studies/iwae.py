"""How well can the importance-weighted bound model the data, and does its gradient matter?

The only objective is the ELBO, as in the study of `vae`, so that both can be compared. It understates this variant: the
encoder serves the tighter bound, which `test/iw...` of a final measures for all variants alike.
"""

from studies import Study, Trial, common
from variants.iwae import IWAEConfig

STUDY = Study(objectives=("valid/elbo",))


def suggest(trial: Trial) -> IWAEConfig:
    samples = trial.suggest_int("samples", 2, 20, log=True)
    gradient = trial.suggest_categorical("gradient", ["standard", "dreg"])
    return IWAEConfig(**common(trial), samples=samples, gradient=gradient)
