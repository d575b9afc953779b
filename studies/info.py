"""Do codes that keep more information about x, with the distribution of the prior, pay for what they cost?

`alpha` and `lambda_mmd` trade the reconstruction for the match with the prior. The two objectives are the
reconstruction and the maximum mean discrepancy between codes and samples of the prior, as in the study of `aae`. The
ELBO would always prefer a small alpha, because it contains the KL that alpha takes off.
"""

from studies import Study, Trial, common
from variants.info import InfoConfig

STUDY = Study(objectives=("valid/reconstruction", "latent/mmd"))


def suggest(trial: Trial) -> InfoConfig:
    alpha = trial.suggest_float("alpha", 0.0, 1.0)
    lambda_mmd = trial.suggest_float("lambda_mmd", 10.0, 1000.0, log=True)
    return InfoConfig(**common(trial), alpha=alpha, lambda_mmd=lambda_mmd)
