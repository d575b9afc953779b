"""HVAE: a hierarchy of latent variables, inferred by a ladder that shares its top-down half with the prior.

Sønderby et al. 2016, arXiv:1602.02282. Levels z_1 (below) to z_L, p(z_L) = N(0, I):

    p(x, z) = p(x|z_1) p(z_1|z_2) ... p(z_L)

    bottom up   d_n = MLP(d_{n-1}), d_0 = x;  q^_n = N(Linear(d_n), softplus(Linear(d_n)))          (equations 13 to 15)
    top down    q(z_L|x) = q^_L;  q(z_n|z_{n+1}, x) is the precision-weighted product of q^_n and p(z_n|z_{n+1})
                                                                                               (equations 17 to 19)
    minimised   -log p(x|z_1) + sum_n KL(q(z_n|z_{n+1}, x) || p(z_n|z_{n+1})),  the KL warmed up        (section 2.3)

Only deterministic features pass upward, and each KL is against the predicted prior. `merge` plain is the deep VAE that
the paper compares with: q(z_1|x) q(z_2|z_1) ..., samples pass upward, and the KL is estimated by those samples; only
its sum over levels is a KL, and a level's share may be negative.

z is laid out from z_1 to z_L; a level has half the latents and units of the one below, as in the paper (64-32-16-8-4).
`depth` counts the layers of each block; `network` conv puts a convolutional pyramid between x and the first block, and
its mirror between z_1 and x.

Batch normalisation is what keeps upper levels alive: with layer normalisation in its place they closed on MNIST.

*Departures*: the statistics for testing are running averages of the last steps, not collected anew; Adam at one
learning rate, unless the trainer is given a schedule.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from variants.base import closed_forms
from variants.base.contract import Batch, Config, DataSpec, InputError, Terms, choice, number
from variants.base.likelihoods import Observation, Observed
from variants.base.networks import Decoder, Features

Gaussian = tuple[Tensor, Tensor]  # mean and log-variance, (B, Z_n) each
FLOOR = 1e-5  # of a variance, as in the authors' program


@dataclass(frozen=True, kw_only=True)
class HVAEConfig(Config):
    latent: int = number(32, 1, 65536, help="latent dimensions of the lowest level; each level above has half")
    depth: int = number(2, 1, 64, help="layers of each block")
    levels: int = number(3, 1, 16, help="levels of latent variables")
    merge: str = choice("ladder", "plain", help="ladder; or plain: a deep VAE, inferred from the bottom up")


class HVAE(Observed):
    paper = "Sønderby et al. 2016, Ladder Variational Autoencoders, arXiv:1602.02282"
    config_type = HVAEConfig
    config: HVAEConfig

    def __init__(self, config: HVAEConfig, spec: DataSpec) -> None:
        super().__init__(config, spec)
        c = config
        if c.free_bits and c.merge == "plain":
            raise InputError("free_bits needs merge='ladder': the levels of a plain deep VAE have no KL of their own")
        self.levels = tuple(max(2, c.latent >> n) if n else c.latent for n in range(c.levels))
        widths = [max(16, c.width >> n) for n in range(c.levels)]
        self.ladder = c.merge == "ladder"
        self.stem = Features(spec, c)
        below = widths if self.ladder else self.levels
        self.up = nn.ModuleList(_block(a, b, c.depth) for a, b in zip([self.stem.size, *below], widths, strict=False))
        self.inferred = nn.ModuleList(nn.Linear(w, 2 * z) for w, z in zip(widths, self.levels, strict=True))
        self.down = nn.ModuleList(
            nn.Sequential(_block(above, w, c.depth), nn.Linear(w, 2 * z))
            for (z, above), w in zip(pairwise(self.levels), widths, strict=False)
        )
        self.foot = _block(c.latent, c.width, c.depth)
        self.decoder = Decoder(spec, c, c.width, depth=0)
        self.observation = Observation(spec)

    def decoder_output(self, z: Tensor, batch: Batch | None) -> Tensor:
        """z of all levels; given z_1, x does not depend on the others."""
        return self.decoder(self.foot(z[:, : self.levels[0]]))  # type: ignore[no-any-return]

    def predicted(self, n: int, above: Tensor | None, like: Tensor) -> Gaussian:
        """p(z_n|z_{n+1}), counted from 0; the standard normal on top."""
        if above is None:
            zero = like.new_zeros(len(like), self.levels[n])
            return zero, zero
        return _gaussian(self.down[n](above))

    def infer(self, batch: Batch, noise: bool, k: int = 1) -> tuple[list[Tensor], list[Gaussian], list[Gaussian]]:
        """For each level from z_1 up: `k` draws (or the mean) of q, q itself, and p, both given the draws."""
        return (self._ladder if self.ladder else self._plain)(batch, noise, k)

    def _ladder(self, batch: Batch, noise: bool, k: int) -> tuple[list[Tensor], list[Gaussian], list[Gaussian]]:
        d, seen = self.stem(batch.x), []
        for up, head in zip(self.up, self.inferred, strict=True):
            d = up(d)
            seen.append(_repeated(_gaussian(head(d)), k))
        zs: list[Tensor] = []
        qs: list[Gaussian] = []
        ps: list[Gaussian] = []
        for n in reversed(range(len(self.levels))):
            p = self.predicted(n, zs[0] if zs else None, seen[n][0])
            q = _merge(seen[n], p) if zs else seen[n]
            zs.insert(0, closed_forms.reparameterize(*q) if noise else q[0])
            qs.insert(0, q)
            ps.insert(0, p)
        return zs, qs, ps

    def _plain(self, batch: Batch, noise: bool, k: int) -> tuple[list[Tensor], list[Gaussian], list[Gaussian]]:
        below = self.stem(batch.x)
        zs: list[Tensor] = []
        qs: list[Gaussian] = []
        for up, head in zip(self.up, self.inferred, strict=True):
            qs.append(_repeated(_gaussian(head(up(below))), 1 if zs else k))
            below = closed_forms.reparameterize(*qs[-1]) if noise else qs[-1][0]
            zs.append(below)
        above = [*zs[1:], None]
        return zs, qs, [self.predicted(n, z, below) for n, z in enumerate(above)]

    def terms(self, batch: Batch, step: Tensor) -> Terms:
        zs, qs, ps = self.infer(batch, noise=True)
        if self.ladder:
            kl = torch.cat([closed_forms.kl_normal(*q, *p) for q, p in zip(qs, ps, strict=True)], 1)
        else:  # z_n and z_{n+1} are drawn together, so that only log q - log p of the draws is unbiased
            each = zip(zs, qs, ps, strict=True)
            kl = torch.cat([closed_forms.log_normal(z, *q) - closed_forms.log_normal(z, *p) for z, q, p in each], 1)
        reconstruction, c = self.nll(batch, zs[0]), self.config
        loss = reconstruction.mean() + closed_forms.ramp(step, c.warmup) * closed_forms.free_bits(kl, c.free_bits)
        return Terms(reconstruction, kl.sum(1), {"loss": loss}, {"kl_per_dimension": kl})

    def encode(self, batch: Batch) -> Tensor:
        """Means of all levels, each given the means above (ladder) or below (plain) it."""
        return torch.cat(self.infer(batch, noise=False)[0], 1)

    def descend(self, zs: list[Tensor], noise: Tensor) -> Tensor:
        """(n, Z) the levels that stand below those in `zs` (top level last), from standard noise (n, Z), and `zs`."""
        parts = noise.split(self.levels, dim=1)
        while len(zs) < len(self.levels):
            level = len(self.levels) - len(zs) - 1
            mean, log_var = self.predicted(level, zs[0] if zs else None, noise)
            zs = [torch.addcmul(mean, (0.5 * log_var).exp(), parts[level]), *zs]
        return torch.cat(zs, 1)

    def prior_from_noise(self, noise: Tensor, condition: Batch | None = None) -> Tensor:
        return self.descend([], noise)

    def sample_prior(self, n: int, condition: Batch | None = None) -> Tensor:
        return self.prior_from_noise(self._noise(n))

    def _noise(self, n: int) -> Tensor:
        return torch.randn(n, sum(self.levels), device=self.device)

    def log_prior(self, z: Tensor, batch: Batch) -> Tensor:
        zs = z.split(self.levels, dim=1)
        priors = [self.predicted(n, above, z) for n, above in enumerate([*zs[1:], None])]
        each = [closed_forms.per_example(closed_forms.log_normal(part, *p)) for part, p in zip(zs, priors, strict=True)]
        return torch.stack(each).sum(0)

    def sample_posterior(self, batch: Batch, k: int = 1) -> tuple[Tensor, Tensor]:
        zs, qs, _ = self.infer(batch, noise=True, k=k)
        log_q = [closed_forms.per_example(closed_forms.log_normal(z, *q)) for z, q in zip(zs, qs, strict=True)]
        return torch.cat(zs, 1), torch.stack(log_q).sum(0)

    def pictures(self, batch: Batch) -> Mapping[str, Tensor]:
        """`levels`: draws; then, of each of three draws, the top level kept, the top two, ...; the rest redrawn."""
        columns = 8
        rows = [self.sample(columns)]
        for _ in range(3):
            first = list(self.sample_prior(1).split(self.levels, dim=1))
            for kept in range(1, len(self.levels)):
                fixed = [z.expand(columns, -1) for z in first[-kept:]]
                rows.append(self.decode(self.descend(fixed, self._noise(columns))))
        return {"levels": torch.stack(rows)}


class _Norm(nn.BatchNorm1d):
    """Batch normalisation; a training batch of one example, which has no spread, is taken by the running averages."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training and len(x) > 1:
            return super().forward(x)
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)


def _block(inputs: int, width: int, depth: int) -> nn.Sequential:
    sizes = [inputs] + [width] * depth
    return nn.Sequential(*(m for a, b in pairwise(sizes) for m in (nn.Linear(a, b), _Norm(b), nn.LeakyReLU(0.1))))


def _gaussian(values: Tensor) -> Gaussian:
    mean, variance = values.chunk(2, dim=1)
    return mean, (F.softplus(variance) + FLOOR).log()


def _repeated(q: Gaussian, k: int) -> Gaussian:
    return q if k == 1 else (q[0].repeat_interleave(k, 0), q[1].repeat_interleave(k, 0))


def _merge(a: Gaussian, b: Gaussian) -> Gaussian:
    """The product of two Gaussians: precisions add up, means are weighted by them (equations 17 and 18)."""
    precision_a, precision_b = (-a[1]).exp(), (-b[1]).exp()
    precision = precision_a + precision_b
    return (a[0] * precision_a + b[0] * precision_b) / precision, -precision.log()
