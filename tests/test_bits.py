"""The built-in colour images, and the bits per dimension of 8-bit images beside what needs no model."""

import io
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import optimize, stats
from sklearn.datasets import load_sample_image

from pipeline import data
from pipeline.data import Data, InputError, Source
from pipeline.data._photos import STRIPS
from pipeline.data._scenes import SIZES, draw
from pipeline.evaluate import baselines, bits, quick
from variants import Batch, DataSpec


@pytest.fixture(scope="module")
def photos() -> Data:
    return data.load("photos")


@pytest.mark.parametrize("size", [32, 64])
def test_photos_share_no_pixel_between_splits_and_test_tiles_do_not_overlap(size: int) -> None:
    loaded = data.load("photos" if size == 32 else f"photos-{size}")
    assert loaded.spec.shape == (3, size, size)
    assert loaded.spec.likelihood == "logistic8"
    assert loaded.preprocessing.class_names == ("china", "flower")
    assert all(a[1] <= b[0] for a, b in pairwise(sorted(STRIPS.values())))  # the strips are disjoint
    china = load_sample_image("china.jpg").transpose(2, 0, 1)
    for split, part in {"train": loaded.train, "valid": loaded.valid, "test": loaded.test}.items():
        left, right = STRIPS[split]
        strip = china[:, :, left:right]
        windows = np.lib.stride_tricks.sliding_window_view(strip, (size, size), (1, 2))
        assert part.y is not None
        own = part.x[part.y == 0].numpy()
        for example in own[:3]:  # found in its own strip
            is_first_pixel = (windows[..., 0, 0] == example[:, :1, :1]).all(0)
            assert any(
                np.array_equal(windows[:, r, c], example) for r, c in zip(*is_first_pixel.nonzero(), strict=True)
            )
        if split != "train":
            rows, columns = 427 // size, (right - left) // size
            assert len(own) == rows * columns
            whole = strip[:, : rows * size, : columns * size]
            assert own.sum(dtype=np.int64) == whole.sum(dtype=np.int64)  # each pixel is in one tile


def test_scenes_show_their_factors() -> None:
    """The hue of the floor colours the lower edge, that of the wall the upper one, and that of the solid the middle."""
    red, green, blue = 0, 3, 7
    base = np.array([[red, green, blue, 7, 2, 7]])
    image = draw(base, 32)[0].astype(int)
    assert image[:, -1, 16].argmax() == 0
    assert image[:, 0, 16].argmax() == 1
    assert image[:, 16, 16].argmax() == 2
    for factor in range(6):
        other = base.copy()
        other[0, factor] = 1
        assert np.abs(draw(other, 32)[0].astype(int) - image).max() > 30
    small = draw(np.array([[red, green, blue, 0, 2, 7]]), 32)[0]
    assert (small.argmax(0) == 2).sum() < (image.argmax(0) == 2).sum() / 2
    left, right = (draw(np.array([[red, green, blue, 7, 2, angle]]), 32)[0, :, 0] for angle in (0, 14))
    assert np.abs(left.astype(int) - right[:, ::-1]).max() <= 2  # the room is symmetrical


def test_scenes_have_known_factors_and_the_shape_as_their_label() -> None:
    raw = data.read(Source(place="scenes"))
    assert raw.factors is not None
    assert raw.factors.names == tuple(SIZES)
    assert raw.factors.unordered == ("shape",)
    assert raw.y is not None
    assert np.array_equal(raw.y, raw.factors.values[:, 4])
    assert len(np.unique(raw.factors.values, axis=0)) == len(raw.x)


@pytest.mark.parametrize("likelihood", ["mixture8", "bernoulli"])
def test_the_likelihood_of_built_in_images_can_be_chosen(likelihood: str) -> None:
    source = Source.parse(f'{{"place": "photos", "likelihood": "{likelihood}"}}')
    chosen = data.load(source)
    assert chosen.spec.likelihood == likelihood
    assert chosen.digest != data.load("photos").digest


@pytest.mark.parametrize(
    ("place", "likelihood"), [("photos", "gaussian"), ("sprites", "mixture8"), ("digits-rows", "logistic8")]
)
def test_a_likelihood_that_does_not_fit_built_in_images_is_refused(place: str, likelihood: str) -> None:
    with pytest.raises(InputError, match=f"--likelihood {likelihood}: expected .* for the built-in data set {place}"):
        data.load(Source.parse(f'{{"place": "{place}", "likelihood": "{likelihood}"}}'))


