"""How well scores of a model find anomalies: examples of other classes than the one that counts as normal.

There are two protocols. `detect` scores a model as it was trained. `one_class` scores a model that was trained on the
normal class alone. The model of the first protocol was trained on the anomalies, too, unless the training examples lack
them. That is right where anomalies are rare, as frauds among payments are, because a model learns little of them. It is
wrong for classes of equal size, such as digits, which a model learns equally well.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline import machine
from pipeline.data import Data
from pipeline.evaluate import drawing, likelihood
from pipeline.evaluate.areas import average_precision, roc_area, roc_difference
from pipeline.evaluate.codes import encode_split, labelled, labels_of, raw_values, why_no_labels
from pipeline.evaluate.estimates import Estimate
from pipeline.metrics import Undefined, defined
from variants import Batch, InputError, Variant

Array = NDArray[np.float64]
CURVES = {"roc": roc_area, "precision_recall": average_precision}
ONLY_A_PART = "the variant models only a part of an example"
TRIVIAL = ("isolation_forest", "distance_from_mean")  # scores that need no model
RARE = 0.25  # the model counts as trained on anomalies if they are more than this share of the training examples


@dataclass(frozen=True, kw_only=True)
class Detection:
    """The scores of labelled test examples, (N,) each by name, which are high for anomalies, and what is normal.

    `labels` (N,) are the classes of the examples, `normal` is the class that counts as normal, and `trained_share` is
    the share of the other classes among the labelled training examples; None if there are none.
    """

    scores: Mapping[str, Array]
    labels: NDArray[np.int64]
    normal: int
    trained_share: float | None

    @property
    def is_anomaly(self) -> NDArray[np.bool_]:
        return np.not_equal(self.labels, self.normal)

    @property
    def share(self) -> float:
        """The share of anomalies, which is the average precision by chance."""
        return float(self.is_anomaly.mean())

    @property
    def main(self) -> str:
        """The score that stands for the model: a bound of log p(x), as in `pipeline.apply anomaly`, if it has one."""
        return "iw" if "iw" in self.scores else "reconstruction"

    def areas(self) -> dict[str, Estimate]:
        """Return the areas under both curves for each score, as `roc_SCORE` and `precision_recall_SCORE`."""
        return {
            f"{curve}_{name}": area(score, self.is_anomaly)
            for name, score in self.scores.items()
            for curve, area in CURVES.items()
        }

    def by_class(self, data: Data) -> dict[str, list[Any]]:
        """Return the areas by the `main` score for each class against the normal one, as the columns of a table.

        `n` is the number of test examples of the class. If there are none, it has no areas.
        """
        rows = []
        for c in (c for c in range(data.spec.classes) if c != self.normal):
            chosen, n = np.isin(self.labels, (c, self.normal)), int((self.labels == c).sum())
            row: dict[str, Any] = {"class": class_name(data, c), "n": n, "score": self.main}
            for curve, area in CURVES.items():
                row[curve], row[f"{curve}_error"] = (
                    area(self.scores[self.main][chosen], self.is_anomaly[chosen]) if n else (None, None)
                )
            rows.append(row | {"share": n / int(chosen.sum())})
        return {column: [row[column] for row in rows] for column in rows[0]}

    def remark(self, data: Data) -> str:
        """Return which class is normal, whether the model is better than trivial, and what it has seen, in words."""
        clauses = [f"class {class_name(data, self.normal)!r} counts as normal in the detection of anomalies"]
        trivial = max(TRIVIAL, key=lambda name: roc_area(self.scores[name], self.is_anomaly).value)
        gain = roc_difference(self.scores[self.main], self.scores[trivial], self.is_anomaly)
        if gain.error is None or gain.value <= 1.96 * gain.error:
            clauses.append(
                f"the detection by {self.main} is no better than trivial ({trivial.replace('_', ' ')}: ROC area "
                f"{roc_area(self.scores[trivial], self.is_anomaly).value:.3f}; difference {gain})"
            )
        if self.trained_share is not None and self.trained_share > RARE:
            clauses.append(
                "the model was trained on the classes that count as anomalies here, too: "
                f"{self.trained_share:.0%} of the training examples; to train on the normal class alone, use the "
                "one-class protocol"
            )
        return "; ".join(clauses)


def class_name(data: Data, c: int) -> str:
    """Return the name of a class as in the data; its number if classes have no names."""
    names = data.preprocessing.class_names
    return str(names[c] if names else c)


def class_number(data: Data, name: str) -> int:
    """Return the number of the class of this name. Raises `InputError` with all names if there is none."""
    names = [class_name(data, c) for c in range(data.spec.classes)]
    if not names:
        raise InputError(f"--normal {name}: data set {data.spec.name} has no labels, so no class can be normal")
    if name not in names:
        raise InputError(f"--normal {name}: expected a class of {data.spec.name}, which are {', '.join(names)}")
    return names.index(name)


def frequent_classes(data: Data, most: int) -> list[int]:
    """Return the classes that may count as normal, at most `most`, in the order of their number of training examples.

    A class that has less than half of an even share of the labelled training examples is left out. Of two classes, it
    is one with less than 25%, such as frauds. The most frequent class is never left out, unless no label is known.
    """
    counts = np.bincount(labels_of(labelled(data.train)), minlength=data.spec.classes)
    order = np.argsort(-counts, kind="stable")[:most].tolist()
    return [c for c in order if 0 < counts[c] >= 0.5 * counts.sum() / len(counts)]


def detect(variant: Variant, data: Data, normal: int | None = None, k: int = 50) -> Detection | Undefined:
    """Return scores of the labelled test examples by a model as it was trained, and by detectors that need no model.

    The scores of the model are those of `anomaly_scores`; it does not see the labels. For comparison, there are an
    `isolation_forest` of 200 trees (Liu et al. 2008), and the distance from the mean of the training examples
    (`distance_from_mean`), both of the raw values.

    Args:
        variant: The trained model.
        data: Its data, of which the test split is scored.
        normal: The class that counts as normal, by default the most frequent one of the training split. All other
            classes are anomalies.
        k: Importance samples of the score `iw`.

    Returns:
        The scores, or why there are none: the test split has to have examples of the normal class and of others.
    """
    if variant.conditioned_on == "x":
        return Undefined(ONLY_A_PART)
    if reason := why_no_labels(data, "test"):
        return Undefined(reason)
    counts = np.bincount(labels_of(labelled(data.train)), minlength=data.spec.classes)
    if normal is None and not counts.any():
        return Undefined(f"no label of the training split of {data.spec.name} is known; name the normal class")
    normal = int(counts.argmax()) if normal is None else normal
    split = labelled(data.test)
    if reason := why_not_normal(data, split, normal):
        return Undefined(reason)
    scores = anomaly_scores(variant, data, split.unlabelled, k)
    trivial = (_isolation_forest(data, split), _distance_from_mean(data, split))
    return Detection(
        scores=scores | dict(zip(TRIVIAL, trivial, strict=True)),
        labels=labels_of(split),
        normal=normal,
        trained_share=1 - float(counts[normal] / counts.sum()) if counts.any() else None,
    )


def why_not_normal(data: Data, split: Batch, normal: int) -> str:
    """Return why a class cannot be told from others in labelled examples; an empty string if it can."""
    y = labels_of(split)
    n = int((y == normal).sum())
    if 0 < n < len(y):
        return ""
    return (
        f"class {class_name(data, normal)!r} as normal: expected test examples of it and of other classes; "
        f"{data.spec.name} has {n} and {len(y) - n}"
    )


def why_not_one_class(variant: Variant, data: Data, split: Batch, normals: Sequence[int]) -> str:
    """Return why no models of single classes can be trained and scored on a split; an empty string if they can."""
    if variant.conditioned_on == "x":
        return ONLY_A_PART
    if reason := why_no_labels(data, "test"):
        return reason
    if not normals:
        return f"no label of the training split of {data.spec.name} is known"
    for c in normals:
        if any(c not in labels_of(part) for part in (data.train, data.valid)):
            name = class_name(data, c)
            return f"class {name!r} as normal: {data.spec.name} has no examples of it to train and validate on"
    return next((reason for c in normals if (reason := why_not_normal(data, split, c))), "")


def one_class(variant: Variant, data: Data, split: Batch, normal: int, k: int = 50) -> dict[str, Estimate]:
    """Return the area under the ROC curve of each score of a model that was trained on the normal class alone.

    This is the protocol of one-class detection (Ruff et al. 2018, section 4.2). The variant and `data.train` are of the
    class `normal` only; a variant that is conditioned on a class gets that one. The scores are those of
    `anomaly_scores`, and an area of 0.5 is chance.

    Examples of the split whose label is unknown take no part. The others have to be both of this class and of others.
    """
    split = labelled(split)
    is_anomaly = labels_of(split) != normal
    y = torch.full((len(split),), normal, device=split.x.device) if variant.conditioned_on == "y" else None
    scores = anomaly_scores(variant, data, replace(split, y=y), k, marginal=False)
    return {name: roc_area(score, is_anomaly) for name, score in scores.items()}


def anomaly_scores(variant: Variant, data: Data, split: Batch, k: int, *, marginal: bool = True) -> dict[str, Array]:
    """Return scores of each example, (N,), by name, which are high for examples unlike the training data.

    They are `reconstruction`, -E log p(x|z); the negative `elbo`, and the negative importance-weighted bound `iw` with
    `k` draws, if q has a density; the Mahalanobis distance of the code from the training codes (`latent`); and the
    negative scores of the variant's own, such as `discriminator`. With `marginal`, `iw` sums over the classes of a
    conditional variant.
    """
    parts: dict[str, list[Tensor]] = {}
    variant.eval()
    with machine.seeded(variant.device, 0):
        for batch in data.batches(split):
            terms = variant.terms(batch, torch.zeros((), device=variant.device))
            parts.setdefault("reconstruction", []).append(terms.reconstruction)
            if terms.elbo is not None:
                parts.setdefault("elbo", []).append(-terms.elbo)
            for name in (n for n in terms.extras if n.endswith("_score")):
                parts.setdefault(name.removesuffix("_score"), []).append(-terms.extras[name])
    scores = {name: torch.cat(values).double().cpu().numpy() for name, values in parts.items()}
    if "elbo" in scores:
        scores["iw"] = -defined(likelihood.importance_weighted(variant, data, split, k, marginal=marginal)).numpy()
    if len(data.train) > 1:  # one example has no covariance
        scores["latent"] = mahalanobis(encode_split(variant, data, split), encode_split(variant, data, data.train))
    return scores


def mahalanobis(points: Array, known: Array) -> Array:
    """Return the Mahalanobis distance of points (N, Z) from the mean of `known` points (M, Z): (N,).

    Columns whose standard deviation is below a hundredth of the largest one are left out.
    """
    active = known.std(axis=0) > 0.01 * known.std(axis=0).max()
    points, known = points[:, active], known[:, active]
    inverse = np.linalg.pinv(np.atleast_2d(np.cov(known, rowvar=False)), rcond=1e-8, hermitian=True)
    difference = points - known.mean(axis=0)
    distance: Array = np.sqrt(np.einsum("ni,ij,nj->n", difference, inverse, difference).clip(min=0))
    return distance


def _isolation_forest(data: Data, split: Batch) -> Array:
    """Return the score of an isolation forest, (N,); higher is more unusual. Missing values are set to column means."""
    from sklearn.ensemble import IsolationForest
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline

    values = []
    for part in (data.train, split):
        x = torch.cat([drawing.with_gaps(batch.x, batch.known) for batch in data.batches(part)])
        values.append(x.flatten(1).cpu().numpy())
    impute = SimpleImputer(keep_empty_features=True)
    forest = make_pipeline(impute, IsolationForest(n_estimators=200, random_state=0)).fit(values[0])
    score: Array = -forest.score_samples(values[1])
    return score


def _distance_from_mean(data: Data, split: Batch) -> Array:
    """Return the Euclidean distance from the mean of the training examples, (N,), of values as a network reads them.

    Missing values count as their mean.
    """
    values, known = [], []
    for part in (data.train, split):
        values.append(raw_values(data, part))
        is_known = torch.ones_like(part.x, dtype=torch.bool) if part.known is None else part.known.expand_as(part.x)
        known.append(is_known.flatten(1).cpu().numpy())
    mean = (values[0] * known[0]).sum(axis=0) / known[0].sum(axis=0).clip(min=1)
    distance: Array = np.linalg.norm((values[1] - mean) * known[1], axis=1)
    return distance
