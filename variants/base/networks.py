"""Small networks that variants share."""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from variants.base import images, sequences
from variants.base.contract import Batch, Config, DataSpec, InputError
from variants.base.likelihoods import finite_log, output_shape


def mlp(inputs: int, width: int, depth: int, outputs: int) -> nn.Sequential:
    """Return a network of `depth` hidden layers with `width` rectified units each, and a linear output layer."""
    sizes = [inputs] + [width] * depth
    hidden = [m for a, b in pairwise(sizes) for m in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*hidden, nn.Linear(sizes[-1], outputs))


def frozen(module: nn.Module) -> Callable[..., Any]:
    """Return a function that computes what `module` does, and whose gradient does not reach the weights of `module`.

    A loss that one player minimises evaluates the networks of its opponents with it.
    """
    weights = {name: weight.detach() for name, weight in module.named_parameters()}
    return lambda *inputs: functional_call(module, weights, inputs)


class _ConvSizes:
    """Sizes of convolutions with 32, 64, 64, ... channels that halve the image until its sides are at most 8.

    The first convolution reads `inputs` channels.
    """

    def __init__(self, spec: DataSpec, inputs: int) -> None:
        if len(spec.shape) != 3 or min(spec.shape[1:]) < 28:
            shape = "x".join(map(str, spec.shape))
            raise InputError(f"network='conv': {spec.name} has examples of {shape}; expected images of at least 28x28")
        self.image = spec.shape
        self.levels = max(1, math.ceil(math.log2(max(spec.shape[1:]) / 8)))
        self.channels = [inputs, 32] + [64] * (self.levels - 1)
        self.small = tuple(math.ceil(s / 2**self.levels) for s in spec.shape[1:])
        self.features = self.channels[-1] * math.prod(self.small)


def _he_initialized(net: nn.Sequential) -> nn.Sequential:
    """Initialise a network as He et al. 2015 do, which keeps the scale of signals through rectified layers.

    PyTorch's default initialisation shrinks signals by more than half in each layer. The output of a deep convolutional
    decoder then depends so weakly on z that the posterior collapses at the start of training, as measured on MNIST.
    """
    for layer in net.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return net


class Inputs(nn.Module):
    """What a network reads of a batch: values on a scale that suits it, and which of them are observed.

    Counts enter as log(1 + x), positive values as log(x) divided by its standard deviation in the training data, and
    all others as they are. Missing values are 0. If values of the training data are missing, the mask of the observed
    values is appended: along the channels of images, and otherwise along the last axis.
    """

    log_spread: Tensor

    def __init__(self, spec: DataSpec) -> None:
        super().__init__()
        self.has_mask = spec.missing
        self.axis = 1 if len(spec.shape) == 3 else -1
        position = 0 if len(spec.shape) == 3 else len(spec.shape) - 1
        self.shape = tuple(n * (1 + self.has_mask) if i == position else n for i, n in enumerate(spec.shape))
        self.kinds = [group.kind for group in spec.parts]
        self.sizes = [group.size for group in spec.parts]
        self.is_plain = not {"count", "positive"} & set(self.kinds)
        spreads = [torch.tensor(group.spread or (1.0,)).expand(group.size) for group in spec.parts]
        self.register_buffer("log_spread", torch.cat(spreads), persistent=False)

    def forward(self, batch: Batch) -> Tensor:
        """Return the values, (B, *shape), where `shape` is that of this module."""
        return self.of(batch.x, batch.observed)

    def of(self, x: Tensor, observed: Tensor | None = None) -> Tensor:
        """Return what a network reads of values x, of which those in `observed` are known; all if it is None."""
        if not self.is_plain:
            x = self._transformed(x)
        if observed is not None:
            x = torch.where(observed, x, 0.0)
        if not self.has_mask:
            return x
        mask = torch.ones_like(x) if observed is None else observed.to(x.dtype)
        return torch.cat([x, mask.expand_as(x)], self.axis)

    def _transformed(self, x: Tensor) -> Tensor:
        parts = []
        spreads = self.log_spread.split(self.sizes)
        for kind, part, spread in zip(self.kinds, x.split(self.sizes, -1), spreads, strict=True):
            if kind == "count":
                part = part.clamp(min=0).log1p()
            elif kind == "positive":
                part = finite_log(part) / spread
            parts.append(part)
        return torch.cat(parts, -1)


def checked_network(config: Config, spec: DataSpec) -> str:
    """Return the kind of network for such data. Raises `InputError` if the one that was asked for is for other data."""
    network = config.network_for(spec)
    if bool(spec.steps) != (network in sequences.NETWORKS):
        found, expected = ("sequences", "gru, lstm or tcn") if spec.steps else ("no sequences", "mlp, conv or resnet")
        raise InputError(f"network={network!r}: {spec.name} has {found}; expected auto, {expected}")
    return network


