"""Codes of data, samples of the posterior and of the prior, raw values to compare codes with, and known labels."""

from collections.abc import Callable, Hashable
from dataclasses import replace
from functools import wraps
from typing import Concatenate, Literal, ParamSpec, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline import machine
from pipeline.data import Data
from pipeline.evaluate import probe
from variants import Batch, Variant
from variants.base import Inputs

MMD_SAMPLES = 2000
SplitName = Literal["validation", "test"]
P = ParamSpec("P")
R = TypeVar("R")
UNEVEN = 3  # classes are uneven if the largest has more than this many times as many examples as the smallest


def once_for_data(compute: Callable[Concatenate[Data, P], R]) -> Callable[Concatenate[Data, P], R]:
    """Decorate a function of data and hashable arguments, so that each of its results is computed only once.

    The results belong to the `Data` object and live as long as it does. An object that `dataclasses.replace` returns
    has none of them.
    """

    @wraps(compute)
    def computed(data: Data, /, *args: P.args, **kwargs: P.kwargs) -> R:
        results: dict[Hashable, R] = vars(data).setdefault("_results", {})
        key = (compute.__module__, compute.__qualname__, args, tuple(kwargs.items()))
        if key not in results:
            results[key] = compute(data, *args, **kwargs)
        return results[key]

    return computed


def encode_split(variant: Variant, data: Data, split: Batch) -> NDArray[np.float64]:
    """Return the code of each example of a split, (N, Z). Labels are removed before `encode` sees the examples."""
    variant.eval()
    with torch.no_grad():
        parts = [variant.encode(b.unlabelled) for b in data.batches(split)]
    return torch.cat(parts).float().cpu().numpy().astype(np.float64)


def sampled_codes(variant: Variant, batch: Batch) -> Tensor:
    """Return one sample of q(z|x) for each example, (B, Z), or the codes of the examples if q(z|x) has no density."""
    proposal = variant.sample_posterior(batch)
    return variant.encode(batch) if proposal is None else proposal[0]


def posterior_and_prior(
    variant: Variant, data: Data, split: Batch, n: int = MMD_SAMPLES
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return one sample of q(z|x) for each of N examples, (N, Z), and n samples of the prior, (n, Z).

    The examples are n of the split, drawn with a fixed seed, or all of them if the split has fewer. If q(z|x) has no
    density, the codes from `encode` are returned in place of samples of q(z|x).
    """
    chosen = probe.subset(split, n)
    variant.eval()
    with machine.seeded(split.x.device, 0):
        parts = [sampled_codes(variant, batch) for batch in data.batches(chosen)]
        prior = variant.sample_prior(n)
    return torch.cat(parts).double().cpu().numpy(), prior.double().cpu().numpy()


def raw_values(data: Data, split: Batch) -> NDArray[np.float64]:
    """Return the values of a split as networks read them, (N, values); missing values are 0.

    Counts with an exposure are first divided by it and multiplied by the median exposure of the training data.
    """
    spec, parts = data.spec, []
    inputs = Inputs(replace(spec, missing=False)).to(split.x.device)
    for batch in data.batches(split):
        x = batch.x
        if spec.exposure:
            assert batch.exposure is not None and spec.median_exposure is not None
            factor = spec.median_exposure / batch.exposure.clamp(min=1e-6)
            is_count = spec.kinds["count"].to(x.device)
            x = torch.where(is_count, x * factor.view(-1, *[1] * (x.ndim - 1)), x)
        parts.append(inputs.of(x, batch.observed).flatten(1))
    return torch.cat(parts).cpu().numpy().astype(np.float64)


def labels_of(split: Batch) -> NDArray[np.int64]:
    """Return the labels of a split, (N,); -1 where the label is unknown."""
    if split.y is None:
        return np.full(len(split), -1)
    labels: NDArray[np.int64] = split.y.cpu().numpy()
    return labels


def labelled(split: Batch) -> Batch:
    """Return the examples of a split whose label is known."""
    return split[slice(0, 0)] if split.y is None else split[torch.ge(split.y, 0).nonzero()[:, 0]]


def uneven_classes(labels: NDArray[np.int64]) -> bool:
    """Return whether classes are uneven, from known labels (N,) of examples.

    They are uneven if the largest class has more than three times as many examples as the smallest. The accuracy of a
    probe then depends mostly on the large classes.
    """
    counts = np.unique(labels, return_counts=True)[1]
    return bool(counts.max() > UNEVEN * counts.min())


def why_no_labels(data: Data, part: SplitName) -> str:
    """Return why no example of a split has a known label; an empty string if one has."""
    if not data.spec.classes:
        return f"data set {data.spec.name} has no labels"
    if not len(labelled(data.valid if part == "validation" else data.test)):
        return f"no label of the {part} split of {data.spec.name} is known"
    return ""


def why_no_probe(data: Data, part: SplitName) -> str:
    """Return why no probe can be trained on the training labels and scored on a split; an empty string if one can."""
    count = len(np.unique(labels_of(labelled(data.train))))
    reason = f"a probe needs known labels of two classes in the training split of {data.spec.name}, which has {count}"
    return why_no_labels(data, part) or ("" if count > 1 else reason)
