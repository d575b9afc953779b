"""Reads tables: one example in each row, or one step of a sequence in each row."""

import csv
import gzip
import math
import re
import shlex
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.data import _columns, _families, _long_tables, _special_columns, _times, _wide_tables
from pipeline.data._columns import NUMBER
from pipeline.data._pixels import from_pixels
from pipeline.data._preprocessing import Preprocessing
from pipeline.data._raw import Column, Raw, encode_labels
from pipeline.data._source import Source, reading
from pipeline.data._splits import listed
from variants import InputError
from variants.base.contract import KIND_OF, Likelihood

TEXT = (".csv", ".csv.gz", ".tsv")
HEAD = 1 << 18  # the characters of a text file in which the separator and the decimal mark are looked for
SEPARATORS = "\t;|,"
MISSING = ["", "NA", "N/A", "n/a", "<NA>", "#N/A", "NaN", "nan", "-nan", "NULL", "null"]
DECIMAL_COMMA = re.compile(r"[+-]?\d*,\d+([eE][+-]?\d+)?")
DECIMAL_POINT = re.compile(r"[+-]?\d*\.\d+([eE][+-]?\d+)?")
THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2},\d{3}")
PIXEL = re.compile(r"([a-z]|px|pix|pixel)?[ _.-]?\d+([x_.-]\d+)?", re.IGNORECASE)  # the name of a column of pixels
Array = NDArray[Any]


def read(path: Path, source: Source, name: str, like: Preprocessing | None = None) -> Raw:
    """Read a table from a file: text with separators, parquet or feather.

    Raises:
        InputError: If the file cannot be read, or `from_frame` refuses its content.
    """
    import pandas

    ending = path.name.lower()
    notes: tuple[str, ...] = ()
    if like is None and not source.header and not ending.endswith(TEXT):
        raise InputError(f"{path}: --no-header applies to text files only; this file stores the names of its columns")
    with reading(path):
        if ending.endswith(TEXT):
            frame, notes = _text(path, source)
        else:
            frame = pandas.read_feather(path) if ending.endswith(".feather") else pandas.read_parquet(path)
    return from_frame(frame, source, name, like).with_notes(notes)


