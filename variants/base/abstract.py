"""Abstract base classes of variants. Each implements a part of the contract; none defines a training objective."""

import math
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

CANDIDATES, PRIOR_CANDIDATES = 100, 50  # samples of a Gaussian and of the prior, from which draws of z are chosen
ONLY_PRIOR_CANDIDATES = 500  # samples of the prior alone, for variants whose z is discrete or contains a class
WIDER = 1.2  # the factor by which the Gaussian is wider than the curvature of the posterior says
FIT_STEPS, FIT_LR = 60, 0.2  # steps of Adam to the maximum of a posterior, and its first learning rate
DIFFERENCE, LEAST = 1e-2, 0.5  # distance of points whose gradients are compared, and the least curvature
AT_A_TIME = 1 << 20  # steps of sequences for which candidates are computed together


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
        known = in_prefix[..., None].expand_as(batch.x)
        known = known if batch.observed is None else known & batch.observed
        whole = replace(batch, y=None)
        observed = replace(whole, observed=known)  # later values are missing, so that the sequence keeps its length
        continuations = []
        candidates = CANDIDATES if self._has_density else ONLY_PRIOR_CANDIDATES
        size = max(1, AT_A_TIME // (max(candidates, k) * batch.x.shape[1]))
        for part in torch.arange(len(batch), device=batch.x.device).split(size):
            z = self.posterior_draws(observed[part], k)
            of_each = part.repeat_interleave(k)
            x = self.continued(z, observed[of_each], whole[of_each], noise=noise)
            x = torch.where(known[of_each], batch.x[of_each], x)
            continuations.append(x.unflatten(0, (len(part), k)).transpose(0, 1))
        return torch.cat(continuations, 1)

    @property
    def _has_density(self) -> bool:
        """Whether p(z) is a density, so that a Gaussian can describe p(z|x); it is not if a part of z is one-hot."""
        return not (self.discrete or self.latent_classes)

    def posterior_draws(self, observed: Batch, k: int) -> Tensor:
        """Return `k` draws from approximately p(z|x) for each example, (B k, Z); those of an example follow each other.

        The encoder is not used, because it may never have seen so few values of an example. The posterior of each
        example is approximated by a Gaussian around its highest point (Laplace's method: MacKay 2003, chapter 27). The
        draws are chosen from samples of a mixture of this Gaussian, somewhat widened, and the prior, in proportion to
        their importance weights (sampling importance resampling, Rubin 1988). If z is discrete, or contains a class,
        they are chosen from samples of the prior alone.
        """
        n, device = len(observed), observed.x.device

        def repeated(times: int) -> Batch:
            return observed[torch.arange(n, device=device).repeat_interleave(times)]

        def log_densities(z: Tensor) -> tuple[Tensor, Tensor]:
            """Return log p(z) and log p(x|z) of samples (n, m, Z), (n, m) each."""
            many, flat = repeated(z.shape[1]), z.flatten(0, 1)
            return self.log_prior(flat, many).view(z.shape[:2]), -self.nll(many, flat).view(z.shape[:2])

        count = PRIOR_CANDIDATES if self._has_density else ONLY_PRIOR_CANDIDATES
        z = self.sample_prior(n * count, repeated(count)).to(observed.x.dtype).view(n, count, -1)
        log_prior, log_likelihood = log_densities(z)
        weight = log_likelihood
        if self._has_density:
            best = (log_prior + log_likelihood).argmax(1)
            mean, axes, deviations = self._laplace(observed, z[torch.arange(n, device=device), best])
            noise = torch.randn(n, CANDIDATES, z.shape[2], dtype=z.dtype, device=device)
            near = mean[:, None] + (noise * deviations) @ axes.mT
            log_prior, log_likelihood = (
                torch.cat(pair, 1) for pair in zip((log_prior, log_likelihood), log_densities(near), strict=True)
            )
            z = torch.cat([z, near], 1)
            away = (z - mean[:, None]) @ axes / deviations
            log_q = (closed_forms.log_standard_normal(away) - deviations.log()).sum(2)
            mixture = torch.logaddexp(log_q + math.log(CANDIDATES), log_prior + math.log(count))
            weight = log_prior + log_likelihood - mixture
        chosen = torch.multinomial(weight.softmax(1), k, replacement=True)
        return z.gather(1, chosen[..., None].expand(-1, -1, z.shape[2])).flatten(0, 1)

    def _laplace(self, observed: Batch, start: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return a Gaussian around a maximum of log p(x, z) for each example, found from `start` (B, Z).

        The Hessian of log p(x, z) is that of differences of the gradient. Directions in which it is not curved
        downwards, or very little, get the variance that the curvature `LEAST` has.

        Returns:
            The means (B, Z), the axes of the Gaussians as columns of (B, Z, Z), and the standard deviations along them,
            (B, 1, Z).
        """
        # cuDNN computes no gradients of recurrent networks in evaluation mode
        with torch.enable_grad(), torch.backends.cudnn.flags(enabled=False):

            def slope(z: Tensor) -> Tensor:
                z = z.detach().requires_grad_()
                (gradient,) = torch.autograd.grad((self.nll(observed, z) - self.log_prior(z, observed)).sum(), z)
                return gradient

            z = start.clone()
            optimizer = Adam([z], lr=FIT_LR)
            for step in range(FIT_STEPS):
                optimizer.param_groups[0]["lr"] = FIT_LR * (1 - step / FIT_STEPS)
                z.grad = slope(z)
                optimizer.step()
            here = slope(z)
            steps = DIFFERENCE * torch.eye(z.shape[1], dtype=z.dtype, device=z.device)
            curvature = torch.stack([(slope(z + step) - here) / DIFFERENCE for step in steps], 1)
        values, axes = torch.linalg.eigh((curvature + curvature.mT) / 2)
        return z.detach(), axes, WIDER * values.clamp(min=LEAST).rsqrt()[:, None]

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
