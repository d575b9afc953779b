"""Sprites: images of one white shape on black, drawn from five known factors.

The factors and their values are those of dSprites (Matthey et al. 2017): 3 shapes x 6 scales x 40 orientations x 32
horizontal x 32 vertical positions. The drawings are this project's own, so scores must not be compared with scores on
dSprites.
"""

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.data._raw import Factors, PixelFormat, Raw
from pipeline.data._source import Source

Plane = NDArray[np.float32]
SIZES = {"shape": 3, "scale": 6, "orientation": 40, "x": 32, "y": 32}
SEED = 2017
SPLITS = (50_000, 10_000, 10_000)  # training, validation, test: of 737,280 combinations
REACH = 0.17  # half the side of the largest square, as a share of the image's side


def load(size: int) -> Raw:
    """Draw 70,000 different sprites of `size` x `size` binary pixels. The label of a sprite is its shape."""
    chosen = np.random.default_rng(SEED).choice(int(np.prod(list(SIZES.values()))), sum(SPLITS), replace=False)
    values = np.stack(np.unravel_index(chosen, tuple(SIZES.values())), axis=1).astype(np.int64)
    x = np.concatenate([draw(part, size) for part in np.array_split(values, 70)])[:, None]
    name = "sprites" if size == 32 else f"sprites-{size}"
    splits = list(torch.arange(len(values)).split(SPLITS))
    return Raw(
        name=name, source=Source(place=name), x=x, y=values[:, 0], class_names=("square", "ellipse", "heart"),
        likelihood="bernoulli", why="the pixels are binary", pixels=PixelFormat(dtype="bool"), splits=splits,
        factors=Factors(tuple(SIZES), values, ("shape",)),
        notes=("these images were drawn by this project from the factors of dSprites (Matthey et al. 2017)",),
    )  # fmt: skip


def draw(values: NDArray[np.int64], size: int) -> NDArray[np.bool_]:
    """Draw images (N, size, size) of the factors (N, 5), whose columns are those of `SIZES`.

    A pixel is white if its centre lies in the shape. The scale goes from 0.5 to 1, the orientation once around, and the
    centre of the shape over the middle half of the image, so that no shape is cut.
    """
    images = np.zeros((len(values), size, size), dtype=np.bool_)
    for shape, inside in enumerate((_square, _ellipse, _heart)):
        chosen = values[:, 0] == shape
        _, scale, orientation, right, down = values[chosen].T[:, :, None, None].astype(np.float32)
        centre = ((np.arange(size) + 0.5) / size).astype(np.float32)
        u = centre[None, None, :] - (0.25 + 0.5 * right / (SIZES["x"] - 1))
        v = centre[None, :, None] - (0.25 + 0.5 * down / (SIZES["y"] - 1))
        reach = REACH * (0.5 + 0.5 * scale / (SIZES["scale"] - 1))
        angle = 2 * np.pi * orientation / SIZES["orientation"]
        cos, sin = np.cos(angle) / reach, np.sin(angle) / reach
        images[chosen] = inside(cos * u + sin * v, cos * v - sin * u)
    return images


def _square(u: Plane, v: Plane) -> NDArray[np.bool_]:
    return np.maximum(abs(u), abs(v)) <= 1


def _ellipse(u: Plane, v: Plane) -> NDArray[np.bool_]:
    return (u / 1.3) ** 2 + (v / 0.75) ** 2 <= 1


def _heart(u: Plane, v: Plane) -> NDArray[np.bool_]:
    """Return where (x^2 + y^2 - 1)^3 <= x^2 y^3."""
    square, y = (1.1 * u) ** 2, 0.15 - 1.1 * v
    circle = square + y**2 - 1
    inside: NDArray[np.bool_] = circle * circle * circle <= square * y * y * y
    return inside
