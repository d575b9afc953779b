"""DIP-VAE: the covariance of the codes is drawn to the identity matrix, that of the prior.

Kumar et al. 2018, arXiv:1711.00848. The method minimises the negative of equation 6 (type I) or 7 (type II):

    reconstruction + KL + lambda_od * sum_{i != j} C_ij^2 + lambda_d * sum_i (C_ii - 1)^2

    type I     C = Cov[mean of q(z|x)]
    type II    C = Cov[z] = Cov[mean of q(z|x)] + E[variance of q(z|x)], with z ~ q(z|x) of all x (equation 5)

C is the covariance within a batch, a mean over its B examples. Both sums are logged without their weights, as
`off_diagonal` and `diagonal`, so that each has a curve over the epochs of a run.

*Departures*: `warmup` and `free_bits` act on the KL, not on the covariance. The networks and the optimizer are those
that all variants here share.
"""

from dataclasses import dataclass

from torch import Tensor

from variants.base import Batch, Config, GaussianVariant, Terms, choice, closed_forms, number


@dataclass(frozen=True, kw_only=True)
class DIPConfig(Config):
    type: str = choice("I", "II", help="I: the covariance of the means of q(z|x); II: that of samples of q(z|x)")
    lambda_od: float = number(10.0, 0.0, 1e6, help="weight of the squared covariances of two dimensions")
    lambda_d: float = number(
        100.0, 0.0, 1e6, help="weight of (variance - 1)^2; paper: 10 lambda_od for type I, lambda_od for type II"
    )


class DIPVAE(GaussianVariant):
    paper = "Kumar et al. 2018, Variational Inference of Disentangled Latent Concepts, arXiv:1711.00848"
    config_type = DIPConfig
    config: DIPConfig

    def covariance(self, mean: Tensor, log_var: Tensor) -> Tensor:
        """Return C, (Z, Z), of a batch of posteriors whose parameters are (B, Z) each."""
        centred = mean - mean.mean(0)
        of_means = centred.T @ centred / len(mean)
        return of_means if self.config.type == "I" else of_means + log_var.exp().mean(0).diag()

    def terms(self, batch: Batch, step: Tensor) -> Terms:
        bound, c = self.bound(batch), self.config
        covariance = self.covariance(bound.mean, bound.log_var)
        variances = covariance.diagonal()
        off_diagonal = (covariance - variances.diag()).square().sum()
        diagonal = (variances - 1).square().sum()
        kl = closed_forms.ramp(step, c.warmup) * closed_forms.free_bits(bound.kl, c.free_bits)
        loss = bound.reconstruction.mean() + kl + c.lambda_od * off_diagonal + c.lambda_d * diagonal
        n = len(batch)
        extras = {"kl_per_dimension": bound.kl, "off_diagonal": off_diagonal.expand(n), "diagonal": diagonal.expand(n)}
        return Terms(bound.reconstruction, bound.kl.sum(1), {"loss": loss}, extras)
