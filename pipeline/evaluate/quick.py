"""The scores that every trial gets. They are quick to compute and use training and validation data only."""

import torch

from pipeline.data import Data
from pipeline.evaluate import latents, probe
from pipeline.evaluate.codes import encode_split, labelled, labels_of, posterior_and_prior, raw_values
from variants import Variant


def scores(variant: Variant, data: Data, kl: torch.Tensor | None = None) -> dict[str, float]:
    """Return the metrics of a trial by name.

    For a variant with one prior for all examples they are `latent/mmd` and the moments of the aggregated posterior, and
    `latent/active_units`. For a hierarchy, KL and active units of each level take the place of the latter; they are
    computed from `kl`, the mean KL per dimension (Z,) in nats.

    If there are labels, they include `probe/accuracy`, the share of validation examples that a probe of the codes
    classifies correctly, and `probe/random_projection`, the same probe on equally many random projections of the raw
    values. A code that does not beat the latter has learned nothing that the classes depend on.
    """
    valid = encode_split(variant, data, data.valid)
    metrics: dict[str, float] = {}
    if variant.conditioned_on != "x":  # conditioned on a part of x, each example has a prior of its own
        aggregated, prior = posterior_and_prior(variant, data, data.valid)
        metrics["latent/mmd"] = latents.mmd(aggregated, prior)
        metrics |= latents.moments(aggregated, prior)
        if not variant.levels:
            metrics["latent/active_units"] = float(latents.active_units(valid, prior))
    if kl is not None and variant.levels:
        metrics |= latents.by_level(kl, variant.levels)
    if data.spec.classes:
        train = probe.subset(labelled(data.train))
        y = labels_of(train), labels_of(data.valid)
        metrics["probe/accuracy"] = probe.accuracy(encode_split(variant, data, train), y[0], valid, y[1])
        random = probe.random_projection(raw_values(data, train), raw_values(data, data.valid), valid.shape[1])
        metrics["probe/random_projection"] = probe.accuracy(random[0], y[0], random[1], y[1])
    return metrics


def baselines(data: Data) -> dict[str, float]:
    """Return `probe/raw_pixels`, the probe of the raw values. It depends on the data alone."""
    if not data.spec.classes:
        return {}
    train = probe.subset(labelled(data.train))
    y = labels_of(train), labels_of(data.valid)
    return {"probe/raw_pixels": probe.accuracy(raw_values(data, train), y[0], raw_values(data, data.valid), y[1])}
