"""Reads sequences: files of the UCR/UEA archive, polyphonic music, and a user's own arrays."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.data import _columns
from pipeline.data._preprocessing import Preprocessing
from pipeline.data._raw import Column, Raw, consecutive
from pipeline.data._source import OF_TABLES, Source, file_name, refuse_options
from pipeline.data._splits import listed, stratified
from variants import InputError

LIMIT = 100_000  # steps; longer sequences have to be cut first
SYMBOLS = 4096  # the largest number of symbols
PLAIN_SYMBOLS = 32  # whole numbers below this are symbols without an option, if all occur,
OFTEN = 10  # and this often on average


def from_series(
    series: Sequence[NDArray[Any]],
    y: Any,
    source: Source,
    name: str,
    like: Preprocessing | None = None,
    *,
    splits: list[torch.Tensor] | None = None,
) -> Raw:
    """Make a `Raw` of sequences (T_i, D) or (T_i,), padded with zeros to the longest, and choose the likelihood.

    It is Bernoulli if there are only two values. It is categorical for whole numbers in sequences (T_i,) if these are
    plainly symbols: from 0 to at most 31, all of them used, and each 10 times on average. Otherwise it is Gaussian.

    Raises:
        InputError: If sequences hold no numbers or have unequal channels, or `source.likelihood` does not fit them.
    """
    refuse_options(source, (*OF_TABLES, "size", "alpha"), "sequences in arrays", like)
    _check_series(series, source)
    lengths = np.array([len(s) for s in series], dtype=np.int64)
    values = np.concatenate(series)
    is_flat = values.ndim == 1
    values = values[:, None] if is_flat else values
    raw = Raw(
        name=name, source=source, x=values, y=None, likelihood="gaussian", splits=splits, lengths=lengths,
        width=values.shape[1],
    )  # fmt: skip
    raw = raw.with_labels(y, like.class_names if like else None)
    channels = [f"x{i}" for i in range(values.shape[1])]
    if like is not None:
        return pad_steps(fit_to_training(_selected(values, channels, lengths, source, like), raw, like))
    if unknown := [column for column, _ in source.kinds if column not in ("x", *channels)]:
        raise InputError(
            f"{source}: --kind names {listed(unknown)}; expected one of the channels {listed(channels, 20)}, or x"
        )
    low, high = values.min().item(), values.max().item()
    if source.likelihood in (None, "bernoulli") and low < high and np.isin(values, (low, high)).all():
        pairs = tuple(Column(channel, "binary", (low, high)) for channel in channels)
        why = f"the values are only {low:g} and {high:g}"
        return pad_steps(replace(raw, x=values == high, likelihood="bernoulli", columns=pairs, why=why))
    if is_flat and source.likelihood is None and _are_plain_symbols(values):
        raw = _symbols(values, "x0", raw)
        why = f"{raw.why} that are all used often, as symbols are; --likelihood gaussian reads them as numbers"
        return pad_steps(replace(raw, why=why))
    import pandas

    columns, x, column_notes = _columns.read_columns(pandas.DataFrame(values, columns=channels), source)
    return pad_steps(with_likelihood(columns, x, replace(raw, notes=(*raw.notes, *column_notes))))


def series_in(content: Any) -> list[NDArray[Any]] | None:
    """Return the sequences in a list of arrays or tensors; None for anything else."""
    if isinstance(content, np.ndarray) and content.dtype == object and content.ndim == 1:
        content = list(content)
    if not isinstance(content, list | tuple):
        return None
    if not all(hasattr(s, "__array__") and not hasattr(s, "columns") and np.ndim(s) for s in content):
        return None
    return [unmasked(s) for s in content]


def unmasked(values: Any) -> NDArray[Any]:
    """Return values as an array, with NaN in place of those that a masked array hides."""
    return np.asarray(values.astype(np.float64).filled(np.nan) if np.ma.is_masked(values) else values)


def _check_series(series: Sequence[NDArray[Any]], source: Source) -> None:
    if not series:
        raise InputError(f"{source}: there are no sequences; expected at least one")
    for number, s in enumerate(series, 1):
        if s.dtype.kind not in "biuf":
            raise InputError(f"{source}: sequence {number} has values of type {s.dtype}; expected numbers")
        if s.ndim not in (1, 2) or not 0 < len(s) <= LIMIT:
            raise InputError(
                f"{source}: sequence {number} has shape {s.shape}; expected (T,) or (T, D) with T from 1 to {LIMIT}"
            )
        if s.ndim != series[0].ndim or s.shape[1:] != series[0].shape[1:]:
            raise InputError(
                f"{source}: sequence {number} has steps of shape {s.shape[1:]}; expected {series[0].shape[1:]}"
            )
        if s.dtype.kind == "f" and not np.isfinite(s).all():
            step = int(np.isfinite(s).reshape(len(s), -1).all(1).argmin())
            raise InputError(
                f"{source}: sequence {number} has NaN or infinity at step {step + 1}; fill such values in, leave the "
                "sequence out, or give the lengths if this is padding"
            )


def _are_plain_symbols(values: NDArray[Any]) -> bool:
    """Whether whole numbers are few and used often, as symbols are."""
    if values.dtype.kind not in "iu" or values.min() < 0 or values.max() >= PLAIN_SYMBOLS:
        return False
    counts = np.bincount(values.ravel().astype(np.int64))
    return bool((counts > 0).all() and counts.mean() >= OFTEN)


def _symbols(values: NDArray[Any], channel: str, raw: Raw, size: int | None = None) -> Raw:
    """Make one-hot rows of the symbols (R, 1), which are whole numbers below `size`.

    Raises:
        InputError: If there are several channels, or other numbers.
    """
    if values.shape[1] != 1:
        raise InputError(
            f"{raw.source}: --likelihood categorical is for sequences of one symbol in each step, and these have "
            f"{values.shape[1]} values; expected --likelihood gaussian"
        )
    low, high = values.min(), values.max()
    if low < 0 or high >= (size or SYMBOLS) or (values % 1 != 0).any():
        expected = (
            f"the symbols 0 to {size - 1} of the training data"
            if size
            else (f"whole numbers from 0 to {SYMBOLS - 1} for --likelihood categorical")
        )
        raise InputError(f"{raw.source}: there are values from {low} to {high}; expected {expected}")
    one_hot = np.eye(size or int(high) + 1, dtype=np.bool_)
    columns = (Column(channel, "category", tuple(range(len(one_hot)))),)
    why = f"the values are whole numbers from 0 to {len(one_hot) - 1}"
    return replace(raw, x=one_hot[values[:, 0].astype(np.int64)], likelihood="categorical", columns=columns, why=why)


def with_likelihood(columns: Sequence[Column], x: NDArray[Any], raw: Raw) -> Raw:
    """Choose the likelihood of channels, (R, D), and add them to what was read.

    Raises:
        InputError: If `raw.source.likelihood` does not fit the values.
    """
    source, given = raw.source, raw.source.likelihood
    raw = replace(raw, x=x, columns=tuple(columns))
    if given == "categorical":
        if columns[0].kind == "binary" and columns[0].values != (0, 1):
            raise InputError(
                f"{source}: --likelihood categorical is for whole numbers from 0, and {columns[0].name} has the values "
                f"{columns[0].values[0]} and {columns[0].values[1]}; expected --likelihood bernoulli"
            )
        return _symbols(x, columns[0].name, raw)
    if given == "logistic8":
        raise InputError(f"{source}: --likelihood logistic8 is for images; expected gaussian, bernoulli or categorical")
    is_binary = all(c.kind == "binary" for c in columns)
    if given == "bernoulli" and not is_binary:
        strange = next(c.name for c in columns if c.kind != "binary")
        raise InputError(
            f"{source}: --likelihood bernoulli is for channels with two values, and {strange} has more; expected "
            "--likelihood gaussian"
        )
    if is_binary and given != "gaussian":
        return replace(raw, x=x.astype(np.bool_), likelihood="bernoulli", why="all channels have two values")
    discrete = [column.name for column in columns if column.kind in ("binary", "count")]
    warnings = raw.warnings
    if discrete:
        options = "--kind COLUMN=real says that a channel is continuous"
        if len(columns) == 1 and x.min() >= 0 and x.max() < SYMBOLS:
            options += ", and --likelihood categorical reads the values as symbols"
        warnings += (
            f"{listed(discrete)}: the values are discrete, and are modelled by a continuous density, which can become "
            f"arbitrarily high at such values, so a high score may mean little; {options}",
        )
    return replace(raw, why="the values are numbers, and are modelled as continuous", warnings=warnings)


def _selected(
    values: NDArray[Any], channels: list[str], lengths: NDArray[np.int64], source: Source, like: Preprocessing
) -> NDArray[np.float64]:
    """Return the channels of a model out of new sequences, (R, D), with 0 and 1 for binary values."""
    names = [column.name for column in like.columns]
    if like.width == len(channels):
        values = values[:, [channels.index(n) for n in names]]
    elif len(names) != len(channels):
        raise InputError(
            f"{source}: sequences have {len(channels)} channels; the model was trained on {len(names)} "
            f"({listed(names, 20)}), and expects an array (T, {len(names)}) for each sequence"
        )
    x = values.astype(np.float64)
    for i, column in enumerate(like.columns):
        if column.kind == "binary":
            is_strange = ~np.isin(values[:, i], column.values)
            if is_strange.any():
                number = 1 + int(np.searchsorted(lengths.cumsum(), is_strange.argmax(), side="right"))
                raise InputError(
                    f"{source}: sequence {number} has {values[is_strange.argmax(), i]:g} in the channel {column.name}; "
                    f"expected one of the values {column.values[0]} and {column.values[1]} of the training data"
                )
            x[:, i] = values[:, i] == column.values[1]
    return x


def fit_to_training(x: NDArray[np.float64], raw: Raw, like: Preprocessing) -> Raw:
    """Add values (R, D) of new sequences, in the channels of a model, to what was read."""
    if like.spec.likelihood == "categorical":
        return replace(_symbols(x, like.columns[0].name, raw, like.spec.shape[0]), columns=like.columns)
    x = x.astype(np.bool_) if like.spec.likelihood == "bernoulli" else x
    return replace(raw, x=x, likelihood=like.spec.likelihood, columns=like.columns)


def pad_steps(raw: Raw) -> Raw:
    """Turn values (R, D) of all steps, one sequence after the other, into (N, T, D), padded with zeros."""
    assert raw.lengths is not None
    x = np.zeros((len(raw.lengths), int(raw.lengths.max()), raw.x.shape[1]), dtype=raw.x.dtype)
    padded = replace(raw, x=x)
    x[padded.mask] = raw.x
    return padded


def ucr(path: Path, source: Source, name: str, like: Preprocessing | None = None) -> Raw:
    """Read NAME_TRAIN.ts or .tsv of the UCR/UEA archive, with NAME_TEST beside it as the test split (Dau et al. 2019).

    A fifth of each class of the training file is the validation split. Without NAME_TEST, one file is split in three.
    """
    read = _ts if path.suffix.lower() == ".ts" else _tsv
    if like is None and path.stem.endswith("_TEST"):
        raise InputError(
            f"{path}: name the file that ends in _TRAIN; the file beside it that ends in _TEST is the test split"
        )
    series, names = read(path)
    stem = path.stem.removesuffix("_TRAIN")
    name = file_name(path.with_name(f"{stem}{path.suffix}"), [])
    other = path.with_name(f"{stem}_TEST{path.suffix}")
    if like is not None or source.test is not None or not (path.stem.endswith("_TRAIN") and other.exists()):
        raw = from_series(series, names, source, name, like)
        if read is _tsv and not path.stem.endswith(("_TRAIN", "_TEST")):
            note = "each line is read as a class and a sequence of values; --no-header reads the file as a table"
            raw = raw.with_notes([note])
        return raw
    first = len(series)
    more, more_names = read(other)
    series = series + more
    y = None if names is None or more_names is None else np.concatenate([names, more_names])
    codes = None if y is None else np.unique(y, return_inverse=True)[1][:first]
    parts = stratified(codes, first, 5, test=False)
    splits = [*parts, torch.arange(first, len(series))]
    return from_series(series, y, source, name, like, splits=splits)


def is_table(path: Path, source: Source) -> bool:
    """Whether a .tsv file is a table: its first line holds names, or `--no-header` was given."""
    if path.stem.endswith(("_TRAIN", "_TEST")) or not source.header:
        return not source.header
    with path.open(encoding="utf-8", errors="replace") as stream:
        fields = stream.readline().strip("\ufeff\r\n").split("\t")
    return not all(re.fullmatch(r"\s*([+-]?[\d.]+([eE][+-]?\d+)?|NaN|nan|)\s*", field) for field in fields)


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
        raise InputError(f"{path} holds time stamps; expected values at equal intervals (@timeStamps false)")
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
    series = [s for group in groups for s in group]
    return from_series(series, None, source, name, like, splits=consecutive(map(len, groups)))


def padded(x: NDArray[Any], lengths: NDArray[Any], source: Source, name: str, like: Preprocessing | None = None) -> Raw:
    """Make a `Raw` of padded sequences x (N, T, D), or (N, T) for symbols or one channel, with their lengths (N,).

    Raises:
        InputError: If the lengths do not fit x, or `from_series` refuses the sequences.
    """
    if x.ndim not in (2, 3) or lengths.shape != (len(x),) or lengths.dtype.kind not in "iu":
        raise InputError(
            f"{source}: x has shape {x.shape} and lengths {lengths.shape} {lengths.dtype}; "
            "expected (N, T) or (N, T, D), and (N,) whole numbers"
        )
    if len(x) and (lengths.min() < 1 or lengths.max() > x.shape[1]):
        raise InputError(
            f"{source}: there are lengths from {lengths.min()} to {lengths.max()}; expected 1 to T = {x.shape[1]}"
        )
    return from_series([s[:n] for s, n in zip(x, lengths, strict=True)], None, source, name, like)
