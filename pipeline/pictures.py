"""Pictures of a trained model, as arrays (height, width, 3), uint8, at least 256 pixels wide."""

import io
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.data import Data
from variants import Batch, Variant

Picture = NDArray[np.uint8]
COLUMNS = 8
SIDE = 256  # pixels that a picture has at least: MLflow's thumbnails are as wide
REACH = 3.0  # standard deviations of the prior that a traversal goes to either side


def all_of(variant: Variant, data: Data, kl: Tensor | None) -> dict[str, Picture]:
    """Every picture that fits: reconstructions, samples, traversals, interpolations, latent space, KL spectrum.

    `kl` (Z,) is the KL per latent dimension, in nats, where there is one. Draws are fixed by a seed of their own.
    """
    device = data.valid.x.device
    variant.eval()
    with torch.no_grad(), torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(0)
        found = {
            "reconstructions": reconstructions(variant, data),
            "samples": samples(variant, data),
            "traversals": traversals(variant, data, kl),
            "interpolations": interpolations(variant, data),
            "latent": latent_space(variant, data),
        }
    if kl is not None:
        found["kl"] = kl_spectrum(kl)
    return found


def reconstructions(variant: Variant, data: Data, n: int = 32) -> Picture:
    """Validation examples, each with the mean of its reconstruction right below it."""
    batch = _examples(data, n)
    again = variant.decode(variant.encode(batch), batch)
    pairs = torch.stack([batch.x.unflatten(0, (-1, COLUMNS)), again.unflatten(0, (-1, COLUMNS))], dim=1)
    return grid(pairs.flatten(0, 2), data)


def samples(variant: Variant, data: Data, n: int = 64) -> Picture:
    """Draws from the prior, decoded."""
    return grid(variant.sample(n), data)


def traversals(variant: Variant, data: Data, kl: Tensor | None, rows: int = 8) -> Picture:
    """One latent dimension a row, moved from -3 to 3 while the others stay at the code of one example.

    Rows are ordered by KL, the most informative on top.
    """
    code = variant.encode(_examples(data, 1))
    order = range(code.shape[1]) if kl is None else kl.argsort(descending=True).tolist()
    z = code.repeat(len(order[:rows]) * COLUMNS, 1)
    for row, dimension in enumerate(order[:rows]):
        z[row * COLUMNS : (row + 1) * COLUMNS, dimension] = torch.linspace(-REACH, REACH, COLUMNS, device=z.device)
    return grid(variant.decode(z), data)


def interpolations(variant: Variant, data: Data, rows: int = 8) -> Picture:
    """Straight lines in the latent space between the codes of two examples, one pair a row."""
    code = variant.encode(_examples(data, 2 * rows))
    steps = torch.linspace(0, 1, COLUMNS, device=code.device)[None, :, None]
    lines = torch.lerp(code[:rows, None], code[rows:, None], steps)
    return grid(variant.decode(lines.flatten(0, 1)), data)


def grid(values: Tensor, data: Data, columns: int = COLUMNS) -> Picture:
    """Examples (N, *shape) in rows of `columns`. A table's example is a strip, one cell a feature."""
    from torchvision.utils import make_grid

    images = _unit(values.float().cpu(), data)
    if images.ndim == 2:
        images = images[:, None, None].expand(-1, 1, max(1, images.shape[1] // 4), -1)
    factor = math.ceil(SIDE / columns / images.shape[3])
    images = images[:, :3].repeat_interleave(factor, 2).repeat_interleave(factor, 3)
    page = make_grid(images, nrow=columns, padding=2, pad_value=0.5)
    picture: Picture = (page.permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()
    return picture


def latent_space(variant: Variant, data: Data, n: int = 2000) -> Picture:
    """Codes of validation examples in two dimensions (the first two principal components), coloured by class."""
    import seaborn
    from sklearn.decomposition import PCA

    split = data.valid[: min(n, len(data.valid))]
    code = torch.cat([variant.encode(Batch(b.x, mask=b.mask)) for b in data.batches(split)]).float().cpu().numpy()
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
    classes = None if split.y is None else split.y.cpu().numpy()
    colours = None
    if classes is not None:
        colours = seaborn.color_palette("colorblind" if data.spec.classes <= 10 else "husl", data.spec.classes)

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
    """KL per latent dimension (Z,), nats, sorted: how many dimensions carry information, and how much."""
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


def _examples(data: Data, n: int) -> Batch:
    """The first examples of a fixed shuffle of the validation split, again from the start where they are too few."""
    order = torch.randperm(len(data.valid), generator=torch.Generator().manual_seed(1))
    return data.batch(data.valid, order.repeat(n // len(order) + 1)[:n].to(data.valid.x.device))


def _unit(values: Tensor, data: Data) -> Tensor:
    """Into [0, 1]: continuous data by the range of the validation split, in their own units."""
    if data.spec.likelihood == "gaussian":
        seen = data.valid.x.float().cpu()
        axes = 0 if seen.ndim == 2 else tuple(range(seen.ndim))
        low, high = torch.amin(seen, axes), torch.amax(seen, axes)
        values = (values - low) / torch.where(high > low, high - low, 1.0)
    return values.clamp(0, 1)


def _figure(draw: Callable[[Any], None]) -> Picture:
    """What `draw` puts on a pair of axes, as pixels. Nothing global is touched: no pyplot, no style."""
    import matplotlib
    import seaborn
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from PIL import Image

    with matplotlib.rc_context(seaborn.axes_style("whitegrid") | seaborn.plotting_context("paper")):
        figure = Figure(figsize=(4.2, 3.4), dpi=140, layout="constrained")
        FigureCanvasAgg(figure)
        draw(figure.subplots())
        stream = io.BytesIO()
        figure.savefig(stream, format="png")
    return np.asarray(Image.open(stream).convert("RGB"))
