"""Successive halving: trials that fall behind at a rung end there. For one objective Hyperband, for several MO-ASHA.

Optuna reports intermediate values of one objective only. Of several, a trial keeps its scores at each rung in its
attributes, and goes on where it is among the best third of all trials that came to that rung so far: by fronts that
none dominates, and within a front by spread (asynchronous successive halving with the eps-net of Schmucker et al. 2021,
arXiv:2106.12639, section 4). What is compared are validation scores at beta = 1, so that a warm-up of the KL changes
nothing.
"""

from collections.abc import Sequence

import numpy as np
import optuna
from numpy.typing import NDArray

from pipeline.metrics import OBJECTIVES

ETA = 3  # one in so many goes on
HALVINGS = 2  # the first is at a ninth of the epochs: earlier, what learns fast beats what learns well
RUNGS = "rungs"  # the attribute of a trial: epoch -> scores


def rungs(epochs: int) -> list[int]:
    """The epochs at which a trial of at most so many is held against others: a ninth of them and a third."""
    return [epochs // ETA**k for k in range(HALVINGS, 0, -1) if epochs >= ETA**k]


def goes_on(study: optuna.Study, trial: int, epoch: int, objectives: Sequence[str]) -> bool:
    """Whether the trial of that number, whose scores at this rung are kept, is among the best third there."""
    known = {
        t.number: t.user_attrs[RUNGS][str(epoch)]
        for t in study.get_trials(deepcopy=False)
        if str(epoch) in t.user_attrs.get(RUNGS, {})
    }
    if len(known) < ETA:
        return True
    signs = np.array([1.0 if OBJECTIVES[o].better == "maximize" else -1.0 for o in objectives])
    order = ranked(np.array(list(known.values())) * signs)
    return list(known).index(trial) in order[: len(known) // ETA]


def ranked(values: NDArray[np.float64]) -> list[int]:
    """Rows of (N, K) scores, higher is better, from first to last: front by front, each by its eps-net."""
    left = list(range(len(values)))
    order: list[int] = []
    while left:
        front = [i for i in left if not any(dominates(values[j], values[i]) for j in left)]
        order += [front[i] for i in spread(values[front])]
        left = [i for i in left if i not in front]
    return order


def dominates(a: NDArray[np.float64], b: NDArray[np.float64]) -> bool:
    """Nowhere worse, and somewhere better."""
    return bool((a >= b).all() and (a > b).any())


def spread(values: NDArray[np.float64]) -> list[int]:
    """Rows from first to last: the best by the first column, then each time the one farthest from those before it.

    Distances are Euclidean, of columns scaled to [0, 1].
    """
    reach = np.ptp(values, axis=0)
    scaled = (values - values.min(axis=0)) / np.where(reach > 0, reach, 1)
    order = [int(values[:, 0].argmax())]
    while len(order) < len(values):
        distance = np.linalg.norm(scaled[:, None] - scaled[order], axis=2).min(axis=1)
        distance[order] = -1
        order.append(int(distance.argmax()))
    return order
