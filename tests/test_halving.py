"""Successive halving of several objectives: fronts, spread, and what a study does with them."""

from pathlib import Path

import numpy as np
import optuna
import pytest

from pipeline.executor import Compute
from pipeline.study import halving
from pipeline.study.driver import StudyRequest, run


def test_rungs_are_a_ninth_and_a_third_of_the_budget() -> None:
    assert halving.rungs(100) == [11, 33]
    assert halving.rungs(9) == [1, 3]
    assert halving.rungs(2) == []


def test_fronts_come_in_order() -> None:
    """Against the definition, by brute force: a row of a later front is dominated by one of the front before."""
    values = np.random.default_rng(0).normal(size=(60, 3))
    order = halving.rank(values)
    assert sorted(order) == list(range(60))
    remaining, start = set(range(60)), 0
    while remaining:
        front = {i for i in remaining if not any(halving.dominates(values[j], values[i]) for j in remaining)}
        assert set(order[start : start + len(front)]) == front
        start += len(front)
        remaining -= front


def test_a_front_is_spread_out() -> None:
    """On a line: one end first, then the other, then the middle."""
    line = np.stack([np.arange(5.0), -np.arange(5.0)], axis=1)
    assert halving.spread_out(line)[:3] == [4, 0, 2]
    assert halving.spread_out(line * [1000, 0.001])[:3] == [4, 0, 2]  # units do not matter


def test_one_trial_in_three_is_promoted() -> None:
    study = optuna.create_study(directions=["maximize", "minimize"])
    objectives = ("valid/elbo", "valid/reconstruction")
    scores = [[-90.0, 80.0], [-95.0, 85.0], [-91.0, 79.0], [-99.0, 99.0], [-89.0, 81.0], [-100.0, 98.0]]
    promoted = []
    for number, values in enumerate(scores):
        trial = study.ask()
        trial.set_user_attr(halving.RUNGS, {"3": values})
        promoted.append(halving.promoted(study, number, 3, objectives))
    assert promoted == [True, True, False, False, True, False]  # the first two had too few others to be compared with


def reaches_rung(study: optuna.Study, elbo: float) -> bool:
    """Add a trial that reaches epoch 3 with this ELBO and minus that as reconstruction. Returns if it is promoted."""
    trial = study.ask()
    trial.set_user_attr(halving.RUNGS, {"3": [elbo, -elbo]})
    return halving.promoted(study, trial.number, 3, ("valid/elbo", "valid/reconstruction"))


@pytest.mark.parametrize("earlier", range(9))
def test_a_trial_is_promoted_if_it_is_in_the_best_third_of_a_rung(earlier: int) -> None:
    """A trial arrives after some earlier ones, at each possible place among them."""
    places = (earlier + 1) // 3 if earlier >= 2 else earlier + 1  # all are promoted while there are at most two
    for place in range(1, earlier + 2):
        study = optuna.create_study(directions=["maximize", "minimize"])
        for i in range(earlier):
            reaches_rung(study, -100.0 + 2 * i)
        elbo = -100.0 + 2 * (earlier - place) + 1  # worse than `place - 1` of them
        assert reaches_rung(study, elbo) == (place <= places), f"place {place} of {earlier + 1}"


@pytest.mark.slow
def test_a_study_of_two_objectives_ends_weak_trials_early(folder: Path) -> None:
    outcome = run(StudyRequest(variant="beta", trials=12, epochs=18, compute=Compute(threads=1)))
    states = [t.state.name for t in outcome.study.trials]
    assert len(outcome.objectives) == 2
    assert 2 <= states.count("PRUNED") <= 9
    for trial in outcome.study.trials:
        assert trial.state.name == "COMPLETE" or set(trial.user_attrs[halving.RUNGS]) <= {"2", "6"}
