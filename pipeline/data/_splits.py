"""Splits: which examples are for training, for validation and for test."""

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.data._catalogue import CATALOGUE
from pipeline.data._raw import MINIMUM, Raw, Windows
from pipeline.data._source import SPLIT_SEED
from variants import InputError
from variants.base.contract import DENSITIES, KIND_OF

PARTS = ("training", "validation", "test")
SHARE = 10  # validation and test each get one example in this many
TRIES = 50  # random divisions of groups, of which the one with the best sizes is taken
GOOD = 0.02  # no further division is tried if sizes differ from those wanted by at most this share of all examples
Indices = NDArray[np.int64]


def split(raw: Raw, *, test: bool = True) -> tuple[Raw, list[torch.Tensor]]:
    """Return the sorted indices of training, validation and test examples, and the data with notes about the splits.

    Splits that the data have themselves are kept unless `--split` is given; if validation or test is empty, it is drawn
    from the training split. Other data are split at random, stratified by class. Groups are never divided, and equal
    examples are kept in one split, as are the windows of a sequence. With `--split random`, each example is drawn by
    itself. With `--split time`, the latest examples are for test, and those before them for validation. This is also
    the default for windows of fewer than 10 sequences: the last steps of each sequence are for test.

    Without `test`, there are indices of training and validation examples only.

    Raises:
        InputError: If a class or a group cannot be divided as `raw.source` asks for.
    """
    source = raw.source
    if source.split == "group" and raw.groups is None and raw.windows is None:
        raise InputError(f"{source}: --split group needs --group COLUMN, the column that names the group of each row")
    if raw.splits is not None and source.split is not None:
        note = f"the splits that the data have are not used, because --split {source.split} was given"
        raw = replace(raw, splits=None, notes=(*raw.notes, note))
    if raw.splits is not None:
        raw, index = _given(raw, test)
    elif source.split == "time" and raw.windows is None:
        raw, index = _by_time(raw, test)
    else:
        raw, parts = _drawn(replace(raw, drawn=PARTS[1 : 2 + test]), np.arange(len(raw.x)), test)
        index = [torch.from_numpy(part) for part in parts]
    if source.split_seed != SPLIT_SEED and not raw.drawn:
        raise InputError(
            f"{source}: --split-seed has no effect, because the examples are split {raw.division}; leave it out"
        )
    return (raw if test else replace(raw, division=f"{raw.division}; the test split is {source.test}")), index


def stratified(
    y: NDArray[np.int64] | None, n: int, share: int, *, test: bool = True, seed: int = SPLIT_SEED
) -> list[torch.Tensor]:
    """Split `n` examples at random, each class by itself, and return the sorted indices of each split.

    Validation gets 1/`share` of each class, test as many if `test` is true, and training the rest. Each split gets at
    least one example of a class, if there are enough. Examples without a class (-1) are split like a class.
    """
    rng = np.random.default_rng(seed)
    groups = [np.arange(n)] if y is None else [np.flatnonzero(y == c) for c in [*range(int(y.max()) + 1), -1]]
    parts: list[list[Indices]] = [[], [], []]
    for group in groups:
        group = rng.permutation(group)
        size = max(round(len(group) / share), int(len(group) >= 2 + test))
        rest = 2 * size if test else size
        for part, chosen in zip(parts, (group[rest:], group[:size], group[size:rest]), strict=True):
            part.append(chosen)
    splits = [torch.from_numpy(np.sort(np.concatenate(part))) for part in parts]
    return splits if test else splits[:2]


