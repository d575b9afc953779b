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

from pipeline import machine, trainer
from pipeline.data import Data
from pipeline.evaluate import (
    ais,
    classifier,
    clusters,
    disentanglement,
    downstream,
    latents,
    likelihood,
    pictures,
    probe,
    samples,
)
from pipeline.evaluate.codes import encode_split, posterior_and_prior, raw_values
from pipeline.evaluate.context import Context, Part, Score, Sizes
from variants import Batch, InputError, Variant

Array = NDArray[np.float64]


def run(
    variant: Variant, data: Data, *, sizes: Sizes | None = None, only: tuple[str, ...] = (), seed: int = 0
) -> Iterator[Part]:
    """Score a model on the test split, part by part. `only` names some of `PARTS`; the model stays as it is."""
    context = Context(variant.eval(), data, sizes or Sizes(), seed)
    for name in names(only):
        yield PARTS[name](context)


def names(only: Sequence[str] = ()) -> list[str]:
    """The parts of an evaluation, in their order. Raises `InputError` for one that does not exist."""
    for name in only:
        if name not in PARTS:
            raise InputError(f"part {name!r}: expected {', '.join(PARTS)}")
    return [name for name in PARTS if not only or name in only]


def _bounds(s: Context) -> Part:
    totals, data = s.totals, s.data
    rows = [_mean("test/reconstruction", totals.sums["reconstruction"], totals.count)]
    if "kl" in totals.sums:
        both = totals.sums["reconstruction"] + totals.sums["kl"]
        rows += [_mean("test/kl", totals.sums["kl"], totals.count), _mean("test/elbo", -both, totals.count)]
    else:
        rows += [Score(name=n, value=None, reason="q(z|x) has no density") for n in ("test/kl", "test/elbo")]
    name = f"test/iw{s.sizes.iw_k}"
    few = probe.subset(data.test, s.sizes.iw_n)
    try:
        each = likelihood.importance_weighted(s.variant, data, few, s.sizes.iw_k, seed=s.seed).numpy()
    except InputError as error:
        return Part(name="bounds", scores=[*rows, Score(name=name, value=None, reason=str(error))])
    rows.append(_average(name, each, k=s.sizes.iw_k))
    if s.variant.conditioned_on == "x":
        return Part(
            name="bounds",
            scores=rows,
            words="likelihoods are of what is missing, given what is seen: of no other variant's kind",
        )
    if data.spec.likelihood == "logistic8":
        bits = likelihood.bits_per_dimension(float(each.mean()), data.spec)
        rows.append(Score(name="test/bits_per_dimension", value=bits, n=len(each), k=s.sizes.iw_k))
    return Part(name="bounds", scores=rows)


def _annealing(s: Context) -> Part:
    data, sizes = s.data, s.sizes
    few = probe.subset(data.test, sizes.ais_n)
    batch = next(data.batches(few, len(few)))
    pilot = next(data.batches(probe.subset(data.valid, 8), 8))
    names = ("test/ais", "test/ais_gap", "test/ais_less_iw")
    try:
        tuned = ais.tune(s.variant, pilot, sizes.ais_temperatures, seed=s.seed)
    except InputError as error:
        return Part(name="annealing", scores=[Score(name=n, value=None, reason=str(error)) for n in names])
    found = ais.estimate(s.variant, batch, tuned, chains=sizes.ais_chains, seed=s.seed)
    gap = ais.gap(s.variant, batch[slice(0, sizes.gap_n)], tuned, chains=sizes.ais_chains, seed=s.seed).numpy()
    k = sizes.ais_chains
    rows = [_average(names[0], found.log_p.numpy(), k=k), _average(names[1], gap, k=k)]
    try:
        bound = likelihood.importance_weighted(s.variant, data, few, sizes.iw_k, seed=s.seed)
        rows.append(_average(names[2], (found.log_p - bound).numpy(), k=sizes.iw_k))
    except InputError as error:
        rows.append(Score(name=names[2], value=None, reason=str(error)))
    return Part(
        name="annealing",
        scores=rows,
        pictures={"rate_distortion": pictures.rate_distortion(found.rate, found.distortion)},
    )


