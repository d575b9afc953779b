"""Draws plots of points, lines and bars with Matplotlib's renderer alone, in a tenth of the time of its figures.

Every trial has such plots, and a small trial takes only seconds. Other figures are drawn by `drawing.figure`.
"""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluate.drawing import BLUE, DPI, Picture

Array = NDArray[Any]
WIDTH, HEIGHT = 370, 370  # pixels of the part of a panel in which values are drawn
LEFT, RIGHT, TOP, BOTTOM = 120, 25, 45, 75  # pixels around it
TEXT, GREY_LEVEL = "#262626", 204  # the colour of texts, and the level of the grid
TITLE, NUMBER = 9.6, 8.8  # the sizes of texts in typographic points
LINE_HEIGHT = 24  # pixels between the names of two classes


@dataclass(frozen=True, kw_only=True)
class Panel:
    """What one panel of a plot shows.

    Args:
        title: The title above the panel.
        labels: The labels of the horizontal and of the vertical axis.
        limits: The lowest and the highest value of each axis.
        points: Groups of points (N, 2), each with its colour.
        diameter: The diameter of the points in pixels.
        lines: Lines (N, 2), which are black.
        bars: The heights of bars at 1, 2, 3, ... on the horizontal axis.
        names: The names of classes with their colours, which stand on the right of the panel.
    """

    title: str
    labels: tuple[str, str]
    limits: tuple[tuple[float, float], tuple[float, float]]
    points: Sequence[tuple[Array, str]] = ()
    diameter: float = 7.0
    lines: Sequence[Array] = ()
    bars: Sequence[float] = ()
    names: Sequence[tuple[str, str]] = ()


def limits_of(values: Array) -> tuple[float, float]:
    """Return the limits of an axis for values (N,), with a margin; values that are not finite do not count."""
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 1.0)
    margin = 0.05 * (high - low) or 0.5
    return low - margin, high + margin


