"""Successive halving for several objectives: trials that are not among the best third at a rung end there.

Studies of one objective use Optuna's Hyperband, which cannot prune by several. With several objectives, a trial stores
its scores at each rung as an attribute, and continues if it is among the best third of all trials that have reached
this rung so far. Trials are ranked by non-dominated fronts, and within a front so that the first ones are spread out.
This is the asynchronous successive halving with an epsilon-net of Schmucker et al. 2021 (arXiv:2106.12639, section 4).
The scores are validation scores at beta = 1, on which a warm-up of the KL has no direct effect.
"""

from collections.abc import Sequence

import numpy as np
import optuna
from numpy.typing import NDArray

from pipeline.metrics import OBJECTIVES

ETA = 3  # one trial in ETA is promoted
HALVINGS = 2  # the first rung is at a ninth of the epochs; an earlier one would favour models that merely learn fast
RUNGS = "rungs"  # the user attribute of a trial: epoch -> scores


def rungs(epochs: int) -> list[int]:
    """Return the epochs at which a trial is compared: a ninth and a third of the largest number of epochs."""
    return [epochs // ETA**k for k in range(HALVINGS, 0, -1) if epochs >= ETA**k]


def promoted(study: optuna.Study, number: int, epoch: int, objectives: Sequence[str]) -> bool:
    """Return whether a trial, whose scores at this rung are stored, is among the best third there."""
    scores = {
        t.number: t.user_attrs[RUNGS][str(epoch)]
        for t in study.get_trials(deepcopy=False)
        if str(epoch) in t.user_attrs.get(RUNGS, {})
    }
    if len(scores) < ETA:
        return True
    signs = np.array([1.0 if OBJECTIVES[o].better == "maximize" else -1.0 for o in objectives])
    order = rank(np.array(list(scores.values())) * signs)
    return list(scores).index(number) in order[: len(scores) // ETA]


def rank(values: NDArray[np.float64]) -> list[int]:
    """Return the rows of (N, K) scores, where higher is better, from best to worst: front by front, each spread out."""
    remaining = list(range(len(values)))
    order: list[int] = []
    while remaining:
        front = [i for i in remaining if not any(dominates(values[j], values[i]) for j in remaining)]
        order += [front[i] for i in spread_out(values[front])]
        remaining = [i for i in remaining if i not in front]
    return order


def dominates(a: NDArray[np.float64], b: NDArray[np.float64]) -> bool:
    """Return whether the scores (K,) `a` are nowhere worse than `b` and somewhere better."""
    return bool((a >= b).all() and (a > b).any())


def spread_out(values: NDArray[np.float64]) -> list[int]:
    """Order the rows of (N, K): the best by the first column, then always the one farthest from all before it.

    Distances are Euclidean, after each column is scaled to [0, 1].
    """
    ranges = np.ptp(values, axis=0)
    scaled = (values - values.min(axis=0)) / np.where(ranges > 0, ranges, 1)
    order = [int(values[:, 0].argmax())]
    while len(order) < len(values):
        distance = np.linalg.norm(scaled[:, None] - scaled[order], axis=2).min(axis=1)
        distance[order] = -1
        order.append(int(distance.argmax()))
    return order
