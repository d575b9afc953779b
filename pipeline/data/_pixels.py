"""Decides how the pixels of images are modelled, and brings images to one size."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.data._catalogue import CATALOGUE, GREY
from pipeline.data._families import EXPECTED, misfits
from pipeline.data._preprocessing import Preprocessing
from pipeline.data._raw import PixelFormat, Raw
from pipeline.data._source import Source
from variants import InputError
from variants.base.contract import KIND_OF, Likelihood

RANGES = ((0.0, 255.0), (0.0, 1.0), (-1.0, 1.0))  # in which programs give 8-bit pixels
DARK = 64  # 8-bit pixels that are all below this level are probably on another scale
EIGHT_BIT = tuple(family for family, kind in KIND_OF.items() if kind == "pixel")
CHUNK = 256  # images that are examined at once, so that large arrays need little memory
Array = NDArray[Any]
Axis = Literal["first", "last", "none"]


def from_pixels(
    x: Array, source: Source, name: str, like: Preprocessing | None = None, *, axis: Axis, dtype: Any = None
) -> Raw:
    """Make a `Raw` of images x (N, C, H, W), in which missing pixels are NaN, and choose the likelihood of a pixel.

    It is Bernoulli for two values, 8-bit for whole numbers from 0 to 255 and for floats in 256 even steps, and Gaussian
    for other numbers. Images of another size than `source.size` are resized.

    Args:
        x: The images.
        source: The source, with its options.
        name: The name of the data set.
        like: The preprocessing of a trained model, if the images are new ones for it.
        axis: Where the channels were before.
        dtype: The type of the pixels in the source, if it is not that of x.

    Raises:
        InputError: If all pixels are missing, `source.likelihood` does not fit them, or they do not fit `like`.
    """
    raw = Raw(name=name, source=source, x=x, y=None, likelihood="gaussian")
    raw.check_values()
    known, dtype, notes = raw.known, np.dtype(dtype or x.dtype), list[str]()
    if known is not None and not known.any() and like is None:
        raise InputError(f"{source}: all pixels are missing; expected images with known pixels")
    size = source.size if like is None else like.source.size
    if size not in (None, x.shape[2:]):
        assert size is not None
        notes.append(
            f"the images are resized from {x.shape[2]}x{x.shape[3]} to cover {size[0]}x{size[1]}, and what extends "
            "beyond it is cut off"
        )
        x = resized(x, size, source)
    if like is not None:
        x = np.ascontiguousarray(_new_pixels(x, source, like, dtype))
        return replace(
            raw, x=x, observed=known, likelihood=like.spec.likelihood, pixels=like.pixels, notes=tuple(notes)
        )
    given, warnings = source.likelihood, list[str]()
    likelihood: Likelihood = given or "gaussian"
    low, high, why = 0.0, 1.0, "the pixels are neither binary nor 8-bit values"
    if given in (None, "bernoulli") and (two := _two_values(x)):
        low, high = two
        x, likelihood, why = x == high, "bernoulli", f"the pixels have two values, {low:g} and {high:g}"
    elif given in (None, "bernoulli", *EIGHT_BIT) and (eight_bit := _eight_bit(x)):
        low, high, x = eight_bit
        likelihood = given or "logistic8"
        why = GREY if likelihood == "bernoulli" else "the pixels are 8-bit values"
        if high != 255:
            notes.append(f"the pixels are in 256 even steps from {low:g} to {high:g}, and are read as 8-bit values")
        elif x.max() < DARK:
            warnings.append(
                f"the brightest pixel is {x.max()} of 255; if this is meant to be white, scale the pixels to 0 to 255"
            )
    elif KIND_OF.get(likelihood) == "real":
        warnings += _discrete_warning(x, dtype)
    elif KIND_OF.get(likelihood) in EXPECTED and likelihood != "zero-inflated":
        warnings += _discrete_warning(x, dtype) if KIND_OF[likelihood] == "fraction" else []
        x, why = _of_kind(x, source, likelihood), "--likelihood was given"
    else:
        raise _likelihood_error(x, source)
    return replace(
        raw, x=np.ascontiguousarray(x), observed=known, likelihood=likelihood, why=why,
        pixels=PixelFormat(dtype=str(dtype), low=low, high=high, channel_axis=axis), notes=tuple(notes),
        warnings=tuple(warnings),
    )  # fmt: skip


def _likelihood_error(x: Array, source: Source) -> InputError:
    """Return the error that says why `source.likelihood` does not fit the pixels."""
    expected: dict[str, str] = {
        "bernoulli": "two values, or 8-bit values", **dict.fromkeys(EIGHT_BIT, "8-bit values"),
        "categorical": "sequences",
    }  # fmt: skip
    kinds = expected.get(str(source.likelihood), "tables and sequences")
    advice = "gaussian, or pixels that are scaled and rounded to whole numbers from 0 to 255"
    if source.likelihood == "zero-inflated":
        advice = "negative-binomial or poisson"
    return InputError(
        f"{source}: --likelihood {source.likelihood} is for {kinds}, and the pixels are {_range(x)}; expected "
        f"--likelihood {advice}"
    )


def _of_kind(x: Array, source: Source, likelihood: Likelihood) -> Array:
    """Return pixels (N, C, H, W) for a likelihood of positive values, of counts, or of numbers from 0 to 1.

    Raises:
        InputError: If a pixel is not of this kind.
    """
    kind = KIND_OF[likelihood]
    is_bad = misfits(x, kind)
    if is_bad.any():
        bad = is_bad.reshape(len(x), -1).any(1)
        first = int(bad.argmax())
        raise InputError(
            f"{source}: the likelihood {likelihood} is for {EXPECTED[kind]}, and {bad.sum()} of {len(x)} images have "
            f"other pixels, the first is image {first + 1} with {x[first][is_bad[first]][0]:g}; expected such pixels "
            "only, or a model with --likelihood gaussian"
        )
    return x


def _new_pixels(x: Array, source: Source, like: Preprocessing, dtype: np.dtype[Any]) -> Array:
    """Return new images (N, C, H, W) for a trained model as its likelihood needs them; `dtype` is their type."""
    assert like.pixels is not None
    expected = "x".join(map(str, like.spec.shape))
    if x.shape[1:] != like.spec.shape:
        shape = "x".join(map(str, x.shape[1:]))
        raise InputError(
            f"{source}: the images are {shape} (channels x height x width); the model was trained on {expected}"
        )
    low, high, trained = like.pixels.low, like.pixels.high, np.dtype(like.pixels.dtype)
    kind = KIND_OF[like.spec.likelihood]
    if like.spec.has_density:
        is_integer = trained.kind in "iu"
        if (
            dtype.kind == "b"
            or (dtype.kind == "u" and trained.kind != "i" and dtype != trained)
            or (dtype.kind == "f" and is_integer and not all((part % 1 == 0).all() for part in _chunks(x)))
        ):
            raise InputError(
                f"{source}: the pixels are {_range(x)}; the model was trained on {trained} from "
                f"{like.low.item():g} to {like.high.item():g}"
            )
    if kind in EXPECTED:
        return _of_kind(x, source, like.spec.likelihood)
    if kind == "real":
        return x
    # built-in data sets and --likelihood bernoulli have grey values, which are binarised later
    grey = trained.kind != "b" and (like.source.place in CATALOGUE or like.source.likelihood == "bernoulli")
    converted: Array | None
    if kind == "pixel" or grey:
        converted, steps = _levels(x, low, high), "in 256 even steps"
        if high == 255 and np.nanmax(x) == 1:
            converted = None
    else:
        is_binary = all(((part == low) | (part == high)).all() for part in _chunks(x))
        converted, steps = x == high if is_binary else None, "with no value between them"
    if converted is None:
        raise InputError(
            f"{source}: the pixels are {_range(x)}; the model was trained on pixels from {low:g} to {high:g} {steps}"
        )
    return converted


def resized(images: Sequence[Array] | Array, size: tuple[int, int], source: Source) -> Array:
    """Resize images (C, H, W) so that they cover `size`, and cut out their centre. Returns (N, C, *size).

    Proportions are kept. Images that all have the same two values keep them.

    Raises:
        InputError: If pixels are missing.
    """
    has_missing = [bool((image != image).any()) for image in images]
    if any(has_missing):
        raise InputError(
            f"{source}: {sum(has_missing)} of {len(images)} images have missing pixels, the first is image "
            f"{has_missing.index(True) + 1}, and such images cannot be resized; fill these pixels in, or leave out "
            "--size and give images of one size"
        )
    low, high = min(i.min() for i in images), max(i.max() for i in images)
    is_binary = all(((i == low) | (i == high)).all() for i in images)
    result = np.empty((len(images), len(images[0]), *size), images[0].dtype)
    for image, target in zip(images, result, strict=True):
        height, width = image.shape[1:]
        scale = max(size[0] / height, size[1] / width)
        whole = (max(size[0], round(height * scale)), max(size[1], round(width * scale)))
        top, left = (whole[0] - size[0]) // 2, (whole[1] - size[1]) // 2
        values = torch.nn.functional.interpolate(
            torch.from_numpy(image.astype(np.float64))[None], whole, mode="bilinear", antialias=True
        )[0, :, top : top + size[0], left : left + size[1]].numpy()
        if is_binary:
            values = np.where(values >= (float(low) + float(high)) / 2, high, low)
        elif result.dtype.kind in "iu":
            values = values.round()
        target[:] = values
    return result


def _chunks(x: Array) -> Iterator[Array]:
    """Yield the known pixels of the images, `CHUNK` images at a time."""
    for start in range(0, len(x), CHUNK):
        part = x[start : start + CHUNK]
        yield part[~np.isnan(part)] if x.dtype.kind == "f" else part


def _two_values(x: Array) -> tuple[float, float] | None:
    """Return the two values of the pixels, or None if there are more."""
    low, high = np.nanmin(x), np.nanmax(x)
    return (float(low), float(high)) if all(((p == low) | (p == high)).all() for p in _chunks(x)) else None


def _eight_bit(x: Array) -> tuple[float, float, Array] | None:
    """Return the range of 8-bit pixels, and the pixels as uint8; None if they are no 8-bit pixels."""
    for low, high in RANGES[1:] if np.nanmax(x) <= 1 else RANGES:
        levels = _levels(x, low, high)
        if levels is not None:
            return low, high, levels
    return None


def are_levels(x: Array, low: float, high: float) -> bool:
    """Whether all values are among 256 even steps from `low` to `high`."""
    return all(_levels(part, low, high) is not None for part in _chunks(x))


def _levels(x: Array, low: float, high: float) -> Array | None:
    """Return each pixel as uint8: its position among 256 even steps from `low` to `high`; 0 for a missing pixel.

    Returns None if a known pixel lies on none of these steps.
    """
    if x.dtype == np.uint8 and (low, high) == (0, 255):
        return x
    levels = np.empty(x.shape, np.uint8)
    tolerance = 0.1 if x.dtype == np.float16 else 1e-3
    for start in range(0, len(x), CHUNK):
        part = x[start : start + CHUNK].astype(np.float64)
        exact = (np.where(np.isnan(part), low, part) - low) * (255 / (high - low))
        nearest = exact.round()
        if nearest.min(initial=0) < 0 or nearest.max(initial=0) > 255 or (np.abs(exact - nearest) > tolerance).any():
            return None
        levels[start : start + CHUNK] = nearest
    return levels


def _discrete_warning(x: Array, dtype: np.dtype[Any]) -> list[str]:
    """Return a warning if the pixels are discrete, because they are modelled by a continuous density."""
    some = x[: max(1, 1_000_000 // x[0].size)]
    some = some[some == some]  # without missing ones
    count = len(np.unique(some))
    if dtype.kind == "f" and 10 * count > some.size:
        return []
    values = f"have only {count:,} different values" if dtype.kind == "f" else "are whole numbers"
    return [
        f"the pixels {values}, and are modelled by a continuous density, which can become arbitrarily high at such "
        "values, so a high score may mean little"
    ]


def _range(x: Array) -> str:
    return f"{x.dtype} from {np.nanmin(x):g} to {np.nanmax(x):g}" if x.dtype.kind != "b" else "bool"
