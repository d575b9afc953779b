"""Turns the steps of sequences into examples of equal length: padded sequences, or windows of longer ones."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.data._preprocessing import Preprocessing
from pipeline.data._raw import Raw, Windows
from pipeline.data._source import Source
from variants import InputError

LIMIT = 100_000  # steps of an example; longer sequences have to be cut
Array = NDArray[Any]


def as_examples(raw: Raw, like: Preprocessing | None = None) -> Raw:
    """Turn values (R, D) of all steps, one sequence after the other, into examples (N, T, D), padded with zeros.

    An example is a sequence, or with `--window` a window of one. A window starts at the first step of its sequence and
    every `--stride` steps, and a last one ends with the sequence, so that the windows contain all steps. A sequence
    that is shorter than a window is one shorter example. New sequences are cut as those of the training.

    Raises:
        InputError: If a sequence is too long for an example, or `--window` and `--stride` do not fit each other.
    """
    lengths, options = raw.lengths, raw.source if like is None else like.source
    assert lengths is not None
    window, stride = _window_and_stride(options)
    if window is None:
        if (longest := int(lengths.max())) > LIMIT:
            name = lengths.argmax() + 1 if raw.rows is None else raw.rows[lengths.argmax()]
            raise InputError(
                f"{raw.source}: sequence {name} has {longest:,} steps; expected 1 to {LIMIT:,}, or --window N, which "
                "cuts sequences into windows of N steps"
            )
        return _taken(raw, np.cumsum(lengths) - lengths, lengths)
    counts = np.maximum((lengths - window) // stride + 1, 1)  # without the last window, where steps are left
    counts += (counts - 1) * stride + window < lengths
    series = np.repeat(np.arange(len(lengths)), counts)
    number = np.arange(len(series)) - np.repeat(np.cumsum(counts) - counts, counts)
    starts = np.minimum(number * stride, np.maximum(lengths - window, 0)[series])
    windows = Windows(series=series, starts=starts, lengths=lengths, names=raw.rows)
    if raw.factors is not None:
        raw.factors.checked(str(raw.source), len(lengths))
    each: dict[str, Any] = {name: None if (v := getattr(raw, name)) is None else v[series]
            for name in ("y", "groups", "times", "rows", "factors")}  # fmt: skip
    splits = None
    if raw.splits is not None:
        splits = [torch.from_numpy(np.flatnonzero(np.isin(series, part.numpy()))) for part in raw.splits]
    notes = _notes(windows, window, stride)
    if like is None and len(series) > len(lengths):
        notes.append(
            "standard errors of all scores but forecasts are computed as if windows were independent; those of one "
            "sequence are not, so the true errors are larger"
        )
    raw = replace(raw, windows=windows, splits=splits, notes=(*raw.notes, *notes), **each)
    return _taken(raw, (np.cumsum(lengths) - lengths)[series] + starts, np.minimum(lengths, window)[series])


def _window_and_stride(options: Source) -> tuple[int | None, int]:
    """Return the steps of a window and those between the starts of two windows; None and 0 without `--window`."""
    for option, value in (("window", options.window), ("stride", options.stride)):
        if value is not None and (not isinstance(value, int) or value < 1):
            raise InputError(f"{options}: --{option} {value}: expected a whole number of steps, 1 or more")
    if options.window is None:
        if options.stride is not None:
            raise InputError(f"{options}: --stride {options.stride} needs --window N, the number of steps of a window")
        return None, 0
    stride = options.stride or options.window
    if stride > options.window:
        raise InputError(
            f"{options}: --stride {stride} is larger than --window {options.window}, so that steps between windows "
            f"would be left out; expected --stride from 1 to {options.window}"
        )
    return options.window, stride


def _notes(windows: Windows, window: int, stride: int) -> list[str]:
    cut, short = int((windows.lengths > window).sum()), int((windows.lengths < window).sum())
    overlap = f", which start every {stride:,} steps" if stride != window else ""
    notes = [
        f"{cut:,} of {len(windows.lengths):,} sequences are longer than {window:,} steps, and are cut into windows"
        f"{overlap}, {len(windows.series):,} examples in all; the last window of each sequence ends with it, so "
        "that all steps are in a window"
    ]
    if short:
        notes.append(f"{short:,} of {len(windows.lengths):,} sequences are shorter than a window, and stay whole")
    return notes


def _taken(raw: Raw, begins: NDArray[np.int64], lengths: NDArray[np.int64]) -> Raw:
    """Return the examples that begin at the steps `begins` (N,) of all, and have `lengths` (N,) steps."""
    step = np.arange(lengths.max())
    is_real = step < lengths[:, None]
    index = np.where(is_real, begins[:, None] + step, 0)

    def padded(values: Array, padding: Any) -> Array:
        taken: Array = values[index]
        taken[~is_real] = padding
        return taken

    elapsed = raw.elapsed
    if elapsed is not None:
        elapsed = np.where(is_real, elapsed[index] - elapsed[begins][:, None], 0.0)
    observed = None if raw.observed is None else padded(raw.observed, True)
    return replace(raw, x=padded(raw.x, 0), lengths=lengths, observed=observed, elapsed=elapsed)
