"""Data that stay on disk: what is read, in which order, and what is said when a file is damaged or changes."""

import os
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import variants
from pipeline import trainer
from pipeline.data import Data, Source, load
from pipeline.data._stream import Stream
from variants import Batch, InputError

N, PORTION = 1200, 256
rng = np.random.default_rng(0)
LABELS = np.repeat(np.arange(4), N // 4)  # a file that is sorted by class
COLOURS = (rng.integers(0, 60, (N, 10, 8, 3)) + 45 * LABELS[:, None, None, None]).astype(np.uint8)
REALS = rng.normal(3, 2, (N, 2, 9, 9)).astype(np.float32)


def npz(folder: Path) -> Source:
    np.savez(folder / "data.npz", x=COLOURS, y=LABELS)
    return Source(place=str(folder / "data.npz"))


def npy(folder: Path) -> Source:
    np.save(folder / "data.npy", REALS)
    return Source(place=str(folder / "data.npy"))


def hdf5(folder: Path) -> Source:
    h5py = pytest.importorskip("h5py")
    with h5py.File(folder / "data.h5", "w") as file:
        file.create_dataset("x", data=COLOURS, chunks=(50, 10, 8, 3), compression="gzip")
        file["y"] = LABELS
    return Source(place=str(folder / "data.h5"))


def zarr(folder: Path) -> Source:
    library = pytest.importorskip("zarr")
    root = library.open_group(folder / "data.zarr", mode="w")
    root.create_array("x", data=COLOURS, chunks=(50, 10, 8, 3))
    root.create_array("y", data=LABELS)
    return Source(place=str(folder / "data.zarr"))


def images(folder: Path) -> Source:
    for i, (pixels, label) in enumerate(zip(COLOURS[::6], LABELS[::6], strict=True)):
        (folder / "images" / f"class{label}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / "images" / f"class{label}" / f"{i:04}.png")
    return Source(place=str(folder / "images"))


def saved_dataset(folder: Path) -> Source:
    """A folder of the library `datasets` with images, labels and a column that is not used."""
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    columns = {"image": [Image.fromarray(x) for x in COLOURS[::6]], "kind": LABELS[::6], "other": [0] * (N // 6)}
    kind = datasets.ClassLabel(names=["a", "b", "c", "d"])
    datasets.Dataset.from_dict(columns).cast_column("kind", kind).save_to_disk(folder / "saved")
    return Source(place=str(folder / "saved"))


def both(source: Source, portion: int = PORTION) -> tuple[Data, Data, Stream]:
    """The same data set, once on disk and once in memory."""
    on_disk = load(replace(source, portion=portion))
    assert on_disk.stream is not None
    return on_disk, load(source), on_disk.stream


def first_pass(stream: Stream, seed: int = 0) -> Batch:
    """The examples of the first pass over the data, in their order."""
    whole = replace(stream, portion=len(stream))
    return Batch.cat(list(next(whole.epochs(seed, 64, 0))))


def by_value(x: torch.Tensor) -> torch.Tensor:
    """Examples as rows, sorted by their values."""
    return torch.from_numpy(np.unique(x.flatten(1).double().numpy(), axis=0))


@pytest.mark.parametrize("make", [npz, npy, hdf5, zarr, images, saved_dataset])
def test_a_pass_has_each_training_example_once_as_it_is_in_memory(
    make: Callable[[Path], Source], tmp_path: Path
) -> None:
    on_disk, in_memory, stream = both(make(tmp_path))
    assert on_disk.description is not None
    assert in_memory.description is not None
    assert on_disk.spec == in_memory.spec
    assert on_disk.description.sizes == in_memory.description.sizes
    assert on_disk.description.classes == in_memory.description.classes
    once = first_pass(stream)
    torch.testing.assert_close(by_value(once.x), by_value(in_memory.train.x), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(by_value(on_disk.test.x), by_value(in_memory.test.x), rtol=1e-5, atol=1e-5)
    if in_memory.train.y is not None:
        assert once.y is not None
        assert once.y.bincount().tolist() == in_memory.train.y.bincount().tolist()
        mean = once.x.float().flatten(1).mean(1)  # the brightness shows the class
        assert torch.equal((mean / 45 - 30 / 45).round().long(), once.y)


def test_real_values_are_standardised_by_all_training_examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.data._large.KEPT", 50)
    on_disk, in_memory, _ = both(npy(tmp_path))
    assert len(on_disk.train) == 50
    for name in ("shift", "scale", "low", "high"):
        ours, whole = (getattr(data.preprocessing, name) for data in (on_disk, in_memory))
        torch.testing.assert_close(ours, whole, rtol=1e-6, atol=1e-6)


def small(stream: Stream) -> Stream:
    """A stream with blocks so small that the examples form several windows."""
    return replace(stream, block=16, window=8)


def test_the_order_depends_on_nothing_but_seed_and_position(tmp_path: Path) -> None:
    stream = small(both(npz(tmp_path))[2])
    batches = [list(epoch) for epoch in islice(stream.epochs(3, 50, 0), 9)]  # more than two passes
    for done in (1, 4, 8):
        again = list(next(stream.epochs(3, 50, done)))
        assert all(torch.equal(a.x, b.x) for a, b in zip(batches[done], again, strict=True))
    assert [len(batch) for batch in batches[0]] == [50] * 5 + [6]
    assert not torch.equal(batches[0][0].x, next(next(stream.epochs(4, 50, 0))).x)
    first, second = first_pass(stream, 3).x, Batch.cat([b for e in batches for b in e]).x[len(stream) : 2 * len(stream)]
    assert not torch.equal(by_value(first[:128]), by_value(second[:128]))  # of the first window
    assert torch.equal(by_value(first), by_value(second))


def test_batches_of_a_sorted_file_have_examples_of_all_classes(tmp_path: Path) -> None:
    """The classes of batches of 64 vary about as much as in random draws, although each class fills blocks."""
    stream = replace(both(npz(tmp_path))[2], block=8, window=1000)
    y = first_pass(stream).y
    assert y is not None
    counts = torch.stack([part.bincount(minlength=4) for part in y.split(64)[:-1]]).double()
    assert counts.std(0).mean() < 1.5 * (64 * 0.25 * 0.75) ** 0.5
    one_block_at_a_time = first_pass(replace(stream, block=64, window=1)).y
    assert one_block_at_a_time is not None
    assert max(one_block_at_a_time[:64].bincount()) > 48


def test_training_from_disk_continues_in_the_same_weights(tmp_path: Path) -> None:
    data = both(npz(tmp_path))[0]
    config = variants.get("vae").config_type(width=16, latent=2, network="mlp", batch=64)

    def train(resume: dict[str, torch.Tensor] | None = None) -> list[dict[str, torch.Tensor]]:
        torch.manual_seed(0)
        epochs = trainer.train(variants.build("vae", config, data.spec), data, epochs=6, seed=0, resume=resume)
        return [epoch.snapshot() for epoch in epochs]

    whole = train()
    continued = train(whole[3])
    assert len(whole) == 6
    assert len(continued) == 2
    assert whole[-1].keys() == continued[-1].keys()
    assert all(torch.equal(whole[-1][name], continued[-1][name]) for name in whole[-1])


def test_a_truncated_file_is_named(tmp_path: Path) -> None:
    source = npy(tmp_path)
    path = Path(source.place)
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(InputError, match=rf"{path} ends in example 60\d of 1200, so it was cut off"):
        load(replace(source, portion=PORTION))


@pytest.mark.parametrize("make", [npz, hdf5, images])
def test_a_file_that_changes_while_it_is_read_ends_the_training(make: Callable[[Path], Source], tmp_path: Path) -> None:
    source = make(tmp_path)
    stream = small(both(source)[2])
    list(next(stream.epochs(0, 64, 0)))
    place = Path(source.place)
    changed = sorted(place.rglob("*.png"))[int(stream.index[7])] if place.is_dir() else place
    changed.write_bytes(changed.read_bytes()[:-40])
    with pytest.raises(InputError, match=f"{changed} has changed while it was read"):
        first_pass(stream)
    changed.unlink()
    with pytest.raises(InputError, match=f"{changed} cannot be read any more"):
        first_pass(stream)


def test_an_image_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    source = images(tmp_path)
    broken = sorted(Path(source.place).rglob("*.png"))[77]
    broken.write_bytes(broken.read_bytes()[:40])
    with pytest.raises(InputError, match=f"the image {broken} cannot be read"):
        load(replace(source, portion=PORTION))


def test_portions_are_refused_for_data_that_are_read_as_a_whole(tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text("a,b\n" + "1.5,2\n2.5,1\n" * 20)
    with pytest.raises(InputError, match="--portion 10 is for arrays"):
        load(Source(place=str(tmp_path / "table.csv"), portion=10))


def test_data_that_do_not_fit_in_memory_stay_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = npz(tmp_path)
    assert load(source).stream is None
    monkeypatch.setattr("pipeline.data._large.memory", lambda: 1_000_000)
    assert load(source).stream is not None
