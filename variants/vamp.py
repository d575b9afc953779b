"""VampPrior: a VAE whose prior is the average posterior of some learned pseudo-inputs.

Tomczak & Welling 2018, arXiv:1705.07120. The prior that maximises the ELBO is the aggregated posterior, the average of
q(z|x) over the training data. It is approximated by a mixture over K pseudo-inputs u_k, which are trained with all
other weights (equation 9):

    p(z) = 1/K sum_k q(z|u_k),  q(z|x) = N(mean(x), diag(exp(log_var(x))))

    loss = -log p(x|z) + log q(z|x) - log p(z),  z ~ q(z|x)

The KL has no closed form; it is estimated from one sample, and may be negative for single examples. It has no parts
that belong to dimensions.

A pseudo-input lies in the domain of x, value by value: a sigmoid for values from 0 to 1, an exponential function for
positive values and counts, a softmax for categories, and any number for real values. Pseudo-inputs of sequences are as
long as the longest sequence of the data, with even steps. No value of a pseudo-input is missing.

*Departures*: values from 0 to 1 are limited by a sigmoid instead of by cutting them off, which has no gradient outside.
There is one level of z, without the hierarchy of section 4. `free_bits` is a floor for the KL as a whole, of
`free_bits` times `latent` nats.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from variants.base import Decoder, DecoderVariant, Encoder, Observation, closed_forms
from variants.base.contract import Batch, Config, DataSpec, Terms, ValueKind, number


@dataclass(frozen=True, kw_only=True)
class VampConfig(Config):
    pseudo_inputs: int = number(500, 1, 65536, help="components of the prior, each the posterior of a pseudo-input")


class Vamp(DecoderVariant):
    paper = "Tomczak & Welling 2018, VAE with a VampPrior, arXiv:1705.07120"
    config_type = VampConfig
    config: VampConfig

    def __init__(self, config: VampConfig, spec: DataSpec) -> None:
        super().__init__(config, spec)
        self.encoder = Encoder(spec, config, 2 * config.latent)
        self.decoder = Decoder(spec, config, config.latent)
        self.observation = Observation(spec)
        steps = (spec.steps,) if spec.steps else ()
        start, spread = _start_and_spread(spec)
        self.pseudo = nn.Parameter(start + spread * torch.randn(config.pseudo_inputs, *steps, *spec.shape))

    def posterior(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the mean and the log-variance of q(z|x), (B, Z) each."""
        mean, log_var = self.encoder(batch).chunk(2, dim=1)
        return mean, log_var

    def pseudo_inputs(self) -> Batch:
        """Return the pseudo-inputs as K examples."""
        groups = self.spec.parts
        parts = zip(groups, self.pseudo.split([group.size for group in groups], -1), strict=True)
        x = torch.cat([_in_domain(group.kind, values) for group, values in parts], -1)
        if not self.spec.steps:
            return Batch(x)
        mask = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
        elapsed = torch.linspace(0, self.spec.elapsed, self.spec.steps, device=x.device).expand(len(x), -1)
        return Batch(x, mask=mask, elapsed=elapsed if self.spec.elapsed else None)

    def terms(self, batch: Batch, step: Tensor) -> Terms:
        z, log_q = self.sample_posterior(batch)
        reconstruction, kl, c = self.nll(batch, z), log_q - self.log_prior(z, batch), self.config
        penalty = closed_forms.free_bits(kl, c.free_bits * c.latent)
        loss = reconstruction.mean() + closed_forms.ramp(step, c.warmup) * penalty
        return Terms(reconstruction, kl, {"loss": loss})

    def encode(self, batch: Batch) -> Tensor:
        return self.posterior(batch)[0]

    def decoder_output(self, z: Tensor, batch: Batch | None) -> Tensor:
        output: Tensor = self.decoder(z, batch)
        return output

    def sample_posterior(self, batch: Batch, k: int = 1) -> tuple[Tensor, Tensor]:
        return closed_forms.sample_normal(*self.posterior(batch), k)

    def sample_prior(self, n: int, condition: Batch | None = None) -> Tensor:
        mean, log_var = self.posterior(self.pseudo_inputs())
        k = torch.randint(len(mean), (n,), device=mean.device)
        return closed_forms.reparameterize(mean[k], log_var[k])

    def prior_from_noise(self, noise: Tensor, condition: Batch | None = None) -> None:
        return None

    def log_prior(self, z: Tensor, batch: Batch) -> Tensor:
        """Return log p(z), (B,), in nats.

        The squared distances of all z from all components are matrix products, in float64 because large terms cancel.
        """
        mean, log_var = (part.double() for part in self.posterior(self.pseudo_inputs()))
        precision, wide = (-log_var).exp(), z.double()
        distances = wide.square() @ precision.T - 2 * wide @ (mean * precision).T + (mean.square() * precision).sum(1)
        log_q = -0.5 * (distances + log_var.sum(1) + z.shape[1] * closed_forms.LOG_2PI)
        return (log_q.logsumexp(1) - math.log(len(mean))).to(z.dtype)

    def pictures(self, batch: Batch) -> Mapping[str, Tensor]:
        """Return `pseudo_inputs`: eight of them, and in the rows below samples of x from the component of each."""
        columns, rows = 8, 3
        first = self.pseudo_inputs()[slice(0, columns)]
        mean, log_var = (part.repeat(rows, 1) for part in self.posterior(first))
        samples = self.decode(closed_forms.reparameterize(mean, log_var))
        return {"pseudo_inputs": torch.cat([first.x, samples]).unflatten(0, (rows + 1, len(first)))}


def _in_domain(kind: ValueKind, values: Tensor) -> Tensor:
    """Map real numbers to values of a kind; those of a category are in the last axis."""
    if kind in ("binary", "pixel", "fraction"):
        return values.sigmoid()
    if kind == "category":
        return values.softmax(-1)
    return values.exp() if kind in ("positive", "count") else values


def _start_and_spread(spec: DataSpec) -> tuple[Tensor, Tensor]:
    """Return the mean and the standard deviation of numbers that `_in_domain` maps near the training data, (D,) each.

    D is the size of the last axis of x.
    """
    log_exposure = math.log(max(spec.median_exposure or 1.0, 1e-6))
    starts = [
        torch.tensor(group.offset or (0.0,) * group.size) + (log_exposure if group.kind == "count" else 0.0)
        for group in spec.parts
    ]
    return torch.cat(starts), torch.cat([torch.tensor(g.spread or (1.0,)).expand(g.size) for g in spec.parts])
