"""The figures of a report, each for a light and for a dark page. Seaborn draws; nothing global is touched."""

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
from pipeline.evaluate import pictures
from variants import Batch, Variant

THEMES = {"light": ("#1b1b1b", "#ffffff", "#dddddd"), "dark": ("#e8e8e8", "#16181c", "#3a3d42")}  # ink, paper, grid
MARKERS = "osD^vP*Xhp<>"
COLUMNS = 10  # examples side by side
Draw = Callable[[Any, Mapping[str, Any]], None]


def palette(names: Sequence[str]) -> dict[str, Any]:
    """A colour for each variant, told apart by colour-blind eyes for up to ten."""
    few = len(names) <= 10
    return dict(zip(names, seaborn.color_palette("colorblind" if few else "husl", len(names)), strict=True))


def figure(
    draw: Draw, names: Sequence[str], size: tuple[float, float] = (7.2, 3.8), columns: int = 1
) -> dict[str, bytes]:
    """What `draw` puts on axes, as PNG, by theme."""
    found = {}
    for theme, (ink, paper, grid) in THEMES.items():
        style = {
            **seaborn.axes_style("whitegrid"), **seaborn.plotting_context("notebook", font_scale=0.8),
            "figure.facecolor": paper, "axes.facecolor": paper, "savefig.facecolor": paper, "text.color": ink,
            "axes.labelcolor": ink, "xtick.color": ink, "ytick.color": ink, "axes.edgecolor": grid, "grid.color": grid,
            "legend.frameon": False,
        }  # fmt: skip
        with matplotlib.rc_context(style):
            made = Figure(figsize=size, dpi=130, layout="constrained")
            FigureCanvasAgg(made)
            draw(made.subplots(1, columns), palette(names))
            stream = io.BytesIO()
            made.savefig(stream, format="png")
            found[theme] = stream.getvalue()
    return found


def uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()


def uris(themes: Mapping[str, bytes]) -> dict[str, str]:
    return {theme: uri(png) for theme, png in themes.items()}


def ranks(
    averages: Mapping[str, statistics.Estimate], each: Mapping[str, Mapping[str, float]], names: Sequence[str]
) -> dict[str, bytes]:
    """Average rank with its interval; small, the rank on each data set (`each`: variant -> data set -> rank)."""
    order = sorted(averages, key=lambda name: averages[name].value)
    sets = list(next(iter(each.values())))

    def draw(ax: Any, colours: Mapping[str, Any]) -> None:
        for place, name in enumerate(order):
            e = averages[name]
            for marker, source in zip(MARKERS, sets, strict=False):
                ax.plot(each[name][source], place, marker=marker, color=colours[name], alpha=0.45, markersize=5)
            ax.errorbar(
                e.value, place, xerr=[[e.value - e.low], [e.high - e.value]], fmt="|", color=colours[name], capsize=4,
                markersize=14, markeredgewidth=2.5,
            )  # fmt: skip
        for marker, source in zip(MARKERS, sets, strict=False):
            ax.plot([], [], marker=marker, color="grey", linestyle="", label=source)
        ax.set(yticks=range(len(order)), yticklabels=order, xlabel="rank, 1 is best", xlim=(0.7, len(order) + 0.3))
        ax.invert_yaxis()
        ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))

    return figure(draw, names, size=(7.2, 1.2 + 0.45 * len(order)))


def leaderboard(board: Board, finals: pd.DataFrame, names: Sequence[str]) -> dict[str, bytes]:
    """A dot a seed; the mean with its 95% interval; best on top."""
    rows = [r for r in board.rows if r.mean is not None]

    def draw(ax: Any, colours: Mapping[str, Any]) -> None:
        for place, row in enumerate(rows):
            assert row.mean is not None
            values = finals.loc[finals["variant"] == row.variant, board.criterion.judged].dropna()
            ax.plot(values, [place] * len(values), "o", color=colours[row.variant], alpha=0.45, markersize=4)
            bounded = np.isfinite(row.mean.low)
            reach = [[row.mean.value - row.mean.low], [row.mean.high - row.mean.value]] if bounded else None
            ax.errorbar(row.mean.value, place, xerr=reach, fmt="D", color=colours[row.variant], capsize=4, markersize=6)
        metric = metrics.find(board.criterion.judged)
        better = "lower is better" if metric.better == "minimize" else "higher is better"
        ax.set(yticks=range(len(rows)), yticklabels=[r.variant for r in rows])
        ax.set(xlabel=f"{board.criterion.judged} ({metric.unit}; {better})")
        ax.invert_yaxis()

    return figure(draw, names, size=(7.2, 1.2 + 0.45 * len(rows)))


