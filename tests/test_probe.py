"""What a simple classifier reads from codes, where the answer can be counted."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score

import variants
from pipeline import data, trainer
from pipeline.evaluate import baselines, codes, probe, quick, suite
from pipeline.evaluate.context import Sizes
from variants import Batch, InputError

RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 3, 300)
BLOBS = np.array([[0, 0], [9, 0], [0, 9]])[LABELS] + RNG.standard_normal((300, 2))
KNOWN, ASKED = (BLOBS[:200], LABELS[:200]), (BLOBS[200:], LABELS[200:])


def accuracies(train: Any, test: Any, n: int, draws: int) -> Any:
    """The test accuracy of each draw of `n` labels, (draws,)."""
    return (probe.by_labels(train, test[0], n, draws) == test[1]).mean(axis=1)


def test_groups_that_a_line_parts_are_read_whatever_their_units() -> None:
    wide = np.array([1e-6, 1e6])
    assert probe.accuracy(KNOWN[0] * wide, KNOWN[1], ASKED[0] * wide, ASKED[1]) > 0.98


def test_what_was_learned_from_is_not_what_is_told() -> None:
    """Codes of noise, more columns than examples: a classifier knows every label that it was given, and no other."""
    codes, labels = RNG.standard_normal((160, 200)), RNG.integers(0, 2, 160)
    train, test = (codes[:80], labels[:80]), (codes[80:], labels[80:])
    for values in (probe.accuracy(*train, *test), accuracies(train, test, 80, 1)[0]):
        assert 0.3 < values < 0.7
    assert probe.accuracy(*train, *train) == 1


def test_as_many_labels_are_known_as_are_asked_for() -> None:
    """Each example has a column of its own, so that what is not known is taken for the class known more often.

    Of 3 labels two are of one class, so that all 20 of it are told rightly, and one of the other 20.
    """
    labels = np.repeat([0, 1], 20)
    each = np.eye(40), labels
    assert accuracies(each, each, 3, 4).tolist() == [21 / 40] * 4
    assert accuracies(each, each, 11, 2).tolist() == [25 / 40] * 2
    assert accuracies(each, each, 40, 1).tolist() == [1]


def test_labels_are_drawn_evenly_from_classes_and_anew_each_time() -> None:
    rare = np.array([0] * 195 + [1] * 5)
    codes = rare[:, None] * 8.0 + RNG.standard_normal((200, 1))
    values = accuracies((codes, rare), (codes, rare), 2, 10)
    assert values.shape == (10,)
    assert values.min() > 0.8  # one of each class, however rare
    few = accuracies(KNOWN, ASKED, 3, 10)
    assert len(set(few)) > 1
    assert few.tolist() == accuracies(KNOWN, ASKED, 3, 10).tolist()
    assert few.mean() < accuracies(KNOWN, ASKED, 100, 1)[0] + 1e-9
    for n in (2, 201):
        with pytest.raises(InputError, match=rf"{n} labels: expected 3 \(one a class\) to 200"):
            probe.by_labels(KNOWN, ASKED[0], n, 1)


def test_columns_that_hardly_vary_are_not_blown_up() -> None:
    """One scale for all columns: noise of unused dimensions stays small."""
    quiet = np.column_stack([BLOBS, 1e-3 * RNG.standard_normal((300, 50))])
    plain = accuracies(KNOWN, ASKED, 9, 5)
    np.testing.assert_allclose(accuracies((quiet[:200], KNOWN[1]), (quiet[200:], ASKED[1]), 9, 5), plain, atol=0.02)
    train, test = probe.scaled(BLOBS[:200], BLOBS[200:])
    assert (train**2).mean() == pytest.approx(1)
    np.testing.assert_allclose(train.mean(axis=0), 0, atol=1e-12)
    shift = BLOBS[200:] - BLOBS[:200].mean(axis=0)
    np.testing.assert_allclose(test, shift / np.sqrt(((BLOBS[:200] - BLOBS[:200].mean(axis=0)) ** 2).mean()))


def test_neighbours_have_a_majority() -> None:
    train = np.array([[0.0], [1], [2], [10], [11]]), np.array([0, 1, 1, 0, 0])
    at_zero = np.array([[-0.1]]), np.array([1])
    assert probe.neighbours(train, at_zero, k=1) == 0
    assert probe.neighbours(train, at_zero, k=3) == 1
    assert probe.neighbours(train, at_zero, k=99) == 0  # all five
    nineteen = np.arange(19.0)[:, None], np.array([0] * 6 + [1] * 13)
    assert probe.neighbours(nineteen, (np.array([[-1.0]]), np.array([0]))) == 1  # of ten, six


def test_balanced_accuracy_counts_every_class_equally() -> None:
    """As scikit-learn computes it, also where a class is predicted that the labels do not have."""
    labels, predicted = np.repeat([0, 1, 2], [285, 11, 4]), np.zeros(300, int)
    assert probe.balanced_accuracy(labels, predicted) == pytest.approx(1 / 3)
    predicted[285:290], predicted[296:298] = 1, 2
    assert probe.balanced_accuracy(labels, predicted) == pytest.approx((1 + 5 / 11 + 2 / 4) / 3)
    assert probe.balanced_accuracy(labels, predicted) == pytest.approx(balanced_accuracy_score(labels, predicted))
    assert probe.balanced_accuracy(np.array([0, 0, 1]), np.array([0, 2, 1])) == pytest.approx(0.75)


def test_the_error_of_balanced_accuracy_is_its_spread_over_samples() -> None:
    """In simulated test splits with a fixed number of examples of each class."""
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], [200, 50, 20])
    right = rng.random((150, len(labels))) < np.array([0.95, 0.7, 0.4])[labels]
    predicted = np.where(right, labels, 3)
    values = [probe.balanced_accuracy(labels, each) for each in predicted]
    errors = [probe.balanced_error(labels, each) or 0 for each in predicted]
    assert np.std(values) == pytest.approx(np.mean(errors), rel=0.15)
    assert probe.balanced_error(np.array([0, 0, 1]), np.array([0, 1, 1])) is None


@pytest.mark.parametrize(
    ("wins", "losses", "better"), [(0, 0, False), (1, 0, False), (5, 0, False), (6, 0, True), (0, 9, False),
                                   (20, 10, False), (21, 8, True)],
)  # fmt: skip
def test_a_classifier_is_better_only_if_chance_does_not_explain_it(wins: int, losses: int, better: bool) -> None:
    """The p-values of an exact sign test are 2 / 2^5 for 5 to 0, and 2 / 2^6 for 6 to 0."""
    correct, other = np.ones(500), np.ones(500)
    other[:wins] = 0
    correct[wins : wins + losses] = 0
    assert probe.is_better(correct, other) == better


def test_finals_are_judged_by_the_probe_that_trials_are_chosen_by(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the same examples, the scores of both are equal, and each row says whether its own example is correct."""
    monkeypatch.setattr(probe.subset, "__defaults__", (150,))  # fewer than there are training examples
    rng = np.random.default_rng(0)
    y = np.repeat([0, 1, 2], [300, 60, 40])
    x = rng.standard_normal((400, 5)) * [1, 1, 5, 5, 5] + y[:, None] * [1.5, 0, 0, 0, 0]
    loaded = data.load(data.Source(place="mine"), {"x": x, "y": y})
    test = replace(loaded.test, y=torch.where(torch.arange(len(loaded.test)) % 7 > 0, loaded.test.y, -1))
    loaded = replace(loaded, valid=test, test=test)
    torch.manual_seed(1)  # the untrained encoder beside it has the seed 0
    model = variants.build("vae", variants.get("vae").config_type(latent=3), loaded.spec)
    (part,) = suite.run(model, loaded, sizes=Sizes(labels=(10,), draws=2), only=("probe",))
    scores = {s.name: s for s in part.scores}
    chosen = quick.scores(model, loaded) | quick.baselines(loaded)
    assert scores["probe/test_accuracy"].value == chosen["probe/accuracy"]
    assert scores["probe/test_balanced_accuracy"].value == chosen["probe/balanced_accuracy"]
    assert scores["probe/raw_test_accuracy"].value == chosen["probe/raw_pixels"]
    train = probe.subset(loaded.train)
    fitted = probe.fit(codes.encode_split(model, loaded, train), codes.labels_of(train))
    expected = (fitted.predict(codes.encode_split(model, loaded, test)) == test.y.numpy()).astype(float)
    np.testing.assert_array_equal(part.rows["correct"], np.where(test.y < 0, np.nan, expected))
    np.testing.assert_array_equal(part.rows["label"], np.where(test.y < 0, np.nan, test.y))
    assert "no better than trivial" in part.remark


