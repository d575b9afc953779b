"""Pictures of tables with several kinds of columns, of counts, and of missing values show the right numbers."""

import io
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pandas
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

import variants
from pipeline import data
from pipeline.compare import examples
from pipeline.data import Data, Source
from pipeline.evaluate import drawing, pictures, plot, series_pictures, table_pictures
from variants import Variant

ROWS = 240
TOWNS = [f"town {i}" for i in range(20)]


def mixed_frame() -> pandas.DataFrame:
    """A table with a column of each kind and of many categories, in which a fifth of the values is missing."""
    rng = np.random.default_rng(0)
    frame = pandas.DataFrame({
        "amount $": np.exp(rng.normal(3, 1.5, ROWS)), "shop": rng.choice(["food", "fuel", "web"], ROWS),
        "age": rng.normal(40, 9, ROWS), "visits": rng.poisson(3, ROWS), "new": rng.choice(["no", "yes"], ROWS),
        "town": rng.choice(TOWNS, ROWS),
    })  # fmt: skip
    holes = rng.random(frame.shape) < 0.2
    return frame.mask(holes).assign(label=rng.choice(["fine", "fraud"], ROWS))


@cache
def mixed() -> Data:
    return data.load(Source(place="shop", label="label", kinds=(("amount $", "positive"),)), mixed_frame())


@cache
def counts() -> Data:
    means = np.geomspace(0.1, 100, 50)
    values = np.random.default_rng(0).negative_binomial(1, 1 / (1 + means), (ROWS, 50))
    return data.load(Source(place="cells"), pandas.DataFrame(values, columns=[f"gene {i}" for i in range(50)]))


@cache
def reals(columns: int = 3) -> Data:
    values = np.random.default_rng(0).normal(size=(ROWS, columns))
    return data.load(Source(place="sensors"), pandas.DataFrame(values, columns=[*"abcdefgh"[:columns]]))


@cache
def bits() -> Data:
    values = np.random.default_rng(0).integers(0, 2, (ROWS, 5)) > 0
    return data.load(Source(place="bits"), pandas.DataFrame(values, columns=[*"abcde"]))


def built(loaded: Data, name: str = "vae") -> Variant:
    torch.manual_seed(0)
    return variants.build(name, variants.get(name).config_type(latent=3, width=16), loaded.spec).eval()


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """All figures that the test draws."""
    drawn: list[Figure] = []

    class RecordedFigure(Figure):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            drawn.append(self)

    monkeypatch.setattr("matplotlib.figure.Figure", RecordedFigure)
    return drawn


@pytest.fixture
def panels(monkeypatch: pytest.MonkeyPatch) -> list[plot.Panel]:
    """All panels of plots that the test draws."""
    drawn: list[plot.Panel] = []
    picture = plot.picture
    monkeypatch.setattr(plot, "picture", lambda panels: (drawn.extend(panels), picture(panels))[1])
    return drawn


def panel(figure: Figure, name: str) -> Any:
    """The panel of a column, by the first line of its title."""
    return next(ax for ax in figure.axes if ax.get_title().split("\n")[0] == name)


def tick_names(axis: Any) -> list[str]:
    return [label.get_text() for label in axis.get_ticklabels()]


@pytest.mark.one_in(2)
@pytest.mark.parametrize(("make", "name"), [
    (mixed, "vae"), (mixed, "cvae"), (mixed, "hvae"), (mixed, "aae"), (counts, "vae"), (reals, "vae"), (bits, "vae"),
    (lambda: reals(1), "vae"),
])  # fmt: skip
def test_tables_of_every_kind_are_drawn(make: Callable[[], Data], name: str) -> None:
    loaded = make()
    model = built(loaded, name)
    kl = torch.arange(3.0) if name == "vae" else None
    drawn = {**pictures.all_of(model, loaded, kl), "examples": pictures.examples(loaded)}
    wanted = {"reconstructions", "traversals", "latent", "samples", "aggregate", "examples"}
    wanted |= {"kl"} if kl is not None else set()
    wanted |= {"correlations"} if loaded.spec.shape[0] > 1 else set()
    wanted |= {"counts"} if make is counts else set()
    wanted |= {"cvae": {"classes"}, "hvae": {"levels"}}.get(name, set())
    assert drawn.keys() == wanted
    for pixels in drawn.values():
        assert pixels.dtype == np.uint8 and pixels.shape[2] == 3 and pixels.shape[1] >= 256
        assert pixels.std() > 0


