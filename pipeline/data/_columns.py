"""Reads the columns of values in tables: of which kind they are, and their numbers."""

import re
import shlex
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.data import _times
from pipeline.data._families import EXPECTED, misfits
from pipeline.data._preprocessing import Preprocessing
from pipeline.data._raw import MINIMUM, Column
from pipeline.data._source import OF_SEQUENCES, Kind, Source
from pipeline.data._special_columns import as_option, find, near
from pipeline.data._splits import listed
from variants import InputError
from variants.base.contract import KIND_OF, ValueKind

NUMBER = re.compile(r"[+-]?(\d+([.,]\d*)?|[.,]\d+)([eE][+-]?\d+)?")
WITH_DIGITS = r"[<>~$€£+-]?\s*\d[\d.,' ]*(\s*[%€$£°]|\s[a-zA-Z°µ/]{1,4})?"  # numbers with units or other marks
DATE = r"\d{1,4}[-/. ](\d{1,2}|[A-Za-z]{3,9})[-/. ,]{1,2}\d{1,4}([T ].*)?|\d{1,2}:\d{2}(:\d{2}.*)?"
UNKNOWN = ("?", "-", "--", ".")  # words that often stand for a missing value
IDENTIFIER = re.compile(r"(^|[\W_])(?i:id|uuid|guid)$|^(?i:id|uuid|guid)[\W_]|[a-z](Id|ID)$")
LABELS = {
    "label", "labels", "target", "targets", "class", "classes", "y", "outcome", "outcomes", "species", "diagnosis",
    "diagnoses", "category", "categories", "celltype", "celltypes", "variety", "groundtruth", "truth", "response",
    "annotation", "phenotype", "disease", "fraud", "isfraud", "churn", "churned", "survived", "klasse", "kategorie",
    "etikett", "ziel", "classe", "étiquette", "cible", "clase", "etiqueta", "objetivo", "etichetta",
}  # fmt: skip
CATEGORIES = 100  # the largest number of categories of a column
LARGEST_COUNT = 1_000_000  # columns with larger whole numbers are counts only by an option
MANY_COUNTS = 10  # the smallest number of columns of a table of counts, which has an exposure by default
HARDLY = 5  # the expected number of rows above 1 below which a binary column may be a rare count
CHANCE = 1e-6  # a column is no count if a Poisson variable has its variance, or a smaller one, with less probability
Array = NDArray[Any]


def read_columns(values: Any, source: Source, *, pixels: bool = False) -> tuple[list[Column], Array, list[str]]:
    """Return the columns of values with their kinds, their values (N, D) in float64, and notes about what is left out.

    The two values of a binary column become 0 and 1, and categories 0, 1, 2 and so on. Missing values become NaN.

    Raises:
        InputError: If a column is ambiguous or cannot be modelled, or there is none.
    """
    import pandas

    n, notes = len(values), list[str]()
    columns, arrays, texts = [], [], []
    row_numbers, constant = [], []
    for column, given in values.items():
        series = _plain(given, source)
        distinct = series.unique()  # one search, because tables may have many thousands of columns
        known = distinct[~pandas.isna(distinct)]
        kind = source.kind(column)
        if kind is None and _is_row_number(series, known):
            row_numbers.append(column)
            continue
        if not pixels and n >= MINIMUM and len(known) < 2:
            constant.append(column)
            continue
        if kind is None:
            _refuse_label_or_identifier(series, known, values, source)
        if kind is None and len(known) > 2 and _is_category(series, given.dtype):
            is_free_text = not isinstance(given.dtype, pandas.CategoricalDtype) and len(known) > n / 2
            if is_free_text or len(known) > CATEGORIES:
                texts.append(f"{column} ({len(known):,} different values)")
                continue
            kind = "category"
        if pixels:
            entry, array = Column(column, "pixels"), _numbers(series, source)
        else:
            entry, array = _column(series, known.tolist(), kind, source)
        columns.append(entry)
        arrays.append(array)
    if row_numbers:
        notes.append(
            f"these columns are left out, because they number the rows: {listed(row_numbers)}; "
            f"{as_option('kind', row_numbers[0], '=real')} keeps it"
        )
    if constant:
        notes.append(f"these columns are left out, because they have one value or none: {listed(constant, 20)}")
    if texts:
        raise InputError(
            f"{source}: these columns have too many different values for categories: {listed(texts)}; leave them out "
            "with --drop NAME,NAME, or say what one of them is: with --label NAME it is the class, with --group NAME "
            "it says which rows belong together, with --kind NAME=sequence it names the sequence of each row, and "
            f"with --kind NAME=category it is a value with at most {CATEGORIES} categories"
        )
    if not columns:
        raise InputError("; ".join([f"{source}: there are no columns of values to model", *notes]))
    columns, x = _as_table_of_counts(columns, np.stack(arrays, axis=1), source, notes)
    return columns, x, notes


