"""Turns the scores of finals into leaderboards, tests of every pair of variants, and conclusions in sentences."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd

from pipeline import metrics
from pipeline.compare import statistics
from pipeline.compare.statistics import Difference, Estimate
from pipeline.evaluate.baselines import TITLES, verdict

ALPHA = 0.05
PPCA = "baseline/test_ppca"  # differs between variants, because it has as many latent dimensions as the model


@dataclass(frozen=True, kw_only=True)
class Criterion:
    """A question that a comparison answers by one metric.

    Args:
        name: A short name, such as `elbo`.
        question: The question in a sentence.
        validation_metric: Chooses the configuration of each variant among its trials.
        test_metric: Ranks the variants by their finals.
        related_metrics: Further test metrics that are shown beside it, without a conclusion.
        caution: What a reader has to know about the metric.
    """

    name: str
    question: str
    validation_metric: str
    test_metric: str
    related_metrics: tuple[str, ...] = ()
    caution: str = ""

    @property
    def sign(self) -> float:
        """1 if a higher test score is better, else -1."""
        return -1.0 if metrics.find(self.test_metric).better == "minimize" else 1.0

    @property
    def direction(self) -> str:
        return "lower is better" if self.sign < 0 else "higher is better"


@dataclass(frozen=True, kw_only=True)
class BoardRow:
    """The scores of one variant, in the metric's own unit. If there is no `mean`, `reason` says why.

    `trivial` is a clause such as "no better than trivial (...)" if the mean does not exceed all baselines, and
    otherwise empty.
    """

    variant: str
    seeds: int
    mean: Estimate | None = None  # with Student's interval
    middle: Estimate | None = None  # the interquartile mean, with a bootstrap interval
    rank: Estimate | None = None
    related: Mapping[str, float] | None = None  # mean over seeds of each related metric
    reason: str = ""
    trivial: str = ""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two variants, of which `better` has the better mean over the seeds that both have."""

    better: str
    worse: str
    difference: Difference  # how much better, so its mean is positive, also for metrics of which lower is better
    chance: Estimate  # the probability of improvement
    p: float  # after Holm's correction for all pairs
    significant: bool


@dataclass(frozen=True, kw_only=True)
class Board:
    """The leaderboard of one criterion. `baselines` maps the title of each simple baseline to its score."""

    criterion: Criterion
    rows: list[BoardRow]  # the best first, and those without a score last
    pairs: list[Pair]
    conclusions: list[str]  # sentences
    baselines: Mapping[str, float]


def board(
    criterion: Criterion,
    finals: pd.DataFrame,
    reasons: Mapping[str, str],
    baselines: Mapping[str, float] | None = None,
) -> Board:
    """Rank the variants by one criterion.

    Args:
        criterion: The criterion.
        finals: One row for each run: variant, seed, state, reason, and a column for each metric.
        reasons: For each variant that is missing in `finals`, the reason.
        baselines: The title of each baseline with its mean test score; empty if the criterion has no baselines.
    """
    sign, unit, baselines = criterion.sign, metrics.find(criterion.test_metric).unit, baselines or {}
    scores: dict[str, pd.Series[float]] = {}
    without_score = []
    for variant, runs in finals.groupby("variant", sort=True):
        name = str(variant)
        values = runs.set_index("seed").get(criterion.test_metric, pd.Series(dtype=float)).dropna().sort_index()
        if len(values):
            scores[name] = values
            continue
        failures = runs.get("reason", pd.Series(dtype=object)).dropna()
        reason = f"all seeds failed: {failures.iloc[0]}" if len(failures) else "undefined for this variant"
        without_score.append(BoardRow(variant=name, seeds=0, reason=reason))
    without_score += [BoardRow(variant=v, seeds=0, reason=reason) for v, reason in reasons.items()]
    ranks = _ranks(scores, sign)
    order = sorted(scores, key=lambda name: -sign * float(np.mean(scores[name].to_numpy(dtype=float))))
    rows = [_row(name, scores[name], finals, criterion, ranks.get(name), baselines) for name in order]
    pairs = _pairs(scores, sign)
    conclusions = [*_conclusions(order, pairs, unit), *(f"{r.variant} is {r.trivial}." for r in rows if r.trivial)]
    return Board(
        criterion=criterion, rows=[*rows, *without_score], pairs=pairs, conclusions=conclusions, baselines=baselines
    )


