"""Draws sequences with a panel for each channel: the data, means and quantiles of a model, and steps that are marked.

The panels are drawn with Matplotlib's renderer alone (see `plot`), because figures with dozens of axes take seconds.
"""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluate import drawing
from pipeline.evaluate.drawing import BLUE, GREY, Picture, ShownColumn
from pipeline.evaluate.plot import Array, Canvas, numbers

CHANNELS = 8  # the most channels that are drawn
BANDS = ("#d6e2ef", "#a9c3df", "#7ba3cc")  # of bands of quantiles, from the outermost to the innermost
RED, PALE_RED, FRAME, LINE_AT = "#cc3311", "#f7d4cc", "#cccccc", "#555555"
WIDTHS, HEIGHT = (200, 900), 96  # pixels of the part of a panel in which values are drawn
ALL = 960  # pixels that the panels of a row share
ABOVE, BETWEEN, BELOW = 30, 24, 44  # pixels above a row of panels, beside a panel, and below all panels
TITLE, NUMBER = 8.8, 7.0  # the sizes of texts in typographic points


@dataclass(frozen=True, kw_only=True)
class ShownSeries:
    """A sequence of T steps with D channels that is drawn in a column of panels.

    Args:
        title: The title above the column.
        x: (T,) The positions of the steps, or their times (numbers or `datetime64`).
        truth: (T, D) The values of the data, which are NaN where they are missing. They are drawn in grey.
        mean: (T, D) What a model gives in their place, in blue; NaN where it gives nothing.
        bands: Pairs of lower and upper limits, (T, D) each, in light blue, with the outermost pair first.
        marked: (T, D) bool, the steps that are marked in red.
        lines: Further values, (T, D) each, with the colours of their lines.
        forecast_from: The place on the x axis where a forecast begins, which is marked by a vertical line.
    """

    title: str
    x: NDArray[np.generic]
    truth: Array
    mean: Array | None = None
    bands: Sequence[tuple[Array, Array]] = ()
    marked: NDArray[np.bool_] | None = None
    lines: Sequence[tuple[Any, Array]] = ()
    forecast_from: float | np.datetime64 | None = None


@dataclass(frozen=True, kw_only=True)
class _Axis:
    """Where values lie on an axis: from 0 at its lower end to 1 at its upper end."""

    low: float
    high: float
    ticks: Sequence[tuple[float, str]]  # values, on the scale of the axis, and their texts
    note: str = ""  # what all ticks share, such as the year
    scale: str = "linear"  # or "log", or "log1p", which is logarithmic for large values

    def place(self, values: Array) -> Array:
        with np.errstate(invalid="ignore", divide="ignore"):
            scaled = _scaled(np.asarray(values, float), self.scale)
        share: Array = (scaled - self.low) / (self.high - self.low)
        return share.clip(-1, 2)  # far beyond the panel, where nothing is drawn


def _scaled(values: Array, scale: str) -> Array:
    if scale == "linear":
        return values
    return np.log1p(values.clip(min=0)) if scale == "log1p" else np.log(np.maximum(values, 1e-300))


def panels(
    shown: Sequence[ShownSeries], channels: Sequence[str | ShownColumn], x_label: str = "step", caption: str = ""
) -> Picture:
    """Return a picture with a row of panels for each channel and a column of panels for each series.

    At most 8 channels are drawn, the first ones. The panels of a row have the same vertical axis, which is logarithmic
    for positive values and counts of very different sizes. Binary and category channels are drawn as steps.

    Args:
        shown: The series, at least one.
        channels: The name of each channel, which is then real-valued, or its description by `drawing.shown_columns`.
        x_label: What the horizontal axis shows.
        caption: A text above the panels, such as what the colours mean.
    """
    columns = [c if isinstance(c, ShownColumn) else ShownColumn(drawing.short(c), "real") for c in channels]
    if len(columns) > CHANNELS:
        left_out = f"the first {CHANNELS} of {len(columns)} channels are shown"
        caption = f"{caption}; {left_out}" if caption else left_out
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # for names in scripts that the font lacks
        warnings.filterwarnings("ignore", "AutoDateLocator was unable")  # it then has a few more or fewer ticks
        return _picture(shown, columns[:CHANNELS], x_label, caption)


