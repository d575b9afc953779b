"""Forecasts that need no model: persistence, the seasonal naive forecast, the training mean, a linear autoregression.

They are fitted to training series. Arrays are in the units of the data, with V values in each step; a category is a
one-hot vector, so that its forecasts are probabilities.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
ORDERS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48)  # of autoregressions, besides those of a season
FITTED = 50_000  # the most rows that an autoregression is fitted to
LEAST_DIP = 0.1  # how much more alike values one season apart have to be, as a share of their mean square difference
NOTHING = 1e-10  # mean square differences below, in units of the variance, may be rounding errors
SINGULAR = 1e-10  # the smallest eigenvalue of a least squares problem that counts, relative to the largest


@dataclass(frozen=True, kw_only=True)
class Halves:
    """N sequences of at most T steps, whose second halves are forecast from their first halves.

    Of a sequence with an odd number of steps, the first half has one step more.

    Args:
        values: (N, T, V) in the units of the data, and any numbers where they are not known.
        known: (N, T, V), which values are real and not missing.
        lengths: (N,) The number of steps of each sequence.
    """

    values: Array
    known: Mask
    lengths: NDArray[np.int64]

    @property
    def origins(self) -> NDArray[np.int64]:
        """The number of steps of each first half, (N,)."""
        return np.asarray((self.lengths + 1) // 2)

    @property
    def horizon(self) -> int:
        """The largest number of steps that are forecast."""
        return int((self.lengths - self.origins).max())

    @property
    def known_ahead(self) -> Mask:
        """Which values of the second halves are known, (N, horizon, V)."""
        is_real = np.arange(self.horizon) < (self.lengths - self.origins)[:, None]
        known: Mask = self.ahead(self.known) & is_real[..., None]
        return known

    def ahead(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return values (N, T, ...) of the second halves, (N, horizon, ...), the first forecast step first."""
        steps = (self.origins[:, None] + np.arange(self.horizon)).clip(max=values.shape[1] - 1)
        return np.asarray(values[np.arange(len(values))[:, None], steps])

    def first_halves(self, default: Array) -> Array:
        """Return the values of the first halves without gaps, (N, T, V); see `filled`."""
        before = np.arange(self.values.shape[1]) < self.origins[:, None]
        return filled(self.values, self.known & before[..., None], default)


def filled(values: Array, known: Mask, default: Array) -> Array:
    """Return values (N, T, V) with the last known value in place of those that are not known.

    The first known value stands before it. A series without any known value gets `default` (V,).
    """
    steps = np.arange(values.shape[1])[:, None]
    last = np.maximum.accumulate(np.where(known, steps, -1), axis=1)
    position = np.where(last < 0, known.argmax(axis=1)[:, None], last)
    return np.where(known.any(axis=1, keepdims=True), np.take_along_axis(values, position, axis=1), default)


@dataclass(frozen=True, kw_only=True)
class SimpleForecasts:
    """Forecasts by rules that were fitted to training series.

    Args:
        default: (V,) The mean of each value.
        by_step: (T, V) The mean of each value and step.
        is_by_step: Whether the forecast `mean` is that of the step, which was better on validation series, and not the
            mean of all steps.
        seasons: (V,) The number of steps of a season; 0 if none was found.
        coefficients: For each value, those of an autoregression of its standardised values: of the last step first,
            and the constant at the end.
        deviations: (V,) The standard deviation of each value.
    """

    default: Array
    by_step: Array
    is_by_step: bool
    seasons: NDArray[np.int64]
    coefficients: Sequence[Array]
    deviations: Array

    def forecasts(self, halves: Halves) -> dict[str, Array]:
        """Return the forecasts of the second halves by the name of the baseline, (N, horizon, V) each.

        `persistence` repeats the last known value, and `seasonal` the last known season (if a first half is shorter
        than a season, its first value). The `autoregression` is iterated.
        """
        before, shape = halves.first_halves(self.default), halves.known_ahead.shape
        last = np.take_along_axis(before, halves.origins[:, None, None] - 1, axis=1)
        return {
            "persistence": np.broadcast_to(last, shape),
            "seasonal": self._seasonal(before, halves),
            "mean": self._mean(halves),
            "autoregression": self._autoregression(before, halves),
        }

    def _mean(self, halves: Halves) -> Array:
        steps = np.broadcast_to(self.by_step if self.is_by_step else self.default, halves.values.shape)
        return halves.ahead(steps)

    def _seasonal(self, before: Array, halves: Halves) -> Array:
        ahead = np.arange(halves.horizon)[:, None]
        season = np.where(self.seasons > 0, self.seasons, 1)
        back = season - ahead % season  # (horizon, V) steps before the origin
        position = (halves.origins[:, None, None] - back).clip(min=0)
        return np.take_along_axis(before, position, axis=1)

    def _autoregression(self, before: Array, halves: Halves) -> Array:
        standardised = (before - self.default) / self.deviations
        parts = [
            iterated(standardised[..., v], halves.origins, coefficients, halves.horizon)
            for v, coefficients in enumerate(self.coefficients)
        ]
        return np.stack(parts, axis=-1) * self.deviations + self.default


