"""A training in an MLflow run: what it logs, how it continues after an interruption, and how it fails."""

import dataclasses
import re
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import safetensors
import safetensors.torch
import stores
import torch

import variants
from pipeline import checkpoint, data, speed, trainer, training_run
from pipeline.data import Data
from pipeline.evaluate import pictures, quick
from pipeline.tracker import Record, Tracker, unsent_runs
from pipeline.training_run import TrainingPlan, TrainingRun
from variants import InputError

VAE = variants.get("vae").config_type
TINY = TrainingPlan(variant="vae", config=VAE(latent=2, width=8), epochs=6, patience=9, seed=0)
OVERFITTING = TrainingPlan(
    variant="vae", config=VAE(latent=4, width=128, lr=1e-2, batch=20), epochs=300, patience=3, seed=0
)
PIXEL = torch.zeros(8, 8, 3, dtype=torch.uint8).numpy()


@pytest.fixture(scope="module")
def digits() -> Data:
    return data.load("digits")


@pytest.fixture(scope="module")
def small(digits: Data) -> Data:
    """Only 60 training examples, on which `OVERFITTING` has its best epoch early."""
    return dataclasses.replace(digits, train=digits.train[slice(0, 60)])


def trained(key: str, plan: TrainingPlan, loaded: Data, *cuts: int) -> tuple[TrainingRun, dict[str, float]]:
    """Train in a run with that key, interrupted after the epochs `cuts`. Returns the training and its scores."""
    for cut in cuts:
        with suppress(KeyboardInterrupt), Tracker("digits").run(key, {"kind": "trial"}, key=key) as run:
            for epoch in TrainingRun(plan, loaded, run).epochs():
                if epoch.number == cut:
                    raise KeyboardInterrupt
    with Tracker("digits").run(key, {"kind": "trial"}, key=key) as run:
        training = TrainingRun(plan, loaded, run)
        for _ in training.epochs():
            pass
        scores = training.scores()
    assert run.wait(30) == ""
    return training, {k: v for k, v in scores.items() if not k.startswith("time/")}


def record_of(key: str) -> Record:
    (record,) = Tracker("digits").find(key=key)
    return record


@pytest.mark.usefixtures("no_pictures")
def test_a_curve_ends_in_the_weights_that_are_kept(digits: Data, small: Data, folder: Path) -> None:
    """If an earlier epoch was best, its scores are logged again, at the step after the last epoch."""
    training, scores = trained("kept", OVERFITTING, small)
    last = training.epoch
    assert training.best_epoch < last
    record, tracker = record_of("kept"), Tracker("digits")
    for metric in ("valid/elbo", "valid/reconstruction", "valid/kl"):
        curve = tracker.curve(record.id, metric)
        assert [step for step, _ in curve] == list(range(1, last + 2)), metric
        values = dict(curve)
        assert values[last + 1] == values[training.best_epoch] == training.kept[metric] == scores[metric], metric
        assert values[last] != values[last + 1], metric
        assert record.metrics[metric] == training.kept[metric], metric
    assert dict(tracker.curve(record.id, "probe/accuracy")).keys() == {last + 1}
    totals = trainer.score(training.variant, digits, digits.valid, seed=0)
    assert float(totals.sums["kl"] / totals.count) == pytest.approx(training.kept["valid/kl"], rel=1e-6)


@pytest.mark.usefixtures("no_pictures")
def test_a_curve_whose_last_epoch_was_best_has_no_further_point(digits: Data, folder: Path) -> None:
    training, _ = trained("last", dataclasses.replace(TINY, epochs=3), digits)
    assert training.best_epoch == training.epoch == 3
    record, tracker = record_of("last"), Tracker("digits")
    curve = tracker.curve(record.id, "valid/elbo")
    assert {step for step, _ in curve} == {1, 2, 3}
    assert {value for step, value in curve if step == 3} == {training.kept["valid/elbo"]}
    assert dict(tracker.curve(record.id, "probe/accuracy")).keys() == {3}
    assert unsent_runs() == []


