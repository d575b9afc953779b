"""Optuna's plots of a finished study, which become PNG files of the study's run."""

import os
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import optuna
from optuna.trial import FrozenTrial

from pipeline.metrics import OBJECTIVES
from pipeline.study import store

os.environ.setdefault("MPLBACKEND", "Agg")


def draw(study: optuna.Study, objectives: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    """Yield the path and the matplotlib figure of each plot.

    For each objective there are the history, the importances of parameters and parallel coordinates; for several there
    is the Pareto front.
    """
    import matplotlib.pyplot as plt
    import numpy as np

    better = {name.split("/")[1]: OBJECTIVES[name].better for name in objectives}
    for name, plot in _plots(study, objectives):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Optuna calls its plots experimental
            figure = np.ravel(plot())[0].figure
        if name.startswith("parallel_"):  # darker is better; with a target, Optuna assumes that lower is better
            for lines in figure.axes[0].collections:
                lines.set_cmap("Blues" if better[name.removeprefix("parallel_")] == "maximize" else "Blues_r")
        figure.set_size_inches(9, 5)
        figure.tight_layout()
        yield f"study/{name}.png", figure
        plt.close(figure)


def _plots(study: optuna.Study, objectives: tuple[str, ...]) -> Iterator[tuple[str, Callable[[], Any]]]:
    import optuna.visualization.matplotlib as plots

    complete = store.complete_trials(study)
    comparable = len(complete) > 3 and len({tuple(t.params.values()) for t in complete}) > 1
    for i, name in enumerate(objectives):
        short = name.split("/")[1]
        target: dict[str, Any] = {"target_name": name}
        if len(objectives) > 1:
            target["target"] = partial(_value, i)
        yield f"history_{short}", partial(plots.plot_optimization_history, study, **target)
        if comparable:
            low = {**target, "target": partial(minimized_value, i, OBJECTIVES[name].better)}
            yield f"importances_{short}", partial(plots.plot_param_importances, study, **low)
            yield f"parallel_{short}", partial(plots.plot_parallel_coordinate, study, **target)
    if len(objectives) in (2, 3):
        yield "pareto_front", partial(plots.plot_pareto_front, study, target_names=list(objectives))


def minimized_value(index: int, better: str, trial: FrozenTrial) -> float:
    """Return a trial's value, negated if higher is better, because PED-ANOVA explains what makes a target low."""
    return -float(trial.values[index]) if better == "maximize" else float(trial.values[index])


def _value(index: int, trial: FrozenTrial) -> float:
    return float(trial.values[index])
