"""Whether single dimensions of a code stand for single causes of the data, where those are known.

Every function takes plain arrays: codes (N, Z) and factors (N, F), whole numbers or not. All scores are at most 1, and
higher is better. A factor of at most 64 different values is discrete; others are cut into 20 bins of equal width, as
codes are, where a metric counts. `unordered` marks the factors (F,) whose values are classes, such as a shape.

Figures of other programs stand beside these only where their choices are the same: Locatello et al. 2019 read ordered
factors by classifiers in SAP and DCI; here they are regressed, as the metrics' own papers do.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from variants import InputError

Array = NDArray[np.float64]
BINS = 20
DISCRETE = 64  # different values that a discrete factor has at most
TRAIN, TEST = 10_000, 5_000  # votes, and examples of the regressions
ALIKE = 64  # examples, or pairs of them, behind a vote
QUIET = 0.05  # standard deviation below which a code has no vote in the FactorVAE score


@dataclass(frozen=True)
class DCI:
    disentanglement: float
    completeness: float
    informativeness: float


def scores(codes: Array, factors: NDArray[Any], unordered: Sequence[bool], seed: int = 0) -> dict[str, float]:
    """Every metric of this file, by name."""
    parts = dci(codes, factors, unordered, seed)
    return {
        "mig": mig(codes, factors), "modularity": modularity(codes, factors), "sap": sap(codes, factors, unordered),
        "dci_disentanglement": parts.disentanglement, "dci_completeness": parts.completeness,
        "dci_informativeness": parts.informativeness,
        "beta_vae_score": beta_vae_score(codes, factors, seed),
        "factor_vae_score": factor_vae_score(codes, factors, seed),
    }  # fmt: skip


def mig(codes: Array, factors: NDArray[Any]) -> float:
    """Mutual information gap: between the two codes that know most of a factor, over its entropy; mean over factors.

    Chen et al. 2018, equation 6, of binned codes as in Locatello et al. 2019. At least 0; a code cut into fewer bins
    than a factor has values cannot reach 1. No scale counts: units that are as good as unused count like any other.
    """
    codes, factors = _checked(codes, factors, 2)
    information, entropy = _information(codes, factors)
    ordered = np.sort(information, axis=0)
    return float(((ordered[-1] - ordered[-2]) / entropy).mean())


def modularity(codes: Array, factors: NDArray[Any]) -> float:
    """How nearly each code knows of one factor alone, averaged over codes; one that knows of none counts 0.

    Ridgeway & Mozer 2018, section 3: 1 - sum of squared information about other factors / (its largest squared, times
    the number of others).
    """
    codes, factors = _checked(codes, factors, 1)
    if factors.shape[1] < 2:
        raise InputError("modularity of one factor says nothing; expected two or more")
    squared = _information(codes, factors)[0] ** 2
    most = squared.max(axis=1)
    others = (squared.sum(axis=1) - most) / np.where(most > 0, most, 1) / (factors.shape[1] - 1)
    return float(np.where(most > 0, 1 - others, 0).mean())


def sap(codes: Array, factors: NDArray[Any], unordered: Sequence[bool]) -> float:
    """Separated attribute predictability: the gap between the two codes that tell most of a factor; mean over factors.

    Kumar et al. 2018, section 3. A code tells of an ordered factor by the squared correlation; of an unordered one by
    the accuracy of a linear support vector machine on that code alone, classes weighted evenly, on held-out examples.
    """
    codes, factors = _checked(codes, factors, 2)
    train, test = _halves(len(codes), seed=0)
    gaps = []
    for factor, apart in zip(factors.T, unordered, strict=True):
        told = _separated(codes, factor, train, test) if apart else _correlation(codes, factor) ** 2
        best = np.sort(told)
        gaps.append(best[-1] - best[-2])
    return float(np.mean(gaps))


def dci(codes: Array, factors: NDArray[Any], unordered: Sequence[bool], seed: int = 0) -> DCI:
    """Eastwood & Williams 2018, section 2, by gradient boosted trees (100 of depth 3), on at most 10,000 examples.

    The importance of a code for a factor is that of the trees, which adds up to 1 for a factor. Disentanglement: 1 -
    the entropy over factors of a code's importances, weighted by their sum; completeness: 1 - the entropy over codes of
    a factor's; informativeness: accuracy (unordered) or R^2, at least 0, on at most 5,000 held-out examples.
    """
    from sklearn.ensemble import GradientBoostingClassifier, GradientBoostingRegressor

    codes, factors = _checked(codes, factors, 1)
    train, test = _halves(len(codes), seed)
    importance, informed = [], []
    for factor, apart in zip(factors.T, unordered, strict=True):
        model = (GradientBoostingClassifier if apart else GradientBoostingRegressor)(random_state=seed)
        model.fit(codes[train], factor[train])
        importance.append(model.feature_importances_)
        informed.append(max(0.0, model.score(codes[test], factor[test])))
    table = np.stack(importance, axis=1)  # (Z, F)
    weight = table.sum(axis=1) / max(table.sum(), 1e-12)
    return DCI(
        float((weight * _purity(table)).sum()),
        float(_purity(table.T).mean()),
        float(np.mean(informed)),
    )


def beta_vae_score(codes: Array, factors: NDArray[Any], seed: int = 0, alike: int = ALIKE) -> float:
    """Accuracy of a linear classifier that tells which factor pairs of examples share, from how their codes differ.

    Higgins et al. 2017, section 3: the mean of |z - z'| over `alike` pairs, of which each shares its own value of one
    factor, is one vote; 10,000 of them train the classifier (logistic regression), 5,000 are told. Chance is 1 / F.
    """
    from sklearn.linear_model import LogisticRegression

    codes, factors = _checked(codes, factors, 1)
    rng = np.random.default_rng(seed)
    shared = rng.integers(factors.shape[1], size=TRAIN + TEST)
    one = rng.integers(len(factors), size=(len(shared), alike))
    two = _partners(factors, shared, one, rng)
    apart = np.stack([np.abs(codes[a] - codes[b]).mean(axis=0) for a, b in zip(one, two, strict=True)])
    apart = apart / max(float(apart[:TRAIN].std()), 1e-12)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # 500 steps settle the accuracy, if not each weight
        model = LogisticRegression(max_iter=500, C=100).fit(apart[:TRAIN], shared[:TRAIN])
    return float(model.score(apart[TRAIN:], shared[TRAIN:]))


def factor_vae_score(codes: Array, factors: NDArray[Any], seed: int = 0, alike: int = ALIKE) -> float:
    """Accuracy of the majority vote that tells which factor `alike` examples share, from the code that varies least.

    Kim & Mnih 2018, section 4; variances are relative to those of all codes, and codes with a standard deviation below
    .05 have no vote. Chance is 1 / F.
    """
    codes, factors = _checked(codes, factors, 1)
    spread = codes.std(axis=0)
    heard = spread >= QUIET
    if not heard.any():
        return 1 / int(factors.shape[1])
    rng = np.random.default_rng(seed)
    shared = rng.integers(factors.shape[1], size=TRAIN + TEST)
    first = rng.integers(len(factors), size=(len(shared), 1))
    rows = _partners(factors, shared, first.repeat(alike, axis=1), rng)
    least = ((codes[:, heard] / spread[heard])[rows]).var(axis=1).argmin(axis=1)
    votes = np.zeros((int(heard.sum()), factors.shape[1]))
    np.add.at(votes, (least[:TRAIN], shared[:TRAIN]), 1)
    return float((votes.argmax(axis=1)[least[TRAIN:]] == shared[TRAIN:]).mean())


def _checked(codes: Array, factors: NDArray[Any], least: int) -> tuple[Array, NDArray[Any]]:
    codes, factors = np.asarray(codes, dtype=np.float64), np.asarray(factors)
    if codes.ndim != 2 or factors.ndim != 2 or len(codes) != len(factors):
        raise InputError(f"codes {codes.shape} and factors {factors.shape}: expected (N, Z) and (N, F), one row each")
    if codes.shape[1] < least or len(codes) < 10:
        raise InputError(f"codes of shape {codes.shape}: expected at least 10 rows, and {least} columns")
    if not (np.isfinite(codes).all() and np.isfinite(factors.astype(np.float64)).all()):
        raise InputError("codes or factors hold NaN or infinity; drop those rows")
    still = (factors == factors[:1]).all(axis=0)
    if still.any():
        raise InputError(f"factor {int(still.argmax())} has one value only; leave it out")
    return codes, factors


def _levels(values: NDArray[Any], always: bool) -> NDArray[np.int64]:
    """Values (N,) as whole numbers from 0: themselves where they are few, else bins of equal width."""
    different, index = np.unique(values, return_inverse=True)
    if len(different) <= DISCRETE and not always:
        return np.asarray(index, dtype=np.int64)
    edges = np.linspace(values.min(), values.max(), BINS + 1)
    return np.searchsorted(edges[1:-1], values, side="right").astype(np.int64)


def _information(codes: Array, factors: NDArray[Any]) -> tuple[Array, Array]:
    """Mutual information (Z, F) of binned codes and factors, and the factors' entropies (F,), in nats."""
    from sklearn.metrics import mutual_info_score

    binned = [_levels(c, always=True) for c in codes.T]
    known = [_levels(f, always=False) for f in factors.T]
    information = np.array([[mutual_info_score(f, c) for f in known] for c in binned])
    return information, np.array([mutual_info_score(f, f) for f in known])


