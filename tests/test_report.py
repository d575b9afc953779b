"""What the report of a comparison says and shows, for made-up finals and untrained models."""

import math
import re
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

import variants
from pipeline import data, ui
from pipeline.compare import across, criteria, examples, figures, formats, remarks, report, sentences, tables
from pipeline.compare.analysis import TRIVIAL_NOTES, Board, BoardRow, Design, board
from pipeline.compare.criteria import Criterion, Trivial
from pipeline.compare.statistics import Mean, rank_test
from pipeline.data import Source
from pipeline.tracker import views

RAW = Trivial("baseline/test_gaussian", "a Gaussian")
ELBO = Criterion(
    name="elbo", question="Which variant models the data best?", validation_metric="valid/elbo",
    test_metric="test/elbo", matters=0.05,
)  # fmt: skip
RECONSTRUCTION = replace(
    ELBO, name="reconstruction", test_metric="test/reconstruction", validation_metric="valid/reconstruction"
)
FIVE = Design(unit="repetition", asked=5, overlap=1 / 8)
SEEDS = Design(unit="seed", asked=5)
NO_BETTER = TRIVIAL_NOTES[0]
NOISE = np.array([0.0, 0.1, -0.1, 0.05, -0.05])


def finals(trivial: float = -99.0, **scores: Any) -> pd.DataFrame:
    """Return a final for each unit; one whose score is NaN has failed."""
    rows = [
        {
            "run": f"{variant}{unit}", "variant": variant, "unit": unit, "test/elbo": value, "conditioned_on": None,
            "state": "failed" if math.isnan(value) else "complete", "reason": "diverged", RAW.metric: trivial,
        }
        for variant, values in scores.items() for unit, value in enumerate(values)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def comparison(frame: pd.DataFrame, design: Design = FIVE, **criterion: Any) -> Any:
    """Return what the sentences of a report are made from: a board of the ELBO, with a trivial model."""
    judged = replace(ELBO, trivial=(RAW,), **criterion)
    judged_board = board(judged, frame, {}, design, examples="300 test examples")
    return SimpleNamespace(boards=[judged_board], design=design, finals=frame)


def test_the_answer_groups_the_others_by_their_verdicts() -> None:
    other = np.array([0.3, -0.2, 0.25, -0.3, 0.1])
    frame = finals(
        hvae=-20 + NOISE, vae=-25 + NOISE[::-1], beta=-26 + NOISE[::-1], aae=-20.001 + NOISE + 0.001 * NOISE[::-1],
        cvae=-20.33 + other, vrae=[-24, -24.1, math.nan, math.nan, -24.2],
    )  # fmt: skip
    (answer,) = sentences.answers(comparison(frame))
    assert answer.startswith(
        "Which variant models the data best? hvae has the best mean of test/elbo (higher is better), -20.000 ± 0.045 "
        "nats per example (5 repetitions, 300 test examples, 95% interval ["
    )
    assert "better than trivial (the best of that kind is a Gaussian: -99)" in answer
    assert "hvae is better than vae and beta; practically equal to aae." in answer
    assert re.search(
        r"With 5 repetitions, it cannot be told apart from cvae \(about \d+ repetitions have an even", answer
    )
    assert answer.endswith("There is no verdict on hvae and vrae: 2 of 5 finals of vrae failed.")


def test_a_best_variant_that_is_no_better_than_trivial_is_not_celebrated() -> None:
    (answer,) = sentences.answers(comparison(finals(trivial=-19.0, hvae=-20 + NOISE, vae=-25 + NOISE[::-1])))
    assert answer.startswith(
        f"{ELBO.question} Even hvae, which has the best mean of test/elbo (higher is better), -20.0"
    )
    assert f", is {NO_BETTER} (a Gaussian: -19 nats per example)." in answer
    assert "better than trivial (the best" not in answer
    assert "Among the variants, hvae is better than vae." in answer


def test_seeds_of_one_split_are_no_statement_about_variants() -> None:
    frame = finals(hvae=-20 + NOISE, vae=-25 + NOISE[::-1])
    assert not any("--repeats" in line for line in sentences.answers(comparison(frame)))
    *_, last = sentences.answers(comparison(frame, SEEDS))
    assert "the chosen configurations on this split" in last and "--repeats 5" in last


def test_better_than_trivial_is_said_only_where_it_was_tested() -> None:
    """One of five finals failed, or one seed has no error; the mean alone exceeds the trivial model."""
    one = Design(unit="seed", asked=1)
    for frame, design in ((finals(hvae=[-20.0, -20.1, -20.2, -20.1, math.nan]), FIVE), (finals(hvae=[-20.0]), one)):
        assert "This is better than trivial" not in sentences.answers(comparison(frame, design))[0]
    (answer, _) = sentences.answers(comparison(finals(hvae=[-20.0]), one))
    assert "(1 seed, 300 test examples, the error is not known)" in answer
    assert "This is not known to be better than trivial (a Gaussian: -99 nats per example), because" in answer
    assert "better than trivial" in sentences.answers(comparison(finals(hvae=-20 + NOISE)))[0]


def test_the_answer_names_variants_that_share_no_repetition_with_the_first() -> None:
    nan = math.nan
    frame = finals(hvae=[-20, -20.1, nan, nan, nan], vae=[nan, nan, -25, -25.1, -25.2])
    (answer,) = sentences.answers(comparison(frame))
    assert answer.endswith("There is no verdict on hvae and vae: no repetition has scores of both.")


def test_without_a_score_there_is_no_answer() -> None:
    (answer,) = sentences.answers(comparison(finals(hvae=[math.nan, math.nan])))
    assert answer == f"{ELBO.question} There is no answer, because no variant has test/elbo."


def test_one_table_has_all_variants_by_all_criteria_with_marks_and_trivial_rows() -> None:
    frame = finals(trivial=-24.0, hvae=-20 + NOISE, vae=-25 + NOISE[::-1])
    notes = {"vae": ["2 of 5 finals collapsed"]}
    lower = frame.rename(columns={"test/elbo": "test/reconstruction"})
    lower["test/reconstruction"] *= -1
    boards = [
        board(cast(Any, comparison(frame).boards[0].criterion), frame, {}, FIVE, notes=notes),
        board(RECONSTRUCTION, lower, {}, FIVE, notes=notes, reasons={"aae": "it has no study"}),
    ]
    best, worse, missing = tables.score_rows(boards)
    assert (best["name"], worse["name"], missing["name"]) == ("hvae", "vae", "aae")
    assert [cell["mark"] for cell in best["cells"]] == ["best mean"] * 2
    assert [cell["mark"] for cell in worse["cells"]] == ["worse"] * 2
    assert best["cells"][0]["value"] == "-20.000 ± 0.045" and best["cells"][0]["n"] == "5"
    assert worse["notes"] == ["2 of 5 finals collapsed"]  # once, beside the name
    assert [cell["notes"] for cell in worse["cells"]] == [[NO_BETTER], []]
    assert missing["cells"][1] == {"value": "—", "notes": ["it has no study"]}
    (gaussian,) = tables.trivial_rows(boards)
    assert (gaussian["name"], gaussian["cells"][0]["value"][:3]) == ("a Gaussian", "-24")
    table = tables.board_table(boards[0]).set_index("name")
    assert table["against the best"].to_dict() == {"hvae": "best mean", "vae": "worse", "a Gaussian": "trivial"}
    pairs = tables.pairs_table(boards[0]).iloc[0]
    assert (pairs["first"], pairs["P(better)"], pairs["n needed"]) == ("hvae", "> 0.99", "—")


def test_forecasts_of_all_variants_stand_above_the_baselines_which_are_the_same_for_all() -> None:
    def evaluation(error: float) -> dict[str, Any]:
        rows = [
            (channel, horizon, method, 50, {"model": error}.get(method, 3.0), 0.5, error if method == "model" else None)
            for channel in ("all channels", "heat")
            for horizon in ("all", "1")
            for method in ("model", "mean")
        ]
        names = ("channel", "horizon", "method", "n", "rmse", "rmse_error", "coverage")
        return {"tables": {"forecasts": dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))}}

    evaluations = {"vae": evaluation(1.0), "aae": {"tables": {}}, "vrae": evaluation(2.0)}
    table = tables.forecasts_table(evaluations)
    assert table["method"].tolist() == ["vae", "vrae", "mean"] * 4
    assert table["rmse"].tolist() == [1, 2, 3] * 4
    shown = report._shown_forecasts(table)
    assert list(zip(shown["channel"], shown["horizon"], strict=True)) == [
        *[("all channels", "all")] * 3, *[("all channels", "1")] * 3, *[("heat", "all")] * 3
    ]  # fmt: skip
    assert shown["rmse"].tolist()[:3] == ["1 ± 0.5", "2 ± 0.5", "3 ± 0.5"]
    assert shown["coverage"].tolist()[:3] == ["1", "2", "—"]
    assert tables.forecasts_table({"aae": {"tables": {}}}).empty


