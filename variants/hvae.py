"""HVAE: a hierarchy of latent variables, inferred by a ladder network.

Sønderby et al. 2016, arXiv:1602.02282. The levels are z_1 at the bottom to z_L at the top, with p(z_L) = N(0, I):

    p(x, z) = p(x|z_1) p(z_1|z_2) ... p(z_L)

    bottom up   d_n = MLP(d_{n-1}), d_0 = x;  q^_n = N(Linear(d_n), softplus(Linear(d_n)))          (equations 13 to 15)
    top down    q(z_L|x) = q^_L;  q(z_n|z_{n+1}, x) is the precision-weighted product of q^_n and p(z_n|z_{n+1})
                                                                                                    (equations 17 to 19)
    loss        -log p(x|z_1) + sum_n KL(q(z_n|z_{n+1}, x) || p(z_n|z_{n+1})) with a warm-up of the KL     (section 2.3)

Only the deterministic features d_n are passed upwards, and the KL of a level is taken from its predicted prior. With
`merge="plain"` the variant is the deep VAE of the paper's comparison: q(z_1|x) q(z_2|z_1) ... passes samples upwards,
and the KL is estimated from these samples. Then only the sum over the levels is a KL; the part of a level may be
negative.

The latent dimensions are in the order z_1 to z_L. Each level has half the dimensions and units of the level below, as
in the paper (64-32-16-8-4). `depth` is the number of layers in each block. `network="conv"` puts convolutions between x
and the first block, and their mirror image between z_1 and x.

With `network="resnet"`, levels are maps, as in later hierarchies (Vahdat & Kautz 2020, NVAE, arXiv:2007.03898). The
highest level has the smallest map, and each lower one the next larger map, as long as there is one. z_1 has at least
`latent` dimensions, in as many channels as this needs; a smaller map has twice as many channels for each halving of its
sides. `depth` is the number of residual blocks of each map, and there is no batch normalisation.

The levels of a ladder of sequences have time scales of their own, whatever the network. z_1 has a code for each block
of some steps, with at most latent / 4 blocks in a sequence, and each higher level has half as many. Where a sequence is
shorter than the longest one, the posterior of the blocks without steps is equal to the prior.

Batch normalisation keeps the upper levels active. With layer normalisation instead they collapsed on MNIST.

*Departures*: batch normalisation uses running averages for evaluation; the paper computes the statistics anew. Adam has
a constant learning rate, unless the trainer is given a schedule.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from variants.base import Decoder, DecoderVariant, Features, Inputs, Observation, closed_forms, images, sequences
from variants.base.contract import Batch, Config, DataSpec, InputError, Terms, choice, number
from variants.base.likelihoods import output_shape
from variants.base.networks import checked_network

Gaussian = tuple[Tensor, Tensor]  # mean and log-variance, (B, Z_n) each
VARIANCE_FLOOR = 1e-5  # as in the authors' code


@dataclass(frozen=True, kw_only=True)
class HVAEConfig(Config):
    latent: int = number(32, 1, 65536, help="latent dimensions of the lowest level; each higher level has half as many")
    depth: int = number(2, 1, 64, help="layers of each block")
    levels: int = number(3, 1, 16, help="levels of latent variables")
    merge: str = choice("ladder", "plain", help="ladder, or plain: a deep VAE with bottom-up inference")


class HVAE(DecoderVariant):
    paper = "Sønderby et al. 2016, Ladder Variational Autoencoders, arXiv:1602.02282"
    config_type = HVAEConfig
    config: HVAEConfig

    def __init__(self, config: HVAEConfig, spec: DataSpec) -> None:
        super().__init__(config, spec)
        c = config
        if c.free_bits and c.merge == "plain":
            raise InputError("free_bits needs merge='ladder': the levels of a plain deep VAE have no KL of their own")
        self.ladder = c.merge == "ladder"
        self.strides: tuple[int, ...] = ()  # steps for which each level of sequences has a code
        if self.config.network == "resnet":
            self._build_maps()
        elif spec.steps and self.ladder:
            self._build_time_scales()
        else:
            self._build_vectors()
        self.observation = Observation(spec)

    def _build_vectors(self) -> None:
        """Build the networks of levels without positions."""
        c = self.config
        self.levels = tuple(max(2, c.latent >> n) if n else c.latent for n in range(c.levels))
        widths = [max(16, c.width >> n) for n in range(c.levels)]
        stem = Features(self.spec, c)
        self.stem: nn.Module = stem
        below = widths if self.ladder else self.levels
        self.up = nn.ModuleList(_block(a, b, c.depth) for a, b in zip([stem.size, *below], widths, strict=False))
        self.inferred = nn.ModuleList(nn.Linear(w, 2 * z) for w, z in zip(widths, self.levels, strict=True))
        self.down = nn.ModuleList(
            nn.Sequential(_block(above, w, c.depth), nn.Linear(w, 2 * z))
            for (z, above), w in zip(pairwise(self.levels), widths, strict=False)
        )
        self.foot: nn.Module = _block(c.latent, c.width, c.depth)
        self.decoder: nn.Module = Decoder(self.spec, c, c.width, depth=0)

    def _build_maps(self) -> None:
        """Build the networks of levels that are maps. z_n remains a vector, (B, Z_n): a map that is flattened."""
        c, maps = self.config, images.maps(self.spec, self.config)
        first = max(0, len(maps) - c.levels)  # the map of z_1
        of_level = [maps[min(first + n, len(maps) - 1)] for n in range(c.levels)]
        channels = math.ceil(c.latent / of_level[0].positions)
        codes = [m.with_channels(channels << maps.index(m) - first) for m in of_level]
        self.levels = tuple(code.size for code in codes)
        self.stem = Inputs(self.spec)
        below = of_level if self.ladder else codes
        self.up = nn.ModuleList([images.ImageReader(self.spec, c, of_level[0])])
        for a, b in zip(below, of_level[1:], strict=False):
            self.up.append((images.down if self.ladder else images.from_code)(a, b, c.depth))
        self.inferred = nn.ModuleList(
            images.to_gaussian(m, z.channels, gain=0.5, variance=-2.0) for m, z in zip(of_level, codes, strict=True)
        )
        self.down = nn.ModuleList(
            nn.Sequential(images.from_code(above, m, c.depth), images.to_gaussian(m, z.channels, gain=0.1))
            for (z, above), m in zip(pairwise(codes), of_level, strict=False)
        )
        self.foot = nn.Identity()
        self.decoder = images.ImageWriter(self.spec, c, codes[0], of_level[0], output_shape(self.spec))

    def _build_time_scales(self) -> None:
        """Build the networks for sequences, whose levels have codes at several positions in time.

        z_n is stored flattened, as a vector (B, Z_n): the codes of all its positions, one after the other.
        """
        c, steps, network = self.config, self.spec.steps, checked_network(self.config, self.spec)
        stride = 1
        while math.ceil(steps / stride) > max(2, c.latent // 4):
            stride *= 2
        self.strides = tuple(stride << n for n in range(c.levels))
        positions = [math.ceil(steps / s) for s in self.strides]
        sizes = [max(2, c.latent >> n) for n in range(c.levels)]
        channels = [math.ceil(size / p) for size, p in zip(sizes, positions, strict=True)]
        self.levels = tuple(p * n for p, n in zip(positions, channels, strict=True))
        self.stem = Inputs(self.spec)
        self.reader = sequences.StepReader(self.stem.shape[0], c, network, self.spec, stride)
        self.up = nn.ModuleList(
            sequences.CoarserLevel(c.width if n else self.reader.size, c, 2 if n else 1) for n in range(c.levels)
        )
        self.inferred = nn.ModuleList(sequences.ToGaussian(c.width, n, gain=0.5, variance=-2.0) for n in channels)
        self.down = nn.ModuleList(
            nn.Sequential(sequences.FinerLevel(above, c, p), sequences.ToGaussian(c.width, n, gain=0.1))
            for above, n, p in zip(channels[1:], channels, positions, strict=False)
        )
        self.foot = nn.Identity()
        self.decoder = sequences.Writer(channels[0], c, network, self.spec, output_shape(self.spec)[0], of_steps=True)

    def _bottom_up(self, batch: Batch, k: int) -> tuple[list[Gaussian], list[Tensor | None]]:
        """Return q^_n of each level, and which dimensions of z_n belong to real steps; None if all do."""
        found: list[Gaussian] = []
        known: list[Tensor | None] = []
        d = self.stem(batch)
        if not self.strides:
            for up, head in zip(self.up, self.inferred, strict=True):
                d = up(d)
                found.append(_repeat(_gaussian(head(d)), k))
            return found, [None] * len(found)
        mask = self._padded(sequences.real_steps(batch))[:, :: self.strides[0]]
        d = self._padded(self.reader(d, batch), self.strides[0])
        for up, head, size in zip(self.up, self.inferred, self.levels, strict=True):
            d = up(d, mask)
            mask = mask[:, :: up.stride]
            found.append(_repeat(_gaussian(head(d)), k))
            each = mask.repeat_interleave(size // mask.shape[1], 1)
            known.append(each.repeat_interleave(k, 0))
        return found, known

    def _padded(self, x: Tensor, stride: int = 1) -> Tensor:
        """Pad the second axis of x with zeros to the positions of the longest sequence."""
        missing = math.ceil(self.spec.steps / stride) - x.shape[1]
        if missing < 0:
            raise InputError(
                f"a sequence has more than {self.spec.steps} steps, which the longest training sequence has, "
                "and hvae has codes for no more; expected shorter sequences, or windows of them"
            )
        return F.pad(x, (0, 0) * (x.ndim - 2) + (0, missing))

    def decoder_output(self, z: Tensor, batch: Batch | None) -> Tensor:
        """Return the parameters of p(x|z), which depend only on z_1; z holds all levels."""
        foot = self.foot(z[:, : self.levels[0]])
        if self.strides:
            steps = self.spec.steps if batch is None else batch.x.shape[1]
            positions = math.ceil(self.spec.steps / self.strides[0])
            foot = foot.unflatten(1, (positions, -1)).repeat_interleave(self.strides[0], 1)[:, :steps]
        output: Tensor = (
            self.decoder(foot) if isinstance(self.decoder, images.ImageWriter) else self.decoder(foot, batch)
        )
        return output

    def predicted_prior(self, level: int, above: Tensor | None, like: Tensor) -> Gaussian:
        """Return p(z_n|z_{n+1}) of a level counted from 0, given the z `above` it; N(0, I) if that is None."""
        if above is None:
            zero = like.new_zeros(len(like), self.levels[level])
            return zero, zero
        return _gaussian(self.down[level](above))

    def infer(self, batch: Batch, noise: bool, k: int = 1) -> tuple[list[Tensor], list[Gaussian], list[Gaussian]]:
        """Return z, q and p of each level from z_1 up. q and p of a level depend on the z of its neighbour.

        z are `k` samples of q for each example, (B k, Z_n), or the means of q if `noise` is false.
        """
        return (self._infer_ladder if self.ladder else self._infer_plain)(batch, noise, k)

    def _infer_ladder(self, batch: Batch, noise: bool, k: int) -> tuple[list[Tensor], list[Gaussian], list[Gaussian]]:
        bottom_up, known = self._bottom_up(batch, k)
        zs: list[Tensor] = []
        qs: list[Gaussian] = []
        ps: list[Gaussian] = []
        for n in reversed(range(len(self.levels))):
            p = self.predicted_prior(n, zs[0] if zs else None, bottom_up[n][0])
            q = _where(known[n], _product(bottom_up[n], p) if zs else bottom_up[n], p)
            zs.insert(0, closed_forms.reparameterize(*q) if noise else q[0])
            qs.insert(0, q)
            ps.insert(0, p)
        return zs, qs, ps

    def _infer_plain(self, batch: Batch, noise: bool, k: int) -> tuple[list[Tensor], list[Gaussian], list[Gaussian]]:
        below = self.stem(batch)
        zs: list[Tensor] = []
        qs: list[Gaussian] = []
        for up, head in zip(self.up, self.inferred, strict=True):
            qs.append(_repeat(_gaussian(head(up(below))), 1 if zs else k))
            below = closed_forms.reparameterize(*qs[-1]) if noise else qs[-1][0]
            zs.append(below)
        above = [*zs[1:], None]
        return zs, qs, [self.predicted_prior(n, z, below) for n, z in enumerate(above)]

    def terms(self, batch: Batch, step: Tensor) -> Terms:
        zs, qs, ps = self.infer(batch, noise=True)
        if self.ladder:
            kl = torch.cat([closed_forms.kl_normal(*q, *p) for q, p in zip(qs, ps, strict=True)], 1)
        else:  # p depends on a sample that depends on z_n, so the closed form would be biased
            triples = zip(zs, qs, ps, strict=True)
            kl = torch.cat([closed_forms.log_normal(z, *q) - closed_forms.log_normal(z, *p) for z, q, p in triples], 1)
        reconstruction, c = self.nll(batch, zs[0]), self.config
        loss = reconstruction.mean() + closed_forms.ramp(step, c.warmup) * closed_forms.free_bits(kl, c.free_bits)
        return Terms(reconstruction, kl.sum(1), {"loss": loss}, {"kl_per_dimension": kl})

    def encode(self, batch: Batch) -> Tensor:
        """Return the means of all levels, (B, Z), each given the mean of the level above (ladder) or below (plain)."""
        return torch.cat(self.infer(batch, noise=False)[0], 1)

    def complete_from_top(self, zs: list[Tensor], noise: Tensor) -> Tensor:
        """Return z of all levels, (n, Z): `zs`, the highest levels (the top one last), and samples of those below.

        `noise` is standard normal noise for all levels, (n, Z).
        """
        parts = noise.split(self.levels, dim=1)
        while len(zs) < len(self.levels):
            level = len(self.levels) - len(zs) - 1
            mean, log_var = self.predicted_prior(level, zs[0] if zs else None, noise)
            zs = [torch.addcmul(mean, (0.5 * log_var).exp(), parts[level]), *zs]
        return torch.cat(zs, 1)

    def prior_from_noise(self, noise: Tensor, condition: Batch | None = None) -> Tensor:
        return self.complete_from_top([], noise)

    def sample_prior(self, n: int, condition: Batch | None = None) -> Tensor:
        return self.prior_from_noise(self._noise(n))

    def _noise(self, n: int) -> Tensor:
        return torch.randn(n, sum(self.levels), device=self.device)

    def log_prior(self, z: Tensor, batch: Batch) -> Tensor:
        zs = z.split(self.levels, dim=1)
        priors = [self.predicted_prior(n, above, z) for n, above in enumerate([*zs[1:], None])]
        log_p = [closed_forms.per_example(closed_forms.log_normal(z, *p)) for z, p in zip(zs, priors, strict=True)]
        return torch.stack(log_p).sum(0)

    def sample_posterior(self, batch: Batch, k: int = 1) -> tuple[Tensor, Tensor]:
        zs, qs, _ = self.infer(batch, noise=True, k=k)
        log_q = [closed_forms.per_example(closed_forms.log_normal(z, *q)) for z, q in zip(zs, qs, strict=True)]
        return torch.cat(zs, 1), torch.stack(log_q).sum(0)

    def pictures(self, batch: Batch) -> Mapping[str, Tensor]:
        """Return `levels`. Its first row has samples of the prior. In each other row the highest levels are fixed.

        For each of three samples there is a row with its top level fixed, one with its top two levels, and so on.
        """
        columns = 8
        rows = [self.sample(columns)]
        for _ in range(3):
            first = list(self.sample_prior(1).split(self.levels, dim=1))
            for fixed_levels in range(1, len(self.levels)):
                fixed = [z.expand(columns, -1) for z in first[-fixed_levels:]]
                rows.append(self.decode(self.complete_from_top(fixed, self._noise(columns))))
        return {"levels": torch.stack(rows)}


class _Norm(nn.BatchNorm1d):
    """Batch normalisation that uses the running averages for a training batch of one example, which has no variance."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training and len(x) > 1:
            return super().forward(x)
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)


