"""Kinds of values, the likelihoods that are for them, and the error for a wrong value.

This is the part of the contract that needs no torch, which takes a second to import. `variants.base.contract` has all.
"""

from collections.abc import Mapping
from typing import Literal


class InputError(ValueError):
    """Raised when a person gave something wrong. The message names the value, what was expected, and what to do."""


Likelihood = Literal[
    "bernoulli", "gaussian", "student-t", "log-normal", "gamma", "poisson", "negative-binomial", "zero-inflated",
    "logistic8", "mixture8", "continuous-bernoulli", "categorical", "mixed",
]  # fmt: skip
ValueKind = Literal["real", "positive", "fraction", "count", "binary", "category", "pixel"]
KIND_OF: Mapping[Likelihood, ValueKind] = {  # the kind of values that a family of likelihoods is for
    "gaussian": "real", "student-t": "real", "log-normal": "positive", "gamma": "positive", "poisson": "count",
    "negative-binomial": "count", "zero-inflated": "count", "bernoulli": "binary", "categorical": "category",
    "logistic8": "pixel", "mixture8": "pixel", "continuous-bernoulli": "fraction",
}  # fmt: skip
DENSITIES = (
    "real",
    "positive",
    "fraction",
)  # kinds of values whose likelihood is a density; that of the others is a probability
