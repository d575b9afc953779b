"""VAE: the variational autoencoder.

Kingma & Welling 2013, arXiv:1312.6114. For each example, with one sample z ~ q(z|x), the method maximises (equation 10)

    L = log p(x|z) - KL(q(z|x) || p(z)).

*Departures*: the hidden units are ReLU instead of tanh, and the optimizer is Adam instead of AdaGrad, as in later work.
Warm-up of the KL and free bits are available, and are off by default.

With `samples` = K > 1, the method maximises the importance-weighted bound (Burda et al. 2016, arXiv:1509.00519,
equation 8)

    L_K = log 1/K sum_k p(x, z_k) / q(z_k|x).

If values are missing, x stands for the observed values, and L_K is the bound of MIWAE (Mattei & Frellsen 2019,
arXiv:1812.02633). The scores that are compared remain those of the ELBO.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from variants.base import Batch, Config, GaussianVariant, InputError, Terms, closed_forms, number


@dataclass(frozen=True, kw_only=True)
class VAEConfig(Config):
    samples: int = number(1, 1, 10_000, help="samples of z in the loss; more than 1: importance-weighted bound")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.samples > 1 and (self.warmup or self.free_bits):
            raise InputError(
                f"samples={self.samples}: the importance-weighted bound has no KL term; expected warmup=0 and "
                "free_bits=0"
            )


class VAE(GaussianVariant):
    paper = "Kingma & Welling 2013, Auto-Encoding Variational Bayes, arXiv:1312.6114"
    config_type = VAEConfig
    config: VAEConfig

    def importance_weighted_bound(self, batch: Batch, k: int) -> Tensor:
        """Return log 1/k sum_i p(x, z_i) / q(z_i|x), (B,), in nats, with k samples z_i of q(z|x); higher is better."""
        z, log_q = self.sample_posterior(batch, k)
        rows = torch.arange(len(batch), device=z.device).repeat_interleave(k)
        return (self.log_joint(z, batch[rows]) - log_q).view(len(batch), k).logsumexp(1) - math.log(k)

    def terms(self, batch: Batch, step: Tensor) -> Terms:
        bound, c = self.bound(batch), self.config
        extras = {"kl_per_dimension": bound.kl}
        if c.samples == 1:
            kl = closed_forms.ramp(step, c.warmup) * closed_forms.free_bits(bound.kl, c.free_bits)
            loss = bound.reconstruction.mean() + kl
        else:
            extras["bound"] = self.importance_weighted_bound(batch, c.samples)
            loss = -extras["bound"].mean()
        return Terms(bound.reconstruction, bound.kl.sum(1), {"loss": loss}, extras)