def test_areas_of_a_rare_class_are_those_of_its_pairs_and_ranks() -> None:
    """The ROC area is the share of pairs in the right order; the other is the mean precision at the rare examples."""
    labels, probability = np.array([0, 1, 0, 0, 1]), np.array([0.1, 0.9, 0.2, 0.8, 0.7])
    areas = probe.areas(labels, probability, 1)
    assert {name: area.value for name, area in areas.items()} == {
        "roc_area": pytest.approx(5 / 6), "precision_recall_area": pytest.approx((1 + 2 / 3) / 2)
    }  # fmt: skip
    assert probe.areas(1 - labels, probability, 0) == areas


@pytest.mark.parametrize("classes", [1, 2, 3])
def test_two_classes_have_areas_of_the_rarer_one(folder: Path, classes: int) -> None:
    """The rare class has other columns, so that its area is near 1, whichever number it has; chance is its share."""
    labels = np.where(np.arange(400) % 8 > 0, 0, classes - 1)
    labels[:: 8 * classes] = classes // 2
    x = RNG.standard_normal((400, 5)) + 3 * (labels[:, None] > 0)
    for rare, y in enumerate((labels.max() - labels, labels)):
        np.savez(f"{rare}.npz", x=x, y=y)
        loaded = data.load(f"{rare}.npz")
        model = variants.build("vae", variants.get("vae").config_type(latent=5, width=32, lr=1e-2), loaded.spec)
        trainer.fit(model, loaded, epochs=3, seed=0)
        scores = quick.scores(model, loaded)
        assert ("probe/accuracy" in scores) == (classes > 1)
        assert ("probe/roc_area" in scores) == ("probe/precision_recall_area" in scores) == (classes == 2)
        if classes == 2:
            assert min(scores["probe/roc_area"], scores["probe/precision_recall_area"]) > 0.7


