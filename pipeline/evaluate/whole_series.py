"""Puts what a model computes for windows back together on the series from which they were cut.

Sequences that are no windows are treated in the same way: each is the only window of its series.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.data import Preprocessing, Raw, in_source_form

Array = NDArray[Any]


@dataclass(frozen=True)
class SeriesSteps:
    """Where the steps of N examples lie among the R steps of all series, which follow each other.

    `mask` (N, T) has the real steps of the examples, and `places` (M,) the position of each of these M steps, from 0 to
    R - 1. `lengths` (S,) are the numbers of steps of the series, and `names` their names, a pandas Index.
    """

    mask: NDArray[np.bool_]
    places: NDArray[np.int64]
    lengths: NDArray[np.int64]
    names: Any

    @classmethod
    def of(cls, raw: Raw) -> "SeriesSteps":
        """Return the places of the steps of sequences."""
        import pandas

        assert raw.lengths is not None
        mask, windows = raw.mask, raw.windows
        lengths = raw.lengths if windows is None else windows.lengths
        ends = np.cumsum(lengths)
        first = ends - lengths if windows is None else (ends - lengths)[windows.series] + windows.starts
        names = raw.rows if windows is None else windows.names
        if names is None:
            names = pandas.RangeIndex(len(lengths))
        names = names if names.name else names.rename("series")
        return cls(mask, (first[:, None] + np.arange(mask.shape[1]))[mask], lengths, names)

    def mean(self, values: Tensor | Array) -> Tensor:
        """Return values (N, T, ...) on the series, (R, ...), float64: their mean over the windows that cover a step.

        Values that are NaN are left out; a step that has no others is NaN.
        """
        flat = torch.as_tensor(values).double()[torch.from_numpy(self.mask)]
        places, known = torch.from_numpy(self.places), ~flat.isnan()
        total = flat.new_zeros(int(self.lengths.sum()), *flat.shape[1:])
        count = total.clone().index_add_(0, places, known.double())
        return total.index_add_(0, places, torch.where(known, flat, 0.0)) / torch.where(count > 0, count, torch.nan)

    def central(self, values: Tensor | Array) -> Tensor:
        """Return values (N, T, ...) on the series, (R, ...): those of the window whose middle is nearest to a step.

        Unlike means over windows, draws of these are as uncertain as draws of one window.
        """
        middle = (self.mask.sum(1) - 1) / 2
        distance = np.abs(np.arange(self.mask.shape[1]) - middle[:, None])[self.mask]
        order = np.argsort(-distance, kind="stable")  # of repeated places, numpy keeps the last value
        flat = torch.as_tensor(values).numpy()[self.mask]
        whole = np.zeros((int(self.lengths.sum()), *flat.shape[1:]), flat.dtype)
        whole[self.places[order]] = flat[order]
        return torch.from_numpy(whole)

    def split(self, values: Any) -> list[Any]:
        """Return values (R, ...), an array or a data frame, as one array or data frame for each series."""
        ends = np.cumsum(self.lengths)
        pairs = zip(ends - self.lengths, ends, strict=True)
        if hasattr(values, "iloc"):
            return [values.iloc[begin:end].reset_index(drop=True) for begin, end in pairs]
        return [values[begin:end] for begin, end in pairs]

    def in_source_form(
        self, values: Tensor, preprocessing: Preprocessing, given: Raw | None = None, *, drawn: bool = False
    ) -> list[Any]:
        """Return values (R, D) in the units of `Batch.x` as one array or data frame in the units of the data a series.

        The known values of `given` stay exactly as they are.
        """
        whole = None if given is None else self._joined(given)
        decoded = preprocessing.decode(values[None], drawn=drawn, given=whole)
        return self.split(in_source_form(decoded, preprocessing)[0])

    def _joined(self, raw: Raw) -> Raw:
        """Return what was read with all steps of all series as one sequence, (1, R, ...)."""
        fields: dict[str, Any] = {}
        for name in ("x", "observed"):
            values = getattr(raw, name)
            if values is not None:
                whole = np.zeros((int(self.lengths.sum()), *values.shape[2:]), values.dtype)
                whole[self.places] = values[self.mask]
                fields[name] = whole[None]
        return replace(raw, **fields, lengths=self.lengths.sum(keepdims=True), windows=None)

    def labels(self, raw: Raw) -> dict[str, Any]:
        """Return two columns (R,) that name each step: its series, and its time stamp or its number from 0."""
        return {str(self.names.name): np.repeat(np.asarray(self.names), self.lengths), **numbered(raw, self.lengths)}


def time_name(raw: Raw) -> str:
    """Return the name of the column with the time stamps."""
    return str(getattr(raw.stamps, "name", None) or "time")


def dates_of(stamps: Any) -> Any:
    """Return time stamps as a pandas DatetimeIndex in the time zone of the last one; None if they are no dates."""
    import pandas

    own = pandas.Index(stamps)
    if pandas.api.types.is_numeric_dtype(own.dtype):
        return None
    try:
        last, dates = pandas.Timestamp(own[-1]), pandas.to_datetime(own, format="ISO8601", utc=True)
    except (ValueError, TypeError):  # words such as t1
        return None
    return dates.tz_localize(None) if last.tz is None else dates.tz_convert(last.tz)


def places_in_time(stamps: Any) -> Array | None:
    """Return time stamps as numbers or dates, (T,), as pictures show them; None for words such as t1."""
    values = np.asarray(stamps)
    if values.dtype.kind in "iuf":
        return values
    dates = dates_of(stamps)
    return None if dates is None else np.asarray(dates.tz_localize(None))


def numbered(raw: Raw, lengths: NDArray[np.int64]) -> dict[str, Any]:
    """Return the column (R,) that tells the steps of a series apart: time stamps, or else `step`, counted from 0."""
    if raw.stamps is not None:
        return {time_name(raw): raw.stamps}
    return {"step": np.concatenate([np.arange(n) for n in lengths])}


def row_labels(raw: Raw) -> Any:
    """Return the labels of the examples as a pandas Index; None if they have none.

    The labels of windows are the series and the first step, or its time stamp.
    """
    import pandas

    if raw.windows is None:
        return raw.rows
    steps, windows = SeriesSteps.of(raw), raw.windows
    (name, numbers), first = next(iter(numbered(raw, steps.lengths).items())), np.cumsum(steps.lengths) - steps.lengths
    return pandas.MultiIndex.from_arrays(
        [steps.names[windows.series], np.asarray(numbers)[first[windows.series] + windows.starts]],
        names=[steps.names.name, name],
    )
