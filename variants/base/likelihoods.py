"""p(x|z) of the family that fits the data, and the common ground of variants that decode z into its parameters."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from variants.base import closed_forms
from variants.base.contract import Batch, DataSpec, Variant


class Observation(nn.Module):
    """p(x|z) of the family that fits the data, from a decoder's output (B, *shape).

    The Gaussian and the discretised logistic share one learned scale over all pixels (Rybkin et al. 2021, sigma-VAE).
    """

    def __init__(self, spec: DataSpec) -> None:
        super().__init__()
        self.family = spec.likelihood
        if self.family in ("gaussian", "logistic8"):
            self.log_scale = nn.Parameter(torch.zeros(()) if self.family == "gaussian" else torch.tensor(-2.0))

    def nll(self, batch: Batch, output: Tensor) -> Tensor:
        """(B,) -log p(x|z) in nats; of a density for `gaussian`, of a probability for the others."""
        return closed_forms.per_example(self.nll_each(batch.x, output), batch.mask)

    def nll_each(self, x: Tensor, output: Tensor) -> Tensor:
        """-log p of every single value, in the shape of x; of a symbol as a whole for `categorical`."""
        output = output.to(x.dtype)  # autocast gives bf16, whose steps are as wide as a grey value
        if self.family == "bernoulli":
            return closed_forms.nll_bernoulli(x, output)
        if self.family == "categorical":
            return -x * output.log_softmax(-1)
        if self.family == "gaussian":
            return -closed_forms.log_normal(x, output, 2 * self.log_scale.clamp(min=-7))
        return closed_forms.nll_logistic8(x, output.sigmoid(), self.log_scale.clamp(min=-7))

    def mean(self, output: Tensor) -> Tensor:
        """The mean of p(x|z) in the units of the data."""
        if self.family == "categorical":
            return output.softmax(-1)
        return output if self.family == "gaussian" else output.sigmoid()

    def sample_x(self, output: Tensor) -> Tensor:
        """One draw from p(x|z) in the units of the data."""
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


class Observed(Variant, ABC):
    """A variant whose decoder gives the parameters of p(x|z), independent for each value of x."""

    observation: Observation

    @abstractmethod
    def decoder_output(self, z: Tensor, batch: Batch | None) -> Tensor:
        """(B, *shape) natural parameters of p(x|z): logits, or means. `batch` holds conditions, if any."""

    def decode(self, z: Tensor, batch: Batch | None = None) -> Tensor:
        return self.observation.mean(self.decoder_output(z, batch))

    def sample_x(self, z: Tensor, batch: Batch | None = None) -> Tensor:
        return self.observation.sample_x(self.decoder_output(z, batch))

    def log_likelihood(self, z: Tensor, batch: Batch) -> Tensor:
        each = -self.observation.nll_each(batch.x, self.decoder_output(z, batch))
        return each if batch.mask is None else torch.where(batch.mask[..., None], each, 0.0)

    def nll(self, batch: Batch, z: Tensor) -> Tensor:
        """(B,) -log p(x|z) in nats."""
        return -closed_forms.per_example(self.log_likelihood(z, batch))