def table_models(names: tuple[str, ...] = ("vae", "aae")) -> Any:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({
        "height (cm)": rng.normal(170, 9, 200).round(1), "visits": rng.poisson(4, 200),
        "smoker": np.where(rng.random(200) < 0.4, "yes", "no"), "city": rng.choice(["Lyon", "Nice", "Paris"], 200),
        "price ($)": np.exp(rng.normal(10, 1, 200)), "ill": rng.choice(["mild", "severe"], 200),
    })  # fmt: skip
    frame.loc[::3, "height (cm)"] = np.nan
    loaded = data.load(Source(place="people", label="ill"), frame)
    torch.manual_seed(0)
    built = {n: variants.build(n, variants.get(n).config_type(), loaded.spec).eval() for n in names}
    return frame, {name: (model, loaded) for name, model in built.items()}


@torch.no_grad()
def test_the_same_rows_of_a_table_are_shown_in_its_units_and_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examples, "ROWS", 20)
    frame, models = table_models()
    columns, rows = examples.rows(models)
    assert columns == [c for c in frame if c != "ill"]
    assert len(rows) == 20
    assert 0 < sum("missing" in row.values["data"] for row in rows) < 20
    for row in rows:
        assert row.title.endswith(("(mild)", "(severe)"))
        assert list(row.values) == ["data", "vae", "aae"]
        shown = dict(zip(columns, row.values["data"], strict=True))
        (source,) = frame[np.isclose(frame["price ($)"], float(shown["price ($)"].replace(",", "")), rtol=1e-3)].index
        assert (shown["smoker"], shown["city"]) == (frame["smoker"][source], frame["city"][source])
        assert shown["visits"] == str(frame["visits"][source])
        height = frame["height (cm)"][source]
        assert shown["height (cm)"] == ("missing" if np.isnan(height) else f"{height:.4g}")
        for name in ("vae", "aae"):
            texts = dict(zip(columns, row.values[name], strict=True))
            assert texts["smoker"].startswith("yes: ") and texts["smoker"].endswith("%")
            assert texts["city"] in ("Lyon", "Nice", "Paris")
            assert 100 < float(texts["height (cm)"]) < 240  # also where the value is missing


