"""Metrics of a trained model. Each is a plain function of arrays; the module list is the list of metrics.

probe     how well a linear classifier reads the class from the codes
latents   what the code uses: active units
"""

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.data import Data
from pipeline.evaluate import latents, probe
from variants import Batch, Variant

__all__ = ["baselines", "cheap", "codes", "latents", "probe"]


def codes(variant: Variant, data: Data, split: Batch) -> NDArray[np.float64]:
    """(N, Z) what `encode` gives for each example of a split. Labels are taken away first."""
    variant.eval()
    with torch.no_grad():
        parts = [variant.encode(Batch(b.x, mask=b.mask)) for b in data.batches(split)]
    return torch.cat(parts).float().cpu().numpy().astype(np.float64)


def _inputs(data: Data, split: Batch) -> NDArray[np.float64]:
    """(N, pixels) a split as the variants see it."""
    return torch.cat([b.x.flatten(1) for b in data.batches(split)]).cpu().numpy().astype(np.float64)


def _labels(split: Batch) -> NDArray[np.int64]:
    assert split.y is not None
    labels: NDArray[np.int64] = split.y.cpu().numpy()
    return labels


def cheap(variant: Variant, data: Data) -> dict[str, float]:
    """The metrics that every trial gets, on training and validation data only.

    `latent/active_units`; where there are labels, `probe/accuracy` (share of validation examples, higher is better)
    and, beside it, `probe/random_projection`: the same probe on as many random directions of the raw values. A code
    that does not beat that has learned nothing that a class depends on.
    """
    valid = codes(variant, data, data.valid)
    metrics = {"latent/active_units": float(latents.active_units(valid))}
    if data.spec.classes:
        few = probe.subset(data.train)
        y = _labels(few), _labels(data.valid)
        metrics["probe/accuracy"] = probe.accuracy(codes(variant, data, few), y[0], valid, y[1])
        random = probe.random_projection(_inputs(data, few), _inputs(data, data.valid), valid.shape[1])
        metrics["probe/random_projection"] = probe.accuracy(random[0], y[0], random[1], y[1])
    return metrics


def baselines(data: Data) -> dict[str, float]:
    """`probe/raw_pixels`: the probe on the raw values. The same for every variant and trial of a data set."""
    if not data.spec.classes:
        return {}
    few = probe.subset(data.train)
    raw = probe.accuracy(_inputs(data, few), _labels(few), _inputs(data, data.valid), _labels(data.valid))
    return {"probe/raw_pixels": raw}
