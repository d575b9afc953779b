"""Functions that all pictures share: figures as arrays of pixels; names and colours of columns, values and classes."""

import colorsys
import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.data import Data, Preprocessing
from variants import Batch
from variants.base.contract import KIND_OF, ValueKind

Picture = NDArray[np.uint8]
LARGE_COUNT = 30  # counts are drawn on a logarithmic axis if one exceeds this number
BLUE, GREY = "#4477aa", "#999999"
PALETTE = (  # colours that colour-blind readers can tell apart: seaborn's "colorblind", whose import takes a second
    "#0173b2", "#de8f05", "#029e73", "#d55e00", "#cc78bc", "#ca9161", "#fbafe4", "#949494", "#ece133", "#56b4e9",
)  # fmt: skip
STYLE: Mapping[str, Any] = {  # a light grid without ticks
    "axes.grid": True, "axes.axisbelow": True, "axes.edgecolor": "0.8", "grid.color": "0.8",
    "text.color": "0.15", "axes.labelcolor": "0.15", "xtick.color": "0.15", "ytick.color": "0.15",
    "xtick.bottom": False, "ytick.left": False, "font.size": 9.6, "axes.labelsize": 9.6, "axes.titlesize": 9.6,
    "xtick.labelsize": 8.8, "ytick.labelsize": 8.8, "legend.fontsize": 8.8, "lines.linewidth": 1.2,
    "lines.markersize": 4.8, "lines.solid_capstyle": "round", "patch.edgecolor": "w", "patch.linewidth": 0.8,
}  # fmt: skip
DPI = 140
LEFT, RIGHT, BOTTOM, TOP = 1.8, 2.2, 1.8, 0.8  # inches around panels; what is empty is cut off
GAP = 0.7  # inches between panels
PADDING = 10  # pixels around what is drawn


@dataclass(frozen=True)
class ShownColumn:
    """A column of a table, or a channel of sequences, with names as Matplotlib shows them.

    `values` are the names of the values of binary and category columns; it is empty for other kinds.
    """

    name: str
    kind: ValueKind
    values: tuple[str, ...] = ()


def shown_columns(data: Data) -> list[ShownColumn]:
    """Return the columns of a table, or the channels of sequences; they are x0, x1, ... if the source has no names."""
    return columns_of(data.preprocessing)


def columns_of(preprocessing: Preprocessing) -> list[ShownColumn]:
    """Return the columns of a table, or the channels of sequences, of a model with this preprocessing."""
    family = preprocessing.spec.likelihood
    if not preprocessing.columns:
        values = ("0", "1") if family == "bernoulli" else ()
        return [ShownColumn(f"x{i}", KIND_OF[family], values) for i in range(preprocessing.spec.shape[-1])]
    columns = []
    for column in preprocessing.columns:
        kind = KIND_OF[column.likelihood or family]
        values = column.values or (("0", "1") if kind == "binary" else ())
        names = tuple(short(value, 12) for value in values) if kind in ("binary", "category") else ()
        columns.append(ShownColumn(short(column.name), kind, names))
    return columns


def short(name: Any, most: int = 24) -> str:
    """Return a name, escaped for Matplotlib, with its middle left out if it has more than `most` characters."""
    text = str(name)
    return (text if len(text) <= most else f"{text[: most - 6]}...{text[-3:]}").replace("$", r"\$")


def with_gaps(x: Tensor, known: Tensor | None) -> Tensor:
    """Return values with NaN in place of those that are not in `known`, which broadcasts to `x`; None keeps all."""
    return x if known is None else torch.where(known, x.float(), math.nan)


def in_units(x: Tensor, data: Data) -> NDArray[Any]:
    """Return values of tables or sequences in the units and the order of the source; NaN where they are NaN in `x`."""
    missing = data.preprocessing.by_column(x.isnan()) > 0
    return np.where(missing, np.nan, data.preprocessing.decode(x.nan_to_num(0.0)))


