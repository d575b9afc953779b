"""A description of what was understood of a data set, for people to check before any work starts."""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console, Group
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from pipeline.data._catalogue import CATALOGUE
from pipeline.data._preprocessing import Preprocessing
from pipeline.data._raw import Raw
from pipeline.data._source import Source
from pipeline.data._splits import PARTS, listed
from variants import Batch
from variants.base.contract import KIND_OF

HEAD, TAIL = 16, 4  # the first and last columns or classes that a table shows; the others are counted
WIDTH = 100  # characters of a line of text
NEAR = 0.01  # examples are near if their distance is less than this share of the median distance
JUMP = 20.0  # the distance to the next other example is at least this many times as large
ROUNDING = 1e-12  # share of the largest squared length below which a squared distance is 0
SUSPICIOUS = 0.15  # share of near test examples at which a warning is given
TEST_ROWS, TRAIN_ROWS, VALUES = 100, 100_000, 20_000_000  # most examples that are compared, and training values
PROJECTED = 64  # dimensions to which longer examples are projected at random, which keeps distances


@dataclass(frozen=True, kw_only=True)
class ColumnSummary:
    """A column of a table, or a channel of sequences, in the units of the source.

    A column of categories has no `low`, `high`, `mean` and `deviation`, which are NaN.
    """

    name: str
    kind: str
    likelihood: str  # empty if all columns have that of the whole
    missing: float  # share of all values
    low: float
    high: float
    mean: float
    deviation: float  # standard deviation
    values: tuple[Any, ...] = ()  # of a binary column, or the categories
    shares: tuple[float, ...] = ()  # the share of each of these values among the known values of the column


