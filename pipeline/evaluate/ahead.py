"""Forecasts of the steps after the end of sequences: the mean and quantiles of draws, in the units of the data."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline import machine
from pipeline.data import Preprocessing, Raw, in_source_form
from pipeline.evaluate.whole_series import SeriesSteps, dates_of, time_name
from variants import Batch, InputError, Variant

Array = NDArray[Any]
VALUES = 1 << 22  # the most values, of all draws, that are computed at a time


def context(raw: Raw, steps: int, longest: int, any_length: bool) -> Raw:
    """Return the steps of each series that a forecast of the next `steps` steps rests on.

    They are the whole sequence, or for series in windows the end of the last window.

    Args:
        raw: What was read.
        steps: The number of steps that are forecast.
        longest: The steps of the longest training sequence, or of a window.
        any_length: Whether the variant makes sequences that are longer than that.

    Raises:
        InputError: If the variant would have to make longer sequences than it can.
    """
    lengths, windows = raw.lengths, raw.windows
    assert lengths is not None
    if windows is None:
        if not any_length and lengths.max() + steps > longest:
            raise InputError(
                f"{raw.source}: a sequence of {lengths.max()} steps and a forecast of {steps} are longer than the "
                f"longest training sequence, {longest} steps, and this model knows no later places; expected shorter "
                "sequences or fewer steps, or train a model on windows (--window), which continues series of any length"
            )
        return raw
    if steps >= longest:
        raise InputError(
            f"steps={steps}: the model was trained on windows of {longest} steps, which have to hold the forecast and "
            f"steps before it; expected at most {longest - 1}"
        )
    last = np.lexsort((windows.starts, windows.series))[np.cumsum(np.bincount(windows.series)) - 1]
    skipped = (lengths[last] + steps - longest).clip(min=0)
    lengths = lengths[last] - skipped
    taken = skipped[:, None] + np.arange(int(lengths.max()))
    taken = taken.clip(max=raw.x.shape[1] - 1)
    rows = last[:, None]
    changed: dict[str, Any] = {
        name: getattr(raw, name)[rows, taken] for name in ("x", "observed", "elapsed") if getattr(raw, name) is not None
    }
    if raw.elapsed is not None:
        changed["elapsed"] = changed["elapsed"] - changed["elapsed"][:, :1]
    if raw.y is not None:
        changed["y"] = raw.y[last]
    return replace(raw, **changed, lengths=lengths, windows=None, rows=windows.names, groups=None, times=None)


def draws_of(variant: Variant, batch: Batch, steps: int, draws: int, seed: int) -> Tensor:
    """Return draws of the next `steps` steps of sequences (B, T, D): (draws, B, steps, D), in the units of `Batch.x`.

    Raises:
        InputError: If the variant makes no forecasts.
    """
    assert batch.mask is not None
    parts, length = [], batch.x.shape[1] + steps
    size = max(1, VALUES // (draws * length * batch.x.shape[2]))
    for start in range(0, len(batch), size):
        part = _longer(batch[slice(start, start + size)], steps)
        assert part.mask is not None
        prefix = part.mask.sum(1) - steps
        with machine.seeded(variant.device, seed):
            whole = variant.forecast(part, prefix, draws, noise=True)
        if whole is None:
            raise InputError(f"{type(variant).__name__} makes no forecasts; expected another variant")
        ahead = prefix[:, None] + torch.arange(steps)
        parts.append(whole.gather(2, ahead[None, ..., None].expand(draws, -1, -1, whole.shape[3])))
    return torch.cat(parts, 1)


def _longer(batch: Batch, steps: int) -> Batch:
    """Return sequences with `steps` more steps, whose values count as known and are not used."""
    assert batch.mask is not None
    lengths, pad = batch.mask.sum(1, keepdim=True), (0, 0, 0, steps)
    positions, elapsed = torch.arange(batch.x.shape[1] + steps), batch.elapsed
    if elapsed is not None:  # the steps ahead are as far apart as usual
        elapsed = torch.nn.functional.pad(elapsed, (0, steps))
        last = elapsed.gather(1, lengths - 1)
        elapsed = torch.where(positions < lengths, elapsed, last + positions - lengths + 1)
    return replace(
        batch, x=torch.nn.functional.pad(batch.x, pad), mask=positions < lengths + steps, elapsed=elapsed,
        observed=None if batch.observed is None else torch.nn.functional.pad(batch.observed, pad, value=True),
    )  # fmt: skip


def frames(
    draws: Tensor, preprocessing: Preprocessing, levels: Sequence[float], names: Sequence[str], raw: Raw
) -> list[Any]:
    """Return a data frame with a row for each step for each series, from draws (K, B, steps, D).

    Its first column is `step`, counted from 1 after the end of the series, or the time if the next stamps are known.
    A channel of numbers has the columns CHANNEL_mean and CHANNEL_q0.1 for the level 0.1. The quantiles of counts and of
    binary values are values that occur. A channel of categories or words has CHANNEL_mode, the most frequent value of
    the draws, and CHANNEL_share, its share of the draws.
    """
    import pandas

    k, b, steps, _ = draws.shape
    values = preprocessing.decode(draws.flatten(0, 2)[None], drawn=True)
    channels = pandas.DataFrame(in_source_form(values, preprocessing)[0])
    columns: dict[str, Array] = {}
    for name, column, (_, own) in zip(names, preprocessing.columns, channels.items(), strict=True):
        of_draws = own.to_numpy().reshape(k, b * steps)
        if column.kind == "category" or own.dtype.kind not in "biuf":
            codes, known = pandas.factorize(of_draws.ravel(), sort=True)
            counts = np.stack([(codes.reshape(k, -1) == code).sum(0) for code in range(len(known))])
            columns |= {f"{name}_mode": np.asarray(known)[counts.argmax(0)], f"{name}_share": counts.max(0) / k}
            continue
        method: Any = "inverted_cdf" if column.kind in ("count", "binary") else "linear"
        quantiles = np.quantile(of_draws, list(levels), axis=0, method=method)
        columns[f"{name}_mean"] = of_draws.mean(0)
        columns |= {f"{name}_q{level:g}": each for level, each in zip(levels, quantiles, strict=True)}
    whole = pandas.DataFrame(columns)
    results = []
    unit = preprocessing.elapsed_unit or None  # the networks were told that the steps ahead are so far apart
    name, places = _places(raw, unit, b, steps)
    for number, place in enumerate(places):
        own = whole.iloc[number * steps : (number + 1) * steps].reset_index(drop=True)
        own.insert(0, name, place)
        results.append(own)
    return results


def _places(raw: Raw, unit: float | None, series: int, steps: int) -> tuple[str, list[Any]]:
    """Return the numbers of the steps ahead of each series, or their time stamps if all are known, and their name."""
    if raw.stamps is not None:
        stamps = [next_stamps(own, steps, unit) for own in SeriesSteps.of(raw).split(raw.stamps)]
        if all(own is not None for own in stamps):
            return time_name(raw), stamps
    return "step", [np.arange(1, steps + 1)] * series


def next_stamps(stamps: Any, steps: int, unit: float | None = None) -> Any:
    """Return the `steps` time stamps after those of a series; None if these are no dates or numbers, or uneven.

    With `unit`, a distance in seconds or plain numbers, they are so far apart, and the known ones may be uneven.
    """
    import pandas

    known, numbers = pandas.Series(np.asarray(stamps)), np.arange(1, steps + 1)
    if pandas.api.types.is_numeric_dtype(known.dtype):
        differences = known.diff().dropna()
        if unit is None and (not len(differences) or not np.allclose(differences, differences.median(), rtol=1e-3)):
            return None
        step = differences.median() if unit is None else unit
        is_whole = known.dtype.kind in "iu" and step % 1 == 0
        return known.iloc[-1] + (int(step) if is_whole else step) * numbers
    dates = dates_of(stamps)
    if dates is None or (unit is None and len(dates) < 2):
        return None
    if unit is not None:
        ahead = dates[-1] + pandas.to_timedelta(unit * numbers, unit="s")
    else:
        frequency: Any = pandas.infer_freq(dates) if len(dates) > 2 else dates[1] - dates[0]
        if frequency is None:
            return None
        ahead = pandas.date_range(dates[-1], periods=steps + 1, freq=frequency)[1:]
    last = known.iloc[-1]
    if not isinstance(last, str):
        return ahead
    if len(last) <= len("2020-01-31"):  # text in the form of ISO 8601
        return list(ahead.strftime("%Y-%m" if len(last) == len("2020-01") else "%Y-%m-%d"))
    texts = [date.isoformat(last[10], timespec="auto" if last[16:17] == ":" else "minutes") for date in ahead]
    return [text.replace("+00:00", "Z") for text in texts] if last.endswith("Z") else texts
