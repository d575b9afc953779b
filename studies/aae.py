"""How well do codes reconstruct, and how near are they to the prior? An AAE with a deterministic encoder has no ELBO.

So there are two objectives that hold for it: the reconstruction, and the maximum mean discrepancy between the codes
and draws from the prior, without which samples are worth nothing. The adversary's own losses say only who is winning.
"""

from studies import Study, Trial
from studies._default import common
from variants.aae import AAEConfig

STUDY = Study(objectives=("valid/reconstruction", "latent/mmd"), pruner="halving")


def suggest(trial: Trial) -> AAEConfig:
    adversary = trial.suggest_float("adversary_lr", 1e-4, 3e-3, log=True)
    return AAEConfig(**common(trial), adversary_lr=adversary)  # type: ignore[arg-type]
