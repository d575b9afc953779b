"""The figures of a report, each for a light and for a dark page. No global setting of Matplotlib is changed."""

import base64
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
import seaborn
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from pipeline import machine, metrics
from pipeline.compare import statistics
from pipeline.compare.analysis import Board
from pipeline.data import Data
from pipeline.evaluate import drawing, pictures
from variants import Batch, Variant

THEMES = {  # colours of text, background and grid
    "light": ("#1b1b1b", "#ffffff", "#dddddd"), "dark": ("#e8e8e8", "#16181c", "#3a3d42"),
}  # fmt: skip
MARKERS = "osD^vP*Xhp<>"
COLUMNS = 10  # examples side by side
Draw = Callable[[Any, Mapping[str, Any]], None]  # receives the axes and the colours of the variants


def palette(names: Sequence[str]) -> dict[str, Any]:
    """Return a colour for each variant. Up to ten of them are safe for colour-blind readers."""
    name = "colorblind" if len(names) <= 10 else "husl"
    return dict(zip(names, seaborn.color_palette(name, len(names)), strict=True))


def figure(
    draw: Draw, names: Sequence[str], size: tuple[float, float] = (7.2, 3.8), columns: int = 1
) -> dict[str, bytes]:
    """Return what `draw` draws as PNG, by theme. `size` is in inches."""
    images = {}
    for theme, (text, background, grid) in THEMES.items():
        style = {
            **seaborn.axes_style("whitegrid"), **seaborn.plotting_context("notebook", font_scale=0.8),
            "figure.facecolor": background, "axes.facecolor": background, "savefig.facecolor": background,
            "text.color": text, "axes.labelcolor": text, "xtick.color": text, "ytick.color": text,
            "axes.edgecolor": grid, "grid.color": grid, "legend.frameon": False,
        }  # fmt: skip
        with matplotlib.rc_context(style):
            canvas = FigureCanvasAgg(Figure(figsize=size, dpi=130, layout="constrained"))
            draw(canvas.figure.subplots(1, columns), palette(names))
            stream = io.BytesIO()
            canvas.figure.savefig(stream, format="png")
            images[theme] = stream.getvalue()
    return images


def uri(png: bytes) -> str:
    """Return an image as a data URI, for a page that needs no other file."""
    return "data:image/png;base64," + base64.b64encode(png).decode()


def uris(themes: Mapping[str, bytes]) -> dict[str, str]:
    return {theme: uri(png) for theme, png in themes.items()}


def ranks(
    averages: Mapping[str, statistics.Estimate], by_dataset: Mapping[str, Mapping[str, float]], names: Sequence[str]
) -> dict[str, bytes]:
    """Draw the average rank of each variant with its interval, and small, its rank on each data set.

    `by_dataset` holds the rank by variant and data set.
    """
    order = sorted(averages, key=lambda name: averages[name].value)
    datasets = list(next(iter(by_dataset.values())))

    def draw(ax: Any, colours: Mapping[str, Any]) -> None:
        for place, name in enumerate(order):
            e = averages[name]
            for marker, source in zip(MARKERS, datasets, strict=False):
                ax.plot(by_dataset[name][source], place, marker=marker, color=colours[name], alpha=0.45, markersize=5)
            ax.errorbar(
                e.value, place, xerr=[[e.value - e.low], [e.high - e.value]], fmt="|", color=colours[name], capsize=4,
                markersize=14, markeredgewidth=2.5,
            )  # fmt: skip
        for marker, source in zip(MARKERS, datasets, strict=False):
            ax.plot([], [], marker=marker, color="grey", linestyle="", label=source)
        ax.set(yticks=range(len(order)), yticklabels=order, xlabel="rank, 1 is best", xlim=(0.7, len(order) + 0.3))
        ax.invert_yaxis()
        ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))

    return figure(draw, names, size=(7.2, 1.2 + 0.45 * len(order)))