def scatter(
    trials: pd.DataFrame, finals: pd.DataFrame, x: tuple[str, str, str], y: tuple[str, str, str], names: Sequence[str]
) -> dict[str, bytes]:
    """Trials by validation scores, small, and finals by test scores, large. Axes are (of trials, of finals, label)."""

    def draw(ax: Any, colours: Mapping[str, Any]) -> None:
        for marker, name in zip(MARKERS, names, strict=False):
            for frame, axes, look in (
                (trials, (x[0], y[0]), {"s": 12, "alpha": 0.35}), (finals, (x[1], y[1]), {"s": 60, "alpha": 0.9}),
            ):  # fmt: skip
                if not {*axes} <= set(frame.columns):
                    continue
                shown = frame[frame["variant"] == name].dropna(subset=list(axes))
                label = name if look["s"] > 20 and len(shown) else None
                colour = [colours[name]]
                ax.scatter(
                    shown[axes[0]], shown[axes[1]], marker=marker, color=colour, linewidth=0, label=label, **look
                )
        ax.set(xlabel=x[2], ylabel=y[2])
        _zoom(ax, trials, finals, x, y)
        if ax.get_legend_handles_labels()[0]:
            ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))

    return figure(draw, names, size=(7.2, 4.2))


def _zoom(ax: Any, trials: pd.DataFrame, finals: pd.DataFrame, x: tuple[str, ...], y: tuple[str, ...]) -> None:
    """Trials that went far astray do not press all others into a corner; points that lack a value do not count."""
    trials, finals = (
        f.dropna(subset=list(c)) if {*c} <= set(f.columns) else f.iloc[:0]
        for f, c in ((trials, (x[0], y[0])), (finals, (x[1], y[1])))
    )
    for axis, part in ((x, ax.set_xlim), (y, ax.set_ylim)):
        values = [f[c].dropna() for f, c in ((trials, axis[0]), (finals, axis[1])) if c in f]
        known = pd.concat(values) if values else pd.Series(dtype=float)
        if len(known) < 3:
            continue
        low, high = known.quantile(0.05), known.quantile(1.0)
        low, high = min([low, *(v.min() for v in values[1:] if len(v))]), max(high, known.max())
        reach = (high - low) * 0.06 or 1.0
        part(low - reach, high + reach)


def curves(points: pd.DataFrame, metric: str, names: Sequence[str]) -> dict[str, bytes]:
    """Mean over seeds by epoch, with a band from the lowest to the highest. `points`: variant, seed, epoch, metrics."""

    def draw(ax: Any, colours: Mapping[str, Any]) -> None:
        known = points.dropna(subset=[metric])
        for name in names:
            mine = known[known["variant"] == name]
            if len(mine):
                by = mine.groupby("epoch")[metric]
                mean, low, high = by.mean(), by.min(), by.max()
                ax.plot(mean.index, mean, color=colours[name], label=name)
                ax.fill_between(mean.index, low, high, color=colours[name], alpha=0.2, linewidth=0)
        settled = known[known["epoch"] > known["epoch"].max() * 0.05][metric]
        if len(settled) > 3:
            low, high = settled.quantile(0.02), settled.max()
            ax.set_ylim(low - 0.05 * (high - low), high + 0.05 * (high - low))
        ax.set(xlabel="epoch", ylabel=f"{metric} ({metrics.find(metric).unit})")
        ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))

    return figure(draw, names)


