"""The kinds of data on which variants are checked: a specification of each, and examples of it."""

import torch
from torch import Tensor

from variants.base.contract import Batch, DataSpec, Group, ValueKind

KINDS = {
    "a table": DataSpec(name="table", shape=(7,), likelihood="gaussian", classes=3),
    "binary images": DataSpec(name="binary", shape=(1, 8, 8), likelihood="bernoulli", classes=3),
    "8-bit colour": DataSpec(name="colour", shape=(3, 6, 5), likelihood="logistic8", classes=3),
    "8-bit colour with mixtures": DataSpec(name="mixtures", shape=(3, 6, 5), likelihood="mixture8", classes=3),
    "grey images from 0 to 1": DataSpec(
        name="fractions", shape=(1, 6, 5), likelihood="continuous-bernoulli", classes=3
    ),
    "large images": DataSpec(name="large", shape=(1, 30, 28), likelihood="bernoulli", classes=3),
    "binary sequences": DataSpec(name="roll", shape=(5,), likelihood="bernoulli", classes=3, steps=7),
    "real sequences": DataSpec(name="waves", shape=(2,), likelihood="gaussian", classes=3, steps=7),
    "symbols": DataSpec(name="text", shape=(4,), likelihood="categorical", classes=3, steps=7),
    "long sequences with times": DataSpec(
        name="stamps", shape=(3,), likelihood="gaussian", classes=3, steps=20, elapsed=50.0
    ),
    "counts": DataSpec(
        name="genes", shape=(6,), likelihood="negative-binomial", classes=3,
        exposure="sum", exposures=(1.0, 12.0, 50.0),
        groups=(Group(likelihood="negative-binomial", size=6, offset=(-2.0, -1.5, -2.5, -1.0, -2.0, -3.0)),),
    ),
    "a mixed table": DataSpec(
        name="mixed", shape=(14,), likelihood="mixed", classes=3, exposure="column", exposures=(0.5, 1.0, 4.0),
        groups=(
            Group(likelihood="gaussian", size=2), Group(likelihood="student-t", size=1),
            Group(likelihood="log-normal", size=1, spread=(0.6,)), Group(likelihood="gamma", size=1, spread=(0.8,)),
            Group(likelihood="poisson", size=1, offset=(0.5,)), Group(likelihood="negative-binomial", size=1),
            Group(likelihood="zero-inflated", size=1, offset=(1.0,)), Group(likelihood="bernoulli", size=1),
            Group(likelihood="categorical", size=3), Group(likelihood="categorical", size=2, offset=(-0.4, -1.1)),
        ),
    ),
    "a table with holes": DataSpec(name="holes", shape=(7,), likelihood="gaussian", classes=3, missing=True),
    "images with holes": DataSpec(name="clouds", shape=(3, 6, 5), likelihood="gaussian", classes=3, missing=True),
    "real sequences with holes": DataSpec(
        name="sensors", shape=(2,), likelihood="gaussian", classes=3, steps=7, missing=True
    ),
    "mixed sequences with holes": DataSpec(
        name="visits", shape=(4,), likelihood="mixed", classes=3, steps=7, missing=True,
        groups=(
            Group(likelihood="gaussian", size=1), Group(likelihood="zero-inflated", size=2),
            Group(likelihood="bernoulli", size=1),
        ),
    ),
}  # fmt: skip
NETWORKS = {  # of the kinds of data for which it is not gru or mlp
    "large images": "conv", "symbols": "lstm", "real sequences": "tcn", "long sequences with times": "tcn",
}  # fmt: skip


def network(kind: str) -> str:
    """Return the network with which variants are checked on a kind of data."""
    return NETWORKS.get(kind, "gru" if KINDS[kind].steps else "mlp")


def values_of_kind(kind: ValueKind, draw: Tensor) -> Tensor:
    """Turn uniform values between 0 and 1 into values of a kind."""
    return {
        "binary": (draw > 0.5).float(),
        "pixel": (draw * 255).round() / 255,
        "fraction": draw,
        "real": 4 * draw - 2,
        "category": (draw == draw.amax(-1, keepdim=True)).float(),
        "positive": (2 * draw - 1).exp(),
        "count": (9 * draw**2).floor(),
    }[kind]


def by_kind(values: Tensor, spec: DataSpec) -> dict[ValueKind, Tensor]:
    """Return the values of each kind, (..., number of this kind in the last axis)."""
    return {kind: values[..., where] for kind, where in spec.kinds.items()}


def examples(spec: DataSpec, n: int = 6, seed: int = 0, *, factors: int = 0) -> Batch:
    """Return fixed random examples: sequences of all lengths from 1 to `steps`, padded by zeros; missing values are 0.

    All values are independent of each other, or with `factors` > 0 they depend on so many numbers of each example.
    """
    generator = torch.Generator().manual_seed(seed)
    shape = (*([spec.steps] if spec.steps else []), *spec.shape)
    draw = torch.rand(n, *shape, generator=generator)
    if factors:
        directions = torch.randn(factors, draw[0].numel(), generator=torch.Generator().manual_seed(0))
        numbers = torch.randn(n, factors, generator=generator) @ directions / factors**0.5
        noise = torch.special.ndtri(draw.clamp(1e-6, 1 - 1e-6))
        draw = torch.special.ndtr((4 * numbers.view_as(draw) + noise) / 17**0.5)
    parts = zip(spec.parts, draw.split([group.size for group in spec.parts], -1), strict=True)
    x = torch.cat([values_of_kind(group.kind, part) for group, part in parts], -1)
    y, mask, observed, exposure, elapsed = torch.arange(n) % spec.classes, None, None, None, None
    if spec.missing:
        observed = torch.rand(x.shape, generator=generator) > 0.3
        x = torch.where(observed, x, 0.0)
    if spec.steps:
        mask = torch.arange(spec.steps) < (torch.arange(n)[:, None] % spec.steps + 1)
        x = x * mask[..., None]
    if spec.exposure:
        exposure = x[..., spec.kinds["count"]].sum(-1) if spec.exposure == "sum" else 0.5 + torch.arange(n) % 6
    if mask is not None and spec.elapsed:
        elapsed = torch.rand(n, spec.steps, generator=generator).cumsum(1) * mask
    return Batch(x, y, mask, observed=observed, exposure=exposure, elapsed=elapsed)
