"""Comparisons as a user runs them, and their conclusions about known scores."""

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import stores
import torch
from conftest import Command, environment
from mlflow import MlflowClient

import variants
from pipeline import compare, data, metrics, trainer
from pipeline.compare import protocol, report
from pipeline.compare.analysis import PPCA, Criterion, board
from pipeline.compare.protocol import CompareRequest
from pipeline.evaluate import pictures
from pipeline.evaluate.context import Sizes
from pipeline.executor import Compute
from pipeline.progress import Display
from pipeline.study import summary
from pipeline.study.trial import TrialTask
from pipeline.tracker import Tracker
from pipeline.tracker.journal import Journal
from variants import InputError

ELBO = protocol.CRITERIA[0]
WORDS = ("--run", "--trials", "1", "--epochs", "3", "--variant", "vae", "--variant", "aae", "--threads", "1")


def finals(**scores: list[float | None]) -> pd.DataFrame:
    """Return a row for each seed; None stands for a seed that failed."""
    rows: list[dict[str, Any]] = []
    for variant, values in scores.items():
        for seed, value in enumerate(values):
            row = {"variant": variant, "seed": seed, "state": "complete" if value is not None else "failed"}
            rows.append({**row, "test/elbo": value, "reason": None if value is not None else "diverged"})
    return pd.DataFrame(rows)


def test_a_difference_is_stated_with_its_interval_and_in_the_order_of_the_board() -> None:
    result = board(ELBO, finals(vae=[-91.0, -91.2, -90.9, -91.1, -91.3], hvae=[-89.1, -89.2, -89.0, -89.2, -89.5]), {})
    assert [r.variant for r in result.rows] == ["hvae", "vae"]
    assert re.fullmatch(
        r"hvae beats vae by 1\.9 \[1\.81, 1\.99\] nats per example, with 5 seeds \(p = .*\)\.", result.conclusions[0]
    )
    assert result.pairs[0].significant
    assert result.rows[0].rank.high == 1  # type: ignore[union-attr]
    assert result.pairs[0].chance.value == 1


def test_a_lower_reconstruction_is_better() -> None:
    lower = Criterion(
        name="reconstruction",
        question="?",
        validation_metric="valid/reconstruction",
        test_metric="test/reconstruction",
    )
    frame = finals(a=[80.0, 80.1, 80.2], b=[90.0, 90.3, 90.1]).rename(columns={"test/elbo": "test/reconstruction"})
    result = board(lower, frame, {})
    assert [r.variant for r in result.rows] == ["a", "b"]
    assert result.pairs[0].better == "a"
    assert result.pairs[0].difference.mean.value == pytest.approx(10.03, abs=0.01)


def test_the_better_variant_of_a_pair_is_named_first() -> None:
    result = board(ELBO, finals(a=[-92.0, -92.1, -92.2], b=[-90.0, -90.3, -90.1]), {})
    (pair,) = result.pairs
    assert (pair.better, pair.worse) == ("b", "a")
    assert pair.difference.mean.value == pytest.approx(1.967, abs=1e-3)
    assert result.conclusions[0].startswith("b beats a by 1.97")


def test_noise_is_not_a_winner() -> None:
    result = board(ELBO, finals(a=[-90.0, -92.0, -91.0, -93.0, -89.0], b=[-91.5, -90.5, -92.0, -91.0, -90.5]), {})
    assert "cannot be told apart with 5 seeds" in result.conclusions[0]
    assert not result.pairs[0].significant


def test_pairs_are_of_the_seeds_that_both_have() -> None:
    result = board(ELBO, finals(a=[-90.0, None, -91.0, -90.5], b=[-92.0, -50.0, -93.0, -92.5]), {})
    assert result.pairs[0].difference.pairs == 3
    assert result.pairs[0].better == "a"  # although b's mean is higher, due to the seed that a lacks
    assert {r.variant: r.seeds for r in result.rows} == {"a": 3, "b": 4}