def picture(panels: Sequence[Panel]) -> Picture:
    """Return a picture of panels, which stand beside each other."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # for names in scripts that the font lacks
        ruler = Canvas(1, 1)
        widths = [
            LEFT + WIDTH + RIGHT + max((int(ruler.measure(name, NUMBER)[0]) + 25 for name, _ in panel.names), default=0)
            for panel in panels
        ]
        canvas = Canvas(sum(widths), BOTTOM + HEIGHT + TOP)
        for panel, begin in zip(panels, np.cumsum([0, *widths]).tolist(), strict=False):
            _draw(panel, canvas, begin + LEFT)
    return canvas.pixels[..., :3].copy()


def _draw(panel: Panel, canvas: "Canvas", left: int) -> None:
    """Draw a panel, whose part with values begins `left` pixels from the left edge of the picture."""
    from matplotlib.ticker import MaxNLocator

    corner, (lows, highs) = np.array([left, BOTTOM]), np.array(panel.limits).T

    def placed(values: Any) -> Array:
        place: Array = corner + (np.asarray(values, float) - lows) / (highs - lows) * (WIDTH, HEIGHT)
        return place

    ticks: list[Array] = [
        np.asarray(MaxNLocator(6, steps=[1, 2, 5, 10]).tick_values(*limits)) for limits in panel.limits
    ]
    if len(panel.bars):
        ticks[0] = np.arange(1, len(panel.bars) + 1, max(1, len(panel.bars) // 8))
    frame = canvas.pixels[TOP : TOP + HEIGHT + 1, left : left + WIDTH + 1]
    frame[[0, -1]] = frame[:, [0, -1]] = GREY_LEVEL
    for axis, values in enumerate(ticks):
        values = values[(values >= lows[axis]) & (values <= highs[axis])]
        for value, text in zip(values, numbers(values), strict=True):
            x, y = placed(value)
            if axis:
                frame[HEIGHT - round(y - BOTTOM)] = GREY_LEVEL
                canvas.text(text, left - 8, y - 6, NUMBER, share=1.0)
            else:
                if not len(panel.bars):
                    frame[:, round(x - left)] = GREY_LEVEL
                canvas.text(text, x, BOTTOM - 22, NUMBER)
    middle = left + WIDTH / 2, BOTTOM + HEIGHT / 2
    canvas.text(panel.title, middle[0], BOTTOM + HEIGHT + 14, TITLE)
    canvas.text(panel.labels[0], middle[0], BOTTOM - 52, TITLE)
    canvas.text(panel.labels[1], left - 85, middle[1], TITLE, upright=True)
    for i, (name, colour) in enumerate(panel.names):
        y = middle[1] + LINE_HEIGHT * ((len(panel.names) - 1) / 2 - i)
        canvas.points(np.array([[left + WIDTH + 20, y]]), colour, 10)
        canvas.text(name, left + WIDTH + 34, y - 6, NUMBER, share=0.0)
    canvas.clip(left, BOTTOM, WIDTH, HEIGHT)
    for points, colour in panel.points:
        canvas.points(placed(points), colour, panel.diameter)
    for line in panel.lines:
        canvas.path(placed(line))
    for i, height in enumerate(panel.bars, 1):
        canvas.path(placed([(i - 0.45, 0), (i - 0.45, height), (i + 0.45, height), (i + 0.45, 0)]), fill=BLUE)
    canvas.clip()


def numbers(values: Array) -> list[str]:
    """Return evenly spaced numbers as texts with equally many decimal places."""
    step = float(values[1] - values[0]) if len(values) > 1 else 1.0
    places = next((n for n in range(5) if math.isclose(step * 10**n, round(step * 10**n), rel_tol=1e-6)), None)
    texts = [f"{v:g}" if places is None or abs(v) >= 1e5 else f"{v:.{places}f}" for v in values]
    return [text.replace("-", "\N{MINUS SIGN}") for text in texts]


class Canvas:
    """A picture on which texts and shapes are drawn, at places (x, y) in pixels from its lower left corner."""

    def __init__(self, width: int, height: int) -> None:
        from matplotlib.backends.backend_agg import RendererAgg

        self._renderer, self._height = RendererAgg(width, height, DPI), height
        self.pixels: Picture = np.asarray(self._renderer.buffer_rgba())  # (height, width, 4); changes are drawn
        self.pixels[:] = 255
        self._pen = self._renderer.new_gc()

    def clip(self, *box: float) -> None:
        """Draw only within a box of this place, width and height; without one, draw everywhere."""
        from matplotlib.transforms import Bbox

        self._pen.set_clip_rectangle(Bbox.from_bounds(*box) if box else None)

    def measure(self, text: str, size: float) -> tuple[float, float, float]:
        """Return the width, the height and the descent of a text in pixels."""
        from matplotlib.font_manager import FontProperties

        measured: tuple[float, float, float] = self._renderer.get_text_width_height_descent(
            text, FontProperties(size=size), ismath=False
        )
        return measured

    def text(self, text: str, x: float, y: float, size: float, *, share: float = 0.5, upright: bool = False) -> None:
        """Draw a text whose baseline is at `y`, with this share of its length before `x`; if upright, below `y`."""
        from matplotlib.font_manager import FontProperties

        text = text.replace(r"\$", "$")  # which `drawing.short` escapes for Matplotlib's figures
        before = share * self.measure(text, size)[0]
        x, y = (x, y - before) if upright else (x - before, y)
        self._pen.set_foreground(TEXT)
        font = FontProperties(size=size)
        self._renderer.draw_text(self._pen, x, self._height - y, text, font, 90.0 if upright else 0.0)

    def points(self, places: Array, colour: Any, diameter: float) -> None:
        """Draw points (N, 2)."""
        from matplotlib.colors import to_rgb
        from matplotlib.path import Path
        from matplotlib.transforms import Affine2D, IdentityTransform

        self._pen.set_linewidth(0)
        dot = Affine2D().scale(diameter / 2)
        self._renderer.draw_markers(
            self._pen, Path.unit_circle(), dot, Path(places), IdentityTransform(), to_rgb(colour)
        )

    def path(self, places: Array, *, colour: Any = "black", width: float = 0.7, fill: str | None = None) -> None:
        """Draw a line along places (N, 2) with a width in typographic points, or fill the area within it.

        The line is interrupted where a place is NaN.
        """
        from matplotlib.colors import to_rgb
        from matplotlib.path import Path
        from matplotlib.transforms import IdentityTransform

        self._pen.set_linewidth(0 if fill else width)
        self._pen.set_foreground(colour)
        self._renderer.draw_path(self._pen, Path(places), IdentityTransform(), to_rgb(fill) if fill else None)