def _row(
    name: str,
    scores: "pd.Series[float]",
    finals: pd.DataFrame,
    criterion: Criterion,
    rank: Estimate | None,
    baselines: Mapping[str, float],
) -> BoardRow:
    values = scores.to_numpy(dtype=float)
    runs = finals[finals["variant"] == name]
    related = {m: float(runs[m].mean()) for m in criterion.related_metrics if m in runs and runs[m].notna().any()}
    mean = statistics.paired(values, np.zeros_like(values)).mean
    if PPCA in related and baselines:
        baselines = {**baselines, TITLES["ppca"]: related[PPCA]}
    is_conditional = "conditioned_on" in runs and (runs["conditioned_on"] == "x").any()
    return BoardRow(
        variant=name,
        seeds=len(values),
        mean=mean,
        middle=statistics.interval(statistics.iqm, values[:, None]),
        rank=rank,
        related=related,
        trivial="" if is_conditional else verdict(mean.value, baselines),
    )


def _ranks(scores: Mapping[str, "pd.Series[float]"], sign: float) -> dict[str, Estimate]:
    """Rank the variants over the seeds that all of them have; empty if there are none."""
    if len(scores) < 2:
        return {}
    shared = sorted(set.intersection(*(set(s.index) for s in scores.values())))
    if not shared:
        return {}
    return statistics.ranks({n: sign * s.loc[shared].to_numpy(dtype=float)[:, None] for n, s in scores.items()})


def _pairs(scores: Mapping[str, "pd.Series[float]"], sign: float) -> list[Pair]:
    tests = []
    for better, worse in combinations(scores, 2):
        shared = sorted(set(scores[better].index) & set(scores[worse].index))
        if not shared:
            continue
        a, b = (sign * scores[n].loc[shared].to_numpy(dtype=float) for n in (better, worse))
        if b.mean() > a.mean():
            better, worse, a, b = worse, better, b, a
        chance = statistics.interval(statistics.improvement, a[:, None], b[:, None])
        tests.append((better, worse, statistics.paired(a, b), chance))
    corrected = statistics.holm([difference.p for _, _, difference, _ in tests])
    return [
        Pair(better=better, worse=worse, difference=difference, chance=chance, p=p, significant=p < ALPHA)
        for (better, worse, difference, chance), p in zip(tests, corrected, strict=True)
    ]


def _conclusions(order: list[str], pairs: list[Pair], unit: str) -> list[str]:
    """Return a sentence for each pair, in the order of the leaderboard."""
    if not order:
        return ["No variant has a score here."]
    if len(order) == 1:
        return [f"{order[0]} is the only variant with a score here, so there is nothing to compare it with."]
    sentences = []
    for pair in sorted(pairs, key=lambda p: (order.index(p.better), order.index(p.worse))):
        mean, n = pair.difference.mean, pair.difference.pairs
        difference = f"{mean.value:.3g} [{mean.low:.3g}, {mean.high:.3g}] {unit}"
        correction = f" after correction for {len(pairs)} pairs" if len(pairs) > 1 else ""
        if math.isnan(pair.p):
            sentences.append(
                f"{pair.better} is ahead of {pair.worse} by {mean.value:.3g} {unit}, but one seed is no evidence."
            )
        elif pair.significant:
            sentences.append(
                f"{pair.better} beats {pair.worse} by {difference}, with {n} seeds (p = {pair.p:.2g}{correction})."
            )
        else:
            sentences.append(
                f"{pair.better} and {pair.worse} cannot be told apart with {n} seeds: the difference is {difference} "
                f"(p = {pair.p:.2g}{correction})."
            )
    return sentences
