"""The judge: a small classifier of real data, in whose features samples are compared.

One a data set, trained by a fixed recipe and kept in the cache folder. Whatever changes the recipe changes its hash,
which is part of every metric's name that rests on it: figures of two judges never meet under one name.
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
from variants import Batch, InputError

Array = NDArray[np.float64]
RECIPE: dict[str, Any] = {
    "images": "conv 32, conv 64, 3x3, stride 2, ReLU", "sequences": "conv 64, conv 64, width 5, ReLU, mean of steps",
    "tables": "linear 128, ReLU", "features": 64,
    "optimiser": "Adam", "lr": 1e-3, "batch": 128, "steps": 1500, "seed": 0, "scale": "mean variance 1",
}  # fmt: skip
HASH = hashlib.sha256(json.dumps(RECIPE, sort_keys=True).encode()).hexdigest()[:6]


class Classifier(nn.Module):
    """Features (B, 64), and logits of the classes (B, K), of examples as a variant gets them."""

    def __init__(self, data: Data) -> None:
        super().__init__()
        spec, size = data.spec, RECIPE["features"]
        self.rows = spec.steps > 0 and data.layout == "images"  # rows of an image as steps are judged as the image
        self.steps = spec.steps > 0 and not self.rows
        shape = (1, spec.steps, *spec.shape) if self.rows else spec.shape
        if self.steps:
            body = [nn.Conv1d(shape[-1], 64, 5, padding=2), nn.ReLU(), nn.Conv1d(64, 64, 5, padding=2), nn.ReLU()]
            wide = 64
        elif len(shape) == 3:
            body = [nn.Conv2d(shape[0], 32, 3, 2, 1), nn.ReLU(), nn.Conv2d(32, 64, 3, 2, 1), nn.ReLU(), nn.Flatten()]
            wide = 64 * -(-shape[1] // 4) * -(-shape[2] // 4)
        else:
            body = [nn.Linear(shape[0], 128), nn.ReLU()]
            wide = 128
        self.body = nn.Sequential(*body)
        self.features = nn.Sequential(nn.Linear(wide, size), nn.ReLU())
        self.classes = nn.Linear(size, spec.classes)
        self.register_buffer("scale", torch.ones(()))  # of the features, so that distances between them have a unit

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        x = batch.x[:, None] if self.rows else batch.x
        if self.steps:
            mask = x.new_ones(x.shape[:2]) if batch.mask is None else batch.mask.to(x.dtype)
            x = self.body((x * mask[..., None]).transpose(1, 2)) * mask[:, None]
            x = x.sum(2) / mask.sum(1, keepdim=True)
        else:
            x = self.body(x)
        features = self.features(x)
        return features / self.scale, self.classes(features)


def trained(data: Data) -> Classifier:
    """The judge of a data set, from the cache, or trained now. Raises `InputError` where there are no labels."""
    if not data.spec.classes:
        raise InputError(f"the judge of samples needs labels, and data set {data.spec.name} has none")
    path = cache() / "judges" / f"{data.spec.name.replace('/', '-')}-{data.digest[:16]}-{HASH}.safetensors"
    device = data.train.x.device
    with machine.seeded(device, RECIPE["seed"]):
        made = Classifier(data).to(device)
        saved = checkpoint.load(path)
        if saved:
            made.load_state_dict(saved[0])
        else:
            fit(made, data, data.train, RECIPE["steps"])
            spread = features(made, data, data.train)[0].var(axis=0).mean() ** 0.5
            made.scale.fill_(float(spread) or 1.0)  # type: ignore[operator]
            checkpoint.save(path, {k: v.detach().cpu() for k, v in made.state_dict().items()}, RECIPE)
    return made.eval()


def fit(made: Classifier, data: Data, split: Batch, steps: int) -> None:
    """Train a judge on the labelled examples of a split, by the recipe, for so many steps."""
    assert split.y is not None
    known = split[torch.ge(split.y, 0).nonzero()[:, 0]]
    optimiser = torch.optim.Adam(made.parameters(), lr=RECIPE["lr"], fused=True)
    order = torch.Generator().manual_seed(RECIPE["seed"])
    noise = torch.Generator(split.x.device).manual_seed(RECIPE["seed"])
    size = min(RECIPE["batch"], len(known))
    made.train()
    with torch.enable_grad():
        for _ in range(steps):
            batch = data.batch(known, torch.randint(len(known), (size,), generator=order).to(split.x.device), noise)
            loss = nn.functional.cross_entropy(made(batch)[1], batch.y)  # type: ignore[arg-type]
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    made.eval()


def features(made: Classifier, data: Data, split: Batch) -> tuple[Array, NDArray[np.int64]]:
    """(N, 64) features of a split, and the class (N,) that each example is taken for."""
    with torch.no_grad():
        parts = [made(b) for b in data.batches(split)]
    found = torch.cat([f for f, _ in parts]).double().cpu().numpy()
    return found, torch.cat([logits.argmax(1) for _, logits in parts]).cpu().numpy()


def accuracy(made: Classifier, data: Data, split: Batch) -> float:
    """Share of labelled examples of a split that are taken for what they are."""
    assert split.y is not None
    y = split.y.cpu().numpy()
    return float((features(made, data, split)[1] == y)[y >= 0].mean())