@pytest.mark.parametrize(
    ("frame", "reasons", "sentence"),
    [
        (finals(a=[-90.0]), {}, "a is the only variant with a score here"),
        (finals(a=[-90.0], b=[-91.0]), {}, "a is ahead of b by 1 nats per example, but one seed is no evidence."),
        (finals(a=[None, None]), {}, "No variant has a score here."),
        (finals(a=[-90.0, -91.0], b=[None, None]), {}, "a is the only variant"),
        (finals(a=[-90.0, -91.0]), {"aae": "no trial has valid/elbo"}, "a is the only variant"),
    ],
)
def test_what_is_missing_is_stated(frame: pd.DataFrame, reasons: dict[str, str], sentence: str) -> None:
    result = board(ELBO, frame, reasons)
    assert sentence in result.conclusions[0]
    for row in result.rows:
        assert (row.mean is None) == (row.reason != "")
    assert {r.variant for r in result.rows} == {*frame["variant"], *reasons}


def test_a_variant_that_does_not_beat_the_baselines_is_called_no_better_than_trivial() -> None:
    """The best baseline counts, PPCA among them; the likelihood of a part of x given the rest is not compared."""
    frame = finals(good=[-90.0, -91.0], bad=[-96.0, -97.0], given=[-120.0, -120.0])
    frame["conditioned_on"] = np.where(frame["variant"] == "given", "x", None)
    titles = {"independent columns": -99.0, "a Gaussian with full covariance": -95.0}
    result = board(ELBO, frame, {}, titles)
    words = "no better than trivial (a Gaussian with full covariance: -95.00 nats)"
    assert {r.variant: r.trivial for r in result.rows} == {"good": "", "bad": words, "given": ""}
    assert [line for line in result.conclusions if "trivial" in line] == [f"bad is {words}."]
    table = report._board_table(result).set_index("variant")
    assert table["mean"].to_dict() == {
        "good": "-90.5", "bad": "-96.5", "given": "-120", "independent columns": "-99",
        "a Gaussian with full covariance": "-95",
    }  # fmt: skip
    frame[PPCA] = -80.0
    assert board(ELBO, frame, {}, titles).rows[0].trivial == "no better than trivial (probabilistic PCA: -80.00 nats)"


def test_every_metric_of_a_criterion_exists() -> None:
    """A metric that nothing measures would be a column that is missing without a word."""
    for criterion in (*protocol.CRITERIA, protocol.BALANCED_PROBE):
        for name in (criterion.validation_metric, criterion.test_metric, *criterion.related_metrics):
            assert metrics.find(name).about, name
        assert criterion.validation_metric.startswith("valid/") or criterion.name == "probe"
        assert not criterion.test_metric.startswith("valid/")
        assert metrics.find(criterion.validation_metric).better == metrics.find(criterion.test_metric).better


