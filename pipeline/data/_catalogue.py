"""The data sets that have a name. Each function of `CATALOGUE` reads one, and downloads it if necessary."""

import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from pipeline.data import _photos, _scenes, _sprites
from pipeline.data._raw import PixelFormat, Raw, consecutive
from pipeline.data._source import Source
from variants import InputError

BINARIZED = "https://www.cs.toronto.edu/~larocheh/public/datasets/binarized_mnist/binarized_mnist_{}.amat"
BINARIZED_SHA256 = {  # of the text files, as published by TensorFlow Datasets
    "train": "ad693b29f94c14277b095f5238ddefbbdaaae0939789dd2f4f0205278cee3e4d",
    "valid": "1de3d397c40fe8eeb33dafd4099a1f665ec01e96d9be234aaeeac8a34930e2e2",
    "test": "e6687bfea3f820c174f33b7865140b2a2dd2930ef786f35d45795fc193b5ab2c",
}
ROWS = "-rows"  # ends the name of a data set whose images are sequences of their rows
GREY = "the pixels are grey values, which are binarised at random"
OTHERWISE = "or use --dataset digits, which needs no file"


def cache() -> Path:
    """Return the folder for downloads, which lies in the user's cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vae-variants"


def search_folders() -> list[Path]:
    """Return the folders in which data are searched: the one that VARIANTS_DATA names, then the cache."""
    folder = os.environ.get("VARIANTS_DATA")
    return [*([Path(folder)] if folder else []), cache()]


def digits() -> Raw:
    """Read 1,797 handwritten digits, 8x8 with 17 grey levels, that come with scikit-learn (Alpaydin & Kaynak 1998)."""
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    grey = np.round(x.reshape(-1, 1, 8, 8) * (255 / 16)).astype(np.uint8)
    return Raw(
        name="digits", source=Source(place="digits"), x=grey, y=y.astype(np.int64), class_names=tuple(range(10)),
        likelihood="bernoulli", why=GREY, pixels=PixelFormat(dtype="uint8", high=255.0),
        notes=("these are scikit-learn's digits (Alpaydin & Kaynak 1998)",),
    )  # fmt: skip


def _rows(read: Callable[[], Raw]) -> Raw:
    """Turn images into sequences: each row of pixels is a time step, from top to bottom."""
    raw = read()
    x = raw.x[:, 0]
    lengths = np.full(len(x), x.shape[1], dtype=np.int64)
    name = raw.name + ROWS
    return replace(raw, name=name, source=Source(place=name), x=x, lengths=lengths, layout="images")


def frey_faces() -> Raw:
    """Read 1,965 frames of one face, 28x20, 8-bit, without labels (Roweis, Saul & Hinton 2002)."""
    path = next((p for q in search_folders() if (p := q / "FreyFaces" / "frey_faces.npz").exists()), None)
    if path is None:
        raise InputError(
            "--dataset frey-faces is not on this machine: put FreyFaces/frey_faces.npz, with x (1965, 28, 20) of 8-bit "
            f"values, into the folder that VARIANTS_DATA names; {OTHERWISE}"
        )
    try:
        with np.load(path, allow_pickle=False) as file:
            x = file["x"].reshape(-1, 1, 28, 20).astype(np.uint8)
    except Exception as error:
        raise InputError(f"--dataset frey-faces: {path} cannot be read ({error}); {OTHERWISE}") from error
    return Raw(
        name="frey-faces", source=Source(place="frey-faces"), x=x, y=None, likelihood="logistic8",
        why="the pixels are 8-bit values", pixels=PixelFormat(dtype="uint8", high=255.0),
        notes=("these are the Frey faces (Roweis, Saul & Hinton 2002)",),
    )  # fmt: skip


def _idx(name: str, folder: str) -> Raw:
    """Read one of torchvision's data sets of 28x28 images, with its own test split.

    The last 10,000 training examples are the validation split, as in Burda et al. 2016.
    """
    import torchvision.datasets

    cls = getattr(torchvision.datasets, folder)
    root = next((p for p in search_folders() if (p / folder / "raw").is_dir()), None)
    try:
        parts = [cls(root or cache(), train=train, download=root is None) for train in (True, False)]
    except Exception as error:
        raise InputError(
            f"--dataset {name} could not be downloaded ({error}): put its four IDX files into {folder}/raw in the "
            f"folder that VARIANTS_DATA names; {OTHERWISE}"
        ) from error
    x = torch.cat([p.data for p in parts])[:, None].numpy()
    y = torch.cat([p.targets for p in parts]).numpy()
    first = torch.arange(len(parts[0]))
    last = torch.arange(len(parts[0]), len(x))
    return Raw(
        name=name, source=Source(place=name), x=x, y=y.astype(np.int64), class_names=tuple(range(10)),
        likelihood="bernoulli", why=GREY, pixels=PixelFormat(dtype="uint8", high=255.0),
        splits=[first[:-10000], first[-10000:], last],
        notes=(f"these are the images of torchvision.datasets.{folder}, with their own test split",),
    )  # fmt: skip


def binarized_mnist() -> Raw:
    """Read MNIST as binarised by Larochelle & Murray 2011, without labels, in its own order and splits."""
    root = next((p for p in search_folders() if (p / "BinarizedMNIST").is_dir()), None)
    path = (root or cache()) / "BinarizedMNIST" / "binarized_mnist.npz"
    parts = ("train", "valid", "test")
    if not path.exists():
        _download_binarized(path)
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = [file[p].reshape(-1, 1, 28, 28).astype(np.bool_) for p in parts]
    except Exception as error:
        raise InputError(
            f"--dataset binarized-mnist: {path} cannot be read ({error}); delete it and try again"
        ) from error
    return Raw(
        name="binarized-mnist", source=Source(place="binarized-mnist"), x=np.concatenate(arrays), y=None,
        likelihood="bernoulli", why="the pixels are binary", pixels=PixelFormat(dtype="bool"),
        splits=consecutive(map(len, arrays)),
        notes=("this is MNIST as binarised by Larochelle & Murray 2011, in its own order and splits",),
    )  # fmt: skip


def _download_binarized(path: Path) -> None:
    """Download the three text files, check them against the published sha256, and save them as one .npz."""
    arrays = {}
    for part, digest in BINARIZED_SHA256.items():
        text = path.with_name(f"binarized_mnist_{part}.amat")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(BINARIZED.format(part), str(text), hash_prefix=digest)
        except (OSError, RuntimeError) as error:
            raise InputError(
                f"--dataset binarized-mnist could not be downloaded ({error}): put BinarizedMNIST/binarized_mnist.npz "
                f"into the folder that VARIANTS_DATA names; {OTHERWISE}"
            ) from error
        arrays[part] = np.fromfile(text, np.uint8).reshape(-1, 784, 2)[:, :, 0] - ord("0")
        text.unlink()
    partial_file = path.with_name("part.npz")
    np.savez_compressed(partial_file, train=arrays["train"], valid=arrays["valid"], test=arrays["test"])
    partial_file.replace(path)


CATALOGUE: dict[str, Callable[[], Raw]] = {
    "digits": digits,
    "mnist": partial(_idx, "mnist", "MNIST"),
    "fashion-mnist": partial(_idx, "fashion-mnist", "FashionMNIST"),
    "binarized-mnist": binarized_mnist,
    "frey-faces": frey_faces,
    "sprites": partial(_sprites.load, 32),
    "sprites-64": partial(_sprites.load, 64),
    "photos": partial(_photos.load, 32),
    "photos-64": partial(_photos.load, 64),
    "scenes": partial(_scenes.load, 32),
    "scenes-64": partial(_scenes.load, 64),
}
CATALOGUE |= {name + ROWS: partial(_rows, CATALOGUE[name]) for name in ("digits", "mnist")}


def as_sequences(name: str) -> str | None:
    """Return the name of the data set that holds the images of `name` row by row, or None if there is none."""
    return name + ROWS if name + ROWS in CATALOGUE else None