def with_warnings(raw: Raw, index: list[torch.Tensor]) -> Raw:
    """Return the data with warnings about classes and values that a split lacks, and examples that two splits share.

    Built-in data sets are returned as they are.

    Raises:
        InputError: If a split is empty.
    """
    if raw.source.place in CATALOGUE:
        return raw
    train, _, test = parts = [i.numpy() for i in index]
    warnings = []
    for part, name in zip(parts, PARTS, strict=True):
        if not len(part):
            raise InputError(
                f"{raw.source}: there are no {raw.noun} for {name}; expected some in each of the three splits"
            )
        if raw.y is not None and (lacking := set(range(len(raw.class_names))) - set(raw.y[part].tolist())):
            names = listed([repr(raw.class_names[c]) for c in sorted(lacking)])
            warnings.append(f"the {name} split has no example of class {names}")
    if raw.groups is not None and raw.source.test is None:
        shared = int(np.isin(raw.groups[test], raw.groups[train]).sum())
        if shared:
            warnings.append(
                f"{shared:,} of {len(test):,} test {raw.noun} belong to groups of which other {raw.noun} are in the "
                "training split; --split group keeps groups whole"
            )
    if unlearnable := _without_variation(raw, train):
        warnings.append(
            f"these columns have one value or none in the training split, so their density cannot be learned: "
            f"{listed(unlearnable)}; --drop leaves columns out"
        )
    copies = equal_examples(raw)
    if copies is not None and not _allows_few_rows(raw):
        shared = int(np.isin(copies[test], copies[train]).sum())
        one = raw.noun.removesuffix("s")
        share = f"every test {one} is" if shared == len(test) else f"{shared:,} of {len(test):,} test {raw.noun} are"
        if shared:
            warnings.append(f"{share} equal to a training {one}, so test scores say little about new {raw.noun}")
    return replace(raw, warnings=(*raw.warnings, *warnings))


def _without_variation(raw: Raw, train: Indices) -> list[str]:
    """Return the names of columns with a density that have no two different known values among training rows."""
    if raw.x.ndim != 2:  # images and sequences
        return []
    names, known = [], raw.known
    for i, (column, likelihood) in enumerate(zip(raw.columns, raw.likelihoods, strict=True)):
        values = raw.x[train, i] if known is None else raw.x[train, i][known[train, i]]
        if KIND_OF[likelihood] in DENSITIES and not (len(values) and values.min() < values.max()):
            names.append(column.name)
    return names


def equal_examples(raw: Raw) -> Indices | None:
    """Return a number for each example, the same for examples with equal values; None if no two are equal.

    Equal examples also have the same missing values. An example without any value is equal to no other.
    """
    import pandas

    x, known, n = raw.x, raw.known, len(raw.x)
    marks: Any = [0] * n if raw.lengths is None else raw.lengths.tolist()  # must be equal as well
    if known is not None:
        x = np.where(known, x, np.zeros((), x.dtype))
        is_empty = raw.empty
        marks = [
            (mark, row.tobytes(), i * empty)
            for i, (mark, row, empty) in enumerate(zip(marks, known, is_empty, strict=True))
        ]
    hashes = (hash((row.tobytes(), mark)) for row, mark in zip(x, marks, strict=True))
    codes, different = pandas.factorize(np.fromiter(hashes, np.int64, n))  # numbered in the order of rows
    return None if len(different) == len(codes) else np.asarray(codes)


def _allows_few_rows(raw: Raw) -> bool:
    """Whether a table has so few different values that equal rows are to be expected.

    This is so if the product of the numbers of different values of its columns is at most the number of rows.
    """
    if raw.x.ndim != 2:
        return False
    product = 1
    for column in raw.x.T:
        product *= len(np.unique(column))
        if product > len(raw.x):
            return False
    return True


