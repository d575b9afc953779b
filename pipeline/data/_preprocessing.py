"""Preprocessing: turns rows as people have them into the tensors that a variant gets, and back.

It is fitted on the training split, used in training, and saved beside the weights, so that a loaded model treats new
rows exactly as the training data were treated.
"""

import dataclasses
import json
import warnings
import zlib
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.data import _groups
from pipeline.data._raw import Column, Layout, PixelFormat, Raw
from pipeline.data._source import Source
from variants import Batch, DataSpec, InputError
from variants.base.contract import DENSITIES, KIND_OF

FILES = ("preprocessing.json", "preprocessing.safetensors")
FAR = 100  # new values may lie this many times the half range of the training values away from its middle
Array = NDArray[Any]
_zero = partial(torch.tensor, 0.0, dtype=torch.float64)
_one = partial(torch.tensor, 1.0, dtype=torch.float64)


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """What was done to the training data, and is done to all later data.

    `shift`, `scale`, `low` and `high` are float64, one for each column of a table or channel of sequences, and one for
    all pixels of images. Values enter a model as (x - shift) / scale: real values are standardised, positive ones are
    divided by their geometric mean, and others stay as they are. `low` and `high` are the smallest and the largest
    training value. `order` has the columns of a mixed table in the order in which they enter a model, where categories
    are one-hot vectors. `elapsed_unit` is the time, in seconds or plain numbers, by which `Batch.elapsed` counts: the
    median time between two steps. The other fields are those of `Raw`.
    """

    spec: DataSpec
    layout: Layout
    source: Source
    class_names: tuple[Any, ...] = ()
    columns: tuple[Column, ...] = ()
    width: int = 0
    pixels: PixelFormat | None = None
    step: str = ""
    time_unit: Literal["", "s"] | None = None
    elapsed_unit: float = 0.0
    order: tuple[int, ...] = ()
    digest: str = ""  # of the data that it was fitted on
    shift: Tensor = field(default_factory=_zero)
    scale: Tensor = field(default_factory=_one)
    low: Tensor = field(default_factory=_zero)
    high: Tensor = field(default_factory=_one)

    @classmethod
    def fit(cls, raw: Raw, train: Tensor) -> "Preprocessing":
        """Return the preprocessing of what was read, fitted on the examples with the indices `train`."""
        index = train.numpy()
        shape, steps = (raw.x.shape[1:], 0) if raw.lengths is None else (raw.x.shape[2:], raw.x.shape[1])
        layout: Layout = "images" if len(shape) == 3 else "table"
        if raw.lengths is not None:
            layout = "roll" if raw.likelihood in ("bernoulli", "categorical") else "lines"
        shift, scale, low, high, spread = _statistics(raw, index)
        order, exposure = _groups.order_of(raw), _groups.complete_exposure(raw, index)
        groups = _groups.groups(raw, index, spread)
        known, elapsed_unit, elapsed = raw.known, 0.0, 0.0
        if raw.elapsed is not None:
            passed = np.diff(raw.elapsed[index])[raw.mask[index, 1:]]
            elapsed_unit = float(np.median(passed)) if len(passed) else 1.0
            elapsed = max(float(raw.elapsed[index].max()) / elapsed_unit, 1.0)
        spec = DataSpec(
            name=raw.name, shape=(*shape[:-1], sum(g.size for g in groups)) if order else tuple(shape),
            likelihood=raw.likelihood, classes=len(raw.class_names), steps=steps, groups=groups,
            missing=known is not None and not known[index].all(), exposure=raw.exposure_kind,
            exposures=() if exposure is None else _groups.quantiles(exposure),
            class_shares=_groups.class_shares(None if raw.y is None else raw.y[index], len(raw.class_names)),
            elapsed=elapsed,
        )  # fmt: skip
        return cls(
            spec=spec, layout=raw.layout or layout, source=raw.source, class_names=raw.class_names,
            columns=raw.columns, width=raw.width, pixels=raw.pixels, step=raw.step, time_unit=raw.time_unit,
            elapsed_unit=elapsed_unit, order=order, shift=torch.as_tensor(shift), scale=torch.as_tensor(scale),
            low=torch.as_tensor(low), high=torch.as_tensor(high),
        )  # fmt: skip

    def encode(self, raw: Raw, *, is_new: bool = True, allow_missing: bool = False) -> Batch:
        """Return what was read in the form in which `Data` stores it (see `pipeline.data`).

        Args:
            raw: What was read.
            is_new: Whether the data are new to the model. Values in other units than in training are then refused.
            allow_missing: Whether new data may have missing values even if the training data had none.

        Raises:
            InputError: If the examples have another shape or other units, or values are infinite or missing.
        """
        self._check_shape(raw)
        raw.check_values()
        known = raw.known
        if known is not None and is_new and not (self.spec.missing or allow_missing):
            self._refuse_missing(raw, known)
        if self.spec.likelihood == "mixture8" and known is not None and (known.any(1) != known.all(1)).any():
            raise InputError(
                f"{raw.source}: some pixels are missing in a part of the channels, and mixture8 is for whole pixels; "
                "expected pixels that are missing in all channels, or --likelihood logistic8"
            )
        x: Any = raw.x if known is None else np.where(known, raw.x, np.zeros((), raw.x.dtype))
        if self.spec.has_density:
            if is_new:
                self._check_range(raw)
            with np.errstate(over="ignore", invalid="ignore"):
                x = (x.astype(np.float64, copy=False) - self.shift.numpy()) / self.scale.numpy()
                x = (x if known is None else np.where(known, x, 0.0)).astype(np.float32)
            if not (np.isfinite(x).all() and self.scale.isfinite().all()):
                largest = np.nanmax(np.abs(raw.x))
                raise InputError(f"{raw.source}: there are values as large as {largest:g}; expected smaller ones")
        elif self.spec.likelihood == "bernoulli" and x.dtype.kind == "f":
            x = x.astype(np.bool_)
        elif KIND_OF.get(self.spec.likelihood) not in ("binary", "category", "pixel"):
            x = x.astype(np.float32)
        if self.order:
            x, known = self._expanded(x, known)
        values = torch.from_numpy(np.ascontiguousarray(x))
        mask = torch.from_numpy(raw.mask) if self.spec.steps else None
        if mask is not None and values.dtype == torch.float32:
            values = values * mask[..., None]
        exposure, elapsed = raw.exposure, None
        if self.elapsed_unit:
            if raw.elapsed is None:
                raise InputError(
                    f"{raw.source}: the model was trained with --time-as-input, so it needs the time of each step; "
                    "expected a column of times for a table, or an array times (N, T) beside x"
                )
            elapsed = torch.from_numpy((raw.elapsed / self.elapsed_unit).astype(np.float32))
        return Batch(
            values, None if raw.y is None else torch.from_numpy(raw.y), mask,
            observed=None if known is None else torch.from_numpy(np.ascontiguousarray(known)),
            exposure=None if exposure is None else torch.from_numpy(exposure.astype(np.float32)),
            elapsed=elapsed,
        )  # fmt: skip

    def _expanded(self, x: Array, known: Array | None) -> tuple[Array, Array | None]:
        """Return columns (N, D) in the order in which they enter a model, categories as one-hot vectors."""
        observed = None if known is None else np.repeat(known[..., self.order], self._sizes, axis=-1)
        parts = [
            x[..., [i]] == np.arange(n) if self._is_category(i) else x[..., [i]]
            for i, n in zip(self.order, self._sizes, strict=True)
        ]
        values = np.concatenate(parts, axis=-1).astype(np.float32)
        return (values if observed is None else np.where(observed, values, np.float32(0))), observed

    @property
    def _sizes(self) -> list[int]:
        """How many values each column of a mixed table has in a model, in the order in which they enter it."""
        return [len(self.columns[i].values) if self._is_category(i) else 1 for i in self.order]

    def _is_category(self, column: int) -> bool:
        return self.columns[column].likelihood == "categorical"

    def _check_shape(self, raw: Raw) -> None:
        """Raise `InputError` if examples are of another shape than those of the training data."""
        steps = raw.lengths is not None
        shape = raw.x.shape[2:] if steps else raw.x.shape[1:]
        expected = (len(self.columns),) if self.order else self.spec.shape
        if tuple(shape) != expected or steps != bool(self.spec.steps):
            raise InputError(
                f"{raw.source}: examples have the shape {'x'.join(map(str, shape))}; the model was trained on "
                f"{'sequences with steps of ' if self.spec.steps else ''}{'x'.join(map(str, expected))}"
            )

    def _refuse_missing(self, raw: Raw, known: Array) -> None:
        """Raise `InputError` about missing values of a model whose training data had none."""
        raise InputError(
            f"{raw.source}: {raw.with_bad_values(~known, 'missing values')}; the model was trained on data without "
            "any, so fill them in with impute first, or train a model on data with missing values"
        )

    def log_jacobian(self, batch: Batch) -> Tensor:
        """Return what turns log p(x) in the units of the model into log p(x) in the units of the source, (B,), in nats.

        It is added to log p(x). Models of the same data with different likelihoods can be compared only in the units of
        the source.
        """
        return self.log_jacobian_each(batch).flatten(1).sum(1)

    def log_jacobian_each(self, batch: Batch) -> Tensor:
        """Return the part of `log_jacobian` of each value, in the shape of x; 0 for missing values and padding.

        It is minus the logarithm of the scale of a value whose likelihood is a density, and 0 for a probability.
        """
        log_scale = self.scale.log().to(batch.x.device, torch.float64)
        if self.order:
            sizes = [group.size for group in self.spec.groups if group.kind == "category"]
            log_scale = torch.cat([log_scale[list(self.order[: len(self.order) - len(sizes)])],
                                   log_scale.new_zeros(sum(sizes))])  # fmt: skip
        known = torch.ones_like(batch.x, dtype=torch.bool) if batch.known is None else batch.known
        return -(known.expand_as(batch.x) * log_scale)

    def _check_range(self, raw: Raw) -> None:
        """Raise `InputError` if most values of a column are in other units than those of the training data."""
        low, high = self.low.numpy(), self.high.numpy()
        distance = np.abs(raw.x - (low + high) / 2) / np.maximum((high - low) / 2, 1e-12)
        if raw.known is not None:
            distance = np.where(raw.known, distance, np.nan)
        if raw.lengths is not None:
            distance = distance[raw.mask]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # a column without known values has no median
            # an image may be dark almost everywhere, so the largest distance counts, not the median
            typical = np.atleast_1d(np.nanmax(distance) if low.ndim == 0 else np.nanmedian(distance, axis=0))
        typical = np.nan_to_num(typical)
        if (typical > FAR).any():
            worst = int(typical.argmax())
            name = self.columns[worst].name if self.columns else "the pixels"
            values = raw.x if low.ndim == 0 else raw.x[..., worst]
            old_low, old_high = np.atleast_1d(low)[worst], np.atleast_1d(high)[worst]
            raise InputError(
                f"{raw.source}: the values of {name} are from {np.nanmin(values):g} to {np.nanmax(values):g}, those of "
                f"the training data from {old_low:g} to {old_high:g}; expected the same units"
            )

    def decode(self, x: Tensor, *, drawn: bool = False, given: Raw | None = None) -> Array:
        """Turn values in the units of `Batch.x`, (N, *shape) or (N, T, D), into values in the units of the source.

        Binary columns become the probability of their second value, and categories the number of the most probable
        category. Binary pixels lie between their two values. If the values are drawn, those of count columns that are
        modelled as continuous are rounded to whole numbers. The known values of `given` are returned as they are in the
        source.
        """
        values = x.detach().cpu().double().numpy()
        if self.order:
            parts = zip(self.order, self._in_columns(values), strict=True)
            columns = {i: part.argmax(-1) if self._is_category(i) else part[..., 0] for i, part in parts}
            values = np.stack([columns[i] for i in range(len(columns))], axis=-1)
        values = values * self.scale.numpy() + self.shift.numpy()
        if drawn and any(is_count := [column.kind == "count" for column in self.columns]):
            values[..., is_count] = values[..., is_count].round().clip(0)
        if given is not None:
            is_grey = given.x.dtype == np.uint8 and KIND_OF.get(self.spec.likelihood) in ("binary", "pixel")
            own = given.x / 255 if is_grey else given.x
            values = own if given.known is None else np.where(given.known, own, values)
        if self.pixels is None:
            return np.asarray(values, np.float64)
        if KIND_OF.get(self.spec.likelihood) in ("binary", "pixel"):
            values = values * (self.pixels.high - self.pixels.low) + self.pixels.low
        values, dtype = self._in_layout(values), np.dtype(self.pixels.dtype)
        if dtype.kind in "iu":
            limits = np.iinfo(dtype)
            return values.round().clip(limits.min, limits.max).astype(dtype)
        return np.asarray(values)

    def by_column(self, x: Tensor) -> Array:
        """Sum numbers in the shape of `Batch.x`, such as log p, so that there is one for each value of the source."""
        values = x.detach().cpu().double().numpy()
        if self.spec.likelihood == "categorical":
            return np.asarray(values.sum(-1, keepdims=True))
        if not self.order:
            return self._in_layout(values)
        columns = dict(zip(self.order, self._in_columns(values), strict=True))
        return np.stack([columns[i].sum(-1) for i in range(len(columns))], axis=-1)

    def _in_columns(self, x: Array) -> list[Array]:
        """Split the values of a model into those of each column, in the order in which they enter it."""
        return np.split(x, np.cumsum(self._sizes)[:-1], axis=-1)

    def _in_layout(self, x: Array) -> Array:
        """Return images (N, C, H, W) with their channels where the source has them, and other values as they are."""
        if self.pixels is None or x.ndim != 4:
            return x
        if self.pixels.channel_axis == "last":
            return np.moveaxis(x, 1, -1)
        return x[:, 0] if self.pixels.channel_axis == "none" and self.layout == "images" else x

    def is_grey(self, x: Tensor) -> bool:
        """Whether stored values are grey values of a Bernoulli model, which are binarised before they are scored."""
        return x.dtype == torch.uint8 and self.spec.likelihood == "bernoulli"

    def binarized(self, batch: Batch) -> Batch:
        """Return a batch in float32 that a variant can score. Grey values of a Bernoulli model are binarised.

        The draw depends on the values of the example alone, so that an example always gets the same pixels.
        """
        if self.is_grey(batch.x):
            grey = batch.x.numpy()
            draws = [np.random.default_rng(zlib.crc32(row.tobytes())).random(row.shape) < row / 255 for row in grey]
            return dataclasses.replace(batch, x=torch.from_numpy(np.stack(draws)).float())
        return dataclasses.replace(batch, x=as_float(batch.x))

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
            facts["spec"] = DataSpec.from_json(facts["spec"])
            facts |= {name: tuple(facts.get(name, ())) for name in ("class_names", "order")}
            facts["columns"] = tuple(
                Column(**{**column, "values": tuple(column["values"])}) for column in facts["columns"]
            )
            facts["pixels"] = PixelFormat(**facts["pixels"]) if facts["pixels"] else None
            facts |= load_file(folder / FILES[1])
            return cls(**facts)
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise InputError(f"{folder}: the preprocessing cannot be read ({type(error).__name__}: {error})") from error