def test_values_of_a_mixed_table_are_in_the_units_and_the_order_of_the_source() -> None:
    loaded, frame = mixed(), mixed_frame()
    batch = loaded.train
    shown = drawing.in_units(drawing.with_gaps(batch.x, batch.observed), loaded)
    columns = drawing.shown_columns(loaded)
    assert [c.name for c in columns] == [r"amount \$", "shop", "age", "visits", "new", "town"]
    assert [c.kind for c in columns] == ["positive", "category", "real", "count", "binary", "category"]
    amounts = np.sort(frame["amount $"].dropna())
    assert np.isin(shown[:, 0][~np.isnan(shown[:, 0])].round(2), amounts.round(2)).all()
    missing = np.isnan(shown).mean(0)
    assert ((missing > 0.1) & (missing < 0.3)).all()
    assert set(np.unique(shown[:, 1][~np.isnan(shown[:, 1])])) == {0, 1, 2}


def test_a_perfect_reconstruction_of_a_mixed_table_is_drawn_as_such(figures: list[Figure]) -> None:
    """Only known values are drawn; numbers lie on the diagonal, and categories in the diagonal of their matrix."""
    loaded = mixed()
    batch = loaded.valid
    table_pictures.reconstructions(drawing.with_gaps(batch.x, batch.observed), batch.x, loaded)
    (figure,) = figures
    titles = [ax.get_title() for ax in figure.axes]
    assert titles[0] == "amount \\$\nR² 1.00" and titles[2] == "age\nR² 1.00" and titles[4] == "new\np(yes), AUC 1.00"
    assert titles[1].startswith("shop\n100% right")
    known = drawing.in_units(drawing.with_gaps(batch.x, batch.observed), loaded)[:, 2]
    points = panel(figure, "age").collections[0].get_offsets()
    assert len(points) == (~np.isnan(known)).sum() < len(batch)
    np.testing.assert_allclose(points[:, 0], points[:, 1])
    shares = panel(figure, "shop").images[0].get_array()
    np.testing.assert_array_equal(shares, np.eye(3))
    assert tick_names(panel(figure, "shop").xaxis) == tick_names(panel(figure, "shop").yaxis) == ["food", "fuel", "web"]
    assert tick_names(panel(figure, "new").xaxis) == ["no", "yes"]
    assert len(tick_names(panel(figure, "town").xaxis)) == table_pictures.CATEGORIES
    assert tick_names(panel(figure, "town").xaxis)[-1] == "others"
    scales = {ax.get_title().split("\n")[0]: ax.get_xscale() for ax in figure.axes}
    assert scales[r"amount \$"] == "log" and scales["age"] == scales["visits"] == "linear"


def test_samples_that_are_the_data_have_their_marginals_and_correlations(figures: list[Figure]) -> None:
    loaded = counts()
    order = torch.randperm(len(loaded.train), generator=torch.Generator().manual_seed(1))
    x = loaded.train.x[order]
    table_pictures.samples(x, loaded)
    table_pictures.correlations(x, loaded)
    table_pictures.counts(x, loaded)
    marginals, correlations, of_counts = figures
    assert len(marginals.axes) == table_pictures.PANELS
    for ax in marginals.axes:
        of_data, of_samples = (patch.get_data() for patch in ax.patches)
        np.testing.assert_allclose(of_data.values, of_samples.values)
        assert of_data.values.sum() == pytest.approx(1)
        assert (of_data.edges % 1 == 0.5).all()  # bins of counts end between whole numbers
    points = correlations.axes[0].collections[0].get_offsets()
    assert len(points) == 50 * 49 / 2
    np.testing.assert_allclose(points[:, 0], points[:, 1])
    zeros = of_counts.axes[0].collections[0].get_offsets()
    np.testing.assert_allclose(zeros[:, 0], (loaded.train.x == 0).float().mean(0), atol=1e-6)
    means, variances = of_counts.axes[1].collections[0].get_offsets().T
    assert (variances > means)[means > 1].all()  # the data are over-dispersed


