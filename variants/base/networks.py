"""Small networks that variants share: an encoder to `out` numbers, and a decoder from z."""

import math
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from variants.base.contract import Config, DataSpec, InputError


def mlp(inputs: int, width: int, depth: int, outputs: int) -> nn.Sequential:
    """`depth` hidden layers of `width` rectified units, then a linear map."""
    sizes = [inputs] + [width] * depth
    hidden = [m for a, b in pairwise(sizes) for m in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*hidden, nn.Linear(sizes[-1], outputs))


class _Pyramid:
    """Sizes of a convolutional pair: halve the image until a side is at most 8, with 32, 64, 64, ... channels."""

    def __init__(self, spec: DataSpec) -> None:
        if len(spec.shape) != 3 or min(spec.shape[1:]) < 28:
            shape = "x".join(map(str, spec.shape))
            raise InputError(f"network='conv': {spec.name} has examples of {shape}; expected images of at least 28x28")
        self.image = spec.shape
        self.levels = max(1, math.ceil(math.log2(max(spec.shape[1:]) / 8)))
        self.channels = [spec.shape[0], 32] + [64] * (self.levels - 1)
        self.small = tuple(math.ceil(s / 2**self.levels) for s in spec.shape[1:])
        self.features = self.channels[-1] * math.prod(self.small)


def _he(net: nn.Sequential) -> nn.Sequential:
    """He et al. 2015: weights that keep the size of signals through rectified layers.

    PyTorch's own start shrinks them by more than half a layer. Through a deep convolutional pair the code then reaches
    the image so weakly that the KL closes it before it is used: total collapse on MNIST.
    """
    for layer in net.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return net


class Features(nn.Module):
    """(B, *shape) -> (B, size): the values themselves, or what a convolutional pyramid makes of them."""

    def __init__(self, spec: DataSpec, config: Config) -> None:
        super().__init__()
        if spec.steps:
            raise InputError(
                f"{spec.name} holds sequences; expected examples of one fixed shape (vrae takes sequences)"
            )
        self.pad = (0, 0, 0, 0)
        self.size, self.net = math.prod(spec.shape), nn.Sequential(nn.Flatten())
        if config.network == "mlp":
            return
        p = _Pyramid(spec)
        height, width = (s * 2**p.levels for s in p.small)
        self.pad = (0, width - p.image[2], 0, height - p.image[1])
        convs = [m for a, b in pairwise(p.channels) for m in (nn.Conv2d(a, b, 4, 2, 1), nn.ReLU())]
        self.size, self.net = p.features, _he(nn.Sequential(*convs, nn.Flatten()))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.net(F.pad(x, self.pad) if any(self.pad) else x)
        return out


class Encoder(nn.Module):
    """(B, *shape) -> (B, out). With `extra`, as many numbers more come in beside the features."""

    def __init__(self, spec: DataSpec, config: Config, out: int, extra: int = 0) -> None:
        super().__init__()
        self.features = Features(spec, config)
        head = mlp(self.features.size + extra, config.width, config.depth, out)
        self.head = head if config.network == "mlp" else _he(head)

    def forward(self, x: Tensor, extra: Tensor | None = None) -> Tensor:
        features = self.features(x)
        out: Tensor = self.head(features if extra is None else torch.cat([features, extra], 1))
        return out


class Decoder(nn.Module):
    """(B, inputs) -> (B, *shape), the natural parameters of p(x|z), after `depth` hidden layers (`Config.depth`)."""

    def __init__(self, spec: DataSpec, config: Config, inputs: int, depth: int | None = None) -> None:
        super().__init__()
        self.shape = spec.shape
        hidden = config.depth if depth is None else depth
        if config.network == "mlp":
            self.net = mlp(inputs, config.width, hidden, math.prod(spec.shape))
            return
        p = _Pyramid(spec)
        up = p.channels[::-1]
        convs = [m for a, b in pairwise(up) for m in (nn.ConvTranspose2d(a, b, 4, 2, 1), nn.ReLU())][:-1]
        head = mlp(inputs, config.width, hidden, p.features)
        self.net = _he(nn.Sequential(*head, nn.ReLU(), nn.Unflatten(1, (up[0], *p.small)), *convs))

    def forward(self, z: Tensor) -> Tensor:
        out: Tensor = self.net(z)
        if out.ndim == 2:
            return out.reshape(-1, *self.shape)
        return out[:, :, : self.shape[1], : self.shape[2]]
