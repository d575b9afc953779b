"""beta-VAE: a weight on the KL trades reconstruction for a simpler, more factorised code.

Higgins et al. 2017, ICLR, equation 4:            -L = reconstruction + beta * KL
Burgess et al. 2018, arXiv:1804.03599, equation 8: -L = reconstruction + gamma * |KL - C|, C rising from 0

The weights belong to what is minimised. The ELBO that is compared is always the one at beta = 1.

*Departures*: the networks and the optimiser are those common to all variants here, not those of the papers; |KL - C|
is taken on the KL averaged over the batch, as in the authors' later library. `warmup` and `free_bits` act on the
`beta` objective only: the rising capacity is itself a schedule.
"""

from dataclasses import dataclass

from torch import Tensor

from variants.base import closed_forms
from variants.base.contract import Batch, Config, Terms, choice, number
from variants.base.gaussian import GaussianVariant


@dataclass(frozen=True, kw_only=True)
class BetaConfig(Config):
    beta: float = number(4.0, 0.0, 1e6, help="weight of the KL; 1 is the VAE")
    objective: str = choice("beta", "capacity", help="beta: weighted KL; capacity: annealed (Burgess et al. 2018)")
    capacity: float = number(25.0, 0.0, 1e6, help="nats of KL that the capacity objective ends at")
    capacity_steps: int = number(100_000, 1, help="steps over which the capacity rises from 0")
    gamma: float = number(1000.0, 0.0, 1e9, help="weight of |KL - C| in the capacity objective")


class BetaVAE(GaussianVariant):
    paper = "Higgins et al. 2017, beta-VAE, ICLR; Burgess et al. 2018, arXiv:1804.03599"
    config_type = BetaConfig
    config: BetaConfig

    def terms(self, batch: Batch, step: Tensor) -> Terms:
        reconstruction, kl = self.bound(batch)
        c = self.config
        if c.objective == "beta":
            cost = c.beta * closed_forms.ramp(step, c.warmup) * closed_forms.free_bits(kl, c.free_bits)
        else:
            cost = c.gamma * (kl.sum(1).mean() - c.capacity * closed_forms.ramp(step, c.capacity_steps)).abs()
        loss = reconstruction.mean() + cost
        return Terms(reconstruction, kl.sum(1), {"loss": loss}, {"kl_per_dimension": kl})
