"""Data whose labels are partly unknown, and data whose classes are uneven."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import Command

import variants
from pipeline import data, metrics, trainer
from pipeline.compare import protocol, report, sentences
from pipeline.compare.request import CompareRequest
from pipeline.data import Data
from pipeline.evaluate import anomaly, classifier, context, pictures, quick, suite
from pipeline.executor import Compute
from pipeline.metrics import Undefined, defined
from pipeline.progress import Display
from pipeline.study.driver import StudyRequest, run
from pipeline.tracker import Tracker
from variants import Batch, InputError, Variant
from variants.cvae import CVAE

SMALL = context.Sizes(
    labels=(10, 50), draws=2, samples=30, one_class_most=2, one_class_steps=4, one_class_n=60, augmented=20
)
NEEDS_LABELS = ("probe", "clusters", "samples", "anomaly", "one_class", "generation", "augmentation")
SPLITS = ("train", "valid", "test")
STEP = torch.tensor(0.0)


@pytest.fixture(autouse=True)
def untrained_classifiers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Classifiers of samples are not trained, and kept in a folder of this test alone."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(classifier, "fit", lambda *_: None)


@pytest.fixture(scope="module")
def digits() -> Data:
    """A few of the digits: 200 to train on, and 100 each for validation and test."""
    loaded = data.load("digits")
    sizes = {"train": 200, "valid": 100, "test": 100}
    return replace(loaded, **{name: getattr(loaded, name)[slice(0, n)] for name, n in sizes.items()})


def partly_labelled(loaded: Data, splits: tuple[str, ...] = SPLITS, every: int = 3) -> Data:
    """The same data, of which each third example, or each `every`-th, has an unknown label."""

    def hide(split: Batch) -> Batch:
        assert split.y is not None
        y = split.y.clone()
        y[::every] = -1
        return replace(split, y=y)

    return replace(loaded, **{name: hide(getattr(loaded, name)) for name in splits})


def only_labelled(loaded: Data) -> Data:
    """The same data without the examples whose label is unknown."""
    known = {name: torch.nonzero(getattr(loaded, name).y >= 0)[:, 0] for name in SPLITS}
    return replace(loaded, **{name: getattr(loaded, name)[index] for name, index in known.items()})


def built(loaded: Data, name: str = "vae", **settings: Any) -> Variant:
    torch.manual_seed(0)
    return variants.build(name, variants.get(name).config_type(latent=3, width=8, **settings), loaded.spec).eval()


def rare_classes(counts: tuple[int, ...] = (285, 11, 4), seed: int = 0) -> dict[str, Any]:
    """Arrays of examples of 6 values and their labels, of as many classes as there are counts."""
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.repeat(np.arange(len(counts)), counts))
    return {"x": (rng.standard_normal((len(y), 6)) + y[:, None]).astype("float32"), "y": y}


@pytest.mark.slow
def test_examples_without_a_label_take_no_part_in_probes_and_clusters(digits: Data) -> None:
    """The scores are those of the same data without these examples."""
    some = partly_labelled(digits)
    few, model = only_labelled(some), built(digits)
    assert len(few.valid) == 66
    scores, expected = quick.scores(model, some), quick.scores(model, few)
    for name in (n for n in expected if n.startswith("probe/")):
        assert scores[name] == pytest.approx(expected[name]), name
    assert quick.baselines(some)["probe/raw_pixels"] == pytest.approx(quick.baselines(few)["probe/raw_pixels"])
    of_some, of_few = (
        [s for p in suite.run(model, d, sizes=SMALL, only=("probe", "clusters")) for s in p.scores] for d in (some, few)
    )
    assert [(s.name, s.n, s.k) for s in of_some] == [(s.name, s.n, s.k) for s in of_few]
    assert [s.value for s in of_some] == pytest.approx([s.value for s in of_few])


def test_examples_without_a_label_are_neither_normal_nor_anomalies(digits: Data) -> None:
    some = partly_labelled(digits, ("test",))
    areas = [anomaly.one_class(built(digits), digits, d.test, 1, k=2) for d in (some, only_labelled(some))]
    assert areas[0] == areas[1]
    found = [defined(anomaly.detect(built(digits), d, k=2)).areas() for d in (some, only_labelled(some))]
    assert found[0] == found[1]


@torch.no_grad()
def test_examples_without_a_label_have_no_colour(digits: Data) -> None:
    some, model = partly_labelled(digits), built(digits)
    drawn = pictures.latent_space(model, some)
    np.testing.assert_array_equal(drawn, pictures.latent_space(model, only_labelled(some)))
    unknown = pictures.latent_space(model, partly_labelled(digits, every=1))
    bare = pictures.latent_space(model, replace(digits, valid=replace(digits.valid, y=None)))
    np.testing.assert_array_equal(unknown, bare)


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("name", ["vae", pytest.param("cvae", marks=pytest.mark.slow)])
def test_a_split_without_any_known_label(digits: Data, split: str, name: str) -> None:
    """Every score has a finite value or a reason, and trials have no probe where it could not be validated."""
    unknown, model = partly_labelled(digits, (split,), every=1), built(digits, name)
    trainer.fit(model, unknown, epochs=1, seed=0)
    scores = [s for p in suite.run(model, unknown, sizes=SMALL, only=NEEDS_LABELS) for s in p.scores]
    for score in scores:
        assert (score.value is None) == bool(score.reason)
        assert score.value is None or np.isfinite(score.value)
    by_name = {s.name: s for s in scores}
    assert (by_name["probe/linear_all"].value is None) == (split != "valid")
    assert (by_name["latent/kmeans_ari"].value is None) == (split == "test")
    trial = quick.scores(model, unknown)
    probe_metric = quick.probe_metric(unknown)
    assert isinstance(probe_metric, Undefined) == ("probe/accuracy" not in trial) == (split != "test")
    objectives = metrics.objectives(("valid/elbo", "probe/accuracy"), unknown.spec, probe_metric)
    assert objectives == (("valid/elbo", "probe/accuracy") if split == "test" else ("valid/elbo",))
    if isinstance(probe_metric, Undefined):
        assert "probe/raw_pixels" not in quick.baselines(unknown)
        with pytest.raises(InputError, match="probe/accuracy needs labels, and "):
            metrics.objectives(("probe/accuracy",), unknown.spec, probe_metric)


def test_known_labels_of_one_class_train_no_probe(digits: Data) -> None:
    y = torch.where(digits.train.y == 3, 3, -1)  # type: ignore[arg-type]
    one = replace(digits, train=replace(digits.train, y=y))
    reason = "a probe needs known labels of two classes in the training split of digits, which has 1"
    assert quick.probe_metric(one) == Undefined(reason)
    (part,) = suite.run(built(digits), one, sizes=SMALL, only=("probe",))
    assert {s.reason for s in part.scores} == {reason}
    assert isinstance(classifier.trained(one), Undefined)


def test_an_unknown_class_costs_a_cvae_no_label(digits: Data) -> None:
    """Its score is that of a class that is withheld; known classes of the same batch keep theirs."""
    model = built(digits, "cvae")
    assert isinstance(model, CVAE)
    batch = digits.batch(digits.test, slice(0, 8))
    assert batch.y is not None
    half = replace(batch, y=torch.where(torch.arange(8) < 4, -1, batch.y))
    with torch.no_grad():
        terms, known, withheld = (seeded_terms(model, b) for b in (half, batch, replace(batch, y=None)))
        z = torch.zeros(8, 3)
        priors = model.log_prior(z, half), model.log_prior(z, batch), model.log_prior(z, replace(batch, y=None))
    for scores in (terms, known, withheld):
        assert scores.kl is not None and scores.kl.isfinite().all()
    torch.testing.assert_close(terms.kl, torch.cat([withheld.kl[:4], known.kl[4:]]))
    torch.testing.assert_close(terms.reconstruction, torch.cat([withheld.reconstruction[:4], known.reconstruction[4:]]))
    torch.testing.assert_close(priors[0], torch.cat([priors[2][:4], priors[1][4:]]))
    labels = data.load("digits").train.y
    assert labels is not None
    expected = [0.0] * 4 + (-(labels.bincount() / len(labels)).log()[batch.y[4:]]).tolist()
    assert model.label_nll(model.encode_condition(half)).tolist() == pytest.approx(expected)


def seeded_terms(model: CVAE, batch: Batch) -> Any:
    torch.manual_seed(0)
    return model.terms(batch, STEP)


@pytest.mark.parametrize("name", variants.names())
def test_every_variant_is_trained_and_drawn_with_unknown_labels(name: str) -> None:
    loaded = data.load("digits-rows" if "mask" in variants.get(name).required_fields else "digits")
    some = partly_labelled(replace(loaded, train=loaded.train[slice(0, 200)]))
    model = built(some, name)
    (epoch,) = trainer.train(model, some, epochs=1, seed=0)
    assert all(np.isfinite(value) for value in epoch.metrics.values())
    assert {"samples", "latent"} <= pictures.all_of(model, some, None).keys()


@pytest.mark.parametrize(
    ("counts", "metric"),
    [
        ((285, 11, 4), "probe/balanced_accuracy"),
        ((100, 30), "probe/balanced_accuracy"),
        ((90, 40), "probe/accuracy"),
        ((50, 50, 50), "probe/accuracy"),
    ],
)
def test_uneven_classes_are_compared_by_balanced_accuracy(folder: Path, counts: tuple[int, ...], metric: str) -> None:
    np.savez("rare.npz", **rare_classes(counts))
    loaded = data.load("rare.npz")
    assert quick.probe_metric(loaded) == metric
    asked = ("valid/elbo", "probe/accuracy")
    assert metrics.objectives(asked, loaded.spec, quick.probe_metric(loaded)) == ("valid/elbo", metric)
    both = ("probe/accuracy", "probe/balanced_accuracy")
    assert metrics.objectives(both, loaded.spec, "probe/balanced_accuracy") == ("probe/balanced_accuracy",)


def test_the_majority_share_and_balanced_accuracy_stand_beside_the_accuracy(folder: Path) -> None:
    """A code that says nothing is no better than the majority, and its balanced accuracy is that of chance."""
    np.savez("rare.npz", **rare_classes())
    loaded = data.load("rare.npz")

    class Silent(type(built(loaded))):  # type: ignore[misc]
        def encode(self, batch: Batch) -> torch.Tensor:
            return torch.zeros(len(batch), 3)

    model = Silent(built(loaded).config, loaded.spec)
    trial = quick.scores(model, loaded)
    (part,) = suite.run(model, loaded, sizes=SMALL, only=("probe",))
    tested = {s.name: s.value for s in part.scores}
    for y, scores, names in (
        (loaded.valid.y, trial, ("probe/accuracy", "probe/majority", "probe/balanced_accuracy")),
        (loaded.test.y, tested, ("probe/linear_all", "probe/majority_all", "probe/balanced_all")),
    ):
        share = float((y == 0).float().mean())  # type: ignore[union-attr]
        assert share > 0.85
        assert [scores[n] for n in names] == pytest.approx([share, share, 1 / 3])
    assert tested["probe/raw_balanced_all"] is not None and tested["probe/raw_balanced_all"] >= 1 / 3


def study_request(trials: int) -> StudyRequest:
    return StudyRequest(variant="beta", dataset="rare.npz", trials=trials, epochs=1, compute=Compute(threads=1))


@pytest.mark.usefixtures("no_pictures")
def test_a_study_that_was_started_with_the_accuracy_continues_with_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez("rare.npz", **rare_classes())
    with monkeypatch.context() as older_version:
        older_version.setattr(quick, "probe_metric", lambda _: "probe/accuracy")
        assert run(study_request(1)).objectives == ("valid/elbo", "probe/accuracy")
    assert "uneven" not in capsys.readouterr().out
    outcome = run(study_request(2))
    assert outcome.objectives == ("valid/elbo", "probe/accuracy")
    assert [t.values[1] for t in outcome.study.trials] == [
        t.user_attrs["metrics"]["probe/accuracy"] for t in outcome.study.trials
    ]
    assert "study beta-rare was started with the objective probe/accuracy, and keeps it" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.usefixtures("no_pictures")
def test_uneven_classes_from_the_search_to_the_report(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The study optimises the balanced accuracy, says so, and the report ranks by it, beside the majority share."""
    np.savez("rare.npz", **rare_classes())
    monkeypatch.setattr(protocol, "PARTS", ("bounds", "probe"))
    monkeypatch.setattr(protocol, "SIZES", context.Sizes(iw_k=5, iw_n=10, labels=(10,), draws=1))
    request = CompareRequest(
        dataset="rare.npz", variants=("beta", "cvae"), train=True, trials=1, epochs=1, seeds=2,
        compute=Compute(threads=1),
    )  # fmt: skip
    comparison = protocol.run(request, Display())
    assert "probe/balanced_accuracy takes the place of the objective probe/accuracy" in capsys.readouterr().out
    for candidate in comparison.candidates.values():
        assert candidate.study.objectives == ("valid/elbo", "probe/balanced_accuracy")
    board = next(b for b in comparison.boards if b.criterion.name == "probe")
    assert (board.criterion.validation_metric, board.criterion.test_metric) == (
        "probe/balanced_accuracy", "probe/test_balanced_accuracy",
    )  # fmt: skip
    share = float(comparison.finals["probe/majority_all"].mean())
    for row in board.rows:
        assert row.mean is not None and row.related["probe/test_accuracy"].value <= 1
        assert row.related["probe/majority_all"].value == pytest.approx(share)
    (answer,) = (a for a in sentences.answers(comparison) if a.startswith(board.criterion.question))
    assert "better than always predicting the most frequent class (" in answer
    assert "the most frequent class" in {row.name for row in board.trivial}
    page = report.write(comparison, Tracker("rare"), folder / "report", "again").page.read_text()
    assert "probe/majority_all" in page and "The classes are uneven" in page
    table = pd.read_csv(folder / "report" / "tables" / "board_probe.csv")
    assert {"probe/test_accuracy", "probe/majority_all"} <= set(table.columns)


@pytest.mark.slow
def test_the_commands_print_the_majority_share_beside_the_accuracy(command: Command, folder: Path) -> None:
    np.savez("rare.npz", **rare_classes())
    words = ("--variant", "beta", "--dataset", "rare.npz", "--trials", "1", "--epochs", "1", "--threads", "1")
    done = command("study", *words)
    assert done.returncode == 0, done.stderr
    assert "the classes are uneven" in done.stdout
    assert re.search(r"share\s+of\s+the\s+most\s+frequent\s+class:\s+0\.\d{3}", done.stdout)
    (trial,) = (r for r in Tracker("rare").find(kind="trial") if r.model)
    done = command("evaluate", "--run", trial.id, "--only", "probe")
    assert done.returncode == 0, done.stderr
    assert "probe/majority_all" in done.stdout and "probe/balanced_all" in done.stdout
