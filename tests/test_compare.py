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
from pipeline.compare import criteria, protocol, report, request, searches, tables
from pipeline.compare.request import CompareRequest
from pipeline.evaluate import pictures
from pipeline.evaluate.context import Sizes
from pipeline.executor import Compute
from pipeline.progress import Display
from pipeline.study import summary
from pipeline.study.trial import TrialTask
from pipeline.tracker import Tracker
from pipeline.tracker.journal import Journal
from variants import InputError

WORDS = ("--run", "--trials", "1", "--epochs", "3", "--variant", "vae", "--variant", "aae", "--threads", "1")


def test_every_metric_of_a_criterion_exists() -> None:
    """A metric that nothing measures would be a column that is missing without a word."""
    for criterion in (*criteria.CRITERIA, criteria.BALANCED_PROBE):
        trivial = [t.metric for t in criterion.trivial]
        for name in (criterion.validation_metric, criterion.test_metric, *criterion.related_metrics, *trivial):
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


@pytest.mark.slow
@pytest.mark.usefixtures("small_finals")
def test_a_new_search_starts_from_finished_ones_of_other_variants_on_the_same_data() -> None:
    """The report says so, and a search that continues keeps what it started from."""
    for _ in range(2):
        result = compared(small_request("vae", "beta", train=True, trials=2))
        assert {v: c.study.started_from for v, c in result.candidates.items()} == {"vae": (), "beta": ("vae-bare",)}
        assert tables.cost_table(result)["started from"].tolist() == ["vae-bare", "—"]
    vae, beta = (result.candidates[v].study for v in ("vae", "beta"))
    settings = vae.trials[1].params  # those of the first trial are the defaults
    assert {name: beta.trials[1].params[name] for name in settings} == settings


@pytest.mark.usefixtures("small_finals")
def test_parameters_that_are_fixed_have_searches_of_their_own() -> None:
    result = compared(small_request("beta", train=True, trials=1, fix=("latent=3", "beta=2")))
    assert result.candidates["beta"].study.name == "beta-bare-beta-2.0-latent-3"
    assert {(choice.config.latent, choice.config.beta) for choice in result.choices} == {(3, 2.0)}


