"""Disentanglement where it is known: codes that are the factors, are noise, are rotated; and by other programs."""

import itertools

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.evaluate import disentanglement as d
from variants import InputError

SIZES = (3, 4, 5, 6)
GRID = np.array(list(itertools.product(*(range(n) for n in SIZES))))
GRID = np.repeat(GRID, 8, axis=0)  # 2,880 rows: every combination as often
ORDERED = [False] * 4


def rotated() -> NDArray[np.float64]:
    """Factors of one variance each, turned so that each column holds as much of each (a Hadamard matrix)."""
    turn = np.array([[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]]) / 2
    return np.asarray((GRID - GRID.mean(axis=0)) / GRID.std(axis=0) @ turn)


def reference() -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    rng = np.random.default_rng(11)
    factors = np.stack([rng.integers(3, size=900), rng.integers(5, size=900)], axis=1)
    mixed = np.array([[1.0, 0.3], [-0.5, 0.8], [0, 0.2], [0, 0]])
    return factors @ mixed.T + rng.standard_normal((900, 4)) * np.array([0.3, 0.5, 1, 1]), factors


def test_codes_that_are_the_factors_are_disentangled() -> None:
    """Also in another order, with signs and scales changed, and with a dead and a noisy column beside them."""
    rng = np.random.default_rng(0)
    codes = (GRID * [1.0, -2.0, 0.5, 10.0])[:, ::-1]
    assert d.mig(codes, GRID) == pytest.approx(1)
    assert d.modularity(codes, GRID) == pytest.approx(1)
    assert d.sap(codes, GRID, ORDERED) == pytest.approx(1)
    assert d.beta_vae_score(codes, GRID) == pytest.approx(1)
    more = np.column_stack([codes, np.zeros(len(codes)), 0.04 * rng.standard_normal(len(codes))])
    scores = d.scores(more, GRID, [True, False, False, False])
    # the best code tells the unordered factor of three classes with certainty, the next by chance: a gap of 2/3
    assert scores.pop("sap") == pytest.approx((3 + 2 / 3) / 4, abs=0.02)
    assert scores.pop("mig") == pytest.approx(1, abs=0.02)
    assert scores.pop("modularity") < 5 / 6 + 0.02  # the dead column counts 0
    assert all(v > 0.99 for v in scores.values()), scores


@pytest.mark.slow
def test_random_codes_are_not() -> None:
    codes = np.random.default_rng(1).standard_normal((len(GRID), 6))
    scores = d.scores(codes, GRID, [True, False, False, False])
    assert scores["mig"] < 0.02
    assert scores["sap"] < 0.03
    assert scores["dci_disentanglement"] < 0.2
    assert scores["dci_informativeness"] < 0.15  # a third by chance, of one factor in four
    assert scores["beta_vae_score"] == pytest.approx(0.25, abs=0.15)
    assert scores["factor_vae_score"] == pytest.approx(0.25, abs=0.15)


def test_a_rotation_takes_the_axes_away_and_leaves_what_is_known() -> None:
    scores = d.scores(rotated(), GRID, ORDERED)
    assert scores["mig"] < 0.1
    assert scores["sap"] < 0.05
    assert scores["dci_disentanglement"] < 0.1
    assert scores["dci_informativeness"] > 0.8


def test_scores_of_dead_codes() -> None:
    scores = d.scores(np.zeros((len(GRID), 3)), GRID, [True, False, False, False])
    assert scores["mig"] == scores["modularity"] == scores["sap"] == 0
    assert scores["dci_disentanglement"] == pytest.approx(0)
    assert scores["factor_vae_score"] == pytest.approx(0.25)
    assert scores["beta_vae_score"] == pytest.approx(0.25, abs=0.05)


def test_two_codes_that_know_the_same_leave_no_gap() -> None:
    codes = np.column_stack([GRID, GRID])
    assert d.mig(codes, GRID) == pytest.approx(0)
    assert d.sap(codes, GRID, ORDERED) == pytest.approx(0)
    assert d.modularity(codes, GRID) == pytest.approx(1)


def test_mig_of_a_channel_with_known_noise() -> None:
    """A binary factor, told wrongly with probability 1/4 by the first code and 1/3 by the second, in exact counts.

    I = log 2 - H(error), so that the gap is (H(1/3) - H(1/4)) / log 2.
    """
    factor = np.repeat([0, 1], 12)
    first = np.where(np.arange(24) % 4 == 0, 1 - factor, factor)
    second = np.where(np.arange(24) % 3 == 0, 1 - factor, factor)

    def entropy(p: float) -> float:
        return float(-p * np.log(p) - (1 - p) * np.log(1 - p))

    codes = np.column_stack([first, second]).astype(float)
    assert d.mig(codes, factor[:, None]) == pytest.approx((entropy(1 / 3) - entropy(1 / 4)) / np.log(2))


