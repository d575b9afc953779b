"""Reads folders of images."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.data._pixels import from_pixels, resized
from pipeline.data._preprocessing import Preprocessing
from pipeline.data._raw import Raw
from pipeline.data._source import OF_SEQUENCES, OF_TABLES, Source, refuse_options
from pipeline.data._special_columns import SPLIT_NUMBERS
from pipeline.data._splits import listed
from pipeline.machine import cores
from pipeline.progress import Display
from variants import InputError

IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".pgm", ".ppm")
HIDDEN = ("__MACOSX", "Thumbs.db", "desktop.ini", "mlruns", "reports")  # left out, as is what begins with a dot
MANY = 2000  # reading at least this many images shows its progress
REMARKS = {  # notes about images, to which their number is added
    "transparent": "images with transparent pixels are put on {alpha} (--alpha white, black or keep)",
    "frames": "only the first frame or page of images with several is read",
    "16 bits": "only the upper 8 bits of colour images with 16 bits in each channel are read",
    "converted": "images in other colour spaces are converted to RGB",
}
Array = NDArray[Any]
Opener = Callable[[], Any]  # opens an image of Pillow


@dataclass(frozen=True, kw_only=True)
class Listing:
    """The images in a folder and its subfolders, before any is read."""

    openers: Mapping[str, Opener]  # by the path of each image
    classes: list[Any] | None  # of each image
    splits: list[torch.Tensor] | None  # indices of the three splits, if the folder has them
    rows: Any  # a pandas Index with the path of each image below the folder
    notes: tuple[str, ...]


def read(path: Path, source: Source, name: str, like: Preprocessing | None = None) -> Raw:
    """Read a folder of images, or with `like` also a single image.

    A folder has a subfolder for each class, or none; or it has the subfolders train, val and test, which have the
    classes below them.

    Raises:
        InputError: If there is no image, an image cannot be read, or the classes, sizes or types are ambiguous.
    """
    found = listing(path, source, like)
    raw = from_images(found.openers, source, name, like, found.classes)
    return replace(raw, splits=None if like else found.splits, rows=found.rows).with_notes(found.notes)


def listing(path: Path, source: Source, like: Preprocessing | None) -> Listing:
    """Find the images of a folder, their classes and their splits. Raises `InputError` as `read` does."""
    import pandas

    refuse_options(source, (*OF_TABLES, *OF_SEQUENCES), "folders of images", like)
    notes: list[str] = []
    if path.is_dir():
        files = _image_files(path, notes)
    elif like is None:
        raise InputError(f"{path} is a single image; expected a folder of images")
    else:
        path, files = path.parent, [path]
    names = [file.relative_to(path).parts for file in files]
    classes, splits = _classes(names, source, notes, like)
    return Listing(
        openers={str(file): partial(_open, file) for file in files}, classes=classes, splits=splits,
        rows=pandas.Index(["/".join(parts) for parts in names], name="file"), notes=tuple(notes),
    )  # fmt: skip


def from_images(
    openers: Mapping[str, Opener], source: Source, name: str, like: Preprocessing | None, classes: Sequence[Any] | None
) -> Raw:
    """Make a `Raw` of images. `openers` maps the name of each image to a function that opens it.

    Images of different sizes are refused unless there is `--size`. Grey images among colour images are converted.
    """
    options = source if like is None else like.source
    remarks: Counter[str] = Counter()
    images = []
    progress_shown = Display().progress("reading images", len(openers)) if len(openers) >= MANY else nullcontext()
    with progress_shown as progress, ThreadPoolExecutor(cores()) as threads:  # Pillow decodes without Python's lock
        for image, found in threads.map(lambda item: pixels(item[0], item[1], options.alpha), openers.items()):
            images.append(image)
            remarks.update(found)
            if progress:
                progress.advance()
    notes = [
        f"{REMARKS[what].format(alpha=options.alpha or 'white')}: {n} of {len(openers)} images"
        for what, n in remarks.items()
    ]
    images = _same_channels(images, list(openers), source, notes, like)
    sizes = Counter(f"{image.shape[1]}x{image.shape[2]}" for image in images)
    facts = listed([f"{size} ({n} images)" for size, n in sizes.most_common()])
    if options.size is not None:
        if set(sizes) != {f"{options.size[0]}x{options.size[1]}"}:
            notes.append(
                f"the images are resized to cover {options.size[0]}x{options.size[1]}, and what extends beyond it is "
                f"cut off; their sizes are {facts}"
            )
        x = resized(images, options.size, source)
    elif len(sizes) > 1:
        raise InputError(
            f"{source}: the images have {len(sizes)} sizes (height x width): {facts}; expected one size, or "
            f"an option such as --size {sizes.most_common(1)[0][0]}, with which all images are resized and cropped"
        )
    else:
        x = np.stack(images)
    raw = from_pixels(x, source, name, like, axis="none" if x.shape[1] == 1 else "last")
    labels = None if classes is None else np.array(classes)
    return raw.with_notes(notes).with_labels(labels, like.class_names if like else None)


def _image_files(folder: Path, notes: list[str]) -> list[Path]:
    """Return the images in a folder and its subfolders, and add notes about other files."""
    files, hidden, others = list[Path](), list[Path](), list[Path]()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        parts = path.relative_to(folder).parts
        if any(part.startswith(".") or part in HIDDEN for part in parts):
            hidden.append(path)
        else:
            (files if path.suffix.lower() in IMAGES else others).append(path)
    if not files:
        raise InputError(f"{folder}: there is no image in it or its subfolders; expected {', '.join(IMAGES)}")
    if hidden:
        names = sorted({next(p for p in h.relative_to(folder).parts if p[0] == "." or p in HIDDEN) for h in hidden})
        what = "hidden files, and what this program writes,"
        notes.append(f"{what} are left out: {listed(names)} (files in all: {len(hidden)})")
    if others:
        endings = sorted({p.suffix.lower() or p.name for p in others})
        notes.append(f"files that are not images are left out: {listed(endings)} (files in all: {len(others)})")
    return files


def _classes(
    names: list[tuple[str, ...]], source: Source, notes: list[str], like: Preprocessing | None
) -> tuple[list[Any] | None, list[torch.Tensor] | None]:
    """Return the class of each image, and the indices of each split, by the folders in which the images lie."""
    folders = {parts[0] for parts in names if len(parts) > 1}
    at_top = any(len(parts) == 1 for parts in names)
    part_of = {folder: SPLIT_NUMBERS[folder.lower()] for folder in folders if folder.lower() in SPLIT_NUMBERS}
    splits = None
    is_split = bool(folders) and not at_top and set(part_of) == folders and 0 in part_of.values()
    if like is None and not is_split and len(set(part_of.values())) > 1:
        beside = " and images beside them" if at_top else ""
        raise InputError(
            f"{source} has the folders {listed(sorted(folders))}{beside}; expected either train, val and test, with a "
            "folder for each class in each, or a folder for each class"
        )
    if is_split:
        if len(set(part_of.values())) < len(part_of):
            raise InputError(f"{source} has the folders {', '.join(sorted(folders))}; expected one for each split")
        number = np.array([part_of[parts[0]] for parts in names])
        if len(folders) > 1:
            splits = [torch.from_numpy(np.flatnonzero(number == k)) for k in range(3)]
        names = [parts[1:] for parts in names]
        if like is None:
            _check_same_classes(names, number, {k: folder for folder, k in part_of.items()}, source)
    classes = [parts[0] if len(parts) > 1 else None for parts in names]
    known = {c for c in classes if c is not None}
    if like is not None:
        return (classes if known & set(map(str, like.class_names)) else None), splits
    if known and None in classes:
        raise InputError(f"{source}: there are images in it and in its subfolders; expected a subfolder for each class")
    if len(known) == 1 and any(len(parts) > 2 for parts in names):
        notes.append(
            f"all images are in one folder, {classes[0]}, so there are no classes; if its subfolders are classes, "
            f"give the path {Path(source.place) / str(classes[0])} instead"
        )
    elif any(len(parts) > 2 for parts in names):
        notes.append("images in deeper folders belong to the class that their folder at the first level names")
    return (classes if len(known) > 1 else None), splits


def _check_same_classes(names: list[tuple[str, ...]], number: Array, folders: dict[int, str], source: Source) -> None:
    """Raise `InputError` if two splits have different classes."""
    classes = {
        folder: sorted({parts[0] for parts, k in zip(names, number, strict=True) if k == part and len(parts) > 1})
        for part, folder in folders.items()
    }
    if len({tuple(c) for c in classes.values()}) > 1:
        facts = "; ".join(f"{folder} has {listed(c) or 'no classes'}" for folder, c in classes.items())
        raise InputError(f"{source}: {facts}; expected the same classes in each")


def _open(path: Path) -> Any:
    from PIL import Image

    return Image.open(path)


def pixels(title: str, opener: Opener, alpha: str | None) -> tuple[Array, list[str]]:
    """Read an image as (C, H, W): uint8 with 1 to 4 channels, or one channel of uint16, int32 or float32.

    Returns it with the keys of `REMARKS` that apply to it.
    """
    from PIL import Image, ImageOps

    remarks: list[str] = []
    try:
        with opener() as opened:
            if getattr(opened, "n_frames", 1) > 1:
                remarks.append("frames")
            if opened.mode.startswith("RGB") and any(";16" in str(tile[-1]) for tile in opened.tile):
                remarks.append("16 bits")
            image = ImageOps.exif_transpose(opened)
            if image.mode[0] in "IF":
                deep = np.asarray(image)
                return deep.astype(deep.dtype.newbyteorder("="))[None], remarks
            if image.mode in ("CMYK", "YCbCr", "LAB", "HSV"):
                remarks.append("converted")
            grey = image.mode in ("1", "L", "LA", "La")
            if image.has_transparency_data:
                image = image.convert("RGBA")
                if alpha != "keep":
                    if np.asarray(image)[..., 3].min() < 255:
                        remarks.append("transparent")
                    image = Image.alpha_composite(Image.new("RGBA", image.size, alpha or "white"), image)
            keep = image.mode == "RGBA" and alpha == "keep"
            values = np.asarray(image.convert(("LA" if grey else "RGBA") if keep else "L" if grey else "RGB"))
            return (values[None] if values.ndim == 2 else np.moveaxis(values, -1, 0)), remarks
    except Exception as error:  # Pillow raises many types
        raise InputError(f"the image {title} cannot be read ({error}); replace or remove it") from error


def _same_channels(
    images: list[Array], titles: list[str], source: Source, notes: list[str], like: Preprocessing | None
) -> list[Array]:
    """Return images of one type with the same channels: grey becomes colour, and alpha is added where it is missing."""
    types = {str(image.dtype): title for image, title in zip(images, titles, strict=True)}
    if len(types) > 1:
        facts = ", ".join(f"{kind} such as {title}" for kind, title in types.items())
        raise InputError(f"{source}: the pixels have several types: {facts}; expected images of one type")
    channels = Counter(len(image) for image in images)
    has_alpha, is_colour = bool(channels[2] or channels[4]), bool(channels[3] or channels[4])
    target = (3 if is_colour else 1) + has_alpha
    if like is not None:
        expected = like.spec.shape[0]
        fits = {1: (1,), 2: (1, 2), 3: (1, 3), 4: (1, 2, 3, 4)}.get(expected, ())
        if strange := [t for image, t in zip(images, titles, strict=True) if len(image) not in fits]:
            raise InputError(
                f"{source}: the image {strange[0]} has {len(images[titles.index(strange[0])])} channels; the model was "
                f"trained on images with {expected}"
            )
        target = expected
    if (grey := channels[1] + channels[2]) and target > 2:
        notes.append(f"grey images are read as colour images, like the others: {grey} of {len(images)} images")
    return [_with_channels(image, target) for image in images]


def _with_channels(image: Array, target: int) -> Array:
    if len(image) == target:
        return image
    colour, alpha = image, np.full_like(image[:1], 255)
    if len(image) in (2, 4):
        colour, alpha = image[:-1], image[-1:]
    if target > 2 and len(colour) == 1:
        colour = np.repeat(colour, 3, axis=0)
    return np.concatenate([colour, alpha]) if target in (2, 4) else colour
