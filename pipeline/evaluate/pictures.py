"""Pictures of a trained model, as arrays (height, width, 3), uint8, at least 256 pixels wide."""

import io
import math
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline import machine
from pipeline.data import Data
from pipeline.evaluate import codes
from pipeline.evaluate import samples as sample_metrics
from variants import Batch, Variant

Picture = NDArray[np.uint8]
COLUMNS = 8
SIDE = 256  # the least width in pixels: that of MLflow's thumbnails
PANELS, HISTOGRAM_ROWS = 24, 5000  # columns of a table that are drawn, and rows behind their histograms
REACH = 3.0  # how far a traversal goes to either side, in standard deviations of the prior


def all_of(variant: Variant, data: Data, kl: Tensor | None) -> dict[str, Picture]:
    """Return all pictures by name: those of this module, and those that the variant draws of itself.

    `kl` (Z,) is the KL per latent dimension in nats, if there is one. A variant that is conditioned on a part of x has
    no samples. Random draws have a seed of their own.
    """
    variant.eval()
    with machine.seeded(data.valid.x.device, 0):
        shown = {
            "reconstructions": reconstructions(variant, data),
            "traversals": traversals(variant, data, kl),
            "interpolations": interpolations(variant, data),
            "latent": latent_space(variant, data),
        }
        if variant.conditioned_on != "x":
            shown["samples"] = samples(variant, data)
            shown["aggregate"] = aggregate(*codes.posterior_and_prior(variant, data, data.valid))
        for name, values in variant.pictures(_examples(data, COLUMNS)).items():
            shown[name] = grid(values.flatten(0, 1), data, columns=values.shape[1])
    if kl is not None:
        shown["kl"] = kl_spectrum(kl)
    return shown


