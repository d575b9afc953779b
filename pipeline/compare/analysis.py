"""Turns the scores of finals into leaderboards, verdicts on every pair of variants, and conclusions in sentences."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Literal

import numpy as np
import pandas as pd

from pipeline import metrics
from pipeline.compare import formats, statistics
from pipeline.compare.criteria import ROWS, Criterion, Trivial
from pipeline.compare.formats import in_unit, probability_in_words
from pipeline.compare.statistics import Array, Chances, Mean, Verdict

BETTER, WORSE = "better than", "no better than"
NOT_CLEARLY = "not clearly better than"  # better by less than the error allows to say
NOT_KNOWN = "not known to be better than"  # with the better mean, and an unknown error
TRIVIAL_NOTES = (f"{WORSE} trivial", f"{NOT_CLEARLY} trivial")  # begin the notes of variants that are called trivial
NOT_KNOWN_NOTE = f"{NOT_KNOWN} trivial"
Rows = Mapping[str, Array]  # column -> (N,), the scores of the test examples of a final


@dataclass(frozen=True, kw_only=True)
class Design:
    """What was repeated.

    Args:
        unit: "repetition" if the split, the search and the training were; "seed" if only the training was.
        asked: The number of repetitions, or of seeds.
        overlap: The number of test examples divided by that of training examples if each repetition has its own split;
            None if all of them share one split.
    """

    unit: Literal["seed", "repetition"]
    asked: int
    overlap: float | None = None

    def count(self, n: int) -> str:
        """Return a number of units in words, such as `5 repetitions`."""
        return f"{n} {self.unit}{'s' * (n != 1)}"


@dataclass(frozen=True, kw_only=True)
class BoardRow:
    """The score of one variant, or of something trivial, in the metric's own unit.

    If there is no `mean`, `reason` says why. `notes` are clauses that belong beside the score, such as "no better than
    trivial (raw values: 0.93 ± 0.01)", and `remarks` are sentences about `related` metrics. `beats_trivial` is whether
    it exceeds each trivial model in all units that were asked for, with the probability `PROBABLE`; it is False where
    this is not known.
    """

    name: str
    mean: Mean | None = None
    related: Mapping[str, Mean] = field(default_factory=dict)
    reason: str = ""
    notes: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    beats_trivial: bool = False


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two variants, of which `first` has the better mean over the units that both have.

    Args:
        first: The variant with the better mean.
        second: The other one.
        difference: How much better the first one is, so its mean is not negative.
        interval: The interval of the difference; those of all pairs of a board hold at once.
        chances: The probabilities that the first one is better, practically equal or worse; None without an error.
        verdict: The verdict on the first variant.
        needed: For an undecided pair, the number of units that would probably decide it; None if they would not.
        reason: Why there can be no verdict; otherwise empty.
    """

    first: str
    second: str
    difference: Mean
    interval: tuple[float, float]
    chances: Chances | None
    verdict: Verdict
    needed: int | None = None
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Board:
    """The leaderboard of one criterion. `examples` says in words on how many test examples each unit was scored."""

    criterion: Criterion
    design: Design
    rows: list[BoardRow]  # the best first, and those without a score last
    trivial: list[BoardRow]  # the best first
    pairs: list[Pair]
    conclusions: list[str]  # sentences
    examples: str = ""

    def verdicts(self, variant: str) -> dict[str, Verdict]:
        """Return the verdict on a variant against each other one."""
        opposite: dict[Verdict, Verdict] = {"better": "worse", "worse": "better"}
        ahead = {p.second: p.verdict for p in self.pairs if p.first == variant}
        return ahead | {p.first: opposite.get(p.verdict, p.verdict) for p in self.pairs if p.second == variant}


@dataclass(frozen=True)
class _Scores:
    """The scores of a variant by unit, with higher ones better, and those of the test examples if they were kept."""

    values: "pd.Series[float]"
    rows: Mapping[int, Array]

    def of(self, units: Sequence[int]) -> tuple[Array, list[Array] | None]:
        rows = [self.rows[unit] for unit in units] if all(unit in self.rows for unit in units) else None
        return self.values.loc[list(units)].to_numpy(dtype=float), rows

    def mean(self, design: Design, units: Sequence[int] | None = None) -> Mean | None:
        """Return the mean over units, by default over all; None if there is none."""
        chosen = list(self.values.index) if units is None else list(units)
        return statistics.mean(*self.of(chosen), overlap=design.overlap) if chosen else None


