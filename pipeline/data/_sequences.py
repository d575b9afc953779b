"""Reads sequences in arrays, and chooses the likelihoods of their values."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.data import _columns, _families, _steps, _times, _windows
from pipeline.data._preprocessing import Preprocessing
from pipeline.data._raw import Column, Raw
from pipeline.data._source import OF_TABLES, Source, refuse_options
from pipeline.data._splits import listed
from variants import InputError
from variants.base.contract import KIND_OF, Likelihood

SYMBOLS = 4096  # the largest number of symbols
OFTEN = 10  # whole numbers may be symbols if each occurs this often on average


def from_series(
    series: Sequence[NDArray[Any]],
    y: Any,
    source: Source,
    name: str,
    like: Preprocessing | None = None,
    *,
    splits: list[torch.Tensor] | None = None,
) -> Raw:
    """Make a `Raw` of sequences (T_i, D) or (T_i,) in arrays, with labels `y` (N,); see `read_steps`."""
    refuse_options(source, (*OF_TABLES, "dates", "size", "alpha"), "sequences in arrays without times", like)
    raw = read_steps(series, source, name, like, y=y, splits=splits)
    return _windows.as_examples(raw, like)


def read_steps(
    series: Sequence[NDArray[Any]], source: Source, name: str, like: Preprocessing | None = None, *,
    times: _times.Times | None = None, y: Any = None, splits: list[torch.Tensor] | None = None,
    channels: Sequence[str] = (), rows: Any = None,
) -> Raw:  # fmt: skip
    """Make a `Raw` of all steps of sequences (T_i, D) or (T_i,), one after the other, and choose the likelihood.

    The likelihood is Bernoulli if there are only two values. Otherwise each channel has the family that
    `_families.choose` returns. Values that are NaN are missing.

    Args:
        series: The sequences.
        source: Where they come from.
        name: The name of the data set.
        like: The preprocessing of a trained model, for which the sequences are new data.
        times: The times of all steps, one sequence after the other.
        y: The label of each sequence, (N,).
        splits: The indices of the three splits.
        channels: The names of the channels; without them, they are x0, x1, and so on.
        rows: A pandas Index with the names of the sequences.

    Raises:
        InputError: If sequences hold no numbers or have unequal channels, if all values are missing, if
            `source.likelihood` does not fit them, or if times are uneven and no option says what to do.
    """
    _check_series(series, source)
    lengths = np.array([len(s) for s in series], dtype=np.int64)
    values = np.concatenate(series)
    values = values[:, None] if values.ndim == 1 else values
    raw = Raw(
        name=name, source=source, x=np.zeros(0), y=None, likelihood="gaussian", splits=splits, lengths=lengths,
        width=0 if channels else values.shape[1], rows=rows,
    )  # fmt: skip
    raw = raw.with_labels(y, like.class_names if like else None)
    raw, values = _with_times(raw, values, times, like)
    lengths, channels = np.asarray(raw.lengths), channels or [f"x{i}" for i in range(values.shape[1])]
    if like is not None:
        return fit_to_training(_selected(values, list(channels), lengths, source, like), raw, like)
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
    if source.likelihood in (None, "bernoulli") and not kinds and not _are_symbols(source) and is_binary:
        pairs = tuple(Column(channel, "binary", (low, high)) for channel in channels)
        why = f"the values are only {low:g} and {high:g}"
        codes = np.where(np.isnan(values), np.nan, values == high)
        return replace(_binary(codes, raw), columns=pairs, why=why)
    import pandas

    columns, x, column_notes = _columns.read_columns(pandas.DataFrame(values, columns=list(channels)), source)
    return with_likelihood(columns, x, replace(raw, notes=(*raw.notes, *column_notes)))


def _with_times(
    raw: Raw, values: NDArray[Any], times: _times.Times | None, like: Preprocessing | None
) -> tuple[Raw, NDArray[Any]]:
    """Add what the times of steps (R,) say to what was read, and return it with the values (R, D) of all steps."""
    lengths = raw.lengths
    assert lengths is not None
    if times is None:
        _steps.without_times(raw, like)
        return raw, values

    def step_name(step: int) -> str:
        number = int(np.searchsorted(lengths.cumsum(), step, side="right"))
        return f"step {step - lengths[:number].sum() + 1} of sequence {_steps.sequence_name(raw, number)}"

    return _steps.with_times(raw, values, _steps.TimedRows(times=times, lengths=lengths, name=step_name), like)


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
        if s.ndim not in (1, 2) or not len(s):
            raise InputError(f"{source}: sequence {number} has shape {s.shape}; expected (T,) or (T, D), and T above 0")
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


def _symbols(values: NDArray[Any], channel: str, raw: Raw, size: int | None = None) -> Raw:
    """Make one-hot rows of the symbols (R, 1), which are whole numbers from 0; `size` is how many there are.

    Raises:
        InputError: If there are several channels, or other numbers.
    """
    if values.shape[1] != 1:
        raise InputError(
            f"{raw.source}: --kind symbols is for sequences of one symbol in each step, and these have "
            f"{values.shape[1]} channels; leave it out, or give --kind CHANNEL=category for a channel"
        )
    is_known = ~np.isnan(values)
    known = values[is_known]
    low, high = (known.min(), known.max()) if len(known) else (0, 0)
    if low < 0 or high >= SYMBOLS or (known % 1 != 0).any():
        raise InputError(
            f"{raw.source}: there are values from {low:g} to {high:g}; expected whole numbers from 0 to {SYMBOLS - 1} "
            "for --kind symbols"
        )
    symbols = np.arange(size or int(high) + 1)
    columns = (Column(channel, "category", tuple(symbols.tolist())),)
    why = f"the values are the symbols 0 to {len(symbols) - 1}, because of --kind symbols"
    observed = None if is_known.all() else np.repeat(is_known, len(symbols), axis=1)
    return replace(raw, x=values == symbols, observed=observed, likelihood="categorical", columns=columns, why=why)


def _binary(codes: NDArray[Any], raw: Raw) -> Raw:
    """Add channels (R, D) of zeros and ones, with NaN for missing values, to what was read."""
    known = ~np.isnan(codes)
    return replace(raw, x=codes == 1, observed=None if known.all() else known, likelihood="bernoulli")


def with_likelihood(columns: Sequence[Column], x: NDArray[Any], raw: Raw) -> Raw:
    """Choose the likelihoods of channels, (R, D), and add them to what was read.

    With `--kind symbols`, the values are symbols. All numbers are positive values or counts if `raw.source.likelihood`
    is a family for these.

    Raises:
        InputError: If `raw.source.likelihood` does not fit the values.
    """
    source, given = raw.source, raw.source.likelihood
    if _are_symbols(source):
        if given not in (None, "categorical"):
            raise InputError(f"{source}: --likelihood {given} is not for --kind symbols; leave one of them out")
        if columns[0].kind == "category":
            raise InputError(
                f"{source}: --kind symbols is for whole numbers; leave it out, because text is read as such"
            )
        columns, x = _as_numbers(columns, x, source)
        return _symbols(x, columns[0].name, raw)
    if given is not None and (kind := KIND_OF.get(given)) in ("positive", "count"):
        columns, x = _as_numbers(columns, x, source)
        columns = [c if c.values or source.kind(c.name) else replace(c, kind=kind) for c in columns]
        _check_values(x, [given if c.kind == kind else "gaussian" for c in columns], raw)
    raw = _families.choose(replace(raw, x=x, columns=tuple(columns)), "channel")
    if raw.likelihood == "categorical":
        one_hot = _symbols(x, columns[0].name, raw, len(columns[0].values))
        return replace(one_hot, columns=raw.columns, why=raw.why)
    if raw.likelihood == "bernoulli":
        return _binary(x, raw)
    if len(columns) == 1 and given is None and not columns[0].values and _may_be_symbols(x):
        raw = raw.with_notes(["the values are whole numbers; --kind symbols reads them as symbols without an order"])
    return raw


def _are_symbols(source: Source) -> bool:
    return any(kind == "symbols" for _, kind in source.kinds)


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
    """Whether values are whole numbers from 0 to at most 99, each of which is used often."""
    known = values[~np.isnan(values)]
    if not ((known >= 0) & (known < _columns.CATEGORIES) & (known % 1 == 0)).all():
        return False
    return len(known) >= OFTEN * len(np.unique(known))


def _check_values(x: NDArray[Any], likelihoods: Sequence[Likelihood], raw: Raw) -> None:
    """Raise `InputError` if a channel of positive values or of counts has other values, in steps (R, D)."""
    assert raw.lengths is not None
    for i, likelihood in enumerate(likelihoods):
        kind = KIND_OF[likelihood]
        if kind not in ("positive", "count") or not (is_bad := _families.misfits(x[:, i], kind)).any():
            continue
        row = int(is_bad.argmax())
        number = int(np.searchsorted(raw.lengths.cumsum(), row, side="right"))
        raise InputError(
            f"{raw.source}: the likelihood {likelihood} is for {_families.EXPECTED[kind]}, and sequence "
            f"{_steps.sequence_name(raw, number)} has {x[row, i]:g} at step {row - raw.lengths[:number].sum() + 1}; "
            "expected such values only, or a model with --likelihood gaussian"
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
    _check_values(x, [column.likelihood or like.spec.likelihood for column in like.columns], raw)
    return replace(raw, x=x, likelihood=like.spec.likelihood, columns=like.columns)


def unpadded(x: NDArray[Any], lengths: NDArray[Any], source: Source) -> list[NDArray[Any]]:
    """Return the sequences in padded ones, x (N, T, D) or (N, T), with their lengths (N,).

    Raises:
        InputError: If the lengths do not fit x.
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
    return [s[:n] for s, n in zip(x, lengths, strict=True)]