def fit(train: Halves, valid: Halves, channels: Sequence[Sequence[int]]) -> SimpleForecasts:
    """Return the baselines of training series. Their choices are made on the second halves of validation series.

    `channels` are the values of each channel, which have one season. A channel may be several categories.
    """
    counts = train.known.sum(axis=(0, 1))
    default = np.where(train.known, train.values, 0.0).sum(axis=(0, 1)) / counts.clip(min=1)
    squares = np.where(train.known, (train.values - default) ** 2, 0.0).sum(axis=(0, 1))
    spread = np.sqrt(squares / counts.clip(min=1))
    deviations = np.where(spread > 0, spread, 1.0)
    of_step = train.known.sum(axis=0)
    by_step = np.where(train.known, train.values, 0.0).sum(axis=0) / of_step.clip(min=1)
    by_step = np.where(of_step > 0, by_step, default)
    seasons = np.zeros(len(default), np.int64)
    for values in channels:
        seasons[list(values)] = season(train, values, deviations)
    known, truth = valid.known_ahead, valid.ahead(valid.values)
    errors = [
        np.where(known, truth - valid.ahead(np.broadcast_to(mean, valid.values.shape)), 0.0) / deviations
        for mean in (by_step, default)
    ]
    return SimpleForecasts(
        default=default, by_step=by_step, is_by_step=bool((errors[0] ** 2).sum() <= (errors[1] ** 2).sum()),
        seasons=seasons, coefficients=_coefficients(train, valid, default, deviations, seasons), deviations=deviations,
    )  # fmt: skip