def test_correlations_of_few_columns_are_matrices_with_names(figures: list[Figure]) -> None:
    loaded = reals()
    table_pictures.correlations(-loaded.train.x.flip(1), loaded)
    of_data, of_samples, difference = (ax.images[0].get_array() for ax in figures[0].axes[:3])
    ranks = pandas.DataFrame(loaded.train.x.numpy()).corr(method="spearman").to_numpy()
    np.testing.assert_allclose(of_data, ranks)
    np.testing.assert_allclose(of_samples, ranks[::-1, ::-1])
    np.testing.assert_allclose(difference, of_samples - of_data)
    assert tick_names(figures[0].axes[0].yaxis) == ["a", "b", "c"]


def test_a_traversal_names_the_columns_that_change_most(figures: list[Figure]) -> None:
    loaded = mixed()
    decoded = loaded.valid.x[:1].repeat(2 * 8, 1).unflatten(0, (2, 8)).clone()
    position = 0  # real values come first
    decoded[1, :, position] += torch.linspace(-2, 2, 8)
    table_pictures.traversals(decoded, ["z4, 1.20 nats", "z0, 0.30 nats"], 3.0, loaded)
    still, moved = figures[0].axes[:2]
    assert still.get_title() == "z4, 1.20 nats"
    assert np.abs(still.images[0].get_array()).max() < 1e-6
    assert tick_names(moved.yaxis)[0] == "age"
    change = moved.images[0].get_array()
    assert change[0, -1] - change[0, 0] == pytest.approx(4, rel=0.1)  # in standard deviations of the training data
    assert np.abs(change[1:]).max() < 1e-6


def test_examples_of_each_variable_are_bars_or_bins_of_its_kind(figures: list[Figure]) -> None:
    loaded = mixed()
    pictures.examples(loaded)
    (figure,) = figures
    assert tick_names(panel(figure, "shop").xaxis) == ["food", "fuel", "web"]
    assert panel(figure, r"amount \$").get_xscale() == "log"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["fine", "fraud"]
    bars = sum(bar.get_height() for bar in panel(figure, "shop").patches)
    assert loaded.train.observed is not None
    assert bars == int(loaded.train.observed[:, -21:-20].sum())  # at the last value of `shop`


@torch.no_grad()
def test_classes_are_named(figures: list[Figure], panels: list[plot.Panel]) -> None:
    loaded = mixed()
    pictures.latent_space(built(loaded), loaded)
    names = dict(panels[0].names)
    assert list(names) == ["fine", "fraud"]
    counts = {colour: len(points) for points, colour in panels[0].points}
    assert loaded.valid.y is not None
    assert [counts[colour] for colour in names.values()] == torch.bincount(loaded.valid.y).tolist()
    values = torch.zeros(2, 3, *loaded.spec.shape)
    table_pictures.heat_map(values, loaded, pictures.class_names(loaded))
    assert tick_names(figures[0].axes[0].yaxis) == ["fine", "fraud"]
    assert tick_names(figures[0].axes[0].xaxis)[:4] == ["age", r"amount \$", "visits", "new = yes"]


def test_the_aggregated_posterior_is_drawn_beside_the_prior_with_circles_of_its_deviations(
    panels: list[plot.Panel],
) -> None:
    rng = np.random.default_rng(0)
    codes, prior = rng.normal(size=(50, 3)) * [1, 0.1, 2], rng.normal(size=(4000, 3)) * 2 + 1
    pictures.aggregate(codes, prior)
    assert [panel.labels for panel in panels] == [("z2", "z0")] * 2  # these vary most
    for panel, values in zip(panels, (codes, prior), strict=True):
        np.testing.assert_array_equal(panel.points[0][0], values[:, [2, 0]])
        radii = [np.hypot(*(circle - 1).T) for circle in panel.lines]
        np.testing.assert_allclose(radii, np.repeat([[2], [4], [6]], 100, axis=1), rtol=0.1)


def test_the_spectrum_has_a_bar_for_each_dimension_in_falling_order(panels: list[plot.Panel]) -> None:
    pictures.kl_spectrum(torch.tensor([0.5, 2.0, 0.0]))
    assert list(panels[0].bars) == [2.0, 0.5, 0.0]
    assert "2.5 in all" in panels[0].title


def frame_of(picture: drawing.Picture, begin: int = plot.LEFT) -> drawing.Picture:
    """The part of a plot in which values are drawn."""
    return picture[plot.TOP : plot.TOP + plot.HEIGHT, begin : begin + plot.WIDTH]


