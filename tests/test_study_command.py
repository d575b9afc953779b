"""The command of a study: its options, its help, what it prints, and bad input, which ends before anything starts."""

import dataclasses
import io
import re
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Command
from rich.console import Console
from test_study import quick

import studies
import variants
from pipeline import metrics, progress
from pipeline.progress import Display
from pipeline.study import space
from pipeline.study.driver import run
from pipeline.study.trial import TrialTask
from variants import DataSpec, InputError

BAD = [
    (["--variant", "bta"], "unknown variant 'bta': did you mean beta"),
    ([], "--variant is missing: expected one of aae, beta, cvae, dip, factor, flow, hvae"),
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
    (["--variant", "vae", "--trials", "20", "--seed", "9981"], "--seed 9981: expected 0 to 9980 for 20 trials"),
    (["--variant", "vae", "--seed", "-1"], "--seed -1: expected 0 to"),
    (["--variant", "vae", "--timeout", "soon"], "'soon': expected seconds above 0"),
    (["--variant", "vae", "--device", "cuda"], "sees 0 CUDA devices here"),
    (["--variant", "vae", "--device", "tpu"], "expected auto, cpu, cuda"),
    (["--variant", "vae", "--study-name", "../up"], "expected letters, digits"),
    (["--variant", "vae", "--start-from", "gone"], "--start-from gone: there is no such finished study; the store has"),
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


def test_a_folder_that_cannot_be_written_to(call: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """/proc takes no file from anybody, root included."""
    monkeypatch.chdir("/proc")
    done = call("study", "--variant", "vae", "--trials", "1", "--threads", "1")
    assert done.returncode == 2
    assert "start in a folder" in done.stderr
    assert "Traceback" not in done.stderr


def test_help_teaches(call: Command) -> None:
    general = call("study", "--help").stdout
    assert "examples:" in general
    assert "beta     Higgins et al. 2017" in general
    assert "searched: 0.25 to 8, log" in call("study", "--variant", "beta", "--help").stdout


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
        run(quick("beta"))
    assert not Path("optuna.db").exists()


def test_when_no_trial_completes_the_exit_code_is_1(call: Command) -> None:
    done = call("study", "--variant", "vae", "--trials", "1", "--epochs", "3", "--fix", "lr=1", "--fix", "depth=16",
                "--fix", "width=64", "--threads", "1")  # fmt: skip
    assert done.returncode == 1
    assert "no trial was completed" in done.stderr


def test_pinned_values_take_the_type_of_their_field() -> None:
    config = variants.get("beta").config_type
    assert space.parse_fixed(["latent=2", "beta=3", "network=conv"], config) == {
        "latent": 2,
        "beta": 3.0,
        "network": "conv",
    }


@pytest.mark.parametrize("seed", [-1, 9_999, 10_000])
def test_a_seed_that_would_reach_those_of_finals_is_refused(seed: int, folder: Path) -> None:
    with pytest.raises(InputError, match=rf"--seed {seed}: expected 0 to 9998 for 2 trials, because finals use"):
        run(quick(trials=2, seed=seed))


def printing(stream: Any) -> Display:
    """A display whose output is no terminal."""
    display = Display()
    display.console = Console(file=stream, width=200)
    return display


def test_without_a_terminal_a_long_trial_prints_lines(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "INTERVAL", 0.2)
    stream = io.StringIO()
    train = TrialTask._train

    def slow(*arguments: Any) -> Any:
        time.sleep(0.7)
        return train(*arguments)

    monkeypatch.setattr(TrialTask, "_train", slow)
    run(quick(epochs=2), printing(stream))
    lines = stream.getvalue().splitlines()
    assert lines[0] == "digits: 1,797 images of 8x8 pixels (height x width), 1 channel"
    assert "study vae-digits: 0 of 1 trials finished, at most 2 epochs each" in lines
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
