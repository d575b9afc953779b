"""What a code uses and how its groups match classes, against closed forms and explicit sums."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from pipeline.evaluate import clusters, latents
from pipeline.metrics import Undefined, defined
from variants import InputError

Array = np.ndarray


def test_active_units_by_variance_and_by_kl() -> None:
    codes = np.random.default_rng(0).normal(size=(2000, 4)) * [1, 0.2, 0.05, 0]  # variances 1, .04, .0025, 0
    prior = np.random.default_rng(1).normal(size=(2000, 4))
    assert latents.active_units(codes, prior) == 2
    assert latents.active_units(codes, prior, threshold=0.1) == 1
    assert latents.active_units(codes * 5, prior * 5) == 2
    assert latents.active_units(codes, prior * 5) == 1
    kl = torch.tensor([2.0, 0.0101, 0.01, 0.0099, 0.0])  # more than .01, not as much
    assert latents.active_units_kl(kl) == 2
    assert latents.active_units_kl(kl, threshold=0.005) == 4
    assert latents.active_units_kl(kl, threshold=5) == 0


def test_levels_add_up() -> None:
    values = latents.by_level(torch.tensor([1.0, 2.0, 0.001, 3.0]), (2, 2))
    assert values == {
        "latent/kl_level_1": 3.0, "latent/active_units_level_1": 2.0,
        "latent/kl_level_2": pytest.approx(3.001), "latent/active_units_level_2": 1.0,
    }  # fmt: skip


def test_mmd_is_that_of_explicit_sums_and_tells_distributions_apart() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((30, 3)), rng.standard_normal((20, 3)) + 1
    c = 2 * b.var(axis=0).sum()

    def kernel(p: Array, q: Array) -> float:
        return float(c / (c + ((p - q) ** 2).sum()))

    within = [np.mean([kernel(s[i], s[j]) for i in range(len(s)) for j in range(len(s)) if i != j]) for s in (a, b)]
    across = np.mean([kernel(p, q) for p in a for q in b])
    assert latents.mmd(a, b) == pytest.approx(sum(within) - 2 * across)
    same = [latents.mmd(rng.standard_normal((500, 3)), rng.standard_normal((500, 3))) for _ in range(20)]
    assert abs(np.mean(same)) < 5 * np.std(same) / 20**0.5
    assert latents.mmd(rng.standard_normal((500, 3)) + 0.5, rng.standard_normal((500, 3))) > 5 * np.std(same)


def test_moments_are_in_units_of_the_prior() -> None:
    rng = np.random.default_rng(0)
    values = latents.moments(rng.standard_normal((50_000, 2)) * 2.5 + 5, rng.standard_normal((50_000, 2)) * 5)
    assert values["latent/posterior_mean"] == pytest.approx(1, abs=0.02)
    assert values["latent/posterior_spread"] == pytest.approx(0.5, abs=0.01)


def test_divergence_of_gaussians_is_the_closed_form() -> None:
    rng = np.random.default_rng(0)
    mean, s = np.array([1.0, -0.5]), np.array([0.5, 0.8])
    wanted = (0.5 * (s**2 + mean**2 - 1) - np.log(s)).sum()
    values = [
        defined(latents.divergence(mean + s * rng.normal(size=(3000, 2)), rng.normal(size=(4500, 2)))) for _ in range(5)
    ]
    backward = (0.5 * ((1 + mean**2) / s**2 - 1) + np.log(s)).sum()
    assert backward > 3 * wanted  # so that the two samples are not swapped
    assert np.mean(values) == pytest.approx(wanted, abs=0.05)


def test_divergence_by_dimension_adds_up_and_does_not_see_dependence() -> None:
    """Gaussians that are correlated: the sum over dimensions is that of their marginals, in 16 dimensions too."""
    rng = np.random.default_rng(3)
    s = np.linspace(0.5, 1.5, 16)
    shared = rng.normal(size=(5000, 1))
    codes = s * (0.8 * shared + 0.6 * rng.normal(size=(5000, 16)))
    wanted = (0.5 * (s**2 - 1) - np.log(s)).sum()
    assert latents.dimension_kl(codes, rng.normal(size=(5000, 16))) == pytest.approx(wanted, abs=0.3)


def test_divergence_of_one_distribution_is_nothing_for_each_k() -> None:
    """Also at unlike numbers of points, and few of them, where neighbours miscounted by one would show."""
    rng = np.random.default_rng(1)
    for k in (1, 2, 5):
        pairs = [(rng.normal(size=(100, 1)), rng.normal(size=(300, 1))) for _ in range(200)]
        values = [defined(latents.divergence(codes, prior, k)) for codes, prior in pairs]
        assert np.mean(values) == pytest.approx(0, abs=4 * float(np.std(values)) / 200**0.5 + 0.01), k


def test_divergence_is_that_of_explicit_sums() -> None:
    rng = np.random.default_rng(2)
    codes, prior, k = rng.normal(size=(20, 3)), rng.normal(size=(30, 3)), 4
    total = 0.0
    for i, code in enumerate(codes):
        own = sorted(math.dist(code, other) for j, other in enumerate(codes) if j != i)[k - 1]
        total += math.log(sorted(math.dist(code, p) for p in prior)[k - 1] / own)
    assert latents.divergence(codes, prior, k) == pytest.approx(3 * total / 20 + math.log(30 / 19), rel=1e-12)


@pytest.mark.parametrize(
    ("kl", "words"),
    [
        ([1.5] * 16, "no collapse: all 16 units are used, and carry 24.0 nats"),
        ([2.0] * 13 + [0.001] * 3, "3 of 16 units are unused; the others carry 26.0 nats"),
        ([0.001] * 16, "collapsed: 16 units carry 0.02 nats in all; the decoder practically ignores z"),
        ([0.05] * 16, "no collapse: all 16 units are used, and carry 0.8 nats"),
        ([0.02] * 4, "collapsed: 4 units carry 0.08 nats in all; the decoder practically ignores z"),
        ([1.0, 0.01], "1 of 2 units are unused; the others carry 1.0 nats"),
    ],
)
def test_the_verdict_in_words(kl: list[float], words: str) -> None:
    assert latents.verdict(torch.tensor(kl)) == words


def blobs(n: int = 600) -> tuple[Array, Array]:
    """Four long, narrow, well separated groups in three dimensions, of unlike sizes."""
    rng = np.random.default_rng(0)
    labels = rng.choice(4, n, p=[0.4, 0.3, 0.2, 0.1])
    centres = np.array([[0, 0, 0], [30, 0, 0], [0, 30, 0], [0, 0, 30]])
    return centres[labels] + rng.normal(size=(n, 3)) * [2, 0.5, 0.1], labels


def test_separated_groups_are_found_whatever_their_numbers() -> None:
    codes, labels = blobs()
    names = [f"{way}_{score}" for way in ("kmeans", "mixture") for score in ("ari", "nmi", "accuracy")]
    assert clusters.scores(codes, labels) == dict.fromkeys(names, pytest.approx(1))
    renamed = np.array([7, 3, 11, -2])[labels]
    assert clusters.scores(codes, renamed) == clusters.scores(codes, labels)


def test_only_the_mixture_follows_long_groups() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 800)
    codes = rng.normal(size=(800, 2)) * [3, 0.3] + np.stack([np.zeros(800), labels * 4.0], 1)
    scores = defined(clusters.scores(codes, labels))
    assert scores["mixture_accuracy"] > 0.99 and scores["mixture_ari"] > 0.97
    assert scores["kmeans_accuracy"] < 0.6


def test_groups_of_random_labels_agree_by_chance() -> None:
    codes, _ = blobs()
    scores = defined(clusters.scores(codes, np.random.default_rng(1).integers(0, 4, len(codes))))
    for way in ("kmeans", "mixture"):
        assert abs(scores[f"{way}_ari"]) < 0.02
        assert scores[f"{way}_nmi"] < 0.03
        assert 0.2 < scores[f"{way}_accuracy"] < 0.35


def test_the_assignment_is_one_to_one_and_the_best() -> None:
    """Two clusters of one class count once: the class takes the larger. Greedy choices (2, then 0) would find less."""
    assert clusters.assigned_accuracy(np.array([0, 0, 0, 1, 1, 1]), np.array([5, 5, 5, 2, 2, 2])) == 1
    assert clusters.assigned_accuracy(np.array([0, 0, 0, 0, 1]), np.array([0, 0, 1, 2, 0])) == pytest.approx(2 / 5)
    table = np.array([[5, 4], [4, 0]])  # greedily 5 + 0 of 13; at best 4 + 4
    labels = np.repeat([0, 0, 1, 1], table.ravel())
    groups = np.repeat([0, 1, 0, 1], table.ravel())
    assert clusters.assigned_accuracy(labels, groups) == pytest.approx(8 / 13)
    assert clusters.assigned_accuracy(np.array([0, 1, 2]), np.array([0, 0, 0])) == pytest.approx(1 / 3)


TABLE = np.random.default_rng(0).normal(size=(6, 3))
BROKEN = np.where(np.arange(18).reshape(6, 3) == 4, np.nan, TABLE)
SIX = np.arange(6) % 2


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: latents.divergence(TABLE, TABLE + 1, 0), "k=0"),
        (lambda: latents.divergence(TABLE, TABLE[:, :2], 2), r"\(6, 3\).*\(6, 2\)"),
        (lambda: latents.divergence(BROKEN, TABLE, 2), "NaN"),
        (lambda: clusters.scores(TABLE, SIX[:5]), "6 codes and 5 labels"),
        (lambda: clusters.scores(BROKEN, SIX), "1 of 6 codes hold NaN"),
    ],
)
def test_bad_arguments_are_errors(call: Callable[[], object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (lambda: latents.divergence(TABLE, TABLE + 1, 6), "6 codes and 6 of the prior are too few for 6 neighbours"),
        (lambda: latents.divergence(TABLE, TABLE[:3] + 1, 4), "3 of the prior"),
        (lambda: latents.divergence(TABLE.repeat(3, 0), TABLE, 2), "18 of 18 codes are equal to 2 others"),
        (lambda: latents.divergence(TABLE, TABLE.repeat(2, 0), 2), "6 of 6 codes are equal to 2 samples of the prior"),
        (lambda: latents.dimension_kl(TABLE.repeat(6, 0), TABLE), "36 of 36 codes are equal"),
        (lambda: clusters.scores(TABLE, np.zeros(6, int)), "two classes"),
        (lambda: clusters.scores(TABLE, np.arange(6)), "more codes"),
    ],
)
def test_what_data_do_not_define_has_a_reason(call: Callable[[], object], reason: str) -> None:
    value = call()
    assert isinstance(value, Undefined) and reason in value.reason