def _as_table_of_counts(
    columns: list[Column], x: Array, source: Source, notes: list[str]
) -> tuple[list[Column], Array]:
    """Read the remaining columns as counts if most columns are counts and the values of all others may be counts.

    Without this, a table of many counts would become a mixed one because a few columns, such as rare counts with only
    two values, do not look like counts by themselves. Returns all columns and their values.
    """
    others = [i for i, column in enumerate(columns) if column.kind != "count"]
    if not others or len(columns) - len(others) < max(MANY_COUNTS, len(others)):
        return columns, x
    scale = np.ones(len(columns))
    for i in others:
        scale[i] = _unit_of_counts(columns[i], x[:, i]) if source.kind(columns[i].name) is None else 0.0
    if not scale.all():
        return columns, x
    notes.append(
        "these columns do not look like counts by themselves, and are read as counts because all other columns are: "
        f"{listed([columns[i].name for i in others], 10)}; --kind COLUMN=KIND gives a column another kind"
    )
    return [Column(column.name, "count") for column in columns], x * scale


def _unit_of_counts(column: Column, values: Array) -> float:
    """Return the factor that turns the values of a column, read as another kind, into counts; 0 if they are no counts.

    A binary column (0 and 1) may hold rare counts if values above 1 are hardly expected: of n Poisson variables with
    the mean m, about n * m^2 / 2 are above 1. Whole numbers may be counts if their variance is not much smaller than
    that of Poisson variables with the same mean.
    """
    from scipy.stats import chi2

    values = values[~np.isnan(values)]
    n = len(values)
    if column.kind == "binary" and not isinstance(column.values[0], str | bool):
        low, high = column.values
        return float(high) if low == 0 and high % 1 == 0 and values.sum() ** 2 / 2 < HARDLY * n else 0.0
    if column.kind == "real" and (values >= 0).all() and (values == np.floor(values)).all():
        return float((n - 1) * values.var(ddof=1) > chi2.ppf(CHANCE, n - 1) * values.mean())
    return 0.0


def _refuse_label_or_identifier(series: Any, distinct: Any, frame: Any, source: Source) -> None:
    """Raise `InputError` if a column looks like the label or an identifier, and no option says what it is."""
    value = (
        as_option("kind", series.name, f"={'category' if _is_text(series) else 'real'}") + " if it is a value to model"
    )
    if _looks_like_label(series, frame):
        raise InputError(
            f"{source}: the column {series.name} looks like the label; expected {as_option('label', series.name)}, or "
            f"{value}, or {as_option('drop', series.name)}"
        )
    if _looks_like_identifier(series, distinct):
        raise InputError(
            f"{source}: the column {series.name} looks like an identifier ({len(distinct)} different values in "
            f"{len(series)} rows); expected {as_option('drop', series.name)}, or {as_option('group', series.name)} if "
            f"its values name groups that a split must not divide, or {as_option('kind', series.name, '=sequence')} if "
            f"they name sequences of which each row is a step, or {value}"
        )


