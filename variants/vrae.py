"""VRAE: a VAE of whole sequences, whose encoder and decoder are recurrent networks.

Fabius & van Amersfoort 2014, arXiv:1412.6581. With steps x_1 ... x_T and one z a sequence:

    h_t = f(h_{t-1}, x_t),  mean and log-variance of q(z|x) are linear in h_T             (equations 2 to 4)
    h'_0 = tanh(W z + b),   h'_t = f(h'_{t-1}, input_t),  p(x_t|z, ...) is read from h'_t   (equations 5 to 7)

`feeding` free: input_t is the mean that the decoder gave at t-1, so that x reaches it through z alone; the steps are
independent given z. teacher: input_t is the true x_{t-1}, withheld with probability `drop` (word dropout, Bowman et
al. 2016), which makes the likelihood sharper and z easier to ignore: read its KL beside every likelihood. It generates
by reading its own draws (its means, where they are continuous). z is an input of every step as well.

Sequences differ in length, which is given, not modelled. What stands in the padding reaches neither the recurrence nor
the loss.

*Departures*: GRU or LSTM cells instead of tanh units (depth > 1 stacks them); z also enters each step; Adam, and no
weight on the KL but the warm-up that is set. `width` is the size of the recurrent state.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from variants.base import closed_forms
from variants.base.contract import Batch, Config, DataSpec, InputError, Terms, choice, number
from variants.base.gaussian import GaussianPosterior
from variants.base.likelihoods import Observation


@dataclass(frozen=True, kw_only=True)
class VRAEConfig(Config):
    width: int = number(128, 1, 65536, help="units of the recurrent state")
    cell: str = choice("gru", "lstm", help="recurrent cell")
    feeding: str = choice("free", "teacher", help="what the decoder reads: its own last output, or the true last step")
    drop: float = number(0.0, 0.0, 1.0, help="share of true steps withheld from the decoder in training (teacher)")
    directions: int = number(2, 1, 2, help="1: the encoder reads forwards; 2: backwards too")
    clip: float = number(5.0, 0.0, help="largest norm of the gradient; 0 for no clipping")


class VRAE(GaussianPosterior):
    paper = "Fabius & van Amersfoort 2014, Variational Recurrent Auto-Encoders, arXiv:1412.6581"
    required_fields = frozenset({"mask"})
    config_type = VRAEConfig
    config: VRAEConfig

    def __init__(self, config: VRAEConfig, spec: DataSpec) -> None:
        super().__init__(config, spec)
        if config.network != "mlp":
            raise InputError(f"network={config.network!r}: vrae is recurrent; leave it at mlp")
        c, recurrent = config, nn.GRU if config.cell == "gru" else nn.LSTM
        self.factorized = c.feeding == "free"
        (self.size,) = spec.shape
        self.readers = nn.ModuleList(
            recurrent(self.size, c.width, c.depth, batch_first=True) for _ in range(c.directions)
        )
        self.head = nn.Linear(c.directions * c.width, 2 * c.latent)
        self.states = c.depth * (2 if c.cell == "lstm" else 1)
        self.start = nn.Linear(c.latent, self.states * c.width)
        self.writer = recurrent(self.size + c.latent, c.width, c.depth, batch_first=True)
        self.output = nn.Linear(c.width, self.size)
        self.observation = Observation(spec)

    def posterior(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of q(z|x), (B, Z) each."""
        x, mask = _steps(batch)
        last = mask.sum(1, keepdim=True) - 1  # (B, 1)
        places = torch.arange(x.shape[1], device=x.device)
        backwards = torch.where(mask, last - places, places)  # real steps in reverse; padding stays where it is
        read = []
        for reader, order in zip(self.readers, (places.expand_as(backwards), backwards), strict=False):
            states = reader(x.gather(1, order[..., None].expand_as(x)))[0]
            read.append(states.gather(1, last[..., None].expand(-1, -1, states.shape[2])).squeeze(1))
        mean, log_var = self.head(torch.cat(read, 1)).chunk(2, dim=1)
        return mean, log_var

    def begin(self, z: Tensor) -> Any:
        """The decoder's first state: (depth, B, width), or a pair of them for an LSTM."""
        state = self.start(z).tanh().view(len(z), self.states, self.config.width).transpose(0, 1).contiguous()
        return state if self.config.cell == "gru" else state.chunk(2)

    def free(self, z: Tensor, steps: int, known: Batch | None = None, noise: bool = False) -> tuple[Tensor, Tensor]:
        """(B, steps, D) outputs of a decoder that reads its own last step, or the true one where `given` has it.

        The second of the two holds what was read: of a decoder that was taught by true steps a draw, where steps are
        discrete or `noise` is asked for; the mean otherwise.
        """
        state, x = self.begin(z), torch.zeros(len(z), 1, self.size, device=z.device)
        outputs, read = [], []
        drawn = not self.factorized and (noise or self.spec.likelihood != "gaussian")
        for t in range(steps):
            h, state = self.writer(torch.cat([x, z[:, None]], 2), state)
            outputs.append(self.output(h))
            x = self.observation.sample_x(outputs[-1]) if drawn else self.observation.mean(outputs[-1])
            if known is not None and known.mask is not None:
                x = torch.where(known.mask[:, t : t + 1, None], known.x[:, t : t + 1], x)
            read.append(x)
        return torch.cat(outputs, 1), torch.cat(read, 1)

    def taught(self, z: Tensor, batch: Batch) -> Tensor:
        """(B, T, D) outputs of a decoder that reads the true step before each."""
        x, _ = _steps(batch)
        x = torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], 1)
        if self.training and self.config.drop:
            x = x * (torch.rand(x.shape[:2], device=x.device) >= self.config.drop)[..., None]
        h, _ = self.writer(torch.cat([x, z[:, None].expand(-1, x.shape[1], -1)], 2), self.begin(z))
        return self.output(h)  # type: ignore[no-any-return]

    def decoder_output(self, z: Tensor, batch: Batch | None) -> Tensor:
        """(B, T, D) of true steps, where it was taught by them; else of its own; as long as `batch`, or the longest."""
        if batch is not None and not self.factorized:
            return self.taught(z, batch)
        return self.free(z, self._length(batch))[0]

    def _length(self, batch: Batch | None) -> int:
        return self.spec.steps if batch is None else batch.x.shape[1]

    def log_likelihood(self, z: Tensor, batch: Batch) -> Tensor:
        x, mask = _steps(batch)
        return super().log_likelihood(z, Batch(x, mask=mask))

    def terms(self, batch: Batch, step: Tensor) -> Terms:
        reconstruction, kl = self.bound(batch)
        c = self.config
        loss = reconstruction.mean() + closed_forms.ramp(step, c.warmup) * closed_forms.free_bits(kl, c.free_bits)
        return Terms(reconstruction, kl.sum(1), {"loss": loss}, {"kl_per_dimension": kl})

    def decode(self, z: Tensor, batch: Batch | None = None) -> Tensor:
        """(B, T, D) what the decoder says when it reads its own steps; as long as `batch`, else the longest."""
        return self.observation.mean(self.free(z, self._length(batch))[0])

    def sample_x(self, z: Tensor, batch: Batch | None = None) -> Tensor:
        """As `decode`; a decoder that was taught by true steps reads its own draws."""
        outputs, read = self.free(z, self._length(batch), noise=True)
        return self.observation.sample_x(outputs) if self.factorized else read

    def forecast(self, batch: Batch, prefix: Tensor, candidates: int = 500) -> Tensor:
        """(B, T, D) sequences whose first `prefix` (B,) steps are as given, and the others foretold from those alone.

        They are the decoder's means for one z from about p(z|prefix): one of `candidates` from the prior, by its
        likelihood of the prefix (sampling importance resampling, Rubin 1988). The encoder, which knows whole sequences
        only, is not asked.
        """
        x, mask = _steps(batch)
        known = Batch(x, mask=mask & (torch.arange(x.shape[1], device=x.device) < prefix[:, None]))
        z = self.sample_prior(candidates)
        index = torch.arange(len(x), device=x.device).repeat_interleave(candidates)
        weight = -self.nll(known[index], z.repeat(len(x), 1)).view(len(x), candidates)
        z = z[torch.multinomial(weight.softmax(1), 1).squeeze(1)]
        output = self.free(z, x.shape[1], None if self.factorized else known)[0]
        return torch.where(known.mask[..., None], x, self.observation.mean(output))  # type: ignore[index]

    def pictures(self, batch: Batch) -> Mapping[str, Tensor]:
        """`forecasts`: the true sequence, then continuations of its first half; NaN behind the end."""
        part = batch[slice(0, 6)]
        mask = _steps(part)[1]
        rows = torch.stack([part.x, *(self.forecast(part, (mask.sum(1) + 1) // 2) for _ in range(3))], 1)
        return {"forecasts": torch.where(mask[:, None, :, None], rows, torch.nan)}


def _steps(batch: Batch) -> tuple[Tensor, Tensor]:
    """Values (B, T, D) with zeros in the padding, and the mask (B, T)."""
    mask = batch.x.new_ones(batch.x.shape[:2], dtype=torch.bool) if batch.mask is None else batch.mask
    return torch.where(mask[..., None], batch.x, 0.0), mask
