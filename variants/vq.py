"""VQ: a vector-quantised autoencoder, whose code is made of entries of a code book, with an autoregressive prior.

van den Oord, Vinyals & Kavukcuoglu 2017, arXiv:1711.00937. The encoder gives a vector z_e(x)_p at each of P positions,
which is replaced by the nearest of K vectors e_1 ... e_K (equations 1 and 2). The decoder reads these, and its gradient
is passed to the encoder as if nothing had been replaced (the straight-through estimator):

    k_p = argmin_j |z_e(x)_p - e_j|,   z_p = e_{k_p}
    loss    -log p(x|z) + beta * sum_p |z_e(x)_p - sg[e_{k_p}]|^2           (equation 3, without its second term)
    codes   e_j follows the mean of the vectors that are assigned to it     (appendix A.1, in place of this term)
    prior   -sum_p log p(k_p|k_1 ... k_{p-1})                               (section 3.3)

q(z|x) is a point, so the KL is -log p(k_1 ... k_P): it is exact and never negative. A new prior is uniform, and the KL
is then P log K. The prior is fitted when the codes are final, in the last `prior_share` of the epochs.

**The code book.** It is a quotient of running averages over batches: e_j = M_j / N_j, where N_j says how often code j
is chosen, and M_j is the sum of the vectors that are assigned to it. Both are rows (N_j, M_j) of one parameter S.
`terms` has no side effects, so it does not change S. Instead it returns the loss 1/2 |S - target|^2, whose gradient is
S - target: a step of SGD with the learning rate 1 sets S to the target, which is decay * S + (1 - decay) * (the numbers
and sums of this batch). These are divided by B P / K, the number for codes that are used equally, so that they do not
depend on the size of the batch. Where N_j is below a hundredth, the target is a new start from a random output of the
encoder, (1, z_e). A new S is below it, so all codes that the first batch does not choose start from outputs of the
encoder. No division is by 0. A schedule of the learning rate makes the averages slower.

With `quantizer="fsq"` (Mentzer et al. 2024, arXiv:2309.15505) there is no code book to learn: each of `latent`
dimensions is limited by tanh and rounded to the nearest of `levels` equally spaced values from -1 to 1. There are
levels^latent codes, and neither a commitment nor a loss of the codes.

If `network` is resnet, which is the default for images with sides of 16 to 256, the positions are those of a map with a
quarter of the image's sides, as in the paper. Otherwise the output of the encoder is divided into `positions` vectors.

Three numbers have a curve over the epochs of a run: `perplexity`, the exponential of the entropy of the shares of the
codes in a batch; `dead_codes`, how many codes a batch does not choose; and `commitment`, without its weight beta.

*Departures*: the reconstruction is a likelihood in nats, summed over the values of x. In the authors' code it is the
squared error divided by the variance v of x, a mean over the N values of x, and the commitment is a mean over the P D
numbers of z_e. If the errors have the variance s^2, their beta corresponds to beta * N v / (2 s^2 P D) here. The prior
is a recurrent network instead of a PixelCNN. Unused codes start anew. All dimensions of FSQ have equally many levels,
and an even number of levels has none at 0.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from variants.base import Adam, Decoder, DecoderVariant, Encoder, Inputs, Observation, Stage, images
from variants.base.contract import Batch, Config, DataSpec, InputError, Terms, choice, number
from variants.base.likelihoods import output_shape

DEAD = 0.01  # a code that is chosen less often than this, relative to the mean over codes, starts anew
MOST_CODES = 65_536
FIRST_SCALE = 0.3  # standard deviation of a new code book, about that of the outputs of a new encoder


@dataclass(frozen=True, kw_only=True)
class VQConfig(Config):
    latent: int = number(16, 1, 65536, help="dimensions of the vector at each position")
    positions: int = number(
        8, 1, 65536, help="positions of a code; network=resnet: a map with 1/4 of the image's sides"
    )
    quantizer: str = choice("ema", "fsq", help="ema: a code book of running averages; fsq: fixed levels")
    codes: int = number(128, 2, MOST_CODES, help="entries of the code book (quantizer=ema)")
    levels: int = number(5, 2, MOST_CODES, help="levels of each dimension (quantizer=fsq)")
    beta: float = number(0.25, 0.0, 1e6, help="weight of the commitment (quantizer=ema)")
    decay: float = number(0.99, 0.0, 1.0, help="share of the running averages that a step keeps (quantizer=ema)")
    prior_width: int = number(128, 1, 65536, help="units of the recurrent prior over codes")
    prior_lr: float = number(4e-3, 1e-8, 1.0, help="Adam's learning rate of the prior")
    prior_share: float = number(
        0.3, 0.01, 0.99, help="share of the epochs in which only the prior is trained, the last"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.warmup or self.free_bits:
            raise InputError(
                f"warmup={self.warmup}, free_bits={self.free_bits}: the KL is not part of the loss; expected warmup=0 "
                "and free_bits=0"
            )
        if self.quantizer == "ema" and self.clip:
            raise InputError(
                f"clip={self.clip:g}: the gradient of the code book is a change of running averages, which clipping "
                "would cut short; expected clip=0, or quantizer='fsq'"
            )
        if self.quantizer == "fsq" and self.levels**self.latent > MOST_CODES:
            raise InputError(
                f"levels={self.levels} and latent={self.latent} make {self.levels}^{self.latent} codes at each "
                f"position; expected at most {MOST_CODES}, for instance levels=5 and latent=4"
            )

    def network_for(self, spec: DataSpec) -> str:
        is_image = (
            len(spec.shape) == 3 and images.SMALLEST <= min(spec.shape[1:]) <= max(spec.shape[1:]) <= images.LARGEST
        )
        return "resnet" if self.network == "auto" and is_image else super().network_for(spec)


class VQ(DecoderVariant):
    paper = "van den Oord et al. 2017, Neural Discrete Representation Learning, arXiv:1711.00937"
    config_type = VQConfig
    config: VQConfig
    discrete = True
    grid: Tensor  # (K, D), the codes of FSQ

    def __init__(self, config: VQConfig, spec: DataSpec) -> None:
        super().__init__(config, spec)
        c = self.config
        self.map: images.Map | None = None  # of the code, if its positions are those of a map
        if c.network == "resnet":
            sizes = images.maps(spec, c)
            features = sizes[min(1, len(sizes) - 1)]
            self.map = features.with_channels(c.latent)
            to_code = images.convolution(features.channels, c.latent, kernel=1)
            self.encoder: nn.Module = nn.Sequential(Inputs(spec), images.ImageReader(spec, c, features), to_code)
            self.decoder: nn.Module = images.ImageWriter(spec, c, self.map, features, output_shape(spec))
        else:
            self.encoder = Encoder(spec, c, c.positions * c.latent)
            self.decoder = Decoder(spec, c, c.positions * c.latent)
        self.observation = Observation(spec)
        positions, columns = (self.map.positions, self.map.width) if self.map else (c.positions, c.positions)
        self.codes = c.codes
        if c.quantizer == "ema":
            start = torch.cat([torch.ones(c.codes, 1), FIRST_SCALE * torch.randn(c.codes, c.latent)], 1)
            self.averages = nn.Parameter(DEAD / 2 * start)
        else:
            self.codes = c.levels**c.latent
            self.register_buffer("grid", _grid(c.levels, c.latent), persistent=False)
        self.prior = CodePrior(self.codes, positions, columns, c.prior_width)
        of_codes = ("loss", "codes") if c.quantizer == "ema" else ("loss",)
        self.stages = (Stage(of_codes, 1 - c.prior_share), Stage(("prior",), c.prior_share))

    @property
    def code_book(self) -> Tensor:
        """e_1 ... e_K, (K, D), without gradient."""
        if self.config.quantizer == "fsq":
            return self.grid
        averages = self.averages.detach()
        return averages[:, 1:] / averages[:, :1]

    def vectors(self, batch: Batch) -> Tensor:
        """Return z_e(x), (B, P, D)."""
        out: Tensor = self.encoder(batch)
        out = out.unflatten(1, (-1, self.config.latent)) if self.map is None else out.flatten(2).mT
        return out.tanh() if self.config.quantizer == "fsq" else out

    def nearest(self, vectors: Tensor) -> Tensor:
        """Return the numbers k of the codes nearest to the given vectors (B, P, D), (B, P)."""
        exact = "donot_use_mm_for_euclid_dist"  # so that a code is always nearest to itself
        flat = vectors.detach().flatten(0, 1).to(self.code_book.dtype)
        return torch.cdist(flat, self.code_book, compute_mode=exact).argmin(1).view(vectors.shape[:2])

    def terms(self, batch: Batch, step: Tensor) -> Terms:
        vectors = self.vectors(batch)
        k = self.nearest(vectors)
        chosen = self.code_book[k]
        z = chosen + (vectors - vectors.detach())  # its gradient is that of z_e
        reconstruction, kl = self.nll(batch, z.flatten(1)), self.prior.nll(k)
        commitment = (vectors - chosen).square().sum((1, 2))
        losses = {"loss": reconstruction.mean(), "prior": kl.mean()}
        if self.config.quantizer == "ema":
            losses["loss"] = losses["loss"] + self.config.beta * commitment.mean()
            losses["codes"] = 0.5 * (self.averages - self.averaged(vectors.detach(), k)).square().sum()
        shares = self._sums(k, kl.new_ones(k.numel(), 1)) / k.numel()
        return Terms(reconstruction, kl, losses, {
            "perplexity": torch.special.entr(shares).sum().exp().expand(len(k)),
            "dead_codes": (shares == 0).sum().to(shares.dtype).expand(len(k)),
            "commitment": commitment,
        })  # fmt: skip

    def averaged(self, vectors: Tensor, k: Tensor) -> Tensor:
        """Return the averages (N_j, M_j), (K, 1 + D), after a batch with the given vectors (B, P, D) and codes (B, P).

        Codes that are hardly used any more get a vector of the batch, drawn at random, as if they were used equally.
        """
        rows = F.pad(vectors.flatten(0, 1).to(self.averages.dtype), (1, 0), value=1.0)
        found = self._sums(k, rows) * (self.codes / len(rows))
        averages = self.averages.detach().lerp(found, 1 - self.config.decay)
        fresh = rows[torch.randint(len(rows), (self.codes,), device=rows.device)]
        return torch.where(averages[:, :1] < DEAD, fresh, averages)

    def _sums(self, k: Tensor, rows: Tensor) -> Tensor:
        """Return the sum of the rows (B P, n) that belong to each code, (K, n)."""
        return rows.new_zeros(self.codes, rows.shape[1]).index_add(0, k.flatten(), rows)

    def encode(self, batch: Batch) -> Tensor:
        """Return the nearest codes of all positions, one after the other, (B, P D)."""
        return self.code_book[self.nearest(self.vectors(batch))].flatten(1)

    def decoder_output(self, z: Tensor, batch: Batch | None) -> Tensor:
        if self.map is None:
            steps: Tensor = self.decoder(z, batch)
            return steps
        output: Tensor = self.decoder(z.unflatten(1, (-1, self.config.latent)).mT.flatten(1))
        return output

    def sample_prior(self, n: int, condition: Batch | None = None) -> Tensor:
        return self.code_book[self.prior.sample(n)].flatten(1)

    def prior_from_noise(self, noise: Tensor, condition: Batch | None = None) -> None:
        return None

    def log_prior(self, z: Tensor, batch: Batch) -> Tensor:
        """Return the log probability of the codes that are nearest to z (B, P D), (B,), in nats."""
        return -self.prior.nll(self.nearest(z.unflatten(1, (-1, self.config.latent))))

    def sample_posterior(self, batch: Batch, k: int = 1) -> tuple[Tensor, Tensor]:
        """Return the code of each example `k` times, and 0, the logarithm of its probability."""
        z = self.encode(batch).repeat_interleave(k, 0)
        return z, z.new_zeros(len(z))

    def optimizers(self) -> Mapping[str, torch.optim.Optimizer]:
        parameters, c = self.parameter_groups(self.encoder, self.decoder, self.observation), self.config
        optimizers: dict[str, torch.optim.Optimizer] = {
            "loss": Adam(parameters, lr=c.lr, fused=True),
            "prior": Adam(self.prior.parameters(), lr=c.prior_lr, fused=True),
        }
        if c.quantizer == "ema":
            optimizers["codes"] = torch.optim.SGD([self.averages], lr=1.0)
        return optimizers

    def pictures(self, batch: Batch) -> Mapping[str, Tensor]:
        """Return `codes` of images whose code is a map: in each row an image, its codes in grey, and its mean.

        Codes are shown by their place in the order along the first principal component of the code book.
        """
        if self.map is None:
            return {}
        x = batch.x if batch.observed is None else torch.where(batch.observed, batch.x, torch.nan)
        book = self.code_book
        component = torch.linalg.svd(book - book.mean(0), full_matrices=False).Vh[0]
        rank = (book @ component).argsort().argsort() / (self.codes - 1)
        ranks = rank[self.nearest(self.vectors(batch))].view(-1, 1, self.map.height, self.map.width)
        grey = torch.lerp(batch.x.amin(), batch.x.amax(), F.interpolate(ranks, x.shape[2:], mode="nearest"))
        return {"codes": torch.stack([x, grey.expand_as(x), self.decode(self.encode(batch), batch)], 1)}


class CodePrior(nn.Module):
    """p(k_1 ... k_P) = prod_p p(k_p|k_1 ... k_{p-1}), by a recurrent network. A new one is uniform.

    Before each position, it reads the last code, in a map of several rows also the one above the position, and the
    number of the position.
    """

    def __init__(self, codes: int, positions: int, columns: int, width: int) -> None:
        super().__init__()
        self.codes = codes
        self.distances = (1,) if columns in (1, positions) else (1, columns)
        self.embeddings = nn.ModuleList(nn.Embedding(codes + 1, width) for _ in self.distances)  # the last for none
        self.places = nn.Parameter(torch.zeros(positions, width))
        self.net = nn.GRU(width, width, batch_first=True)
        self.output = nn.Linear(width, codes)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def _read(self, k: Tensor) -> Tensor:
        """Return the inputs of the network at the first positions, (B, T, width), given all codes before them."""
        earlier = zip(self.embeddings, self.distances, strict=True)
        ks = F.pad(k, (max(self.distances), 0), value=self.codes)
        of_each = [embedding(ks[:, max(self.distances) - d : ks.shape[1] - d + 1]) for embedding, d in earlier]
        inputs: Tensor = sum(of_each) + self.places[: k.shape[1] + 1]
        return inputs

    def nll(self, k: Tensor) -> Tensor:
        """Return -log p(k_1 ... k_P), (B,), in nats, for codes (B, P)."""
        h, _ = self.net(self._read(k[:, :-1]))
        return F.cross_entropy(self.output(h).mT, k, reduction="none").sum(1)

    def sample(self, n: int) -> Tensor:
        """Return n samples of the codes, (n, P)."""
        k, state = torch.zeros(n, 0, dtype=torch.int64, device=self.places.device), None
        for _ in self.places:
            h, state = self.net(self._read(k)[:, -1:], state)
            k = torch.cat([k, self.output(h[:, 0]).softmax(1).multinomial(1)], 1)
        return k


def _grid(levels: int, dimensions: int) -> Tensor:
    """Return all combinations of equally spaced levels from -1 to 1, (levels^dimensions, dimensions)."""
    each = torch.linspace(-1, 1, levels)
    return torch.cartesian_prod(*[each] * dimensions).view(-1, dimensions)
