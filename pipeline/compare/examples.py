"""The same test examples as each variant reconstructs them, and what each variant generates, side by side."""

import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline import machine
from pipeline.compare import figures
from pipeline.compare.figures import TRIVIAL, Style
from pipeline.data import Data
from pipeline.evaluate import drawing, pictures, table_pictures
from pipeline.evaluate.drawing import Picture, ShownColumn
from variants import Batch, Variant

Models = Mapping[str, tuple[Variant, Data]]  # by variant; the data are those that it was trained on
IMAGES = 10  # images side by side
ROWS, COLUMNS = 3, 12  # of a table
PANELS = 4  # of sequences side by side, each with one channel of one sequence


@dataclass(frozen=True)
class ExampleRow:
    """A test example of a table: its title, and the texts of its values, by variant, after those of the data."""

    title: str
    values: Mapping[str, Sequence[str]]


def strips(models: Models, kl: Mapping[str, Sequence[float]]) -> Iterator[tuple[str, str, bytes]]:
    """Yield (kind, variant or "original", PNG) for reconstructions, samples, and traversals of images.

    The reconstructions are of images and piano rolls only: see `rows` for tables, and `series` for other sequences.
    There are no traversals of a discrete z. `kl` holds the KL per dimension of variants that have one.
    """
    first = next(iter(models.values()))[1]
    has_pixels = first.layout in ("images", "roll")
    index = _positions(first, IMAGES)
    if has_pixels:
        originals = first.batch(first.test, index.to(first.test.x.device))
        yield "reconstructions", "original", _strip(drawing.with_gaps(originals.x, originals.known), first)
    for name, (variant, data) in models.items():
        with machine.seeded(variant.device, 0):
            batch = data.batch(data.test, index.to(variant.device))
            if has_pixels:
                yield "reconstructions", name, _strip(variant.decode(variant.encode(batch), batch), data)
            if variant.conditioned_on == "x":
                continue
            if data.layout == "table":
                x = variant.sample(table_pictures.rows(data), noise=True)
                yield "samples", name, _png(table_pictures.samples(x, data))
            else:
                yield "samples", name, _strip(variant.sample(2 * IMAGES), data)
            if data.layout == "images" and not variant.discrete:
                yield "traversals", name, _strip(_traversals(variant, batch, kl.get(name)), data)


def rows(models: Models) -> tuple[list[str], list[ExampleRow]]:
    """Return the names of the first columns of a table, and some test examples, in the units of the source.

    A reconstruction is the mean of p(x|z): for a binary column the probability of its second value, and for categories
    the most probable one. There are no rows for other data.
    """
    first = next(iter(models.values()))[1]
    if first.layout != "table":
        return [], []
    columns = drawing.shown_columns(first)[:COLUMNS]
    examples = _examples(first, _positions(first, ROWS))
    texts = {"data": _texts(drawing.in_units(drawing.with_gaps(examples.x, examples.known), first), columns, True)}
    for name, (variant, data) in models.items():
        with machine.seeded(variant.device, 0):
            batch = _examples(data, _positions(data, ROWS))
            decoded = variant.decode(variant.encode(batch), batch)
        texts[name] = _texts(drawing.in_units(decoded, data), columns, False)
    titles = _titles(first, examples, _positions(first, ROWS))
    names = [column.name.replace(r"\$", "$") for column in columns]
    return names, [
        ExampleRow(title, {name: of_all[i] for name, of_all in texts.items()}) for i, title in enumerate(titles)
    ]


