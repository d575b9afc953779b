"""What is rerun on a schedule: suites of fixed trainings, and by what their results are judged.

Another package adds a suite by an entry point in the group `vae.suites` that points at a function without arguments.

A rerun of a suite trains each case on fresh seeds, so that its means vary as an honest repetition would, and once on a
seed that is always the same, whose numbers show at once that anything changed at all.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from typing import Any

import studies
import variants
from studies.anchors import ANCHORS
from variants import InputError


@dataclass(frozen=True)
class Case:
    """A variant with fixed settings, data set and budget."""

    variant: str
    dataset: str
    epochs: int
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Suite:
    """`judged`: metric -> the smallest change that matters, as a share of the baseline's value.

    `anchors` are names of `studies.anchors`, of which those figures are judged that have an expectation, with
    `anchor_effect` as the smallest change. False alarms are held to 5% in `monthly` reruns. `parts` and `sizes` are
    those of the evaluation.
    """

    about: str
    cost: str
    cases: Mapping[str, Case] = field(default_factory=dict)
    anchors: tuple[str, ...] = ()
    seeds: int = 5
    parts: tuple[str, ...] = ("bounds", "latents", "probe", "clusters", "samples", "generation")
    sizes: Mapping[str, Any] = field(default_factory=dict)
    judged: Mapping[str, float] = field(default_factory=dict)
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
    for name in variants.names():  # a new variant joins with its defaults, on the data of its study
        epochs, settings = _SMOKE.get(name, (20, {}))
        cases[name] = Case(name, studies.get(name).STUDY.dataset, epochs, settings)
    return Suite(
        about="all variants on the embedded digits",
        cost="some two minutes on two cores with --workers 2",
        cases=cases,
        sizes={"iw_k": 50, "iw_n": 200, "draws": 3, "samples": 300},
        judged={
            "test/elbo": 0.005, "test/iw50": 0.005, "test/reconstruction": 0.01, "probe/linear_all": 0.02,
            "sample/frechet": 0.2, "speed/standard": 0.08,
        },
    )  # fmt: skip


_LARGE = {"latent": 16, "width": 256, "lr": 1e-3, "batch": 128, "warmup": 2000}


def _nightly() -> Suite:
    own: dict[str, tuple[int, dict[str, Any]]] = {
        "vae": (10, {}), "beta": (10, {"beta": 4.0}), "cvae": (10, {}), "hvae": (10, {"depth": 1}),
        "aae": (10, {"adversary_width": 256, "warmup": 0}), "vrae": (3, {"width": 128, "lr": 2e-3}),
    }  # fmt: skip
    return Suite(
        about="six variants on MNIST",
        cost="hours on two cores",
        cases={
            name: Case(name, "mnist-rows" if name == "vrae" else "mnist", epochs, {**_LARGE, **settings})
            for name, (epochs, settings) in own.items()
        },
        parts=("bounds", "annealing", "latents", "probe", "clusters", "samples", "anomaly", "generation"),
        sizes={"ais_n": 20, "ais_temperatures": 200, "gap_n": 10, "draws": 3},
        judged={
            "test/elbo": 0.002, "test/iw500": 0.002, "test/reconstruction": 0.005, "probe/linear_all": 0.005,
            "sample/frechet": 0.05, "speed/standard": 0.08,
        },
    )  # fmt: skip


def _paper() -> Suite:
    expected = tuple(name for name, anchor in ANCHORS.items() if anchor.budgets["cpu"].expected)
    return Suite(
        about="the anchors of pipeline.reproduce that have an expectation",
        cost="an hour a seed on two cores",
        anchors=expected,
        seeds=2,
    )


_SUITES: Mapping[str, Callable[[], Suite]] = {"smoke": _smoke, "nightly": _nightly, "paper": _paper}
_GROUP = "vae.suites"


def names() -> list[str]:
    """Every suite: those of this file, and what other packages register."""
    return [*_SUITES, *sorted(point.name for point in entry_points(group=_GROUP) if point.name not in _SUITES)]


def get(name: str) -> Suite:
    """A suite. Raises `InputError` for an unknown name, and for one of another package that cannot be made."""
    if name in _SUITES:
        return _SUITES[name]()
    for point in entry_points(group=_GROUP):
        if point.name == name:
            try:
                found = point.load()()
            except Exception as error:
                raise InputError(f"suite {name!r} cannot be made by {point.value}: {error}") from error
            if not isinstance(found, Suite):
                raise InputError(f"suite {name!r}: {point.value} gives {type(found).__name__}; expected a Suite")
            return found
    raise InputError(f"unknown suite {name!r}: expected one of {', '.join(names())}")
