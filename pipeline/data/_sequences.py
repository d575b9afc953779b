"""Reads sequences: files of the UCR/UEA archive, polyphonic music, and a user's own arrays and tables."""

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.data._preprocessing import Preprocessing
from pipeline.data._raw import Column, Raw, encode_labels
from pipeline.data._source import Source, file_name
from pipeline.data._splits import stratified
from variants import InputError
from variants.base.contract import Likelihood

LIMIT = 100_000  # steps; longer sequences have to be cut first


def from_series(
    series: Sequence[NDArray[Any]],
    y: Any,
    source: Source,
    name: str,
    like: Preprocessing | None = None,
    *,
    splits: list[torch.Tensor] | None = None,
    channels: Sequence[str] = (),
) -> Raw:
    """Make a `Raw` of sequences (T_i, D), padded with zeros to the longest, and choose the likelihood of a step.

    It is Bernoulli for values of only 0 and 1, categorical for whole numbers in sequences of shape (T_i,), and Gaussian
    for other numbers. Raises `InputError` for other types and unequal shapes.
    """
    if not series:
        raise InputError(f"{source}: there is no sequence in it")
    for number, s in enumerate(series):
        if s.dtype.kind not in "biuf":
            raise InputError(f"{source}: sequence {number} has values of type {s.dtype}; expected numbers")
        if s.ndim not in (1, 2) or not 0 < len(s) <= LIMIT:
            raise InputError(
                f"{source}: sequence {number} has shape {s.shape}; expected (T,) or (T, D), 1 <= T <= {LIMIT}"
            )
        if s.ndim != series[0].ndim or s.shape[1:] != series[0].shape[1:]:
            raise InputError(
                f"{source}: sequence {number} has steps of shape {s.shape[1:]}; expected {series[0].shape[1:]}"
            )
        if s.dtype.kind == "f" and not np.isfinite(s).all():
            raise InputError(f"{source}: sequence {number} holds NaN or infinity inside; drop it or fill them in")
    values = np.concatenate(series)
    likelihood: Likelihood = "gaussian"
    dtype: Any = np.float64
    if np.isin(values, (0, 1)).all():
        likelihood, dtype = "bernoulli", np.bool_
    elif values.ndim == 1 and values.dtype.kind in "iu":
        if values.min() < 0 or values.max() >= 4096:
            raise InputError(f"{source}: symbols from {values.min()} to {values.max()}; expected 0 to 4095")
        symbols = np.eye(int(values.max()) + 1, dtype=np.bool_)
        likelihood, dtype, series = "categorical", np.bool_, [symbols[s] for s in series]
    series = [s[:, None] if s.ndim == 1 else s for s in series]
    lengths = np.array([len(s) for s in series], dtype=np.int64)
    x = np.zeros((len(series), int(lengths.max()), series[0].shape[1]), dtype=dtype)
    for row, s in zip(x, series, strict=True):
        row[: len(s)] = s
    codes, classes, notes = (None, (), ()) if y is None else encode_labels(source, y, len(x))
    channels = channels or [f"x{i}" for i in range(x.shape[2])]
    return Raw(
        name=name, source=source, x=x, y=codes, class_names=classes, likelihood=likelihood, splits=splits,
        lengths=lengths, columns=tuple(Column(str(c), "real") for c in channels), notes=notes,
    )  # fmt: skip


def ucr(path: Path, source: Source, name: str, like: Preprocessing | None = None) -> Raw:
    """Read NAME_TRAIN.ts or .tsv of the UCR/UEA archive, with NAME_TEST beside it as the test split (Dau et al. 2019).

    A fifth of each class of the training file is the validation split. Without NAME_TEST, one file is split in three.
    """
    read = _ts if path.suffix == ".ts" else _tsv
    if path.stem.endswith("_TEST"):
        raise InputError(f"{path}: name the file that ends in _TRAIN; _TEST beside it is the test split")
    series, names = read(path)
    stem = path.stem.removesuffix("_TRAIN")
    name = file_name(path.with_name(f"{stem}{path.suffix}"), [])
    other = path.with_name(f"{stem}_TEST{path.suffix}")
    if not (path.stem.endswith("_TRAIN") and other.exists()):
        return from_series(series, names, source, name, like)
    first = len(series)
    more, more_names = read(other)
    series = series + more
    y = None if names is None or more_names is None else np.concatenate([names, more_names])
    codes = None if y is None else np.unique(y, return_inverse=True)[1][:first]
    parts = stratified(codes, first, 5, test=False)
    splits = [*parts, torch.arange(first, len(series))]
    return from_series(series, y, source, name, like, splits=splits)


