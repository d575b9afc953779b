"""IWAE: several samples of z, weighted by their importance, give a tighter bound of log p(x).

Burda et al. 2016, arXiv:1509.00519. With k samples z_i ~ q(z|x) of each example, the method maximises (equation 8)

    L_k = log 1/k sum_i w_i,    w_i = p(x, z_i) / q(z_i|x).

L_1 is the ELBO, and L_k rises to log p(x) with k. If values are missing, x stands for the observed values, and L_k is
the bound of MIWAE (Mattei & Frellsen 2019, arXiv:1812.02633).

The gradient of the encoder has more noise than signal if k is large (Rainforth et al. 2018). With `gradient=dreg` it is
doubly reparameterised (Tucker et al. 2019, arXiv:1810.04152), which has the same mean and less variance:

    sum_i v_i^2 (d log w_i / d z_i) (d z_i / d phi),    v_i = w_i / sum_j w_j.

The parameters of q in log q(z_i|x) are then constant, so that phi, the weights of the encoder, get gradients through
z_i alone. This path has one factor v_i from the logarithm of the sum, and a second one from a hook on z_i. The gradient
of the decoder is the same in both cases.

*Departures*: the networks, the optimizer and its schedule are those that all variants here share. The scores that are
compared remain those of the ELBO: `reconstruction` is the mean over the k samples. L_k is logged as `bound`.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from variants.base import Batch, Config, GaussianVariant, InputError, Terms, choice, closed_forms, number


@dataclass(frozen=True, kw_only=True)
class IWAEConfig(Config):
    samples: int = number(5, 1, 10_000, help="samples of z for each example, k in the paper")
    gradient: str = choice("standard", "dreg", help="of the encoder; dreg: doubly reparameterised, with less variance")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.warmup or self.free_bits:
            raise InputError(
                f"warmup={self.warmup}, free_bits={self.free_bits}: the importance-weighted bound has no KL term; "
                "expected warmup=0 and free_bits=0"
            )


class IWAE(GaussianVariant):
    paper = "Burda et al. 2016, Importance Weighted Autoencoders, arXiv:1509.00519"
    config_type = IWAEConfig
    config: IWAEConfig

    def terms(self, batch: Batch, step: Tensor) -> Terms:
        k = self.config.samples
        posterior = self.posterior(batch)
        mean, log_var = (parameter.repeat_interleave(k, 0) for parameter in posterior)
        z = closed_forms.reparameterize(mean, log_var)  # (B k, Z); the samples of an example stand next to each other
        is_dreg = self.config.gradient == "dreg" and z.requires_grad
        if is_dreg:
            mean, log_var = mean.detach(), log_var.detach()
        many = batch[torch.arange(len(batch), device=z.device).repeat_interleave(k)]
        nll = self.nll(many, z)
        log_q = closed_forms.per_example(closed_forms.log_normal(z, mean, log_var))
        log_w = (self.log_prior(z, many) - nll - log_q).view(-1, k)
        if is_dreg:
            weight = log_w.detach().softmax(1).view(-1, 1)
            z.register_hook(lambda slope: slope * weight)
        bound = log_w.logsumexp(1) - math.log(k)
        kl = closed_forms.kl_standard_normal(*posterior)
        extras = {"kl_per_dimension": kl, "bound": bound}
        return Terms(nll.view(-1, k).mean(1), kl.sum(1), {"loss": -bound.mean()}, extras)