class Features(nn.Module):
    """Map a batch to features, (B, size): the flattened values as `Inputs` gives them, or the output of a network.

    Raises `InputError` if the network is for other data.
    """

    def __init__(self, spec: DataSpec, config: Config) -> None:
        super().__init__()
        network = checked_network(config, spec)
        self.pad = (0, 0, 0, 0)
        self.inputs = Inputs(spec)
        if spec.steps:
            self.net: nn.Module = sequences.Reader(self.inputs.shape[0], config, network, spec)
            self.size = self.net.size
            return
        self.size, self.net = math.prod(self.inputs.shape), nn.Sequential(nn.Flatten())
        if network == "mlp":
            return
        if network == "resnet":
            last = images.maps(spec, config)[-1]
            self.size, self.net = last.size, nn.Sequential(images.ImageReader(spec, config, last), nn.Flatten())
            return
        sizes = _ConvSizes(spec, self.inputs.shape[0])
        height, width = (s * 2**sizes.levels for s in sizes.small)
        self.pad = (0, width - sizes.image[2], 0, height - sizes.image[1])
        convs = [m for a, b in pairwise(sizes.channels) for m in (nn.Conv2d(a, b, 4, 2, 1), nn.ReLU())]
        self.size, self.net = sizes.features, _he_initialized(nn.Sequential(*convs, nn.Flatten()))

    def forward(self, batch: Batch) -> Tensor:
        x = self.inputs(batch)
        if isinstance(self.net, sequences.Reader):
            read: Tensor = self.net(x, batch)
            return read
        out: Tensor = self.net(F.pad(x, self.pad) if any(self.pad) else x)
        return out


class Encoder(nn.Module):
    """Map a batch to `out` numbers, (B, out). With `extra` > 0 it has a second input, (B, extra)."""

    def __init__(self, spec: DataSpec, config: Config, out: int, extra: int = 0) -> None:
        super().__init__()
        self.features = Features(spec, config)
        network = config.network_for(spec)
        is_deep = network not in ("mlp", "conv")  # and needs no more hidden layers
        head = mlp(self.features.size + extra, config.width, 0 if is_deep else config.depth, out)
        self.head = _he_initialized(head) if network == "conv" else head

    def forward(self, batch: Batch, extra: Tensor | None = None) -> Tensor:
        features = self.features(batch)
        out: Tensor = self.head(features if extra is None else torch.cat([features, extra], 1))
        return out


class Decoder(nn.Module):
    """Map z, (B, inputs), to the parameters of p(x|z), with `depth` hidden layers.

    The output has the shape of x, except that its last axis has `Observation.outputs` numbers. Sequences are as long as
    those of `batch`, or as the longest one of the data. If x is real or a count, convolutions over images start with
    small outputs. Otherwise the first means are so far from the data that training takes many epochs to become as good
    as a constant, as measured on images of photon counts.
    """

    def __init__(self, spec: DataSpec, config: Config, inputs: int, depth: int | None = None) -> None:
        super().__init__()
        self.shape, self.steps = output_shape(spec), spec.steps
        hidden = config.depth if depth is None else depth
        network = config.network_for(spec)
        if spec.steps:
            self.net: nn.Module = sequences.Writer(inputs, config, network, spec, self.shape[0])
            return
        if network == "mlp":
            self.net = mlp(inputs, config.width, hidden, math.prod(self.shape))
            return
        if network == "resnet":
            last = images.maps(spec, config)[-1]
            writer = images.ImageWriter(spec, config, last, last, self.shape)
            self.net = nn.Sequential(nn.Linear(inputs, last.size), writer)
            return
        sizes = _ConvSizes(spec, self.shape[0])
        up = sizes.channels[::-1]
        convs = [m for a, b in pairwise(up) for m in (nn.ConvTranspose2d(a, b, 4, 2, 1), nn.ReLU())][:-1]
        head = mlp(inputs, config.width, hidden, sizes.features)
        self.net = _he_initialized(nn.Sequential(*head, nn.ReLU(), nn.Unflatten(1, (up[0], *sizes.small)), *convs))
        if not spec.in_unit:
            with torch.no_grad():
                next(self.net[-1].parameters()).mul_(0.1)

    def forward(self, z: Tensor, batch: Batch | None = None) -> Tensor:
        if self.steps:
            steps: Tensor = self.net(z, batch)
            return steps
        out: Tensor = self.net(z)
        if out.ndim == 2:
            return out.reshape(-1, *self.shape)
        return out[:, :, : self.shape[1], : self.shape[2]]
