"""What the latent code uses, and how near its distribution comes to the prior."""

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from variants import InputError

Array = NDArray[np.float64]


def active_units(codes: Array, prior: Array, threshold: float = 0.01) -> int:
    """Dimensions of the posterior means (N, Z) whose variance over the data exceeds `threshold` of the prior's (M, Z).

    Burda et al. 2016, section 5.2, whose prior has variance 1. A code with few active units has collapsed.
    """
    return int((codes.var(axis=0) > threshold * prior.var(axis=0)).sum())


def active_units_kl(kl: Tensor, threshold: float = 0.01) -> int:
    """Dimensions whose mean KL over the data, of `kl` (Z,) in nats, exceeds `threshold`.

    Sønderby et al. 2016, section 3.2: the means of lower levels of a hierarchy move with those above them, so that
    their variance says nothing.
    """
    return int((kl > threshold).sum())


def by_level(kl: Tensor, levels: tuple[int, ...]) -> dict[str, float]:
    """KL and active units (by KL) of each level of a hierarchy, from the mean KL per dimension (Z,) in nats."""
    found = {}
    for number, part in enumerate(kl.split(levels), 1):
        found[f"latent/kl_level_{number}"] = float(part.sum())
        found[f"latent/active_units_level_{number}"] = float(active_units_kl(part))
    return found


def mmd(codes: Array, prior: Array) -> float:
    """Squared maximum mean discrepancy between two samples (N, Z) and (M, Z); 0 in expectation where they are alike.

    The unbiased estimate (Gretton et al. 2012, equation 3) with the inverse multiquadratic kernel C / (C + |a - b|^2)
    of Tolstikhin et al. 2018 (WAE), C = 2 Z s^2, s^2 the prior's variance. Lower is better.
    """
    from scipy.spatial.distance import cdist, pdist

    width = 2 * prior.var(axis=0).sum()

    def kernel(squared: Array) -> float:
        return float((width / (width + squared)).mean())

    within = kernel(pdist(codes, "sqeuclidean")) + kernel(pdist(prior, "sqeuclidean"))
    return within - 2 * kernel(cdist(codes, prior, "sqeuclidean"))


def moments(codes: Array, prior: Array) -> dict[str, float]:
    """Mean and spread of a sample of codes (N, Z), in standard deviations of the prior.

    `latent/posterior_mean`: the root mean square over dimensions of the mean (0 where they match);
    `latent/posterior_spread`: the average over dimensions of the standard deviation (1 where they match).
    """
    scale = prior.std(axis=0)
    return {
        "latent/posterior_mean": float(np.sqrt(((codes.mean(axis=0) - prior.mean(axis=0)) ** 2 / scale**2).mean())),
        "latent/posterior_spread": float((codes.std(axis=0) / scale).mean()),
    }


def divergence(codes: Array, prior: Array, k: int = 5) -> float:
    """KL divergence in nats of the distribution of codes (N, Z) from that of the prior's draws (M, Z).

    From distances to the k-th nearest neighbours, Z/N sum log(to the prior's / to the codes') + log(M / (N - 1)) (Wang,
    Kulkarni & Verdú 2009, equation 5). For one dimension, or a few: in more of them it is off to either side, however
    many points there are (`dimension_kl`). Equal points have no distance, and raise `InputError`, as do k points or
    fewer, NaN, and unlike dimensions.
    """
    from scipy.spatial import cKDTree

    if codes.ndim != 2 or codes.shape[1:] != prior.shape[1:]:
        raise InputError(f"codes of shape {codes.shape}, prior's of {prior.shape}: expected (N, Z) and (M, Z)")
    if not 1 <= k <= min(len(codes) - 1, len(prior)):
        raise InputError(
            f"k={k}, of {len(codes)} codes and {len(prior)} of the prior: expected 1 or more, and more codes"
        )
    if not (np.isfinite(codes).all() and np.isfinite(prior).all()):
        raise InputError("codes hold NaN or infinity: expected finite numbers; leave such codes out")
    own = cKDTree(codes).query(codes, k + 1)[0][:, k]  # the first neighbour of a point is itself
    other = cKDTree(prior).query(codes, [k])[0][:, 0]
    for apart, others in ((own, "others"), (other, "draws of the prior")):
        if not (apart > 0).all():
            equal = int((apart == 0).sum())
            raise InputError(f"{equal} of {len(codes)} codes are equal to {k} {others}; they have no density")
    return float(codes.shape[1] * np.log(other / own).mean() + np.log(len(prior) / (len(codes) - 1)))


def dimension_kl(codes: Array, prior: Array) -> float:
    """The sum over dimensions of KL(q(z_d) || p(z_d)) in nats, from codes (N, Z) and draws of the prior (M, Z).

    Chen et al. 2018 (arXiv:1802.04942), equation 2: where the prior's dimensions are independent, what the aggregated
    posterior costs beyond it is this, and the dependence between dimensions, which is at least 0. So it bounds
    KL(q(z) || p(z)) from below. Raises `InputError` as `divergence` does.
    """
    return sum(divergence(c[:, None], p[:, None]) for c, p in zip(codes.T, prior.T, strict=True))


def verdict(kl: Tensor) -> str:
    """In words, from the mean KL per dimension (Z,) in nats, whether the code is used.

    A code of less than one nat in all cannot even tell three classes apart.
    """
    used, size, total = active_units_kl(kl), len(kl), float(kl.sum())
    if not used or total < 1:
        return f"collapsed: {size} units carry {total:.2f} nats in all; z is as good as ignored"
    if used < size:
        return f"{size - used} of {size} units are unused; the others carry {total:.1f} nats"
    return f"no collapse: all {size} units are used, and carry {total:.1f} nats"
