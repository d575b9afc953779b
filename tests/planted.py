"""Variants with a deliberate mistake, most of which were found in public code, beside the right ones.

Each factory returns a class: a right one, or one with the mistake that is named. `MISTAKES` says which check of
`variants.check` finds it, and on which kind of data.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from variants.base import (
    Adam,
    Batch,
    Config,
    DataSpec,
    Decoder,
    DecoderVariant,
    Encoder,
    GaussianVariant,
    InputError,
    Observation,
    Terms,
    Variant,
    closed_forms,
    frozen,
    mlp,
    mmd,
    number,
)  # fmt: skip
from variants.base.likelihoods import NegativeBinomial

Kind = type[Variant]


def elbo_terms(variant: GaussianVariant, batch: Batch, penalty: Tensor | float = 0.0, **extras: Tensor) -> Terms:
    """Return the terms of a VAE, with something added to its loss."""
    bound = variant.bound(batch)
    loss = bound.reconstruction.mean() + bound.kl.sum(1).mean() + penalty
    return Terms(bound.reconstruction, bound.kl.sum(1), {"loss": loss}, extras)


@cache
def vae(mistake: str = "") -> Kind:
    """A VAE, with mistakes in how it scores a batch."""

    @dataclass(frozen=True, kw_only=True)
    class PlantedConfig(Config):
        strength: float = number(1.0, 0.0, 10.0, help="weight of the KL")

    class PlantedVAE(GaussianVariant):
        paper = "for tests"
        config_type = PlantedConfig
        config: PlantedConfig

        def __init__(self, config: Config, spec: DataSpec) -> None:
            super().__init__(config, spec)
            self.calls, self.offset = 0, torch.randn(config.latent) if mistake == "state that is not saved" else 0.0

        def posterior(self, batch: Batch) -> tuple[Tensor, Tensor]:
            if mistake == "missing values are read":
                batch = replace(batch, observed=torch.ones_like(batch.x, dtype=torch.bool))
            mean, log_var = super().posterior(batch)
            return mean + self.offset, log_var

        def encode(self, batch: Batch) -> Tensor:
            code = super().encode(batch)
            return code + batch.y[:, None] if mistake == "encode sees the label" and batch.y is not None else code

        def terms(self, batch: Batch, step: Tensor) -> Terms:
            c, scored = self.config, batch
            if mistake == "padding counts":
                scored = replace(batch, mask=None)
            elif mistake == "binarised again in evaluation" and not self.training:
                scored = replace(batch, x=torch.bernoulli(batch.x))
            bound = self.bound(batch)
            reconstruction, kl = self.nll(scored, bound.z), bound.kl.sum(1)
            values = batch.x[0].numel()
            if mistake == "mean over pixels":
                reconstruction = reconstruction / values
            elif mistake == "a counter" or mistake == "a branch on values":
                self.calls += 1
                kl = kl * self.calls if mistake == "a counter" else kl if kl.mean() > 0 else 0 * kl
            elif mistake == "warm-up of the compared KL":
                kl = kl * closed_forms.ramp(step, c.warmup)
            minimised = reconstruction.sum() if mistake == "sum over the batch" else reconstruction.mean()
            if mistake == "mean over pixels in the loss":
                minimised = minimised / values
            weight = 1.0 if mistake == "an option without effect" else c.strength
            loss = minimised + weight * closed_forms.ramp(step, c.warmup) * closed_forms.free_bits(
                bound.kl, c.free_bits
            )
            return Terms(reconstruction, kl, {"loss": loss}, {"kl_per_dimension": bound.kl})

    return PlantedVAE


@cache
def iwae(mistake: str = "") -> Kind:
    class PlantedIWAE(GaussianVariant):
        paper = "for tests"

        def terms(self, batch: Batch, step: Tensor) -> Terms:
            k, bound = 5, self.bound(batch)
            z, log_q = self.sample_posterior(batch, k)
            rows = torch.arange(len(batch), device=z.device).repeat_interleave(k)
            log_w = (self.log_joint(z, batch[rows]) - log_q).view(-1, k)
            weights = (-log_w if mistake == "softmax over losses" else log_w).softmax(1)
            if mistake != "weights not detached":
                weights = weights.detach()
            extras = {"bound": log_w.logsumexp(1) - math.log(k)}
            loss = -(weights * log_w).sum(1).mean()
            return Terms(bound.reconstruction, bound.kl.sum(1), {"loss": loss}, extras)

    return PlantedIWAE


@cache
def tcvae(mistake: str = "") -> Kind:
    class PlantedTCVAE(GaussianVariant):
        paper = "for tests"

        def terms(self, batch: Batch, step: Tensor) -> Terms:
            bound, m, n = self.bound(batch), len(batch), self.spec.examples or len(batch)
            weight = torch.full((m, m), (1 - 1 / n) / max(m - 1, 1), device=batch.x.device)
            if mistake == "weight in the first column":
                weight[:, 0] = 1 / n
            else:
                weight.fill_diagonal_(1 / n)
            each = closed_forms.log_normal(bound.z[:, None], bound.mean, bound.log_var)
            log_q = (weight.log() + each.sum(2)).logsumexp(1)
            log_q_dimensions = (weight.log()[..., None] + each).logsumexp(1).sum(1)
            log_q_x = closed_forms.log_normal(bound.z, bound.mean, bound.log_var).sum(1)
            log_p = closed_forms.log_standard_normal(bound.z).sum(1)
            extras = {
                "mutual_information": log_q_x - log_q, "total_correlation": log_q - log_q_dimensions,
                "dimension_kl": log_q_dimensions - log_p + (mistake == "parts that do not add up"),
            }  # fmt: skip
            loss = bound.reconstruction.mean() + bound.kl.sum(1).mean() + 3 * extras["total_correlation"].mean()
            return Terms(bound.reconstruction, bound.kl.sum(1), {"loss": loss}, extras)

    return PlantedTCVAE


@cache
def dip(mistake: str = "") -> Kind:
    class PlantedDIP(GaussianVariant):
        paper = "for tests"

        def terms(self, batch: Batch, step: Tensor) -> Terms:
            mean = self.posterior(batch)[0]
            centred = mean - (mean.mean(1, keepdim=True) if mistake == "centred over dimensions" else mean.mean(0))
            covariance = centred.T @ centred / (1 if mistake == "not divided by B" else len(mean))
            variances = covariance.diagonal()
            off_diagonal = (covariance - variances.diag()).square().sum()
            diagonal = (variances - 1).square().sum()
            extras = {"off_diagonal": off_diagonal.expand(len(mean)), "diagonal": diagonal.expand(len(mean))}
            return elbo_terms(self, batch, 10 * off_diagonal + 100 * diagonal, **extras)

    return PlantedDIP


@cache
def factor(mistake: str = "") -> Kind:
    class PlantedFactor(GaussianVariant):
        paper = "for tests"

        def __init__(self, config: Config, spec: DataSpec) -> None:
            super().__init__(config, spec)
            self.discriminator = mlp(config.latent, 64, 2, 1)

        def terms(self, batch: Batch, step: Tensor) -> Terms:
            bound = self.bound(batch)
            network = self.discriminator if mistake == "the discriminator is not frozen" else frozen(self.discriminator)
            logit = network(bound.z).squeeze(1)
            logit = -logit if mistake == "the wrong sign of the logit" else logit
            codes = bound.z if mistake == "codes are not detached" else bound.z.detach()
            loss = bound.reconstruction.mean() + bound.kl.sum(1).mean() + 5 * logit.mean()
            losses = {"loss": loss, "discriminator": lambda: self.discriminator_loss(codes)}
            return Terms(bound.reconstruction, bound.kl.sum(1), losses, {"total_correlation": logit})

        def discriminator_loss(self, z: Tensor) -> Tensor:
            if mistake == "permuted within a row":
                permuted = z.gather(1, torch.rand(z.shape, device=z.device).argsort(1))
            elif mistake == "columns change places":
                permuted = z[:, torch.randperm(z.shape[1], device=z.device)]
            elif mistake == "whole rows permuted":
                permuted = z[torch.randperm(len(z), device=z.device)]
            else:
                permuted = z.gather(0, torch.rand(z.shape, device=z.device).argsort(0))
            logits = [self.discriminator(z), self.discriminator(permuted)]
            if mistake == "probabilities for logits":
                logits = [logit.sigmoid() for logit in logits]
            return (F.softplus(-logits[0]) + F.softplus(logits[1])).mean() / 2

        def optimizers(self) -> Mapping[str, torch.optim.Optimizer]:
            rest = self.parameter_groups(self.encoder, self.decoder, self.observation)
            return {
                "loss": Adam(rest, lr=self.config.lr),
                "discriminator": Adam(self.discriminator.parameters(), lr=1e-3),
            }

    return PlantedFactor


@cache
def info(mistake: str = "") -> Kind:
    class PlantedInfo(GaussianVariant):
        paper = "for tests"

        def terms(self, batch: Batch, step: Tensor) -> Terms:
            z, n = self.bound(batch).z, len(batch)
            prior = self.sample_prior(n)
            value = mmd(z, prior)
            if mistake == "divided twice":  # the terms of pairs within a sample, but not those between samples
                across = -2 * (mmd_across(z, prior))
                value = across + (value - across) / (n * (n - 1))
            elif mistake == "the diagonal counts":
                value = value + 2 / n
            weight = -100.0 if mistake == "the wrong sign" else 100.0
            return elbo_terms(self, batch, weight * value, mmd=value.expand(n))

    return PlantedInfo


def mmd_across(x: Tensor, y: Tensor) -> Tensor:
    """Return the mean kernel between two samples."""
    width = 2 * y.var(0, correction=0).sum()
    return (width / (width + torch.cdist(x, y).square())).mean()


@cache
def vamp(mistake: str = "") -> Kind:
    class PlantedVamp(GaussianVariant):
        paper = "for tests"

        def __init__(self, config: Config, spec: DataSpec) -> None:
            super().__init__(config, spec)
            self.pseudo = nn.Parameter(2 * torch.randn(5, *spec.shape))

        def components(self) -> tuple[Tensor, Tensor]:
            return self.posterior(Batch(self.pseudo))

        def log_prior(self, z: Tensor, batch: Batch) -> Tensor:
            mean, log_var = self.components()
            if mistake == "the variance as log-variance":
                log_var = log_var.exp()
            total = closed_forms.log_normal(z[:, None], mean, log_var).sum(2).logsumexp(1)
            return total if mistake == "no mean over the components" else total - math.log(len(mean))

        def sample_prior(self, n: int, condition: Batch | None = None) -> Tensor:
            if mistake == "samples from N(0, I)":
                return super().sample_prior(n, condition)
            mean, log_var = self.components()
            k = torch.zeros(n, dtype=torch.int64) if mistake == "one component" else torch.randint(len(mean), (n,))
            k = k.to(mean.device)
            return closed_forms.reparameterize(mean[k], log_var[k])

        def prior_from_noise(self, noise: Tensor, condition: Batch | None = None) -> Tensor:
            return noise

        def terms(self, batch: Batch, step: Tensor) -> Terms:
            z, log_q = self.sample_posterior(batch)
            reconstruction, kl = self.nll(batch, z), log_q - self.log_prior(z, batch)
            if mistake == "the KL to N(0, I)":
                kl = closed_forms.kl_standard_normal(*self.posterior(batch)).sum(1)
            return Terms(reconstruction, kl, {"loss": (reconstruction + kl).mean()})

    return PlantedVamp


@cache
def flow(mistake: str = "") -> Kind:
    class PlantedFlow(GaussianVariant):
        """One affine coupling layer after the Gaussian posterior."""

        paper = "for tests"

        def __init__(self, config: Config, spec: DataSpec) -> None:
            super().__init__(config, spec)
            if config.latent < 2:
                raise InputError("latent=1: there are no halves; expected 2 or more")
            self.half = config.latent // 2
            self.net = nn.Linear(self.half, 2 * (config.latent - self.half))

        def sample_posterior(self, batch: Batch, k: int = 1) -> tuple[Tensor, Tensor]:
            z, log_q = super().sample_posterior(batch, k)
            if mistake == "samples in another order":
                order = torch.arange(len(z), device=z.device).view(-1, k).T.flatten()
                z, log_q = z[order], log_q[order]
            if mistake == "log q without its constant":
                log_q = log_q + 0.5 * z.shape[1] * closed_forms.LOG_2PI
            a, b = z[:, : self.half], z[:, self.half :]
            log_scale, shift = self.net(a).chunk(2, 1)
            log_determinant = log_scale.tanh().sum(1) * (-1 if mistake == "the sign of the log-determinant" else 1)
            return torch.cat([a, b * log_scale.tanh().exp() + shift], 1), log_q - log_determinant

        def terms(self, batch: Batch, step: Tensor) -> Terms:
            z, log_q = self.sample_posterior(batch)
            reconstruction, kl = self.nll(batch, z), log_q - self.log_prior(z, batch)
            if mistake == "the KL of the base":
                kl = closed_forms.kl_standard_normal(*self.posterior(batch)).sum(1)
            return Terms(reconstruction, kl, {"loss": (reconstruction + kl).mean()})

    return PlantedFlow


@cache
def vq(mistake: str = "") -> Kind:
    @dataclass(frozen=True, kw_only=True)
    class PlantedVQConfig(Config):
        beta: float = number(0.25, 0.0, 100.0, help="weight of the commitment")

    class PlantedVQ(DecoderVariant):
        """One code of eight for each example, with a uniform prior over the codes."""

        paper = "for tests"
        config_type = PlantedVQConfig
        config: PlantedVQConfig
        discrete = True

        def __init__(self, config: Config, spec: DataSpec) -> None:
            super().__init__(config, spec)
            self.encoder, self.decoder = Encoder(spec, config, config.latent), Decoder(spec, config, config.latent)
            self.observation = Observation(spec)
            self.codes = nn.Parameter(torch.randn(8, config.latent))

        def nearest(self, e: Tensor) -> Tensor:
            return torch.cdist(e, self.codes).argmin(1)

        def terms(self, batch: Batch, step: Tensor) -> Terms:
            e = self.encoder(batch)
            code = self.codes[self.nearest(e)]
            reconstruction = self.nll(batch, e + (code - e).detach())
            of_codes = (code - e.detach()).square().sum(1)
            commitment = (e - code.detach()).square().sum(1)
            if mistake == "beta on the wrong term":
                of_codes, commitment = commitment, of_codes
            of_codes = of_codes.sum() if mistake == "the code-book loss is a sum" else of_codes.mean()
            loss = reconstruction.mean() + of_codes + self.config.beta * commitment.mean()
            return Terms(reconstruction, None, {"loss": loss})

        def encode(self, batch: Batch) -> Tensor:
            return self.codes[self.nearest(self.encoder(batch))]

        def decoder_output(self, z: Tensor, batch: Batch | None) -> Tensor:
            output: Tensor = self.decoder(z, batch)
            return output

        def sample_prior(self, n: int, condition: Batch | None = None) -> Tensor:
            return self.codes[torch.randint(len(self.codes), (n,), device=self.device)]

        def log_prior(self, z: Tensor, batch: Batch) -> Tensor:
            codes = 2 * len(self.codes) if mistake == "a prior that is not normalised" else len(self.codes)
            return z.new_full((len(z),), -math.log(codes))

        def sample_posterior(self, batch: Batch, k: int = 1) -> None:
            return None

    return PlantedVQ


@cache
def averaged_codes(mistake: str = "") -> Kind:
    class PlantedAverages(GaussianVariant):
        """A VAE beside which the averages of the means near each of 16 centres run along."""

        paper = "for tests"
        count: Tensor
        total: Tensor

        def __init__(self, config: Config, spec: DataSpec) -> None:
            super().__init__(config, spec)
            self.register_buffer("count", torch.ones(16))
            self.register_buffer("total", torch.randn(16, config.latent))

        def terms(self, batch: Batch, step: Tensor) -> Terms:
            if self.training:
                mean = self.posterior(batch)[0].detach()
                nearest = F.one_hot(torch.cdist(mean, self.centres()).argmin(1), 16).to(mean.dtype)
                self.count.mul_(0.5).add_(nearest.sum(0), alpha=0.5)
                self.total.mul_(0.5).add_(nearest.T @ mean, alpha=0.5)
            mean = self.posterior(batch)[0]
            distance = torch.cdist(mean, self.centres()).amin(1).mean()
            return elbo_terms(self, batch, 1e-3 * distance if mistake else 0.0)

        def centres(self) -> Tensor:
            count = self.count if mistake == "unused codes decay to 0/0" else self.count + 1e-5
            return self.total / count[:, None]

    return PlantedAverages


@cache
def counts(mistake: str = "") -> Kind:
    class PlantedNegativeBinomial(NegativeBinomial):
        def nll(self, x: Tensor, output: Tensor) -> Tensor:
            if not mistake:
                return super().nll(x, output)
            r, mean = self.log_dispersion.exp(), output.exp()
            log_p = (x + r).lgamma() - r.lgamma() - (x + 1).lgamma()
            return -(log_p + r * (r / (r + mean)).log() + x * (mean / (r + mean)).log())

    class PlantedCounts(GaussianVariant):
        paper = "for tests"

        def __init__(self, config: Config, spec: DataSpec) -> None:
            super().__init__(config, spec)
            self.observation.families[0] = PlantedNegativeBinomial(torch.ones(spec.shape))

        def terms(self, batch: Batch, step: Tensor) -> Terms:
            return elbo_terms(self, batch)

    return PlantedCounts


class Mistake(NamedTuple):
    factory: Callable[[str], Kind]
    mistake: str
    check: str  # the check that finds it
    kind: str = "a table"


MISTAKES = (
    Mistake(iwae, "softmax over losses", "the decoder is trained by the likelihood in nats"),
    Mistake(iwae, "weights not detached", "the decoder is trained by the likelihood in nats"),
    Mistake(tcvae, "weight in the first column", "the parts of a kl are those of a known posterior"),
    Mistake(tcvae, "parts that do not add up", "a decomposition adds up"),
    Mistake(dip, "centred over dimensions", "the covariance of a known posterior is measured"),
    Mistake(dip, "not divided by B", "losses do not grow with the batch"),
    Mistake(factor, "permuted within a row", "codes are permuted over the batch"),
    Mistake(factor, "columns change places", "codes are permuted over the batch"),
    Mistake(factor, "whole rows permuted", "the parts of a kl are those of a known posterior"),
    Mistake(factor, "the wrong sign of the logit", "the parts of a kl are those of a known posterior"),
    Mistake(factor, "probabilities for logits", "the parts of a kl are those of a known posterior"),
    Mistake(factor, "codes are not detached", "every weight is trained by its own losses alone"),
    Mistake(factor, "the discriminator is not frozen", "every weight is trained by its own losses alone"),
    Mistake(info, "divided twice", "mmd is zero for equal distributions"),
    Mistake(info, "the diagonal counts", "mmd is zero for equal distributions"),
    Mistake(info, "the wrong sign", "mmd is zero for equal distributions"),
    Mistake(vamp, "the variance as log-variance", "samples of the prior have its density"),
    Mistake(vamp, "samples from N(0, I)", "samples of the prior have its density"),
    Mistake(vamp, "no mean over the components", "the prior integrates to one"),
    Mistake(vamp, "one component", "the prior integrates to one"),
    Mistake(vamp, "the KL to N(0, I)", "the scores are expectations under q"),
    Mistake(vq, "the code-book loss is a sum", "losses do not grow with the batch"),
    Mistake(vq, "beta on the wrong term", "a coefficient of zero leaves no weight untrained"),
    Mistake(vq, "a prior that is not normalised", "the prior integrates to one"),
    Mistake(averaged_codes, "unused codes decay to 0/0", "running averages stay finite"),
    Mistake(averaged_codes, "averages in the loss", "terms are pure and can be captured"),
    Mistake(flow, "the sign of the log-determinant", "log q is the density of the samples"),
    Mistake(flow, "log q without its constant", "importance weights give the likelihood"),
    Mistake(flow, "samples in another order", "samples of one example stand together"),
    Mistake(flow, "the KL of the base", "the scores are expectations under q"),
    Mistake(counts, "overflow of large dispersions", "the likelihood is exact for extreme scales", "counts"),
    Mistake(vae, "mean over pixels", "the scores are expectations under q", "binary images"),
    Mistake(vae, "mean over pixels in the loss", "the decoder is trained by the likelihood in nats"),
    Mistake(vae, "sum over the batch", "losses do not grow with the batch"),
    Mistake(vae, "padding counts", "missing values and padding do not leak", "real sequences"),
    Mistake(vae, "missing values are read", "missing values and padding do not leak", "a table with holes"),
    Mistake(vae, "encode sees the label", "encode never sees a label"),
    Mistake(vae, "binarised again in evaluation", "training and evaluation give the same scores",
            "grey images from 0 to 1"),
    Mistake(vae, "a counter", "terms are pure and can be captured"),
    Mistake(vae, "a branch on values", "terms are pure and can be captured"),
    Mistake(vae, "warm-up of the compared KL", "schedules never touch what is compared"),
    Mistake(vae, "state that is not saved", "saved and loaded is the same model"),
    Mistake(vae, "an option without effect", "every option changes something"),
)  # fmt: skip