@pytest.fixture
def small_finals(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tiny data set without labels, and finals that are scored by bounds only and draw no pictures."""
    np.savez("bare.npz", x=np.random.default_rng(0).random((120, 6)).astype("float32"))
    monkeypatch.setattr(protocol, "PARTS", ("bounds",))
    monkeypatch.setattr(protocol, "SIZES", Sizes(iw_k=5, iw_n=10))
    monkeypatch.setattr(pictures, "all_of", lambda *_: {})
    monkeypatch.setattr(summary, "figures", lambda *_: [])


def small_request(*names: str, **changes: Any) -> CompareRequest:
    return CompareRequest(dataset="bare.npz", variants=names, epochs=1, seeds=2, compute=Compute(threads=1), **changes)


def compared(request: CompareRequest) -> Any:
    return protocol.run(request, Display())


@pytest.mark.usefixtures("small_finals")
def test_a_new_search_starts_from_finished_ones_of_other_variants_on_the_same_data() -> None:
    """The report says so, and a search that continues keeps what it started from."""
    for _ in range(2):
        result = compared(small_request("vae", "beta", train=True, trials=2))
        assert {v: c.study.started_from for v, c in result.candidates.items()} == {"vae": (), "beta": ("vae-bare",)}
        assert report._cost_table(result)["started from"].tolist() == ["vae-bare", "—"]
    vae, beta = (result.candidates[v].study for v in ("vae", "beta"))
    settings = vae.trials[1].params  # those of the first trial are the defaults
    assert {name: beta.trials[1].params[name] for name in settings} == settings


@pytest.mark.usefixtures("small_finals")
def test_a_comparison_chooses_by_validation_scores_and_trains_each_final_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TrialTask, "_is_pruned", lambda self, *_: self.number == 1)
    request = small_request("vae", "beta", train=True, trials=3)
    result = compared(request)
    assert (result.dataset, result.left_out) == ("bare", {})
    (capped,) = result.warnings
    assert "finals of beta ended at the cap of 1 epochs, before their patience ran out" in capped
    criteria = ("elbo", "reconstruction")  # without labels there is no probe
    assert tuple(b.criterion.name for b in result.boards) == criteria

    assert [(c.criterion, c.variant) for c in result.choices] == [(c, v) for c in criteria for v in ("vae", "beta")]
    for choice in result.choices:
        trials = result.candidates[choice.variant].study.trials
        values = {t.number: t.metrics[f"valid/{choice.criterion}"] for t in trials if t.state == "complete"}
        assert values.keys() == {0, 2}  # one that was pruned is not chosen
        best = max if choice.criterion == "elbo" else min
        assert choice.value == best(values.values()) == values[choice.trial]
        assert choice.config == trials[choice.trial].config

    frame = result.finals
    keys = {c.key for c in result.choices}
    assert sorted(zip(frame["config"], frame["seed"], strict=True)) == sorted(
        (k, s) for k in keys for s in (10_000, 10_001)
    )
    runs = {r.info.run_id: r for r in stores.runs("final", "bare")}
    (parent,) = stores.runs("comparison", "bare")
    assert set(frame["run"]) == runs.keys()
    for _, row in frame.iterrows():
        tags, scores = runs[row["run"]].data.tags, runs[row["run"]].data.metrics
        assert (row["variant"], str(row["seed"]), row["state"]) == (tags["variant"], tags["seed"], "complete")
        assert row["test/elbo"] == scores["test/elbo"]
        assert tags["mlflow.parentRunId"] == parent.info.run_id
    chosen = {(c.criterion, c.variant): c.key for c in result.choices}
    for b in result.boards:
        for row in b.rows:
            scores = frame[frame["config"] == chosen[b.criterion.name, row.variant]][b.criterion.test_metric]
            assert (row.seeds, row.mean.value) == (2, pytest.approx(scores.mean()))
    for variant, weights in result.weights.items():
        ids = frame[frame["config"] == chosen["elbo", variant]]["run"]
        assert {runs[i].data.params["weights"] for i in ids} == {str(weights)}

    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("this was trained before")

    monkeypatch.setattr(trainer, "train", never)
    assert compared(request).finals.equals(frame)
    assert len(stores.runs("comparison", "bare")) == 1
    alone = compared(replace(small_request("vae"), seeds=1))
    assert set(alone.finals["seed"]) == {10_000}
    _, one_seed, one_variant = alone.warnings
    assert one_seed.startswith("one seed allows neither") and "vae is the only variant" in one_variant

    np.savez("bare.npz", x=np.random.default_rng(1).random((120, 6)).astype("float32"))  # other data of that name
    with pytest.raises(InputError, match="no variant has a study of it"):
        compared(small_request("vae"))


def test_finals_of_processes_that_died_end_before_others_are_trained(folder: Path) -> None:
    """One process died before it could send the end of its final, and one in the middle of its final."""
    tracker = Tracker("bare")
    journal = Journal("bare", "unsent")
    journal.add("begin", name="unsent", tags={"kind": "final"}, reopen=True)
    journal.add("end", state="complete", time=1)
    journal.close()
    tracker.client.create_run(tracker.experiment, tags={"kind": "final", "key": "dead"})
    with protocol._parent(tracker, "bare", {}) as parent:
        states = {r.tags["key"]: r.tags["state"] for r in tracker.find(kind="final")}
    assert states == {"unsent": "complete", "dead": "interrupted"}
    assert parent.wait(30) == ""


@pytest.mark.usefixtures("small_finals")
def test_finals_are_trained_on_seeds_that_no_search_used() -> None:
    request = small_request("vae", train=True, trials=2)
    result = compared(request)
    searched = {int(r.data.tags["seed"]) for r in stores.runs("trial", "bare")}
    fresh = {int(r.data.tags["seed"]) for r in stores.runs("final", "bare")}
    assert len(searched) == len(fresh) == 2
    assert set(result.finals["seed"]) == fresh
    assert not searched & fresh
    assert min(fresh) > request.seed + 1000  # a search of a thousand trials would not use them either


@pytest.mark.slow
def test_one_command_gives_a_report(command: Command, folder: Path) -> None:
    """From an empty folder to a page that needs no network, tables, runs and models. A second run trains nothing."""
    done = command("compare", *WORDS, "--seeds", "2")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "Which variant models the data best? vae" in done.stdout
    page = (folder / "reports" / "digits" / "report.html").read_text()
    assert not re.search(r"""(src|href)=["'](?!data:|#)""", page)
    assert "—" in page and "no trial has valid/elbo" in page
    assert "no importances: 1 complete trial, at least 10 are needed" in page
    assert "python -m pipeline.compare --run --trials 1" in page
    tables = folder / "reports" / "digits" / "tables"
    first = pd.read_csv(tables / "finals.csv")
    assert set(first["seed"]) == {10_000, 10_001}
    assert first["test/iw500"].notna().sum() >= 2
    assert r"\begin{tabular}" in (tables / "board_elbo.tex").read_text()
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    experiment = client.get_experiment_by_name("digits")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], "tags.kind = 'final'")
    assert len(runs) == len(first)
    assert {r.data.tags["state"] for r in runs} == {"complete"}
    (parent,) = client.search_runs([experiment.experiment_id], "tags.kind = 'comparison'")
    assert {a.path for a in client.list_artifacts(parent.info.run_id)} >= {"report", "board_elbo.json"}
    assert all(r.data.tags["mlflow.parentRunId"] == parent.info.run_id for r in runs)

    program = (
        "import torch, variants; from pipeline.model import Model; "
        "m = Model.load('models:/vae-digits@champion-probe').variant_; "
    )
    program += "print(m.encode(variants.Batch(torch.zeros(3, 1, 8, 8))).shape)"
    line = [sys.executable, "-c", program]
    loaded = subprocess.run(line, cwd=folder, env=environment(), capture_output=True, text=True, timeout=120)
    assert "torch.Size([3, " in loaded.stdout, loaded.stderr

    again = command("compare", *WORDS, "--seeds", "2", "--out", "second")
    assert again.returncode == 0, again.stderr
    second = pd.read_csv(folder / "second" / "digits" / "tables" / "finals.csv")
    pd.testing.assert_frame_equal(first, second)
    versions = client.search_model_versions("name = 'vae-digits'")
    assert len(versions) == len({v.source for v in versions})
    frames = compare.load("digits")
    assert len(frames.finals) == len(first)
    assert {"valid/elbo", "epoch", "seed"} <= set(frames.curves.columns)
    assert set(frames.trials["variant"]) == {"vae", "aae"}