def _given(raw: Raw, test: bool) -> tuple[Raw, list[torch.Tensor]]:
    """Return the data's own splits. Those that are missing are drawn at random out of the training split."""
    assert raw.splits is not None
    train, valid, held_out = raw.splits
    if not len(train):
        raise InputError(f"{raw.source}: its own splits have no {raw.noun} for training; expected some")
    if len(held_out) and not test:
        raise InputError(
            f"{raw.source}: --test was given, but the data have a test split of their own; leave --test out"
        )
    if len(valid) and (len(held_out) or not test):
        return replace(raw, division="as given in the data"), raw.splits if test else [train, valid]
    missing = [name for name, part in zip(PARTS[1 : 2 + test], (valid, held_out), strict=False) if not len(part)]
    raw, parts = _drawn(replace(raw, drawn=tuple(missing)), train.numpy(), test=len(missing) == 2)
    drawn = dict(zip(("training", *missing), map(torch.from_numpy, parts), strict=True))
    index = [drawn.get(name, part) for name, part in zip(PARTS, raw.splits or (), strict=True)][: 2 + test]
    what = "a random part of the training examples" if raw.drawn else "the last steps of each training sequence"
    return replace(raw, division=f"as given in the data, with {what} for {listed(missing)}"), index


def _by_time(raw: Raw, test: bool) -> tuple[Raw, list[torch.Tensor]]:
    """Split by time: the latest tenth is for test, and the tenth before it for validation."""
    sides = PARTS[: 2 + test]
    if raw.times is None:
        raise InputError(
            f"{raw.source}: --split time needs --time COLUMN, the time of each row, in a table with an example in a row"
        )
    _, position, counts = np.unique(raw.times, return_inverse=True, return_counts=True)
    if len(counts) < len(sides):
        raise InputError(
            f"{raw.source}: {len(counts)} different times; expected at least {len(sides)} for a split by time"
        )
    end, splits = len(counts), []
    for later in range(len(sides) - 1, 0, -1):
        sizes = counts[later:end][::-1].cumsum()  # of the latest time, of the two latest ones, ...
        begin = end - 1 - int(np.abs(sizes - len(raw.x) / SHARE).argmin())
        splits.append(np.flatnonzero((position >= begin) & (position < end)))
        end = begin
    splits.append(np.flatnonzero(position < end))
    return replace(raw, division="by time, the latest for test"), [torch.from_numpy(part) for part in splits[::-1]]


def _drawn(raw: Raw, index: Indices, test: bool) -> tuple[Raw, list[Indices]]:
    """Split the examples with the given indices: windows of few sequences by time, and all else at random."""
    windows, source = raw.windows, raw.source
    if windows is None:
        return _at_random(raw, index, test)
    are_few = source.split is None and raw.groups is None and len(np.unique(windows.series[index])) < MINIMUM
    if are_few or source.split == "time":
        return _by_step(raw, windows, index, test)
    if source.split == "random":
        same = np.diff(windows.series[index]) == 0
        if (np.diff(windows.starts[index])[same] < raw.lengths[index][:-1][same]).any():  # type: ignore[index]
            raise InputError(
                f"{source}: --split random would put overlapping windows into different splits, so that test windows "
                "contain steps of training windows; expected --split time, or to leave it out, which keeps the windows "
                "of a sequence together"
            )
        warning = (
            "windows of one sequence are in several splits, because of --split random, so scores on the test split say "
            "little about new sequences"
        )
        raw = replace(raw, warnings=(*raw.warnings, warning))
    return _at_random(raw, index, test)


