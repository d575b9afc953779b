"""Reads arrays: rows of values, images, and padded sequences."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.data import _sequences, _tables, _times, _windows
from pipeline.data._pixels import Axis, are_levels, from_pixels
from pipeline.data._preprocessing import Preprocessing
from pipeline.data._raw import Factors, Raw, consecutive
from pipeline.data._source import OF_SEQUENCES, OF_TABLES, Source, refuse_options
from variants import InputError

ROLES = ("x", "y", "lengths", "times", "factors", "factor_names", "unordered")
PARTS = {"train": ("train",), "valid": ("valid", "val", "validation"), "test": ("test",)}
SPLIT_ROLES = tuple(f"{role}_{part}" for part in PARTS for role in "xy")
EXPECTED = "expected an array x (N, ...), and optionally y (N,); or x_train, y_train, x_test and y_test"
LATENTS = ("latents_values", "latents/values", "latents_classes", "latents/classes")
DSPRITES = ("shape", "scale", "orientation", "posX", "posY")  # after the color, which is always white
SHAPES3D = ("floor_hue", "wall_hue", "object_hue", "scale", "shape", "orientation")
Array = NDArray[Any]


def roles(names: Iterable[str], source: Source) -> dict[str, str]:
    """Return which array of a file has which role, as `from_arrays` takes them.

    The names may be in upper or lower case. The names in Keras' mnist.npz, dSprites and 3D Shapes are known, and a
    single array is x, whatever its name. `--label` and `--group` may name arrays.

    Raises:
        InputError: If there is no array x.
    """
    names = list(names)
    folded = {name.lower(): name for name in names} | {name: name for name in names if name == name.lower()}
    if "x" in folded:
        result = {role: folded[role] for role in ROLES if role in folded}
    elif "x_train" in folded:
        result = {
            f"{role}_{part}": folded[f"{role}_{word}"]
            for part, words in PARTS.items() for role in "xy" for word in words if f"{role}_{word}" in folded
        }  # fmt: skip
    elif "imgs" in folded and (latents := [name for name in LATENTS if name in folded]):
        result = {"x": folded["imgs"], "dsprites": folded[latents[0]]}
    elif {"images", "labels"} <= set(folded):
        result = {"x": folded["images"], "labels": folded["labels"]}
    elif len(names) == 1:
        result = {"x": names[0]}
    else:
        raise InputError(f"{source} holds {', '.join(names[:20]) or 'nothing'}; {EXPECTED}")
    for role, name in (("y", source.label), ("group", source.group)):
        if name in names:
            result[role] = str(name)
    return result


def from_arrays(arrays: Mapping[str, Any], source: Source, name: str, like: Preprocessing | None = None) -> Raw:
    """Make a `Raw` of arrays by their roles.

    They are x (N, D) for a table, (N, H, W), (N, C, H, W) or (N, H, W, C) for images, and (N, T) or (N, T, D) for
    sequences, with lengths (N,), times (N, T) or (T,), or an option for sequences; optionally y (N,), group (N,),
    factors (N, F), factor_names (F,) and unordered. In place of x and y, there may be x_train, y_train, x_valid,
    y_valid, x_test and y_test, which are then the splits. Values that are NaN, or that a masked array hides, are
    missing.

    Raises:
        InputError: If the values are no numbers, the shape is ambiguous, or the arrays do not fit each other or `like`.
    """
    arrays, splits = _joined(arrays, source)
    original = source
    if "y" in arrays:  # the label is an array and no column
        source = replace(source, label=None)
    if "group" in arrays:
        source = replace(source, group=None)
    x, times = _array_or_series(arrays["x"], source, like), arrays.get("times")
    if isinstance(x, list):
        steps = None if times is None else _times_in_list(times, x, source, like)
        raw = _sequences.read_steps(x, _for_series(source, like), name, like, times=steps)
        note = "each array of the list is read as a sequence; --kind x=pixels reads them as images"
        raw = _complete(replace(raw.with_notes([note]), source=original, splits=splits), arrays, like)
        return _windows.as_examples(raw, like)
    if x.dtype.kind not in "biuf":
        raise InputError(f"{source}: x has type {x.dtype}; expected numbers")
    are_series = _are_series(x, arrays, source, like)
    if x.size == 0 or x.ndim not in (2, 3, 4):
        raise InputError(
            f"{source}: x has shape {x.shape}; expected examples with values: (N, D), (N, H, W), (N, C, H, W) or "
            "(N, H, W, C)"
        )
    x = x.astype(x.dtype.newbyteorder("="), copy=False)
    dtype = arrays["x"].dtype if np.ma.isMaskedArray(arrays["x"]) else x.dtype
    if like is None and not source.header:
        raise InputError(f"{source}: --no-header applies to text files only")
    if are_series:
        lengths = np.asarray(arrays.get("lengths", np.full(len(x), x.shape[1])))
        series = _sequences.unpadded(x, lengths, source)
        steps = _times_of_steps(times, x.shape[:2], lengths, source, like) if times is not None else None
        raw = _sequences.read_steps(series, _for_series(source, like), name, like, times=steps)
        raw = replace(raw, warnings=(*raw.warnings, *_padding_warnings(x, "lengths" in arrays)))
    elif x.ndim == 2 and (like.pixels is None if like else not source.size and source.kind("x") != "pixels"):
        refuse_options(source, ("alpha",), "rows of values", like)
        raw = _table(x, source, name, like)
    else:
        refuse_options(source, (*OF_TABLES, *OF_SEQUENCES), "images", like)
        raw = _images(x, dtype, source, name, like)
    raw = _complete(replace(raw, source=original, splits=splits), arrays, like)
    if raw.lengths is not None:
        return _windows.as_examples(raw, like)
    return raw if times is None else raw.with_notes([f"the array times {np.shape(times)} is not used"])


def _are_series(x: Array, arrays: Mapping[str, Any], source: Source, like: Preprocessing | None) -> bool:
    """Whether an array x holds sequences, (N, T) or (N, T, D).

    Raises:
        InputError: If an option for sequences was given, and x is no array (N, T, D).
    """
    if (like is not None and like.spec.steps) or source.kind("x") == "sequence" or "lengths" in arrays:
        return True
    fits = x.ndim in (2, 3) and np.shape(arrays.get("times", ())) in (x.shape[:2], x.shape[1:2])  # the array times
    if fits and source.kind("x") != "pixels":
        return True
    options = dict(zip(source.options, source.option_names, strict=True))
    given = [options[field] for field in OF_SEQUENCES if field in options]
    if like is not None or not given:
        return False
    if x.ndim != 3:
        expected = "an array (N, T, D) of N sequences of T steps with D channels"
        if x.ndim < 3:
            expected += f", such as {(1, *x.shape, 1)[:3]} if x is one sequence"
        if x.ndim == 2:
            expected = f"{x.shape[0]:,} sequences of {x.shape[1]:,} steps (--kind x=sequence), or {expected}"
        raise InputError(f"{source}: {given[0]} is for sequences, and x has shape {x.shape}; expected {expected}")
    return True


def _for_series(source: Source, like: Preprocessing | None) -> Source:
    """Return the source. Raises `InputError` if an option was given that does not apply to sequences in arrays."""
    refuse_options(source, (*OF_TABLES, "size", "alpha"), "sequences in arrays", like)
    return source


def _times_of_steps(
    times: Any, shape: tuple[int, ...], lengths: Array, source: Source, like: Preprocessing | None
) -> _times.Times:
    """Read the times of all steps, one sequence after the other, from an array of the shape (N, T), or (T,)."""
    import pandas

    times = np.asarray(times)
    if times.shape not in (shape, shape[1:]):
        raise InputError(
            f"{source}: times have the shape {times.shape}; expected {shape}, the time of each step of each sequence, "
            f"or {shape[1:]} if the times of all sequences are the same"
        )
    times = np.broadcast_to(times, shape)
    series = pandas.Series(times[np.arange(times.shape[1]) < lengths[:, None]], name="time")
    return _times.read_times(series, source, (source if like is None else like.source).dates)


def _times_in_list(times: Any, x: list[Array], source: Source, like: Preprocessing | None) -> _times.Times:
    """Read the times of all steps, one sequence after the other, from a list with an array (T,) for each sequence."""
    import pandas

    parts = [np.asarray(part) for part in times]
    if [part.shape for part in parts] != [(len(s),) for s in x]:
        raise InputError(
            f"{source}: the times do not fit the sequences; expected a list with an array (T,) for each sequence, the "
            "time of each of its steps"
        )
    series = pandas.Series(np.concatenate(parts), name="time")
    return _times.read_times(series, source, (source if like is None else like.source).dates)


def _padding_warnings(x: Array, has_lengths: bool) -> list[str]:
    """Return a warning about sequences x (N, T, ...) that may be padded, if their lengths are not known."""
    ends = int(np.isnan(x[:, -1]).reshape(len(x), -1).all(1).sum()) if x.dtype.kind == "f" and not has_lengths else 0
    if not ends:
        return []
    return [
        f"{ends} of {len(x)} sequences end with steps that have no values, which are read as missing; if this is "
        "padding, give the lengths of the sequences as an array lengths (N,)"
    ]


def _array_or_series(content: Any, source: Source, like: Preprocessing | None) -> Array | list[Array]:
    """Return x as an array, or as a list of sequences if it is a list of arrays that are no images."""
    try:
        series = _sequences.series_in(content)
        if series is None:
            return _sequences.unmasked(content)
        return np.stack(series) if _are_images(series, source, like) else series
    except (TypeError, ValueError, RuntimeError) as error:  # numpy and torch raise different types
        raise InputError(
            f"{source}: x is no array ({error}); expected rows of one length, or arrays (T, D) as sequences"
        ) from error


def _are_images(series: Sequence[Array], source: Source, like: Preprocessing | None) -> bool:
    """Whether the arrays of a list are images: (H, W, C), or (H, W) for a model of images or with `--kind x=pixels`."""
    if like is not None:
        return not like.spec.steps
    return source.kind("x") == "pixels" or all(np.ndim(s) == 3 for s in series)


def _table(x: Array, source: Source, name: str, like: Preprocessing | None) -> Raw:
    """Make a `Raw` of rows x (N, D), whose columns are called x0, x1, and so on."""
    import pandas

    if like is not None and like.width not in (0, x.shape[1]):
        raise InputError(
            f"{source}: X has {x.shape[1]} features, but Model is expecting {like.width} features as input"
        )
    raw = _tables.from_frame(pandas.DataFrame(x, columns=[f"x{i}" for i in range(x.shape[1])]), source, name, like)
    side = math.isqrt(x.shape[1])
    if like is None and raw.likelihood == "gaussian" and side**2 == x.shape[1] > 4 and are_levels(x, 0, 1):
        warning = (
            "all values are in 256 even steps from 0 to 1, like the pixels of 8-bit images; if the rows are images, "
            f"--size {side}x{side} reads them as such"
        )
        raw = replace(raw, warnings=(*raw.warnings, warning))
    return replace(raw, width=x.shape[1])


def _images(x: Array, dtype: Any, source: Source, name: str, like: Preprocessing | None) -> Raw:
    """Make a `Raw` of images x (N, D), (N, H, W), (N, C, H, W) or (N, H, W, C); `dtype` is their type in the source."""
    kinds = {column: kind for column, kind in source.kinds if (column, kind) != ("x", "pixels")}
    if kinds and like is None:
        raise InputError(
            f"{source}: --kind {' '.join(f'{c}={k}' for c, k in kinds.items())} does not apply to images; expected "
            "x=pixels or x=sequence"
        )
    if like is not None and like.pixels is None:
        expected = " to ".join(c.name for c in (like.columns[0], like.columns[-1]))
        raise InputError(
            f"{source}: x has shape {x.shape}; expected rows (N, D) with the columns of the training data, {expected}"
        )
    axis: Axis = "none"
    if x.ndim == 2:
        x = _unflattened(x, source, like)
    elif x.ndim == 3:
        if like is None and source.kind("x") is None and source.size is None and _may_be_sequences(x, dtype):
            n, height, width = x.shape
            raise InputError(
                f"{source}: x has shape {x.shape}; this may be {n} images of {height}x{width} pixels, or {n} sequences "
                f"of {height} steps with {width} values each: expected --kind x=pixels or --kind x=sequence"
            )
        x = x[:, None]
    else:
        axis = _channel_axis(x.shape, source) if like is None else _same_axis(x.shape, source, like)
        x = np.moveaxis(x, -1, 1) if axis == "last" else x
    x, notes = _without_alpha(x, source if like is None else like.source, like)
    raw = from_pixels(x, source, name, like, axis=axis, dtype=dtype)
    return raw.with_notes(notes)


def _unflattened(x: Array, source: Source, like: Preprocessing | None) -> Array:
    """Turn rows (N, H * W) into images (N, 1, H, W)."""
    side = math.isqrt(x.shape[1])
    height, width = source.size or (like.spec.shape[1:] if like else (side, side))
    if height * width != x.shape[1]:
        expected = "--size HxW with this number of pixels, or an array (N, H, W), (N, C, H, W) or (N, H, W, C)"
        if like is not None:
            expected = f"images like those of training, {'x'.join(map(str, like.spec.shape))}"
        raise InputError(
            f"{source}: x has shape {x.shape}, and {x.shape[1]} values are no image of {height}x{width} pixels; "
            f"expected {expected}"
        )
    return x.reshape(-1, 1, height, width)


def _may_be_sequences(x: Array, dtype: Any) -> bool:
    """Whether x (N, A, B) may be sequences: not if it has 8-bit or binary values, or squares of values from 0 to 1."""
    return dtype not in (np.uint8, np.bool_) and (x.shape[1] != x.shape[2] or bool(((x < 0) | (x > 1)).any()))


def _channel_axis(shape: tuple[int, ...], source: Source) -> Axis:
    """Return which axis of (N, A, B, C) has the channels.

    There are 1, 3 or 4 channels, or fewer than rows and columns. The size of the images decides if both ends fit.
    """
    ends: dict[Axis, int] = {"first": shape[1], "last": shape[3]}
    sizes: dict[Axis, tuple[int, ...]] = {"first": shape[2:], "last": shape[1:3]}
    possible = [axis for axis, n in ends.items() if n < min(sizes[axis]) or (n == min(sizes[axis]) and n in (1, 3, 4))]
    if len(possible) != 1:
        possible = [axis for axis, size in sizes.items() if size == source.size]
    if len(possible) != 1:
        a, b, c = shape[1:]
        settled = f"--size {b}x{c} or --size {a}x{b}" if sizes["first"] != sizes["last"] else "fewer channels than rows"
        raise InputError(
            f"{source}: x has shape {shape}; this may be images with {a} channels of {b}x{c} pixels, or with {c} "
            f"channels of {a}x{b} pixels: expected {settled}"
        )
    return possible[0]


def _same_axis(shape: tuple[int, ...], source: Source, like: Preprocessing) -> Axis:
    """Return which axis of (N, A, B, C) has the channels, which is the one that training had."""
    assert like.pixels is not None
    axis, channels = like.pixels.channel_axis, {like.spec.shape[0]}
    if axis == "none":  # there is one channel
        axis = "first" if shape[1] == 1 else "last"
    if like.source.alpha in ("white", "black"):
        channels.add(like.spec.shape[0] + 1)
    ends = {"first": shape[1], "last": shape[3]}
    if ends[axis] not in channels:
        other: Axis = "last" if axis == "first" else "first"
        order = {"first": "(N, C, H, W)", "last": "(N, H, W, C)"}
        hint = f"; the axes seem to be in the order {order[other]}" if ends[other] in channels else ""
        raise InputError(
            f"{source}: x has shape {shape}; the model was trained on images {order[axis]} with C = "
            f"{like.spec.shape[0]}{hint}"
        )
    return axis


def _without_alpha(x: Array, source: Source, like: Preprocessing | None) -> tuple[Array, tuple[str, ...]]:
    """Put images (N, C, H, W) on white or black if `--alpha` asks for it, and return them with notes."""
    channels = x.shape[1]
    if source.alpha in (None, "keep"):
        note = (
            "there are 4 channels, and all are modelled; if the fourth is alpha, --alpha white or --alpha black puts "
            "the images on this colour"
        )
        return x, (note,) if channels == 4 and source.alpha is None and like is None else ()
    if like is not None and channels == like.spec.shape[0]:
        return x, ()
    if channels not in (2, 4):
        raise InputError(
            f"{source}: --alpha {source.alpha} needs 2 or 4 channels, of which the last is alpha, and the images have "
            f"{channels}; leave this option out"
        )
    brightest = np.nanmax(x)
    opaque = 1.0 if x.dtype.kind == "f" and brightest <= 1 else 255 if brightest <= 255 else 65535
    behind = opaque if source.alpha == "white" else 0
    colour, alpha = x[:, :-1], x[:, -1:] / opaque
    mixed = colour * alpha + behind * (1 - alpha)
    return (mixed.round() if x.dtype.kind in "iu" else mixed).astype(x.dtype), ()


def _joined(arrays: Mapping[str, Any], source: Source) -> tuple[dict[str, Any], list[torch.Tensor] | None]:
    """Join arrays for training, validation and test, and return the splits; None if there is one x only."""
    if "x" in arrays:
        return dict(arrays), None
    parts = {part: np.ma.array(arrays[f"x_{part}"], ndmin=1) for part in PARTS if f"x_{part}" in arrays}
    if len({part.shape[1:] for part in parts.values()}) > 1:
        shapes = ", ".join(f"x_{part} {x.shape}" for part, x in parts.items())
        raise InputError(f"{source}: {shapes}; expected examples of one shape")
    labels = {part: np.ma.array(arrays[f"y_{part}"], ndmin=1) for part in PARTS if f"y_{part}" in arrays}
    if labels and [(part, len(y)) for part, y in labels.items()] != [(part, len(x)) for part, x in parts.items()]:
        shapes = ", ".join(f"{role} {np.shape(arrays[role])}" for role in SPLIT_ROLES if role in arrays)
        raise InputError(f"{source}: {shapes}; expected a label for each example")
    splits = consecutive(len(parts.get(part, ())) for part in PARTS)
    joined = {"x": parts, "y": labels} if labels else {"x": parts}
    return {role: np.ma.concatenate([*array.values()]) for role, array in joined.items()}, splits  # type: ignore[no-untyped-call]


def _complete(raw: Raw, arrays: Mapping[str, Any], like: Preprocessing | None) -> Raw:
    """Add labels, groups and factors to what was read."""
    import pandas

    n = len(raw.x if raw.lengths is None else raw.lengths)
    y: Any = arrays.get("y")
    factors, factor_names = arrays.get("factors"), arrays.get("factor_names")
    unordered = tuple(map(str, np.atleast_1d(arrays.get("unordered", ()))))
    if "dsprites" in arrays:
        factors, factor_names, unordered = np.asarray(arrays["dsprites"])[..., -5:], DSPRITES, ("shape",)
    elif "labels" in arrays:
        values = np.asarray(arrays["labels"])
        if values.ndim == 2 and values.shape[1] == len(SHAPES3D) and not np.isin(values, (0, 1)).all():
            factors, factor_names, unordered = values, SHAPES3D, ("shape",)
        else:
            y = values
    if np.ma.is_masked(y):
        hidden = np.ma.getmaskarray(y)
        y = np.ma.getdata(y).astype(object)
        y[hidden] = None
    raw = raw.with_labels(y, like.class_names if like else None)
    if "group" in arrays and like is None:
        groups = np.asarray(arrays["group"])
        if groups.shape != (n,) or pandas.isna(groups).any():
            raise InputError(
                f"{raw.source}: the groups have shape {groups.shape}; expected a group for each of {n} examples"
            )
        raw = replace(raw, groups=pandas.factorize(groups)[0].astype(np.int64))
    if factors is not None:
        factors = np.asarray(factors)
        columns = factors.shape[1] if factors.ndim == 2 else 0
        if factor_names is None:
            factor_names = [f"factor {i}" for i in range(columns)]
        raw = replace(raw, factors=Factors(tuple(map(str, np.atleast_1d(factor_names))), factors, unordered))
    return raw
