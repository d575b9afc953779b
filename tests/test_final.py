"""Finals: what distinguishes them, what is stored of them, and what happens if one fails or is interrupted."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import stores

import variants
from pipeline import data, final, trainer
from pipeline import executor as executors
from pipeline.data import Data
from pipeline.evaluate import report
from pipeline.evaluate.context import Sizes
from pipeline.executor import Compute, Ended, Resources
from pipeline.final import Final, FinalTask
from pipeline.progress import Display
from pipeline.tracker import Tracker
from variants import InputError

VAE = variants.get("vae").config_type
BASE = Final(
    variant="vae", config=VAE(latent=2, width=16, network="mlp"), epochs=2, patience=2, seed=10_000,
    sizes=Sizes(iw_k=5, iw_n=20), parts=("bounds",),
)  # fmt: skip
OTHER_SEED = dataclasses.replace(BASE, seed=10_001)


pytestmark = pytest.mark.usefixtures("no_pictures")


@pytest.fixture(scope="module")
def digits() -> Data:
    return data.load("digits")


def task(what: Final, digits: Data, tracker: Tracker, parent: str = "0", **changes: Any) -> FinalTask:
    made = FinalTask(
        final=what, key=what.key(digits), source="digits", digest=digits.digest, dataset="digits",
        address=tracker.address, parent=parent, tags={"hardware": "x"},
    )  # fmt: skip
    return dataclasses.replace(made, **changes)


def trained(digits: Data, *finals: Final, ready: int = 0, **changes: Any) -> Tracker:
    """Train finals one after the other, below a run of a comparison."""
    tracker = Tracker("digits")
    with (
        tracker.run("all", {"kind": "comparison"}, key="all") as parent,
        executors.open_executor(Compute(threads=1)) as executor,
    ):
        tasks = [task(f, digits, tracker, parent.id, **changes) for f in finals]
        final.train(executor, {t.key: t for t in tasks}, ready, Display())
    assert tracker.catch_up() == []
    return tracker


def test_the_key_of_a_final_depends_on_everything_that_decides_its_scores(digits: Data) -> None:
    changes: list[dict[str, Any]] = [
        {"variant": "beta"}, {"config": VAE(latent=3, width=16)}, {"epochs": 3}, {"patience": 3}, {"seed": 10_001},
        {"sizes": Sizes(iw_k=6, iw_n=20)}, {"parts": ("bounds", "latents")},
    ]  # fmt: skip
    changed = [dataclasses.replace(BASE, **change) for change in changes]
    keys = [f.key(digits) for f in (BASE, *changed)] + [BASE.key(dataclasses.replace(digits, digest="other"))]
    assert len(set(keys)) == len(keys)
    assert dataclasses.replace(BASE, config=dataclasses.replace(BASE.config)).key(digits) == BASE.key(digits)


def test_the_keys_of_finals_in_existing_stores_stay_valid(digits: Data) -> None:
    """A final whose key changes would be trained again, as is right when `SCORES_VERSION` changes, and only then."""
    assert BASE.key(dataclasses.replace(digits, digest="d")) == "d5247cdbffe98fea"
    assert BASE.config_key == "3b7b2158"


def test_finals_of_one_configuration_share_its_key() -> None:
    others = (BASE, OTHER_SEED, dataclasses.replace(BASE, epochs=9))
    assert {f.config_key for f in others} == {final.config_key("vae", BASE.config)}
    assert len({final.config_key("vae", BASE.config), final.config_key("beta", BASE.config),
                final.config_key("vae", VAE(latent=3, width=16))}) == 3  # fmt: skip


def test_a_final_is_a_run_with_tags_scores_and_a_model(digits: Data, folder: Path) -> None:
    tracker = trained(digits, BASE)
    (run,) = stores.runs("final")
    (parent,) = stores.runs("comparison")
    tags = {k: run.data.tags[k] for k in ("variant", "dataset", "seed", "config", "state", "hardware", "key")}
    assert tags == {
        "variant": "vae", "dataset": "digits", "seed": "10000", "config": BASE.config_key, "state": "complete",
        "hardware": "x", "key": BASE.key(digits),
    }  # fmt: skip
    assert run.info.run_name == "vae seed 10000"
    assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert {"test/elbo", "test/iw5", "valid/elbo", "probe/accuracy"} <= run.data.metrics.keys()
    assert (run.data.params["latent"], run.data.params["epochs"]) == ("2", "2")
    (model,) = stores.client().search_logged_models([run.info.experiment_id])
    scores = {m.key: m.value for m in model.metrics or []}
    assert scores["test/elbo"] == run.data.metrics["test/elbo"]
    assert scores["valid/elbo"] == run.data.metrics["valid/elbo"]
    (step,) = {m.step for m in model.metrics or []}
    assert dict(tracker.curve(run.info.run_id, "valid/elbo"))[step] == scores["valid/elbo"]
    assert final.existing(tracker).keys() == {BASE.key(digits)}
    rows = tracker.parquet(run.info.run_id, report.ROWS)
    assert digits.test_rows is not None
    assert rows["row"].tolist() == digits.test_rows.tolist()
    assert rows["elbo"].mean() == pytest.approx(scores["test/elbo"], rel=1e-5)
    assert rows["iw"].notna().sum() == 20
    table = json.loads(tracker.text(run.info.run_id, report.TABLE))
    shown = {row[0]: dict(zip(table["columns"], row, strict=True)) for row in table["data"]}
    assert shown["test/elbo"]["value"] == scores["test/elbo"]
    assert shown["test/elbo"]["standard error"] == pytest.approx(rows["elbo"].std() / len(rows) ** 0.5, rel=1e-5)
    assert (shown["test/elbo"]["n"], shown["test/iw5"]["n"]) == (len(rows), 20)


def test_a_final_that_is_trained_for_its_scores_only_keeps_no_model(
    digits: Data, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trained(digits, BASE, keep=False, ready=3)
    assert capsys.readouterr().out.splitlines() == [
        "1 finals to train on fresh seeds and score on the test split; 3 are already in MLflow",
        "vae seed 10000 done (4 of 4)",
    ]
    (run,) = stores.runs("final")
    assert "test/elbo" in run.data.metrics
    assert stores.client().search_logged_models([run.info.experiment_id]) == []


def test_a_final_that_diverges_is_a_failed_run_and_the_next_is_trained(
    digits: Data, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    train = trainer.train

    def unlucky(*arguments: Any, **options: Any) -> Any:
        if options["seed"] == 10_000:
            raise trainer.Diverged("epoch 1: train/loss is infinite")
        return train(*arguments, **options)

    monkeypatch.setattr(trainer, "train", unlucky)
    tracker = trained(digits, BASE, OTHER_SEED)
    message = "2 finals to train on fresh seeds and score on the test split"
    assert capsys.readouterr().out.splitlines()[0] == message
    tags = {r.data.tags["seed"]: r.data.tags for r in stores.runs("final")}
    assert (tags["10000"]["state"], tags["10001"]["state"]) == ("failed", "complete")
    assert tags["10000"]["reason"] == "epoch 1: train/loss is infinite"
    assert len(final.existing(tracker)) == 2  # one that failed would fail again


def test_a_final_that_was_interrupted_does_not_exist_yet(digits: Data, folder: Path) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    tracker = Tracker("digits")
    with pytest.raises(KeyboardInterrupt):
        task(BASE, digits, tracker).run(Resources("cpu", 1, "."), interrupt)
    assert tracker.catch_up() == []
    assert [r.tags["state"] for r in tracker.find(kind="final")] == ["interrupted"]
    assert final.existing(tracker) == {}


def test_a_final_goes_to_the_store_of_its_task_from_any_folder(
    digits: Data, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker = Tracker("digits")
    (folder / "elsewhere").mkdir()
    monkeypatch.chdir(folder / "elsewhere")
    task(BASE, digits, tracker).run(Resources("cpu", 1, "."), lambda message: None)
    assert tracker.catch_up() == []
    (record,) = tracker.find(kind="final")
    assert "test/elbo" in record.metrics
    assert not Path("mlflow.db").exists()


class DyingExecutor:
    """An executor whose processes all die."""

    slots, hosts = 1, 1

    def submit(self, key: Any, task: Any) -> None:
        self.key = key

    def wait(self, on_progress: Any) -> list[Ended]:
        return [Ended(self.key, died="signal 9")]

    def close(self, patience: float) -> None: ...


def test_a_final_whose_processes_all_die_ends_the_command_with_the_reason(digits: Data, folder: Path) -> None:
    missing = {"k": task(BASE, digits, Tracker("digits"), key="k")}
    with pytest.raises(InputError, match="given up after 5 processes died while running it: signal 9"):
        final.train(DyingExecutor(), missing, 0, Display())
