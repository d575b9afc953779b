"""What `pipeline.apply` finds in new data: anomalies, how well they match the truth, and pictures of sequences."""

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.data import Column, Raw
from pipeline.evaluate import detectors, drawing, step_anomaly
from pipeline.evaluate.detectors import Judgement
from pipeline.evaluate.drawing import Picture
from pipeline.evaluate.series_pictures import ShownSeries, panels
from pipeline.evaluate.whole_series import SeriesSteps, places_in_time, time_name
from pipeline.model import Model
from variants import InputError

Array = NDArray[np.float64]
SHOWN = 3  # series of a picture
SHOWN_STEPS = 200  # the most steps of a series that are drawn, around its most unusual step
SHOWN_BEFORE = 3  # steps before a forecast that are drawn, for each step of the forecast


class Findings:
    """Anomalies in the parts of a data set.

    Args:
        model: The fitted model.
        share: The share of training scores above the threshold; None for no marks.
        by_series: Whether sequences get one score each, and not one for each step.
    """

    def __init__(self, model: Model, share: float | None, *, by_series: bool = False) -> None:
        self.has_steps = bool(model.preprocessing.spec.steps) and not by_series
        self._model, self._share, self._by_series = model, share, by_series
        self._raw: Raw | None = None  # the last part; sequences are read in one part
        self._table: Any = None  # the scores and marks of its steps
        self._scores: dict[str, list[Array]] = {}  # of examples or steps, in parts

    def add(self, raw: Raw, progress: step_anomaly.Progress = iter) -> Any:
        """Return the scores, and marks, of the next part, as `Model.anomaly` does; `progress` shows what is done."""
        model, self._raw = self._model, raw
        if not self.has_steps:
            result = model.anomaly(raw, self._share, by_series=self._by_series)
            self._keep("model", result["anomaly"] if isinstance(result, pandas.DataFrame) else result)
            if not self._by_series and len(model.preprocessing.spec.shape) == 1 and self._share is not None:
                x = detectors.with_gaps(model.preprocessing.binarized(model.new_rows.encoded(raw)))
                self._keep("deviation", detectors.deviations(x, *self._moments()))
            return result
        found = model.anomaly_scores(raw, progress)
        for name in sorted(found, reverse=True):  # the surprise first
            self._keep(name, step_anomaly.of_steps(found[name]))
        name, columns = step_anomaly.preferred(found), model.new_rows.columns
        limits = None if self._share is None else model.training_scores
        self._table = step_anomaly.frame_of_steps(found[name], raw, columns, name, limits, self._share)
        return self._table

    def judged(self, place: str, column: str) -> Judgement:
        """Compare the scores with the truth in a column of the data at a place, which all parts come from.

        Raises:
            InputError: If there is no such column, the model was trained on it, or it does not tell anomalies.
        """
        assert self._raw is not None and self._share is not None
        raw = self._truth(place, column)
        limits = self._model.training_scores
        if not self.has_steps:
            scores = {name: np.concatenate(parts) for name, parts in self._scores.items()}
            return detectors.judge_rows(scores, _checked(raw.x[:, 0], column))
        steps = SeriesSteps.of(raw)
        truth = _checked(steps.mean(raw.x).numpy()[:, 0], column)
        x = detectors.with_gaps(self._model.preprocessing.binarized(self._model.new_rows.encoded(self._raw)))
        trivial = detectors.trivial_scores(steps.split(steps.mean(x).numpy()), *self._moments())
        scores = {name: np.concatenate(parts) for name, parts in {**self._scores, **trivial}.items()}
        thresholds = {name: limits.threshold(f"step {name}", self._share) for name in scores}
        return detectors.judge_steps(scores, thresholds, truth, steps.lengths)

    def picture(self) -> Picture:
        """Draw the most unusual series: the data, their reconstructions, and the steps that are marked as anomalies.

        Of long series, it shows the steps around the most unusual ones.

        Raises:
            InputError: If the data are no sequences.
        """
        raw, model, table = self._raw, self._model, self._table
        if raw is None or not self.has_steps:
            raise InputError("--picture draws sequences; leave it out")
        steps, rows = SeriesSteps.of(raw), model.new_rows
        truth = detectors.with_gaps(model.preprocessing.binarized(rows.encoded(raw)))
        decoded = torch.cat(rows.each_batch(raw, lambda batch, _: model.decoded(batch)))
        whole = [steps.split(_numbers(steps.mean(x), model)) for x in (torch.from_numpy(truth), decoded)]
        marks = steps.split(table[[f"is_anomaly_{name}" for name in rows.columns]].to_numpy(bool))
        scores = steps.split(table["anomaly"].fillna(-np.inf).to_numpy())
        x, x_label = _places(raw, steps)
        shown = [
            ShownSeries(
                title=_title(steps, i), x=x[i][part], truth=whole[0][i][part], mean=whole[1][i][part],
                marked=marks[i][part],
            )
            for i, part in _unusual_parts(scores)
        ]  # fmt: skip
        caption = f"the most unusual series; grey: data, blue: reconstruction, red: marked by --share {self._share:g}"
        return panels(shown, drawing.columns_of(model.preprocessing), x_label, caption)

    def _keep(self, name: str, values: Any) -> None:
        self._scores.setdefault(name, []).append(np.asarray(values, np.float64))

    def _moments(self) -> tuple[Array, Array]:
        """Return the mean and the standard deviation of the training data, as the model reads them."""
        known = self._model.training_scores
        return np.array(known.mean), np.array(known.deviation)

    def _truth(self, place: str, column: str) -> Raw:
        """Read a column of the data as if it were the only one of the model, so that rows and steps are the same."""
        like, raw = self._model.preprocessing, self._raw
        assert raw is not None
        names = raw.rows if raw.windows is None else raw.windows.names
        if like.source.wide or (self.has_steps and names is None):
            raise InputError(
                f"--truth {column}: the truth is read from a column of a table with a row for each step, and these "
                "data are no such table; leave it out, or train a model on such a table"
            )
        if column in self._model.new_rows.columns:
            raise InputError(f"--truth {column}: the model was trained on this column; expected another one")
        spec = replace(like.spec, shape=(1,), likelihood="gaussian", groups=(), exposure="", classes=0)
        source = replace(like.source, label=None if like.source.label == column else like.source.label)
        columns = (Column(column, "real"),)
        alone = replace(like, spec=spec, source=source, columns=columns, order=(), class_names=(), width=0, pixels=None)
        return replace(self._model.new_rows, preprocessing=alone).read(place)


