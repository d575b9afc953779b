"""How well does one code hold a whole sequence? The ELBO of sequences; by default of digits, read row by row.

Both ways of feeding the decoder are searched: a decoder that reads the true last step scores better with a code that
says less, which the KL beside the ELBO shows.
"""

from studies import Study, Trial
from variants.vrae import VRAEConfig

STUDY = Study(objectives=("valid/elbo",), dataset="digits-rows", trials=12, epochs=60, pruner="halving")


def suggest(trial: Trial) -> VRAEConfig:
    return VRAEConfig(
        latent=trial.suggest_int("latent", 2, 64, log=True),
        width=trial.suggest_int("width", 32, 256, log=True),
        lr=trial.suggest_float("lr", 1e-3, 1e-2, log=True),
        feeding=trial.suggest_categorical("feeding", ["free", "teacher"]),
    )
