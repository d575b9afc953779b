"""The common ground of variants with z ~ N(0, I) and a diagonal Gaussian posterior. Abstract: it minimises nothing."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from variants.base import closed_forms
from variants.base.contract import Batch, Config, DataSpec
from variants.base.likelihoods import Observation, Observed
from variants.base.networks import Decoder, Encoder


class GaussianPosterior(Observed, ABC):
    """q(z|x) = N(mean(x), diag exp log_var(x)), p(z) = N(0, I)."""

    @abstractmethod
    def posterior(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of q(z|x), (B, Z) each."""

    def bound(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """-E_q log p(x|z) by one sample (B,), and KL(q(z|x) || p(z)) in closed form per dimension (B, Z)."""
        mean, log_var = self.posterior(batch)
        return self.nll(batch, closed_forms.reparameterize(mean, log_var)), closed_forms.kl_standard_normal(
            mean, log_var
        )

    def encode(self, batch: Batch) -> Tensor:
        return self.posterior(batch)[0]

    def sample_prior(self, n: int, condition: Batch | None = None) -> Tensor:
        return torch.randn(n, self.config.latent, device=self.device)

    def log_prior(self, z: Tensor, batch: Batch) -> Tensor:
        return closed_forms.per_example(closed_forms.log_standard_normal(z))

    def sample_posterior(self, batch: Batch, k: int = 1) -> tuple[Tensor, Tensor]:
        return closed_forms.sample_normal(*self.posterior(batch), k)


class GaussianVariant(GaussianPosterior, ABC):
    """With the shared encoder and decoder, and p(x|z) from `DataSpec.likelihood`."""

    def __init__(self, config: Config, spec: DataSpec) -> None:
        super().__init__(config, spec)
        self.encoder = Encoder(spec, config, 2 * config.latent)
        self.decoder = Decoder(spec, config, config.latent)
        self.observation = Observation(spec)

    def posterior(self, batch: Batch) -> tuple[Tensor, Tensor]:
        mean, log_var = self.encoder(batch.x).chunk(2, dim=1)
        return mean, log_var

    def decoder_output(self, z: Tensor, batch: Batch | None) -> Tensor:
        return self.decoder(z)  # type: ignore[no-any-return]
