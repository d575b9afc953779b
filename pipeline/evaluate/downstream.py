"""What people use a VAE for, scored: anomalies, missing values, interpolation, classes to order, forecasts, more data.

Each function takes a variant and data, and returns numbers by name; what a variant cannot do raises `InputError`.
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
from pipeline.evaluate.codes import encode_split
from variants import Batch, InputError, Variant

Array = NDArray[np.float64]
NEIGHBOURS = 20  # whose mean fills in what is missing
BURN_IN = 10  # rounds of a Gibbs chain that do not count


def anomaly(variant: Variant, data: Data, split: Batch, normal: int, k: int = 50) -> dict[str, float]:
    """Area under the ROC curve for telling examples of other classes from those of class `normal`; .5 is chance.

    The variant and `data.train` are of that class alone; a variant that is told a class is told that one. The scores,
    by what is strange: a high `reconstruction` -E log p(x|z); a low `elbo` or `iw` bound (`k` draws), where q has a
    density; a code far from those of the training examples (`latent`, Mahalanobis distance); and a low score of the
    variant's own, such as `discriminator`.
    """
    from sklearn.metrics import roc_auc_score

    y = split.y
    if y is None or not 0 < int(torch.eq(y, normal).sum()) < len(y):
        raise InputError(f"class {normal} as normal: expected examples of it, and of others, in {data.spec.name}")
    blind = replace(split, y=torch.full_like(y, normal) if variant.conditioned_on == "y" else None)
    found: dict[str, list[Tensor]] = {}
    variant.eval()
    with machine.seeded(variant.device, 0):
        for batch in data.batches(blind):
            terms = variant.terms(batch, torch.zeros((), device=variant.device))
            found.setdefault("reconstruction", []).append(terms.reconstruction)
            if terms.elbo is not None:
                found.setdefault("elbo", []).append(-terms.elbo)
            for name in (n for n in terms.extras if n.endswith("_score")):
                found.setdefault(name.removesuffix("_score"), []).append(-terms.extras[name])
    scores = {name: torch.cat(parts).double().cpu().numpy() for name, parts in found.items()}
    if "elbo" in scores:
        scores["iw"] = -likelihood.importance_weighted(variant, data, blind, k, marginal=False).numpy()
    scores["latent"] = mahalanobis(encode_split(variant, data, split), encode_split(variant, data, data.train))
    odd = torch.ne(y, normal).cpu().numpy()
    return {name: float(roc_auc_score(odd, score)) for name, score in scores.items()}


def mahalanobis(points: Array, known: Array) -> Array:
    """(N,) distance of points (N, Z) from the mean of `known` (M, Z) by its covariance.

    Columns that vary less than a hundredth of the widest do not count.
    """
    heard = known.std(axis=0) > 0.01 * known.std(axis=0).max()
    points, known = points[:, heard], known[:, heard]
    inverse = np.linalg.pinv(np.atleast_2d(np.cov(known, rowvar=False)), rcond=1e-8, hermitian=True)
    away = points - known.mean(axis=0)
    distance: Array = np.sqrt(np.einsum("ni,ij,nj->n", away, inverse, away).clip(min=0))
    return distance


def hidden(data: Data, split: Batch) -> Tensor:
    """(N, *shape) bool, true where `imputation` takes a value away.

    The lower half of an image, the second half of a sequence's steps, and random halves of a table's rows.
    """
    shape, n = split.x.shape[1:], len(split)
    if split.mask is not None:
        places = torch.arange(shape[0], device=split.x.device)
        real = split.mask.sum(1, keepdim=True)
        return ((places >= (real + 1) // 2) & split.mask)[..., None].expand(n, *shape)
    if len(shape) == 3:
        lower = torch.arange(shape[1], device=split.x.device)[:, None] >= shape[1] // 2
        return lower.expand(n, *shape)
    generator = torch.Generator().manual_seed(0)
    return (torch.rand(n, *shape, generator=generator) < 0.5).to(split.x.device)


def imputation(variant: Variant, data: Data, split: Batch, *, chains: int = 20, rounds: int = 60) -> dict[str, Array]:
    """(N,) -log p(missing|seen) of each example of a split, in nats, lower is better, by several ways.

    `gibbs`: the mean of p(missing|z) over draws of pseudo-Gibbs chains, z from q(z|x) and the missing part from p(x|z)
    in turn (Rezende et al. 2014, appendix F); the first 10 rounds of a chain do not count. `importance`: the same
    draws, each weighted by p(z) p(seen|z) / q(z|what was filled in), where q has a density (Mattei & Frellsen 2018).
    Few draws make both too high; the weights have no bound, as q takes what was filled in for seen. Beside them
    `mean`, each value by itself as in the training data, and `knn`, as in the 20 training examples nearest in what is
    seen.

    Raises `InputError` where values depend on each other given z, or are neither binary nor Gaussian.
    """
    name = type(variant).__name__
    if not variant.factorized:
        raise InputError(f"{name} reads the values before each: given z they are not independent")
    if variant.conditioned_on == "x":
        raise InputError(f"{name} is itself a model of what is missing")
    if data.spec.likelihood not in ("bernoulli", "gaussian"):
        raise InputError(f"the baselines of imputation fit binary and Gaussian values, not {data.spec.likelihood}")
    variant.eval()
    found: dict[str, list[Tensor]] = {}
    scale = 255 if data.train.x.dtype == torch.uint8 else 1
    filling = data.train.x.float().mean(0) / scale
    with machine.seeded(variant.device, 0):
        for batch, gone in _portions(data, split, max(1, 2000 // chains)):
            index = torch.arange(len(batch), device=gone.device).repeat_interleave(chains)
            true, away = replace(batch, y=None)[index], gone[index]
            now = replace(true, x=torch.where(away, filling, true.x))
            missing, weights = [], []
            for turn in range(rounds):
                proposal = variant.sample_posterior(now)
                z = variant.encode(now) if proposal is None else proposal[0]
                if turn >= BURN_IN:
                    each = variant.log_likelihood(z, true)
                    missing.append(_sum(each, away))
                    if proposal is not None:
                        weights.append(_sum(each, ~away) + variant.log_prior(z, true) - proposal[1])
                now = replace(now, x=torch.where(away, variant.sample_x(z, now), true.x))
            gain = torch.stack(missing, 1).view(len(batch), -1)
            found.setdefault("gibbs", []).append(math.log(gain.shape[1]) - gain.logsumexp(1))
            if weights:
                weight = torch.stack(weights, 1).view(len(batch), -1)
                found.setdefault("importance", []).append(weight.logsumexp(1) - (weight + gain).logsumexp(1))
    return {way: torch.cat(parts).cpu().numpy() for way, parts in found.items()} | _fillings(data, split)


def _portions(data: Data, split: Batch, size: int) -> Iterator[tuple[Batch, Tensor]]:
    for start, batch in enumerate(data.batches(split, size)):
        yield batch, hidden(data, split)[start * size : start * size + len(batch)]


def _sum(values: Tensor, where: Tensor) -> Tensor:
    return torch.where(where, values, 0.0).flatten(1).sum(1).double()


def _fillings(data: Data, split: Batch) -> dict[str, Array]:
    """-log p(missing) by the training data's values alone, and by those of the nearest training examples."""
    train = probe.subset(data.train)
    known = torch.cat([b.x.flatten(1) for b in data.batches(train)])
    there = (
        torch.ones_like(known) if train.mask is None else train.mask[..., None].expand_as(train.x).flatten(1).float()
    )
    found: dict[str, list[Array]] = {"mean": [], "knn": []}
    for batch, gone in _portions(data, split, 100):
        x, away = batch.x.flatten(1), gone.flatten(1)
        real = torch.ones_like(batch.x, dtype=torch.bool) if batch.mask is None else batch.mask[..., None]
        seen = (real & ~gone).flatten(1).float()
        apart = seen @ known.square().T - 2 * (seen * x) @ known.T  # squared distances, less a constant of each row
        nearest = apart.topk(min(NEIGHBOURS, len(known)), largest=False).indices
        found["mean"].append(_density(x, known[None], there[None], away, data))
        found["knn"].append(_density(x, known[nearest], there[nearest], away, data))
    return {way: np.concatenate(parts) for way, parts in found.items()}


