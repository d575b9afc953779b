"""Benchmark suites: sets of fixed trainings that are rerun on a schedule.

A rerun trains each case with new seeds, so that its means vary as those of any repetition do. It also trains each case
with one seed that never changes, whose results show whether anything at all has changed.

Another package adds a suite with an entry point in the group `vae.suites` that points at a function without arguments,
which returns a `Suite`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from typing import Any

import variants
from studies.anchors import ANCHORS
from variants import InputError


@dataclass(frozen=True)
class Case:
    """One training: a variant with fixed settings, a data set and a budget."""

    variant: str
    dataset: str | None  # None for that of the variant's study
    epochs: int
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Suite:
    """The cases of a suite, how they are evaluated, and which metrics are monitored.

    `smallest_effects` maps each monitored metric to the smallest change that matters, as a share of the baseline's
    value. `anchors` are names of `studies.anchors`; their scores with an expectation are monitored too, with
    `anchor_effect` as the smallest change. The probability of a false alarm in `monthly` reruns is about 5% at most.
    `parts` and `sizes` are passed on to the evaluation.
    """

    about: str
    cost: str
    cases: Mapping[str, Case] = field(default_factory=dict)
    anchors: tuple[str, ...] = ()
    seeds: int = 5
    parts: tuple[str, ...] = ("bounds", "latents", "probe", "clusters", "samples", "generation")
    sizes: Mapping[str, Any] = field(default_factory=dict)
    smallest_effects: Mapping[str, float] = field(default_factory=dict)
    anchor_effect: float = 0.01
    monthly: int = 30


_SMALL = {"latent": 8, "width": 128, "lr": 2e-3, "batch": 64}
_SMOKE: dict[str, tuple[int, dict[str, Any]]] = {
    "vae": (60, _SMALL),
    "beta": (60, {**_SMALL, "beta": 0.5}),
    "cvae": (60, _SMALL),
    "aae": (40, {**_SMALL, "adversary_width": 128, "adversary_lr": 1e-3, "scale": 1.0}),
    "hvae": (40, {**_SMALL, "latent": 12, "depth": 1, "levels": 2}),
    "vrae": (20, {**_SMALL, "width": 48, "lr": 4e-3}),
}


def _smoke() -> Suite:
    cases = {}
    for name in variants.names():  # a new variant has default settings and the data set of its study
        epochs, settings = _SMOKE.get(name, (20, {}))
        cases[name] = Case(name, None, epochs, settings)
    return Suite(
        about="all variants on the built-in digits",
        cost="some minutes on two cores with --workers 2",
        cases=cases,
        sizes={"iw_k": 50, "iw_n": 200, "draws": 3, "samples": 300},
        smallest_effects={
            "test/elbo": 0.005, "test/iw50": 0.005, "test/reconstruction": 0.01, "probe/linear_all": 0.02,
            "sample/frechet": 0.2, "speed/standard": 0.08,
        },
    )  # fmt: skip


_LARGE = {"latent": 16, "width": 256, "lr": 1e-3, "batch": 128, "warmup": 2000}


def _nightly() -> Suite:
    budgets: dict[str, tuple[int, dict[str, Any]]] = {
        "vae": (10, {}), "beta": (10, {"beta": 4.0}), "cvae": (10, {}), "hvae": (10, {"depth": 1}),
        "aae": (10, {"adversary_width": 256, "warmup": 0}), "vrae": (3, {"width": 128, "lr": 2e-3}),
    }  # fmt: skip
    return Suite(
        about="six variants on MNIST",
        cost="several hours on two cores",
        cases={
            name: Case(name, "mnist-rows" if name == "vrae" else "mnist", epochs, {**_LARGE, **settings})
            for name, (epochs, settings) in budgets.items()
        },
        parts=("bounds", "annealing", "latents", "probe", "clusters", "samples", "one_class", "generation"),
        sizes={"ais_n": 20, "ais_temperatures": 200, "gap_n": 10, "draws": 3},
        smallest_effects={
            "test/elbo": 0.002, "test/iw500": 0.002, "test/reconstruction": 0.005, "probe/linear_all": 0.005,
            "sample/frechet": 0.05, "speed/standard": 0.08,
        },
    )  # fmt: skip


def _paper() -> Suite:
    expected = tuple(name for name, anchor in ANCHORS.items() if anchor.budgets["cpu"].expected)
    return Suite(
        about="the anchors of pipeline.reproduce that have an expectation",
        cost="an hour per seed on two cores",
        anchors=expected,
        seeds=2,
    )


_SUITES: Mapping[str, Callable[[], Suite]] = {"smoke": _smoke, "nightly": _nightly, "paper": _paper}
_GROUP = "vae.suites"


def names() -> list[str]:
    """Return the names of all suites: those of this file, then those that other packages register."""
    return [*_SUITES, *sorted(point.name for point in entry_points(group=_GROUP) if point.name not in _SUITES)]


def get(name: str) -> Suite:
    """Return a suite.

    Raises:
        InputError: If the name is unknown, or another package's function fails or returns something else.
    """
    if name in _SUITES:
        return _SUITES[name]()
    for point in entry_points(group=_GROUP):
        if point.name == name:
            try:
                suite = point.load()()
            except Exception as error:
                raise InputError(f"suite {name!r}: {point.value} failed: {error}") from error
            if not isinstance(suite, Suite):
                raise InputError(f"suite {name!r}: {point.value} returns {type(suite).__name__}; expected a Suite")
            return suite
    raise InputError(f"unknown suite {name!r}: expected one of {', '.join(names())}")
