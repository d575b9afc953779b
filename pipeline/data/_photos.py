"""Photos: crops of the two colour photographs that come with scikit-learn, for tests with natural images.

Training, validation and test come from different vertical strips of each photograph, so that no pixel is shared. The
validation and test images are tiles that do not overlap. Training images are crops at random positions, which may
overlap each other.
"""

import numpy as np
from numpy.typing import NDArray

from pipeline.data._raw import PixelFormat, Raw, consecutive
from pipeline.data._source import Source

NAMES = ("china", "flower")
SEED = 2017
CROPS = 4000  # training images, half of them from each photograph
STRIPS = {"train": (0, 384), "valid": (384, 512), "test": (512, 640)}  # columns of both photographs, which have 640


def load(size: int) -> Raw:
    """Cut images of `size` x `size` pixels out of both photographs. The label is the photograph."""
    from sklearn.datasets import load_sample_image

    generator = np.random.default_rng(SEED)
    parts, labels = [], []
    for split, (left, right) in STRIPS.items():
        images = []
        for name in NAMES:
            strip = load_sample_image(f"{name}.jpg")[:, left:right].transpose(2, 0, 1)
            images.append(_crops(strip, size, generator) if split == "train" else _tiles(strip, size))
        parts.append(np.concatenate(images))
        labels.append(np.repeat(np.arange(len(NAMES)), [len(part) for part in images]))
    name = "photos" if size == 32 else f"photos-{size}"
    return Raw(
        name=name, source=Source(place=name), x=np.concatenate(parts), y=np.concatenate(labels), class_names=NAMES,
        likelihood="logistic8", why="the pixels are 8-bit values", splits=consecutive(map(len, parts)),
        pixels=PixelFormat(dtype="uint8", high=255.0, channel_axis="first"),
        notes=(
            "these are crops of scikit-learn's two photographs; validation and test are tiles of other parts of them "
            "than training",
        ),
    )  # fmt: skip


def _crops(strip: NDArray[np.uint8], size: int, generator: np.random.Generator) -> NDArray[np.uint8]:
    """Return crops (N, C, size, size) of a strip (C, H, W) at different random positions."""
    windows = np.lib.stride_tricks.sliding_window_view(strip, (size, size), (1, 2))
    rows, columns = windows.shape[1:3]
    chosen = generator.choice(rows * columns, CROPS // len(NAMES), replace=False)
    return windows[:, chosen // columns, chosen % columns].transpose(1, 0, 2, 3)


def _tiles(strip: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Return the tiles (N, C, size, size) of a strip (C, H, W), row by row."""
    channels, height, width = strip.shape
    rows, columns = height // size, width // size
    tiles = strip[:, : rows * size, : columns * size].reshape(channels, rows, size, columns, size)
    return tiles.transpose(1, 3, 0, 2, 4).reshape(-1, channels, size, size)
