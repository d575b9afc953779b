"""How well do discrete codes describe the data, with a prior that is fitted to them? The objective is the ELBO.

Residual networks have one code at each position of a map. For other networks, the number of codes is searched.
"""

from dataclasses import replace

from studies import Study, Trial, common
from variants.vq import VQConfig

STUDY = Study(objectives=("valid/elbo",))


def suggest(trial: Trial) -> VQConfig:
    fields = common(trial, image_latents=(4, 64), config_type=VQConfig)
    config = VQConfig(**fields, codes=trial.suggest_int("codes", 16, 512, log=True))
    if trial.spec and config.network_for(trial.spec) == "resnet":
        return config
    return replace(config, positions=trial.suggest_int("positions", 2, 32, log=True))
