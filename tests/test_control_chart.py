"""Control charts: limits, verdicts, and the rates of false and of missed alarms."""

import math
from typing import Any

import control_charts
import numpy as np
import pytest
from scipy import stats

from pipeline.benchmark import control_chart
from pipeline.benchmark.control_chart import Baseline, Levels, Noise, Sample, assess, baseline, levels

SURE = Levels(1e-5, 1e-5)


def samples(rng: np.random.Generator, reruns: int, n: int, between: float = 0.0) -> list[Sample]:
    values = rng.normal(size=(reruns, n)) + between * rng.normal(size=(reruns, 1))
    return [Sample(float(v.mean()), float(v.std(ddof=1)) if n > 1 else math.nan, n) for v in values]


def base_of(centre: float, spread: float, df: float, effective: float = 10, **others: Any) -> Baseline:
    return Baseline(centre=centre, spread=spread, df=df, effective=effective, **others)


def test_independent_trainings_give_limits_from_all_of_them() -> None:
    rng = np.random.default_rng(0)
    suite = [samples(rng, 12, 5) for _ in range(28)]
    noise = control_chart.noise(suite)
    assert noise.ratio < 1.2
    assert noise.tails == 1
    found = [baseline(s, noise) for s in suite]
    assert np.median([b.df for b in found]) == pytest.approx(1 / (1 / 44 + 1 / 48))
    assert np.mean([b.spread for b in found]) == pytest.approx(1 / math.sqrt(5), rel=0.1)


@pytest.mark.parametrize("effect", [0.3, 0.45])
def test_an_effect_of_the_rerun_is_estimated_from_all_series(effect: float) -> None:
    rng = np.random.default_rng(1)
    suite = [samples(rng, 12, 5, effect) for _ in range(28)]
    noise = control_chart.noise(suite)
    assert noise.ratio == pytest.approx(1 + 5 * effect**2, rel=0.2)
    found = [baseline(s, noise) for s in suite]
    assert np.mean([b.spread for b in found]) == pytest.approx(math.sqrt(1 / 5 + effect**2), rel=0.1)
    assert np.mean([b.common for b in found]) == pytest.approx(1 - 1 / (1 + 5 * effect**2), abs=0.1)
    assert any("limits from all series" in b.found for b in found)


def test_an_effect_in_one_series_widens_its_limits_only() -> None:
    apart = samples(np.random.default_rng(1), 10, 5, between=3.0)
    found = baseline(apart)
    assert found.df == 9
    assert found.spread == pytest.approx(np.std([s.mean for s in apart], ddof=1))
    assert "limits from 10 reruns" in found.found


def test_heavy_tails_are_found_and_widen_the_limits() -> None:
    rng = np.random.default_rng(0)
    drawn = rng.standard_t(3, size=(28, 12, 5))
    suite = [[Sample(float(v.mean()), float(v.std(ddof=1)), 5) for v in values] for values in drawn]
    noise = control_chart.noise(suite)
    assert 1.4 < noise.tails < 2.5
    assert baseline(suite[0], noise).spread == pytest.approx(
        math.sqrt(noise.tails) * baseline(suite[0], Noise(noise.ratio)).spread
    )
    assert "heavy tails" in baseline(suite[0], noise).found


