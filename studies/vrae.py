"""How well does a single code describe a whole sequence? By default the sequences are the rows of digits.

The objective is the ELBO. Both ways to feed the decoder are searched. A decoder that reads the true last step reaches a
better ELBO with a code that carries less information, which its KL shows.
"""

from studies import Study, Trial
from variants.vrae import VRAEConfig

STUDY = Study(objectives=("valid/elbo",), dataset="digits-rows", trials=12, epochs=60)


def suggest(trial: Trial) -> VRAEConfig:
    return VRAEConfig(
        latent=trial.suggest_int("latent", 2, 64, log=True),
        width=trial.suggest_int("width", 32, 256, log=True),
        lr=trial.suggest_float("lr", 3e-4, 1e-2, log=True),
        batch=trial.suggest_categorical("batch", [32, 128]),
        feeding=trial.suggest_categorical("feeding", ["free", "teacher"]),
    )