def _picture(shown: Sequence[ShownSeries], columns: Sequence[ShownColumn], x_label: str, caption: str) -> Picture:
    ruler = Canvas(1, 1)
    axes = [_vertical(column, shown, i) for i, column in enumerate(columns)]
    left = 16 + max((int(ruler.measure(text, NUMBER)[0]) for axis in axes for _, text in axis.ticks), default=0)
    width = int(np.clip(ALL // len(shown), *WIDTHS))
    top = ABOVE + (ABOVE if caption else 0)
    size = (
        max(left + len(shown) * (width + BETWEEN), left + BETWEEN + int(ruler.measure(caption, NUMBER)[0]), 256),
        top + len(columns) * (ABOVE + HEIGHT) + BELOW,
    )
    canvas = Canvas(*size)
    canvas.text(caption, left, size[1] - 22, NUMBER, share=0.0)
    for number, series in enumerate(shown):
        begin = left + number * (width + BETWEEN)
        horizontal, moved = _horizontal(series, width)
        canvas.text(_fitting(series.title, width, ruler), begin + width / 2, size[1] - top + 6, TITLE)
        for row, (column, axis) in enumerate(zip(columns, axes, strict=True)):
            bottom = size[1] - top - (row + 1) * (ABOVE + HEIGHT)
            panel = _Panel(
                canvas=canvas, left=begin, bottom=bottom, width=width, horizontal=horizontal, vertical=axis
            )  # fmt: skip
            panel.draw(series, moved, column, row)
            if number == 0:
                canvas.text(column.name, begin, bottom + HEIGHT + 6, NUMBER, share=0.0)
                for value, text in axis.ticks:
                    y = bottom + HEIGHT * float(_share(axis, value))
                    canvas.text(text, begin - 6, y - 5, NUMBER, share=1.0)
        for value, text in horizontal.ticks:
            place, half = begin + width * float(_share(horizontal, value)), ruler.measure(text, NUMBER)[0] / 2
            beyond = half - BETWEEN / 3  # so that texts of two panels do not meet
            canvas.text(text, min(max(place, begin + beyond), begin + width - beyond), bottom - 16, NUMBER)
        canvas.text(horizontal.note, begin + width, 8, NUMBER, share=1.0)
    canvas.text(x_label, left, 8, NUMBER, share=0.0)
    return canvas.pixels[..., :3].copy()


def _share(axis: _Axis, tick: float) -> float:
    return (tick - axis.low) / (axis.high - axis.low)


def _fitting(title: str, width: int, ruler: Canvas) -> str:
    """Return a title that is no wider than a panel."""
    text = drawing.short(title, 200)
    for length in range(min(len(title), 80), 9, -4):
        if ruler.measure(text, TITLE)[0] <= width:
            break
        text = drawing.short(title, length)
    return text


@dataclass(frozen=True, kw_only=True)
class _Panel:
    """One panel, whose part with values begins at a place in pixels from the lower left corner of the picture."""

    canvas: Canvas
    left: float
    bottom: float
    width: int
    horizontal: _Axis
    vertical: _Axis

    def draw(self, series: ShownSeries, x: Array, column: ShownColumn, channel: int) -> None:
        """Draw a channel of a series whose steps are at `x`, on the scale of the horizontal axis."""
        canvas, is_stepped = self.canvas, column.kind in ("binary", "category")
        canvas.clip(self.left, self.bottom, self.width, HEIGHT)
        marked = None if series.marked is None else series.marked[:, channel]
        if marked is not None:
            for first, last in _runs(marked):
                self._stripe(*_between(x, first, last))
        for colour, (low, high) in zip(BANDS, series.bands, strict=False):
            self._band(x, low[:, channel], high[:, channel], colour)
        self._grid()
        self._line(x, series.truth[:, channel], GREY, 1.4, is_stepped)
        if marked is not None:
            self._line(x, np.where(_with_neighbours(marked), series.truth[:, channel], np.nan), RED, 1.4, is_stepped)
        for colour, values in series.lines:
            self._line(x, values[:, channel], colour, 0.9, is_stepped)
        if series.mean is not None:
            self._line(x, series.mean[:, channel], BLUE, 0.9, is_stepped)
        if series.forecast_from is not None:
            at = float(self.horizontal.place(_as_numbers(np.asarray([series.forecast_from])))[0])
            canvas.path(self._pixels(np.array([at, at]), np.array([0.0, 1.0])), colour=LINE_AT, width=0.6)
        canvas.clip()
        corners = np.array([[0, 0], [1, 0], [1, 1], [0, 1], [0, 0]], float)
        canvas.path(self._pixels(corners[:, 0], corners[:, 1]), colour=FRAME, width=0.6)

    def _pixels(self, x: Array, y: Array) -> Array:
        """Return shares of the panel as places in pixels, (N, 2)."""
        return np.stack([self.left + self.width * x, self.bottom + HEIGHT * y], axis=1)

    def _grid(self) -> None:
        for value, _ in self.vertical.ticks:
            y = _share(self.vertical, value)
            self.canvas.path(self._pixels(np.array([0.0, 1.0]), np.array([y, y])), colour="#e2e2e2", width=0.5)

    def _line(self, x: Array, values: Array, colour: Any, width: float, is_stepped: bool) -> None:
        """Draw values as a line with gaps where they are NaN, and those between two gaps as points."""
        known = np.isfinite(values)
        alone = known & ~np.r_[False, known[:-1]] & ~np.r_[known[1:], False]
        places = self.horizontal.place(x)
        if is_stepped and len(x) > 1:
            edges = _edges(x)
            places = self.horizontal.place(np.stack([edges[:-1], edges[1:]], axis=1).ravel())
            values = values.repeat(2)
        self.canvas.path(self._pixels(places, self.vertical.place(values)), colour=colour, width=width)
        if alone.any() and not is_stepped:
            points = self._pixels(places[alone], self.vertical.place(values[alone]))
            self.canvas.points(points, colour, 2.2 * width + 1)

    def _band(self, x: Array, low: Array, high: Array, colour: str) -> None:
        places = self.horizontal.place(x)
        low, high = self.vertical.place(low), self.vertical.place(high)
        for first, last in _runs(np.isfinite(low) & np.isfinite(high)):
            chosen = slice(first, last + 1)
            across = np.concatenate([places[chosen], places[chosen][::-1]])
            self.canvas.path(self._pixels(across, np.concatenate([low[chosen], high[chosen][::-1]])), fill=colour)

    def _stripe(self, begin: float, end: float) -> None:
        """Fill the steps between two places on the horizontal axis, at least 2 pixels wide."""
        first, last = self.horizontal.place(np.array([begin, end]))
        last = max(last, first + 2 / self.width)
        x = np.array([first, last, last, first])
        self.canvas.path(self._pixels(x, np.array([0.0, 0.0, 1.0, 1.0])), fill=PALE_RED)


def _runs(chosen: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Return the first and the last position of each run of true values."""
    changes = np.diff(np.r_[False, chosen, False].astype(np.int8))
    return list(zip(np.flatnonzero(changes == 1).tolist(), (np.flatnonzero(changes == -1) - 1).tolist(), strict=True))


def _with_neighbours(marked: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return marked steps that stand alone together with the next one, because a line needs two points."""
    result: NDArray[np.bool_] = marked | np.r_[False, marked[:-1]]
    return result


def _edges(x: Array) -> Array:
    """Return the places in the middle between steps, and half a step before the first and after the last, (T + 1,)."""
    middles = (x[1:] + x[:-1]) / 2
    return np.concatenate([[x[0] - (x[1] - x[0]) / 2], middles, [x[-1] + (x[-1] - x[-2]) / 2]])


def _between(x: Array, first: int, last: int) -> tuple[float, float]:
    edges = _edges(x) if len(x) > 1 else np.array([x[0] - 0.5, x[0] + 0.5])
    return float(edges[first]), float(edges[last + 1])


def _as_numbers(x: NDArray[np.generic]) -> Array:
    """Return positions and times as numbers; dates as days."""
    if np.asarray(x).dtype.kind == "M":
        from matplotlib.dates import date2num

        return np.asarray(date2num(x), float)
    return np.asarray(x, float)


def _horizontal(series: ShownSeries, width: int) -> tuple[_Axis, Array]:
    """Return the horizontal axis of a series, and the places of its steps on it."""
    x = _as_numbers(series.x)
    low, high = (float(x.min()), float(x.max())) if len(x) else (0.0, 1.0)
    margin = 0.02 * (high - low) or 0.5
    low, high = low - margin, high + margin
    most, note = max(2, width // 60), ""
    if np.asarray(series.x).dtype.kind == "M":
        from matplotlib.dates import AutoDateLocator, ConciseDateFormatter, num2date

        locator = AutoDateLocator(minticks=2, maxticks=most)
        places = np.asarray(locator.tick_values(num2date(low), num2date(high)), float)
        formatter = ConciseDateFormatter(locator)
        texts, note = formatter.format_ticks(places.tolist()), formatter.get_offset()
    else:
        from matplotlib.ticker import MaxNLocator

        places = np.asarray(MaxNLocator(most, steps=[1, 2, 5, 10], integer=x.dtype.kind != "f").tick_values(low, high))
        texts = numbers(places)
    ticks = [(p, text) for p, text in zip(places.tolist(), texts, strict=True) if low <= p <= high]
    return _Axis(low=low, high=high, ticks=ticks, note=note), x


def _vertical(column: ShownColumn, shown: Sequence[ShownSeries], channel: int) -> _Axis:
    """Return the vertical axis of a channel, which all series share.

    It shows all values of the data. What a model gives is shown as far as it is at most their range away from them, and
    means of forecasts as far as they are at most 5 times this range away.
    """
    if column.values:
        step = math.ceil(len(column.values) / 6)
        ticks = [(float(i), name.replace(r"\$", "$")) for i, name in enumerate(column.values)][::step]
        return _Axis(low=-0.3, high=len(column.values) - 0.7, ticks=ticks)
    truth = _finite([series.truth[:, channel] for series in shown])
    others = _finite(
        [series.mean[:, channel] for series in shown if series.mean is not None]
        + [limit[:, channel] for series in shown for band in series.bands for limit in band]
        + [values[:, channel] for series in shown for _, values in series.lines]
    )
    ahead = _finite([s.mean[:, channel] for s in shown if s.mean is not None and s.forecast_from is not None])
    if len(truth) and len(ahead):
        reach = 5 * (truth.max() - truth.min() or abs(truth.max()) or 1.0)
        truth = np.concatenate([truth, ahead.clip(truth.min() - reach, truth.max() + reach)])
    known = truth if len(truth) else others
    is_log = drawing.has_log_axis(column.kind, known)
    scale = "linear" if not is_log else "log1p" if column.kind == "count" else "log"
    known, others = (values[np.isfinite(values)] for values in (_scaled(known, scale), _scaled(others, scale)))
    low, high = (float(known.min()), float(known.max())) if len(known) else (0.0, 1.0)
    reach = high - low or abs(high) or 1.0
    if len(others):
        low, high = max(min(low, others.min()), low - reach), min(max(high, others.max()), high + reach)
    margin = 0.06 * (high - low) or 0.5 * reach
    low, high = low - margin, high + margin
    return _Axis(low=low, high=high, ticks=_ticks(low, high, scale, column.kind == "count"), scale=scale)


def _finite(values: Sequence[Array]) -> Array:
    joined = np.concatenate([np.asarray(v, float) for v in values]) if values else np.empty(0)
    return joined[np.isfinite(joined)]


def _ticks(low: float, high: float, scale: str, is_whole: bool) -> list[tuple[float, str]]:
    """Return places on the scale of a vertical axis, and their texts."""
    if scale == "linear":
        from matplotlib.ticker import MaxNLocator

        places = np.asarray(MaxNLocator(3, steps=[1, 2, 5, 10], integer=is_whole).tick_values(low, high))
        pairs = zip(places.tolist(), numbers(places), strict=True)
        return [(place, text) for place, text in pairs if low <= place <= high]
    first, last = (np.exp((low, high)) if scale == "log" else np.expm1((max(low, 0.0), high))).tolist()
    powers = [10.0**k for k in range(math.floor(math.log10(max(first, 1e-300))), math.ceil(math.log10(last)) + 1)]
    if scale == "log1p":
        powers = [0.0, *(p for p in powers if p >= 1)]
    inside = [p for p in powers if first <= p <= last]
    if len(inside) < 2:
        inside = [m * p for p in powers for m in (1, 2, 5) if first <= m * p <= last]
    inside = inside[:: math.ceil(len(inside) / 4) or 1]
    return [(float(_scaled(np.array([p]), scale)[0]), f"{p:g}") for p in inside]
