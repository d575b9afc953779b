"""Networks between sequences and codes, for `network` = gru, lstm or tcn.

A reader maps the steps of a sequence, (B, T, D), to features of each step or of the whole sequence, and a writer maps a
code to a vector for each step, (B, T, outputs). Both know the place of each step in time (`Clock`). Padding changes
nothing: readers do not read it, and what is written there does not reach real steps.

    gru, lstm   `depth` layers with states of `width` numbers. The reader has a second network that reads backwards; the
                features of a sequence are the last states of both. The state of the writer starts from the code, which
                is also an input of each step.
    tcn         residual blocks of dilated convolutions over time (after Bai et al. 2018, arXiv:1803.01271, but not
                causal). There are `depth` pairs of blocks, whose convolutions read steps at distances of 1 and 2, with
                width/4 channels. Then each four steps are joined to their mean, and the next pairs read these, with
                twice as many channels, at most `width`, until at most 16 steps are left, which are the features of a
                sequence. A writer goes the other way, from coarse to fine. All steps are computed at once, so long
                sequences take far less time than with recurrent networks.

A residual block is x + L(silu(C(silu(N(x))))): N normalises the channels of each step on its own (Ba et al. 2016,
arXiv:1607.06450), C reads three steps, and L is linear and starts at 0.
"""

import math
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from variants.base.contract import Batch, Config, DataSpec, InputError

FREQUENCIES = 8  # pairs of sine and cosine that tell the place of a step
NETWORKS = ("gru", "lstm", "tcn")
FACTOR, COARSEST = 4, 16  # steps that are joined to one, until there are at most so many


def real_steps(batch: Batch) -> Tensor:
    """Return which steps are real, (B, T) bool, and not padding."""
    return batch.x.new_ones(batch.x.shape[:2], dtype=torch.bool) if batch.mask is None else batch.mask


class Clock(nn.Module):
    """Tell the place of each step: its share of the sequence and of the longest one, and sines and cosines of its time.

    If the times of the steps are inputs (`DataSpec.elapsed`), they take the place of the numbers of the steps, and the
    time since the step before is told as well.
    """

    rates: Tensor

    def __init__(self, spec: DataSpec) -> None:
        super().__init__()
        self.is_timed = spec.elapsed > 0
        self.longest = spec.elapsed + 1 if self.is_timed else spec.steps
        self.size = 2 + 2 * FREQUENCIES + self.is_timed
        periods = torch.logspace(math.log10(2), math.log10(2 * max(self.longest, 2)), FREQUENCIES)
        self.register_buffer("rates", 2 * math.pi / periods, persistent=False)

    def forward(self, mask: Tensor, elapsed: Tensor | None = None) -> Tensor:
        """Return (B, T, size) for sequences whose real steps are in `mask`, (B, T); see `Batch.elapsed`."""
        t = torch.arange(mask.shape[1], device=mask.device, dtype=self.rates.dtype).expand_as(mask)
        if self.is_timed and elapsed is not None:
            t = torch.where(mask, elapsed, 0.0)
        angles = t[..., None] * self.rates
        duration = torch.where(mask, t, 0.0).amax(1, keepdim=True) + 1
        parts = [(t / duration)[..., None], (t / self.longest)[..., None], angles.sin(), angles.cos()]
        if self.is_timed:
            parts.append(since_last(t, mask))
        return torch.cat(parts, 2)


def since_last(times: Tensor, mask: Tensor) -> Tensor:
    """Return log(1 + time since the step before), (B, T, 1), for times (B, T); 0 for first steps and padding."""
    since = times.diff(dim=1, prepend=times[:, :1])
    return torch.where(mask, since.clamp(min=0), 0.0).log1p()[..., None]


