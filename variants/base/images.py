"""Residual networks between images and maps of features, for `network="resnet"`.

The sides of a map are halved, rounded up, while they are at least 8, so that the smallest map has 4 to 7 rows and
columns. With `width` = W, the largest map has W/8 channels, and each smaller map has twice as many, at most W. Each
map has `depth` residual blocks. All convolutions work on maps, the largest of which has half the sides of the image;
the last one of a decoder has outputs for 2x2 pixels at each position.

A residual block (He et al. 2016, arXiv:1603.05027) is x + C(silu(C(silu(N(x))))), where C is a convolution and N is
group normalisation (Wu & He 2018, arXiv:1803.08494), which does not depend on the other examples of a batch. The last
convolution of a block starts at 0, and nothing is normalised outside of blocks. A new network is therefore linear: the
code reaches the output unweakened, and the posterior does not collapse in the first steps.

Maps are stored by channels (`channels_last`), with which a training step on a CPU takes 20% less time. Weights are not,
because the state of an optimizer that is read from a checkpoint would then be stored in another order than they are.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from variants.base.contract import Config, DataSpec, InputError

SMALLEST, LARGEST = 16, 256  # sides of images


@dataclass(frozen=True)
class Map:
    """The size of a map of features, or of an image."""

    channels: int
    height: int
    width: int

    @property
    def positions(self) -> int:
        return self.height * self.width

    @property
    def size(self) -> int:
        return self.channels * self.positions

    def with_channels(self, channels: int) -> "Map":
        return Map(channels, self.height, self.width)


def maps(spec: DataSpec, config: Config) -> list[Map]:
    """Return the maps of a residual network, from the largest to the smallest.

    Raises:
        InputError: If the examples are no images, or their sides are not between 16 and 256.
    """
    if len(spec.shape) != 3 or not SMALLEST <= min(spec.shape[1:]) <= max(spec.shape[1:]) <= LARGEST:
        shape = "x".join(map(str, spec.shape))
        raise InputError(
            f"network='resnet': {spec.name} has examples of {shape}; expected images with sides of "
            f"{SMALLEST} to {LARGEST} pixels"
        )
    height, width = spec.shape[1:]
    channels, result = max(4, config.width // 8), list[Map]()
    while max(height, width) >= 8:
        height, width = (-(-side // 2) if side >= 8 else side for side in (height, width))
        result.append(Map(min(channels << len(result), max(4, config.width)), height, width))
    return result


class Block(nn.Module):
    """A residual block of a map with so many channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = norm(channels)
        self.first, self.second = convolution(channels, channels), convolution(channels, channels, gain=0.0)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.second(F.silu(self.first(F.silu(self.norm(x)))))
        return out


class Resize(nn.Module):
    """Change the channels of a map by a convolution of 1x1, and its sides to larger ones by repeating values."""

    def __init__(self, before: Map, after: Map) -> None:
        super().__init__()
        self.sides = (after.height, after.width)
        self.channels = convolution(before.channels, after.channels, kernel=1)

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(self.channels(x), self.sides, mode="nearest")


class ToPixels(nn.Module):
    """Map a map to an image of twice its sides, or one row or column less.

    A convolution has an output for each of the 2x2 pixels at a position (Shi et al. 2016, arXiv:1609.05158). The four
    start with equal weights, so that a new network has no pattern of 2x2 pixels (Aitken et al. 2017, arXiv:1707.02937).
    """

    def __init__(self, before: Map, image: Map, *, gain: float) -> None:
        super().__init__()
        self.sides = (image.height, image.width)
        self.convolution = convolution(before.channels, 4 * image.channels, gain=gain)
        with torch.no_grad():
            self.convolution.weight.copy_(self.convolution.weight[::4].repeat_interleave(4, 0))

    def forward(self, x: Tensor) -> Tensor:
        image: Tensor = F.pixel_shuffle(self.convolution(x), 2)[..., : self.sides[0], : self.sides[1]]
        return image