def new_columns(frame: Any, source: Source, like: Preprocessing, known: set[str | None]) -> tuple[Array, list[str]]:
    """Return the values of new rows in the columns of a model, (N, D), and notes about other columns.

    No note is made of the columns in `known`, which hold no values, such as the label.

    Raises:
        InputError: If a column is missing, or its values are of another kind than those of the training data.
    """
    names = dict.fromkeys(column.name for column in like.columns)
    others = [c for c in frame if c not in names]
    if missing := [c for c in names if c not in frame]:
        raise InputError(
            f"{source}: columns are missing: {listed([c + near(c, others) for c in missing])}; expected all columns "
            "with which the model was trained"
        )
    extra = [c for c in others if c not in known]
    notes = [f"these columns are left out, because the model was not trained on them: {listed(extra)}"] if extra else []
    values = []
    for column in like.columns:
        kind = KIND_OF[column.likelihood or like.spec.likelihood]
        values.append(_new_values(_plain(frame[column.name], source), column, kind, source))
    return np.stack(values, axis=1), notes


def _new_values(series: Any, column: Column, kind: ValueKind, source: Source) -> Array:
    """Return new values of a column as float64, with numbers from 0 for those of a binary or category column.

    `kind` is that of the likelihood of the column.
    """
    if not column.values:
        values = _numbers(series, source)
        _refuse_values(series, values, kind, source, "; the model was trained on such values")
        return values
    strange = ~(series.isna() | series.isin(column.values)).to_numpy(bool)
    if strange.any():
        row = int(strange.argmax())
        raise InputError(
            f"{source}: {_times.row_name(row, source, series.index)} has {series.tolist()[row]!r} in the column "
            f"{column.name}; the model was trained on the values {listed(list(map(repr, column.values)), 20)}, and "
            "expects one of them"
        )
    return _codes(series, column.values)


def _codes(series: Any, values: Sequence[Any]) -> Array:
    """Return the position in `values` of each value of a column as float64, and NaN where it is missing."""
    codes = np.full(len(series), np.nan)
    for code, value in enumerate(values):
        codes[series.isin([value]).to_numpy(bool)] = code
    return codes


def _refuse_values(series: Any, values: Array, kind: str, source: Source, ending: str) -> None:
    """Raise `InputError` if a column of the kind count or positive has other values."""
    if kind in EXPECTED and (is_bad := misfits(values, kind)).any():
        row = int(is_bad.argmax())
        raise InputError(
            f"{source}: {_times.row_name(row, source, series.index)} has {values[row]:g} in the column {series.name}, "
            f"which is of the kind {kind}; expected {EXPECTED[kind]}{ending}"
        )


def _plain(series: Any, source: Source) -> Any:
    """Return a column as a pandas Series of booleans, numbers or text.

    Raises:
        InputError: If it holds anything else, such as dates.
    """
    import pandas
    from pandas.api import types

    if isinstance(series.dtype, np.dtype) and series.dtype.kind in "biuf":
        return series
    if isinstance(series.dtype, pandas.SparseDtype):
        series = series.sparse.to_dense()
    if isinstance(series.dtype, pandas.CategoricalDtype | pandas.ArrowDtype):
        series = series.astype(object)
    if series.dtype == object:
        is_empty = series.isna().all()
        series = series.where(~series.isna(), np.nan).astype(np.float64) if is_empty else series.convert_dtypes()
    if series.dtype == object and types.infer_dtype(series) == "decimal":
        series = pandas.to_numeric(series)
    if series.dtype == object and series.dropna().map(lambda v: isinstance(v, str | int | float | np.number)).all():
        series = series.map(str, na_action="ignore").astype("string")  # text and numbers in one column
    if types.is_bool_dtype(series) or _is_text(series):
        return series
    if types.is_numeric_dtype(series) and not types.is_complex_dtype(series):
        return series
    kind = types.infer_dtype(series)
    if "date" in kind or "time" in kind or kind == "period":
        raise _date_error(series, source)
    raise InputError(
        f"{source}: the column {series.name} holds values of the type {kind}; expected numbers, booleans or text, or "
        f"{_without(series)}"
    )