def _correlation(codes: Array, factor: NDArray[Any]) -> Array:
    """(Z,) correlation of each code with a factor; 0 for a code that never moves."""
    c, f = codes - codes.mean(axis=0), factor - factor.mean()
    size = np.sqrt((c**2).sum(axis=0) * (f**2).sum())
    found: Array = f @ c / np.where(size > 1e-12, size, np.inf)
    return found


def _separated(codes: Array, factor: NDArray[Any], train: NDArray[np.int64], test: NDArray[np.int64]) -> Array:
    from sklearn.metrics import balanced_accuracy_score
    from sklearn.svm import LinearSVC

    found = []
    for code in codes.T[:, :, None]:
        scaled = code / max(float(code.std()), 1e-12)
        model = LinearSVC(C=0.01, class_weight="balanced", random_state=0).fit(scaled[train], factor[train])
        found.append(balanced_accuracy_score(factor[test], model.predict(scaled[test])))
    return np.array(found)


def _halves(n: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Different rows to learn from and to be told: two thirds and one, and no more than 10,000 and 5,000."""
    order = np.random.default_rng(seed).permutation(n)
    first = min(TRAIN, 2 * n // 3)
    return order[:first], order[first : first + TEST]


def _purity(table: Array) -> Array:
    """1 - the entropy of each row's shares, to the base of their number; a row of zeros counts as spread evenly."""
    total = table.sum(axis=1, keepdims=True)
    share = np.where(total > 0, table / np.where(total > 0, total, 1), 1 / table.shape[1])
    logs = np.log(np.where(share > 0, share, 1))
    purity: Array = 1 + (share * logs).sum(axis=1) / np.log(max(table.shape[1], 2))
    return purity


def _partners(
    factors: NDArray[Any], shared: NDArray[np.int64], rows: NDArray[np.int64], rng: np.random.Generator
) -> NDArray[np.int64]:
    """For each of `rows` (V, n) one drawn from those that have its value of the factor `shared` (V,) of the vote."""
    chance, found = rng.random(rows.shape), np.empty_like(rows)
    for f, values in enumerate(factors.T):
        level = _levels(values, always=False)
        order, counts = level.argsort(kind="stable"), np.bincount(level)
        value = level[rows[shared == f]]
        starts = np.cumsum(counts) - counts
        found[shared == f] = order[starts[value] + (chance[shared == f] * counts[value]).astype(np.int64)]
    return found
