"""Every metric's name, once: which way is better, its unit, its meaning, and whether a study may optimise it."""

import re
from dataclasses import dataclass
from typing import Literal

from variants import DataSpec, InputError


@dataclass(frozen=True)
class Metric:
    better: Literal["maximize", "minimize", ""]  # "": neither
    unit: str
    about: str


@dataclass(frozen=True)
class Objective(Metric):
    """A metric that a study may optimise."""

    better: Literal["maximize", "minimize"]
    required_fields: frozenset[str] = frozenset()  # fields of Batch without which it is undefined


OBJECTIVES = {
    "valid/elbo": Objective("maximize", "nats per example", "evidence lower bound at beta = 1"),
    "valid/reconstruction": Objective("minimize", "nats per example", "-E_q log p(x|z)"),
    "valid/kl": Objective("minimize", "nats per example", "KL(q(z|x) || p(z))"),
    "latent/mmd": Objective("minimize", "squared distance", "codes against draws from the prior"),
    "probe/accuracy": Objective("maximize", "share", "logistic regression on codes", frozenset({"y"})),
}


def objectives(names: tuple[str, ...], spec: DataSpec) -> tuple[str, ...]:
    """Those of a study's objectives that the data allow.

    Raises `InputError` for one that may not be optimised: a training loss contains the very weights that are searched
    (beta, free bits, adversarial weight), and test scores are not for choosing.
    """
    for name in names:
        if name in OBJECTIVES:
            continue
        why = "it is not a metric that variants can be compared by"
        if name.startswith("test/"):
            why = "the test split is for the final report; choose on validation"
        elif name.startswith("train/") or "loss" in name:
            why = "what is minimised contains weights that are searched, such as beta, and would choose the smallest"
        raise InputError(f"objective {name!r} is refused: {why}; expected one of {', '.join(OBJECTIVES)}")
    usable = tuple(n for n in names if OBJECTIVES[n].required_fields <= spec.fields)
    if not usable:
        raise InputError(f"objective {', '.join(names)} needs labels, and data set {spec.name} has none")
    return usable


_NATS, _SHARE = "nats per example", "share"
EVALUATION = {  # of `pipeline.evaluate`, on the test split: regular expressions of names, in the order of a report
    r"test/elbo": Metric("maximize", _NATS, "evidence lower bound at beta = 1"),
    r"test/reconstruction": Metric("minimize", _NATS, "-E_q log p(x|z)"),
    r"test/kl": Metric("", _NATS, "KL(q(z|x) || p(z))"),
    r"test/iw\d+": Metric("maximize", _NATS, "importance weighted bound of log p(x) (Burda et al. 2016)"),
    r"test/bits_per_dimension": Metric("minimize", "bits", "-log2 p(x) a value, by the importance weighted bound"),
    r"test/ais": Metric("maximize", _NATS, "log p(x) by annealed importance sampling (Wu et al. 2017)"),
    r"test/ais_gap": Metric("", _NATS, "upper less lower bound on simulated data (Grosse et al. 2015)"),
    r"test/ais_less_iw": Metric("", _NATS, "how far the bound falls short of annealing, on the same examples"),
    r"probe/((raw|pca|untrained)_)?linear_(\d+|all)": Metric(
        "maximize", _SHARE, "logistic regression on codes, by known labels; on raw values, PCA, an untrained encoder"
    ),
    r"probe/((raw|pca|untrained)_)?knn": Metric("maximize", _SHARE, "10 nearest neighbours, by the same codes"),
    r"latent/active_units_cov": Metric(
        "", "dimensions", "posterior mean varies by over .01 of the prior (Burda et al. 2016)"
    ),
    r"latent/active_units_kl": Metric("", "dimensions", "KL above .01 nats (Sønderby et al. 2016)"),
    r"latent/dimension_kl": Metric(
        "minimize", "nats", "KL of codes from the prior, dimension by dimension (Chen 2018)"
    ),
    r"latent/mutual_information": Metric("", "nats", "at most this: I(x; z) under q, by KL less dimension_kl"),
    r"latent/(kmeans|mixture)_(ari|nmi)": Metric(
        "maximize", "index", "clusters of codes against classes; 1 is perfect"
    ),
    r"latent/(kmeans|mixture)_accuracy": Metric("maximize", _SHARE, "clusters against classes, by optimal assignment"),
    r"latent/(mig|modularity|sap|dci_\w+|beta_vae_score|factor_vae_score)": Metric(
        "maximize", "score", "disentanglement of known factors; at most 1"
    ),
    r"sample/(precision|recall|coverage)_(floor_)?\w{6}": Metric("maximize", _SHARE, "samples among real examples"),
    r"sample/density_(floor_)?\w{6}": Metric("maximize", "ratio", "real balls around a sample; 1 where alike"),
    r"sample/frechet_(floor_)?\w{6}": Metric("minimize", "squared distance", "of Gaussians of judge's features"),
    r"sample/kid_(floor_)?\w{6}": Metric("minimize", "squared distance", "kernel distance of judge's features"),
    r"use/anomaly_\w+": Metric("maximize", "area", "under the ROC curve: one class normal, others strange"),
    r"use/imputation_\w+": Metric("minimize", _NATS, "-log p(missing|seen)"),
    r"use/interpolation_(jump|length)": Metric(
        "", "ratio", "change between two codes; 1 where it is even and straight"
    ),
    r"use/generation_(accuracy|real)_\w{6}": Metric("maximize", _SHARE, "samples of the class that was asked for"),
    r"use/forecast_\w+": Metric("minimize", "the data's", "root mean square error of the second half of sequences"),
    r"use/augmentation_(with|without)": Metric("maximize", _SHARE, "accuracy of a classifier of few labels"),
    r"speed/examples_per_second": Metric("maximize", "examples per second", "of training, median over epochs"),
    r"speed/standard": Metric("maximize", "examples", "trained in the time of a fixed little training"),
    r"use/augmentation_gain": Metric("maximize", _SHARE, "what added samples do to that accuracy"),
}


def find(name: str) -> Metric:
    """What is known of a metric. Raises `KeyError` where nobody wrote it down."""
    if name in OBJECTIVES:
        return OBJECTIVES[name]
    found = [m for pattern, m in EVALUATION.items() if re.fullmatch(pattern, name)]
    if not found:
        raise KeyError(name)
    return found[0]