def _block(inputs: int, width: int, depth: int) -> nn.Sequential:
    sizes = [inputs] + [width] * depth
    return nn.Sequential(*(m for a, b in pairwise(sizes) for m in (nn.Linear(a, b), _Norm(b), nn.LeakyReLU(0.1))))


def _gaussian(values: Tensor) -> Gaussian:
    mean, variance = values.chunk(2, dim=1)
    return mean, (F.softplus(variance) + VARIANCE_FLOOR).log()


def _repeat(q: Gaussian, k: int) -> Gaussian:
    return q if k == 1 else (q[0].repeat_interleave(k, 0), q[1].repeat_interleave(k, 0))


def _where(known: Tensor | None, q: Gaussian, p: Gaussian) -> Gaussian:
    """Return q, and p in its place for dimensions that are not known."""
    return q if known is None else (torch.where(known, q[0], p[0]), torch.where(known, q[1], p[1]))


def _product(a: Gaussian, b: Gaussian) -> Gaussian:
    """Return the product of two Gaussians: their precisions add up and weight the means (equations 17 and 18)."""
    precision_a, precision_b = (-a[1]).exp(), (-b[1]).exp()
    precision = precision_a + precision_b
    return (a[0] * precision_a + b[0] * precision_b) / precision, -precision.log()
