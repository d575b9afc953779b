"""Studies as a person runs them: real processes, real stores."""

import dataclasses
import io
import re
import sqlite3
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import torch
from conftest import Command
from rich.console import Console
from stores import client, curve, runs, trials

import studies
import variants
from pipeline import metrics, progress
from pipeline.executor import Compute
from pipeline.progress import Display
from pipeline.study import space
from pipeline.study.driver import StudyRequest, run
from pipeline.study.results import read_study
from pipeline.study.trial import TrialTask
from pipeline.tracker import views
from variants import Config, DataSpec, InputError

QUICK = {"trials": 2, "epochs": 2, "compute": Compute(threads=1)}


def test_the_main_job(command: Command, folder: Path) -> None:
    """One command: everything that a trial and a study are to leave behind."""
    done = command("study", "--variant", "beta", "--trials", "3", "--epochs", "4", "--threads", "1")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "* Pareto front of valid/elbo and probe/accuracy" in done.stdout
    assert "python -m pipeline.ui --dataset digits --open" in done.stdout
    assert "viewStateShareKey=" in done.stdout
    assert "\x1b" not in done.stdout  # plain lines where the output is no terminal

    (study,) = runs("study")
    children = runs("trial")
    assert study.info.status == "FINISHED"
    assert len(children) == 3
    for child, trial in zip(children, trials("beta-digits"), strict=True):
        tags, params, scores = child.data.tags, child.data.params, child.data.metrics
        assert child.info.status == "FINISHED"
        assert tags["mlflow.parentRunId"] == study.info.run_id
        assert {k: tags[k] for k in ("kind", "variant", "dataset", "study", "trial", "seed", "state")} == {
            "kind": "trial", "variant": "beta", "dataset": "digits", "study": "beta-digits",
            "trial": str(trial.number), "seed": str(trial.number), "state": "complete",
        }  # fmt: skip
        assert {"latent", "width", "depth", "lr", "batch", "beta", "warmup", "weights"} <= params.keys()
        assert float(params["beta"]) == trial.params["beta"]
        assert len(curve(child, "train/elbo")) == 4
        assert scores["valid/elbo"] == pytest.approx(-(scores["valid/reconstruction"] + scores["valid/kl"]))
        assert trial.values == [scores["valid/elbo"], scores["probe/accuracy"]]
        assert {"probe/random_projection", "latent/active_units", "time/examples_per_second"} <= scores.keys()
        pictures = {a.path.split("+")[0] for a in client().list_artifacts(child.info.run_id, "images")}
        names = ("reconstructions", "samples", "traversals", "interpolations", "latent", "kl")
        assert pictures >= {f"images/{n}" for n in names}
        assert child.inputs.dataset_inputs[0].dataset.name == "digits"
    assert "probe/raw_pixels" in study.data.metrics
    files = {a.path for a in client().list_artifacts(study.info.run_id, "study")}
    assert {"study/trials.csv", "study/pareto_front.png", "study/history_elbo.png"} <= files


OWN = {"cvae": "classes", "hvae": "levels", "vrae": "forecasts"}


@pytest.mark.parametrize("name", variants.names())
def test_every_variant_is_searched_on_its_embedded_default(name: str, folder: Path) -> None:
    outcome = run(StudyRequest(variant=name, trials=1, epochs=2, compute=Compute(threads=1)))
    (trial,) = outcome.study.trials
    assert trial.state.name == "COMPLETE"
    assert len(trial.values) == len(outcome.objectives)
    logged = {p.name.split("+")[0] for p in (folder / "mlruns").rglob("images/*.png")}
    wanted = {"reconstructions", "samples", "traversals", "interpolations", "latent", "aggregate"}
    assert wanted | {OWN.get(name, "samples")} <= logged
    assert set(logged) <= set(views.PICTURES)


