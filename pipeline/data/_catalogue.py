"""The data sets that have a name. Each entry reads one, downloading it where it has to."""

import os
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

from pipeline.data import _sprites
from pipeline.data._raw import Raw
from variants import InputError

BINARIZED = "https://www.cs.toronto.edu/~larocheh/public/datasets/binarized_mnist/binarized_mnist_{}.amat"
BINARIZED_SHA256 = {  # of the text files, as TensorFlow Datasets publishes them
    "train": "ad693b29f94c14277b095f5238ddefbbdaaae0939789dd2f4f0205278cee3e4d",
    "valid": "1de3d397c40fe8eeb33dafd4099a1f665ec01e96d9be234aaeeac8a34930e2e2",
    "test": "e6687bfea3f820c174f33b7865140b2a2dd2930ef786f35d45795fc193b5ab2c",
}


def cache() -> Path:
    """Where downloads are kept: the user's cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vae-variants"


def places() -> list[Path]:
    """Where data are looked for: the folder named by VARIANTS_DATA, then the cache."""
    given = os.environ.get("VARIANTS_DATA")
    return [*([Path(given)] if given else []), cache()]


def digits(progress: bool) -> Raw:
    """1,797 handwritten digits, 8x8, 17 grey levels, from scikit-learn (Alpaydin & Kaynak 1998). Embedded."""
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    grey = np.round(x.reshape(-1, 1, 8, 8) * (255 / 16)).astype(np.uint8)
    return Raw(name="digits", source="scikit-learn's digits", x=grey, y=y.astype(np.int64), likelihood="bernoulli")


def rows(read: Callable[[bool], Raw]) -> Callable[[bool], Raw]:
    """The same images as sequences: a row of pixels a time step, from the top."""

    def turned(progress: bool) -> Raw:
        raw = read(progress)
        x = raw.x[:, 0]
        lengths = np.full(len(x), x.shape[1], dtype=np.int64)
        return replace(raw, name=f"{raw.name}-rows", x=x, lengths=lengths, layout="images")

    return turned


def frey_faces(progress: bool) -> Raw:
    """1,965 frames of one face, 28x20, 8-bit (Roweis, Saul & Hinton 2002). No labels."""
    path = next((p for q in places() if (p := q / "FreyFaces" / "frey_faces.npz").exists()), None)
    if path is None:
        raise InputError(
            "--dataset frey-faces cannot be had; put FreyFaces/frey_faces.npz, with x (1965, 28, 20) of 8-bit values, "
            "into the folder that VARIANTS_DATA names, or use the embedded digits"
        )
    try:
        with np.load(path, allow_pickle=False) as file:
            x = file["x"].reshape(-1, 1, 28, 20).astype(np.uint8)
    except Exception as error:
        raise InputError(f"--dataset frey-faces: {path} is unreadable ({error})") from error
    return Raw(name="frey-faces", source="Roweis, Saul & Hinton 2002", x=x, y=None, likelihood="logistic8")


def _idx(name: str, folder: str) -> Callable[[bool], Raw]:
    def read(progress: bool) -> Raw:
        import torchvision.datasets

        cls = getattr(torchvision.datasets, folder)
        root = next((p for p in places() if (p / folder / "raw").is_dir()), None)
        try:
            parts = [cls(root or cache(), train=train, download=root is None) for train in (True, False)]
        except Exception as error:
            raise InputError(
                f"--dataset {name} cannot be had ({error}); put the four IDX files into {folder}/raw in the folder "
                "that VARIANTS_DATA names, or use the embedded digits"
            ) from error
        x = torch.cat([p.data for p in parts])[:, None].numpy()
        y = torch.cat([p.targets for p in parts]).numpy()
        first = torch.arange(len(parts[0]))
        last = torch.arange(len(parts[0]), len(x))
        # the official test split; the last 10,000 training examples validate, as in Burda et al. 2016
        return Raw(
            name=name,
            source=f"torchvision {folder}",
            x=x,
            y=y.astype(np.int64),
            likelihood="bernoulli",
            splits=[first[:-10000], first[-10000:], last],
        )

    return read


def binarized_mnist(progress: bool) -> Raw:
    """The fixed binarisation of Larochelle & Murray 2011: no labels, and its own order and splits."""
    root = next((p for p in places() if (p / "BinarizedMNIST").is_dir()), None)
    path = (root or cache()) / "BinarizedMNIST" / "binarized_mnist.npz"
    parts = ("train", "valid", "test")
    if not path.exists():
        _download_binarized(path)
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = [file[p].reshape(-1, 1, 28, 28).astype(np.bool_) for p in parts]
    except Exception as error:
        raise InputError(
            f"--dataset binarized-mnist: {path} is unreadable ({error}); delete it and try again"
        ) from error
    ends = np.cumsum([0, *map(len, arrays)])
    splits = [torch.arange(a, b) for a, b in pairwise(ends)]
    return Raw(
        name="binarized-mnist",
        source="Larochelle & Murray 2011",
        x=np.concatenate(arrays),
        y=None,
        likelihood="bernoulli",
        splits=splits,
    )


def _download_binarized(path: Path) -> None:
    """Fetch the three text files, check them against the published sha256, and keep them as one .npz."""
    arrays = {}
    for part, digest in BINARIZED_SHA256.items():
        text = path.with_name(f"binarized_mnist_{part}.amat")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(BINARIZED.format(part), str(text), hash_prefix=digest)
        except (OSError, RuntimeError) as error:
            raise InputError(
                f"--dataset binarized-mnist cannot be had ({error}); put BinarizedMNIST/binarized_mnist.npz into the "
                "folder that VARIANTS_DATA names, or use the embedded digits"
            ) from error
        arrays[part] = np.fromfile(text, np.uint8).reshape(-1, 784, 2)[:, :, 0] - ord("0")
        text.unlink()
    whole = path.with_name("part.npz")
    np.savez_compressed(whole, train=arrays["train"], valid=arrays["valid"], test=arrays["test"])
    whole.replace(path)


CATALOGUE: dict[str, Callable[[bool], Raw]] = {
    "digits": digits,
    "digits-rows": rows(digits),
    "mnist": _idx("mnist", "MNIST"),
    "mnist-rows": rows(_idx("mnist", "MNIST")),
    "fashion-mnist": _idx("fashion-mnist", "FashionMNIST"),
    "binarized-mnist": binarized_mnist,
    "frey-faces": frey_faces,
    "sprites": lambda progress: _sprites.load(32),
    "sprites-64": lambda progress: _sprites.load(64),
}