def _unusual_parts(scores: Sequence[Array]) -> list[tuple[int, slice]]:
    """Return the number of the series and the steps of the `SHOWN` most unusual parts, the most unusual one first.

    They are the parts with the highest scores of a single step. A part is a whole series, or `SHOWN_STEPS` steps of a
    longer one. Scores that are not finite do not count.
    """
    found = []
    for number, own in enumerate(scores):
        left = own.copy()
        for _ in range(SHOWN):
            if not np.isfinite(left).any():
                break
            begin = int(np.clip(left.argmax() - SHOWN_STEPS // 2, 0, max(0, len(own) - SHOWN_STEPS)))
            part = slice(begin, begin + SHOWN_STEPS)
            found.append((float(left.max()), number, part))
            left[part] = -np.inf
    return [(number, part) for _, number, part in sorted(found, key=lambda each: -each[0])[:SHOWN]]


def _title(steps: SeriesSteps, number: int) -> str:
    name = steps.names[number]
    return name if isinstance(name, str) else f"{steps.names.name} {name}"


def _places(raw: Raw, steps: SeriesSteps, ahead: Sequence[pandas.DataFrame] = ()) -> tuple[list[NDArray[Any]], str]:
    """Return the place of each step of each series on a horizontal axis, and what the axis shows: times or numbers.

    `ahead` are the forecasts of the series, whose steps follow.
    """
    if raw.stamps is not None and (not ahead or ahead[0].columns[0] == time_name(raw)):
        stamps = steps.split(raw.stamps)
        if ahead:
            stamps = [[*own, *frame.iloc[:, 0]] for own, frame in zip(stamps, ahead, strict=True)]
        places = [places_in_time(own) for own in stamps]
        if all(own is not None for own in places):
            return [own for own in places if own is not None], time_name(raw)
    more = [len(frame) for frame in ahead] or [0] * len(steps.lengths)
    return [np.arange(n + k) for n, k in zip(steps.lengths, more, strict=True)], "step"


def _checked(truth: NDArray[Any], column: str) -> Array:
    truth = truth.astype(np.float64)
    known = truth[~np.isnan(truth)]
    if not np.isin(known, (0, 1)).all():
        strange = known[~np.isin(known, (0, 1))][0]
        raise InputError(f"--truth {column}: there is the value {strange:g}; expected 0 and 1, or true and false")
    if len(np.unique(known)) < 2:
        raise InputError(f"--truth {column}: all known values are equal; expected anomalies (1) and others (0)")
    return truth


def _numbers(x: Tensor, model: Model) -> Array:
    """Return values (R, D) in the units of `Batch.x` as numbers in the units of the data, (R, C); NaN where missing."""
    preprocessing = model.preprocessing
    missing = preprocessing.by_column(x.isnan()[None])[0] > 0
    values = preprocessing.decode(x.nan_to_num(0.0)[None])[0]
    if preprocessing.spec.likelihood == "categorical":
        values = values.argmax(-1)[:, None]
    return np.where(missing, np.nan, values)


def forecast_picture(frames: list[pandas.DataFrame], raw: Raw, model: Model) -> Picture:
    """Return a picture of forecasts of the first series: the steps before in grey, means, and bands of quantiles.

    Channels of categories and words have the most frequent value of the draws in place of the mean.
    """
    rows, steps = model.new_rows, SeriesSteps.of(raw)
    x = detectors.with_gaps(model.preprocessing.binarized(rows.encoded(raw)))
    known = steps.split(_numbers(steps.mean(x), model))
    places, x_label = _places(raw, steps, frames)
    found = (re.search(r"_q([\d.e-]+)$", str(column)) for column in frames[0])
    levels = sorted({match[1] for match in found if match}, key=float)
    pairs = list(zip(levels[: len(levels) // 2], levels[::-1], strict=False))
    shown = []
    for i, (own, frame, place) in enumerate(list(zip(known, frames, places, strict=True))[:SHOWN]):
        begin, end = max(0, len(own) - SHOWN_BEFORE * len(frame)), len(own)
        before, empty = own[begin:], np.full((len(frame), own.shape[1]), np.nan)
        mean, *limits = (
            np.concatenate([before * np.nan, _of_channels(frame, ending, model)])
            for ending in ("_mean", *(f"_q{level}" for pair in pairs for level in pair))
        )
        shown.append(
            ShownSeries(
                title=_title(steps, i), x=place[begin:], truth=np.concatenate([before, empty]), mean=mean,
                bands=list(zip(limits[::2], limits[1::2], strict=True)),
                forecast_from=place[end] - (place[end] - place[end - 1]) / 2,
            )
        )  # fmt: skip
    between = " and ".join(f"the {float(low):.0%} to the {float(high):.0%} quantile" for low, high in pairs)
    caption = "grey: data; blue: mean of the forecast, from the line on"
    caption += f"; light: from {between}" if pairs else ""
    return panels(shown, drawing.columns_of(model.preprocessing), x_label, caption)


def _of_channels(frame: pandas.DataFrame, ending: str, model: Model) -> Array:
    """Return the columns CHANNEL_mean, or those with another ending, of a forecast as numbers, (steps, C).

    Where a channel has CHANNEL_mode in place of the mean, it is the position of this value among those of the channel.
    Other columns that are not there are NaN.
    """
    values = dict(zip(model.new_rows.columns, (c.values for c in model.preprocessing.columns), strict=False))
    parts = []
    for name in model.new_rows.columns:
        if f"{name}{ending}" in frame:
            parts.append(frame[f"{name}{ending}"].to_numpy(np.float64))
        elif ending == "_mean":
            codes = {str(value): code for code, value in enumerate(values[name])}
            parts.append(np.array([float(codes[str(value)]) for value in frame[f"{name}_mode"]]))
        else:
            parts.append(np.full(len(frame), np.nan))
    return np.stack(parts, axis=1)
