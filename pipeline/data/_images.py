"""Reads a folder of images."""

from contextlib import nullcontext
from pathlib import Path

import numpy as np

from pipeline.data import _arrays
from pipeline.data._preprocessing import Preprocessing
from pipeline.data._raw import Raw
from pipeline.data._source import Source
from pipeline.progress import Display
from variants import InputError

IMAGES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".pgm", ".ppm"}
MANY = 2000  # reading at least this many images shows its progress


def read(folder: Path, source: Source, name: str, like: Preprocessing | None = None) -> Raw:
    """Read a folder of images, with one subfolder for each class, or without subfolders."""
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in IMAGES)
    if not files:
        raise InputError(f"{folder}: there is no image in it or its subfolders ({', '.join(sorted(IMAGES))})")
    classes = {p.relative_to(folder).parts[0] for p in files if p.parent != folder}
    if classes and any(p.parent == folder for p in files):
        raise InputError(f"{folder}: images in it and in its subfolders; expected a subfolder for each class")
    with Display().progress("reading images", len(files)) if len(files) >= MANY else nullcontext() as progress:
        images = []
        for path in files:
            images.append(_image(path))
            if progress:
                progress.advance()
    for path, image in zip(files, images, strict=True):
        if image.shape[:2] != images[0].shape[:2]:
            sizes = [f"{i.shape[1]}x{i.shape[0]}" for i in (images[0], image)]
            raise InputError(f"{folder}: {files[0].name} is {sizes[0]}, {path} is {sizes[1]}; resize all to one size")
    if any(i.ndim == 3 for i in images):
        images = [i if i.ndim == 3 else np.repeat(i[..., None], 3, axis=2) for i in images]
    y = np.array([p.relative_to(folder).parts[0] for p in files]) if len(classes) > 1 else None
    arrays = {"x": np.stack(images)} | ({} if y is None else {"y": y})
    return _arrays.from_arrays(arrays, source, name, like)


def _image(path: Path) -> np.ndarray:
    """Read an image as (H, W) grey or (H, W, 3) colour values, uint8."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("L" if image.mode in ("1", "L", "I;16", "I") else "RGB"))
    except (OSError, UnidentifiedImageError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"the image {path} cannot be read ({error})") from error
