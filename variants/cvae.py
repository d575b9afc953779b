"""CVAE: a conditional VAE of x given c, where c is the class label or the observed part of an image.

Sohn, Lee & Yan 2015, NeurIPS 28. With one sample z ~ q(z|x, c), the method maximises the bound (equation 4)

    log p(x|c) >= log p(x|c, z) - KL(q(z|x, c) || p(z|c)).

It has a recognition network q(z|x, c), a prior network p(z|c) and a generation network p(x|c, z).

With `condition="label"`, c is the class. In training c is withheld with probability `drop`, so that the encoder learns
to work without a label, which `encode` never sees. The score that is compared is a bound of log p(x), not log p(x|y).
For this, the KL includes -log p(y), because the posterior of the class puts all its mass on the true class. log p(x) =
log sum_y p(y) p(x|y) is computed from `log_joint` of all classes. `elbo_given_y` is logged too.
An example whose class is unknown is scored as if c were withheld: c is 0, and its KL includes no -log p(y).

With `condition="quadrants"`, c is the first `observed` quadrants of an image, clockwise from the bottom left (section
5.1). Only the missing pixels are modelled: the ELBO is a bound of log p(missing|observed), and cannot be compared with
that of another variant. `objective="network"` is the baseline of the paper, the generation network without z.

*Departures*: the objective is equation 4 alone, not the hybrid with the Gaussian stochastic network (equation 7). The
dropout of labels is not in the paper. The paper does not need p(y); here it is the share of each class among the
training examples whose label is known. The prior network of a label is a table with one mean and one variance for each
class. There is no recurrent prediction.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from variants.base import Decoder, DecoderVariant, Encoder, Observation, closed_forms
from variants.base.contract import Batch, Config, DataSpec, InputError, Terms, choice, number


@dataclass(frozen=True, kw_only=True)
class CVAEConfig(Config):
    condition: str = choice("label", "quadrants", help="x is modelled given its class, or given quadrants of the image")
    drop: float = number(0.1, 0.0, 0.9, help="share of labels withheld in training; with 0 encode is untrained")
    observed: int = number(1, 1, 3, help="number of observed quadrants, of 4 (condition=quadrants)")
    objective: str = choice("cvae", "network", help="network: the paper's baseline without z (condition=quadrants)")


class CVAE(DecoderVariant):
    paper = "Sohn, Lee & Yan 2015, Learning Structured Output Representation using Deep CGMs, NeurIPS"
    config_type = CVAEConfig
    config: CVAEConfig
    observed_pixels: Tensor  # (H, W) bool, true for observed pixels
    class_probabilities: Tensor  # p(y), (K,)

    def __init__(self, config: CVAEConfig, spec: DataSpec) -> None:
        super().__init__(config, spec)
        self.conditioned_on = "y" if config.condition == "label" else "x"
        self.class_conditional = self.conditioned_on == "y"
        self.stochastic = config.objective == "cvae"
        if self.conditioned_on == "y":
            if not self.stochastic:
                raise InputError("objective='network' needs condition='quadrants'")
            if not spec.classes:
                raise InputError(
                    f"cvae needs class labels, and data set {spec.name} has none; condition=quadrants needs none"
                )
            size = spec.classes
            self.register_buffer("class_probabilities", spec.class_probabilities, persistent=False)
            self.prior_net: nn.Module = nn.Linear(size, 2 * config.latent)
            self.encoder = Encoder(spec, config, 2 * config.latent, extra=size)
        else:
            self.register_buffer("observed_pixels", _quadrants(spec, config.observed), persistent=False)
            size = config.width
            self.observer = Encoder(spec, config, size)
            if self.stochastic:
                self.prior_net = nn.Linear(size, 2 * config.latent)
                self.encoder = Encoder(spec, config, 2 * config.latent)
        self.decoder = Decoder(spec, config, config.latent * self.stochastic + size)
        self.observation = Observation(spec)

    def encode_condition(self, batch: Batch, withhold: bool = False) -> Tensor:
        """Return c, (B, C): the class as a one-hot vector, zeros if it is unknown; or features of observed pixels."""
        if self.config.condition == "quadrants":
            features: Tensor = self.observer(self._observed_part(batch)).relu()
            return features
        if batch.y is None:
            return batch.x.new_zeros(len(batch), self.spec.classes)
        # an unknown label, -1, is equal to no class
        one_hot = (batch.y[:, None] == torch.arange(self.spec.classes, device=batch.y.device)).to(batch.x.dtype)
        if withhold:
            one_hot = one_hot * (torch.rand(len(one_hot), 1, device=one_hot.device) >= self.config.drop)
        return one_hot

    def _observed_part(self, batch: Batch) -> Batch:
        """Return images whose missing quadrants are grey."""
        return replace(batch, x=torch.where(self.observed_pixels, batch.x, 0.5))

    def posterior(self, batch: Batch, c: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean and the log-variance of q(z|x, c), (B, Z) each."""
        mean, log_var = self.encoder(batch, c if self.conditioned_on == "y" else None).chunk(2, dim=1)
        return mean, log_var

    def conditional_prior(self, c: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean and the log-variance of p(z|c), (B, Z) each."""
        mean, log_var = self.prior_net(c).chunk(2, dim=1)
        return mean, log_var

    def decoder_output(self, z: Tensor, batch: Batch | None) -> Tensor:
        """Return the output of the generation network, (B, *shape); without `batch` the condition is unknown."""
        batch = batch or self._unknown_condition(len(z))
        return self.generate(z, self.encode_condition(batch), batch)

    def generate(self, z: Tensor, c: Tensor, batch: Batch) -> Tensor:
        """Return the output of the generation network; sequences are as long as those of `batch`."""
        output: Tensor = self.decoder(torch.cat([z, c], 1) if self.stochastic else c, batch)
        return output

    def log_likelihood(self, z: Tensor, batch: Batch) -> Tensor:
        """Return log p(x|c, z) of each value, (B, *shape), in nats; 0 for observed pixels."""
        return self._mask_observed(super().log_likelihood(z, batch))

    def _mask_observed(self, values: Tensor) -> Tensor:
        return values if self.conditioned_on == "y" else torch.where(self.observed_pixels, 0.0, values)

    def conditional_nll(self, batch: Batch, z: Tensor, c: Tensor) -> Tensor:
        """Return -log p(x|c, z), (B,), in nats; only of the missing pixels if c is a part of the image."""
        return closed_forms.per_example(
            self._mask_observed(self.observation.nll_each(batch, self.generate(z, c, batch)))
        )

    def label_nll(self, c: Tensor) -> Tensor:
        """Return -log p(y), (B,), in nats; 0 for an unknown class and for quadrants."""
        return -c @ self.class_probabilities.to(c.dtype).log() if self.conditioned_on == "y" else c.new_zeros(len(c))

    def terms(self, batch: Batch, step: Tensor) -> Terms:
        c = self.encode_condition(batch, withhold=self.training)
        if not self.stochastic:
            reconstruction = self.conditional_nll(batch, c, c)
            return Terms(reconstruction, torch.zeros_like(reconstruction), {"loss": reconstruction.mean()})
        mean, log_var = self.posterior(batch, c)
        kl = closed_forms.kl_normal(mean, log_var, *self.conditional_prior(c))
        reconstruction = self.conditional_nll(batch, closed_forms.reparameterize(mean, log_var), c)
        s = self.config
        loss = reconstruction.mean() + closed_forms.ramp(step, s.warmup) * closed_forms.free_bits(kl, s.free_bits)
        extras = {"kl_per_dimension": kl, f"elbo_given_{self.conditioned_on}": -(reconstruction + kl.sum(1))}
        return Terms(reconstruction, kl.sum(1) + self.label_nll(c), {"loss": loss}, extras)

    def encode(self, batch: Batch) -> Tensor:
        unlabelled = batch.unlabelled
        c = self.encode_condition(unlabelled)
        return self.posterior(unlabelled, c)[0] if self.stochastic else c

    def decode(self, z: Tensor, batch: Batch | None = None) -> Tensor:
        """Return the mean of p(x|c, z), (B, *shape). Observed pixels keep their values.

        c is computed from `batch`; without `batch` the class is unknown, or no pixel is observed.
        """
        return self._keep_observed(super().decode(z, batch), batch)

    def sample_x(self, z: Tensor, batch: Batch | None = None) -> Tensor:
        return self._keep_observed(super().sample_x(z, batch), batch)

    def _keep_observed(self, values: Tensor, batch: Batch | None) -> Tensor:
        if self.conditioned_on == "y" or batch is None:
            return values
        known = self.observed_pixels if batch.observed is None else self.observed_pixels & batch.observed
        return torch.where(known, batch.x, values)

    def _unknown_condition(self, n: int, y: Tensor | None = None) -> Batch:
        """Return a batch of n examples as the condition: grey images, of which no pixel is observed, or sequences."""
        steps = (self.spec.steps,) if self.spec.steps else ()
        return Batch(torch.full((n, *steps, *self.spec.shape), 0.5, device=self.device), y)

    def sample_prior(self, n: int, condition: Batch | None = None) -> Tensor:
        """Return z ~ p(z|c), (n, Z); without a condition, from the mixture of the priors of all classes.

        For quadrants the condition should be given, because training never sees an image without observed pixels.
        """
        condition = condition or self._unknown_condition(n, self._random_classes(n))
        if not self.stochastic:
            return self.encode_condition(condition)
        return self.prior_from_noise(torch.randn(n, self.config.latent, device=self.device), condition)

    def prior_from_noise(self, noise: Tensor, condition: Batch | None = None) -> Tensor:
        mean, log_var = self.conditional_prior(
            self.encode_condition(condition or self._unknown_condition(len(noise), self._random_classes(len(noise))))
        )
        return torch.addcmul(mean, (0.5 * log_var).exp(), noise)

    def _random_classes(self, n: int) -> Tensor | None:
        return self.class_probabilities.multinomial(n, replacement=True) if self.conditioned_on == "y" else None

    def sample(self, n: int, y: Tensor | None = None, noise: bool = False) -> Tensor:
        """Return n samples of x, (n, *shape). The classes are `y`, or drawn from p(y)."""
        batch = self._unknown_condition(n, self._random_classes(n) if y is None else y)
        z = self.sample_prior(n, batch)
        return self.sample_x(z, batch) if noise else self.decode(z, batch)

    def log_prior(self, z: Tensor, batch: Batch) -> Tensor:
        """Return log p(z|c), (B,), in nats; for a known class, log p(z|y) + log p(y)."""
        c = self.encode_condition(batch)
        if not self.stochastic:
            return torch.zeros(len(c), device=c.device)
        return closed_forms.per_example(closed_forms.log_normal(z, *self.conditional_prior(c))) - self.label_nll(c)

    def sample_posterior(self, batch: Batch, k: int = 1) -> tuple[Tensor, Tensor]:
        c = self.encode_condition(batch)
        if not self.stochastic:
            return c.repeat_interleave(k, 0), torch.zeros(len(c) * k, device=c.device)
        return closed_forms.sample_normal(*self.posterior(batch, c), k)

    def pictures(self, batch: Batch) -> Mapping[str, Tensor]:
        """Return `classes` or `completions`.

        `classes` has a row for each class, and the samples of a column share their noise. Each row of `completions` has
        a true image, its observed part, and samples of the whole.
        """
        columns = 8
        if self.conditioned_on == "y":
            rows = min(self.spec.classes, 20)
            y = torch.arange(rows, device=self.device)
            mean, log_var = self.conditional_prior(F.one_hot(y, self.spec.classes).float())
            noise = torch.randn(1, columns, self.config.latent, device=self.device)
            z = (mean[:, None] + (0.5 * log_var).exp()[:, None] * noise).flatten(0, 1)
            x = self.decode(z, self._unknown_condition(len(z), y.repeat_interleave(columns)))
            return {"classes": x.unflatten(0, (rows, columns))}
        part = batch[slice(0, columns)]
        many = part[torch.arange(len(part), device=self.device).repeat_interleave(columns - 2)]
        samples = self.decode(self.sample_prior(len(many), many), many).unflatten(0, (len(part), columns - 2))
        x = part.x if part.observed is None else torch.where(part.observed, part.x, torch.nan)
        true = torch.stack([x, torch.where(self.observed_pixels, x, 0.5)], 1)
        return {"completions": torch.cat([true, samples], 1)}


def _quadrants(spec: DataSpec, observed: int) -> Tensor:
    """Return the mask of observed pixels, (H, W): the quadrants bottom left, then top left, then top right."""
    if len(spec.shape) != 3:
        shape = "x".join(map(str, spec.shape))
        raise InputError(f"condition='quadrants': {spec.name} has examples of {shape}; expected images")
    height, width = (s // 2 for s in spec.shape[1:])
    mask = torch.zeros(spec.shape[1:], dtype=torch.bool)
    mask[height:, :width] = True
    if observed > 1:
        mask[:height, :width] = True
    if observed > 2:
        mask[:height, width:] = True
    return mask
