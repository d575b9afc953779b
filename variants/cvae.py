"""CVAE: a VAE of x given a condition c, which is the class label or the part of the image that is seen.

Sohn, Lee & Yan 2015, NeurIPS 28. Equation 4: with z ~ q(z|x, c),

    log p(x|c) >= log p(x|c, z) - KL(q(z|x, c) || p(z|c)),  maximised,

with a recognition network q(z|x, c), a prior network p(z|c) and a generation network p(x|c, z), all conditioned.

`condition` label: c is the class. With probability `drop` c is withheld in training, so that q(z|x) is there for
examples without a label: `encode` never sees one. What is compared is a bound of log p(x), not of log p(x|y): telling
the class costs -log p(y), which is part of the KL (q puts all weight on the true class; p(y) is uniform), and
log p(x) = log sum_y p(y) p(x|y) is got from `log_joint` over all classes. `elbo_given_y` is logged beside it.

`condition` quadrants: c are the `observed` quadrants of an image, from the bottom left one clockwise (section 5.1).
Only missing pixels count: the ELBO is that of log p(missing|seen), and stands beside no other variant's. `objective`
network is the baseline of the paper: the same generation network without z.

*Departures*: trained by equation 4 alone, not by the hybrid with the Gaussian stochastic network (equation 7); label
dropout is ours; the prior network of a label is a table, one mean and variance a class; no recurrent prediction.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from variants.base import closed_forms
from variants.base.contract import Batch, Config, DataSpec, InputError, Terms, choice, number
from variants.base.likelihoods import Observation, Observed
from variants.base.networks import Decoder, Encoder


@dataclass(frozen=True, kw_only=True)
class CVAEConfig(Config):
    condition: str = choice("label", "quadrants", help="what is given: the class, or quadrants of the image")
    drop: float = number(
        0.1, 0.0, 0.9, help="share of training examples whose label is withheld; 0 leaves encode untrained"
    )
    observed: int = number(1, 1, 3, help="quadrants that are seen, of 4 (condition=quadrants)")
    objective: str = choice("cvae", "network", help="cvae; or network: the paper's baseline without z (quadrants)")


class CVAE(Observed):
    paper = "Sohn, Lee & Yan 2015, Learning Structured Output Representation using Deep CGMs, NeurIPS"
    config_type = CVAEConfig
    config: CVAEConfig
    seen: Tensor  # (H, W) bool, the pixels that are seen

    def __init__(self, config: CVAEConfig, spec: DataSpec) -> None:
        super().__init__(config, spec)
        self.conditioned_on = "y" if config.condition == "label" else "x"
        self.class_conditional = self.conditioned_on == "y"
        self.stochastic = config.objective == "cvae"
        if self.conditioned_on == "y":
            if not self.stochastic:
                raise InputError("objective='network' needs condition='quadrants'")
            if not spec.classes:
                raise InputError(f"cvae needs class labels; data set {spec.name} has none (or condition=quadrants)")
            size = spec.classes
            self.prior_net: nn.Module = nn.Linear(size, 2 * config.latent)
            self.encoder = Encoder(spec, config, 2 * config.latent, extra=size)
        else:
            self.register_buffer("seen", _quadrants(spec, config.observed), persistent=False)
            size = config.width
            self.observer = Encoder(spec, config, size)
            if self.stochastic:
                self.prior_net = nn.Linear(size, 2 * config.latent)
                self.encoder = Encoder(spec, config, 2 * config.latent)
        self.decoder = Decoder(spec, config, config.latent * self.stochastic + size)
        self.observation = Observation(spec)

    def condition(self, batch: Batch, withhold: bool = False) -> Tensor:
        """(B, C) c: the class as a one-hot vector, zeros where it is unknown; or features of the pixels seen."""
        if self.config.condition == "quadrants":
            return self.observer(torch.where(self.seen, batch.x, 0.5)).relu()  # type: ignore[no-any-return]
        if batch.y is None:
            return batch.x.new_zeros(len(batch), self.spec.classes)
        # a label of -1 compares equal to no class
        one_hot = (batch.y[:, None] == torch.arange(self.spec.classes, device=batch.y.device)).to(batch.x.dtype)
        if withhold:
            one_hot = one_hot * (torch.rand(len(one_hot), 1, device=one_hot.device) >= self.config.drop)
        return one_hot

    def posterior(self, batch: Batch, c: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of q(z|x, c), (B, Z) each."""
        mean, log_var = self.encoder(batch.x, c if self.conditioned_on == "y" else None).chunk(2, dim=1)
        return mean, log_var

    def prior_given(self, c: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of p(z|c), (B, Z) each."""
        mean, log_var = self.prior_net(c).chunk(2, dim=1)
        return mean, log_var

    def decoder_output(self, z: Tensor, batch: Batch | None) -> Tensor:
        """What the generation network says, (B, *shape), of z and c from `batch`: without one, no class."""
        return self.generate(z, self.condition(batch or self._nothing(len(z))))

    def generate(self, z: Tensor, c: Tensor) -> Tensor:
        return self.decoder(torch.cat([z, c], 1) if self.stochastic else c)  # type: ignore[no-any-return]

    def log_likelihood(self, z: Tensor, batch: Batch) -> Tensor:
        """Of p(x|c, z); 0 for pixels that are seen."""
        return self._missing(super().log_likelihood(z, batch))

    def _missing(self, values: Tensor) -> Tensor:
        return values if self.conditioned_on == "y" else torch.where(self.seen, 0.0, values)

    def score(self, batch: Batch, z: Tensor, c: Tensor) -> Tensor:
        """(B,) -log p(x|c, z) in nats, of the missing pixels where a part is seen."""
        return closed_forms.per_example(self._missing(self.observation.nll_each(batch.x, self.generate(z, c))))

    def cost(self, c: Tensor) -> Tensor:
        """(B,) -log p(y) of the classes that are told, in nats."""
        return c.sum(1) * math.log(self.spec.classes) if self.conditioned_on == "y" else c.new_zeros(len(c))

    def terms(self, batch: Batch, step: Tensor) -> Terms:
        c = self.condition(batch, withhold=self.training)
        if not self.stochastic:
            reconstruction = self.score(batch, c, c)
            return Terms(reconstruction, torch.zeros_like(reconstruction), {"loss": reconstruction.mean()})
        mean, log_var = self.posterior(batch, c)
        kl = closed_forms.kl_normal(mean, log_var, *self.prior_given(c))
        reconstruction = self.score(batch, closed_forms.reparameterize(mean, log_var), c)
        s = self.config
        loss = reconstruction.mean() + closed_forms.ramp(step, s.warmup) * closed_forms.free_bits(kl, s.free_bits)
        extras = {"kl_per_dimension": kl, f"elbo_given_{self.conditioned_on}": -(reconstruction + kl.sum(1))}
        return Terms(reconstruction, kl.sum(1) + self.cost(c), {"loss": loss}, extras)

    def encode(self, batch: Batch) -> Tensor:
        blind = replace(batch, y=None)
        c = self.condition(blind)
        return self.posterior(blind, c)[0] if self.stochastic else c

    def decode(self, z: Tensor, batch: Batch | None = None) -> Tensor:
        """The mean of p(x|c, z), c from `batch`: without one, no class, or nothing seen. Pixels seen stay."""
        return self._kept(super().decode(z, batch), batch)

    def sample_x(self, z: Tensor, batch: Batch | None = None) -> Tensor:
        return self._kept(super().sample_x(z, batch), batch)

    def _kept(self, values: Tensor, batch: Batch | None) -> Tensor:
        return values if self.conditioned_on == "y" or batch is None else torch.where(self.seen, batch.x, values)

    def _nothing(self, n: int, y: Tensor | None = None) -> Batch:
        """Images of which nothing is seen."""
        return Batch(torch.full((n, *self.spec.shape), 0.5, device=self.device), y)

    def sample_prior(self, n: int, condition: Batch | None = None) -> Tensor:
        """z ~ p(z|c), or draws from the mixture of the classes' priors.

        With nothing seen, which training never meets, of no use.
        """
        condition = condition or self._nothing(n, self._classes(n))
        if not self.stochastic:
            return self.condition(condition)
        return self.prior_from_noise(torch.randn(n, self.config.latent, device=self.device), condition)

    def prior_from_noise(self, noise: Tensor, condition: Batch | None = None) -> Tensor:
        mean, log_var = self.prior_given(
            self.condition(condition or self._nothing(len(noise), self._classes(len(noise))))
        )
        return torch.addcmul(mean, (0.5 * log_var).exp(), noise)

    def _classes(self, n: int) -> Tensor | None:
        return torch.randint(self.spec.classes, (n,), device=self.device) if self.conditioned_on == "y" else None

    def sample(self, n: int, y: Tensor | None = None, noise: bool = False) -> Tensor:
        """Classes are drawn evenly where `y` does not ask for them."""
        batch = self._nothing(n, self._classes(n) if y is None else y)
        z = self.sample_prior(n, batch)
        return self.sample_x(z, batch) if noise else self.decode(z, batch)

    def log_prior(self, z: Tensor, batch: Batch) -> Tensor:
        """(B,) log p(z|c) + log p(y) for a class that is told; log p(z|seen) for quadrants."""
        c = self.condition(batch)
        if not self.stochastic:
            return torch.zeros(len(c), device=c.device)
        return closed_forms.per_example(closed_forms.log_normal(z, *self.prior_given(c))) - self.cost(c)

    def sample_posterior(self, batch: Batch, k: int = 1) -> tuple[Tensor, Tensor]:
        c = self.condition(batch)
        if not self.stochastic:
            return c.repeat_interleave(k, 0), torch.zeros(len(c) * k, device=c.device)
        return closed_forms.sample_normal(*self.posterior(batch, c), k)

    def pictures(self, batch: Batch) -> Mapping[str, Tensor]:
        """`classes`: a row a class, a column one noise. `completions`: true image, what is seen, then draws."""
        columns = 8
        if self.conditioned_on == "y":
            rows = min(self.spec.classes, 20)
            y = torch.arange(rows, device=self.device)
            mean, log_var = self.prior_given(F.one_hot(y, self.spec.classes).float())
            noise = torch.randn(1, columns, self.config.latent, device=self.device)
            z = (mean[:, None] + (0.5 * log_var).exp()[:, None] * noise).flatten(0, 1)
            x = self.decode(z, Batch(z, y.repeat_interleave(columns)))
            return {"classes": x.unflatten(0, (rows, columns))}
        part = batch[slice(0, columns)]
        many = Batch(part.x.repeat_interleave(columns - 2, 0))
        draws = self.decode(self.sample_prior(len(many), many), many).unflatten(0, (len(part), columns - 2))
        shown = torch.stack([part.x, torch.where(self.seen, part.x, 0.5)], 1)
        return {"completions": torch.cat([shown, draws], 1)}


def _quadrants(spec: DataSpec, observed: int) -> Tensor:
    """(H, W) bool, true where a pixel is seen: bottom left, then top left, then top right."""
    if len(spec.shape) != 3:
        shape = "x".join(map(str, spec.shape))
        raise InputError(f"condition='quadrants': {spec.name} has examples of {shape}; expected images")
    height, width = (s // 2 for s in spec.shape[1:])
    seen = torch.zeros(spec.shape[1:], dtype=torch.bool)
    seen[height:, :width] = True
    if observed > 1:
        seen[:height, :width] = True
    if observed > 2:
        seen[:height, width:] = True
    return seen
