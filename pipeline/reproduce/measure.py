"""What is measured of the trained models of an anchor, once, on the test split.

Each function takes the trained models by name, and returns scores by name. Log-likelihoods and their bounds are in nats
per example. `seconds` are seconds of training and validation.
"""

import hashlib
import json
from collections.abc import Callable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score
from torch import Tensor

from pipeline import machine, trainer
from pipeline.data import Data
from pipeline.evaluate import codes, context, latents, likelihood, probe, suite
from pipeline.evaluate.imputation import conditional_mean
from pipeline.metrics import defined
from pipeline.reproduce import holes
from pipeline.training_run import TrainingRun
from variants import Batch, InputError, Variant

Models = Mapping[str, TrainingRun]


def likelihoods(models: Models, k: int = 500, n: int = 1000) -> dict[str, float]:
    """Measure the ELBO, and of models with a KL per dimension active units (KL > .01) and levels, on the test split.

    The importance weighted bound with `k` samples is measured on `n` test examples, for each model on the same ones. If
    one of several models is named "vae", the mean differences of the others' bounds from its own have standard errors
    of their own.
    """
    scores: dict[str, float] = {"k": k, "n": n}
    bounds: dict[str, Tensor] = {}
    for name, m in models.items():
        totals = trainer.score(m.variant, m.data, m.data.test, seed=0)
        scores[f"{name}/-elbo"] = float(totals.sums["reconstruction"] + totals.sums["kl"]) / totals.count
        examples = probe.subset(m.data.test, n)
        bounds[name] = -_log_p(m, examples, k)
        scores[f"{name}/-log p(x)"] = float(bounds[name].mean())
        scores[f"{name}/standard error"] = _standard_error(bounds[name])
        if m.variant.conditioned_on == "y" and examples.y is not None:
            scores[f"{name}/-log p(x, y)"] = -float(_log_p(m, examples, k, marginal=False).mean())
            log_shares = m.data.spec.class_probabilities.log()[examples.y.cpu()]
            scores[f"{name}/-log p(x|y)"] = scores[f"{name}/-log p(x, y)"] + float(log_shares.mean())
        scores[f"{name}/seconds"] = m.seconds
        if "kl_per_dimension" not in totals.sums:
            continue
        kl = (totals.sums["kl_per_dimension"] / totals.count).cpu()
        scores[f"{name}/active_units"] = float(latents.active_units_kl(kl))
        if m.variant.levels:
            by_level = latents.by_level(kl, m.variant.levels)
            scores |= {f"{name}/{key.removeprefix('latent/')}": value for key, value in by_level.items()}
    for name in [name for name in bounds if name != "vae" and "vae" in bounds]:
        difference = bounds["vae"] - bounds[name]
        scores[f"vae/-log p(x) above the {name}'s"] = float(difference.mean())
        scores[f"vae/standard error of the difference from the {name}"] = _standard_error(difference)
    return scores


def labels(models: Models, k: int = 100, n: int = 1000) -> dict[str, float]:
    """Measure log p(x), summed over all classes, and log p(x|y) of the true classes: log p(x, y) - log p(y)."""
    return likelihoods(models, k, n)


def quadrants(models: Models, k: int = 100) -> dict[str, float]:
    """Measure -log p(missing|observed) on the whole test split, by importance sampling with `k` draws from q(z|x)."""
    scores: dict[str, float] = {}
    for name, m in models.items():
        draws = 1 if name.startswith("network") else k  # the network is deterministic
        scores[name] = -float(_log_p(m, m.data.test, draws).mean())
    for observed in (1, 2, 3):
        scores[f"gap {observed}"] = scores[f"network {observed}"] - scores[f"cvae {observed}"]
    return scores


