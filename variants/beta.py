"""beta-VAE: a weight on the KL trades reconstruction for a simpler and more disentangled code.

There are two objectives, each of which is minimised:

    beta       reconstruction + beta * KL           Higgins et al. 2017, ICLR, equation 4
    capacity   reconstruction + gamma * |KL - C|    Burgess et al. 2018, arXiv:1804.03599, equation 8; C rises from 0

The weights act only on the loss. The ELBO that is compared is always the one at beta = 1.

*Departures*: the networks and the optimizer are those that all variants here share, not those of the papers. |KL - C|
is computed from the KL averaged over the batch, as in the authors' later library. `warmup` and `free_bits` act only on
the objective `beta`, because the rising capacity is itself a schedule.
"""

from dataclasses import dataclass

from torch import Tensor

from variants.base import Batch, Config, GaussianVariant, Terms, choice, closed_forms, number


@dataclass(frozen=True, kw_only=True)
class BetaConfig(Config):
    beta: float = number(4.0, 0.0, 1e6, help="weight of the KL; 1 is the VAE")
    objective: str = choice("beta", "capacity", help="beta: a weighted KL; capacity: a rising target for the KL")
    capacity: float = number(25.0, 0.0, 1e6, help="final target for the KL in nats (objective=capacity)")
    capacity_steps: int = number(100_000, 1, help="steps over which the target rises from 0 (objective=capacity)")
    gamma: float = number(1000.0, 0.0, 1e9, help="weight of |KL - C| (objective=capacity)")


class BetaVAE(GaussianVariant):
    paper = "Higgins et al. 2017, beta-VAE, ICLR; Burgess et al. 2018, arXiv:1804.03599"
    config_type = BetaConfig
    config: BetaConfig

    def terms(self, batch: Batch, step: Tensor) -> Terms:
        bound, c = self.bound(batch), self.config
        if c.objective == "beta":
            penalty = c.beta * closed_forms.ramp(step, c.warmup) * closed_forms.free_bits(bound.kl, c.free_bits)
        else:
            target = c.capacity * closed_forms.ramp(step, c.capacity_steps)
            penalty = c.gamma * (bound.kl.sum(1).mean() - target).abs()
        loss = bound.reconstruction.mean() + penalty
        return Terms(bound.reconstruction, bound.kl.sum(1), {"loss": loss}, {"kl_per_dimension": bound.kl})