def test_the_best_models_can_be_loaded(folder: Path) -> None:
    outcome = run(StudyRequest(variant="vae", **QUICK))  # type: ignore[arg-type]
    experiment = client().get_experiment_by_name("digits")
    assert experiment is not None
    models = client().search_logged_models([experiment.experiment_id])
    by_run = {m.source_run_id: m for m in models}
    (run_id,) = [r.info.run_id for r in runs("trial") if r.data.tags["trial"] == str(outcome.study.best_trial.number)]
    best = by_run[run_id]
    assert {m.key: m.value for m in best.metrics or []}["valid/elbo"] == outcome.study.best_value
    assert best.artifact_location.startswith("file:") or Path(best.artifact_location).exists()
    model = variants.load(best.artifact_location.removeprefix("file://"))
    assert model.config.latent == outcome.study.best_trial.params["latent"]


@pytest.mark.slow
def test_the_same_seed_gives_the_same_study(folder: Path) -> None:
    def scores(name: str, seed: int) -> list[dict[str, float]]:
        outcome = run(
            StudyRequest(variant="beta", study_name=name, seed=seed, trials=3, epochs=2, compute=Compute(threads=1))
        )
        kept = [dict(t.user_attrs["metrics"]) for t in outcome.study.trials]
        return [{k: v for k, v in m.items() if not k.startswith("time/")} for m in kept]

    first = scores("one", 0)
    assert first == scores("two", 0)
    assert first != scores("three", 1)
    one, two = ([r for r in runs("trial") if r.data.tags["study"] == n] for n in ("one", "two"))
    for a, b in zip(one, two, strict=True):
        for metric in ("train/loss", "train/elbo", "valid/elbo", "valid/kl"):
            assert curve(a, metric) == curve(b, metric)


def test_another_search_under_the_same_name_is_refused(folder: Path) -> None:
    run(StudyRequest(variant="vae", **QUICK))  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"'vae-digits' was started with epochs = 2, and 3 is asked for now"):
        run(StudyRequest(variant="vae", trials=2, epochs=3, compute=Compute(threads=1)))
    with pytest.raises(InputError, match=r"started with fix = \{\}, and \{'latent': 2\} is asked for now"):
        run(StudyRequest(variant="vae", trials=2, epochs=2, compute=Compute(threads=1), fixed={"latent": 2}))
    with pytest.raises(InputError, match=r"started with objectives = \['valid/elbo'\]"):
        run(StudyRequest(variant="beta", trials=2, epochs=2, compute=Compute(threads=1), study_name="vae-digits"))
    assert len(trials("vae-digits")) == 2


def test_pinned_parameters_are_not_searched(folder: Path) -> None:
    outcome = run(StudyRequest(variant="beta", fixed={"latent": 3, "beta": 20.0, "batch": 50}, **QUICK))  # type: ignore[arg-type]
    assert all(t.params.keys() == {"width", "depth", "lr"} for t in outcome.study.trials)
    for child in runs("trial"):
        assert (child.data.params["latent"], child.data.params["beta"], child.data.params["batch"]) == (
            "3",
            "20.0",
            "50",
        )


def test_labels_of_one_class_alone_are_searched(folder: Path) -> None:
    np.savez("one.npz", x=np.random.default_rng(0).random((60, 4)), y=np.zeros(60, int))
    (trial,) = run(
        StudyRequest(variant="beta", dataset="one.npz", trials=1, epochs=1, compute=Compute(threads=1))
    ).study.trials
    assert trial.values[1] == 1


