"""Folders of images and arrays of pixels: what is read, how it is modelled, and what is refused."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline import data
from pipeline.data import Data, Source
from variants import InputError
from variants.base.likelihoods import Observation

RNG = np.random.default_rng(0)


def grey(*shape: int) -> np.ndarray:
    return RNG.integers(0, 256, shape, dtype=np.uint8)


def from_memory(x: Any, **options: Any) -> Data:
    return data.load(Source(place="mine", **options), x if isinstance(x, dict) else {"x": x})


def folder(path: Path, image: Callable[[int], Image.Image], *classes: str, n: int = 30, ending: str = "png") -> Path:
    """Write `n` images into each of some subfolders, or into the folder itself."""
    for name in classes or (".",):
        (path / name).mkdir(parents=True)
        for i in range(n):
            image(i).save(path / name / f"{i}.{ending}")
    return path


def any_grey(i: int) -> Image.Image:
    return Image.fromarray(grey(7, 9))


def any_colour(i: int) -> Image.Image:
    return Image.fromarray(grey(7, 9, 3))


def any_deep(i: int) -> Image.Image:
    return Image.fromarray(RNG.integers(0, 1 << 16, (7, 9)).astype(np.uint16))


# arrays of pixels

EIGHT_BIT = grey(40, 3, 6, 6)
TWO = RNG.integers(0, 2, (40, 1, 6, 6))


@pytest.mark.parametrize(
    ("low", "high", "dtype"),
    [(0, 255, np.uint8), (0, 255, np.int64), (0, 255, np.float32), (0, 1, np.float32), (0, 1, np.float16),
     (-1, 1, np.float64)],
)  # fmt: skip
def test_eight_bit_pixels_are_found_in_every_range_and_come_back_in_it(low: int, high: int, dtype: Any) -> None:
    x = (low + EIGHT_BIT * ((high - low) / 255)).astype(dtype)
    loaded = from_memory(x, split="random")
    assert loaded.spec.likelihood == "logistic8"
    assert loaded.train.x.dtype == torch.uint8
    batch = loaded.preprocessing.encode(data.read(loaded.source, {"x": x}, loaded.preprocessing))
    assert np.array_equal(batch.x.numpy(), EIGHT_BIT)
    back = loaded.preprocessing.decode(loaded.preprocessing.binarized(batch).x)
    np.testing.assert_allclose(back, x, atol=1e-3 if dtype == np.float16 else 1e-6)


@pytest.mark.parametrize(("low", "high", "dtype"), [(0, 255, np.uint8), (0, 1, np.float32), (-1, 1, np.int64)])
def test_two_values_are_binary_and_come_back(low: int, high: int, dtype: Any) -> None:
    x = np.where(TWO == 1, high, low).astype(dtype)
    loaded = from_memory(x)
    assert loaded.spec.likelihood == "bernoulli"
    assert loaded.train.x.dtype == torch.bool
    batch = loaded.preprocessing.encode(data.read(loaded.source, {"x": x}, loaded.preprocessing))
    assert np.array_equal(loaded.preprocessing.decode(batch.x.float()), x)


@pytest.mark.parametrize(
    ("x", "warned"),
    [
        (RNG.integers(0, 1 << 16, (40, 1, 6, 6)).astype(np.uint16), True),
        (RNG.integers(-5, 6, (40, 1, 6, 6)), True),
        (RNG.choice([0.3, 0.77, 2.1], (40, 1, 6, 6)), True),
        (RNG.normal(size=(40, 1, 6, 6)), False),
    ],
)
def test_other_pixels_are_continuous_with_a_warning_if_they_are_discrete(x: Any, warned: bool) -> None:
    loaded = from_memory(x)
    assert loaded.spec.likelihood == "gaussian"
    assert any("modelled by a continuous density" in w for w in loaded.description.warnings) == warned
    values = np.concatenate([s.x.numpy() for s in (loaded.train, loaded.valid, loaded.test)])
    assert len(np.unique(values)) == len(np.unique(x))


@pytest.mark.parametrize(
    ("x", "likelihood", "expected"),
    [
        (EIGHT_BIT, "gaussian", torch.float32),
        (EIGHT_BIT, "bernoulli", torch.uint8),  # binarised at random
        (TWO, "logistic8", torch.uint8),
        (TWO * 255, "gaussian", torch.float32),
        (RNG.random((40, 1, 6, 6)), "logistic8", "is for 8-bit values, and the pixels are float64 from"),
        (RNG.random((40, 1, 6, 6)), "bernoulli", "is for two values, or 8-bit values"),
        (EIGHT_BIT, "categorical", "is for sequences"),
        (EIGHT_BIT, "zero-inflated", "is for tables and sequences, .* expected --likelihood negative-binomial"),
        (EIGHT_BIT, "poisson", torch.float32),
        (TWO, "negative-binomial", torch.float32),
        (EIGHT_BIT.astype(int) * 300, "negative-binomial", torch.float32),
        (EIGHT_BIT / 7, "poisson", r"is for whole numbers from 0, and 40 of 40 .* the first is image 1 with"),
        (EIGHT_BIT - 1.0, "poisson", "is for whole numbers from 0"),
        (RNG.normal(size=(40, 1, 6, 6)), "student-t", torch.float32),
        (RNG.random((40, 1, 6, 6)) + 0.1, "gamma", torch.float32),
        (EIGHT_BIT.clip(1), "log-normal", torch.float32),
        (np.arange(40 * 36).reshape(40, 1, 6, 6)[::-1], "log-normal", "1 of 40 images .* image 40 with 0"),
    ],
)
def test_a_person_may_choose_a_likelihood_that_fits(x: Any, likelihood: Any, expected: Any) -> None:
    if isinstance(expected, str):
        with pytest.raises(InputError, match=expected):
            from_memory(x, likelihood=likelihood)
    else:
        loaded = from_memory(x, likelihood=likelihood)
        assert (loaded.spec.likelihood, loaded.train.x.dtype) == (likelihood, expected)


def test_a_new_model_of_counts_begins_near_their_mean() -> None:
    x = RNG.poisson(np.where(np.arange(6) < 3, 5.0, 5000.0), (400, 1, 6, 6))
    spec = from_memory(x, likelihood="poisson").spec
    mean = Observation(spec).mean(torch.zeros(2, *spec.shape))
    torch.testing.assert_close(mean[0, 0, :, [0, 5]], torch.tensor([[5.0, 5000.0]] * 6), rtol=0.1, atol=0)


@pytest.mark.parametrize("likelihood", ["poisson", "negative-binomial", "log-normal", "gamma", "student-t"])
def test_pixels_of_every_likelihood_come_back_and_new_ones_must_fit(likelihood: Any) -> None:
    x = EIGHT_BIT.clip(1)
    loaded = from_memory(x, likelihood=likelihood)
    read = lambda new: data.read(replace(loaded.source, place="new"), {"x": new}, loaded.preprocessing)  # noqa: E731
    batch = loaded.preprocessing.binarized(loaded.preprocessing.encode(read(x[:5])))
    assert np.array_equal(loaded.preprocessing.decode(batch.x), x[:5])
    wrong = x[:3].astype(np.int64)
    wrong[1, 0, 0, 0] = -1
    if likelihood == "student-t":
        assert read(wrong).x.min() == -1
    else:
        with pytest.raises(InputError, match=f"new: the likelihood {likelihood} .* the first is image 2 with -1"):
            read(wrong)


def test_images_with_missing_pixels_are_not_resized(tmp_path: Path) -> None:
    def image(i: int) -> Image.Image:
        pixels = RNG.normal(size=(7 + i % 2, 9)).astype(np.float32)
        pixels[3, 3] = np.nan if i == 2 else 0
        return Image.fromarray(pixels)

    path = folder(tmp_path / "images", image, ending="tif")
    for x, shape in ((np.where(TWO[:, 0] == 1, np.nan, RNG.random((40, 6, 6))), (5, 5)), (None, (7, 9))):
        source = Source(place="mine" if x is not None else str(path), size=shape)
        with pytest.raises(InputError, match=r"of (40|30) images have missing pixels, .* cannot be resized; fill"):
            data.read(source, None if x is None else {"x": x})


@pytest.mark.parametrize("n", [60, 30])
def test_pixels_that_are_missing_in_all_images_are_a_warning(n: int) -> None:
    x = RNG.normal(size=(60, 8, 9, 3))
    x[:n, 2:4, 5] = np.nan
    warnings = from_memory(x).description.warnings
    assert any("6 of the 216 values of an image are missing in all images" in w for w in warnings) == (n == 60)


def test_missing_pixels_do_not_change_what_an_array_holds() -> None:
    hidden = RNG.random((40, 6, 6)) < 0.3
    square = np.ma.array(EIGHT_BIT[:, 0], mask=hidden)
    assert from_memory(square).spec.shape == (1, 6, 6)  # 8-bit values, so no sequences
    assert from_memory(np.where(hidden, np.nan, RNG.random((40, 6, 6)))).spec.shape == (1, 6, 6)
    pixels: Any = (("x", "pixels"),)
    listed = data.read(Source(place="mine", kinds=pixels), [*square])
    assert listed.observed is not None and np.array_equal(listed.observed[:, 0], ~hidden)
    deep = from_memory(np.ma.array(DEEP, mask=hidden[:, None]))
    assert deep.preprocessing.pixels is not None and deep.preprocessing.pixels.dtype == "uint16"
    assert torch.equal(read_like(deep, DEEP[:2]), read_like(deep, DEEP[:2].astype(int)))
    rgba = np.where(RNG.random((40, 6, 6, 4)) < 0.1, np.nan, grey(40, 6, 6, 4) / 255)
    laid = data.read(Source(place="mine", alpha="white"), {"x": rgba})
    assert laid.x.shape == (40, 3, 6, 6)
    is_hidden = np.isnan(rgba[..., :3]) | np.isnan(rgba[..., 3:])
    assert np.array_equal(laid.known, ~np.moveaxis(is_hidden, -1, 1))
    assert np.nanmin(laid.x) >= 0 and np.nanmax(laid.x) <= 1


@pytest.mark.parametrize(
    ("shape", "channels"),
    [
        ((40, 3, 8, 8), 3), ((40, 8, 8, 3), 3), ((40, 8, 8, 4), 4), ((40, 1, 8, 6), 1), ((40, 2, 8, 6), 2),
        ((40, 9, 12, 5), 5), ((40, 3, 4, 4), 3), ((40, 3, 9, 3), None), ((40, 8, 8, 32), None), ((40, 6, 6, 6), None),
    ],
)  # fmt: skip
def test_the_axis_of_the_channels_is_found_only_if_it_is_clear(shape: tuple[int, ...], channels: int | None) -> None:
    if channels is None:
        with pytest.raises(InputError, match=r"this may be images with \d+ channels of .* expected"):
            from_memory(grey(*shape))
    else:
        assert from_memory(grey(*shape)).spec.shape[0] == channels


def test_a_size_settles_which_axis_has_the_channels() -> None:
    assert from_memory(grey(40, 3, 9, 3), size=(9, 3)).spec.shape == (3, 9, 3)
    assert from_memory(grey(40, 3, 9, 3), size=(3, 9)).preprocessing.pixels == data.PixelFormat(
        dtype="uint8", high=255.0, channel_axis="last"
    )
    assert from_memory(grey(40, 48), size=(6, 8)).spec.shape == (1, 6, 8)
    with pytest.raises(InputError, match="48 values are no image of 6x6 pixels"):
        from_memory(grey(40, 48), size=(6, 6))


@pytest.mark.parametrize(
    "x",
    [RNG.normal(size=(40, 12, 3)), RNG.normal(size=(40, 6, 6)), RNG.integers(0, 9, (40, 6, 6)), TWO[:, 0, :4] * 1.0],
)
def test_what_may_be_sequences_is_refused_until_a_person_says_what_it_is(x: Any) -> None:
    with pytest.raises(InputError, match=r"mine: x has shape .* expected --kind x=pixels or --kind x=sequence"):
        from_memory(x)
    assert from_memory(x, kinds=(("x", "pixels"),)).spec.shape == (1, *x.shape[1:])
    assert from_memory(x, kinds=(("x", "sequence"),)).spec.steps == x.shape[1]


@pytest.mark.parametrize("x", [grey(40, 12, 3), RNG.random((40, 12, 3)) < 0.5, RNG.random((40, 6, 6))])
def test_what_can_only_be_images_is_not_asked_for(x: Any) -> None:
    assert from_memory(x).spec.shape == (1, *x.shape[1:])


def test_a_list_of_images() -> None:
    images = list(grey(40, 6, 6, 3))
    colour = data.load("mine", images)
    assert colour.spec.shape == (3, 6, 6)
    assert data.read(colour.source, images[:2], colour.preprocessing).x.shape == (2, 3, 6, 6)
    assert data.load(Source(place="mine", kinds=(("x", "pixels"),)), list(grey(40, 6, 8))).spec.shape == (1, 6, 8)
    with pytest.raises(InputError, match="x is no array"):
        data.read(colour.source, [grey(6, 6, 3), grey(5, 6, 3)], colour.preprocessing)


def test_alpha_of_arrays_is_kept_unless_a_person_gives_a_colour() -> None:
    x = grey(40, 6, 6, 4)
    x[:, :3, :, 3], x[:, 3:, :, 3] = 0, 255
    kept = from_memory(x)
    assert kept.spec.shape == (4, 6, 6)
    assert any("--alpha white or --alpha black" in note for note in kept.description.notes)
    for colour, value in (("white", 255), ("black", 0)):
        laid = from_memory(x, alpha=colour)
        assert laid.spec.shape == (3, 6, 6)
        assert (laid.train.x[:, :, :3] == value).all()
        assert len(laid.train.x[:, :, 3:].unique()) > 9
    with pytest.raises(InputError, match="--alpha white needs 2 or 4 channels"):
        from_memory(EIGHT_BIT, alpha="white")


def test_own_splits_and_their_names() -> None:
    x, y = grey(60, 6, 6), np.arange(60) % 2
    keras = {"x_train": x[:40], "y_train": y[:40], "x_test": x[40:], "y_test": y[40:]}
    loaded = from_memory(keras)
    assert [len(s) for s in (loaded.train, loaded.valid, loaded.test)] == [36, 4, 20]
    assert np.array_equal(loaded.test.x[:, 0].numpy(), x[40:])
    assert loaded.test.y is not None and loaded.test.y.tolist() == y[40:].tolist()
    whole = from_memory({"x_train": x[:40], "x_val": x[40:50], "x_test": x[50:]})
    assert [len(s) for s in (whole.train, whole.valid, whole.test)] == [40, 10, 10]
    with pytest.raises(InputError, match="expected a label for each example"):
        from_memory({k: v for k, v in keras.items() if k != "y_test"})
    with pytest.raises(InputError, match="expected examples of one shape"):
        from_memory(keras | {"x_test": x[40:, :5]})


def test_published_sets_of_factors_are_known_by_their_names() -> None:
    latents = np.c_[np.ones(60), np.arange(60) % 3, RNG.random((60, 4))]
    sprites = from_memory({"imgs": RNG.integers(0, 2, (60, 6, 6)).astype(np.uint8), "latents_values": latents})
    assert sprites.factors is not None
    assert sprites.factors[0].names == ("shape", "scale", "orientation", "posX", "posY")
    assert sprites.factors[0].unordered == ("shape",)
    assert set(sprites.factors[0].values[:, 0].tolist()) == {0, 1, 2}
    shapes = from_memory({"images": grey(60, 6, 6, 3), "labels": RNG.random((60, 6))})
    assert shapes.factors is not None and shapes.factors[0].names[:2] == ("floor_hue", "wall_hue")
    for labels in (np.arange(60) % 6, np.eye(6)[np.arange(60) % 6]):
        assert from_memory({"images": grey(60, 6, 6, 3), "labels": labels}).spec.classes == 6
    with pytest.raises(InputError, match=r"expected finite numbers \(60, factors\)"):
        from_memory({"imgs": grey(60, 6, 6), "latents_values": np.arange(60)})


def test_labels_and_groups_may_be_named() -> None:
    for x in (grey(60, 6, 6), RNG.random((60, 4))):
        arrays = {"X": x, "species": np.arange(60) % 3, "patient": np.arange(60) // 3}
        loaded = from_memory(arrays, label="species", group="patient")
        assert loaded.spec.classes == 3
        patients = [set((s.x.reshape(len(s), -1).double().sum(1)).tolist()) for s in (loaded.train, loaded.test)]
        assert not patients[0] & patients[1]
        assert "patient" in from_memory({"X": x, "patient": arrays["patient"]}).description.notes[0]


# folders

FOLDERS: dict[str, tuple[Callable[[int], Image.Image], str, tuple[Any, ...]]] = {
    "grey": (any_grey, "png", ((1, 7, 9), "logistic8")),
    "colour": (any_colour, "png", ((3, 7, 9), "logistic8")),
    "upper case": (any_grey, "PNG", ((1, 7, 9), "logistic8")),
    "grey and colour": (lambda i: any_grey(i) if i % 2 else any_colour(i), "png", ((3, 7, 9), "logistic8")),
    "one bit": (lambda i: Image.fromarray(RNG.random((7, 9)) > 0.5), "png", ((1, 7, 9), "bernoulli")),
    "CMYK": (lambda i: Image.fromarray(grey(7, 9, 4), "CMYK"), "jpg", ((3, 7, 9), "logistic8")),
    "palette": (lambda i: any_colour(i).convert("P"), "gif", ((3, 7, 9), "logistic8")),
    "grey with alpha": (lambda i: Image.fromarray(grey(7, 9, 2)), "png", ((1, 7, 9), "logistic8")),
    "colour with alpha": (lambda i: Image.fromarray(grey(7, 9, 4)), "png", ((3, 7, 9), "logistic8")),
    "16 bits": (any_deep, "png", ((1, 7, 9), "gaussian")),
    "16 bits of TIFF": (any_deep, "tif", ((1, 7, 9), "gaussian")),
    "32 bits": (lambda i: Image.fromarray(RNG.integers(-9, 1 << 20, (7, 9)).astype(np.int32)), "tif",
                ((1, 7, 9), "gaussian")),
    "float": (lambda i: Image.fromarray(RNG.normal(size=(7, 9)).astype(np.float32)), "tif", ((1, 7, 9), "gaussian")),
}  # fmt: skip


@pytest.mark.parametrize("case", FOLDERS)
def test_images_of_every_mode_are_read(case: str, tmp_path: Path) -> None:
    image, ending, expected = FOLDERS[case]
    loaded = data.load(str(folder(tmp_path / "images", image, ending=ending)))
    assert (loaded.spec.shape, loaded.spec.likelihood) == expected


def test_16_bit_images_keep_their_levels(tmp_path: Path) -> None:
    levels = np.linspace(0, 65535, 16).astype(np.uint16)
    path = folder(tmp_path / "deep", lambda i: Image.fromarray(RNG.permutation(levels).reshape(4, 4)))
    loaded = data.load(str(path))
    assert len(loaded.train.x.unique()) == 16
    assert set(loaded.preprocessing.decode(loaded.train.x).ravel().tolist()) == set(levels.tolist())


def test_big_endian_images_keep_their_values(tmp_path: Path) -> None:
    values = RNG.integers(0, 1 << 16, (30, 4, 4)).astype(np.uint16)
    for i, value in enumerate(values):  # Pillow writes no such files
        header = b"MM\x00\x2a\x00\x00\x00\x08"
        entries = [(256, 3, 4), (257, 3, 4), (258, 3, 16), (259, 3, 1), (262, 3, 1), (273, 4, 122), (277, 3, 1),
                   (278, 3, 4), (279, 4, 32)]  # fmt: skip
        fields = b"".join(
            tag.to_bytes(2, "big") + kind.to_bytes(2, "big") + (1).to_bytes(4, "big")
            + (v.to_bytes(2, "big") + b"\0\0" if kind == 3 else v.to_bytes(4, "big")) for tag, kind, v in entries
        )  # fmt: skip
        content = header + len(entries).to_bytes(2, "big") + fields + b"\0\0\0\0" + value.astype(">u2").tobytes()
        (tmp_path / f"{i:02}.tif").write_bytes(content)
    raw = data.read(Source(place=str(tmp_path)))
    assert np.array_equal(raw.x[:, 0], values)


def test_what_lies_behind_alpha_is_not_seen(tmp_path: Path) -> None:
    def image(i: int) -> Image.Image:
        pixels = grey(8, 8, 4)
        pixels[..., 3] = 0
        pixels[2:6, 2:6] = [8 * i, 0, 0, 255]
        return Image.fromarray(pixels)

    path = folder(tmp_path / "images", image)
    for alpha, corner in ((None, 255), ("white", 255), ("black", 0)):
        raw = data.read(Source(place=str(path), alpha=alpha))
        assert raw.x.shape == (30, 3, 8, 8)
        assert (raw.x[:, :, :2] == corner).all()
        assert any("transparent" in note for note in raw.notes)
    assert data.read(Source(place=str(path), alpha="keep")).x.shape == (30, 4, 8, 8)


def test_orientation_and_first_frame(tmp_path: Path) -> None:
    turned = Image.Exif()
    turned[0x0112] = 6
    (tmp_path / "turned").mkdir()
    (tmp_path / "moving").mkdir()
    for i in range(30):
        image = any_colour(i)
        image.save(tmp_path / "turned" / f"{i}.png", exif=turned)
        image.save(tmp_path / "moving" / f"{i}.gif", save_all=True, append_images=[image.rotate(180)])
    assert data.load(str(tmp_path / "turned")).spec.shape == (3, 9, 7)
    moving = data.load(str(tmp_path / "moving"))
    assert any("images with several is read: 30 of 30" in note for note in moving.description.notes)


def test_sizes_that_differ_are_refused_or_resized(tmp_path: Path) -> None:
    def image(i: int) -> Image.Image:
        pixels = np.zeros((8 + 2 * (i % 2), 8), np.uint8)
        pixels[len(pixels) // 2 - 2 : len(pixels) // 2 + 2, 2:6] = 100 + i  # a square at the centre
        return Image.fromarray(pixels)

    path = folder(tmp_path / "images", image)
    with pytest.raises(InputError, match=r"images: .* 2 sizes .*8x8 \(15 images\) and 10x8 \(15 images\).* --size 8x8"):
        data.load(str(path))
    raw = data.read(Source(place=str(path), size=(8, 8)))
    assert raw.x.shape == (30, 1, 8, 8)
    assert all(sorted(set(x[0].ravel().tolist())) == [0, x[0, 4, 4]] for x in raw.x)  # cut, not squeezed
    half = data.read(Source(place=str(path), size=(4, 4))).x
    assert half.shape == (30, 1, 4, 4)
    assert (half[:, 0, 1:3, 1:3] > 40).all()


def test_masks_stay_binary_when_they_are_resized() -> None:
    loaded = from_memory((RNG.random((40, 12, 12)) < 0.5) * np.uint8(255), size=(5, 5))
    assert (loaded.spec.shape, loaded.spec.likelihood) == ((1, 5, 5), "bernoulli")


def test_folders_for_splits_are_no_classes(tmp_path: Path) -> None:
    whole = folder(
        tmp_path / "whole", any_grey, *(f"{s}/{c}" for s in ("Train", "val", "test") for c in ("cat", "dog"))
    )
    loaded = data.load(str(whole))
    assert loaded.preprocessing.class_names == ("cat", "dog")
    assert [len(s) for s in (loaded.train, loaded.valid, loaded.test)] == [60, 60, 60]
    two = folder(tmp_path / "two", any_grey, *(f"{s}/{c}" for s in ("training", "testing") for c in ("cat", "dog")))
    loaded = data.load(str(two))
    assert [len(s) for s in (loaded.train, loaded.valid, loaded.test)] == [54, 6, 60]
    one = folder(tmp_path / "one", any_grey, "train/cat", "train/dog")
    assert data.load(str(one)).preprocessing.class_names == ("cat", "dog")
    vehicles = data.load(str(folder(tmp_path / "vehicles", any_grey, "car", "plane", "train")))
    assert vehicles.preprocessing.class_names == ("car", "plane", "train")


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (("train/cat", "train/dog", "test/cat", "test/cow"), "train has cat and dog; .*expected the same classes"),
        (("train/cat", "train/dog", "test"), "test has no classes"),
        (("train", "test", "other"), "has the folders other, test and train; expected either"),
        (("val", "test"), "has the folders test and val; expected either"),
        (("train", "training"), "expected one for each split"),
        (("cat", "."), "images in it and in its subfolders; expected a subfolder for each class"),
        (("train", "test", "."), "and images beside them"),
    ],
)
def test_folders_that_are_ambiguous_are_refused(folders: tuple[str, ...], message: str, tmp_path: Path) -> None:
    for name in folders:
        folder(tmp_path / "x" / name, any_grey) if name != "." else any_grey(0).save(tmp_path / "x" / "0.png")
    with pytest.raises(InputError, match=message):
        data.load(str(tmp_path / "x"))


def test_hidden_and_other_files_are_left_out_with_a_note(tmp_path: Path) -> None:
    path = folder(tmp_path / "images", any_grey, "a", "b", ".ipynb_checkpoints", "__MACOSX")
    (path / "a" / "._0.png").write_bytes(b"\0")
    (path / "a" / "readme.txt").write_text("x")
    loaded = data.load(str(path))
    assert loaded.preprocessing.class_names == ("a", "b")
    notes = " ".join(loaded.description.notes)
    assert "left out: ._0.png, .ipynb_checkpoints and __MACOSX (files in all: 61)" in notes
    assert "not images are left out: .txt (files in all: 1)" in notes


def test_deeper_folders_belong_to_the_class_of_the_first_level(tmp_path: Path) -> None:
    loaded = data.load(str(folder(tmp_path / "a", any_grey, "cat/young", "cat/old", "dog")))
    assert loaded.preprocessing.class_names == ("cat", "dog")
    inside = data.load(str(folder(tmp_path / "b", any_grey, "images/cat", "images/dog")))
    assert inside.spec.classes == 0
    assert any(f"give the path {tmp_path}/b/images" in note for note in inside.description.notes)


@pytest.mark.parametrize("content", [b"", b"no image"])
def test_broken_images_are_refused_by_name(content: bytes, tmp_path: Path) -> None:
    (folder(tmp_path / "x", any_grey) / "99.png").write_bytes(content)
    with pytest.raises(InputError, match=r"the image .*99\.png cannot be read"):
        data.load(str(tmp_path / "x"))


def test_images_of_several_depths_and_options_of_tables_are_refused(tmp_path: Path) -> None:
    mixed = folder(tmp_path / "x", lambda i: any_deep(i) if i % 2 else any_grey(i))
    with pytest.raises(InputError, match=r"several types: uint8 such as .*\.png, uint16 such as"):
        data.load(str(mixed))
    with pytest.raises(InputError, match="--label and --group cannot be used with folders of images"):
        data.load(Source(place=str(mixed), label="a", group="b"))


# new images for a trained model


def read_like(trained: Data, x: Any = None, place: Path | None = None) -> Any:
    source = replace(trained.source, place=str(place or "new"))
    return trained.preprocessing.encode(data.read(source, x, trained.preprocessing)).x


FRACTIONS = EIGHT_BIT / np.float32(255)
DEEP = RNG.integers(0, 1 << 16, (40, 1, 6, 6)).astype(np.uint16)


@pytest.mark.parametrize(
    ("trained", "new"),
    [
        (EIGHT_BIT, EIGHT_BIT[:1]),
        (EIGHT_BIT, EIGHT_BIT[:1].astype(int)),
        (EIGHT_BIT, EIGHT_BIT[:2].tolist()),
        (EIGHT_BIT, np.zeros((1, 3, 6, 6))),
        (EIGHT_BIT[:, 0], EIGHT_BIT[:2, 0]),
        (EIGHT_BIT[:, 0], EIGHT_BIT[:2, :1]),
        (EIGHT_BIT[:, 0], EIGHT_BIT[:2, 0].reshape(2, -1)),
        (FRACTIONS, FRACTIONS[:1]),
        (DEEP, DEEP[:2].astype(int)),
    ],
)
def test_new_images_that_fit_are_encoded_like_training(trained: Any, new: Any) -> None:
    loaded = from_memory(trained)
    expected = loaded.preprocessing.encode(data.read(loaded.source, {"x": trained}, loaded.preprocessing)).x
    if not np.any(new):
        expected = torch.zeros_like(expected)
    assert torch.equal(read_like(loaded, new), expected[: len(new)])


@pytest.mark.parametrize(
    ("trained", "new", "message"),
    [
        (EIGHT_BIT, EIGHT_BIT.transpose(0, 2, 3, 1), r"seem to be in the order \(N, H, W, C\)"),
        (EIGHT_BIT.transpose(0, 2, 3, 1), EIGHT_BIT, r"seem to be in the order \(N, C, H, W\)"),
        (EIGHT_BIT, EIGHT_BIT[:, :1], "with C = 3"),
        (EIGHT_BIT, EIGHT_BIT[:, 0], "the images are 1x6x6 .* trained on 3x6x6"),
        (EIGHT_BIT, EIGHT_BIT[:, :, :5], "the images are 3x5x6"),
        (EIGHT_BIT, FRACTIONS, "float32 from 0 to 1; the model was trained on pixels from 0 to 255"),
        (EIGHT_BIT, EIGHT_BIT > 99, "the pixels are bool"),
        (FRACTIONS, EIGHT_BIT, "uint8 from 0 to 255; the model was trained on pixels from 0 to 1"),
        (FRACTIONS, RNG.random((2, 3, 6, 6)), "in 256 even steps"),
        (TWO * 255, TWO, "from 0 to 1; the model was trained on pixels from 0 to 255 with no value between"),
        (TWO * 255, EIGHT_BIT[:, :1], "with no value between them"),
        (DEEP, EIGHT_BIT[:, :1], "uint8 from .*; the model was trained on uint16"),
        (DEEP, DEEP / 65535, "float64 from .*; the model was trained on uint16"),
        (RNG.normal(size=(40, 1, 6, 6)), DEEP, "uint16 from .*; the model was trained on float64"),
        (RNG.normal(size=(40, 4)), EIGHT_BIT, r"expected rows \(N, D\) .* x0 to x3"),
    ],
)
def test_new_images_that_do_not_fit_are_refused(trained: Any, new: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_like(from_memory(trained), new)


def test_new_folders_and_single_images(tmp_path: Path) -> None:
    trained = data.load(str(folder(tmp_path / "trained", any_colour, "cat", "dog")))
    new = folder(tmp_path / "new", any_colour, "monday", "tuesday", n=2)
    source = replace(trained.source, place=str(new))
    raw = data.read(source, like=trained.preprocessing)
    assert raw.y is None  # the subfolders are no classes that the model knows
    assert list(raw.rows) == ["monday/0.png", "monday/1.png", "tuesday/0.png", "tuesday/1.png"]
    single = data.read(replace(source, place=str(new / "monday" / "0.png")), like=trained.preprocessing)
    assert np.array_equal(single.x, raw.x[:1])
    cats = data.read(replace(source, place=str(tmp_path / "trained")), like=trained.preprocessing)
    assert cats.y is not None and cats.y.tolist() == [0] * 30 + [1] * 30
    with pytest.raises(InputError, match="unknown classes cow"):
        read_like(trained, place=folder(tmp_path / "cows", any_colour, "cat", "cow", n=2))
    with pytest.raises(InputError, match="the images are 3x9x9"):
        read_like(trained, place=folder(tmp_path / "larger", lambda i: Image.fromarray(grey(9, 9, 3)), n=2))
    with pytest.raises(InputError, match="is a single image; expected a folder"):
        data.load(str(new / "monday" / "0.png"))
    on_grey = data.load(str(folder(tmp_path / "grey", any_grey)))
    with pytest.raises(InputError, match=r"0\.png has 3 channels; the model was trained on images with 1"):
        read_like(on_grey, place=new)


def test_new_images_are_resized_like_the_training_images(tmp_path: Path) -> None:
    trained = data.load(Source(place=str(folder(tmp_path / "a", any_colour)), size=(5, 6)))
    larger = folder(tmp_path / "b", lambda i: Image.fromarray(grey(20 + i, 30, 3)), n=3)
    assert read_like(trained, place=larger).shape == (3, 3, 5, 6)


def test_a_test_folder(tmp_path: Path) -> None:
    train, test = (folder(tmp_path / name, any_grey, "cat", "dog") for name in ("train-set", "test-set"))
    loaded = data.load(Source(place=str(train), test=str(test)))
    assert [len(s) for s in (loaded.train, loaded.valid, loaded.test)] == [54, 6, 60]