@pytest.mark.slow
def test_a_report_states_what_is_missing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The data have no labels, a seed of one variant diverges, and another variant has no ELBO."""
    np.savez("bare.npz", x=np.random.default_rng(0).random((300, 1, 8, 8)).astype("float32"))
    train = trainer.train

    def unlucky(variant: Any, *words: Any, **options: Any) -> Any:
        if (variants.name_of(variant), options["seed"]) == ("beta", 10_001):
            raise trainer.Diverged("epoch 1: train/loss is infinite or not a number")
        return train(variant, *words, **options)

    monkeypatch.setattr(trainer, "train", unlucky)
    names = ("vae", "beta", "aae", "cvae")
    comparison = protocol.run(
        CompareRequest(
            dataset="bare.npz", variants=names, train=True, trials=1, epochs=2, seeds=3, compute=Compute(threads=1)
        ),
        Display(),
    )
    reason = "cvae needs class labels, and data set bare has none; condition=quadrants needs none"
    assert comparison.left_out == {"cvae": reason}
    assert [b.criterion.name for b in comparison.boards] == ["elbo", "reconstruction"]
    assert {r.variant: r.seeds for r in comparison.boards[1].rows} == {"vae": 3, "beta": 2, "aae": 3, "cvae": 0}
    assert comparison.warnings[1:] == ["beta with seed 10001 failed: epoch 1: train/loss is infinite or not a number"]
    tracker = Tracker("bare")
    page = report.write(comparison, tracker, folder / "out", "again").page.read_text()
    for words in ("beta with seed 10001 failed", "no trial has valid/elbo", "needs class labels", "vae-bare@champion"):
        assert words in page
    report.log(comparison, report.Report(folder / "out" / "report.html", report._tables(comparison)), tracker)

    alone = protocol.run(
        CompareRequest(dataset="bare.npz", variants=("vae",), seeds=1, compute=Compute(threads=1)), Display()
    )
    assert len(alone.finals) == 1  # one that exists
    page = report.write(alone, tracker, folder / "alone", "again").page.read_text()
    assert "one seed allows neither" in page and "vae is the only variant" in page


@pytest.mark.slow
def test_ranks_over_several_data_sets(command: Command, folder: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("one", "two"):
        np.savez(f"{name}.npz", x=rng.random((200, 6)).astype("float32"), y=rng.integers(2, size=200))
    words = ("--dataset", "one.npz", "--dataset", "two.npz", "--variant", "vae", "--variant", "aae")
    done = command("compare", *words, "--run", "--trials", "1", "--epochs", "2", "--seeds", "2", "--threads", "1")
    assert done.returncode == 0, done.stderr
    page = (folder / "reports" / "across" / "across.html").read_text()
    assert "Which VAE variant for one, two?" in page
    ranks = pd.read_csv(folder / "reports" / "across" / "ranks_reconstruction.csv")
    assert set(ranks["variant"]) == {"vae", "aae"}
    assert ranks["rank"].sum() == pytest.approx(3)
    assert not (folder / "reports" / "across" / "ranks_elbo.csv").exists()  # one variant alone has it
    for name in ("one", "two"):
        assert (folder / "reports" / name / "report.html").exists()
    unknown = command("compare", "--dataset", "one.npz", "--dataset", "three.npz", "--run")
    assert (unknown.returncode, unknown.stdout) == (2, "")


def test_no_choice_depends_on_the_test_split(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Studies and choices are the same if the test split holds nothing but NaN."""
    monkeypatch.setattr(pictures, "all_of", lambda *_: {})
    monkeypatch.setattr(summary, "figures", lambda *_: [])
    load = data.load

    def poisoned(source: str, **options: Any) -> data.Data:
        clean = load(source, **options)
        return replace(clean, test=replace(clean.test, x=torch.full(clean.test.x.shape, torch.nan)))

    def chosen(storage: str) -> list[tuple[str, str, int, str]]:
        request = CompareRequest(
            variants=("vae", "beta"), train=True, trials=2, epochs=2, storage=storage, compute=Compute(threads=1)
        )
        base = data.load("digits")
        sources, _ = protocol._sources(request.variants, base)
        studies = {v: protocol._study(request, v, d, (), Display()) for v, d in sources.items()}
        candidates = {v: protocol.Candidate(v, sources[v].source, sources[v], s) for v, s in studies.items() if s}
        choices = protocol._choices(candidates, protocol._criteria(candidates))
        return [(c.criterion, c.variant, c.trial, c.key) for c in choices]

    first = chosen("sqlite:///clean.db")
    assert len(first) == 6
    monkeypatch.setattr(data, "load", poisoned)
    assert chosen("sqlite:///poisoned.db") == first


def test_without_studies_the_error_states_what_to_do(command: Command) -> None:
    done = command("compare")
    assert done.returncode == 2
    assert "no variant has a study of it; add --run" in done.stderr


def test_bad_input_ends_before_anything_starts(folder: Path) -> None:
    for request, words in (
        (CompareRequest(variants=("bta",)), "did you mean beta"),
        (CompareRequest(dataset="minst"), "unknown data set 'minst'"),
    ):
        with pytest.raises(InputError, match=words):
            protocol.run(request, Display())