def test_the_majority_is_that_of_the_training_examples() -> None:
    assert probe.majority(np.array([2, 2, 0]), np.array([0, 0, 0, 2])) == 0.25


def test_baselines_are_linear_and_of_the_training_part() -> None:
    x, other = RNG.standard_normal((80, 6)) * [3, 2, 1, 0.1, 0.1, 0.1] + 5, RNG.standard_normal((20, 6))
    ours, theirs = probe.principal_components(x, other, 2)
    axes = np.linalg.svd(x - x.mean(axis=0))[2][:2]
    np.testing.assert_allclose(np.abs(ours), np.abs((x - x.mean(axis=0)) @ axes.T), rtol=1e-6)
    np.testing.assert_allclose(np.abs(theirs), np.abs((other - x.mean(axis=0)) @ axes.T), rtol=1e-6)
    assert probe.principal_components(x, other, 50)[0].shape == (80, 6)
    one, two = probe.random_projection(x, x * 2, 3)
    assert one.shape == (80, 3)
    np.testing.assert_allclose(two, 2 * one)


def test_what_depends_on_the_data_and_the_latent_size_alone_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """All trials of a process share it; data that differ, and another latent size, have their own."""
    y = np.arange(200) % 2
    loaded = data.load(data.Source(place="mine"), {"x": RNG.standard_normal((200, 6)) + 2 * y[:, None], "y": y})
    fits: dict[str, list[Any]] = {"probe": [], "gaussian": []}
    accuracy, maximum = probe.accuracy, baselines._maximum_likelihood
    monkeypatch.setattr(probe, "accuracy", lambda *given: (fits["probe"].append(0), accuracy(*given))[1])
    monkeypatch.setattr(
        baselines, "_maximum_likelihood", lambda *given: (fits["gaussian"].append(0), maximum(*given))[1]
    )

    def scored(latent: int, used: data.Data) -> tuple[dict[str, float], int, int]:
        torch.manual_seed(0)
        model = variants.build("vae", variants.get("vae").config_type(latent=latent), used.spec)
        return quick.scores(model, used), len(fits["probe"]), len(fits["gaussian"])

    first, *counts = scored(3, loaded)
    assert counts == [1, 1] and {"probe/random_projection", "baseline/valid_ppca"} <= first.keys()
    assert scored(3, loaded) == (first, 1, 1)
    second, *counts = scored(2, loaded)
    assert counts == [2, 1] and second["baseline/valid_ppca"] != first["baseline/valid_ppca"]
    fewer, *counts = scored(3, replace(loaded, train=loaded.train[slice(0, 60)]))  # its digest is the same
    assert counts == [3, 2] and fewer["baseline/valid_ppca"] != first["baseline/valid_ppca"]


def test_a_subset_is_the_same_each_time_and_in_order() -> None:
    split = Batch(torch.arange(50.0)[:, None])
    few = probe.subset(split, 10).x[:, 0]
    assert len(set(few.tolist())) == 10
    assert few.tolist() == sorted(few.tolist()) == probe.subset(split, 10).x[:, 0].tolist()
    assert few.tolist() != list(range(10))
    assert probe.subset(split, 50) is split


def test_areas_are_of_the_classes_that_the_probe_was_trained_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """A third class, which is rare, may be absent from the examples that the probe is trained on."""
    rng = np.random.default_rng(0)
    y = np.repeat([0, 1, 2], [300, 96, 4])
    loaded = data.load(data.Source(place="mine"), {"x": rng.standard_normal((400, 5)) + 3 * y[:, None], "y": y})
    monkeypatch.setattr(probe, "subset", lambda split, *_: split[(split.y < 2).nonzero()[:, 0]])
    loaded = replace(loaded, valid=probe.subset(loaded.valid))
    scores = quick.scores(variants.build("vae", variants.get("vae").config_type(latent=5), loaded.spec), loaded)
    assert scores["probe/roc_area"] > 0.7
