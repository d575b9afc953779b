"""The table of all metrics that are logged: the direction, unit and meaning of each, and which a study may optimise."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeVar

from studies.anchors import ANCHORS
from variants import DataSpec, InputError

T = TypeVar("T")


@dataclass(frozen=True)
class Undefined:
    """Returned in place of a metric that is not defined for a model or for its data, with the reason why."""

    reason: str


def defined(value: T | Undefined) -> T:
    """Return a value that has to be defined here. Raises `InputError` with the reason if it is not."""
    if isinstance(value, Undefined):
        raise InputError(value.reason)
    return value


@dataclass(frozen=True)
class Metric:
    """What is known of a metric. `better` is empty if neither direction is better."""

    better: Literal["maximize", "minimize", ""]
    unit: str
    about: str


@dataclass(frozen=True)
class Objective(Metric):
    """A metric that a study may optimise. It needs the `required_fields` of `Batch`."""

    better: Literal["maximize", "minimize"]
    required_fields: frozenset[str] = frozenset()


_FORECAST_UNIT = "the data's, or deviations of several channels"
_NATS, _SHARE, _DISTANCE = "nats per example", "share", "squared distance"
METRICS: Mapping[str, Metric] = {  # by a regular expression of the whole name; the first that matches counts
    # of each epoch
    r"valid/elbo": Objective("maximize", _NATS, "evidence lower bound at beta = 1"),
    r"valid/reconstruction": Objective("minimize", _NATS, "-E_q log p(x|z)"),
    r"valid/kl": Objective("minimize", _NATS, "KL(q(z|x) || p(z))"),
    r"valid/elbo_units": Metric("maximize", _NATS, "ELBO of densities in the units of the source, not of the model"),
    r"valid/reconstruction_(real|positive|count|binary|category|pixel)": Metric(
        "minimize", _NATS, "the part of the reconstruction that comes from values of one kind"
    ),
    r"valid/bits_per_dimension": Metric("minimize", "bits", "-log2 p(x) per value of 8-bit pixels, by the ELBO"),
    r"valid/bound": Metric("maximize", _NATS, "importance-weighted bound of log p(x) that is the training objective"),
    r"valid/elbo_given_\w+": Metric("maximize", _NATS, "ELBO of log p(x|condition), which no other variant has"),
    r"valid/\w+_score": Metric("", "the variant's", "a score of the variant's own; high for ordinary examples"),
    r"valid/\w+": Metric("", "the variant's", "an extra term of the variant, averaged over validation examples"),
    r"train/loss(_\w+)?": Metric("minimize", "weighted nats", "a training loss, with its weights; never compared"),
    r"train/elbo": Metric("maximize", _NATS, "ELBO at beta = 1, averaged over an epoch while the weights moved"),
    r"train/reconstruction": Metric("minimize", _NATS, "-E_q log p(x|z), averaged over an epoch"),
    r"train/kl": Metric("", _NATS, "KL(q(z|x) || p(z)), averaged over an epoch"),
    r"time/(train|valid)_seconds": Metric("minimize", "seconds", "duration of an epoch's training or validation"),
    r"time/trial_seconds": Metric("minimize", "seconds", "duration of all training and validation of a run"),
    r"time/epochs": Metric("", "epochs", "epochs for which a run was trained"),
    r"time/best_epoch": Metric("", "epochs", "the epoch with the best validation score, whose weights are kept"),
    r"time/(scores|pictures)_seconds": Metric("minimize", "seconds", "duration of the scores or pictures of a run"),
    r"time/examples_per_second": Metric("maximize", "examples per second", "training speed in an epoch"),
    # of each trial, on training and validation data
    r"latent/mmd": Objective("minimize", _DISTANCE, "maximum mean discrepancy of codes from the prior"),
    r"latent/posterior_mean": Metric("", "prior deviations", "mean of the aggregated posterior; 0 if it matches"),
    r"latent/posterior_spread": Metric("", "prior deviations", "spread of the aggregated posterior; 1 if it matches"),
    r"latent/active_units(_level_\d+)?": Metric("", "dimensions", "latent dimensions in use, of all or of one level"),
    r"latent/kl_level_\d+": Metric("", _NATS, "KL of one level of a hierarchy"),
    r"probe/accuracy": Objective("maximize", _SHARE, "logistic regression on codes", frozenset({"y"})),
    r"probe/balanced_accuracy": Objective(
        "maximize", _SHARE, "mean over classes of the share that the same probe classifies correctly", frozenset({"y"})
    ),
    r"probe/roc_area": Metric("maximize", "area", "under the ROC curve of this probe, for the rarer of two classes"),
    r"probe/precision_recall_area": Metric(
        "maximize", "area", "under the precision-recall curve of this probe, for the rarer of two classes"
    ),
    r"probe/majority": Metric("", _SHARE, "examples of the class that is most frequent in training"),
    r"probe/random_projection": Metric("maximize", _SHARE, "the same probe on random projections of the raw values"),
    r"probe/raw_pixels": Metric("maximize", _SHARE, "the same probe on the raw values"),
    # mean log p(x) of simple baselines (PPCA has as many latent dimensions as the model); a useful model exceeds them
    r"baseline/(valid|test)_independent": Metric("", _NATS, "log p(x) of independent columns, channels or pixels"),
    r"baseline/(valid|test)_gaussian": Metric("", _NATS, "log p(x) of a Gaussian with a full covariance matrix"),
    r"baseline/(valid|test)_multinomial": Metric("", _NATS, "log p(x) of a multinomial of counts, given their sum"),
    r"baseline/(valid|test)_ppca": Metric("", _NATS, "log p(x) of probabilistic PCA with as many latent dimensions"),
    r"baseline/(valid|test)_mean": Metric("", _NATS, "log p(x) of pixels around the mean colour of their own image"),
    r"bits/(valid|test)_(png|webp)": Metric("", "bits", "size per value of all images in one file, a codec's bits"),
    r"bits/(valid|test)_\w+": Metric("", "bits", "-log2 p(x) per value of 8-bit pixels under a baseline"),
    # of an evaluation, on the test split, in the order of its report
    r"test/elbo": Metric("maximize", _NATS, "evidence lower bound at beta = 1"),
    r"test/reconstruction": Metric("minimize", _NATS, "-E_q log p(x|z)"),
    r"test/reconstruction_\w+": Metric("minimize", _NATS, "the part of it from values of one kind, with the same z"),
    r"test/kl": Metric("", _NATS, "KL(q(z|x) || p(z))"),
    r"test/elbo_units": Metric(
        "maximize", _NATS, "test/elbo in the units of the data, in which different likelihoods can be compared"
    ),
    r"test/iw\d+": Metric("maximize", _NATS, "importance weighted bound of log p(x) (Burda et al. 2016)"),
    r"test/bits_per_dimension": Metric("minimize", "bits", "-log2 p(x) per value, by the importance weighted bound"),
    r"test/ais": Metric(
        "maximize", _NATS, "log p(x): the importance weighted bound of many examples plus test/ais_less_iw of a few"
    ),
    r"test/ais_subset": Metric(
        "maximize", _NATS, "log p(x) of a few examples by annealed importance sampling (Wu et al. 2017)"
    ),
    r"test/ais_gap": Metric("", _NATS, "upper minus lower bound on simulated data (Grosse et al. 2015)"),
    r"test/ais_less_iw": Metric("", _NATS, "test/ais_subset minus the importance weighted bound of the same examples"),
    r"latent/active_units_kl": Metric("", "dimensions", "KL above .01 nats (Sønderby et al. 2016)"),
    r"latent/active_units_cov": Metric(
        "", "dimensions", "variance of the posterior mean above .01 of the prior's (Burda et al. 2016)"
    ),
    r"latent/dimension_kl": Metric(
        "minimize", "nats", "KL of codes from the prior, summed over single dimensions (Chen et al. 2018)"
    ),
    r"latent/mutual_information": Metric("", "nats", "upper bound of I(x; z) under q: KL minus dimension_kl"),
    r"probe/majority_all": Metric("", _SHARE, "test examples of the class that is most frequent in training"),
    r"probe/((raw|untrained)_)?test_accuracy": Metric(
        "maximize", _SHARE, "the probe of probe/accuracy on test examples; on codes, raw values or untrained codes"
    ),
    r"probe/((raw|untrained|majority)_)?test_balanced_accuracy": Metric(
        "maximize", _SHARE, "mean over classes of the share of test examples that this probe classifies correctly"
    ),
    r"probe/((raw|pca|untrained)_)?linear_(\d+|all)": Metric(
        "maximize", _SHARE, "logistic regression by number of labels; on codes, raw values, PCA or untrained codes"
    ),
    r"probe/((raw|pca|untrained)_)?balanced_all": Metric(
        "maximize", _SHARE, "mean over classes of the share that linear_all classifies correctly"
    ),
    r"probe/((raw|pca|untrained)_)?(roc|precision_recall)_area_all": Metric(
        "maximize", "area", "under the curve of a logistic regression on all labels, for the rarer of two classes"
    ),
    r"probe/((raw|pca|untrained)_)?knn": Metric("maximize", _SHARE, "10 nearest neighbours, in the same spaces"),
    r"latent/(kmeans|mixture)_(ari|nmi)": Metric(
        "maximize", "index", "agreement of clusters of codes with classes; 1 is perfect"
    ),
    r"latent/(kmeans|mixture)_accuracy": Metric("maximize", _SHARE, "clusters assigned to classes one to one"),
    r"latent/(mig|modularity|sap|dci_\w+|beta_vae_score|factor_vae_score)": Metric(
        "maximize", "score", "disentanglement of known factors; at most 1"
    ),
    r"sample/(precision|recall|coverage)_(floor_)?\w{6}": Metric(
        "maximize", _SHARE, "overlap of samples with real examples; floor: of validation examples"
    ),
    r"sample/density_(floor_)?\w{6}": Metric("maximize", "ratio", "real balls around a sample; 1 if both are alike"),
    r"sample/frechet_(floor_)?\w{6}": Metric("minimize", _DISTANCE, "between Gaussians of the classifier's features"),
    r"sample/kid_(floor_)?\w{6}": Metric("minimize", _DISTANCE, "kernel distance of the classifier's features"),
    r"use/anomaly_share": Metric("", _SHARE, "anomalies among the test examples; this is also the precision by chance"),
    r"use/anomaly_roc_\w+": Metric(
        "maximize", "area", "under the ROC curve of a score; all classes but the normal one are anomalies"
    ),
    r"use/anomaly_precision_recall_\w+": Metric("maximize", "area", "under the precision-recall curve, likewise"),
    r"use/one_class_\w+": Metric("maximize", "area", "under the ROC curve, of new models trained on one class alone"),
    r"use/imputation_rmse(_\w+)?": Metric(
        "minimize", "deviations of the columns", "root mean square error of hidden real values"
    ),
    r"use/imputation_\w+": Metric("minimize", _NATS, "-log p(missing|observed)"),
    r"use/interpolation_(jump|length)": Metric("", "ratio", "change between two codes; 1 if even and straight"),
    r"use/generation_(accuracy|real)_\w{6}": Metric("maximize", _SHARE, "samples of the class that was asked for"),
    r"use/forecast_(model|persistence|seasonal|mean|autoregression)": Metric(
        "minimize", _FORECAST_UNIT, "root mean square error of the second half of sequences, by the model or a baseline"
    ),
    r"use/forecast_mase": Metric(
        "minimize", "ratio", "mean absolute error / that of a seasonal naive forecast within the training series (MASE)"
    ),
    r"use/forecast_coverage": Metric("", _SHARE, "values in the central 80% interval of draws; 0.8 if it is right"),
    r"use/forecast_crps": Metric("minimize", _FORECAST_UNIT, "continuous ranked probability score of the draws"),
    r"use/augmentation_(with|without)": Metric("maximize", _SHARE, "accuracy of a classifier of few labels"),
    r"use/augmentation_gain": Metric("maximize", _SHARE, "gain of that accuracy by added samples"),
    # of a rerun of a benchmark, and of an anchor
    r"speed/examples_per_second": Metric("maximize", "examples per second", "training speed, median over epochs"),
    r"speed/standard": Metric("maximize", "examples", "trained in the time of a small fixed training"),
    r"anchor/.+": Metric("", "as published", "a value of an anchor, beside a published one in studies/anchors.py"),
}
OBJECTIVES = {name: metric for name, metric in METRICS.items() if isinstance(metric, Objective)}


def objectives(names: tuple[str, ...], spec: DataSpec, probe: str | Undefined = "probe/accuracy") -> tuple[str, ...]:
    """Return those of a study's objectives that the data allow.

    Args:
        names: The objectives that the study asks for.
        spec: The properties of the data.
        probe: The metric that takes the place of `probe/accuracy`, as `evaluate.quick.probe_metric` returns it. If it
            is undefined, so is every objective that needs labels.

    Raises:
        InputError: A metric may not be optimised, or none of them can be computed. A training loss contains the very
            weights that are searched, such as beta, and test scores are not for choosing.
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
    fields, reason = spec.fields, f"data set {spec.name} has none"
    if isinstance(probe, Undefined):
        fields, reason, probe = fields - {"y"}, probe.reason, "probe/accuracy"
    usable = [n for n in names if OBJECTIVES[n].required_fields <= fields]
    if not usable:
        raise InputError(f"objective {', '.join(names)} needs labels, and {reason}")
    return tuple(dict.fromkeys(probe if n == "probe/accuracy" else n for n in usable))


def find(name: str) -> Metric:
    """Return what is known of a metric, or of a series made of one.

    A series is `CASE/METRIC` or `ANCHOR/VALUE` of a rerun, `sd/...` its standard deviation over seeds, or `best/NAME`
    of a study, the best value of an objective so far.

    Raises:
        KeyError: The metric is in no table.
    """
    for pattern, metric in METRICS.items():
        if re.fullmatch(pattern, name):
            return metric
    prefix, _, rest = name.partition("/")
    if prefix == "best":
        for objective, metric in OBJECTIVES.items():
            if objective.split("/")[1] == rest:
                return metric
    elif prefix in ANCHORS:
        return METRICS[r"anchor/.+"]
    elif rest:
        try:
            metric = find(rest)
        except KeyError:
            raise KeyError(name) from None
        return Metric("", metric.unit, f"standard deviation over seeds: {metric.about}") if prefix == "sd" else metric
    raise KeyError(name)


def mlflow_name(name: str) -> str:
    """Return a metric's name without the characters that MLflow refuses, such as the parentheses of `log p(x)`."""
    return re.sub(r"[^\w\-. /]+", "", name)
