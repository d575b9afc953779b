"""Statistics of a comparison: closed forms, results of rliable 1.2 on the same scores, and error rates."""

import math

import numpy as np
import pytest
from scipy import stats

from pipeline.compare import statistics as s
from variants import InputError

SHAPES = ((5, 1), (5, 3), (10, 4))
# IQM, mean and probability of improvement, then the 95% interval of each, of 50,000 resamples
RLIABLE = {
    (5, 1): (
        (0.032841824985043705, 0.040655750447460434, 0.36), (-0.401148, 0.468859), (-0.293531, 0.382979), (0.0, 0.8),
    ),
    (5, 3): (
        (-0.18798755736806821, -0.1788433380842529, 0.25333333333333335), (-0.591049, 0.301215), (-0.650954, 0.259184),
        (0.08, 0.466667),
    ),
    (10, 4): ((0.35362813734268667, 0.3011284378332031, 0.4525), (-0.083357, 0.772346), (-0.032176, 0.624286), None),
}  # fmt: skip


@pytest.fixture(scope="module")
def tables() -> dict[tuple[int, int], tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(0)
    return {shape: (rng.normal(size=shape), rng.normal(0.5, 1, size=shape)) for shape in SHAPES}


@pytest.mark.parametrize("shape", SHAPES)
def test_estimates_are_those_of_rliable(tables: dict, shape: tuple[int, int]) -> None:
    x, y = tables[shape]
    values, iqm, mean, better = RLIABLE[shape]
    assert (s.iqm(x), x.mean(), s.improvement(x, y)) == pytest.approx(values, abs=1e-9)
    noise = 0.03  # of the ends, of 5,000 resamples
    for statistic, ends in ((s.iqm, iqm), (lambda scores: scores.mean(axis=(-2, -1)), mean)):
        estimate = s.interval(statistic, x)
        assert (estimate.low, estimate.high) == pytest.approx(ends, abs=noise)
    if better:
        estimate = s.interval(s.improvement, x, y)
        assert (estimate.low, estimate.high) == pytest.approx(better, abs=noise)


def test_improvement_is_that_of_mann_and_whitney() -> None:
    rng = np.random.default_rng(1)
    x, y = rng.integers(4, size=(7, 1)).astype(float), rng.integers(4, size=(6, 1)).astype(float)  # with ties
    assert s.improvement(x, y) == pytest.approx(float(stats.mannwhitneyu(x[:, 0], y[:, 0]).statistic) / 42)
    assert s.improvement(x, x) == 0.5
    assert s.improvement(x + 9, x) == 1
    with pytest.raises(InputError, match="with the same data sets"):
        s.improvement(x, y[:, 0])


def test_a_paired_difference_is_students() -> None:
    x, y = np.array([3.0, 5, 4, 6, 2]), np.array([2.0, 3, 4, 4, 1])
    test = s.paired(x, y)
    differences = x - y  # mean 1.2, standard deviation 0.8367
    reach = stats.t.ppf(0.975, 4) * differences.std(ddof=1) / math.sqrt(5)
    assert (test.mean.value, test.mean.low, test.mean.high) == pytest.approx((1.2, 1.2 - reach, 1.2 + reach))
    assert test.p == pytest.approx(2 * stats.t.sf(1.2 / (differences.std(ddof=1) / math.sqrt(5)), 4))
    assert test.effect == pytest.approx(1.2 / differences.std(ddof=1) * 0.8)
    swapped = s.paired(y, x)
    assert (swapped.mean.value, swapped.p) == pytest.approx((-1.2, test.p))
    assert swapped.mean.low == pytest.approx(-test.mean.high)


def test_few_or_equal_runs_are_no_evidence() -> None:
    one = s.paired(np.array([2.0]), np.array([1.0]))
    assert (one.mean.value, one.mean.low, one.mean.high, one.pairs) == (1, -math.inf, math.inf, 1)
    assert math.isnan(one.p)
    same = s.paired(np.ones(5), np.ones(5))
    assert (same.mean.value, same.p, same.effect) == (0, 1, 0)
    with pytest.raises(InputError, match="in pairs"):
        s.paired(np.ones(3), np.ones(4))


def test_intervals_are_the_same_each_time() -> None:
    """They are drawn at random, but a report that is made again shows the same numbers."""
    rng = np.random.default_rng(0)
    scores = {name: rng.normal(size=(5, 30)) for name in "abc"}
    ranks = s.ranks(scores, resamples=99)
    assert ranks == s.ranks(scores, resamples=99)
    assert any(e.low < e.value < e.high for e in ranks.values())
    first, second = (s.interval(s.improvement, scores["a"], scores["b"], resamples=99) for _ in range(2))
    assert first == second
    assert first.low < first.high


def test_holm() -> None:
    """The worked example of Holm's rule: times 4, 3, 2, 1 in order of size, and never falling."""
    assert s.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert s.holm([0.5, 0.9]) == pytest.approx([1, 1])
    corrected = s.holm([math.nan, 0.02])
    assert math.isnan(corrected[0]) and corrected[1] == pytest.approx(0.02)


def test_ranks_and_how_sure_they_are() -> None:
    rng = np.random.default_rng(0)
    far = {name: rng.normal(level, 0.1, size=(5, 2)) for name, level in (("c", 0), ("a", 9), ("b", 5))}
    ranks = s.ranks(far)
    assert {n: (e.value, e.low, e.high) for n, e in ranks.items()} == {"a": (1, 1, 1), "b": (2, 2, 2), "c": (3, 3, 3)}
    near = s.ranks({"a": rng.normal(size=(5, 1)), "b": rng.normal(size=(5, 1))})
    assert near["a"].low == 1 and near["a"].high == 2
    paired = rng.normal(size=(5, 1)) * 10  # a shift far below the noise, but the same in each pair
    assert s.ranks({"a": paired + 0.1, "b": paired})["a"].high == 1
    with pytest.raises(InputError, match="one shape"):
        s.ranks({"a": paired, "b": paired[:4]})


def test_the_best_of_n_trials_is_that_of_drawing_them() -> None:
    values = np.array([3.0, 1, 4, 1, 5])
    mean, spread = s.expected_best(values)
    assert mean[0] == pytest.approx(values.mean())
    assert spread[0] == pytest.approx(values.std())
    assert (np.diff(mean) > 0).all()
    drawn = np.random.default_rng(0).choice(values, size=(200_000, 3)).max(axis=1)
    assert mean[2] == pytest.approx(drawn.mean(), abs=0.01)
    assert spread[2] == pytest.approx(drawn.std(), abs=0.01)
    best, chance = s.expected_best(np.array([2.0, 2.0]))
    assert best.tolist() == [2, 2] and chance.tolist() == [0, 0]


def verdicts(difference: float, variants: int, repeats: int, seed: int) -> float:
    """Share of comparisons of five seeds in which some pair is called different; seeds share a part of the noise.

    The first variant is better by `difference` standard deviations of the difference of a pair.
    """
    rng = np.random.default_rng(seed)
    count = 0
    for _ in range(repeats):
        scores = rng.normal(size=(variants, 5)) / math.sqrt(2) + rng.normal(size=5)
        scores[0] += difference
        pairs = [(i, j) for i in range(variants) for j in range(i)]
        count += min(s.holm([s.paired(scores[i], scores[j]).p for i, j in pairs])) < 0.05
    return count / repeats


@pytest.mark.slow
def test_like_variants_are_seldom_called_different_and_unlike_ones_mostly() -> None:
    """1,000 comparisons each: at most 6% wrong of two alike, and of six alike with all fifteen pairs looked at."""
    alike, six, apart = verdicts(0, 2, 1000, 0), verdicts(0, 6, 1000, 1), verdicts(2, 2, 1000, 2)
    print(f"called different: two alike {alike:.1%}, six alike {six:.1%}, two 2 standard deviations apart {apart:.1%}")
    assert alike <= 0.06
    assert six <= 0.06
    assert apart >= 0.9
