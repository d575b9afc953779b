"""What a study shows: notes about running trials, a line for each finished one, and a table and plots at the end."""

import os
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import optuna
from optuna.trial import FrozenTrial
from rich.table import Table

from pipeline.metrics import OBJECTIVES
from pipeline.study import store
from variants.base.contract import DENSITIES

os.environ.setdefault("MPLBACKEND", "Agg")

PART = "valid/reconstruction_"  # the prefix of the parts of a reconstruction by kind of value
COLUMNS = {  # metric -> heading and format, in the order in which they are shown
    "valid/elbo": ("ELBO", ".2f"),
    "valid/reconstruction": ("reconstruction", ".2f"),
    "valid/kl": ("KL", ".2f"),
    "baseline/valid_ppca": ("PPCA", ".2f"),
    "latent/mmd": ("MMD", ".4f"),
    "probe/accuracy": ("probe", ".3f"),
    "probe/balanced_accuracy": ("balanced", ".3f"),
    "time/trial_seconds": ("seconds", ".1f"),
}


def scores_text(scores: Mapping[str, float], objectives: tuple[str, ...]) -> str:
    """Return the scores that have a column, such as `ELBO -23.10  KL 8.21`."""
    columns = [k for k in _columns(objectives) if k in scores]
    return "  ".join(f"{COLUMNS[k][0]} {scores[k]:{COLUMNS[k][1]}}" for k in columns)


def trial_line(trial: FrozenTrial, objectives: tuple[str, ...]) -> str:
    """Return the line that is printed when a trial has finished."""
    scores = scores_text(trial.user_attrs.get("metrics", {}), objectives)
    notes = [trial.user_attrs[name] for name in (store.REMARK, "reason") if trial.user_attrs.get(name)]
    return "  ".join([f"trial {trial.number:>3} {store.STATES[trial.state]:<8} {scores}", _params(trial), *notes])


def best_text(best: Mapping[str, tuple[float, int]]) -> str:
    """Return the best value of each objective with the number of its trial, as `store.best_values` gives them."""
    values = "  ".join(f"{COLUMNS[k][0]} {value:{COLUMNS[k][1]}} (#{number})" for k, (value, number) in best.items())
    return f"best {values}" if best else ""


def best_table(study: optuna.Study, objectives: tuple[str, ...], rows: int = 8) -> Table:
    """Return a table of the best trials by the first objective; those on the Pareto front come first, with a star."""
    several = len(objectives) > 1
    sign = 1 if OBJECTIVES[objectives[0]].better == "minimize" else -1
    front = {t.number for t in study.best_trials} if several else set()
    order = sorted(store.complete_trials(study), key=lambda t: (t.number not in front, sign * t.values[0]))
    best = order[:rows]
    # a variant whose q has no density has no ELBO and no KL; their columns then show a dash
    measured = {"valid/elbo", "valid/kl"}.union(*(t.user_attrs["metrics"] for t in best))
    columns = [k for k in _columns(objectives) if k in measured]
    star = f"; * Pareto front of {' and '.join(objectives)}" if several else ""
    units = "ELBO, reconstruction and KL in nats per example; probe: accuracy of a linear classifier on the codes"
    if "probe/balanced_accuracy" in columns:
        units += "; balanced: mean of its accuracy on each class"
    shares = {t.user_attrs["metrics"].get("probe/majority") for t in best} - {None}  # the same for all trials
    majority = "".join(f"; share of the most frequent class: {share:.3f}" for share in shares)
    caption = "\n".join([f"{_counts(study)}; {units}{star}{majority}", *_likelihood_notes(study, measured)])
    table = Table(title=f"{study.study_name}: best trials", caption=caption)
    for heading in ["trial", *(COLUMNS[k][0] for k in columns)]:
        table.add_column(heading, justify="right")
    table.add_column("hyperparameters")
    # the baseline in parentheses is left out here, because the caption shows all baselines
    remarks = [re.sub(r" \(.*\)", "", t.user_attrs.get(store.REMARK, "")) for t in best]
    if any(remarks):
        table.add_column("remark")
    for t, remark in zip(best, remarks, strict=True):
        metrics = t.user_attrs["metrics"]
        scores = [f"{metrics[k]:{COLUMNS[k][1]}}" if k in metrics else "—" for k in columns]
        table.add_row(f"{t.number}{'*' * (t.number in front)}", *scores, _params(t), *[remark] * any(remarks))
    return table


def _likelihood_notes(study: optuna.Study, measured: set[str]) -> Iterator[str]:
    """Yield notes that explain the ELBO: the baselines, and whether it adds densities and probabilities."""
    if baselines := study.user_attrs.get(store.BASELINES, {}):
        values = ", ".join(f"{title} {value:.2f}" for title, value in baselines.items())
        yield f"baselines, log p(x) in nats per example: {values}"
    if "baseline/valid_ppca" in measured:
        yield "PPCA: log p(x) of probabilistic PCA with as many latent dimensions"
    kinds = [name.removeprefix(PART) for name in sorted(measured) if name.startswith(PART)]
    densities, others = ([k for k in kinds if (k in DENSITIES) == is_density] for is_density in (True, False))
    if densities and others:
        yield (
            f"the ELBO is a bound of a log density: it adds log densities ({', '.join(densities)}) and "
            f"log probabilities ({', '.join(others)}), whose parts are in MLflow"
        )


def _columns(objectives: tuple[str, ...]) -> list[str]:
    """Return the metrics for which there is room: the MMD and balanced accuracy only where they are objectives."""
    return [k for k in COLUMNS if k not in ("latent/mmd", "probe/balanced_accuracy") or k in objectives]


def _counts(study: optuna.Study) -> str:
    states = [t.state for t in store.finished_trials(study)]
    return ", ".join(f"{states.count(s)} {name}" for s, name in store.STATES.items() if s in states)


def _params(trial: FrozenTrial) -> str:
    return " ".join(f"{k}={v:.3g}" if isinstance(v, float) else f"{k}={v}" for k, v in trial.params.items())


def figures(study: optuna.Study, objectives: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    """Yield the path and the matplotlib figure of each of Optuna's plots, which become files of the study's run.

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
