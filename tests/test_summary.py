"""What a study shows of its trials: the line of each, the table, the plots, the importances and the file of trials."""

import io
from types import SimpleNamespace
from typing import Any, cast

import optuna
import pandas as pd
import pytest
from matplotlib.figure import Figure
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial
from rich.console import Console
from rich.table import Table

from pipeline.compare import tables
from pipeline.metrics import OBJECTIVES, Undefined
from pipeline.study import store, summary
from pipeline.study.results import MIN_IMPORTANCE_TRIALS, importances
from variants import Config

ELBO, PROBE = ("valid/elbo",), ("valid/elbo", "probe/accuracy")
RANGES: dict[str, BaseDistribution] = {
    "latent": IntDistribution(2, 64, log=True), "lr": FloatDistribution(3e-4, 1e-2, log=True),
}  # fmt: skip
DEFAULTS = {"latent": Config.latent, "lr": Config.lr}


def trial(
    *values: float, objectives: tuple[str, ...] = ELBO, params: dict[str, Any] | None = None,
    state: TrialState = TrialState.COMPLETE, ranges: dict[str, BaseDistribution] = RANGES, **attributes: Any,
) -> FrozenTrial:  # fmt: skip
    """A finished trial with these values, whose parameters are not the defaults unless `params` says so."""
    params = {"latent": 3, "lr": 5e-3} if params is None else params
    metrics = dict(zip(objectives, values, strict=False))
    return create_trial(
        state=state, values=values if state == TrialState.COMPLETE else None, params=params,
        distributions={name: ranges[name] for name in params}, user_attrs={"metrics": metrics, **attributes},
    )  # fmt: skip


def study_of(*trials: FrozenTrial, objectives: tuple[str, ...] = ELBO) -> optuna.Study:
    """A study of the VAE in memory."""
    study = optuna.create_study(study_name="vae-digits", directions=[OBJECTIVES[o].better for o in objectives])
    study.set_user_attr("search", {"variant": "vae", "epochs": 100})
    study.add_trials(trials)
    return study


def cells(table: Table) -> dict[str, list[str]]:
    """The cells of each column, from the first row to the last."""
    return {str(column.header): [str(cell) for cell in column.cells] for column in table.columns}


def text(table: Table) -> str:
    """A table as it is printed, with single spaces in place of line breaks."""
    console = Console(file=io.StringIO(), width=300)
    console.print(table)
    return " ".join(cast(io.StringIO, console.file).getvalue().split())


def test_the_table_stands_by_rank_of_the_first_objective() -> None:
    study = study_of(trial(-3.0), trial(-1.0), trial(state=TrialState.PRUNED), trial(-2.0))
    shown = cells(summary.best_table(study, ELBO))
    assert (shown["rank"], shown["trial"]) == (["1", "2", "3"], ["1", "3", "0"])
    assert shown["ELBO"] == ["-1.00", "-2.00", "-3.00"]


def test_a_first_objective_that_is_minimised_has_its_lowest_value_first() -> None:
    objectives = ("valid/reconstruction", "latent/mmd")
    study = study_of(*(trial(v, v, objectives=objectives) for v in (3.0, 1.0, 2.0)), objectives=objectives)
    assert cells(summary.best_table(study, objectives))["trial"] == ["1*", "2", "0"]


def test_trials_of_the_pareto_front_are_shown_below_the_best_with_their_rank() -> None:
    probes = (0.5, 0.2, 0.1, 0.7, 0.3, 0.9)  # the ELBO falls from trial to trial
    trials = [trial(-float(n), probe, objectives=PROBE) for n, probe in enumerate(probes)]
    table = summary.best_table(study_of(*trials, objectives=PROBE), PROBE, rows=2)
    shown = cells(table)
    assert shown["trial"] == ["0*", "1", "3*", "5*"]
    assert shown["rank"] == ["1", "2", "4", "6"]
    assert [row.end_section for row in table.rows] == [False, True, False, False]
    assert "* Pareto front of valid/elbo and probe/accuracy" in text(table)


def test_the_default_settings_are_shown_however_low_their_rank_is() -> None:
    study = study_of(trial(-9.5, params=DEFAULTS), *(trial(-float(n)) for n in range(1, 9)))
    table = summary.best_table(study, ELBO, rows=3)
    shown = cells(table)
    assert (shown["rank"], shown["trial"]) == (["1", "2", "3", "9"], ["1", "2", "3", "0"])
    assert shown["hyperparameters"] == ["latent=3 lr=0.005"] * 3 + ["latent=16 lr=0.001\ndefaults"]
    words = "defaults: rank 9 of 9 (trial 0); the best trial is ahead by 8.50 in valid/elbo (nats per example, "
    assert words in text(table)


