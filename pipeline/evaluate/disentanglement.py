"""Whether single dimensions of a code correspond to single factors of the data, where the factors are known.

Every function takes plain arrays: codes (N, Z) and factors (N, F). All scores are at most 1, and higher is better. A
factor with at most 64 different values counts as discrete. Where a metric counts values, other factors are cut into 20
bins of equal width, and so are codes. `unordered` (F,) marks the factors whose values are classes, such as a shape.

Values of other programs are comparable only if their choices are the same. For example, Locatello et al. 2019 predict
ordered factors by classifiers in SAP and DCI; here they are predicted by regression, as in the metrics' own papers.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.metrics import Undefined
from variants import InputError

Array = NDArray[np.float64]
BINS = 20
DISCRETE = 64  # the largest number of values of a discrete factor
TRAIN, TEST = 10_000, 5_000  # votes, or examples of a regression
ALIKE = 64  # examples, or pairs of examples, per vote
QUIET = 0.05  # the FactorVAE score ignores codes with a smaller standard deviation


@dataclass(frozen=True)
class DCI:
    """The three scores of `dci`."""

    disentanglement: float
    completeness: float
    informativeness: float


def scores(
    codes: Array, factors: NDArray[Any], unordered: Sequence[bool], seed: int = 0
) -> dict[str, float] | Undefined:
    """Return every metric of this module by name.

    They are undefined for fewer than two codes or factors, fewer than 10 examples, and a factor that never changes.
    """
    codes, factors = _arrays(codes, factors)
    if reason := _unfit(codes, factors, least_codes=2, least_factors=2):
        return Undefined(reason)
    parts = dci(codes, factors, unordered, seed)
    return {
        "mig": mig(codes, factors), "modularity": modularity(codes, factors), "sap": sap(codes, factors, unordered),
        "dci_disentanglement": parts.disentanglement, "dci_completeness": parts.completeness,
        "dci_informativeness": parts.informativeness,
        "beta_vae_score": beta_vae_score(codes, factors, seed),
        "factor_vae_score": factor_vae_score(codes, factors, seed),
    }  # fmt: skip


def mig(codes: Array, factors: NDArray[Any]) -> float:
    """Return the mutual information gap, averaged over factors; at least 0.

    It is the difference in mutual information between the two codes that know most about a factor, divided by the
    factor's entropy (Chen et al. 2018, equation 6), with binned codes as in Locatello et al. 2019. A code that is cut
    into fewer bins than a factor has values cannot reach 1. The scale of a code does not matter: units that are
    practically unused count as much as any other.
    """
    codes, factors = _checked(codes, factors, 2)
    information, entropy = _information(codes, factors)
    ordered = np.sort(information, axis=0)
    return float(((ordered[-1] - ordered[-2]) / entropy).mean())


def modularity(codes: Array, factors: NDArray[Any]) -> float:
    """Return how nearly each code knows about one factor only, averaged over codes.

    It is 1 - (sum of squared information about the other factors) / (largest squared information times the number of
    other factors) (Ridgeway & Mozer 2018, section 3). A code that knows nothing counts as 0.
    """
    codes, factors = _checked(codes, factors, least_factors=2)
    squared = _information(codes, factors)[0] ** 2
    most = squared.max(axis=1)
    others = (squared.sum(axis=1) - most) / np.where(most > 0, most, 1) / (factors.shape[1] - 1)
    return float(np.where(most > 0, 1 - others, 0).mean())


def sap(codes: Array, factors: NDArray[Any], unordered: Sequence[bool]) -> float:
    """Return the separated attribute predictability, averaged over factors.

    It is the gap between the two codes that predict a factor best (Kumar et al. 2018, section 3). The prediction of an
    ordered factor is scored by the squared correlation; that of an unordered one by the balanced accuracy, on held-out
    examples, of a linear support vector machine on this code alone.
    """
    codes, factors = _checked(codes, factors, 2)
    train, test = _halves(len(codes), seed=0)
    gaps = []
    for factor, is_class in zip(factors.T, unordered, strict=True):
        values = _separated(codes, factor, train, test) if is_class else _correlation(codes, factor) ** 2
        best = np.sort(values)
        gaps.append(best[-1] - best[-2])
    return float(np.mean(gaps))


def dci(codes: Array, factors: NDArray[Any], unordered: Sequence[bool], seed: int = 0) -> DCI:
    """Return disentanglement, completeness and informativeness (Eastwood & Williams 2018, section 2).

    Gradient boosted trees (100 of depth 3) predict each factor from the codes, trained on at most 10,000 examples. The
    importances of the codes for a factor are those of the trees, and add up to 1.

    - Disentanglement is 1 - the entropy of a code's importances over factors, averaged with their sums as weights.
    - Completeness is 1 - the entropy of a factor's importances over codes.
    - Informativeness is the accuracy (unordered factors) or R^2, at least 0, on at most 5,000 held-out examples.
    """
    from sklearn.ensemble import GradientBoostingClassifier, GradientBoostingRegressor

    codes, factors = _checked(codes, factors)
    train, test = _halves(len(codes), seed)
    importance, accuracies = [], []
    for factor, is_class in zip(factors.T, unordered, strict=True):
        model = (GradientBoostingClassifier if is_class else GradientBoostingRegressor)(random_state=seed)
        model.fit(codes[train], factor[train])
        importance.append(model.feature_importances_)
        accuracies.append(max(0.0, model.score(codes[test], factor[test])))
    table = np.stack(importance, axis=1)  # (Z, F)
    weight = table.sum(axis=1) / max(table.sum(), 1e-12)
    return DCI(
        float((weight * _purity(table)).sum()),
        float(_purity(table.T).mean()),
        float(np.mean(accuracies)),
    )


def beta_vae_score(codes: Array, factors: NDArray[Any], seed: int = 0, alike: int = ALIKE) -> float:
    """Return how well a linear classifier tells which factor pairs of examples share; chance is 1 / F.

    Each vote is the mean of |z - z'| over `alike` pairs, which all share the value of one factor (each pair a value of
    its own). A logistic regression is trained on 10,000 votes and scored on 5,000 (Higgins et al. 2017, section 3).
    """
    from sklearn.linear_model import LogisticRegression

    codes, factors = _checked(codes, factors)
    rng = np.random.default_rng(seed)
    shared = rng.integers(factors.shape[1], size=TRAIN + TEST)
    first = rng.integers(len(factors), size=(len(shared), alike))
    second = _partners(factors, shared, first, rng)
    votes = np.stack([np.abs(codes[a] - codes[b]).mean(axis=0) for a, b in zip(first, second, strict=True)])
    votes = votes / max(float(votes[:TRAIN].std()), 1e-12)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # after 500 steps the accuracy no longer changes
        model = LogisticRegression(max_iter=500, C=100).fit(votes[:TRAIN], shared[:TRAIN])
    return float(model.score(votes[TRAIN:], shared[TRAIN:]))


def factor_vae_score(codes: Array, factors: NDArray[Any], seed: int = 0, alike: int = ALIKE) -> float:
    """Return how well a majority vote tells which factor `alike` examples share; chance is 1 / F.

    The vote of a set of examples is the code that varies least in it, relative to its variance over all examples (Kim &
    Mnih 2018, section 4). Codes with a standard deviation below 0.05 have no vote.
    """
    codes, factors = _checked(codes, factors)
    spread = codes.std(axis=0)
    active = spread >= QUIET
    if not active.any():
        return 1 / int(factors.shape[1])
    rng = np.random.default_rng(seed)
    shared = rng.integers(factors.shape[1], size=TRAIN + TEST)
    first = rng.integers(len(factors), size=(len(shared), 1))
    rows = _partners(factors, shared, first.repeat(alike, axis=1), rng)
    least = ((codes[:, active] / spread[active])[rows]).var(axis=1).argmin(axis=1)
    votes = np.zeros((int(active.sum()), factors.shape[1]))
    np.add.at(votes, (least[:TRAIN], shared[:TRAIN]), 1)
    return float((votes.argmax(axis=1)[least[TRAIN:]] == shared[TRAIN:]).mean())


def _arrays(codes: Array, factors: NDArray[Any]) -> tuple[Array, NDArray[Any]]:
    codes, factors = np.asarray(codes, dtype=np.float64), np.asarray(factors)
    if codes.ndim != 2 or factors.ndim != 2 or len(codes) != len(factors):
        raise InputError(f"codes {codes.shape} and factors {factors.shape}: expected (N, Z) and (N, F), one row each")
    if not (np.isfinite(codes).all() and np.isfinite(factors.astype(np.float64)).all()):
        raise InputError("codes or factors hold NaN or infinity; drop those rows")
    return codes, factors


def _checked(
    codes: Array, factors: NDArray[Any], least_codes: int = 1, least_factors: int = 1
) -> tuple[Array, NDArray[Any]]:
    """Return both as arrays. Raises `InputError` if a metric says nothing about them."""
    codes, factors = _arrays(codes, factors)
    if reason := _unfit(codes, factors, least_codes, least_factors):
        raise InputError(reason)
    return codes, factors


def _unfit(codes: Array, factors: NDArray[Any], least_codes: int, least_factors: int) -> str:
    """Return why a metric says nothing about codes and factors; an empty string if it does."""
    if codes.shape[1] < least_codes or len(codes) < 10:
        return f"codes of shape {codes.shape}: expected at least 10 rows, and {least_codes} columns"
    if factors.shape[1] < least_factors:
        return "modularity of one factor says nothing; expected two or more"
    constant = (factors == factors[:1]).all(axis=0)
    return f"factor {int(constant.argmax())} has one value only; leave it out" if constant.any() else ""


def _levels(values: NDArray[Any], always: bool) -> NDArray[np.int64]:
    """Return values (N,) as whole numbers from 0: one for each value if they are few, else bins of equal width.

    `always` bins them in any case.
    """
    distinct, index = np.unique(values, return_inverse=True)
    if len(distinct) <= DISCRETE and not always:
        return np.asarray(index, dtype=np.int64)
    edges = np.linspace(values.min(), values.max(), BINS + 1)
    return np.searchsorted(edges[1:-1], values, side="right").astype(np.int64)


def _information(codes: Array, factors: NDArray[Any]) -> tuple[Array, Array]:
    """Return the mutual information (Z, F) of binned codes and factors, and the entropies of factors (F,), in nats."""
    from sklearn.metrics import mutual_info_score

    binned = [_levels(c, always=True) for c in codes.T]
    levels = [_levels(f, always=False) for f in factors.T]
    information = np.array([[mutual_info_score(f, c) for f in levels] for c in binned])
    return information, np.array([mutual_info_score(f, f) for f in levels])


def _correlation(codes: Array, factor: NDArray[Any]) -> Array:
    """Return the correlation of each code with a factor, (Z,); 0 for a code that never changes."""
    c, f = codes - codes.mean(axis=0), factor - factor.mean()
    size = np.sqrt((c**2).sum(axis=0) * (f**2).sum())
    correlation: Array = f @ c / np.where(size > 1e-12, size, np.inf)
    return correlation


def _separated(codes: Array, factor: NDArray[Any], train: NDArray[np.int64], test: NDArray[np.int64]) -> Array:
    """Return how well a support vector machine on each single code tells the classes of a factor, (Z,)."""
    from sklearn.metrics import balanced_accuracy_score
    from sklearn.svm import LinearSVC

    accuracies = []
    for code in codes.T[:, :, None]:
        scaled = code / max(float(code.std()), 1e-12)
        model = LinearSVC(C=0.01, class_weight="balanced", random_state=0).fit(scaled[train], factor[train])
        accuracies.append(balanced_accuracy_score(factor[test], model.predict(scaled[test])))
    return np.array(accuracies)


def _halves(n: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return disjoint rows for training and test: two thirds and one third, at most 10,000 and 5,000."""
    order = np.random.default_rng(seed).permutation(n)
    first = min(TRAIN, 2 * n // 3)
    return order[:first], order[first : first + TEST]


def _purity(table: Array) -> Array:
    """Return 1 - the entropy of the shares in each row, to the base of their number; 0 for a row of zeros."""
    total = table.sum(axis=1, keepdims=True)
    share = np.where(total > 0, table / np.where(total > 0, total, 1), 1 / table.shape[1])
    logs = np.log(np.where(share > 0, share, 1))
    purity: Array = 1 + (share * logs).sum(axis=1) / np.log(max(table.shape[1], 2))
    return purity


def _partners(
    factors: NDArray[Any], shared: NDArray[np.int64], rows: NDArray[np.int64], rng: np.random.Generator
) -> NDArray[np.int64]:
    """Draw, for each of `rows` (V, n), a row that has the same value of the factor `shared` (V,) of its vote."""
    chance, partners = rng.random(rows.shape), np.empty_like(rows)
    for f, values in enumerate(factors.T):
        level = _levels(values, always=False)
        order, counts = level.argsort(kind="stable"), np.bincount(level)
        value = level[rows[shared == f]]
        starts = np.cumsum(counts) - counts
        partners[shared == f] = order[starts[value] + (chance[shared == f] * counts[value]).astype(np.int64)]
    return partners
