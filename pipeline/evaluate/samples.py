"""How samples compare with real examples, in a space of features: fidelity, diversity, distance and memorisation.

Every function raises `InputError` if there are too few points, dimensions differ, or values are not finite.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from variants import InputError

Array = NDArray[np.float64]
CELLS = 20_000_000  # entries of a distance matrix that are computed at a time: 160 MB


def manifold(real: Array, fake: Array, k: int = 5) -> dict[str, float]:
    """Return how the neighbourhoods of real points (N, D) and of samples (M, D) overlap; higher is better.

    The neighbourhood of a point is the open ball that reaches to its `k`-th nearest neighbour of the same kind.
    `precision` is the share of samples inside some real ball, and `recall` the share of real points inside some ball of
    a sample, both in [0, 1] (Kynkäänniemi et al. 2019, equation 2). `density` is the number of real balls around a
    sample divided by k: at least 0, and 1 in expectation if both distributions are alike. `coverage` is the share of
    real balls that contain a sample (Naeem et al. 2020, equations 3 and 4).
    """
    _counted("k", k)
    _checked(real, fake, k + 1, k + 1)
    real_radius, fake_radius = _radii(real, k), _radii(fake, k)
    inside_real = np.zeros(len(fake))
    covered, recalled = np.zeros(len(real), dtype=bool), np.zeros(len(real), dtype=bool)
    for rows, distances in _distances(real, fake):
        within = distances < real_radius[rows, None]
        inside_real += within.sum(axis=0)
        covered[rows] = within.any(axis=1)
        recalled[rows] = (distances < fake_radius).any(axis=1)
    return {
        "precision": float((inside_real > 0).mean()),
        "recall": float(recalled.mean()),
        "density": float(inside_real.mean() / k),
        "coverage": float(covered.mean()),
    }


def frechet(real: Array, fake: Array) -> float:
    """Return the squared Fréchet distance of two Gaussians with the moments of the points; at least 0, lower is better.

    It is |m - n|^2 + tr(S + T - 2 (S T)^(1/2)), for means m, n and covariances S, T of points (N, D) and (M, D) (Dowson
    & Landau 1982; Heusel et al. 2017). (S T)^(1/2) has the same trace as (R T R)^(1/2), where R is the root of S; the
    latter is symmetric, and stays real if covariances are singular. The estimate is biased upward for few points, so
    compare only at equal numbers.
    """
    _checked(real, fake, 2, 2)
    shift = real.mean(axis=0) - fake.mean(axis=0)
    a, b = (np.atleast_2d(np.cov(x, rowvar=False)) for x in (real, fake))
    values, vectors = np.linalg.eigh(a)
    root = vectors * np.sqrt(values.clip(min=0)) @ vectors.T
    cross = np.sqrt(np.linalg.eigvalsh(root @ b @ root).clip(min=0)).sum()
    return max(0.0, float(shift @ shift + np.trace(a) + np.trace(b) - 2 * cross))


def kid(real: Array, fake: Array, *, subsets: int = 100, size: int = 1000, seed: int = 0) -> tuple[float, float]:
    """Return the kernel inception distance and its standard error; lower is better.

    The distance is the unbiased squared maximum mean discrepancy with the kernel (a . b / D + 1)^3, averaged over
    random subsets of `size` points, or of half of the points if there are fewer (Bińkowski et al. 2018, section 4). Its
    expectation is 0 if both distributions are alike.

    Subsets overlap, so their standard deviation divided by sqrt(subsets) would be too small. The error is that of the
    delete-d jackknife for the smaller set (Shao & Wu 1989) plus that of drawing subsets. It is too large by a factor
    of about two if the distributions are alike.
    """
    _counted("subsets", subsets, 2)
    _counted("size", size, 2)
    _checked(real, fake, 4, 4)
    rng = np.random.default_rng(seed)
    least = min(len(real), len(fake))
    size = min(size, least // 2)
    values = []
    for _ in range(subsets):
        a, b = (x[rng.choice(len(x), size, replace=False)] for x in (real, fake))
        within = sum((kernel.sum() - np.trace(kernel)) / (size * (size - 1)) for kernel in (_cubic(a, a), _cubic(b, b)))
        values.append(within - 2 * _cubic(a, b).mean())
    return float(np.mean(values)), float(np.std(values, ddof=1) * np.sqrt(size / (least - size) + 1 / subsets))


def nearest(samples: Array, train: Array, n: int) -> tuple[NDArray[np.int64], Array]:
    """Return the indices of the `n` training examples (M, D) nearest to each sample (N, D), and their distances.

    Both results are (N, n), the nearest first; distances are Euclidean, in the units of the values.
    """
    _counted("n", n)
    _checked(samples, train, 1, n)
    indices, nearest_distances = [], []
    for _, distances in _distances(samples, train):
        candidates = np.argpartition(distances, n - 1, axis=1)[:, :n]
        near = np.take_along_axis(distances, candidates, axis=1)
        order = near.argsort(axis=1)
        indices.append(np.take_along_axis(candidates, order, axis=1))
        nearest_distances.append(np.take_along_axis(near, order, axis=1))
    return np.concatenate(indices), np.concatenate(nearest_distances)


def _cubic(a: Array, b: Array) -> Array:
    kernel: Array = (a @ b.T / a.shape[1] + 1) ** 3
    return kernel


def _distances(a: Array, b: Array) -> Iterator[tuple[slice, Array]]:
    """Yield the Euclidean distances of rows of `a` (N, D) to all rows of `b` (M, D), a slice of `a` at a time.

    They are computed from scalar products, relative to the mean of `b` and in double precision, because points far from
    0 would otherwise lose digits.
    """
    centre = b.mean(axis=0, dtype=np.float64)
    a, b = a - centre, b - centre
    square = (b**2).sum(axis=1)
    step = max(1, CELLS // len(b))
    for start in range(0, len(a), step):
        rows = slice(start, start + step)
        squared = (a[rows] ** 2).sum(axis=1, keepdims=True) + square - 2 * a[rows] @ b.T
        yield rows, np.sqrt(squared.clip(min=0))


def _radii(points: Array, k: int) -> Array:
    """Return the distance of each point to its `k`-th nearest neighbour other than itself: (N,)."""
    parts = []
    for rows, distances in _distances(points, points):
        distances[np.arange(len(distances)), np.arange(rows.start, rows.start + len(distances))] = 0
        parts.append(np.partition(distances, k, axis=1)[:, k])
    return np.concatenate(parts)


def _counted(name: str, value: int, least: int = 1) -> None:
    if value < least:
        raise InputError(f"{name}={value}: expected {least} or more")


def _checked(a: Array, b: Array, *least: int) -> None:
    """Raise `InputError` unless both are finite, have equally many columns, and have at least `least` rows each."""
    for x, rows in zip((a, b), least, strict=True):
        if x.ndim != 2 or len(x) < rows:
            raise InputError(f"features of shape {x.shape}: expected (N, D), with N at least {rows}; give more points")
        if bad := int((~np.isfinite(x)).any(axis=1).sum()):
            raise InputError(f"{bad} of {len(x)} points hold NaN or infinity: expected finite numbers; leave them out")
    if a.shape[1] != b.shape[1]:
        raise InputError(
            f"features of {a.shape[1]} and of {b.shape[1]} dimensions: expected the same number, from one classifier"
        )