def probes(finals: pd.DataFrame, names: Sequence[str]) -> dict[str, bytes]:
    """Accuracy by the number of known labels, mean over seeds; dashed: raw values."""
    known = [c for c in finals.columns if c.startswith("probe/linear_") and not c.endswith("_all")]
    counts = sorted(int(c.rsplit("_", 1)[1]) for c in known)

    def draw(ax: Any, colours: Mapping[str, Any]) -> None:
        for marker, name in zip(MARKERS, names, strict=False):
            mine = finals[finals["variant"] == name]
            values = [mine[f"probe/linear_{n}"].mean() for n in counts]
            ax.plot(counts, values, marker=marker, color=colours[name], label=name)
        raw = [finals[f"probe/raw_linear_{n}"].mean() for n in counts if f"probe/raw_linear_{n}" in finals]
        if len(raw) == len(counts):
            ax.plot(counts, raw, linestyle="--", color="grey", label="raw values")
        ax.set(xscale="log", xlabel="known labels", ylabel="accuracy of a linear probe, test")
        ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))

    return figure(draw, names)


def budgets(trials: pd.DataFrame, metric: str, better: str, names: Sequence[str]) -> dict[str, bytes]:
    """Expected best validation score of n trials, with a standard deviation (Dodge et al. 2019)."""
    sign = -1.0 if better == "minimize" else 1.0

    def draw(ax: Any, colours: Mapping[str, Any]) -> None:
        lows = []
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
            lows.append(sign * mean)
        ax.set(xlabel="trials", ylabel=f"expected best {metric}")
        if lows:
            every = np.concatenate(lows)
            reach = 0.1 * (every.max() - every.min() or 1.0)
            ax.set_ylim(every.min() - reach, every.max() + reach)
        ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))

    return figure(draw, names)


def spectra(vectors: Mapping[str, Sequence[float]], names: Sequence[str]) -> dict[str, bytes]:
    """KL per latent dimension of the first seed, sorted, on a logarithmic axis; .01 nats is where a unit is unused."""

    def draw(ax: Any, colours: Mapping[str, Any]) -> None:
        for marker, name in zip(MARKERS, names, strict=False):
            if vectors.get(name):
                values = np.sort(np.clip(vectors[name], 1e-5, None))[::-1]
                ax.plot(
                    np.arange(1, len(values) + 1), values, marker=marker, markersize=4, color=colours[name], label=name
                )
        ax.axhline(0.01, linestyle="--", color="grey", linewidth=1)
        ax.set(yscale="log", xlabel="latent dimension, sorted", ylabel="KL (nats)")
        ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))

    return figure(draw, names)


def side_by_side(
    models: Mapping[str, tuple[Variant, Data]], vectors: Mapping[str, Sequence[float]]
) -> Iterator[tuple[str, str, bytes]]:
    """(what, variant or "original", PNG strip): the same test images given back, draws from the prior, traversals.

    `vectors` holds the KL per dimension, where there is one: traversals are of the most informative dimensions.
    """
    first = next(iter(models.values()))[1]
    if first.layout != "images":
        return
    index = torch.randperm(len(first.test), generator=torch.Generator().manual_seed(2))[:COLUMNS]
    yield "reconstructions", "original", _strip(first.batch(first.test, index).x, first)
    for name, (variant, data) in models.items():
        with machine.seeded(variant.device, 0):
            batch = data.batch(data.test, index.to(variant.device))
            yield "reconstructions", name, _strip(variant.decode(variant.encode(batch), batch), data)
            if variant.conditioned_on != "x":
                yield "samples", name, _strip(variant.sample(2 * COLUMNS), data)
                yield "traversals", name, _strip(_moved(variant, batch, vectors.get(name)), data)


def _moved(variant: Variant, batch: Batch, kl: Sequence[float] | None, rows: int = 3) -> Tensor:
    """The first code, of which a dimension a row is moved by 3 standard deviations of the prior to either side.

    Dimensions are those of the highest KL, or, where there is none, those in which codes vary most.
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
