"""What is measured of an anchor's trained models, once, on the test split. Each function returns metrics by name."""

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

from pipeline import machine, trainer
from pipeline.data import Data
from pipeline.evaluate import codes as latent_codes
from pipeline.evaluate import context, latents, likelihood, probe, suite
from pipeline.reproduce.training import Trained
from variants import InputError, Variant

Models = Mapping[str, Trained]


def likelihoods(models: Models, k: int = 500, n: int = 1000) -> dict[str, float]:
    """-ELBO, active units (KL > .01) and levels over the whole test split; the bound with `k` samples on `n`; nats."""
    found: dict[str, float] = {"k": k, "n": n}
    for name, m in models.items():
        totals = trainer.score(m.variant, m.data, m.data.test, seed=0, precision="fp32")
        kl = (totals.sums["kl_per_dimension"] / totals.count).cpu()
        found[f"{name}/-elbo"] = float(totals.sums["reconstruction"] + totals.sums["kl"]) / totals.count
        found |= {f"{name}/{key}": value for key, value in _bound(m, k, n).items()}
        found[f"{name}/seconds"] = m.seconds
        found[f"{name}/active_units"] = float(latents.active_units_kl(kl))
        if m.variant.levels:
            levels = latents.by_level(kl, m.variant.levels)
            found |= {f"{name}/{key.removeprefix('latent/')}": value for key, value in levels.items()}
    if {"ladder", "vae"} <= set(models):
        found["vae/-log p(x) above the ladder's"] = found["vae/-log p(x)"] - found["ladder/-log p(x)"]
    return found


def labels(models: Models, k: int = 100, n: int = 1000) -> dict[str, float]:
    """log p(x) over all classes, and log p(x|y) of the true ones: the joint, less log p(y)."""
    found = likelihoods(models, k, n)
    m = models["cvae"]
    found["cvae/-log p(x|y)"] = found["cvae/-log p(x, y)"] - float(np.log(m.data.spec.classes))
    found["vae/-log p(x) above the cvae's"] = found["vae/-log p(x)"] - found["cvae/-log p(x)"]
    return found


def quadrants(models: Models, k: int = 100) -> dict[str, float]:
    """-log p(missing|seen) over the whole test split, by importance sampling with `k` draws from q(z|x)."""
    found: dict[str, float] = {}
    for name, m in models.items():
        size = 1 if name.startswith("network") else k  # the network is deterministic
        found[name] = -float(likelihood.importance_weighted(m.variant, m.data, m.data.test, size).mean())
    for observed in (1, 2, 3):
        found[f"gap {observed}"] = found[f"network {observed}"] - found[f"cvae {observed}"]
    return found