@dataclass(frozen=True, kw_only=True)
class Description:
    """What was understood of a data set."""

    name: str
    source: Source
    noun: str  # what the examples are called: rows, images or sequences
    extent: str  # their number and size
    column_names: tuple[str, ...]
    columns: tuple[ColumnSummary, ...]  # the first and the last ones, if there are many
    classes: tuple[tuple[str, tuple[int, ...]], ...]  # the name of each, and its number of examples in each split
    facts: tuple[tuple[str, str], ...]  # what is known of labels, groups and times
    likelihood: str
    why: str  # a clause
    sizes: tuple[int, ...]  # of training, validation and test
    division: str  # a clause that says how the examples were split
    notes: tuple[str, ...]  # see `Raw`
    warnings: tuple[str, ...]  # see `Raw`
    options: tuple[tuple[str, str], ...]  # that would change any of this, and what each does

    def summary(self) -> list[str]:
        """Return the most important facts, all notes and all warnings, as lines of plain text."""
        sizes = listed([f"{size:,} for {part}" for size, part in zip(self.sizes, PARTS, strict=True)])
        facts = "; ".join(f"{name}: {fact}" for name, fact in self.facts)
        place = "" if self.name == self.source.place else f" ({self.source})"
        columns = f" ({listed(self.column_names, 10)})" if self.column_names else ""
        return [
            f"{self.name}{place}: {self.extent}{columns}",
            *([facts] if facts else []),
            f"likelihood: {self._likelihood()}",
            f"splits: {sizes}, {self.division}",
            *(f"note: {note}" for note in self.notes),
            *(f"warning: {warning}" for warning in self.warnings),
        ]

    def _likelihood(self) -> str:
        return self.likelihood + (f", because {self.why}" if self.why else "")

    def page(self) -> Group:
        """Return everything as an object that `rich` prints."""
        facts = Table.grid(padding=(0, 2))
        facts.add_column(no_wrap=True)
        facts.add_column(overflow="fold")
        rows = [("data set", self.name), ("source", str(self.source)), ("contents", self.extent), *self.facts]
        for name, fact in [*rows, ("likelihood", self._likelihood()), ("splits", self.division)]:
            facts.add_row(name, Text(fact))
        parts: list[Any] = [facts, self._split_table()]
        if self.columns:
            parts.append(self._column_table())
        if categories := [column for column in self.columns if column.kind == "category"]:
            parts.append(_category_table(categories, self._column_noun))
        for heading, clauses in (("notes", self.notes), ("warnings", self.warnings)):
            if clauses:
                parts += [Text(f"\n{heading}"), *(Padding(Text(f"- {clause}"), (0, 0, 0, 2)) for clause in clauses)]
        if self.options:
            options = Table.grid(padding=(0, 2))
            options.add_column(no_wrap=True)
            options.add_column()
            for option, about in self.options:
                options.add_row(Text(f"  {option}"), Text(about))
            parts += [Text("\noptions that change this"), options]
        return Group(*parts)

    def text(self) -> str:
        """Return the page as plain text."""
        stream = io.StringIO()
        Console(file=stream, width=WIDTH, color_system=None).print(self.page(), highlight=False)
        return "\n".join(line.rstrip() for line in stream.getvalue().splitlines()) + "\n"

    @property
    def _column_noun(self) -> str:
        return "channel" if self.noun in ("sequences", "windows") else "column"

    def _split_table(self) -> Table:
        """Return the sizes of the splits, in all and of each class."""
        table = Table("class" if self.classes else "", title=f"\n{self.noun} in each split", title_justify="left")
        for heading in (*PARTS, "all"):
            table.add_column(heading, justify="right")
        shown = _shown(len(self.classes))
        for number, (name, counts) in enumerate(self.classes[i] for i in shown):
            if number == HEAD and len(shown) < len(self.classes):
                table.add_row(_more(len(self.classes), "classes"))
            table.add_row(Text(name), *(f"{n:,}" for n in (*counts, sum(counts))))
        table.add_section()
        table.add_row("all", *(f"{n:,}" for n in (*self.sizes, sum(self.sizes))))
        return table

    def _column_table(self) -> Table:
        """Return the kind and the range of the values of each column, its likelihood, and the share that is missing."""
        noun = self._column_noun
        table = Table(title=f"\nvalues of each {noun}, in all splits", title_justify="left")
        is_mixed, is_missing = any(c.likelihood for c in self.columns), any(c.missing for c in self.columns)
        for heading in (noun, "kind", *["likelihood"] * is_mixed):
            table.add_column(heading)
        for heading in (*["missing"] * is_missing, "lowest", "mean", "highest", "deviation"):
            table.add_column(heading, justify="right")
        for number, column in enumerate(self.columns):
            if number == HEAD and len(self.columns) < len(self.column_names):
                table.add_row(_more(len(self.column_names), f"{noun}s"))
            statistics = (column.low, column.mean, column.high, column.deviation)
            numbers = ["" if np.isnan(n) else f"{n:.5g}" for n in statistics]
            if column.kind == "binary":  # its two values, and how often the second one occurs
                low, high = (str(value) for value in column.values)
                numbers = [low, f"{column.shares[1]:.0%} {high}", high, ""]
            texts = [column.name, column.kind, *[column.likelihood] * is_mixed]
            texts += [*[_percent(column.missing)] * is_missing, *numbers]
            table.add_row(*map(Text, texts))
        return table


def _category_table(columns: list[ColumnSummary], noun: str) -> Table:
    """Return the categories of each column, the most frequent one first, with the share of each."""
    table = Table(noun, "number", "categories, with their shares", title="\ncategories", title_justify="left")
    for column in columns:
        pairs = sorted(zip(column.shares, map(str, column.values), strict=True), key=lambda pair: -pair[0])
        names = [f"{value} ({_percent(share)})" for share, value in pairs]
        table.add_row(Text(column.name), str(len(names)), Text(listed(names, 10)))
    return table


def _percent(share: float) -> str:
    """Return a share in percent, such as 12%, but never 0% if it is above 0."""
    return f"{share:.0%}" if share == 0 or share >= 0.005 else "<1%"