def test_an_interrupted_training_continues_after_the_last_checkpoint(
    digits: Data, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An epoch is saved once the caller has seen it. The next process knows all that was known then."""
    monkeypatch.setattr(training_run, "SAVE_EVERY", 0.0)
    with suppress(KeyboardInterrupt), Tracker("digits").run("cut", {"kind": "trial"}, key="cut") as run:
        first = TrainingRun(TINY, digits, run)
        for epoch in first.epochs():
            if epoch.number == 5:
                raise KeyboardInterrupt
            known = epoch.number, first.best_epoch, first.kept, first.seconds
    saved = shutil.copy(run.checkpoint, "saved")
    with Tracker("digits").run("cut", {"kind": "trial"}, key="cut") as run:
        second = TrainingRun(TINY, digits, run)
        assert (second.epoch, second.best_epoch, second.kept, second.seconds) == known
        assert second.seconds > 0
        assert [e.number for e in second.epochs()] == [5, 6]
        assert second.seconds > known[-1]
    with Tracker("digits").run("enough", {"kind": "trial"}) as run:
        enough = dataclasses.replace(TINY, epochs=2, timeout=1000.0)
        assert [e.number for e in TrainingRun(enough, digits, run).epochs()] == [1, 2]
    with Tracker("digits").run("late", {"kind": "trial"}) as run:
        shutil.copy(saved, run.checkpoint)
        late = dataclasses.replace(TINY, timeout=known[-1] * 0.99)
        with pytest.raises(training_run.TrainingTooLong, match="after epoch 5"):
            list(TrainingRun(late, digits, run).epochs())


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize("name", ["vae", pytest.param("aae", marks=pytest.mark.slow)])
def test_a_training_interrupted_three_times_ends_in_the_same_weights(
    name: str, digits: Data, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_run, "SAVE_EVERY", 0.0)
    config = variants.get(name).config_type(latent=3, width=16)
    plan = TrainingPlan(variant=name, config=config, epochs=9, patience=4, seed=7)
    whole, scores = trained("whole", plan, digits)
    pieces, scores_of_pieces = trained("pieces", plan, digits, 2, 5, 6)
    assert all(torch.equal(a, b) for a, b in zip(whole.variant.parameters(), pieces.variant.parameters(), strict=True))
    assert scores_of_pieces == scores
    curves = [Tracker("digits").curve(record_of(key).id, "valid/reconstruction") for key in ("whole", "pieces")]
    assert curves[0] == curves[1]


def test_an_interruption_after_the_best_epoch_changes_nothing_that_is_logged(
    small: Data, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This includes the picture of the KL by dimension, which belongs to the best epoch."""
    monkeypatch.setattr(training_run, "SAVE_EVERY", 0.0)
    monkeypatch.setattr(pictures, "all_of", lambda variant, loaded, kl: {} if kl is None else {"kl": PIXEL})
    whole, scores = trained("whole", OVERFITTING, small)
    pieces, scores_of_pieces = trained("pieces", OVERFITTING, small, whole.epoch - 1)
    assert whole.best_epoch == pieces.best_epoch < whole.epoch - 1
    assert scores_of_pieces == scores
    for key in ("whole", "pieces"):
        files = stores.client().list_artifacts(record_of(key).id, "images")
        assert {f.path.split("+")[0] for f in files} == {"images/kl"}


@pytest.mark.usefixtures("no_pictures")
def test_a_training_that_has_finished_is_only_loaded(digits: Data, folder: Path) -> None:
    path = folder / "finished.safetensors"
    trainings = []
    for key in ("first", "second"):
        with Tracker("digits").run(key, {"kind": "trial"}, key=key) as run:
            trainings.append(TrainingRun(TINY, digits, run, path))
            numbers = [e.number for e in trainings[-1].epochs()]
        assert numbers == ([1, 2, 3, 4, 5, 6] if key == "first" else [])
    first, second = trainings
    assert (second.kept, second.best_epoch, second.epoch) == (first.kept, first.best_epoch, first.epoch)
    weights = zip(first.variant.parameters(), second.variant.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in weights)


def test_a_run_has_the_configuration_and_the_data_of_its_training(digits: Data, folder: Path) -> None:
    plan = dataclasses.replace(TINY, lr_schedule="cosine")
    with Tracker("digits").run("a", {"kind": "trial"}, key="a") as run:
        training = TrainingRun(plan, digits, run)
    weights = sum(p.numel() for p in training.variant.parameters())
    expected = {"latent": 2, "width": 8, "epochs": 6, "weights": weights, "schedule": "cosine"}
    record = record_of("a")
    assert {name: record.params[name] for name in expected} == {name: str(value) for name, value in expected.items()}
    (dataset,) = stores.client().get_run(record.id).inputs.dataset_inputs
    assert (dataset.dataset.name, dataset.dataset.digest) == ("digits", digits.digest[:36])


@pytest.mark.parametrize(("name", "condition"), [("cvae", "y"), ("vae", None)])
def test_a_run_states_what_its_elbo_is_conditioned_on(
    name: str, condition: str | None, digits: Data, folder: Path
) -> None:
    plan = dataclasses.replace(TINY, variant=name, config=variants.get(name).config_type(latent=2, width=8))
    with Tracker("digits").run(name, {"kind": "trial"}, key=name) as run:
        TrainingRun(plan, digits, run)
    assert record_of(name).tags.get("conditioned_on") == condition


@pytest.fixture
def mixed_table(folder: Path) -> Path:
    """A table of real values, counts, categories and binary values, each with missing values."""
    generator = np.random.default_rng(0)
    z = generator.standard_normal(300)
    table = pandas.DataFrame({
        "height": 40 * z + generator.standard_normal(300), "visits": generator.poisson(np.exp(1 + z)),
        "colour": np.array(["red", "green", "blue"])[generator.integers(0, 3, 300)],
        "smokes": np.where(z > 0, "yes", "no"),
    })  # fmt: skip
    table.mask(generator.random(table.shape) < 0.15).to_csv("mixed.csv", index=False)
    return folder / "mixed.csv"


@pytest.mark.usefixtures("no_pictures")
def test_the_elbo_of_a_mixed_table_has_parts_by_kind_and_is_in_units_of_the_source(mixed_table: Path) -> None:
    loaded = data.load(str(mixed_table))
    _, scores = trained("mixed", dataclasses.replace(TINY, epochs=2), loaded)
    kinds = ("real", "count", "category", "binary")
    total = sum(scores[f"valid/reconstruction_{kind}"] for kind in kinds)
    assert total == pytest.approx(scores["valid/reconstruction"], rel=1e-5)
    assert loaded.valid.observed is not None
    known = loaded.valid.observed[:, loaded.spec.kinds["real"]].float().mean()
    deviation = float(loaded.preprocessing.scale[0])
    expected = scores["valid/elbo"] - float(known) * np.log(deviation)
    assert scores["valid/elbo_units"] == pytest.approx(expected, rel=1e-5)
    assert record_of("mixed").metrics["valid/elbo_units"] == scores["valid/elbo_units"]


@pytest.mark.usefixtures("no_pictures")
def test_data_of_one_kind_whose_likelihood_is_a_probability_have_neither(digits: Data, folder: Path) -> None:
    _, scores = trained("digits", dataclasses.replace(TINY, epochs=1), digits)
    assert "valid/elbo_units" not in scores
    assert not [name for name in scores if name.startswith("valid/reconstruction_")]


@pytest.mark.usefixtures("no_pictures")
def test_a_model_that_is_no_better_than_trivial_or_has_collapsed_is_called_so(digits: Data, folder: Path) -> None:
    """After three epochs a VAE exceeds independent pixels, unless a very large weight of the KL makes it collapse."""
    good = dataclasses.replace(TINY, config=VAE(latent=8, width=128, lr=5e-3, batch=50), epochs=3)
    config = variants.get("beta").config_type(latent=2, width=8, beta=1e4, lr=1e-2)  # type: ignore[call-arg]
    bad = dataclasses.replace(TINY, variant="beta", config=config, epochs=3)
    trivial = {"independent pixels": quick.baselines(digits)["baseline/valid_independent"]}
    remarks = {}
    for key, plan in (("good", good), ("bad", bad)):
        with Tracker("digits").run(key, {"kind": "trial"}, key=key) as run:
            training = TrainingRun(plan, digits, run)
            for _ in training.epochs():
                pass
            remarks[key] = training.remark(training.scores(), trivial)
        assert run.wait(30) == ""
        assert record_of(key).tags.get("remark", "") == remarks[key]
    assert remarks["good"] == ""
    assert remarks["bad"].startswith("collapsed; no better than trivial (independent pixels: -")


def test_a_training_that_takes_too_long_fails_with_its_reason(digits: Data, folder: Path) -> None:
    with Tracker("digits").run("slow", {"kind": "trial"}, key="slow") as run:
        with pytest.raises(training_run.TrainingTooLong) as raised:
            list(TrainingRun(dataclasses.replace(TINY, timeout=1e-6), digits, run).epochs())
        training_run.failed(run, raised.value)
    tags = record_of("slow").tags
    assert tags["state"] == "failed"
    assert "after epoch 1" in tags["reason"]


def test_a_full_disk_is_not_a_failure_of_the_training(folder: Path) -> None:
    with pytest.raises(OSError, match="No space"), Tracker("digits").run("full", {"kind": "trial"}) as run:
        training_run.failed(run, OSError(28, "No space left on device"))


def test_an_error_without_a_message_is_reported_by_its_class(folder: Path) -> None:
    with Tracker("digits").run("full", {"kind": "trial"}, key="full") as run:
        assert training_run.failed(run, MemoryError()) == "MemoryError"
    tags = record_of("full").tags
    assert (tags["state"], tags["reason"]) == ("failed", "MemoryError")


def test_data_are_loaded_once_and_only_with_the_digest_of_the_task(
    digits: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker receives the name of the data and their digest."""
    loaded: list[str] = []

    def load(source: str) -> Data:
        loaded.append(source)
        return digits

    monkeypatch.setattr(training_run, "_cached", {})
    monkeypatch.setattr(data, "load", load)
    cpu = torch.device("cpu")
    first = training_run.cached_data("digits", digits.digest, cpu)
    assert torch.equal(first.train.x, digits.train.x)
    assert training_run.cached_data("digits", digits.digest, cpu) is first
    assert loaded == ["digits"]
    with pytest.raises(InputError, match="digits holds other data here"):
        training_run.cached_data("digits", "0" * 64, cpu)


def test_a_trial_costs_what_its_parts_cost(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command says it in one line, and leaves nothing behind."""
    monkeypatch.setattr(speed, "TRIAL_EPOCHS", 3)
    before = sorted(folder.iterdir())
    assert speed.main(["--variant", "vae", "--rounds", "1", "--threads", "1"]) == 0
    line = capsys.readouterr().out.splitlines()[-1]
    parts = re.fullmatch(
        r"a trial of 3 epochs on digits: ([\d.]+) s training, ([\d.]+) s validation, ([\d.]+) s scores, "
        r"([\d.]+) s pictures, ([\d.]+) s tracking and checkpoints: (\d+)% besides training and validation",
        line,
    )
    assert parts is not None, line
    *seconds, share = map(float, parts.groups())
    assert share == pytest.approx(100 * sum(seconds[2:]) / sum(seconds), abs=5)
    assert min(seconds[2:]) > 0
    assert sorted(folder.iterdir()) == before


def test_the_time_of_variants_is_measured_relative_to_one_of_them(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Those that cannot model the data are left out, with a reason."""
    np.savez("bare.npz", x=np.random.default_rng(0).random((60, 6)).astype("float32"))
    monkeypatch.setattr(speed.variants, "names", lambda: ["beta", "vrae", "vae"])
    seconds = {"BetaVAE": [9.0, 1.0, 2.0], "VAE": [9.0, 0.5, 0.5]}
    monkeypatch.setattr(speed, "trainer_seconds", lambda variant, *_: iter(seconds[type(variant).__name__]))
    words = ["--dataset", "bare.npz", "--rounds", "2", "--threads", "1", "--relative-to"]
    assert speed.main([*words, "vae"]) == 0
    left_out, heading, *lines = capsys.readouterr().out.splitlines()
    assert left_out.startswith("vrae is left out: vrae needs sequences")
    assert heading == "seconds per epoch, 1 threads, mean of 2, and relative to vae:"
    assert [line.split() for line in lines] == [["vae", "0.500", "1.00"], ["beta", "1.500", "3.00"]]
    with pytest.raises(InputError, match="--relative-to vrae: expected a variant that can model these data"):
        speed.main([*words, "vrae"])


def test_a_checkpoint_that_cannot_be_written_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is full before the first byte, or in the middle of the file."""
    path = tmp_path / "deep" / "checkpoint.safetensors"
    checkpoint.save(path, {"w": torch.ones(3)}, {"epoch": 1})
    for half in (b"", b"half of it"):

        def full(tensors: Any, file: Path, half: bytes = half, **_: Any) -> None:
            if half:
                Path(file).write_bytes(half)
            raise safetensors.SafetensorError("No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(safetensors.torch, "save_file", full)
            with pytest.raises(OSError, match=r"the checkpoint .*checkpoint.safetensors cannot be written \(No space"):
                checkpoint.save(path, {"w": torch.zeros(3)}, {"epoch": 2})
        tensors, about = checkpoint.load(path) or ({}, {})
        assert (tensors["w"].tolist(), about) == ([1, 1, 1], {"epoch": 1})
        assert [p.name for p in path.parent.iterdir()] == [path.name]
    checkpoint.save(path, {"w": torch.zeros(3)}, {"epoch": 2})
    assert (checkpoint.load(path) or ({}, {}))[1] == {"epoch": 2}
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_a_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    assert checkpoint.load(path) is None
    checkpoint.save(path, {"a": torch.arange(3)}, {"n": 1})
    tensors, about = checkpoint.load(path) or ({}, {})
    assert torch.equal(tensors["a"], torch.arange(3))
    assert about == {"n": 1}
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(InputError, match="is damaged"):
        checkpoint.load(path)


def test_a_checkpoint_that_is_a_pickle_is_refused(folder: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return (Path("evil").write_text, ("ran",))

    torch.save({"x": Evil()}, "bad.safetensors")
    with pytest.raises(InputError, match="damaged"):
        checkpoint.load(Path("bad.safetensors"))
    assert not Path("evil").exists()