def norm(channels: int) -> nn.GroupNorm:
    """Return a group normalisation with groups of at least 4 channels, and at most 32 groups."""
    groups = next(n for n in range(min(32, channels // 4), 0, -1) if channels % n == 0)
    return nn.GroupNorm(groups, channels)


def convolution(
    before: int, after: int, *, kernel: int = 3, gain: float = 1.0, stride: tuple[int, int] = (1, 1)
) -> nn.Conv2d:
    """Return a convolution that multiplies the scale of a random input by about `gain`. Its bias starts at 0."""
    layer = nn.Conv2d(before, after, kernel, stride, kernel // 2)
    with torch.no_grad():
        nn.init.kaiming_normal_(layer.weight, nonlinearity="linear").mul_(gain)
        assert layer.bias is not None
        layer.bias.zero_()
    return layer


def down(before: Map, after: Map, depth: int) -> nn.Sequential:
    """Return a network from a map (or an image) to a smaller one, with `depth` blocks."""
    stride = (-(-before.height // after.height), -(-before.width // after.width))
    blocks = [Block(after.channels) for _ in range(depth)]
    return nn.Sequential(convolution(before.channels, after.channels, stride=stride), *blocks)


def up(before: Map, after: Map, depth: int) -> nn.Sequential:
    """Return a network from a map to a larger one, or to one of the same sides, with `depth` blocks."""
    return nn.Sequential(Resize(before, after), *(Block(after.channels) for _ in range(depth)))


class ImageReader(nn.Module):
    """Map an image, with a mask of its observed values if some are missing, to a map, by way of all larger ones."""

    def __init__(self, spec: DataSpec, config: Config, last: Map) -> None:
        super().__init__()
        sizes = maps(spec, config)
        image = Map(spec.shape[0] * (1 + spec.missing), *spec.shape[1:])
        path = [image, *sizes[: sizes.index(last) + 1]]
        self.net = nn.Sequential(*(down(a, b, config.depth) for a, b in pairwise(path)))
        self.is_in_unit = spec.in_unit

    def forward(self, x: Tensor) -> Tensor:
        x = 4 * x - 2 if self.is_in_unit else x  # to the scale of standardised values
        out: Tensor = self.net(x.contiguous(memory_format=torch.channels_last))
        return out


class Unflatten(nn.Module):
    """Turn a code, (B, code.size), into a map."""

    def __init__(self, code: Map) -> None:
        super().__init__()
        self.code = code

    def forward(self, z: Tensor) -> Tensor:
        x = z.reshape(-1, self.code.channels, self.code.height, self.code.width)
        return x.contiguous(memory_format=torch.channels_last)


class ImageWriter(nn.Sequential):
    """Decode a flattened map of features, (B, code.size), into parameters of p(x|z), (B, *shape), by larger maps.

    `first` is the first map of this path. Logits of pixels and of binary values start on the scale of 1, and all other
    outputs small, as those of `Decoder` do.
    """

    def __init__(self, spec: DataSpec, config: Config, code: Map, first: Map, shape: Sequence[int]) -> None:
        sizes, image = maps(spec, config), Map(*shape)
        path = [code, *sizes[sizes.index(first) :: -1]]
        is_logit = tuple(shape) == spec.shape and spec.in_unit
        super().__init__(
            Unflatten(code),
            *(up(a, b, config.depth) for a, b in pairwise(path)),
            ToPixels(path[-1], image, gain=1.0 if is_logit else 0.1),
        )


def to_gaussian(before: Map, channels: int, *, gain: float, variance: float = 0.0) -> nn.Sequential:
    """Return a network from a map to means and variances of so many channels at each position, flattened.

    The means start on the scale of `gain`, and the outputs for the variances near `variance`.
    """
    layer = convolution(before.channels, 2 * channels, kernel=1, gain=gain)
    with torch.no_grad():
        assert layer.bias is not None
        layer.bias[channels:] = variance
    return nn.Sequential(layer, nn.Flatten())


def from_code(code: Map, after: Map, depth: int) -> nn.Sequential:
    """Return a network from a flattened code to a map, with `depth` blocks."""
    return nn.Sequential(Unflatten(code), up(code, after, depth))
