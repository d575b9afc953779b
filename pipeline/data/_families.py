"""Chooses the family of likelihoods of each column of a table, and of each channel of sequences."""

import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.data._raw import Column, Raw
from pipeline.data._source import Source
from pipeline.data._splits import listed
from variants import InputError
from variants.base.contract import KIND_OF, Likelihood

DEFAULTS: dict[str, Likelihood] = {  # the family of each kind of column
    "real": "gaussian", "positive": "log-normal", "count": "negative-binomial", "binary": "bernoulli",
    "category": "categorical",
}  # fmt: skip
EXPECTED = {  # of kinds that not every number is of
    "count": "whole numbers from 0", "positive": "numbers above 0", "fraction": "numbers from 0 to 1",
}  # fmt: skip
CHOICES = tuple(family for family, kind in KIND_OF.items() if kind in DEFAULTS)
FEW, SHARE = 20, 0.1  # a column with at most FEW, and at most SHARE of its rows, different values is discrete
LEAST, COMMON = 10, 0.05  # few different numbers are hardly counts if the largest has this number and share of rows
FAR = 1000.0  # a value is far away if its size is that many times larger than the size of 99% of the values
SKEWED = 2.0  # the kind positive is proposed only for columns whose skewness is larger
HEAD = 1000  # whether there are more than FEW different values is checked in this number of rows first, for speed
Array = NDArray[Any]


def choose(raw: Raw, noun: Literal["column", "channel"] = "column") -> Raw:
    """Choose the families of the columns of a table, or of the channels of sequences, and say why.

    The values `raw.x` are (R, D), float64 with NaN for missing ones. Each column gets the family of its kind:
    `source.likelihood` if that is for this kind, and otherwise the default. `--likelihood gaussian` makes all columns
    continuous except for those whose kind `--kind` gives. Columns of several kinds, and columns of categories, are
    `mixed`. A single channel of categories is `categorical`.

    Raises:
        InputError: If no column is of the kind of `source.likelihood`.
    """
    columns, source = raw.columns, raw.source
    given = source.likelihood
    if given is not None and given not in CHOICES:
        pixels = {"pixel": "is for 8-bit pixels of images", "fraction": "is for pixels of images from 0 to 1"}
        what = pixels.get(KIND_OF[given], "cannot be chosen") if given in KIND_OF else "cannot be chosen"
        raise InputError(f"{source}: --likelihood {given} {what}; expected one of {', '.join(CHOICES)} for {noun}s")
    kinds: list[str] = [column.kind for column in columns]
    if given == "gaussian":
        kinds = ["real" if source.kind(column.name) is None else column.kind for column in columns]
    _refuse_kinds(columns, kinds, source, noun)
    families = DEFAULTS | ({} if given is None else {KIND_OF[given]: given})
    chosen = [families[kind] for kind in kinds]
    warnings = [*_discrete(columns, kinds, raw.x, source, noun), *_skewed(columns, kinds, raw.x, source)]
    if noun == "column":
        warnings += [*_bounded(columns, kinds, raw.x, source), *_far_away(columns, kinds, raw.x)]
    raw = replace(raw, warnings=(*raw.warnings, *warnings))
    if len(set(chosen)) == 1 and (chosen[0] != "categorical" or (noun == "channel" and len(columns) == 1)):
        reasons = {
            "real": "the values are continuous numbers", "positive": "the values are positive",
            "count": f"all {noun}s are counts (whole numbers from 0)", "binary": f"each {noun} has two values",
            "category": "the values are categories",
        }  # fmt: skip
        why = reasons[kinds[0]]
        return replace(raw, likelihood=chosen[0], why="--likelihood was given" if given else why)
    counts = ", ".join(f"{n} {family}" for family, n in Counter(chosen).items())
    mixed = tuple(replace(column, likelihood=family) for column, family in zip(columns, chosen, strict=True))
    why = f"each {noun} has the likelihood of its kind ({counts})"
    return replace(raw, columns=mixed, likelihood="mixed", why=why)


def misfits(x: Array, kind: str) -> Array:
    """Return which values are not `EXPECTED` of their kind, in the shape of x; missing ones are."""
    if kind == "fraction":
        return (x < 0) | (x > 1)
    return (x < 0) | ((x % 1 != 0) & (x == x)) if kind == "count" else x <= 0


def kind_option(names: Sequence[str], kind: str) -> str:
    """Return the option that gives one of these columns a kind, quoted for a shell."""
    return f"--kind {shlex.quote(f'{names[0]}={kind}') if len(names) == 1 else f'COLUMN={kind}'}"


