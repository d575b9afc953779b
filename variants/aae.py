"""AAE: the adversarial autoencoder. A discriminator, instead of a KL, makes the codes look like samples of the prior.

Makhzani et al. 2015, arXiv:1511.05644, section 2. Each batch is used in three phases, one after the other:

    reconstruction    encoder and decoder minimise -log p(x|z) with z ~ q(z|x)
    discriminator     D minimises -log D(z_p) - log(1 - D(z_q)) with z_p ~ p(z) = N(0, scale^2 I) and z_q ~ q(z|x)
    generator         the encoder minimises -log D(z_q), the non-saturating form of log(1 - D(z_q))

Each phase has its own optimizer, because the reconstruction is hundreds of nats and the other losses are about one. The
discriminator returns logits. With a deterministic encoder q has no density, and there is no ELBO. With a Gaussian
encoder there are both (section 2.1).

With `supervision="semi"` (section 5) the encoder also predicts a class, and z is (style, class probabilities). A second
discriminator compares the class with samples of a categorical prior. A fourth phase minimises the cross entropy of the
examples whose label is known (a label of -1 is unknown).

*Departures*: the optimizer is Adam instead of SGD with momentum. The reconstruction is the likelihood that fits the
data instead of the squared error. There is no noise or dropout at the input. The phase of the classifier uses the
labelled examples of each batch, not a separate batch of labelled examples.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from variants.base import Adam, Decoder, DecoderVariant, Encoder, Observation, closed_forms, frozen, mlp
from variants.base.contract import Batch, Config, DataSpec, InputError, Loss, Terms, choice, number


@dataclass(frozen=True, kw_only=True)
class AAEConfig(Config):
    latent: int = number(8, 1, 65536, help="latent dimensions; with supervision=semi, of the style")
    encoder: str = choice("deterministic", "gaussian", help="q(z|x) is a point, or a Gaussian, which gives an ELBO")
    scale: float = number(5.0, 1e-3, 1e3, help="standard deviation of the prior; 5 in the paper")
    adversary_width: int = number(512, 1, 65536, help="units of each of the discriminator's two hidden layers")
    adversary_lr: float = number(2e-4, 1e-8, 1.0, help="Adam's learning rate of discriminator and generator")
    supervision: str = choice("none", "semi", help="semi: z also has a class, learned from the known labels")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.warmup or self.free_bits:
            raise InputError(
                f"warmup={self.warmup}, free_bits={self.free_bits}: no loss of aae has a KL; expected warmup=0 and "
                "free_bits=0"
            )


class AAE(DecoderVariant):
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
        """Return mean and log-variance of the style, (B, Z) each, and logits of the class, (B, K).

        The log-variance is (B, 0) if the encoder is deterministic. K is 0 if there are no classes.
        """
        z = self.config.latent
        mean, log_var, logits = self.encoder(batch).split([z, z * (self.moments - 1), self.classes], dim=1)
        return mean, log_var, logits

    def infer(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Return a style z ~ q(z|x), (B, Z), class probabilities, (B, K), and the KL of the style per dimension.

        The KL is (B, Z), or (B, 0) if the encoder is deterministic.
        """
        mean, log_var, logits = self.posterior(batch)
        if self.moments == 1:
            return mean, logits.softmax(1), mean[:, :0]
        prior_log_var = torch.full_like(mean, 2 * math.log(self.config.scale))
        kl = closed_forms.kl_normal(mean, log_var, torch.zeros_like(mean), prior_log_var)
        return closed_forms.reparameterize(mean, log_var), logits.softmax(1), kl

    def discriminate(self, style: Tensor, classes: Tensor, *, trained: bool = False) -> list[Tensor]:
        """Return the logit of each discriminator, (B, 1), that its input is a sample of the prior.

        Gradients reach the weights of the discriminators only if they are `trained`.
        """
        networks: list[Callable[..., Tensor]] = [d if trained else frozen(d) for d in self.discriminators]
        return [d(part) for d, part in zip(networks, (style / self.config.scale, classes), strict=False)]

    def terms(self, batch: Batch, step: Tensor) -> Terms:
        style, classes, kl = self.infer(batch)
        reconstruction = self.nll(batch, torch.cat([style, classes], 1))
        has_density = self.moments == 2 and not self.classes
        losses: dict[str, Loss] = {
            "reconstruction": reconstruction.mean(),
            "discriminator": lambda: self.discriminator_loss(batch),
            "generator": lambda: self.generator_loss(batch),
        }
        # the logit of an optimal D is log p(z) / q(z), which is low where codes of the training data are dense
        extras = {"discriminator_score": -self.discriminate(style, classes)[0].squeeze(1)}
        if self.classes:
            losses["classifier"] = lambda: self.classifier_loss(batch)
        if has_density:
            extras["kl_per_dimension"] = kl
        return Terms(reconstruction, kl.sum(1) if has_density else None, losses, extras)

    def discriminator_loss(self, batch: Batch) -> Tensor:
        with torch.no_grad():
            style, classes, _ = self.infer(batch)
            prior = self.sample_prior(len(batch)).to(style.dtype).split([self.config.latent, self.classes], dim=1)
        pairs = zip(
            self.discriminate(*prior, trained=True), self.discriminate(style, classes, trained=True), strict=True
        )
        return torch.stack([(F.softplus(-p) + F.softplus(q)).mean() for p, q in pairs]).sum()

    def generator_loss(self, batch: Batch) -> Tensor:
        style, classes, _ = self.infer(batch)
        return torch.stack([F.softplus(-logit).mean() for logit in self.discriminate(style, classes)]).sum()

    def classifier_loss(self, batch: Batch) -> Tensor:
        """Return the mean cross entropy of the examples whose label is known, or 0 if there are none."""
        assert batch.y is not None
        logits = self.posterior(batch)[2]
        labelled = (batch.y >= 0).float()
        losses = F.cross_entropy(logits, batch.y.clamp(min=0), reduction="none")
        return (losses * labelled).sum() / labelled.sum().clamp(min=1)

    def encode(self, batch: Batch) -> Tensor:
        """Return the mean of the style and the class probabilities, (B, Z + K)."""
        mean, _, logits = self.posterior(batch)
        return torch.cat([mean, logits.softmax(1)], 1)

    def decoder_output(self, z: Tensor, batch: Batch | None) -> Tensor:
        output: Tensor = self.decoder(z, batch)
        return output

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
        """Return one optimizer for each phase. The encoder is trained in all phases but that of the discriminator."""
        encoder, c = list(self.encoder.parameters()), self.config
        adam = partial(Adam, lr=c.lr, fused=True)
        adversarial_adam = partial(Adam, lr=c.adversary_lr, betas=(0.5, 0.9), fused=True)
        optimizers: dict[str, torch.optim.Optimizer] = {
            "reconstruction": adam(self.parameter_groups(self.encoder, self.decoder, self.observation)),
            "discriminator": adversarial_adam(self.discriminators.parameters()),
            "generator": adversarial_adam(encoder),
        }
        if self.classes:
            optimizers["classifier"] = adam(encoder)
        return optimizers
