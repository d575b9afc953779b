"""How samples compare with real examples, as two clouds of features: fidelity, diversity, distance, memorisation."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from variants import InputError

Array = NDArray[np.float64]
CELLS = 20_000_000  # of a distance matrix at a time: 160 MB


def manifold(real: Array, fake: Array, k: int = 5) -> dict[str, float]:
    """How balls around points (N, D) and (M, D), out to their `k`-th nearest neighbour of the same kind, overlap.

    `precision`, the share of fakes inside some real ball, and `recall`, of reals inside some fake ball, in [0, 1]
    (Kynkäänniemi et al. 2019, equation 2); `density`, real balls around a fake over k, at least 0 and 1 in expectation
    where both are alike, and `coverage`, the share of real balls that hold a fake (Naeem et al. 2020, equations 3 and
    4). Higher is better. Balls are open. Raises `InputError` for k points or fewer, and where dimensions differ.
    """
    _counted("k", k)
    _checked(real, fake, k + 1, k + 1)
    real_radius, fake_radius = _radii(real, k), _radii(fake, k)
    inside_real = np.zeros(len(fake))
    covered, recalled = np.zeros(len(real), dtype=bool), np.zeros(len(real), dtype=bool)
    for rows, apart in _distances(real, fake):
        within = apart < real_radius[rows, None]
        inside_real += within.sum(axis=0)
        covered[rows] = within.any(axis=1)
        recalled[rows] = (apart < fake_radius).any(axis=1)
    return {
        "precision": float((inside_real > 0).mean()),
        "recall": float(recalled.mean()),
        "density": float(inside_real.mean() / k),
        "coverage": float(covered.mean()),
    }


def frechet(real: Array, fake: Array) -> float:
    """|m - n|^2 + tr(S + T - 2 (S T)^(1/2)) of the means and covariances of features (N, D) and (M, D).

    The squared Fréchet distance of the Gaussians of those moments (Dowson & Landau 1982; Heusel et al. 2017); at least
    0, lower is better. (S T)^(1/2) has the trace of (R T R)^(1/2), R the root of S, which is symmetric and stays real
    where covariances are singular. Biased upward for few points: compare at equal numbers. Raises `InputError` for a
    single point, and where dimensions differ.
    """
    _checked(real, fake, 2, 2)
    shift = real.mean(axis=0) - fake.mean(axis=0)
    a, b = (np.atleast_2d(np.cov(x, rowvar=False)) for x in (real, fake))
    values, vectors = np.linalg.eigh(a)
    root = vectors * np.sqrt(values.clip(min=0)) @ vectors.T
    cross = np.sqrt(np.linalg.eigvalsh(root @ b @ root).clip(min=0)).sum()
    return max(0.0, float(shift @ shift + np.trace(a) + np.trace(b) - 2 * cross))


def kid(real: Array, fake: Array, *, subsets: int = 100, size: int = 1000, seed: int = 0) -> tuple[float, float]:
    """Kernel inception distance, and its standard error: 0 in expectation for like distributions; lower is better.

    The unbiased squared maximum mean discrepancy with the kernel (a . b / D + 1)^3, averaged over random subsets of
    `size`, or half of the points (Bińkowski et al. 2018, section 4). Subsets overlap, so that their spread over
    sqrt(subsets) would be too small an error: it is the delete-d jackknife's (Shao & Wu 1989) for the fewer points, and
    the draw's. Too large by a factor of two or so where distributions are alike. Raises `InputError` for fewer than
    four points or two subsets, and where dimensions differ.
    """
    _counted("subsets", subsets, 2)
    _counted("size", size, 2)
    _checked(real, fake, 4, 4)
    rng = np.random.default_rng(seed)
    least = min(len(real), len(fake))
    size = min(size, least // 2)
    found = []
    for _ in range(subsets):
        a, b = (x[rng.choice(len(x), size, replace=False)] for x in (real, fake))
        within = sum((kernel.sum() - np.trace(kernel)) / (size * (size - 1)) for kernel in (_cubic(a, a), _cubic(b, b)))
        found.append(within - 2 * _cubic(a, b).mean())
    return float(np.mean(found)), float(np.std(found, ddof=1) * np.sqrt(size / (least - size) + 1 / subsets))


def nearest(samples: Array, train: Array, n: int) -> tuple[NDArray[np.int64], Array]:
    """Indices of the `n` training examples (M, D) nearest to each sample (N, D), nearest first, and their distances.

    (N, n) each; Euclidean, in the units of the values. Raises `InputError` for M below n, and where dimensions differ.
    """
    _counted("n", n)
    _checked(samples, train, 1, n)
    indices, distances = [], []
    for _, apart in _distances(samples, train):
        some = np.argpartition(apart, n - 1, axis=1)[:, :n]
        near = np.take_along_axis(apart, some, axis=1)
        order = near.argsort(axis=1)
        indices.append(np.take_along_axis(some, order, axis=1))
        distances.append(np.take_along_axis(near, order, axis=1))
    return np.concatenate(indices), np.concatenate(distances)


def _cubic(a: Array, b: Array) -> Array:
    kernel: Array = (a @ b.T / a.shape[1] + 1) ** 3
    return kernel


def _distances(a: Array, b: Array) -> Iterator[tuple[slice, Array]]:
    """Euclidean distances of rows of `a` (N, D) to all of `b` (M, D), some rows at a time.

    From scalar products, about the mean of `b` and in double precision: points far from 0 would lose their digits.
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
    """(N,) distance of each point to its `k`-th nearest neighbour; the point itself, at distance 0, does not count."""
    parts = []
    for rows, apart in _distances(points, points):
        apart[np.arange(len(apart)), np.arange(rows.start, rows.start + len(apart))] = 0
        parts.append(np.partition(apart, k, axis=1)[:, k])
    return np.concatenate(parts)


def _counted(name: str, value: int, least: int = 1) -> None:
    if value < least:
        raise InputError(f"{name}={value}: expected {least} or more")


def _checked(a: Array, b: Array, *least: int) -> None:
    """That both are tables of finite numbers, with as many columns, and at least so many rows each."""
    for x, rows in zip((a, b), least, strict=True):
        if x.ndim != 2 or len(x) < rows:
            raise InputError(f"features of shape {x.shape}: expected (N, D), with N at least {rows}; give more points")
        if bad := int((~np.isfinite(x)).any(axis=1).sum()):
            raise InputError(f"{bad} of {len(x)} points hold NaN or infinity: expected finite numbers; leave them out")
    if a.shape[1] != b.shape[1]:
        raise InputError(
            f"features of {a.shape[1]} and of {b.shape[1]} dimensions: expected the same number; use one judge for both"
        )
