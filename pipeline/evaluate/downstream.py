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
from pipeline.evaluate import baselines, classifier, likelihood, probe
from pipeline.evaluate.codes import encode_split, labelled, labels_of, why_no_probe
from pipeline.evaluate.imputation import conditional_mean
from pipeline.metrics import Undefined, defined
from variants import Batch, DataSpec, Variant
from variants.base import Inputs

Array = NDArray[np.float64]
NEIGHBOURS = 20  # training examples whose mean replaces missing values
WITH_NEIGHBOURS = ("bernoulli", "gaussian")  # likelihoods for which the nearest training examples are a baseline
RARE = 0.25  # the share of the training examples below which the rarer of two classes is looked for as outliers
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
    of_class = replace(split, y=torch.full_like(y, normal) if variant.conditioned_on == "y" else None)
    is_anomaly = torch.ne(y, normal).cpu().numpy()
    scores = strangeness(variant, data, of_class, k, marginal=False)
    return {name: float(roc_auc_score(is_anomaly, score)) for name, score in scores.items()}


def outliers(variant: Variant, data: Data, k: int = 50) -> dict[str, float] | Undefined:
    """Return how well scores of a model tell the test examples of a rare class from the others.

    The model was trained on both classes, without the labels. `roc_SCORE` is the area under the ROC curve, 0.5 by
    chance; `precision_recall_SCORE` that under the curve of precision and recall, by chance the `share` of the rare
    class. The scores are those of `anomaly`, beside that of an isolation forest of 200 trees (Liu et al. 2008).

    The result is undefined unless there are two classes, of which the rarer one has less than 25% of the training
    examples.
    """
    from sklearn.metrics import average_precision_score, roc_auc_score

    counts = np.bincount(labels_of(labelled(data.train)), minlength=data.spec.classes)
    split = labelled(data.test)
    if len(counts) != 2 or not counts.min() < RARE * counts.sum():
        return Undefined(f"{data.spec.name} has no two classes of which one is rare (less than {RARE:.0%})")
    is_rare = labels_of(split) == counts.argmin()
    if not 0 < is_rare.sum() < len(is_rare):
        return Undefined(
            f"the test split of {data.spec.name} has {is_rare.sum()} of {len(is_rare)} examples of the rare class"
        )
    scores = strangeness(variant, data, split.unlabelled, k)
    values = {"share": float(is_rare.mean())}
    for name, score in (scores | {"isolation_forest": _isolation_forest(data, split)}).items():
        values[f"roc_{name}"] = float(roc_auc_score(is_rare, score))
        values[f"precision_recall_{name}"] = float(average_precision_score(is_rare, score))
    return values


def strangeness(variant: Variant, data: Data, split: Batch, k: int, *, marginal: bool = True) -> dict[str, Array]:
    """Return scores of each example, (N,), by name, which are high for examples unlike the training data.

    See `anomaly` for what they are. With `marginal`, the bound `iw` sums over the classes of a conditional variant.
    """
    parts: dict[str, list[Tensor]] = {}
    variant.eval()
    with machine.seeded(variant.device, 0):
        for batch in data.batches(split):
            terms = variant.terms(batch, torch.zeros((), device=variant.device))
            parts.setdefault("reconstruction", []).append(terms.reconstruction)
            if terms.elbo is not None:
                parts.setdefault("elbo", []).append(-terms.elbo)
            for name in (n for n in terms.extras if n.endswith("_score")):
                parts.setdefault(name.removesuffix("_score"), []).append(-terms.extras[name])
    scores = {name: torch.cat(values).double().cpu().numpy() for name, values in parts.items()}
    if "elbo" in scores:
        scores["iw"] = -defined(likelihood.importance_weighted(variant, data, split, k, marginal=marginal)).numpy()
    if len(data.train) > 1:  # one example has no covariance
        scores["latent"] = mahalanobis(encode_split(variant, data, split), encode_split(variant, data, data.train))
    return scores


