"""How well do discrete codes describe the data, with a prior that is fitted to them? The objective is the ELBO.

For images that are read by residual networks, there is one code at each position of a map, whose size is fixed. For all
other data, the number of positions is searched.
"""

from studies import Study, Trial, common
from variants.vq import VQConfig

STUDY = Study(objectives=("valid/elbo",))


def suggest(trial: Trial) -> VQConfig:
    fields = common(trial, image_latents=(4, 64), config_type=VQConfig)
    codes = trial.suggest_int("codes", 16, 512, log=True)
    if trial.spec and VQConfig().network_for(trial.spec) == "resnet":
        return VQConfig(**fields, codes=codes)
    return VQConfig(**fields, codes=codes, positions=trial.suggest_int("positions", 2, 32, log=True))
