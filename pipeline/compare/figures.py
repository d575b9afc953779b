"""The figures of a report, each for a light and for a dark page. No global setting of Matplotlib is changed."""

import base64
import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
import seaborn
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure

from pipeline import metrics
from pipeline.compare import formats
from pipeline.compare.analysis import Board, Design, Rows, mean_of
from pipeline.compare.statistics import RankTest

THEMES = {  # colours of text, background and grid, and the share of white that is added to all other colours
    "light": ("#1b1b1b", "#ffffff", "#dddddd", 0.0), "dark": ("#e8e8e8", "#16181c", "#3a3d42", 0.25),
}  # fmt: skip
COLOURS = (  # five of seaborn's "colorblind", and nine that are far from them and each other, also for the colour-blind
    "#0173b2", "#de8f05", "#029e73", "#d55e00", "#cc78bc", "#00b4ff", "#690f00",
    "#5a0078", "#c30f78", "#2d5a00", "#002db4", "#d22dff", "#002d3c", "#7800f0",
)  # fmt: skip
MARKERS = "osD^vP*Xhp<>"
LINES = ("-", "--", ":")
SOLID = 7  # variants in a row with the same kind of line
TRIVIAL = "#8a8f98"  # grey that can be seen on both backgrounds


@dataclass(frozen=True)
class Style:
    """The colour, marker and kind of line of a variant. The colours of up to 14 variants differ."""

    colour: str
    marker: str
    line: str


Draw = Callable[[Any, Mapping[str, Style]], None]  # receives the axes and the styles of the variants


