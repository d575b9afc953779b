"""Reads sequences from files of the UCR/UEA archive, and from polyphonic music."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.data._preprocessing import Preprocessing
from pipeline.data._raw import Raw, consecutive
from pipeline.data._sequences import from_series
from pipeline.data._source import Source, file_name
from pipeline.data._splits import stratified
from variants import InputError


def ucr(path: Path, source: Source, name: str, like: Preprocessing | None = None) -> Raw:
    """Read NAME_TRAIN.ts or .tsv of the UCR/UEA archive, with NAME_TEST beside it as the test split (Dau et al. 2019).

    A fifth of each class of the training file is the validation split. Without NAME_TEST, one file is split in three.
    """
    read = _ts if path.suffix.lower() == ".ts" else _tsv
    if like is None and path.stem.endswith("_TEST"):
        raise InputError(
            f"{path}: name the file that ends in _TRAIN; the file beside it that ends in _TEST is the test split"
        )
    series, names, notes = read(path)
    stem = path.stem.removesuffix("_TRAIN")
    name = file_name(path.with_name(f"{stem}{path.suffix}"), [])
    other = path.with_name(f"{stem}_TEST{path.suffix}")
    if like is not None or source.test is not None or not (path.stem.endswith("_TRAIN") and other.exists()):
        if read is _tsv and not path.stem.endswith(("_TRAIN", "_TEST")):
            notes.append("each line is read as a class and a sequence of values; --no-header reads the file as a table")
        return from_series(series, names, source, name, like).with_notes(notes)
    first = len(series)
    more, more_names, _ = read(other)
    series = series + more
    y = None if names is None or more_names is None else np.concatenate([names, more_names])
    codes = None if y is None else np.unique(y, return_inverse=True)[1][:first]
    parts = stratified(codes, first, 5, test=False)
    splits = [*parts, torch.arange(first, len(series))]
    return from_series(series, y, source, name, like, splits=splits).with_notes(notes)


def is_table(path: Path, source: Source) -> bool:
    """Whether a .tsv file is a table: its first line holds names, or `--no-header` was given."""
    if path.stem.endswith(("_TRAIN", "_TEST")) or not source.header:
        return not source.header
    with path.open(encoding="utf-8", errors="replace") as stream:
        fields = stream.readline().strip("\ufeff\r\n").split("\t")
    return not all(re.fullmatch(r"\s*([+-]?[\d.]+([eE][+-]?\d+)?|NaN|nan|)\s*", field) for field in fields)


def _tsv(path: Path) -> tuple[list[NDArray[Any]], NDArray[Any] | None, list[str]]:
    """Read a label and the values of one channel from each line. NaN at the end is padding."""
    import pandas

    try:
        table = pandas.read_csv(path, sep="\t", header=None)
        values = table.iloc[:, 1:].to_numpy(np.float64)
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as labels and values between tabs ({error})") from error
    return _trimmed([row[:, None] for row in values]), table[0].to_numpy(), []


def _ts(path: Path) -> tuple[list[NDArray[Any]], NDArray[Any] | None, list[str]]:
    """Read lines after a header (@...): values between commas, channels between colons, and then the label.

    `?` and NaN are missing values. Missing values at the end are padding, unless the header says that all sequences
    have the same length. The targets of a regression are no classes, and are left out.
    """
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig", errors="replace").splitlines()]
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error})") from error
    begin = next((i for i, line in enumerate(lines, 1) if line.lower() == "@data"), None)
    if begin is None:
        raise InputError(f"{path} has no line @data; expected it before the lines of the sequences")
    facts = dict(_facts(lines[:begin]))
    if facts.get("timestamps", "").lower() == "true":
        raise InputError(
            f"{path} holds time stamps (@timeStamps true), which are not read from .ts files; expected a table with "
            "columns series and time, and a row for each step"
        )
    labelled, has_target = (facts.get(f, "").lower().startswith("true") for f in ("classlabel", "targetlabel"))
    series, names = [], []
    for number, line in enumerate(lines[begin:], begin + 1):
        if not line or line[0] in "#%":
            continue
        channels = line.split(":")
        if labelled or has_target:
            names.append(channels.pop().strip())
        try:
            columns = [np.array([np.nan if v.strip() == "?" else float(v) for v in c.split(",")]) for c in channels]
        except ValueError as error:
            raise InputError(f"{path}, line {number}: {error}; expected numbers, as in UCR's .ts") from error
        if len(sizes := {len(column) for column in columns}) != 1:
            raise InputError(
                f"{path}, line {number}: the channels have {' and '.join(map(str, sorted(sizes))) or 'no'} values; "
                "expected as many in each channel, with ? for missing ones"
            )
        series.append(np.stack(columns, axis=1))
    notes = ["the targets of a regression (@targetLabel) are no classes, and are left out"] if has_target else []
    y = np.array(names) if labelled and not has_target else None
    if facts.get("equallength", "").lower() == "true":
        return series, y, notes
    return _trimmed(series), y, notes


def _facts(lines: list[str]) -> Iterator[tuple[str, str]]:
    for line in lines:
        match = re.match(r"@(\w+)\s+(.*)", line)
        if match:
            yield match[1].lower(), match[2]


def _trimmed(series: list[NDArray[Any]]) -> list[NDArray[Any]]:
    """Remove the last steps of each sequence in which every channel is missing."""
    lengths = [np.flatnonzero(np.append(True, ~np.isnan(values).all(axis=1)))[-1] for values in series]
    return [values[:length] for values, length in zip(series, lengths, strict=True)]


def music(path: Path, source: Source, name: str, like: Preprocessing | None = None) -> Raw:
    """Read piano rolls (T, 88) of zeros and ones from the cells traindata, validdata and testdata of a .mat file.

    Boulanger-Lewandowski, Bengio & Vincent 2012 published music in this form.
    """
    from scipy.io import loadmat

    parts = ("traindata", "validdata", "testdata")
    try:
        cells = loadmat(path)
    except Exception as error:  # scipy raises many types
        raise InputError(f"{path} cannot be read as a .mat file ({error})") from error
    if not set(parts) <= set(cells):
        names = ", ".join(k for k in cells if not k.startswith("__"))
        raise InputError(f"{path} holds {names}; expected cells {', '.join(parts)} of (T, 88) rolls")
    groups = [list(cells[p].ravel()) for p in parts]
    series = [s for group in groups for s in group]
    return from_series(series, None, source, name, like, splits=consecutive(map(len, groups)))
