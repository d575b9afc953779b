"""Pictures of a trained model, as arrays (height, width, 3), uint8, at least 256 pixels wide."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline import machine
from pipeline.data import Data
from pipeline.evaluate import codes, drawing, plot, series_pictures, table_pictures
from pipeline.evaluate import samples as sample_metrics
from pipeline.evaluate.drawing import BLUE, Picture
from pipeline.evaluate.series_pictures import ShownSeries
from variants import Batch, Variant

COLUMNS = 8
SIDE = 256  # the least width in pixels: that of MLflow's thumbnails
PANEL = 154, 112  # pixels of the panel of a sequence
NAMED = 20  # the most classes that have their names beside a picture
CHANNELS = 8  # the largest number of channels of sequences that are drawn
SERIES, OTHERS = 4, 6  # the columns of panels of reconstructions and forecasts, and of other pictures of sequences
DRAWS = 100  # of each sequence, for bands of quantiles
REACH = 3.0  # how far a traversal goes to either side, in standard deviations of the prior


def all_of(variant: Variant, data: Data, kl: Tensor | None) -> dict[str, Picture]:
    """Return all pictures by name: those of this module, and those that the variant draws of itself.

    `kl` (Z,) is the KL per latent dimension in nats, if there is one. A variant that is conditioned on a part of x has
    no samples. If z is discrete, nothing lies between two codes, so there are no traversals, no interpolations and no
    scatter plot of z. Random draws have a seed of their own.
    """
    variant.eval()
    is_table = data.layout == "table"
    with machine.seeded(data.valid.x.device, 0):
        shown = {"reconstructions": reconstructions(variant, data)}
        if not variant.discrete:
            shown["traversals"] = traversals(variant, data, kl)
        if not (is_table or variant.discrete):
            shown["interpolations"] = interpolations(variant, data)
        shown["latent"] = latent_space(variant, data)
        if variant.conditioned_on != "x":
            shown |= samples_of_table(variant, data) if is_table else {"samples": samples(variant, data)}
            if not variant.discrete:
                shown["aggregate"] = aggregate(*codes.posterior_and_prior(variant, data, data.valid))
        for name, values in variant.pictures(_examples(data, COLUMNS)).items():
            if is_table:
                has_classes = variant.class_conditional and len(values) == data.spec.classes
                shown[name] = table_pictures.heat_map(values, data, class_names(data) if has_classes else ())
            else:
                shown[name] = grid(values.flatten(0, 1), data, columns=values.shape[1])
        if data.spec.steps and (ahead := forecasts(variant, data)) is not None:
            shown["forecasts"] = ahead
    if kl is not None:
        shown["kl"] = kl_spectrum(kl)
    return shown


def examples(data: Data, n: int = 4 * COLUMNS) -> Picture:
    """Draw training examples: images and piano rolls, histograms of the columns of tables, and sequences as lines.

    Values are in the units of the source. Colours are classes. Missing values are grey pixels, or gaps in lines.
    """
    order = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(1)).to(data.train.x.device)
    if data.layout == "table":
        return table_pictures.examples(data.train[order[: table_pictures.EXAMPLES]], data)
    split = data.train[order[: n // 2 if data.layout == "lines" else n]]
    if data.layout == "lines":
        return _sequences(data, split)
    if split.y is not None:
        split = split[split.y.argsort(stable=True)]
    x = split.x.float() / 255 if split.x.dtype == torch.uint8 else split.x
    return grid(drawing.with_gaps(x, split.observed), data)


def _sequences(data: Data, split: Batch) -> Picture:
    """Draw each channel of some sequences in a panel of its own, of the first 8 if there are more."""
    assert split.mask is not None
    x = drawing.with_gaps(split.x.float(), split.observed)
    values, lengths = drawing.in_units(x, data), split.mask.sum(1).tolist()
    channels = drawing.shown_columns(data)[:CHANNELS]
    by_class = drawing.classes(data, split)

    def draw(axes: Any) -> None:
        for i, (ax, channel) in enumerate(zip(axes.flat, channels, strict=False)):
            known = np.concatenate([line[:length, i] for line, length in zip(values, lengths, strict=True)])
            if drawing.has_log_axis(channel.kind, known[~np.isnan(known)]):
                drawing.set_axis(ax, "y", channel.kind, is_log=True)
            for _, chosen, colour in by_class:
                for k in np.flatnonzero(chosen):
                    ax.plot(
                        values[k, : lengths[k], i], color=colour, linewidth=0.8, alpha=0.8,
                        marker="" if split.observed is None else ".", markersize=1.5,
                    )  # fmt: skip
            ax.set_title(channel.name, fontsize=8)
            ax.tick_params(labelsize=7)
            if channel.values:
                drawing.name_values(ax, "y", channel.values)
        axes.flat[0].set_xlabel("step", fontsize=7)
        drawing.legend(axes, [(name, colour) for name, _, colour in by_class])
        drawing.remove_from(axes, len(channels))

    columns = min(len(channels), 4)
    rows = math.ceil(len(channels) / columns)
    return drawing.figure(draw, size=(2.2 * columns + 0.8, 1.7 * rows + 0.3), columns=columns, rows=rows)


def reconstructions(variant: Variant, data: Data, n: int = 32) -> Picture:
    """Draw validation examples, each with the mean of p(x|z) below it. Lines are drawn over the original in grey.

    Sequences with several channels have a panel for each channel, with a band between the 10% and 90% quantiles of
    p(x|z). The columns of a table are drawn as in `table_pictures.reconstructions`.
    """
    is_table = data.layout == "table"
    if _has_panels(data):
        return _reconstructed_series(variant, data)
    batch = _examples(data, min(table_pictures.RECONSTRUCTED, len(data.valid)) if is_table else n)
    true = drawing.with_gaps(batch.x, batch.known)
    decoded = _cut(variant.decode(variant.encode(batch), batch), batch)
    if is_table:
        return table_pictures.reconstructions(true, decoded, data)
    if data.layout == "lines":
        return _lines(decoded, data, COLUMNS, behind=true)
    pairs = torch.stack([true.unflatten(0, (-1, COLUMNS)), decoded.unflatten(0, (-1, COLUMNS))], dim=1)
    return grid(pairs.flatten(0, 2), data)


def _has_panels(data: Data) -> bool:
    """Whether each channel of sequences is drawn in a panel of its own."""
    return data.layout == "lines" and len(drawing.shown_columns(data)) > 1


def _reconstructed_series(variant: Variant, data: Data) -> Picture:
    batch = _examples(data, SERIES)
    z = variant.encode(batch)
    rows = torch.arange(SERIES, device=z.device).repeat(DRAWS)
    draws = variant.sample_x(z[rows], batch[rows]).unflatten(0, (DRAWS, SERIES))
    mean, bands = drawing.in_units(variant.decode(z, batch), data), _bands(draws, batch, data, (0.8,))
    shown = [
        replace(series, mean=mean[i, : len(series.x)], bands=bands[i])
        for i, series in enumerate(_true_series(batch, data))
    ]
    return series_pictures.panels(
        shown, drawing.shown_columns(data), _x_label(data), "grey: data; blue: mean of p(x|z); light: 80% of p(x|z)"
    )


def _x_label(data: Data) -> str:
    return "time since the first step, in usual steps" if data.spec.elapsed else "step"


def _true_series(batch: Batch, data: Data) -> list[ShownSeries]:
    """Return validation examples as series in the units of the source, with their classes in the titles."""
    assert batch.mask is not None
    names, labels = class_names(data), None if batch.y is None else batch.y.tolist()
    values = drawing.in_units(drawing.with_gaps(batch.x, batch.known), data)
    shown = []
    for i, length in enumerate(batch.mask.sum(1).tolist()):
        of_class = f", class {names[labels[i]]}" if labels is not None and 0 <= labels[i] < len(names) else ""
        x = np.arange(length) if batch.elapsed is None else batch.elapsed[i, :length].cpu().numpy()
        shown.append(ShownSeries(title=f"validation {i + 1}{of_class}", x=x, truth=values[i, :length]))
    return shown


def _bands(
    draws: Tensor, batch: Batch, data: Data, levels: Sequence[float]
) -> list[list[tuple[NDArray[Any], NDArray[Any]]]]:
    """Return central intervals of draws (k, B, T, D) in the units of the source, a list for each sequence.

    There are none of binary and category channels.
    """
    assert batch.mask is not None
    values = np.stack([drawing.in_units(each, data) for each in draws])
    is_number = np.array([column.kind not in ("binary", "category") for column in drawing.shown_columns(data)])
    values[..., ~is_number] = np.nan
    lengths = batch.mask.sum(1).tolist()
    limits = [np.quantile(values, ((1 - level) / 2, (1 + level) / 2), axis=0) for level in levels]
    return [[(low[i, :length], high[i, :length]) for low, high in limits] for i, length in enumerate(lengths)]


def forecasts(variant: Variant, data: Data, rows: int = 6, columns: int = 4) -> Picture | None:
    """Draw forecasts of the second half of validation sequences from their first half; None if there are none.

    Each channel has a panel with the mean of 100 continuations, and bands that contain 50% and 80% of them. A piano
    roll, or an image whose rows are steps, is followed by some continuations.
    """
    has_lines = data.layout == "lines"
    batch = _examples(data, SERIES if has_lines else rows)
    assert batch.mask is not None
    half = (batch.mask.sum(1) + 1) // 2
    drawn = variant.forecast(batch, half, DRAWS if has_lines else columns - 1, noise=has_lines)
    if drawn is None:
        return None
    if not has_lines:
        whole = torch.stack([drawing.with_gaps(batch.x, batch.observed), *drawn], 1)
        whole = torch.where(batch.mask[:, None, :, None], whole, torch.nan)
        return grid(whole.flatten(0, 1), data, columns=columns)
    is_ahead = torch.arange(batch.x.shape[1], device=half.device) >= half[:, None]
    ahead = torch.where(is_ahead[..., None], drawn, math.nan)
    mean, bands = drawing.in_units(ahead.mean(0), data), _bands(ahead, batch, data, (0.8, 0.5))
    shown = [
        replace(
            series,
            mean=mean[i, : len(series.x)],
            bands=bands[i],
            forecast_from=series.x[origin] if origin < len(series.x) else None,  # a single step is not forecast
        )
        for i, (series, origin) in enumerate(zip(_true_series(batch, data), half.tolist(), strict=True))
    ]
    caption = "grey: data; blue: mean of the forecast, from the line on; light: 80% and 50% of the forecasts"
    return series_pictures.panels(shown, drawing.shown_columns(data), _x_label(data), caption)


def samples(variant: Variant, data: Data, n: int = 64) -> Picture:
    """Draw decoded samples of the prior."""
    return grid(variant.sample(n), data)


def samples_of_table(variant: Variant, data: Data) -> dict[str, Picture]:
    """Draw distributions of samples of p(x) beside those of the data: of columns, of pairs of these, and of counts."""
    x = variant.sample(table_pictures.rows(data), noise=True)
    shown = {"samples": table_pictures.samples(x, data)}
    if x.shape[1] > 1:
        shown["correlations"] = table_pictures.correlations(x, data)
    if set(data.spec.kinds) == {"count"}:
        shown["counts"] = table_pictures.counts(x, data)
    return shown


def traversals(variant: Variant, data: Data, kl: Tensor | None, rows: int = 8) -> Picture:
    """Draw how decoded examples change with one latent dimension in each row, the one with the largest KL on top.

    The dimension varies from -3 to 3 standard deviations of the prior. All others stay at the code of one example. For
    a table, the columns that change most are drawn.
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
    decoded = _cut(variant.decode(z, same), same)
    titles = [f"z{i}" if kl is None else f"z{i}, {float(kl[i]):.2f} nats" for i in dimensions]
    if data.layout == "table":
        return table_pictures.traversals(decoded.unflatten(0, (-1, COLUMNS)), titles, REACH, data)
    return grid(decoded, data, titles=titles)


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


