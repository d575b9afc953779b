"""Boards and sentences of made-up finals: what is said, and what is not."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pipeline.compare import analysis, protocol
from pipeline.compare.analysis import Board, Design, Rows
from pipeline.compare.criteria import BALANCED_PROBE, CRITERIA, ROWS, Criterion, Trivial

ELBO, PROBE, RECONSTRUCTION = (replace(c, trivial=()) for c in CRITERIA)
RAW = Trivial("probe/raw_test_accuracy", "raw values")
MAJORITY = Trivial("probe/majority_all", "the most frequent class")
Scores = Mapping[str, Sequence[float]]


def seeds(n: int) -> Design:
    return Design(unit="seed", asked=n)


def repetitions(n: int) -> Design:
    return Design(unit="repetition", asked=n, overlap=1 / 8)


def finals(metric: str, scores: Scores) -> pd.DataFrame:
    """Return the finals of each variant, one for each unit; a final whose score is NaN has failed."""
    rows: list[dict[str, Any]] = []
    for variant, values in scores.items():
        for unit, value in enumerate(values):
            failed = math.isnan(value)
            row = {"run": f"{variant}{unit}", "variant": variant, "unit": unit, metric: value}
            rows.append(
                {**row, "state": "failed" if failed else "complete", "reason": "loss is nan" if failed else None}
            )
    return pd.DataFrame(rows)


def board(criterion: Criterion, scores: Scores, design: Design, **others: Any) -> Board:
    return analysis.board(criterion, finals(criterion.test_metric, scores), {}, design, **others)


def hits(right: int, n: int = 509) -> np.ndarray:
    """Return for each of n test examples whether it is classified correctly; the first ones are."""
    return (np.arange(n) < right).astype(float)


def of_examples(answers: Mapping[str, np.ndarray], units: int, **trivial: np.ndarray) -> Board:
    """Return a board of accuracies. All seeds of a variant answer alike; `trivial` is of all variants."""
    criterion = replace(PROBE, trivial=tuple(t for t in (RAW, MAJORITY) if ROWS[t.metric] in trivial))
    frame = finals(PROBE.test_metric, {name: [float(a.mean())] * units for name, a in answers.items()})
    for t in criterion.trivial:
        frame[t.metric] = trivial[ROWS[t.metric]].mean()
    rows: dict[str, Rows] = {
        run: {"correct": answers[name], **trivial} for run, name in zip(frame["run"], frame["variant"], strict=True)
    }
    return analysis.board(criterion, frame, rows, seeds(units))


def test_one_test_example_in_two_seeds_gives_no_verdict() -> None:
    result = of_examples({"vae": hits(499), "beta": hits(500)}, 2)
    (pair,) = result.pairs
    assert (pair.first, pair.verdict) == ("beta", "undecided")
    assert pair.chances
    assert max(pair.chances.better, pair.chances.equal) < 0.95
    assert "cannot be told apart with 2 seeds and 509 test examples" in result.conclusions[0]


def test_equal_differences_without_rows_give_no_verdict() -> None:
    result = board(PROBE, {"vae": [0.9, 0.9], "beta": [0.95, 0.95]}, seeds(2))
    assert result.pairs[0].verdict == "undecided"
    assert "their difference is the same in all 2 seeds" in result.conclusions[0]


@pytest.mark.parametrize("design", [seeds(5), repetitions(5)])
def test_failed_finals_leave_no_verdict_in_words(design: Design) -> None:
    """Without the two finals that failed, the rest would be called better."""
    scores = {"vae": [-20.0, -20.1, -20.2, math.nan, math.nan], "beta": [-30.0, -30.2, -30.1, -30.1, -30.0]}
    result = board(ELBO, scores, design)
    assert result.pairs[0].verdict == "undecided"
    assert "no verdict on vae and beta, because 2 of 5 finals of vae failed;" in result.conclusions[0]
    assert "2 of 5 finals failed" in result.rows[0].notes
    whole = board(ELBO, {**scores, "vae": [-20.0, -20.1, -20.2, -20.0, -20.1]}, design)
    assert whole.pairs[0].verdict == "better"


def test_a_variant_all_of_whose_finals_failed_is_listed_with_the_reason() -> None:
    result = board(ELBO, {"vae": [-20.0, -20.1], "beta": [math.nan] * 2}, seeds(2), reasons={"aae": "no trial"})
    assert [(row.name, row.reason) for row in result.rows] == [
        ("vae", ""), ("beta", "all finals failed: loss is nan"), ("aae", "no trial"),
    ]  # fmt: skip
    assert "only variant with a score" in result.conclusions[0]


def test_scores_that_are_missing_leave_no_verdict() -> None:
    """Finals that were not made, or whose score is undefined, do not silently leave a smaller number of them."""
    result = board(ELBO, {"vae": [-20.0, -20.1, -20.2], "beta": [-30.0, -30.2, -30.1, -30.2, -30.3]}, seeds(5))
    assert result.pairs[0].verdict == "undecided"
    assert "only 3 of 5 seeds have scores of both" in result.conclusions[0]


def test_a_variant_that_does_not_exceed_raw_values_is_called_trivial() -> None:
    result = of_examples({"vae": hits(90), "beta": hits(470)}, 3, correct_raw=hits(430), correct_majority=hits(100))
    assert result.conclusions[-1] == "vae is no better than trivial (raw values: 0.845 ± 0.016)."
    assert [bool(row.notes) for row in result.rows] == [False, True]
    assert [row.name for row in result.trivial] == ["raw values", "the most frequent class"]


def test_the_share_of_the_most_frequent_class_is_not_celebrated() -> None:
    """Always predicting the class is right about 498 of 509 rows, .978; two more rows, .982, are no evidence."""
    result = of_examples({"vae": hits(500)}, 5, correct_majority=hits(498))
    assert "vae is not clearly better than trivial (the most frequent class: 0.9784 ± 0.0065)." in result.conclusions


def test_a_variant_that_models_a_part_of_an_example_is_not_compared_with_trivial_models() -> None:
    criterion = replace(ELBO, trivial=(Trivial("baseline/test_ppca", "PPCA"),))
    frame = finals("test/elbo", {"cvae": [-20.0, -20.3]}).assign(**{"baseline/test_ppca": -10.0})
    assert not analysis.board(criterion, frame.assign(conditioned_on="x"), {}, seeds(2)).rows[0].notes
    assert analysis.board(criterion, frame, {}, seeds(2)).rows[0].notes


def test_lower_scores_are_better_where_the_metric_says_so() -> None:
    scores = {"vae": [20.0, 20.2, 20.1, 20.3, 20.1], "beta": [30.0, 30.1, 29.9, 30.2, 30.4]}
    result = board(RECONSTRUCTION, scores, repetitions(5))
    assert [row.name for row in result.rows] == ["vae", "beta"]
    assert result.rows[0].mean
    assert result.rows[0].mean.value == pytest.approx(20.14)  # in the metric's own sign
    assert result.conclusions[0].startswith("vae is better than beta by 9.98 nats per example [")
    assert result.verdicts("beta") == {"vae": "worse"}


SPREAD = np.array([-0.3, -0.1, 0.0, 0.15, 0.25])


@pytest.mark.parametrize(
    ("difference", "scale", "verdict", "sentence"),
    [
        (1.0, 1.0, "better", "vae is better than beta by 1 nats per example [0.66, 1.34], with"),
        (0.01, 0.05, "equal", "vae and beta are practically equal: they differ by less than 0.05 nats per example"),
        (0.2, 1.0, "undecided", "vae and beta cannot be told apart with 5 repetitions"),
    ],
)
def test_repetitions_decide_or_say_how_many_would(difference: float, scale: float, verdict: str, sentence: str) -> None:
    beta = np.array([-25.0, -24.0, -26.0, -25.5, -24.5])  # the splits differ, which pairs take out
    scores = {"vae": beta + difference + scale * SPREAD, "beta": beta}
    result = board(ELBO, scores, repetitions(5))
    (pair,) = result.pairs
    assert pair.verdict == verdict
    assert result.conclusions[0].startswith(sentence)
    assert pair.difference.error == pytest.approx(scale * SPREAD.std(ddof=1) * math.sqrt(1 / 5 + 1 / 8))
    if verdict == "undecided":
        assert pair.needed and pair.needed > 5
        assert f"About {pair.needed} repetitions have an even chance to decide" in result.conclusions[0]
    hopeless = board(ELBO, {**scores, "vae": beta + 0.05 + SPREAD}, repetitions(5))
    assert "Even 100 repetitions would probably not decide" in hopeless.conclusions[0]


def test_the_unit_is_the_repetition_and_not_the_test_example() -> None:
    """Thousands of rows make no evidence of two repetitions that disagree."""
    rng, frame = np.random.default_rng(0), finals("test/elbo", {"vae": [-20.0, -21.0], "beta": [-20.6, -20.6]})
    rows: dict[str, Rows] = {run: {"elbo": value + rng.normal(0, 1, 5000)} for run, value in
                             zip(frame["run"], frame["test/elbo"], strict=True)}  # fmt: skip
    for design in (seeds(2), repetitions(2)):
        (pair,) = analysis.board(ELBO, frame, rows, design).pairs
        assert pair.verdict == "undecided"
        assert pair.difference.df < 2
        assert pair.difference.error > 0.5


def test_one_seed_is_no_evidence() -> None:
    result = board(ELBO, {"vae": [-20.0], "beta": [-30.0]}, seeds(1))
    assert result.conclusions == [
        "There is no verdict on vae and beta, because one seed is no evidence; their means over "
        "1 seed differ by 10 nats per example."
    ]


def test_sentences_about_seeds_are_about_configurations_on_one_split() -> None:
    result = board(ELBO, {"vae": [-20.0, -20.1, -20.2], "beta": [-30.0, -30.2, -30.1]}, seeds(3))
    assert result.conclusions[0].startswith("On this split, the configuration of vae is better than that of beta by 10")


def test_a_probability_is_never_said_to_be_one() -> None:
    scores = {"vae": [-20.0, -20.1, -20.2, -20.1], "beta": [-90.0, -90.2, -90.1, -90.0]}
    assert "with a probability above 0.99" in board(ELBO, scores, repetitions(4)).conclusions[0]


def test_intervals_of_more_pairs_are_wider() -> None:
    scores = {"vae": [-20.0, -20.4, -20.2], "beta": [-21.0, -21.2, -20.9], "aae": [-22.0, -22.5, -22.2]}
    two = board(ELBO, {name: scores[name] for name in ("vae", "beta")}, repetitions(3)).pairs[0].interval
    three = next(p for p in board(ELBO, scores, repetitions(3)).pairs if p.second == "beta").interval
    assert three[0] < two[0] < two[1] < three[1]


def test_variants_without_a_common_unit_are_not_compared_in_words() -> None:
    nan = math.nan
    scores = {"vae": [-20.0, -20.1, nan, nan], "beta": [nan, nan, -30.0, -30.1], "aae": [-25.0, -25.2, -25.1, -25.3]}
    result = board(ELBO, scores, repetitions(4))
    assert {(p.first, p.second) for p in result.pairs} == {("vae", "aae"), ("aae", "beta")}
    assert "vae and beta are not compared, because no repetition has scores of both." in result.conclusions


@pytest.mark.parametrize("variants", [2, 3])
def test_intervals_and_probabilities_are_explained_where_both_are_shown(variants: int) -> None:
    scores = {name: [-20.0 - i, -20.4 - i, -20.2 - 2 * i] for i, name in enumerate(("vae", "beta", "aae")[:variants])}
    *_, last = board(ELBO, scores, repetitions(3)).conclusions
    assert "an interval may include 0 where the probability is high" in last
    assert ("all 3 of them hold at once" in last) == (variants == 3)


def test_a_score_of_examples_that_is_missing_or_misspelt_is_an_error_and_not_left_out() -> None:
    with pytest.raises(KeyError, match="acuracy"):
        Trivial("probe/raw_test_acuracy", "raw values")
    frame = finals(PROBE.test_metric, {"vae": [0.9, 0.9]}).assign(**{RAW.metric: 0.8})
    kept: dict[str, Rows] = {run: {"correct": hits(450), "corect_raw": hits(400)} for run in frame["run"]}
    with pytest.raises(KeyError, match="correct_raw"):
        analysis.board(replace(PROBE, trivial=(RAW,)), frame, kept, seeds(2))


@pytest.mark.parametrize(
    ("right", "words"), [(397, "no better than"), (399, "not clearly better than"), (430, "better than")]
)
def test_the_accuracy_beside_a_balanced_one_is_compared_with_the_most_frequent_class(right: int, words: str) -> None:
    """The differences of each test example count: without the error over them, two more rows would be better."""
    balanced = replace(BALANCED_PROBE, trivial=())
    frame = finals(balanced.test_metric, {"vae": [0.6, 0.61]})
    frame = frame.assign(**{"probe/test_accuracy": right / 509, "probe/majority_all": 397 / 509})
    columns: Rows = {"correct": hits(right), "correct_majority": hits(397), "balanced_correct": hits(308)}
    (sentence,) = analysis.board(balanced, frame, dict.fromkeys(frame["run"], columns), seeds(2)).rows[0].remarks
    assert sentence.startswith("Its probe/test_accuracy is 0.")
    assert sentence.endswith(f", which is {words} always predicting the most frequent class (0.780 ± 0.018).")


def test_errors_of_further_metrics_contain_that_over_test_examples() -> None:
    """The same metric has one error, in the table of a criterion and among all scores."""
    rng = np.random.default_rng(0)
    frame = finals("test/elbo", {"vae": [-20.0, -20.1]}).assign(**{"test/kl": 3.0, "test/reconstruction": [17.0, 17.1]})
    kept: dict[str, Rows] = {
        run: {"elbo": rng.normal(-20, 2, 400), "kl": rng.normal(3, 2, 400), "reconstruction": rng.normal(17, 2, 400)}
        for run in frame["run"]
    }
    related = analysis.board(RECONSTRUCTION, frame, kept, seeds(2)).rows[0].related["test/kl"]
    assert related.rows == 400 and 0.04 < related.error < 0.11
    own = analysis.board(ELBO, frame, kept, seeds(2)).rows[0].mean
    assert own and analysis.mean_of(frame, "test/elbo", kept, seeds(2)) == own


def test_the_error_of_corrected_annealing_contains_that_of_both_of_its_parts() -> None:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"row": np.arange(500), "iw": rng.normal(-100, 20, 500), "ais": np.nan})
    frame.loc[:19, "ais"] = frame["iw"] + rng.normal(1, 4, 500)
    frame.loc[400:, "iw"] = np.nan  # the bound is of 400 examples, and annealing of 20
    difference = (frame["ais"] - frame["iw"]).dropna()
    values = protocol._rows(frame)["ais_corrected"]
    values = values[~np.isnan(values)]
    assert (len(values), len(difference)) == (400, 20)
    assert values.mean() == pytest.approx(frame["iw"].mean() + difference.mean())
    expected = math.hypot(frame["iw"].sem(), difference.sem())
    assert values.std() / math.sqrt(400) == pytest.approx(expected, rel=0.1)


def test_a_reconstruction_is_compared_with_a_decoder_that_ignores_the_code() -> None:
    frame = finals("test/reconstruction", {"vae": [20.0, 20.3], "beta": [28.0, 28.1]})
    result = analysis.board(CRITERIA[2], frame.assign(**{"baseline/test_independent": -27.0}), {}, seeds(2))
    assert [row.beats_trivial for row in result.rows] == [True, False]
    assert result.conclusions[-1] == "beta is no better than trivial (independent: 27 nats per example)."
    assert result.trivial[0].mean and result.trivial[0].mean.value == 27


@pytest.mark.parametrize(
    ("scores", "asked", "beats"), [([-20.0, -20.3], 2, True), ([-20.0, math.nan], 2, False), ([-20.0, -20.3], 3, False),
                                   ([-20.0], 1, False), ([-40.0, -40.1], 2, False)],
)  # fmt: skip
def test_a_variant_beats_trivial_models_only_by_all_units_and_with_an_error(
    scores: list[float], asked: int, beats: bool
) -> None:
    criterion = replace(ELBO, trivial=(Trivial("baseline/test_ppca", "PPCA"),))
    frame = finals("test/elbo", {"vae": scores}).assign(**{"baseline/test_ppca": -30.0})
    assert analysis.board(criterion, frame, {}, seeds(asked)).rows[0].beats_trivial == beats
    one_more_failed = pd.concat([frame, frame.iloc[:1].assign(**{"test/elbo": math.nan, "state": "failed"})])
    assert not analysis.board(criterion, one_more_failed, {}, seeds(asked)).rows[0].beats_trivial
    frame["conditioned_on"] = "x"
    assert not analysis.board(criterion, frame, {}, seeds(asked)).rows[0].beats_trivial