def test_correlated_single_values_widen_the_limits() -> None:
    trend = baseline([Sample(float(i // 4)) for i in range(12)])
    mixed = baseline([Sample(float(i % 3)) for i in range(12)])
    assert trend.effective < 4 < mixed.effective == pytest.approx(0.955 * 12)
    assert trend.spread > mixed.spread == pytest.approx(np.std([i % 3 for i in range(12)], ddof=1))
    assert "successive values are correlated" in trend.found
    assert assess(mixed, [-3.0] * 200, "maximize", 0.0, SURE, suspect=0.0).verdict != "drifting"
    with pytest.raises(ValueError, match="4 reruns"):
        baseline([Sample(1.0)] * 4)


def test_one_odd_rerun_hardly_moves_the_centre() -> None:
    values = [0.0, 0.1, -0.1, 0.2, -0.2, 0.1, -0.1, 0.0, 0.05, 100.0]
    assert abs(baseline([Sample(v) for v in values]).centre) < 0.1


def test_what_a_rerun_and_its_confirmation_share_does_not_average_out() -> None:
    apart, shared = base_of(0.0, 1.0, 20), base_of(0.0, 1.0, 20, common=1.0)
    assert apart.reach(0.01, 2) == pytest.approx(stats.t.isf(0.01, 20) * math.sqrt(0.5 + 0.1))
    assert shared.reach(0.01, 2) == shared.reach(0.01) == apart.reach(0.01)


def test_a_suite_without_noise_has_no_model() -> None:
    assert control_chart.noise([[Sample(1.0)] * 5, [Sample(1.0, 0.0, 3)] * 5]) == Noise()


def test_the_first_look_is_the_t_prediction_interval() -> None:
    base = base_of(10.0, 0.5, 9)
    found = assess(base, [10.0], "maximize", 0.0, SURE)
    reach = stats.t.ppf(0.99, 9) * 0.5 * math.sqrt(1 + 1 / 10)
    assert (found.low, found.high) == pytest.approx((10 - reach, 10 + reach))
    assert assess(base, [10 - 1.01 * reach], "maximize", 0.0, SURE).verdict == "suspect"
    assert assess(base, [10 - 0.99 * reach], "maximize", 0.0, SURE).verdict == "ok"
    assert assess(base, [10 + 1.01 * reach], "minimize", 0.0, SURE).verdict == "suspect"


def test_worse_takes_two_and_a_change_that_matters() -> None:
    base = base_of(100.0, 1.0, 49)
    assert assess(base, [90.0], "maximize", 0.0, SURE).verdict == "suspect"
    assert assess(base, [90.0, 91.0], "maximize", 0.0, SURE, suspect=90.0).verdict == "worse"
    assert assess(base, [90.0, 100.0], "maximize", 0.0, SURE, suspect=90.0).verdict == "ok"  # the second saw nothing
    assert assess(base, [90.0, 91.0], "maximize", 0.2, SURE, suspect=90.0).verdict == "ok"  # a fifth would matter
    assert assess(base, [110.0], "maximize", 0.0, SURE).verdict == "better"


def test_without_noise_the_change_that_matters_decides() -> None:
    base = base_of(0.9, 0.0, 9)
    assert assess(base, [0.9], "maximize", 0.01, SURE).verdict == "ok"
    assert assess(base, [0.895], "maximize", 0.01, SURE).verdict == "ok"
    assert assess(base, [0.88], "maximize", 0.01, SURE).verdict == "suspect"


def test_the_ewma_is_that_of_its_formula_and_forgets_one_outlier() -> None:
    base = base_of(0.0, 1.0, 49)
    since = [-0.5, -1.0, -0.2, -0.9]
    z = 0.0
    for x in since:
        z = 0.3 * x + 0.7 * z
    assert assess(base, since, "maximize", 0.0, SURE).ewma == pytest.approx(z)
    outlier = assess(base, [-40.0, 0.0], "maximize", 0.0, SURE, suspect=-40.0)
    assert outlier.verdict == "ok"


@pytest.mark.parametrize(("kind", "most"), [("normal", 0.05), ("t3", 0.05), ("rerun effect 0.3", 0.05)])
def test_false_alarms_are_rare(kind: str, most: float) -> None:
    suites = 30
    rate = control_charts.false_alarms(np.random.default_rng(0), kind, suites, 12)
    assert rate <= most + 3 * math.sqrt(most / suites)


def test_a_change_of_two_deviations_is_found() -> None:
    at_once, in_three = control_charts.detections(np.random.default_rng(0), "normal", 20, 12)
    assert at_once > 0.8
    assert in_three > 0.93


def test_a_month_has_one_budget_of_false_alarms() -> None:
    assert levels(34, 30).alarm == pytest.approx(control_chart.MONTHLY_ALARMS / 1020)
    assert levels(0, 30).alarm == pytest.approx(control_chart.MONTHLY_ALARMS / 1)
