"""Linear probe: the accuracy of a logistic regression on codes (Alain & Bengio 2016, arXiv:1610.01644)."""

import warnings

import numpy as np
import torch
from numpy.typing import NDArray

from variants import Batch

Array = NDArray[np.float64]
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
