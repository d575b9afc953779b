"""The likelihood p(x|z): one class for each family, and `Observation`, which composes them into one likelihood.

A decoder gives one number for each value of x: a logit, the mean of a real value, or the logarithm of the mean of a
positive value or a count. It gives two for zero-inflated counts, and for a mixture those that `Mixture8` lists. All
other numbers, such as scales, are parameters that do not depend on z. There is one for each column of a table, or for
each channel of images and sequences. This extends the sigma-VAE, which learns one scale for all values (Rybkin et al.
2021, arXiv:2006.13202).
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from variants.base import closed_forms
from variants.base.contract import Batch, DataSpec, Group, InputError, Likelihood

SCALE_LR = 0.02  # Adam's learning rate of scales and dispersions; see `Observation`
SMALLEST_LOG_SCALE = -7.0
LARGEST_LOG = 30.0  # the largest logarithm of the mean of a positive value or a count: e^30 is about 1e13
LARGEST_LOGIT = math.exp(7.0)  # of the continuous Bernoulli: its smallest scale is the same as that of a Gaussian
COMPONENTS = 5  # of a mixture of logistic distributions
LOG_SCALES, FIRST_LOG_SCALE = (SMALLEST_LOG_SCALE, 2.0), -2.0  # the range of the logarithms of their scales
LOG_DISPERSIONS = (-12.0, 16.0)  # the range of the logarithms of shapes and dispersions


class Family(nn.Module, ABC):
    """A family of likelihoods of values that share one axis: the last one, or for images the first one (channels).

    The arguments of the methods are values `x` and the decoder's `output`, (B, ..., D), or (B, C, H, W) for images. For
    counts, `output` is the logarithm of the mean.

    Args:
        spread: The standard deviation of log x of positive values in the training data, and 1 for all others, (D,), or
            (C, 1, 1) for images. The parameters of the family have the same shape.
    """

    outputs = 1  # numbers that the decoder gives for each value
    spread: Tensor

    def __init__(self, spread: Tensor) -> None:
        super().__init__()
        self.register_buffer("spread", spread, persistent=False)

    @abstractmethod
    def nll(self, x: Tensor, output: Tensor) -> Tensor:
        """Return -log p of each value, in nats and in the shape of `x`."""

    @abstractmethod
    def mean(self, output: Tensor) -> Tensor:
        """Return the mean of each value."""

    @abstractmethod
    def sample(self, output: Tensor) -> Tensor:
        """Return one sample of each value."""


class Bernoulli(Family):
    """Values in {0, 1}; the output is the logit of 1."""

    def nll(self, x: Tensor, output: Tensor) -> Tensor:
        return closed_forms.nll_bernoulli(x, output)

    def mean(self, output: Tensor) -> Tensor:
        return output.sigmoid()

    def sample(self, output: Tensor) -> Tensor:
        return torch.bernoulli(output.sigmoid())


class Categorical(Family):
    """A single variable as a one-hot vector in the last axis; the outputs are logits.

    The values of the last axis add up to -log p of the category.
    """

    def nll(self, x: Tensor, output: Tensor) -> Tensor:
        return -x * output.log_softmax(-1)

    def mean(self, output: Tensor) -> Tensor:
        return output.softmax(-1)

    def sample(self, output: Tensor) -> Tensor:
        chosen = output.softmax(-1).flatten(0, -2).multinomial(1).view(output.shape[:-1])
        return F.one_hot(chosen, output.shape[-1]).to(output.dtype)


class Gaussian(Family):
    """Real values; the output is the mean, and exp(log_scale) the standard deviation."""

    def __init__(self, spread: Tensor) -> None:
        super().__init__(spread)
        self.log_scale = nn.Parameter(torch.zeros_like(spread))

    def nll(self, x: Tensor, output: Tensor) -> Tensor:
        return -closed_forms.log_normal(x, output, 2 * self.log_scale.clamp(min=SMALLEST_LOG_SCALE))

    def mean(self, output: Tensor) -> Tensor:
        return output

    def sample(self, output: Tensor) -> Tensor:
        return output + self.scale * torch.randn_like(output)

    @property
    def scale(self) -> Tensor:
        return self.log_scale.clamp(min=SMALLEST_LOG_SCALE).exp()


class StudentT(Gaussian):
    """Real values with heavy tails: Student's t with scale exp(log_scale); the output is the mean.

    There are 2 + exp(log_tail) degrees of freedom, so that the variance is finite.
    """

    def __init__(self, spread: Tensor) -> None:
        super().__init__(spread)
        self.log_tail = nn.Parameter(torch.ones_like(spread))

    @property
    def degrees(self) -> Tensor:
        """The degrees of freedom in float64, because logarithms of the gamma function nearly cancel for light tails."""
        return 2 + self.log_tail.clamp(*LOG_DISPERSIONS).double().exp()

    def nll(self, x: Tensor, output: Tensor) -> Tensor:
        degrees, scale = self.degrees, self.scale.double()
        distance = (x.double() - output.double()) / scale
        log_constant = scale.log() + 0.5 * (degrees * math.pi).log() + (degrees / 2).lgamma()
        nll = log_constant - ((degrees + 1) / 2).lgamma() + (degrees + 1) / 2 * (distance.square() / degrees).log1p()
        return nll.to(x.dtype)

    def sample(self, output: Tensor) -> Tensor:
        values: Tensor = torch.distributions.StudentT(self.degrees, output.double(), self.scale.double()).sample()
        return values.to(output.dtype)


class LogNormal(Gaussian):
    """Positive values whose logarithm is Gaussian.

    log x has the mean `spread` * output and the standard deviation `spread` * exp(log_scale).
    """

    def nll(self, x: Tensor, output: Tensor) -> Tensor:
        log_x = finite_log(x)
        return super().nll(log_x / self.spread, output) + self.spread.log() + log_x

    def mean(self, output: Tensor) -> Tensor:
        return _exp(self.spread * output + 0.5 * (self.spread * self.scale).square())

    def sample(self, output: Tensor) -> Tensor:
        return _exp(self.spread * super().sample(output))


class Gamma(Family):
    """Positive values with the mean exp(spread * output) and the shape exp(log_shape)."""

    def __init__(self, spread: Tensor) -> None:
        super().__init__(spread)
        # the variance of log x is about 1 / shape, so this shape fits the training data
        self.log_shape = nn.Parameter((-2 * spread.log()).clamp(*LOG_DISPERSIONS))

    def nll(self, x: Tensor, output: Tensor) -> Tensor:
        shape = self.log_shape.clamp(*LOG_DISPERSIONS).exp().double()
        log_ratio = (finite_log(x) - self.spread * output).double().clamp(max=2 * LARGEST_LOG)  # log(x / mean)
        nll = shape * (log_ratio.exp() - log_ratio - shape.log()) + shape.lgamma()
        return nll.to(x.dtype) + finite_log(x)

    def mean(self, output: Tensor) -> Tensor:
        return _exp(self.spread * output)

    def sample(self, output: Tensor) -> Tensor:
        shape = self.log_shape.clamp(*LOG_DISPERSIONS).exp().expand_as(output)
        return self.mean(output) * torch.distributions.Gamma(shape, shape, validate_args=False).sample()


class Poisson(Family):
    """Counts; the output is the logarithm of the mean."""

    def nll(self, x: Tensor, output: Tensor) -> Tensor:
        x, log_mean = x.double(), output.double().clamp(max=LARGEST_LOG)
        return (log_mean.exp() - x * log_mean + (x + 1).lgamma()).to(output.dtype)

    def mean(self, output: Tensor) -> Tensor:
        return _exp(output)

    def sample(self, output: Tensor) -> Tensor:
        return torch.poisson(_exp(output))


class NegativeBinomial(Family):
    """Counts; the output is the logarithm of the mean m, and the variance is m + m^2 / exp(log_dispersion).

    It is computed in float64, because logarithms of the gamma function nearly cancel if exp(log_dispersion) is large.
    """

    def __init__(self, spread: Tensor) -> None:
        super().__init__(spread)
        self.log_dispersion = nn.Parameter(torch.zeros_like(spread))

    def nll(self, x: Tensor, output: Tensor) -> Tensor:
        log_r = self.log_dispersion.clamp(*LOG_DISPERSIONS).double()
        r, odds = log_r.exp(), output.double().clamp(max=LARGEST_LOG) - log_r
        x = x.double()
        log_p = (x + r).lgamma() - r.lgamma() - (x + 1).lgamma() - r * F.softplus(odds) - x * F.softplus(-odds)
        return -log_p.to(output.dtype)

    def mean(self, output: Tensor) -> Tensor:
        return _exp(output)

    def sample(self, output: Tensor) -> Tensor:
        r = self.log_dispersion.clamp(*LOG_DISPERSIONS).exp().expand_as(output)
        rate = _exp(output) * torch.distributions.Gamma(r, r, validate_args=False).sample()
        return torch.poisson(rate)


class ZeroInflated(NegativeBinomial):
    """Counts that are 0 with probability pi, and otherwise have a negative binomial distribution.

    The first half of the last axis of the output holds the logarithms of the means of the negative binomials, and the
    second half the logits of pi.
    """

    outputs = 2

    def nll(self, x: Tensor, output: Tensor) -> Tensor:
        output, logit = output.chunk(2, -1)
        nll = super().nll(x, output)
        of_zero = -torch.logaddexp(F.logsigmoid(logit), F.logsigmoid(-logit) - nll)
        return torch.where(x == 0, of_zero, nll - F.logsigmoid(-logit))

    def mean(self, output: Tensor) -> Tensor:
        output, logit = output.chunk(2, -1)
        return super().mean(output) * (-logit).sigmoid()

    def sample(self, output: Tensor) -> Tensor:
        output, logit = output.chunk(2, -1)
        return super().sample(output) * torch.bernoulli((-logit).sigmoid())


class Logistic8(Family):
    """8-bit values k/255: a logistic density around the sigmoid of the output, integrated over bins."""

    def __init__(self, spread: Tensor) -> None:
        super().__init__(spread)
        self.log_scale = nn.Parameter(torch.full_like(spread, -2.0))

    def nll(self, x: Tensor, output: Tensor) -> Tensor:
        return closed_forms.nll_logistic8(x, output.sigmoid(), self.log_scale.clamp(min=SMALLEST_LOG_SCALE))

    def mean(self, output: Tensor) -> Tensor:
        return output.sigmoid()

    def sample(self, output: Tensor) -> Tensor:
        return _sample_logistic8(self.mean(output), self.log_scale.clamp(min=SMALLEST_LOG_SCALE))


class Mixture8(Family):
    """Pixels of 8-bit images as a mixture of logistic densities over all channels, integrated over bins.

    It is the likelihood of PixelCNN++ (Salimans et al. 2017, equations 2 and 3) without the autoregressive network: the
    channels of a pixel depend on each other, and pixels are independent given the output. In each of K components, the
    first channel (red) has its own mean, the mean of the second one depends on the true value of the first one, and so
    on: with the means m,

        mean of red = m_r
        mean of green = m_g + a (x_r - m_r)
        mean of blue = m_b + b (x_r - m_r) + c (x_g - m_g)

    In the paper, the values themselves take the place of their distances from the means. This describes the same
    distributions, but here m are means in any case, and can be limited to [0, 1].

    For each pixel, the output (B, K (1 + 2 C + C (C - 1) / 2), H, W) holds K logits of the weights, then K for each
    channel: the logits of the means and the logarithms of the scales, both as distances from where a new model starts;
    and at last K for each coefficient.
    """

    def __init__(self, spread: Tensor) -> None:
        super().__init__(spread)
        self.channels = len(spread)
        self.register_buffer("first_means", torch.linspace(-2, 2, COMPONENTS).view(-1, 1, 1, 1), persistent=False)

    @staticmethod
    def numbers(channels: int) -> tuple[int, int, int, int]:
        """Return how many weights, means, scales and coefficients there are for a pixel."""
        pairs = channels * (channels - 1) // 2
        return COMPONENTS, COMPONENTS * channels, COMPONENTS * channels, COMPONENTS * pairs

    def _components(self, output: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the logarithms of the weights, (B, K, H, W), the means and logarithms of the scales, (B, K, C, H, W),
        and the coefficients, (B, K, C (C - 1) / 2, H, W).
        """
        weights, *others = output.split(self.numbers(self.channels), 1)
        means, log_scales, coefficients = (part.unflatten(1, (COMPONENTS, -1)) if part.shape[1] else part[:, None]
                                           for part in others)  # fmt: skip
        return (
            weights.log_softmax(1), (means + self.first_means).sigmoid(),
            (log_scales + FIRST_LOG_SCALE).clamp(*LOG_SCALES), coefficients,
        )  # fmt: skip

    @staticmethod
    def _shifted(mean: Tensor, away: Sequence[Tensor], coefficients: Tensor, channel: int) -> Tensor:
        """Return the mean of a channel, which depends on how far the channels before it are `away` from their means."""
        first = channel * (channel - 1) // 2
        for distance, coefficient in zip(away, coefficients.unbind(-3)[first : first + channel], strict=False):
            mean = mean + coefficient * distance
        return mean

    def nll(self, x: Tensor, output: Tensor) -> Tensor:
        """Return -log p of each value given the channels before it, in nats and in the shape of `x`."""
        joint, means, log_scales, coefficients = self._components(output)
        channels = zip(x[:, None].unbind(2), means.unbind(2), log_scales.unbind(2), strict=True)
        away, result, before = (x[:, None] - means).unbind(2), list[Tensor](), torch.zeros((), device=x.device)
        for c, (value, mean, log_scale) in enumerate(channels):
            joint = joint - closed_forms.nll_logistic8(value, self._shifted(mean, away, coefficients, c), log_scale)
            log_p = joint.logsumexp(1)  # of the channels up to this one
            result.append(before - log_p)
            before = log_p
        return torch.stack(result, 1)

    def mean(self, output: Tensor) -> Tensor:
        """Return the mean of each value.

        It is that of the densities with values outside of [0, 1] moved to 0 and 1. For all channels but the first one,
        it is approximate if much lies outside: the mean of a channel is that for the mean of those before it.
        """
        log_weights, means, log_scales, coefficients = self._components(output)
        x = means.clone()
        for c in range(self.channels):
            mean = self._shifted(means[:, :, c], (x - means).unbind(2), coefficients, c)
            scale = log_scales[:, :, c].exp()
            # the integral from 0 to 1 of the probability of a larger value
            x[:, :, c] = scale * (F.softplus(mean / scale) - F.softplus((mean - 1) / scale))
        return (log_weights.exp()[:, :, None] * x).sum(1)

    def sample(self, output: Tensor) -> Tensor:
        log_weights, *others = self._components(output)
        noise = -torch.empty_like(log_weights).exponential_().log()
        chosen = (log_weights + noise).argmax(1)[:, None, None]  # by Gumbel's method
        means, log_scales, coefficients = (torch.take_along_dim(part, chosen, 1)[:, 0] for part in others)
        x = means.clone()
        for c in range(self.channels):
            mean = self._shifted(means[:, c], (x - means).unbind(1), coefficients, c)
            x[:, c] = _sample_logistic8(mean, log_scales[:, c])
        return x


