"""A small classifier of real data, in whose features samples are compared with real examples.

There is one for each data set. It is trained by a fixed recipe and kept in the cache folder. A hash of the recipe is
part of the name of every metric that depends on the classifier, so that values of two recipes never share a name.
"""

import hashlib
import json
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline import checkpoint, machine
from pipeline.data import Data, cache
from pipeline.evaluate.codes import labelled, labels_of
from pipeline.metrics import Undefined
from variants import Batch
from variants.base import Adam, Inputs

Array = NDArray[np.float64]
RECIPE: dict[str, Any] = {  # its text enters the hash, and so the names of metrics
    "images": "conv 32, conv 64, 3x3, stride 2, ReLU", "sequences": "conv 64, conv 64, width 5, ReLU, mean of steps",
    "tables": "linear 128, ReLU", "features": 64,
    "optimiser": "Adam", "lr": 1e-3, "batch": 128, "steps": 1500, "seed": 0, "scale": "mean variance 1",
}  # fmt: skip
HASH = hashlib.sha256(json.dumps(RECIPE, sort_keys=True).encode()).hexdigest()[:6]


class Classifier(nn.Module):
    """Computes features (B, 64) and logits of the classes (B, K) of a batch as a variant gets it."""

    scale: Tensor

    def __init__(self, data: Data) -> None:
        super().__init__()
        spec, size = data.spec, RECIPE["features"]
        self.rows = spec.steps > 0 and data.layout == "images"  # an image
        self.steps = spec.steps > 0 and not self.rows
        self.inputs = Inputs(spec)
        shape = (1, spec.steps, *self.inputs.shape) if self.rows else self.inputs.shape
        if self.steps:
            body = [nn.Conv1d(shape[-1], 64, 5, padding=2), nn.ReLU(), nn.Conv1d(64, 64, 5, padding=2), nn.ReLU()]
            width = 64
        elif len(shape) == 3:
            body = [nn.Conv2d(shape[0], 32, 3, 2, 1), nn.ReLU(), nn.Conv2d(32, 64, 3, 2, 1), nn.ReLU(), nn.Flatten()]
            width = 64 * -(-shape[1] // 4) * -(-shape[2] // 4)
        else:
            body = [nn.Linear(shape[0], 128), nn.ReLU()]
            width = 128
        self.body = nn.Sequential(*body)
        self.features = nn.Sequential(nn.Linear(width, size), nn.ReLU())
        self.classes = nn.Linear(size, spec.classes)
        self.register_buffer("scale", torch.ones(()))  # makes the mean variance of the features 1

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        x = self.inputs(batch)
        x = x[:, None] if self.rows else x
        if self.steps:
            mask = x.new_ones(x.shape[:2]) if batch.mask is None else batch.mask.to(x.dtype)
            x = self.body((x * mask[..., None]).transpose(1, 2)) * mask[:, None]
            x = x.sum(2) / mask.sum(1, keepdim=True)
        else:
            x = self.body(x)
        features = self.features(x)
        return features / self.scale, self.classes(features)


def trained(data: Data) -> Classifier | Undefined:
    """Return the classifier of a data set: from the cache if it is there, otherwise trained now and kept there.

    It is undefined unless labels of two classes are known among the training examples. Raises `InputError` if the file
    in the cache is damaged.
    """
    if not data.spec.classes:
        return Undefined(f"the classifier of samples needs labels, and data set {data.spec.name} has none")
    if len(np.unique(labels_of(labelled(data.train)))) < 2:
        return Undefined(f"the classifier of samples needs known labels of two classes to train on {data.spec.name}")
    path = cache() / "judges" / f"{data.spec.name.replace('/', '-')}-{data.digest[:16]}-{HASH}.safetensors"
    device = data.train.x.device
    with machine.seeded(device, RECIPE["seed"]):
        classifier = Classifier(data).to(device)
        saved = checkpoint.load(path)
        if saved:
            classifier.load_state_dict(saved[0])
        else:
            fit(classifier, data, data.train, RECIPE["steps"])
            spread = features(classifier, data, data.train)[0].var(axis=0).mean() ** 0.5
            classifier.scale.fill_(float(spread) or 1.0)
            checkpoint.save(path, {k: v.detach().cpu() for k, v in classifier.state_dict().items()}, RECIPE)
    return classifier.eval()


def fit(classifier: Classifier, data: Data, split: Batch, steps: int) -> None:
    """Train a classifier on the labelled examples of a split by the recipe, for a number of steps."""
    split = labelled(split)
    optimizer = Adam(classifier.parameters(), lr=RECIPE["lr"], fused=True)
    order = torch.Generator().manual_seed(RECIPE["seed"])
    noise = torch.Generator(split.x.device).manual_seed(RECIPE["seed"])
    size = min(RECIPE["batch"], len(split))
    classifier.train()
    with torch.enable_grad():
        for _ in range(steps):
            batch = data.batch(split, torch.randint(len(split), (size,), generator=order).to(split.x.device), noise)
            loss = nn.functional.cross_entropy(classifier(batch)[1], batch.y)  # type: ignore[arg-type]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    classifier.eval()


def features(classifier: Classifier, data: Data, split: Batch) -> tuple[Array, NDArray[np.int64]]:
    """Return the features of a split, (N, 64), and the predicted class of each example, (N,)."""
    with torch.no_grad():
        parts = [classifier(b) for b in data.batches(split)]
    values = torch.cat([f for f, _ in parts]).double().cpu().numpy()
    return values, torch.cat([logits.argmax(1) for _, logits in parts]).cpu().numpy()


def accuracy(classifier: Classifier, data: Data, split: Batch) -> float:
    """Return the share of the labelled examples of a split, one or more, that are classified correctly."""
    y = labels_of(split)
    return float((features(classifier, data, split)[1] == y)[y >= 0].mean())
