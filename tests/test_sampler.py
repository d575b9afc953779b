"""Which configurations a study tries: the defaults, those of other studies, and then what the trials so far suggest."""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

import variants
from pipeline.study import prior, pruning, store
from pipeline.study.sampler import PRIOR_TRIALS, Sampler, default_params, nearest
from tests import search_bench
from variants import Config, InputError

RANGES: dict[str, BaseDistribution] = {
    "latent": IntDistribution(2, 64, log=True), "lr": FloatDistribution(3e-4, 1e-2, log=True),
    "network": CategoricalDistribution(("mlp", "conv")),
}  # fmt: skip
DEFAULTS = {"latent": 16, "lr": 1e-3, "network": "mlp", "width": 256}
PRIOR = ({"latent": 5}, {"latent": 6, "lr": 2e-3}, {"latent": 7})
Score = Callable[[Mapping[str, Any]], tuple[float, ...]]


def elbo(params: Mapping[str, Any]) -> tuple[float, ...]:
    """A score of which higher is better: the best latent is 8."""
    return (-abs(params["latent"] - 8) - params["lr"],)


def open_study(sampler: Sampler, directions: Sequence[str] = ("maximize",), storage: str | None = None) -> optuna.Study:
    return optuna.create_study(
        directions=directions, sampler=sampler, storage=storage, study_name="study", load_if_exists=True
    )


def run(study: optuna.Study, trials: int, score: Score = elbo, ranges: Any = RANGES) -> list[dict[str, Any]]:
    """Run trials to the end, one after another. Return the parameters of all trials of the study."""
    for _ in range(trials):
        trial = study.ask(ranges)
        study.tell(trial, score(trial.params))
    return [trial.params for trial in study.trials]


def latents(params: Sequence[Mapping[str, Any]]) -> list[int]:
    return [p["latent"] for p in params]


def test_the_first_trial_has_the_defaults() -> None:
    (first,) = run(open_study(Sampler(0, DEFAULTS)), 1)
    assert first == {"latent": 16, "lr": 1e-3, "network": "mlp"}


@pytest.mark.parametrize(
    ("default", "distribution", "tried"),
    [
        (256, IntDistribution(2, 64, log=True), 64),
        (1, IntDistribution(2, 64), 2),
        (0.0, FloatDistribution(1e-4, 1.0, log=True), 1e-4),
        (5.0, FloatDistribution(0.0, 1.0), 1.0),
        (2.6, IntDistribution(1, 8), 3),
        ("large", IntDistribution(1, 8), 1),
        ("conv", CategoricalDistribution(("mlp", "conv")), "conv"),
        ("mlp", CategoricalDistribution(("conv", "recurrent")), "conv"),
    ],
)
def test_a_default_outside_of_what_is_searched_becomes_the_nearest_value(
    default: Any, distribution: BaseDistribution, tried: Any
) -> None:
    study = open_study(Sampler(0, {"x": default}))
    assert run(study, 1, lambda _: (0.0,), {"x": distribution}) == [{"x": tried}]
    assert nearest(default, distribution) == tried


def test_a_parameter_without_a_default_is_drawn() -> None:
    drawn = {run(open_study(Sampler(seed, {})), 1)[0]["lr"] for seed in range(5)}
    assert len(drawn) == 5


def test_defaults_are_those_of_the_configuration() -> None:
    assert default_params(Config) == dataclasses.asdict(Config())
    assert default_params(variants.get("beta").config_type)["beta"] == variants.get("beta").config_type().beta


def test_trials_differ_and_depend_on_the_seed() -> None:
    first, second = (run(open_study(Sampler(seed, DEFAULTS)), 12) for seed in (0, 1))
    assert len({json.dumps(p) for p in first}) == 12
    assert first[0] == second[0]
    assert all(a != b for a, b in zip(first[1:], second[1:], strict=True))


def test_the_prior_follows_the_defaults_while_it_is_better() -> None:
    """Parameters that the prior lacks are drawn."""
    params = run(open_study(Sampler(0, DEFAULTS, PRIOR)), 4)
    assert latents(params) == [16, 5, 6, 7]
    assert [p["lr"] for p in params[::2]] == [1e-3, 2e-3]
    assert len({p["lr"] for p in params}) == 4


def test_settings_that_equal_the_defaults_are_not_tried_again(folder: Path) -> None:
    finished_study("one", complete(16, -1.0), complete(4, -2.0))
    assert take_over("new", "one", searched=["latent"]) == [{"latent": 4}]