def _tsv(path: Path) -> tuple[list[NDArray[Any]], NDArray[Any] | None]:
    """Read a label and the values of one channel from each line. NaN at the end is padding."""
    import pandas

    try:
        table = pandas.read_csv(path, sep="\t", header=None)
        values = table.iloc[:, 1:].to_numpy(np.float64)
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as labels and values between tabs ({error})") from error
    return [_trimmed(row[:, None]) for row in values], table[0].to_numpy()


def _ts(path: Path) -> tuple[list[NDArray[Any]], NDArray[Any] | None]:
    """Read lines after a header (@...): values between commas, channels between colons, and then the label."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error})") from error
    facts = dict(_facts(lines))
    if facts.get("timestamps", "false").lower() == "true":
        raise InputError(f"{path}: it holds time stamps; expected equal intervals (@timeStamps false)")
    labelled = facts.get("classlabel", "false").lower().startswith("true")
    begin = next((i for i, line in enumerate(lines, 1) if line.strip().lower() == "@data"), len(lines))
    series, names = [], []
    for number, line in enumerate(lines[begin:], begin + 1):
        if not line.strip():
            continue
        channels = line.strip().split(":")
        if labelled:
            names.append(channels.pop())
        try:
            columns = [np.array([float(v) if v.strip() != "?" else np.nan for v in c.split(",")]) for c in channels]
            series.append(_trimmed(np.stack(columns, axis=1)))
        except ValueError as error:
            raise InputError(f"{path}, line {number}: {error}; expected numbers, as in UCR's .ts") from error
    return series, np.array(names) if labelled else None


def _facts(lines: list[str]) -> Iterator[tuple[str, str]]:
    for line in lines:
        match = re.match(r"@(\w+)\s+(.*)", line.strip())
        if match:
            yield match[1].lower(), match[2]


def _trimmed(values: NDArray[Any]) -> NDArray[Any]:
    """Remove the last steps in which every channel is missing."""
    real = np.flatnonzero(np.isfinite(values).any(axis=1))
    return values[: real[-1] + 1 if len(real) else 0]


def music(path: Path, source: Source, name: str, like: Preprocessing | None = None) -> Raw:
    """Read piano rolls (T, 88) of zeros and ones from the cells traindata, validdata and testdata of a .mat file.

    Boulanger-Lewandowski, Bengio & Vincent 2012 published music in this form.
    """
    from scipy.io import loadmat

    parts = ("traindata", "validdata", "testdata")
    try:
        cells = loadmat(path)
    except Exception as error:  # scipy raises many types
        raise InputError(f"{path} cannot be read as a .mat file ({error})") from error
    if not set(parts) <= set(cells):
        names = ", ".join(k for k in cells if not k.startswith("__"))
        raise InputError(f"{path} holds {names}; expected cells {', '.join(parts)} of (T, 88) rolls")
    groups = [list(cells[p].ravel()) for p in parts]
    ends = np.cumsum([0, *map(len, groups)])
    splits = [torch.arange(a, b) for a, b in pairwise(ends)]
    series = [s for group in groups for s in group]
    return from_series(series, None, source, name, like, splits=splits)


def padded(
    x: NDArray[Any], y: Any, lengths: NDArray[Any], source: Source, name: str, like: Preprocessing | None = None
) -> Raw:
    """Make a `Raw` of padded sequences x (N, T, D), or (N, T) for symbols or one channel, with their lengths (N,)."""
    if x.ndim not in (2, 3) or lengths.shape != (len(x),) or lengths.dtype.kind not in "iu":
        raise InputError(
            f"{source}: x has shape {x.shape} and lengths {lengths.shape} {lengths.dtype}; "
            "expected (N, T) or (N, T, D), and (N,) whole numbers"
        )
    if len(x) and (lengths.min() < 1 or lengths.max() > x.shape[1]):
        raise InputError(f"{source}: lengths from {lengths.min()} to {lengths.max()}; expected 1 to T = {x.shape[1]}")
    return from_series([s[:n] for s, n in zip(x, lengths, strict=True)], y, source, name, like)


def long(table: Any, source: Source, name: str, like: Preprocessing | None = None) -> Raw:
    """Make a `Raw` of a table with a row for each step: columns series, time, values, and optionally label."""
    series, names = [], []
    for key, part in table.groupby("series", sort=True):
        part = part.sort_values("time", kind="stable")
        if part["time"].duplicated().any():
            raise InputError(f"{source}: series {key} has two rows of one time; expected one row for each step")
        values = part.drop(columns=["series", "time", "label"], errors="ignore").to_numpy()
        series.append(values[:, 0] if values.shape[1] == 1 else values)
        if "label" in part:
            if part["label"].nunique(dropna=False) != 1:
                raise InputError(f"{source}: series {key} has several labels; expected one label for each series")
            names.append(part["label"].iloc[0])
    channels = [str(c) for c in table if c not in ("series", "time", "label")]
    return from_series(series, np.array(names) if names else None, source, name, like, channels=channels)