def styles(names: Sequence[str], white: float = 0.0) -> dict[str, Style]:
    """Return the style of each variant, whose colour is mixed with a share of white."""
    colours = [to_hex(white + (1 - white) * np.array(to_rgb(colour))) for colour in COLOURS]
    return {
        name: Style(colours[i % len(colours)], MARKERS[i % len(MARKERS)], LINES[i // SOLID % len(LINES)])
        for i, name in enumerate(names)
    }


def figure(
    draw: Draw, names: Sequence[str], size: tuple[float, float] = (7.2, 3.8), **grid_of_axes: Any
) -> dict[str, bytes]:
    """Return what `draw` draws as PNG, by theme. `size` is in inches; `grid_of_axes` is passed to `Figure.subplots`."""
    images = {}
    for theme, (text, background, grid, white) in THEMES.items():
        style = {
            **seaborn.axes_style("whitegrid"), **seaborn.plotting_context("notebook", font_scale=0.8),
            "figure.facecolor": background, "axes.facecolor": background, "savefig.facecolor": background,
            "text.color": text, "axes.labelcolor": text, "xtick.color": text, "ytick.color": text,
            "axes.edgecolor": grid, "grid.color": grid, "legend.frameon": False,
        }  # fmt: skip
        with matplotlib.rc_context(style):
            canvas = FigureCanvasAgg(Figure(figsize=size, dpi=130, layout="constrained"))
            draw(canvas.figure.subplots(**grid_of_axes), styles(names, white))
            stream = io.BytesIO()
            canvas.figure.savefig(stream, format="png")
            images[theme] = stream.getvalue()
    return images


def uri(png: bytes) -> str:
    """Return an image as a data URI, for a page that needs no other file."""
    return "data:image/png;base64," + base64.b64encode(png).decode()


def uris(themes: Mapping[str, bytes]) -> dict[str, str]:
    return {theme: uri(png) for theme, png in themes.items()}


def leaderboard(board: Board, finals: pd.DataFrame, names: Sequence[str]) -> dict[str, bytes]:
    """Draw a dot for each unit, and the mean of each variant with its 95% interval. The best is on top.

    Trivial models are below in grey, each with a dashed line. Those that are far from all variants are only named.

    Args:
        board: The leaderboard.
        finals: The runs of the configurations on it, with the columns variant, unit and the metric.
        names: The names of all variants.
    """
    metric = board.criterion.test_metric
    scored = {r.name: r.mean for r in board.rows if r.mean is not None}
    trivial = {r.name: r.mean for r in board.trivial if r.mean is not None}
    dots = {n: finals[finals["variant"] == n].groupby("unit")[metric].mean().dropna() for n in scored}
    intervals = {name: formats.limits(mean, board.criterion.unit) for name, mean in scored.items()}
    reaches = [v for interval in intervals.values() for v in interval if math.isfinite(v)]
    values = np.array([*reaches, *(v for d in dots.values() for v in d)])
    span = float(np.ptp(values)) or abs(float(values[0])) * 0.1 or 1.0
    low, high = values.min() - span, values.max() + span
    far = [name for name, m in trivial.items() if not low < m.value < high]

    def draw(ax: Any, styles: Mapping[str, Style]) -> None:
        for place, (name, mean) in enumerate(scored.items()):
            colour, interval = styles[name].colour, intervals[name]
            ax.plot(dots[name], [place] * len(dots[name]), "o", color=colour, alpha=0.45, markersize=4)
            if math.isfinite(interval[0]):
                ax.plot(interval, [place] * 2, "|-", color=colour, markersize=8)
            ax.plot(mean.value, place, "D", color=colour, markersize=6)
        for place, (name, mean) in enumerate(trivial.items(), len(scored)):
            if name in far:
                side = 0.0 if mean.value < low else 1.0
                ax.text(
                    side, place, f" {'<' if side == 0 else ''} {mean.value:.4g} {'>' if side else ''} ", color=TRIVIAL,
                    transform=ax.get_yaxis_transform(), ha="right" if side else "left", va="center", fontsize=8,
                )  # fmt: skip
            else:
                ax.axvline(mean.value, linestyle="--", color=TRIVIAL, linewidth=1)
                ax.plot(mean.value, place, "D", color=TRIVIAL, markersize=5)
        ax.set(yticks=range(len(scored) + len(trivial)), yticklabels=[*scored, *trivial])
        for label in ax.get_yticklabels()[len(scored) :]:
            label.set_color(TRIVIAL)
        ax.set(xlabel=f"{metric} ({board.criterion.unit}; {board.criterion.direction})")
        ax.set_ylim(len(scored) + len(trivial) - 0.4, -0.6)  # the best is on top

    return figure(draw, names, size=(7.2, 0.9 + 0.32 * (len(scored) + len(trivial))))


def critical_difference(test: RankTest, by_dataset: Mapping[str, Mapping[str, float]]) -> dict[str, bytes]:
    """Draw the average rank of each variant, and small, its rank on each data set (Demsar 2006, figure 1).

    A grey bar joins variants that cannot be told apart. `by_dataset` holds the rank by variant and data set.
    """
    order = sorted(test.ranks, key=lambda name: test.ranks[name])
    ranks = [test.ranks[name] for name in order]
    groups: list[tuple[int, int]] = []
    for i, name in enumerate(order):
        last = max(j for j, other in enumerate(order) if not test.tells_apart(name, other))
        if last > i and (not groups or last > groups[-1][1]):
            groups.append((i, last))

    def draw(ax: Any, styles: Mapping[str, Style]) -> None:
        for place, name in enumerate(order):
            own = list(by_dataset[name].values())
            ax.plot(own, [place] * len(own), styles[name].marker, color=styles[name].colour, alpha=0.4, markersize=4)
            ax.plot(ranks[place], place, "|", color=styles[name].colour, markersize=16, markeredgewidth=3)
        for k, (first, last) in enumerate(groups):
            x = len(order) + 0.35 + 0.12 * k
            ax.plot([x, x], [first - 0.2, last + 0.2], color=TRIVIAL, linewidth=4, solid_capstyle="butt")
        if len(order) > 2:  # two variants are compared by the sign test
            difference = f"critical difference {test.critical_difference:.2f}"
            ax.plot([1, 1 + test.critical_difference], [-0.8] * 2, "|-", color=TRIVIAL, linewidth=1.5)
            ax.text(1, -1.0, difference, color=TRIVIAL, fontsize=8)
        ax.set(yticks=range(len(order)), yticklabels=order, xticks=range(1, len(order) + 1), xlabel="rank (1 is best)")
        ax.set(xlim=(0.7, len(order) + 0.45 + 0.12 * len(groups)), ylim=(len(order) - 0.5, -1.6))

    return figure(draw, sorted(order), size=(7.2, 1.3 + 0.34 * len(order)))


def scatter(
    trials: pd.DataFrame, finals: pd.DataFrame, x: tuple[str, str, str], y: tuple[str, str, str], names: Sequence[str]
) -> dict[str, bytes]:
    """Draw trials by validation scores, small, and finals by test scores, large.

    `x` and `y` are (metric of trials, metric of finals, label).
    """

    def draw(ax: Any, styles: Mapping[str, Style]) -> None:
        for name, style in styles.items():
            for frame, axes, look in (
                (trials, (x[0], y[0]), {"s": 12, "alpha": 0.35}), (finals, (x[1], y[1]), {"s": 60, "alpha": 0.9}),
            ):  # fmt: skip
                if not {*axes} <= set(frame.columns):
                    continue
                points = frame[frame["variant"] == name].dropna(subset=list(axes))
                label = name if frame is finals and len(points) else None
                ax.scatter(
                    points[axes[0]], points[axes[1]], marker=style.marker, color=[style.colour], linewidth=0,
                    label=label, **look,
                )  # fmt: skip
        ax.set(xlabel=x[2], ylabel=y[2])
        _zoom(ax, trials, finals, x, y)
        _legend(ax)

    return figure(draw, names, size=(7.2, 4.2))


def _zoom(ax: Any, trials: pd.DataFrame, finals: pd.DataFrame, x: tuple[str, ...], y: tuple[str, ...]) -> None:
    """Cut the axes below the 5% quantile of all points, unless a final lies there, so that outliers hide no others."""
    trials, finals = (
        f.dropna(subset=list(c)) if {*c} <= set(f.columns) else f.iloc[:0]
        for f, c in ((trials, (x[0], y[0])), (finals, (x[1], y[1])))
    )
    for axis, set_limits in ((x, ax.set_xlim), (y, ax.set_ylim)):
        values = [f[c].dropna() for f, c in ((trials, axis[0]), (finals, axis[1])) if c in f]
        points = pd.concat(values) if values else pd.Series(dtype=float)
        if len(points) < 3:
            continue
        low, high = min([points.quantile(0.05), *(v.min() for v in values[1:] if len(v))]), points.max()
        margin = (high - low) * 0.06 or 1.0
        set_limits(low - margin, high + margin)


def _legend(ax: Any, heights: Mapping[str, float] | None = None) -> None:
    """Draw a legend on the right of the axes, in the order of the heights at which the lines end, if they are given."""
    entries = dict(zip(*reversed(ax.get_legend_handles_labels()), strict=True))
    order = sorted(entries, key=lambda name: -(heights or {}).get(name, 0.0))
    if order:
        ax.legend([entries[name] for name in order], order, loc="center left", bbox_to_anchor=(1, 0.5))


def curves(points: pd.DataFrame, metric: str, names: Sequence[str]) -> dict[str, bytes]:
    """Draw the mean over finals by epoch, with a band from the lowest to the highest and a marker at the end.

    `points` has the columns variant, epoch and the metric.
    """

    def draw(ax: Any, styles: Mapping[str, Style]) -> None:
        valid, ends = points.dropna(subset=[metric]), {}
        for name, style in styles.items():
            curve = valid[valid["variant"] == name]
            if len(curve):
                epochs = curve.groupby("epoch")[metric]
                mean, low, high = epochs.mean(), epochs.min(), epochs.max()
                look = {"color": style.colour, "linestyle": style.line, "marker": style.marker, "markersize": 5}
                ax.plot(mean.index, mean, label=name, markevery=[len(mean) - 1], **look)
                ends[name] = float(mean.iloc[-1])
                ax.fill_between(mean.index, low, high, color=style.colour, alpha=0.15, linewidth=0)
        later = valid[valid["epoch"] > valid["epoch"].max() * 0.05][metric]
        if len(later) > 3:
            low, high = later.quantile(0.02), later.max()
            ax.set_ylim(low - 0.05 * (high - low), high + 0.05 * (high - low))
        ax.xaxis.get_major_locator().set_params(integer=True)
        ax.set(xlabel="epoch", ylabel=f"{metric} ({metrics.find(metric).unit})")
        _legend(ax, ends)

    return figure(draw, names)


def probes(
    finals: pd.DataFrame, rows: Mapping[str, Rows], design: Design, names: Sequence[str]
) -> dict[str, bytes]:  # fmt: skip
    """Draw the accuracy of a linear probe by its number of labels: the mean of the finals, and its standard error.

    A dashed line shows raw values, and a dotted line shows always predicting the most frequent class. There is no
    picture if no final has such a score.
    """
    columns = [c for c in finals.columns if c.startswith("probe/linear_") and not c.endswith("_all")]
    counts = sorted(int(c.rsplit("_", 1)[1]) for c in columns)
    if not counts:
        return {}

    def draw(ax: Any, styles: Mapping[str, Style]) -> None:
        ends = {}
        for name, style in styles.items():
            runs = finals[finals["variant"] == name]
            means = {n: mean_of(runs, f"probe/linear_{n}", rows, design) for n in counts}
            known = {n: mean for n, mean in means.items() if mean is not None}
            if known:
                ends[name] = known[max(known)].value
            ax.errorbar(
                list(known), [mean.value for mean in known.values()], [mean.error for mean in known.values()],
                marker=style.marker, color=style.colour, linestyle=style.line, label=name, capsize=2, elinewidth=1,
            )  # fmt: skip
        raw = [finals[f"probe/raw_linear_{n}"].mean() for n in counts if f"probe/raw_linear_{n}" in finals]
        if len(raw) == len(counts):
            ax.plot(counts, raw, linestyle="--", color=TRIVIAL, label="raw values")
            ends["raw values"] = raw[-1]
        if "probe/majority_all" in finals:
            majority = ends["most frequent class"] = finals["probe/majority_all"].mean()
            ax.axhline(majority, linestyle=":", color=TRIVIAL, label="most frequent class")
        ax.set(xscale="log", xlabel="number of labels", ylabel="test accuracy of a linear probe (share)")
        _legend(ax, ends)

    return figure(draw, names)


def spectra(kl: Mapping[str, Sequence[float]], names: Sequence[str]) -> dict[str, bytes]:
    """Draw the sorted KL per latent dimension of each variant. A dashed line at 0.01 nats marks unused units."""

    def draw(ax: Any, styles: Mapping[str, Style]) -> None:
        for name, style in styles.items():
            if name in kl:
                values = np.sort(np.clip(kl[name], 1e-5, None))[::-1]
                ax.plot(
                    np.arange(1, len(values) + 1), values, marker=style.marker, markersize=4, color=style.colour,
                    linestyle=style.line, label=name,
                )  # fmt: skip
        ax.axhline(0.01, linestyle="--", color=TRIVIAL, linewidth=1)
        ax.xaxis.get_major_locator().set_params(integer=True)
        ax.set(yscale="log", xlabel="latent dimension, sorted", ylabel="KL (nats)")
        _legend(ax)

    return figure(draw, names)
