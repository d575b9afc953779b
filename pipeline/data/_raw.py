"""A data set as it was read from its source, in its own units, before it is split."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.data._source import Kind, Source
from pipeline.data._times import row_name
from variants import InputError
from variants.base.contract import KIND_OF, Likelihood

MINIMUM = 10  # with fewer examples, a validation or test split would be empty
Layout = Literal["images", "table", "lines", "roll"]  # how examples are drawn in pictures


@dataclass(frozen=True)
class Factors:
    """The known factors of variation of each example.

    `values` (N, F) are numbers, one column for each of `names`. The values of factors in `unordered` are classes, which
    have neither an order nor distances.
    """

    names: tuple[str, ...]
    values: NDArray[Any]
    unordered: tuple[str, ...] = ()

    def __getitem__(self, index: Any) -> "Factors":
        return Factors(self.names, self.values[index], self.unordered)

    def checked(self, source: str, n: int) -> "Factors":
        """Return these factors. Raises `InputError` if they do not fit `n` examples."""
        shape, kind = self.values.shape, self.values.dtype
        if len(shape) != 2 or shape[0] != n or kind.kind not in "biuf" or not np.isfinite(self.values).all():
            raise InputError(f"{source}: factors are {kind} of shape {shape}; expected finite numbers ({n}, factors)")
        if len(self.names) != shape[1]:
            raise InputError(
                f"{source}: {len(self.names)} factor_names for {shape[1]} factors; expected a name for each"
            )
        for name in set(self.unordered) - set(self.names):
            raise InputError(f"{source}: unordered names {name!r}; expected names out of {', '.join(self.names)}")
        return self


@dataclass(frozen=True)
class Column:
    """A column of a table, or a channel of sequences.

    `values` are the two values of a binary column, of which the first is read as 0 and the second as 1, or the
    categories of a category column, which are read as 0, 1, 2, and so on. It is empty for other kinds. `likelihood` is
    the family of this column in a mixed table. Otherwise it is empty, because all columns have the likelihood of `Raw`.
    """

    name: str
    kind: Kind
    values: tuple[Any, ...] = ()
    likelihood: Likelihood | Literal[""] = ""


@dataclass(frozen=True, kw_only=True)
class PixelFormat:
    """How the source stores the pixels of images.

    `dtype` is the type of the arrays. `low` and `high` are the values that stand for 0 and 1 in `Batch.x`, if the
    likelihood is of binary or 8-bit values. `channel_axis` is the axis of the channels in the array of an image: the
    first, the last, or none.
    """

    dtype: str
    low: float = 0.0
    high: float = 1.0
    channel_axis: Literal["first", "last", "none"] = "none"


@dataclass(frozen=True, kw_only=True)
class Windows:
    """The series, S in number, that N windows of the same length were cut from.

    Together, the windows of a series contain all of its steps. They overlap if the stride is shorter than a window.
    """

    series: NDArray[np.int64]  # (N,) the number of the series of each window, from 0
    starts: NDArray[np.int64]  # (N,) the first step of each window in its series, from 0
    lengths: NDArray[np.int64]  # (S,) the steps of each series
    names: Any = None  # a pandas Index with the names of the series, (S,); None if they have none

    def __getitem__(self, index: Any) -> "Windows":
        """Return some of the windows. `lengths` and `names` are those of all series."""
        return replace(self, series=self.series[index], starts=self.starts[index])

    def joined(self, other: "Windows") -> "Windows":
        """Return these windows and those of other series, which are numbered after the series of these windows."""
        names = None if self.names is None or other.names is None else self.names.append(other.names)
        return Windows(
            series=np.concatenate([self.series, other.series + len(self.lengths)]),
            starts=np.concatenate([self.starts, other.starts]),
            lengths=np.concatenate([self.lengths, other.lengths]), names=names,
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Raw:
    """A data set as it was read: values `x` (N, ...) in the units of the source, and what is known about them.

    While sequences are read, `x` (R, D) has all steps, one sequence after the other; `_windows.as_examples` then makes
    examples of them.

    The likelihood decides the type of `x`: bool for `bernoulli` and `categorical` (one-hot), uint8 for grey values that
    are binarised (`bernoulli`) and for 8-bit pixels, and any type of numbers for others. Binary columns of a table are
    already 0 and 1, and category columns are numbers from 0. Tables are (N, D), images (N, C, H, W), and sequences
    (N, T, D) with `lengths` (N,), padded with zeros. A missing value is NaN, or is false in `observed` if the type of
    `x` has no NaN. Binary values are therefore floats if some are missing, unless `observed` marks these.
    """

    name: str  # of the data set
    source: Source
    x: NDArray[Any]
    y: NDArray[np.int64] | None  # (N,), from 0 to classes - 1; -1 if the class is unknown
    likelihood: Likelihood
    why: str = ""  # the reason for the likelihood, as a clause
    class_names: tuple[Any, ...] = ()  # the different labels of the source, in the order of their codes
    columns: tuple[Column, ...] = ()  # of a table, or channels of sequences
    width: int = 0  # the number of columns of an array without names, before constant ones were left out
    pixels: PixelFormat | None = None  # of images
    splits: list[torch.Tensor] | None = None  # indices of the three splits, if given; an empty one is drawn
    lengths: NDArray[np.int64] | None = None
    observed: NDArray[np.bool_] | None = None  # in the shape of x, false for missing values; None: only NaN is missing
    exposure_kind: Literal["", "sum", "column"] = ""  # see `DataSpec.exposure`
    given_exposure: NDArray[np.float64] | None = None  # (N,) values of the column of exposures, if there is one
    layout: Layout | None = None  # None: follows from the shape
    factors: Factors | None = None
    rows: Any = None  # a pandas Index with the labels of the rows
    groups: NDArray[np.int64] | None = None  # (N,) a number for each group that must not be divided
    times: NDArray[np.float64] | None = None  # (N,) by which a split by time orders the examples
    windows: Windows | None = None  # where the examples come from, if they are windows of longer series
    stamps: Any = None  # a pandas Index, named as the column of times, with the time of each step of each series
    time_unit: Literal["", "s"] | None = None  # of the times: seconds, of dates, or plain numbers; None without times
    elapsed: NDArray[np.float64] | None = None  # (N, T) time since the first step, if times are given to the networks
    step: str = ""  # the time between two steps of sequences, such as "1 day"
    division: str = ""  # a clause that says how the examples were split
    drawn: tuple[str, ...] = ()  # the splits that the split seed changes: validation, test, both or none
    stored: bool = False  # whether the values are on disk, and x only has their number
    notes: tuple[str, ...] = ()  # what was decided or left out; each is a clause without a full stop
    warnings: tuple[str, ...] = ()  # what may be wrong, in the same form

    @property
    def noun(self) -> str:
        """What the examples are called in messages."""
        if self.windows is not None:
            return "windows"
        return "sequences" if self.lengths is not None else "images" if self.x.ndim == 4 else "rows"

    @property
    def known(self) -> NDArray[np.bool_] | None:
        """Which values are not missing, in the shape of x; None if all are known. Padding is known."""
        known = self.observed
        if self.x.dtype.kind == "f" and np.isnan(self.x).any():
            known = ~np.isnan(self.x) if known is None else known & ~np.isnan(self.x)
        return None if known is None or known.all() else known

    @property
    def likelihoods(self) -> list[Likelihood]:
        """The family of each column of a table."""
        return [column.likelihood or self.likelihood for column in self.columns]

    @property
    def exposure(self) -> NDArray[np.float64] | None:
        """What the means of the counts of each example are proportional to, (N,); None if nothing is."""
        if self.exposure_kind != "sum":
            return self.given_exposure
        likelihoods = self.likelihoods or [self.likelihood] * self.x.shape[1]
        is_count = np.array([KIND_OF[likelihood] == "count" for likelihood in likelihoods])
        counts, known = self.x[:, is_count], self.known
        sums: NDArray[np.float64] = (counts if known is None else np.where(known[:, is_count], counts, 0.0)).sum(axis=1)
        return sums

    @property
    def mask(self) -> NDArray[np.bool_]:
        """Which steps of padded sequences are real, (N, T)."""
        assert self.lengths is not None
        return np.arange(self.x.shape[1]) < self.lengths[:, None]

    def __getitem__(self, index: slice) -> "Raw":
        """Return some of the examples."""
        names = (
            "x", "y", "lengths", "observed", "given_exposure", "rows", "groups", "times", "factors", "windows",
            "elapsed",
        )  # fmt: skip
        return replace(self, splits=None, **{n: v[index] for n in names if (v := getattr(self, n)) is not None})

    def with_notes(self, notes: Iterable[str]) -> "Raw":
        """Return this data set with more notes in front of its own."""
        return replace(self, notes=(*notes, *self.notes))

    def with_labels(self, y: Any, classes: tuple[Any, ...] | None = None) -> "Raw":
        """Return this data set with labels, if there are any; see `encode_labels`.

        `classes` are those of a trained model; if it has none, no labels are added.
        """
        if y is None or classes == ():
            return self
        n = len(self.x if self.lengths is None else self.lengths)
        codes, names, notes = encode_labels(self.source, y, n, classes)
        return replace(self, y=codes, class_names=names, notes=(*self.notes, *notes))

    @property
    def empty(self) -> NDArray[np.bool_]:
        """Which examples have no value at all, (N,)."""
        known: Any = self.known
        if known is None:
            return np.zeros(len(self.x), np.bool_)
        if self.lengths is not None:
            known = known & self.mask[..., None]
        return np.asarray(~known.reshape(len(known), -1).any(1))

    def checked(self) -> "Raw":
        """Return this data set, with warnings about examples and pixels without any value.

        Raises:
            InputError: If it has too few examples, infinite values, no values, or only equal ones.
        """
        if len(self.x) < MINIMUM:
            advice = {
                "sequences": ", or --window N, which cuts sequences into windows",
                "windows": ", so a smaller --window, or a smaller --stride",
            }.get(self.noun, "")
            raise InputError(
                f"{self.source}: {len(self.x)} examples; expected at least {MINIMUM} for three splits{advice}"
            )
        self.check_values("; --drop leaves columns out" if self.noun == "rows" else "")
        empty, known = self.empty, self.known
        if empty.all():
            raise InputError(f"{self.source}: all values are missing; expected known values")
        if known is None:
            is_equal = (self.x == self.x[:1]).all()
        else:
            x = self.x.astype(np.float64)
            is_equal = (np.where(known, x, np.inf).min(0) >= np.where(known, x, -np.inf).max(0)).all()
        if is_equal:
            raise InputError(f"{self.source}: all {len(self.x)} {self.noun} are equal; expected different ones")
        if self.factors is not None:
            self.factors.checked(str(self.source), len(self.x))
        warnings = list(self.warnings)
        if empty.any():
            warnings.append(
                f"{empty.sum():,} of {len(empty):,} {self.noun} have no values at all, the first is "
                f"{self._name_of(int(empty.argmax()))}; a model learns nothing from them"
            )
        if known is not None and self.noun == "images" and not known.any(0).all():
            unseen = ~known.any(0)
            warnings.append(
                f"{unseen.sum():,} of the {unseen.size:,} values of an image are missing in all images, such as "
                "dead pixels; what a model fills in there means nothing"
            )
        return replace(self, warnings=tuple(warnings))

    def check_values(self, advice: str = "") -> None:
        """Raise `InputError` if there are no values, or some are infinite. `advice` ends the message."""
        if self.x.size == 0:
            raise InputError(f"{self.source}: x has shape {self.x.shape}; expected examples with values")
        if self.x.dtype.kind != "f" or not np.isinf(self.x).any():
            return
        raise InputError(
            f"{self.source}: {self.with_bad_values(np.isinf(self.x), 'infinite values')}; replace these values, or "
            f"remove these {self.noun}{advice}"
        )

    def with_bad_values(self, bad: NDArray[np.bool_], what: str) -> str:
        """Return a clause that says how many examples have bad values, in which columns, and which one is the first.

        `bad` (bool, in the shape of x) marks these values, and `what` describes them, such as "infinite values".
        """
        is_bad = np.asarray(bad.reshape(len(bad), -1).any(axis=1))
        first, where = int(is_bad.argmax()), ""
        if self.columns and self.x.shape[-1] == len(self.columns):
            chosen = np.asarray(bad.reshape(-1, len(self.columns)).any(axis=0))
            names = [column.name for column, is_chosen in zip(self.columns, chosen, strict=True) if is_chosen]
            where = f" in {', '.join(names[:5])}{', ...' if len(names) > 5 else ''}"
        return f"{is_bad.sum()} of {len(is_bad)} {self.noun} have {what}{where}, the first in {self._name_of(first)}"

    def _name_of(self, index: int) -> str:
        """Return what an example is called in messages, such as "image 3"; `index` counts from 0."""
        if self.noun == "rows":
            return row_name(index, self.source, self.rows)
        return f"{self.noun.removesuffix('s')} {index + 1}"


def consecutive(sizes: Iterable[int]) -> list[torch.Tensor]:
    """Return the indices of splits of these sizes that follow each other."""
    sizes = list(sizes)
    return list(torch.arange(sum(sizes)).split(sizes))


def encode_labels(
    source: Source, y: Any, n: int, classes: tuple[Any, ...] | None = None
) -> tuple[NDArray[np.int64] | None, tuple[Any, ...], tuple[str, ...]]:
    """Convert labels (whole numbers, strings, booleans, or one-hot rows) to codes (N,) from 0 to classes - 1.

    A label that is missing, or that is -1 beside two or more other numbers, is unknown and gets the code -1. With
    `classes`, the labels of a trained model, the codes are positions in it.

    Returns:
        The codes, or None if there are fewer than two classes; the classes; and notes about what was decided.

    Raises:
        InputError: If there is not one label for each of `n` examples, or the labels are no classes.
    """
    import pandas

    series, notes = _label_series(source, y, n)
    unknown = np.array(series.isna())
    if pandas.api.types.is_integer_dtype(series.dtype):
        numbers = set(series.dropna().unique().tolist())
        if -1 not in classes if classes else len(numbers) > 2:
            unknown |= series.eq(-1).fillna(False).to_numpy(bool)
        elif -1 in numbers and not classes:
            notes.append(f"the labels {' and '.join(map(str, sorted(numbers)))} are read as classes, also -1")
    known = series[~unknown]
    if classes is None:
        classes = tuple(sorted(known.unique().tolist()))
        if len(classes) > max(2, n // 2):
            raise InputError(
                f"{source}: {n} examples have {len(classes)} different labels; expected several examples of a class"
            )
    codes = np.full(n, -1, dtype=np.int64)
    code_of = {label: code for code, label in enumerate(classes)}
    strange = sorted({str(label) for label in known.unique() if label not in code_of})
    if strange:
        raise InputError(
            f"{source}: unknown classes {', '.join(strange[:5])}; expected the classes of the training data, "
            f"{', '.join(map(str, classes[:20]))}"
        )
    codes[~unknown] = known.map(code_of).to_numpy(np.int64)
    if unknown.any():
        notes.append(f"{unknown.sum()} of {n} examples have no label; the model is trained on them, but no probe is")
    if len(classes) < 2 and not notes:
        notes.append(
            f"all labels are {classes[0] if classes else 'missing'!r}, so there is nothing for a probe to learn"
        )
    return (codes if len(classes) > 1 else None), classes if len(classes) > 1 else (), tuple(notes)


def _label_series(source: Source, y: Any, n: int) -> tuple[Any, list[str]]:
    """Return labels as a pandas Series of whole numbers, text or booleans, and notes."""
    import pandas

    array = np.asarray(y)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    notes: list[str] = []
    if array.ndim == 2 and array.dtype.kind in "biuf" and np.isin(array, (0, 1)).all() and (array.sum(1) == 1).all():
        notes.append(f"the labels are one-hot rows of {array.shape[1]} classes")
        array = array.argmax(1)
    if array.ndim != 1 or len(array) != n:
        raise InputError(f"{source}: the labels have shape {array.shape}; expected ({n},), a label for each example")
    series = pandas.Series(array).convert_dtypes()
    if pandas.api.types.is_float_dtype(series.dtype):
        raise InputError(
            f"{source}: the labels hold fractions such as {series.dropna().iloc[0]}; expected classes (whole numbers "
            "or strings)"
        )
    if not (
        pandas.api.types.is_integer_dtype(series.dtype)
        or pandas.api.types.is_bool_dtype(series.dtype)
        or pandas.api.types.is_string_dtype(series)
        or series.isna().all()
    ):
        raise InputError(f"{source}: the labels have type {array.dtype}; expected whole numbers or strings")
    return series, notes
