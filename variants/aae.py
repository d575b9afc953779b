"""AAE: an autoencoder whose codes are made to look like the prior by an adversary, instead of by a KL.

Makhzani et al. 2015, arXiv:1511.05644. Section 2, on each batch, in turn:

    reconstruction    encoder and decoder lower -log p(x|z), z ~ q(z|x)
    discriminator     D learns to tell z ~ p(z) = N(0, scale^2 I) from z ~ q(z|x)
    generator         the encoder learns to fool it: -log D(z) is lowered (non-saturating), not log(1 - D(z))

Each phase has an optimiser of its own, so that losses of hundreds of nats and of less than one do not share a step.
The discriminator gives logits. With a deterministic encoder q has no density and there is no ELBO; a Gaussian one has
both (section 2.1).

`supervision` semi (section 5): the encoder also gives a class; a second discriminator holds it against draws from a
categorical prior, a fourth phase lowers the cross entropy of examples whose label is known (y of -1 is unknown), and z
is (style, class probabilities).

*Departures*: Adam instead of SGD with momentum; the Bernoulli or Gaussian likelihood of the data instead of squared
error; no noise or dropout at the input; the classifier's phase sees the labelled examples of each batch, not a labelled
batch of its own.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from variants.base import closed_forms
from variants.base.contract import Batch, Config, DataSpec, InputError, Loss, Terms, choice, number
from variants.base.likelihoods import Observation, Observed
from variants.base.networks import Decoder, Encoder, mlp


@dataclass(frozen=True, kw_only=True)
class AAEConfig(Config):
    latent: int = number(8, 1, 65536, help="latent dimensions (of the style, where there is a class too)")
    encoder: str = choice("deterministic", "gaussian", help="q(z|x): a point, or a Gaussian, which gives an ELBO")
    scale: float = number(5.0, 1e-3, 1e3, help="standard deviation of the prior; the paper's is 5")
    adversary_width: int = number(512, 1, 65536, help="units of the discriminator's two hidden layers")
    adversary_lr: float = number(2e-4, 1e-8, 1.0, help="Adam's learning rate of discriminator and generator")
    supervision: str = choice("none", "semi", help="none; or semi: a class beside the style, from known labels")


class AAE(Observed):
    paper = "Makhzani et al. 2015, Adversarial Autoencoders, arXiv:1511.05644"
    config_type = AAEConfig
    config: AAEConfig

    def __init__(self, config: AAEConfig, spec: DataSpec) -> None:
        super().__init__(config, spec)
        self.classes = self.latent_classes = spec.classes if config.supervision == "semi" else 0
        self.class_conditional = self.classes > 0
        if config.supervision == "semi" and not spec.classes:
            raise InputError(f"supervision='semi' needs class labels; data set {spec.name} has none")
        self.moments = 2 if config.encoder == "gaussian" else 1
        self.encoder = Encoder(spec, config, self.moments * config.latent + self.classes)
        self.decoder = Decoder(spec, config, config.latent + self.classes)
        self.observation = Observation(spec)
        sizes = [config.latent, *([self.classes] if self.classes else [])]
        self.discriminators = nn.ModuleList(mlp(size, config.adversary_width, 2, 1) for size in sizes)

    def posterior(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Mean and log-variance of the style (B, Z) (no columns for a point), and logits of the class (B, K)."""
        z = self.config.latent
        mean, log_var, logits = self.encoder(batch.x).split([z, z * (self.moments - 1), self.classes], dim=1)
        return mean, log_var, logits

    def infer(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """A style z ~ q(z|x) (B, Z), class probabilities (B, K), and the KL per dimension (B, Z) of a Gaussian."""
        mean, log_var, logits = self.posterior(batch)
        if self.moments == 1:
            return mean, logits.softmax(1), mean[:, :0]
        wide = torch.full_like(mean, 2 * math.log(self.config.scale))
        kl = closed_forms.kl_normal(mean, log_var, torch.zeros_like(mean), wide)
        return closed_forms.reparameterize(mean, log_var), logits.softmax(1), kl

    def judged(self, style: Tensor, classes: Tensor) -> list[Tensor]:
        """Logits of the discriminators, (B, 1) each: high for what they take for the prior."""
        return [d(part) for d, part in zip(self.discriminators, (style / self.config.scale, classes), strict=False)]

    def terms(self, batch: Batch, step: Tensor) -> Terms:
        style, classes, kl = self.infer(batch)
        reconstruction = self.nll(batch, torch.cat([style, classes], 1))
        dense = self.moments == 2 and not self.classes
        losses: dict[str, Loss] = {
            "reconstruction": reconstruction.mean(),
            "discriminator": lambda: self._tell_apart(batch),
            "generator": lambda: self._fool(batch),
        }
        # at its best D tells log p(z) / q(z): what is ordinary among the codes of training data lies low
        extras = {"discriminator_score": -self.judged(style, classes)[0].squeeze(1)}
        if self.classes:
            losses["classifier"] = lambda: self._classify(batch)
        if dense:
            extras["kl_per_dimension"] = kl
        return Terms(reconstruction, kl.sum(1) if dense else None, losses, extras)

    def _tell_apart(self, batch: Batch) -> Tensor:
        with torch.no_grad():
            style, classes, _ = self.infer(batch)
            wanted = self.sample_prior(len(batch)).to(style.dtype).split([self.config.latent, self.classes], dim=1)
        real, made = self.judged(*wanted), self.judged(style, classes)
        return torch.stack([(F.softplus(-r) + F.softplus(m)).mean() for r, m in zip(real, made, strict=True)]).sum()

    def _fool(self, batch: Batch) -> Tensor:
        style, classes, _ = self.infer(batch)
        return torch.stack([F.softplus(-logit).mean() for logit in self.judged(style, classes)]).sum()

    def _classify(self, batch: Batch) -> Tensor:
        """Cross entropy over the examples whose label is known; 0 where there are none."""
        assert batch.y is not None
        logits = self.posterior(batch)[2]
        known = (batch.y >= 0).float()
        each = F.cross_entropy(logits, batch.y.clamp(min=0), reduction="none")
        return (each * known).sum() / known.sum().clamp(min=1)

    def encode(self, batch: Batch) -> Tensor:
        """The mean of the style, and class probabilities where there are classes."""
        mean, _, logits = self.posterior(batch)
        return torch.cat([mean, logits.softmax(1)], 1)

    def decoder_output(self, z: Tensor, batch: Batch | None) -> Tensor:
        return self.decoder(z)  # type: ignore[no-any-return]

    def sample_prior(self, n: int, condition: Batch | None = None) -> Tensor:
        style = self.prior_from_noise(torch.randn(n, self.config.latent, device=self.device))
        if not self.classes:
            return style
        y = torch.randint(self.classes, (n,), device=self.device)
        return torch.cat([style, F.one_hot(y, self.classes).float()], 1)

    def prior_from_noise(self, noise: Tensor, condition: Batch | None = None) -> Tensor:
        return noise * self.config.scale

    def sample(self, n: int, y: Tensor | None = None, noise: bool = False) -> Tensor:
        z = self.sample_prior(n)
        if y is not None and self.classes:
            z = torch.cat([z[:, : self.config.latent], F.one_hot(y, self.classes).float()], 1)
        return self.sample_x(z) if noise else self.decode(z)

    def log_prior(self, z: Tensor, batch: Batch) -> Tensor:
        style = z[:, : self.config.latent] / self.config.scale
        density = closed_forms.per_example(closed_forms.log_standard_normal(style) - math.log(self.config.scale))
        return density - math.log(self.classes) if self.classes else density

    def sample_posterior(self, batch: Batch, k: int = 1) -> tuple[Tensor, Tensor] | None:
        if self.moments == 1 or self.classes:
            return None
        mean, log_var, _ = self.posterior(batch)
        return closed_forms.sample_normal(mean, log_var, k)

    def optimizers(self) -> Mapping[str, torch.optim.Optimizer]:
        """Two players, the autoencoder and its discriminators; the former moves in each of its phases."""
        encoder, c = list(self.encoder.parameters()), self.config
        adversarial = {"lr": c.adversary_lr, "betas": (0.5, 0.9), "fused": True}
        rest = [*self.decoder.parameters(), *self.observation.parameters()]
        found: dict[str, torch.optim.Optimizer] = {
            "reconstruction": torch.optim.Adam([*encoder, *rest], lr=c.lr, fused=True),
            "discriminator": torch.optim.Adam(self.discriminators.parameters(), **adversarial),  # type: ignore[arg-type]
            "generator": torch.optim.Adam(encoder, **adversarial),  # type: ignore[arg-type]
        }
        if self.classes:
            found["classifier"] = torch.optim.Adam(encoder, lr=c.lr, fused=True)
        return found