def board(
    criterion: Criterion,
    finals: pd.DataFrame,
    rows: Mapping[str, Rows],
    design: Design,
    *,
    reasons: Mapping[str, str] | None = None,
    notes: Mapping[str, Sequence[str]] | None = None,
    examples: str = "",
) -> Board:
    """Rank the variants by one criterion.

    Args:
        criterion: The criterion.
        finals: One row for each run: run, variant, unit, state, reason, and a column for each metric. Several runs of
            one variant and unit are averaged.
        rows: The scores of the test examples of each run, by the id of the run.
        design: What was repeated.
        reasons: For each variant that is missing in `finals`, the reason.
        notes: Clauses on variants that belong beside their scores.
        examples: On how many test examples each unit was scored, in words; empty if this is not known.

    Raises:
        KeyError: The scores of the test examples of a run were kept, but those of a metric in `ROWS` are not among
            them.
    """
    scores: dict[str, _Scores] = {}
    without_score = []
    failed = {str(v): runs for v, runs in finals[finals["state"] != "complete"].groupby("variant")}
    for variant, runs in finals.groupby("variant", sort=True):
        own = _scores(runs, criterion.test_metric, rows, criterion.sign)
        if len(own.values):
            scores[str(variant)] = own
            continue
        problem = failed.get(str(variant))
        reason = "undefined for this variant" if problem is None else f"all finals failed: {problem['reason'].iloc[0]}"
        without_score.append(BoardRow(name=str(variant), reason=reason))
    without_score += [BoardRow(name=name, reason=reason) for name, reason in (reasons or {}).items()]
    order = sorted(scores, key=lambda name: -float(scores[name].values.mean()))
    trivial = [t for t in criterion.trivial if t.metric in finals and finals[t.metric].notna().any()]
    failures = {n: _failures(runs, finals[finals["variant"] == n]) for n, runs in failed.items()}
    ranked, clauses = [], {}
    for name in order:
        runs = finals[finals["variant"] == name]
        mean = scores[name].mean(design)
        assert mean is not None
        clauses[name], beats_trivial = _against_trivial(criterion, scores[name], runs, rows, trivial, design)
        lost = [f"{failures[name]} failed"] if name in failures else []
        row = BoardRow(
            name=name,
            mean=statistics.scaled(mean, criterion.sign),
            related={m: of for m in criterion.related_metrics if (of := mean_of(runs, m, rows, design)) is not None},
            remarks=tuple(_remarks(criterion, runs, rows, design)),
            notes=(*filter(None, [clauses[name]]), *lost, *(notes or {}).get(name, ())),
            beats_trivial=beats_trivial and name not in failures,
        )
        ranked.append(row)
    pairs = _pairs(scores, failures, criterion.matters, design)
    return Board(
        criterion=criterion, design=design, rows=[*ranked, *without_score], pairs=pairs, examples=examples,
        trivial=_trivial_rows(finals, rows, trivial, criterion.sign, design),
        conclusions=[
            *_conclusions(order, pairs, criterion, design),
            *(f"{name} is {clause}." for name, clause in clauses.items() if clause),
        ],
    )  # fmt: skip


def _scores(runs: pd.DataFrame, metric: str, rows: Mapping[str, Rows], sign: float) -> _Scores:
    column = ROWS.get(metric)
    scored = runs[runs[metric].notna()] if metric in runs else runs.iloc[:0]
    values = sign * scored.groupby("unit")[metric].mean() if len(scored) else pd.Series(dtype=float)
    by_unit: dict[int, list[Array]] = {}
    for unit, run in zip(scored["unit"], scored["run"], strict=True):
        own = rows[run][column] if column and run in rows else None
        by_unit.setdefault(int(unit), []).append(np.empty(0) if own is None else sign * own[~np.isnan(own)])
    means = {u: np.mean(each, axis=0) for u, each in by_unit.items() if min(map(len, each)) > 1}
    return _Scores(values, means)


def mean_of(runs: pd.DataFrame, metric: str, rows: Mapping[str, Rows], design: Design) -> Mean | None:
    """Return the mean of a metric over the units of some runs, in its own sign; None if it is defined for none of them.

    If the units share one split, its error contains that over test examples for the metrics in `ROWS` only.
    """
    return _scores(runs, metric, rows, 1.0).mean(design)


