"""Simple baseline models of the data. A variant is useful only if its likelihood exceeds theirs.

They are fitted by maximum likelihood on the training split, and give log p(x) of each example in nats, in the units of
`Batch.x`. Only known values count. Their means can therefore be compared with the ELBO of any variant that is not
conditioned on x.

    independent   each value has its own distribution of its family: the best that a decoder can do that ignores z
    mean          8-bit pixels have logistic distributions around the mean colour of their own image, with a scale for
                  each channel. The mean counts, too: it is rounded to 8 bits, of which all values are equally likely
    gaussian      real values, and logarithms of positive values, have one Gaussian with a full covariance matrix
    multinomial   counts given their sum, with the frequencies of the training data; other likelihoods of counts do not
                  use that the counts add up exactly, which is about log(2 pi sum) / 2 nats to their disadvantage
    ppca          as `gaussian`, with the covariance of probabilistic PCA (Tipping & Bishop 1999), a linear model with
                  the same number of latent dimensions as the variant

`gaussian`, `multinomial` and `ppca` treat values of other kinds as independent. `ppca` depends on the number of latent
dimensions, so each trial has its own; the others depend only on the data.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pipeline.data import Data
from pipeline.evaluate import probe
from pipeline.evaluate.codes import once_for_data
from pipeline.metrics import Undefined
from variants import Batch, DataSpec
from variants.base import Adam, Observation, closed_forms
from variants.base.contract import DENSITIES, Group
from variants.base.likelihoods import LARGEST_LOGIT, SMALLEST_LOG_SCALE, Family, Gaussian, output_shape

NUMERICAL = ("student-t", "gamma", "negative-binomial", "zero-inflated", "logistic8", "mixture8")  # no closed form
STEPS, LR, VALUES = 300, 0.1, 100_000  # Adam's steps and learning rate for these, and most values in a batch
JOINT_VALUES = 500  # the largest number of values of an example for a joint Gaussian
EM_STEPS, EM_TOLERANCE, EM_COST = 50, 1e-4, 1e8  # the largest number of patterns of missing values times D^3
SMALLEST_VARIANCE = math.exp(2 * SMALLEST_LOG_SCALE)  # the same limit as in a decoder
PREFIX = "baseline/valid_"
TITLES = {
    "gaussian": "a Gaussian with full covariance", "ppca": "probabilistic PCA",
    "multinomial": "a multinomial with the training frequencies", "mean": "the mean colour of each image",
}  # fmt: skip

ValueNLL = Callable[[Batch], Tensor]


def log_p(data: Data, split: Batch) -> dict[str, Tensor | Undefined]:
    """Return log p(x) of each example, (N,), in nats, float64, under each baseline that depends only on the data."""
    nll = fit_independent(data)
    joint = fit_gaussian(data)
    gaussian: Tensor | Undefined
    if isinstance(joint, Undefined):
        gaussian = joint
    else:
        others = ~joint.positions.view(data.spec.shape)
        gaussian = torch.cat([joint.log_p(b) - _sum(nll(b) * others) for b in data.batches(split)])
    multinomial: Tensor | Undefined = Undefined("a multinomial is only for counts that are modelled given their sum")
    if data.spec.exposure == "sum":
        is_count = data.spec.kinds["count"].to(split.x.device)
        multinomial = torch.cat(
            [_log_multinomial(b, data.spec) - _sum(nll(b) * ~is_count) for b in data.batches(split)]
        )
    own_mean = {}
    if set(data.spec.kinds) == {"pixel"}:
        own_mean["mean"] = torch.cat([*map(_around_own_mean(data), data.batches(split))])
    independent = torch.cat([-_sum(nll(b)) for b in data.batches(split)])
    return {"independent": independent, "gaussian": gaussian, "multinomial": multinomial, **own_mean}


def ppca(data: Data, split: Batch, latent: int) -> Tensor | Undefined:
    """Return log p(x) of each example of a split, (N,), in nats, under probabilistic PCA with `latent` dimensions.

    The covariance is the maximum-likelihood solution of Tipping & Bishop 1999, equations 7 and 8: the largest
    eigenvalues of the sample covariance are kept, and all others are replaced by their mean. The result is undefined if
    training values are missing, or if there are values that are neither real nor positive.
    """
    if data.spec.missing or not set(data.spec.kinds) <= set(DENSITIES):
        return Undefined("probabilistic PCA has a closed form only for real and positive values without missing ones")
    joint = fit_gaussian(data)
    if isinstance(joint, Undefined):
        return joint
    variances, axes = torch.linalg.eigh(joint.covariance)  # ascending
    noise = variances[: max(1, len(variances) - latent)]
    variances = torch.cat([noise.mean().expand_as(noise), variances[len(noise) :]])
    joint = replace(joint, covariance=axes * variances @ axes.T)
    return torch.cat([joint.log_p(batch) for batch in data.batches(split)])


def means(values: Mapping[str, Tensor | Undefined]) -> dict[str, float]:
    """Return the mean over examples of each baseline that is defined."""
    return {name: float(value.mean()) for name, value in values.items() if isinstance(value, Tensor)}


def titled(scores: Mapping[str, float], spec: DataSpec) -> dict[str, float]:
    """Return the scores of baselines (`baseline/...`) among `scores`, by titles that a reader understands."""
    of = titles(spec)
    names = {name: name.rpartition("_")[2] for name in scores if name.startswith("baseline/")}
    return {of[short]: scores[name] for name, short in names.items()}


def titles(spec: DataSpec) -> dict[str, str]:
    """Return what each baseline is called in words."""
    values = "channels" if spec.steps else "pixels" if len(spec.shape) == 3 else "columns"
    return {**TITLES, "independent": f"independent {values}"}


def verdict(bound: float, titles: Mapping[str, float], errors: Mapping[str, float] | None = None) -> str:
    """Return a clause that says that a bound of log p(x) is no better than the best baseline; "" if it is better.

    Args:
        bound: The mean bound over examples, in nats.
        titles: The mean log p(x) of each baseline on the same examples, in nats, as `titled` returns it.
        errors: The standard error of the difference between the bound and each baseline, over the same examples. The
            bound is better if it exceeds the best baseline by more than 1.96 errors. Without errors, any excess counts.
    """
    best = max(titles, key=lambda title: titles[title], default=None)
    if best is None or bound > titles[best] + 1.96 * (errors or {}).get(best, 0.0):
        return ""
    return f"no better than trivial ({best}: {titles[best]:.2f} nats)"


def fit_independent(data: Data) -> ValueNLL:
    """Fit a separate distribution to each column of a table, channel of sequences, or pixel of images.

    Scales are shared by the pixels of a channel, as they are in a decoder.

    Returns:
        A function that returns -log p of each value of a batch, in the shape of x; 0 for missing values and padding.
    """
    observation = Observation(data.spec).to(data.train.x.device).double()
    output, is_numerical = _closed_form(data, observation)
    if is_numerical.any():
        output = _improved(data, observation, output, is_numerical)

    @torch.no_grad()
    def nll(batch: Batch) -> Tensor:
        batch = _double(batch)
        return observation.nll_each(batch, _for_each(output, batch))

    return nll


def _closed_form(data: Data, observation: Observation) -> tuple[Tensor, Tensor]:
    """Set the scales, and return the decoder outputs of maximum likelihood, and which of these are only approximate.

    Outputs are approximate for families without a closed form; they start from the solution of a similar family.
    """
    sizes, outputs, flags = observation.sizes, [], []
    moments = [moment.split(sizes, -1) if len(sizes) > 1 else [moment] for moment in _moments(data)]
    families = [family for family in observation.families if isinstance(family, Family)]
    with torch.no_grad():
        for group, family, n, mean, variance in zip(data.spec.parts, families, *moments, strict=True):
            output = _output(group, n, mean, data.spec.exposure != "")
            if group.likelihood == "mixture8":
                output = mean.new_zeros(output_shape(data.spec))
            if isinstance(family, Gaussian):
                axes = (1, 2) if output.ndim == 3 else ()
                pooled = (n * variance).sum(axes, keepdim=True) / n.sum(axes, keepdim=True).clamp(min=1)
                spread = mean.new_tensor(group.spread or 1.0)
                scale = pooled if axes else variance
                family.log_scale.copy_(0.5 * scale.clamp(min=1e-30).log() - spread.log())
            if family.outputs == 2:  # start with a small probability of additional zeros
                output = torch.cat([output, torch.full_like(output, -2.0)], -1)
            outputs.append(output)
            flags.append(torch.full_like(output, group.likelihood in NUMERICAL, dtype=torch.bool))
    return torch.cat(outputs, -1), torch.cat(flags, -1)


def _output(group: Group, n: Tensor, mean: Tensor, has_exposure: bool) -> Tensor:
    """Return the decoder output whose distribution has the mean of the training data, minus the offset of the group.

    `n` is the number of known values. `mean` is their mean, or for positive values the mean of their logarithms.
    Frequencies are smoothed by Laplace's rule, so that none is 0.
    """
    offset = mean.new_tensor(group.offset or 0.0)
    if group.kind == "count":
        # offsets are fitted to an exposure; without one, those of images hold for a column of pixels, not for a pixel
        return torch.zeros_like(mean) if has_exposure else ((n * mean + 0.5) / n.clamp(min=0.5)).log() - offset
    if group.kind == "category":
        return ((n * mean + 1) / (n + group.size)).log() - offset
    if group.kind in ("binary", "pixel"):
        return ((n * mean + 1) / (n + 2)).logit() - offset
    if group.kind == "fraction":
        return _logit_of_mean((n * mean + 0.5) / (n + 1))
    return mean / mean.new_tensor(group.spread or 1.0)


def _logit_of_mean(mean: Tensor) -> Tensor:
    """Return the logits of the continuous Bernoulli distributions that have these means, found by bisection."""
    low, high = torch.full_like(mean, -LARGEST_LOGIT), torch.full_like(mean, LARGEST_LOGIT)
    for _ in range(60):
        middle = (low + high) / 2
        is_low = closed_forms.mean_continuous_bernoulli(middle) < mean
        low, high = torch.where(is_low, middle, low), torch.where(is_low, high, middle)
    return (low + high) / 2


def _around_own_mean(data: Data) -> Callable[[Batch], Tensor]:
    """Return a function that returns log p of each image of a batch, (B,), around its own mean colour."""
    from scipy import optimize

    def nll(batch: Batch, log_scale: Tensor) -> Tensor:
        x, known = batch.x.double(), is_known(batch)
        mean = (x * known).sum((2, 3), keepdim=True) / known.sum((2, 3), keepdim=True).clamp(min=1)
        rounded = (mean * 255).round() / 255
        return torch.where(known, closed_forms.nll_logistic8(x, rounded, log_scale), 0.0)

    some = data.batch(data.train, slice(0, max(32, VALUES // data.train.x[0].numel())))
    log_scale = some.x.new_zeros(data.spec.shape[0], 1, 1, dtype=torch.float64)
    for channel in range(len(log_scale)):

        def loss(value: float, channel: int = channel) -> float:
            return float(nll(some, torch.full_like(log_scale, value))[:, channel].sum())

        log_scale[channel] = optimize.minimize_scalar(loss, bounds=(SMALLEST_LOG_SCALE, 2.0), method="bounded").x
    return lambda batch: -_sum(nll(batch, log_scale)) - 8 * len(log_scale) * math.log(2)


def _moments(data: Data) -> tuple[Tensor, Tensor, Tensor]:
    """Return the number, the mean and the variance of the known training values, each in the shape of the spec.

    For positive values, they describe the logarithms. All steps of sequences are pooled.
    """
    sums = [data.train.x.new_zeros(data.spec.shape, dtype=torch.float64) for _ in range(3)]
    for batch in data.batches(data.train):
        x, known = _real_line(batch, data.spec)
        powers = (known.double(), x, x.square())
        axes = tuple(range(x.ndim - len(data.spec.shape)))
        for total, power in zip(sums, powers, strict=True):
            total += power.sum(axes)
    n, mean, square = sums[0], *(total / sums[0].clamp(min=1) for total in sums[1:])
    return n, mean, square - mean.square()


def _improved(data: Data, observation: Observation, output: Tensor, is_numerical: Tensor) -> Tensor:
    """Optimise the approximate outputs, and the parameters of their families, with Adam. Returns all outputs."""
    change = torch.zeros_like(output, requires_grad=True)
    families = zip(data.spec.parts, observation.families, strict=True)
    chosen = [p for group, family in families if group.likelihood in NUMERICAL for p in family.parameters()]
    optimizer = Adam([change, *chosen], lr=LR)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    parameters = output.numel() // math.prod(data.spec.shape)  # of each value; many of them make a step slow
    rows = max(32 if parameters <= 2 else 8, VALUES // data.train.x[0].numel() // parameters)
    generator = torch.Generator().manual_seed(0)
    for _ in range(STEPS):
        index: Tensor | slice = slice(None)
        if rows < len(data.train):
            index = torch.randint(len(data.train), (rows,), generator=generator).to(output.device)
        batch = _double(data.batch(data.train, index))
        loss = observation.nll(batch, _for_each(output + change * is_numerical, batch)).mean()
        gradients = torch.autograd.grad(loss, [change, *chosen], allow_unused=True)
        for parameter, gradient in zip([change, *chosen], gradients, strict=True):
            parameter.grad = gradient
        optimizer.step()
        schedule.step()
    return (output + change * is_numerical).detach()


@dataclass(frozen=True)
class GaussianOfValues:
    """A Gaussian of real values, and of the logarithms of positive values."""

    spec: DataSpec
    positions: Tensor  # (values of an example,) bool, true for the D values that it models
    mean: Tensor  # (D,)
    covariance: Tensor  # (D, D)

    def log_p(self, batch: Batch) -> Tensor:
        """Return log p of the known values of each example, (B,), in nats, as a density of the values themselves."""
        x, known = (part.flatten(1)[:, self.positions] for part in _real_line(batch, self.spec))
        result = torch.zeros(len(x), dtype=torch.float64, device=x.device)
        for pattern, rows in _patterns(known):
            centred = (x[rows] - self.mean)[:, pattern]
            root = torch.linalg.cholesky(self.covariance[pattern][:, pattern])
            scaled = torch.linalg.solve_triangular(root, centred.T, upper=False)
            constant = root.diagonal().log().sum() + 0.5 * len(root) * math.log(2 * math.pi)
            result[rows] = -0.5 * scaled.square().sum(0) - constant
        if "positive" in self.spec.kinds:  # the density of a value is that of its logarithm, divided by the value
            is_positive = self.spec.kinds["positive"].to(x.device).expand(self.spec.shape).flatten()[self.positions]
            result -= (x * is_positive).sum(1)
        return result


@once_for_data
def fit_gaussian(data: Data) -> GaussianOfValues | Undefined:
    """Fit a Gaussian with a full covariance matrix; if values are missing, with EM (Dempster et al. 1977).

    It is undefined for sequences, for too few training examples, and for fewer than two or too many real and positive
    values.
    """
    spec = data.spec
    if spec.steps:
        return Undefined("a joint Gaussian is only for tables and small images, not for sequences")
    real = [mask for kind, mask in spec.kinds.items() if kind in DENSITIES]
    positions = torch.stack([*real, torch.zeros(spec.shape[-1], dtype=torch.bool)]).any(0)
    positions = positions.to(data.train.x.device).expand(spec.shape).flatten()
    count = int(positions.sum())
    if not 2 <= count <= JOINT_VALUES:
        return Undefined(f"a joint Gaussian is for 2 to {JOINT_VALUES} real values; {spec.name} has {count}")
    train = data.train
    if spec.missing and (patterns := len(_patterns(is_known(train).flatten(1)[:, positions]))) > EM_COST / count**3:
        train = probe.subset(train, int(EM_COST / count**3))
        if len(train) < 5 * count:
            return Undefined(f"{count} values with {patterns} patterns of missing ones are too many for a Gaussian")
    if len(train) <= count:
        return Undefined(f"{len(train)} training examples are too few for a covariance matrix of {count} values")
    parts = [_real_line(batch, spec) for batch in data.batches(train)]
    x, known = (torch.cat([part[i].flatten(1)[:, positions] for part in parts]) for i in (0, 1))
    mean, covariance = _maximum_likelihood(x, known)
    return GaussianOfValues(spec, positions, mean, covariance)


def _maximum_likelihood(x: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean (D,) and the covariance (D, D) of a Gaussian of rows (N, D), of which some values are missing."""
    n = known.sum(0).clamp(min=1)
    mean = (x * known).sum(0) / n
    if known.all():
        return mean, _positive_definite((x - mean).T @ (x - mean) / len(x))
    patterns = _patterns(known)
    masks = torch.stack([pattern for pattern, _ in patterns])
    both, eye = masks[:, :, None] & masks[:, None, :], torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
    counts = torch.tensor([float(len(rows)) for _, rows in patterns], dtype=x.dtype, device=x.device)
    covariance = _positive_definite((((x - mean) * known).square().sum(0) / n).diag())
    for _ in range(EM_STEPS):
        # the inverse covariance of the known values of each pattern, with zeros for the missing ones
        inverse = torch.where(both, torch.linalg.inv(torch.where(both, covariance, eye)), 0.0)
        filled, centred = torch.empty_like(x), (x - mean) * known
        for k, (_, rows) in enumerate(patterns):
            filled[rows] = mean + centred[rows] @ inverse[k] @ covariance
        uncertainty = covariance - covariance @ torch.einsum("p,pij->ij", counts / len(x), inverse) @ covariance
        old, mean = (mean, covariance), filled.mean(0)
        covariance = _positive_definite((filled - mean).T @ (filled - mean) / len(x) + uncertainty)
        if max((old[0] - mean).abs().max(), (old[1] - covariance).abs().max()) < EM_TOLERANCE:
            break
    return mean, covariance


