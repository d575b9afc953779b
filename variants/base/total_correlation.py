"""Parts of a loss about the aggregated posterior q(z) = 1/N sum_n q(z|x_n), the mean over the N training examples."""

from dataclasses import dataclass

import torch
from torch import Tensor

from variants.base import closed_forms


@dataclass(frozen=True)
class KLParts:
    """A decomposition of KL(q(z|x) || p(z)) with the prior N(0, I), of each example, in nats.

    Each part is an estimate from one sample of z. The mean over a batch is an estimate of the quantity that is named.
    """

    mutual_information: Tensor  # (B,), log q(z|x) - log q(z): I(x; z) under q
    total_correlation: Tensor  # (B,), log q(z) - sum_j log q(z_j): KL(q(z) || prod_j q(z_j))
    dimension_kl: Tensor  # (B,), sum_j log q(z_j) - log p(z_j): sum_j KL(q(z_j) || p(z_j))


def kl_parts(z: Tensor, mean: Tensor, log_var: Tensor, *, examples: int, batch: int) -> KLParts:
    """Decompose the KL of q(z|x) = N(mean, exp(log_var)) by minibatch stratified sampling.

    Chen et al. 2018, equation 2 and appendix C.2. For a sample z of q(z|x_i), q(z) is estimated from the M examples of
    a batch. The posterior of the example i itself has the weight 1/N, and those of the others share the rest:

        q(z) = 1/N q(z|x_i) + (N - 1) / (N (M - 1)) sum_{j != i} q(z|x_j)

    and likewise for each dimension. The paper gives a smaller share to one of the others, which has the same mean and
    more variance. These estimates are unbiased, but their logarithms are too low if the posteriors of few examples of a
    batch cover z: log q(z) by up to log N, and those of single dimensions less. The mutual information is then too
    high, and the total correlation may have an error of several nats in either direction, and may be negative. Larger
    batches have a smaller error.

    Args:
        z: A sample of q(z|x) for each example, (B, Z).
        mean: The means of q(z|x), (B, Z).
        log_var: The log-variances of q(z|x), (B, Z).
        examples: N. If it is not known, which is 0, the batch is taken for the whole training data, M = N, and the
            mutual information cannot exceed log M.
        batch: The largest M. If B is larger, as in validation, neighbouring examples are taken in groups of this size.
            The bias and the memory, M^2 Z numbers, are then those of a training batch.
    """
    dtype = torch.promote_types(z.dtype, torch.float32)
    z, mean, log_var = z.to(dtype), mean.to(dtype), log_var.to(dtype)
    groups = zip(z.split(batch), mean.split(batch), log_var.split(batch), strict=True)
    parts = [torch.stack(_kl_parts(*group, examples)) for group in groups]
    return KLParts(*torch.cat(parts, 1))


def _kl_parts(z: Tensor, mean: Tensor, log_var: Tensor, examples: int) -> tuple[Tensor, Tensor, Tensor]:
    m, n = len(z), examples or len(z)
    log_weight = z.new_full((m, m), (1 - 1 / n) / max(m - 1, 1)).fill_diagonal_(1 / n).log()
    each = closed_forms.log_normal(z[:, None], mean, log_var)  # (M, M, Z), log q(z_i|x_j) of each dimension
    joint = each.sum(2)
    log_q_x = joint.diagonal()
    log_q = (log_weight + joint).logsumexp(1)
    log_q_dimensions = (log_weight[..., None] + each).logsumexp(1).sum(1)
    log_p = closed_forms.log_standard_normal(z).sum(1)
    return log_q_x - log_q, log_q - log_q_dimensions, log_q_dimensions - log_p


def permute_dims(z: Tensor) -> Tensor:
    """Return z, (B, Z), with each column permuted over the batch by itself (Kim & Mnih 2018, algorithm 1).

    If the rows are samples of q(z), those of the result are approximately samples of prod_j q(z_j).
    """
    return z.gather(0, torch.rand(z.shape, device=z.device).argsort(0))
