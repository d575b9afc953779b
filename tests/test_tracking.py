"""What is tracked goes to a journal first: nothing waits for the store, and nothing is lost or stored twice."""

import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import stores
import torch
from conftest import Command
from mlflow import MlflowClient

import variants
from pipeline import data, trainer, training_run
from pipeline.tracker import Tracker, unsent_runs
from pipeline.tracker.journal import Journal
from pipeline.tracker.sender import Sender
from pipeline.training_run import TrainingPlan, TrainingRun
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


def _closed(run: Any) -> bool:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and not run._journal.closed:
        time.sleep(0.1)
    return bool(run._journal.closed)


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


def test_half_a_line_is_removed_before_more_is_written(folder: Path) -> None:
    journal = Journal("digits", "torn")
    journal.add("begin", name="torn", tags={}, reopen=True)
    journal.close()
    with (journal.folder / "journal.jsonl").open("a") as stream:
        stream.write('{"op": "metr')
    for number in (1, 2):
        journal = Journal("digits", "torn")
        journal.add("params", values={"number": str(number)})
        journal.close()
    assert [e["op"] for e in Journal("digits", "torn").entries] == ["begin", "params", "params"]


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
    model = trainer.build("vae", variants.get("vae").config_type(latent=2, width=8), loaded.spec)
    run = written(tracker)
    whole(run.id)
    with tracker.run("m", {"kind": "trial"}, key="m") as run:
        run.dataset(loaded)
        run.model(model, {"valid/elbo": -1.0}, 3)
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


@pytest.mark.parametrize("name", ["vae", pytest.param("aae", marks=pytest.mark.slow)])
def test_a_training_interrupted_three_times_ends_in_the_same_weights(
    name: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_run, "SAVE_EVERY", 0.0)
    loaded = data.load("digits")
    plan = TrainingPlan(
        variant=name, config=variants.get(name).config_type(latent=3, width=16), epochs=9, patience=4, seed=7
    )
    tracker = Tracker("digits")

    def trained(key: str, cuts: list[int]) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
        for cut in cuts:
            with suppress(KeyboardInterrupt), tracker.run(key, {"kind": "trial"}, key=key) as run:
                for epoch in TrainingRun(plan, loaded, run).epochs():
                    if epoch.number == cut:
                        raise KeyboardInterrupt
        with tracker.run(key, {"kind": "trial"}, key=key) as run:
            training = TrainingRun(plan, loaded, run)
            for _ in training.epochs():
                pass
            scores = training.scores()
            del scores["time/trial_seconds"]
            return training.variant.state_dict(), scores

    whole, scores = trained("whole", [])
    pieces, scores_of_pieces = trained("pieces", [2, 5, 6])
    assert all(torch.equal(whole[k], pieces[k]) for k in whole)
    assert scores == scores_of_pieces
    curves = {r.tags["key"]: tracker.curve(r.id, "valid/reconstruction") for r in tracker.find(kind="trial")}
    assert curves["whole"] == curves["pieces"]


def test_a_training_that_takes_too_long_fails_with_its_reason(folder: Path) -> None:
    loaded = data.load("digits")
    plan = TrainingPlan(
        variant="vae", config=variants.get("vae").config_type(latent=2), epochs=50, patience=50, seed=0, timeout=1e-6
    )
    with Tracker("digits").run("slow", {"kind": "trial"}) as run:
        with pytest.raises(training_run.TrainingTooLong) as raised:
            list(TrainingRun(plan, loaded, run).epochs())
        training_run.failed(run, raised.value)
    (record,) = Tracker("digits").find(kind="trial")
    assert record.tags["state"] == "failed"
    assert "after epoch 1" in record.tags["reason"]


def test_a_full_disk_is_not_the_trainings_fault(folder: Path) -> None:
    with pytest.raises(OSError, match="No space"), Tracker("digits").run("full", {"kind": "trial"}) as run:
        training_run.failed(run, OSError(28, "No space left on device"))


def test_no_pickle_is_read(folder: Path) -> None:
    """A checkpoint that is a pickle is refused, whatever it would do."""
    from pipeline import checkpoint

    class Evil:
        def __reduce__(self) -> Any:
            return (Path("evil").write_text, ("ran",))

    torch.save({"x": Evil()}, "bad.safetensors")
    with pytest.raises(InputError, match="damaged"):
        checkpoint.load(Path("bad.safetensors"))
    assert not Path("evil").exists()


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