def read_parts(path: Path, source: Source, name: str, like: Preprocessing, rows: int) -> tuple[int, Iterator[Raw]]:
    """Read the new rows of a text or parquet file in parts of `rows` rows, so that memory does not grow with the file.

    Returns about how many parts there are, and an iterator over them. It raises `InputError` as `read` does.
    """
    import pyarrow
    import pyarrow.parquet

    with reading(path):
        if path.name.lower().endswith(TEXT):
            frames, _ = _text(path, source, rows)
            count = _count_lines(path)
        else:
            file = pyarrow.parquet.ParquetFile(path)
            frames = (pyarrow.Table.from_batches([batch]).to_pandas() for batch in file.iter_batches(rows))
            count = file.metadata.num_rows
    return -(-count // rows), _parts(path, frames, source, name, like)


def _parts(path: Path, frames: Iterator[Any], source: Source, name: str, like: Preprocessing) -> Iterator[Raw]:
    import pandas

    begin = 0
    while True:
        with reading(path):
            frame = next(frames, None)
        if frame is None:
            return
        if isinstance(frame.index, pandas.RangeIndex):  # messages count the rows of the whole table
            frame.index = pandas.RangeIndex(begin, begin + len(frame))
        begin += len(frame)
        yield from_frame(frame, source, name, like)


def _count_lines(path: Path) -> int:
    with (gzip.open if path.name.lower().endswith(".gz") else open)(path, "rb") as stream:
        return sum(block.count(b"\n") for block in iter(lambda: stream.read(1 << 20), b""))


def _text(path: Path, source: Source, rows: int | None = None) -> tuple[Any, tuple[str, ...]]:
    """Read a text file as a data frame, and return it with notes about its separator and its decimal mark.

    With `rows`, an iterator over data frames of so many rows takes the place of the data frame.
    """
    import pandas

    unpack: Any = gzip.open if path.name.lower().endswith(".gz") else open
    with unpack(path, "rb") as stream:
        encoding = "utf-16" if stream.read(2) in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    with unpack(path, "rt", encoding=encoding, newline="") as stream:
        head = [*islice(stream, 10), *stream.readlines(HEAD)]
    if any("\0" in line for line in head):
        raise InputError(
            f"{path} is not text in UTF-8 or UTF-16 (it holds zero bytes); expected it to be saved again as UTF-8"
        )
    separator, records = _separated(head)
    if not records:
        raise InputError(f"{path} is empty; expected a line with the names of the columns, and a line for each row")
    if len(records) > 1 and len(records[0]) != len(records[1]):
        raise InputError(
            f"{path}: the first line has {len(records[0])} fields and the next one {len(records[1])}, with "
            f"{separator!r} between fields; expected a first line with a name for each column, and nothing above it"
        )
    fields = [field for record in records[source.header :] for field in record]
    commas = [field for field in fields if DECIMAL_COMMA.fullmatch(field)]
    with_points = any(DECIMAL_POINT.fullmatch(field) for field in fields)
    decimal = "," if commas and not with_points and not all(map(THOUSANDS.fullmatch, commas)) else "."
    if source.header:
        names = [field.strip() or f"Unnamed: {i}" for i, field in enumerate(records[0])]
    else:
        names = [f"x{i}" for i in range(len(records[0]))]
    options: dict[str, Any] = dict(
        sep=separator, decimal=decimal, encoding=encoding.removesuffix("-sig"),
        header=0 if source.header else None, index_col=False, skipinitialspace=True, keep_default_na=False,
        na_values=MISSING, low_memory=False, compression="gzip" if unpack is gzip.open else None,
    )  # fmt: skip
    notes = []
    if separator != "," or decimal != ".":
        words = {"\t": "a tab"}
        notes.append(
            f"fields are separated by {words.get(separator, repr(separator))}, and the decimal mark is {decimal!r}"
        )
    if rows is not None:
        return _frames(path, {**options, "chunksize": rows}, names), tuple(notes)
    return _named(pandas.read_csv(path, **options), names), tuple(notes)


def _frames(path: Path, options: dict[str, Any], names: list[str]) -> Iterator[Any]:
    """Yield the parts of a text file as data frames."""
    import pandas

    with pandas.read_csv(path, **options) as parts:
        for part in parts:
            yield _named(part, names)


def _named(frame: Any, names: list[str]) -> Any:
    """Return a table of a text file with its names, and without white space around its texts."""
    from pandas.api.types import infer_dtype

    texts = [name for name, kind in frame.dtypes.items() if kind.kind == "O" and infer_dtype(frame[name]) == "string"]
    for column in texts:
        frame[column] = frame[column].str.strip().replace(MISSING, np.nan)
    return frame.set_axis(names, axis=1)


def _separated(lines: list[str]) -> tuple[str, list[list[str]]]:
    """Return the separator with which most lines have the same number of fields, and the fields of each line."""
    best: tuple[float, str, list[list[str]]] = (-1.0, ",", [])
    for separator in SEPARATORS:
        if separator != "," and not any(separator in line for line in lines[:2]):
            continue
        reader = csv.reader(lines, delimiter=separator, skipinitialspace=True)
        records = [record for record in reader if any(record)]
        count, lines_with_it = Counter(map(len, records)).most_common(1)[0] if records else (0, 0)
        share = lines_with_it / len(records) if count > 1 else 0.0
        if share > best[0]:
            best = (share, separator, records)
    return best[1], best[2]


def from_frame(frame: Any, source: Source, name: str, like: Preprocessing | None = None) -> Raw:
    """Make a `Raw` of a pandas data frame with one row for each example, or, with columns series and time, each step.

    The index of the frame labels the rows and is no feature. A column called label holds the class.

    Raises:
        InputError: If a column is ambiguous or cannot be modelled, an option names an unknown column, or the rows do
            not fit `like`.
    """
    import pandas

    if isinstance(frame.columns, pandas.MultiIndex):
        raise InputError(f"{source}: the names of the columns have {frame.columns.nlevels} levels; expected one")
    _check_header([c for c in frame.columns if isinstance(c, str)], source)
    frame = frame.set_axis([str(c) for c in frame.columns], axis=1)
    if repeated := [c for c, n in Counter(frame.columns).items() if n > 1]:
        raise InputError(
            f"{source}: several columns are called {listed(repeated)}; expected a different name for each column, or "
            "--no-header if the first line has values"
        )
    if frame.empty:
        raise InputError(
            f"{source}: the table has {len(frame)} rows and {frame.shape[1]} columns; expected at least one of each"
        )
    steps = _long_tables.with_levels(frame, source)
    if (source if like is None else like.source).wide:
        return _wide_tables.read_wide(steps, source, name, like)
    if _long_tables.is_long(steps, source, like):
        return _long_tables.read_long(steps, source, name, like)
    return _examples(frame, source, name) if like is None else _new_examples(frame, source, name, like)


def _check_header(names: list[str], source: Source) -> None:
    """Raise `InputError` if the names are values. Numbers that rise evenly, such as years or wavelengths, are names."""
    numbers = [float(name.replace(",", ".")) for name in names if NUMBER.fullmatch(name)]
    steps = np.diff(numbers)
    is_even = len(steps) > 0 and steps[0] != 0 and np.allclose(steps, steps[0]) and (len(steps) > 1 or steps[0] == 1)
    if numbers and 2 * len(numbers) >= len(names) and not is_even:
        raise InputError(
            f"{source}: the names of the columns are numbers ({listed(names, 3)}), as if the first row had been read "
            "as names; give the option --no-header (pandas.read_csv: header=None), or give each column a name"
        )


def _examples(frame: Any, source: Source, name: str) -> Raw:
    """Make a `Raw` of a table with one row for each example."""
    frame = _special_columns.without_dropped(frame, source)
    pixels = source.kind("x") == "pixels" and "x" not in frame
    if any(kind == "symbols" for _, kind in source.kinds):
        raise InputError(
            f"{source}: --kind symbols is for sequences, and this table has an example in each row; expected --kind "
            "COLUMN=category for a column of categories"
        )
    if unused := {"alpha", "exposure" if pixels else "size"} & set(source.options):
        hint = "; --kind x=pixels reads each row as an image" if "size" in unused else "; leave it out"
        raise InputError(f"{source}: --{min(unused)} does not apply to a table with an example in each row{hint}")
    notes: list[str] = []
    codes, classes, groups, times = None, (), None, None
    label = _special_columns.label_column(frame, source)
    if label is not None:
        codes, classes, label_notes = encode_labels(source, _special_columns.labels(frame, label, source), len(frame))
        notes += label_notes
    if source.group is not None:
        groups, _ = _special_columns.codes_of(frame, source.group, "group", source, "a group in each row")
    if source.time is not None:
        _special_columns.find(frame, source.time, "time", source)
        if source.group is not None:
            notes.append(
                f"each row is an example; --kind {source.group}=sequence would read the rows of each {source.group} as "
                "the steps of a sequence"
            )
        times = _times.parse_times(frame[source.time], source)[0]
    exposure = None
    if source.exposure_column is not None:
        exposure = _columns.exposure(frame, source.exposure_column, source)
    special = (label, source.group, source.time, source.exposure_column)
    values = frame.drop(columns=[c for c in special if c is not None])
    splits = None
    if parts := [name for name, column in values.items() if _special_columns.is_split(column)]:
        splits = _special_columns.given_splits(values, parts, source, notes)
        values = values.drop(columns=parts)

    columns, x, column_notes = _columns.read_columns(values, source, pixels=pixels)
    notes += column_notes
    raw = Raw(name=name, source=source, x=x, y=None, likelihood="gaussian", columns=tuple(columns))
    if pixels:
        raw, pixel_notes = _images(x, source, name)
        raw = replace(raw, columns=tuple(columns))
        notes += pixel_notes
    else:
        _refuse_pixels(columns, x, source, values.shape[1])
        raw = _families.choose(raw)
        warnings = (*raw.warnings, *_owners(columns, x, source))
        raw = _with_exposure(replace(raw, x=_as_bool(x, raw.likelihood), warnings=warnings), exposure)
    return replace(
        raw, y=codes, class_names=classes, splits=splits, rows=frame.index, groups=groups, times=times
    ).with_notes(notes)


def _with_exposure(raw: Raw, exposure: Array | None) -> Raw:
    """Set the exposure of the counts of a table: the column `exposure` (N,), the sum of each row, or none.

    Raises:
        InputError: If `--exposure` does not fit the columns.
    """
    source = raw.source
    counts = sum(KIND_OF[family] == "count" for family in raw.likelihoods)
    if source.exposure not in (None, "none") and counts < (2 if exposure is None else 1):
        few = "no columns of counts" if not counts else "one column of counts"
        raise InputError(
            f"{source}: --exposure {source.exposure} is for counts, and there {'are' if not counts else 'is'} {few}; "
            "expected --kind COLUMN=count for columns of counts, or leave this option out"
        )
    if exposure is not None:
        return replace(raw, exposure_kind="column", given_exposure=exposure)
    is_default = source.exposure is None and counts == len(raw.columns) >= _columns.MANY_COUNTS
    if source.exposure != "sum" and not is_default:
        return raw
    raw = replace(raw, exposure_kind="sum")
    empty = np.count_nonzero(raw.exposure == 0)
    if empty:
        warning = f"the counts of {empty} of {len(raw.x)} rows are all 0, so nothing is learned from these rows"
        raw = replace(raw, warnings=(*raw.warnings, warning))
    if not is_default:
        return raw
    note = (
        "all columns are counts, and the counts of a row are modelled given their sum, as is usual if the sum shows "
        "only how much was measured; --exposure none models the sum as well, and --exposure COLUMN uses a column "
        "in its place"
    )
    return raw.with_notes([note])


def _owners(columns: list[Column], x: Array, source: Source) -> list[str]:
    """Return warnings about columns of whole numbers or categories that may say which rows belong together."""
    warnings = []
    for column, values in zip(columns, x.T, strict=True):
        is_known = source.kind(column.name) is not None or column.kind == "binary"
        if is_known or not _special_columns.looks_like_owner(column.name):
            continue
        if not ((values >= 0) & (values % 1 == 0) | np.isnan(values)).all():
            continue
        kind = _families.kind_option([column.name], "category" if column.values else "real")
        warnings.append(
            f"the column {column.name} may say which rows belong together; --group {shlex.quote(column.name)} keeps "
            f"them in one split, and {kind} says that it is a value"
        )
    return warnings


def _refuse_pixels(columns: list[Column], x: Array, source: Source, width: int) -> None:
    """Raise `InputError` if a table of whole numbers may be images, of which `width` is the number of pixels."""
    side = math.isqrt(width)
    is_told = {"likelihood", "kinds", "exposure"} & set(source.options)
    if is_told or not side**2 == width >= 16 or not all(PIXEL.fullmatch(column.name) for column in columns):
        return
    if np.isin(x, np.arange(256)).all() and not all(column.kind == "binary" for column in columns):
        raise InputError(
            f"{source}: all {width} columns are whole numbers from 0 to 255; expected an option: --kind x=pixels "
            f"--size {side}x{side} reads each row as an image, --likelihood negative-binomial reads counts, and "
            "--likelihood gaussian models all columns as continuous"
        )


def _new_examples(frame: Any, source: Source, name: str, like: Preprocessing) -> Raw:
    """Make a `Raw` of new rows for a trained model: its columns, in its order and of its kinds."""
    if not like.columns or like.spec.steps:
        expected = "columns series and time, for sequences" if like.spec.steps else "images"
        raise InputError(f"{source}: this table does not fit the model; expected {expected}")
    label = _special_columns.label_column(frame, source)
    codes, notes = None, list[str]()
    if like.class_names and label in frame:
        codes, _, label_notes = encode_labels(source, frame[label], len(frame), like.class_names)
        notes += label_notes
    exposure, exposure_column = None, like.source.exposure_column
    if exposure_column is not None:
        exposure = _columns.exposure(frame, exposure_column, source)
    special = {label, source.group, source.time, exposure_column, *source.drop}
    x, column_notes = _columns.new_columns(frame, source, like, special)
    notes += column_notes
    raw = Raw(
        name=name, source=source, x=_as_bool(x, like.spec.likelihood), y=None, likelihood=like.spec.likelihood,
        exposure_kind=like.spec.exposure, given_exposure=exposure,
    )  # fmt: skip
    if like.layout == "images":
        raw = _images(x, source, name, like)[0]
    raw = replace(raw, y=codes, class_names=like.class_names, columns=like.columns, rows=frame.index)
    return raw.with_notes(notes)


def _images(x: Array, source: Source, name: str, like: Preprocessing | None = None) -> tuple[Raw, list[str]]:
    """Make a `Raw` of a table whose columns are the pixels of an image, row by row."""
    side = math.isqrt(x.shape[1])
    height, width = like.spec.shape[1:] if like else source.size or (side, side)
    if height * width != x.shape[1]:
        raise InputError(
            f"{source}: {x.shape[1]} columns of pixels are no image of {height}x{width}; expected --size HxW"
        )
    if not (np.isin(x, np.arange(256))).all():
        raise InputError(
            f"{source}: --kind x=pixels is for whole numbers from 0 to 255, and there are other values; leave it out"
        )
    pixels = x.astype(np.uint8).reshape(-1, 1, height, width)
    raw = from_pixels(pixels, source, name, like, axis="none")
    return raw, [f"each row is read as an image of {height}x{width} pixels"]


def _as_bool(x: Array, likelihood: Likelihood) -> Array:
    return x.astype(np.bool_) if likelihood == "bernoulli" and not np.isnan(x).any() else x
