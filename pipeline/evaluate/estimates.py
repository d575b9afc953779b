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


def root_mean_square(squared: Array, counts: Array) -> Estimate:
    """Return the root mean square of errors, of which each of N examples has several.

    The mean square r is the sum of `squared` (N,), the sums of squares of the examples, divided by the sum of `counts`
    (N,), which is above 0. Its error is that of a ratio of means: the root of n / (n - 1) times the sum of
    (squared - r * counts)^2, divided by the sum of the counts (Cochran 1977, equation 6.9). By the delta method, the
    error of the root is this divided by 2 sqrt(r). There is no error if there is one example, or if all errors are 0.
    """
    n, total = len(squared), float(counts.sum())
    mean = float(squared.sum()) / total
    value = float(np.sqrt(mean))
    if n < 2 or not value:
        return Estimate(value, None)
    error = np.sqrt(n / (n - 1) * ((squared - mean * counts) ** 2).sum()) / total
    return Estimate(value, float(error) / (2 * value))