@pytest.mark.parametrize(
    ("directions", "score"),
    [
        (("maximize",), lambda p: (float(p["latent"]),)),
        (("minimize",), lambda p: (-float(p["latent"]),)),
        (("maximize", "minimize"), lambda p: (float(p["latent"]), float(p["latent"]))),
        (("maximize",), lambda p: (0.0,)),
    ],
    ids=["worse", "worse by a loss", "worse by the first objective", "equal"],
)
def test_the_prior_is_dropped_once_it_is_no_better_than_the_defaults(directions: Sequence[str], score: Score) -> None:
    params = run(open_study(Sampler(0, DEFAULTS, PRIOR), directions), 3, score)
    assert latents(params)[:2] == [16, 5]
    assert (params[2]["latent"], params[2]["lr"]) != (6, 2e-3)


@pytest.mark.parametrize("state", [TrialState.PRUNED, TrialState.FAIL])
def test_the_prior_is_dropped_if_one_of_it_was_ended_early_or_failed(state: TrialState) -> None:
    study = open_study(Sampler(0, DEFAULTS, PRIOR))
    run(study, 1)
    study.tell(study.ask(RANGES), state=state)
    assert latents(run(study, 1))[2] != 6 or study.trials[2].params["lr"] != 2e-3


def test_the_prior_is_kept_by_workers_that_start_at_once() -> None:
    study = open_study(Sampler(0, DEFAULTS, PRIOR))
    assert [study.ask(RANGES).params["latent"] for _ in range(4)] == [16, 5, 6, 7]


@pytest.mark.one_in(3)
@pytest.mark.parametrize("directions", [("maximize",), ("minimize",), ("maximize", "minimize")])
def test_a_study_that_was_interrupted_continues_with_the_same_parameters(
    directions: Sequence[str], tmp_path: Path
) -> None:
    """A new process has a new sampler. It is interrupted between trials, and between two parameters."""

    def score(params: Mapping[str, Any]) -> tuple[float, ...]:
        return (elbo(params)[0], params["lr"])[: len(directions)]

    whole = run(open_study(Sampler(3, DEFAULTS, PRIOR), directions), 10, score)
    url = f"sqlite:///{tmp_path}/optuna.db"
    for number in range(10):
        study = open_study(Sampler(3, DEFAULTS, PRIOR), directions, url)
        trial = study.ask()
        first = trial.suggest_int("latent", 2, 64, log=True)
        (interrupted,) = store.interrupted_trials(open_study(Sampler(3, DEFAULTS, PRIOR), directions, url))
        for name, distribution in RANGES.items():
            interrupted._suggest(name, distribution)
        assert interrupted.params["latent"] == first
        study.tell(trial.number, score(interrupted.params))
        assert study.trials[number].params == whole[number]


def trial_of(latent: int, lr: float, state: TrialState, *values: float, **attributes: Any) -> FrozenTrial:
    params = {"latent": latent, "lr": lr, "network": "mlp"}
    return create_trial(
        state=state, params=params, distributions=RANGES, user_attrs=attributes,
        values=values if state == TrialState.COMPLETE else None,
    )  # fmt: skip


@pytest.mark.parametrize("state", [TrialState.PRUNED, TrialState.RUNNING])
def test_trials_that_were_ended_early_and_those_of_other_workers_count(state: TrialState) -> None:
    """What is tried next differs from what it would be without them; a failed trial makes no difference."""

    def next_params(others: TrialState) -> dict[str, Any]:
        study = open_study(Sampler(0, DEFAULTS))
        study.add_trials([
            trial_of(2 + 3 * i, 1e-3 + 5e-4 * i, TrialState.COMPLETE, -abs(3.0 - i)) for i in range(8)
        ])  # fmt: skip
        for i in range(6):
            study.add_trial(trial_of(10 + i, 2e-3, others, **{pruning.RUNGS: {"6": [-30.0 - i]}}))
        return study.ask(RANGES).params

    assert next_params(state) != next_params(TrialState.FAIL)


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
def test_the_search_finds_good_values(direction: str) -> None:
    sign = 1 if direction == "maximize" else -1
    closest = []
    for seed in range(3):
        study = open_study(Sampler(seed, DEFAULTS), (direction,))
        run(study, 25, lambda p: (sign * elbo(p)[0],))
        closest.append(abs(study.best_params["latent"] - 8))
    assert sorted(closest)[1] <= 2


STORE = "sqlite:///optuna.db"


