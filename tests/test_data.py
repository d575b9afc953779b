"""Named data sets, a person's own data, and every way in which they can be wrong."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline import data
from variants import InputError

RNG = np.random.default_rng(0)


def saved(folder: Path, name: str = "mine", **arrays: Any) -> str:
    np.savez(folder / f"{name}.npz", **arrays)
    return str(folder / f"{name}.npz")


def test_digits_are_split_once_and_for_all() -> None:
    digits, again = data.load("digits"), data.load("digits")
    assert digits.spec.shape == (1, 8, 8)
    assert [len(s) for s in (digits.train, digits.valid, digits.test)] == [1439, 179, 179]
    digest = "1675668c84d29beadecc38a45529b289d9aa76007c02f74226b6d26dfd7eb3bd"  # by which stores know the data
    assert digits.digest == again.digest == digest
    assert torch.equal(digits.test.x, again.test.x)
    whole = torch.cat([digits.train.x.float() / 255, digits.valid.x.float(), digits.test.x.float()])
    assert len(whole) == 1797


def test_splits_are_stratified_and_do_not_overlap(tmp_path: Path) -> None:
    x = np.arange(1000, dtype=np.float32)[:, None] * np.float32([0.5, 1.5])
    y = np.repeat([0, 1, 2], [900, 90, 10])
    loaded = data.load(saved(tmp_path, x=x, y=y))
    parts = [torch.tensor(loaded.preprocessing.decode(s.x)) for s in (loaded.train, loaded.valid, loaded.test)]
    assert sorted((2 * torch.cat(parts)[:, 0]).round().int().tolist()) == list(range(1000))
    for split, size in zip((loaded.train, loaded.valid, loaded.test), (8, 1, 1), strict=True):
        assert split.y is not None
        assert torch.bincount(split.y).tolist() == [90 * size, 9 * size, size]


def test_held_out_grey_images_are_binarised_once_and_training_images_each_time() -> None:
    digits = data.load("digits")
    assert digits.train.x.dtype == torch.uint8
    assert digits.valid.x.dtype == digits.test.x.dtype == torch.bool
    draws = torch.stack([digits.batch(digits.train, slice(0, 200)).x for _ in range(400)])
    assert set(draws.unique().tolist()) == {0.0, 1.0}
    grey = digits.train.x[:200].float() / 255
    error = (draws.mean(0) - grey).abs() - 5 * (grey * (1 - grey) / 400).sqrt()
    assert error.max() <= 1e-6


def test_a_split_read_twice_is_the_same() -> None:
    digits = data.load("digits")
    once, twice = (torch.cat([b.x for b in digits.batches(digits.train, 100)]) for _ in range(2))
    assert torch.equal(once, twice)


@pytest.mark.parametrize(
    ("x", "likelihood", "shape"),
    [
        (RNG.integers(0, 2, (60, 9)), "bernoulli", (9,)),
        (RNG.random((60, 8, 8)) > 0.5, "bernoulli", (1, 8, 8)),
        (RNG.integers(0, 256, (60, 3, 6, 6), dtype=np.uint8), "logistic8", (3, 6, 6)),
        (RNG.integers(0, 256, (60, 6, 6, 3), dtype=np.uint8), "logistic8", (3, 6, 6)),
        (RNG.normal(5, 3, (60, 4)), "gaussian", (4,)),
    ],
)
def test_the_likelihood_fits_the_values(x: Any, likelihood: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    loaded = data.load(saved(tmp_path, x=x))
    assert loaded.spec.likelihood == likelihood
    assert loaded.spec.shape == shape
    assert loaded.spec.classes == 0
    batch = next(loaded.batches(loaded.train))
    assert batch.x.dtype == torch.float32
    assert batch.x.shape[1:] == shape


def test_continuous_data_are_standardised_by_the_training_split(tmp_path: Path) -> None:
    loaded = data.load(saved(tmp_path, x=RNG.normal([5, -100, 1e8], [3, 0.01, 1], (500, 3))))
    torch.testing.assert_close(loaded.train.x.mean(0), torch.zeros(3), atol=1e-2, rtol=0)
    torch.testing.assert_close(loaded.train.x.std(0), torch.ones(3), atol=1e-2, rtol=0)


def test_constant_columns_are_left_out_and_named(tmp_path: Path) -> None:
    x = RNG.random((60, 4))
    x[:, [1, 3]] = 7
    loaded = data.load(saved(tmp_path, x=x))
    assert [c.name for c in loaded.preprocessing.columns] == ["x0", "x2"]
    assert any("x1 and x3" in note for note in loaded.description.notes)


@pytest.mark.parametrize(
    ("y", "classes"),
    [
        (np.arange(60) % 3, (0, 1, 2)),
        (np.arange(60)[:, None] % 3, (0, 1, 2)),
        (np.eye(3)[np.arange(60) % 3], (0, 1, 2)),
        (np.array([b"cat", b"dog"] * 30), ("cat", "dog")),
        (np.arange(60) % 2 == 0, (False, True)),
        (np.array([0.0, 1.0] * 30), (0, 1)),
        (np.array([-1, 0, 1] * 20), (0, 1)),  # -1 is unknown
        (np.array([-1, 1] * 30), (-1, 1)),
        (np.zeros(60), ()),
    ],
)
def test_labels_of_every_form(y: Any, classes: tuple[Any, ...], tmp_path: Path) -> None:
    loaded = data.load(saved(tmp_path, x=RNG.random((60, 4)), y=y))
    assert loaded.preprocessing.class_names == classes
    assert loaded.spec.classes == len(classes)


def test_files_of_one_name_in_two_folders_have_different_names(tmp_path: Path) -> None:
    (tmp_path / "A").mkdir()
    (tmp_path / "B").mkdir()
    names = {data.load(saved(tmp_path / part, "data", x=RNG.random((60, 2)))).spec.name for part in ("A", "B")}
    assert names == {"A-data", "B-data"}


def test_a_column_far_from_zero_keeps_its_values(tmp_path: Path) -> None:
    x = RNG.normal([1e8, 0, -1e6], 1, (300, 3))
    loaded = data.load(saved(tmp_path, x=x))
    whole = torch.cat([loaded.train.x, loaded.valid.x, loaded.test.x])
    assert len(whole[:, 0].unique()) == 300
    torch.testing.assert_close(loaded.train.x.std(0), torch.ones(3), atol=1e-3, rtol=0)


def test_labels_may_be_words(tmp_path: Path) -> None:
    loaded = data.load(saved(tmp_path, x=RNG.random((60, 2)), y=np.array(["cat", "dog", "ant"] * 20)))
    assert loaded.spec.classes == 3


def arrays(**changes: Any) -> dict[str, Any]:
    """The same arrays each time, with some of them changed, or left out where the change is None."""
    rng = np.random.default_rng(0)
    plain = {"x": rng.random((60, 4)), "y": np.arange(60) % 3, "factors": np.arange(120).reshape(60, 2) % 5}
    return {k: v for k, v in (plain | changes).items() if v is not None}


def test_data_that_differ_in_anything_have_another_digest(tmp_path: Path) -> None:
    """Studies and finals are found again by the digest alone."""
    x, factors = arrays()["x"], arrays()["factors"]
    changed = x.copy()
    changed[7, 2] += 0.5
    steps = np.zeros((60, 5, 2))
    steps[:, :3] = np.random.default_rng(0).random((60, 3, 2))
    cases: list[dict[str, Any]] = [
        arrays(), arrays(x=changed), arrays(y=(np.arange(60) + 1) % 3), arrays(y=None), arrays(factors=None),
        arrays(factors=factors + 1), arrays(x=x[::-1]), arrays(x=x[:, ::-1]),
        {"x": steps, "lengths": np.full(60, 4)}, {"x": steps, "lengths": np.full(60, 5)},
    ]  # fmt: skip
    digests = [data.load(saved(tmp_path, str(i), **case)).digest for i, case in enumerate(cases)]
    assert len(set(digests)) == len(cases)
    assert all(re.fullmatch(r"[0-9a-f]{64}", d) for d in digests)
    assert data.load(saved(tmp_path, "again", **arrays())).digest == digests[0]


def test_factors_keep_their_names_and_their_examples(tmp_path: Path) -> None:
    factors = np.arange(120).reshape(60, 2)
    x = factors / 200  # so the factors can be read from x
    named = data.load(saved(tmp_path, x=x, factors=factors, factor_names=["size", "kind"], unordered=["kind"]))
    assert named.factors is not None
    for split, stored in zip((named.train, named.valid, named.test), named.factors, strict=True):
        assert (stored.names, stored.unordered) == (("size", "kind"), ("kind",))
        values = split.x[:, :2] * named.preprocessing.scale[:2] + named.preprocessing.shift[:2]
        assert torch.allclose(values * 200, torch.from_numpy(stored.values).double(), atol=1e-3)
    plain = data.load(saved(tmp_path, x=x, factors=factors))
    assert plain.factors is not None
    assert plain.factors[0].names == ("factor 0", "factor 1")
    assert data.load(saved(tmp_path, x=x)).factors is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"factors": np.arange(60)}, r"factors are int64 of shape \(60,\); expected finite numbers \(60, factors\)"),
        ({"factors": np.zeros((9, 2))}, r"factors are float64 of shape \(9, 2\)"),
        ({"factors": np.full((60, 2), np.nan)}, "expected finite numbers"),
        ({"factor_names": ["one"]}, "1 factor_names for 2 factors; expected a name for each"),
        ({"factor_names": ["a", "b"], "unordered": ["c"]}, "unordered names 'c'; expected names out of a, b"),
    ],
)
def test_factors_that_do_not_fit_are_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        data.load(saved(tmp_path, **arrays(**changes)))


@pytest.mark.parametrize("kind", [np.uint8, np.int64, np.float64, np.bool_])
def test_binary_values_of_every_type_are_stored_as_bool(kind: Any, tmp_path: Path) -> None:
    x = np.random.default_rng(0).integers(2, size=(60, 4)).astype(kind)
    loaded = data.load(saved(tmp_path, x=x))
    assert loaded.spec.likelihood == "bernoulli"
    assert {split.x.dtype for split in (loaded.train, loaded.valid, loaded.test)} == {torch.bool}
    assert loaded.batch(loaded.train, slice(0, 2)).x.dtype == torch.float32


ENOUGH = RNG.random((60, 4))
BAD = {
    "no x": (dict(values=ENOUGH, names=ENOUGH), r"mine\.npz holds values, names; expected an array x"),
    "no known value": (
        dict(x=np.full((60, 4), np.nan)),
        r"there are no columns of values to model.* one value or none",
    ),
    "infinity": (dict(x=np.where(np.arange(60)[:, None] == 7, np.inf, ENOUGH)), r"x0 has 1 infinite values"),
    "no known pixel": (dict(x=np.full((60, 1, 4, 4), np.nan)), r"all pixels are missing; expected images with known"),
    "no known step": (dict(x=np.full((60, 4, 4), np.nan), lengths=np.full(60, 4)), "all values are missing; expected"),
    "infinite pixels": (dict(x=np.full((60, 1, 4, 4), np.inf)), r"60 of 60 images have inf.* image 1; .* images$"),
    "constant but for missing pixels": (
        dict(x=np.where(RNG.random((60, 1, 4, 4)) < 0.2, np.nan, 3)),
        "images are equal",
    ),
    "wrong shape": (dict(x=ENOUGH[:, 0]), r"x has shape \(60,\); expected .*\(N, D\)"),
    "labels of another length": (dict(x=ENOUGH, y=np.zeros(59)), r"the labels have shape \(59,\); expected \(60,\)"),
    "fractions as labels": (dict(x=ENOUGH, y=ENOUGH[:, 0]), r"the labels hold fractions"),
    "a label for each example": (dict(x=ENOUGH, y=np.arange(60)), r"60 examples have 60 different labels"),
    "constant": (dict(x=np.ones((60, 4))), r"there are no columns of values to model"),
    "constant images": (dict(x=np.ones((60, 4, 4), np.uint8)), r"all 60 images are equal"),
    "counts or pixels": (dict(x=RNG.integers(0, 9, (60, 16))), "--kind x=pixels --size 4x4 .* negative-binomial"),
    "complex numbers": (dict(x=ENOUGH + 1j), r"x has type complex128; expected numbers"),
    "dates": (dict(x=np.zeros((60, 4), "datetime64[s]")), r"x has type datetime64"),
    "fields": (dict(x=np.zeros(60, [("a", float)])), r"expected numbers"),
    "volumes": (dict(x=np.zeros((60, 2, 2, 2, 2))), r"x has shape \(60, 2, 2, 2, 2\)"),
    "few": (dict(x=ENOUGH[:9]), r"9 examples; expected at least \d+ for three splits"),
    "words": (dict(x=np.array([["a"]] * 60)), r"x has type <U1; expected numbers"),
    "no values": (dict(x=np.ones((60, 0))), r"expected examples with values"),
    "objects": (dict(x=np.array([[None]] * 60)), r"cannot be read: it holds Python objects"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_arrays_are_refused(case: str, tmp_path: Path) -> None:
    content, message = BAD[case]
    with pytest.raises(InputError, match=message):
        data.load(saved(tmp_path, **content))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (ENOUGH.astype(object), "x has type object; expected numbers"),
        (np.where(np.arange(60)[:, None] == 7, np.finfo(float).max, ENOUGH), r"values as large as 1\.79769e\+308"),
        ([*np.where(RNG.random((60, 4, 2)) < 0.5, 0, np.inf)], "sequence . has an infinite value at step"),
        (torch.zeros(60, 4, requires_grad=True), "x is no array .*requires grad"),
        ([torch.zeros(4, 2, dtype=torch.bfloat16)] * 60, "x is no array .*BFloat16"),
    ],
    ids=["objects", "huge values", "infinite steps", "gradients", "a type of torch alone"],
)
def test_bad_arrays_in_memory_are_refused(content: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        data.load("mine", content)


def test_a_new_value_that_is_far_too_large_is_refused() -> None:
    like = data.load("mine", ENOUGH).preprocessing
    new = data.read(data.Source(place="new"), np.where(np.arange(60)[:, None] == 7, 1e300, ENOUGH), like)
    with pytest.raises(InputError, match="new: there are values as large as 1e\\+300"):
        like.encode(new)


@pytest.mark.parametrize("damage", ["truncated", "corrupt", "empty", "text"])
def test_damaged_files_are_refused(damage: str, tmp_path: Path) -> None:
    path = Path(saved(tmp_path, x=ENOUGH))
    whole = path.read_bytes()
    middle = len(whole) // 2
    flipped = whole[:middle] + bytes(b ^ 0xFF for b in whole[middle : middle + 40]) + whole[middle + 40 :]
    path.write_bytes({"truncated": whole[:-200], "corrupt": flipped, "empty": b"", "text": b"x,y\n1,2\n"}[damage])
    with pytest.raises(InputError, match=r"mine\.npz cannot be read"):
        data.load(str(path))


def test_what_is_not_there_or_of_no_known_kind(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"unknown data set 'minst': expected .*digits, .*fashion-mnist, .*mnist"):
        data.load("minst")
    with pytest.raises(InputError, match=r"there is no such file or folder"):
        data.load(str(tmp_path / "none.npz"))
    (tmp_path / "model.pkl").write_bytes(b"")
    with pytest.raises(InputError, match=r"model\.pkl: expected a folder of images, or a file that ends in \.npz, "):
        data.load(str(tmp_path / "model.pkl"))


def test_mnist_is_that_of_the_official_files(mnist_folder: Path) -> None:
    mnist = data.load("mnist")
    assert [len(s) for s in (mnist.train, mnist.valid, mnist.test)] == [50000, 10000, 10000]
    assert float(mnist.train.x.float().mean()) / 255 == pytest.approx(0.1306, abs=5e-4)
    assert mnist.train.y is not None
    assert mnist.train.y[:5].tolist() == [5, 0, 4, 1, 9]


def test_binarized_mnist_has_no_labels(mnist_folder: Path) -> None:
    fixed = data.load("binarized-mnist")
    assert fixed.spec.classes == 0
    assert [len(s) for s in (fixed.train, fixed.valid, fixed.test)] == [50000, 10000, 10000]
    assert fixed.train.x.dtype == torch.bool


def test_an_outlier_in_any_split_is_no_reason_to_refuse_the_data() -> None:
    for row in range(60):
        x = np.random.default_rng(0).random((60, 9, 6))
        x[row, 0, 0] = 1e4
        loaded = data.load(data.Source(place="mine", kinds=(("x", "pixels"),)), x)
        assert len(loaded.train) + len(loaded.valid) + len(loaded.test) == 60


# missing values, in each container and of each kind of values

ROWS, IMAGES, SERIES = (60, 9), (60, 1, 5, 5), (60, 6, 2)
VALUES = {
    "reals": (lambda shape: RNG.normal(3, 2, shape), "gaussian"),
    "two values": (lambda shape: RNG.integers(0, 2, shape).astype(bool), "bernoulli"),
    "8-bit pixels": (lambda shape: RNG.integers(0, 256, shape, dtype=np.uint8), "logistic8"),
    "fractions of pixels": (lambda shape: RNG.integers(0, 256, shape) / 255, "logistic8"),
    "counts": (lambda shape: RNG.negative_binomial(2, 0.05, shape), "negative-binomial"),
}
SHAPES = {"rows": ROWS, "images": IMAGES, "sequences": SERIES}
MISSING = {
    "single values": lambda shape: RNG.random(shape) < 0.2,
    "a whole example": lambda shape: np.broadcast_to((np.arange(60) == 7).reshape(-1, *[1] * (len(shape) - 1)), shape),
    "the same places": lambda shape: (
        np.broadcast_to(np.arange(shape[-1]) == 1, shape) & (np.arange(60) % 3 > 0).reshape(-1, *[1] * (len(shape) - 1))
    ),
}


@pytest.mark.parametrize("missing", MISSING)
@pytest.mark.parametrize("form", ["NaN", "masked"])
@pytest.mark.parametrize(
    ("container", "kind"),
    [(container, kind) for container in SHAPES for kind in VALUES if "pixels" not in kind or container == "images"],
)
def test_missing_values_are_kept_and_known_ones_decide(container: str, kind: str, form: str, missing: str) -> None:
    shape = SHAPES[container]
    draw, likelihood = VALUES[kind]
    values, hidden = draw(shape), MISSING[missing](shape)
    x = np.ma.array(values, mask=hidden) if form == "masked" else np.where(hidden, np.nan, values)
    is_image = container == "images"
    source = data.Source(place="mine", kinds=(("x", "sequence"),) if container == "sequences" else (), split="random",
                         likelihood="negative-binomial" if kind == "counts" and is_image else None)  # fmt: skip
    loaded = data.load(source, {"x": x})
    assert loaded.spec.likelihood == likelihood and loaded.spec.missing and loaded.description is not None
    assert any("have no values at all" in w for w in loaded.description.warnings) == (missing == "a whole example")
    for part in (loaded.train, loaded.valid, loaded.test):
        batch = loaded.batch(part, slice(None))
        assert batch.observed is not None and batch.observed.shape == batch.x.shape
        assert (batch.x[~batch.observed] == 0).all() and batch.x.isfinite().all()
    new = data.read(loaded.source, {"x": x}, loaded.preprocessing)
    batch = loaded.preprocessing.binarized(loaded.preprocessing.encode(new))
    assert batch.observed is not None and np.array_equal(batch.observed.numpy(), ~hidden)
    back = loaded.preprocessing.decode(batch.x)
    np.testing.assert_allclose(back.reshape(shape)[~hidden], values[~hidden], rtol=1e-5, atol=1e-5)
    full = data.read(loaded.source, {"x": values[:2]}, loaded.preprocessing)  # without any missing value
    assert loaded.preprocessing.encode(full).observed is None


@pytest.mark.parametrize("container", SHAPES)
def test_a_model_of_complete_data_refuses_missing_values_unless_they_are_allowed(container: str) -> None:
    values = RNG.normal(size=SHAPES[container])
    kinds: Any = (("x", "sequence"),) if container == "sequences" else ()
    loaded = data.load(data.Source(place="mine", kinds=kinds), {"x": values})
    assert not loaded.spec.missing and loaded.train.observed is None
    values[3, ..., 1] = np.nan
    new = data.read(data.Source(place="new"), {"x": values}, loaded.preprocessing)
    with pytest.raises(InputError, match=rf"new: 1 of 60 {container} have missing values.*first in \w+ 4"):
        loaded.preprocessing.encode(new)
    allowed = loaded.preprocessing.encode(new, allow_missing=True)
    assert allowed.observed is not None and not allowed.observed[3, ..., 1].any()


@pytest.mark.parametrize("kind", ["reals", "two values", "8-bit pixels"])
def test_a_test_set_may_have_missing_values_where_training_has_none(kind: str, tmp_path: Path) -> None:
    values = VALUES[kind][0](IMAGES)
    hidden = RNG.random(IMAGES) < 0.3
    test = saved(tmp_path, "test", x=np.where(hidden, np.nan, values))
    loaded = data.load(data.Source(place=saved(tmp_path, "train", x=values), test=test))
    assert not loaded.spec.missing
    assert loaded.train.observed is not None and loaded.train.observed.all()
    assert loaded.test.observed is not None and np.array_equal(loaded.test.observed.numpy(), ~hidden)
    x = (
        loaded.test.x
        if loaded.test.x.dtype == torch.bool
        else loaded.preprocessing.decode(loaded.batch(loaded.test, slice(None)).x)
    )
    np.testing.assert_allclose(np.asarray(x)[~hidden], values[~hidden], rtol=1e-4, atol=1e-4)


def test_grey_values_with_missing_ones_are_binarised() -> None:
    grey = np.ma.array(np.full((60, 1, 4, 4), 128, np.uint8), mask=RNG.random((60, 1, 4, 4)) < 0.3)
    grey.data[:30], grey.data[:, :, 0] = 255, 0
    loaded = data.load(data.Source(place="mine", likelihood="bernoulli"), {"x": grey})
    assert loaded.train.x.dtype == torch.uint8 and loaded.train.observed is not None
    first, again = (loaded.batch(loaded.train, slice(None)).x for _ in range(2))
    assert not torch.equal(first, again)
    assert (first[~loaded.train.observed] == 0).all()
    assert (first[loaded.train.observed & (loaded.train.x == 255)] == 1).all()


def test_hidden_labels_are_unknown() -> None:
    y = np.ma.array(np.arange(60) % 3, mask=np.arange(60) < 6)
    for labels in (y, np.ma.array(np.array(["cat", "dog", "eel"])[y.data], mask=y.mask)):
        loaded = data.read(data.Source(place="mine"), {"x": ENOUGH, "y": labels})
        assert loaded.y is not None and (loaded.y < 0).tolist() == y.mask.tolist()
    parts = {
        "x_train": ENOUGH[:40],
        "y_train": y[:40],
        "x_test": np.ma.masked_greater(ENOUGH[40:], 0.9),
        "y_test": y[40:],
    }
    raw = data.read(data.Source(place="mine"), parts)
    assert raw.y is not None and (raw.y < 0).sum() == 6
    assert np.array_equal(np.isnan(raw.x[40:]), ENOUGH[40:] > 0.9) and not np.isnan(raw.x[:40]).any()


def test_data_with_other_missing_values_have_another_digest() -> None:
    masks = [RNG.random(IMAGES) < 0.2 for _ in range(2)]
    x = np.zeros(IMAGES, np.uint8)
    x[..., 0] = 255  # also where it is hidden
    x[::2, ..., 1] = 7
    digests = {data.load("mine", {"x": np.ma.array(x, mask=mask)}).digest for mask in masks}
    assert len(digests) == 2