def _column(series: Any, distinct: list[Any], kind: Kind | None, source: Source) -> tuple[Column, Array]:
    """Return the kind of a column of booleans, numbers or text, unless it is given, and its values as float64.

    `distinct` are its different values. Binary values and categories become numbers from 0. Missing values become NaN.
    """
    name, given = str(series.name), source.kind(str(series.name))
    option = f"--kind {shlex.quote(f'{name}={kind}')}"
    if kind in ("pixels", "sequence"):
        raise InputError(
            f"{source}: {option} does not apply to a column of values; expected real, positive, count, binary or "
            "category"
        )
    number = f"{source}: {option} does not fit the {len(distinct):,} different values of this column; expected"
    if kind == "binary" and len(distinct) != 2:
        raise InputError(f"{number} two")
    if kind == "category" and len(distinct) > CATEGORIES:
        raise InputError(f"{number} at most {CATEGORIES}")
    if _is_text(series) and (kind in ("real", "positive", "count") or (given is None and _is_dates(series))):
        raise _text_error(series, source)
    if kind in ("binary", "category") or (kind is None and len(distinct) == 2):
        values = tuple(int(v) if isinstance(v, float) and v.is_integer() else v for v in sorted(distinct))
        strange = [value for value in values if value in UNKNOWN]
        if strange and given is None:
            own = as_option("kind", name, f"={kind or 'binary'}")
            raise InputError(
                f"{source}: the column {name} holds {strange[0]!r}, which may stand for a missing value; expected an "
                f"empty field there, or {own} if it is a value like the others, or {as_option('drop', name)}"
            )
        return Column(name, kind or "binary", values), _codes(series, values)
    numbers = _numbers(series, source)
    _refuse_values(series, numbers, str(kind), source, f", or {as_option('kind', name, '=real')}")
    if kind is None:
        kind = "count" if _are_counts(numbers[~np.isnan(numbers)]) else "real"
    return Column(name, kind), numbers


def _are_counts(values: Array) -> bool:
    """Whether numbers are whole, at least 0, not very large, and vary at least about as much as counts do.

    The variance of counts is at least about their mean, as in a Poisson distribution. The variance of years, or of
    ratings from 1 to 5, is smaller than their mean.
    """
    if not (values >= 0).all() or (values != np.floor(values)).any() or values.max(initial=0) > LARGEST_COUNT:
        return False
    return bool(values.var() >= values.mean() / 2) if len(values) else False


def numbers_of(series: Any, source: Source) -> Array:
    """Return a column of any type as float64, with NaN for missing values; `InputError` if it holds no numbers."""
    return _numbers(_plain(series, source), source)


def _numbers(series: Any, source: Source) -> Array:
    """Return a column of numbers or booleans as float64, with NaN for missing values."""
    from pandas.api import types

    if _is_text(series):
        raise _text_error(series, source)
    values: Array = series.to_numpy(np.float64, na_value=np.nan)
    infinite = np.isinf(values)
    if infinite.any():
        where = _times.row_name(int(infinite.argmax()), source, series.index)
        raise InputError(
            f"{source}: the column {series.name} has {infinite.sum()} infinite values, the first in {where}; expected "
            f"finite numbers, or {_without(series)}"
        )
    if types.is_integer_dtype(series) and (np.abs(values) > 2**53).any():
        raise InputError(
            f"{source}: the column {series.name} has whole numbers beyond 2**53, which float64 cannot tell apart; "
            f"subtract a constant from them, or train {_without(series)}"
        )
    return values


def _text_error(series: Any, source: Source) -> InputError:
    """Return the error that says why a column of text is not a column of numbers."""
    import pandas

    if _is_dates(series):
        return _date_error(series, source)
    is_bad = series.notna() & pandas.to_numeric(series, errors="coerce").isna()
    row = int((is_bad if is_bad.any() else series.notna()).to_numpy(bool).argmax())
    return InputError(
        f"{source}: the column {series.name} holds text where numbers are expected, the first in "
        f"{_times.row_name(row, source, series.index)}: {series.iloc[row]!r}; write numbers as 1234.5, without "
        f"marks or units, and leave the field of a missing value empty, or train {_without(series)}, or a model "
        f"that reads this column as categories ({as_option('kind', series.name, '=category')})"
    )