ENDED_EARLY = {
    "pruned": (TrialState.PRUNED, {store.EPOCHS: 33}, "pruned at epoch 33"),
    "failed": (TrialState.FAIL, {"reason": "no memory"}, "failed: no memory"),
    "running": (TrialState.RUNNING, {}, "running"),
}


@pytest.mark.parametrize(("state", "attributes", "words"), ENDED_EARLY.values(), ids=ENDED_EARLY)
def test_default_settings_without_a_rank_are_explained(
    state: TrialState, attributes: dict[str, Any], words: str
) -> None:
    study = study_of(trial(-1.0), trial(state=state, params=DEFAULTS, **attributes))
    table = summary.best_table(study, ELBO)
    assert cells(table)["trial"] == ["0"]
    assert f"defaults: no rank, because trial 1 is not complete ({words})" in text(table)


def test_default_settings_that_were_never_tried_or_are_the_best_are_called_so() -> None:
    never_tried = study_of(trial(-1.0), trial(-2.0))
    assert "defaults: no trial had the default settings" in text(summary.best_table(never_tried, ELBO))
    best = text(summary.best_table(study_of(trial(-1.0, params=DEFAULTS), trial(-2.0)), ELBO))
    assert "defaults: rank 1 of 2 (trial 0)" in best
    assert "ahead" not in best
    nothing_searched = study_of(trial(-1.0, params={}))
    assert "defaults" not in text(summary.best_table(nothing_searched, ELBO))


def test_of_several_trials_with_the_default_settings_a_complete_one_is_shown() -> None:
    study = study_of(trial(state=TrialState.PRUNED, params=DEFAULTS), trial(-1.0), trial(-2.0, params=DEFAULTS))
    assert "defaults: rank 2 of 2 (trial 2)" in text(summary.best_table(study, ELBO))


def test_a_default_outside_of_the_searched_range_counts_at_the_end_of_the_range() -> None:
    ranges: dict[str, BaseDistribution] = {"latent": IntDistribution(2, 8), "lr": FloatDistribution(3e-4, 1e-2)}
    study = study_of(
        trial(-1.0, params={"latent": 5, "lr": Config.lr}, ranges=ranges),
        trial(-2.0, params={"latent": 8, "lr": Config.lr}, ranges=ranges),
    )
    assert "defaults: rank 2 of 2 (trial 1)" in text(summary.best_table(study, ELBO))


def test_the_table_has_the_epochs_of_each_trial_where_they_are_known() -> None:
    study = study_of(trial(-1.0), trial(-2.0, **{store.EPOCHS: 57}))
    assert cells(summary.best_table(study, ELBO))["epochs"] == ["—", "57"]


def test_remarks_and_baselines_are_in_the_table() -> None:
    remark = "collapsed; no better than trivial (independent columns: -0.50 nats)"
    weak = trial(-1.0, **{store.REMARK: remark})
    weak.user_attrs["metrics"]["baseline/valid_ppca"] = -0.25
    study = study_of(trial(-0.1, **{store.REMARK: ""}), weak)
    study.set_user_attr(store.BASELINES, {"independent columns": -0.5})
    shown = cells(summary.best_table(study, ELBO))
    assert shown["hyperparameters"] == ["latent=3 lr=0.005", "latent=3 lr=0.005\ncollapsed; no better than trivial"]
    assert shown["PPCA"] == ["—", "-0.25"]
    assert "independent columns -0.50" in text(summary.best_table(study, ELBO))


def test_the_line_of_a_pruned_trial_says_when_it_was_pruned() -> None:
    complete, pruned = study_of(
        trial(-1.0, **{store.EPOCHS: 50}), trial(-2.0, state=TrialState.PRUNED, **{store.EPOCHS: 33})
    ).trials
    assert summary.trial_line(complete, ELBO).startswith("trial   0 complete ELBO -1.00")
    assert summary.trial_line(pruned, ELBO).startswith("trial   1 pruned at epoch 33 ELBO -2.00")


def many(number: int, **changes: Any) -> list[FrozenTrial]:
    """Trials with different settings, of which the learning rate alone decides the ELBO."""
    return [
        trial(-abs(n - 3.0), params={"latent": 2 + 7 * n % number, "lr": 1e-3 * (1 + n % 9)}, **changes)
        for n in range(number)
    ]


def test_importances_need_ten_complete_trials() -> None:
    pruned = trial(-1.0, state=TrialState.PRUNED)
    too_few = importances(study_of(*many(MIN_IMPORTANCE_TRIALS - 1), pruned), ELBO)
    assert too_few == {"valid/elbo": Undefined("9 complete trials, at least 10 are needed")}
    assert importances(study_of(trial(-1.0)), ELBO)["valid/elbo"] == Undefined(
        "1 complete trial, at least 10 are needed"
    )
    shares = importances(study_of(*many(MIN_IMPORTANCE_TRIALS)), ELBO)["valid/elbo"]
    assert isinstance(shares, dict)
    assert shares.keys() == {"latent", "lr"}
    assert sum(shares.values()) == pytest.approx(1)