def parzen(models: Models, samples: int = 10_000) -> dict[str, float]:
    """Mean log-density of the 10,000 grey test images; sigma is that at which 1,000 validation images are likeliest."""
    (m,) = models.values()
    m.variant.eval()
    with machine.seeded(m.variant.device, 0):
        drawn = torch.cat([m.variant.sample(1000).flatten(1) for _ in range(samples // 1000)])
    sigma = likelihood.parzen_width(drawn, probe.subset(m.data.valid, 1000).x)
    each = likelihood.parzen(drawn, m.data.test.x, sigma)
    codes, prior = latent_codes.posterior_and_prior(m.variant, m.data, m.data.test)
    moments = {k.removeprefix("latent/"): v for k, v in latents.moments(codes, prior).items()}
    error = float(each.std()) / len(each) ** 0.5
    return {
        "parzen": float(each.mean()), "parzen standard error": error, "sigma": sigma, "samples": float(samples),
        "mmd": latents.mmd(codes, prior), **moments, "seconds": m.seconds,
    }  # fmt: skip


def classification(models: Models) -> dict[str, float]:
    """Share of test examples whose likeliest class, the last columns of the code, is wrong."""
    (m,) = models.values()
    codes = latent_codes.encode_split(m.variant, m.data, m.data.test)[:, -m.data.spec.classes :]
    assert m.data.test.y is not None
    return {"error": float((codes.argmax(1) != m.data.test.y.cpu().numpy()).mean()), "seconds": m.seconds}


def ecg(models: Models) -> dict[str, float]:
    """A linear probe on the codes, and how well the reconstruction tells normal heartbeats from others."""
    m, normal = models["all"], models["normal"]
    y, test = m.data.train.y, m.data.test.y
    assert y is not None and test is not None
    most = int(y.mode().values)
    train_x, test_x = (latent_codes.encode_split(m.variant, m.data, split) for split in (m.data.train, m.data.test))
    found = {
        "accuracy": probe.accuracy(train_x, y.cpu().numpy(), test_x, test.cpu().numpy()),
        "auc": float(roc_auc_score((test != most).cpu().numpy(), _errors(normal.variant, m.data))),
        "auc, trained on all": float(roc_auc_score((test != most).cpu().numpy(), _errors(m.variant, m.data))),
    }
    totals = trainer.score(m.variant, m.data, m.data.test, seed=0, precision="fp32")
    found["kl"] = float(totals.sums["kl"]) / totals.count
    found["-elbo"] = float(totals.sums["reconstruction"]) / totals.count + found["kl"]
    raw = [split.x.flatten(1).cpu().numpy() for split in (m.data.train, m.data.test)]
    found["accuracy, raw values"] = probe.accuracy(raw[0], y.cpu().numpy(), raw[1], test.cpu().numpy())
    return found | {"seconds": m.seconds + normal.seconds}


def steps(models: Models, k: int = 500) -> dict[str, float]:
    """Nats a step: sums over all test sequences divided by their steps (pooled), and the mean over sequences."""
    (m,) = models.values()
    test = m.data.test
    assert test.mask is not None
    lengths = test.mask.sum(1).double().cpu()
    totals = trainer.score(m.variant, m.data, test, seed=0, precision="fp32")
    kl = float(totals.sums["kl"])
    bound = -likelihood.importance_weighted(m.variant, m.data, test, k)
    return {
        "-elbo a step": (float(totals.sums["reconstruction"]) + kl) / float(lengths.sum()),
        "-log p(x) a step": float(bound.sum() / lengths.sum()),
        "-log p(x) a step, mean over sequences": float((bound / lengths).mean()),
        "kl a step": kl / float(lengths.sum()),
        "kl a sequence": kl / totals.count,
        "k": k,
        "seconds": m.seconds,
    }


TABLE = ("bounds", "annealing", "latents", "probe", "samples", "anomaly")


def evaluation(models: Models) -> dict[str, float]:
    """Parts of the evaluation of each model, shorter than by default where that costs most.

    Those whose test images differ are refused: their columns say nothing.
    """
    images = {hashlib.sha256(m.data.test.x.cpu().numpy().tobytes()).hexdigest() for m in models.values()}
    if len(images) > 1:
        raise InputError("the models are of different test images; expected the same, whatever their shape")
    found: dict[str, float] = {}
    sizes = context.Sizes(ais_temperatures=300, anomaly_steps=300)
    for name, m in models.items():
        for part in TABLE:
            found |= {f"{name}/{key}": value for key, value in _kept(m, part, sizes).items()}
        found[f"{name}/seconds"] = m.seconds
    return found


def disentanglement(models: Models) -> dict[str, float]:
    """The parts of an evaluation that are about codes: bounds, latents and disentanglement, of each model."""
    found: dict[str, float] = {}
    for name, m in models.items():
        for part in ("bounds", "latents", "disentanglement"):
            found |= {f"{name}/{key}": value for key, value in _kept(m, part, context.Sizes()).items()}
    found["mig, beta 4 above beta 1"] = found["beta 4/latent/mig"] - found["beta 1/latent/mig"]
    return found


def _kept(m: Trained, part: str, sizes: context.Sizes) -> dict[str, float]:
    """The figures of a part, from the file beside the checkpoint, where an interrupted run left it, or measured now."""
    path = m.path.with_name(f"{m.path.stem}-{part}.json")
    if path.exists():
        return json.loads(path.read_text(encoding="utf-8"))  # type: ignore[no-any-return]
    (scored,) = suite.run(m.variant, m.data, sizes=sizes, only=(part,))
    values = {f.name: f.value for f in scored.scores if f.value is not None}
    fresh = path.with_suffix(".part")
    fresh.write_text(json.dumps(values), encoding="utf-8")
    fresh.replace(path)
    return values


def _bound(m: Trained, k: int, n: int) -> dict[str, float]:
    few = probe.subset(m.data.test, n)
    each = -likelihood.importance_weighted(m.variant, m.data, few, k)
    found = {"-log p(x)": float(each.mean()), "standard error": float(each.std()) / len(each) ** 0.5}
    if m.variant.conditioned_on == "y":
        found["-log p(x, y)"] = -float(likelihood.importance_weighted(m.variant, m.data, few, k, marginal=False).mean())
    return found


def _errors(variant: Variant, data: Data) -> Any:
    """(N,) reconstruction of each test example, nats."""
    variant.eval()
    zero = torch.zeros((), device=variant.device)
    with machine.seeded(variant.device, 0):
        each: list[Tensor] = [variant.terms(b, zero).reconstruction for b in data.batches(data.test)]
    return torch.cat(each).cpu().numpy()


MEASURES: Mapping[str, Callable[..., dict[str, float]]] = {
    f.__name__: f
    for f in (likelihoods, labels, quadrants, parzen, classification, ecg, steps, evaluation, disentanglement)
}
