"""Flow: a VAE whose posterior, prior, or both are normalizing flows.

Rezende & Mohamed 2015, arXiv:1505.05770; Kingma et al. 2016, arXiv:1606.04934. The posterior is a Gaussian whose
samples pass through invertible steps, and the prior is a standard normal distribution whose samples do so:

    posterior  z_0 ~ N(mean(x), diag(exp(log_var(x)))),  z = f_T ... f_1(z_0),  each step given features h(x)
               log q(z|x) = log q(z_0|x) - sum_t log |df_t/dz_{t-1}|                    (Rezende & Mohamed, equation 7)
    prior      e ~ N(0, I),  z = g_S ... g_1(e),  log p(z) = log N(e; 0, I) - sum_s log |dg_s/de_{s-1}|
    loss       -log p(x|z) + log q(z|x) - log p(z)                                                         (equation 15)

The steps of the posterior are those of an inverse autoregressive flow (Kingma et al. 2016, section 3), and those of the
prior are affine coupling layers (Dinh et al. 2017, arXiv:1605.08803), which can be inverted. The KL has no closed form;
it is estimated from one sample, and may be negative for single examples. It has no parts that belong to dimensions. A
warm-up of the KL over some thousands of steps keeps a flow posterior from losing information early in training.

*Departures*: the logarithms of the scales are limited by tanh, in place of the gates of Kingma et al. The networks of
the steps have one hidden layer in the posterior and two in the prior. There are no planar or radial flows. `free_bits`
is a floor for the KL as a whole, of `free_bits` times `latent` nats: one group of dimensions in equation 15 of Kingma
et al. 2016.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from variants.base import Decoder, DecoderVariant, Encoder, Observation, closed_forms, flows
from variants.base.contract import Batch, Config, DataSpec, InputError, Terms, number


@dataclass(frozen=True, kw_only=True)
class FlowConfig(Config):
    steps: int = number(4, 0, 64, help="steps of the flow of q(z|x); 0: a Gaussian")
    prior_steps: int = number(0, 0, 64, help="steps of the flow of p(z); 0: the prior N(0, I)")
    flow_width: int = number(256, 1, 65536, help="units of the hidden layers of each step, and features h(x)")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.prior_steps and self.latent < 2:
            raise InputError(
                f"prior_steps={self.prior_steps}, latent=1: the flow of the prior changes one half of z given the "
                "other; expected latent=2 or more, or prior_steps=0"
            )


class Flow(DecoderVariant):
    paper = "Rezende & Mohamed 2015, arXiv:1505.05770; Kingma et al. 2016, arXiv:1606.04934"
    config_type = FlowConfig
    config: FlowConfig

    def __init__(self, config: FlowConfig, spec: DataSpec) -> None:
        super().__init__(config, spec)
        c = config
        self.sizes = [c.latent, c.latent, c.flow_width if c.steps else 0]
        self.encoder = Encoder(spec, config, sum(self.sizes))
        self.decoder = Decoder(spec, config, c.latent)
        self.observation = Observation(spec)
        self.posterior_flow = nn.ModuleList(
            flows.Autoregressive(c.latent, c.flow_width, c.flow_width) for _ in range(c.steps)
        )
        self.prior_flow = nn.ModuleList(flows.Coupling(c.latent, c.flow_width) for _ in range(c.prior_steps))

    def _flowed(self, z: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """Return f_T ... f_1(z), (B, Z), and the logarithm of the determinant, (B,)."""
        log_determinant = z.new_zeros(len(z))
        for step in self.posterior_flow:
            z, of_step = step(z, h)
            log_determinant = log_determinant + of_step
        return z, log_determinant

    def sample_posterior(self, batch: Batch, k: int = 1) -> tuple[Tensor, Tensor]:
        mean, log_var, h = self.encoder(batch).split(self.sizes, 1)
        z, log_q = closed_forms.sample_normal(mean, log_var, k)
        z, log_determinant = self._flowed(z, h.repeat_interleave(k, 0))
        return z, log_q - log_determinant

    def terms(self, batch: Batch, step: Tensor) -> Terms:
        z, log_q = self.sample_posterior(batch)
        reconstruction, kl, c = self.nll(batch, z), log_q - self.log_prior(z, batch), self.config
        penalty = closed_forms.free_bits(kl, c.free_bits * c.latent)
        loss = reconstruction.mean() + closed_forms.ramp(step, c.warmup) * penalty
        return Terms(reconstruction, kl, {"loss": loss})

    def encode(self, batch: Batch) -> Tensor:
        """Return the flow of the mean of z_0, (B, Z)."""
        mean, _, h = self.encoder(batch).split(self.sizes, 1)
        return self._flowed(mean, h)[0]

    def decoder_output(self, z: Tensor, batch: Batch | None) -> Tensor:
        output: Tensor = self.decoder(z, batch)
        return output

    def sample_prior(self, n: int, condition: Batch | None = None) -> Tensor:
        return self.prior_from_noise(torch.randn(n, self.config.latent, device=self.device))

    def prior_from_noise(self, noise: Tensor, condition: Batch | None = None) -> Tensor:
        z = noise
        for step in self.prior_flow:
            z, _ = step(z)
        return z

    def log_prior(self, z: Tensor, batch: Batch) -> Tensor:
        log_determinant = z.new_zeros(len(z))
        for step in reversed(self.prior_flow):
            assert isinstance(step, flows.Coupling)
            z, of_step = step.inverse(z)
            log_determinant = log_determinant + of_step
        return closed_forms.per_example(closed_forms.log_standard_normal(z)) - log_determinant
