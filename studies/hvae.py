"""What is the effect of a hierarchy? The ELBO of ladders with one to four levels, with and without warm-up of the KL.

The warm-up keeps the upper levels from collapsing early in training (section 2.3 of the paper).
"""

from studies import Study, Trial, common
from variants.hvae import HVAEConfig

STUDY = Study(objectives=("valid/elbo",))


def suggest(trial: Trial) -> HVAEConfig:
    return HVAEConfig(
        **common(trial, image_latents=(256, 4096)),  # of z_1, which is a map of half the sides of the image
        levels=trial.suggest_int("levels", 1, 4),
        warmup=trial.suggest_categorical("warmup", [0, 300]),
    )