class ContinuousBernoulli(Family):
    """Values in [0, 1]; the output is the logit, which is limited so that the density of 0 and of 1 is."""

    def nll(self, x: Tensor, output: Tensor) -> Tensor:
        return closed_forms.nll_continuous_bernoulli(x, self._logits(output))

    def mean(self, output: Tensor) -> Tensor:
        return closed_forms.mean_continuous_bernoulli(self._logits(output))

    def sample(self, output: Tensor) -> Tensor:
        return closed_forms.sample_continuous_bernoulli(self._logits(output))

    @staticmethod
    def _logits(output: Tensor) -> Tensor:
        return output.clamp(-LARGEST_LOGIT, LARGEST_LOGIT)


def _sample_logistic8(mean: Tensor, log_scale: Tensor) -> Tensor:
    """Return a sample of the distribution of `closed_forms.nll_logistic8`."""
    noise = torch.rand_like(mean).clamp(1e-6, 1 - 1e-6).logit()
    return ((mean + log_scale.exp() * noise) * 255).round().clamp(0, 255) / 255


FAMILIES: Mapping[Likelihood, type[Family]] = {
    "bernoulli": Bernoulli, "gaussian": Gaussian, "student-t": StudentT, "log-normal": LogNormal, "gamma": Gamma,
    "poisson": Poisson, "negative-binomial": NegativeBinomial, "zero-inflated": ZeroInflated, "logistic8": Logistic8,
    "mixture8": Mixture8, "continuous-bernoulli": ContinuousBernoulli, "categorical": Categorical,
}  # fmt: skip


