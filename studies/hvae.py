"""What does a hierarchy buy? The ELBO of ladders of one to four levels, with and without warm-up of the KL.

Warm-up keeps upper levels from closing before they are used (section 2.3 of the paper).
"""

from studies import Study, Trial
from studies._default import common
from variants.hvae import HVAEConfig

STUDY = Study(objectives=("valid/elbo",), pruner="halving")


def suggest(trial: Trial) -> HVAEConfig:
    return HVAEConfig(
        **common(trial),  # type: ignore[arg-type]
        levels=trial.suggest_int("levels", 1, 4),
        warmup=trial.suggest_categorical("warmup", [0, 300]),
    )
