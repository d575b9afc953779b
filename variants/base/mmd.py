"""The maximum mean discrepancy, as a part of a loss."""

import torch
from torch import Tensor


def mmd(x: Tensor, y: Tensor) -> Tensor:
    """Return the squared maximum mean discrepancy between two samples, (N, Z) and (M, Z), as a scalar.

    This is the unbiased estimate (Gretton et al. 2012, equation 3) with the inverse multiquadratic kernel
    C / (C + |a - b|^2) of Tolstikhin et al. 2018 (WAE). C is 2 Z s^2, where s^2 is the variance of `y`, which should be
    a sample of the prior. The estimate is 0 in expectation if both distributions are equal, and may be negative.
    Gradients flow through both samples, but not through C. A sample of one point has no pairs, and its term is 0.

    `pipeline.evaluate.latents.mmd` computes the same estimate with code of its own, so that an objective is not
    evaluated by its own code.
    """
    dtype = torch.promote_types(x.dtype, y.dtype)
    x, y = x.to(dtype), y.to(dtype)
    width = 2 * y.detach().var(0, correction=0).sum().clamp(min=1e-12)

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        squared = torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist").square()
        return width / (width + squared)

    def within(a: Tensor) -> Tensor:
        n = len(a)
        return (kernel(a, a).sum() - n) / max(n * (n - 1), 1)  # the kernel of a point with itself is 1

    return within(x) + within(y) - 2 * kernel(x, y).mean()