def _isolation_forest(data: Data, split: Batch) -> Array:
    """Return the anomaly score of each example, (N,). Missing values are replaced by the mean of the training data."""
    from sklearn.ensemble import IsolationForest
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline

    values = []
    for part in (data.train, split):
        batches = data.batches(part)
        x = torch.cat([b.x if b.known is None else b.x.where(b.known, torch.nan) for b in batches])
        values.append(x.flatten(1).cpu().numpy())
    impute = SimpleImputer(keep_empty_features=True)
    forest = make_pipeline(impute, IsolationForest(n_estimators=200, random_state=0)).fit(values[0])
    score: Array = -forest.score_samples(values[1])
    return score


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

    If counts are modelled given their sum, this becomes the sum of those that remain.
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
    - `encoder` takes its place if training values are missing, because the encoder then reads which values are: the
      mean is over equally many draws of q(z|observed), or it is for the code if q has no density.
    - `importance` weights the same draws by p(z) p(observed|z) / q, if q has a density (Mattei & Frellsen 2018). The
      weights of Gibbs chains are unbounded, because q treats completed values as observed ones.
    - `mean` is a baseline: each value by itself, with its distribution in the training data.
    - `knn` is a baseline for binary and Gaussian values: with their distribution in the 20 training examples that are
      nearest in the observed part.

    With few draws the first methods give values that are too high. If counts are modelled given their sum, the sum of
    those that remain is given, and examples where it is 0 take no part. The result is undefined if values are dependent
    given z, if the variant itself models missing values, or if no example takes part.
    """
    if reason := _why_no_imputation(variant):
        return Undefined(reason)
    split, missing = _with_gaps(data, split)
    if not len(split):
        return Undefined(f"no example of {data.spec.name} has counts above 0 among those that remain")
    variant.eval()
    spec, losses = variant.spec, dict[str, list[Tensor]]()
    scale = 255 if data.train.x.dtype == torch.uint8 else 1
    mean = data.train.x.float().mean(0) / scale
    with machine.seeded(variant.device, 0):
        for batch, hiding in _portions(data, split, missing, max(1, 2000 // chains)):
            index = torch.arange(len(batch), device=hiding.device).repeat_interleave(chains)
            true, gaps = batch.unlabelled[index], hiding[index]
            rest = hide(true, gaps, spec)
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
            gain = torch.stack(log_p, 1).view(len(batch), -1)
            name = "encoder" if spec.missing else "gibbs"
            losses.setdefault(name, []).append(math.log(gain.shape[1]) - gain.logsumexp(1))
            if log_weights:
                weight = torch.stack(log_weights, 1).view(len(batch), -1)
                losses.setdefault("importance", []).append(weight.logsumexp(1) - (weight + gain).logsumexp(1))
    values = {name: torch.cat(parts).cpu().numpy() for name, parts in losses.items()}
    return values | _baselines(data, split, missing)


def imputation_error(variant: Variant, data: Data, split: Batch) -> dict[str, float] | Undefined:
    """Return the root mean square error of hidden real values of a table, in standard deviations of their columns.

    `rmse` is that of `conditional_mean`, `rmse_mean` that of the means of the training data, about 1, and `rmse_knn`
    that of the means of the 20 nearest training examples. The rows and the hidden values are those of `imputation`.
    """
    from sklearn.impute import KNNImputer

    if reason := _why_no_imputation(variant):
        return Undefined(reason)
    real = data.spec.kinds.get("real")
    if real is None or split.x.ndim != 2:
        return Undefined(f"{data.spec.name} is no table with columns of real values")
    split, missing = _with_gaps(data, split)
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
        (inputs(b) if b.known is None else inputs(b).where(b.known, torch.nan)).cpu().numpy()
        for b in (data.batch(probe.subset(data.train), slice(None)), rest)
    )
    imputer = KNNImputer(n_neighbors=min(NEIGHBOURS, len(train)), keep_empty_features=True).fit(train)
    nearest = torch.from_numpy(imputer.transform(incomplete)).to(true.x)
    guesses = {"rmse": guess, "rmse_mean": torch.zeros_like(true.x), "rmse_knn": nearest}
    return {name: float((x - true.x)[chosen].double().square().mean().sqrt()) for name, x in guesses.items()}


def _why_no_imputation(variant: Variant) -> str:
    name = type(variant).__name__
    if not variant.factorized:
        return f"{name} reads the preceding values: given z the values are not independent"
    return f"{name} is itself a model of missing values" if variant.conditioned_on == "x" else ""


def _with_gaps(data: Data, split: Batch) -> tuple[Batch, Tensor]:
    """Return the examples that `imputation` scores, and which of their values are hidden."""
    missing = hidden(data, split)
    if data.spec.exposure != "sum":
        return split, missing
    rest = hide(split, missing, data.spec)
    assert rest.exposure is not None
    scored = (rest.exposure > 0).nonzero()[:, 0]
    return split[scored], missing[scored]


def _with_exposure(variant: Variant, z: Tensor, true: Batch, rest: Batch) -> Batch:
    """Return `true` with the exposure that follows from the counts in `rest` alone.

    If this is their sum, it is divided by the share that they have, by the decoder, of the counts in `true`.
    """
    if variant.spec.exposure != "sum":
        return true
    assert true.exposure is not None
    is_count = variant.spec.kinds["count"].to(z.device)
    sums = [variant.decode(z, batch)[..., is_count].sum(-1) for batch in (rest, true)]
    return replace(true, exposure=true.exposure * sums[0] / sums[1])


def _portions(data: Data, split: Batch, missing: Tensor, size: int) -> Iterator[tuple[Batch, Tensor]]:
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
    present = torch.ones_like(values)
    if train.known is not None:
        present = train.known.expand_as(train.x).flatten(1).float()
    losses: dict[str, list[Array]] = {"mean": [], "knn": []}
    for batch, hiding in _portions(data, split, missing, 100):
        x, gaps = batch.x.flatten(1), hiding.flatten(1)
        known = torch.ones_like(batch.x, dtype=torch.bool) if batch.known is None else batch.known
        observed = (known & ~hiding).flatten(1).float()
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
    for batch, gaps in _portions(data, split, missing, 100):
        if spec.exposure == "sum":
            rest, is_count = hide(batch, gaps, spec), spec.kinds["count"].to(gaps.device)
            rates = batch.x.new_tensor([rate for g in spec.parts if g.kind == "count" for rate in g.offset]).exp()
            known = torch.ones_like(gaps) if batch.observed is None else batch.observed
            assert rest.exposure is not None and rest.observed is not None
            remaining, every = ((part[..., is_count] * rates).sum(-1) for part in (rest.observed, known))
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


def interpolation(
    variant: Variant, data: Data, split: Batch, pairs: int = 200, steps: int = 10
) -> dict[str, float] | Undefined:
    """Return how evenly decoded examples change on straight lines between codes; both values are at least 1.

    `jump` is the longest step of a line divided by the mean step; it is `steps` if all change happens in one step.
    `length` is the length of the path through the decoded means divided by the distance of its ends. Distances are
    between values as a network reads them, so of log(1 + x) for counts.
    """
    if variant.conditioned_on == "x":
        return Undefined(f"{type(variant).__name__} decodes a code only together with the observed part of an image")
    examples = probe.subset(split, 2 * pairs)
    with machine.seeded(variant.device, 0):
        code = torch.cat([variant.encode(b.unlabelled) for b in data.batches(examples)])
        left, right = code[: len(code) // 2], code[len(code) // 2 : len(code) // 2 * 2]
        inputs = Inputs(variant.spec).to(variant.device)
        points = [inputs.of(variant.decode(left.lerp(right, i / steps))) for i in range(steps + 1)]
        path = torch.stack([point.flatten(1) for point in points], dim=1).double()
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
    `draws` continuations. The baselines are `persistence`, the last known value, and `mean`, the mean of each step in
    the training data. Missing values take no part.
    """
    if split.mask is None:
        return Undefined(f"{data.spec.name} holds no sequences")
    half = (split.mask.sum(1) + 1) // 2
    squared: dict[str, list[Tensor]] = {"model": [], "persistence": [], "mean": []}
    counts = []
    scale = data.preprocessing.scale.to(variant.device, torch.float32)
    known = data.train.known
    assert known is not None
    mean = (torch.cat([b.x for b in data.batches(data.train)]) * known).sum(0) / known.sum(0).clamp(min=1)
    with machine.seeded(variant.device, 0):
        for number, batch in enumerate(data.batches(split, 20)):
            assert batch.mask is not None
            prefix = half[20 * number : 20 * number + len(batch)]
            continuations = [f for _ in range(draws) if (f := variant.forecast(batch, prefix)) is not None]
            if not continuations:
                return Undefined(f"{type(variant).__name__} makes no forecasts of sequences")
            model = torch.stack(continuations).mean(0)
            assert batch.known is not None
            known = batch.known.expand_as(batch.x)
            steps = torch.arange(batch.x.shape[1], device=batch.x.device)[:, None]
            before = steps < prefix[:, None, None]
            # the last known value before; 0, the mean, if there is none
            position = torch.where(known & before, steps, -1).max(1, keepdim=True).values
            last = torch.where(position < 0, 0.0, batch.x.gather(1, position.clamp(min=0)))
            ahead = known & ~before
            counts.append(ahead.sum())
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
