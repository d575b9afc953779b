"""What a study keeps in its store, and how it is read again: by a comparison, and by the same study that continues."""

import dataclasses
import gc
import os
import sqlite3
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState
from stores import runs, trials
from test_study import quick

import studies
import variants
from pipeline import metrics
from pipeline.study import space, store
from pipeline.study.driver import run
from pipeline.study.results import read_study
from pipeline.study.trial import TrialTask
from variants import Config, InputError

STORE = "sqlite:///optuna.db"


def narrow(trial: Any) -> Any:
    """A search space for the VAE whose width, which is not searched, is 8."""
    return dataclasses.replace(Config(**studies.common(trial)), width=8)


@pytest.mark.usefixtures("no_pictures")
def test_a_trial_keeps_its_configuration_when_the_search_space_changes(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(quick(trials=2, fixed={"width": 16}))
    before = read_study(STORE, "vae-digits")
    monkeypatch.setattr("studies.vae.suggest", lambda trial: dataclasses.replace(narrow(trial), depth=3))
    after = read_study(STORE, "vae-digits")
    assert before is not None
    assert before == after
    trained = [r.data.params for r in runs("trial")]
    assert [{k: str(v) for k, v in dataclasses.asdict(t.config).items()} for t in before.trials] == [
        {k: params[k] for k in dataclasses.asdict(t.config)} for t, params in zip(before.trials, trained, strict=True)
    ]


@pytest.mark.usefixtures("no_pictures")
def test_finals_train_with_the_patience_of_the_trials(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A study file that changes its patience afterwards changes neither the record nor a study that continues."""
    run(quick())
    monkeypatch.setattr("studies.vae.STUDY", dataclasses.replace(studies.get("vae").STUDY, patience=3))
    record = read_study(STORE, "vae-digits")
    assert record is not None
    assert record.patience == 15
    with pytest.raises(InputError, match="was started with patience = 15, and 3 is asked for now"):
        run(quick())
    with sqlite3.connect("optuna.db") as connection:  # a store of a version that did not record it
        connection.execute(
            "update study_user_attributes set value_json = replace(value_json, '\"patience\": 15, ', '') "
            "where key = 'search'"
        )
    again = read_study(STORE, "vae-digits")
    assert again is not None
    assert again.patience == 3
    run(quick())


@pytest.mark.usefixtures("no_pictures")
def test_trials_of_an_older_version_are_rebuilt_with_a_warning(folder: Path) -> None:
    run(quick(trials=2))
    before = read_study(STORE, "vae-digits")
    with sqlite3.connect("optuna.db") as connection:
        connection.execute("delete from trial_user_attributes where key = 'config'")
    with pytest.warns(UserWarning, match="2 of 2 trials come from an older version") as warned:
        assert read_study(STORE, "vae-digits") == before
    assert len(warned) == 1


@pytest.mark.usefixtures("no_pictures")
def test_a_configuration_that_the_variant_does_not_accept_any_more_is_an_error(folder: Path) -> None:
    run(quick())
    with sqlite3.connect("optuna.db") as connection:
        connection.execute("update trial_user_attributes set value_json = '{\"gone\": 1}' where key = 'config'")
    with pytest.raises(InputError, match=r"trial 0 was run with a configuration .*gone"):
        read_study(STORE, "vae-digits")


def test_a_trial_of_a_vae_with_a_number_of_samples_is_read_if_it_was_one() -> None:
    """`samples` was a setting of `vae` before `iwae` was a variant."""
    trial = optuna.create_study().ask()
    trial.set_user_attr(store.CONFIG, {"latent": 3, "samples": 1})
    assert store.stored_config(trial, "vae") == Config(latent=3)
    trial.set_user_attr(store.CONFIG, {"latent": 3, "samples": 20})
    with pytest.raises(InputError, match=r"vae does not accept any more \(it belongs to the variant iwae"):
        store.stored_config(trial, "vae")


def test_a_trial_of_an_aae_with_a_warmup_is_read_without_it() -> None:
    """`aae` accepted a warm-up of a KL that it does not have."""
    trial = optuna.create_study().ask()
    trial.set_user_attr(store.CONFIG, {"latent": 3, "warmup": 100})
    assert store.stored_config(trial, "aae") == variants.get("aae").config_type(latent=3)


@pytest.mark.usefixtures("no_pictures")
def test_an_interrupted_trial_continues_with_its_own_configuration(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    again = quick(fixed={"depth": 1})
    with monkeypatch.context() as patch:
        patch.setattr(TrialTask, "_train", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run(again)
    (interrupted,) = trials("vae-digits")
    assert interrupted.state.name == "RUNNING"
    monkeypatch.setattr("studies.vae.suggest", narrow)
    run(again)
    (child,) = runs("trial")
    assert child.data.tags["state"] == "complete"
    assert child.data.params["width"] == str(interrupted.user_attrs["config"]["width"]) != "8"


SEARCH = {
    "variant": "vae", "dataset": "digits", "digest": "d" * 64, "objectives": ["valid/elbo"], "epochs": 9, "seed": 4,
    "patience": 5, "fix": {"latent": 3}, "space": {"lr": "1e-4 to 1e-2, log"},
}  # fmt: skip


def test_a_study_is_read_as_plain_values(folder: Path) -> None:
    """Each finished trial has its state, its scores and its configuration, fixed parameters included."""
    assert read_study(STORE, "vae-digits") is None
    states = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL, TrialState.COMPLETE)
    with store.open_study(STORE, "vae-digits", ("valid/elbo",), SEARCH) as study:
        for elbo, state in zip((-2.0, -1.0, None, -3.0), states, strict=True):
            trial = study.ask()
            config = space.suggest(studies.get("vae"), trial, {"latent": 3}, None)
            trial.set_user_attr(store.CONFIG, dataclasses.asdict(config))
            if elbo is not None:
                scores = {"valid/elbo": elbo, "valid/kl": -elbo, "time/trial_seconds": 2}
                trial.set_user_attr("metrics", scores)
            study.tell(trial, elbo if state == TrialState.COMPLETE else None, state=state)
        study.ask()  # one that is running is not in the record
        stored = study.trials
    record = read_study(STORE, "vae-digits")
    assert record is not None
    assert [(t.number, t.state) for t in record.trials] == [
        (0, "complete"), (1, "pruned"), (2, "failed"), (3, "complete"),
    ]  # fmt: skip
    for trial, frozen in zip(record.trials, stored, strict=False):
        assert (trial.config.latent, trial.config.width) == (3, frozen.params["width"])
        assert trial.params == frozen.params
        assert "latent" not in trial.params
    assert record.trials[2].metrics == {}
    assert record.seconds == 6
    assert (record.best("valid/elbo") or record.trials[1]).number == 0  # not the pruned one
    assert (record.best("valid/kl") or record.trials[1]).number == 0  # of which lower is better
    assert record.best("probe/accuracy") is None
    assert record.complete == 2
    assert record.importances == {"valid/elbo": metrics.Undefined("2 complete trials, at least 10 are needed")}
    values = (record.name, record.variant, record.dataset, record.digest, record.objectives, record.epochs, record.seed)
    assert values == ("vae-digits", "vae", "digits", "d" * 64, ("valid/elbo",), 9, 4)
    assert record.patience == 5
    assert read_study(STORE, "another") is None


def test_a_study_of_another_program_is_refused(folder: Path) -> None:
    optuna.create_study(storage=STORE, study_name="vae-digits")
    with pytest.raises(InputError, match="'vae-digits' was made by another program"):
        read_study(STORE, "vae-digits")
    used = optuna.create_study(storage=STORE, study_name="used", direction="maximize")
    used.tell(used.ask(), 1.0)
    with pytest.raises(InputError, match="'used' was made by another program; give another --study-name"):
        run(quick(study_name="used"))
    optuna.create_study(storage=STORE, study_name="two", directions=["maximize", "minimize"])
    with pytest.raises(InputError, match="'two' was made by another program"):
        run(quick(study_name="two"))


def test_a_task_leaves_no_connection_to_the_study_open(folder: Path) -> None:
    """A worker runs many trials, and a database accepts a limited number of connections."""

    def connections() -> int:
        links = [os.readlink(p) for p in Path("/proc/self/fd").iterdir() if p.is_symlink()]
        return sum(link.endswith("optuna.db") for link in links)

    with store.open_study(STORE, "vae-digits", ("valid/elbo",), SEARCH):
        before = connections()
        gc.disable()  # it would close them at some time
        try:
            for _ in range(5):
                with store.join_study(STORE, "vae-digits") as study:
                    assert study.trials == []
            assert connections() == before
        finally:
            gc.enable()
