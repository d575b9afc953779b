"""How well do the codes reconstruct the data, and how close is their distribution to the prior?

An AAE with a deterministic encoder has no ELBO. The two objectives are the reconstruction and the maximum mean
discrepancy between codes and samples of the prior. If the latter is large, generated samples are poor. The adversarial
losses are no objectives, because they only compare the discriminator with the encoder.
"""

from studies import Study, Trial, common
from variants.aae import AAEConfig

STUDY = Study(objectives=("valid/reconstruction", "latent/mmd"))


def suggest(trial: Trial) -> AAEConfig:
    adversary = trial.suggest_float("adversary_lr", 1e-4, 3e-3, log=True)
    return AAEConfig(**common(trial), adversary_lr=adversary)