@pytest.mark.usefixtures("small_finals")
def test_a_comparison_chooses_by_validation_scores_and_trains_each_final_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TrialTask, "_is_pruned", lambda self, *_: self.number == 1)
    request = small_request("vae", "beta", train=True, trials=3)
    result = compared(request)
    assert (result.dataset, result.left_out) == ("bare", {})
    (capped,) = result.warnings
    assert "all finals of beta and vae ended at the cap of 1 epoch, before their patience ran out" in capped
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
            scores = frame[frame["config"] == chosen[b.criterion.name, row.name]][b.criterion.test_metric]
            assert (row.mean.repetitions, row.mean.value) == (2, pytest.approx(scores.mean()))
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
@pytest.mark.usefixtures("small_finals")
def test_a_repetition_has_a_split_a_search_and_a_seed_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first one is that of a comparison without repetitions, and further ones do not change earlier ones."""
    request = replace(small_request("vae", "beta", train=True, trials=1), seeds=None)
    once, twice = compared(replace(request, seeds=1)), compared(replace(request, repeats=2))
    assert once.finals["run"].tolist() == twice.finals.loc[twice.finals["repetition"] == 0, "run"].tolist()
    assert (once.design.unit, twice.design.unit, twice.design.overlap) == ("seed", "repetition", 12 / 96)
    first, second = (r.candidates["vae"] for r in twice.repetitions)
    assert first.data.digest != second.data.digest
    assert (first.study.name, second.study.name) == ("vae-bare", "vae-bare-repetition-2")
    assert second.study.seed != first.study.seed
    assert set(twice.finals["seed"]) == {10_000, 10_100}
    assert sorted(twice.finals["unit"].unique()) == [0, 1]
    assert {b.criterion.name: {r.mean.repetitions for r in b.rows} for b in twice.boards} == {
        "elbo": {2}, "reconstruction": {2},
    }  # fmt: skip
    tags = {r.data.tags["group"] for r in stores.runs("final", "bare")}
    assert tags == {"vae (elbo, reconstruction)", "beta (elbo, reconstruction)"}
    train, trained = trainer.train, []
    monkeypatch.setattr(trainer, "train", lambda *a, **k: trained.append(1) or train(*a, **k))
    thrice = compared(replace(request, repeats=3))
    assert len(trained) == 4  # a trial and a final of both variants
    assert thrice.finals.iloc[: len(twice.finals)]["run"].tolist() == twice.finals["run"].tolist()


@pytest.mark.slow
@pytest.mark.usefixtures("small_finals")
def test_repetitions_share_a_test_split_that_the_data_bring() -> None:
    np.savez("bare.npz", x_train=np.random.default_rng(0).random((100, 6)).astype("float32"),
             x_test=np.random.default_rng(1).random((40, 6)).astype("float32"))  # fmt: skip
    result = compared(replace(small_request("vae", "beta", train=True, trials=1), seeds=1, repeats=2))
    assert result.design.overlap is None
    assert any("a test split of its own, which all repetitions share" in warning for warning in result.warnings)
    assert {row.mean.rows for row in result.boards[0].rows} == {40}


@pytest.mark.slow
def test_one_command_gives_a_report(command: Command, folder: Path) -> None:
    """From an empty folder to a page that needs no network, tables, runs and models. A second run trains nothing."""
    done = command("compare", *WORDS, "--seeds", "2")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert re.search(r"Which variant models the data best\? (Even )?vae", done.stdout)
    page = (folder / "reports" / "digits" / "report.html").read_text()
    assert not re.search(r"""(src|href)=["'](?!data:|#)""", page)
    assert "—" in page and "its q(z|x) has no density" in page
    shown = page[page.index("<body>") : page.index("In detail")]
    for words in ("--repeats 5", "All variants by all criteria", "raw values", "reconstructions of aae"):
        assert words in shown
    assert "<figure>" not in shown and page.count("<details>") >= 10  # what is not an answer is folded
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
    units = {r.name: r.mean and r.mean.repetitions for r in comparison.boards[1].rows}
    assert units == {"vae": 3, "beta": 2, "aae": 3, "cvae": None}
    assert comparison.warnings[1:] == ["beta with seed 10001 failed: epoch 1: train/loss is infinite or not a number"]
    tracker = Tracker("bare")
    page = report.write(comparison, tracker, folder / "out", "again").page.read_text()
    shown = ("beta with seed 10001 failed", "1 of 3 finals", "its q(z|x) has no density", "needs class labels")
    for words in (*shown, "vae-bare@champion"):
        assert words in page
    report.log(comparison, report.Report(folder / "out" / "report.html", tables.all_of(comparison)), tracker)

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
    assert "Which VAE variant for one and two?" in page
    ranks = pd.read_csv(folder / "reports" / "across" / "ranks_reconstruction.csv")
    assert set(ranks["variant"]) == {"vae", "aae"}
    assert ranks["average rank"].sum() == pytest.approx(3)
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
        sources, _ = searches._sources(request, base)
        studies = {v: searches._study(request, 0, v, d, (), Display()) for v, d in sources.items()}
        candidates = {v: searches.Candidate(v, sources[v].source, sources[v], s) for v, s in studies.items() if s}
        choices = searches._choices(candidates, searches.criteria(candidates, {}))
        return [(c.criterion, c.variant, c.trial, c.key) for c in choices]

    first = chosen("sqlite:///clean.db")
    assert len(first) == 6
    monkeypatch.setattr(data, "load", poisoned)
    assert chosen("sqlite:///poisoned.db") == first


@pytest.mark.slow
def test_without_studies_the_error_states_what_to_do(command: Command) -> None:
    done = command("compare")
    assert done.returncode == 2
    assert "no variant has a study of it; add --run" in done.stderr


def test_bad_input_ends_before_anything_starts(folder: Path) -> None:
    for asked, words in (
        (CompareRequest(variants=("bta",)), "did you mean beta"),
        (CompareRequest(dataset="minst"), "unknown data set 'minst'"),
        (CompareRequest(repeats=25), "--repeats 25: expected 1 to 24"),
        (CompareRequest(matters={"loss": 1.0}), "--matters loss: expected one of elbo, probe, reconstruction"),
    ):
        with pytest.raises(InputError, match=words):
            request.check(asked, [asked.dataset])
