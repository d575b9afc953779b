"""Detectors of anomalies that need no model, and how well scores find known anomalies in sequences and tables.

Published scores of models often do not beat such detectors (Wu & Keogh 2021, arXiv:2009.13807). There are two:

    deviation    the distance of a value from the mean of the training data, in standard deviations
    moving       its distance from the mean of the `WINDOW` steps before it, in standard deviations of these steps

The score of a step is that of the channel in which it is largest.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluate import areas, drawing
from pipeline.evaluate.estimates import Estimate
from variants import Batch

Array = NDArray[np.float64]
Flags = NDArray[np.bool_]
WINDOW = 20  # steps before a step, from which the detector `moving` takes a mean and a standard deviation
SMALLEST = 0.01  # the smallest standard deviation of these steps, in standard deviations of the training data
RESAMPLES = 100  # of series, for standard errors
FEWEST_SERIES = 10  # below this number of series, there are no standard errors
MODEL = ("surprise", "reconstruction", "model")  # the names of scores of a model; all others are trivial


def with_gaps(batch: Batch) -> Array:
    """Return the values of a batch, with NaN for missing values and padding."""
    values: Array = drawing.with_gaps(batch.x, batch.known).double().cpu().numpy()
    return values


def moments(x: Array) -> tuple[Array, Array]:
    """Return the mean and the standard deviation of each column of x (N, D), whose missing values are NaN.

    A column without known values has the mean 0, and one of equal values has the standard deviation 1.
    """
    known = ~np.isnan(x)
    n = known.sum(0).clip(min=1)
    mean = np.where(known, x, 0).sum(0) / n
    deviation = np.sqrt((np.where(known, x - mean, 0) ** 2).sum(0) / n)
    return mean, np.where(deviation > 0, deviation, 1.0)


def deviations(x: Array, mean: Array, deviation: Array) -> Array:
    """Return the largest distance from the mean, in standard deviations, of x (..., D): (...); NaN if all are NaN."""
    return _largest(np.abs(x - mean) / deviation)


def trivial_scores(series: Sequence[Array], mean: Array, deviation: Array) -> dict[str, list[Array]]:
    """Return the scores of each step of series (T, D) by the name of the detector; NaN for steps without values."""
    return {
        "deviation": [deviations(x, mean, deviation) for x in series],
        "moving": [_moving(x, deviation) for x in series],
    }


def _moving(x: Array, deviation: Array) -> Array:
    import pandas

    before = pandas.DataFrame(x).shift(1).rolling(WINDOW, min_periods=2)
    distance = np.abs(x - before.mean().to_numpy()) / np.maximum(before.std().to_numpy(), SMALLEST * deviation)
    return _largest(np.where(np.isnan(x), np.nan, np.nan_to_num(distance)))  # 0 where there is nothing before


def _largest(values: Array) -> Array:
    missing = np.isnan(values)
    return np.where(missing.all(-1), np.nan, np.where(missing, -np.inf, values).max(-1))


def range_recall(real: Flags, found: Flags) -> float | None:
    """Return the recall of ranges of steps (Tatbul et al. 2018, equations 2 to 6); None if `real` marks no step.

    It is the mean over the real ranges of the share of their steps that are found, which is divided by the number of
    found ranges that the real one meets. This is alpha = 0, a flat positional bias and a reciprocal cardinality. The
    precision of ranges is the recall with `real` and `found` exchanged.
    """
    if not real.any():
        return None
    ranges, others = _range_numbers(real), _range_numbers(found)
    both = real & found
    shares = np.bincount(ranges[both], minlength=ranges.max() + 1) / np.bincount(ranges[real])
    pairs = np.unique(np.stack([ranges[both], others[both]]), axis=1)
    return float((shares / np.bincount(pairs[0], minlength=len(shares)).clip(min=1)).mean())


def _range_numbers(flags: Flags) -> NDArray[np.int64]:
    """Return the number, from 0, of the range to which each marked step belongs; what others have means nothing."""
    begins = flags & ~np.concatenate([[False], flags[:-1]])
    numbers: NDArray[np.int64] = (begins.cumsum() - 1).clip(min=0)
    return numbers


@dataclass(frozen=True, kw_only=True)
class Judged:
    """How well a score finds known anomalies.

    `precision`, `recall` and `f1` are those of ranges of steps at the threshold; None if they are not defined. The
    areas have no standard errors if there are fewer than `FEWEST_SERIES` series.
    """

    name: str
    roc: Estimate
    precision_recall: Estimate
    precision: float | None = None
    recall: float | None = None
    f1: float | None = None


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """How well scores find known anomalies: `rows` has an entry for each score, those of the model first.

    `gains` are the differences of the ROC area between each score of the model and `best`, the best trivial one, which
    is "chance", with the area 0.5, if no other is better than that.
    """

    rows: Sequence[Judged]
    best: str
    gains: Mapping[str, Estimate]
    share: float  # of anomalies among all examples or steps that were judged
    n: int

    def text(self) -> str:
        """Return the table, and in words whether the model is better than the best trivial detector."""
        has_ranges = any(row.recall is not None for row in self.rows)
        head = ["score", "ROC area", "average precision", *(["precision", "recall", "F1"] if has_ranges else [])]
        table = [head]
        for row in self.rows:
            ranges = ["-" if v is None else f"{v:.3f}" for v in (row.precision, row.recall, row.f1)]
            table.append([row.name, str(row.roc), str(row.precision_recall), *(ranges if has_ranges else [])])
        table.append(["no model (chance)", "0.500", f"{self.share:.3f}", *(["-"] * 3 if has_ranges else [])])
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines = ["  ".join(word.ljust(n) for word, n in zip(row, widths, strict=True)).rstrip() for row in table]
        return "\n".join([*lines, *self._remarks(has_ranges)])

    def _remarks(self, has_ranges: bool) -> list[str]:
        remarks = [f"{self.n:,} {'steps' if has_ranges else 'examples'} have a known truth and a score"]
        for name, gain in self.gains.items():
            verdict = "better than" if gain.error is not None else "not known to be better than"
            if gain.value <= 1.96 * (gain.error or 0):
                verdict = "no better than"
            remarks.append(f"{name} is {verdict} the best trivial score ({self.best}): ROC area {gain.value:+.3f}")
            remarks[-1] += "" if gain.error is None else f" ± {gain.error:.3f}"
        if has_ranges:
            remarks.append(
                "precision, recall and F1 are of ranges of steps (Tatbul et al. 2018; alpha 0, flat bias, reciprocal "
                "cardinality), at the threshold of each score"
            )
        if any(row.roc.error is None for row in self.rows):
            remarks.append(f"there are no standard errors, which need {FEWEST_SERIES} series")
        return remarks


def judge_rows(scores: Mapping[str, Array], truth: Array) -> Judgement:
    """Compare scores (N,) of examples with the truth (N,), which is 1 for anomalies, 0 for others and NaN if unknown.

    The standard errors are over the examples.
    """
    known = ~np.isnan(truth)
    real, scores = truth[known] == 1, {name: score[known] for name, score in scores.items()}
    rows = [
        Judged(name=name, roc=areas.roc_area(s, real), precision_recall=areas.average_precision(s, real))
        for name, s in scores.items()
    ]
    best = _best(rows)
    other = scores.get(best, np.zeros(len(real)))  # equal scores have the area 0.5
    gains = {name: areas.roc_difference(scores[name], other, real) for name in scores if name in MODEL}
    return Judgement(rows=rows, best=best, gains=gains, share=float(real.mean()), n=len(real))


def judge_steps(
    scores: Mapping[str, Array], thresholds: Mapping[str, float], truth: Array, lengths: NDArray[np.int64]
) -> Judgement:
    """Compare scores (R,) of the steps of all series with the truth (R,), as `judge_rows` does.

    The steps of a series depend on each other, so the standard errors are over the series: standard deviations over
    bootstrap samples of series.
    """
    known = ~(np.isnan(truth) | np.isnan(np.stack([*scores.values()])).any(0))
    series = np.repeat(np.arange(len(lengths)), lengths)
    weights = [np.ones(len(lengths))]
    if len(lengths) >= FEWEST_SERIES:
        draws = np.random.default_rng(0).multinomial(len(lengths), np.full(len(lengths), 1 / len(lengths)), RESAMPLES)
        weights += list(draws.astype(np.float64))
    resampled = {
        name: _weighted_areas(s[known], truth[known] == 1, series[known], weights) for name, s in scores.items()
    }
    rows = []
    for name, score in scores.items():
        real, found = (_apart(known & flags, lengths) for flags in (truth == 1, score > thresholds[name]))
        precision, recall = range_recall(found, real), range_recall(real, found)
        f1 = None if precision is None or recall is None else 2 * precision * recall / max(precision + recall, 1e-12)
        roc, pr = (_estimate(resampled[name][:, i]) for i in (0, 1))
        rows.append(Judged(name=name, roc=roc, precision_recall=pr, precision=precision, recall=recall, f1=f1))
    best = _best(rows)
    other = resampled[best][:, 0] if best in resampled else 0.5
    gains = {name: _estimate(resampled[name][:, 0] - other) for name in scores if name in MODEL}
    return Judgement(rows=rows, best=best, gains=gains, share=float((truth[known] == 1).mean()), n=int(known.sum()))


def _best(rows: Sequence[Judged]) -> str:
    areas_of = {row.name: row.roc.value for row in rows if row.name not in MODEL} | {"chance": 0.5}
    return max(areas_of, key=lambda name: areas_of[name])


def _apart(flags: Flags, lengths: NDArray[np.int64]) -> Flags:
    """Return flags (R,) of the steps of series with an unmarked step after each series, so that no range spans two."""
    return np.insert(flags, np.cumsum(lengths), False)


def _weighted_areas(score: Array, real: Flags, series: NDArray[np.int64], weights: Sequence[Array]) -> Array:
    """Return the area under the ROC curve and the average precision with each weighting of the series, (W, 2)."""
    order = np.argsort(-score, kind="stable")
    score, real, series = score[order], real[order], series[order]
    last = np.append(score[1:] != score[:-1], True)  # of the steps with the same score
    results = []
    for weight in weights:
        each = weight[series]
        hits, others = (np.append(0.0, (each * flags).cumsum()[last]) for flags in (real, ~real))
        with np.errstate(divide="ignore", invalid="ignore"):  # a sample of series may lack anomalies
            roc = ((hits[1:] + hits[:-1]) / 2 * np.diff(others)).sum() / (hits[-1] * others[-1])
            precision = np.nan_to_num(hits[1:] / (hits[1:] + others[1:]))
            results.append((roc, (np.diff(hits) * precision).sum() / hits[-1]))
    return np.array(results)


def _estimate(values: Array) -> Estimate:
    """Return the first value, and the standard deviation of the others as its error, if there are any."""
    others = values[1:][np.isfinite(values[1:])]
    return Estimate(float(values[0]), float(others.std(ddof=1)) if len(others) > 1 else None)