@torch.no_grad()
def test_each_variant_reconstructs_the_same_series_in_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    series = [
        np.stack([np.linspace(0, 9, n) + i, 300 + 10 * np.sin(np.arange(n))], 1)
        for i, n in enumerate([12, 9, 15, 8] * 10)
    ]
    loaded = data.load(Source(place="waves"), series)
    model = variants.build("vrae", variants.get("vrae").config_type(), loaded.spec).eval()
    drawn: list[Any] = []
    subplots = Figure.subplots

    def recorded(self: Figure, *words: Any, **options: Any) -> Any:
        drawn.append(subplots(self, *words, **options))
        return drawn[-1]

    monkeypatch.setattr(Figure, "subplots", recorded)
    assert examples.series({"first": (model, loaded), "second": (model, loaded)}).keys() == {"light", "dark"}
    axes = drawn[0]
    assert axes.shape == (2, examples.PANELS)
    assert [ax.get_ylabel() for ax in axes[:, 0]] == ["first", "second"]
    for above, below in axes.T:
        (true, own), (same, _) = above.lines, below.lines
        np.testing.assert_array_equal(true.get_ydata(), same.get_ydata())
        assert len(own.get_ydata()) == len(true.get_ydata()) in (8, 9, 12, 15)
    assert axes[0, 1].lines[0].get_ydata() == pytest.approx(300, abs=11)  # in the units of the source
    assert examples.rows({"first": (model, loaded)}) == ([], [])


@torch.no_grad()
def test_tables_have_samples_beside_each_other_and_no_strips_of_pixels() -> None:
    _, models = table_models(("vae",))
    assert [(kind, name) for kind, name, _ in examples.strips(models, {})] == [("samples", "vae")]
    assert examples.series(models) == {}


def test_no_two_of_many_variants_look_alike() -> None:
    looks = figures.styles([f"v{i}" for i in range(20)]).values()
    assert len({(s.colour, s.line) for s in looks}) == len({(s.colour, s.marker) for s in looks}) == 20


SEEN = {  # matrices of linear sRGB (Machado et al. 2009), and the least difference that is expected
    "by most readers": (np.eye(3), 15),
    "with deuteranopia": ([[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]], 7),
    "with protanopia": ([[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]], 7),
}


def linear(colours: Any) -> Any:
    """Linear sRGB (n, 3) of colours."""
    rgb = np.array([to_rgb(c) for c in colours])
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def lab(rgb: Any) -> Any:
    """CIE L*a*b* (n, 3), D65, of linear sRGB (n, 3)."""
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    f = np.cbrt(rgb @ to_xyz.T / to_xyz.sum(1))
    return np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], 1)


