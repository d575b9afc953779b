"""The search space of a variant, `studies.NAME.suggest`, in which `--fix` may set some parameters."""

import dataclasses
import difflib
from collections.abc import Mapping
from typing import Any, get_type_hints

from studies import Parameters, SearchSpace
from variants import Config, DataSpec, InputError

Value = int | float | str


class FixedParameters:
    """A trial in which some parameters have a fixed value, so that Optuna does not search them."""

    def __init__(self, trial: Parameters, fixed: Mapping[str, Value], spec: DataSpec | None) -> None:
        self._trial, self._fixed, self.spec = trial, fixed, spec

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> Any:
        return self._fixed[name] if name in self._fixed else self._trial.suggest_float(name, low, high, log=log)

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> Any:
        return self._fixed[name] if name in self._fixed else self._trial.suggest_int(name, low, high, log=log)

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        return self._fixed[name] if name in self._fixed else self._trial.suggest_categorical(name, choices)


class Outline:
    """A trial that records the range of each parameter, and returns its lower end."""

    spec: DataSpec | None = None

    def __init__(self) -> None:
        self.ranges: dict[str, str] = {}

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        self.ranges[name] = f"{low:g} to {high:g}{', log' * log}"
        return low

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> int:
        self.ranges[name] = f"{low} to {high}, whole{', log' * log}"
        return low

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        self.ranges[name] = " or ".join(map(str, choices))
        return choices[0]


def suggest(space: SearchSpace, trial: Parameters, fixed: Mapping[str, Value], spec: DataSpec | None) -> Config:
    """Return the configuration of a trial on such data, fixed parameters included."""
    config = dataclasses.replace(space.suggest(FixedParameters(trial, fixed, spec)), **fixed)  # type: ignore[arg-type]
    return config.for_data(spec) if spec else config


def outline(
    space: SearchSpace, fixed: Mapping[str, Value], spec: DataSpec | None = None
) -> tuple[Config, dict[str, str]]:
    """Return one configuration of the space for such data, and the range of each searched parameter in words."""
    trial = Outline()
    return suggest(space, trial, fixed, spec), trial.ranges


def parse_fixed(assignments: list[str], config: type[Config]) -> dict[str, Value]:
    """Parse the values of `--fix`: `["latent=2", "beta=4"]` becomes `{"latent": 2, "beta": 4.0}`.

    Raises:
        InputError: If `config` has no such parameter, or its value has the wrong type or is out of range.
    """
    types = get_type_hints(config)
    fixed: dict[str, Value] = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals:
            raise InputError(f"--fix {assignment}: expected NAME=VALUE, such as latent=2")
        if name not in types:
            near = difflib.get_close_matches(name, types, n=2)
            hint = f"did you mean {' or '.join(near)}? " if near else ""
            raise InputError(
                f"--fix {assignment}: there is no parameter {name!r}; {hint}expected one of {', '.join(types)}"
            )
        try:
            fixed[name] = types[name](text)
        except ValueError as error:
            kind = {int: "a whole number", float: "a number"}[types[name]]
            raise InputError(f"--fix {assignment}: expected {kind}") from error
        try:
            config(**{name: fixed[name]})  # type: ignore[arg-type]
        except InputError as error:
            raise InputError(f"--fix {error}") from error
    return fixed
