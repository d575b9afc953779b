"""How well a model forecasts the second half of sequences from the first half, beside forecasts that need no model.

The forecast of the model is the mean of many continuations, whose quantiles are its intervals. Errors are given by
channel and by horizon, the number of steps ahead. For binary and category channels a forecast is a probability, or one
of each category, so the mean square error is the Brier score (Gneiting & Raftery 2007, doi:10.1198/016214506000001437);
the other scores are of numbers only.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline import machine
from pipeline.data import Data
from pipeline.evaluate import baselines, probe, simple_forecasts
from pipeline.evaluate.drawing import shown_columns
from pipeline.evaluate.estimates import Estimate, ratio, root_mean_square
from pipeline.evaluate.simple_forecasts import Array, Halves, Mask
from pipeline.metrics import Undefined
from variants import Batch, Variant

DRAWS = 100  # continuations of each sequence
BATCH_VALUES = 1 << 22  # most values of the continuations that are drawn at a time
TRAINING_VALUES = 1 << 22  # most values of training series that the baselines are fitted to
VALIDATED = 200  # validation series that the baselines are chosen on
LEVEL = 0.8  # of the central intervals
TITLES = {
    "persistence": "persistence", "seasonal": "the seasonal naive forecast", "mean": "the training mean",
    "autoregression": "a linear autoregression",
}  # fmt: skip
SCORES = ("model", *TITLES, "mase", "coverage", "crps")
NO_SEASON = "no season was found in the training data, so the seasonal naive forecast is persistence"


@dataclass(frozen=True, kw_only=True)
class Channel:
    """A channel of sequences: its name, the positions of its values in `Batch.x`, and whether it holds numbers."""

    name: str
    values: list[int]
    is_number: bool


def channels(data: Data) -> list[Channel]:
    """Return the channels of sequences in the order of the source. A category has several values, a one-hot vector."""
    widths, is_number = list[int](), list[bool]()
    for group in data.spec.parts:
        is_category = group.kind == "category"
        widths += [group.size] if is_category else [1] * group.size
        is_number += [group.kind not in ("binary", "category")] * (1 if is_category else group.size)
    ends = np.cumsum(widths).tolist()
    order = data.preprocessing.order or range(len(widths))
    names = [column.name.replace(r"\$", "$") for column in shown_columns(data)]
    found = {
        column: Channel(
            name=names[column] if len(names) == len(widths) else f"x{column}",
            values=list(range(end - width, end)), is_number=number,
        )
        for column, end, width, number in zip(order, ends, widths, is_number, strict=True)
    }  # fmt: skip
    return [found[column] for column in range(len(widths))]


@dataclass(frozen=True)
class _Cells:
    """Some channels and horizons whose errors are pooled. Errors are divided by `units` (C,) before."""

    channels: list[int]
    steps: slice
    units: Array


@dataclass(frozen=True, kw_only=True)
class Forecasts:
    """Errors of forecasts on the known values of the second halves of N sequences with C channels.

    Arrays are in the units of the data and have the shape (N, H, C), where H is the largest horizon. They are 0 where
    the value is not known.

    Args:
        channels: The channels.
        is_named: Whether scores of single channels are of interest, because they mean different things.
        known: Which values are known.
        squared: The squared errors by method; of a category, summed over its one-hot vector.
        absolute: The absolute errors by method.
        coverage: 1 where the central 80% interval of the model's draws contains the value.
        width: The widths of these intervals.
        crps: The continuous ranked probability scores of the draws.
        units: (C,) What errors of each channel are divided by if several channels are pooled: the standard deviations
            of numbers in the training data, and 1 for probabilities.
        season_errors: (C,) The mean absolute errors of the seasonal naive forecast within the training series.
        seasons: (C,) The number of steps of a season; 0 if none was found.
        is_by_step: Whether the training mean is that of the step.
        series: (N,) The number of the series of each sequence. Windows of one series depend on each other, so the
            standard errors are over the series.
    """

    channels: Sequence[Channel]
    is_named: bool
    known: Mask
    squared: Mapping[str, Array]
    absolute: Mapping[str, Array]
    coverage: Array
    width: Array
    crps: Array
    units: Array
    season_errors: Array
    seasons: NDArray[np.int64]
    is_by_step: bool
    series: NDArray[np.int64]

    @property
    def n(self) -> int:
        """The number of series."""
        return len(np.unique(self.series))

    @property
    def methods(self) -> list[str]:
        """The names of the model and of the baselines. Without a season, the seasonal forecast is persistence."""
        return [name for name in self.squared if name != "seasonal" or self.seasons.any()]

    @property
    def horizons(self) -> dict[str, slice]:
        """The horizons that are scored together: 1, 2 to 3, 4 to 7 steps ahead, and so on; the names say which."""
        last, bins, begin = self.known.shape[1], dict[str, slice](), 1
        while begin <= last:
            end = min(2 * begin - 1, last)
            bins[f"{begin}-{end}" if end > begin else f"{begin}"] = slice(begin - 1, end)
            begin = end + 1
        return bins

    def scores(self) -> dict[str, Estimate | Undefined]:
        """Return the scores that stand for all channels and horizons, by the names in `SCORES`.

        They are the root mean square error of each method, and the MASE, the coverage and the CRPS of the model. Errors
        of several channels are in units of the channels' standard deviations in the training data.
        """
        cells = self._cells()
        scores: dict[str, Estimate | Undefined] = {name: self._rmse(name, cells) for name in self.methods}
        scores.setdefault("seasonal", Undefined(NO_SEASON))
        numbers = self._of_numbers("model", cells)
        for name, reason in (("mase", "changes in the training data"), ("coverage", "exists"), ("crps", "exists")):
            scores[name] = numbers[name] or Undefined(f"no channel of numbers {reason}")
        return {name: scores[name] for name in SCORES}

    def table(self) -> dict[str, list[Any]]:
        """Return the columns of a table with a row for each channel, horizon and method.

        The first rows are of all channels together, if there are several, in units of their standard deviations in the
        training data. Others are in the units of the data. `n` is the number of series.
        """
        several = len(self.channels) > 1
        groups: dict[str, int | None] = {"all channels": None} if several else {}
        if self.is_named or not several:
            groups |= {channel.name: i for i, channel in enumerate(self.channels)}
        rows = []
        for horizons in ({"all": slice(None)}, self.horizons):
            for (group, channel), (horizon, steps) in itertools.product(groups.items(), horizons.items()):
                cells = self._cells(channel, steps)
                n = len(np.unique(self.series[self.known[:, steps][..., cells.channels].any(axis=(1, 2))]))
                for method in self.methods if n else ():
                    row: dict[str, Any] = {"channel": group, "horizon": horizon, "method": method, "n": n}
                    estimates = {"rmse": self._rmse(method, cells), **self._of_numbers(method, cells)}
                    for name, estimate in estimates.items():
                        row[name], row[f"{name}_error"] = estimate or (None, None)
                    rows.append(row)
        return {name: [row[name] for row in rows] for name in rows[0]}

    def curves(self) -> dict[str, list[tuple[int, float]]]:
        """Return the root mean square error by steps ahead of each method, for all channels together."""
        steps = [h for h in range(self.known.shape[1]) if self.known[:, h].any()]
        return {
            name: [(h + 1, self._rmse(name, self._cells(steps=slice(h, h + 1))).value) for h in steps]
            for name in self.methods
        }

    def remark(self) -> str:
        """Return the seasons that were found, and in words whether the model is better than the best baseline.

        It is better if the mean difference of squared errors exceeds 1.96 standard errors over series, or 0 if there is
        only one series.
        """
        clauses = [f"in forecasts, {self._seasons_in_words()}"]
        of_channels = enumerate(self.channels if len(self.channels) > 1 and self.is_named else ())
        if clause := self._no_better(self._cells()):
            clauses.append(clause)
        elif worse := [channel.name for i, channel in of_channels if self._no_better(self._cells(i))]:
            clauses.append(
                f"in some channels, the model forecasts no better than the best of the others: {_listed(worse)}"
            )
        coverage = self._of_numbers("model", self._cells())["coverage"]
        if coverage is not None and abs(coverage.value - LEVEL) > max(0.1, 1.96 * (coverage.error or 0.0)):
            clauses.append(
                f"the central {LEVEL:.0%} intervals of its forecasts contain {coverage.value:.0%} of the values"
            )
        if self.n == 1:
            clauses.append("all test sequences are parts of one series, so these errors have no standard errors")
        return "; ".join(clauses)

    def _no_better(self, cells: _Cells) -> str:
        """Return a clause that says that the model is no better than the best baseline; "" if it is better."""
        errors = {name: self._rmse(name, cells) for name in self.methods}
        best = min((name for name in self.methods if name != "model"), key=lambda name: errors[name].value)
        gain = self._mean(self.squared[best] - self.squared["model"], cells, cells.units**2)
        if gain is None or gain.value > 1.96 * (gain.error or 0.0):
            return ""
        title = TITLES[best] + (" of each step" if best == "mean" and self.is_by_step else "")
        return (
            f"the forecasts of the model are no better than {title} (root mean square error {errors['model']} against "
            f"{errors[best]}; difference of the mean squares {gain})"
        )

    def _seasons_in_words(self) -> str:
        found: dict[int, list[str]] = {}
        for channel, m in zip(self.channels, self.seasons.tolist(), strict=True):
            found.setdefault(m, []).append(channel.name)
        if set(found) == {0}:
            return NO_SEASON
        if len(found) == 1:
            return f"a season of {next(iter(found))} steps was found in the training data"
        parts = [f"{m} steps ({_listed(names)})" for m, names in sorted(found.items()) if m]
        without = (
            f"; none in {_listed(found[0])}, where the seasonal naive forecast is persistence" if 0 in found else ""
        )
        return f"seasons were found in the training data: {', '.join(parts)}{without}"

    def _cells(self, channel: int | None = None, steps: slice = slice(None)) -> _Cells:
        """Return all channels or a single one. A single channel is in the units of the data."""
        chosen = list(range(len(self.channels))) if channel is None else [channel]
        return _Cells(chosen, steps, self.units if len(chosen) > 1 else np.ones_like(self.units))

    def _rmse(self, method: str, cells: _Cells) -> Estimate:
        return root_mean_square(*self._sums(self.squared[method], cells, cells.units**2))

    def _of_numbers(self, method: str, cells: _Cells) -> dict[str, Estimate | None]:
        """Return the scores besides the root mean square error, which are defined for channels of numbers only.

        Scores of intervals are None for all methods but the model, because only the model makes draws.
        """
        numbers = [i for i in cells.channels if self.channels[i].is_number]
        changing = [i for i in numbers if self.season_errors[i] > 1e-9 * self.units[i]]
        cells, absolute = replace(cells, channels=numbers), self.absolute[method]
        scores = {
            "mae": self._mean(absolute, cells, cells.units),
            "mase": self._mean(absolute, replace(cells, channels=changing), self.season_errors),
        }
        of_draws = {"coverage": np.ones_like(self.units), "width": cells.units, "crps": cells.units}
        for name, units in of_draws.items():
            scores[name] = self._mean(getattr(self, name), cells, units) if method == "model" else None
        return scores

    def _mean(self, errors: Array, cells: _Cells, units: Array) -> Estimate | None:
        sums, counts = self._sums(errors, cells, units)
        return ratio(sums, counts) if counts.any() else None

    def _sums(self, errors: Array, cells: _Cells, units: Array) -> tuple[Array, Array]:
        """Return the sum of errors, divided by the units of their channels, and their number for each series."""
        chosen = cells.channels
        sums = (errors[:, cells.steps][..., chosen] / units[chosen]).sum(axis=(1, 2))
        counts = self.known[:, cells.steps][..., chosen].sum(axis=(1, 2))
        of_series: list[Array] = [np.bincount(self.series, values).astype(np.float64) for values in (sums, counts)]
        return of_series[0], of_series[1]


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def forecast(
    variant: Variant, data: Data, split: Batch, draws: int = DRAWS, *, series: Tensor | None = None
) -> Forecasts | Undefined:
    """Return the errors of forecasts of the second half of sequences from the first half.

    Missing values of the second half are left out, and those of the first half are not known to any method.

    Args:
        variant: The trained model.
        data: Its data. The baselines are fitted to the training split, and chosen on the validation split.
        split: The sequences that are forecast.
        draws: The number of continuations by the model for each sequence, at least 2.
        series: The number of the series of each sequence, (N,), if sequences are windows of longer series.
    """
    if split.mask is None:
        return Undefined(f"{data.spec.name} holds no sequences")
    halves, found = _halves(data, split), channels(data)
    if not halves.horizon or not halves.known_ahead.any():
        return Undefined("no value of the second half of these sequences is known")
    drawn = _errors_of_model(variant, data, split, halves, found, draws)
    if drawn is None:
        return Undefined(f"{type(variant).__name__} makes no forecasts of sequences")
    is_named = data.layout == "lines"
    size = max(100, TRAINING_VALUES // data.train.x[0].numel())
    train, valid = _halves(data, probe.subset(data.train, size)), _halves(data, probe.subset(data.valid, VALIDATED))
    every = [position for channel in found for position in channel.values]
    fitted = simple_forecasts.fit(train, valid, [c.values for c in found] if is_named else [every])
    truth = halves.ahead(halves.values)
    errors = {name: values - truth for name, values in fitted.forecasts(halves).items()}
    errors = {"model": drawn.pop("error"), **errors}
    first = [channel.values[0] for channel in found]
    known, is_number = halves.known_ahead[..., first], np.array([channel.is_number for channel in found])

    def by_channel(values: Array) -> Array:
        return np.where(known, np.stack([values[..., c.values].sum(axis=-1) for c in found], axis=-1), 0.0)

    return Forecasts(
        channels=found, is_named=is_named, known=known,
        squared={name: by_channel(error**2) for name, error in errors.items()},
        absolute={name: by_channel(np.abs(error)) for name, error in errors.items()},
        **{name: by_channel(values) for name, values in drawn.items()},
        units=np.where(is_number, fitted.deviations[first], 1.0),
        season_errors=simple_forecasts.seasonal_error(train, fitted.seasons)[first],
        seasons=fitted.seasons[first], is_by_step=fitted.is_by_step,
        series=np.arange(len(split)) if series is None else series.numpy(),
    )  # fmt: skip


def _halves(data: Data, split: Batch) -> Halves:
    """Return sequences in the units of the data, with one-hot vectors of categories."""
    assert split.mask is not None
    batches = list(data.batches(split))
    values = np.concatenate([_in_units(batch.x, data) for batch in batches])
    known = np.concatenate([baselines.is_known(batch).cpu().numpy() for batch in batches])
    return Halves(values=values, known=known, lengths=split.mask.sum(1).cpu().numpy())


def _in_units(x: Tensor, data: Data) -> Array:
    """Return values (..., V) in the units of the data."""
    found = channels(data)
    scale, shift = np.ones(x.shape[-1]), np.zeros(x.shape[-1])
    for of_values, of_columns in ((scale, data.preprocessing.scale), (shift, data.preprocessing.shift)):
        for channel, number in zip(found, np.broadcast_to(of_columns.numpy(), (len(found),)), strict=True):
            if channel.is_number:
                of_values[channel.values] = number
    return x.double().cpu().numpy() * scale + shift


def _errors_of_model(
    variant: Variant, data: Data, split: Batch, halves: Halves, found: Sequence[Channel], draws: int
) -> dict[str, Array] | None:
    """Return the errors of the mean of the draws, and `coverage`, `width` and `crps` of the draws: (N, H, V) each."""
    size = max(1, min(20, BATCH_VALUES // (draws * split.x[0].numel())))
    parts: dict[str, list[Array]] = {}
    with machine.seeded(variant.device, 0):
        for number, batch in enumerate(data.batches(split, size)):
            chosen = slice(number * size, number * size + len(batch))
            prefix = torch.from_numpy(halves.origins[chosen]).to(variant.device)
            continuations = variant.forecast(batch, prefix, draws, noise=True)
            if continuations is None:
                return None
            steps = (halves.origins[chosen, None] + np.arange(halves.horizon)).clip(max=split.x.shape[1] - 1)
            ahead = _in_units(continuations, data)[:, np.arange(len(batch))[:, None], steps]
            truth = halves.values[chosen][np.arange(len(batch))[:, None], steps]
            for name, values in scores_of_draws(ahead, truth).items():
                parts.setdefault(name, []).append(values)
    return {name: np.concatenate(values) for name, values in parts.items()}


def scores_of_draws(draws: Array, truth: Array) -> dict[str, Array]:
    """Return scores of draws (k, ...) of a value: the `error` of their mean, `coverage`, `width` and `crps`.

    A limit of the interval is the draw whose rank is a share p (k + 1) of all, so that draws from the true distribution
    cover as often as they should. The continuous ranked probability score is E|X - x| - E|X - X'| / 2 for independent
    draws X and X' (Gneiting & Raftery 2007, equation 21), without bias by the number of draws.
    """
    k = len(draws)
    low, high = np.quantile(draws, ((1 - LEVEL) / 2, (1 + LEVEL) / 2), axis=0, method="weibull")
    ranks = (2 * np.arange(1, k + 1) - k - 1).reshape(-1, *[1] * truth.ndim)
    between = (ranks * np.sort(draws, axis=0)).sum(axis=0) / (k * (k - 1))
    return {
        "error": draws.mean(axis=0) - truth,
        "coverage": ((low <= truth) & (truth <= high)).astype(np.float64),
        "width": high - low,
        "crps": np.abs(draws - truth).mean(axis=0) - between,
    }