def _remarks(criterion: Criterion, runs: pd.DataFrame, rows: Mapping[str, Rows], design: Design) -> Iterator[str]:
    """Yield a sentence on each related metric that has a trivial model of its own."""
    for metric, trivial in criterion.related_trivial.items():
        sign = -1.0 if metrics.find(metric).better == "minimize" else 1.0
        own = _scores(runs, metric, rows, sign)
        mean, against = own.mean(design), _against(own, runs, rows, trivial, sign, design)
        if mean is None or against is None:
            continue
        unit = metrics.find(metric).unit
        score = in_unit(formats.number(statistics.scaled(mean, sign)), unit)
        other = in_unit(formats.number(statistics.scaled(against.mean, sign)), unit)
        yield f"Its {metric} is {score}, which is {against.words} {trivial.title} ({other})."


def _trivial_rows(
    finals: pd.DataFrame, rows: Mapping[str, Rows], trivial: Sequence[Trivial], sign: float, design: Design
) -> list[BoardRow]:
    """Return the scores of trivial models, the best first; of those that differ between variants, the best score."""
    by_variant = [runs for _, runs in finals.groupby("variant")]
    result = []
    for t in trivial:
        means = [_scores(runs, t.metric, rows, sign * t.factor).mean(design) for runs in by_variant]
        best = max((mean for mean in means if mean is not None), key=lambda mean: mean.value)
        result.append((best.value, BoardRow(name=t.title, mean=statistics.scaled(best, sign))))
    return [row for _, row in sorted(result, key=lambda pair: -pair[0])]


def _against_trivial(
    criterion: Criterion, own: _Scores, runs: pd.DataFrame, rows: Mapping[str, Rows], trivial: Sequence[Trivial],
    design: Design,
) -> tuple[str, bool]:  # fmt: skip
    """Return a note such as "no better than trivial (raw values: 0.93 ± 0.01)", and `BoardRow.beats_trivial`.

    The note names the best of the trivial models that the variant does not exceed with the probability `PROBABLE`. It
    is empty if the variant exceeds all of them.
    """
    if "conditioned_on" in runs and (runs["conditioned_on"] == "x").any():
        return "", False  # its score is of a part of the example, and does not compare
    each = {t.title: _against(own, runs, rows, t, criterion.sign, design) for t in trivial}
    compared = {title: against for title, against in each.items() if against is not None}
    beats = bool(each) and all(a is not None and a.units >= design.asked and a.words == BETTER for a in each.values())
    unbeaten = [(a.words != NOT_KNOWN, a.mean.value, title, a) for title, a in compared.items() if a.words != BETTER]
    if not unbeaten:
        return "", beats
    _, _, title, worst = max(unbeaten, key=lambda found: found[:3])
    score = in_unit(formats.number(statistics.scaled(worst.mean, criterion.sign)), criterion.unit)
    return f"{worst.words} trivial ({title}: {score})", False


@dataclass(frozen=True, kw_only=True)
class _Against:
    """How a variant compares with a trivial model: in words, the mean of the model, and the number of their units."""

    words: str
    mean: Mean
    units: int


def _against(
    own: _Scores, runs: pd.DataFrame, rows: Mapping[str, Rows], trivial: Trivial, sign: float, design: Design
) -> _Against | None:
    """Compare a variant with a trivial model; None if no unit has scores of both."""
    other = _scores(runs, trivial.metric, rows, sign * trivial.factor)
    units = [u for u in own.values.index if u in other.values.index]
    mean = other.mean(design, units)
    if mean is None:
        return None
    difference = _difference(own, other, units, design)
    chances = difference.chances(0.0)
    if difference.value <= 0:
        words = WORSE
    elif chances is None:
        words = NOT_KNOWN
    else:
        words = BETTER if chances.better >= statistics.PROBABLE else NOT_CLEARLY
    return _Against(words=words, mean=mean, units=len(units))


def _failures(failed: pd.DataFrame, runs: pd.DataFrame) -> str:
    return f"{len(failed)} of {len(runs)} finals"


def _difference(a: _Scores, b: _Scores, units: Sequence[int], design: Design) -> Mean:
    """Return the mean difference of two variants, in pairs of units, and of test examples where they are known."""
    (x, of_x), (y, of_y) = a.of(units), b.of(units)
    rows = None
    if of_x and of_y and all(len(p) == len(q) for p, q in zip(of_x, of_y, strict=True)):
        rows = [p - q for p, q in zip(of_x, of_y, strict=True)]
    return statistics.mean(x - y, rows, overlap=design.overlap)