def test_a_pruned_trial_says_so(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([False] * 3 + [True] * 100)
    monkeypatch.setattr(optuna.trial.Trial, "should_prune", lambda self: next(answers))
    run(StudyRequest(variant="vae", trials=2, epochs=3, compute=Compute(threads=1)))
    states = [(t.data.tags["state"], t.info.status) for t in runs("trial")]
    assert states == [("complete", "FINISHED"), ("pruned", "KILLED")]
    assert [t.state.name for t in trials("vae-digits")] == ["COMPLETE", "PRUNED"]


def test_a_diverged_trial_fails_and_the_study_goes_on(folder: Path) -> None:
    outcome = run(
        StudyRequest(
            variant="vae", trials=2, epochs=3, compute=Compute(threads=1), fixed={"lr": 1.0, "width": 600, "depth": 16}
        )
    )
    assert [t.state.name for t in outcome.study.trials] == ["FAIL", "FAIL"]
    for child in runs("trial"):
        assert (child.data.tags["state"], child.info.status) == ("failed", "FAILED")
        assert "is infinite or not a number" in child.data.tags["reason"]


def test_a_trial_that_raises_fails_with_its_reason(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from variants.vae import VAE

    terms = VAE.terms

    def odd(self: VAE, batch: Any, step: Any) -> Any:
        if self.config.latent == 2:
            raise ValueError(f"odd: {len(batch)} examples")
        return terms(self, batch, step)

    monkeypatch.setattr(VAE, "terms", odd)
    outcome = run(StudyRequest(variant="vae", **QUICK))  # type: ignore[arg-type]
    assert [t.state.name for t in outcome.study.trials] == ["FAIL", "COMPLETE"]  # the first has 2 latents
    failed = runs("trial")[0]
    assert failed.data.tags["reason"].startswith("ValueError: odd")
    assert "raise ValueError" in Path(client().download_artifacts(failed.info.run_id, "error.txt")).read_text()
    with pytest.raises(InputError, match="the first 3 trials all failed in the same way: ValueError: odd"):
        run(
            StudyRequest(
                variant="vae", trials=9, epochs=2, compute=Compute(threads=1), fixed={"latent": 2}, study_name="always"
            )
        )
    assert len(trials("always")) == 3


def test_when_no_trial_completes_the_exit_code_is_1(command: Command) -> None:
    done = command("study", "--variant", "vae", "--trials", "1", "--epochs", "3", "--fix", "lr=1", "--fix", "depth=16",
                   "--fix", "width=600")  # fmt: skip
    assert done.returncode == 1
    assert "no trial was completed" in done.stderr


def test_data_without_labels_are_searched_for_the_elbo_alone(folder: Path) -> None:
    np.savez("bare.npz", x=np.random.default_rng(0).normal(size=(200, 5)))
    outcome = run(StudyRequest(variant="beta", dataset="bare.npz", **QUICK))  # type: ignore[arg-type]
    assert outcome.objectives == ("valid/elbo",)
    assert "probe/accuracy" not in runs("trial", "bare")[0].data.metrics


BAD = [
    (["--variant", "bta"], "unknown variant 'bta': did you mean beta"),
    ([], "--variant is missing: expected one of aae, beta, cvae, hvae, vae, vrae"),
    (["--variant", "vae", "--dataset", "minst"], "unknown data set 'minst'"),
    (["--variant", "vae", "--dataset", "none.npz"], "there is no such file"),
    (["--variant", "vae", "--fix", "beta=2"], "there is no parameter 'beta'"),
    (["--variant", "vae", "--fix", "laten=2"], "did you mean latent"),
    (["--variant", "vae", "--fix", "latent=0"], "--fix latent=0: expected 1 to 65536"),
    (["--variant", "vae", "--fix", "latent=two"], "--fix latent=two: expected a whole number"),
    (["--variant", "vae", "--fix", "latent"], "--fix latent: expected NAME=VALUE"),
    (["--variant", "vae", "--fix", "network=conv"], "network='conv': digits has examples of 1x8x8"),
    (["--variant", "vae", "--trials", "0"], "'0': expected a whole number, 1 or more"),
    (["--variant", "vae", "--trials", "-3"], "'-3': expected a whole number, 1 or more"),
    (["--variant", "vae", "--timeout", "soon"], "'soon': expected seconds above 0"),
    (["--variant", "vae", "--device", "cuda"], "sees 0 CUDA devices here"),
    (["--variant", "vae", "--device", "tpu"], "expected auto, cpu, cuda"),
    (["--variant", "vae", "--study-name", "../up"], "expected letters, digits"),
    (["--variant", "vae", "--storage", "sqlite:////proc/optuna.db"], "cannot"),
    (["--variant", "vae", "--storage", "postgresql://me:secret@127.0.0.1:1/db"], "postgresql://me:***@127.0.0.1:1/db"),
]


@pytest.mark.parametrize(("words", "message"), BAD, ids=lambda v: " ".join(v) if isinstance(v, list) else "")
def test_bad_input_ends_in_one_line_before_anything_starts(
    words: list[str], message: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if "cuda" in words and torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    from pipeline import cli
    from pipeline.study.__main__ import main

    monkeypatch.setattr(sys, "argv", ["study", *words])
    with pytest.raises(SystemExit) as ended:
        cli.run(main)
    assert ended.value.code == 2
    errors = capsys.readouterr().err
    assert message in errors
    assert "secret" not in errors
    assert "Traceback" not in errors
    assert not (folder / "mlruns").exists()


def test_bad_input_on_the_command_line(command: Command) -> None:
    done = command("study", "--variant", "bta")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: unknown variant 'bta'")
    assert len(done.stderr.splitlines()) == 1


def test_a_folder_that_cannot_be_written_to(command: Command) -> None:
    """/proc takes no file from anybody, root included."""
    done = command("study", "--variant", "vae", "--trials", "1", cwd="/proc")
    assert done.returncode == 2
    assert "start in a folder" in done.stderr
    assert "Traceback" not in done.stderr


def test_help_teaches(command: Command) -> None:
    general = command("study", "--help").stdout
    assert "examples:" in general
    assert "beta     Higgins et al. 2017" in general
    assert "searched: 0.25 to 8, log" in command("study", "--variant", "beta", "--help").stdout


@pytest.mark.parametrize(
    ("objective", "why"),
    [
        ("train/loss", "what is minimised contains weights that are searched"),
        ("valid/loss", "what is minimised contains weights that are searched"),
        ("test/elbo", "the test split is for the final report"),
        ("valid/beauty", "not a metric that variants can be compared by"),
    ],
)
def test_objectives_that_would_mislead_are_refused(objective: str, why: str) -> None:
    with pytest.raises(InputError, match=why):
        metrics.objectives((objective,), DataSpec(name="d", shape=(4,), likelihood="bernoulli", classes=2))


def test_such_an_objective_stops_a_study_before_it_starts(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bad = dataclasses.replace(studies.get("beta").STUDY, objectives=("train/loss",))
    monkeypatch.setattr("studies.beta.STUDY", bad)
    with pytest.raises(InputError, match="objective 'train/loss' is refused"):
        run(StudyRequest(variant="beta", **QUICK))  # type: ignore[arg-type]
    assert not Path("optuna.db").exists()


def test_no_test_example_is_touched(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A study whose test split is poisoned ends with the same numbers."""
    from pipeline import data as datasets

    clean = run(StudyRequest(variant="beta", study_name="clean", **QUICK))  # type: ignore[arg-type]
    real = datasets.load("digits")
    broken = dataclasses.replace(real.test, x=real.test.x.float() * float("nan"))
    monkeypatch.setattr(datasets, "load", lambda *_, **__: dataclasses.replace(real, test=broken))
    poisoned = run(StudyRequest(variant="beta", study_name="poisoned", **QUICK))  # type: ignore[arg-type]
    assert [t.values for t in clean.study.trials] == [t.values for t in poisoned.study.trials]


def test_pinned_values_take_the_type_of_their_field() -> None:
    config = variants.get("beta").config_type
    assert space.parse_fixed(["latent=2", "beta=3", "network=conv"], config) == {
        "latent": 2,
        "beta": 3.0,
        "network": "conv",
    }


STORE = "sqlite:///optuna.db"


def narrow(trial: Any) -> Any:
    """A search space for the VAE whose width, which is not searched, is 8."""
    return dataclasses.replace(Config(**studies.common(trial)), width=8)


def test_a_trial_keeps_its_configuration_when_the_search_space_changes(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(StudyRequest(variant="vae", **QUICK, fixed={"width": 16}))  # type: ignore[arg-type]
    before = read_study(STORE, "vae-digits")
    monkeypatch.setattr("studies.vae.suggest", lambda trial: dataclasses.replace(narrow(trial), depth=3))
    after = read_study(STORE, "vae-digits")
    assert before is not None
    assert before == after
    trained = [r.data.params for r in runs("trial")]
    assert [{k: str(v) for k, v in dataclasses.asdict(t.config).items()} for t in before.trials] == [
        {k: params[k] for k in dataclasses.asdict(t.config)} for t, params in zip(before.trials, trained, strict=True)
    ]


def test_trials_of_an_older_version_are_rebuilt_with_a_warning(folder: Path) -> None:
    run(StudyRequest(variant="vae", **QUICK))  # type: ignore[arg-type]
    before = read_study(STORE, "vae-digits")
    with sqlite3.connect("optuna.db") as connection:
        connection.execute("delete from trial_user_attributes where key = 'config'")
    with pytest.warns(UserWarning, match="2 of 2 trials come from an older version") as warned:
        assert read_study(STORE, "vae-digits") == before
    assert len(warned) == 1


def test_a_configuration_that_the_variant_does_not_accept_any_more_is_an_error(folder: Path) -> None:
    run(StudyRequest(variant="vae", **QUICK))  # type: ignore[arg-type]
    with sqlite3.connect("optuna.db") as connection:
        connection.execute("update trial_user_attributes set value_json = '{\"gone\": 1}' where key = 'config'")
    with pytest.raises(InputError, match=r"trial 0 was run with a configuration .*gone"):
        read_study(STORE, "vae-digits")


def test_an_interrupted_trial_continues_with_its_own_configuration(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(TrialTask, "_train", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run(StudyRequest(variant="vae", trials=1, epochs=2, compute=Compute(threads=1)))
    (interrupted,) = trials("vae-digits")
    assert interrupted.state.name == "RUNNING"
    monkeypatch.setattr("studies.vae.suggest", narrow)
    run(StudyRequest(variant="vae", trials=1, epochs=2, compute=Compute(threads=1)))
    (child,) = runs("trial")
    assert child.data.tags["state"] == "complete"
    assert child.data.params["width"] == str(interrupted.user_attrs["config"]["width"]) != "8"


def printing(stream: Any) -> Display:
    """A display whose output is no terminal."""
    display = Display()
    display.console = Console(file=stream, width=200)
    return display


def test_without_a_terminal_a_long_trial_prints_lines(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "INTERVAL", 0.2)
    stream = io.StringIO()
    train = TrialTask._train

    def slow(*arguments: Any) -> None:
        time.sleep(0.7)
        train(*arguments)

    monkeypatch.setattr(TrialTask, "_train", slow)
    run(StudyRequest(variant="vae", trials=1, epochs=2, compute=Compute(threads=1)), printing(stream))
    lines = stream.getvalue().splitlines()
    assert lines[0] == "study vae-digits: 0 of 1 trials finished, at most 2 epochs each"
    pattern = r"study vae-digits: 0 of 1 finished after \d+ s; running: trial 0.*"
    assert len([line for line in lines if re.fullmatch(pattern, line)]) >= 2
    assert len([line for line in lines if line.startswith("trial   0 complete ELBO -")]) == 1


def test_the_lines_tell_the_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "INTERVAL", 0.1)
    stream = io.StringIO()
    with printing(stream).progress("study", 2) as shown:
        shown.start("a", "trial 0", steps=9)
        shown.update("a", 3, "ELBO -23.10")
        deadline = time.monotonic() + 20
        while "running" not in stream.getvalue() and time.monotonic() < deadline:
            time.sleep(0.05)
        shown.finish("a")
        shown.update("a", 4)  # a late message
    assert "running: trial 0: epoch 3 of 9, ELBO -23.10" in stream.getvalue()
    assert stream.getvalue().endswith("trial 0 done (1 of 2)\n")


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), BrokenPipeError()])
def test_output_that_fails_does_not_stop_the_work(error: OSError, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(io.StringIO):
        def write(self, text: str) -> int:
            raise error

    monkeypatch.setattr("os.dup2", lambda *_: None)  # with which `rich` redirects the real output
    display = printing(Broken())
    with display.progress("study", 1) as shown:
        shown.start("a", "trial 0")
        shown.finish("a", "trial 0 complete")
    display.say("done")