def season(train: Halves, values: Sequence[int], deviations: Array) -> int:
    """Return the number of steps after which the values of training series are like before; 0 if there is none.

    After m steps, the mean square difference of values has to be a minimum that is clearly lower than both at fewer and
    at more steps. This is a maximum of the autocorrelation. A line is subtracted from each series first, so that a
    trend does not count. Of seasons that are nearly as good, the shortest is taken. A series has to contain at least
    two of them.
    """
    total, pairs = np.zeros(train.values.shape[1]), np.zeros(train.values.shape[1])
    for v in values:
        x = _without_line(train.values[..., v] / deviations[v], train.known[..., v])
        sums, counts = squared_differences(x, train.known[..., v])
        total, pairs = total + sums, pairs + counts
    longest, known = int(np.median(train.lengths)) // 2, pairs[0]
    difference = np.where(pairs > 0, total / pairs.clip(min=1), np.inf)
    found: list[tuple[int, float, float]] = []  # the season, the mean square difference, and the one between
    for m in range(2, longest + 1):
        after = difference[m + 1 : m + max(2, m // 2 + 1)]
        between = min(difference[1:m].max(), after.max(initial=0.0))
        if difference[m] > min(difference[m - 1], after.min(initial=np.inf)) or not NOTHING < between < np.inf:
            continue
        if difference[m] < (1 - max(LEAST_DIP, 3 * np.sqrt(m / max(known, 1)))) * between:
            found.append((m, difference[m], between))
    if not found:
        return 0
    _, least, between = min(found, key=lambda each: each[1])
    return next(m for m, value, _ in found if value <= least + LEAST_DIP * (between - least))


def _without_line(x: Array, known: Mask) -> Array:
    """Return series (N, T) without the lines that fit them best; 0 where they are not known."""
    weight = known / known.sum(axis=1, keepdims=True).clip(min=1)
    t = np.arange(x.shape[1]) - (weight * np.arange(x.shape[1])).sum(axis=1, keepdims=True)
    x = np.where(known, x, 0.0)
    x = x - (weight * x).sum(axis=1, keepdims=True)
    slope = (weight * t * x).sum(axis=1, keepdims=True) / (weight * t * t).sum(axis=1, keepdims=True).clip(min=1e-12)
    return np.where(known, x - slope * t, 0.0)


def squared_differences(x: Array, known: Mask) -> tuple[Array, Array]:
    """Return the sums of (x[t + m] - x[t])² over known pairs of series (N, T), and their numbers, (T,) for each m."""
    steps = x.shape[1]
    x = np.where(known, x, 0.0)
    k, first, second = (np.fft.rfft(values, 2 * steps, axis=1) for values in (known.astype(float), x, x * x))

    def lagged(a: NDArray[np.complex128], b: NDArray[np.complex128]) -> Array:
        return np.asarray(np.fft.irfft((a.conj() * b).sum(axis=0))[:steps])

    sums = lagged(second, k) + lagged(k, second) - 2 * lagged(first, first)
    return sums.clip(min=0), lagged(k, k).round()


def seasonal_error(train: Halves, seasons: NDArray[np.int64]) -> Array:
    """Return the mean absolute error of the seasonal naive forecast within training series, (V,); NaN without any pair.

    It is the mean of |x[t] - x[t - m]| over all known pairs of a series, with m = 1 if there is no season (Hyndman &
    Koehler 2006).
    """
    errors = np.full(len(seasons), np.nan)
    for v, m in enumerate(np.where(seasons > 0, seasons, 1).tolist()):
        both = train.known[:, m:, v] & train.known[:, :-m, v]
        if both.any():
            errors[v] = np.abs(train.values[:, m:, v] - train.values[:, :-m, v])[both].mean()
    return errors


def _coefficients(
    train: Halves, valid: Halves, default: Array, deviations: Array, seasons: NDArray[np.int64]
) -> list[Array]:
    """Return the coefficients of an autoregression for each value, of the order that forecasts validation series best.

    They are fitted by least squares to all steps of the training series whose value is known. Missing earlier values
    are replaced by the last known one.
    """
    most = max(1, int(np.median(train.origins)))
    series = (filled(train.values, train.known, default) - default) / deviations
    before = (valid.first_halves(default) - default) / deviations
    truth, known_ahead = (valid.ahead(valid.values) - default) / deviations, valid.known_ahead
    chosen = []
    for v, m in enumerate(seasons.tolist()):
        orders = sorted({order for order in (*ORDERS, m, m + 1) if 1 <= order <= most})
        gram = _gram(series[..., v], train.known[..., v], max(orders))
        candidates, losses = [], []
        for order in orders:
            candidates.append(_least_squares(gram, order))
            forecast = iterated(before[..., v], valid.origins, candidates[-1], valid.horizon)
            errors = np.where(known_ahead[..., v], forecast - truth[..., v], 0.0)
            losses.append((errors**2).sum())
        chosen.append(candidates[int(np.argmin(losses))])
    return chosen


def _gram(series: Array, known: Mask, order: int) -> Array:
    """Return the products of the columns 1, x[t], x[t-1], ..., x[t-order], summed over known x[t] of series (N, T)."""
    rows = np.lib.stride_tricks.sliding_window_view(series, order + 1, axis=1).reshape(-1, order + 1)[:, ::-1]
    rows = rows[known[:, order:].reshape(-1)]
    rows = rows[:: -(-len(rows) // FITTED) or 1]
    columns = np.concatenate([np.ones((len(rows), 1)), rows], axis=1)
    return np.asarray(columns.T @ columns)


def _least_squares(gram: Array, order: int) -> Array:
    """Return the coefficients of x[t-1], ..., x[t-order] and the constant, by which least squares predicts x[t]."""
    used = [*range(2, 2 + order), 0]
    solution: Array = np.linalg.pinv(gram[np.ix_(used, used)], rcond=SINGULAR, hermitian=True) @ gram[used, 1]
    return solution


def iterated(before: Array, origins: NDArray[np.int64], coefficients: Array, horizon: int) -> Array:
    """Return iterated forecasts, (N, horizon), of series (N, T) from their first `origins` (N,) steps.

    Where a first half is shorter than the order, its first value stands before it. Forecasts that grow without bound
    end at 1e6 standard deviations.
    """
    order = len(coefficients) - 1
    back = (origins[:, None] - np.arange(order, 0, -1)).clip(min=0)
    path = np.concatenate([np.take_along_axis(before, back, axis=1), np.zeros((len(before), horizon))], axis=1)
    for h in range(horizon):
        path[:, order + h] = path[:, h : order + h][:, ::-1] @ coefficients[:-1] + coefficients[-1]
        np.clip(path[:, order + h], -1e6, 1e6, out=path[:, order + h])
    return path[:, order:]