def _by_step(raw: Raw, windows: Windows, index: Indices, test: bool) -> tuple[Raw, list[Indices]]:
    """Divide windows into splits by time: the last steps of each sequence are for test.

    Validation and test each get a tenth of the steps, or more if no window would fit into them. A window that has steps
    of two splits is in none. The windows of a sequence that is too short for this are all for training.
    """
    assert raw.lengths is not None
    starts, sizes, series = windows.starts[index], raw.lengths[index], windows.series[index]
    stride = raw.source.stride or raw.source.window or 1
    ends, lengths = starts + sizes, windows.lengths
    window = int(sizes.max())
    share = np.round(lengths / SHARE).astype(np.int64)
    limits = [lengths, lengths - np.maximum(share, window)]  # where the last split begins
    if test:
        limits.append(limits[-1] - np.maximum(share, window + stride - 1))
    is_short = limits[-1] < window
    begins = [np.where(is_short, lengths, limit)[series] for limit in limits[:0:-1]]
    sides: list[Any] = [0, *begins, lengths[series]]
    parts = [index[(starts >= low) & (ends <= high)] for low, high in itertools.pairwise(sides)]
    left = len(index) - sum(map(len, parts))
    notes = [
        f"the steps of each sequence are split by time, and {left:,} windows with steps of two splits are left out"
    ]
    are_short = is_short[np.unique(series)]
    if are_short.any():
        notes.append(
            f"{are_short.sum():,} of {len(are_short):,} sequences are too short to be split, and are for training"
        )
    if any(not len(part) for part in parts):
        raise InputError(
            f"{raw.source}: sequences of up to {lengths.max():,} steps cannot be split by time into windows of "
            f"{window:,} steps for {listed(PARTS[: 2 + test])}; expected a shorter --window, or more sequences"
        )
    division = f"by time in each sequence, the last steps for {'test' if test else 'validation'}"
    raw = replace(raw, division=division, drawn=())
    return raw.with_notes(notes), parts


def _at_random(raw: Raw, index: Indices, test: bool) -> tuple[Raw, list[Indices]]:
    """Split the examples with the given indices at random, and note how.

    Raises:
        InputError: If a class would not be in each split.
    """
    source = raw.source
    division = "at random" + ("" if raw.y is None else ", stratified by class")
    units, unit = None, ""
    if source.split != "random" and raw.groups is None and raw.windows is not None:
        units, unit = raw.windows.series[index], "sequences"
        division += ", and the windows of a sequence are kept together"
    elif source.split != "random" and raw.groups is not None:
        units, unit = raw.groups[index], "groups"
        division += f", and groups{f' ({source.group})' if source.group else ''} are kept whole"
        sides = 2 + test
        if (count := len(np.unique(units))) < sides:
            raise InputError(
                f"{source}: {source.group or 'the group'} names {_counted(count, unit)}; expected at least {sides}, "
                "one for each split"
            )
    elif (
        source.split is None and source.place not in CATALOGUE and not raw.stored
        and (copies := equal_examples(raw)) is not None
    ):  # fmt: skip
        repeated = int((np.bincount(copies[index])[copies[index]] > 1).sum())
        clause = f"{repeated:,} of {len(index):,} {raw.noun} are equal to another one"
        if _allows_few_rows(raw):
            clause += ", which is to be expected of columns with so few values; they are split like all others"
            raw = replace(raw, notes=(*raw.notes, clause))
        elif repeated and copies.max() + 1 >= MINIMUM:  # with fewer different ones, a split would be nearly empty
            units, unit = copies[index], f"different {raw.noun}"
            clause += (
                "; equal ones are kept in the same split, so that the test split holds no copies of training examples; "
                "--split random draws each of them by itself"
            )
            raw = replace(raw, warnings=(*raw.warnings, clause))
    y = None if raw.y is None else raw.y[index]
    if units is None:
        parts = [part.numpy() for part in stratified(y, len(index), SHARE, test=test, seed=source.split_seed)]
    else:
        parts = _whole_units(units, y, test, source.split_seed)
    if y is not None:
        _check_classes(raw, y, parts, units, unit)
    return replace(raw, division=division), [index[part] for part in parts]