def leaderboard(board: Board, finals: pd.DataFrame, names: Sequence[str]) -> dict[str, bytes]:
    """Draw a dot for each seed, and the mean of each variant with its 95% interval. The best is on top."""
    rows = [r for r in board.rows if r.mean is not None]

    def draw(ax: Any, colours: Mapping[str, Any]) -> None:
        for place, row in enumerate(rows):
            assert row.mean is not None
            values = finals.loc[finals["variant"] == row.variant, board.criterion.test_metric].dropna()
            ax.plot(values, [place] * len(values), "o", color=colours[row.variant], alpha=0.45, markersize=4)
            bounded = np.isfinite(row.mean.low)
            reach = [[row.mean.value - row.mean.low], [row.mean.high - row.mean.value]] if bounded else None
            ax.errorbar(row.mean.value, place, xerr=reach, fmt="D", color=colours[row.variant], capsize=4, markersize=6)
        metric = board.criterion.test_metric
        ax.set(yticks=range(len(rows)), yticklabels=[r.variant for r in rows])
        ax.set(xlabel=f"{metric} ({metrics.find(metric).unit}; {board.criterion.direction})")
        ax.invert_yaxis()

    return figure(draw, names, size=(7.2, 1.2 + 0.45 * len(rows)))


def scatter(
    trials: pd.DataFrame, finals: pd.DataFrame, x: tuple[str, str, str], y: tuple[str, str, str], names: Sequence[str]
) -> dict[str, bytes]:
    """Draw trials by validation scores, small, and finals by test scores, large.

    `x` and `y` are (metric of trials, metric of finals, label).
    """

    def draw(ax: Any, colours: Mapping[str, Any]) -> None:
        for marker, name in zip(MARKERS, names, strict=False):
            for frame, axes, style in (
                (trials, (x[0], y[0]), {"s": 12, "alpha": 0.35}), (finals, (x[1], y[1]), {"s": 60, "alpha": 0.9}),
            ):  # fmt: skip
                if not {*axes} <= set(frame.columns):
                    continue
                points = frame[frame["variant"] == name].dropna(subset=list(axes))
                label = name if frame is finals and len(points) else None
                ax.scatter(
                    points[axes[0]], points[axes[1]], marker=marker, color=[colours[name]], linewidth=0, label=label,
                    **style,
                )  # fmt: skip
        ax.set(xlabel=x[2], ylabel=y[2])
        _zoom(ax, trials, finals, x, y)
        if ax.get_legend_handles_labels()[0]:
            ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))

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


def curves(points: pd.DataFrame, metric: str, names: Sequence[str]) -> dict[str, bytes]:
    """Draw the mean over seeds by epoch, with a band from the lowest to the highest seed.

    `points` has the columns variant, seed, epoch and the metric.
    """

    def draw(ax: Any, colours: Mapping[str, Any]) -> None:
        valid = points.dropna(subset=[metric])
        for name in names:
            curve = valid[valid["variant"] == name]
            if len(curve):
                epochs = curve.groupby("epoch")[metric]
                mean, low, high = epochs.mean(), epochs.min(), epochs.max()
                ax.plot(mean.index, mean, color=colours[name], label=name)
                ax.fill_between(mean.index, low, high, color=colours[name], alpha=0.2, linewidth=0)
        later = valid[valid["epoch"] > valid["epoch"].max() * 0.05][metric]
        if len(later) > 3:
            low, high = later.quantile(0.02), later.max()
            ax.set_ylim(low - 0.05 * (high - low), high + 0.05 * (high - low))
        ax.set(xlabel="epoch", ylabel=f"{metric} ({metrics.find(metric).unit})")
        ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))

    return figure(draw, names)


def probes(finals: pd.DataFrame, names: Sequence[str]) -> dict[str, bytes]:
    """Draw the accuracy of a linear probe by its number of labels, mean over seeds.

    A dashed line shows raw values, and a dotted line shows always predicting the most frequent class.
    """
    columns = [c for c in finals.columns if c.startswith("probe/linear_") and not c.endswith("_all")]
    counts = sorted(int(c.rsplit("_", 1)[1]) for c in columns)

    def draw(ax: Any, colours: Mapping[str, Any]) -> None:
        for marker, name in zip(MARKERS, names, strict=False):
            runs = finals[finals["variant"] == name]
            values = [runs[f"probe/linear_{n}"].mean() for n in counts]
            ax.plot(counts, values, marker=marker, color=colours[name], label=name)
        raw = [finals[f"probe/raw_linear_{n}"].mean() for n in counts if f"probe/raw_linear_{n}" in finals]
        if len(raw) == len(counts):
            ax.plot(counts, raw, linestyle="--", color="grey", label="raw values")
        if "probe/majority_all" in finals:
            ax.axhline(finals["probe/majority_all"].mean(), linestyle=":", color="grey", label="most frequent class")
        ax.set(xscale="log", xlabel="number of labels", ylabel="test accuracy of a linear probe")
        ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))

    return figure(draw, names)