# --- bits


@pytest.mark.parametrize("channels", [1, 3])
def test_codecs_are_the_sizes_of_a_picture_that_holds_all_images(channels: int) -> None:
    x = np.random.default_rng(0).integers(0, 256, (7, channels, 6, 9), dtype=np.uint8)
    picture = bits.mosaic(x)
    height, width = (size // side for size, side in zip(picture.shape, (6, 9), strict=False))
    tiles = [picture[6 * r : 6 * r + 6, 9 * c : 9 * c + 9] for r in range(height) for c in range(width)]
    assert all(np.array_equal(tile.transpose(2, 0, 1), image) for tile, image in zip(tiles, x, strict=False))
    file = io.BytesIO()
    Image.fromarray(picture.squeeze()).save(file, "png", optimize=True)
    sizes = bits.codecs(Batch(torch.from_numpy(x)))
    assert sizes["png"] == pytest.approx(8 * len(file.getvalue()) / x.size)
    assert sizes["webp"] > 7  # noise cannot be compressed
    flat = bits.codecs(Batch(torch.zeros(400, channels, 32, 32, dtype=torch.uint8)))
    assert max(flat.values()) < 0.1


def test_the_anchors_of_photos_are_those_that_are_known(photos: Data) -> None:
    """As measured with Pillow: JPEG photographs compress well, by their neighbouring pixels."""
    sizes = bits.codecs(photos.test)
    assert sizes["png"] == pytest.approx(3.53, abs=0.1)
    assert sizes["webp"] == pytest.approx(2.65, abs=0.1)


def colours() -> Data:
    """Return small images of nearly one colour each, which differs between them."""
    generator = np.random.default_rng(1)
    colour = generator.integers(20, 230, (120, 3, 1, 1))
    x = (colour + generator.logistic(0, 4, (120, 3, 6, 6))).round().clip(0, 255).astype(np.uint8)
    return data.load(Source.parse('{"place": "colours", "split": "random"}'), {"x": x})


def test_the_mean_colour_of_an_image_is_a_likelihood_with_the_cost_of_the_mean() -> None:
    loaded = colours()
    log_p = baselines.log_p(loaded, loaded.test)["mean"]
    assert isinstance(log_p, torch.Tensor)
    train, test = (part.x.numpy() / 255 for part in (loaded.train, loaded.test))

    def each(x: np.ndarray, scale: float, channel: int) -> np.ndarray:  # type: ignore[type-arg]
        mean = (x[:, channel].mean((1, 2), keepdims=True) * 255).round() / 255
        away = x[:, channel] - mean
        return np.log(stats.logistic.cdf(away + 0.5 / 255, 0, scale) - stats.logistic.cdf(away - 0.5 / 255, 0, scale))

    expected = np.full(len(test), -24 * np.log(2))
    for channel in range(3):
        fitted = optimize.minimize_scalar(lambda s, c=channel: -each(train, np.exp(s), c).sum(), bounds=(-6, -2))
        expected += each(test, np.exp(fitted.x), channel).sum((1, 2))
    np.testing.assert_allclose(log_p.numpy(), expected, rtol=1e-3)
    assert log_p.mean() > baselines.log_p(loaded, loaded.test)["independent"].mean()  # type: ignore[union-attr]


def test_bits_stand_beside_the_baselines_of_8_bit_images_alone() -> None:
    loaded = colours()
    scores = quick.baselines(loaded)
    for name in ("independent", "mean"):
        expected = -scores[f"baseline/valid_{name}"] / (108 * np.log(2))
        assert scores[f"bits/valid_{name}"] == pytest.approx(expected)
    titles = bits.titled(scores, loaded.spec)
    assert set(titles) == {"independent pixels", "the mean colour of each image", "PNG", "lossless WebP"}
    assert list(titles.values()) == sorted(titles.values(), reverse=True)
    missing = replace(loaded.valid, observed=torch.ones_like(loaded.valid.x, dtype=torch.bool))
    assert bits.codecs(missing) == {}
    grey = data.load("digits")
    assert bits.anchors(grey, grey.valid, {}) == {}


def test_only_8_bit_pixels_have_bits_per_dimension() -> None:
    for likelihood, expected in (("logistic8", True), ("mixture8", True), ("bernoulli", False), ("gaussian", False)):
        spec = DataSpec(name="d", shape=(1, 2, 2), likelihood=likelihood)  # type: ignore[arg-type]
        assert bits.is_defined(spec) == expected
