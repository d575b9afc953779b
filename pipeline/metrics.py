"""Every metric's name, once: which way is better, its unit, and whether a study may optimise it."""

from dataclasses import dataclass
from typing import Literal

from variants import DataSpec, InputError


@dataclass(frozen=True)
class Metric:
    better: Literal["maximize", "minimize"]
    unit: str
    about: str
    needs: frozenset[str] = frozenset()  # fields of Batch without which it is undefined


OBJECTIVES = {
    "valid/elbo": Metric("maximize", "nats per example", "evidence lower bound at beta = 1"),
    "valid/reconstruction": Metric("minimize", "nats per example", "-E_q log p(x|z)"),
    "valid/kl": Metric("minimize", "nats per example", "KL(q(z|x) || p(z))"),
    "latent/mmd": Metric("minimize", "squared distance", "codes against draws from the prior"),
    "probe/accuracy": Metric("maximize", "share", "logistic regression on codes", frozenset({"y"})),
}


def objectives(names: tuple[str, ...], spec: DataSpec) -> tuple[str, ...]:
    """Those of a study's objectives that the data allow.

    Raises `InputError` for one that may not be optimised: a training loss contains the very weights that are searched
    (beta, free bits, adversarial weight), and test scores are not for choosing.
    """
    for name in names:
        if name in OBJECTIVES:
            continue
        why = "it is not a metric that variants can be compared by"
        if name.startswith("test/"):
            why = "the test split is for the final report; choose on validation"
        elif name.startswith("train/") or "loss" in name:
            why = "what is minimised contains weights that are searched, such as beta, and would choose the smallest"
        raise InputError(f"objective {name!r} is refused: {why}; expected one of {', '.join(OBJECTIVES)}")
    usable = tuple(n for n in names if OBJECTIVES[n].needs <= spec.fields)
    if not usable:
        raise InputError(f"objective {', '.join(names)} needs labels, and data set {spec.name} has none")
    return usable
