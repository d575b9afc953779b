"""VRAE: a VAE of whole sequences with a recurrent encoder and a recurrent decoder.

Fabius & van Amersfoort 2014, arXiv:1412.6581. With steps x_1 ... x_T and one z for a whole sequence:

    h_t = f(h_{t-1}, x_t),   mean and log-variance of q(z|x) are linear in h_T             (equations 2 to 4)
    h'_0 = tanh(W z + b),    h'_t = f(h'_{t-1}, input_t),   p(x_t|z, ...) is linear in h'_t  (equations 5 to 7)

With `feeding="free"`, input_t is the decoder's own mean of step t-1. Then x reaches the decoder only through z, and the
steps are independent given z. With `feeding="teacher"` (teacher forcing), input_t is the true x_{t-1}, which is
withheld with probability `drop` (word dropout, Bowman et al. 2016). Teacher forcing gives a better likelihood, but
makes z easier to ignore, so its likelihood should be read together with the KL. To generate, such a decoder reads its
own samples, or its own means if the values are continuous.

The length of a sequence is given and not modelled. If the times of the steps are inputs, the encoder also reads the
time since the step before. Padding affects neither the recurrence nor the loss.

*Departures*: the cells are GRU or LSTM cells instead of tanh units, and `depth` > 1 stacks them. z is also an input of
each step. The optimizer is Adam. The KL has no weight but the optional warm-up.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from variants.base import GaussianPosterior, Inputs, Observation, closed_forms
from variants.base.contract import DENSITIES, Batch, Config, DataSpec, InputError, Terms, choice, number
from variants.base.sequences import real_steps, since_last


@dataclass(frozen=True, kw_only=True)
class VRAEConfig(Config):
    width: int = number(128, 1, 65536, help="units of the recurrent state")
    cell: str = choice("gru", "lstm", help="recurrent cell")
    feeding: str = choice("free", "teacher", help="the decoder reads its own last mean, or the true last step")
    drop: float = number(0.0, 0.0, 1.0, help="share of true steps that are withheld in training (feeding=teacher)")
    directions: int = number(2, 1, 2, help="1: the encoder reads forwards; 2: also backwards")
    clip: float = number(5.0, 0.0, help="largest norm of the gradient of the loss; 0 for no clipping")

    def network_for(self, spec: DataSpec) -> str:
        return "mlp" if self.network == "auto" else self.network  # its networks depend on `cell` alone


class VRAE(GaussianPosterior):
    paper = "Fabius & van Amersfoort 2014, Variational Recurrent Auto-Encoders, arXiv:1412.6581"
    required_fields = frozenset({"mask"})
    config_type = VRAEConfig
    config: VRAEConfig
    any_length = True

    def __init__(self, config: VRAEConfig, spec: DataSpec) -> None:
        super().__init__(config, spec)
        if config.network not in ("auto", "mlp"):
            raise InputError(f"network={config.network!r}: vrae has networks of its own; expected auto, the default")
        c, recurrent = config, nn.GRU if config.cell == "gru" else nn.LSTM
        self.factorized = c.feeding == "free"
        self.inputs = Inputs(spec)
        self.observation = Observation(spec)
        (self.size,), (read,) = spec.shape, self.inputs.shape
        self.readers = nn.ModuleList(
            recurrent(read + (spec.elapsed > 0), c.width, c.depth, batch_first=True) for _ in range(c.directions)
        )
        self.head = nn.Linear(c.directions * c.width, 2 * c.latent)
        self.states = c.depth * (2 if c.cell == "lstm" else 1)
        self.start = nn.Linear(c.latent, self.states * c.width)
        self.writer = recurrent(read + c.latent, c.width, c.depth, batch_first=True)
        self.output = nn.Linear(c.width, self.observation.outputs)

    def posterior(self, batch: Batch) -> tuple[Tensor, Tensor]:
        mask = real_steps(batch)
        x = torch.where(mask[..., None], self.inputs(batch), 0.0)
        if self.spec.elapsed:
            times = x.new_zeros(mask.shape) if batch.elapsed is None else batch.elapsed
            x = torch.cat([x, since_last(times, mask)], 2)
        last = mask.sum(1, keepdim=True) - 1  # (B, 1)
        positions = torch.arange(x.shape[1], device=x.device)
        backwards = torch.where(mask, last - positions, positions)  # reverses only the real steps
        last_states = []
        for reader, order in zip(self.readers, (positions.expand_as(backwards), backwards), strict=False):
            states = reader(x.gather(1, order[..., None].expand_as(x)))[0]
            last_states.append(states.gather(1, last[..., None].expand(-1, -1, states.shape[2])).squeeze(1))
        mean, log_var = self.head(torch.cat(last_states, 1)).chunk(2, dim=1)
        return mean, log_var

    def initial_state(self, z: Tensor) -> Any:
        """Return the decoder's initial state, (depth, B, width); for an LSTM a pair of such tensors."""
        state = self.start(z).tanh().view(len(z), self.states, self.config.width).transpose(0, 1).contiguous()
        return state if self.config.cell == "gru" else state.chunk(2)

    def generate(
        self, z: Tensor, steps: int, observed: Batch | None = None, noise: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Return outputs and values of a decoder that reads the values it generated before, (B, steps, D) each.

        A value is the mean of p(x_t|z, ...). With teacher forcing, it is a sample if the data are discrete or `noise`
        is true. The known values of `observed` are kept.
        """
        known = None if observed is None else observed.known
        state = self.initial_state(z)
        read = torch.zeros(len(z), 1, *self.inputs.shape, device=z.device)
        outputs, values = [], []
        is_discrete = any(group.kind not in DENSITIES for group in self.spec.parts)
        sampled = not self.factorized and (noise or is_discrete)
        for t in range(steps):
            h, state = self.writer(torch.cat([read, z[:, None]], 2), state)
            outputs.append(self.output(h))
            x = self.observation.sample_x(outputs[-1]) if sampled else self.observation.mean(outputs[-1])
            if observed is not None and known is not None:
                x = torch.where(known[:, t : t + 1], observed.x[:, t : t + 1], x)
            values.append(x)
            read = self.inputs.of(x)
        return torch.cat(outputs, 1), torch.cat(values, 1)

    def teacher_forced(self, z: Tensor, batch: Batch) -> Tensor:
        """Return the outputs of a decoder that reads the true previous step, (B, T, D)."""
        x = torch.where(real_steps(batch)[..., None], self.inputs(batch), 0.0)
        x = torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], 1)
        if self.training and self.config.drop:
            x = x * (torch.rand(x.shape[:2], device=x.device) >= self.config.drop)[..., None]
        h, _ = self.writer(torch.cat([x, z[:, None].expand(-1, x.shape[1], -1)], 2), self.initial_state(z))
        output: Tensor = self.output(h)
        return output

    def decoder_output(self, z: Tensor, batch: Batch | None) -> Tensor:
        """Return the parameters of p(x_t|z, ...), (B, T, D); with teacher forcing, given the true steps of `batch`.

        Without `batch`, sequences are generated with the length of the longest sequence in the data.
        """
        if batch is not None and not self.factorized:
            return self.teacher_forced(z, batch)
        return self.generate(z, self._length(batch))[0]

    def _length(self, batch: Batch | None) -> int:
        return self.spec.steps if batch is None else batch.x.shape[1]

    def terms(self, batch: Batch, step: Tensor) -> Terms:
        bound, c = self.bound(batch), self.config
        kl = closed_forms.ramp(step, c.warmup) * closed_forms.free_bits(bound.kl, c.free_bits)
        loss = bound.reconstruction.mean() + kl
        return Terms(bound.reconstruction, bound.kl.sum(1), {"loss": loss}, {"kl_per_dimension": bound.kl})

    def decode(self, z: Tensor, batch: Batch | None = None) -> Tensor:
        """Return means of x, (B, T, D), generated from z alone and as long as `batch`, or the longest sequence."""
        return self.observation.mean(self.generate(z, self._length(batch))[0])

    def sample_x(self, z: Tensor, batch: Batch | None = None) -> Tensor:
        outputs, values = self.generate(z, self._length(batch), noise=True)
        return self.observation.sample_x(outputs) if self.factorized else values

    def continued(self, z: Tensor, observed: Batch, whole: Batch, *, noise: bool) -> Tensor:
        if self.factorized:
            return super().continued(z, observed, whole, noise=noise)
        outputs, values = self.generate(z, whole.x.shape[1], observed, noise=noise)
        return values if noise else self.observation.mean(outputs)