def examples(data: Data, n: int = 4 * COLUMNS) -> Picture:
    """Draw training examples: images and rolls as they are, the columns of tables as histograms, sequences as lines.

    Values are in the units of the source. Colours are classes.
    """
    order = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(1)).to(data.train.x.device)
    if data.layout == "table":
        return _histograms(data, data.train[order[:HISTOGRAM_ROWS]])
    split = data.train[order[: n // 2 if data.layout == "lines" else n]]
    if data.layout == "lines":
        return _sequences(data, split)
    if split.y is not None:
        split = split[split.y.argsort(stable=True)]
    return grid(split.x.float() / 255 if split.x.dtype == torch.uint8 else split.x, data)


def _histograms(data: Data, split: Batch) -> Picture:
    """Draw a histogram of each column of a table, of the first 24 if there are more."""
    values = data.preprocessing.decode(split.x.float())
    names = _column_titles(data, PANELS)
    by_class = _class_masks(data, split)

    def draw(axes: Any) -> None:
        for ax, name, column in zip(axes.flat, names, values.T, strict=False):
            parts, colours = [column[chosen] for chosen, _ in by_class.values()], [c for _, c in by_class.values()]
            ax.hist(parts, bins=30, stacked=True, color=colours, linewidth=0)
            ax.set_title(name, fontsize=8)
            ax.tick_params(labelsize=7)
            ax.set_yticks([])
        _legend(axes, by_class, len(names))

    rows = math.ceil(len(names) / 6)
    return _figure(draw, size=(1.5 * min(len(names), 6) + 0.8, 1.3 * rows + 0.4), columns=min(len(names), 6), rows=rows)


def _sequences(data: Data, split: Batch) -> Picture:
    """Draw each channel of some sequences in a panel of its own, of the first 8 if there are more."""
    assert split.mask is not None
    values, lengths = data.preprocessing.decode(split.x.float()), split.mask.sum(1).tolist()
    names = _column_titles(data, PANELS // 3)
    by_class = _class_masks(data, split)

    def draw(axes: Any) -> None:
        for channel, (ax, name) in enumerate(zip(axes.flat, names, strict=False)):
            for chosen, colour in by_class.values():
                for i in np.flatnonzero(chosen):
                    ax.plot(values[i, : lengths[i], channel], color=colour, linewidth=0.8, alpha=0.8)
            ax.set_title(name, fontsize=8)
            ax.tick_params(labelsize=7)
        axes.flat[0].set_xlabel("step", fontsize=7)
        _legend(axes, by_class, len(names))

    columns = min(len(names), 4)
    rows = math.ceil(len(names) / columns)
    return _figure(draw, size=(2.2 * columns + 0.8, 1.7 * rows + 0.3), columns=columns, rows=rows)


def _column_titles(data: Data, most: int) -> list[str]:
    """Return the names of the first columns, shortened, as Matplotlib shows them."""
    names = [c.name for c in data.preprocessing.columns] or [f"x{i}" for i in range(data.spec.shape[-1])]
    return [(name if len(name) < 20 else f"{name[:17]}...").replace("$", r"\$") for name in names[:most]]


def _class_masks(data: Data, split: Batch) -> dict[str, tuple[NDArray[np.bool_], Any]]:
    """Return which examples are of each class, and its colour, by the name of the class; "" if there are no classes."""
    import seaborn

    if split.y is None or data.spec.classes > 10:
        return {"": (np.ones(len(split), bool), "#4477aa")}
    y = split.y.cpu().numpy()
    colours = seaborn.color_palette("colorblind", data.spec.classes)
    masks = {str(name): (y == c, colours[c]) for c, name in enumerate(data.preprocessing.class_names)}
    return masks | ({"unknown": (y < 0, "#999999")} if (y < 0).any() else {})


def _legend(axes: Any, by_class: Mapping[str, tuple[Any, Any]], panels: int) -> None:
    """Name the colours of classes on the right of a figure, and remove the panels that are not needed."""
    from matplotlib.patches import Patch

    for ax in axes.flat[panels:]:
        ax.remove()
    if len(by_class) > 1:
        handles = [Patch(color=colour, label=name) for name, (_, colour) in by_class.items()]
        axes.flat[0].figure.legend(handles=handles, loc="outside right upper", fontsize=8, frameon=False)


def reconstructions(variant: Variant, data: Data, n: int = 32) -> Picture:
    """Draw validation examples, with the mean of its reconstruction below each; of line plots, the original in grey."""
    batch = _examples(data, n)
    true, decoded = _cut(batch.x, batch), _cut(variant.decode(variant.encode(batch), batch), batch)
    if data.layout == "lines":
        return _lines(decoded, data, COLUMNS, behind=true)
    pairs = torch.stack([true.unflatten(0, (-1, COLUMNS)), decoded.unflatten(0, (-1, COLUMNS))], dim=1)
    return grid(pairs.flatten(0, 2), data)


def samples(variant: Variant, data: Data, n: int = 64) -> Picture:
    """Draw decoded samples of the prior."""
    return grid(variant.sample(n), data)


def traversals(variant: Variant, data: Data, kl: Tensor | None, rows: int = 8) -> Picture:
    """Draw what changes with a single latent dimension, one in each row, the most informative (by KL) on top.

    The dimension varies by 3 standard deviations of the prior to either side of 0; the others are those of the code of
    one example.
    """
    batch = _examples(data, 1)
    code, prior = variant.encode(batch), variant.sample_prior(1000)
    order = range(code.shape[1]) if kl is None else kl.argsort(descending=True).tolist()
    dimensions = order[:rows]
    z = code.repeat(len(dimensions) * COLUMNS, 1)
    for row, dimension in enumerate(dimensions):
        reach = REACH * prior[:, dimension].std()
        z[row * COLUMNS : (row + 1) * COLUMNS, dimension] = torch.linspace(-1, 1, COLUMNS, device=z.device) * reach
    same = batch[torch.zeros(len(z), dtype=torch.int64, device=z.device)]
    return grid(_cut(variant.decode(z, same), same), data)


def interpolations(variant: Variant, data: Data, rows: int = 8) -> Picture:
    """Draw decoded points on straight lines between the codes of two examples, one pair in each row.

    The condition, or the length of a sequence, is that of the left example.
    """
    batch = _examples(data, 2 * rows)
    code = variant.encode(batch)
    steps = torch.linspace(0, 1, COLUMNS, device=code.device)[None, :, None]
    lines = torch.lerp(code[:rows, None], code[rows:, None], steps)
    left = batch[torch.arange(rows, device=code.device).repeat_interleave(COLUMNS)]
    return grid(_cut(variant.decode(lines.flatten(0, 1), left), left), data)


def grid(values: Tensor, data: Data, columns: int = COLUMNS) -> Picture:
    """Draw examples (N, *shape) in rows of `columns`, in the way that `Data.layout` says.

    A row of a table becomes a strip with one cell for each feature; in a piano roll time runs to the right, and low
    pitches are at the bottom.
    """
    from torchvision.utils import make_grid

    if data.layout == "lines":
        return _lines(values, data, columns)
    images = _unit(values.float().cpu(), data)
    if data.layout == "table":
        images = images[:, None, None].expand(-1, 1, max(1, images.shape[1] // 4), -1)
    elif data.layout == "roll":
        images = images.transpose(1, 2).flip(1)[:, None]
        images = torch.nn.functional.adaptive_max_pool2d(images, (min(images.shape[2], SIDE), images.shape[3]))
    elif images.ndim == 3:  # rows of pixels as steps
        images = images[:, None]
    factor = math.ceil(SIDE / columns / images.shape[3])
    images = images[:, : 3 if images.shape[1] > 2 else 1].nan_to_num(0.5)
    images = images.repeat_interleave(factor, 2).repeat_interleave(factor, 3)
    page = make_grid(images, nrow=columns, padding=2, pad_value=0.5)
    picture: Picture = (page.permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()
    return picture


def _lines(values: Tensor, data: Data, columns: int, behind: Tensor | None = None) -> Picture:
    """Draw sequences (N, T, D) in small panels that share their axes, one line for each channel.

    `behind` are other sequences, drawn in grey behind the first ones.
    """
    import seaborn
    from matplotlib.collections import LineCollection

    shown = [v.float().cpu().numpy() for v in (behind, values) if v is not None]
    real = data.valid.x[data.valid.mask].cpu().numpy()
    low, high = np.quantile(real, (0.001, 0.999))
    count, steps, channels = shown[-1].shape
    colours = seaborn.color_palette("colorblind" if channels <= 10 else "husl", channels)
    rows = math.ceil(count / columns)
    panel = np.stack(np.divmod(np.arange(count), columns), 1)
    x = panel[:, 1, None] + 0.05 + 0.9 * np.arange(steps) / max(steps - 1, 1)

    def draw(ax: Any) -> None:
        for v in shown:
            y = rows - 1 - panel[:, 0, None, None] + 0.08 + 0.84 * np.clip((v - low) / (high - low), -0.08, 1.08)
            for channel in range(channels):
                pairs = np.stack([x, y[..., channel]], axis=2)
                first = v is not shown[-1]
                colour = (0.6, 0.6, 0.6) if first else colours[channel]
                ax.add_collection(LineCollection(list(pairs), colors=[colour], linewidths=1.8 if first else 0.9))
        ax.set(xlim=(0, columns), ylim=(0, rows), xticks=range(columns + 1), yticks=range(rows + 1))
        ax.tick_params(labelbottom=False, labelleft=False, length=0)

    return _figure(draw, size=(1.1 * columns, 0.8 * rows))


def aggregate(codes: NDArray[np.float64], prior: NDArray[np.float64]) -> Picture:
    """Draw samples of the aggregated posterior (N, Z) and of the prior in the two dimensions that vary most.

    The circles are at 1, 2 and 3 standard deviations of the prior.
    """
    import seaborn
    from matplotlib.patches import Ellipse

    chosen = np.argsort(codes.var(axis=0))[::-1][:2]
    if codes.shape[1] == 1:
        chosen = np.array([0, 0])
    centre, spread = prior[:, chosen].mean(axis=0), prior[:, chosen].std(axis=0)

    def draw(axes: Any) -> None:
        pairs = [("aggregated posterior", codes, "#4477aa"), ("prior", prior, "#888888")]
        for ax, (title, values, colour) in zip(axes, pairs, strict=True):
            seaborn.scatterplot(x=values[:, chosen[0]], y=values[:, chosen[1]], s=5, linewidth=0, color=colour, ax=ax)
            for n in (1, 2, 3):
                ax.add_patch(Ellipse(centre, *(2 * n * spread), fill=False, color="black", linewidth=0.7))
            reach = np.stack([centre - 4 * spread, centre + 4 * spread])
            ax.set(title=title, xlim=reach[:, 0], ylim=reach[:, 1], xlabel=f"z{chosen[0]}", ylabel=f"z{chosen[1]}")

    return _figure(draw, size=(6.4, 3.4), columns=2)


def latent_space(variant: Variant, data: Data, n: int = 2000) -> Picture:
    """Draw the codes of validation examples in their first two principal components, coloured by class.

    Examples whose class is unknown are left out, unless no class is known.
    """
    import seaborn
    from sklearn.decomposition import PCA

    known = codes.labelled(data.valid)
    split = (known if len(known) else data.valid)[slice(0, n)]
    code = torch.cat([variant.encode(b.unlabelled) for b in data.batches(split)]).float().cpu().numpy()
    axes = [f"z{i}" for i in range(code.shape[1])]
    if code.shape[1] > 2:
        pca = PCA(2).fit(code)
        code, shares = pca.transform(code), pca.explained_variance_ratio_
        axes = [f"component {i + 1} ({share:.0%} of variance)" for i, share in enumerate(shares)]
    elif code.shape[1] == 1:
        code, axes = (
            np.column_stack([code[:, 0], np.random.default_rng(0).uniform(-1, 1, len(code))]),
            ["z0", "(jitter)"],
        )
    classes = codes.labels_of(known)[:n] if len(known) else None
    colours = None
    if classes is not None:
        palette = seaborn.color_palette("colorblind" if data.spec.classes <= 10 else "husl", data.spec.classes)
        colours = {c: palette[c] for c in np.unique(classes)}

    def draw(ax: Any) -> None:
        seaborn.scatterplot(
            x=code[:, 0], y=code[:, 1], hue=classes, palette=colours, s=14, linewidth=0, ax=ax,
            legend="full" if 1 < data.spec.classes <= 20 else False,
        )  # fmt: skip
        ax.set(xlabel=axes[0], ylabel=axes[1], title="posterior means, validation")
        if ax.get_legend():
            seaborn.move_legend(ax, "center left", bbox_to_anchor=(1, 0.5), title="class", frameon=False, markerscale=2)

    return _figure(draw)


def kl_spectrum(kl: Tensor) -> Picture:
    """Draw the KL per latent dimension (Z,) in nats, sorted: how many dimensions carry information, and how much."""
    import seaborn

    values = np.sort(kl.cpu().numpy())[::-1]

    def draw(ax: Any) -> None:
        seaborn.barplot(x=np.arange(1, len(values) + 1), y=values, color="#4477aa", ax=ax, width=0.9)
        ax.set(
            xlabel="latent dimension, sorted", ylabel="KL (nats)", title=f"KL per dimension, {values.sum():.1f} in all"
        )
        shown = range(0, len(values), max(1, len(values) // 8))
        ax.set_xticks(list(shown), [str(i + 1) for i in shown])

    return _figure(draw)


def rate_distortion(rate: Tensor, distortion: Tensor) -> Picture:
    """Draw rate against distortion, (T + 1,) each, in nats, from annealing. The last point is the posterior."""

    def draw(ax: Any) -> None:
        ax.plot(rate.numpy(), distortion.numpy(), color="#4477aa")
        ax.plot(rate[-1:].numpy(), distortion[-1:].numpy(), "o", color="#4477aa")
        title = f"{float(rate[-1]):.1f} + {float(distortion[-1]):.1f} nats at the posterior"
        ax.set(xlabel="rate, KL from the prior (nats)", ylabel="distortion, -log p(x|z) (nats)", title=title)

    return _figure(draw)


def curves(lines: Mapping[str, list[tuple[int, float]]], x: str, y: str) -> Picture:
    """Draw named lines over a logarithmic axis."""
    import seaborn

    def draw(ax: Any) -> None:
        for colour, (name, points) in zip(seaborn.color_palette("colorblind"), lines.items(), strict=False):
            if points:
                ax.plot(*zip(*points, strict=True), marker="o", label=name, color=colour)
        ax.set(xscale="log", xlabel=x, ylabel=y)
        ax.legend()

    return _figure(draw)


def neighbours(generated: Tensor, data: Data, n: int = COLUMNS - 1) -> Picture:
    """Draw samples (N, *shape), one in each row, followed by the training examples that are nearest to it.

    The distance is the Euclidean one between values. A model that repeats its training data shows an image twice.
    """
    train = torch.cat([b.x for b in data.batches(data.train)])
    flat = [x.flatten(1).double().cpu().numpy() for x in (generated, train)]
    near, _ = sample_metrics.nearest(flat[0], flat[1], n)
    rows = torch.cat([generated[:, None].cpu(), train.cpu()[torch.from_numpy(near)]], dim=1)
    return grid(rows.flatten(0, 1), data, columns=n + 1)


def _cut(values: Tensor, batch: Batch) -> Tensor:
    """Return sequences (B, T, D) with NaN after their ends, and anything else as it is."""
    if batch.mask is None:
        return values
    return torch.where(batch.mask[..., None], values, math.nan)


def _examples(data: Data, n: int) -> Batch:
    """Return the first `n` examples of a fixed shuffle of the validation split, repeated if there are fewer."""
    order = torch.randperm(len(data.valid), generator=torch.Generator().manual_seed(1))
    return data.batch(data.valid, order.repeat(n // len(order) + 1)[:n].to(data.valid.x.device))


def _unit(values: Tensor, data: Data) -> Tensor:
    """Map values to [0, 1]; continuous data by their range in the validation split."""
    if data.spec.likelihood == "gaussian":
        valid = data.valid.x.float().cpu()
        axes: Any = 0 if valid.ndim == 2 else tuple(range(valid.ndim))
        low, high = torch.amin(valid, axes), torch.amax(valid, axes)
        values = (values - low) / torch.where(high > low, high - low, 1.0)
    return values.clamp(0, 1)


def _figure(
    draw: Callable[[Any], None], size: tuple[float, float] = (4.2, 3.4), columns: int = 1, rows: int | None = None
) -> Picture:
    """Return what `draw` draws on axes as pixels. `size` is in inches. No global state, such as pyplot's, changes.

    With `rows`, `draw` gets an array (rows, columns) of axes.
    """
    import matplotlib
    import seaborn
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from PIL import Image

    style = seaborn.axes_style("whitegrid") | seaborn.plotting_context("paper")
    with matplotlib.rc_context(style), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # names in scripts that the font does not have
        figure = Figure(figsize=size, dpi=140, layout="constrained")
        FigureCanvasAgg(figure)
        draw(figure.subplots(rows or 1, columns, squeeze=rows is None))
        stream = io.BytesIO()
        figure.savefig(stream, format="png")
    return np.asarray(Image.open(stream).convert("RGB"))
