"""Networks between sequences and codes, for `network` = gru, lstm or tcn.

A reader maps the steps of a sequence, (B, T, D), to features, (B, F), and a writer maps a code, (B, Z), to a vector for
each step, (B, T, outputs). Both know the place of each step in time (`Clock`). Padding changes nothing: readers do not
read it, and what is written there does not reach real steps.

    gru, lstm   `depth` layers with states of `width` numbers. The reader has a second network that reads backwards; its
                features are the last states of both. The state of the writer starts from the code, which is also an
                input of each step.
    tcn         residual blocks of convolutions over time with `width` channels (Bai et al. 2018, arXiv:1803.01271, but
                not causal). The distance between the steps that a block reads doubles from block to block until an
                output sees the whole sequence. There are `depth` blocks for each distance. The features of a reader are
                the mean and the maximum over time. All steps are computed at once, so long sequences take far less
                time than with recurrent networks.

A residual block is x + L(silu(C(silu(N(x))))): N normalises the channels of each step on its own (Ba et al. 2016,
arXiv:1607.06450), C reads three steps, and L is linear and starts at 0.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from variants.base.contract import Batch, Config

FREQUENCIES = 8  # pairs of sine and cosine that tell the place of a step
NETWORKS = ("gru", "lstm", "tcn")


def real_steps(batch: Batch) -> Tensor:
    """Return which steps are real, (B, T) bool, and not padding."""
    return batch.x.new_ones(batch.x.shape[:2], dtype=torch.bool) if batch.mask is None else batch.mask


class Clock(nn.Module):
    """Tell the place of each step: its share of the sequence, and of the longest one, and sines and cosines of it."""

    size = 2 + 2 * FREQUENCIES
    rates: Tensor

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.steps = steps
        periods = torch.logspace(math.log10(2), math.log10(2 * max(steps, 2)), FREQUENCIES)
        self.register_buffer("rates", 2 * math.pi / periods, persistent=False)

    def forward(self, mask: Tensor) -> Tensor:
        """Return (B, T, size) for sequences whose real steps are in `mask`, (B, T)."""
        t = torch.arange(mask.shape[1], device=mask.device, dtype=self.rates.dtype)
        angles = t[:, None] * self.rates
        of_longest = torch.cat([t[:, None] / self.steps, angles.sin(), angles.cos()], 1)
        of_own = t / mask.sum(1, keepdim=True)
        return torch.cat([of_own[..., None], of_longest.expand(len(mask), -1, -1)], 2)


class Reader(nn.Module):
    """Map steps, (B, T, inputs), to features, (B, size)."""

    def __init__(self, inputs: int, config: Config, network: str, steps: int) -> None:
        super().__init__()
        self.clock, self.size = Clock(steps), 2 * config.width
        inputs += self.clock.size
        self.net = _BothWays(inputs, config, network) if network != "tcn" else _Convolutions(inputs, config, steps)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = torch.where(mask[..., None], torch.cat([x, self.clock(mask)], 2), 0.0)
        h = self.net(x, mask)
        if isinstance(self.net, _BothWays):
            out: Tensor = h
            return out
        mean = torch.where(mask[..., None], h, 0.0).sum(1) / mask.sum(1, keepdim=True)
        return torch.cat([mean, torch.where(mask[..., None], h, -torch.inf).amax(1)], 1)


class Writer(nn.Module):
    """Map a code, (B, inputs), and a mask of real steps, (B, T), to a vector for each step, (B, T, outputs)."""

    def __init__(self, inputs: int, config: Config, network: str, steps: int, outputs: int) -> None:
        super().__init__()
        self.clock = Clock(steps)
        read = inputs + self.clock.size
        self.start: nn.Module = nn.Identity()
        if network == "tcn":
            self.net: nn.Module = _Convolutions(read, config, steps)
        else:
            self.net = _recurrent(network)(read, config.width, config.depth, batch_first=True)
            self.states = config.depth * (2 if network == "lstm" else 1)
            self.start = nn.Linear(inputs, self.states * config.width)
        self.output = nn.Linear(config.width, outputs)

    def forward(self, z: Tensor, mask: Tensor) -> Tensor:
        x = torch.cat([z[:, None].expand(-1, mask.shape[1], -1), self.clock(mask)], 2)
        if isinstance(self.net, _Convolutions):
            h = self.net(torch.where(mask[..., None], x, 0.0), mask)
        else:
            state = self.start(z).tanh().view(len(z), self.states, -1).transpose(0, 1).contiguous()
            h, _ = self.net(x, state if isinstance(self.net, nn.GRU) else state.chunk(2))
        out: Tensor = self.output(h)
        return out


def _recurrent(network: str) -> Any:
    return {"gru": nn.GRU, "lstm": nn.LSTM}[network]


class _BothWays(nn.Module):
    """Two recurrent networks, one of which reads backwards, and their states after the last step that they read."""

    def __init__(self, inputs: int, config: Config, network: str) -> None:
        super().__init__()
        self.readers = nn.ModuleList(
            _recurrent(network)(inputs, config.width, config.depth, batch_first=True) for _ in range(2)
        )

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        last = mask.sum(1, keepdim=True) - 1
        positions = torch.arange(x.shape[1], device=x.device).expand_as(mask)
        backwards = torch.where(mask, last - positions, positions)  # reverses only the real steps
        states = []
        for reader, order in zip(self.readers, (positions, backwards), strict=True):
            h = reader(x.gather(1, order[..., None].expand_as(x)))[0]
            states.append(h.gather(1, last[..., None].expand(-1, -1, h.shape[2])).squeeze(1))
        return torch.cat(states, 1)


class _Convolutions(nn.Module):
    """Residual convolutions over time, from (B, T, inputs) to (B, T, width)."""

    def __init__(self, inputs: int, config: Config, steps: int) -> None:
        super().__init__()
        distances = [1 << n for n in range(max(1, math.ceil(math.log2(max(2, steps) / 2))))]
        self.first = nn.Linear(inputs, config.width)
        self.blocks = nn.ModuleList(_Block(config.width, d) for d in distances for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        h = self.first(x)
        for block in self.blocks:
            h = block(h, mask)
        out: Tensor = self.norm(h)
        return out


class _Block(nn.Module):
    def __init__(self, channels: int, distance: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.over_time = nn.Conv1d(channels, channels, 3, padding=distance, dilation=distance)
        self.linear = nn.Linear(channels, channels)
        nn.init.zeros_(self.linear.weight)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        h = torch.where(mask[..., None], F.silu(self.norm(x)), 0.0)  # as beyond the ends of a sequence without padding
        h = self.over_time(h.transpose(1, 2)).transpose(1, 2)
        out: Tensor = x + self.linear(F.silu(h))
        return out
