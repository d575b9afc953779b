"""What a simple classifier reads from codes: logistic regression (Alain & Bengio 2016), nearest neighbours."""

import warnings

import numpy as np
import torch
from numpy.typing import NDArray

from variants import Batch, InputError

Array = NDArray[np.float64]
Classes = NDArray[np.int64]
TRAINING_EXAMPLES = 10_000  # at most; more cost minutes and move the accuracy by less than a seed does


def subset(split: Batch, n: int = TRAINING_EXAMPLES) -> Batch:
    """`n` examples of a split, drawn once with a fixed seed; all of them where there are no more."""
    if len(split) <= n:
        return split
    index = torch.randperm(len(split), generator=torch.Generator().manual_seed(0))[:n]
    return split[index.sort().values.to(split.x.device)]


def accuracy(train_x: Array, train_y: NDArray[np.int64], test_x: Array, test_y: NDArray[np.int64]) -> float:
    """Share of test examples (N, Z) classified rightly, in [0, 1], higher is better.

    Multinomial logistic regression with an L2 penalty (C = 1) on features standardised by the training part.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if len(np.unique(train_y)) < 2:
        return float(np.mean(test_y == train_y[0]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # 200 steps settle the accuracy, if not each weight
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=200)).fit(train_x, train_y)
    return float(model.score(test_x, test_y))


def random_projection(train_x: Array, test_x: Array, dimensions: int) -> tuple[Array, Array]:
    """Both arrays (N, D) in `dimensions` fixed random Gaussian directions: a baseline for a code of that size."""
    directions = np.random.default_rng(0).standard_normal((train_x.shape[1], dimensions))
    return train_x @ directions, test_x @ directions


def principal_components(train_x: Array, test_x: Array, dimensions: int) -> tuple[Array, Array]:
    """Both arrays (N, D) in the first `dimensions` principal components of the training part: a linear code's baseline.

    As many as there are, where there are fewer.
    """
    from sklearn.decomposition import PCA

    fitted = PCA(min(dimensions, *train_x.shape), random_state=0).fit(train_x)
    return fitted.transform(train_x), fitted.transform(test_x)


def by_labels(train: tuple[Array, Classes], test: tuple[Array, Classes], n: int, draws: int, seed: int = 0) -> Array:
    """(draws,) share of test examples classified rightly by a logistic regression that knows `n` training labels.

    Higher is better. A draw takes the labels evenly from all classes. Codes are centred and divided by one common
    scale, both of all training codes, which need no labels: columns that vary little stay small, and the penalty
    (C = 1) keeps them from being heard. Raises `InputError` for fewer labels than classes, or more than there are.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    (train_x, train_y), (test_x, test_y) = train, test
    classes = np.unique(train_y)
    if not len(classes) <= n <= len(train_y):
        raise InputError(f"{n} labels: expected {len(classes)} (one a class) to {len(train_y)} (all)")
    (train_x, test_x), found = scaled(train_x, test_x), []
    for draw in range(draws):
        order = np.random.default_rng((seed, draw)).permutation(len(train_y))
        # examples in turn from each class: the first, the second, ... of their class in the drawn order
        turn = np.empty(len(order), dtype=np.int64)
        for c in classes:
            mine = order[train_y[order] == c]
            turn[mine] = np.arange(len(mine))
        chosen = order[np.argsort(turn[order], kind="stable")][:n]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model = LogisticRegression(max_iter=200).fit(train_x[chosen], train_y[chosen])
        found.append(model.score(test_x, test_y))
    return np.array(found)


def neighbours(train: tuple[Array, Classes], test: tuple[Array, Classes], k: int = 10) -> float:
    """Share of test examples whose class most of their `k` nearest training codes have; higher is better."""
    from sklearn.neighbors import KNeighborsClassifier

    model = KNeighborsClassifier(min(k, len(train[1])), algorithm="brute").fit(*train)
    return float(model.score(*test))


def scaled(train_x: Array, test_x: Array) -> tuple[Array, Array]:
    """Both (N, Z), centred and divided by one scale: the root mean square of the training part's deviations."""
    mean = train_x.mean(axis=0)
    scale = float(np.sqrt(((train_x - mean) ** 2).mean())) or 1.0
    return (train_x - mean) / scale, (test_x - mean) / scale
