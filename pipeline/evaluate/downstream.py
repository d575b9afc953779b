"""What people use a VAE for: interpolation, generation and augmentation. See also `anomaly` and `forecasts`.

Each function takes a variant and data, and returns scores by name; `Undefined` if the variant cannot do the task.
"""

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline import machine
from pipeline.data import Data
from pipeline.evaluate import classifier, probe
from pipeline.evaluate.codes import labelled, sampled_codes, why_no_probe
from pipeline.metrics import Undefined
from variants import Batch, Variant
from variants.base import Inputs

Array = NDArray[np.float64]


def interpolation(
    variant: Variant, data: Data, split: Batch, pairs: int = 200, steps: int = 10
) -> dict[str, Array] | Undefined:
    """Return how evenly decoded examples change on straight lines between codes of N pairs: (N,) each, at least 1.

    `jump` is the longest step of a line divided by the mean step; it is `steps` if all change happens in one step.
    `length` is the length of the path through the decoded means divided by the distance of its ends. Distances are
    between values as a network reads them, such as log(1 + x) of counts. No example is in two pairs. Pairs that decode
    to the same example are left out.
    """
    if variant.conditioned_on == "x":
        return Undefined(f"{type(variant).__name__} decodes a code only together with the observed part of an image")
    if variant.discrete:
        return Undefined("z is discrete, so nothing lies between two codes")
    examples = probe.subset(split, 2 * pairs)
    with machine.seeded(variant.device, 0):
        code = torch.cat([variant.encode(b.unlabelled) for b in data.batches(examples)])
        left, right = code[: len(code) // 2], code[len(code) // 2 : len(code) // 2 * 2]
        inputs = Inputs(variant.spec).to(variant.device)
        points = [inputs.of(variant.decode(left.lerp(right, i / steps))) for i in range(steps + 1)]
        path = torch.stack([point.flatten(1) for point in points], dim=1).double()
    moves = path.diff(dim=1).norm(dim=2)
    ends = (path[:, -1] - path[:, 0]).norm(dim=1)
    distinct = ends > 1e-9
    if not bool(distinct.any()):
        return Undefined("all codes decode to the same example, so nothing lies between them")
    moves, ends = moves[distinct], ends[distinct]
    return {
        "jump": (moves.max(1).values / moves.mean(1)).cpu().numpy(),
        "length": (moves.sum(1) / ends).cpu().numpy(),
    }


def generation(variant: Variant, data: Data, each: int = 100) -> dict[str, float] | Undefined:
    """Return how often `classifier.trained` assigns samples to the class that was asked for; higher is better.

    `accuracy` is that of `each` samples of every class. For comparison, `real` is that of the test examples whose label
    is known, if there are any.
    """
    if not variant.class_conditional:
        return Undefined(f"{type(variant).__name__} cannot be asked for a class")
    if isinstance(trained := classifier.trained(data), Undefined):
        return trained
    y = torch.arange(data.spec.classes, device=variant.device).repeat_interleave(each)
    with machine.seeded(variant.device, 0):
        parts = [trained(Batch(variant.sample(len(part), part, noise=True)))[1].argmax(1) for part in y.split(1000)]
    scores = {"accuracy": float(torch.eq(torch.cat(parts), y).float().mean())}
    if len(labelled(data.test)):
        scores["real"] = classifier.accuracy(trained, data, data.test)
    return scores


def augmentation(
    variant: Variant, data: Data, labels: int = 100, copies: int = 10, steps: int = 300, draws: int = 3
) -> dict[str, Array] | Undefined:
    """Return the test accuracy of a classifier of few labels, `without` and `with` samples added: (draws,) each.

    The classifier has the architecture of `classifier.Classifier` and is trained for `steps` steps on `labels` training
    examples. `with` adds `copies` samples for each of them; `without` adds the example itself equally often, binarised
    anew each time if the data are. A sample is drawn from p(x|z) with z ~ q(z|x) (or the code, if q has no density) of
    a labelled example, and has its label.
    """
    if variant.conditioned_on == "x":
        return Undefined("augmentation needs a variant that models whole examples")
    if reason := why_no_probe(data, "test"):
        return Undefined(reason)
    accuracies: dict[str, list[float]] = {"without": [], "with": []}
    train = labelled(data.train)
    variant.eval()
    for draw in range(draws):
        with machine.seeded(variant.device, draw):
            chosen = _evenly(train, labels, data.spec.classes)
            real = [data.batch(chosen, slice(None)) for _ in range(copies + 1)]
            samples = []
            for batch in real[1:]:
                unlabelled = batch.unlabelled
                z = sampled_codes(variant, unlabelled)
                samples.append(replace(batch, x=variant.sample_x(z, unlabelled)))
            for name, split in (("without", Batch.cat(real)), ("with", Batch.cat([real[0], *samples]))):
                torch.manual_seed(draw)
                learner = classifier.Classifier(data).to(variant.device)
                classifier.fit(learner, data, split, steps)
                accuracies[name].append(classifier.accuracy(learner, data, data.test))
    return {name: np.array(values) for name, values in accuracies.items()}


def _evenly(split: Batch, n: int, classes: int) -> Batch:
    """Return about `n` examples of a split, equally many of each class."""
    assert split.y is not None
    members = [torch.eq(split.y, c).nonzero()[:, 0] for c in range(classes)]
    chosen = [i[torch.randperm(len(i))[: max(1, n // classes)].to(i.device)] for i in members]
    return split[torch.cat(chosen)]