def _refuse_kinds(columns: Sequence[Column], kinds: Sequence[str], source: Source, noun: str) -> None:
    """Raise `InputError` if the columns cannot be modelled as the given kinds, or none fits `source.likelihood`."""
    given = source.likelihood
    texts = [c.name for c, kind in zip(columns, kinds, strict=True) if c.kind == "category" and kind == "real"]
    if texts:
        raise InputError(
            f"{source}: {listed(texts)}: these {noun}s hold categories, which cannot be modelled as continuous; "
            f"expected --drop {'COLUMN' if len(texts) > 1 else shlex.quote(texts[0])}, or "
            f"{kind_option(texts, 'category')} as well"
        )
    names_of = {kind: [c.name for c, k in zip(columns, kinds, strict=True) if k == kind] for kind in kinds}
    listing = "; ".join(f"{kind}: {listed(names, 5)}" for kind, names in names_of.items())
    if given is not None and KIND_OF[given] not in names_of:
        kind = KIND_OF[given]
        fitting = f"{kind_option([c.name for c in columns], kind)} if the values are of this kind"
        raise InputError(
            f"{source}: --likelihood {given} is for {noun}s of the kind {kind}, and these are of the kinds {listing}; "
            f"expected {fitting}, or one of {', '.join(f for f in CHOICES if KIND_OF[f] in names_of)}"
        )


def _discrete(columns: Sequence[Column], kinds: Sequence[str], x: Array, source: Source, noun: str) -> list[str]:
    """Return warnings about columns with discrete values that are modelled as continuous."""
    names_of: dict[tuple[str, ...], list[str]] = {}
    for i, (column, kind) in enumerate(zip(columns, kinds, strict=True)):
        if kind == "real" and column.kind != "real":
            names_of.setdefault((), []).append(column.name)
        elif kind == "real" and (fitting := _fitting_kinds(column, x[:, i], source)):
            names_of.setdefault(fitting, []).append(column.name)
    result = []
    for fitting, names in names_of.items():
        uses = {"category": "fits categories", "count": "fits counts",
                "real": f"says that a {noun} of numbers is continuous"}  # fmt: skip
        advice = " and ".join(f"{kind_option(names, kind)} {uses[kind]}" for kind in fitting)
        if not fitting:
            advice = f"without --likelihood gaussian, each {noun} has the likelihood of its kind"
        result.append(
            f"{listed(names, 10)}: the values are discrete, but are modelled by a continuous density, which can become "
            f"arbitrarily high at single values, so a high score may mean little; {advice}"
        )
    return result


def _fitting_kinds(column: Column, values: Array, source: Source) -> tuple[str, ...]:
    """Return the kinds to propose for a real column if its values are discrete, and otherwise an empty tuple."""
    values = values[~np.isnan(values)]
    limit = min(FEW, SHARE * len(values))
    is_whole = bool((values == np.floor(values)).all())
    counts = ("count",) if is_whole and values.min(initial=0) >= 0 else ()
    if len(np.unique(values[:HEAD])) <= limit and len(np.unique(values)) <= limit:
        return ("category", *counts)
    return (*counts, "real") if is_whole and source.kind(column.name) is None else ()


def _bounded(columns: Sequence[Column], kinds: Sequence[str], x: Array, source: Source) -> list[str]:
    """Return a warning about counts whose largest value is common, as it is in numbered categories and in grades."""
    names = []
    for column, kind, values in zip(columns, kinds, x.T, strict=True):
        if kind == "count" and source.kind(column.name) is None:
            known = values[~np.isnan(values)]
            n = int((known == known.max(initial=0)).sum())
            if n >= max(LEAST, COMMON * len(known)) and len(np.unique(known)) <= FEW:
                names.append(column.name)
    if not names:
        return []
    return [
        f"{listed(names, 10)}: these whole numbers are modelled as counts, but the largest one is common, as in "
        f"numbered categories or grades; {kind_option(names, 'category')} fits categories and "
        f"{kind_option(names, 'count')} says that a column holds counts"
    ]


def _far_away(columns: Sequence[Column], kinds: Sequence[str], x: Array) -> list[str]:
    """Return a warning about columns of numbers whose largest value is far away from almost all others."""
    texts = []
    for column, kind, values in zip(columns, kinds, x.T, strict=True):
        if kind in ("real", "positive", "count"):
            sizes = np.abs(values[~np.isnan(values)])
            usual = np.quantile(sizes, 0.99, method="lower") if len(sizes) else 0.0
            if sizes.max(initial=0) > FAR * usual > 0:
                texts.append(f"{column.name} ({values[np.nanargmax(np.abs(values))]:,.10g})")
    if not texts:
        return []
    return [
        f"the largest value is more than {FAR:,.0f} times larger than 99% of the values in {listed(texts, 10)}; a few "
        "such values decide the scale of the whole column, so leave the field empty if they are mistakes"
    ]


def _skewed(columns: Sequence[Column], kinds: Sequence[str], x: Array, source: Source) -> list[str]:
    """Return a warning about real columns for which the kind positive fits better."""
    import pandas

    names = []
    for column, kind, values in zip(columns, kinds, x.T, strict=True):
        if kind == column.kind == "real" and source.kind(column.name) is None and not (values <= 0).any():
            skewness = pandas.Series(values).skew()
            if skewness > SKEWED and abs(pandas.Series(np.log(values)).skew()) <= skewness / 2:
                names.append(column.name)
    if not names or source.likelihood is not None:
        return []
    return [
        f"{listed(names, 10)}: all values are positive, and a few are much larger than the others; "
        f"{kind_option(names, 'positive')} fits such a column better than a Gaussian does"
    ]