def budgets(trials: pd.DataFrame, metric: str, better: str, names: Sequence[str]) -> dict[str, bytes]:
    """Draw the expected best validation score of n trials, with its standard deviation (Dodge et al. 2019)."""
    sign = -1.0 if better == "minimize" else 1.0

    def draw(ax: Any, colours: Mapping[str, Any]) -> None:
        means = []
        for marker, name in zip(MARKERS, names, strict=False):
            values = trials.loc[trials["variant"] == name, metric].dropna().to_numpy(dtype=float)
            if not len(values):
                continue
            mean, spread = statistics.expected_best(sign * values)
            n = np.arange(1, len(values) + 1)
            ax.plot(n, sign * mean, marker=marker, markersize=3, color=colours[name], label=name)
            ax.fill_between(
                n, sign * (mean - spread), sign * (mean + spread), color=colours[name], alpha=0.12, linewidth=0
            )
            means.append(sign * mean)
        ax.set(xlabel="trials", ylabel=f"expected best {metric}")
        if means:
            values = np.concatenate(means)
            margin = 0.1 * (values.max() - values.min() or 1.0)
            ax.set_ylim(values.min() - margin, values.max() + margin)
        ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))

    return figure(draw, names)


def spectra(kl: Mapping[str, Sequence[float]], names: Sequence[str]) -> dict[str, bytes]:
    """Draw the sorted KL per latent dimension of each variant. A dashed line at 0.01 nats marks unused units."""

    def draw(ax: Any, colours: Mapping[str, Any]) -> None:
        for marker, name in zip(MARKERS, names, strict=False):
            if name in kl:
                values = np.sort(np.clip(kl[name], 1e-5, None))[::-1]
                ax.plot(
                    np.arange(1, len(values) + 1), values, marker=marker, markersize=4, color=colours[name], label=name
                )
        ax.axhline(0.01, linestyle="--", color="grey", linewidth=1)
        ax.set(yscale="log", xlabel="latent dimension, sorted", ylabel="KL (nats)")
        ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))

    return figure(draw, names)


def side_by_side(
    models: Mapping[str, tuple[Variant, Data]], kl: Mapping[str, Sequence[float]]
) -> Iterator[tuple[str, str, bytes]]:
    """Yield strips of reconstructions of the same test images, samples and traversals; nothing for other data.

    A strip is (kind, variant or "original", PNG). `kl` holds the KL per dimension of variants that have one.
    """
    first = next(iter(models.values()))[1]
    if first.layout != "images":
        return
    index = torch.randperm(len(first.test), generator=torch.Generator().manual_seed(2))[:COLUMNS]
    originals = first.batch(first.test, index.to(first.test.x.device))
    yield "reconstructions", "original", _strip(drawing.with_gaps(originals.x, originals.known), first)
    for name, (variant, data) in models.items():
        with machine.seeded(variant.device, 0):
            batch = data.batch(data.test, index.to(variant.device))
            yield "reconstructions", name, _strip(variant.decode(variant.encode(batch), batch), data)
            if variant.conditioned_on != "x":
                yield "samples", name, _strip(variant.sample(2 * COLUMNS), data)
                yield "traversals", name, _strip(_traversals(variant, batch, kl.get(name)), data)


def _traversals(variant: Variant, batch: Batch, kl: Sequence[float] | None, rows: int = 3) -> Tensor:
    """Decode the first code with one dimension in each row moved by 3 standard deviations of the prior to either side.

    The dimensions are those with the highest KL, or without a KL, those in which codes vary most.
    """
    prior, codes = variant.sample_prior(1000), variant.encode(batch)
    order = np.argsort(codes.var(0).cpu().numpy() if kl is None else np.asarray(kl))[::-1][:rows]
    z = codes[:1].repeat(rows * COLUMNS, 1)
    for row, dimension in enumerate(order.tolist()):
        reach = 3 * prior[:, dimension].std()
        z[row * COLUMNS : (row + 1) * COLUMNS, dimension] = torch.linspace(-1, 1, COLUMNS, device=z.device) * reach
    return variant.decode(z, batch[torch.zeros(len(z), dtype=torch.int64, device=z.device)])


def _strip(values: Tensor, data: Data) -> bytes:
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(pictures.grid(values, data, columns=COLUMNS)).save(stream, format="png")
    return stream.getvalue()