def _whole_units(units: Indices, y: NDArray[np.int64] | None, test: bool, seed: int) -> list[Indices]:
    """Split examples at random so that those with the same number in `units` stay together.

    Units are drawn from each stratum by itself. The stratum of a unit is the rarest class in it, so that rare classes
    reach each split. Of several draws, the one is taken whose splits lack the fewest classes, and, if several lack
    equally few, the one with the best sizes.
    """
    rng = np.random.default_rng(seed)
    y = np.zeros(len(units), np.int64) if y is None else y
    units, sizes = np.unique(units, return_inverse=True, return_counts=True)[1:]
    strata = _rarest_classes(units, y)
    sides = 2 + test
    wanted = len(y) * np.array([1 - (sides - 1) / SHARE, *[1 / SHARE] * (sides - 1)])
    best: tuple[float, float] = (np.inf, np.inf)
    best_side = units
    for _ in range(TRIES):
        side_of_unit = np.zeros(len(sizes), np.int64)
        for stratum in np.unique(strata):
            order = rng.permutation(np.flatnonzero(strata == stratum))
            if len(order) < sides:
                side_of_unit[order] = rng.permutation(sides)[: len(order)]
                continue
            target = sizes[order].sum() / SHARE
            order = order[np.argsort(sizes[order] > target, kind="stable")]  # large units are for training
            for side in range(1, sides):
                reached = sizes[order[: len(order) - sides + side]].cumsum()
                count = 1 + int(np.abs(reached - target).argmin())
                side_of_unit[order[:count]] = side
                order = order[count:]
        side_of_row = side_of_unit[units]
        present = np.unique(np.stack([side_of_row, y])[:, y >= 0], axis=1).shape[1]
        deviation = np.abs(np.bincount(side_of_row, minlength=sides) - wanted).sum()
        if (-present, deviation) < best:
            best, best_side = (-present, deviation), side_of_row
        if -best[0] == sides * len(np.unique(y[y >= 0])) and best[1] <= GOOD * len(y):
            break
    return [np.flatnonzero(best_side == side) for side in range(sides)]


def _rarest_classes(units: Indices, y: NDArray[np.int64]) -> Indices:
    """Return the class of each unit that is in the fewest units; -1 for units without a class."""
    pairs = np.unique(np.stack([units, y])[:, y >= 0], axis=1)
    strata = np.full(units.max() + 1, -1)
    frequency = np.bincount(pairs[1], minlength=1)
    order = np.lexsort((pairs[1], frequency[pairs[1]]))[::-1]
    strata[pairs[0, order]] = pairs[1, order]  # the last one that is written is the rarest
    return strata


def _check_classes(raw: Raw, y: NDArray[np.int64], parts: list[Indices], units: Indices | None, unit: str) -> None:
    """Raise `InputError` if a class that occurs is not in each split."""
    lacking = [c for c in np.unique(y[y >= 0]) if any(not (y[part] == c).any() for part in parts)]
    if not lacking:
        return
    facts, enough = [], False
    for c in lacking:
        rows = int((y == c).sum())
        fact = f"class {raw.class_names[c]!r} has {_counted(rows, raw.noun)}"
        if units is not None:
            count = len(np.unique(units[y == c]))
            enough |= count >= len(parts)
            fact += f", of which {count} differ" if "different" in unit else f" in {_counted(count, unit)}"
        facts.append(fact)
    expected = (
        f"no split was found that has each class in {listed(PARTS[: len(parts)])}" if enough
        else f"expected at least {len(parts)} {unit or raw.noun} of each class, for {listed(PARTS[: len(parts)])}"
    )  # fmt: skip
    also = ""
    if units is not None:
        also = f"; or give --split random, which divides {f'equal {raw.noun}' if 'different' in unit else unit}"
        also = "; or give --split time" if raw.windows is not None else also
    raise InputError(
        f"{raw.source}: {listed(facts)}; {expected}; remove these {raw.noun}, or leave their labels empty, "
        f"so that they train the model without a class{also}"
    )


def listed(words: Sequence[str], most: int = 5) -> str:
    """Return words with commas between them; of many, the first ones and the number of the others."""
    if len(words) > most:
        words = [*words[:most], f"{len(words) - most} more"]
    return ", ".join(words[:-1]) + " and " + words[-1] if len(words) > 1 else "".join(words)


def _counted(count: int, noun: str) -> str:
    """Return a number with a noun, which is given in the plural."""
    return f"{count:,} {noun.removesuffix('s') if count == 1 else noun}"
