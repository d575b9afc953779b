"""The full evaluation of a trained model: every metric that is defined for it, and a reason for each of the others.

for part in suite.run(variant, data):
    part.scores, part.pictures
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline import machine, trainer
from pipeline.data import Data
from pipeline.evaluate import (
    ais,
    anomaly,
    baselines,
    bits,
    classifier,
    clusters,
    disentanglement,
    downstream,
    forecasts,
    hidden_values,
    latents,
    likelihood,
    pictures,
    probe,
    quick,
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
from pipeline.evaluate.estimates import Estimate
from pipeline.metrics import Undefined
from variants import Batch, InputError, Variant
from variants.base.contract import DENSITIES

Array = NDArray[np.float64]
GENERATED = 100  # samples of each class
NO_DENSITY = "q(z|x) has no density"
AREAS = ("probe/roc_area_all", "probe/precision_recall_area_all")
NO_KL = "q(z|x) has no KL per dimension"
PAIRED_AIS = (
    "compare test/ais_subset with that of another variant by the differences on the same examples, which are in the "
    "column ais of rows.parquet"
)


def run(
    variant: Variant,
    data: Data,
    *,
    sizes: Sizes | None = None,
    only: tuple[str, ...] = (),
    seed: int = 0,
    normal: int | None = None,
) -> Iterator[Part]:
    """Score a model on the test split, part by part. The model does not change.

    Args:
        variant: The trained model.
        data: Its data.
        sizes: How much is spent.
        only: The names of some of `PARTS`; by default all are computed.
        seed: The seed of everything that is drawn.
        normal: The number of the class that counts as normal when anomalies are detected. By default, `anomaly` takes
            the most frequent class of the training split, and `one_class` the most frequent ones, one at a time.
    """
    context = Context(variant=variant.eval(), data=data, sizes=sizes or Sizes(), seed=seed, normal=normal)
    for name in names(only):
        yield PARTS[name](context)


def names(only: Sequence[str] = ()) -> list[str]:
    """Return the names of the parts in their order, or those of `only`. Raises `InputError` for an unknown part."""
    for name in only:
        if name not in PARTS:
            raise InputError(f"part {name!r}: expected {', '.join(PARTS)}")
    return [name for name in PARTS if not only or name in only]


def _bounds(context: Context) -> Part:
    variant, terms, data, sizes = context.variant, context.terms, context.data, context.sizes
    sums, is_whole = terms.totals.sums, variant.conditioned_on != "x"
    scores = [_drawn("test/reconstruction", sums["reconstruction"], terms.reconstruction)]
    rows = {"reconstruction": terms.reconstruction.mean(0)}
    if len(data.spec.kinds) > 1:
        for kind, each in likelihood.by_kind(variant, data, data.test, context.seed, draws=context.draws).items():
            scores.append(_average(f"test/reconstruction_{kind}", each.numpy(), k=context.draws))
    elbo = None
    if terms.kl is None:
        scores += _undefined(("test/kl", "test/elbo"), NO_DENSITY)
    else:
        each_elbo = -(terms.reconstruction + terms.kl)
        elbo = _drawn("test/elbo", -(sums["reconstruction"] + sums["kl"]), each_elbo)
        scores += [_drawn("test/kl", sums["kl"], terms.kl), elbo]
        rows |= {"elbo": each_elbo.mean(0), "kl": terms.kl.mean(0)}
    if data.spec.has_density and is_whole:
        if elbo is None:
            scores += _undefined(["test/elbo_units"], NO_DENSITY)
        else:
            in_units = _average(
                "test/elbo_units", rows["elbo"] + likelihood.log_jacobian(data, data.test).cpu().numpy()
            )
            scores.append(replace(in_units, k=elbo.k, monte_carlo_error=elbo.monte_carlo_error))
    name, bound = f"test/iw{sizes.iw_k}", context.importance_weighted
    if isinstance(bound, Undefined):
        scores += _undefined([name], bound.reason)
    else:
        rows["iw"] = context.column(bound)
        scores.append(_average(name, bound, k=sizes.iw_k))
        if bits.is_defined(data.spec) and is_whole:
            factor = bits.per_dimension(1.0, data.spec)
            scores.append(_average("test/bits_per_dimension", factor * bound, k=sizes.iw_k))
    if not is_whole:
        remark = "likelihoods are of the missing part given the observed part; those of other variants do not compare"
        return Part(name="bounds", scores=scores, rows=rows, remark=remark)
    trivial = baselines.log_p(data, data.test) | {"ppca": baselines.ppca(data, data.test, context.codes.shape[1])}
    for name, log_p in trivial.items():
        if isinstance(log_p, Undefined):
            scores += _undefined([f"baseline/test_{name}"], log_p.reason)
        else:
            rows[f"baseline_{name}"] = log_p.cpu().numpy()
            scores.append(_average(f"baseline/test_{name}", rows[f"baseline_{name}"]))
    for name, value in bits.anchors(data, data.test, trivial).items():
        n = bits.in_picture(data.test) if name in bits.CODECS else len(data.test)
        scores.append(Score(name=f"bits/test_{name}", value=value, n=n))
    return Part(name="bounds", scores=scores, rows=rows, remark=_remark_on_bounds(rows, data))


def _remark_on_bounds(rows: Mapping[str, Array], data: Data) -> str:
    """Return whether a bound of log p(x) exceeds the baselines, and whether it is a density, in words.

    The bound of each example is compared with log p of the same example under a baseline. It is the importance weighted
    one, which is the tighter one, of the examples that have it.
    """
    remarks = []
    if "elbo" in rows:
        bound = rows.get("iw", rows["elbo"])
        scored = ~np.isnan(bound)
        means, errors = {}, {}
        for name, log_p in rows.items():
            if name.startswith("baseline_"):
                title = name.replace("_", "/test_")
                means[title] = float(log_p[scored].mean())
                errors[title] = _average(name, (bound - log_p)[scored]).error or 0.0
        titled = [baselines.titled(values, data.spec) for values in (means, errors)]
        remarks.append(baselines.verdict(float(bound[scored].mean()), *titled))
    densities = [kind for kind in data.spec.kinds if kind in DENSITIES]
    probabilities = [kind for kind in data.spec.kinds if kind not in DENSITIES]
    if densities and probabilities:
        remarks.append(
            f"the likelihood is a density: the product of a density of some values ({', '.join(densities)}) and a "
            f"probability of the others ({', '.join(probabilities)}); test/reconstruction_KIND is the part of each kind"
        )
    return "; ".join(remark for remark in remarks if remark)


def _annealing(context: Context) -> Part:
    """Estimate log p(x) by annealing on a few examples, and correct the mean for the choice of these examples.

    `test/ais` is the mean importance weighted bound of many examples, plus the mean difference between annealing and
    this bound on the few. The differences vary much less from example to example than log p(x) does. The few are a
    small part of the many, so the errors of both means are nearly independent, and the error of their sum is the root
    of the sum of their squares. `test/ais_subset` is the plain mean over the few examples, which may be easier or
    harder than all by many nats.
    """
    variant, data, sizes, seed = context.variant, context.data, context.sizes, context.seed
    split = probe.subset(data.test, sizes.ais_n)
    batch = next(data.batches(split, len(split)))
    pilot = next(data.batches(probe.subset(data.valid, 8), 8))
    chains = (len(batch) + 2 * min(len(batch), sizes.gap_n)) * sizes.ais_chains
    work = ais.operations(variant, batch, chains, sizes.ais_temperatures)
    tuned: ais.Tuned | Undefined
    if work > sizes.ais_operations:
        tuned = Undefined(
            f"annealing needs about {work:.0e} operations with this decoder, and a comparison spends at most "
            f"{sizes.ais_operations:.0e}; `python -m pipeline.evaluate --only annealing` spends them"
        )
    else:
        tuned = ais.tune(variant, pilot, sizes.ais_temperatures, seed=seed)
    if isinstance(tuned, Undefined):
        names = ("test/ais", "test/ais_subset", "test/ais_gap", "test/ais_less_iw")
        return Part(name="annealing", scores=_undefined(names, tuned.reason))
    k = sizes.ais_chains
    annealed = ais.estimate(variant, batch, tuned, chains=k, seed=seed)
    gap = ais.gap(variant, batch[slice(0, sizes.gap_n)], tuned, chains=k, seed=seed).numpy()
    log_p = annealed.log_p.numpy()
    scores = [_average("test/ais_subset", log_p, k=k), _average("test/ais_gap", gap, k=k)]
    bound = context.importance_weighted
    if isinstance(bound, Undefined):
        scores += _undefined(["test/ais"], f"{bound.reason}; {PAIRED_AIS}")
        scores += _undefined(["test/ais_less_iw"], bound.reason)
    else:
        both = probe.subset_positions(len(data.test), min(len(log_p), len(bound)))
        less = _average("test/ais_less_iw", (context.column(log_p) - context.column(bound))[both], k=sizes.iw_k)
        scores += [_corrected(_average("test/ais", bound, k=k), less), less]
    curve = pictures.rate_distortion(annealed.rate, annealed.distortion)
    rows = {"ais": context.column(log_p)}
    return Part(name="annealing", scores=scores, rows=rows, pictures={"rate_distortion": curve})


def _corrected(bound: Score, difference: Score) -> Score:
    """Return the score of a bound with a difference added to it. The errors of both are taken as independent."""
    assert bound.value is not None and difference.value is not None
    value = bound.value + difference.value
    if bound.error is None or difference.error is None:
        return replace(bound, value=value, error=None)
    return replace(bound, value=value, error=math.hypot(bound.error, difference.error))


def _latents(context: Context) -> Part:
    variant, kl, test = context.variant, context.kl, context.codes
    remark, vectors = "", {}
    if kl is None:
        scores = _undefined(["latent/active_units_kl"], NO_KL)
    else:
        active = latents.active_units_kl(kl)
        scores = [Score(name="latent/active_units_kl", value=active, n=len(context.data.test))]
        remark, vectors = latents.verdict(kl), {"kl_per_dimension": kl.tolist()}
    if variant.conditioned_on == "x":
        divergence: float | Undefined = Undefined("each example has a prior of its own")
    elif variant.discrete:
        divergence = Undefined("z is discrete, so its dimensions have no density")
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
        undefined = (
            "test_accuracy", "test_balanced_accuracy", *(f"linear_{n}" for n in (*sizes.labels, "all")),
            "balanced_all", "knn",
        )  # fmt: skip
        return Part(name="probe", scores=_undefined([*(f"probe/{name}" for name in undefined), *AREAS], reason))
    known_train, known_test, is_known = labelled(data.train), labelled(data.test), context.labels >= 0
    train_y, test_y = labels_of(known_train), labels_of(known_test)
    features = {
        "": (encode_split(variant, data, known_train), context.codes[is_known]),
        **_trivial_features(context, known_train, known_test),
    }
    share, curves = probe.majority(train_y, test_y), {}
    scores, correct = _probe_of_trials(context, {prefix: test for prefix, (_, test) in features.items()}, test_y)
    most_frequent = np.full_like(test_y, probe.most_frequent(train_y))
    correct["correct_majority"] = (test_y == most_frequent).astype(float)
    scores.append(_accuracy("probe/majority_all", share, n=len(test_y), k=len(train_y)))
    scores.append(_balanced("probe/majority_test_balanced_accuracy", test_y, most_frequent, k=len(train_y)))
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
            each = (predicted == test_y).astype(float)
            scores.append(_over_draws(name, each, k=n))
            if n == total:
                scores.append(_balanced(f"probe/{prefix}balanced_all", test_y, predicted[0], k=n))
            curve.append((n, float(each.mean())))
        if has_areas:
            probability = probe.fit(train, train_y).predict_proba(test)[:, rarer]
            areas = probe.areas(test_y, probability, int(values[rarer]))
            scores += _named(f"probe/{prefix}", areas, [], suffix="_all", n=len(test), k=total)
        curves[prefix.removesuffix("_").replace("pca", "PCA") or "codes"] = curve
        accuracy = probe.neighbours((train[chosen], train_y[chosen]), (test, test_y))
        scores.append(_accuracy(f"probe/{prefix}knn", accuracy, n=len(test), k=10))
    curves["most frequent class"] = [(n, share) for n, _ in curves["codes"]]
    picture = pictures.curves(curves, "labels", "accuracy of a linear probe")
    rows = {name: context.column(each, is_known) for name, each in {"label": test_y, **correct}.items()}
    return Part(
        name="probe", scores=scores, pictures={"probe_curve": picture}, rows=rows, remark=_remark_on_probe(correct)
    )


def _probe_of_trials(
    context: Context, tested: Mapping[str, Array], test_y: NDArray[np.int64]
) -> tuple[list[Score], dict[str, Array]]:
    """Score the probe that also chooses trials by its validation accuracy, on the codes and on trivial features.

    Args:
        context: The model and its data.
        tested: The features (N, D) of the test examples whose label is known, by the prefix of their metrics.
        test_y: The labels of these examples, (N,).

    Returns:
        The scores, and columns (N,) that are 1 where a prediction is correct: `correct` of the codes, `correct_raw` and
        `correct_untrained`.
    """
    data, scores, columns = context.data, [], {}
    probes = {
        "": quick.fitted_probe(data, partial(encode_split, context.variant, data)),
        "raw_": quick.raw_probe(data),
        "untrained_": quick.fitted_probe(data, partial(encode_split, context.untrained, data)),
    }
    k = len(probe.subset(labelled(data.train)))
    for prefix, fitted in probes.items():
        predicted = fitted.predict(tested[prefix])
        correct = (predicted == test_y).astype(float)
        columns[f"correct_{prefix}".strip("_")] = correct
        scores.append(_average(f"probe/{prefix}test_accuracy", correct, k=k))
        scores.append(_balanced(f"probe/{prefix}test_balanced_accuracy", test_y, predicted, k=k))
    return scores, columns


def _remark_on_probe(correct: Mapping[str, Array]) -> str:
    """Return whether the probe of the codes is correct more often than the best trivial one, in words."""
    titles = {
        "correct_majority": "always the most frequent class", "correct_raw": "the same probe of raw values",
        "correct_untrained": "the same probe of an untrained encoder",
    }  # fmt: skip
    best = max(titles, key=lambda name: float(correct[name].mean()))
    if probe.is_better(correct["correct"], correct[best]):
        return ""
    return f"the probe of the codes is no better than trivial ({titles[best]}: {correct[best].mean():.4g} correct)"


def _trivial_features(context: Context, train: Batch, test: Batch) -> dict[str, tuple[Array, Array]]:
    """Return what codes are compared with, of training and of test examples, by the prefix of its metrics."""
    data, untrained = context.data, context.untrained
    raw = raw_values(data, train), raw_values(data, test)
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
    n = int(known.sum())
    scores = [
        s if s.value is None or not s.name.endswith("_accuracy") else _accuracy(s.name, s.value, n=n)
        for s in _named("latent/", values, methods, n=n)
    ]
    return Part(name="clusters", scores=scores)


def _disentanglement(context: Context) -> Part:
    variant, factors = context.variant, context.data.factors
    if factors is None:
        reason = f"the factors of {context.data.spec.name} are not known (an .npz file may hold them as factors)"
        return Part(name="disentanglement", scores=_undefined(["latent/mig"], reason))
    test = factors[2]
    unordered = [n in test.unordered for n in test.names]
    with machine.seeded(variant.device, context.seed):  # the metrics expect codes whose prior has a deviation of 1
        scale = variant.sample_prior(1000).std(0).double().cpu().numpy()
    scale[scale == 0] = 1  # of a position at which a discrete prior is certain
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
    data = context.data
    detection = anomaly.detect(context.variant, data, context.normal)
    if isinstance(detection, Undefined):
        names = ("share", "roc_reconstruction", "precision_recall_reconstruction")
        return Part(name="anomaly", scores=_undefined((f"use/anomaly_{name}" for name in names), detection.reason))
    n = len(detection.labels)
    scores = [_accuracy("use/anomaly_share", detection.share, n=n), *_named("use/anomaly_", detection.areas(), [], n=n)]
    if "iw" not in detection.scores:
        missing = [f"use/anomaly_{curve}_{name}" for name in ("elbo", "iw") for curve in anomaly.CURVES]
        scores += _undefined(missing, NO_DENSITY)
    tables = {"anomaly_by_class": detection.by_class(data)}
    return Part(name="anomaly", scores=scores, tables=tables, remark=detection.remark(data))


def _one_class(context: Context) -> Part:
    """Train new models of the same configuration on one class alone, and let them detect the other classes."""
    variant, data, sizes = context.variant, context.data, context.sizes
    normals = anomaly.frequent_classes(data, sizes.one_class_most) if context.normal is None else [context.normal]
    split = probe.subset(labelled(data.test), sizes.one_class_n)
    if reason := anomaly.why_not_one_class(variant, data, split, normals):
        return Part(name="one_class", scores=_undefined(["use/one_class_reconstruction"], reason))
    table: dict[str, list[Any]] = {name: [] for name in ("normal", "seed", "n", "score", "roc", "roc_error")}
    areas: dict[str, list[list[Estimate]]] = {}
    for normal in normals:
        for i in range(sizes.one_class_seeds):
            learner = _trained_on(normal, context, context.seed + i)
            for name, area in anomaly.one_class(learner, data.only_class(normal), split, normal).items():
                areas.setdefault(name, [[] for _ in range(sizes.one_class_seeds)])[i].append(area)
                row = (anomaly.class_name(data, normal), context.seed + i, len(split), name, *area)
                for column, value in zip(table.values(), row, strict=True):
                    column.append(value)
    scores = [_one_class_score(f"use/one_class_{name}", of_seeds, len(split)) for name, of_seeds in areas.items()]
    scores += _undefined((f"use/one_class_{name}" for name in ("elbo", "iw") if name not in areas), NO_DENSITY)
    names = ", ".join(anomaly.class_name(data, c) for c in normals)
    remark = f"one-class scores are means over models that were trained on one class alone, which is in turn: {names}"
    return Part(name="one_class", scores=scores, tables={"one_class": table}, remark=remark)


def _one_class_score(name: str, areas: list[list[Estimate]], n: int) -> Score:
    """Return the mean of the areas of each seed (outer list) and class (inner list), on the same n examples.

    Classes are tasks of different difficulty, so only the seeds are repetitions. The error over examples is at most the
    mean of the errors of the areas; with several seeds, the error over seeds is added to it, as squares.
    """
    score = _average(name, np.array([np.mean([area.value for area in of_classes]) for of_classes in areas]))
    errors = [area.error for of_classes in areas for area in of_classes if area.error is not None]
    error = math.hypot(np.mean(errors), score.error or 0.0) if errors else None
    return replace(score, n=n, error=error)


def _trained_on(normal: int, context: Context, seed: int) -> Variant:
    """Return a new model of the same configuration that is trained on one class alone."""
    variant, one_class, steps = context.variant, context.data.only_class(normal), context.sizes.one_class_steps
    epochs = max(1, round(steps / -(-len(one_class.train) // variant.config.batch)))
    config = replace(variant.config, warmup=min(variant.config.warmup, steps // 4))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        learner = type(variant)(config, variant.spec).to(variant.device)
        trainer.fit(learner, one_class, epochs=epochs, seed=seed)
    return learner


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
    names = {name: f"use/interpolation_{name}" for name in ("jump", "length")}
    if isinstance(values, Undefined):
        return Part(name="interpolation", scores=_undefined(names.values(), values.reason))
    return Part(name="interpolation", scores=[_average(names[name], each) for name, each in values.items()])


def _generation(context: Context) -> Part:
    data = context.data
    values = downstream.generation(context.variant, data, GENERATED)
    names = {name: f"use/generation_{name}_{classifier.HASH}" for name in ("accuracy", "real")}
    if isinstance(values, Undefined):
        return Part(name="generation", scores=_undefined(names.values(), values.reason))
    scores = [_accuracy(names["accuracy"], values["accuracy"], n=GENERATED * data.spec.classes)]
    if "real" in values:
        scores.append(_accuracy(names["real"], values["real"], n=len(labelled(data.test))))
    else:
        scores += _undefined([names["real"]], why_no_labels(data, "test"))
    return Part(name="generation", scores=scores)


def _forecast(context: Context) -> Part:
    test, series, n = context.data.test, context.data.test_series, context.sizes.imputed
    if series is not None and len(test) > n:
        series = series[probe.subset_positions(len(test), n)]
    found = forecasts.forecast(context.variant, context.data, probe.subset(test, n), series=series)
    if isinstance(found, Undefined):
        return Part(name="forecast", scores=_undefined(["use/forecast_model"], found.reason))
    scores = []
    for name, score in found.scores().items():
        scores += _named("use/forecast_", score if isinstance(score, Undefined) else {name: score}, [name], n=found.n)
    curves = pictures.curves(found.curves(), "steps ahead", "root mean square error")
    return Part(
        name="forecast", scores=scores, pictures={"forecast_errors": curves}, tables={"forecasts": found.table()},
        remark=found.remark(),
    )  # fmt: skip


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
        _bounds, _annealing, _latents, _probe, _clusters, _disentanglement, _samples, _anomaly, _one_class,
        _imputation, _interpolation, _generation, _forecast, _augmentation,
    )
}  # fmt: skip


def _undefined(names: Iterable[str], reason: str) -> list[Score]:
    return [Score(name=name, value=None, reason=reason) for name in names]


def _named(
    prefix: str,
    values: Mapping[str, float | Estimate] | Undefined,
    names: Iterable[str],
    *,
    suffix: str = "",
    n: int | None = None,
    k: int | None = None,
) -> list[Score]:
    """Return a score for each value; if they are undefined, a reason for each of `names`."""
    if isinstance(values, Undefined):
        return _undefined((prefix + name + suffix for name in names), values.reason)
    scores = []
    for name, given in values.items():
        value, error = given if isinstance(given, Estimate) else (given, None)
        scores.append(Score(name=prefix + name + suffix, value=value, n=n, error=error, k=k))
    return scores


def _average(name: str, each: Array, *, k: int | None = None) -> Score:
    """Return the mean of a value of each example, (N,), with its standard error."""
    error = float(each.std(ddof=1) / math.sqrt(len(each))) if len(each) > 1 else None
    return Score(name=name, value=float(each.mean()), n=len(each), error=error, k=k)


def _drawn(name: str, total: torch.Tensor, each: Array) -> Score:
    """Return the mean of a term of which each of N examples has several draws, (draws, N), with the sum `total`.

    The error is that of the means of the examples, so it contains the Monte Carlo error: the root of the sum over
    examples of s² / draws, divided by N, where s² is the variance of the draws of an example. One draw has no variance.
    """
    draws, n = each.shape
    monte_carlo = math.sqrt((each.var(axis=0, ddof=1) / draws).sum()) / n if draws > 1 else None
    score = _average(name, each.mean(axis=0), k=draws)
    return replace(score, value=float(total) / each.size, monte_carlo_error=monte_carlo)


def _accuracy(name: str, share: float, *, n: int, k: int | None = None) -> Score:
    """Return a share of n examples that are correct, with the standard error that `_average` of the examples has."""
    error = math.sqrt(share * (1 - share) / (n - 1)) if n > 1 else None
    return Score(name=name, value=share, n=n, error=error, k=k)


def _over_draws(name: str, correct: Array, *, k: int) -> Score:
    """Return the mean of `correct` (draws, N). Its error joins those over draws and over examples, as independent."""
    score, draws = _average(name, correct.mean(axis=0), k=k), len(correct)
    if draws == 1 or score.error is None:
        return score
    return replace(score, error=math.hypot(score.error, correct.mean(axis=1).std(ddof=1) / math.sqrt(draws)))


def _balanced(name: str, labels: NDArray[np.int64], predicted: NDArray[np.int64], *, k: int) -> Score:
    value, error = probe.balanced_accuracy(labels, predicted), probe.balanced_error(labels, predicted)
    return Score(name=name, value=value, n=len(labels), error=error, k=k)
