"""Preprocessing: turns rows as people have them into the tensors that a variant gets, and back.

It is fitted on the training split, used in training, and saved beside the weights, so that a loaded model treats new
rows exactly as the training data were treated.
"""

import dataclasses
import json
import zlib
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.data._raw import Column, Layout, PixelFormat, Raw
from pipeline.data._source import Source
from variants import Batch, DataSpec, InputError

FILES = ("preprocessing.json", "preprocessing.safetensors")
FAR = 100  # new values may lie this many times the half range of the training values away from its middle
Array = NDArray[Any]
_zero = partial(torch.tensor, 0.0, dtype=torch.float64)
_one = partial(torch.tensor, 1.0, dtype=torch.float64)


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """What was done to the training data, and is done to all later data.

    `shift`, `scale`, `low` and `high` are float64, one for each column of a table or channel of sequences, and one for
    all pixels of images. Continuous values enter a model as (x - shift) / scale. `low` and `high` are the smallest and
    the largest training value. The other fields are those of `Raw`.
    """

    spec: DataSpec
    layout: Layout
    source: Source
    class_names: tuple[Any, ...] = ()
    columns: tuple[Column, ...] = ()
    width: int = 0
    pixels: PixelFormat | None = None
    step: str = ""
    digest: str = ""  # of the data that it was fitted on
    shift: Tensor = field(default_factory=_zero)
    scale: Tensor = field(default_factory=_one)
    low: Tensor = field(default_factory=_zero)
    high: Tensor = field(default_factory=_one)

    @classmethod
    def fit(cls, raw: Raw, train: Tensor) -> "Preprocessing":
        """Return the preprocessing of what was read, fitted on the examples with the indices `train`."""
        shape, steps = (raw.x.shape[1:], 0) if raw.lengths is None else (raw.x.shape[2:], raw.x.shape[1])
        spec = DataSpec(
            name=raw.name, shape=tuple(shape), likelihood=raw.likelihood, classes=len(raw.class_names), steps=steps
        )
        layout: Layout = "images" if len(shape) == 3 else "table"
        if raw.lengths is not None:
            layout = "lines" if raw.likelihood == "gaussian" else "roll"
        limits: dict[str, Any] = {}
        if raw.likelihood == "gaussian":
            x = raw.x[train.numpy()]
            if raw.lengths is not None:
                x = x[raw.mask[train.numpy()]]
            # one mean and scale for each column of a table, for each channel of sequences, and for all pixels of images
            axes = (0,) if x.ndim == 2 else tuple(range(x.ndim))
            x = x.astype(np.float64, copy=False)
            with np.errstate(over="ignore"):
                scale = x.std(axes, ddof=1)
            values = (x.mean(axes), np.where(scale > 0, scale, 1.0), x.min(axes), x.max(axes))
            limits = {n: torch.as_tensor(v) for n, v in zip(("shift", "scale", "low", "high"), values, strict=True)}
        return cls(
            spec=spec, layout=raw.layout or layout, source=raw.source, class_names=raw.class_names,
            columns=raw.columns, width=raw.width, pixels=raw.pixels, step=raw.step, **limits,
        )  # fmt: skip

    def encode(self, raw: Raw, *, is_new: bool = True) -> Batch:
        """Return what was read in the form in which `Data` stores it (see `pipeline.data`).

        Raises:
            InputError: If the examples have another shape, or values are missing, or, in data that `is_new` to the
                model, values are in other units than in the training data.
        """
        x, steps = raw.x, raw.lengths is not None
        shape = x.shape[2:] if steps else x.shape[1:]
        if tuple(shape) != self.spec.shape or steps != bool(self.spec.steps):
            raise InputError(
                f"{raw.source}: examples have the shape {'x'.join(map(str, shape))}; the model was trained on "
                f"{'sequences with steps of ' if self.spec.steps else ''}{'x'.join(map(str, self.spec.shape))}"
            )
        raw.check_finite()
        mask = torch.from_numpy(raw.mask) if steps else None
        if self.spec.likelihood == "gaussian":
            if is_new:
                self._check_range(raw)
            with np.errstate(over="ignore"):
                x = ((x.astype(np.float64, copy=False) - self.shift.numpy()) / self.scale.numpy()).astype(np.float32)
            if not (np.isfinite(x).all() and self.scale.isfinite().all()):
                largest = np.abs(raw.x).max()
                raise InputError(f"{raw.source}: there are values as large as {largest:g}; expected smaller ones")
        values = torch.from_numpy(np.ascontiguousarray(x))
        if mask is not None and self.spec.likelihood == "gaussian":
            values = values * mask[..., None]
        return Batch(values, None if raw.y is None else torch.from_numpy(raw.y), mask)

    def _check_range(self, raw: Raw) -> None:
        """Raise `InputError` if most values of a column are in other units than those of the training data."""
        low, high = self.low.numpy(), self.high.numpy()
        distance = np.abs(raw.x - (low + high) / 2) / np.maximum((high - low) / 2, 1e-12)
        if raw.lengths is not None:
            distance = distance[raw.mask]
        # an image may be dark almost everywhere, so the largest distance counts, not the median
        typical = np.atleast_1d(distance.max() if low.ndim == 0 else np.median(distance, axis=0))
        if (typical > FAR).any():
            worst = int(typical.argmax())
            name = self.columns[worst].name if self.columns else "the pixels"
            values = raw.x if low.ndim == 0 else raw.x[..., worst]
            old_low, old_high = np.atleast_1d(low)[worst], np.atleast_1d(high)[worst]
            raise InputError(
                f"{raw.source}: the values of {name} are from {values.min():g} to {values.max():g}, those of the "
                f"training data from {old_low:g} to {old_high:g}; expected the same units"
            )

    def decode(self, x: Tensor) -> Array:
        """Turn values in the units of `Batch.x`, (N, *shape) or (N, T, D), into values in the units of the source.

        Binary columns become the probability of their second value, and binary pixels are between their two values.
        """
        values = x.detach().cpu().double().numpy()
        if self.spec.likelihood == "gaussian":
            values = values * self.scale.numpy() + self.shift.numpy()
        if self.pixels is None:
            return np.asarray(values)
        if self.spec.likelihood != "gaussian":
            values = values * (self.pixels.high - self.pixels.low) + self.pixels.low
        if self.pixels.channel_axis == "last":
            values = np.moveaxis(values, 1, -1)
        elif self.pixels.channel_axis == "none" and self.layout == "images" and values.ndim == 4:
            values = values[:, 0]
        dtype = np.dtype(self.pixels.dtype)
        if dtype.kind in "iu":
            limits = np.iinfo(dtype)
            return values.round().clip(limits.min, limits.max).astype(dtype)
        return np.asarray(values)

    def binarized(self, batch: Batch) -> Batch:
        """Return a batch in float32 that a variant can score. Grey values of a Bernoulli model are binarised.

        The draw depends on the values of the example alone, so that an example always gets the same pixels.
        """
        x = batch.x
        if x.dtype == torch.uint8 and self.spec.likelihood == "bernoulli":
            grey = x.numpy()
            draws = [np.random.default_rng(zlib.crc32(row.tobytes())).random(row.shape) < row / 255 for row in grey]
            return dataclasses.replace(batch, x=torch.from_numpy(np.stack(draws)).float())
        return dataclasses.replace(batch, x=x.float() / 255 if x.dtype == torch.uint8 else x.float())

    def save(self, folder: Path) -> None:
        """Write `preprocessing.json` and `preprocessing.safetensors` into a folder."""
        from safetensors.torch import save as to_bytes

        tensors = {name: getattr(self, name) for name in ("shift", "scale", "low", "high")}
        (folder / FILES[1]).write_bytes(to_bytes({k: v.contiguous() for k, v in tensors.items()}))
        facts: dict[str, Any] = {"version": 1}
        for f in dataclasses.fields(self):
            value = getattr(self, f.name)
            if f.name == "source":
                facts["source"] = json.loads(value.json())
            elif f.name not in tensors:
                facts[f.name] = value
        text = json.dumps(facts, indent=2, ensure_ascii=False, default=_plain)
        (folder / FILES[0]).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> "Preprocessing | None":
        """Read what `save` wrote; None if the folder has no such files, because an older version saved it.

        Raises:
            InputError: If a file cannot be read.
        """
        from safetensors.torch import load_file

        if not (folder / FILES[0]).exists():
            return None
        try:
            facts = json.loads((folder / FILES[0]).read_text(encoding="utf-8"))
            facts.pop("version")
            facts["source"] = Source.parse(json.dumps(facts["source"]))
            facts["spec"] = DataSpec(**{**facts["spec"], "shape": tuple(facts["spec"]["shape"])})
            facts["class_names"] = tuple(facts["class_names"])
            facts["columns"] = tuple(
                Column(**{**column, "values": tuple(column["values"])}) for column in facts["columns"]
            )
            facts["pixels"] = PixelFormat(**facts["pixels"]) if facts["pixels"] else None
            facts |= load_file(folder / FILES[1])
            return cls(**facts)
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise InputError(f"{folder}: the preprocessing cannot be read ({type(error).__name__}: {error})") from error


def _plain(value: Any) -> Any:
    """Convert a dataclass or a numpy scalar to what JSON can hold."""
    return dataclasses.asdict(value) if dataclasses.is_dataclass(value) else value.item()  # type: ignore[arg-type]
