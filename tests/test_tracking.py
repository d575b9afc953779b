"""What is tracked goes to a journal first: nothing waits for the store, and nothing is lost or stored twice."""

import json
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import stores
import torch
from conftest import Command
from mlflow import MlflowClient

import variants
from pipeline import data
from pipeline.tracker import REOPENED, Run, Tracker, saved_model, sender, unsent_runs, without_credentials
from pipeline.tracker.journal import Journal
from pipeline.tracker.sender import Sender
from variants import InputError

PIXELS = np.zeros((8, 8, 3), np.uint8)


def client() -> MlflowClient:
    return MlflowClient(f"sqlite:///{Path('mlflow.db').absolute()}")


def written(tracker: Tracker) -> Any:
    """Return a run with an entry of each kind, which is interrupted and continued."""
    with suppress(KeyboardInterrupt), tracker.run("a", {"kind": "trial"}, key="a") as run:
        for epoch in (1, 2, 3):
            run.metrics({"time/train_seconds": 1.0, "valid/elbo": -float(epoch)}, epoch)
        run.params({"latent": 2})
        run.picture("samples", PIXELS, 0)
        raise KeyboardInterrupt
    with tracker.run("a", {"kind": "trial"}, key="a") as run:
        for epoch in (2, 3, 4):  # two of them for the second time
            run.metrics({"time/train_seconds": 1.0, "valid/elbo": -float(epoch)}, epoch)
        run.params({"latent": 2})
        run.picture("samples", PIXELS, 0)
        run.text("note.txt", "all of it")
        run.table("table.json", {"x": [1, 2]})
    return run


def whole(run_id: str) -> None:
    stored = client().get_run(run_id)
    assert (stored.info.status, stored.data.tags["state"]) == ("FINISHED", "complete")
    assert "reason" not in stored.data.tags
    assert [m.step for m in client().get_metric_history(run_id, "valid/elbo")] == [1, 2, 3, 4]
    assert stored.data.params == {"latent": "2"}
    assert len(client().list_artifacts(run_id, "images")) == 2  # the picture and its thumbnail
    assert Path(client().download_artifacts(run_id, "note.txt")).read_text() == "all of it"
    assert client().load_table("1", "table.json", [run_id])["x"].tolist() == [1, 2]


def test_a_run_that_is_begun_anew_is_one_run_with_each_point_once(folder: Path) -> None:
    tracker = Tracker("digits")
    run = written(tracker)
    whole(run.id)
    assert len(tracker.find(kind="trial")) == 1
    assert unsent_runs() == []