class StepReader(nn.Module):
    """Map the steps of sequences, (B, T, inputs), to features of every `stride` steps, (B, ceil(T / stride), size).

    `stride` is a power of 2. Features of padding are 0.
    """

    def __init__(self, inputs: int, config: Config, network: str, spec: DataSpec, stride: int = 1) -> None:
        super().__init__()
        self.clock, self.stride = Clock(spec), stride
        inputs += self.clock.size
        self.readers, self.scales = nn.ModuleList(), nn.ModuleList()
        if network == "tcn":
            sizes = _channels(config, stride)
            self.size, self.norm = sizes[-1], nn.LayerNorm(sizes[-1])
            self.reads = nn.ModuleList(nn.Linear(before, n) for before, n in pairwise([inputs, *sizes]))
            self.scales.extend(_Scale(n, config.depth) for n in sizes)
        else:
            self.size = 2 * config.width
            self.readers.extend(
                _recurrent(network)(inputs, config.width, config.depth, batch_first=True) for _ in range(2)
            )

    def forward(self, x: Tensor, batch: Batch) -> Tensor:
        mask = real_steps(batch)
        x = torch.where(mask[..., None], torch.cat([x, self.clock(mask, batch.elapsed)], 2), 0.0)
        if self.readers:
            return coarser(self._both_ways(x, mask), mask, self.stride)[0]
        h, stride = x, 1
        for number, (read, scale) in enumerate(zip(self.reads, self.scales, strict=True)):
            if number:
                h, mask = coarser(h, mask, FACTOR)
                stride *= FACTOR
            h = scale(read(h), mask)
        return coarser(self.norm(h), mask, self.stride // stride)[0]

    def _both_ways(self, x: Tensor, mask: Tensor) -> Tensor:
        last = mask.sum(1, keepdim=True) - 1
        positions = torch.arange(x.shape[1], device=x.device).expand_as(mask)
        backwards = torch.where(mask, last - positions, positions)[..., None]  # reverses only the real steps
        forward_reader, backward_reader = self.readers
        h = backward_reader(x.gather(1, backwards.expand_as(x)))[0]
        return torch.cat([forward_reader(x)[0], h.gather(1, backwards.expand(-1, -1, h.shape[2]))], 2)


class Reader(nn.Module):
    """Map the steps of sequences, (B, T, inputs), to features of each sequence, (B, size)."""

    def __init__(self, inputs: int, config: Config, network: str, spec: DataSpec) -> None:
        super().__init__()
        self.is_recurrent, self.steps = network != "tcn", spec.steps
        stride = 1 if self.is_recurrent else coarsest(spec)
        self.of_steps = StepReader(inputs, config, network, spec, stride)
        self.size = self.of_steps.size if self.is_recurrent else math.ceil(spec.steps / stride) * self.of_steps.size

    def forward(self, x: Tensor, batch: Batch) -> Tensor:
        h = self.of_steps(x, batch)
        if self.is_recurrent:
            forwards, backwards = h.chunk(2, 2)
            last = (real_steps(batch).sum(1) - 1)[:, None, None].expand(-1, -1, forwards.shape[2])
            return torch.cat([forwards.gather(1, last).squeeze(1), backwards[:, 0]], 1)
        h = h.flatten(1)
        if h.shape[1] > self.size:
            raise InputError(
                f"there are sequences of {x.shape[1]} steps; network='tcn' was made for at most {self.steps}, which "
                "the longest training sequence has; expected shorter ones, or a model with network='gru'"
            )
        return F.pad(h, (0, self.size - h.shape[1]))


class Writer(nn.Module):
    """Map codes and the places of the steps to a vector for each step, (B, T, outputs).

    Codes are (B, inputs), one for the whole sequence, or (B, T, inputs) if `of_steps` is true.
    """

    def __init__(
        self, inputs: int, config: Config, network: str, spec: DataSpec, outputs: int, *, of_steps: bool = False
    ) -> None:
        super().__init__()
        self.clock, self.steps, self.of_steps = Clock(spec), spec.steps, of_steps
        read = inputs + self.clock.size
        self.scales = nn.ModuleList()
        if network == "tcn":
            self.stride = coarsest(spec)
            sizes = _channels(config, self.stride)[::-1]
            self.scales.extend(_Scale(n, config.depth) for n in sizes)
            self.reads = nn.ModuleList(nn.Linear(read, n) for n in sizes)
            self.narrower = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
            self.norm = nn.LayerNorm(sizes[-1])
            if not of_steps:
                self.start = nn.Linear(inputs, math.ceil(spec.steps / self.stride) * sizes[0])
        else:
            self.net = _recurrent(network)(read, config.width, config.depth, batch_first=True)
            self.states = config.depth * (2 if network == "lstm" else 1)
            self.start = nn.Linear(inputs, self.states * config.width)
        self.output = nn.Linear(sizes[-1] if self.scales else config.width, outputs)

    def forward(self, z: Tensor, batch: Batch | None) -> Tensor:
        """Return vectors for the steps of `batch`, or without it for the steps of the longest sequence."""
        mask = z.new_ones(len(z), self.steps, dtype=torch.bool) if batch is None else real_steps(batch)
        of_each = z if self.of_steps else z[:, None].expand(-1, mask.shape[1], -1)
        x = torch.cat([of_each, self.clock(mask, None if batch is None else batch.elapsed)], 2)
        out: Tensor = self.output(self._from_coarse_to_fine(z, x, mask) if self.scales else self._in_order(z, x))
        return out

    def _in_order(self, z: Tensor, x: Tensor) -> Tensor:
        state = self.start(z[:, 0] if self.of_steps else z).tanh()
        state = state.view(len(x), self.states, -1).transpose(0, 1).contiguous()
        h: Tensor = self.net(x, state if isinstance(self.net, nn.GRU) else state.chunk(2))[0]
        return h

    def _from_coarse_to_fine(self, z: Tensor, x: Tensor, mask: Tensor) -> Tensor:
        h, stride = x.new_zeros(()), self.stride
        if not self.of_steps:  # a start for each of the coarsest steps, of which a short sequence has fewer
            h = self.start(z).unflatten(1, (-1, self.reads[0].out_features))[:, : math.ceil(x.shape[1] / stride)]
        for number, (read, scale) in enumerate(zip(self.reads, self.scales, strict=True)):
            if number:
                stride //= FACTOR
                h = self.narrower[number - 1](h).repeat_interleave(FACTOR, 1)[:, : math.ceil(x.shape[1] / stride)]
            part, real = x[:, ::stride], mask[:, ::stride]  # a block of steps is padding if its first step is
            h = scale(h + read(part), real)
        out: Tensor = self.norm(h)
        return out


class CoarserLevel(nn.Module):
    """Join each `stride` positions in time of x, (B, P, inputs), and map them to features, (B, P', width)."""

    def __init__(self, inputs: int, config: Config, stride: int) -> None:
        super().__init__()
        self.stride, self.read, self.scale = stride, nn.Linear(inputs, config.width), _Scale(config.width, config.depth)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x, mask = coarser(x, mask, self.stride)
        out: Tensor = self.scale(self.read(x), mask)
        return out


class FinerLevel(nn.Module):
    """Map a code with `channels` at each position in time, (B, P' * channels), to features at twice as many positions.

    The features are (B, positions, width).
    """

    def __init__(self, channels: int, config: Config, positions: int) -> None:
        super().__init__()
        self.channels, self.positions = channels, positions
        self.read, self.scale = nn.Linear(channels, config.width), _Scale(config.width, config.depth)

    def forward(self, z: Tensor) -> Tensor:
        x = z.unflatten(1, (-1, self.channels)).repeat_interleave(2, 1)[:, : self.positions]
        out: Tensor = self.scale(self.read(x), x.new_ones(x.shape[:2], dtype=torch.bool))
        return out


class ToGaussian(nn.Module):
    """Map features at positions in time, (B, P, width), to means and variances of a code, (B, 2 * P * channels).

    The means start on the scale of `gain`, and the outputs for the variances near `variance`.
    """

    def __init__(self, width: int, channels: int, *, gain: float, variance: float = 0.0) -> None:
        super().__init__()
        self.norm, self.linear = nn.LayerNorm(width), nn.Linear(width, 2 * channels)
        with torch.no_grad():
            self.linear.weight.normal_(0, gain / math.sqrt(width))
            self.linear.bias.zero_()
            self.linear.bias[channels:] = variance

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([part.flatten(1) for part in self.linear(self.norm(x)).chunk(2, 2)], 1)


def coarser(x: Tensor, mask: Tensor, stride: int) -> tuple[Tensor, Tensor]:
    """Join each `stride` steps of x, (B, T, F), to the mean of those that are real, and return their mask as well."""
    x = torch.where(mask[..., None], x, 0.0)
    if stride == 1:
        return x, mask
    short = -x.shape[1] % stride
    blocks = F.pad(x, (0, 0, 0, short)).unflatten(1, (-1, stride)).sum(2)
    counts = F.pad(mask, (0, short)).unflatten(1, (-1, stride)).sum(2)
    return blocks / counts.clamp(min=1)[..., None], counts > 0


def coarsest(spec: DataSpec) -> int:
    """Return how many steps are joined to one at the coarsest time scale of convolutions."""
    stride = 1
    while math.ceil(spec.steps / stride) > COARSEST:
        stride *= FACTOR
    return stride


def _channels(config: Config, stride: int) -> list[int]:
    """Return the channels of convolutions at each time scale, from the finest one to one of at most `stride` steps."""
    scales = sum(FACTOR**n <= stride for n in range(stride.bit_length()))
    return [min(config.width, max(8, config.width // 4) << n) for n in range(scales)]


def _recurrent(network: str) -> Any:
    return {"gru": nn.GRU, "lstm": nn.LSTM}[network]


class _Scale(nn.Module):
    """Pairs of residual blocks that read steps at distances of 1 and 2."""

    def __init__(self, channels: int, depth: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(_Block(channels, d) for _ in range(depth) for d in (1, 2))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x, mask)
        return x


class _Block(nn.Module):
    def __init__(self, channels: int, distance: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.over_time = nn.Conv1d(channels, channels, 3, padding=distance, dilation=distance)
        self.linear = nn.Linear(channels, channels)
        nn.init.zeros_(self.linear.weight)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        h = F.silu(self.norm(x)) * mask[..., None]  # as beyond the ends of a sequence without padding
        h = self.over_time(h.transpose(1, 2)).transpose(1, 2)
        out: Tensor = x + self.linear(F.silu(h))
        return out
