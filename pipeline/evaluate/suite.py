"""The full evaluation of a trained model: every metric that is defined for it, and a reason for each of the others.

for part in suite.run(variant, data):
    part.scores, part.pictures
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline import machine, trainer
from pipeline.data import Data
from pipeline.evaluate import (
    ais,
    baselines,
    classifier,
    clusters,
    disentanglement,
    downstream,
    hidden_values,
    latents,
    likelihood,
    pictures,
    probe,
    samples,
)
from pipeline.evaluate.codes import (
    encode_split,
    labelled,
    labels_of,
    posterior_and_prior,
    raw_values,
    why_no_labels,
    why_no_probe,
)
from pipeline.evaluate.context import Context, Part, Score, Sizes
from pipeline.metrics import Undefined
from variants import Batch, InputError, Variant
from variants.base.contract import DENSITIES

Array = NDArray[np.float64]
NO_DENSITY = "q(z|x) has no density"
AREAS = ("probe/roc_area_all", "probe/precision_recall_area_all")
NO_KL = "q(z|x) has no KL per dimension"


def run(
    variant: Variant, data: Data, *, sizes: Sizes | None = None, only: tuple[str, ...] = (), seed: int = 0
) -> Iterator[Part]:
    """Score a model on the test split, part by part; `only` selects some of `PARTS`. The model does not change."""
    context = Context(variant.eval(), data, sizes or Sizes(), seed)
    for name in names(only):
        yield PARTS[name](context)


def names(only: Sequence[str] = ()) -> list[str]:
    """Return the names of the parts in their order, or those of `only`. Raises `InputError` for an unknown part."""
    for name in only:
        if name not in PARTS:
            raise InputError(f"part {name!r}: expected {', '.join(PARTS)}")
    return [name for name in PARTS if not only or name in only]


def _bounds(context: Context) -> Part:
    variant, totals, data, sizes = context.variant, context.totals, context.data, context.sizes
    scores = [_mean("test/reconstruction", totals.sums["reconstruction"], totals.count)]
    if len(data.spec.kinds) > 1:
        for kind, each in likelihood.by_kind(variant, data, data.test, context.seed).items():
            scores.append(_average(f"test/reconstruction_{kind}", each.numpy()))
    elbo = None
    if "kl" in totals.sums:
        loss = totals.sums["reconstruction"] + totals.sums["kl"]
        elbo = -float(loss) / totals.count
        scores += [_mean("test/kl", totals.sums["kl"], totals.count), _mean("test/elbo", -loss, totals.count)]
    else:
        scores += _undefined(("test/kl", "test/elbo"), NO_DENSITY)
    is_whole = variant.conditioned_on != "x"
    if data.spec.has_density and is_whole:
        scores.append(_elbo_in_units(elbo, data))
    name, split = f"test/iw{sizes.iw_k}", probe.subset(data.test, sizes.iw_n)
    bound = likelihood.importance_weighted(variant, data, split, sizes.iw_k, seed=context.seed)
    if isinstance(bound, Undefined):
        scores += _undefined([name], bound.reason)
    else:
        scores.append(_average(name, bound.numpy(), k=sizes.iw_k))
        if data.spec.likelihood == "logistic8" and is_whole:
            bits = likelihood.bits_per_dimension(float(bound.mean()), data.spec)
            scores.append(Score(name="test/bits_per_dimension", value=bits, n=len(bound), k=sizes.iw_k))
    if not is_whole:
        remark = "likelihoods are of the missing part given the observed part; those of other variants do not compare"
        return Part(name="bounds", scores=scores, remark=remark)
    trivial = _baselines(context)
    scores += trivial
    tightest = elbo
    if elbo is not None and not isinstance(bound, Undefined) and len(bound) == totals.count:
        tightest = max(elbo, float(bound.mean()))
    return Part(name="bounds", scores=scores, remark=_remark_on_bounds(tightest, trivial, data))


def _elbo_in_units(elbo: float | None, data: Data) -> Score:
    if elbo is None:
        return Score(name="test/elbo_units", value=None, reason=NO_DENSITY)
    return Score(name="test/elbo_units", value=elbo + likelihood.mean_log_jacobian(data, data.test), n=len(data.test))


def _baselines(context: Context) -> list[Score]:
    """Return the mean log p(x) of the test examples under each simple baseline model."""
    data = context.data
    values = baselines.log_p(data, data.test) | {"ppca": baselines.ppca(data, data.test, context.codes.shape[1])}
    return [
        Score(name=f"baseline/test_{name}", value=None, reason=each.reason)
        if isinstance(each, Undefined)
        else _average(f"baseline/test_{name}", each.cpu().numpy())
        for name, each in values.items()
    ]


def _remark_on_bounds(bound: float | None, trivial: list[Score], data: Data) -> str:
    """Return whether a bound of log p(x) exceeds the baselines, and whether it is a density, in words."""
    titles = baselines.titled({s.name: s.value for s in trivial if s.value is not None}, data.spec)
    remarks = [] if bound is None else [baselines.verdict(bound, titles)]
    densities = [kind for kind in data.spec.kinds if kind in DENSITIES]
    probabilities = [kind for kind in data.spec.kinds if kind not in DENSITIES]
    if densities and probabilities:
        remarks.append(
            f"the likelihood is a density: the product of a density of some values ({', '.join(densities)}) and a "
            f"probability of the others ({', '.join(probabilities)}); test/reconstruction_KIND is the part of each kind"
        )
    return "; ".join(remark for remark in remarks if remark)


def _annealing(context: Context) -> Part:
    variant, data, sizes, seed = context.variant, context.data, context.sizes, context.seed
    split = probe.subset(data.test, sizes.ais_n)
    batch = next(data.batches(split, len(split)))
    pilot = next(data.batches(probe.subset(data.valid, 8), 8))
    tuned = ais.tune(variant, pilot, sizes.ais_temperatures, seed=seed)
    if isinstance(tuned, Undefined):
        return Part(name="annealing", scores=_undefined(("test/ais", "test/ais_gap", "test/ais_less_iw"), tuned.reason))
    k = sizes.ais_chains
    annealed = ais.estimate(variant, batch, tuned, chains=k, seed=seed)
    gap = ais.gap(variant, batch[slice(0, sizes.gap_n)], tuned, chains=k, seed=seed).numpy()
    scores = [_average("test/ais", annealed.log_p.numpy(), k=k), _average("test/ais_gap", gap, k=k)]
    bound = likelihood.importance_weighted(variant, data, split, sizes.iw_k, seed=seed)
    if isinstance(bound, Undefined):
        scores += _undefined(["test/ais_less_iw"], bound.reason)
    else:
        scores.append(_average("test/ais_less_iw", (annealed.log_p - bound).numpy(), k=sizes.iw_k))
    curve = pictures.rate_distortion(annealed.rate, annealed.distortion)
    return Part(name="annealing", scores=scores, pictures={"rate_distortion": curve})


def _latents(context: Context) -> Part:
    variant, kl, test = context.variant, context.kl, context.codes
    remark, vectors = "", {}
    if kl is None:
        scores = _undefined(["latent/active_units_kl"], NO_KL)
    else:
        active = latents.active_units_kl(kl)
        scores = [Score(name="latent/active_units_kl", value=active, n=context.totals.count)]
        remark, vectors = latents.verdict(kl), {"kl_per_dimension": kl.tolist()}
    if variant.conditioned_on == "x":
        divergence: float | Undefined = Undefined("each example has a prior of its own")
    elif variant.conditioned_on or variant.levels or variant.latent_classes:
        divergence = Undefined("the prior's dimensions depend on a class, or on the level above")
    else:
        posterior, prior = posterior_and_prior(variant, context.data, context.data.test, context.sizes.samples)
        divergence = latents.dimension_kl(posterior, prior)
    if isinstance(divergence, Undefined):
        undefined = ("latent/active_units_cov", "latent/dimension_kl", "latent/mutual_information")
        scores += _undefined(undefined, divergence.reason)
    else:
        n, active = len(posterior), latents.active_units(test, prior)
        scores.append(Score(name="latent/active_units_cov", value=active, n=len(test)))
        scores.append(Score(name="latent/dimension_kl", value=divergence, n=n, k=5))
        if kl is None:
            scores += _undefined(["latent/mutual_information"], NO_KL)
        else:
            scores.append(Score(name="latent/mutual_information", value=float(kl.sum()) - divergence, n=n, k=5))
    return Part(name="latents", scores=scores, vectors=vectors, remark=remark)


def _probe(context: Context) -> Part:
    variant, data, sizes, seed = context.variant, context.data, context.sizes, context.seed
    if reason := why_no_probe(data, "test"):
        undefined = (*(f"linear_{n}" for n in (*sizes.labels, "all")), "balanced_all", "knn")
        return Part(name="probe", scores=_undefined([*(f"probe/{name}" for name in undefined), *AREAS], reason))
    known_train, known_test, is_known = labelled(data.train), labelled(data.test), context.labels >= 0
    train_y, test_y = labels_of(known_train), labels_of(known_test)
    features = {
        "": (encode_split(variant, data, known_train), context.codes[is_known]),
        **_trivial_features(context, known_train, known_test),
    }
    share, curves = probe.majority(train_y, test_y), {}
    scores = [Score(name="probe/majority_all", value=share, n=len(test_y), k=len(train_y))]
    chosen = np.sort(np.random.default_rng(seed).permutation(len(train_y))[: probe.TRAINING_EXAMPLES])
    (values, counts), total = np.unique(train_y, return_counts=True), len(train_y)
    classes, rarer = len(values), int(counts.argmin())
    has_areas = classes == len(np.unique(test_y)) == 2
    if not has_areas:
        scores += _undefined(AREAS, f"they are of two classes; {data.spec.name} has {classes} in training")
    for prefix, (train, test) in features.items():
        curve = []
        for n in (*(n for n in sizes.labels if n != total), total):
            name = f"probe/{prefix}linear_{'all' if n == total else n}"
            if not classes <= n <= total:
                scores += _undefined([name], f"{n} labels: it takes {classes} (one a class) to {total} (all)")
                continue
            draws = 1 if n == total else sizes.draws
            predicted = probe.by_labels((train, train_y), test, n, draws, seed)
            each = (predicted == test_y).mean(axis=1)
            scores.append(_average(name, each, n=len(test), k=n))
            if n == total:
                balanced = probe.balanced_accuracy(test_y, predicted[0])
                scores.append(Score(name=f"probe/{prefix}balanced_all", value=balanced, n=len(test), k=n))
            curve.append((n, float(each.mean())))
        if has_areas:
            probability = probe.fit(train, train_y).predict_proba(test)[:, rarer]
            areas = probe.areas(test_y, probability, int(values[rarer]))
            scores += _named(f"probe/{prefix}", areas, [], suffix="_all", n=len(test), k=total)
        curves[prefix.removesuffix("_").replace("pca", "PCA") or "codes"] = curve
        accuracy = probe.neighbours((train[chosen], train_y[chosen]), (test, test_y))
        scores.append(Score(name=f"probe/{prefix}knn", value=accuracy, n=len(test), k=10))
    curves["most frequent class"] = [(n, share) for n, _ in curves["codes"]]
    picture = pictures.curves(curves, "labels", "accuracy of a linear probe")
    return Part(name="probe", scores=scores, pictures={"probe_curve": picture})


def _trivial_features(context: Context, train: Batch, test: Batch) -> dict[str, tuple[Array, Array]]:
    """Return what codes are compared with, of training and of test examples, by the prefix of its metrics."""
    variant, data = context.variant, context.data
    raw = raw_values(data, train), raw_values(data, test)
    with machine.seeded(variant.device, context.seed):
        untrained = type(variant)(variant.config, variant.spec).to(variant.device)
    return {
        "raw_": raw,
        "untrained_": (encode_split(untrained, data, train), encode_split(untrained, data, test)),
        "pca_": probe.principal_components(*raw, context.codes.shape[1]),
    }


def _clusters(context: Context) -> Part:
    known = context.labels >= 0
    values: dict[str, float] | Undefined
    if reason := why_no_labels(context.data, "test"):
        values = Undefined(reason)
    else:
        values = clusters.scores(context.codes[known], context.labels[known], context.seed)
    methods = [f"{method}_{score}" for method in ("kmeans", "mixture") for score in ("ari", "nmi", "accuracy")]
    return Part(name="clusters", scores=_named("latent/", values, methods, n=int(known.sum())))


def _disentanglement(context: Context) -> Part:
    variant, factors = context.variant, context.data.factors
    if factors is None:
        reason = f"the factors of {context.data.spec.name} are not known (an .npz file may hold them as factors)"
        return Part(name="disentanglement", scores=_undefined(["latent/mig"], reason))
    test = factors[2]
    unordered = [n in test.unordered for n in test.names]
    with machine.seeded(variant.device, context.seed):  # the metrics expect codes whose prior has a deviation of 1
        scale = variant.sample_prior(1000).std(0).double().cpu().numpy()
    values = disentanglement.scores(context.codes / scale, test.values, unordered, context.seed)
    return Part(name="disentanglement", scores=_named("latent/", values, ["mig"], n=len(context.codes)))


def _samples(context: Context) -> Part:
    variant, data, seed = context.variant, context.data, context.seed
    n = min(context.sizes.samples, len(data.test), len(data.valid))
    trained: classifier.Classifier | Undefined
    if variant.conditioned_on == "x":
        trained = Undefined("it generates no whole examples")
    elif n < 10:
        trained = Undefined(f"{n} examples are too few to compare samples with; it takes 10 or more")
    else:
        trained = context.classifier
    if isinstance(trained, Undefined):
        return Part(name="samples", scores=_undefined([f"sample/frechet_{classifier.HASH}"], trained.reason))
    true = probe.subset(data.test, n)
    with machine.seeded(variant.device, seed):
        x = torch.cat([variant.sample(len(i), noise=True) for i in torch.arange(n).split(1000)])
    # samples have the lengths and the missing values of the true examples
    fake_split = replace(true.unlabelled, x=x if true.known is None else torch.where(true.known, x, 0.0))
    real = classifier.features(trained, data, true)[0]
    fake = classifier.features(trained, data, fake_split)[0]
    other = classifier.features(trained, data, probe.subset(data.valid, n))[0]  # the classifier was not trained on it
    scores = []
    for floor, points in (("", fake), ("floor_", other)):
        suffix = f"{floor}{classifier.HASH}"
        scores += _named("sample/", samples.manifold(real, points), [], suffix=f"_{suffix}", n=n, k=5)
        scores.append(Score(name=f"sample/frechet_{suffix}", value=samples.frechet(real, points), n=n))
        kid, error = samples.kid(real, points, seed=seed)
        scores.append(Score(name=f"sample/kid_{suffix}", value=kid, n=n, error=error))
    shown = {"neighbours": pictures.neighbours(x[:8], data)} if data.layout == "images" else {}
    return Part(name="samples", scores=scores, pictures=shown)


def _anomaly(context: Context) -> Part:
    variant, data, sizes, seed = context.variant, context.data, context.sizes, context.seed
    normals = range(min(sizes.anomaly_classes, data.spec.classes))
    absent = [c for c in normals for split in (data.train, data.valid) if c not in labels_of(split)]
    reason = why_no_labels(data, "test")
    if variant.conditioned_on == "x":
        reason = reason or "the variant models only a part of an example"
    elif absent:
        reason = reason or f"class {absent[0]}: {data.spec.name} has no examples of it to train and validate on"
    if reason:
        return Part(name="anomaly", scores=_undefined(["use/anomaly_reconstruction"], reason))
    split = probe.subset(labelled(data.test), sizes.anomaly_n)
    areas: dict[str, list[float]] = {}
    for normal in normals:
        one_class = data.only_class(normal)
        epochs = max(1, round(sizes.anomaly_steps / -(-len(one_class.train) // variant.config.batch)))
        config = replace(variant.config, warmup=min(variant.config.warmup, sizes.anomaly_steps // 4))
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            learner = type(variant)(config, variant.spec).to(variant.device)
            trainer.fit(learner, one_class, epochs=epochs, seed=seed)
        values = downstream.anomaly(learner, one_class, split, normal)
        if isinstance(values, Undefined):
            return Part(name="anomaly", scores=_undefined(["use/anomaly_reconstruction"], values.reason))
        for name, value in values.items():
            areas.setdefault(name, []).append(value)
    # the classes are tasks of different difficulty, not repetitions: their spread is no standard error
    scores = [Score(name=f"use/anomaly_{k}", value=float(np.mean(each)), n=len(each)) for k, each in areas.items()]
    missing = [f"use/anomaly_{name}" for name in ("elbo", "iw") if name not in areas]
    return Part(name="anomaly", scores=scores + _undefined(missing, NO_DENSITY))


def _outliers(context: Context) -> Part:
    values: dict[str, float] | Undefined
    if context.variant.conditioned_on == "x":
        values = Undefined("the variant models only a part of an example")
    else:
        values = downstream.outliers(context.variant, context.data)
    names = ("share", "roc_reconstruction", "precision_recall_reconstruction")
    return Part(name="outliers", scores=_named("use/outlier_", values, names, n=len(labelled(context.data.test))))


def _imputation(context: Context) -> Part:
    split = probe.subset(context.data.test, context.sizes.imputed)
    losses = hidden_values.imputation(context.variant, context.data, split)
    if isinstance(losses, Undefined):
        return Part(name="imputation", scores=_undefined(["use/imputation_gibbs"], losses.reason))
    scores = [_average(f"use/imputation_{name}", each) for name, each in losses.items()]
    if "importance" not in losses:
        scores += _undefined(["use/imputation_importance"], NO_DENSITY)
    if "knn" not in losses:
        reason = f"nearest neighbours give a likelihood of {' and '.join(hidden_values.WITH_NEIGHBOURS)} data only"
        scores += _undefined(["use/imputation_knn"], reason)
    errors = hidden_values.imputation_error(context.variant, context.data, split)
    return Part(name="imputation", scores=scores + _named("use/imputation_", errors, ["rmse"], n=len(split)))


def _interpolation(context: Context) -> Part:
    values = downstream.interpolation(context.variant, context.data, context.data.test)
    return Part(name="interpolation", scores=_named("use/interpolation_", values, ["jump", "length"]))


def _generation(context: Context) -> Part:
    values = downstream.generation(context.variant, context.data)
    names, suffix = ["accuracy", "real"], f"_{classifier.HASH}"
    scores = _named("use/generation_", values, names, suffix=suffix)
    if isinstance(values, dict) and "real" not in values:
        scores += _undefined([f"use/generation_real{suffix}"], why_no_labels(context.data, "test"))
    return Part(name="generation", scores=scores)


def _forecast(context: Context) -> Part:
    split = probe.subset(context.data.test, context.sizes.imputed)
    values = downstream.forecast(context.variant, context.data, split)
    return Part(name="forecast", scores=_named("use/forecast_", values, ["model"]))


def _augmentation(context: Context) -> Part:
    n = min(context.sizes.augmented, len(labelled(context.data.train)))
    accuracies = downstream.augmentation(context.variant, context.data, n)
    if isinstance(accuracies, Undefined):
        return Part(name="augmentation", scores=_undefined(["use/augmentation_with"], accuracies.reason))
    scores = [_average(f"use/augmentation_{name}", each) for name, each in accuracies.items()]
    gain = _average("use/augmentation_gain", accuracies["with"] - accuracies["without"])
    return Part(name="augmentation", scores=[*scores, gain])


PARTS: Mapping[str, Callable[[Context], Part]] = {
    f.__name__.removeprefix("_"): f
    for f in (
        _bounds, _annealing, _latents, _probe, _clusters, _disentanglement, _samples, _anomaly, _outliers,
        _imputation, _interpolation, _generation, _forecast, _augmentation,
    )
}  # fmt: skip


def _undefined(names: Iterable[str], reason: str) -> list[Score]:
    return [Score(name=name, value=None, reason=reason) for name in names]


def _named(
    prefix: str,
    values: Mapping[str, float] | Undefined,
    names: Iterable[str],
    *,
    suffix: str = "",
    n: int | None = None,
    k: int | None = None,
) -> list[Score]:
    """Return a score for each value; if they are undefined, a reason for each of `names`."""
    if isinstance(values, Undefined):
        return _undefined((prefix + name + suffix for name in names), values.reason)
    return [Score(name=prefix + name + suffix, value=value, n=n, k=k) for name, value in values.items()]


def _mean(name: str, total: torch.Tensor, n: int) -> Score:
    return Score(name=name, value=float(total) / n, n=n)


def _average(name: str, each: Array, *, n: int | None = None, k: int | None = None) -> Score:
    error = float(each.std(ddof=1) / math.sqrt(len(each))) if len(each) > 1 else None
    return Score(name=name, value=float(each.mean()), n=n or len(each), error=error, k=k)
