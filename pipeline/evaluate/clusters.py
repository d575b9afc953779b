"""How well clusters of codes, found without labels, agree with the classes."""

import warnings

import numpy as np
from numpy.typing import NDArray

from pipeline.metrics import Undefined
from variants import InputError

Array = NDArray[np.float64]
Classes = NDArray[np.int64]


def scores(codes: Array, labels: Classes, seed: int = 0) -> dict[str, float] | Undefined:
    """Return the agreement of clusters of codes (N, Z) with classes (N,); higher is better, 1 is perfect.

    `kmeans_...` is k-means (the best of 10 starts), `mixture_...` a Gaussian mixture with full covariances (the best
    of 3). There are as many clusters as classes. `..._ari` is the adjusted Rand index, 0 by chance (Hubert & Arabie
    1985); `..._nmi` the mutual information divided by the mean of the entropies (Strehl & Ghosh 2002, with the
    arithmetic mean); `..._accuracy` see `assigned_accuracy`.

    The result is undefined for fewer than two classes and if there are no more codes than classes. Raises `InputError`
    if there is not one label for each code, or codes are not finite.
    """
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
    from sklearn.mixture import GaussianMixture

    if len(codes) != len(labels):
        raise InputError(f"{len(codes)} codes and {len(labels)} labels: expected one label for each code")
    if bad := int((~np.isfinite(codes)).any(axis=1).sum()):
        raise InputError(f"{bad} of {len(codes)} codes hold NaN or infinity: expected finite numbers; leave them out")
    count = len(np.unique(labels))
    if count < 2 or len(codes) <= count:
        return Undefined(
            f"{len(codes)} codes of {count} classes: clusters need two classes or more, and more codes than classes"
        )
    models = {
        "kmeans": KMeans(count, n_init=10, random_state=seed),
        "mixture": GaussianMixture(count, n_init=3, reg_covar=1e-4, random_state=seed),
    }
    values = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        for name, model in models.items():
            clusters = model.fit_predict(codes)
            values[f"{name}_ari"] = float(adjusted_rand_score(labels, clusters))
            values[f"{name}_nmi"] = float(normalized_mutual_info_score(labels, clusters))
            values[f"{name}_accuracy"] = assigned_accuracy(labels, clusters)
    return values


def assigned_accuracy(labels: Classes, clusters: Classes) -> float:
    """Return the share of examples whose cluster is assigned to their class, by the best one-to-one assignment.

    The assignment is found by the Hungarian method (Kuhn 1955).
    """
    from scipy.optimize import linear_sum_assignment
    from sklearn.metrics.cluster import contingency_matrix

    table = contingency_matrix(labels, clusters)
    rows, columns = linear_sum_assignment(table, maximize=True)
    return float(table[rows, columns].sum() / table.sum())
