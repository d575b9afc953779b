"""What a finished study looks like: Optuna's own plots, as PNG files of the study's run."""

import os
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from pipeline.metrics import OBJECTIVES

os.environ.setdefault("MPLBACKEND", "Agg")


def of(study: optuna.Study, objectives: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    """(path, matplotlib figure) for history, importances and parallel coordinates of each objective, and the front."""
    import matplotlib.pyplot as plt
    import numpy as np

    better = {name.split("/")[1]: OBJECTIVES[name].better for name in objectives}
    for name, draw in _plots(study, objectives):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Optuna calls its plots experimental
            figure = np.ravel(draw())[0].figure
        if name.startswith("parallel_"):  # the better, the darker: with a target Optuna takes lower for better
            for lines in figure.axes[0].collections:
                lines.set_cmap("Blues" if better[name.removeprefix("parallel_")] == "maximize" else "Blues_r")
        figure.set_size_inches(9, 5)
        figure.tight_layout()
        yield f"study/{name}.png", figure
        plt.close(figure)


def _plots(study: optuna.Study, objectives: tuple[str, ...]) -> Iterator[tuple[str, Callable[[], Any]]]:
    import optuna.visualization.matplotlib as plots

    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    compared = len(complete) > 3 and len({tuple(t.params.values()) for t in complete}) > 1
    for i, name in enumerate(objectives):
        short = name.split("/")[1]
        aim: dict[str, Any] = {"target_name": name}
        if len(objectives) > 1:
            aim["target"] = partial(_value, i)
        yield f"history_{short}", partial(plots.plot_optimization_history, study, **aim)
        if compared:
            low = {**aim, "target": partial(lowest, i, OBJECTIVES[name].better)}
            yield f"importances_{short}", partial(plots.plot_param_importances, study, **low)
            yield f"parallel_{short}", partial(plots.plot_parallel_coordinate, study, **aim)
    if len(objectives) in (2, 3):
        yield "pareto_front", partial(plots.plot_pareto_front, study, target_names=list(objectives))


def lowest(index: int, better: str, trial: FrozenTrial) -> float:
    """A trial's value, turned round where higher is better: PED-ANOVA asks what makes a target low."""
    return -float(trial.values[index]) if better == "maximize" else float(trial.values[index])


def _value(index: int, trial: FrozenTrial) -> float:
    return float(trial.values[index])