def test_points_and_bars_are_drawn_at_their_values_and_not_beyond_the_limits() -> None:
    axes = {"title": "", "labels": ("x", "y"), "limits": ((0.0, 10.0), (0.0, 4.0))}
    points = [(np.array([[2.5, 3.0], [50.0, 3.0]]), "#ff0000"), (np.array([[7.5, 1.0]]), "#0000ff")]
    frame = frame_of(plot.picture([plot.Panel(**axes, points=points)])).astype(int)
    for channel, place in ((0, (0.25, 0.25)), (2, (0.75, 0.75))):  # from the top left corner
        others = frame[..., [c for c in range(3) if c != channel]].max(axis=2)
        row, column = np.nonzero(frame[..., channel] - others > 100)
        np.testing.assert_allclose((column.mean() / plot.WIDTH, row.mean() / plot.HEIGHT), place, atol=0.01)
    frame = frame_of(plot.picture([plot.Panel(**axes, bars=[1.0, 4.0, 2.0])]))
    blue = (frame == (0x44, 0x77, 0xAA)).all(axis=2)
    heights = [blue[:, round(i * plot.WIDTH / 10)].mean() for i in (1, 2, 3)]
    np.testing.assert_allclose(heights, [0.25, 1, 0.5], atol=0.02)


def test_names_beside_a_plot_have_room_and_the_next_panel_begins_after_them() -> None:
    axes = {"title": "t", "labels": ("x", "y"), "limits": ((0.0, 1.0), (-1e-9, 1e-9))}
    plain = plot.picture([plot.Panel(**axes)])
    names = [("a name of twenty-four ..", drawing.PALETTE[0]), (r"\$", drawing.PALETTE[1])]
    named = plot.picture([plot.Panel(**axes, names=names)] * 2)
    assert named.shape[1] > 2 * (plain.shape[1] + 100)
    assert (named[:, -5:] == 255).all()
    np.testing.assert_array_equal(*np.split(named, 2, axis=1))


def test_numbers_of_an_axis_have_equally_many_decimal_places() -> None:
    assert plot.numbers(np.array([-0.5, 0.0, 0.5])) == ["\N{MINUS SIGN}0.5", "0.0", "0.5"]
    assert plot.numbers(np.array([0.0, 0.0005, 0.001])) == ["0.0000", "0.0005", "0.0010"]
    assert plot.numbers(np.array([0, 20, 40])) == ["0", "20", "40"]
    assert plot.numbers(np.array([2e-7, 4e-7])) == ["2e\N{MINUS SIGN}07", "4e\N{MINUS SIGN}07"]


@torch.no_grad()
def test_codes_that_are_not_finite_or_all_equal_are_drawn() -> None:
    assert plot.limits_of(np.array([np.nan, 2.0, 2.0])) == (1.5, 2.5)
    pictures.aggregate(np.ones((5, 1)), np.random.default_rng(0).normal(size=(50, 1)))
    pictures.kl_spectrum(torch.zeros(1))


def test_missing_pixels_are_grey_in_the_examples_and_in_the_originals() -> None:
    values = np.random.default_rng(0).normal(size=(40, 1, 8, 8))
    values[:, :, 2, 3] = np.nan
    loaded = data.load(Source(place="holes"), values)
    side = 32  # 8 images of 8 pixels are 256 pixels wide, and the gap between two is 2
    model = built(loaded)
    _, _, png = next(examples.strips({"vae": (model, loaded)}, {}))
    compared = np.asarray(Image.open(io.BytesIO(png)))
    for drawn in (compared, pictures.examples(loaded), pictures.reconstructions(model, loaded)):
        pixels = drawn[2 : 2 + side, 2 : 2 + side, 0].reshape(8, 4, 8, 4)[:, 0, :, 0]
        assert abs(int(pixels[2, 3]) - 128) <= 1
        assert len(np.unique(pixels)) > 20
    decoded = drawn[4 + side : 4 + 2 * side, 2 : 2 + side, 0].reshape(8, 4, 8, 4)[:, 0, :, 0]
    assert len(np.unique(decoded)) > 20


