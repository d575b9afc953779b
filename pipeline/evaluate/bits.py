"""Bits per dimension of 8-bit images, and what costs nothing beside them.

Bits per dimension are -log2 p(x) divided by the number of values of an example: the size of an ideal lossless code. Two
kinds of numbers stand beside those of a model, on the same images:

    independent, mean   those of the baselines of `pipeline.evaluate.baselines` that are defined
    png, webp           the size of all images in one picture as PNG and as lossless WebP. These are a codec's bits: it
                        has no log p(x) of an image, and reads each pixel beside its neighbours, as no variant does
"""

import io
import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from pipeline.data import Data
from pipeline.evaluate import baselines
from pipeline.metrics import Undefined
from variants import Batch, DataSpec, InputError

CODECS = {"png": "PNG", "webp": "lossless WebP"}
LARGEST = 1_000_000  # pixels of the picture of all images; of more images, only the first ones are in it


def is_defined(spec: DataSpec) -> bool:
    """Whether the values of all examples are 8-bit pixels with a probability each."""
    return set(spec.kinds) == {"pixel"}


def per_dimension(log_p: float, spec: DataSpec) -> float:
    """Return -log2 p(x) per value, from log p(x) in nats. Raises `InputError` for values that are no 8-bit pixels."""
    if not is_defined(spec):
        raise InputError(f"bits per dimension are of 8-bit values; the likelihood of {spec.name} is {spec.likelihood}")
    return -log_p / (math.prod(spec.shape) * math.log(2))


def anchors(data: Data, split: Batch, log_p: Mapping[str, Tensor | Undefined]) -> dict[str, float]:
    """Return the bits per dimension of baselines and codecs on a split, by name; empty for all but 8-bit pixels.

    `log_p` is that of the examples of the split, (N,), under each baseline, as `baselines.log_p` returns it.
    """
    if not is_defined(data.spec):
        return {}
    return {name: per_dimension(mean, data.spec) for name, mean in baselines.means(log_p).items()} | codecs(split)


def titled(scores: Mapping[str, float], spec: DataSpec) -> dict[str, float]:
    """Return the anchors (`bits/...`) among `scores` by titles that a reader understands, the largest first."""
    of = {**baselines.titles(spec), **CODECS}
    names = sorted((name for name in scores if name.startswith("bits/")), key=lambda name: -scores[name])
    return {of[name.rpartition("_")[2]]: scores[name] for name in names}


def codecs(split: Batch) -> dict[str, float]:
    """Return the bits per value of 8-bit images as one lossless picture, by the name of the codec.

    The picture is a grid of the images in their order. The result is empty for images that are neither grey nor RGB,
    and for those with missing pixels.
    """
    if split.x.shape[1] not in (1, 3) or split.observed is not None:
        return {}
    x = split.x[: in_picture(split)].cpu().numpy()
    picture, png, webp = mosaic(x), io.BytesIO(), io.BytesIO()
    image = Image.fromarray(picture[..., 0] if picture.shape[-1] == 1 else picture)
    image.save(png, "png", optimize=True)
    image.save(webp, "webp", lossless=True, quality=100, method=4)
    return {name: 8 * len(file.getvalue()) / x.size for name, file in (("png", png), ("webp", webp))}


def in_picture(split: Batch) -> int:
    """Return how many images of a split are in the picture of `codecs`."""
    return min(len(split), max(1, LARGEST // split.x[0, 0].numel()))


def mosaic(x: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return images (N, C, H, W) side by side in one picture (height, width, C), nearly square; its end is black."""
    n, channels, height, width = x.shape
    columns = math.ceil(math.sqrt(n * height / width))
    rows = math.ceil(n / columns)
    grid = np.zeros((rows * columns, *x.shape[1:]), np.uint8)
    grid[:n] = x
    return grid.reshape(rows, columns, channels, height, width).transpose(0, 3, 1, 4, 2).reshape(
        rows * height, columns * width, channels
    )  # fmt: skip