def _positive_definite(covariance: Tensor) -> Tensor:
    """Return a covariance matrix whose variances, in all directions, are at least `SMALLEST_VARIANCE`."""
    variances, axes = torch.linalg.eigh(covariance)
    result: Tensor = axes * variances.clamp(min=SMALLEST_VARIANCE) @ axes.T
    return result


def _patterns(known: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Return each different row (D,) of `known` (N, D), and the indices of the rows that are equal to it."""
    patterns, inverse, counts = known.unique(dim=0, return_inverse=True, return_counts=True)
    return list(zip(patterns, inverse.argsort().split(counts.tolist()), strict=True))


def _log_multinomial(batch: Batch, spec: DataSpec) -> Tensor:
    """Return log p of the known counts of each example given their sum, (B,), with the training frequencies."""
    is_count = spec.kinds["count"].to(batch.x.device)
    x, known = batch.x.double()[:, is_count], is_known(batch)[:, is_count]
    offsets = [value for group in spec.parts if group.kind == "count" for value in group.offset]
    log_rates = torch.where(known, torch.tensor(offsets, dtype=torch.float64, device=x.device), -torch.inf)
    log_shares = torch.where(known, log_rates.log_softmax(-1), 0.0)
    log_ways: Tensor = (x.sum(1) + 1).lgamma() - (x + 1).lgamma().sum(1)
    return log_ways + (x * log_shares).sum(1)


def _real_line(batch: Batch, spec: DataSpec) -> tuple[Tensor, Tensor]:
    """Return the values in float64 and which are known; positive values are logarithms, and unknown ones are 0."""
    x, known = batch.x.double(), is_known(batch)
    if "positive" in spec.kinds:
        x = torch.where(spec.kinds["positive"].to(x.device), x.clamp(min=1e-30).log(), x)
    return torch.where(known, x, 0.0), known


def is_known(batch: Batch) -> Tensor:
    """Return which values of a batch are known, bool, in the shape of `x`; see `Batch.known`."""
    return torch.ones_like(batch.x, dtype=torch.bool) if batch.known is None else batch.known.expand_as(batch.x)


def _double(batch: Batch) -> Batch:
    return replace(batch, x=batch.x.double(), exposure=None if batch.exposure is None else batch.exposure.double())


def _for_each(output: Tensor, batch: Batch) -> Tensor:
    """Repeat the output for each example, and for each step of sequences."""
    return output.expand(*batch.x.shape[: batch.x.ndim - output.ndim], *output.shape)


def _sum(values: Tensor) -> Tensor:
    return values.flatten(1).sum(1)
