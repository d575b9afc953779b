"""Abstract base classes of variants. Each implements a part of the contract; none defines a training objective."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from variants.base import closed_forms
from variants.base.adam import Adam
from variants.base.contract import Batch, Config, DataSpec, Variant
from variants.base.likelihoods import SCALE_LR, Observation
from variants.base.networks import Decoder, Encoder
from variants.base.sequences import real_steps


class DecoderVariant(Variant, ABC):
    """A variant whose decoder gives the parameters of p(x|z) for each value of x.

    A subclass sets `observation` and defines `decoder_output`. It inherits `decode`, `sample_x` and `log_likelihood`.
    """

    observation: Observation

    @abstractmethod
    def decoder_output(self, z: Tensor, batch: Batch | None) -> Tensor:
        """Return the parameters of p(x|z) as `Observation` needs them, (B, *shape); for instance logits, or means.

        A conditional variant reads its conditions from `batch`.
        """

    def decode(self, z: Tensor, batch: Batch | None = None) -> Tensor:
        return self.observation.mean(self.decoder_output(z, batch), batch)

    def sample_x(self, z: Tensor, batch: Batch | None = None) -> Tensor:
        return self.observation.sample_x(self.decoder_output(z, batch), batch)

    def log_likelihood(self, z: Tensor, batch: Batch) -> Tensor:
        return -self.observation.nll_each(batch, self.decoder_output(z, batch))

    def nll(self, batch: Batch, z: Tensor) -> Tensor:
        """Return -log p(x|z), (B,), in nats."""
        return -closed_forms.per_example(self.log_likelihood(z, batch))

    def forecast(self, batch: Batch, prefix: Tensor, k: int = 1, *, noise: bool = False) -> Tensor | None:
        if not self.spec.steps:
            return None
        in_prefix = real_steps(batch) & (torch.arange(batch.x.shape[1], device=batch.x.device) < prefix[:, None])
        observed = replace(batch, y=None, mask=in_prefix)
        z = self.posterior_draws(observed, k)
        rows = torch.arange(len(batch), device=batch.x.device).repeat_interleave(k)
        whole, observed = replace(batch, y=None)[rows], observed[rows]
        x = self.continued(z, observed, whole, noise=noise)
        if observed.known is not None:
            x = torch.where(observed.known, whole.x, x)
        each: Tensor = x.unflatten(0, (len(batch), k)).transpose(0, 1)
        return each

    def posterior_draws(self, observed: Batch, k: int, candidates: int = 500) -> Tensor:
        """Return `k` draws from approximately p(z|x) for each example, (B k, Z); those of an example follow each other.

        They are chosen from `candidates` samples of the prior in proportion to the likelihood of the known values
        (sampling importance resampling, Rubin 1988).
        """
        each = observed[torch.arange(len(observed), device=observed.x.device).repeat_interleave(candidates)]
        z = self.sample_prior(len(each), each)
        weight = -self.nll(each, z).view(len(observed), candidates)
        chosen = torch.multinomial(weight.softmax(1), k, replacement=True)
        z = z.view(len(observed), candidates, -1)
        return z.gather(1, chosen[..., None].expand(-1, -1, z.shape[2])).flatten(0, 1)

    def continued(self, z: Tensor, observed: Batch, whole: Batch, *, noise: bool) -> Tensor:
        """Return x given z, (B, T, D), for sequences as long as `whole`, of which the steps of `observed` are known.

        They are means of p(x|z), or with `noise` samples.
        """
        return (self.sample_x if noise else self.decode)(z, whole)

    def parameter_groups(self, *modules: nn.Module) -> list[dict[str, Any]]:
        """Return parameter groups for an optimizer, of `modules`, or of the whole variant if there are none.

        The scales and dispersions of `observation` are a group with the learning rate `SCALE_LR`, so that they do not
        lag behind the networks (see `Observation`).
        """
        own = {id(p) for p in self.observation.parameters()}
        parameters = [p for module in modules or (self,) for p in module.parameters()]
        groups: list[dict[str, Any]] = [{"params": [p for p in parameters if id(p) not in own]}]
        if scales := [p for p in parameters if id(p) in own]:
            groups.append({"params": scales, "lr": SCALE_LR})
        return groups

    def optimizers(self) -> Mapping[str, torch.optim.Optimizer]:
        return {"loss": Adam(self.parameter_groups(), lr=self.config.lr, fused=True)}


@dataclass(frozen=True, kw_only=True)
class Bound:
    """The two parts of the negative ELBO, in nats, and the sample and the parameters of q(z|x) that they rest on."""

    z: Tensor  # (B, Z), a sample of q(z|x) through which gradients flow
    mean: Tensor  # (B, Z), of q(z|x)
    log_var: Tensor  # (B, Z), of q(z|x)
    reconstruction: Tensor  # (B,), -log p(x|z) for this z
    kl: Tensor  # (B, Z), KL(q(z|x) || p(z)) of each dimension, in closed form


class GaussianPosterior(DecoderVariant, ABC):
    """A variant with q(z|x) = N(mean(x), diag(exp(log_var(x)))) and the prior p(z) = N(0, I).

    A subclass defines `posterior`, `decoder_output` and `terms`, and its constructor sets `observation`.
    """

    @abstractmethod
    def posterior(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the mean and the log-variance of q(z|x), (B, Z) each."""

    def bound(self, batch: Batch) -> Bound:
        """Return both parts of the negative ELBO. Draws one sample of z for each example."""
        mean, log_var = self.posterior(batch)
        z = closed_forms.reparameterize(mean, log_var)
        reconstruction, kl = self.nll(batch, z), closed_forms.kl_standard_normal(mean, log_var)
        return Bound(z=z, mean=mean, log_var=log_var, reconstruction=reconstruction, kl=kl)

    def encode(self, batch: Batch) -> Tensor:
        return self.posterior(batch)[0]

    def sample_prior(self, n: int, condition: Batch | None = None) -> Tensor:
        return torch.randn(n, self.config.latent, device=self.device)

    def log_prior(self, z: Tensor, batch: Batch) -> Tensor:
        return closed_forms.per_example(closed_forms.log_standard_normal(z))

    def sample_posterior(self, batch: Batch, k: int = 1) -> tuple[Tensor, Tensor]:
        return closed_forms.sample_normal(*self.posterior(batch), k)


class GaussianVariant(GaussianPosterior, ABC):
    """A `GaussianPosterior` with the shared encoder and decoder, for data of any kind.

    A subclass needs to define only `paper` and `terms`.
    """

    def __init__(self, config: Config, spec: DataSpec) -> None:
        super().__init__(config, spec)
        self.encoder = Encoder(spec, config, 2 * config.latent)
        self.decoder = Decoder(spec, config, config.latent)
        self.observation = Observation(spec)

    def posterior(self, batch: Batch) -> tuple[Tensor, Tensor]:
        mean, log_var = self.encoder(batch).chunk(2, dim=1)
        return mean, log_var

    def decoder_output(self, z: Tensor, batch: Batch | None) -> Tensor:
        output: Tensor = self.decoder(z, batch)
        return output
