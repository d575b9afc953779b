"""beta-TCVAE: a weight on the total correlation alone makes the dimensions of z independent of each other.

Chen et al. 2018, arXiv:1802.04942. The mean KL consists of three parts (equation 2), and the method minimises the
negative of equation 4:

    KL = I(x; z) + KL(q(z) || prod_j q(z_j)) + sum_j KL(q(z_j) || p(z_j))
    reconstruction + alpha * mutual information + beta * total correlation + gamma * KL of the dimensions

where q(z) is the average of q(z|x) over the training data. The parts are estimated within a batch (see
`variants.base.kl_parts`), and are logged as `mutual_information`, `total_correlation` and `dimension_kl`, so that each
has a curve over the epochs of a run.

*Departures*: the KL is subtracted from the three parts, whose sum is an estimate of it, and is added in closed form:

    reconstruction + KL + (alpha - 1) * mutual information + (beta - 1) * total correlation
        + (gamma - 1) * KL of the dimensions

This has the same mean, and is exactly the VAE if all weights are 1. `warmup` acts on all that is
added to the reconstruction, and `free_bits` on the KL. The networks and the optimizer are those that all variants here
share.
"""

from dataclasses import dataclass

from torch import Tensor

from variants.base import Batch, Config, GaussianVariant, Terms, closed_forms, kl_parts, number


@dataclass(frozen=True, kw_only=True)
class TCVAEConfig(Config):
    alpha: float = number(1.0, 0.0, 1e6, help="weight of the mutual information of x and z")
    beta: float = number(4.0, 0.0, 1e6, help="weight of the total correlation of z")
    gamma: float = number(1.0, 0.0, 1e6, help="weight of the KL of the single dimensions from the prior")


class TCVAE(GaussianVariant):
    paper = "Chen et al. 2018, Isolating Sources of Disentanglement in Variational Autoencoders, arXiv:1802.04942"
    config_type = TCVAEConfig
    config: TCVAEConfig

    def terms(self, batch: Batch, step: Tensor) -> Terms:
        bound, c = self.bound(batch), self.config
        parts = kl_parts(bound.z, bound.mean, bound.log_var, examples=self.spec.examples, batch=c.batch)
        weighted = (
            closed_forms.free_bits(bound.kl, c.free_bits)
            + (c.alpha - 1) * parts.mutual_information.mean()
            + (c.beta - 1) * parts.total_correlation.mean()
            + (c.gamma - 1) * parts.dimension_kl.mean()
        )
        loss = bound.reconstruction.mean() + closed_forms.ramp(step, c.warmup) * weighted
        extras = {"kl_per_dimension": bound.kl, **vars(parts)}
        return Terms(bound.reconstruction, bound.kl.sum(1), {"loss": loss}, extras)