def test_reference_vectors() -> None:
    """MIG, SAP and DCI as disent 0.8 gives them on the same arrays (its DCI seeds no trees: .002 between its runs).

    Modularity and SAP with a class: a separate script that counts pair by pair. Votes of 2 examples: a loop that draws
    them one at a time, four seeds of it.
    """
    codes, factors = reference()
    assert d.mig(codes, factors) == pytest.approx(0.38746840360451873, abs=1e-9)
    assert d.sap(codes, factors, [False, False]) == pytest.approx(0.597760622534427, abs=1e-9)
    assert d.sap(codes, factors, [True, False]) == pytest.approx(0.40692519254226855, abs=1e-9)
    assert d.modularity(codes, factors) == pytest.approx(0.8555769418051653, abs=1e-9)
    parts = d.dci(codes, factors, [True, True])
    assert parts.disentanglement == pytest.approx(0.1922, abs=0.004)
    assert parts.completeness == pytest.approx(0.4306, abs=0.004)
    assert parts.informativeness == pytest.approx(0.8233, abs=0.006)
    beta = np.mean([d.beta_vae_score(codes, factors, seed, alike=2) for seed in range(4)])
    assert beta == pytest.approx(np.mean([0.838, 0.8468, 0.8278, 0.8424]), abs=0.012)
    factor = np.mean([d.factor_vae_score(codes, factors, seed, alike=2) for seed in range(4)])
    assert factor == pytest.approx(np.mean([0.6276, 0.6258, 0.6442, 0.6272]), abs=0.012)


def test_each_pair_of_a_vote_shares_a_value_of_its_own() -> None:
    """Codes whose spread depends on the shared value. A loop over pairs, four seeds of it: .9438, .9428, .9448, .9462;
    with one value for all pairs of a vote it gives .9254.
    """
    rng = np.random.default_rng(5)
    factors = np.stack([rng.integers(6, size=900), rng.integers(6, size=900)], axis=1)
    codes = np.stack([2.0 ** factors[:, 0], rng.standard_normal(900) + factors[:, 1] * 0.8], axis=1)
    codes[:, 0] += np.where(factors[:, 1] > 2, 3, -3) * 2.0 ** factors[:, 0] * 0.25
    scores = np.mean([d.beta_vae_score(codes, factors, seed, alike=16) for seed in range(4)])
    assert scores == pytest.approx(np.mean([0.9438, 0.9428, 0.9448, 0.9462]), abs=0.006)


def test_continuous_factors_are_cut_into_bins() -> None:
    rng = np.random.default_rng(2)
    factors = rng.uniform(size=(3000, 2))
    assert d.mig(factors, factors) == pytest.approx(1, abs=0.03)
    assert d.factor_vae_score(factors, factors) > 0.99
    assert d.beta_vae_score(factors, factors) > 0.99


def test_quiet_codes_have_no_vote() -> None:
    """A column that hardly moves is steadier than any, relative to nothing; and one just above the bound is heard."""
    codes, factors = reference()
    still = np.random.default_rng(0).standard_normal(len(codes))
    before = d.factor_vae_score(codes, factors, alike=2)
    assert d.factor_vae_score(np.column_stack([codes, 0.049 * still]), factors, alike=2) == before
    assert d.factor_vae_score(np.column_stack([codes, 0.06 * still / still.std()]), factors, alike=2) != before


def test_votes_are_told_by_what_was_not_learned_from(monkeypatch: pytest.MonkeyPatch) -> None:
    """Codes of noise with as many columns as votes: whoever is told the votes learned from knows them all."""
    monkeypatch.setattr(d, "TRAIN", 60)
    monkeypatch.setattr(d, "TEST", 2000)
    codes = np.random.default_rng(0).standard_normal((len(GRID), 100))
    assert d.beta_vae_score(codes, GRID, alike=1) < 0.4
    assert d.dci(codes, GRID[:, :1], [True]).informativeness < 0.5


@pytest.mark.parametrize(
    ("codes", "factors", "message"),
    [
        (np.zeros((20, 3)), np.zeros((19, 2)), r"\(20, 3\) and factors \(19, 2\)"),
        (np.zeros(20), np.zeros((20, 2)), r"expected \(N, Z\) and \(N, F\)"),
        (np.zeros((20, 1)), np.arange(40).reshape(20, 2), "2 columns"),
        (np.full((20, 3), np.nan), np.arange(40).reshape(20, 2), "NaN"),
        (np.zeros((20, 3)), np.stack([np.arange(20), np.ones(20)], 1), "factor 1 has one value"),
    ],
)
def test_what_cannot_be_scored_is_refused(
    codes: NDArray[np.float64], factors: NDArray[np.float64], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        d.mig(codes, factors)
