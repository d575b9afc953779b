"""How well can the importance-weighted bound model the data, and does its gradient matter?

The only objective is the ELBO, as in the study of `vae`, so that both can be compared. It understates this variant,
whose encoder serves the tighter bound; `test/iw...` of a final measures that of all variants alike. The number of
samples is not searched, because the ELBO would prefer a single one. It can be set with `--fix samples=20`.
"""

from studies import Study, Trial, common
from variants.iwae import IWAEConfig

STUDY = Study(objectives=("valid/elbo",))


def suggest(trial: Trial) -> IWAEConfig:
    return IWAEConfig(**common(trial), gradient=trial.suggest_categorical("gradient", ["standard", "dreg"]))