def test_there_is_no_picture_of_probes_if_no_number_of_labels_was_scored() -> None:
    finals = pd.DataFrame({"variant": ["a", "b"], "probe/linear_all": 0.5, "probe/majority_all": 0.1})
    assert figures.probes(finals, {}, SEEDS, ["a", "b"]) == {}


@pytest.mark.parametrize("theme", figures.THEMES)
def test_fourteen_colours_can_be_told_apart_on_either_page_also_by_colour_blind_readers(theme: str) -> None:
    """In units of CIE 1976, in which a difference of 2.3 is just noticeable."""
    _, background, _, white = figures.THEMES[theme]
    colours = linear([s.colour for s in figures.styles([f"v{i}" for i in range(14)], white).values()])
    for how, (matrix, least) in SEEN.items():
        places = lab((colours @ np.transpose(matrix)).clip(0, 1))
        assert np.linalg.norm(places[:, None] - places, axis=2)[np.triu_indices(14, 1)].min() > least, how
    luminance, paper = (c @ (0.2126, 0.7152, 0.0722) for c in (colours, linear([background])))
    contrast = (np.maximum(luminance, paper) + 0.05) / (np.minimum(luminance, paper) + 0.05)
    assert contrast.min() > 2


def test_the_legend_of_curves_has_the_order_in_which_they_end(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[Any] = []
    monkeypatch.setattr(Axes, "legend", lambda self, handles, labels, **_: shown.append(labels))
    points = pd.DataFrame(
        {"variant": ["a", "a", "b", "b", "c"], "epoch": [1, 2, 1, 2, 1], "valid/elbo": [9, 1, 2, 3, 2]}
    )
    figures.curves(points, "valid/elbo", ["a", "b", "c"])
    assert shown == [["b", "c", "a"]] * 2


def named(scores: dict[str, float], dataset: str, notes: tuple[str, ...] = ()) -> Any:
    """Return a comparison in which the reconstruction is the ELBO with the other sign, so that lower is better.

    The variant `no_score` has neither.
    """
    boards = []
    for criterion in (ELBO, RECONSTRUCTION):
        means = {n: Mean(value=criterion.sign * v, spread=1.0, repetitions=5) for n, v in scores.items()}
        rows = [BoardRow(name=n, mean=mean, notes=notes) for n, mean in means.items()]
        rows.append(BoardRow(name="no_score", reason="undefined for this variant"))
        boards.append(Board(criterion=criterion, design=FIVE, rows=rows, trivial=[], pairs=[], conclusions=[]))
    return SimpleNamespace(dataset=dataset, boards=boards)


@pytest.mark.parametrize(
    ("datasets", "words"),
    [
        (2, "Even ranks on which so few data sets agree cannot be told from chance (Friedman's test: p = 0.135; "),
        (12, "a has the best average rank, 1.00 over 12 data sets. It is better than b and c (Friedman's test: p < "),
    ],
)
def test_over_several_data_sets_the_data_set_is_the_unit(tmp_path: Any, datasets: int, words: str) -> None:
    each = [named({"a": 3.0, "b": 2.0, "c": 1.0, **({"d": 0.0} if i else {})}, f"set{i}") for i in range(datasets)]
    page, answers = across.write(each, tmp_path, "again", {})
    assert words in answers[0] and words in answers[1]
    assert any("show little" in line for line in answers) == (datasets == 2)
    text = page.read_text()
    assert "d has no rank, because it has no score on set0." in text and "data:image/png" in text
    assert "no_score has no rank, because it has no score on set0" in text
    for name in ("elbo", "reconstruction"):
        ranks = pd.read_csv(tmp_path / f"ranks_{name}.csv").set_index("variant")
        assert ranks["average rank"].to_dict() == ranks["set1"].to_dict() == {"a": 1.0, "b": 2.0, "c": 3.0}


def test_ranks_of_variants_that_are_no_better_than_trivial_say_so(tmp_path: Any) -> None:
    notes = ("no better than trivial (raw values: 9)",)
    each = [named({"a": 3.0, "b": 2.0}, f"set{i}", notes if i < 2 else ()) for i in range(3)]
    _, answers = across.write(each, tmp_path, "again", {})
    assert "On set0 and set1, even the best variant is not clearly better than trivial." in answers[0]
    assert "cannot be told from chance (sign test: p = 0.250)" in answers[0]


def test_ranks_say_which_means_are_of_fewer_repetitions(tmp_path: Any) -> None:
    each = [named({"a": 3.0, "b": 2.0}, f"set{i}") for i in range(3)]
    first = each[0].boards[0]
    lost = Mean(value=3.0, spread=1.0, repetitions=3)
    first.rows[0] = replace(first.rows[0], mean=lost)
    page, answers = across.write(each, tmp_path, "again", {})
    words = "a has scores of only 3 of 5 repetitions on set0"
    assert words in answers[0] and words not in answers[1]
    assert f"Warning: {words}." in page.read_text()


def test_different_precisions_are_warned_of() -> None:
    choices: Any = [
        SimpleNamespace(variant=variant, config=SimpleNamespace(precision=precision))
        for variant, precision in (("vae", "bf16"), ("beta", "fp32"), ("beta", "bf16"))
    ]
    (warning,) = remarks.precisions(choices)
    assert "(bf16 for beta and vae; fp32 for beta)" in warning
    assert [*remarks.precisions(choices[::2])] == []


def test_the_interval_of_a_share_ends_at_1() -> None:
    mean = Mean(value=0.97, spread=0.03, repetitions=3)
    assert formats.limits(mean, "share")[1] == 1 < formats.limits(mean, "nats")[1]
    assert formats.interval(mean, "share").endswith(", 1.000]")


def test_finals_at_the_cap_are_judged_by_the_search_of_their_own_repetition() -> None:
    searches: Any = [
        SimpleNamespace(number=n, candidates={"vae": SimpleNamespace(study=SimpleNamespace(epochs=e, patience=3))})
        for n, e in enumerate([1, 9])
    ]
    frame = pd.DataFrame({"variant": "vae", "repetition": [0, 1, 1, 1], "time/epochs": [1, 5, 9, 9],
                          "time/best_epoch": [1, 5, 8, 2]})  # fmt: skip
    short, long = remarks._capped(searches, frame)
    assert short.startswith("1 of 4 finals of vae ended at the cap of 1 epoch, before")
    assert long.startswith("1 of 4 finals of vae ended at the cap of 9 epochs, before")


def test_annealing_that_has_not_converged_is_warned_of() -> None:
    finals = pd.DataFrame({"variant": ["aae", "aae", "vae"], "test/ais_gap": [2081.0, math.nan, 0.2]})
    assert remarks.without_convergence(finals) == {"aae": 2081.0}
    assert remarks.without_convergence(finals.drop(columns="test/ais_gap")) == {}


@pytest.mark.parametrize(("datasets", "joined"), [(12, []), (3, [[-0.2, 1.2], [0.8, 2.2]])])
def test_variants_whose_ranks_are_close_are_joined(
    monkeypatch: pytest.MonkeyPatch, datasets: int, joined: list[list[float]]
) -> None:
    """Ranks differ by 1; the critical difference is 0.96 with 12 data sets, and 1.91 with 3."""
    test = rank_test({name: np.arange(float(datasets)) - place for place, name in enumerate("abc")})
    bars: list[list[float]] = []
    plot = Axes.plot

    def recorded(self: Any, x: Any, y: Any, *words: Any, **options: Any) -> Any:
        if options.get("linewidth") == 4:
            bars.append(list(y))
        return plot(self, x, y, *words, **options)

    monkeypatch.setattr(Axes, "plot", recorded)
    figures.critical_difference(test, {name: {"x": rank} for name, rank in test.ranks.items()})
    assert bars == joined * 2  # on a light and on a dark page


def test_the_page_of_mlflow_has_the_same_metrics_and_one_configuration_in_a_group() -> None:
    pages = views._views([], has_finals=True)
    judged = {c.name: c.test_metric for c in criteria.CRITERIA}
    judged["balanced"] = criteria.BALANCED_PROBE.test_metric
    for name in ("Variants", *ui.BY_CRITERION):
        drawn = {card.get("metricKey") for card in pages[name]["compareRunCharts"] if not card["deleted"]}
        assert set(judged.values()) <= drawn
        (group,) = pages[name]["groupBy"]["groupByKeys"]
        assert group["groupByData"] == ("group" if name == "Variants" else "variant")
        assert name == "Variants" or f"LIKE '%(%{name.split()[-1]}%)'" in pages[name]["searchFilter"]
        assert pages[name]["searchFilter"].endswith(")'")  # no finals that are not in the latest comparison
    for criterion in criteria.CRITERIA:
        page = pages[f"Variants by {criterion.name}"]
        assert page["orderByKey"] == f"metrics.`{criterion.test_metric}`"
        assert page["orderByAsc"] == (criterion.sign < 0)
        assert f"the configurations that {criterion.name} chose" in page["compareRunSections"][0]["name"]
    assert {f"Variants by {c.name}" for c in criteria.CRITERIA} == {*ui.BY_CRITERION}