def series(models: Models) -> dict[str, bytes]:
    """Draw reconstructions of the same test sequences, one variant in each row, with the data in grey behind them.

    Values are in the units of the source. There is no figure for data that are not drawn as lines.
    """
    first = next(iter(models.values()))[1]
    if first.layout != "lines":
        return {}
    channels = drawing.shown_columns(first)[:PANELS]
    index = _positions(first, max(1, PANELS // len(channels)))
    batch = _examples(first, index)
    assert batch.mask is not None
    lengths, titles = batch.mask.sum(1).tolist(), _titles(first, batch, index)
    true = drawing.in_units(drawing.with_gaps(batch.x, batch.known), first)
    decoded = {}
    for name, (variant, data) in models.items():
        with machine.seeded(variant.device, 0):
            own = _examples(data, _positions(data, len(index)))
            decoded[name] = drawing.in_units(variant.decode(variant.encode(own), own), data)
    panels = [(i, k) for i in range(len(index)) for k in range(len(channels))]

    def draw(axes: Any, styles: Mapping[str, Style]) -> None:
        for place, (name, values) in enumerate(decoded.items()):
            for ax, (i, k) in zip(axes[place], panels, strict=True):
                steps = np.arange(lengths[i])
                ax.plot(steps, true[i, : lengths[i], k], color=TRIVIAL, linewidth=2.5, alpha=0.6)
                ax.plot(steps, values[i, : lengths[i], k], color=styles[name].colour, linewidth=1.1)
                ax.tick_params(labelsize=6)
                ax.xaxis.get_major_locator().set_params(integer=True)
                if channels[k].values:
                    drawing.name_values(ax, "y", channels[k].values)
            axes[place][0].set_ylabel(name, fontsize=8)
        for ax, (i, k) in zip(axes[0], panels, strict=True):
            ax.set_title(f"{titles[i]}\n{channels[k].name}", fontsize=7)
        axes[-1][0].set_xlabel("step", fontsize=7)

    size = (7.2, 0.7 + 0.85 * len(models))
    return figures.figure(
        draw, list(models), size, nrows=len(models), ncols=len(panels), squeeze=False, sharex="col", sharey="col"
    )


def _positions(data: Data, n: int) -> Tensor:
    """Return the positions of `n` test examples, drawn with a fixed seed; of all, if there are fewer."""
    return torch.randperm(len(data.test), generator=torch.Generator().manual_seed(2))[:n]


def _examples(data: Data, index: Tensor) -> Batch:
    return data.batch(data.test, index.to(data.test.x.device))


def _titles(data: Data, batch: Batch, index: Tensor) -> list[str]:
    """Return the number of each test example, with its class, such as `test example 12 (setosa)`."""
    names, titles = data.preprocessing.class_names, []
    for place, i in enumerate(index.tolist()):
        c = -1 if batch.y is None else int(batch.y[place])
        titles.append(f"test example {i}" + (f" ({drawing.short(names[c])})" if 0 <= c < len(names) else ""))
    return titles


def _texts(values: NDArray[Any], columns: Sequence[ShownColumn], is_data: bool) -> list[list[str]]:
    """Return values (N, columns) in the units of the source as texts."""
    return [[_text(row[i], column, is_data) for i, column in enumerate(columns)] for row in values]


def _text(value: float, column: ShownColumn, is_data: bool) -> str:
    if not math.isfinite(value):
        return "missing"
    if column.values and (is_data or column.kind == "category"):
        return column.values[int(value)].replace(r"\$", "$")
    if column.kind == "binary":
        return f"{column.values[1]}: {value:.0%}".replace(r"\$", "$")
    return f"{value:,.0f}" if 1e4 <= abs(value) < 1e9 else f"{value:.4g}"


def _traversals(variant: Variant, batch: Batch, kl: Sequence[float] | None, rows: int = 3) -> Tensor:
    """Decode the first code with one dimension in each row moved by 3 standard deviations of the prior to either side.

    The dimensions are those with the highest KL, or without a KL, those in which codes vary most.
    """
    prior, codes = variant.sample_prior(1000), variant.encode(batch)
    order = np.argsort(codes.var(0).cpu().numpy() if kl is None else np.asarray(kl))[::-1][:rows]
    z = codes[:1].repeat(rows * IMAGES, 1)
    for row, dimension in enumerate(order.tolist()):
        reach = 3 * prior[:, dimension].std()
        z[row * IMAGES : (row + 1) * IMAGES, dimension] = torch.linspace(-1, 1, IMAGES, device=z.device) * reach
    return variant.decode(z, batch[torch.zeros(len(z), dtype=torch.int64, device=z.device)])


def _strip(values: Tensor, data: Data) -> bytes:
    return _png(pictures.grid(values, data, columns=IMAGES))


def _png(picture: Picture) -> bytes:
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, format="png")
    return stream.getvalue()
