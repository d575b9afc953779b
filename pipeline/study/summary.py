"""What a study shows: notes about running trials, a line for each finished one, and a table and plots at the end."""

import os
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import optuna
from optuna.trial import FrozenTrial, TrialState
from rich import box
from rich.table import Table

import variants
from pipeline.metrics import OBJECTIVES, Undefined
from pipeline.study import budget, pruning, store
from pipeline.study.results import importances, minimized_value
from pipeline.study.sampler import default_params, nearest
from variants import Config
from variants.base.contract import DENSITIES

if TYPE_CHECKING:
    import pandas as pd

os.environ.setdefault("MPLBACKEND", "Agg")

PART = "valid/reconstruction_"  # the prefix of the parts of a reconstruction by kind of value
COLUMNS = {  # metric -> heading and format, in the order in which they are shown
    "valid/elbo": ("ELBO", ".2f"),
    "valid/reconstruction": ("reconstruction", ".2f"),
    "valid/kl": ("KL", ".2f"),
    "valid/bits_per_dimension": ("bits", ".3f"),
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
    return "  ".join([f"trial {trial.number:>3} {_state(trial):<8} {scores}", params_text(trial.params), *notes])


def best_text(best: Mapping[str, tuple[float, int]]) -> str:
    """Return the best value of each objective with the number of its trial, as `store.best_values` gives them."""
    values = "  ".join(f"{COLUMNS[k][0]} {value:{COLUMNS[k][1]}} (#{number})" for k, (value, number) in best.items())
    return f"best {values}" if best else ""


def best_table(study: optuna.Study, objectives: tuple[str, ...], rows: int = 8) -> Table:
    """Return a table of the complete trials by their rank in the first objective.

    It has the best `rows` trials, and below them, also by rank, those of the others that have the default settings or,
    with several objectives, are on the Pareto front. Trials on the front have a star.
    """
    sign = 1 if OBJECTIVES[objectives[0]].better == "minimize" else -1
    ranked = sorted(store.complete_trials(study), key=lambda t: sign * t.values[0])
    front = {t.number for t in study.best_trials} if len(objectives) > 1 else set()
    default = _default_trial(study)
    defaults = {default.number} if default else set()
    shown = {rank: t for rank, t in enumerate(ranked, 1) if rank <= rows or t.number in front | defaults}
    # a variant whose q has no density has no ELBO and no KL; their columns then show a dash
    measured = {"valid/elbo", "valid/kl"}.union(*(t.user_attrs["metrics"] for t in shown.values()))
    columns = [k for k in _columns(objectives) if k in measured]
    notes = [
        f"rank: among {len(ranked)} complete trials, by {objectives[0]}",
        *_default_notes(default, ranked, objectives[0]),
        f"pruning: {pruning_text(study, objectives)}",
        *([f"* Pareto front of {' and '.join(objectives)}"] if front else []),
        *_column_notes(ranked, columns),
        *_likelihood_notes(study, measured),
    ]
    table = Table(
        title=f"{study.study_name}: best trials", caption="\n".join(notes), caption_justify="left",
        box=box.HORIZONTALS, collapse_padding=True,
    )  # fmt: skip
    for heading in ("rank", "trial", *(COLUMNS[k][0] for k in columns), "epochs"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("hyperparameters", overflow="fold")
    for rank, t in shown.items():
        metrics = t.user_attrs["metrics"]
        scores = [f"{metrics[k]:{COLUMNS[k][1]}}" if k in metrics else "—" for k in columns]
        # the baseline in parentheses is left out here, because the caption shows all baselines
        remark = re.sub(r" \(.*\)", "", t.user_attrs.get(store.REMARK, ""))
        about = [params_text(t.params), "defaults" * (t.number in defaults), remark]
        table.add_row(
            str(rank), f"{t.number}{'*' * (t.number in front)}", *scores, str(t.user_attrs.get(store.EPOCHS, "—")),
            "\n".join(filter(None, about)), end_section=rank == rows,
        )  # fmt: skip
    return table


def pruning_text(study: optuna.Study, objectives: tuple[str, ...]) -> str:
    """Return how many trials were ended early and what that saved, or why none was, and what scores at rungs tell."""
    finished, complete = store.finished_trials(study), store.complete_trials(study)
    ended = [t for t in finished if _is_ended_early(t)]
    epoch, correlations = _last_correlations(study)
    if ended:
        text = f"ended {len(ended)} of {budget.count(len(finished))} early"
        if complete:
            lengths = {t.number: budget.trained_epochs(t, study.user_attrs["search"]["epochs"]) for t in finished}
            mean = sum(lengths[t.number] for t in complete) / len(complete)
            saved = sum(max(0.0, mean - lengths[t.number]) for t in ended)
            text += f", which saved about {saved / (saved + sum(lengths.values())):.0%} of the epochs"
    elif not correlations:
        text = f"ended no trial early, because fewer than {pruning.LEAST_TRIALS} complete trials were at the same rung"
    elif all(c.low <= 0 for c in correlations):
        text = "ended no trial early, because it is not certain that scores at a rung rank trials as the final ones do"
    else:
        text = "ended no trial early, because each had a chance to become the best"
    if correlations:
        values = ", ".join(f"{c.value:.2f} for {name}" for c, name in zip(correlations, objectives, strict=True))
        count = budget.count(correlations[0].trials)
        text += f"; rank correlation of scores at epoch {epoch} with final ones: {values} ({count})"
    return text


def _last_correlations(study: optuna.Study) -> tuple[int, list[pruning.Correlation]]:
    """Return a rung, and for each objective the correlation of the scores there with final ones.

    It is the rung at which most trials were ended; if none was, it is the last one. The list is empty if too few
    complete trials were at any rung.
    """
    ended = [max(map(int, t.user_attrs[pruning.RUNGS])) for t in store.finished_trials(study) if _is_ended_early(t)]
    rungs = sorted({int(e) for t in store.complete_trials(study) for e in t.user_attrs.get(pruning.RUNGS, {})})
    for epoch in sorted(rungs, key=lambda rung: (ended.count(rung), rung), reverse=True):
        early, final = pruning.evidence(study, epoch)
        if len(early) >= pruning.LEAST_TRIALS:
            return epoch, [pruning.correlation(*columns) for columns in zip(early.T, final.T, strict=True)]
    return 0, []


def _is_ended_early(trial: FrozenTrial) -> bool:
    """Return whether a trial was pruned by its scores, and not because the budget was spent."""
    is_pruned = trial.state == TrialState.PRUNED and not budget.is_cut_off(trial)
    return is_pruned and pruning.RUNGS in trial.user_attrs


def trials_table(study: optuna.Study, objectives: tuple[str, ...]) -> "pd.DataFrame":
    """Return a row for each trial: number, state, epochs, seconds, validation scores, parameters, remark and reason."""
    import pandas as pd

    trials = study.get_trials(deepcopy=False)
    ends = [{"number": t.number, "state": store.STATES.get(t.state, "running")} for t in trials]
    costs, notes = (
        [{name: t.user_attrs.get(name) for name in names} for t in trials]
        for names in ((store.EPOCHS, store.SECONDS), (store.REMARK, "reason"))
    )
    scores = [dict.fromkeys(objectives) | t.user_attrs.get("metrics", {}) for t in trials]
    parts = (ends, costs, scores, [t.params for t in trials], notes)
    table = pd.concat([pd.DataFrame(part) for part in parts], axis="columns")
    return table.convert_dtypes()  # whole numbers stay whole beside missing ones


def _default_trial(study: optuna.Study) -> FrozenTrial | None:
    """Return the trial that has the default settings, a complete one if there are several; None if there is none."""
    config_type = variants.get(study.user_attrs["search"]["variant"]).config_type
    trials = [t for t in study.get_trials(deepcopy=False) if t.params and _has_defaults(t, config_type)]
    return min(trials, key=lambda t: t.state != TrialState.COMPLETE, default=None)


def _has_defaults(trial: FrozenTrial, config_type: type[Config]) -> bool:
    """Return whether each parameter that has a default has it, or the searched value that is nearest to it."""
    defaults = default_params(config_type)
    shared = [name for name in trial.params if name in defaults]
    return bool(shared) and all(trial.params[n] == nearest(defaults[n], trial.distributions[n]) for n in shared)


def _default_notes(default: FrozenTrial | None, ranked: Sequence[FrozenTrial], objective: str) -> Iterator[str]:
    """Yield how the default settings compare with the best ones; nothing if no parameter was searched."""
    if default is None:
        if any(t.params for t in ranked):
            yield "defaults: no trial had the default settings"
    elif default.state != TrialState.COMPLETE:
        end = ": ".join([_state(default), *filter(None, [default.user_attrs.get("reason")])])
        yield f"defaults: no rank, because trial {default.number} is not complete ({end})"
    else:
        rank = [t.number for t in ranked].index(default.number) + 1
        text = f"defaults: rank {rank} of {len(ranked)} (trial {default.number})"
        if rank > 1:
            ahead = abs(ranked[0].values[0] - default.values[0])
            text += f"; the best trial is ahead by {ahead:{COLUMNS[objective][1]}} in {objective}"
            text += f" ({OBJECTIVES[objective].unit}, one training each)"
        yield text


def _column_notes(trials: Sequence[FrozenTrial], columns: Sequence[str]) -> Iterator[str]:
    """Yield what the columns of scores show."""
    yield "ELBO, reconstruction and KL in nats per example"
    if "probe/accuracy" in columns:
        shares = {t.user_attrs["metrics"].get("probe/majority") for t in trials} - {None}  # the same for all trials
        majority = "".join(f"; share of the most frequent class: {share:.3f}" for share in shares)
        balanced = "; balanced: mean of its accuracy on each class" * ("probe/balanced_accuracy" in columns)
        yield f"probe: accuracy of a linear classifier on the codes{balanced}{majority}"


def _likelihood_notes(study: optuna.Study, measured: set[str]) -> Iterator[str]:
    """Yield notes that explain the ELBO: the baselines, and whether it adds densities and probabilities."""
    if baselines := study.user_attrs.get(store.BASELINES, {}):
        values = ", ".join(f"{title} {value:.2f}" for title, value in baselines.items())
        yield f"baselines, log p(x) in nats per example: {values}"
    if anchors := study.user_attrs.get(store.BITS, {}):
        values = ", ".join(f"{title} {value:.3f}" for title, value in anchors.items())
        yield f"bits: bits per dimension, by the ELBO; without a model: {values} (files hold all images at once)"
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


def _state(trial: FrozenTrial) -> str:
    """Return the state of a trial, such as `complete` or `pruned at epoch 33`."""
    state = store.STATES.get(trial.state, "running")
    is_dated = trial.state == TrialState.PRUNED and store.EPOCHS in trial.user_attrs  # older versions did not store it
    return f"{state} at epoch {trial.user_attrs[store.EPOCHS]}" if is_dated else state


def params_text(params: Mapping[str, Any]) -> str:
    """Return parameters as text, such as `latent=16 lr=0.001`."""
    return " ".join(f"{k}={v:.3g}" if isinstance(v, float) else f"{k}={v}" for k, v in params.items())


def figures(study: optuna.Study, objectives: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    """Yield the path and the matplotlib figure of each of Optuna's plots, which become files of the study's run.

    For each objective there are the history, the importances of parameters and parallel coordinates; for several there
    is the Pareto front.
    """
    import matplotlib.pyplot as plt
    import numpy as np

    better = {name.split("/")[1]: OBJECTIVES[name].better for name in objectives}
    complete = len(store.complete_trials(study))
    for name, plot in _plots(study, objectives):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Optuna calls its plots experimental
            figure = np.ravel(plot())[0].figure
        if name.startswith("parallel_"):  # darker is better; with a target, Optuna assumes that lower is better
            for lines in figure.axes[0].collections:
                lines.set_cmap("Blues" if better[name.removeprefix("parallel_")] == "maximize" else "Blues_r")
        if name.startswith("importances_"):
            figure.axes[0].set_title(f"Importance of each hyperparameter, from {complete} complete trials", loc="left")
        figure.set_size_inches(9, 5)
        figure.tight_layout()
        yield f"study/{name}.png", figure
        plt.close(figure)


def _plots(study: optuna.Study, objectives: tuple[str, ...]) -> Iterator[tuple[str, Callable[[], Any]]]:
    import optuna.visualization.matplotlib as plots

    complete = store.complete_trials(study)
    comparable = len(complete) > 3 and len({tuple(t.params.values()) for t in complete}) > 1
    shares = importances(study, objectives)
    for i, name in enumerate(objectives):
        short = name.split("/")[1]
        target: dict[str, Any] = {"target_name": name}
        if len(objectives) > 1:
            target["target"] = partial(_value, i)
        yield f"history_{short}", partial(plots.plot_optimization_history, study, **target)
        if not isinstance(shares[name], Undefined):
            low = {**target, "target": partial(minimized_value, i, OBJECTIVES[name].better)}
            yield f"importances_{short}", partial(plots.plot_param_importances, study, **low)
        if comparable:
            yield f"parallel_{short}", partial(plots.plot_parallel_coordinate, study, **target)
    if len(objectives) in (2, 3):
        yield "pareto_front", partial(plots.plot_pareto_front, study, target_names=list(objectives))


def _value(index: int, trial: FrozenTrial) -> float:
    return float(trial.values[index])
