"""FactorVAE: a discriminator measures the total correlation of z, and the encoder lowers it.

Kim & Mnih 2018, arXiv:1802.05983. Encoder and decoder minimise the negative of equation 2,

    reconstruction + KL + gamma * KL(q(z) || prod_j q(z_j)).

A discriminator D learns to tell samples of q(z), the codes of a batch, from samples of prod_j q(z_j), which are codes
whose columns are permuted over the batch (algorithm 1). The total correlation is estimated by its density ratio
(equation 3), log D(z) - log(1 - D(z)), which is the logit of D. Each batch serves two steps (algorithm 2):

    loss             encoder and decoder minimise the objective; D is fixed
    discriminator    D minimises 1/2 (-log D(z) - log(1 - D(permuted z))); the codes are fixed

The estimate is logged as `total_correlation`, with a curve over the epochs of a run. It is too low as long as D has not
learned the density ratio.

*Departures*: the permuted codes are those of the same batch, not of a second one. D has rectified units, and
`adversary_depth` and `adversary_width` instead of 6 layers of 1000 units. `warmup` and `free_bits` act on the KL. The
other networks and their optimizer are those that all variants here share.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from variants.base import (
    Adam,
    Batch,
    Config,
    DataSpec,
    GaussianVariant,
    Terms,
    closed_forms,
    frozen,
    mlp,
    number,
    permute_dims,
)


@dataclass(frozen=True, kw_only=True)
class FactorConfig(Config):
    gamma: float = number(10.0, 0.0, 1e6, help="weight of the total correlation of z; 0 is the VAE")
    adversary_width: int = number(256, 1, 65536, help="units of each hidden layer of the discriminator; paper: 1000")
    adversary_depth: int = number(3, 1, 64, help="hidden layers of the discriminator; 6 in the paper")
    adversary_lr: float = number(1e-3, 1e-8, 1.0, help="Adam's learning rate of the discriminator; paper: 1e-4")


class FactorVAE(GaussianVariant):
    paper = "Kim & Mnih 2018, Disentangling by Factorising, arXiv:1802.05983"
    config_type = FactorConfig
    config: FactorConfig

    def __init__(self, config: FactorConfig, spec: DataSpec) -> None:
        super().__init__(config, spec)
        self.discriminator = mlp(config.latent, config.adversary_width, config.adversary_depth, 1)

    def terms(self, batch: Batch, step: Tensor) -> Terms:
        bound, c = self.bound(batch), self.config
        total_correlation = frozen(self.discriminator)(bound.z).squeeze(1)
        kl = closed_forms.ramp(step, c.warmup) * closed_forms.free_bits(bound.kl, c.free_bits)
        loss = bound.reconstruction.mean() + kl + c.gamma * total_correlation.mean()
        losses = {"loss": loss, "discriminator": lambda: self.discriminator_loss(bound.z.detach())}
        extras = {"kl_per_dimension": bound.kl, "total_correlation": total_correlation}
        return Terms(bound.reconstruction, bound.kl.sum(1), losses, extras)

    def discriminator_loss(self, z: Tensor) -> Tensor:
        """Return the cross entropy of telling codes, (B, Z), from permuted ones: log 2 if they cannot be told apart."""
        logit, permuted_logit = self.discriminator(z), self.discriminator(permute_dims(z))
        return 0.5 * (F.softplus(-logit) + F.softplus(permuted_logit)).mean()

    def optimizers(self) -> Mapping[str, torch.optim.Optimizer]:
        return {
            "loss": Adam(
                self.parameter_groups(self.encoder, self.decoder, self.observation), lr=self.config.lr, fused=True
            ),
            "discriminator": Adam(
                self.discriminator.parameters(), lr=self.config.adversary_lr, betas=(0.5, 0.9), fused=True
            ),
        }