def _latents(s: Context) -> Part:
    test, variant = s.codes[1], s.variant
    words, spectrum = "", {}
    if s.kl is None:
        rows = [Score(name="latent/active_units_kl", value=None, reason="q(z|x) has no KL per dimension")]
    else:
        rows = [Score(name="latent/active_units_kl", value=latents.active_units_kl(s.kl), n=s.totals.count)]
        words, spectrum = latents.verdict(s.kl), {"kl_per_dimension": s.kl.tolist()}
    names = ("latent/active_units_cov", "latent/dimension_kl", "latent/mutual_information")
    try:
        if variant.conditioned_on == "x":
            raise InputError("the prior is of each example")
        if variant.conditioned_on or variant.levels or variant.latent_classes:
            raise InputError("the prior's dimensions depend on a class, or on the level above")
        posterior, prior = posterior_and_prior(variant, s.data, s.data.test, s.sizes.samples)
        apart = latents.dimension_kl(posterior, prior)
    except InputError as error:
        return Part(
            name="latents",
            scores=[*rows, *(Score(name=n, value=None, reason=str(error)) for n in names)],
            pictures={},
            vectors=spectrum,
            words=words,
        )
    rows.append(Score(name=names[0], value=latents.active_units(test, prior), n=len(test)))
    rows.append(Score(name=names[1], value=apart, n=len(posterior), k=5))
    if s.kl is None:
        rows.append(Score(name=names[2], value=None, reason="q(z|x) has no KL per dimension"))
    else:
        rows.append(Score(name=names[2], value=float(s.kl.sum()) - apart, n=len(posterior), k=5))
    return Part(name="latents", scores=rows, pictures={}, vectors=spectrum, words=words)


def _probe(s: Context) -> Part:
    sizes = s.sizes
    names = [*(f"linear_{n}" for n in sizes.labels), "linear_all", "knn"]
    try:
        y = s.labels()
    except InputError as error:
        return Part(name="probe", scores=[Score(name=f"probe/{n}", value=None, reason=str(error)) for n in names])
    raw = raw_values(s.data, s.known), raw_values(s.data, s.data.test)
    with machine.seeded(s.variant.device, s.seed):
        untrained = type(s.variant)(s.variant.config, s.variant.spec).to(s.variant.device)
    plain = encode_split(untrained, s.data, s.known), encode_split(untrained, s.data, s.data.test)
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
                rows.append(Score(name=name, value=None, reason=str(error)))
                continue
            rows.append(_average(name, each, n=len(test), k=n))
            curve.append((n, float(each.mean())))
        curves[way.removesuffix("_").replace("pca", "PCA") or "codes"] = curve
        near = probe.neighbours((train[few], y[0][few]), (test, y[1]))
        rows.append(Score(name=f"probe/{way}knn", value=near, n=len(test), k=10))
    return Part(
        name="probe",
        scores=rows,
        pictures={"probe_curve": pictures.curves(curves, "labels", "accuracy of a linear probe")},
    )


def _clusters(s: Context) -> Part:
    try:
        y = s.labels()[1]
        found = clusters.scores(s.codes[1], y, s.seed)
    except InputError as error:
        names = [f"latent/{way}_{score}" for way in ("kmeans", "mixture") for score in ("ari", "nmi", "accuracy")]
        return Part(name="clusters", scores=[Score(name=n, value=None, reason=str(error)) for n in names])
    return Part(name="clusters", scores=[Score(name=f"latent/{n}", value=v, n=len(y)) for n, v in found.items()])


def _disentanglement(s: Context) -> Part:
    known = s.data.factors
    if known is None:
        reason = f"the causes of {s.data.spec.name} are not known (an .npz may hold them as factors)"
        return Part(name="disentanglement", scores=[Score(name="latent/mig", value=None, reason=reason)])
    apart = [n in known[2].unordered for n in known[2].names]
    with machine.seeded(s.variant.device, s.seed):
        scale = (
            s.variant.sample_prior(1000).std(0).double().cpu().numpy()
        )  # of which the metrics know one value alone, 1
    try:
        found = disentanglement.scores(s.codes[1] / scale, known[2].values, apart, s.seed)
    except InputError as error:
        return Part(name="disentanglement", scores=[Score(name="latent/mig", value=None, reason=str(error))])
    return Part(
        name="disentanglement", scores=[Score(name=f"latent/{n}", value=v, n=len(s.codes[1])) for n, v in found.items()]
    )


def _samples(s: Context) -> Part:
    variant, data = s.variant, s.data
    n = min(s.sizes.samples, len(data.test), len(data.valid))
    try:
        if variant.conditioned_on == "x":
            raise InputError("it makes no whole examples")
        if n < 10:
            raise InputError(f"{n} examples are too few to compare samples with; expected 10 or more")
        made = s.referee
    except InputError as error:
        return Part(
            name="samples", scores=[Score(name=f"sample/frechet_{classifier.HASH}", value=None, reason=str(error))]
        )
    true = probe.subset(data.test, n)
    with machine.seeded(variant.device, s.seed):
        drawn_x = torch.cat([variant.sample(len(i), noise=True) for i in torch.arange(n).split(1000)])
    fake_split = Batch(drawn_x if true.mask is None else drawn_x * true.mask[..., None], mask=true.mask)
    real = classifier.features(made, data, true)[0]
    fake = classifier.features(made, data, fake_split)[0]
    other = classifier.features(made, data, probe.subset(data.valid, n))[0]  # which the judge was not trained on
    rows = []
    for floor, points in (("", fake), ("floor_", other)):
        for name, value in samples.manifold(real, points).items():
            rows.append(Score(name=f"sample/{name}_{floor}{classifier.HASH}", value=value, n=n, k=5))
        rows.append(Score(name=f"sample/frechet_{floor}{classifier.HASH}", value=samples.frechet(real, points), n=n))
        kid = samples.kid(real, points, seed=s.seed)
        rows.append(Score(name=f"sample/kid_{floor}{classifier.HASH}", value=kid[0], n=n, error=kid[1]))
    shown = {}
    if data.layout == "images":
        shown["neighbours"] = pictures.neighbours(drawn_x[:8], data)
    return Part(name="samples", scores=rows, pictures=shown)