def grid(values: Tensor, data: Data, columns: int = COLUMNS, titles: Sequence[str] = ()) -> Picture:
    """Draw images or sequences (N, *shape) in rows of `columns`, in the way that `Data.layout` says.

    In a piano roll, time runs to the right, and low pitches are at the bottom. NaN values are grey pixels, or gaps in
    lines. Sequences with several channels have a panel for each channel, in which those of a row are drawn together,
    the first one in dark blue and the last one in green; `titles` are those of the rows.
    """
    if _has_panels(data):
        return _rows_of_series(values, data, columns, titles)
    if data.layout == "lines":
        return _lines(values, data, columns)
    images = _unit(values.float().cpu(), data)
    if data.layout == "roll":
        images = images.transpose(1, 2).flip(1)[:, None]
        images = torch.nn.functional.adaptive_max_pool2d(images, (min(images.shape[2], SIDE), images.shape[3]))
    elif images.ndim == 3:  # rows of pixels as steps
        images = images[:, None]
    factor = math.ceil(SIDE / columns / images.shape[3])
    images = images[:, : 3 if images.shape[1] > 2 else 1].nan_to_num(0.5)
    images = images.repeat_interleave(factor, 2).repeat_interleave(factor, 3)
    pixels = (images.expand(-1, 3, -1, -1) * 255).round().to(torch.uint8)
    columns = min(columns, len(pixels))
    rows = math.ceil(len(pixels) / columns)
    tiles = torch.full((rows * columns, 3, pixels.shape[2] + 2, pixels.shape[3] + 2), 128, dtype=torch.uint8)
    tiles[: len(pixels), :, 2:, 2:] = pixels  # grey lines are above and to the left of each image
    page = tiles.unflatten(0, (rows, columns)).permute(0, 3, 1, 4, 2).flatten(2, 3).flatten(0, 1)
    picture: Picture = torch.nn.functional.pad(page, (0, 0, 0, 2, 0, 2), value=128).numpy()
    return picture


