"""How well do discrete codes describe the data, with a prior that is fitted to them? The objective is the ELBO."""

from studies import Study, Trial, common
from variants.vq import VQConfig

STUDY = Study(objectives=("valid/elbo",))


def suggest(trial: Trial) -> VQConfig:
    return VQConfig(
        **common(trial, image_latents=(4, 64)),
        positions=trial.suggest_int("positions", 2, 32, log=True),
        codes=trial.suggest_int("codes", 16, 512, log=True),
    )
