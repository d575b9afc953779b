"""Which trials end early: those that have little chance to become the best trial of their study.

A trial stores its scores at a few epochs, which are called rungs. At each of them, the complete trials of the study
show what the scores say about the end: a linear regression of their final scores on those at the rung predicts the
final scores of the trial that has just arrived there. The trial is ended if its chance to become better than every
complete trial is less than `LEAST_CHANCE` times the chance of a trial of which nothing is known. With several
objectives, better means that no complete trial dominates it.

Early scores favour models that merely learn fast. Therefore no rung is earlier than the end of a warm-up of the KL and
a margin; nothing is ended before `LEAST_TRIALS` trials have been trained to the end; and a rung counts only if these
trials have shown that it ranks trials as the end does: the lower end of the confidence interval of Spearman's rank
correlation must be above 0. Where early scores mislead, all trials go on. One trial in `EXEMPT` is never ended, which
shows whether there are trials that start badly and end well.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.trial import TrialState
from scipy.stats import norm, spearmanr

Scores = NDArray[np.float64]  # (N, K): N trials, K objectives

RUNGS = "rungs"  # the user attribute of a trial: epoch -> scores
FRACTIONS = (1 / 16, 1 / 8, 1 / 4, 1 / 2)  # where the rungs are, as shares of the largest number of epochs
MARGIN = 0.1  # between the end of a warm-up and the first rung, as a share of the largest number of epochs
LEAST_TRIALS = 4
LEAST_CHANCE = 0.5
CONFIDENCE = 0.9  # one-sided
EXEMPT = 4  # the trials 0, 4, 8, ... run to the end
REASON = "it had little chance to become the best trial"
DRAWS = 4000


@dataclass(frozen=True)
class Correlation:
    """Spearman's rank correlation of scores at a rung with final ones, over `trials` pairs, and its lower end."""

    value: float
    low: float
    trials: int


def rungs(epochs: int, warmup: float = 0.0) -> list[int]:
    """Return the epochs at which a trial may be ended.

    Args:
        epochs: The largest number of epochs of a trial.
        warmup: The number of epochs after which the weight of the KL has reached its final value.
    """
    first = warmup + MARGIN * epochs if warmup else 1
    return sorted({round(share * epochs) for share in FRACTIONS if round(share * epochs) >= first})


def correlation(early: NDArray[np.float64], final: NDArray[np.float64]) -> Correlation:
    """Return the correlation of scores (N,) at a rung with the final ones (N,) of the same trials.

    The interval is Fisher's, with the variance 1.06 / (N - 3) of Spearman's coefficient (Fieller, Hartley & Pearson
    1957). With constant scores or fewer than 4 trials, nothing is known: the lower end is -1.
    """
    n = len(early)
    if n < 4 or np.ptp(early) == 0 or np.ptp(final) == 0:
        return Correlation(0.0, -1.0, n)
    rank = float(spearmanr(early, final).statistic)
    width = float(norm.ppf(CONFIDENCE)) * np.sqrt(1.06 / (n - 3))
    return Correlation(rank, float(np.tanh(np.arctanh(np.clip(rank, -0.999, 0.999)) - width)), n)


def relative_chance(scores: NDArray[np.float64], early: Scores, final: Scores) -> float:
    """Return the chance of a trial to become the best, divided by that of a trial of which nothing is known.

    Args:
        scores: The scores (K,) of the trial at a rung. Higher is better for all scores here.
        early: The scores (N, K) of complete trials at the same rung, N >= 3.
        final: Their final scores (N, K).
    """
    of_unknown = _chance(np.zeros_like(scores), np.zeros_like(early), final)
    return _chance(scores, early, final) / of_unknown if of_unknown else 1.0  # of equal scores, none can become better


def _chance(scores: NDArray[np.float64], early: Scores, final: Scores) -> float:
    """Return the chance of a trial to become the best, as `relative_chance` defines its arguments.

    The random numbers are always the same, so that early scores that are not used make no difference at all.
    """
    generator = np.random.default_rng(0)
    predicted = [_predicted(generator, *objective) for objective in zip(scores, early.T, final.T, strict=True)]
    return undominated(np.column_stack(predicted), final)


def _predicted(
    generator: np.random.Generator, score: float, early: NDArray[np.float64], final: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Draw final scores (DRAWS,) from Student's predictive distribution of a linear regression.

    If early scores do not rank trials as the end does, they are not used, and the regression has a constant only.
    """
    n, centre = len(early), early.mean()
    is_used = correlation(early, final).low > 0
    square = float(((early - centre) ** 2).sum()) if is_used else 1.0
    slope = float(((early - centre) * final).sum()) / square if is_used else 0.0
    distance = (score - centre) if is_used else 0.0
    degrees = n - 1 - is_used
    variance = float(((final - final.mean() - slope * (early - centre) * is_used) ** 2).sum()) / degrees
    deviation = np.sqrt(variance * (1 + 1 / n + distance**2 / square))
    draws: NDArray[np.float64] = final.mean() + slope * distance + deviation * generator.standard_t(degrees, DRAWS)
    return draws


def undominated(values: Scores, others: Scores) -> float:
    """Return the share of rows of `values` that no row of `others` dominates or equals; higher is better."""
    remaining = values
    for row in others:
        remaining = remaining[(remaining > row).any(axis=1)]
    return len(remaining) / len(values)


def ends_early(study: optuna.Study, number: int, epoch: int, scores: Sequence[float]) -> bool:
    """Return whether the trial of a study with this number, which has these scores (K,) at a rung, is ended there."""
    if number % EXEMPT == 0:
        return False
    sign = signs(study)
    early, final = evidence(study, epoch)
    if len(early) < LEAST_TRIALS or not np.isfinite(scores).all():
        return False
    return relative_chance(sign * np.array(scores), sign * early, sign * final) < LEAST_CHANCE


def signs(study: optuna.Study) -> NDArray[np.float64]:
    """Return an array (K,) with 1 for each objective that a study maximises, and -1 for each that it minimises."""
    return np.array([1.0 if d == optuna.study.StudyDirection.MAXIMIZE else -1.0 for d in study.directions])


def evidence(study: optuna.Study, epoch: int) -> tuple[Scores, Scores]:
    """Return the scores (N, K) at a rung, and at the end, of the complete trials that have been at this rung.

    Trials with a score that is infinite or not a number are left out.
    """
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    pairs = [(t.user_attrs[RUNGS][str(epoch)], t.values) for t in trials if str(epoch) in t.user_attrs.get(RUNGS, {})]
    shape = (len(pairs), len(study.directions))
    early, final = (np.array([pair[i] for pair in pairs], dtype=float).reshape(shape) for i in (0, 1))
    is_finite = np.isfinite(early).all(axis=1) & np.isfinite(final).all(axis=1)
    return early[is_finite], final[is_finite]
