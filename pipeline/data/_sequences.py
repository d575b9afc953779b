"""Reads sequences in arrays, and chooses the likelihood of their values."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.data import _columns, _families
from pipeline.data._preprocessing import Preprocessing
from pipeline.data._raw import Column, Raw
from pipeline.data._source import OF_TABLES, Source, refuse_options
from pipeline.data._splits import listed
from variants import InputError
from variants.base.contract import KIND_OF, Likelihood

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

    The likelihood is Bernoulli if there are only two values. It is categorical for sequences (T_i,) of whole numbers
    that are clearly symbols: the numbers from 0 to at most 31 all occur, each 10 times on average. Otherwise it is the
    family that `_families.choose` returns. Values that are NaN are missing.

    Raises:
        InputError: If sequences hold no numbers or have unequal channels, if all values are missing, or
            `source.likelihood` does not fit them.
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
    kinds = [column for column, _ in source.kinds if column != "x"]
    if unknown := [column for column in kinds if column not in channels]:
        raise InputError(
            f"{source}: --kind names {listed(unknown)}; expected one of the channels {listed(channels, 20)}, or x"
        )
    known = values[~np.isnan(values)]
    if not len(known):
        raise InputError(f"{source}: all values are missing; expected known values")
    low, high = known.min().item(), known.max().item()
    is_binary = low < high and np.isin(known, (low, high)).all()
    if source.likelihood in (None, "bernoulli") and not kinds and is_binary:
        pairs = tuple(Column(channel, "binary", (low, high)) for channel in channels)
        why = f"the values are only {low:g} and {high:g}"
        codes = np.where(np.isnan(values), np.nan, values == high)
        return pad_steps(replace(_binary(codes, raw), columns=pairs, why=why))
    if is_flat and source.likelihood is None and not kinds and _are_plain_symbols(values):
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
    if np.ma.is_masked(values):
        values = values.astype(np.result_type(values.dtype, np.float32)).filled(np.nan)
    return np.asarray(values)


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
        if s.dtype.kind == "f" and np.isinf(s).any():
            step = int(np.isinf(s).reshape(len(s), -1).any(1).argmax())
            raise InputError(
                f"{source}: sequence {number} has an infinite value at step {step + 1}; replace such values, or leave "
                "the sequence out"
            )


def _are_plain_symbols(values: NDArray[Any]) -> bool:
    """Whether numbers, which are floats if some are missing, have few different values that occur often, as symbols."""
    known = values[~np.isnan(values)]
    is_whole = values.dtype.kind in "iu" or (len(known) < values.size and (known % 1 == 0).all())
    if not is_whole or known.min() < 0 or known.max() >= PLAIN_SYMBOLS:
        return False
    counts = np.bincount(known.astype(np.int64))
    return bool((counts > 0).all() and counts.mean() >= OFTEN)


def _symbols(values: NDArray[Any], channel: str, raw: Raw, size: int | None = None) -> Raw:
    """Make one-hot rows of the symbols (R, 1), which are whole numbers from 0; `size` is how many there are.

    Raises:
        InputError: If there are several channels, or other numbers.
    """
    if values.shape[1] != 1:
        raise InputError(
            f"{raw.source}: --likelihood categorical is for sequences of one symbol in each step, and these have "
            f"{values.shape[1]} values; expected --likelihood gaussian"
        )
    is_known = ~np.isnan(values)
    known = values[is_known]
    low, high = (known.min(), known.max()) if len(known) else (0, 0)
    if low < 0 or high >= SYMBOLS or (known % 1 != 0).any():
        raise InputError(
            f"{raw.source}: there are values from {low} to {high}; expected whole numbers from 0 to {SYMBOLS - 1} for "
            "--likelihood categorical"
        )
    symbols = np.arange(size or int(high) + 1)
    columns = (Column(channel, "category", tuple(symbols.tolist())),)
    why = f"the values are whole numbers from 0 to {len(symbols) - 1}"
    observed = None if is_known.all() else np.repeat(is_known, len(symbols), axis=1)
    return replace(raw, x=values == symbols, observed=observed, likelihood="categorical", columns=columns, why=why)


def _binary(codes: NDArray[Any], raw: Raw) -> Raw:
    """Add channels (R, D) of zeros and ones, with NaN for missing values, to what was read."""
    known = ~np.isnan(codes)
    return replace(raw, x=codes == 1, observed=None if known.all() else known, likelihood="bernoulli")


def with_likelihood(columns: Sequence[Column], x: NDArray[Any], raw: Raw) -> Raw:
    """Choose the likelihood of channels, (R, D), and add them to what was read.

    All numbers are positive values or counts if `raw.source.likelihood` is a family for these.

    Raises:
        InputError: If `raw.source.likelihood` does not fit the values.
    """
    source, given = raw.source, raw.source.likelihood
    if given == "categorical" and columns[0].kind != "category":
        if columns[0].kind == "binary" and columns[0].values != (0, 1):
            raise InputError(
                f"{source}: --likelihood categorical is for whole numbers from 0, and {columns[0].name} has the values "
                f"{columns[0].values[0]} and {columns[0].values[1]}; expected --likelihood bernoulli"
            )
        return _symbols(x, columns[0].name, raw)
    if given is not None and (kind := KIND_OF.get(given)) in ("positive", "count"):
        columns, x = _as_numbers(columns, x, source)
        _check_kind(x, given, raw)
        columns = [c if c.values or source.kind(c.name) else replace(c, kind=kind) for c in columns]
    raw = _families.choose(replace(raw, x=x, columns=tuple(columns)), "channel")
    if raw.likelihood == "categorical":
        one_hot = _symbols(x, columns[0].name, raw, len(columns[0].values))
        return replace(one_hot, columns=raw.columns, why=raw.why)
    if raw.likelihood == "bernoulli":
        return _binary(x, raw)
    if len(columns) == 1 and given is None and not columns[0].values and _may_be_symbols(x):
        raw = raw.with_notes(["the values are whole numbers; --likelihood categorical reads them as symbols"])
    return raw


def _as_numbers(columns: Sequence[Column], x: NDArray[Any], source: Source) -> tuple[list[Column], NDArray[np.float64]]:
    """Return channels, and their values (R, D), with two numbers in place of 0 and 1, unless `--kind` names them."""
    columns, x = list(columns), x.copy()
    for i, column in enumerate(columns):
        if (
            column.kind == "binary"
            and source.kind(column.name) is None
            and not isinstance(column.values[0], str | bool)
        ):
            low, high = column.values
            columns[i], x[:, i] = replace(column, kind="real", values=()), low + (high - low) * x[:, i]
    return columns, x


def _may_be_symbols(values: NDArray[Any]) -> bool:
    known = values[~np.isnan(values)]
    return bool(((known >= 0) & (known < SYMBOLS) & (known % 1 == 0)).all())


def _check_kind(x: NDArray[Any], likelihood: Likelihood, raw: Raw) -> None:
    """Raise `InputError` if the likelihood is for positive values or counts, and steps (R, D) have other values."""
    assert raw.lengths is not None
    kind = KIND_OF[likelihood]
    is_bad = _families.misfits(x, kind)
    if is_bad.any():
        row, channel = np.argwhere(is_bad)[0]
        number = int(np.searchsorted(raw.lengths.cumsum(), row, side="right"))
        name = number + 1 if raw.rows is None else raw.rows[number]
        step = row - raw.lengths[:number].sum() + 1
        raise InputError(
            f"{raw.source}: the likelihood {likelihood} is for {_families.EXPECTED[kind]}, and sequence {name} has "
            f"{x[row, channel]:g} at step {step}; expected such values only, or a model with --likelihood gaussian"
        )


def _selected(
    values: NDArray[Any], channels: list[str], lengths: NDArray[np.int64], source: Source, like: Preprocessing
) -> NDArray[np.float64]:
    """Return the channels of a model out of new sequences, (R, D), with 0, 1, ... for symbols and binary values."""
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
        if column.values:
            is_strange = ~(np.isin(values[:, i], column.values) | np.isnan(values[:, i]))
            if is_strange.any():
                number = 1 + int(np.searchsorted(lengths.cumsum(), is_strange.argmax(), side="right"))
                raise InputError(
                    f"{source}: sequence {number} has {values[is_strange.argmax(), i]:g} in the channel {column.name}; "
                    f"expected one of the values {listed(list(map(str, column.values)), 20)} of the training data"
                )
            codes = np.searchsorted(np.array(column.values), values[:, i])
            x[:, i] = np.where(np.isnan(values[:, i]), np.nan, codes)
    return x


def fit_to_training(x: NDArray[np.float64], raw: Raw, like: Preprocessing) -> Raw:
    """Add values (R, D) of new sequences, in the channels of a model, to what was read."""
    if like.spec.likelihood == "categorical":
        return replace(_symbols(x, like.columns[0].name, raw, like.spec.shape[0]), columns=like.columns)
    if like.spec.likelihood == "bernoulli":
        return replace(_binary(x, raw), columns=like.columns)
    if KIND_OF[like.spec.likelihood] in ("positive", "count"):
        _check_kind(x, like.spec.likelihood, raw)
    return replace(raw, x=x, likelihood=like.spec.likelihood, columns=like.columns)


def pad_steps(raw: Raw) -> Raw:
    """Turn values (R, D) of all steps, one sequence after the other, into (N, T, D), padded with zeros."""
    assert raw.lengths is not None
    x = np.zeros((len(raw.lengths), int(raw.lengths.max()), raw.x.shape[1]), dtype=raw.x.dtype)
    padded = replace(raw, x=x, observed=None if raw.observed is None else np.ones(x.shape, np.bool_))
    x[padded.mask] = raw.x
    if padded.observed is not None:
        padded.observed[padded.mask] = raw.observed
    return padded


def from_padded(
    x: NDArray[Any], lengths: NDArray[Any], source: Source, name: str, like: Preprocessing | None = None
) -> Raw:
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
