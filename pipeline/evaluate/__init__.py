"""Metrics of a trained model. Each is a plain function of arrays, or of a variant and data; here is the list.

likelihood        log p(x) by importance sampling, and the density of samples by Parzen windows
ais               log p(x) by annealing, which needs no encoder; its gap; rate and distortion
latents           what the code uses, and how near the codes are to the prior
probe             what a simple classifier reads from the codes, with few labels and with all
clusters          whether groups in the codes are the classes
disentanglement   whether single dimensions stand for single causes
samples           how samples compare with real examples, in features of ...
judge             ... a small classifier, one a data set
uses              anomalies, missing values, interpolation, classes to order, forecasts, more data
subject           a model that is scored, and what is found of it
suite             all of them, on a trained model: `python -m pipeline.evaluate`
"""

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline import machine
from pipeline.data import Data
from pipeline.evaluate import latents, probe
from variants import Batch, Variant

__all__ = ["baselines", "cheap", "codes", "drawn", "inputs"]

MMD_SAMPLES = 2000


def codes(variant: Variant, data: Data, split: Batch) -> NDArray[np.float64]:
    """(N, Z) what `encode` gives for each example of a split. Labels are taken away first."""
    variant.eval()
    with torch.no_grad():
        parts = [variant.encode(Batch(b.x, mask=b.mask)) for b in data.batches(split)]
    return torch.cat(parts).float().cpu().numpy().astype(np.float64)


def drawn(
    variant: Variant, data: Data, split: Batch, n: int = MMD_SAMPLES
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(N, Z) z ~ q(z|x) of at most `n` examples (codes where it has no density), and `n` of the prior."""
    few = probe.subset(split, n)
    variant.eval()
    with machine.seeded(split.x.device, 0):
        parts = []
        for batch in data.batches(few):
            proposal = variant.propose(batch)
            parts.append(variant.encode(batch) if proposal is None else proposal[0])
        prior = variant.prior(n)
    return torch.cat(parts).double().cpu().numpy(), prior.double().cpu().numpy()


def inputs(data: Data, split: Batch) -> NDArray[np.float64]:
    """(N, pixels) a split as the variants see it."""
    return torch.cat([b.x.flatten(1) for b in data.batches(split)]).cpu().numpy().astype(np.float64)


def _labels(split: Batch) -> NDArray[np.int64]:
    assert split.y is not None
    labels: NDArray[np.int64] = split.y.cpu().numpy()
    return labels


def _known(split: Batch) -> Batch:
    """The examples whose label is known."""
    assert split.y is not None
    return split[torch.ge(split.y, 0).nonzero()[:, 0]]


def cheap(variant: Variant, data: Data, kl: torch.Tensor | None = None) -> dict[str, float]:
    """The metrics that every trial gets, on training and validation data only.

    Where the prior is not of each example: `latent/mmd` and the moments of the aggregated posterior against it, and
    `latent/active_units`; of a hierarchy instead, from the KL per dimension (Z,), KL and active units by level. Where
    there are labels, `probe/accuracy` (share of validation examples, higher is better) and, beside it,
    `probe/random_projection`: the same probe on as many random directions of the raw values. A code that does not beat
    that has learned nothing that a class depends on.
    """
    valid = codes(variant, data, data.valid)
    metrics: dict[str, float] = {}
    if variant.given != "x":  # where a part of x is given, there is a prior for each part, and none for all
        aggregated, prior = drawn(variant, data, data.valid)
        metrics["latent/mmd"] = latents.mmd(aggregated, prior)
        metrics |= latents.moments(aggregated, prior)
        if not variant.levels:
            metrics["latent/active_units"] = float(latents.active_units(valid, prior))
    if kl is not None and variant.levels:
        metrics |= latents.by_level(kl, variant.levels)
    if data.spec.classes:
        few = probe.subset(_known(data.train))
        y = _labels(few), _labels(data.valid)
        metrics["probe/accuracy"] = probe.accuracy(codes(variant, data, few), y[0], valid, y[1])
        random = probe.random_projection(inputs(data, few), inputs(data, data.valid), valid.shape[1])
        metrics["probe/random_projection"] = probe.accuracy(random[0], y[0], random[1], y[1])
    return metrics


def baselines(data: Data) -> dict[str, float]:
    """`probe/raw_pixels`: the probe on the raw values. The same for every variant and trial of a data set."""
    if not data.spec.classes:
        return {}
    few = probe.subset(_known(data.train))
    raw = probe.accuracy(inputs(data, few), _labels(few), inputs(data, data.valid), _labels(data.valid))
    return {"probe/raw_pixels": raw}
