"""InfoVAE: a smaller weight on the KL, and a penalty on the distance of the aggregated posterior from the prior.

Zhao et al. 2017, arXiv:1706.02262, section 3. With q(z), the average of q(z|x) over the data, the method minimises

    reconstruction + (1 - alpha) * KL(q(z|x) || p(z)) + (alpha + lambda - 1) * MMD(q(z), p(z)).

MMD is the squared maximum mean discrepancy between the codes of a batch and samples of the prior (see
`variants.base.mmd`). With alpha > 0, the codes keep more information about x, and the MMD keeps their distribution near
the prior. Both ends of the range of alpha are methods of their own:

    alpha = 0, lambda = 1    the VAE; with a larger lambda, the MMD is added to it with the weight lambda - 1
    alpha = 1                WAE-MMD (Tolstikhin et al. 2018, arXiv:1711.01558): no KL, and the MMD has the weight
                             lambda, which is the lambda of that paper too

The discrepancy is logged as `mmd`, with a curve over the epochs of a run.

*Departures*: the kernel is the inverse multiquadric one of WAE-MMD, not a Gaussian one. With alpha = 1, q(z|x) still
is a Gaussian and the reconstruction a likelihood, where WAE-MMD has a deterministic encoder and the squared error.
`warmup` and `free_bits` act on the KL. The networks and the optimizer are those that all variants here share.
"""

from dataclasses import dataclass

from torch import Tensor

from variants.base import Batch, Config, GaussianVariant, InputError, Terms, closed_forms, mmd, number


@dataclass(frozen=True, kw_only=True)
class InfoConfig(Config):
    alpha: float = number(0.5, 0.0, 1.0, help="what is taken off the weight 1 of the KL; 1 is WAE-MMD")
    lambda_mmd: float = number(100.0, 0.0, 1e9, help="lambda; the weight of the MMD is alpha + lambda - 1")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.alpha + self.lambda_mmd < 1:
            raise InputError(
                f"lambda_mmd={self.lambda_mmd}: the weight alpha + lambda - 1 of the MMD would be negative; expected "
                f"{1 - self.alpha:g} or more for alpha={self.alpha}"
            )
        if self.alpha == 1 and (self.warmup or self.free_bits):
            raise InputError("alpha=1: the objective has no KL term; expected warmup=0 and free_bits=0")


class InfoVAE(GaussianVariant):
    paper = "Zhao et al. 2017, InfoVAE: Information Maximizing Variational Autoencoders, arXiv:1706.02262"
    config_type = InfoConfig
    config: InfoConfig

    def terms(self, batch: Batch, step: Tensor) -> Terms:
        bound, c = self.bound(batch), self.config
        discrepancy = mmd(bound.z, self.sample_prior(len(batch)))
        kl = closed_forms.ramp(step, c.warmup) * closed_forms.free_bits(bound.kl, c.free_bits)
        loss = bound.reconstruction.mean() + (1 - c.alpha) * kl + (c.alpha + c.lambda_mmd - 1) * discrepancy
        extras = {"kl_per_dimension": bound.kl, "mmd": discrepancy.expand(len(batch))}
        return Terms(bound.reconstruction, bound.kl.sum(1), {"loss": loss}, extras)