def _family(group: Group, spec: DataSpec) -> Family:
    """Return the family of a group, whose parameters have the shape (D,), or (C, 1, 1) for images."""
    is_image = len(spec.shape) == 3
    if group.likelihood == "mixture8" and not is_image:
        raise InputError(f"{spec.name}: mixture8 is for the pixels of images; expected logistic8")
    if group.likelihood == "zero-inflated" and is_image:
        raise InputError(f"{spec.name}: zero-inflated is for tables and sequences; expected negative-binomial")
    shape = (spec.shape[0], 1, 1) if is_image else (group.size,)
    return FAMILIES[group.likelihood](torch.tensor(group.spread or (1.0,)).expand(shape).clone())


def output_shape(spec: DataSpec) -> tuple[int, ...]:
    """Return the shape of the numbers that a decoder gives for an example, or for a step of sequences."""
    if spec.likelihood == "mixture8":
        return (sum(Mixture8.numbers(spec.shape[0])), *spec.shape[1:])
    return (*spec.shape[:-1], sum(output_sizes(spec)))


def output_sizes(spec: DataSpec) -> list[int]:
    """Return how many numbers a decoder gives for each group of values, along the last axis."""
    return [group.size * FAMILIES[group.likelihood].outputs for group in spec.parts]


class Observation(nn.Module):
    """The distribution p(x|z) of an example, with a decoder's output as its parameters.

    It is composed of the families of `DataSpec.parts`. Given z, values are independent, except for the channels of a
    pixel with `mixture8`. Missing values and padding do not count. The argument `output` of all methods is
    (B, *output_shape), or (B, T, *output_shape) for sequences: it has `outputs` numbers in its last axis, and otherwise
    the shape of x, except that of `mixture8`.

    **Exposure of counts.** If `DataSpec.exposure` is "sum", the mean of a count is the exposure times the softmax of
    the output over the observed counts of the example (as in scVI, Lopez et al. 2018, where the exposure is the library
    size). If it is "column", the mean is the exposure times exp(output). If no exposure is given, `mean` uses the
    median exposure of the training data, and `sample_x` draws one from their distribution. An example without observed
    counts, whose sum is unknown, also gets the median.

    **Learning rate.** Adam moves a parameter in each step by about its learning rate at most. At the learning rate of
    the networks, scales lag behind the errors of the networks. The parameters of this module should therefore have the
    learning rate `SCALE_LR`; `DecoderVariant.parameter_groups` sets it.
    """

    offset: Tensor | None

    def __init__(self, spec: DataSpec) -> None:
        super().__init__()
        self.spec = spec
        self.families = nn.ModuleList(_family(group, spec) for group in spec.parts)
        self.sizes = [group.size for group in spec.parts]
        self._output_sizes = output_sizes(spec)
        self.outputs = sum(self._output_sizes)
        offsets = [
            torch.tensor([*(group.offset or (0.0,) * group.size), *(0.0,) * (n - group.size)])
            for group, n in zip(spec.parts, self._output_sizes, strict=True)
        ]
        has_offset = any(group.offset for group in spec.parts)
        self.register_buffer("offset", torch.cat(offsets) if has_offset else None, persistent=False)

    @property
    def _families(self) -> list[Family]:
        return list(self.families)  # type: ignore[arg-type]

    def nll(self, batch: Batch, output: Tensor) -> Tensor:
        """Return -log p(x|z), (B,), in nats. It is a density if `DataSpec.has_density`, and otherwise a probability."""
        return closed_forms.per_example(self.nll_each(batch, output))

    def nll_each(self, batch: Batch, output: Tensor) -> Tensor:
        """Return -log p of each value in nats, in the shape of `x`; 0 for missing values and padding.

        The values of a categorical group add up to -log p of its category, and the channels of a pixel with `mixture8`
        to -log p of its colour: each is -log p given those before it.
        """
        # autocast's bf16 is too coarse: its steps are as wide as the one between two grey values
        outputs = self._parameters_of(output.to(batch.x.dtype), batch.exposure, batch.observed)
        known = batch.known
        x = batch.x if known is None else torch.where(known, batch.x, 0.0)
        xs = x.split(self.sizes, -1) if len(outputs) > 1 else [x]
        parts = zip(self._families, xs, outputs, strict=True)
        values = _joined([family.nll(x, part) for family, x, part in parts])
        return values if known is None else torch.where(known, values, 0.0)

    def mean(self, output: Tensor, batch: Batch | None = None) -> Tensor:
        """Return the mean of p(x|z), in the shape and units of `Batch.x`, given the exposure in `batch`."""
        exposure = self._median_exposure(output) if batch is None or batch.exposure is None else batch.exposure
        outputs = self._parameters_of(output, exposure, None if batch is None else batch.observed)
        return _joined([family.mean(part) for family, part in zip(self._families, outputs, strict=True)])

    def sample_x(self, output: Tensor, batch: Batch | None = None) -> Tensor:
        """Return one sample from p(x|z), in the shape and units of `Batch.x`, given the exposure in `batch`."""
        exposure = self._random_exposure(output) if batch is None or batch.exposure is None else batch.exposure
        outputs = self._parameters_of(output, exposure, None if batch is None else batch.observed)
        return _joined([family.sample(part) for family, part in zip(self._families, outputs, strict=True)])

    def _parameters_of(self, output: Tensor, exposure: Tensor | None, observed: Tensor | None) -> list[Tensor]:
        """Return the part of the output of each family, after adding offsets and the logarithm of the exposure."""
        if self.offset is not None:
            output = output + self.offset
        outputs = list(output.split(self._output_sizes, -1)) if len(self._output_sizes) > 1 else [output]
        if not self.spec.exposure or exposure is None:
            return outputs
        log_exposure = exposure.clamp(min=1e-6).log().view(-1, *[1] * (output.ndim - 1))
        counts = [i for i, group in enumerate(self.spec.parts) if group.kind == "count"]
        logits = [outputs[i][..., : self.sizes[i]] for i in counts]
        if self.spec.exposure == "sum":
            shares = torch.cat(logits, -1)
            if observed is not None:
                is_count = torch.cat([o for o, g in zip(observed.split(self.sizes, -1), self.spec.parts, strict=True)
                                      if g.kind == "count"], -1)  # fmt: skip
                is_empty = ~is_count.any(-1, keepdim=True)  # such examples get the median exposure
                shares = torch.where(is_count | is_empty, shares, -torch.inf)
                if (median := self._median_exposure(output)) is not None:
                    log_exposure = torch.where(is_empty, median.log().view_as(log_exposure), log_exposure)
            log_exposure = log_exposure - shares.logsumexp(-1, keepdim=True)
        for i, logit in zip(counts, logits, strict=True):
            outputs[i] = torch.cat([logit + log_exposure, outputs[i][..., self.sizes[i] :]], -1)
        return outputs

    def _median_exposure(self, output: Tensor) -> Tensor | None:
        median = self.spec.median_exposure
        return None if median is None else output.new_full((len(output),), max(median, 1e-6))

    def _random_exposure(self, output: Tensor) -> Tensor | None:
        if not self.spec.exposures:
            return None
        quantiles = torch.tensor(self.spec.exposures, device=output.device, dtype=output.dtype)
        position = torch.rand(len(output), device=output.device, dtype=output.dtype) * (len(quantiles) - 1)
        below = position.long().clamp(max=len(quantiles) - 2)
        return quantiles[below].lerp(quantiles[below + 1], position - below)

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: object) -> None:
        """Accept the weights of older versions, which had one scale for all values."""
        if (scale := state_dict.pop(f"{prefix}log_scale", None)) is not None:
            state_dict[f"{prefix}families.0.log_scale"] = scale.expand_as(self.families[0].log_scale)  # type: ignore[arg-type]
        super()._load_from_state_dict(state_dict, prefix, *args)


def _joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, -1)


def finite_log(x: Tensor) -> Tensor:
    """Return log x, or a finite number for missing values, which are 0."""
    return x.clamp(min=1e-30).log()


def _exp(x: Tensor) -> Tensor:
    return x.clamp(max=LARGEST_LOG).exp()
