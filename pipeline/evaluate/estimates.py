"""Metrics with their standard errors over examples."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


class Estimate(NamedTuple):
    """The value of a metric, and its standard error over examples; None if it cannot be estimated."""

    value: float
    error: float | None

    def __str__(self) -> str:
        return f"{self.value:.3f}" + ("" if self.error is None else f" ± {self.error:.3f}")


def ratio(sums: Array, counts: Array) -> Estimate:
    """Return the mean of values, of which each of N examples has several.

    It is the sum of `sums` (N,), the sums of the values of the examples, divided by the sum of `counts` (N,), which is
    above 0. Its error is that of a ratio of means: the root of n / (n - 1) times the sum of (sums - mean * counts)^2,
    divided by the sum of the counts (Cochran 1977, equation 6.9). Examples without values do not count. There is no
    error if there is one example.
    """
    n, total = int((counts > 0).sum()), float(counts.sum())
    mean = float(sums.sum()) / total
    if n < 2:
        return Estimate(mean, None)
    return Estimate(mean, float(np.sqrt(n / (n - 1) * ((sums - mean * counts) ** 2).sum()) / total))


def root_mean_square(squared: Array, counts: Array) -> Estimate:
    """Return the root of `ratio` of squared errors.

    By the delta method, its error is the error of the mean square, divided by 2 sqrt(mean square). There is no error if
    there is one example, or if all errors are 0.
    """
    mean, error = ratio(squared, counts)
    value = float(np.sqrt(mean))
    return Estimate(value, error / (2 * value) if error is not None and value else None)
