"""One equation in each function. They act elementwise unless a shape is given. All results are in nats."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

LOG_2PI = math.log(2 * math.pi)
SMALL = 0.25  # below this, series are more exact than differences of large numbers


def kl_standard_normal(mean: Tensor, log_var: Tensor) -> Tensor:
    """Return KL(N(mean, exp(log_var)) || N(0, 1)) per dimension (Kingma & Welling 2013, appendix B)."""
    return 0.5 * (mean.square() + log_var.exp() - 1 - log_var)


def kl_normal(mean: Tensor, log_var: Tensor, prior_mean: Tensor, prior_log_var: Tensor) -> Tensor:
    """Return KL(N(mean, exp(log_var)) || N(prior_mean, exp(prior_log_var))) per dimension."""
    second_moment = (mean - prior_mean).square() + log_var.exp()  # of q, about the mean of the prior
    return 0.5 * (second_moment * (-prior_log_var).exp() - 1 - log_var + prior_log_var)


def log_normal(x: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
    """Return log N(x; mean, exp(log_var)) per dimension."""
    return -0.5 * (LOG_2PI + log_var + (x - mean).square() * (-log_var).exp())


def log_standard_normal(x: Tensor) -> Tensor:
    """Return log N(x; 0, 1) per dimension."""
    return -0.5 * (LOG_2PI + x.square())


def reparameterize(mean: Tensor, log_var: Tensor) -> Tensor:
    """Return a sample from N(mean, exp(log_var)) through which gradients flow (Kingma & Welling 2013, section 2.4)."""
    return torch.addcmul(mean, (0.5 * log_var).exp(), torch.randn_like(mean))


def sample_normal(mean: Tensor, log_var: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return `k` samples from each N(mean, exp(log_var)), (B k, Z), and their log densities, (B k,).

    `mean` and `log_var` are (B, Z). The k samples of an example stand next to each other.
    """
    mean, log_var = mean.repeat_interleave(k, 0), log_var.repeat_interleave(k, 0)
    z = reparameterize(mean, log_var)
    return z, per_example(log_normal(z, mean, log_var))


def nll_bernoulli(x: Tensor, logits: Tensor) -> Tensor:
    """Return -log Bernoulli(x; sigmoid(l)) = log(1 + e^l) - x l for x in {0, 1} and logits l."""
    return F.binary_cross_entropy_with_logits(logits, x, reduction="none")


def nll_logistic8(x: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """Return -log p of an 8-bit value x = k/255, where p is a logistic density integrated over a bin of width 1/255.

    The outer bins reach to infinity, so that the 256 probabilities add up to one (Kingma et al. 2016, IAF, section 5;
    Salimans et al. 2017, PixelCNN++, equation 2).
    """
    inverse = (-log_scale).exp()
    upper = (x - mean + 0.5 / 255) * inverse
    lower = (x - mean - 0.5 / 255) * inverse
    # -log(s(u) - s(l)) = log(1 + e^-u) + log(1 + e^l) - log(1 - e^(l-u)); of an outer bin, one of the first two terms
    below, above = F.softplus(-upper), F.softplus(lower)
    inside = below + above - torch.log(-torch.expm1(-inverse / 255))
    return torch.where(x < 0.5 / 255, below, torch.where(x > 1 - 0.5 / 255, above, inside))


def nll_continuous_bernoulli(x: Tensor, logits: Tensor) -> Tensor:
    """Return -log of the density of the continuous Bernoulli at x in [0, 1] (Loaiza-Ganem & Cunningham 2019, eq. 7).

    In terms of the logit l, the density is e^(l x) l / (e^l - 1). It is computed as
    -log p = l (1/2 - x) + log(sinh(h) / h) with h = |l| / 2, by a series where h is small.
    """
    return logits * (0.5 - x) + _log_sinh_ratio(0.5 * logits.abs())


def _log_sinh_ratio(h: Tensor) -> Tensor:
    """Return log(sinh(h) / h) for h >= 0, which is 0 at h = 0."""
    square, is_small = h.square(), h < SMALL
    series = square * (1 / 6 - square * (1 / 180 - square * (1 / 2835 - square / 37800)))
    large = torch.where(is_small, SMALL, h)
    return torch.where(is_small, series, large + torch.log(-torch.expm1(-2 * large) / (2 * large)))


def mean_continuous_bernoulli(logits: Tensor) -> Tensor:
    """Return the mean of the continuous Bernoulli, 1 / (1 - e^-l) - 1 / l (Loaiza-Ganem & Cunningham 2019, eq. 8)."""
    h, is_small = 0.5 * logits, logits.abs() < 2 * SMALL
    square, large = h.square(), torch.where(is_small, SMALL, h)
    series = h * (1 / 3 - square * (1 / 45 - square * (2 / 945 - square / 4725)))  # of coth(h) - 1 / h
    return 0.5 + 0.5 * torch.where(is_small, series, 1 / torch.tanh(large) - 1 / large)


def sample_continuous_bernoulli(logits: Tensor) -> Tensor:
    """Return a sample of the continuous Bernoulli, by the inverse of its distribution function."""
    size = logits.abs().clamp(min=1e-6)
    lower = -torch.log1p(torch.rand_like(logits) * torch.expm1(-size)) / size  # of a negative logit
    return torch.where(logits > 0, 1 - lower, lower).clamp(0, 1)


def per_example(values: Tensor, mask: Tensor | None = None) -> Tensor:
    """Sum values, (B, ...), over all axes but the first. With `mask` (B, T) the padding is left out."""
    if mask is not None:
        values = torch.where(mask.reshape(mask.shape + (1,) * (values.ndim - mask.ndim)), values, 0.0)
    return values.flatten(1).sum(1)


def ramp(step: Tensor, length: int) -> Tensor | float:
    """Return a weight that rises linearly from 0 at step 0 to 1 at step `length`, and stays; 1 if `length` is 0."""
    return torch.clamp(step / length, max=1.0) if length else 1.0


def free_bits(kl: Tensor, floor: float) -> Tensor:
    """Return the KL with free bits: the sum over dimensions of max(mean of `kl` (B, Z) over the batch, floor).

    This scalar is meant for a loss (Kingma et al. 2016, IAF, equation 15). With `floor` = 0 it is the mean KL, which
    can be negative if it is estimated. A `kl` of shape (B,) is that of all dimensions together.
    """
    mean = kl.mean(0)
    return (mean.clamp(min=floor) if floor else mean).sum()
