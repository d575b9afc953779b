"""What the latent code uses, and how near its distribution comes to the prior."""

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from variants import InputError

Array = NDArray[np.float64]
CELLS = 5_000_000  # of a table (examples, examples, dimensions) at a time: 40 MB


def active_units(codes: Array, threshold: float = 0.01) -> int:
    """Dimensions of the posterior means (N, Z) whose variance over the data exceeds `threshold`.

    Burda et al. 2016, section 5.2. A code with few active units has collapsed.
    """
    return int((codes.var(axis=0) > threshold).sum())


def active_units_kl(kl: Array, threshold: float = 0.01) -> int:
    """Dimensions whose mean KL over the data, of `kl` (Z,) in nats, exceeds `threshold`.

    Sønderby et al. 2016, section 3.2. Raises `InputError` for a KL that is not finite.
    """
    if kl.ndim != 1 or not np.isfinite(kl).all():
        raise InputError(f"KL per dimension {kl}: expected finite numbers (Z,), in nats; average over examples first")
    return int((kl > threshold).sum())


def mutual_information(mean: Array, log_var: Array, seed: int = 0) -> float:
    """I(x; z) in nats, of posteriors N(mean, exp(log_var)), (N, Z) each: E log q(z|x) - E log q(z), 0 to log N.

    q(z) = 1/N sum_j q(z|x_j), the aggregated posterior of just these examples, at one draw of z from each (Hoffman &
    Johnson 2016, the index-code mutual information). A code that tells all N apart reads log N, however much more it
    would tell: give more examples until it no longer grows. In time N^2 Z: seconds at N = 2000. Raises `InputError`
    for unlike shapes and numbers that are not finite.
    """
    from scipy.special import logsumexp

    if mean.ndim != 2 or mean.shape != log_var.shape or not len(mean):
        raise InputError(f"means of shape {mean.shape}, log variances of {log_var.shape}: expected (N, Z) of both")
    if not (np.isfinite(mean).all() and np.isfinite(log_var).all()):
        raise InputError("means or log variances hold NaN or infinity: expected finite numbers; leave such codes out")
    count, size = mean.shape
    z = mean + np.exp(log_var / 2) * np.random.default_rng(seed).standard_normal(mean.shape)
    scale, found = np.exp(-log_var / 2), np.zeros(count)
    for rows in np.array_split(np.arange(count), -(-count * count * size // CELLS)):
        log_q = -0.5 * (((z[rows, None] - mean) * scale) ** 2 + log_var).sum(axis=2)  # less Z/2 log 2 pi
        found[rows] = log_q[np.arange(len(rows)), rows] - logsumexp(log_q, axis=1) + np.log(count)
    return float(found.mean())


def by_level(kl: Tensor, levels: tuple[int, ...], threshold: float = 0.01) -> dict[str, float]:
    """KL and active units of each level of a hierarchy, from the mean KL per dimension (Z,) in nats.

    A unit is active where its KL exceeds `threshold` (Sønderby et al. 2016, section 3.2): the means of lower levels
    move with those above them, so that their variance says nothing.
    """
    found = {}
    for number, part in enumerate(kl.split(levels), 1):
        found[f"latent/kl_level_{number}"] = float(part.sum())
        found[f"latent/active_units_level_{number}"] = float((part > threshold).sum())
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
    Kulkarni & Verdú 2009, equation 5). Consistent; at a thousand points it falls short in many dimensions, and where
    codes lie far outside the prior. Equal points have no distance, and raise `InputError`, as do k points or fewer,
    NaN, and unlike dimensions.
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


def verdict(kl: Tensor, threshold: float = 0.01) -> str:
    """In words, from the mean KL per dimension (Z,) in nats, whether the code is used.

    A unit is used above `threshold` nats. A code of less than one nat in all cannot even tell three classes apart.
    """
    used, size, total = int((kl > threshold).sum()), len(kl), float(kl.sum())
    if not used or total < 1:
        return f"collapsed: {size} units carry {total:.2f} nats in all; z is as good as ignored"
    if used < size:
        return f"{size - used} of {size} units are unused; the others carry {total:.1f} nats"
    return f"no collapse: all {size} units are used, and carry {total:.1f} nats"
