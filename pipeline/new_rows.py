"""New rows for a fitted variant: how they become batches, and how results get the units and the form of the data."""

import dataclasses
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline import data, fitting, machine
from pipeline.data import Preprocessing, Raw, Source
from pipeline.evaluate.whole_series import SeriesSteps, row_labels
from variants import Batch, Variant

BATCH = 1024  # examples that are computed at a time; random numbers start anew with each batch
Array = NDArray[Any]


@dataclasses.dataclass(frozen=True)
class NewRows:
    """Reads new rows in the way the training data were read, and computes with a variant on them.

    All noise depends on `seed`.
    """

    variant: Variant
    preprocessing: Preprocessing
    seed: int

    @property
    def columns(self) -> list[str]:
        """The names of the columns of a table, or of the channels of sequences."""
        names = [column.name for column in self.preprocessing.columns]
        return names or [f"x{i}" for i in range(self.preprocessing.spec.shape[-1])]

    def read(self, X: Any) -> Raw:
        """Read new rows in the way the training data were read."""
        like = self.preprocessing
        if isinstance(X, Raw):
            return X
        with fitting.about_options(fitting.FIXED_OPTIONS):
            return data.read(self._source(X), fitting.content_of(X), like)

    def _source(self, X: Any) -> Source:
        """Return the source of new rows, with the options by which the training data were read."""
        place = os.fspath(X) if isinstance(X, str | Path) else "the data"
        return dataclasses.replace(self.preprocessing.source, place=place, test=None, split=None)

    def read_parts(self, place: str, size: int) -> tuple[int, Iterator[Raw]]:
        """Read new rows from a place in parts of at most `size` rows; `read` takes each of them.

        Returns the number of parts, and an iterator over them.
        """
        return data.read_parts(self._source(place), self.preprocessing, size)

    def each_batch(self, raw: Raw, compute: Callable[[Batch, Raw], Any], *, allow_missing: bool = False) -> list[Any]:
        """Call `compute` with each batch, as tensors and as they were read, and return the results.

        Examples with missing values are refused if the training data had none, unless `allow_missing` is true.
        """
        whole = self.encoded(raw, allow_missing=allow_missing)
        results = []
        self.variant.eval()
        for start in range(0, len(whole), BATCH):
            part = slice(start, start + BATCH)
            with machine.seeded(self.variant.device, self.seed):
                results.append(compute(self.preprocessing.binarized(whole[part]), raw[part]))
        return results

    def encoded(self, raw: Raw, *, allow_missing: bool = False) -> Batch:
        with fitting.about_options(fitting.FIXED_OPTIONS):
            return self.preprocessing.encode(raw, allow_missing=allow_missing)

    def labelled(self, values: Array, raw: Raw, columns: list[str] | None) -> Any:
        """Return values (N, ...) with the labels of the rows or windows, if there are any."""
        rows = row_labels(raw)
        if rows is None:
            return values
        return pandas.Series(values, index=rows) if columns is None else pandas.DataFrame(values, rows, columns)

    def decoded(
        self, raw: Raw, compute: Callable[[Batch], Tensor], *, drawn: bool = False, keeps: bool = False
    ) -> list[Any]:
        """Return K results of `compute`, (K, B, *shape) in the units of `Batch.x`, in the units and form of the data.

        Values of windows become those of the series: the mean over windows, or drawn values of one window. With
        `keeps`, values may be missing, and the known ones stay exactly as they are.
        """
        if raw.lengths is None:

            def in_form(batch: Batch, part: Raw) -> list[Any]:
                given = part if keeps else None
                return [self.in_units(x, part.rows, drawn=drawn, given=given) for x in compute(batch)]

            parts = self.each_batch(raw, in_form, allow_missing=keeps)
            is_frame = isinstance(parts[0][0], pandas.DataFrame)
            return [pandas.concat(each) if is_frame else np.concatenate(each) for each in zip(*parts, strict=True)]
        steps = SeriesSteps.of(raw)
        whole = torch.cat(self.each_batch(raw, lambda batch, _: compute(batch), allow_missing=keeps), 1)
        on_series = [steps.central(x) if drawn else steps.mean(x) for x in whole]
        given = raw if keeps else None
        return [steps.in_source_form(x, self.preprocessing, given, drawn=drawn) for x in on_series]

    def in_units(self, x: Tensor, rows: Any = None, *, drawn: bool = False, given: Raw | None = None) -> Any:
        """Turn values in the units of `Batch.x` into the units and the form of the data; see `Preprocessing.decode`."""
        values = self.preprocessing.decode(x, drawn=drawn, given=given)
        return data.in_source_form(values, self.preprocessing, rows)