def _pairs(scores: Mapping[str, _Scores], failures: Mapping[str, str], matters: float, design: Design) -> list[Pair]:
    """Return each pair of variants that have scores of a common unit."""
    pairs = []
    level = statistics.simultaneous_level(len(scores) * (len(scores) - 1) // 2)
    for first, second in combinations(scores, 2):
        units = sorted(set(scores[first].values.index) & set(scores[second].values.index))
        if not units:
            continue
        difference = _difference(scores[first], scores[second], units, design)
        if difference.value < 0:
            first, second, difference = second, first, statistics.scaled(difference, -1.0)
        chances = difference.chances(matters)
        if any(name in failures for name in (first, second)):
            lost = [f"{failures[name]} of {name}" for name in (first, second) if name in failures]
            reason = f"{' and '.join(lost)} failed"
        elif len(units) < design.asked:
            reason = f"only {len(units)} of {design.count(design.asked)} have scores of both"
        elif len(units) == 1:
            reason = f"one {design.unit} is no evidence"
        elif chances is None:
            reason = f"their difference is the same in all {design.count(len(units))}, so its error is unknown"
        else:
            reason = ""
        chances = None if reason else chances
        verdict: Verdict = chances.verdict if chances else "undecided"
        needed = difference.repetitions_needed(matters) if chances and verdict == "undecided" else None
        pairs.append(Pair(
            first=first, second=second, difference=difference, interval=difference.interval(level), chances=chances,
            verdict=verdict, needed=needed, reason=reason,
        ))  # fmt: skip
    return pairs


def _conclusions(order: Sequence[str], pairs: Sequence[Pair], criterion: Criterion, design: Design) -> list[str]:
    """Return a sentence for each pair, in the order of the leaderboard, and what the numbers in them mean."""
    if not order:
        return ["No variant has a score here."]
    if len(order) == 1:
        return [f"{order[0]} is the only variant with a score here, so there is nothing to compare it with."]
    ordered = sorted(pairs, key=lambda p: (order.index(p.first), order.index(p.second)))
    sentences = [_sentence(pair, criterion, design) for pair in ordered]
    compared = {frozenset((p.first, p.second)) for p in pairs}
    sentences += [
        f"{a} and {b} are not compared, because no {design.unit} has scores of both."
        for a, b in combinations(order, 2)
        if frozenset((a, b)) not in compared
    ]
    if any(pair.chances for pair in pairs):
        at_once = f", and all {len(pairs)} of them hold at once" if len(pairs) > 1 else ""
        sentences.append(
            f"The {statistics.LEVEL:.0%} intervals in brackets are two-sided{at_once}, while each probability is about "
            "one direction of its own pair. So an interval may include 0 where the probability is high."
        )
    return sentences


def _sentence(pair: Pair, criterion: Criterion, design: Design) -> str:
    unit, n, c = criterion.unit, pair.difference.repetitions, pair.chances
    low, high = pair.interval
    if c is None:
        amount = in_unit(f"{pair.difference.value:.3g}", unit)
        return (
            f"There is no verdict on {pair.first} and {pair.second}, because {pair.reason}; their means "
            f"over {design.count(n)} differ by {amount}."
        )
    amount = f"{in_unit(f'{pair.difference.value:.3g}', unit)} [{low:.3g}, {high:.3g}]"
    joined = " and" if design.overlap is None else ", each with"
    evidence = design.count(n) + (f"{joined} {pair.difference.rows:,} test examples" if pair.difference.rows else "")
    first, second, place = pair.first, pair.second, ""
    if design.unit == "seed":
        first, second, place = f"the configuration of {first}", f"that of {second}", "On this split, "
    if pair.verdict == "better":
        return (
            f"{place}{first} is better than {second} by {amount}, with {probability_in_words(c.better)} ({evidence})."
        )
    if pair.verdict == "equal":
        return (
            f"{place}{first} and {second} are practically equal: they differ by less than "
            f"{in_unit(f'{criterion.matters:g}', unit)}, with {probability_in_words(c.equal)} ({evidence}). The "
            f"difference is {amount}."
        )
    needed = f"About {design.count(pair.needed)} have an even chance to decide" if pair.needed else _hopeless(design)
    return (
        f"{place}{first} and {second} cannot be told apart with {evidence}. The mean of {pair.first} is better "
        f"by {amount}: {pair.first} is better with {probability_in_words(c.better)}, practically equal (closer than "
        f"{criterion.matters:g}) with {probability_in_words(c.equal)} and worse with {probability_in_words(c.worse)}. "
        f"{needed}."
    )


def _hopeless(design: Design) -> str:
    return f"Even {statistics.MOST_REPETITIONS} {design.unit}s would probably not decide"
