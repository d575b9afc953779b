"""What a simple classifier reads from codes: logistic regression (Alain & Bengio 2016) or nearest neighbours."""

import warnings
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.evaluate.areas import average_precision, roc_area
from pipeline.evaluate.estimates import Estimate
from variants import Batch, InputError

Array = NDArray[np.float64]
Classes = NDArray[np.int64]
LEVEL = 0.05  # of the test whether a classifier is better than another one
TRAINING_EXAMPLES = 10_000  # at most; more take minutes and change the accuracy by less than another seed does


def subset(split: Batch, n: int = TRAINING_EXAMPLES) -> Batch:
    """Return `n` examples of a split, drawn with a fixed seed; all of them if there are no more."""
    return split if len(split) <= n else split[subset_positions(len(split), n).to(split.x.device)]


def subset_positions(total: int, n: int) -> Tensor:
    """Return the sorted positions of the examples of `subset` in a split of `total`; those of fewer are among them."""
    return torch.randperm(total, generator=torch.Generator().manual_seed(0))[:n].sort().values


def fit(train_x: Array, train_y: Classes) -> Any:
    """Return a classifier of scikit-learn that is fitted to training examples (N, Z) of two classes or more.

    It is a multinomial logistic regression with an L2 penalty (C = 1), on features that are standardised by the
    training examples.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # after 200 steps the accuracy no longer changes
        return make_pipeline(StandardScaler(), LogisticRegression(max_iter=200)).fit(train_x, train_y)


def predictions(train_x: Array, train_y: Classes, test_x: Array) -> Classes:
    """Return the class, (N,), that the classifier of `fit` predicts for each test example (N, Z)."""
    predicted: Classes = fit(train_x, train_y).predict(test_x)
    return predicted


def accuracy(train_x: Array, train_y: Classes, test_x: Array, test_y: Classes) -> float:
    """Return the share of test examples (N, Z) that `predictions` classifies correctly, in [0, 1]; higher is better."""
    return float(np.mean(predictions(train_x, train_y, test_x) == test_y))


def balanced_accuracy(labels: Classes, predicted: Classes) -> float:
    """Return the mean, over the classes of the labels (N,), of the share of a class that is predicted correctly.

    It is in [0, 1], and higher is better (Brodersen et al. 2010). Every class counts equally, however rare it is: if
    always the same one of K classes is predicted, it is 1/K.
    """
    from sklearn.metrics import recall_score

    return float(recall_score(labels, predicted, labels=np.unique(labels), average="macro"))


def balanced_error(labels: Classes, predicted: Classes) -> float | None:
    """Return the standard error of `balanced_accuracy`, whose examples are a random sample of each class.

    It is the root of the sum over the K classes of s² / (n K²), where s² is the variance of being predicted correctly
    among the n examples of a class. It is None if a class has a single example, which has no variance.
    """
    groups = [predicted[labels == c] == c for c in np.unique(labels)]
    if min(map(len, groups)) < 2:
        return None
    return float(np.sqrt(sum(group.var(ddof=1) / len(group) for group in groups)) / len(groups))


def is_better(correct: Array, other: Array) -> bool:
    """Return whether a classifier is correct more often than another one on the same examples, by more than chance.

    Both arrays (N,) are 1 where a prediction is correct, and 0 elsewhere. This is the exact form of McNemar's test
    (1947; two-sided, at the level of 5%): if both classifiers are equally good, then of the examples on which just one
    is correct, each favours either with a probability of one half. Fewer than six such examples are never enough.
    """
    from scipy.stats import binomtest

    wins, losses = int((correct > other).sum()), int((correct < other).sum())
    return wins > losses and bool(binomtest(wins, wins + losses).pvalue < LEVEL)


def areas(labels: Classes, probability: Array, positive: int) -> dict[str, Estimate]:
    """Return the areas under the ROC curve and the precision-recall curve, `roc_area` and `precision_recall_area`.

    `probability` (N,) is the predicted probability of the class `positive`, and `labels` (N,) are of two classes. The
    second area is the average precision. By chance, the first area is 0.5, and the second the share of the class. The
    errors are those of other examples with the same classifier.
    """
    truth = labels == positive
    return {
        "roc_area": roc_area(probability, truth),
        "precision_recall_area": average_precision(probability, truth),
    }


def majority(train_y: Classes, test_y: Classes) -> float:
    """Return the accuracy, in [0, 1], of always predicting the most frequent class of the training examples.

    It is what a classifier reaches without looking at the code.
    """
    return float(np.mean(test_y == most_frequent(train_y)))


def most_frequent(labels: Classes) -> int:
    """Return the most frequent class of labels (N,); the first one if several are equally frequent."""
    classes, counts = np.unique(labels, return_counts=True)
    return int(classes[counts.argmax()])


def random_projection(train_x: Array, test_x: Array, dimensions: int) -> tuple[Array, Array]:
    """Project both arrays (N, D) on `dimensions` fixed random Gaussian directions, as a baseline for such codes."""
    directions = np.random.default_rng(0).standard_normal((train_x.shape[1], dimensions))
    return train_x @ directions, test_x @ directions


def principal_components(train_x: Array, test_x: Array, dimensions: int) -> tuple[Array, Array]:
    """Project both arrays (N, D) on the first `dimensions` principal components of the training examples.

    This is the baseline of a linear code. If there are fewer components, all of them are used.
    """
    from sklearn.decomposition import PCA

    fitted = PCA(min(dimensions, *train_x.shape), random_state=0).fit(train_x)
    return fitted.transform(train_x), fitted.transform(test_x)


def by_labels(train: tuple[Array, Classes], test_x: Array, n: int, draws: int, seed: int = 0) -> Classes:
    """Return the test predictions of a logistic regression that is trained on `n` labels: (draws, N).

    Each draw takes the labels evenly from all classes. Codes are centred and divided by one common scale, both computed
    from all training codes, which needs no labels. So columns that vary little stay small, and the penalty (C = 1)
    limits their influence. Raises `InputError` for fewer labels than classes, or more than training examples.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    train_x, train_y = train
    classes = np.unique(train_y)
    if not len(classes) <= n <= len(train_y):
        raise InputError(f"{n} labels: expected {len(classes)} (one a class) to {len(train_y)} (all)")
    (train_x, test_x), predicted = scaled(train_x, test_x), []
    for draw in range(draws):
        order = np.random.default_rng((seed, draw)).permutation(len(train_y))
        # number the examples of each class in the drawn order, and take the first ones of every class
        turn = np.empty(len(order), dtype=np.int64)
        for c in classes:
            members = order[train_y[order] == c]
            turn[members] = np.arange(len(members))
        chosen = order[np.argsort(turn[order], kind="stable")][:n]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model = LogisticRegression(max_iter=200).fit(train_x[chosen], train_y[chosen])
        predicted.append(model.predict(test_x))
    return np.array(predicted)


def neighbours(train: tuple[Array, Classes], test: tuple[Array, Classes], k: int = 10) -> float:
    """Return the share of test examples that have the class of most of their `k` nearest training codes."""
    from sklearn.neighbors import KNeighborsClassifier

    model = KNeighborsClassifier(min(k, len(train[1])), algorithm="brute").fit(*train)
    return float(model.score(*test))


def scaled(train_x: Array, test_x: Array) -> tuple[Array, Array]:
    """Centre both arrays (N, Z) and divide them by one scale: the root mean square deviation of the training part."""
    mean = train_x.mean(axis=0)
    scale = float(np.sqrt(((train_x - mean) ** 2).mean())) or 1.0
    return (train_x - mean) / scale, (test_x - mean) / scale
