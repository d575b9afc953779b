"""What does a penalty on the total correlation alone cost, and is the code more useful?

The weight `beta` of the total correlation trades the likelihood for a code with independent dimensions, so there are
two objectives, as in the study of `beta`: the ELBO, which contains no such weight, and the accuracy of a linear probe.
The other two parts of the KL keep the weight 1, as in the paper.
"""

from studies import Study, Trial, common
from variants.tcvae import TCVAEConfig

STUDY = Study(objectives=("valid/elbo", "probe/accuracy"))


def suggest(trial: Trial) -> TCVAEConfig:
    return TCVAEConfig(**common(trial), beta=trial.suggest_float("beta", 1.0, 16.0, log=True))
