"""Budgets of searches: what is parsed, what trials spend of them, and what a comparison says about them."""

import argparse
import dataclasses
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from conftest import Command, environment
from optuna.trial import TrialState, create_trial
from stores import runs, started_trials, trials

import studies
from pipeline import cli, executor, training_run
from pipeline.compare import protocol, tables
from pipeline.compare.request import CompareRequest
from pipeline.evaluate import pictures
from pipeline.evaluate.context import Sizes
from pipeline.executor import Compute, Ended, Resources
from pipeline.progress import Display
from pipeline.study import budget, driver, pruning, store, summary
from pipeline.study.driver import StudyRequest, run
from pipeline.study.trial import TrialTask
from pipeline.trainer import Diverged
from studies import SearchBudget

FIXED = {"width": 8, "depth": 1, "latent": 2}


@pytest.fixture
def small(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny data set without labels, in a folder where nothing is drawn and no trial is pruned by its scores."""
    np.savez("bare.npz", x=np.random.default_rng(0).random((120, 6)).astype("float32"))
    monkeypatch.setattr(pictures, "all_of", lambda *_: {})
    monkeypatch.setattr(summary, "figures", lambda *_: [])
    monkeypatch.setattr(pruning, "ends_early", lambda *_: False)
    return folder


def request(**options: Any) -> StudyRequest:
    """A study of a tiny network whose trials have at most 3 epochs, unless `options` say otherwise."""
    defaults = {"variant": "vae", "dataset": "bare.npz", "epochs": 3, "fixed": FIXED, "compute": Compute(threads=1)}
    return StudyRequest(**{**defaults, **options})


def epochs(study: optuna.Study) -> list[int]:
    return [t.user_attrs[store.EPOCHS] for t in study.trials]


@pytest.mark.parametrize(
    ("text", "parsed", "shown"),
    [
        ("2000epochs", SearchBudget(epochs=2000), "2000 epochs"),
        ("1epoch", SearchBudget(epochs=1), "1 epoch"),
        ("90s", SearchBudget(seconds=90), "90 s"),
        ("30m", SearchBudget(seconds=1800), "30 min"),
        ("1.5h", SearchBudget(seconds=5400), "90 min"),
        ("2h", SearchBudget(seconds=7200), "2 h"),
        ("0.5s", SearchBudget(seconds=0.5), "0.5 s"),
    ],
)
def test_a_budget_is_a_number_with_its_unit(text: str, parsed: SearchBudget, shown: str) -> None:
    assert cli.budget(text) == parsed
    assert str(parsed) == shown


@pytest.mark.parametrize(
    "text", ["2000", "2000.", "", "epochs", "0epochs", "-5epochs", "1.5epochs", "0s", "infh", "30x"]
)
def test_other_budgets_are_refused_with_what_is_expected(text: str) -> None:
    with pytest.raises(
        argparse.ArgumentTypeError, match=rf"^{text!r}: expected a number with its unit.* 2000epochs.*30m"
    ):
        cli.budget(text)


@pytest.mark.parametrize("amounts", [{}, {"epochs": 1, "seconds": 1.0}])
def test_a_budget_has_one_unit(amounts: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="either a number of epochs or a number of seconds"):
        SearchBudget(**amounts)


@pytest.mark.parametrize(
    ("command_line", "message"),
    [
        (["study", "--variant", "vae", "--budget", "99epochs"], "--budget 99epochs: a trial takes up to 100 epochs"),
        (
            ["study", "--variant", "vae", "--budget", "5epochs", "--epochs", "6"],
            "5epochs: a trial takes up to 6 epochs",
        ),
        (["compare", "--run", "--budget", "99epochs"], "--budget 99epochs: a trial takes up to 100 epochs"),
        (["compare", "--run", "--epochs", "2000"], "--budget 1000epochs: a trial takes up to 2000 epochs"),
        (["study", "--variant", "vae", "--budget", "2000"], "'2000': expected a number with its unit"),
        (
            ["study", "--variant", "vae", "--budget", "1h", "--seed", "10000"],
            "--seed 10000: expected 0 to 9999 for a trial",
        ),
    ],
)
def test_a_budget_that_is_wrong_is_refused_before_anything_starts(
    command_line: list[str],
    message: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import pipeline.compare.__main__
    import pipeline.study.__main__

    commands = {"study": pipeline.study.__main__.main, "compare": pipeline.compare.__main__.main}
    monkeypatch.setattr(sys, "argv", command_line)
    with pytest.raises(SystemExit) as ended:
        cli.run(commands[command_line[0]])
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
    assert not (folder / "optuna.db").exists()


def test_a_study_spends_its_epochs_and_cuts_the_last_trial(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = run(request(budget=SearchBudget(epochs=8))).study
    assert epochs(study) == [3, 3, 2]
    *complete, cut = study.trials
    assert [t.state for t in complete] == [TrialState.COMPLETE] * 2
    assert (cut.state, cut.user_attrs["reason"]) == (TrialState.PRUNED, "the budget was spent")
    assert cut.user_attrs["metrics"].keys() >= {"valid/elbo", "valid/kl", "time/epochs"}
    assert all(t.user_attrs[store.SECONDS] >= t.user_attrs["metrics"]["time/trial_seconds"] for t in study.trials)
    last = runs("trial", "bare")[-1].data
    assert (last.tags["state"], last.tags["reason"]) == ("pruned", "the budget was spent")
    assert [r.data.metrics["time/epochs"] for r in runs("trial", "bare")] == [3, 3, 2]
    lines = capsys.readouterr().out.splitlines()
    assert "study vae-bare: 0 of 8 epochs, 0 trials finished, at most 3 epochs each" in lines
    assert "the budget was spent" in next(line for line in lines if line.startswith("trial   2"))
    end = next(line for line in lines if line.startswith("spent"))
    assert end.startswith("spent 8 epochs and ")
    assert end.endswith(" s in 3 trials: 2 complete, 1 cut off when the budget was spent")

    assert epochs(run(request(budget=SearchBudget(epochs=8))).study) == [3, 3, 2]  # nothing is left to do
    more = run(request(budget=SearchBudget(epochs=12))).study
    assert epochs(more) == [3, 3, 2, 3, 1]  # a larger budget extends the study


def test_with_a_number_of_trials_whichever_comes_first_ends_the_study(small: Path) -> None:
    assert epochs(run(request(budget=SearchBudget(epochs=7), trials=2)).study) == [3, 3]


def test_a_trial_that_ends_by_patience_at_its_allowance_is_complete(
    small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("studies.vae.STUDY", dataclasses.replace(studies.get("vae").STUDY, patience=1))
    worse = {"epochs": 4, "fixed": {**FIXED, "lr": 0.9}}  # the second epoch of these trials is worse than the first
    patient = epochs(run(request(trials=2, **worse)).study)
    assert patient[1] < 4
    study = run(request(budget=SearchBudget(epochs=sum(patient)), study_name="exact", **worse)).study
    assert epochs(study) == patient
    assert {t.state for t in study.trials} == {TrialState.COMPLETE}


def diverge_after_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every trial but the first of a study diverge in its first epoch."""
    train = TrialTask._train

    def diverge(self: TrialTask, *arguments: Any) -> Any:
        if self.number > 0:
            raise Diverged("epoch 1: train/loss is infinite or not a number")
        return train(self, *arguments)

    monkeypatch.setattr(TrialTask, "_train", diverge)


def test_failed_trials_spend_epochs_too(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise a study by budget whose trials all fail would never end."""
    diverge_after_the_first(monkeypatch)
    study = run(request(budget=SearchBudget(epochs=6))).study
    assert epochs(study) == [3, 1, 1, 1]
    assert [t.state.name for t in study.trials] == ["COMPLETE", "FAIL", "FAIL", "FAIL"]


def test_seconds_are_spent_to_within_one_epoch(small: Path) -> None:
    study = run(request(budget=SearchBudget(seconds=0.4), epochs=40)).study
    seconds = [t.user_attrs[store.SECONDS] for t in study.trials]
    assert sum(seconds[:-1]) < 0.4 <= sum(seconds)
    assert sum(epochs(study)) > 1


class Interrupted(KeyboardInterrupt):
    pass


@pytest.mark.slow
def test_a_study_that_is_interrupted_at_every_epoch_ends_with_the_same_trials(
    small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = {"budget": SearchBudget(epochs=3), "epochs": 2}
    whole = run(request(**asked, storage="sqlite:///whole.db")).study
    monkeypatch.setattr(training_run, "SAVE_EVERY", 0.0)
    show = driver._Driver.show_epoch
    seen = set()

    def interrupt(self: Any, number: Any, message: Any) -> None:
        show(self, number, message)
        if (number, message[0]) not in seen:  # the epoch itself is lost, and is trained again
            seen.add((number, message[0]))
            raise Interrupted

    monkeypatch.setattr(driver._Driver, "show_epoch", interrupt)
    for _ in range(3):
        with pytest.raises(Interrupted):
            run(request(**asked))
    study = run(request(**asked)).study
    assert [(t.state, t.params) for t in study.trials] == [(t.state, t.params) for t in whole.trials]
    assert study.trials[0].values == whole.trials[0].values
    assert epochs(study) == epochs(whole) == [2, 1]


@pytest.mark.slow
def test_an_interrupted_trial_gets_a_new_allowance_under_another_budget(
    small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Any) -> None:
        raise Interrupted

    run(request(budget=SearchBudget(epochs=3)))
    with monkeypatch.context() as patch:
        patch.setattr(TrialTask, "_train", interrupt)
        with pytest.raises(Interrupted):
            run(request(budget=SearchBudget(epochs=4)))
    study = run(request(budget=SearchBudget(epochs=6))).study
    assert epochs(study) == [3, 3]
    assert {t.state.name for t in study.trials} == {"COMPLETE"}


@pytest.mark.one_in(2)
@pytest.mark.parametrize("end", ["complete", "cut off"])
def test_a_trial_whose_process_died_before_it_told_its_end_has_the_reason_of_its_later_end(
    end: str, small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first trial was cut off, and now runs to its end under a larger budget; only the second may be cut off."""

    def die(*_: Any, **__: Any) -> None:
        raise Interrupted

    with monkeypatch.context() as patch:
        patch.setattr(optuna.Study, "tell", die)
        with pytest.raises(Interrupted):
            run(request(budget=SearchBudget(epochs=2), epochs=2, study_name="study"))
    first = optuna.load_study(study_name="study", storage=StudyRequest.storage)
    first._storage.set_trial_user_attr(first.trials[0]._trial_id, "reason", budget.CUT_OFF)
    asked = SearchBudget(epochs=4 if end == "complete" else 3)
    study = run(request(budget=asked, epochs=2, study_name="study")).study
    assert [bool(t.user_attrs.get("reason")) for t in study.trials] == [False, end == "cut off"]
    assert [budget.is_cut_off(t) for t in study.trials] == [False, end == "cut off"]


class TwoSlots:
    """An executor that holds two tasks, and runs the one that was submitted last."""

    slots, hosts = 2, 1

    def __init__(self) -> None:
        self.tasks: dict[Any, Any] = {}

    def submit(self, key: Any, task: Any) -> None:
        self.tasks[key] = task

    def wait(self, on_progress: Any) -> list[Ended]:
        key, task = self.tasks.popitem()
        return [Ended(key, task.run(Resources("cpu", 1, "."), lambda message: on_progress(key, message)))]


@pytest.mark.one_in(2)
@pytest.mark.parametrize("asked", [SearchBudget(epochs=10), SearchBudget(seconds=0.5)])
def test_two_workers_never_exceed_the_budget(asked: SearchBudget, small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What finished trials have spent and running ones may spend is at no time more than the budget."""

    @contextmanager
    def two_slots(*_: Any) -> Iterator[TwoSlots]:
        yield TwoSlots()

    promised = []
    next_trial = driver._Driver.next_trial

    def recorded(self: Any) -> Any:
        task = next_trial(self)
        promised.append(self.goal.spent(self.finished) + sum(t.allowance for t in self.running.values()))
        return task

    monkeypatch.setattr(executor, "open_executor", two_slots)
    monkeypatch.setattr(driver._Driver, "next_trial", recorded)
    monkeypatch.setattr(TrialTask, "_is_pruned", lambda self, *_: self.number == 1)  # frees its epochs
    study = run(request(budget=asked, compute=Compute(workers=2, threads=1))).study
    if asked.epochs:
        assert max(promised) == sum(epochs(study)) == 10
        assert len(study.trials) > 3
    else:  # each of the two may exceed its allowance by an epoch and its scoring
        assert max(promised) < 0.5 + 2 * max(t.user_attrs[store.SECONDS] for t in study.trials)


def test_interrupted_trials_wait_for_epochs_that_others_do_not_use(
    small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No new trial takes the epochs that an interrupted one could have."""

    @contextmanager
    def two_slots(*_: Any) -> Iterator[TwoSlots]:
        yield TwoSlots()

    def interrupt(*_: Any) -> None:
        raise Interrupted

    monkeypatch.setattr(executor, "open_executor", two_slots)
    with monkeypatch.context() as patch:
        patch.setattr(TwoSlots, "wait", interrupt)
        with pytest.raises(Interrupted):
            run(request(trials=2))
    monkeypatch.setattr(TrialTask, "_is_pruned", lambda self, *_: self.number == 0)  # frees its epochs
    study = run(request(budget=SearchBudget(epochs=3))).study
    assert epochs(study) == [1, 2]
    assert all(t.state.is_finished() for t in study.trials)


def test_a_trial_that_is_given_up_has_spent_what_it_reported(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Dying(TwoSlots):
        slots = 1

        def wait(self, on_progress: Any) -> list[Ended]:
            (key,) = self.tasks
            on_progress(key, (2, {"time/train_seconds": 0.5, "time/valid_seconds": 0.25}))
            return [Ended(key, died="signal 9")]

        def submit(self, key: Any, task: Any) -> None:
            self.tasks = {key: task}

    @contextmanager
    def dying(*_: Any) -> Iterator[Dying]:
        yield Dying()

    monkeypatch.setattr(executor, "open_executor", dying)
    study = run(request(budget=SearchBudget(epochs=3))).study
    assert epochs(study) == [2, 2]
    assert study.trials[0].state == TrialState.FAIL


@pytest.mark.parametrize(
    ("state", "scores", "rungs", "expected"),
    [
        (TrialState.COMPLETE, {1: -3.0, 7: -2.0}, {}, 7),
        (TrialState.COMPLETE, {}, {"11": [0.0]}, 100),  # of several objectives: the end was not stored
        (TrialState.PRUNED, {}, {"11": [0.0], "33": [0.0]}, 33),
        (TrialState.PRUNED, {3: -2.0}, {}, 3),
        (TrialState.FAIL, {}, {}, 1),
    ],
)
def test_trials_of_older_versions_count_up_to_their_last_score(
    state: TrialState, scores: dict[int, float], rungs: dict[str, Any], expected: int
) -> None:
    attributes = {"rungs": rungs, "metrics": {"time/trial_seconds": 2.5}}
    value = 0.0 if state == TrialState.COMPLETE else None
    trial = create_trial(state=state, value=value, intermediate_values=scores, user_attrs=attributes)
    assert budget.trained_epochs(trial, 100) == expected
    assert budget.spent_seconds(trial) == 2.5


@pytest.fixture
def small_finals(small: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Finals that are scored by bounds only."""
    monkeypatch.setattr(protocol, "PARTS", ("bounds",))
    monkeypatch.setattr(protocol, "SIZES", Sizes(iw_k=5, iw_n=10))
    return small


def compared(**options: Any) -> Any:
    defaults = {"dataset": "bare.npz", "variants": ("vae", "beta"), "train": True, "epochs": 2, "seeds": 2}
    return protocol.run(CompareRequest(**{**defaults, "compute": Compute(threads=1), **options}), Display())


@pytest.mark.slow
@pytest.mark.usefixtures("small_finals")
def test_a_comparison_gives_each_variant_the_same_epochs_and_says_so() -> None:
    """An existing study may lack less than one trial of them, or else is extended."""
    run(request(epochs=2, trials=2, fixed={}))
    result = compared(budget=SearchBudget(epochs=5))
    spent = {v: c.study.spent_epochs for v, c in result.candidates.items()}
    assert spent == {"vae": 4, "beta": 5}
    assert result.equal_budget.startswith(
        "Each variant was searched with an equal budget of epochs, to within one trial: vae 4 "
    )
    assert [line for line in result.warnings if "budgets differ" in line] == []
    (warning,) = [line for line in result.warnings if "ended at the cap" in line]
    assert warning.startswith(
        "all finals of beta and vae ended at the cap of 2 epochs, before their patience ran out: "
    )
    result = compared(budget=SearchBudget(epochs=7))
    assert {v: c.study.spent_epochs for v, c in result.candidates.items()} == {"vae": 7, "beta": 7}
    table = tables.cost_table(result).set_index("variant")
    assert table["search, epochs"].to_dict() == {"vae": 7, "beta": 7}
    assert table["cut off"].to_dict() == {"vae": 1, "beta": 1}
    assert set(table["budget"]) == {"7 epochs"}


@pytest.mark.slow
@pytest.mark.usefixtures("small_finals")
def test_equal_numbers_of_trials_that_spent_different_epochs_are_no_equal_budget(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run(request(epochs=2, trials=4, fixed={}))
    diverge_after_the_first(monkeypatch)
    result = compared(trials=4)
    assert {v: (len(c.study.trials), c.study.spent_epochs) for v, c in result.candidates.items()} == {
        "vae": (4, 8), "beta": (4, 5),
    }  # fmt: skip
    assert result.equal_budget == ""
    (warning,) = [line for line in result.warnings if "budgets differ" in line]
    assert "vae 8 epochs and " in warning and "beta 5 epochs and " in warning


@pytest.mark.slow
def test_a_study_by_budget_that_was_killed_ends_with_the_same_trials(command: Command, folder: Path) -> None:
    """By SIGKILL, in the middle of two of its trials."""
    words = ["--variant", "vae", "--epochs", "10", "--budget", "45epochs", "--fix", "width=256", "--threads", "1"]
    for number in (1, 3):
        line = [sys.executable, "-m", "pipeline.study", *words]
        process = subprocess.Popen(line, cwd=folder, env=environment(), stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and started_trials() <= number:
            time.sleep(0.05)
        time.sleep(0.3)
        process.kill()
        process.wait()
    assert command("study", *words).returncode == 0
    killed = trials("vae-digits")
    assert sum(t.user_attrs[store.EPOCHS] for t in killed) == 45
    assert command("study", *words, "--storage", "sqlite:///whole.db").returncode == 0
    whole = optuna.load_study(study_name="vae-digits", storage="sqlite:///whole.db").trials
    assert [(t.state, t.params, t.user_attrs[store.EPOCHS]) for t in killed] == [
        (t.state, t.params, t.user_attrs[store.EPOCHS]) for t in whole
    ]


@pytest.mark.slow
def test_two_processes_spend_the_budget_together(folder: Path) -> None:
    study = run(StudyRequest(variant="vae", budget=SearchBudget(epochs=25), epochs=6, compute=Compute(workers=2))).study
    assert sum(epochs(study)) == 25
    assert all(t.state.is_finished() for t in study.trials)