def _anomaly(s: Context) -> Part:
    data, sizes = s.data, s.sizes
    few = probe.subset(data.test, sizes.anomaly_n)
    found: dict[str, list[float]] = {}
    try:
        s.labels()
        if s.variant.conditioned_on == "x":
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
            for way, value in downstream.anomaly(learner, alone, few, normal).items():
                found.setdefault(way, []).append(value)
    except InputError as error:
        return Part(name="anomaly", scores=[Score(name="use/anomaly_reconstruction", value=None, reason=str(error))])
    # classes are tasks of unlike difficulty, no repetitions of one: their spread is no error
    rows = [Score(name=f"use/anomaly_{way}", value=float(np.mean(each)), n=len(each)) for way, each in found.items()]
    missing = [w for w in ("elbo", "iw") if w not in found]
    rows += [Score(name=f"use/anomaly_{way}", value=None, reason="q(z|x) has no density") for way in missing]
    return Part(name="anomaly", scores=rows)


def _imputation(s: Context) -> Part:
    few = probe.subset(s.data.test, s.sizes.imputed)
    try:
        found = downstream.imputation(s.variant, s.data, few)
    except InputError as error:
        return Part(name="imputation", scores=[Score(name="use/imputation_gibbs", value=None, reason=str(error))])
    rows = [_average(f"use/imputation_{way}", each) for way, each in found.items()]
    if "importance" not in found:
        rows.append(Score(name="use/imputation_importance", value=None, reason="q(z|x) has no density"))
    return Part(name="imputation", scores=rows)


def _interpolation(s: Context) -> Part:
    return _plain(
        s, "interpolation", ("jump", "length"), lambda: downstream.interpolation(s.variant, s.data, s.data.test)
    )


def _generation(s: Context) -> Part:
    names = (f"accuracy_{classifier.HASH}", f"real_{classifier.HASH}")

    def scored() -> dict[str, float]:
        found = downstream.generation(s.variant, s.data, s.referee)
        return {f"{name}_{classifier.HASH}": value for name, value in found.items()}

    return _plain(s, "generation", names, scored)


def _forecast(s: Context) -> Part:
    few = probe.subset(s.data.test, s.sizes.imputed)
    return _plain(s, "forecast", ("model",), lambda: downstream.forecast(s.variant, s.data, few))


def _augmentation(s: Context) -> Part:
    try:
        found = downstream.augmentation(s.variant, s.data, min(s.sizes.augmented, len(s.known)))
    except InputError as error:
        return Part(name="augmentation", scores=[Score(name="use/augmentation_with", value=None, reason=str(error))])
    gain = found["with"] - found["without"]
    rows = [_average(f"use/augmentation_{way}", each) for way, each in found.items()]
    return Part(name="augmentation", scores=[*rows, _average("use/augmentation_gain", gain)])


PARTS: Mapping[str, Callable[[Context], Part]] = {
    f.__name__.removeprefix("_"): f
    for f in (
        _bounds, _annealing, _latents, _probe, _clusters, _disentanglement, _samples, _anomaly, _imputation,
        _interpolation, _generation, _forecast, _augmentation,
    )
}  # fmt: skip


def _plain(s: Context, use: str, names: tuple[str, ...], scored: Callable[[], Mapping[str, float]]) -> Part:
    try:
        return Part(name=use, scores=[Score(name=f"use/{use}_{name}", value=value) for name, value in scored().items()])
    except InputError as error:
        return Part(name=use, scores=[Score(name=f"use/{use}_{name}", value=None, reason=str(error)) for name in names])


def _mean(name: str, total: torch.Tensor, n: int) -> Score:
    return Score(name=name, value=float(total) / n, n=n)


def _average(name: str, each: Array, *, n: int | None = None, k: int | None = None) -> Score:
    error = float(each.std(ddof=1) / math.sqrt(len(each))) if len(each) > 1 else None
    return Score(name=name, value=float(each.mean()), n=n or len(each), error=error, k=k)