@pytest.mark.parametrize(("objective", "sign"), [("valid/elbo", 1), ("valid/reconstruction", -1)])
def test_importances_explain_the_best_trials(objective: str, sign: int) -> None:
    """The two best of 20 trials have other latents than the rest; the two worst have other learning rates."""
    trials = [
        trial(
            -sign * float(n), objectives=(objective,),
            params={"latent": 60 if n < 2 else 2 + n % 3, "lr": 9e-3 if n >= 18 else 4e-4 + 1e-4 * (n % 2)},
        )
        for n in range(20)
    ]  # fmt: skip
    shares = importances(study_of(*trials, objectives=(objective,)), (objective,))[objective]
    assert isinstance(shares, dict)
    assert shares["latent"] > 0.6


def test_trials_that_do_not_differ_have_no_importances() -> None:
    alike = [trial(-float(n)) for n in range(12)]
    assert importances(study_of(*alike), ELBO)["valid/elbo"] == Undefined(
        "all complete trials have the same parameters"
    )
    equal = [trial(-1.0, params={"latent": n, "lr": 1e-3}) for n in range(2, 14)]
    assert importances(study_of(*equal), ELBO)["valid/elbo"] == Undefined(
        "all complete trials have the same valid/elbo"
    )


def plots(study: optuna.Study) -> dict[str, str]:
    """The title of each plot of a study by the name of its file."""
    drawn: dict[str, str] = {}
    for path, figure in summary.figures(study, ELBO):
        assert isinstance(figure, Figure)
        axes = figure.axes[0]
        drawn[path.removeprefix("study/")] = axes.get_title() or axes.get_title(loc="left")
    return drawn


def test_the_plot_of_importances_says_from_how_many_trials_they_come() -> None:
    titles = plots(study_of(*many(12), trial(-1.0, state=TrialState.PRUNED)))
    assert titles["importances_elbo.png"] == "Importance of each hyperparameter, from 12 complete trials"
    assert "importances_elbo.png" not in plots(study_of(*many(9)))


def test_a_comparison_says_from_how_many_trials_importances_come_or_why_there_are_none() -> None:
    too_few = Undefined("7 complete trials, at least 10 are needed")
    studies = {
        "beta": SimpleNamespace(complete=7, importances={"valid/elbo": too_few}),
        "vae": SimpleNamespace(complete=17, importances={"valid/elbo": {"lr": 0.75, "latent": 0.25}}),
    }
    candidates = {name: SimpleNamespace(study=study) for name, study in studies.items()}
    table = tables.importances_table(cast(Any, SimpleNamespace(candidates=candidates)))
    assert table.to_dict("records") == [
        {
            "variant": "beta", "objective": "valid/elbo", "lr": "—", "latent": "—",
            "from": "no importances: 7 complete trials, at least 10 are needed",
        },
        {"variant": "vae", "objective": "valid/elbo", "from": "17 complete trials", "lr": "0.75", "latent": "0.25"},
    ]  # fmt: skip


def test_the_file_of_trials_has_plain_columns() -> None:
    """A trial that failed at once has neither scores nor epochs, and whole numbers stay whole all the same."""
    failed = create_trial(
        state=TrialState.FAIL, params=DEFAULTS, distributions=RANGES, user_attrs={"reason": "no memory"}
    )
    complete = trial(
        -1.0,
        0.5,
        objectives=PROBE,
        **{store.EPOCHS: 57, store.SECONDS: 2.5, store.REMARK: "collapsed", store.CONFIG: {"a": 1}},
    )
    complete.user_attrs["metrics"]["valid/kl"] = 3.0
    pruned = trial(-2.0, objectives=PROBE, state=TrialState.PRUNED, rungs={"9": [-2.0]}, **{store.EPOCHS: 33})
    table = summary.trials_table(study_of(failed, complete, pruned, objectives=PROBE), PROBE)
    stored = pd.read_csv(io.StringIO(table.to_csv(index=False)), dtype=str, keep_default_na=False)
    assert list(stored) == [
        "number", "state", "epochs", "seconds", "valid/elbo", "probe/accuracy", "valid/kl", "latent", "lr", "remark",
        "reason",
    ]  # fmt: skip
    assert stored.to_numpy().tolist() == [
        ["0", "failed", "", "", "", "", "", "16", "0.001", "", "no memory"],
        ["1", "complete", "57", "2.5", "-1", "0.5", "3", "3", "0.005", "collapsed", ""],
        ["2", "pruned", "33", "", "-2", "", "", "3", "0.005", "", ""],
    ]
