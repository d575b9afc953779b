"""Where the program runs: odd paths, folders that were moved or copied, full disks, old stores, busy machines."""

import contextlib
import errno
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from conftest import Command, environment, needs
from mlflow import MlflowClient
from sqlalchemy.exc import OperationalError
from stores import runs, trials

import variants
from pipeline import data, sync
from pipeline.executor import Compute, Resources
from pipeline.study import store
from pipeline.study.driver import StudyRequest, run
from pipeline.tracker import Tracker, model_files, saved_model, tracking_uri, without_credentials
from pipeline.tracker.journal import Journal
from pipeline.training_run import TrainingRun
from variants import InputError

QUICK = StudyRequest(variant="vae", trials=1, epochs=1, compute=Compute(threads=1))
ODD = "ü/50% of #1? 20%20+&=;x"


def enter(folder: Path, template: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a folder with an MLflow store, and go there."""
    folder.mkdir(parents=True)
    shutil.copy(template / "mlflow.db", folder)
    monkeypatch.chdir(folder)


def track(name: str = "digits", text: str = "first") -> tuple[str, str]:
    """Track a run with a text and a registered model. Return the ids of the run and of its model."""
    digits = data.load("digits")
    variant = variants.build("vae", variants.get("vae").config_type(latent=2, width=16), digits.spec)
    tracker = Tracker(name)
    with tracker.run("tried", {"kind": "trial"}) as tracked:
        tracked.text("notes/text.txt", text)
        tracked.model(variant, digits, {"valid/elbo": -20.0}, 1)
    assert tracked.wait(30) == ""
    (record,) = [r for r in tracker.find(kind="trial") if r.id == tracked.id]
    assert record.model is not None
    tracker.register(f"vae-{name}", record.model, "best")
    return tracked.id, record.model


def files(folder: Path) -> dict[Path, int]:
    return {p.relative_to(folder): p.stat().st_mtime_ns for p in folder.rglob("*")}


@pytest.mark.one_in(3)
@pytest.mark.parametrize("name", ["100%", "%20 %25", "what?", "a#b", "with a space", ODD])
def test_runs_and_models_are_found_in_a_folder_of_any_name(
    name: str, folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    enter(tmp_path / "within" / name, folder, monkeypatch)
    run_id, model_id = track()
    assert Tracker("digits").text(run_id, "notes/text.txt") == "first"
    assert (model_files("models:/vae-digits@best") / "config.json").is_file()
    assert Tracker("digits").model(model_id, Path("loaded")).spec.name == "digits"
    reopened, saved, _, _ = saved_model(run_id, Path("saved"))
    reopened.metrics({"test/elbo": -21.0}, 0)
    assert reopened.close() == ""
    assert (saved / "config.json").is_file()
    assert without_credentials(tracking_uri()) == str(Path("mlflow.db").absolute())
    with store.open_study("sqlite:///optuna.db", "a", ("valid/elbo",), {"seed": 0}):
        assert Path("optuna.db").is_file()
    assert [p.name for p in (tmp_path / "within").iterdir()] == [Path(name).parts[0]]
    assert {p.name for p in Path().iterdir()} >= {"mlflow.db", "mlruns", "optuna.db"}


@pytest.mark.slow
def test_commands_work_in_a_folder_of_any_name(command: Command, folder: Path, tmp_path: Path) -> None:
    there = tmp_path / "within" / ODD
    there.mkdir(parents=True)
    words = ["--trials", "1", "--epochs", "1", "--threads", "1"]
    done = command("compare", "--run", "--variant", "vae", "--seeds", "1", "--workers", "2", *words, cwd=there)
    assert done.returncode == 0, done.stderr
    assert f"the report: {there}/reports/digits/report.html" in " ".join(done.stdout.split("\n"))
    storage = f"sqlite:///{tmp_path}/other.db"
    done = command("study", "--variant", "beta", "--storage", storage, *words, cwd=there)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "other.db").is_file()
    with contextlib.closing(sqlite3.connect(there / "mlflow.db")) as connection:
        ((run_id,),) = connection.execute("SELECT source_run_id FROM logged_models LIMIT 1").fetchall()
    done = command("evaluate", "--run", run_id, "--only", "bounds", cwd=there)
    assert done.returncode == 0, done.stderr
    assert "everything is in MLflow" in command("sync", cwd=there).stdout
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    line = [sys.executable, "-m", "pipeline.ui", "--port", str(port)]
    with subprocess.Popen(line, cwd=there, env=environment(), stdout=subprocess.PIPE, text=True) as page:
        try:
            assert page.stdout is not None
            assert page.stdout.readline().startswith("Trials: ")
            listed = f"http://127.0.0.1:{port}/api/2.0/mlflow/artifacts/list?run_id={run_id}"
            with urllib.request.urlopen(listed) as answer:
                assert b"evaluation.json" in answer.read()
        finally:
            page.terminate()
    assert [p.name for p in (tmp_path / "within").iterdir()] == [Path(ODD).parts[0]]


@pytest.fixture
def old(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which a run was tracked, and another one whose journal MLflow has not received yet."""
    enter(tmp_path / "old 1%", folder, monkeypatch)
    track()
    journal = Journal("digits", "unsent")
    journal.add("begin", name="unsent", tags={"kind": "trial"}, reopen=True)
    journal.file("late.txt").write_text("late")
    journal.add("file", file="late.txt", path="")
    journal._stream.close()  # as if its process had been killed
    journal._lock.release()
    return tmp_path / "old 1%"


@pytest.mark.parametrize("stays", [False, True])
def test_a_folder_that_was_moved_or_copied_is_independent_of_the_old_one(
    stays: bool, old: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    new = tmp_path / "new #2"
    if stays:
        shutil.copytree(old, new)
    else:
        old.rename(new)
    before = files(old)
    monkeypatch.chdir(new)
    with pytest.warns(UserWarning, match="was moved or copied") as warned:
        tracker = Tracker("digits")
    (said,) = [str(w.message) for w in warned]
    assert str(old) in said
    assert str(new) in said
    (record,) = tracker.find(kind="trial")
    assert tracker.text(record.id, "notes/text.txt") == "first"
    assert model_files("models:/vae-digits@best").is_relative_to(new)
    track(text="second")
    assert sync.main([]) == 0
    texts = {r.tags["mlflow.runName"]: r.id for r in tracker.find(kind="trial")}
    assert tracker.text(texts["unsent"], "late.txt") == "late"
    assert {p.read_text() for p in new.glob("mlruns/digits/*/artifacts/notes/text.txt")} == {"first", "second"}
    assert files(old) == before
    assert old.exists() == stays


@pytest.mark.slow
def test_data_in_a_folder_that_was_moved_are_found_again(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    enter(tmp_path / 'old "ü"', folder, monkeypatch)
    run(replace(QUICK, dataset=write(Path.cwd() / "A" / "data.npz", 1)))
    (record,) = Tracker("A-data").find(kind="trial")
    Path.cwd().rename(tmp_path / "new")
    monkeypatch.chdir(tmp_path / "new")
    with pytest.warns(UserWarning, match="was moved or copied"):
        reopened, _, source, _ = saved_model(record.id, Path("saved"))
    assert reopened.close() == ""
    assert data.load(source).source.path == tmp_path / "new" / "A" / "data.npz"
    changed = data.load(write(Path("A/data.npz"), 2))
    Tracker("A-data").claim(changed)  # the experiment belongs to this file, wherever its folder is


def test_a_store_that_was_moved_without_its_artifacts_is_refused(
    old: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new = tmp_path / "new"
    new.mkdir()
    monkeypatch.chdir(new)
    shutil.copy(old / "mlflow.db", new)
    with pytest.raises(InputError, match="without the artifacts of its runs") as raised:
        Tracker("digits")
    assert str(old / "mlruns") in str(raised.value)
    assert str(new / "mlruns") in str(raised.value)
    shutil.copytree(old / "mlruns", new / "mlruns")
    with pytest.warns(UserWarning, match="was moved or copied"):
        assert len(Tracker("digits").find(kind="trial")) == 1


@pytest.mark.parametrize("location", ["s3://bucket/digits", "mlflow-artifacts:/7", "elsewhere", "shared/mlruns/digits"])
@pytest.mark.parametrize("moves", [False, True])
def test_an_experiment_whose_artifacts_are_elsewhere_keeps_its_location(
    location: str, moves: bool, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    enter(tmp_path / "old", folder, monkeypatch)
    track("mine")
    location = location if ":" in location else (tmp_path / location).as_uri()
    client = MlflowClient(tracking_uri())
    client.create_run(client.create_experiment("digits", artifact_location=location))
    if moves:
        (tmp_path / "old").rename(tmp_path / "new")
        monkeypatch.chdir(tmp_path / "new")
        with pytest.warns(UserWarning, match="was moved or copied"):
            Tracker("mine")
    experiment = MlflowClient(tracking_uri()).get_experiment_by_name("digits")
    assert experiment is not None
    assert experiment.artifact_location == location


def test_a_moved_store_is_recognised_if_a_server_created_it(old: Path, tmp_path: Path, monkeypatch: Any) -> None:
    """The experiment Default then has a location of the server, which does not tell where the folder was."""
    with contextlib.closing(sqlite3.connect("mlflow.db")) as connection, connection:
        connection.execute("UPDATE experiments SET artifact_location = 'mlflow-artifacts:/0' WHERE experiment_id = 0")
    old.rename(tmp_path / "new")
    monkeypatch.chdir(tmp_path / "new")
    with pytest.warns(UserWarning, match="was moved or copied"):
        track(text="second")
    assert not old.exists()


def full_store(*_: Any, **__: Any) -> None:
    cause = OperationalError("INSERT", {}, Exception("database or disk is full"))
    raise optuna.exceptions.StorageInternalError("An exception is raised during the commit.") from cause


def full_disk(write: Callable[[Path, bytes], int], name: str) -> Callable[[Path, bytes], int]:
    """Return `Path.write_bytes` on a disk that has no room for files of this name."""

    def write_bytes(path: Path, content: bytes) -> int:
        if path.name == name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(path, content)

    return write_bytes


@pytest.mark.one_in(2)
@pytest.mark.parametrize(
    ("owner", "name", "replacement"),
    [
        (Path, "write_bytes", full_disk(Path.write_bytes, "model.safetensors")),
        (Path, "write_bytes", full_disk(Path.write_bytes, "preprocessing.safetensors")),
        (optuna.Study, "tell", full_store),
        (TrainingRun, "remark", full_store),
    ],
    ids=["model", "preprocessing", "result", "attribute"],
)
def test_a_trial_that_a_full_disk_interrupted_is_given_out_again(
    owner: Any, name: str, replacement: Callable[..., Any], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(owner, name, replacement)
        with pytest.raises(InputError, match="make room") as raised:
            run(QUICK)
    assert str(folder) in str(raised.value)
    assert [t.state.name for t in trials("vae-digits")] == ["RUNNING"]
    assert {r.data.tags["state"] for r in runs("trial")} == {"interrupted"}
    assert [t.state.name for t in run(QUICK).study.trials] == ["COMPLETE"]


def test_an_entry_that_did_not_fit_on_the_disk_leaves_the_journal_as_it_was(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full:
        def __init__(self, stream: Any) -> None:
            self._stream = stream

        def write(self, line: bytes) -> int:
            return int(self._stream.write(line[:10]))

        def __getattr__(self, name: str) -> Any:
            return getattr(self._stream, name)

    journal = Journal("digits", "key")
    journal.add("begin", name="run", tags={}, reopen=True)
    stream = journal._stream
    with monkeypatch.context() as patched:
        patched.setattr(journal, "_stream", Full(stream))
        with pytest.raises(OSError, match=r"No space left.*journal\.jsonl"):
            journal.add("metrics", "metrics 1", values={"a": 1.0}, step=1, time=0)
    assert journal.add("metrics", "metrics 1", values={"a": 1.0}, step=1, time=0)
    journal.close()
    journal = Journal("digits", "key")
    assert [e["op"] for e in journal.entries] == ["begin", "metrics"]
    journal.close()


SMALL_DISK = """
mount -t tmpfs -o size=64m tmpfs disk && cd disk && head -c 63336k /dev/zero > filler || exit 99
{study} 2>&1; echo "first: $?"
rm filler
{study} 2>&1; echo "second: $?"
cp optuna.db ..
"""


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_a_study_on_a_small_disk_ends_with_all_trials_once_there_is_room(workers: int, folder: Path) -> None:
    (folder / "disk").mkdir()
    study = f"{sys.executable} -m pipeline.study --variant vae --trials 4 --epochs 5 --threads 1 --workers {workers}"
    line = ["unshare", "--user", "--map-root-user", "--mount", "bash", "-c", SMALL_DISK.format(study=study)]
    if os.geteuid() == 0:
        del line[1:3]
    done = subprocess.run(line, cwd=folder, env=environment(), capture_output=True, text=True, timeout=300)
    if "first" not in done.stdout:
        needs("disk", f"no small disk can be mounted: {done.stderr}")
    first, second = done.stdout.split("first: 2\n")
    assert "make room" in first, done.stdout
    assert "Traceback" not in done.stdout
    assert second.endswith("second: 0\n"), done.stdout
    assert [t.state.name for t in trials("vae-digits") if not t.state.is_finished()] == []
    assert len(trials("vae-digits")) == 4
    assert "FAIL" not in {t.state.name for t in trials("vae-digits")}


def test_an_older_store_of_optuna_is_refused_with_the_command_that_upgrades_it(folder: Path) -> None:
    run(QUICK)
    with contextlib.closing(sqlite3.connect("optuna.db")) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = 'v2.6.0.a'")
    with pytest.raises(InputError, match=r"optuna storage upgrade --storage sqlite:///optuna\.db"):
        run(QUICK)


@dataclass(frozen=True)
class Niceness:
    def run(self, resources: Resources, report: Callable[[Any], None]) -> int:
        return os.nice(0)


@pytest.mark.slow
def test_workers_of_ray_run_with_the_priority_of_this_process(folder: Path) -> None:
    code = (
        "import os, test_places\n"
        "from pipeline import executor\n"
        "tasks, ends = [('a', test_places.Niceness())], []\n"
        "with executor.open_executor(executor.Compute(executor='ray', threads=1)) as ray:\n"
        "    executor.run_all(ray, lambda: tasks.pop() if tasks else None, print, ends.append)\n"
        "assert ends[0].result == os.nice(0), ends\n"
    )
    paths = {"PYTHONPATH": f"{Path(__file__).parent}{os.pathsep}{environment()['PYTHONPATH']}"}
    subprocess.run([sys.executable, "-c", code], cwd=folder, env=environment() | paths, check=True, timeout=120)


def write(path: Path, seed: int) -> data.Source:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, x=np.random.default_rng(seed).normal(size=(60, 4)))
    return data.Source(place=str(path))


@pytest.mark.slow
def test_two_files_of_one_name_do_not_share_an_experiment_or_a_study(folder: Path, tmp_path: Path) -> None:
    first, second = tmp_path.parent / "one/A/data.npz", tmp_path.parent / "two/A/data.npz"
    request = replace(QUICK, dataset=write(first, 1))
    run(request)
    with pytest.raises(InputError, match="study 'vae-A-data' was started on") as raised:
        run(replace(request, dataset=write(second, 2)))
    assert str(first) in str(raised.value)
    assert str(second) in str(raised.value)
    with pytest.raises(InputError, match="the MLflow experiment 'A-data' belongs to") as raised:
        run(replace(request, dataset=write(second, 2), study_name="another"))
    assert str(first) in str(raised.value)
    assert str(second) in str(raised.value)
    run(replace(request, dataset=write(second, 1)))  # the same data in another place


@pytest.mark.slow
def test_data_that_changed_since_a_study_began_are_named(folder: Path, tmp_path: Path) -> None:
    request = replace(QUICK, dataset=write(tmp_path / "data.npz", 1))
    run(request)
    write(tmp_path / "data.npz", 2)
    with pytest.raises(InputError, match=rf"{tmp_path}/data\.npz changed") as raised:
        run(request)
    assert "digest" not in str(raised.value)
    run(replace(request, study_name="another"))