def describe(raw: Raw, splits: list[torch.Tensor], whole: Raw | None = None) -> Description:
    """Describe a data set that was read and split. If `raw` has only some examples, `whole` has all labels."""
    whole = whole or raw
    indices = [i.numpy() for i in splits]
    return Description(
        name=raw.name, source=raw.source, noun=raw.noun, extent=_extent(raw, len(whole.x)),
        column_names=tuple(c.name for c in raw.columns), columns=tuple(_columns(raw)),
        classes=tuple(_classes(whole, indices)), facts=tuple(_facts(raw, whole)), likelihood=raw.likelihood,
        why=raw.why, sizes=tuple(map(len, indices)), division=raw.division, notes=raw.notes, warnings=raw.warnings,
        options=tuple(_options(raw)),
    )  # fmt: skip


def near_duplicates(train: Batch, test: Batch) -> float:
    """Return the share of test examples that equal a training example except for a little noise.

    Such an example has training examples at less than 1% of the median distance, and the next ones are at least 20
    times as far away. The second condition excludes examples that are near only because there are many of them, such as
    points on a surface. At most 100 test and 100,000 training examples are compared.
    """
    values = int(np.prod(train.x.shape[1:]))
    if values < 4:
        return 0.0
    rng = np.random.default_rng(0)
    projection = None if values <= PROJECTED else rng.normal(size=(values, PROJECTED)).astype(np.float32)
    chosen = []
    for split, most in ((train, min(TRAIN_ROWS, max(2000, VALUES // values))), (test, TEST_ROWS)):
        index = torch.from_numpy(np.sort(rng.permutation(len(split))[:most]))
        x = split.x[index.to(split.x.device)].flatten(1).cpu().numpy()
        chosen.append((x if projection is None else x.astype(np.float32) @ projection).astype(np.float64))
    near, far = chosen[1], chosen[0]
    squares = (near**2).sum(1)[:, None] + (far**2).sum(1) - 2 * near @ far.T
    limit, rounding = NEAR**2 * np.median(squares), ROUNDING * (near**2).sum(1).max()
    count = 0
    for row in squares[(squares < limit).any(1)]:
        distances = np.sort(row[(row > rounding) & (row < JUMP**2 * limit)])
        jumps = np.append(distances[1:], np.inf) > JUMP**2 * distances
        count += bool((jumps & (distances < limit)).any())
    return count / len(near)


def near_duplicate_warning(train: Batch, test: Batch, preprocessing: Preprocessing) -> str:
    """Return a warning if many test examples are nearly equal to training examples, and otherwise an empty text."""
    share = near_duplicates(train, test)
    if share < SUSPICIOUS:
        return ""
    if preprocessing.source.group:
        advice = f"the groups of {preprocessing.source.group} do not keep them apart"
    elif preprocessing.columns:
        advice = (
            "if several come from one patient, device or recording, name the column that says which one with --group"
        )
    else:
        advice = (
            "if several come from one original or recording, use examples from others as the test split with --test"
        )
    return (
        f"{share:.0%} of the test examples have a training example nearer than {NEAR:.0%} of the median distance, so "
        f"they are nearly equal, and scores on the test split say little about new data; {advice}"
    )


def _shown(n: int) -> list[int]:
    """Return which of `n` rows a table shows: all, or the first and the last ones if there are many."""
    return list(range(n)) if n <= HEAD + TAIL + 1 else [*range(HEAD), *range(n - TAIL, n)]


def _more(n: int, what: str) -> str:
    return f"... {n - HEAD - TAIL:,} more {what}"


def _extent(raw: Raw, examples: int) -> str:
    number = f"{examples:,} {raw.noun}"
    if raw.lengths is not None:
        lengths = raw.lengths if raw.windows is None else raw.windows.lengths
        low, high = lengths.min(), lengths.max()
        steps = f"{low:,}" if low == high else f"{low:,} to {high:,}"
        what = "symbols" if raw.likelihood == "categorical" else "channel" if raw.x.shape[2] == 1 else "channels"
        noun = "sequence" if len(lengths) == 1 else "sequences"
        extent = f"{len(lengths):,} {noun} of {steps} steps, {raw.x.shape[2]:,} {what}"
        return extent + (f", cut into {number} of {raw.x.shape[1]:,} steps" if raw.windows else "")
    if raw.x.ndim == 4:
        _, channels, height, width = raw.x.shape
        colours = {1: "1 channel", 3: "3 channels (colour)", 4: "4 channels (colour and alpha)"}
        return f"{number} of {height}x{width} pixels (height x width), {colours.get(channels, f'{channels} channels')}"
    return f"{number} with {raw.x.shape[1]:,} {'column' if raw.x.shape[1] == 1 else 'columns'}"


def _columns(raw: Raw) -> Iterator[ColumnSummary]:
    """Yield a summary of each column of a table, or of each channel of sequences; nothing for images and symbols."""
    if not raw.columns or raw.x.ndim == 4 or raw.likelihood == "categorical":
        return
    x, known = raw.x, raw.known
    if raw.lengths is not None:
        x, known = x[raw.mask], None if known is None else known[raw.mask]
    for i in _shown(len(raw.columns)):
        column, values = raw.columns[i], x[:, i].astype(np.float64)
        if known is not None:
            values = values[known[:, i]]
        counts = np.bincount(values.astype(np.int64), minlength=len(column.values)) if column.values else np.zeros(0)
        numbers = [np.nan] * 4
        if column.kind != "category" and len(values):
            numbers = [float(number) for number in (values.min(), values.max(), values.mean(), values.std())]
        yield ColumnSummary(
            name=column.name, kind=column.kind, likelihood=column.likelihood, missing=1 - len(values) / len(x),
            low=numbers[0], high=numbers[1], mean=numbers[2], deviation=numbers[3], values=column.values,
            shares=tuple((counts / max(1, counts.sum())).tolist()),
        )  # fmt: skip


def _classes(raw: Raw, indices: list[NDArray[np.int64]]) -> Iterator[tuple[str, tuple[int, ...]]]:
    if raw.y is None:
        return
    counts = np.array([np.bincount(raw.y[i] + 1, minlength=len(raw.class_names) + 1) for i in indices])
    for name, of_class in zip(raw.class_names, counts.T[1:].tolist(), strict=True):
        yield str(name), tuple(of_class)
    if counts[:, 0].any():
        yield "(unknown)", tuple(counts[:, 0].tolist())


def _facts(raw: Raw, whole: Raw) -> Iterator[tuple[str, str]]:
    source = raw.source
    if whole.y is not None:
        counts = np.bincount(whole.y[whole.y >= 0], minlength=len(raw.class_names))
        names = [f"{name} ({count:,})" for name, count in zip(raw.class_names, counts, strict=True)]
        column = f"column {source.label}, " if source.label else ""
        yield "label", f"{column}{len(names)} classes: {listed(names, 10)}"
    if whole.groups is not None:
        yield "group", f"{f'column {source.group}, ' if source.group else ''}{len(np.unique(whole.groups)):,} groups"
    if source.time or raw.step:
        facts = [f"column {source.time}" if source.time else "", f"a step is {raw.step}" if raw.step else ""]
        facts += ["the times are given to the networks"] if raw.elapsed is not None else []
        yield "time", ", ".join(filter(None, facts))
    if raw.exposure_kind:
        exposure = raw.exposure
        assert exposure is not None
        what = f"column {source.exposure}" if raw.exposure_kind == "column" else "the sum of the counts"
        yield "exposure", f"{what}, from {exposure.min():,.6g} to {exposure.max():,.6g}"
    if (known := raw.known) is not None:
        if raw.lengths is not None:
            known = known[raw.mask]
        values, axes = known.size, tuple(range(known.ndim - 1))
        text = f"{values - known.sum():,} of {values:,} ({_percent(1 - known.mean())})"
        if raw.columns and raw.x.ndim != 4:
            incomplete = int((~known.all(axes)).sum())
            text += (
                f", in {incomplete:,} of {len(raw.columns):,} {'channels' if raw.lengths is not None else 'columns'}"
            )
        yield "missing values", f"{text}; they do not count in the likelihood"


def _options(raw: Raw) -> Iterator[tuple[str, str]]:
    """Yield the options of the commands that apply to a data set and were not given, each with what it does."""
    if raw.source.place in CATALOGUE:
        if raw.splits is None:
            yield "--split-seed N", "draw another random split"
        return
    table = bool(raw.columns) and (raw.lengths is None or raw.rows is not None)
    has_facts = table and not raw.source.wide  # such as labels, which belong to rows
    has_counts = table and raw.lengths is None and any(c.kind == "count" for c in raw.columns)
    images, sequences = raw.x.ndim == 4, raw.lengths is not None
    has_times, is_array = raw.time_unit is not None, raw.pixels is not None and not raw.source.path.is_dir()
    choices = {
        "--label COLUMN": (has_facts and raw.y is None, "the column that holds the class"),
        "--group COLUMN": (has_facts, "the column that says which rows belong together, such as those of one patient"),
        "--time COLUMN": (table, "the column that holds the time"),
        "--drop COLUMNS": (table, "leave columns out"),
        "--kind COLUMN=KIND": (table, "what a column holds: real, positive, count, binary or category"),
        "--exposure sum|none|COLUMN": (
            has_counts,
            "what the means of counts are proportional to: the sum of the row, nothing, or a column",
        ),
        "--kind x=sequence": (
            (is_array and raw.pixels is not None and raw.pixels.channel_axis == "none")
            or (raw.width > 0 and not sequences),
            f"read the array x {'(N, T, D)' if images else '(N, T)'} as sequences, not as {raw.noun}",
        ),
        "--kind symbols": (
            sequences and any("--kind symbols" in note for note in raw.notes),
            "read whole numbers as symbols without an order, such as letters",
        ),
        "--step STEP": (
            has_times and raw.elapsed is None,
            "put sequences on a grid of even steps, such as 1h; or rows",
        ),
        "--time-as-input": (has_times and not raw.source.step, "give the times of the steps to the networks"),
        "--window N": (sequences, "cut sequences into windows of N steps"),
        "--stride M": (raw.windows is not None, "start a window every M steps"),
        "--size HxW": (images, "resize and crop images to one height and width"),
        "--alpha white|black|keep": (images and raw.x.shape[1] in (2, 4), "the colour behind transparent pixels"),
        "--likelihood NAME": (True, _likelihoods(raw)),
        "--test NAME|PATH": (raw.splits is None, "use other data of the same kind as the test split"),
        "--split random|group|time": (True, "how the examples are split"),
        "--split-seed N": (raw.division.startswith("at random"), "draw another random split"),
    }
    given = raw.source.option_names
    for option, (applies, about) in choices.items():
        if applies and (option.split()[0] not in given or option.startswith("--drop")):
            yield option, about


def _likelihoods(raw: Raw) -> str:
    """Return which likelihoods `--likelihood` can choose for a data set."""
    if raw.x.ndim == 4:
        return "p(x|z) of a pixel: bernoulli, logistic8, mixture8, continuous-bernoulli (from 0 to 1) or gaussian"
    kinds = {column.kind for column in raw.columns}
    families = ", ".join(family for family in KIND_OF if KIND_OF[family] in kinds)
    if raw.likelihood == "mixed":
        return f"p(x|z) of the columns of one kind: {families}; gaussian makes all columns continuous"
    return f"p(x|z) of a value: {families}{'' if 'real' in kinds else ', or gaussian, for continuous values'}"
