"""What does a code whose covariance is the identity matrix cost, and is it more useful?

The penalties trade the likelihood for uncorrelated codes, so there are two objectives, as in the study of `beta`. Both
types of the method are searched, and both weights on their own: the paper's ratio of `lambda_d` to `lambda_od` is 10
for the type I and 1 for the type II.
"""

from studies import Study, Trial, common
from variants.dip import DIPConfig

STUDY = Study(objectives=("valid/elbo", "probe/accuracy"))


def suggest(trial: Trial) -> DIPConfig:
    kind = trial.suggest_categorical("type", ["I", "II"])
    lambda_od = trial.suggest_float("lambda_od", 1.0, 100.0, log=True)
    lambda_d = trial.suggest_float("lambda_d", 1.0, 1000.0, log=True)
    return DIPConfig(**common(trial), type=kind, lambda_od=lambda_od, lambda_d=lambda_d)
