"""What is asked of a variant: one file each, `suggest(trial) -> Config` and `STUDY`.

`suggest` draws a configuration from the search space by Optuna's `trial.suggest_*`; `STUDY` holds what the study
optimises and its default budget. A plug-in brings its own by an entry point in the group `vae.studies` that points
at such a module; a variant without one is searched over the fields that all variants share (`_default.py`).
"""

import importlib
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Literal, Protocol

from variants import Config, InputError

__all__ = ["SearchSpace", "Study", "Trial", "get"]


class Trial(Protocol):
    """The part of `optuna.Trial` that a search space needs."""

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float: ...
    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> int: ...
    def suggest_categorical(self, name: str, choices: Any) -> Any: ...


@dataclass(frozen=True, kw_only=True)
class Study:
    """What a study optimises, and its budget where the command line gives none.

    `objectives` are metric names (see `pipeline.metrics`); several make a Pareto front. `patience` is the number of
    epochs without a better validation score after which a training ends.
    """

    objectives: tuple[str, ...]
    dataset: str = "digits"
    trials: int = 20
    epochs: int = 100
    patience: int = 15
    pruner: Literal["halving", "none"] = "none"  # Hyperband for one objective, MO-ASHA for several


class SearchSpace(Protocol):
    """A module of this folder."""

    @property
    def STUDY(self) -> Study: ...

    def suggest(self, trial: Trial) -> Config: ...


def get(name: str) -> SearchSpace:
    """The study of a variant. Raises `InputError` for a file without `suggest` or `STUDY`."""
    plugins = {point.name: point for point in entry_points(group="vae.studies")}
    if (Path(__file__).parent / f"{name}.py").exists():
        where = f"studies/{name}.py"
        module: Any = importlib.import_module(f"studies.{name}")
    elif name in plugins:
        where = plugins[name].value
        module = plugins[name].load()
    else:
        from studies._default import for_variant

        return for_variant(name)
    missing = [n for n in ("suggest", "STUDY") if not hasattr(module, n)]
    if missing:
        raise InputError(f"{where} is half-written; it does not define {', '.join(missing)}")
    return module  # type: ignore[no-any-return]