def palette(n: int) -> list[Any]:
    """Return `n` colours. Up to 10 of them are safe for colour-blind readers."""
    return list(PALETTE[:n]) if n <= len(PALETTE) else [colorsys.hls_to_rgb(i / n, 0.6, 0.65) for i in range(n)]


def classes(data: Data, split: Batch) -> list[tuple[str, NDArray[np.bool_], Any]]:
    """Return the name of each class, the mask of its examples, and its colour.

    If there are no labels, or more than 10 classes, it returns a single class without a name.
    """
    if split.y is None or data.spec.classes > len(PALETTE):
        return [("", np.ones(len(split), bool), BLUE)]
    y = split.y.cpu().numpy()
    colours = palette(data.spec.classes)
    named = [(short(name), y == c, colours[c]) for c, name in enumerate(data.preprocessing.class_names)]
    return named + ([("unknown", y < 0, GREY)] if (y < 0).any() else [])


def legend(axes: Any, entries: Iterable[tuple[str, Any]]) -> None:
    """Draw a legend of pairs of a name and a colour on the right of a figure, unless there is only one."""
    from matplotlib.patches import Patch

    handles = [Patch(color=colour, label=name) for name, colour in entries]
    if len(handles) > 1:
        axes.flat[0].figure.legend(handles=handles, loc="outside right upper", fontsize=8, frameon=False)


def remove_from(axes: Any, panels: int) -> None:
    """Remove all panels after the first `panels`."""
    for ax in axes.flat[panels:]:
        ax.remove()


def has_log_axis(kind: ValueKind, values: NDArray[Any]) -> bool:
    """Return whether the axis of these values is logarithmic.

    It is logarithmic for positive values and for large counts if the largest is more than 10 times the smallest.
    """
    if kind not in ("positive", "count") or not values.size:
        return False
    low, high = values.min(), values.max()
    return bool(high > 10 * low) if kind == "positive" else bool(high > max(LARGE_COUNT, 10 * low))


def set_axis(ax: Any, which: str, kind: ValueKind, is_log: bool) -> None:
    """Set the scale and a few ticks of the axis `which` ("x" or "y") for values of a kind.

    A logarithmic axis of counts is linear from 0 to 1. The ticks are fewer and plainer than Matplotlib's, so that they
    are readable in small panels. They also take a third of the time.
    """
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator, SymmetricalLogLocator

    axis = getattr(ax, f"{which}axis")
    if not is_log:
        axis.set_major_locator(MaxNLocator(3, integer=kind == "count"))
        return
    locator: Any = LogLocator(numticks=4)
    if kind == "count":
        locator = SymmetricalLogLocator(base=10, linthresh=1)
        locator.set_params(numticks=4)
        getattr(ax, f"set_{which}scale")("symlog", linthresh=1)
    else:
        getattr(ax, f"set_{which}scale")("log")
    axis.set_major_locator(locator)
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def name_values(ax: Any, which: str, names: Sequence[str]) -> None:
    """Put names at the positions 0, 1, 2, ... of the axis `which` ("x" or "y"), upright if they are long."""
    turned = which == "x" and sum(map(len, names)) + 2 * len(names) > 24
    getattr(ax, f"set_{which}ticks")(range(len(names)), names, fontsize=6, rotation=90 if turned else 0)
    ax.grid(False, axis=which)


def figure(
    draw: Callable[[Any], None], size: tuple[float, float] = (4.2, 3.4), columns: int = 1, rows: int | None = None
) -> Picture:
    """Return the figure that `draw` draws on axes as pixels. `size` is in inches. The state of pyplot does not change.

    With `rows`, `draw` gets an array (rows, columns) of axes.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE), warnings.catch_warnings():  # type: ignore[arg-type]
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # for names in scripts that the font lacks
        drawn = Figure(figsize=size, dpi=DPI, layout="constrained")
        canvas = FigureCanvasAgg(drawn)
        draw(drawn.subplots(rows or 1, columns, squeeze=rows is None))
        canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