def test_sequences_with_holes_have_gaps_in_their_lines(figures: list[Figure]) -> None:
    series = [np.linspace(0, 1, 20)[:, None] + 1e-3 * i for i in range(40)]
    for values in series:
        values[8:12] = np.nan
    loaded = data.load(Source(place="waves"), series)
    x = drawing.with_gaps(loaded.valid.x[:1].float(), None if loaded.valid.known is None else loaded.valid.known[:1])
    picture = pictures.grid(x, loaded, columns=1)
    dark = (picture[8:-8, 8:-8].min(axis=2) < 150).any(0)
    width = len(dark)
    assert not dark[int(0.45 * width) : int(0.55 * width)].any()
    assert dark[int(0.2 * width) : int(0.3 * width)].all() and dark[int(0.7 * width) : int(0.8 * width)].all()
    pictures.examples(loaded)
    line = figures[-1].axes[0].lines[0].get_ydata()
    assert np.isnan(line[8:12]).all() and np.isfinite(np.delete(line, range(8, 12))).all()
    np.testing.assert_allclose(line[-1] - line[0], 1, rtol=1e-5)  # in the units of the source


def test_large_counts_of_sequences_are_on_a_logarithmic_axis_in_their_units(figures: list[Figure]) -> None:
    rng = np.random.default_rng(0)
    frame = pandas.DataFrame({
        "series": np.repeat(np.arange(40), 12), "time": np.tile(np.arange(12), 40),
        "sales": rng.negative_binomial(1, 1 / 301, 480),
    })  # fmt: skip
    loaded = data.load(Source(place="sales"), frame)
    assert loaded.spec.likelihood == "negative-binomial"
    pictures.examples(loaded)
    ax = figures[0].axes[0]
    assert ax.get_title() == "sales" and ax.get_yscale() == "symlog"
    assert set(np.concatenate([line.get_ydata() for line in ax.lines])) <= set(frame["sales"])
    assert pictures.grid(loaded.valid.x[:8].float(), loaded).std() > 0


def drawn_in(picture: drawing.Picture, colour: str) -> np.ndarray:
    """Which pixels within the panels of series have nearly this colour."""
    frame = np.flatnonzero((picture.min(axis=2) < 240).mean(axis=0) > 0.5)[[0, -1]]
    inside = picture[:, frame[0] + 2 : frame[1] - 1].astype(int)
    wanted = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])
    return np.asarray((np.abs(inside - wanted) < 12).all(axis=2))


def shown_series(**fields: Any) -> series_pictures.ShownSeries:
    """A series of 100 steps: a line that rises, and one that falls."""
    truth = np.stack([np.linspace(0, 1, 100), np.linspace(5, 4, 100)], axis=1)
    return series_pictures.ShownSeries(**{"title": "a", "x": np.arange(100), "truth": truth, **fields})


def test_each_channel_of_a_series_has_a_panel_with_truth_mean_bands_and_marks() -> None:
    truth = shown_series().truth
    mean = np.where(np.arange(100)[:, None] < 50, np.nan, truth + 0.2)
    marked = np.zeros((100, 2), bool)
    marked[20:30, 0] = True
    picture = series_pictures.panels(
        [shown_series(mean=mean, bands=[(mean - 0.1, mean + 0.1)], marked=marked)], ["rise", "fall"]
    )
    grey, blue, band, red, pale = (
        drawn_in(picture, colour)
        for colour in (
            drawing.GREY,
            drawing.BLUE,
            series_pictures.BANDS[0],
            series_pictures.RED,
            series_pictures.PALE_RED,
        )
    )
    width, middle = blue.shape[1], picture.shape[0] // 2
    assert grey[:middle].any() and grey[middle:].any()
    for mask in (blue, band):
        columns = np.flatnonzero(mask.any(axis=0)) / width
        assert abs(columns[0] - 0.5) < 0.02 and columns[-1] > 0.97
        assert mask[:middle].any() and mask[middle:].any()
    for mask in (red, pale):
        columns = np.flatnonzero(mask.any(axis=0)) / width
        assert abs(columns[0] - 0.2) < 0.02 and abs(columns[-1] - 0.3) < 0.02
        assert mask[:middle].any() and not mask[middle:].any()


