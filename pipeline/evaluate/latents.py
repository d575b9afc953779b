"""Which latent dimensions a model uses, and how close the distribution of its codes is to the prior."""

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from pipeline.metrics import Undefined
from variants import InputError

Array = NDArray[np.float64]
SMALLEST_KL = 0.1  # nats in all: a code with less tells next to nothing about an example
COLLAPSE = f"a KL below {SMALLEST_KL:g} nats in all, or no dimension above 0.01 nats"


def active_units(codes: Array, prior: Array, threshold: float = 0.01) -> int:
    """Return the number of dimensions whose posterior mean varies over the data.

    A dimension of the posterior means (N, Z) is active if its variance exceeds `threshold` times that of the prior's
    samples (M, Z); in Burda et al. 2016, section 5.2, the prior has variance 1.
    """
    return int((codes.var(axis=0) > threshold * prior.var(axis=0)).sum())


def active_units_kl(kl: Tensor, threshold: float = 0.01) -> int:
    """Return the number of dimensions whose mean KL over the data, of `kl` (Z,) in nats, exceeds `threshold`.

    Sønderby et al. 2016, section 3.2. This suits hierarchies: the means of their lower levels move with the levels
    above, so their variance says nothing.
    """
    return int((kl > threshold).sum())


def by_level(kl: Tensor, levels: tuple[int, ...]) -> dict[str, float]:
    """Return the KL in nats and the active units (by KL) of each level of a hierarchy.

    `kl` (Z,) is the mean KL per dimension, and `levels` the number of dimensions of each level.
    """
    values = {}
    for number, part in enumerate(kl.split(levels), 1):
        values[f"latent/kl_level_{number}"] = float(part.sum())
        values[f"latent/active_units_level_{number}"] = float(active_units_kl(part))
    return values


def mmd(codes: Array, prior: Array) -> float:
    """Return the squared maximum mean discrepancy between two samples (N, Z) and (M, Z); lower is better.

    Its expectation is 0 if both have the same distribution. It is the unbiased estimate (Gretton et al. 2012,
    equation 3) with the inverse multiquadratic kernel C / (C + |a - b|^2) of Tolstikhin et al. 2018 (WAE), where
    C = 2 Z s^2 and s^2 is the prior's variance.
    """
    from scipy.spatial.distance import cdist, pdist

    width = 2 * prior.var(axis=0).sum()

    def kernel(squared: Array) -> float:  # in place, because millions of distances are computed
        squared += width
        return float(np.divide(width, squared, out=squared).mean())

    within = kernel(pdist(codes, "sqeuclidean")) + kernel(pdist(prior, "sqeuclidean"))
    return within - 2 * kernel(cdist(codes, prior, "sqeuclidean"))


def moments(codes: Array, prior: Array) -> dict[str, float]:
    """Return the mean and the spread of a sample of codes (N, Z), in standard deviations of the prior.

    `latent/posterior_mean` is the root mean square over dimensions of the mean (0 if it matches the prior);
    `latent/posterior_spread` the average over dimensions of the standard deviation (1 if it matches the prior).
    """
    scale = prior.std(axis=0)
    return {
        "latent/posterior_mean": float(np.sqrt(((codes.mean(axis=0) - prior.mean(axis=0)) ** 2 / scale**2).mean())),
        "latent/posterior_spread": float((codes.std(axis=0) / scale).mean()),
    }


def divergence(codes: Array, prior: Array, k: int = 5) -> float | Undefined:
    """Estimate the KL divergence, in nats, of the distribution of codes (N, Z) from that of prior samples (M, Z).

    The estimate is Z/N sum log(b / a) + log(M / (N - 1)), where a and b are the distances of a code to its k-th nearest
    neighbour among the codes and among the prior samples (Wang, Kulkarni & Verdú 2009, equation 5). It is meant for one
    dimension or a few: in more dimensions it is biased in either direction, however many points there are; see
    `dimension_kl`.

    It is undefined if codes are equal, as they have no density then, and for too few codes. Raises `InputError` if `k`
    is below 1, dimensions differ, or values are not finite.
    """
    from scipy.spatial import cKDTree

    if codes.ndim != 2 or codes.shape[1:] != prior.shape[1:]:
        raise InputError(f"codes of shape {codes.shape}, prior's of {prior.shape}: expected (N, Z) and (M, Z)")
    if k < 1:
        raise InputError(f"k={k}: expected 1 or more")
    if not (np.isfinite(codes).all() and np.isfinite(prior).all()):
        raise InputError("codes hold NaN or infinity: expected finite numbers; leave such codes out")
    if k > min(len(codes) - 1, len(prior)):
        return Undefined(f"{len(codes)} codes and {len(prior)} of the prior are too few for {k} neighbours")
    within = cKDTree(codes).query(codes, k + 1)[0][:, k]  # the first neighbour of a point is itself
    across = cKDTree(prior).query(codes, [k])[0][:, 0]
    for distances, others in ((within, "others"), (across, "samples of the prior")):
        if not (distances > 0).all():
            equal = int((distances == 0).sum())
            return Undefined(f"{equal} of {len(codes)} codes are equal to {k} {others}; they have no density")
    return float(codes.shape[1] * np.log(across / within).mean() + np.log(len(prior) / (len(codes) - 1)))


def dimension_kl(codes: Array, prior: Array) -> float | Undefined:
    """Return the sum over dimensions of KL(q(z_d) || p(z_d)), in nats, from codes (N, Z) and prior samples (M, Z).

    If the dimensions of the prior are independent, KL(q(z) || p(z)) is this sum plus the dependence between dimensions
    (Chen et al. 2018, arXiv:1802.04942, equation 2). The dependence is at least 0, so this is a lower bound. It is
    undefined, and raises, where `divergence` is and does.
    """
    total = 0.0
    for code, samples in zip(codes.T, prior.T, strict=True):
        value = divergence(code[:, None], samples[:, None])
        if isinstance(value, Undefined):
            return value
        total += value
    return total


def has_collapsed(kl: Tensor) -> bool:
    """Return whether a code has collapsed, from its mean KL per dimension (Z,) in nats; see `COLLAPSE`."""
    return not active_units_kl(kl) or float(kl.sum()) < SMALLEST_KL


def verdict(kl: Tensor) -> str:
    """Say whether the code has collapsed, from its mean KL per dimension (Z,) in nats."""
    used, size, total = active_units_kl(kl), len(kl), float(kl.sum())
    if has_collapsed(kl):
        return f"collapsed: {size} units carry {total:.2f} nats in all; the decoder practically ignores z"
    if used < size:
        return f"{size - used} of {size} units are unused; the others carry {total:.1f} nats"
    return f"no collapse: all {size} units are used, and carry {total:.1f} nats"
