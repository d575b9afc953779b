"""How well groups found in codes, without labels, are the classes."""

import warnings

import numpy as np
from numpy.typing import NDArray

from variants import InputError

Array = NDArray[np.float64]
Classes = NDArray[np.int64]


def scores(codes: Array, labels: Classes, seed: int = 0) -> dict[str, float]:
    """Agreement of clusters of codes (N, Z) with classes (N,); higher is better, 1 is perfect.

    `kmeans_...`: k-means (best of 10 starts); `mixture_...`: a Gaussian mixture with full covariances (best of 3). As
    many clusters as classes. `..._ari`: adjusted Rand index, 0 by chance (Hubert & Arabie 1985); `..._nmi`: mutual
    information over the mean entropy (Strehl & Ghosh 2002, with the arithmetic mean); `..._accuracy`, as below.
    Raises `InputError` for fewer than two classes, no more codes than classes, and codes that are not finite.
    """
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
    from sklearn.mixture import GaussianMixture

    count = len(np.unique(labels))
    if len(codes) != len(labels) or count < 2 or len(codes) <= count:
        raise InputError(
            f"{len(codes)} codes and {len(labels)} labels of {count} classes: expected a label of each code, "
            "two classes or more, and more codes than classes"
        )
    if bad := int((~np.isfinite(codes)).any(axis=1).sum()):
        raise InputError(f"{bad} of {len(codes)} codes hold NaN or infinity: expected finite numbers; leave them out")
    ways = {
        "kmeans": KMeans(count, n_init=10, random_state=seed),
        "mixture": GaussianMixture(count, n_init=3, reg_covar=1e-4, random_state=seed),
    }
    found = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        for way, model in ways.items():
            groups = model.fit_predict(codes)
            found[f"{way}_ari"] = float(adjusted_rand_score(labels, groups))
            found[f"{way}_nmi"] = float(normalized_mutual_info_score(labels, groups))
            found[f"{way}_accuracy"] = assigned_accuracy(labels, groups)
    return found


def assigned_accuracy(labels: Classes, groups: Classes) -> float:
    """Share of examples whose cluster stands for their class, by the best assignment one to one (Kuhn 1955)."""
    from scipy.optimize import linear_sum_assignment
    from sklearn.metrics.cluster import contingency_matrix

    table = contingency_matrix(labels, groups)
    rows, columns = linear_sum_assignment(table, maximize=True)
    return float(table[rows, columns].sum() / table.sum())