def _rows_of_series(values: Tensor, data: Data, columns: int, titles: Sequence[str]) -> Picture:
    """Draw the sequences of each row, of at most `OTHERS` rows, in a column of panels."""
    from matplotlib import colormaps

    in_units = drawing.in_units(values[: OTHERS * columns].float(), data)
    colours = colormaps["viridis"](np.linspace(0, 0.8, columns))
    shown = []
    for i, row in enumerate(in_units[k : k + columns] for k in range(0, len(in_units), columns)):
        shown.append(
            ShownSeries(
                title=titles[i] if titles else f"{i + 1}", x=np.arange(row.shape[1]),
                truth=np.full(row.shape[1:], np.nan), lines=[*zip(colours, row, strict=False)],
            )
        )  # fmt: skip
    caption = f"{columns} sequences in each panel, from the first one in dark blue to the last one in green"
    if left_out := -(-len(values) // columns) - len(shown):
        caption += f"; columns left out: {left_out}"
    return series_pictures.panels(shown, drawing.shown_columns(data), caption=caption)


def _lines(values: Tensor, data: Data, columns: int, behind: Tensor | None = None) -> Picture:
    """Draw sequences (N, T, 1) of one channel in small panels that share their axes.

    `behind` are other sequences, drawn in grey behind the first ones.
    """
    from matplotlib.backends.backend_agg import RendererAgg
    from matplotlib.path import Path
    from matplotlib.transforms import IdentityTransform

    low, high = _limits(data)
    count, steps, _ = values.shape
    width, height = PANEL
    row, column = np.divmod(np.arange(count)[:, None], columns)
    rows = int(row.max()) + 1
    renderer = RendererAgg(columns * width + 1, rows * height + 1, drawing.DPI)
    pixels: Picture = np.asarray(renderer.buffer_rgba())
    pixels[:] = 255
    pixels[::height] = pixels[:, ::width] = 204  # the frames of the panels
    x = width * (column + 0.05 + 0.9 * np.arange(steps) / max(steps - 1, 1))
    pen = renderer.new_gc()
    in_grey = [] if behind is None else [(behind, drawing.GREY, 1.8)]
    for drawn, colour, thickness in [*in_grey, (values, drawing.PALETTE[0], 0.9)]:
        share = np.clip((_evened(drawn.float().cpu(), data).numpy() - low) / (high - low), -0.08, 1.08)
        y = height * (rows - 1 - row + 0.08 + 0.84 * share[..., 0])
        pen.set_linewidth(thickness)
        pen.set_foreground(colour)
        for line in np.stack([x, y], 2):
            renderer.draw_path(pen, Path(line), IdentityTransform())
    return pixels[..., :3].copy()


@codes.once_for_data
def _limits(data: Data) -> tuple[float, float]:
    """Return the values of sequences at the lower and at the upper end of a panel."""
    known = data.valid.known.expand_as(data.valid.x)  # type: ignore[union-attr]
    real = torch.where(known, _evened(data.valid.x.float(), data), math.nan).cpu().numpy()
    low, high = np.nanquantile(real, (0.001, 0.999)).tolist()
    return low, high if high > low else low + 1


def aggregate(codes: NDArray[np.float64], prior: NDArray[np.float64]) -> Picture:
    """Draw samples of the aggregated posterior (N, Z) and of the prior in the two dimensions that vary most.

    The circles are at 1, 2 and 3 standard deviations of the prior.
    """
    chosen = np.argsort(codes.var(axis=0))[::-1][:2]
    if codes.shape[1] == 1:
        chosen = np.array([0, 0])
    centre, spread = prior[:, chosen].mean(axis=0), prior[:, chosen].std(axis=0)
    angle = np.linspace(0, 2 * np.pi, 100)
    circles = [centre + radius * spread * np.stack([np.cos(angle), np.sin(angle)], 1) for radius in (1, 2, 3)]
    reach = np.stack([centre - 4 * spread, centre + 4 * spread], 1)
    return plot.picture([
        plot.Panel(
            title=title, labels=(f"z{chosen[0]}", f"z{chosen[1]}"), limits=(tuple(reach[0]), tuple(reach[1])),
            points=[(values[:, chosen], colour)], diameter=4.3, lines=circles,
        )
        for title, values, colour in (("aggregated posterior", codes, BLUE), ("prior", prior, drawing.GREY))
    ])  # fmt: skip


def latent_space(variant: Variant, data: Data, n: int = 2000) -> Picture:
    """Draw the codes of validation examples in their first two principal components, coloured by class.

    Examples whose class is unknown are left out, unless no class is known.
    """
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
    points, names = [(code, BLUE)], []
    if len(known):
        labels, palette = codes.labels_of(known)[:n], drawing.palette(data.spec.classes)
        shown, counts = np.unique(labels, return_counts=True)
        points = [(code[labels == c], palette[c]) for c in shown[np.argsort(-counts)]]  # rare classes on top
        names = [(class_names(data)[c], palette[c]) for c in shown]
    return plot.picture([
        plot.Panel(
            title="posterior means, validation", labels=(axes[0], axes[1]),
            limits=(plot.limits_of(code[:, 0]), plot.limits_of(code[:, 1])), points=points,
            names=names if 1 < len(names) <= NAMED else (),
        )
    ])  # fmt: skip


def kl_spectrum(kl: Tensor) -> Picture:
    """Draw the KL per latent dimension (Z,) in nats, sorted: how many dimensions carry information, and how much."""
    values = np.sort(kl.cpu().numpy())[::-1]
    return plot.picture([
        plot.Panel(
            title=f"KL per dimension, {values.sum():.1f} in all", labels=("latent dimension, sorted", "KL (nats)"),
            limits=((0.3, len(values) + 0.7), (0.0, 1.05 * max(float(values[0]), 1e-3))), bars=values.tolist(),
        )
    ])  # fmt: skip


def rate_distortion(rate: Tensor, distortion: Tensor) -> Picture:
    """Draw rate against distortion, (T + 1,) each, in nats, from annealing. The last point is the posterior."""

    def draw(ax: Any) -> None:
        ax.plot(rate.numpy(), distortion.numpy(), color=BLUE)
        ax.plot(rate[-1:].numpy(), distortion[-1:].numpy(), "o", color=BLUE)
        title = f"{float(rate[-1]):.1f} + {float(distortion[-1]):.1f} nats at the posterior"
        ax.set(xlabel="rate, KL from the prior (nats)", ylabel="distortion, -log p(x|z) (nats)", title=title)

    return drawing.figure(draw)


def curves(lines: Mapping[str, list[tuple[int, float]]], x: str, y: str) -> Picture:
    """Draw named lines over a logarithmic axis."""

    def draw(ax: Any) -> None:
        for colour, (name, points) in zip(drawing.PALETTE, lines.items(), strict=False):
            if points:
                ax.plot(*zip(*points, strict=True), marker="o", label=name, color=colour)
        ax.set(xscale="log", xlabel=x, ylabel=y)
        ax.xaxis.set_major_formatter("{x:,.0f}")
        ax.legend()

    return drawing.figure(draw)


def neighbours(generated: Tensor, data: Data, n: int = COLUMNS - 1) -> Picture:
    """Draw samples (N, *shape), one in each row, followed by the training examples that are nearest to it.

    The distance is the Euclidean one between values. A model that repeats its training data shows an image twice.
    """
    train = Batch.cat(list(data.batches(data.train)))
    flat = [x.flatten(1).double().cpu().numpy() for x in (generated, train.x)]
    near, _ = sample_metrics.nearest(flat[0], flat[1], n)
    shown = drawing.with_gaps(train.x, train.known).cpu()[torch.from_numpy(near)]
    rows = torch.cat([generated[:, None].cpu(), shown], dim=1)
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


def class_names(data: Data) -> list[str]:
    return [drawing.short(name) for name in data.preprocessing.class_names]


def _unit(values: Tensor, data: Data) -> Tensor:
    """Map values to [0, 1]; numbers by their range in the validation split."""
    if next(iter(data.spec.kinds)) not in ("binary", "category", "pixel", "fraction"):
        values, valid = _evened(values, data), _evened(data.valid.x.float().cpu(), data)
        axes: Any = 0 if valid.ndim == 2 else tuple(range(valid.ndim))
        low, high = torch.amin(valid, axes), torch.amax(valid, axes)
        values = (values - low) / torch.where(high > low, high - low, 1.0)
    return values.clamp(0, 1)


def _evened(values: Tensor, data: Data) -> Tensor:
    """Return values (N, *shape) with counts as log(1 + count), and the logarithms of positive values."""
    for kind, chosen in data.spec.kinds.items():
        if kind == "count":
            values = torch.where(chosen.to(values.device), values.clamp(min=0).log1p(), values)
        elif kind == "positive":
            values = torch.where(chosen.to(values.device), values.clamp(min=1e-3).log(), values)
    return values