def parzen(models: Models, samples: int = 10_000) -> dict[str, float]:
    """Measure the mean Parzen log-density of the grey test images.

    The kernel width sigma is the one at which 1,000 validation images have the highest density.
    """
    (m,) = models.values()
    m.variant.eval()
    with machine.seeded(m.variant.device, 0):
        sampled = torch.cat([m.variant.sample(1000).flatten(1) for _ in range(samples // 1000)])
    sigma = likelihood.parzen_width(sampled, probe.subset(m.data.valid, 1000).x)
    log_density = likelihood.parzen(sampled, m.data.test.x, sigma)
    aggregated, prior = codes.posterior_and_prior(m.variant, m.data, m.data.test)
    moments = {k.removeprefix("latent/"): v for k, v in latents.moments(aggregated, prior).items()}
    return {
        "parzen": float(log_density.mean()), "parzen standard error": _standard_error(log_density), "sigma": sigma,
        "samples": float(samples), "mmd": latents.mmd(aggregated, prior), **moments, "seconds": m.seconds,
    }  # fmt: skip


def classification(models: Models) -> dict[str, float]:
    """Measure the share of test examples whose most likely class, by the last columns of the code, is wrong."""
    (m,) = models.values()
    logits = codes.encode_split(m.variant, m.data, m.data.test)[:, -m.data.spec.classes :]
    return {"error": float((logits.argmax(1) != codes.labels_of(m.data.test)).mean()), "seconds": m.seconds}


def imputation(models: Models, draws: int = 10_000) -> dict[str, float]:
    """Measure the mean squared error of hidden values, in the units of the standardised table.

    The model imputes with `draws` samples of z for each row. Imputers of scikit-learn are measured for comparison.
    """
    from sklearn.experimental import enable_iterative_imputer  # noqa: F401
    from sklearn.impute import IterativeImputer, KNNImputer, SimpleImputer

    first = next(iter(models.values())).data
    truth = holes.complete(first.source.place).test.x.numpy()
    assert first.test.observed is not None
    observed = first.test.observed.cpu().numpy()

    def error(imputed: NDArray[np.float64]) -> float:
        return float(np.square(imputed - truth)[~observed].mean())

    scores: dict[str, float] = {"draws": draws}
    for name, m in models.items():
        m.variant.eval()
        with torch.no_grad(), machine.seeded(m.variant.device, 0):
            imputed = conditional_mean(m.variant, m.data.test, draws)
        scores |= {f"{name}/mse": error(imputed.double().cpu().numpy()), f"{name}/seconds": m.seconds}
    table = np.where(observed, truth, np.nan)
    imputers = {
        "mean": SimpleImputer(), "10 nearest neighbours": KNNImputer(n_neighbors=10),
        "iterative": IterativeImputer(max_iter=50, random_state=0),
    }  # fmt: skip
    return scores | {f"mse, {name}": error(imputer.fit_transform(table)) for name, imputer in imputers.items()}


def ecg(models: Models) -> dict[str, float]:
    """Measure a linear probe on the codes, and how well the reconstruction separates normal heartbeats from others."""
    m, normal = models["all"], models["normal"]
    train, test = m.data.train, m.data.test
    train_y, test_y = codes.labels_of(train), codes.labels_of(test)
    abnormal = test_y != int(torch.from_numpy(train_y).mode().values)
    train_x, test_x = (codes.encode_split(m.variant, m.data, split) for split in (train, test))
    scores = {
        "accuracy": probe.accuracy(train_x, train_y, test_x, test_y),
        "auc": float(roc_auc_score(abnormal, _reconstructions(normal.variant, m.data))),
        "auc, trained on all": float(roc_auc_score(abnormal, _reconstructions(m.variant, m.data))),
    }
    totals = trainer.score(m.variant, m.data, test, seed=0)
    scores["kl"] = float(totals.sums["kl"]) / totals.count
    scores["-elbo"] = float(totals.sums["reconstruction"]) / totals.count + scores["kl"]
    raw = [split.x.flatten(1).cpu().numpy() for split in (train, test)]
    scores["accuracy, raw values"] = probe.accuracy(raw[0], train_y, raw[1], test_y)
    return scores | {"seconds": m.seconds + normal.seconds}


def steps(models: Models, k: int = 500) -> dict[str, float]:
    """Measure nats per time step: the sum over all test sequences divided by all their steps.

    Beside it stands the mean over sequences, each divided by its own number of steps.
    """
    (m,) = models.values()
    test = m.data.test
    assert test.mask is not None
    lengths = test.mask.sum(1).double().cpu()
    totals = trainer.score(m.variant, m.data, test, seed=0)
    kl = float(totals.sums["kl"])
    bound = -_log_p(m, test, k)
    return {
        "-elbo a step": (float(totals.sums["reconstruction"]) + kl) / float(lengths.sum()),
        "-log p(x) a step": float(bound.sum() / lengths.sum()),
        "-log p(x) a step, mean over sequences": float((bound / lengths).mean()),
        "kl a step": kl / float(lengths.sum()), "kl a sequence": kl / totals.count, "k": k, "seconds": m.seconds,
    }  # fmt: skip


def evaluation(models: Models) -> dict[str, float]:
    """Run parts of the evaluation on each model, with less effort than by default where they take longest.

    Raises `InputError` if the models have different test images, because their scores could not be compared.
    """
    images = {hashlib.sha256(m.data.test.x.cpu().numpy().tobytes()).hexdigest() for m in models.values()}
    if len(images) > 1:
        raise InputError("the models have different test images; expected the same values, in whatever shape")
    sizes = context.Sizes(ais_temperatures=300, one_class_steps=300)
    scores: dict[str, float] = {}
    for name, m in models.items():
        scores |= _parts(name, m, ("bounds", "annealing", "latents", "probe", "samples", "one_class"), sizes)
        scores[f"{name}/seconds"] = m.seconds
    return scores


def disentanglement(models: Models, k: int = 500) -> dict[str, float]:
    """Run the parts of the evaluation that are about codes on each model: bounds, latents and disentanglement.

    The importance weighted bound has `k` samples. Beside the scores stand their differences from the first model's.
    """
    scores: dict[str, float] = {}
    for name, m in models.items():
        scores |= _parts(name, m, ("bounds", "latents", "disentanglement"), context.Sizes(iw_k=k))
        scores[f"{name}/seconds"] = m.seconds
    first, *others = models
    for metric in ("latent/mig", "latent/factor_vae_score", "test/reconstruction"):
        for name in others:
            difference = scores[f"{name}/{metric}"] - scores[f"{first}/{metric}"]
            scores[f"{metric.split('/')[1]}, {name} above {first}"] = difference
    return scores


def quantisation(models: Models) -> dict[str, float]:
    """Measure how well codes describe the test images: the squared error of reconstructions, and the bound.

    `nmse` is the mean squared error of the means of p(x|z), divided by the variance of all training pixels. The others
    are means over test images in nats, and scores of the codes that the variant gives.
    """
    (m,) = models.values()
    totals = trainer.score(m.variant, m.data, m.data.test, seed=0)
    scores = {name: float(total) / totals.count for name, total in totals.sums.items()}
    scores["-elbo"] = scores["reconstruction"] + scores["kl"]
    with torch.no_grad():
        parts = [
            (m.variant.decode(m.variant.encode(b), b) - b.x).square().flatten() for b in m.data.batches(m.data.test)
        ]
    pixels = torch.cat([b.x.flatten() for b in m.data.batches(m.data.train)])
    return {"nmse": float(torch.cat(parts).mean() / pixels.var()), **scores, "seconds": m.seconds}


def aggregated(models: Models) -> dict[str, float]:
    """Measure the reconstruction and the KL, and how well the aggregated posterior q(z) matches the prior.

    The maximum mean discrepancy, and the mean and the spread of codes, compare samples of q(z) of test examples with
    samples of the prior.
    """
    scores: dict[str, float] = {}
    for name, m in models.items():
        totals = trainer.score(m.variant, m.data, m.data.test, seed=0)
        posterior, prior = codes.posterior_and_prior(m.variant, m.data, m.data.test)
        of_model = {
            "reconstruction": float(totals.sums["reconstruction"]) / totals.count,
            "kl": float(totals.sums["kl"]) / totals.count, "mmd": latents.mmd(posterior, prior),
            **latents.moments(posterior, prior), "seconds": m.seconds,
        }  # fmt: skip
        scores |= {f"{name}/{key.removeprefix('latent/')}": value for key, value in of_model.items()}
    scores["vae/reconstruction above the wae's"] = scores["vae/reconstruction"] - scores["wae/reconstruction"]
    return scores


def _parts(name: str, m: TrainingRun, parts: tuple[str, ...], sizes: context.Sizes) -> dict[str, float]:
    """Return the scores of some parts of the evaluation, each under "NAME/METRIC".

    The scores of each part are kept in a file beside the checkpoint, from which an interrupted command reads them.
    """
    scores: dict[str, float] = {}
    for part in parts:
        path = m.path.with_name(f"{m.path.stem}-{part}.json")
        if not path.exists():
            (result,) = suite.run(m.variant, m.data, sizes=sizes, only=(part,))
            values = {score.name: score.value for score in result.scores if score.value is not None}
            unfinished = path.with_suffix(".part")
            unfinished.write_text(json.dumps(values), encoding="utf-8")
            unfinished.replace(path)
        scores |= {f"{name}/{key}": value for key, value in json.loads(path.read_text(encoding="utf-8")).items()}
    return scores


def _log_p(m: TrainingRun, split: Batch, k: int, marginal: bool = True) -> Tensor:
    return defined(likelihood.importance_weighted(m.variant, m.data, split, k, marginal=marginal))


def _standard_error(values: Tensor) -> float:
    return float(float(values.std()) / len(values) ** 0.5)


def _reconstructions(variant: Variant, data: Data) -> NDArray[np.float32]:
    """Return -log p(x|z) of each test example: (N,), nats."""
    variant.eval()
    step = torch.zeros((), device=variant.device)
    with machine.seeded(variant.device, 0):
        return torch.cat([variant.terms(b, step).reconstruction for b in data.batches(data.test)]).cpu().numpy()


MEASURES: Mapping[str, Callable[..., dict[str, float]]] = {
    f.__name__: f
    for f in (
        likelihoods, labels, quadrants, parzen, classification, imputation, ecg, steps, evaluation, disentanglement,
        quantisation, aggregated,
    )
}  # fmt: skip
