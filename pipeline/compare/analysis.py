"""From scores of finals to an answer: leaderboards by criterion, every pair, and verdicts in words."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline import metrics
from pipeline.compare import statistics
from pipeline.compare.statistics import Difference, Estimate

Array = NDArray[np.float64]
ALPHA = 0.05


@dataclass(frozen=True, kw_only=True)
class Criterion:
    """What is asked. `chosen` on validation data picks each variant's configuration; `judged` on test decides.

    `beside` are test metrics that belong next to it, without a verdict.
    """

    name: str
    question: str
    chosen: str
    judged: str
    beside: tuple[str, ...] = ()
    caution: str = ""


@dataclass(frozen=True, kw_only=True)
class BoardRow:
    """One variant on a leaderboard, in the metric's own unit; `mean` has Student's interval, `middle` the bootstrap's.

    `reason` says why there is no number.
    """

    variant: str
    seeds: int
    mean: Estimate | None = None
    middle: Estimate | None = None  # interquartile mean
    rank: Estimate | None = None
    beside: Mapping[str, float] | None = None
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """`better` and `worse` by the mean; `sure` where the difference holds after Holm's correction."""

    better: str
    worse: str
    difference: (
        Difference  # better less worse, positive, in the metric's unit; for metrics that fall, worse less better
    )
    chance: Estimate  # probability of improvement
    corrected: float
    sure: bool


@dataclass(frozen=True)
class Board:
    criterion: Criterion
    rows: list[BoardRow]  # best first; without a number last
    pairs: list[Pair]
    words: list[str]


def board(criterion: Criterion, finals: pd.DataFrame, reasons: Mapping[str, str]) -> Board:
    """The answer by one criterion. `finals` has a row a run: variant, seed, state, and a column a metric.

    `reasons` says of each variant that is not in it why.
    """
    metric = metrics.find(criterion.judged)
    sign = -1.0 if metric.better == "minimize" else 1.0
    scores, rows = {}, []
    for variant, runs in finals.groupby("variant", sort=True):
        name = str(variant)
        known = runs.set_index("seed").get(criterion.judged, pd.Series(dtype=float)).dropna().sort_index()
        if known.empty:
            failed = runs.get("reason", pd.Series(dtype=object)).dropna()
            why = f"all seeds failed: {failed.iloc[0]}" if len(failed) else "undefined for this variant"
            rows.append(BoardRow(variant=name, seeds=0, reason=why))
            continue
        scores[name] = known
    rows += [BoardRow(variant=v, seeds=0, reason=why) for v, why in reasons.items()]
    ranked = _ranks(scores, sign)
    shown = [_row(name, s, finals, criterion, ranked.get(name)) for name, s in scores.items()]
    shown.sort(key=lambda row: -sign * row.mean.value)  # type: ignore[union-attr]
    pairs = _pairs(scores, sign)
    return Board(criterion, [*shown, *rows], pairs, _words(shown, pairs, metric.unit, scores))


def _row(
    name: str, known: "pd.Series[float]", finals: pd.DataFrame, criterion: Criterion, rank: Estimate | None
) -> BoardRow:
    values = known.to_numpy(dtype=float)
    level = statistics.paired(values, np.zeros_like(values)).mean
    runs = finals[finals["variant"] == name]
    beside = {m: float(runs[m].mean()) for m in criterion.beside if m in runs and runs[m].notna().any()}
    return BoardRow(
        variant=name,
        seeds=len(values),
        mean=level,
        middle=statistics.interval(statistics.iqm, values[:, None]),
        rank=rank,
        beside=beside,
    )


def _ranks(scores: Mapping[str, "pd.Series[float]"], sign: float) -> dict[str, Estimate]:
    """Over the seeds that all variants have; nothing where there are none."""
    if len(scores) < 2:
        return {}
    shared = sorted(set.intersection(*(set(s.index) for s in scores.values())))
    if not shared:
        return {}
    return statistics.ranks({n: sign * s.loc[shared].to_numpy(dtype=float)[:, None] for n, s in scores.items()})


def _pairs(scores: Mapping[str, "pd.Series[float]"], sign: float) -> list[Pair]:
    found = []
    for one, two in combinations(scores, 2):
        shared = sorted(set(scores[one].index) & set(scores[two].index))
        if not shared:
            continue
        a, b = (sign * scores[n].loc[shared].to_numpy(dtype=float) for n in (one, two))
        if b.mean() > a.mean():
            one, two, a, b = two, one, b, a
        chance = statistics.interval(statistics.improvement, a[:, None], b[:, None])
        found.append((one, two, statistics.paired(a, b), chance))
    corrected = statistics.holm([difference.p for _, _, difference, _ in found])
    return [
        Pair(better=one, worse=two, difference=difference, chance=chance, corrected=p, sure=p < ALPHA)
        for (one, two, difference, chance), p in zip(found, corrected, strict=True)
    ]


def _words(rows: list[BoardRow], pairs: list[Pair], unit: str, scores: Mapping[str, "pd.Series[float]"]) -> list[str]:
    """The first place, then each pair in the order of the board."""
    if not rows:
        return ["No variant has a number here."]
    if len(rows) == 1:
        return [f"{rows[0].variant} is the only variant with a number here; there is nothing to compare it with."]
    place = {row.variant: i for i, row in enumerate(rows)}
    said = []
    for pair in sorted(pairs, key=lambda p: (place[p.better], place[p.worse])):
        d, n = pair.difference, pair.difference.pairs
        by = f"{d.mean.value:.3g} [{d.mean.low:.3g}, {d.mean.high:.3g}] {unit}"
        if math.isnan(pair.corrected):
            said.append(
                f"{pair.better} is ahead of {pair.worse} by {d.mean.value:.3g} {unit}, with one seed: no evidence."
            )
        elif pair.sure:
            said.append(f"{pair.better} beats {pair.worse} by {by}, with {n} seeds (p = {pair.corrected:.2g}).")
        else:
            of = f", p = {pair.corrected:.2g} after correction for {len(pairs)} pairs" if len(pairs) > 1 else ""
            said.append(f"{pair.better} and {pair.worse} cannot be told apart with {n} seeds: {by}{of}.")
    return said
