"""The full evaluation of a trained model: every metric that its data and kind allow, and a reason for each other one.

for part in suite.run(variant, data):
    part.figures, part.pictures
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline import machine, pictures, trainer
from pipeline.data import Data
from pipeline.evaluate import (
    ais,
    clusters,
    disentanglement,
    drawn,
    inputs,
    judge,
    latents,
    likelihood,
    probe,
    samples,
    uses,
)
from pipeline.evaluate import codes as codes_of
from pipeline.evaluate.subject import Figure, Part, Sizes, Subject
from variants import Batch, InputError, Variant

Array = NDArray[np.float64]


def run(
    variant: Variant, data: Data, *, sizes: Sizes | None = None, only: tuple[str, ...] = (), seed: int = 0
) -> Iterator[Part]:
    """Score a model on the test split, part by part. `only` names some of `PARTS`; the model stays as it is."""
    subject = Subject(variant.eval(), data, sizes or Sizes(), seed)
    for name in names(only):
        yield PARTS[name](subject)


def names(only: Sequence[str] = ()) -> list[str]:
    """The parts of an evaluation, in their order. Raises `InputError` for one that does not exist."""
    for name in only:
        if name not in PARTS:
            raise InputError(f"part {name!r}: expected {', '.join(PARTS)}")
    return [name for name in PARTS if not only or name in only]


def _bounds(s: Subject) -> Part:
    totals, data = s.totals, s.data
    rows = [_mean("test/reconstruction", totals.sums["reconstruction"], totals.count)]
    if "kl" in totals.sums:
        both = totals.sums["reconstruction"] + totals.sums["kl"]
        rows += [_mean("test/kl", totals.sums["kl"], totals.count), _mean("test/elbo", -both, totals.count)]
    else:
        rows += [Figure(n, None, reason="q(z|x) has no density") for n in ("test/kl", "test/elbo")]
    name = f"test/iw{s.sizes.iw_k}"
    few = probe.subset(data.test, s.sizes.iw_n)
    try:
        each = likelihood.importance_weighted(s.variant, data, few, s.sizes.iw_k, seed=s.seed).numpy()
    except InputError as error:
        return Part("bounds", [*rows, Figure(name, None, reason=str(error))])
    rows.append(_average(name, each, k=s.sizes.iw_k))
    if s.variant.given == "x":
        return Part(
            "bounds", rows, words="likelihoods are of what is missing, given what is seen: of no other variant's kind"
        )
    if data.spec.likelihood == "logistic8":
        bits = likelihood.bits_per_dimension(float(each.mean()), data.spec)
        rows.append(Figure("test/bits_per_dimension", bits, len(each), k=s.sizes.iw_k))
    return Part("bounds", rows)


def _annealing(s: Subject) -> Part:
    data, sizes = s.data, s.sizes
    few = probe.subset(data.test, sizes.ais_n)
    batch = next(data.batches(few, len(few)))
    pilot = next(data.batches(probe.subset(data.valid, 8), 8))
    names = ("test/ais", "test/ais_gap", "test/ais_less_iw")
    try:
        tuned = ais.tune(s.variant, pilot, sizes.ais_temperatures, seed=s.seed)
    except InputError as error:
        return Part("annealing", [Figure(n, None, reason=str(error)) for n in names])
    found = ais.estimate(s.variant, batch, tuned, chains=sizes.ais_chains, seed=s.seed)
    gap = ais.gap(s.variant, batch[slice(0, sizes.gap_n)], tuned, chains=sizes.ais_chains, seed=s.seed).numpy()
    k = sizes.ais_chains
    rows = [_average(names[0], found.log_p.numpy(), k=k), _average(names[1], gap, k=k)]
    try:
        bound = likelihood.importance_weighted(s.variant, data, few, sizes.iw_k, seed=s.seed)
        rows.append(_average(names[2], (found.log_p - bound).numpy(), k=sizes.iw_k))
    except InputError as error:
        rows.append(Figure(names[2], None, reason=str(error)))
    return Part("annealing", rows, {"rate_distortion": pictures.rate_distortion(found.rate, found.distortion)})


def _latents(s: Subject) -> Part:
    test, variant = s.codes[1], s.variant
    words, spectrum = "", {}
    if s.kl is None:
        rows = [Figure("latent/active_units_kl", None, reason="q(z|x) has no KL per dimension")]
    else:
        rows = [Figure("latent/active_units_kl", latents.active_units_kl(s.kl), s.totals.count)]
        words, spectrum = latents.verdict(s.kl), {"kl_per_dimension": s.kl.tolist()}
    names = ("latent/active_units_cov", "latent/dimension_kl", "latent/mutual_information")
    try:
        if variant.given == "x":
            raise InputError("the prior is of each example")
        if variant.given or variant.levels or variant.discrete:
            raise InputError("the prior's dimensions depend on a class, or on the level above")
        posterior, prior = drawn(variant, s.data, s.data.test, s.sizes.samples)
        apart = latents.dimension_kl(posterior, prior)
    except InputError as error:
        return Part("latents", [*rows, *(Figure(n, None, reason=str(error)) for n in names)], {}, spectrum, words)
    rows.append(Figure(names[0], latents.active_units(test, prior), len(test)))
    rows.append(Figure(names[1], apart, len(posterior), k=5))
    if s.kl is None:
        rows.append(Figure(names[2], None, reason="q(z|x) has no KL per dimension"))
    else:
        rows.append(Figure(names[2], float(s.kl.sum()) - apart, len(posterior), k=5))
    return Part("latents", rows, {}, spectrum, words)


def _probe(s: Subject) -> Part:
    sizes = s.sizes
    names = [*(f"linear_{n}" for n in sizes.labels), "linear_all", "knn"]
    try:
        y = s.labels()
    except InputError as error:
        return Part("probe", [Figure(f"probe/{n}", None, reason=str(error)) for n in names])
    raw = inputs(s.data, s.known), inputs(s.data, s.data.test)
    with machine.seeded(s.variant.device, s.seed):
        untrained = type(s.variant)(s.variant.config, s.variant.spec).to(s.variant.device)
    plain = codes_of(untrained, s.data, s.known), codes_of(untrained, s.data, s.data.test)
    ways = {"": s.codes, "raw_": raw, "untrained_": plain}
    ways["pca_"] = probe.principal_components(*raw, s.codes[0].shape[1])
    rows, curves = [], {}
    few = np.sort(np.random.default_rng(s.seed).permutation(len(y[0]))[: probe.TRAINING_EXAMPLES])
    for way, (train, test) in ways.items():
        curve = []
        for n in (*(n for n in sizes.labels if n != len(y[0])), len(y[0])):
            everything = n == len(y[0])
            name = f"probe/{way}linear_{'all' if everything else n}"
            try:
                each = probe.by_labels((train, y[0]), (test, y[1]), n, 1 if everything else sizes.draws, s.seed)
            except InputError as error:
                rows.append(Figure(name, None, reason=str(error)))
                continue
            rows.append(_average(name, each, n=len(test), k=n))
            curve.append((n, float(each.mean())))
        curves[way.removesuffix("_").replace("pca", "PCA") or "codes"] = curve
        near = probe.neighbours((train[few], y[0][few]), (test, y[1]))
        rows.append(Figure(f"probe/{way}knn", near, len(test), k=10))
    return Part("probe", rows, {"probe_curve": pictures.curves(curves, "labels", "accuracy of a linear probe")})


def _clusters(s: Subject) -> Part:
    try:
        y = s.labels()[1]
        found = clusters.scores(s.codes[1], y, s.seed)
    except InputError as error:
        names = [f"latent/{way}_{score}" for way in ("kmeans", "mixture") for score in ("ari", "nmi", "accuracy")]
        return Part("clusters", [Figure(n, None, reason=str(error)) for n in names])
    return Part("clusters", [Figure(f"latent/{n}", v, len(y)) for n, v in found.items()])


def _disentanglement(s: Subject) -> Part:
    known = s.data.factors
    if known is None:
        reason = f"the causes of {s.data.spec.name} are not known (an .npz may hold them as factors)"
        return Part("disentanglement", [Figure("latent/mig", None, reason=reason)])
    apart = [n in known[2].unordered for n in known[2].names]
    with machine.seeded(s.variant.device, s.seed):
        scale = s.variant.prior(1000).std(0).double().cpu().numpy()  # of which the metrics know one value alone, 1
    try:
        found = disentanglement.scores(s.codes[1] / scale, known[2].values, apart, s.seed)
    except InputError as error:
        return Part("disentanglement", [Figure("latent/mig", None, reason=str(error))])
    return Part("disentanglement", [Figure(f"latent/{n}", v, len(s.codes[1])) for n, v in found.items()])


def _samples(s: Subject) -> Part:
    variant, data = s.variant, s.data
    n = min(s.sizes.samples, len(data.test), len(data.valid))
    try:
        if variant.given == "x":
            raise InputError("it makes no whole examples")
        if n < 10:
            raise InputError(f"{n} examples are too few to compare samples with; expected 10 or more")
        made = s.referee
    except InputError as error:
        return Part("samples", [Figure(f"sample/frechet_{judge.HASH}", None, reason=str(error))])
    true = probe.subset(data.test, n)
    with machine.seeded(variant.device, s.seed):
        drawn_x = torch.cat([variant.sample(len(i), noise=True) for i in torch.arange(n).split(1000)])
    fake_split = Batch(drawn_x if true.mask is None else drawn_x * true.mask[..., None], mask=true.mask)
    real = judge.features(made, data, true)[0]
    fake = judge.features(made, data, fake_split)[0]
    other = judge.features(made, data, probe.subset(data.valid, n))[0]  # which the judge was not trained on
    rows = []
    for floor, points in (("", fake), ("floor_", other)):
        for name, value in samples.manifold(real, points).items():
            rows.append(Figure(f"sample/{name}_{floor}{judge.HASH}", value, n, k=5))
        rows.append(Figure(f"sample/frechet_{floor}{judge.HASH}", samples.frechet(real, points), n))
        kid = samples.kid(real, points, seed=s.seed)
        rows.append(Figure(f"sample/kid_{floor}{judge.HASH}", kid[0], n, kid[1]))
    shown = {}
    if data.layout == "images":
        shown["neighbours"] = pictures.neighbours(drawn_x[:8], data)
    return Part("samples", rows, shown)


def _anomaly(s: Subject) -> Part:
    data, sizes = s.data, s.sizes
    few = probe.subset(data.test, sizes.anomaly_n)
    found: dict[str, list[float]] = {}
    try:
        s.labels()
        if s.variant.given == "x":
            raise InputError("it models a part of an example only")
        for normal in range(min(sizes.anomaly_classes, data.spec.classes)):
            alone = data.only(normal)
            each = -(-len(alone.train) // s.variant.config.batch)
            epochs = max(1, round(sizes.anomaly_steps / each))
            config = dataclasses.replace(
                s.variant.config, warmup=min(s.variant.config.warmup, sizes.anomaly_steps // 4)
            )
            with torch.random.fork_rng():
                torch.manual_seed(s.seed)
                learner = type(s.variant)(config, s.variant.spec).to(s.variant.device)
                for _ in trainer.train(learner, alone, epochs=epochs, seed=s.seed):
                    pass
            for way, value in uses.anomaly(learner, alone, few, normal).items():
                found.setdefault(way, []).append(value)
    except InputError as error:
        return Part("anomaly", [Figure("use/anomaly_reconstruction", None, reason=str(error))])
    # classes are tasks of unlike difficulty, no repetitions of one: their spread is no error
    rows = [Figure(f"use/anomaly_{way}", float(np.mean(each)), len(each)) for way, each in found.items()]
    missing = [w for w in ("elbo", "iw") if w not in found]
    rows += [Figure(f"use/anomaly_{way}", None, reason="q(z|x) has no density") for way in missing]
    return Part("anomaly", rows)


def _imputation(s: Subject) -> Part:
    few = probe.subset(s.data.test, s.sizes.imputed)
    try:
        found = uses.imputation(s.variant, s.data, few)
    except InputError as error:
        return Part("imputation", [Figure("use/imputation_gibbs", None, reason=str(error))])
    rows = [_average(f"use/imputation_{way}", each) for way, each in found.items()]
    if "importance" not in found:
        rows.append(Figure("use/imputation_importance", None, reason="q(z|x) has no density"))
    return Part("imputation", rows)


def _interpolation(s: Subject) -> Part:
    return _plain(s, "interpolation", ("jump", "length"), lambda: uses.interpolation(s.variant, s.data, s.data.test))


def _generation(s: Subject) -> Part:
    names = (f"accuracy_{judge.HASH}", f"real_{judge.HASH}")

    def scored() -> dict[str, float]:
        found = uses.generation(s.variant, s.data, s.referee)
        return {f"{name}_{judge.HASH}": value for name, value in found.items()}

    return _plain(s, "generation", names, scored)


def _forecast(s: Subject) -> Part:
    few = probe.subset(s.data.test, s.sizes.imputed)
    return _plain(s, "forecast", ("model",), lambda: uses.forecast(s.variant, s.data, few))


def _augmentation(s: Subject) -> Part:
    try:
        found = uses.augmentation(s.variant, s.data, min(s.sizes.augmented, len(s.known)))
    except InputError as error:
        return Part("augmentation", [Figure("use/augmentation_with", None, reason=str(error))])
    gain = found["with"] - found["without"]
    rows = [_average(f"use/augmentation_{way}", each) for way, each in found.items()]
    return Part("augmentation", [*rows, _average("use/augmentation_gain", gain)])


PARTS: Mapping[str, Callable[[Subject], Part]] = {
    f.__name__.removeprefix("_"): f
    for f in (
        _bounds, _annealing, _latents, _probe, _clusters, _disentanglement, _samples, _anomaly, _imputation,
        _interpolation, _generation, _forecast, _augmentation,
    )
}  # fmt: skip


def _plain(s: Subject, use: str, names: tuple[str, ...], scored: Callable[[], Mapping[str, float]]) -> Part:
    try:
        return Part(use, [Figure(f"use/{use}_{name}", value) for name, value in scored().items()])
    except InputError as error:
        return Part(use, [Figure(f"use/{use}_{name}", None, reason=str(error)) for name in names])


def _mean(name: str, total: torch.Tensor, n: int) -> Figure:
    return Figure(name, float(total) / n, n)


def _average(name: str, each: Array, *, n: int | None = None, k: int | None = None) -> Figure:
    error = float(each.std(ddof=1) / math.sqrt(len(each))) if len(each) > 1 else None
    return Figure(name, float(each.mean()), n or len(each), error, k)