def finished_study(name: str, *trials: FrozenTrial, objective: str = "valid/elbo") -> None:
    """Store a study of the VAE that has these trials."""
    search = {
        "variant": "vae", "dataset": "digits", "digest": "d", "objectives": [objective], "epochs": 9, "patience": 5,
        "seed": 0, "fix": {}, "space": {"latent": "2 to 64", "lr": "3e-4 to 1e-2", "network": "mlp or conv"},
    }  # fmt: skip
    with store.open_study(STORE, name, (objective,), search) as study:
        study.add_trials(trials)


def complete(latent: int, score: float, objective: str = "valid/elbo") -> FrozenTrial:
    attributes = {"metrics": {objective: score}, store.CONFIG: dataclasses.asdict(Config(latent=latent, lr=1e-3))}
    return trial_of(latent, 1e-3, TrialState.COMPLETE, score, **attributes)


def take_over(name: str, *names: str, searched: Sequence[str] = ("latent", "beta")) -> list[Mapping[str, Any]]:
    with store.open_study(STORE, name, ("valid/elbo",), {"objectives": ["valid/elbo"]}) as study:
        return list(prior.take_over(study, STORE, names, "valid/elbo", searched, {"latent": 16, "beta": 4.0}))


def test_the_best_settings_of_other_studies_are_taken_over_in_turn(folder: Path) -> None:
    """Only those that are searched, each once, and they are kept when the study continues."""
    finished_study("one", complete(4, -30.0), complete(5, -10.0), complete(6, -20.0))
    finished_study("two", complete(5, -1.0), complete(9, -2.0))
    taken = take_over("new", "one", "two")
    assert taken == [{"latent": 5}, {"latent": 6}, {"latent": 9}]
    assert len(taken) == PRIOR_TRIALS
    finished_study("three", complete(40, -0.1))
    assert take_over("new") == take_over("new", "one", "two") == taken


def test_a_loss_is_taken_over_from_its_lowest_value(folder: Path) -> None:
    loss = "valid/reconstruction"
    finished_study("one", complete(4, 30.0, loss), complete(5, 10.0, loss), objective=loss)
    with store.open_study(STORE, "new", (loss,), {"objectives": [loss]}) as study:
        assert prior.take_over(study, STORE, ["one"], loss, ["latent"], {"latent": 16}) == [
            {"latent": 5},
            {"latent": 4},
        ]


def test_a_study_without_a_prior_takes_nothing_over(folder: Path) -> None:
    assert take_over("new") == []


def test_what_cannot_be_taken_over_is_refused_with_the_reason(folder: Path) -> None:
    finished_study("one", complete(4, -30.0))
    finished_study("empty")
    finished_study("loss", complete(4, 30.0, "valid/reconstruction"), objective="valid/reconstruction")
    refused = {
        ("new", "gone"): "--start-from gone: there is no such finished study; expected one of empty, loss, one",
        ("new", "new"): "--start-from new: there is no such finished study",
        ("new", "empty"): "--start-from empty: none of its trials is complete and has valid/elbo",
        ("new", "loss"): "--start-from loss: none of its trials is complete and has valid/elbo",
    }
    for (name, other), message in refused.items():
        with pytest.raises(InputError, match=message):
            take_over(name, other)
    with pytest.raises(InputError, match="--start-from one: it searched latent, lr, network, and this study searches"):
        take_over("new", "one", searched=["beta"])
    assert take_over("new", "one") == [{"latent": 4}]  # once it is repaired, the study starts
    finished_study("two", complete(9, -1.0))
    with pytest.raises(InputError, match="--start-from two: study 'new' was started from one; leave the"):
        take_over("new", "two")


def test_a_study_that_has_trials_takes_no_prior_any_more(folder: Path) -> None:
    finished_study("one", complete(4, -30.0))
    finished_study("two", complete(9, -1.0))
    with pytest.raises(InputError, match="study 'two' was started without --start-from"):
        take_over("two", "one")


def test_a_replay_of_the_bench_gives_the_same_trials_and_keeps_the_budget() -> None:
    table = search_bench.load("vae-digits")
    strategy = search_bench.STRATEGIES["default"]
    budget = 8 * table.full
    first, second = (search_bench.replay(table, strategy, 0, budget) for _ in range(2))
    assert first == second
    assert first[0][1] == 0  # the row of the defaults
    assert len({row for _, row, _ in first}) == len(first)
    assert 0 < first[-1][0] <= budget
    assert table.regret([row for _, row, is_complete in first if is_complete]) >= 0
