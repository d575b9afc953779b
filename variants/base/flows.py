"""Invertible maps of z with a simple determinant, from which posteriors and priors are built (normalizing flows).

Both kinds of steps are affine in each dimension: z'_i = m_i + exp(s_i) z_i, where m_i and s_i depend on other
dimensions. The Jacobian is triangular, so log |dz'/dz| = sum_i s_i. If z has the density q, then the density of z' is
q(z) / |dz'/dz| (Rezende & Mohamed 2015, arXiv:1505.05770, equation 5). s_i is limited to values from -1 to 1. New steps
change z little.

    Autoregressive  m_i and s_i depend on all dimensions before i. The step is computed at once, but its inverse would
                    take as many passes as there are dimensions. It is for posteriors, which are only sampled.
    Coupling        m_i and s_i of one half of z depend on the other half. The inverse is as fast. It is for priors,
                    which are sampled, and whose density at any z is needed.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from variants.base.networks import mlp


class Autoregressive(nn.Module):
    """A step of an inverse autoregressive flow (Kingma et al. 2016, arXiv:1606.04934, equation 10).

    The network has one hidden layer, with masks on its weights so that m_i and s_i depend on z_1 ... z_{i-1} alone
    (Germain et al. 2015, MADE, arXiv:1502.03509), and on a context. At the end the order of the dimensions is reversed,
    so that in the next step the first dimensions depend on the last ones.
    """

    reads: Tensor
    writes: Tensor

    def __init__(self, size: int, width: int, context: int) -> None:
        super().__init__()
        self.hidden, self.context = nn.Linear(size, width), nn.Linear(context, width, bias=False)
        self.output = nn.Linear(width, 2 * size)
        _divide_weights(self.output)
        place = torch.arange(size)
        count = torch.arange(width) * size // width  # each hidden unit reads so many dimensions, at most size - 1
        self.register_buffer("reads", (place < count[:, None]).float(), persistent=False)
        self.register_buffer("writes", (count <= place[:, None]).float().repeat(2, 1), persistent=False)

    def forward(self, z: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Return z' and log |dz'/dz|, (B, Z) and (B,), for z (B, Z) and the context (B, C)."""
        hidden = F.linear(z, self.hidden.weight * self.reads, self.hidden.bias) + self.context(context)
        mean, log_scale = F.linear(hidden.relu(), self.output.weight * self.writes, self.output.bias).chunk(2, 1)
        log_scale = log_scale.tanh()
        return (mean + log_scale.exp() * z).flip(1), log_scale.sum(1)


class Coupling(nn.Module):
    """An affine coupling layer: (a, b) becomes (m(a) + exp(s(a)) b, a) (Dinh et al. 2017, arXiv:1605.08803, section 3).

    The halves of z change places, so that the next step changes the other one.
    """

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.first, self.second = size // 2, size - size // 2
        self.net = mlp(self.first, width, 2, 2 * self.second)
        _divide_weights(self.net[-1])

    def _mean_and_log_scale(self, a: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_scale = self.net(a).chunk(2, 1)
        return mean, log_scale.tanh()

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return z' and log |dz'/dz|, (B, Z) and (B,), for z (B, Z)."""
        a, b = z.split([self.first, self.second], 1)
        mean, log_scale = self._mean_and_log_scale(a)
        return torch.cat([mean + log_scale.exp() * b, a], 1), log_scale.sum(1)

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return the z that `forward` maps to the given one, and log |dz'/dz| at this z, as `forward` does."""
        b, a = z.split([self.second, self.first], 1)
        mean, log_scale = self._mean_and_log_scale(a)
        return torch.cat([a, (b - mean) * (-log_scale).exp()], 1), log_scale.sum(1)


def _divide_weights(layer: nn.Module) -> None:
    """Divide the weights of a new layer by 10."""
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.mul_(0.1)