def _date_error(series: Any, source: Source) -> InputError:
    of_series = {*OF_SEQUENCES, "wide"} & set(source.options) or "sequence" in dict(source.kinds).values()
    use = "if it is the time of each step"
    if not of_series:
        use = (
            "which can order the rows for a split, or the steps of time series (--window N if all rows are one series, "
            "--kind COLUMN=sequence if a column names the series of each row, or --wide if each other column is one)"
        )
    return InputError(
        f"{source}: the column {series.name} holds dates or times such as {series.dropna().iloc[0]}; expected "
        f"{as_option('time', series.name)}, {use}, or {_without(series)}"
    )


def _is_text(series: Any) -> bool:
    from pandas.api import types

    return not isinstance(series.dtype, np.dtype) and bool(types.is_string_dtype(series.dtype))


def _is_dates(series: Any) -> bool:
    known = series.dropna().drop_duplicates()[:100]
    return len(known) > 0 and bool(known.str.fullmatch(DATE).all())


def _is_category(series: Any, dtype: Any) -> bool:
    """Whether a column with more than two values is of the type of categories, or has text other than numbers."""
    import pandas

    if isinstance(dtype, pandas.CategoricalDtype):
        return True
    return _is_text(series) and bool(series.dropna().str.fullmatch(WITH_DIGITS).mean() < 0.5) and not _is_dates(series)


def _is_row_number(series: Any, distinct: Any) -> bool:
    """Whether a column counts the rows from 0 or from 1."""
    if _is_text(series) or not 1 < len(distinct) == len(series) or distinct[0] not in (0, 1):
        return False
    return bool((distinct == distinct[0] + np.arange(len(distinct))).all())


def _looks_like_label(series: Any, frame: Any) -> bool:
    """Whether a column has the name of a label. A column y of real numbers beside a column x is a coordinate."""
    name = re.sub(r"[\W_]", "", str(series.name)).lower()
    if name == "y" and any(str(c).lower() == "x" for c in frame):
        return not _is_text(series) and bool((series.dropna() % 1 == 0).all())
    words = re.split(r"[\W_]+", str(series.name).lower())
    return name in LABELS or "label" in words or words[-1] in ("target", "class", "outcome", "diagnosis")


def exposure(frame: Any, column: str, source: Source) -> Array:
    """Return the column of exposures, (N,). Raises `InputError` if there is none, or a value is not above 0."""
    series = _plain(find(frame, column, "exposure", source), source)
    values = _numbers(series, source)
    if not (values > 0).all():
        row = int((~(values > 0)).argmax())
        value = "no value" if np.isnan(values[row]) else f"{values[row]:g}"
        raise InputError(
            f"{source}: {_times.row_name(row, source, series.index)} has {value} in the column {column}; expected an "
            "exposure above 0 in each row, to which its counts are proportional, or another --exposure"
        )
    return values


def _looks_like_identifier(series: Any, distinct: Any) -> bool:
    """Whether a column of text or whole numbers has the name of an identifier, or rises by one from row to row."""
    from pandas.api import types

    name = str(series.name)
    is_named = bool(IDENTIFIER.search(name)) or (name.startswith("Unnamed: ") and series.is_unique)
    if _is_text(series) or types.is_bool_dtype(series):
        return _is_text(series) and is_named
    with np.errstate(invalid="ignore"):  # infinite values are refused later
        if not (distinct % 1 == 0).all():
            return False
    return is_named or (len(distinct) == len(series) >= MINIMUM and bool((series.diff()[1:] == 1).all()))


def _without(series: Any) -> str:
    """Return words, with the option, for a model that leaves a column out."""
    return f"a model without this column ({as_option('drop', series.name)})"