def _density(x: Tensor, like: Tensor, there: Tensor, gone: Tensor, data: Data) -> Array:
    """(B,) -log p of missing values x (B, D), each by itself, from examples (B or 1, M, D) where they are `there`."""
    count, total = there.sum(1), (like * there).sum(1)
    if data.spec.likelihood == "bernoulli":  # Laplace's rule keeps what was never seen possible
        mean = (total + 1) / (count + 2)
        each = -(x * mean.log() + (1 - x) * (1 - mean).log())
    else:
        mean = total / count.clamp(min=1)
        squared = ((like - mean[:, None]).square() * there).sum(1) / (count - 1).clamp(min=1)
        variance = ((squared * gone).sum(1) / gone.sum(1).clamp(min=1))[:, None].clamp(min=1e-3)
        each = 0.5 * ((x - mean).square() / variance + (2 * math.pi * variance).log())
    return _sum(each, gone).cpu().numpy()


def interpolation(variant: Variant, data: Data, split: Batch, pairs: int = 200, steps: int = 10) -> dict[str, float]:
    """How evenly decoded examples change on straight lines between codes; 1 is the least of both numbers.

    `jump`: the longest of a line's steps over their mean, and so `steps` where all change happens in one.
    `length`: the way through the decoded means over the distance of its ends.
    """
    if variant.conditioned_on == "x":
        raise InputError(f"{type(variant).__name__} decodes codes for one image only, that of which a part is seen")
    few = probe.subset(split, 2 * pairs)
    with machine.seeded(variant.device, 0):
        code = torch.cat([variant.encode(Batch(b.x, mask=b.mask)) for b in data.batches(few)])
        left, right = code[: len(code) // 2], code[len(code) // 2 : len(code) // 2 * 2]
        path = torch.stack(
            [variant.decode(left.lerp(right, i / steps)).flatten(1) for i in range(steps + 1)], dim=1
        ).double()
    moves = path.diff(dim=1).norm(dim=2)
    ends = (path[:, -1] - path[:, 0]).norm(dim=1)
    moved = ends > 1e-9
    if not bool(moved.any()):
        raise InputError("all codes decode to one example; there is no way between them")
    moves, ends = moves[moved], ends[moved]
    return {
        "jump": float((moves.max(1).values / moves.mean(1)).mean()),
        "length": float((moves.sum(1) / ends).mean()),
    }


def generation(variant: Variant, data: Data, made: classifier.Classifier, each: int = 100) -> dict[str, float]:
    """Share of samples that the judge takes for the class asked for, higher is better; `real`: of test examples."""
    if not variant.class_conditional:
        raise InputError(f"{type(variant).__name__} cannot be asked for a class")
    y = torch.arange(data.spec.classes, device=variant.device).repeat_interleave(each)
    with machine.seeded(variant.device, 0):
        parts = [made(Batch(variant.sample(len(part), part, noise=True)))[1].argmax(1) for part in y.split(1000)]
    return {
        "accuracy": float(torch.eq(torch.cat(parts), y).float().mean()),
        "real": classifier.accuracy(made, data, data.test),
    }


def forecast(variant: Variant, data: Data, split: Batch, draws: int = 10) -> dict[str, float]:
    """Root mean square error of the second half of sequences, foretold from the first, in units of the data as given.

    What is foretold is the mean of `draws` continuations, as a point is asked for.
    Beside it `persistence`, the last step that is known, and `mean`, the training data's mean of each step.
    """
    if split.mask is None:
        raise InputError(f"{data.spec.name} holds no sequences")
    half = (split.mask.sum(1) + 1) // 2
    squared: dict[str, list[Tensor]] = {"model": [], "persistence": [], "mean": []}
    counts = []
    real = data.train.mask
    assert real is not None
    values = torch.cat([b.x for b in data.batches(data.train)]) * real[..., None]
    mean = values.sum(0) / real.sum(0).clamp(min=1)[:, None]
    with machine.seeded(variant.device, 0):
        for start, batch in enumerate(data.batches(split, 20)):
            prefix = half[20 * start : 20 * start + len(batch)]
            several = [variant.forecast(batch, prefix) for _ in range(draws)]
            if several[0] is None:
                raise InputError(f"{type(variant).__name__} foretells no sequences")
            told = torch.stack([one for one in several if one is not None]).mean(0)
            assert batch.mask is not None
            last = batch.x.gather(1, (prefix - 1)[:, None, None].expand(-1, 1, batch.x.shape[2]))
            places = torch.arange(batch.x.shape[1], device=batch.x.device)
            ahead = (batch.mask & (places >= prefix[:, None]))[..., None]
            counts.append(ahead.sum() * batch.x.shape[2])
            for way, guess in (("model", told), ("persistence", last), ("mean", mean)):
                squared[way].append(torch.where(ahead, (guess - batch.x) * data.scale, 0.0).double().square().sum())
    total = float(torch.stack(counts).sum())
    return {way: math.sqrt(float(torch.stack(parts).sum()) / total) for way, parts in squared.items()}


def augmentation(
    variant: Variant, data: Data, labels: int = 100, copies: int = 10, steps: int = 300, draws: int = 3
) -> dict[str, Array]:
    """(draws,) test accuracy of a classifier of `labels` training examples, `without` and `with` samples added.

    `with` has `copies` samples beside each example; `without` has the example as often instead, binarised anew each
    time where it is. A sample is a draw of p(x|z), z ~ q(z|x) (or the code, where q has no density), of each labelled
    example in turn, and has its label. The classifier is a judge, trained for `steps` steps either way.
    """
    if not data.spec.classes or variant.conditioned_on == "x":
        raise InputError("more examples need labels, and a variant of whole examples")
    found: dict[str, list[float]] = {"without": [], "with": []}
    known = data.train[torch.ge(data.train.y, 0).nonzero()[:, 0]]  # type: ignore[arg-type]
    variant.eval()
    for draw in range(draws):
        with machine.seeded(variant.device, draw):
            chosen = _evenly(known, labels, data.spec.classes)
            real = [data.batch(chosen, slice(None)) for _ in range(copies + 1)]
            made = []
            for many in real[1:]:
                blind = replace(many, y=None)
                proposal = variant.sample_posterior(blind)
                z = variant.encode(blind) if proposal is None else proposal[0]
                made.append(replace(many, x=variant.sample_x(z, blind)))
            for way, split in (("without", _joined(real)), ("with", _joined([real[0], *made]))):
                torch.manual_seed(draw)
                learner = classifier.Classifier(data).to(variant.device)
                classifier.fit(learner, data, split, steps)
                found[way].append(classifier.accuracy(learner, data, data.test))
    return {way: np.array(values) for way, values in found.items()}


def _joined(parts: list[Batch]) -> Batch:
    y, mask = ([f for b in parts if (f := getattr(b, name)) is not None] for name in ("y", "mask"))
    return Batch(torch.cat([b.x for b in parts]), torch.cat(y) if y else None, torch.cat(mask) if mask else None)


def _evenly(split: Batch, n: int, classes: int) -> Batch:
    """About `n` examples of a split, as many of each class."""
    assert split.y is not None
    each = [torch.eq(split.y, c).nonzero()[:, 0] for c in range(classes)]
    picked = [i[torch.randperm(len(i))[: max(1, n // classes)].to(i.device)] for i in each]
    return split[torch.cat(picked)]