def test_while_the_store_is_away_nothing_waits_and_later_everything_is_sent(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker = Tracker("digits")
    send, away = Sender.send, [True]

    def flaky(self: Sender, journal: Journal) -> int:
        if away[0]:
            raise ConnectionError("the server is away")
        return send(self, journal)

    monkeypatch.setattr(Sender, "send", flaky)
    begin = time.monotonic()
    with tracker.run("b", {"kind": "trial"}, key="b") as run:
        run.metrics({"valid/elbo": -1.0}, 1)
    assert time.monotonic() - begin < 4
    assert tracker.find(kind="trial") == []
    assert unsent_runs() == [("digits", "b")]
    away[0] = False
    assert _closed(run)
    (record,) = tracker.find(kind="trial")
    assert record.metrics["valid/elbo"] == -1
    assert record.tags["state"] == "complete"
    assert unsent_runs() == []


def test_a_run_that_the_store_refuses_does_not_hold_up_the_others(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker = Tracker("digits")
    send = Sender.send

    def picky(self: Sender, journal: Journal) -> int:
        if journal.key == "bad":
            raise ValueError("never")
        return send(self, journal)

    monkeypatch.setattr(Sender, "send", picky)
    with tracker.run("bad", {"kind": "trial"}, key="bad"), tracker.run("good", {"kind": "trial"}, key="good") as run:
        run.metrics({"valid/elbo": -1.0}, 1)
    assert _closed(run)
    assert [r.tags["state"] for r in tracker.find(kind="trial")] == ["complete"]
    assert unsent_runs() == [("digits", "bad")]


def _closed(run: Run) -> bool:
    """Wait until the store has all of a run that ended, and return whether it has."""
    with run._journal.changed:
        return run._journal.changed.wait_for(lambda: run._journal.closed, 30)


def test_a_store_that_is_away_is_tried_again_after_growing_delays(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    delays = []
    sleep = time.sleep

    def away(self: Sender, journal: Journal) -> int:
        raise ConnectionError("the server is away")

    def short(seconds: float) -> None:
        if threading.current_thread() is tracker.sender._thread:
            delays.append(seconds)
        sleep(0.01)

    tracker = Tracker("digits")
    with monkeypatch.context() as patch:
        patch.setattr(Sender, "send", away)
        patch.setattr(sender, "time", SimpleNamespace(sleep=short))
        with tracker.run("a", {"kind": "trial"}, key="a") as run:
            pass
        while len(delays) < 7:
            sleep(0.01)
    assert delays[:7] == [0.5, 1, 2, 4, 8, 15, 15]
    assert _closed(run)
    assert [r.tags["state"] for r in tracker.find(kind="trial")] == ["complete"]


def test_an_error_of_the_store_is_reported_without_credentials(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(self: Sender, journal: Journal) -> int:
        raise ConnectionError("no answer from http://me:secret@host:5000/x\nand more lines")

    tracker = Tracker("digits")
    with monkeypatch.context() as patch:
        patch.setattr(Sender, "send", refused)
        with tracker.run("a", {"kind": "trial"}, key="a") as run:
            pass
        assert run.wait(5) == "ConnectionError: no answer from http://host:5000/x"
    assert _closed(run)


def test_addresses_are_shown_without_their_passwords() -> None:
    assert without_credentials("postgresql://me:secret@host/db") == "postgresql://me:***@host/db"
    assert without_credentials("./a folder") == "./a folder"


def test_a_later_process_sends_the_journal_of_a_dead_one(folder: Path, command: Command) -> None:
    """The dead process had written half a line, and the store has the run already."""
    tracker = Tracker("digits")
    journal = Journal("digits", "dead")
    journal.add("begin", name="dead", tags={"kind": "trial"}, reopen=True)
    journal.add("metrics", "m", values={"valid/elbo": -2.0}, step=1, time=1)
    journal.close()
    with (journal.folder / "journal.jsonl").open("a") as stream:
        stream.write('{"op": "metr')
    tracker.client.create_run(tracker.experiment, tags={"kind": "trial", "key": "dead"}, run_name="dead")
    assert tracker.catch_up() == []
    (record,) = tracker.find(kind="trial")
    assert record.tags["state"] == "interrupted"
    assert record.metrics["valid/elbo"] == -2
    assert client().get_run(record.id).info.status == "KILLED"


HALF = ['{"op": "metr', '{"op": "metrics", "label": "m2", "values": {"valid/elbo": -2.0}, "step": 2, "time": 1}']


@pytest.mark.parametrize("half", HALF, ids=["within-a-word", "before-its-line-break"])
def test_half_a_line_is_removed_before_more_is_written(half: str, folder: Path) -> None:
    """A process dies while it writes a line, the next one continues and dies too, and a third one sends everything."""
    with suppress(KeyboardInterrupt), Tracker("digits").run("cut", {"kind": "trial"}, key="cut") as run:
        run.metrics({"valid/elbo": -1.0}, 1)
        raise KeyboardInterrupt
    assert _closed(run)
    path = run._journal.folder / "journal.jsonl"
    with path.open("a") as stream:
        stream.write(half)

    second = Journal("digits", "cut")
    assert [e["op"] for e in second.entries] == ["begin", "metrics", "tags", "end"]
    second.add("begin", name="cut", tags={"kind": "trial"}, reopen=True)
    second.add("metrics", "m3", values={"valid/elbo": -3.0}, step=3, time=3)
    second.close()

    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["op"] for line in lines] == ["begin", "metrics", "tags", "end", "begin", "metrics"]
    assert Tracker("digits").catch_up() == []
    (record,) = Tracker("digits").find(kind="trial")
    assert Tracker("digits").curve(record.id, "valid/elbo") == [(1, -1.0), (3, -3.0)]
    assert record.tags["state"] == "interrupted"


@pytest.mark.slow
def test_sync_reports_what_it_did(folder: Path, command: Command) -> None:
    assert command("sync").stdout == "everything is in MLflow\n"
    journal = Journal("digits", "dead")
    journal.add("begin", name="dead", tags={"kind": "trial"}, reopen=True)
    journal.close()
    done = command("sync")
    assert (done.returncode, done.stdout) == (0, "runs checked: 1; not sent completely: 0\n")
    assert [r.tags["state"] for r in Tracker("digits").find(kind="trial")] == ["interrupted"]


def test_sending_a_line_twice_does_no_harm(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after a call whose answer was lost."""
    send = Sender.send

    def twice(self: Sender, journal: Journal) -> int:
        send(self, journal)
        return send(self, journal)

    monkeypatch.setattr(Sender, "send", twice)
    loaded = data.load("digits")
    tracker = Tracker("digits")
    model = variants.build("vae", variants.get("vae").config_type(latent=2, width=8), loaded.spec)
    run = written(tracker)
    whole(run.id)
    with tracker.run("m", {"kind": "trial"}, key="m") as run:
        run.dataset(loaded)
        run.model(model, loaded, {"valid/elbo": -1.0}, 3)
    assert len(tracker.find(kind="trial")) == 2
    assert len(client().search_logged_models(["1"])) == 1
    stored = client().get_run(run.id)
    assert len(stored.outputs.model_outputs) == len(stored.inputs.dataset_inputs) == 1


def test_names_cannot_leave_their_folder(folder: Path) -> None:
    for name in ("../x", "a/b", "..", "", "/etc"):
        with pytest.raises(InputError, match="cannot name a folder"):
            Journal("digits", name)


def test_two_processes_do_not_write_one_run(folder: Path) -> None:
    first = Journal("digits", "a")
    with pytest.raises(InputError, match="written by another process"):
        Journal("digits", "a", patience=0)
    first.close()


def test_a_run_that_another_machine_completed_stays_complete(folder: Path) -> None:
    """A process that was taken for dead, and ends late, does not undo what was done since."""
    tracker = Tracker("digits")
    with tracker.run("late", {"kind": "final"}, key="late") as run:
        name = run.id
        stores.client().set_tag(name, "state", "complete")
        run.state = "interrupted"
    assert run.wait(30) == ""
    assert stores.client().get_run(name).data.tags["state"] == "complete"


def test_a_process_that_died_before_its_first_entry_does_not_block_its_run(folder: Path) -> None:
    tracker = Tracker("digits")
    for entry in ("", '{"op": "end", "label": "", "state": "interrupted", "time": 1}\n'):
        place = Path("mlruns/.runs/digits/early")
        place.mkdir(parents=True)
        (place / "journal.jsonl").write_text(entry)
        assert tracker.catch_up() == []
        assert not place.exists()
    with tracker.run("early", {"kind": "final"}, key="early") as run:
        pass
    assert stores.client().get_run(run.id).data.tags["state"] == "complete"


def complete(tracker: Tracker, key: str = "a", **tags: str) -> str:
    """Write a run with one metric that is complete. Returns its id."""
    with tracker.run(key, {"kind": "trial", **tags}, key=key) as run:
        run.metrics({"valid/elbo": -1.0}, 1)
    assert run.wait(30) == ""
    (record,) = tracker.find(key=key)
    return record.id


def test_a_deleted_experiment_is_refused_with_what_restores_it(folder: Path) -> None:
    tracker = Tracker("digits")
    tracker.client.delete_experiment(tracker.experiment)
    with pytest.raises(InputError, match="'digits' is deleted; `mlflow experiments restore` restores it"):
        Tracker("digits")


def test_what_is_added_to_a_reopened_run_joins_it_and_leaves_its_state(folder: Path) -> None:
    tracker = Tracker("digits")
    name = complete(tracker)
    reopened = tracker.reopen(name)
    reopened.metrics({"test/elbo": -2.0}, 0)
    reopened.text("deep/note.txt", "more")
    assert reopened.close() == ""
    (record,) = tracker.find()
    assert record.id == name
    assert record.metrics == {"valid/elbo": -1.0, "test/elbo": -2.0}
    assert record.tags["state"] == "complete"
    assert tracker.text(name, "deep/note.txt") == "more"
    assert client().get_run(name).info.status == "FINISHED"
    assert unsent_runs() == []


def test_a_process_that_died_while_a_run_was_reopened_leaves_its_state_too(folder: Path) -> None:
    tracker = Tracker("digits")
    name = complete(tracker)
    journal = Journal("digits", f"{REOPENED}{name}")
    journal.run_id = name
    journal.add("begin", name="", tags={}, reopen=False)
    journal.add("metrics", "m", values={"test/elbo": -2.0}, step=0, time=1)
    journal.close()
    assert tracker.catch_up() == []
    (record,) = tracker.find()
    assert (record.id, record.tags["state"], record.metrics["test/elbo"]) == (name, "complete", -2.0)


def test_another_machine_does_not_write_epochs_again_that_the_store_has(folder: Path) -> None:
    """It does not have the journal of the run, whose curves are in the store."""
    tracker = Tracker("digits")
    for factor, epochs in ((-1.0, (1, 2)), (-10.0, (1, 2, 3))):
        with tracker.run("a", {"kind": "trial"}, key="a") as run:
            for epoch in epochs:
                run.metrics({"time/train_seconds": 1.0, "valid/elbo": factor * epoch}, epoch)
            if len(epochs) == 3:
                run.metrics({"valid/kl": 1.0}, 2)  # this is not an epoch
        assert run.wait(30) == ""
        assert unsent_runs() == []
    (record,) = tracker.find(kind="trial")
    assert tracker.curve(record.id, "valid/elbo") == [(1, -1.0), (2, -2.0), (3, -30.0)]
    assert tracker.curve(record.id, "valid/kl") == [(2, 1.0)]


def test_epochs_that_end_in_quick_succession_are_sent_in_few_calls(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call takes milliseconds of the training's processor. What a run begins with is sent at once."""
    tracker, calls = Tracker("digits"), []
    send = Sender.send
    monkeypatch.setattr(
        Sender, "send", lambda self, journal: calls.append(journal.unsent[0]["op"]) or send(self, journal)
    )
    with tracker.run("quick", {"kind": "trial"}, key="quick") as run:
        run.params({"latent": 2})
        assert run.id
        for epoch in range(1, 41):
            run.metrics({"valid/elbo": -float(epoch)}, epoch)
            time.sleep(0.005)
    assert run.wait(30) == ""
    assert calls.count("metrics") <= 3
    assert [step for step, _ in tracker.curve(run.id, "valid/elbo")] == list(range(1, 41))


def test_more_points_than_one_call_accepts_all_arrive(folder: Path) -> None:
    tracker = Tracker("digits")
    with tracker.run("many", {"kind": "trial"}, key="many") as run:
        for step in range(30):
            run.metrics({f"valid/x{i}": float(step * i) for i in range(100)}, step)
    assert run.wait(60) == ""
    (record,) = tracker.find(kind="trial")
    assert len(record.metrics) == 100
    for i in (0, 57, 99):
        assert tracker.curve(record.id, f"valid/x{i}") == [(s, float(s * i)) for s in range(30)]


def test_a_run_that_continues_is_running_and_loses_the_state_in_which_it_ended(folder: Path) -> None:
    tracker = Tracker("digits")
    with suppress(KeyboardInterrupt), tracker.run("a", {"kind": "trial"}, key="a"):
        raise KeyboardInterrupt("ctrl-c")
    assert tracker.catch_up() == []
    (record,) = tracker.find(kind="trial")
    assert (record.tags["state"], record.tags["reason"]) == ("interrupted", "KeyboardInterrupt: ctrl-c")
    with tracker.run("a", {"kind": "trial", "more": "tags"}, key="a") as run:
        assert run.id == record.id
        assert run._journal.wait(30)
        stored = client().get_run(record.id)
        assert stored.info.status == "RUNNING"
        assert not {"state", "reason"} & stored.data.tags.keys()
        run.params({"long": "x" * 7000})
        run.state = "pruned"
    assert run.wait(30) == ""
    stored = client().get_run(record.id)
    assert (stored.info.status, stored.data.tags["state"], stored.data.tags["more"]) == ("KILLED", "pruned", "tags")
    assert stored.data.params["long"] == "x" * 6000
    assert stored.info.end_time >= stored.info.start_time


def test_an_error_marks_the_run_as_failed_and_is_raised(folder: Path) -> None:
    tracker = Tracker("digits")
    with pytest.raises(ZeroDivisionError), tracker.run("a", {"kind": "trial"}, key="a") as run:
        _ = 1 / 0
    assert run.wait(30) == ""
    (record,) = tracker.find(kind="trial")
    assert (record.tags["state"], record.tags["reason"]) == ("failed", "ZeroDivisionError: division by zero")
    assert client().get_run(record.id).info.status == "FAILED"


def test_a_model_is_loaded_with_its_scores_and_its_data(folder: Path) -> None:
    loaded = data.load("digits")
    tracker = Tracker("digits")
    trained = variants.build("vae", variants.get("vae").config_type(latent=2, width=8), loaded.spec)
    with tracker.run("m", {"kind": "trial"}, key="m") as run:
        run.dataset(loaded)
        run.model(trained, loaded, {"valid/elbo": -1.5}, 3)
    assert run.wait(30) == ""
    (record,) = tracker.find(kind="trial")
    assert record.model is not None
    copy = tracker.model(record.model, folder / "x" / "y")
    assert all(torch.equal(a, b) for a, b in zip(trained.parameters(), copy.parameters(), strict=True))
    (model,) = client().search_logged_models([tracker.experiment])
    assert [(m.key, m.value, m.step) for m in model.metrics or []] == [("valid/elbo", -1.5, 3)]
    assert (model.name, model.source_run_id) == ("vae-digits", record.id)
    assert {"variant": "vae", "dataset": "digits"}.items() <= model.tags.items()
    (dataset,) = client().get_run(record.id).inputs.dataset_inputs
    sizes = {part: len(getattr(loaded, part)) for part in ("train", "valid", "test")}
    assert json.loads(dataset.dataset.profile) == {**sizes, "classes": 10}
    reopened, path, source, digest = saved_model(record.id, folder / "z")
    assert variants.load(str(path)).config == trained.config
    assert (data.Source.parse(source).place, digest) == ("digits", loaded.digest[:36])
    reopened.metrics({"test/elbo": -3.0}, 0)
    assert reopened.close() == ""
    assert tracker.find(kind="trial")[0].metrics["test/elbo"] == -3.0

    for _ in range(2):  # the second time, the version exists
        tracker.register("vae-digits", record.model, "champion")
    (version,) = client().search_model_versions("name = 'vae-digits'")
    assert (version.run_id, version.source) == (record.id, model.artifact_location)
    assert client().get_model_version_by_alias("vae-digits", "champion").version == version.version


def test_a_run_without_a_model_and_a_run_that_does_not_exist_are_refused(folder: Path) -> None:
    name = complete(Tracker("digits"))
    with pytest.raises(InputError, match=r"this run \(a\) holds no model; a study keeps the models of its best trials"):
        saved_model(name, folder / "x")
    with pytest.raises(InputError, match="has no such run"):
        saved_model("0" * 32, folder / "x")


def test_runs_are_found_by_all_their_tags_oldest_first(folder: Path) -> None:
    tracker = Tracker("digits")
    for key, study in (("c", "one"), ("a", "two"), ("b", "one")):
        complete(tracker, key, study=study)
    assert [r.tags["key"] for r in tracker.find(kind="trial")] == ["c", "a", "b"]
    assert [r.tags["key"] for r in tracker.find(kind="trial", study="one")] == ["c", "b"]
    assert tracker.find(kind="final") == []


def test_an_entry_with_a_label_is_written_once_and_others_each_time(folder: Path) -> None:
    journal: Any = Journal("digits", "a")
    assert journal.is_new
    assert journal.add("begin", name="a", tags={}, reopen=True)
    assert journal.add("params", "p", values={"x": "1"})
    assert not journal.add("params", "p", values={"x": "2"})
    assert journal.add("tags", values={"y": "1"})
    assert journal.add("tags", values={"y": "2"})
    journal.mark_sent(2)
    journal.run_id = "r"
    journal.close()
    second = Journal("digits", "a")  # of the next process
    assert not second.is_new
    assert not second.add("params", "p", values={"x": "3"})
    assert (second.run_id, [e["op"] for e in second.unsent]) == ("r", ["tags", "tags"])
    assert (second.begun, second.ended) == (True, False)
    second.add("end", state="interrupted", time=1)
    second.mark_sent(3)
    second.close()
    assert unsent_runs() == [("digits", "a")]  # its folder stays, because an interrupted run may continue
    last = Journal("digits", "a")
    last.add("begin", name="a", tags={}, reopen=True)
    assert not last.ended
    last.add("end", state="complete", time=2)
    last.mark_sent(2)
    last.close()
    assert unsent_runs() == []
    assert not last.folder.exists()
