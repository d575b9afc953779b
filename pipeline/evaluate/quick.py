"""The scores that every trial gets. They are quick to compute and use training and validation data only."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.data import Data
from pipeline.evaluate import baselines as trivial
from pipeline.evaluate import bits, latents, probe
from pipeline.evaluate.codes import (
    encode_split,
    labelled,
    labels_of,
    once_for_data,
    posterior_and_prior,
    raw_values,
    uneven_classes,
    why_no_probe,
)
from pipeline.metrics import Undefined
from variants import Batch, Variant


def scores(variant: Variant, data: Data, kl: torch.Tensor | None = None) -> dict[str, float]:
    """Return the metrics of a trial by name.

    For a variant with one prior for all examples they are `latent/mmd` and the moments of the aggregated posterior, and
    `latent/active_units`. For a hierarchy, KL and active units of each level take the place of the latter; they are
    computed from `kl`, the mean KL per dimension (Z,) in nats. If z is discrete, only `latent/mmd` remains.

    If there are labels, they include `probe/accuracy`, the share of validation examples that a probe of the codes
    classifies correctly, and `probe/balanced_accuracy`, the mean of this share over classes. For comparison, there are
    `probe/majority`, the accuracy of always predicting the most frequent class, and `probe/random_projection`, the
    accuracy of the same probe on equally many random projections of the raw values. A code that does not beat these has
    learned nothing that the classes depend on. Of two classes, `probe/roc_area` and `probe/precision_recall_area` are
    the areas under the curves of the class that is rarer in the training split. Examples whose label is unknown take no
    part.

    `baseline/valid_ppca` is log p(x) under probabilistic PCA with as many latent dimensions, if it is defined.
    """
    valid = encode_split(variant, data, data.valid)
    metrics: dict[str, float] = {}
    if variant.conditioned_on != "x":  # conditioned on a part of x, each example has a prior of its own
        aggregated, prior = posterior_and_prior(variant, data, data.valid)
        metrics["latent/mmd"] = latents.mmd(aggregated, prior)
        if not variant.discrete:
            metrics |= latents.moments(aggregated, prior)
        if not (variant.levels or variant.discrete):
            metrics["latent/active_units"] = float(latents.active_units(valid, prior))
    if kl is not None and variant.levels:
        metrics |= latents.by_level(kl, variant.levels)
    if not why_no_probe(data, "validation"):
        metrics |= {f"probe/{name}": value for name, value in _probe_scores(variant, data, valid).items()}
    return metrics | _linear_scores(data, valid.shape[1])


def _probe_scores(variant: Variant, data: Data, valid: NDArray[np.float64]) -> dict[str, float]:
    """Return the scores of a probe by name. `valid` are the codes of the validation examples, (N, Z)."""
    known = labels_of(data.valid) >= 0
    valid_y = labels_of(data.valid)[known]
    classifier = fitted_probe(data, partial(encode_split, variant, data))
    predicted = classifier.predict(valid[known])
    every_y = labels_of(labelled(data.train))
    values = {
        "accuracy": float(np.mean(predicted == valid_y)),
        "balanced_accuracy": probe.balanced_accuracy(valid_y, predicted),
        "majority": probe.majority(every_y, valid_y),
    }
    if len(classifier.classes_) == len(np.unique(valid_y)) == 2:
        classes, counts = np.unique(labels_of(probe.subset(labelled(data.train))), return_counts=True)
        rarer = int(counts.argmin())
        areas = probe.areas(valid_y, classifier.predict_proba(valid[known])[:, rarer], int(classes[rarer]))
        values |= {name: area.value for name, area in areas.items()}
    return values


def fitted_probe(data: Data, features: Callable[[Batch], NDArray[np.float64]]) -> Any:
    """Return the probe by whose accuracy trials are chosen, fitted to the features (N, D) of training examples.

    It is that of `probe.fit`, on at most 10,000 examples whose label is known.
    """
    train = probe.subset(labelled(data.train))
    return probe.fit(features(train), labels_of(train))


@once_for_data
def raw_probe(data: Data) -> Any:
    """Return the same probe of the raw values. It depends only on the data."""
    return fitted_probe(data, partial(raw_values, data))


@once_for_data
def _linear_scores(data: Data, latent: int) -> dict[str, float]:
    """Return the metrics of a trial that depend only on the data and on the number of latent dimensions."""
    linear = trivial.means({"ppca": trivial.ppca(data, data.valid, latent)})
    scores = {f"{trivial.PREFIX}{name}": value for name, value in linear.items()}
    if why_no_probe(data, "validation"):
        return scores
    train, valid = probe.subset(labelled(data.train)), labelled(data.valid)
    random = probe.random_projection(raw_values(data, train), raw_values(data, valid), latent)
    accuracy = probe.accuracy(random[0], labels_of(train), random[1], labels_of(valid))
    return {"probe/random_projection": accuracy, **scores}


def baselines(data: Data) -> dict[str, float]:
    """Return the metrics that depend only on the data, and are logged with each trial for comparison.

    They are `baseline/valid_NAME` for each baseline of `baselines.log_p` that is defined, `bits/valid_NAME` for 8-bit
    images, and `probe/raw_pixels`, the probe of the raw values, if there are labels.
    """
    log_p = trivial.log_p(data, data.valid)
    scores = {f"{trivial.PREFIX}{name}": value for name, value in trivial.means(log_p).items()}
    scores |= {f"bits/valid_{name}": value for name, value in bits.anchors(data, data.valid, log_p).items()}
    if why_no_probe(data, "validation"):
        return scores
    valid = labelled(data.valid)
    correct = raw_probe(data).predict(raw_values(data, valid)) == labels_of(valid)
    return {**scores, "probe/raw_pixels": float(np.mean(correct))}


def probe_metric(data: Data) -> str | Undefined:
    """Return the metric by which the probes of trials are compared.

    It is `probe/accuracy`, or `probe/balanced_accuracy` if the classes of the training examples are uneven. It is
    undefined if the labels allow no probe.
    """
    if reason := why_no_probe(data, "validation"):
        return Undefined(reason)
    return "probe/balanced_accuracy" if uneven_classes(labels_of(labelled(data.train))) else "probe/accuracy"
