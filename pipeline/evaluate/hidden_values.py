"""How well a model predicts values that are hidden from it, beside simple baselines.

`pipeline.evaluate.imputation` predicts values that are really missing.
"""

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline import machine
from pipeline.data import Data
from pipeline.evaluate import baselines, drawing, likelihood, probe
from pipeline.evaluate.estimates import Estimate, root_mean_square
from pipeline.evaluate.imputation import conditional_mean
from pipeline.metrics import Undefined
from variants import Batch, DataSpec, Variant
from variants.base import Inputs

Array = NDArray[np.float64]
NEIGHBOURS = 20  # training examples whose mean replaces missing values
WITH_NEIGHBOURS = ("bernoulli", "gaussian")  # likelihoods for which the nearest training examples are a baseline
BURN_IN = 10  # rounds at the start of a Gibbs chain that are discarded


def hidden(data: Data, split: Batch) -> Tensor:
    """Return which values `imputation` hides: (N, *shape) bool.

    They are the observed values of the lower half of an image, of the second half of the steps of a sequence, and of a
    random half of the columns of a table, drawn for each row.
    """
    shape, n = split.x.shape[1:], len(split)
    if split.mask is not None:
        steps = torch.arange(shape[0], device=split.x.device)
        lengths = split.mask.sum(1, keepdim=True)
        chosen = ((steps >= (lengths + 1) // 2) & split.mask)[..., None].expand(n, *shape)
    elif len(shape) == 3:
        lower = torch.arange(shape[1], device=split.x.device)[:, None] >= shape[1] // 2
        chosen = lower.expand(n, *shape)
    else:  # a category is hidden with its whole one-hot vector
        sizes = [size for g in data.spec.parts for size in ([g.size] if g.kind == "category" else [1] * g.size)]
        columns = torch.rand(n, len(sizes), generator=torch.Generator().manual_seed(0)) < 0.5
        chosen = columns.repeat_interleave(torch.tensor(sizes), 1).to(split.x.device)
    return chosen if split.observed is None else chosen & split.observed


def hide(batch: Batch, missing: Tensor, spec: DataSpec) -> Batch:
    """Return a batch without the values in `missing`, bool in the shape of x.

    If counts are modelled given their sum, the exposure becomes the sum of the counts that remain.
    """
    observed = ~missing if batch.observed is None else batch.observed & ~missing
    x, exposure = torch.where(observed, batch.x, 0.0), batch.exposure
    if spec.exposure == "sum":
        exposure = x[..., spec.kinds["count"].to(x.device)].sum(-1)
    return replace(batch, x=x, observed=observed, exposure=exposure)


def imputation(
    variant: Variant, data: Data, split: Batch, *, chains: int = 20, rounds: int = 60
) -> dict[str, Array] | Undefined:
    """Return -log p(missing|observed) of each example, (N,), in nats, by several methods; lower is better.

    - `gibbs` is the mean of p(missing|z) over the draws of pseudo-Gibbs chains, which draw z from q(z|x) and the
      missing part from p(x|z) in turn (Rezende et al. 2014, appendix F). The first 10 rounds are discarded.
    - `encoder` replaces `gibbs` if training values are missing, because the encoder then reads which values are
      observed. It is the mean over equally many draws of q(z|observed), or the value at the code if q has no density.
    - `importance` weights the same draws by p(z) p(observed|z) / q, if q has a density (Mattei & Frellsen 2019). The
      weights of Gibbs chains are unbounded, because q treats completed values as observed ones.
    - `mean` is a baseline: each value has its distribution in the training data, whatever the observed values are.
    - `knn` is a baseline for binary and Gaussian values: each value has its distribution in the 20 training examples
      that are nearest in the observed values.

    With few draws, the results of the methods that use z are too high. If counts are modelled given their sum, this is
    the sum of the counts that remain; examples in which it is 0 are left out. The result is undefined if values are not
    independent given z, if the variant itself models missing values, or if no example remains.
    """
    if reason := _why_no_imputation(variant):
        return Undefined(reason)
    split, missing = _scored(data, split)
    if not len(split):
        return Undefined(f"no example of {data.spec.name} has counts above 0 among those that remain")
    variant.eval()
    name, losses = "encoder" if variant.spec.missing else "gibbs", dict[str, list[Tensor]]()
    with machine.seeded(variant.device, 0):
        for batch, gaps in _batches(data, split, missing, max(1, 2000 // chains)):
            log_p, log_weight = _draws(variant, data, batch.unlabelled, gaps, chains, rounds)
            losses.setdefault(name, []).append(math.log(log_p.shape[1]) - log_p.logsumexp(1))
            if log_weight is not None:
                losses.setdefault("importance", []).append(log_weight.logsumexp(1) - (log_weight + log_p).logsumexp(1))
    values = {name: torch.cat(parts).cpu().numpy() for name, parts in losses.items()}
    return values | _baselines(data, split, missing)


def _draws(
    variant: Variant, data: Data, batch: Batch, missing: Tensor, chains: int, rounds: int
) -> tuple[Tensor, Tensor | None]:
    """Draw z for each example in Gibbs chains, or from q(z|observed) if the encoder reads which values are missing.

    Returns log p(missing|z), and log of p(z) p(observed|z) / q, (B, draws) each; no weights if q has no density.
    """
    spec, index = variant.spec, likelihood.repeated_positions(batch, chains)
    true, gaps = batch[index], missing[index]
    rest = hide(true, gaps, spec)
    mean = data.train.x.float().mean(0) / (255 if data.train.x.dtype == torch.uint8 else 1)
    seen = rest if spec.missing else replace(true, x=torch.where(gaps, mean, true.x))
    log_p, log_weights = [], []
    for turn in range(rounds):
        proposal = variant.sample_posterior(seen)
        z = variant.encode(seen) if proposal is None else proposal[0]
        scored = _with_exposure(variant, z, true, rest)
        if turn >= BURN_IN:
            each = variant.log_likelihood(z, scored)
            log_p.append(_sum(each, gaps))
            if proposal is not None:
                log_weights.append(_sum(each, ~gaps) + variant.log_prior(z, true) - proposal[1])
        if not spec.missing:
            seen = replace(seen, x=torch.where(gaps, variant.sample_x(z, scored), true.x))
    shape = len(batch), -1
    return torch.stack(log_p, 1).view(shape), torch.stack(log_weights, 1).view(shape) if log_weights else None


def imputation_error(variant: Variant, data: Data, split: Batch) -> dict[str, Estimate] | Undefined:
    """Return the root mean square error of hidden real values of a table, in standard deviations of their columns.

    `rmse` is the error of `conditional_mean`. `rmse_mean`, which is about 1, is the error of the column means of the
    training data, and `rmse_knn` that of the means of the 20 nearest training examples. Lower is better. The rows and
    the hidden values are those of `imputation`, and the errors are over rows.
    """
    from sklearn.impute import KNNImputer

    if reason := _why_no_imputation(variant):
        return Undefined(reason)
    real = data.spec.kinds.get("real")
    if real is None or split.x.ndim != 2:
        return Undefined(f"{data.spec.name} is not a table with columns of real values")
    split, missing = _scored(data, split)
    chosen = missing & real.to(missing.device)
    if not chosen.any():
        return Undefined("no real value of these rows is hidden")
    true = data.batch(split, slice(None))
    rest = hide(true.unlabelled, missing, data.spec)
    variant.eval()
    with machine.seeded(variant.device, 0):
        guess = conditional_mean(variant, rest)
    inputs = Inputs(replace(data.spec, missing=False)).to(variant.device)
    train, incomplete = (
        drawing.with_gaps(inputs(b), b.known).cpu().numpy()
        for b in (data.batch(probe.subset(data.train), slice(None)), rest)
    )
    imputer = KNNImputer(n_neighbors=min(NEIGHBOURS, len(train)), keep_empty_features=True).fit(train)
    nearest = torch.from_numpy(imputer.transform(incomplete)).to(true.x)
    guesses = {"rmse": guess, "rmse_mean": torch.zeros_like(true.x), "rmse_knn": nearest}
    counts = chosen.sum(1).cpu().numpy()
    return {
        name: root_mean_square(_sum((x - true.x).double().square(), chosen).cpu().numpy(), counts)
        for name, x in guesses.items()
    }


def _why_no_imputation(variant: Variant) -> str:
    name = type(variant).__name__
    if not variant.factorized:
        return f"the decoder of {name} reads the preceding values, so the values are not independent given z"
    return f"{name} is itself a model of missing values" if variant.conditioned_on == "x" else ""


def _scored(data: Data, split: Batch) -> tuple[Batch, Tensor]:
    """Return the examples that `imputation` scores, and which of their values are hidden."""
    missing = hidden(data, split)
    if data.spec.exposure != "sum":
        return split, missing
    rest = hide(split, missing, data.spec)
    assert rest.exposure is not None
    scored = (rest.exposure > 0).nonzero()[:, 0]
    return split[scored], missing[scored]


def _with_exposure(variant: Variant, z: Tensor, true: Batch, rest: Batch) -> Batch:
    """Return `true` with an exposure that is computed only from the counts that remain in `rest`.

    If the exposure is the sum of the counts, it is the sum in `rest` divided by the share of all counts in `true` that
    the decoder expects there.
    """
    if variant.spec.exposure != "sum":
        return true
    assert true.exposure is not None
    is_count = variant.spec.kinds["count"].to(z.device)
    sums = [variant.decode(z, batch)[..., is_count].sum(-1) for batch in (rest, true)]
    return replace(true, exposure=true.exposure * sums[0] / sums[1])


def _batches(data: Data, split: Batch, missing: Tensor, size: int) -> Iterator[tuple[Batch, Tensor]]:
    """Yield the batches of a split, each with which of its values are hidden."""
    yield from zip(data.batches(split, size), missing.split(size), strict=True)


def _sum(values: Tensor, where: Tensor) -> Tensor:
    return torch.where(where, values, 0.0).flatten(1).sum(1).double()


def _baselines(data: Data, split: Batch, missing: Tensor) -> dict[str, Array]:
    """Return -log p(missing), (N,), by the values of all training examples and by those of the nearest ones."""
    if data.spec.likelihood not in WITH_NEIGHBOURS:
        return {"mean": _independent(data, split, missing)}
    train = probe.subset(data.train)
    values = torch.cat([b.x.flatten(1) for b in data.batches(train)])
    present = baselines.is_known(train).flatten(1).float()
    losses: dict[str, list[Array]] = {"mean": [], "knn": []}
    for batch, hiding in _batches(data, split, missing, 100):
        x, gaps = batch.x.flatten(1), hiding.flatten(1)
        observed = (baselines.is_known(batch) & ~hiding).flatten(1).float()
        # squared distances, except for a constant of each row
        distances = observed @ values.square().T - 2 * (observed * x) @ values.T
        if train.observed is not None:  # mean squared differences of the values that both rows have
            distances = (distances + (observed * x.square()) @ present.T) / (observed @ present.T).clamp(min=1)
        nearest = distances.topk(min(NEIGHBOURS, len(values)), largest=False).indices
        losses["mean"].append(_density(x, values[None], present[None], gaps, data))
        losses["knn"].append(_density(x, values[nearest], present[nearest], gaps, data))
    return {name: np.concatenate(parts) for name, parts in losses.items()}


def _independent(data: Data, split: Batch, missing: Tensor) -> Array:
    """Return -log p(missing), (N,), of values that are independent, with the exposure of the others."""
    nll, spec, losses = baselines.fit_independent(data), data.spec, []
    for batch, gaps in _batches(data, split, missing, 100):
        if spec.exposure == "sum":
            rest, is_count = hide(batch, gaps, spec), spec.kinds["count"].to(gaps.device)
            rates = batch.x.new_tensor([rate for g in spec.parts if g.kind == "count" for rate in g.offset]).exp()
            assert rest.exposure is not None and rest.observed is not None
            remaining, every = (
                (part[..., is_count] * rates).sum(-1) for part in (rest.observed, baselines.is_known(batch))
            )
            batch = replace(batch, exposure=rest.exposure * every / remaining)
        losses.append(_sum(nll(batch), gaps))
    values: Array = torch.cat(losses).cpu().numpy()
    return values


def _density(x: Tensor, examples: Tensor, present: Tensor, missing: Tensor, data: Data) -> Array:
    """Return -log p of the missing values of x (B, D), each by itself, (B,).

    The distribution of a value is estimated from `examples` (B or 1, M, D), where they are `present`.
    """
    count, total = present.sum(1), (examples * present).sum(1)
    if data.spec.likelihood == "bernoulli":  # by Laplace's rule, so that no value has probability 0
        mean = (total + 1) / (count + 2)
        each = -(x * mean.log() + (1 - x) * (1 - mean).log())
    else:
        mean = total / count.clamp(min=1)
        squared = ((examples - mean[:, None]).square() * present).sum(1) / (count - 1).clamp(min=1)
        variance = ((squared * missing).sum(1) / missing.sum(1).clamp(min=1))[:, None].clamp(min=1e-3)
        each = 0.5 * ((x - mean).square() / variance + (2 * math.pi * variance).log())
    values: Array = _sum(each, missing).cpu().numpy()
    return values
