"""Which trials end early: none where early scores mislead, and most of the others where they tell the truth."""

from collections.abc import Callable

import numpy as np
import optuna
import pytest
from numpy.typing import NDArray
from optuna.trial import TrialState, create_trial
from scipy.stats import spearmanr

from pipeline.study import pruning

EPOCHS = 100
RUNGS = pruning.rungs(EPOCHS)
NUMBER = pruning.EXEMPT + 1  # of a trial that may be ended
Array = NDArray[np.float64]
Curves = tuple[Array, Array]  # scores (N, R, K) at the rungs and (N, K) at the end, of which higher is better


def search(curves: Curves, directions: tuple[str, ...] = ("maximize",), rungs: list[int] = RUNGS) -> Array:
    """Run trials with these scores one after another. Return for how many epochs (N,) each was trained."""
    study = optuna.create_study(directions=directions)
    ends = []
    for at_rungs, final in zip(*curves, strict=True):
        stored: dict[str, list[float]] = {}
        end = EPOCHS
        for rung, scores in zip(rungs, at_rungs, strict=True):
            stored[str(rung)] = [float(score) for score in scores]
            if pruning.ends_early(study, len(ends), rung, stored[str(rung)]):
                end = rung
                break
        values = [float(value) for value in final] if end == EPOCHS else None
        state = TrialState.COMPLETE if values else TrialState.PRUNED
        study.add_trial(create_trial(state=state, values=values, user_attrs={pruning.RUNGS: stored}))
        ends.append(end)
    return np.array(ends)


def curves_of(final: Array, early: Array, generator: np.random.Generator, noise: float) -> Curves:
    """Curves whose scores at all rungs are `early` (N, K) and some noise, and rise from rung to rung."""
    rise = np.linspace(-4, -0.5, len(RUNGS))[None, :, None]
    return early[:, None] + rise + noise * generator.normal(size=(len(final), len(RUNGS), final.shape[1])), final


def truthful(generator: np.random.Generator, trials: int = 40, objectives: int = 1) -> Curves:
    """Early scores are those of the end, in nats, and a little noise."""
    final = generator.normal(size=(trials, objectives))
    return curves_of(final, final, generator, 0.1)


def crossing(generator: np.random.Generator, trials: int = 40, objectives: int = 1) -> Curves:
    """The curves cross: trials that learn fast end worse."""
    final = generator.normal(size=(trials, objectives))
    return curves_of(final, -final, generator, 0.3)


def late_bloomers(generator: np.random.Generator, trials: int = 30) -> Curves:
    """Half of the trials are bad until epoch 60, and end better than most others."""
    is_late = generator.random((trials, 1)) < 0.5
    final = generator.normal(size=(trials, 1)) + np.where(is_late, 2, 0)
    return curves_of(final, np.where(is_late, -2, final), generator, 0.1)


def regret(curves: Curves, ends: Array) -> float:
    """By how much the best trial that ran to the end is worse than the best of all, in nats."""
    return float(curves[1].max() - curves[1][ends == EPOCHS].max())


@pytest.mark.one_in(2)
@pytest.mark.parametrize("objectives", [1, 2])
def test_nothing_is_ended_where_curves_cross(objectives: int) -> None:
    for seed in range(20):
        curves = crossing(np.random.default_rng(seed), trials=20, objectives=objectives)
        assert set(search(curves, ("maximize",) * objectives)) == {EPOCHS}


@pytest.mark.slow
def test_late_bloomers_are_let_go_on() -> None:
    regrets = []
    for seed in range(40):
        curves = late_bloomers(np.random.default_rng(seed))
        regrets.append(regret(curves, search(curves)))
    assert np.mean(regrets) <= 0.1
    assert np.mean(np.array(regrets) > 0) <= 0.1


@pytest.mark.slow
def test_epochs_are_saved_where_early_scores_tell_the_truth() -> None:
    saved, regrets = [], []
    for seed in range(100):
        curves = truthful(np.random.default_rng(seed))
        ends = search(curves)
        saved.append(1 - ends.mean() / EPOCHS)
        regrets.append(regret(curves, ends))
    assert np.mean(saved) >= 0.4
    assert np.mean(regrets) <= 0.05


@pytest.mark.slow
def test_a_trial_that_is_good_by_either_of_two_objectives_goes_on() -> None:
    saved, is_kept = [], []
    for seed in range(20):
        curves = truthful(np.random.default_rng(seed), objectives=2)
        ends = search(curves, ("maximize", "maximize"))
        saved.append(1 - ends.mean() / EPOCHS)
        is_kept += [ends[curves[1][:, i].argmax()] == EPOCHS for i in (0, 1)]
    assert np.mean(is_kept) >= 0.95
    assert np.mean(saved) >= 0.1


CHANGES: dict[str, tuple[Callable[[Array], Array], str]] = {
    "sign": (lambda x: -x, "minimize"),
    "constant": (lambda x: x + 1000, "maximize"),
    "scale": (lambda x: 0.001 * x, "maximize"),
}


