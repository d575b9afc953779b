"""The likelihood p(x|z) of the family that fits the data."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from variants.base import closed_forms
from variants.base.contract import Batch, DataSpec


class Observation(nn.Module):
    """The distribution p(x|z) of the family `DataSpec.likelihood`, with a decoder's output as its parameters.

    The Gaussian and the discretised logistic have one learned scale for all values (Rybkin et al. 2021, sigma-VAE).
    The argument `output` of all methods is (B, *shape), or (B, T, D) for sequences: logits, or the means of a Gaussian.
    """

    def __init__(self, spec: DataSpec) -> None:
        super().__init__()
        self.family = spec.likelihood
        if self.family in ("gaussian", "logistic8"):
            self.log_scale = nn.Parameter(torch.zeros(()) if self.family == "gaussian" else torch.tensor(-2.0))

    def nll(self, batch: Batch, output: Tensor) -> Tensor:
        """Return -log p(x|z), (B,), in nats. It is a density for `gaussian` and a probability for the others."""
        return closed_forms.per_example(self.nll_each(batch.x, output), batch.mask)

    def nll_each(self, x: Tensor, output: Tensor) -> Tensor:
        """Return -log p of each value in nats, in the shape of `x`. For `categorical` the last axis adds up to -log p
        of the symbol.
        """
        output = output.to(x.dtype)  # the steps of autocast's bf16 are as wide as a grey value
        if self.family == "bernoulli":
            return closed_forms.nll_bernoulli(x, output)
        if self.family == "categorical":
            return -x * output.log_softmax(-1)
        if self.family == "gaussian":
            return -closed_forms.log_normal(x, output, 2 * self.log_scale.clamp(min=-7))
        return closed_forms.nll_logistic8(x, output.sigmoid(), self.log_scale.clamp(min=-7))

    def mean(self, output: Tensor) -> Tensor:
        """Return the mean of p(x|z) in the units of `Batch.x`."""
        if self.family == "categorical":
            return output.softmax(-1)
        return output if self.family == "gaussian" else output.sigmoid()

    def sample_x(self, output: Tensor) -> Tensor:
        """Return one sample from p(x|z) in the units of `Batch.x`."""
        mean = self.mean(output)
        if self.family == "bernoulli":
            return torch.bernoulli(mean)
        if self.family == "categorical":
            symbols = mean.flatten(0, -2).multinomial(1).view(mean.shape[:-1])
            return F.one_hot(symbols, mean.shape[-1]).to(mean.dtype)
        scale = self.log_scale.clamp(min=-7).exp()
        if self.family == "gaussian":
            return mean + scale * torch.randn_like(mean)
        noise = torch.rand_like(mean).clamp(1e-6, 1 - 1e-6).logit()
        return ((mean + scale * noise) * 255).round().clamp(0, 255) / 255
