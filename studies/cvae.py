"""What does a label buy? The bound of log p(x), in which telling the class costs log(classes) nats, and the probe.

The code need not hold the class, which the decoder is told; so the probe tends to fall as the bound rises. Two
objectives, and a front.
"""

from studies import Study, Trial
from studies._default import common
from variants.cvae import CVAEConfig

STUDY = Study(objectives=("valid/elbo", "probe/accuracy"), pruner="halving")


def suggest(trial: Trial) -> CVAEConfig:
    return CVAEConfig(**common(trial), drop=trial.suggest_float("drop", 0.05, 0.5))  # type: ignore[arg-type]