def test_missing_steps_of_a_series_are_gaps_and_a_single_known_step_is_a_point() -> None:
    truth = shown_series().truth.copy()
    truth[40:60] = np.nan
    truth[50] = 0.5
    grey = drawn_in(series_pictures.panels([shown_series(truth=truth)], ["rise", "fall"]), drawing.GREY)
    shares = np.flatnonzero(grey[: len(grey) // 2].any(axis=0)) / grey.shape[1]
    gap = shares[(shares > 0.42) & (shares < 0.58)]
    assert len(gap) and np.abs(gap - 50 / 99).max() < 0.02


@pytest.mark.parametrize(("n", "channels"), [(1, 1), (2, 3), (6, 12)])
def test_pictures_of_series_have_room_for_each_and_say_how_many_channels_are_left_out(n: int, channels: int) -> None:
    rng = np.random.default_rng(0)
    dates = np.datetime64("2024-03-30T20") + np.arange(30) * np.timedelta64(1, "h")
    shown = [
        series_pictures.ShownSeries(title="long " * 40, x=dates, truth=np.exp(3 * rng.normal(size=(30, channels))))
        for _ in range(n)
    ]
    columns = [drawing.ShownColumn(f"price {i}", "positive") for i in range(channels)]
    picture = series_pictures.panels(shown, columns, x_label="time", caption="prices")
    height = series_pictures.HEIGHT + series_pictures.ABOVE
    assert min(channels, 8) * height < picture.shape[0] < (min(channels, 8) + 1.2) * height
    assert picture.shape[1] >= 256 and (picture[:, -3:] == 255).all()
    wider = series_pictures.panels(shown, columns[:8], x_label="time", caption="prices")
    assert (channels > 8) == (wider.shape != picture.shape or (wider != picture).any())


@torch.no_grad()
def test_sequences_of_several_channels_are_drawn_in_panels_in_their_units(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    series = [rng.normal(size=(n, 2)) * [1, 100] + [0, 5000] for n in rng.integers(6, 12, 40)]
    for values in series:
        values[3] = np.nan
    loaded = data.load(Source(place="sensors"), series)
    kept: dict[str, Any] = {}
    panels = series_pictures.panels
    monkeypatch.setattr(
        series_pictures,
        "panels",
        lambda shown, *rest, **options: (kept.update(shown=shown), panels(shown, *rest, **options))[1],
    )
    model = built(loaded)
    for draw in (pictures.reconstructions, pictures.forecasts):
        assert draw(model, loaded).std() > 0  # type: ignore[operator,union-attr]
        for one in kept["shown"]:
            assert len(one.x) == len(one.truth) == len(one.mean) <= 11
            assert np.isnan(one.truth[3]).all() and 4000 < np.nanmean(one.truth[:, 1]) < 6000
            begin = 0 if draw is pictures.reconstructions else (len(one.x) + 1) // 2
            assert np.isfinite(one.mean[begin:]).all() and np.isnan(one.mean[:begin]).all()
            assert all((low[begin:] < high[begin:]).all() for low, high in one.bands)
            assert 4000 < one.mean[begin:, 1].mean() < 6000
            assert one.forecast_from == (one.x[begin] if begin else None)
    drawn = pictures.all_of(model, loaded, None)
    assert {"reconstructions", "traversals", "interpolations", "samples", "forecasts"} <= drawn.keys()


@torch.no_grad()
def test_sequences_of_a_single_step_are_drawn_without_a_forecast() -> None:
    loaded = data.load(
        Source(place="sensors"), [np.random.default_rng(i).normal(size=(1 + i % 2, 2)) for i in range(40)]
    )
    assert pictures.forecasts(built(loaded), loaded).std() > 0  # type: ignore[union-attr]


def test_a_diverged_model_is_drawn() -> None:
    loaded = mixed()
    nothing = torch.full_like(loaded.valid.x, torch.nan)
    assert table_pictures.reconstructions(loaded.valid.x, nothing, loaded).std() > 0
    assert table_pictures.samples(nothing, loaded).std() > 0


def test_long_names_keep_their_beginning_and_end() -> None:
    assert drawing.short("temperature of the furnace in hall 12", 20) == "temperature of... 12"
    assert drawing.short("short", 20) == "short"


def test_wide_tables_have_fewer_rows_behind_a_picture() -> None:
    loaded = reals()
    wide = replace(loaded.preprocessing.spec, shape=(20_000,))
    shown = replace(loaded, preprocessing=replace(loaded.preprocessing, spec=wide))
    assert table_pictures.rows(shown) == 200 < table_pictures.rows(loaded)
