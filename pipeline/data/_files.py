"""Reads a user's own data: arrays, tables, sequences, or a folder of images. No file is executed or unpickled."""

import zipfile
import zlib
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np

from pipeline.data._raw import Factors, Raw, from_values
from pipeline.data._sequences import long, music, padded, ucr
from pipeline.progress import Display
from variants import InputError

IMAGES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".pgm", ".ppm"}
KEYS = ("x", "y", "lengths", "factors", "factor_names", "unordered")
MANY = 2000  # reading at least this many images shows its progress


def read(path: Path) -> Raw:
    """Read a file or folder. Raises `InputError` if its kind is unknown, or if it cannot be read."""
    if path.is_dir():
        return _images(path)
    readers = {".npz": _npz, ".csv": _table, ".parquet": _table, ".ts": ucr, ".tsv": ucr, ".mat": music}
    if path.suffix not in readers:
        kinds = ", ".join(readers)
        raise InputError(f"--dataset {path}: expected {kinds} or a folder of images, not {path.suffix or 'this'}")
    return readers[path.suffix](path)


def _npz(path: Path) -> Raw:
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files if name in KEYS}
            names = ", ".join(file.files) or "nothing"
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"--dataset {path} cannot be read ({type(error).__name__}: {error})") from error
    if "x" not in arrays:
        raise InputError(f"--dataset {path} holds {names}; expected an array x (N, ...), and optionally y (N,)")
    if "lengths" in arrays:
        raw = padded(f"--dataset {path}", path.stem, arrays["x"], arrays.get("y"), arrays["lengths"])
    else:
        raw = from_values(f"--dataset {path}", path.stem, arrays["x"], arrays.get("y"))
    if "factors" not in arrays:
        return raw
    columns = arrays["factors"].shape[1] if arrays["factors"].ndim == 2 else 0
    factor_names = arrays.get("factor_names", [f"factor {i}" for i in range(columns)])
    unordered = tuple(map(str, arrays.get("unordered", ())))
    return replace(raw, factors=Factors(tuple(map(str, factor_names)), arrays["factors"], unordered))


def _table(path: Path) -> Raw:
    """Read a table with one row for each example, or, with the columns series and time, one row for each step.

    A column called label holds the class.
    """
    import pandas

    try:
        table = pandas.read_csv(path) if path.suffix == ".csv" else pandas.read_parquet(path)
    except Exception as error:  # pandas and pyarrow raise many types
        raise InputError(f"--dataset {path} cannot be read ({type(error).__name__}: {error})") from error
    values = table.drop(columns=["series", "time", "label"], errors="ignore")
    text = [str(c) for c in values if values[c].dtype.kind not in "biuf"]
    if text or not len(values.columns):
        what = f"columns {', '.join(text[:5])} hold no numbers" if text else "there are no columns of values"
        raise InputError(f"--dataset {path}: {what}; expected numbers, and optionally label, or series and time")
    if "label" in table and table["label"].isna().any():
        raise InputError(f"--dataset {path}: {table['label'].isna().sum()} rows have no label; fill them or drop them")
    if {"series", "time"} <= set(table.columns):
        return long(f"--dataset {path}", path.stem, table)
    y = table["label"].to_numpy() if "label" in table else None
    return from_values(f"--dataset {path}", path.stem, values.to_numpy(), y)


def _images(folder: Path) -> Raw:
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in IMAGES)
    if not files:
        raise InputError(f"--dataset {folder}: no image in it or its subfolders ({', '.join(sorted(IMAGES))})")
    classes = {p.relative_to(folder).parts[0] for p in files if p.parent != folder}
    if classes and any(p.parent == folder for p in files):
        raise InputError(f"--dataset {folder}: images in it and in its subfolders; expected a subfolder for each class")
    with Display().progress("reading images", len(files)) if len(files) >= MANY else nullcontext() as progress:
        images = []
        for path in files:
            images.append(_image(path))
            if progress:
                progress.advance()
    for path, image in zip(files, images, strict=True):
        if image.shape[:2] != images[0].shape[:2]:
            sizes = [f"{i.shape[1]}x{i.shape[0]}" for i in (images[0], image)]
            raise InputError(
                f"--dataset {folder}: {files[0].name} is {sizes[0]}, {path} is {sizes[1]}; resize all to one size"
            )
    if any(i.ndim == 3 for i in images):
        images = [i if i.ndim == 3 else np.repeat(i[..., None], 3, axis=2) for i in images]
    y = np.array([p.relative_to(folder).parts[0] for p in files]) if len(classes) > 1 else None
    x = np.stack(images)
    return from_values(f"--dataset {folder}", folder.resolve().name, x.transpose(0, 3, 1, 2) if x.ndim == 4 else x, y)


def _image(path: Path) -> np.ndarray:
    """Read an image as (H, W) grey or (H, W, 3) colour values, uint8."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("L" if image.mode in ("1", "L", "I;16", "I") else "RGB"))
    except (OSError, UnidentifiedImageError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"--dataset: the image {path} cannot be read ({error})") from error
