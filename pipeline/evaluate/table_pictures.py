"""Pictures of tables, in which each column has a panel or a name. Values are in the units of the source.

Only observed values are drawn. Except for reconstructions, the data are rows of the training split. A feature is a
column of numbers, or a category of a column.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import pandas
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.data import Data
from pipeline.evaluate import drawing
from pipeline.evaluate.drawing import BLUE, GREY, Picture, ShownColumn
from variants import Batch
from variants.base.contract import ValueKind

PANELS = 24  # the largest number of panels, one for each column
NAMED = 40  # the most features that stand beside each other with their names
FEATURES = 200  # the most features whose correlations are drawn
ROWS, VALUES = 2000, 4_000_000  # the most rows, and the most values, of data and samples behind a picture
EXAMPLES, RECONSTRUCTED = 5000, 500  # the most rows behind `examples` and `reconstructions`
PALE = "#cccccc"  # the colour of data behind samples
CATEGORIES = 8  # the most categories of a column that have a name of their own
CHANGED = 8  # the number of features that are drawn for each latent dimension
BINS = 30
Array = NDArray[Any]


def examples(split: Batch, data: Data) -> Picture:
    """Draw a histogram of each column, with categories as bars. Colours are classes."""
    values, by_class = drawing.in_units(_observed_values(split), data), drawing.classes(data, split)

    def draw(ax: Any, i: int, column: ShownColumn) -> None:
        known = ~np.isnan(values[:, i])
        if column.values:
            names, of_row = _categories(column, values[known, i])
            below = np.zeros(len(names))
            for _, chosen, colour in by_class:
                counts = np.bincount(of_row[chosen[known]], minlength=len(names))
                ax.bar(range(len(names)), counts, bottom=below, color=colour, linewidth=0)
                below = below + counts
            drawing.name_values(ax, "x", names)
        else:
            edges, is_log = _edges(values[known, i], column, 0, 1, 0)
            drawing.set_axis(ax, "x", column.kind, is_log)
            parts = [values[chosen & known, i] for _, chosen, _ in by_class]
            colours = [colour for _, _, colour in by_class]
            ax.hist(parts, bins=edges, stacked=True, histtype="stepfilled", color=colours, linewidth=0)
        ax.set_title(column.name, fontsize=8)
        ax.set_yticks([])

    return _panels(draw, data, [(name, colour) for name, _, colour in by_class])


def reconstructions(x: Tensor, decoded: Tensor, data: Data) -> Picture:
    """Draw reconstructed values, the means of p(x|z), against true values `x`, which are NaN where they are missing.

    Numbers are points beside the diagonal, with R² in the units of the source. A binary column has a histogram of its
    probabilities for each true value, with the area under the ROC curve. Categories have a confusion matrix, whose
    columns add up to 1.
    """
    from sklearn.metrics import r2_score, roc_auc_score

    true, mean = drawing.in_units(x, data), drawing.in_units(decoded, data)

    def draw(ax: Any, i: int, column: ShownColumn) -> None:
        known = np.isfinite(true[:, i]) & np.isfinite(mean[:, i])
        x, y = true[known, i], mean[known, i]
        if column.kind == "category":
            names, codes = _categories(column, np.concatenate([x, y]))
            shares = pandas.crosstab(codes[len(x) :], codes[: len(x)], normalize="columns")
            every = range(len(names))
            shares = shares.reindex(index=every, columns=every)
            ax.imshow(shares, vmin=0, vmax=1, cmap="Blues", origin="lower", aspect="auto")
            for which in "xy":
                drawing.name_values(ax, which, names)
            majority = np.bincount(x.astype(int)).max() / len(x) if len(x) else math.nan
            score = f"{np.mean(x == y):.0%} right (majority {majority:.0%})" if len(x) else "no known value"
        elif column.kind == "binary":
            for value in (0, 1):
                heights, edges = np.histogram(y[x == value], bins=20, range=(0, 1))
                widths = 0.8 * heights / max(1, heights.max())
                ax.barh(edges[:-1] + 0.025, widths, height=0.05, left=value - 0.4, color=BLUE, linewidth=0)
            ax.set(xlim=(-0.5, 1.5), ylim=(0, 1))
            ax.set_yticks([0, 0.5, 1])
            drawing.name_values(ax, "x", column.values)
            area = f"{roc_auc_score(x, y):.2f}" if len(np.unique(x)) == 2 else "—"
            score = f"p({column.values[1]}), AUC {area}"
        else:
            both = np.concatenate([x, y])
            is_log = drawing.has_log_axis(column.kind, both)
            for which in "xy":
                drawing.set_axis(ax, which, column.kind, is_log)
            ax.scatter(x, y, s=4, linewidth=0, alpha=0.6, color=BLUE)
            if len(x):
                limits = [both.min(), both.max()]
                ax.plot(limits, limits, color="black", linewidth=0.7)
            score = f"R² {r2_score(x, y):.2f}" if len(x) > 1 and np.ptp(x) > 0 else "R² —"
        ax.set_title(f"{column.name}\n{score}", fontsize=7)

    return _panels(draw, data, labels=("true", "reconstructed"))


def samples(x: Tensor, data: Data) -> Picture:
    """Draw the marginal distributions of samples of p(x) over those of the data, as shares of the rows.

    The first and the last bin also contain all values beyond them.
    """
    values, of_data = drawing.in_units(x, data), drawing.in_units(_training(data), data)

    def draw(ax: Any, i: int, column: ShownColumn) -> None:
        pair = [part[np.isfinite(part[:, i]), i] for part in (of_data, values)]
        if column.values:
            names, codes = _categories(column, np.concatenate(pair))
            for k, (part, colour) in enumerate(zip(np.split(codes, [len(pair[0])]), (PALE, BLUE), strict=True)):
                shares = np.bincount(part, minlength=len(names)) / max(1, len(part))
                ax.bar(np.arange(len(names)) + 0.4 * k - 0.2, shares, width=0.4, color=colour, linewidth=0)
            drawing.name_values(ax, "x", names)
        else:
            edges, is_log = _edges(pair[0], column, 0.005, 0.995, 0.25)
            drawing.set_axis(ax, "x", column.kind, is_log)
            for part, colour in zip(pair, (PALE, BLUE), strict=True):
                heights = np.histogram(part.clip(edges[0], edges[-1]), edges)[0] / max(1, len(part))
                ax.stairs(heights, edges, color=colour, fill=colour == PALE)
        ax.set_title(column.name, fontsize=8)
        ax.set_yticks([])

    return _panels(draw, data, [("data", PALE), ("samples", BLUE)])


def correlations(x: Tensor, data: Data) -> Picture:
    """Draw the correlations of samples of p(x) beside those of the data, or against them if there are many.

    They are Spearman's rank correlations over the rows in which both values are known. Each category is a feature of
    its own, which is 1 in the rows of this category and 0 in others.
    """
    names = _feature_names(data)
    of_data, of_samples = (
        pandas.DataFrame(_features(values, data)[:, :FEATURES]).rank().corr().to_numpy()
        for values in (_training(data), x)
    )
    if len(of_data) > NAMED:
        above = np.triu_indices(len(of_data), 1)
        pair = of_data[above], of_samples[above]
        some = f"the first {FEATURES} of {len(names)}" if len(names) > FEATURES else f"{len(names)}"
        difference = np.sqrt(np.nanmean((pair[0] - pair[1]) ** 2))

        def draw_points(ax: Any) -> None:
            ax.scatter(*pair, s=2, linewidth=0, alpha=0.3, color=BLUE, rasterized=True)
            reach = min(1, 0.02 + np.nanmax(np.abs(pair)))
            ax.plot([-1, 1], [-1, 1], color="black", linewidth=0.7)
            ax.set(xlim=(-reach, reach), ylim=(-reach, reach), xlabel="data", ylabel="samples")
            ax.set_title(
                f"rank correlations of {some} columns\nroot mean square difference {difference:.2f}", fontsize=8
            )

        return drawing.figure(draw_points)

    def draw(axes: Any) -> None:
        titles = ("data", "samples", "samples - data")
        for ax, title, matrix in zip(axes, titles, (of_data, of_samples, of_samples - of_data), strict=True):
            image = ax.imshow(matrix, vmin=-1, vmax=1, cmap="RdBu_r")
            ax.set_title(title, fontsize=9)
            ax.grid(False)
            ax.set_xticks(range(len(names)), names, fontsize=6, rotation=90)
            ax.set_yticks(range(len(names)), names if ax is axes[0] else [], fontsize=6)
        _colour_bar(image, list(axes), "rank correlation")

    side = max(2.0, 0.11 * len(names))
    return drawing.figure(draw, size=(3 * side + 2.2, side + 1.4), columns=3)


def counts(x: Tensor, data: Data) -> Picture:
    """Draw the shares of zeros of columns in samples against those in the data, and variances against means."""
    values, of_data = drawing.in_units(x, data), drawing.in_units(_training(data), data)

    def draw(axes: Any) -> None:
        zeros = [pandas.DataFrame(v == 0).where(~np.isnan(v)).astype(float).mean() for v in (of_data, values)]
        axes[0].scatter(*zeros, s=8, linewidth=0, alpha=0.7, color=BLUE)
        axes[0].plot([0, 1], [0, 1], color="black", linewidth=0.7)
        axes[0].set(title="share of zeros of each column", xlabel="data", ylabel="samples")
        for name, part, colour in (("data", of_data, GREY), ("samples", values, BLUE)):
            frame = pandas.DataFrame(part)
            mean, variance = frame.mean(), frame.var()
            positive = (mean > 0) & (variance > 0)
            axes[1].scatter(mean[positive], variance[positive], s=8, linewidth=0, alpha=0.7, color=colour, label=name)
        axes[1].set(xscale="log", yscale="log", title="mean and variance of each column", xlabel="mean")
        axes[1].set_ylabel("variance")
        limits = np.array(axes[1].get_xlim())
        axes[1].plot(limits, limits, color="black", linewidth=0.7, label="Poisson")
        axes[1].legend(fontsize=7)

    return drawing.figure(draw, size=(7.2, 3.4), columns=2)


def traversals(decoded: Tensor, titles: Sequence[str], reach: float, data: Data) -> Picture:
    """Draw which columns change most with each latent dimension, one dimension in each panel.

    Args:
        decoded: What was decoded, (dimensions, steps, *shape).
        titles: The title of each panel.
        reach: How far the dimension varies to either side, in standard deviations of the prior.
        data: The data set.

    Each row of a panel is a feature. Colours are differences from the mean of the row, in standard deviations of the
    training data, of log x for positive values, log(1 + x) for counts, and the probability of each category.
    """
    names = _feature_names(data)
    values = _standardized(decoded.flatten(0, 1), data).reshape(*decoded.shape[:2], -1)
    values = values - values.mean(1, keepdims=True)
    largest = np.clip(np.abs(values).max(), 0.1, 3.0)
    columns = min(len(titles), 4)
    rows = math.ceil(len(titles) / columns)

    def draw(axes: Any) -> None:
        for ax, title, panel in zip(axes.flat, titles, values, strict=False):
            chosen = np.ptp(panel, axis=0).argsort()[::-1][:CHANGED]
            image = ax.imshow(
                panel[:, chosen].T, vmin=-largest, vmax=largest, cmap="RdBu_r", aspect="auto",
                extent=(-reach, reach, len(chosen) - 0.5, -0.5),
            )  # fmt: skip
            ax.set_title(title, fontsize=8)
            ax.set_xticks([-reach, 0, reach])
            ax.tick_params(labelsize=6)
            ax.set_yticks(range(len(chosen)), [names[i] for i in chosen], fontsize=6)
            ax.grid(False)
        drawing.remove_from(axes, len(titles))
        axes.flat[0].set_xlabel("latent dimension (sd of the prior)", fontsize=6)
        _colour_bar(image, axes.flat[: len(titles)].tolist(), "change (sd of the data)")

    height = 0.12 * min(CHANGED, len(names)) + 0.5
    return drawing.figure(draw, size=(2.5 * columns + 0.7, rows * height + 0.2), columns=columns, rows=rows)


def heat_map(values: Tensor, data: Data, names: Sequence[str] = ()) -> Picture:
    """Draw rows of a table, (groups, rows, *shape), as the lines of a heat map, with a white line between groups.

    `names` are the names of the groups. Colours are differences from the mean of the training data, in its standard
    deviations. If there are more than 40 features, the first 40 are drawn.
    """
    groups, size = values.shape[:2]
    columns = _feature_names(data)[:NAMED]
    shown = _standardized(values.flatten(0, 1), data)[:, :NAMED]

    def draw(ax: Any) -> None:
        image = ax.imshow(shown, vmin=-3, vmax=3, cmap="RdBu_r", aspect="auto")
        ax.grid(False)
        ax.set_xticks(range(len(columns)), columns, fontsize=6, rotation=90)
        ax.set_yticks(np.arange(groups) * size + (size - 1) / 2, names or range(1, groups + 1), fontsize=7)
        for line in range(1, groups):
            ax.axhline(line * size - 0.5, color="white", linewidth=2)
        _colour_bar(image, ax, "sd of the data from their mean")

    return drawing.figure(draw, size=(max(3.0, 0.14 * len(columns)) + 1.6, max(1.6, 0.06 * len(shown)) + 1.4))


def _colour_bar(image: Any, axes: Any, label: str) -> None:
    bar = image.figure.colorbar(image, ax=axes, fraction=0.02, aspect=30, shrink=0.8)
    bar.set_label(label, fontsize=7)
    bar.ax.tick_params(labelsize=6)


def _panels(
    draw: Callable[[Any, int, ShownColumn], None], data: Data, legend: Iterable[tuple[str, Any]] = (),
    labels: tuple[str, str] = ("", ""),
) -> Picture:  # fmt: skip
    """Return a figure with a panel for each of the first columns; `draw` draws one panel.

    `labels` are the labels of the horizontal and of the vertical axis.
    """
    shown = drawing.shown_columns(data)[:PANELS]
    across = min(len(shown), 6)
    down = math.ceil(len(shown) / across)

    def draw_all(axes: Any) -> None:
        for i, (ax, column) in enumerate(zip(axes.flat, shown, strict=False)):
            ax.tick_params(labelsize=6)
            draw(ax, i, column)
        drawing.remove_from(axes, len(shown))
        drawing.legend(axes, legend)
        figure = axes.flat[0].figure
        figure.supxlabel(labels[0], fontsize=8)
        figure.supylabel(labels[1], fontsize=8)

    return drawing.figure(draw_all, size=(1.6 * across + 0.8, 1.45 * down + 0.4), columns=across, rows=down)


def rows(data: Data) -> int:
    """Return how many rows of the data, and how many samples, a picture uses: fewer if there are many columns."""
    return max(100, min(ROWS, VALUES // data.spec.shape[-1]))


def _training(data: Data) -> Tensor:
    """Return some rows of the training split, drawn with a fixed seed; NaN where values are missing."""
    order = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(1))[: rows(data)]
    return _observed_values(data.batch(data.train, order.to(data.train.x.device)))


def _observed_values(batch: Batch) -> Tensor:
    """Return the values of a batch in float32; NaN where they are missing."""
    return drawing.with_gaps(batch.x.float(), batch.observed)


def _feature_names(data: Data) -> list[str]:
    """Return the names of the values of `Batch.x`: of columns, and of each category of a column."""
    columns = drawing.shown_columns(data)
    names = []
    for i in data.preprocessing.order or range(len(columns)):
        column = columns[i]
        shown = column.values[1:] if column.kind == "binary" else column.values
        names += [column.name] if shown in ((), ("1",)) else [f"{column.name} = {value}" for value in shown]
    return names


def _features(x: Tensor, data: Data) -> Array:
    """Return values of `Batch.x`, (N, features), in which positive values and counts are logarithms."""
    values: Array = x.double().cpu().numpy().copy()
    for kind, chosen in data.spec.kinds.items():
        if kind == "positive":
            values[:, chosen] = np.log(values[:, chosen].clip(min=1e-30))
        elif kind == "count":
            values[:, chosen] = np.log1p(values[:, chosen].clip(min=0))
    return values


def _standardized(x: Tensor, data: Data) -> Array:
    """Return `_features` minus their means in the training split, divided by their standard deviations."""
    frame = pandas.DataFrame(_features(_training(data), data))
    deviation = frame.std().fillna(0).to_numpy()
    features: Array = (_features(x, data) - frame.mean().fillna(0).to_numpy()) / np.where(deviation > 0, deviation, 1)
    return features


def _categories(column: ShownColumn, codes: Array) -> tuple[list[str], NDArray[np.int64]]:
    """Return names of categories, in which the rarest of many share one name, and the position of each code in them."""
    codes = codes.astype(np.int64)
    if len(column.values) <= CATEGORIES:
        return list(column.values), codes
    frequent = np.bincount(codes, minlength=len(column.values)).argsort(kind="stable")[::-1][: CATEGORIES - 1]
    position = np.full(len(column.values), len(frequent))
    position[frequent] = np.arange(len(frequent))
    return [*(column.values[i] for i in frequent), "others"], position[codes]


def _edges(values: Array, column: ShownColumn, low: float, high: float, margin: float) -> tuple[Array, bool]:
    """Return the edges of bins from the quantile `low` to the quantile `high`, and whether the axis is logarithmic.

    `margin` is the part of the distance between the two that is added to either side. Bins are even on the axis; those
    of whole numbers begin and end between them.
    """
    limits = np.quantile(values, (low, high)) if len(values) else np.ones(2)
    is_log = drawing.has_log_axis(column.kind, limits)
    begin, end = _positions(limits, column.kind, is_log)
    width = (end - begin) * margin if end > begin else 0.5
    begin, end = begin - width, end + width
    edges = np.linspace(begin, end, BINS + 1)
    if is_log:
        edges = np.expm1(edges) if column.kind == "count" else np.exp(edges)
    if column.kind == "count" or (
        len(values) and np.ptp(values) >= 2 and np.allclose(values, values.round(), rtol=0, atol=1e-3)
    ):
        whole = (
            np.unique(edges.round()) if is_log else np.arange(round(begin), round(end) + 1, -(-(end - begin) // BINS))
        )
        whole = whole[whole >= 0] if column.kind == "count" else whole
        edges = np.append(whole, 2 * whole[-1] - whole[-2] if len(whole) > 1 else whole[-1] + 1) - 0.5
    return edges, is_log


def _positions(values: Array, kind: ValueKind, is_log: bool) -> Array:
    """Return where values are on an axis that `drawing.set_axis` sets."""
    if not is_log:
        return values
    return np.log1p(values) if kind == "count" else np.log(values.clip(min=1e-30))
