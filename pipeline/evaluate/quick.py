"""The scores that every trial gets: quick to compute, and on training and validation data only."""

import torch

from pipeline.data import Data
from pipeline.evaluate import latents, probe
from pipeline.evaluate.codes import encode_split, labelled, labels_of, posterior_and_prior, raw_values
from variants import Variant


def scores(variant: Variant, data: Data, kl: torch.Tensor | None = None) -> dict[str, float]:
    """The metrics that every trial gets, on training and validation data only.

    Where the prior is not of each example: `latent/mmd` and the moments of the aggregated posterior against it, and
    `latent/active_units`; of a hierarchy instead, from the KL per dimension (Z,), KL and active units by level. Where
    there are labels, `probe/accuracy` (share of validation examples, higher is better) and, beside it,
    `probe/random_projection`: the same probe on as many random directions of the raw values. A code that does not beat
    that has learned nothing that a class depends on.
    """
    valid = encode_split(variant, data, data.valid)
    metrics: dict[str, float] = {}
    if variant.conditioned_on != "x":  # where a part of x is given, there is a prior for each part, and none for all
        aggregated, prior = posterior_and_prior(variant, data, data.valid)
        metrics["latent/mmd"] = latents.mmd(aggregated, prior)
        metrics |= latents.moments(aggregated, prior)
        if not variant.levels:
            metrics["latent/active_units"] = float(latents.active_units(valid, prior))
    if kl is not None and variant.levels:
        metrics |= latents.by_level(kl, variant.levels)
    if data.spec.classes:
        few = probe.subset(labelled(data.train))
        y = labels_of(few), labels_of(data.valid)
        metrics["probe/accuracy"] = probe.accuracy(encode_split(variant, data, few), y[0], valid, y[1])
        random = probe.random_projection(raw_values(data, few), raw_values(data, data.valid), valid.shape[1])
        metrics["probe/random_projection"] = probe.accuracy(random[0], y[0], random[1], y[1])
    return metrics


def baselines(data: Data) -> dict[str, float]:
    """`probe/raw_pixels`: the probe on the raw values. The same for every variant and trial of a data set."""
    if not data.spec.classes:
        return {}
    few = probe.subset(labelled(data.train))
    raw = probe.accuracy(raw_values(data, few), labels_of(few), raw_values(data, data.valid), labels_of(data.valid))
    return {"probe/raw_pixels": raw}
