"""What people use a VAE for: anomaly detection, imputation, interpolation, generation, forecasts and augmentation.

Each function takes a variant and data, and returns scores by name; `Undefined` if the variant cannot do the task.
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
from pipeline.evaluate import classifier, likelihood, probe
from pipeline.evaluate.codes import encode_split, labelled, why_no_probe
from pipeline.metrics import Undefined, defined
from variants import Batch, Variant

Array = NDArray[np.float64]
NEIGHBOURS = 20  # training examples whose mean replaces missing values
BURN_IN = 10  # rounds at the start of a Gibbs chain that are discarded


def anomaly(variant: Variant, data: Data, split: Batch, normal: int, k: int = 50) -> dict[str, float] | Undefined:
    """Return how well scores tell examples of other classes from those of class `normal`.

    Each value is the area under the ROC curve; 0.5 is chance. The variant and `data.train` are of the normal class
    only; a variant that is conditioned on a class gets that one. What indicates an anomaly: a high `reconstruction`
    -E log p(x|z); a low `elbo` or `iw` bound (`k` draws), if q has a density; a code far from those of the training
    examples (`latent`, Mahalanobis distance); and a low score of the variant's own, such as `discriminator`.

    Examples of the split whose label is unknown take no part. The result is undefined if the others are not both of
    this class and of other classes.
    """
    from sklearn.metrics import roc_auc_score

    split = labelled(split)
    y = split.y
    if y is None or not 0 < int(torch.eq(y, normal).sum()) < len(y):
        return Undefined(f"class {normal} as normal: expected examples of it, and of others, in {data.spec.name}")
    unlabelled = replace(split, y=torch.full_like(y, normal) if variant.conditioned_on == "y" else None)
    parts: dict[str, list[Tensor]] = {}
    variant.eval()
    with machine.seeded(variant.device, 0):
        for batch in data.batches(unlabelled):
            terms = variant.terms(batch, torch.zeros((), device=variant.device))
            parts.setdefault("reconstruction", []).append(terms.reconstruction)
            if terms.elbo is not None:
                parts.setdefault("elbo", []).append(-terms.elbo)
            for name in (n for n in terms.extras if n.endswith("_score")):
                parts.setdefault(name.removesuffix("_score"), []).append(-terms.extras[name])
    scores = {name: torch.cat(values).double().cpu().numpy() for name, values in parts.items()}
    if "elbo" in scores:
        bound = defined(likelihood.importance_weighted(variant, data, unlabelled, k, marginal=False))
        scores["iw"] = -bound.numpy()
    if len(data.train) > 1:  # one example has no covariance
        scores["latent"] = mahalanobis(encode_split(variant, data, split), encode_split(variant, data, data.train))
    is_anomaly = torch.ne(y, normal).cpu().numpy()
    return {name: float(roc_auc_score(is_anomaly, score)) for name, score in scores.items()}


def mahalanobis(points: Array, known: Array) -> Array:
    """Return the Mahalanobis distance of points (N, Z) from the mean of `known` points (M, Z): (N,).

    Columns whose standard deviation is below a hundredth of the largest one are left out.
    """
    active = known.std(axis=0) > 0.01 * known.std(axis=0).max()
    points, known = points[:, active], known[:, active]
    inverse = np.linalg.pinv(np.atleast_2d(np.cov(known, rowvar=False)), rcond=1e-8, hermitian=True)
    difference = points - known.mean(axis=0)
    distance: Array = np.sqrt(np.einsum("ni,ij,nj->n", difference, inverse, difference).clip(min=0))
    return distance


def hidden(data: Data, split: Batch) -> Tensor:
    """Return which values `imputation` hides: (N, *shape) bool.

    They are the lower half of an image, the second half of the steps of a sequence, and a random half of the values of
    each row of a table.
    """
    shape, n = split.x.shape[1:], len(split)
    if split.mask is not None:
        steps = torch.arange(shape[0], device=split.x.device)
        lengths = split.mask.sum(1, keepdim=True)
        return ((steps >= (lengths + 1) // 2) & split.mask)[..., None].expand(n, *shape)
    if len(shape) == 3:
        lower = torch.arange(shape[1], device=split.x.device)[:, None] >= shape[1] // 2
        return lower.expand(n, *shape)
    generator = torch.Generator().manual_seed(0)
    return (torch.rand(n, *shape, generator=generator) < 0.5).to(split.x.device)


def imputation(
    variant: Variant, data: Data, split: Batch, *, chains: int = 20, rounds: int = 60
) -> dict[str, Array] | Undefined:
    """Return -log p(missing|observed) of each example, (N,), in nats, by several methods; lower is better.

    - `gibbs` is the mean of p(missing|z) over the draws of pseudo-Gibbs chains, which draw z from q(z|x) and the
      missing part from p(x|z) in turn (Rezende et al. 2014, appendix F). The first 10 rounds are discarded.
    - `importance` weights the same draws by p(z) p(observed|z) / q(z|completed x), if q has a density (Mattei &
      Frellsen 2018). The weights are unbounded, because q treats completed values as observed ones.
    - `mean` is a baseline: each value by itself, with its distribution in the training data.
    - `knn` is a baseline: with its distribution in the 20 training examples that are nearest in the observed part.

    With few draws the first two are too high. The result is undefined if values are dependent given z, if the variant
    itself models missing values, and for data that are neither binary nor Gaussian.
    """
    name = type(variant).__name__
    if not variant.factorized:
        return Undefined(f"{name} reads the preceding values: given z the values are not independent")
    if variant.conditioned_on == "x":
        return Undefined(f"{name} is itself a model of missing values")
    if data.spec.likelihood not in ("bernoulli", "gaussian"):
        return Undefined(f"the baselines of imputation fit binary and Gaussian values, not {data.spec.likelihood}")
    variant.eval()
    losses: dict[str, list[Tensor]] = {}
    scale = 255 if data.train.x.dtype == torch.uint8 else 1
    mean = data.train.x.float().mean(0) / scale
    with machine.seeded(variant.device, 0):
        for batch, hiding in _portions(data, split, max(1, 2000 // chains)):
            index = torch.arange(len(batch), device=hiding.device).repeat_interleave(chains)
            true, missing = batch.unlabelled[index], hiding[index]
            completed = replace(true, x=torch.where(missing, mean, true.x))
            log_p, log_weights = [], []
            for turn in range(rounds):
                proposal = variant.sample_posterior(completed)
                z = variant.encode(completed) if proposal is None else proposal[0]
                if turn >= BURN_IN:
                    each = variant.log_likelihood(z, true)
                    log_p.append(_sum(each, missing))
                    if proposal is not None:
                        log_weights.append(_sum(each, ~missing) + variant.log_prior(z, true) - proposal[1])
                completed = replace(completed, x=torch.where(missing, variant.sample_x(z, completed), true.x))
            gain = torch.stack(log_p, 1).view(len(batch), -1)
            losses.setdefault("gibbs", []).append(math.log(gain.shape[1]) - gain.logsumexp(1))
            if log_weights:
                weight = torch.stack(log_weights, 1).view(len(batch), -1)
                losses.setdefault("importance", []).append(weight.logsumexp(1) - (weight + gain).logsumexp(1))
    return {name: torch.cat(parts).cpu().numpy() for name, parts in losses.items()} | _baselines(data, split)


def _portions(data: Data, split: Batch, size: int) -> Iterator[tuple[Batch, Tensor]]:
    """Yield the batches of a split, each with which of its values are hidden."""
    for number, batch in enumerate(data.batches(split, size)):
        yield batch, hidden(data, split)[number * size : number * size + len(batch)]


def _sum(values: Tensor, where: Tensor) -> Tensor:
    return torch.where(where, values, 0.0).flatten(1).sum(1).double()


def _baselines(data: Data, split: Batch) -> dict[str, Array]:
    """Return -log p(missing), (N,), by the values of all training examples and by those of the nearest ones."""
    train = probe.subset(data.train)
    values = torch.cat([b.x.flatten(1) for b in data.batches(train)])
    present = torch.ones_like(values)
    if train.mask is not None:
        present = train.mask[..., None].expand_as(train.x).flatten(1).float()
    losses: dict[str, list[Array]] = {"mean": [], "knn": []}
    for batch, hiding in _portions(data, split, 100):
        x, missing = batch.x.flatten(1), hiding.flatten(1)
        real = torch.ones_like(batch.x, dtype=torch.bool) if batch.mask is None else batch.mask[..., None]
        observed = (real & ~hiding).flatten(1).float()
        # squared distances, except for a constant of each row
        distances = observed @ values.square().T - 2 * (observed * x) @ values.T
        nearest = distances.topk(min(NEIGHBOURS, len(values)), largest=False).indices
        losses["mean"].append(_density(x, values[None], present[None], missing, data))
        losses["knn"].append(_density(x, values[nearest], present[nearest], missing, data))
    return {name: np.concatenate(parts) for name, parts in losses.items()}


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
    return _sum(each, missing).cpu().numpy()


def interpolation(
    variant: Variant, data: Data, split: Batch, pairs: int = 200, steps: int = 10
) -> dict[str, float] | Undefined:
    """Return how evenly decoded examples change on straight lines between codes; both values are at least 1.

    `jump` is the longest step of a line divided by the mean step; it is `steps` if all change happens in one step.
    `length` is the length of the path through the decoded means divided by the distance of its ends.
    """
    if variant.conditioned_on == "x":
        return Undefined(f"{type(variant).__name__} decodes a code only together with the observed part of an image")
    examples = probe.subset(split, 2 * pairs)
    with machine.seeded(variant.device, 0):
        code = torch.cat([variant.encode(b.unlabelled) for b in data.batches(examples)])
        left, right = code[: len(code) // 2], code[len(code) // 2 : len(code) // 2 * 2]
        path = torch.stack(
            [variant.decode(left.lerp(right, i / steps)).flatten(1) for i in range(steps + 1)], dim=1
        ).double()
    moves = path.diff(dim=1).norm(dim=2)
    ends = (path[:, -1] - path[:, 0]).norm(dim=1)
    distinct = ends > 1e-9
    if not bool(distinct.any()):
        return Undefined("all codes decode to the same example, so nothing lies between them")
    moves, ends = moves[distinct], ends[distinct]
    return {
        "jump": float((moves.max(1).values / moves.mean(1)).mean()),
        "length": float((moves.sum(1) / ends).mean()),
    }


def generation(variant: Variant, data: Data, each: int = 100) -> dict[str, float] | Undefined:
    """Return how often `classifier.trained` assigns samples to the class that was asked for; higher is better.

    `accuracy` is that of `each` samples of every class. For comparison, `real` is that of the test examples whose label
    is known, if there are any.
    """
    if not variant.class_conditional:
        return Undefined(f"{type(variant).__name__} cannot be asked for a class")
    if isinstance(trained := classifier.trained(data), Undefined):
        return trained
    y = torch.arange(data.spec.classes, device=variant.device).repeat_interleave(each)
    with machine.seeded(variant.device, 0):
        parts = [trained(Batch(variant.sample(len(part), part, noise=True)))[1].argmax(1) for part in y.split(1000)]
    scores = {"accuracy": float(torch.eq(torch.cat(parts), y).float().mean())}
    if len(labelled(data.test)):
        scores["real"] = classifier.accuracy(trained, data, data.test)
    return scores


def forecast(variant: Variant, data: Data, split: Batch, draws: int = 10) -> dict[str, float] | Undefined:
    """Return the root mean square error of forecasts of the second half of sequences from the first half.

    It is in the units of the data as they were given; lower is better. The forecast of the `model` is the mean of
    `draws` continuations. The baselines are `persistence`, the last known step, and `mean`, the mean of each step in
    the training data.
    """
    if split.mask is None:
        return Undefined(f"{data.spec.name} holds no sequences")
    half = (split.mask.sum(1) + 1) // 2
    squared: dict[str, list[Tensor]] = {"model": [], "persistence": [], "mean": []}
    counts = []
    scale = data.preprocessing.scale.to(variant.device, torch.float32)
    real = data.train.mask
    assert real is not None
    values = torch.cat([b.x for b in data.batches(data.train)]) * real[..., None]
    mean = values.sum(0) / real.sum(0).clamp(min=1)[:, None]
    with machine.seeded(variant.device, 0):
        for number, batch in enumerate(data.batches(split, 20)):
            assert batch.mask is not None
            prefix = half[20 * number : 20 * number + len(batch)]
            continuations = [f for _ in range(draws) if (f := variant.forecast(batch, prefix)) is not None]
            if not continuations:
                return Undefined(f"{type(variant).__name__} makes no forecasts of sequences")
            model = torch.stack(continuations).mean(0)
            last = batch.x.gather(1, (prefix - 1)[:, None, None].expand(-1, 1, batch.x.shape[2]))
            steps = torch.arange(batch.x.shape[1], device=batch.x.device)
            ahead = (batch.mask & (steps >= prefix[:, None]))[..., None]
            counts.append(ahead.sum() * batch.x.shape[2])
            for name, guess in (("model", model), ("persistence", last), ("mean", mean)):
                squared[name].append(torch.where(ahead, (guess - batch.x) * scale, 0.0).double().square().sum())
    total = float(torch.stack(counts).sum())
    return {name: math.sqrt(float(torch.stack(parts).sum()) / total) for name, parts in squared.items()}


def augmentation(
    variant: Variant, data: Data, labels: int = 100, copies: int = 10, steps: int = 300, draws: int = 3
) -> dict[str, Array] | Undefined:
    """Return the test accuracy of a classifier of few labels, `without` and `with` samples added: (draws,) each.

    The classifier has the architecture of `classifier.Classifier` and is trained for `steps` steps on `labels` training
    examples. `with` adds `copies` samples for each of them; `without` adds the example itself equally often, binarised
    anew each time if the data are. A sample is drawn from p(x|z) with z ~ q(z|x) (or the code, if q has no density) of
    a labelled example, and has its label.
    """
    if variant.conditioned_on == "x":
        return Undefined("augmentation needs a variant that models whole examples")
    if reason := why_no_probe(data, "test"):
        return Undefined(reason)
    accuracies: dict[str, list[float]] = {"without": [], "with": []}
    train = labelled(data.train)
    variant.eval()
    for draw in range(draws):
        with machine.seeded(variant.device, draw):
            chosen = _evenly(train, labels, data.spec.classes)
            real = [data.batch(chosen, slice(None)) for _ in range(copies + 1)]
            samples = []
            for batch in real[1:]:
                unlabelled = batch.unlabelled
                proposal = variant.sample_posterior(unlabelled)
                z = variant.encode(unlabelled) if proposal is None else proposal[0]
                samples.append(replace(batch, x=variant.sample_x(z, unlabelled)))
            for name, split in (("without", Batch.cat(real)), ("with", Batch.cat([real[0], *samples]))):
                torch.manual_seed(draw)
                learner = classifier.Classifier(data).to(variant.device)
                classifier.fit(learner, data, split, steps)
                accuracies[name].append(classifier.accuracy(learner, data, data.test))
    return {name: np.array(values) for name, values in accuracies.items()}


def _evenly(split: Batch, n: int, classes: int) -> Batch:
    """Return about `n` examples of a split, equally many of each class."""
    assert split.y is not None
    members = [torch.eq(split.y, c).nonzero()[:, 0] for c in range(classes)]
    chosen = [i[torch.randperm(len(i))[: max(1, n // classes)].to(i.device)] for i in members]
    return split[torch.cat(chosen)]