def as_float(x: Tensor) -> Tensor:
    """Return stored values in float32, with 8-bit values divided by 255."""
    return x.float() / 255 if x.dtype == torch.uint8 else x.float()


def _statistics(raw: Raw, train: NDArray[np.int64]) -> list[Array]:
    """Return shift, scale, the smallest and the largest value, and the spread of log x, of training examples.

    Each has one number for each column of a table or channel of sequences, and a single one for all pixels of images.
    Shift and scale are 0 and 1 where the likelihood is a probability. The spread of values that are not positive is 1.
    """
    families = raw.likelihoods if raw.likelihood == "mixed" else [raw.likelihood]
    kinds = np.array([KIND_OF[family] for family in families])
    if not np.isin(kinds, DENSITIES).any():
        return [np.array(value) for value in (0.0, 1.0, 0.0, 1.0, 1.0)]
    is_real, is_positive = ((kinds == kind) if raw.likelihood == "mixed" else kinds[0] == kind
                            for kind in ("real", "positive"))  # fmt: skip
    x = raw.x[train].astype(np.float64, copy=False)
    if raw.known is not None:
        x = np.where(raw.known[train], x, np.nan)
    if raw.lengths is not None:
        x = x[raw.mask[train]]
    axes = (0,) if x.ndim == 2 else tuple(range(x.ndim))
    mean, std, low, high = (
        (np.mean, np.std, np.min, np.max) if raw.known is None else (np.nanmean, np.nanstd, np.nanmin, np.nanmax)
    )
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # about columns without known values in the training split
        logs = np.log(x) if np.any(is_positive) else np.zeros(x.shape)
        shift, deviation = mean(x, axes), std(x, axes, ddof=1)
        spread, limits = std(logs, axes, ddof=1), [low(x, axes), high(x, axes)]
        varies = limits[0] < limits[1]  # the standard deviation of equal values may differ from 0 by rounding
        scale = np.where(is_real & varies, deviation, np.where(is_positive, np.exp(mean(logs, axes)), 1.0))
    return [
        np.where(is_real & ~np.isnan(shift), shift, 0.0), np.where(scale > 0, scale, 1.0),
        *(np.nan_to_num(limit) for limit in limits), np.where(is_positive & varies & (spread > 0), spread, 1.0),
    ]  # fmt: skip


def _plain(value: Any) -> Any:
    """Convert a dataclass or a numpy scalar to what JSON can hold."""
    return dataclasses.asdict(value) if dataclasses.is_dataclass(value) else value.item()  # type: ignore[arg-type]