@pytest.mark.parametrize(("change", "direction"), CHANGES.values(), ids=CHANGES)
def test_units_and_direction_of_scores_make_no_difference(change: Callable[[Array], Array], direction: str) -> None:
    early, final = truthful(np.random.default_rng(0))
    ends = search((early, final))
    assert (ends < EPOCHS).any()
    assert search((change(early), change(final)), (direction,)).tolist() == ends.tolist()


@pytest.mark.parametrize("warmup", [0.5, 5, 12, 30, 60, 100, 1000])
def test_there_is_no_rung_before_the_end_of_a_warm_up_and_a_margin(warmup: float) -> None:
    later = pruning.rungs(EPOCHS, warmup)
    assert set(later) <= set(RUNGS)
    assert all(rung >= warmup + pruning.MARGIN * EPOCHS for rung in later)
    assert (RUNGS[-1] in later) == (warmup + pruning.MARGIN * EPOCHS <= RUNGS[-1])


@pytest.mark.parametrize("epochs", [1, 2, 3, 7, 40, 1000])
def test_rungs_are_whole_epochs_before_the_last(epochs: int) -> None:
    assert all(0 < rung < epochs for rung in pruning.rungs(epochs))


def test_nothing_is_ended_before_enough_trials_are_complete() -> None:
    """Nor if many trials are complete, but have not been at this rung."""
    worse = np.full((pruning.LEAST_TRIALS, len(RUNGS), 1), -100.0), np.full((pruning.LEAST_TRIALS, 1), -100.0)
    for seed in range(20):
        early, final = truthful(np.random.default_rng(seed), trials=pruning.LEAST_TRIALS - 1)
        ends = search((np.concatenate([early, worse[0]]), np.concatenate([final, worse[1]])))
        assert (ends[: pruning.LEAST_TRIALS] == EPOCHS).all()
    study = optuna.create_study()
    study.add_trials([create_trial(value=float(i), user_attrs={pruning.RUNGS: {"6": [i]}}) for i in range(9)])
    assert pruning.ends_early(study, NUMBER, 6, [100.0])
    assert not pruning.ends_early(study, NUMBER, 12, [100.0])


def test_one_trial_in_four_is_never_ended() -> None:
    study = optuna.create_study()
    study.add_trials([create_trial(value=float(i), user_attrs={pruning.RUNGS: {"6": [i]}}) for i in range(9)])
    ended = [pruning.ends_early(study, number, 6, [100.0]) for number in range(8)]
    assert ended == [False, True, True, True] * 2


@pytest.mark.parametrize("trials", [4, 5, 20])
def test_the_correlation_is_that_of_spearman(trials: int) -> None:
    generator = np.random.default_rng(trials)
    early = generator.normal(size=trials)
    final = early + generator.normal(size=trials)
    found = pruning.correlation(early, final)
    assert found.value == pytest.approx(spearmanr(early, final).statistic)
    assert -1 <= found.low < found.value
    assert found.trials == trials


def test_the_lower_end_of_the_interval_covers_the_truth() -> None:
    generator = np.random.default_rng(0)
    lows = [pruning.correlation(*generator.normal(size=(2, 12))).low for _ in range(1000)]  # the truth is 0
    assert np.mean(np.array(lows) <= 0) == pytest.approx(pruning.CONFIDENCE, abs=0.05)


@pytest.mark.parametrize("is_early_constant", [True, False])
@pytest.mark.filterwarnings("error")
def test_constant_scores_say_nothing(is_early_constant: bool) -> None:
    constant, rising = np.ones(8), np.arange(8.0)
    early, final = (constant, rising) if is_early_constant else (rising, constant)
    found = pruning.correlation(early, final)
    assert (found.value, found.low) == (0, -1)
    assert pruning.relative_chance(np.array([-5.0]), early[:, None], final[:, None]) == 1


def test_scores_that_say_nothing_end_no_trial_however_small_its_chance() -> None:
    """Of many trials, a new one has little chance to become the best, and an estimate of it is uncertain."""
    generator = np.random.default_rng(0)
    for _ in range(20):
        early, final = generator.normal(size=(2, 500, 1))
        if pruning.correlation(early[:, 0], final[:, 0]).low <= 0:
            assert pruning.relative_chance(np.array([-5.0]), early, final) == 1


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.filterwarnings("error")
def test_scores_that_are_not_finite_end_no_trial(bad: float) -> None:
    """Neither those of the trial itself, nor those of others."""
    study = optuna.create_study()
    scores = [*range(9), bad]
    study.add_trials(
        [create_trial(value=float(i), user_attrs={pruning.RUNGS: {"6": [s]}}) for i, s in enumerate(scores)]
    )
    assert not pruning.ends_early(study, NUMBER, 6, [bad])
    assert not pruning.ends_early(study, NUMBER, 6, [-1.0])
    assert pruning.ends_early(study, NUMBER, 6, [100.0])
