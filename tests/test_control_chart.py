"""Control charts: limits, verdicts, and the rates of false and of missed alarms."""

import math

import numpy as np
import pytest
from scipy import stats

from pipeline.benchmark import control_chart
from pipeline.benchmark.control_chart import Baseline, Levels, Sample, assess, baseline, levels

SURE = Levels(1e-5, 1e-5)


def samples(rng: np.random.Generator, reruns: int, n: int, between: float = 0.0) -> list[Sample]:
    values = rng.normal(size=(reruns, n)) + between * rng.normal(size=(reruns, 1))
    return [Sample(float(v.mean()), float(v.std(ddof=1)) if n > 1 else math.nan, n) for v in values]


def test_the_spread_is_of_all_trainings_where_reruns_differ_no_more() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(3, 2, size=(10, 5))
    found = baseline([Sample(float(v.mean()), float(v.std(ddof=1)), 5) for v in values])
    assert found.df == 49
    assert found.centre == pytest.approx(values.mean())
    assert found.spread == pytest.approx(values.std(ddof=1) / math.sqrt(5))  # of all 50, about one mean


def test_the_spread_is_of_means_where_reruns_differ_more_or_have_one_value() -> None:
    rng = np.random.default_rng(1)
    apart = samples(rng, 10, 5, between=3.0)
    assert baseline(apart).df == 9
    assert baseline(apart).spread == pytest.approx(np.std([s.mean for s in apart], ddof=1))
    single = samples(rng, 8, 1)
    assert baseline(single).df == 7
    with pytest.raises(ValueError, match="4 reruns"):
        baseline(single[:4])


def test_the_first_look_is_the_t_prediction_interval() -> None:
    base = Baseline(10.0, 0.5, 9, 10)
    found = assess(base, [10.0], "maximize", 0.0, SURE)
    reach = stats.t.ppf(0.99, 9) * 0.5 * math.sqrt(1 + 1 / 10)
    assert (found.low, found.high) == pytest.approx((10 - reach, 10 + reach))
    assert assess(base, [10 - 1.01 * reach], "maximize", 0.0, SURE).verdict == "suspect"
    assert assess(base, [10 - 0.99 * reach], "maximize", 0.0, SURE).verdict == "ok"
    assert assess(base, [10 + 1.01 * reach], "minimize", 0.0, SURE).verdict == "suspect"


def test_worse_takes_two_and_a_change_that_matters() -> None:
    base = Baseline(100.0, 1.0, 49, 10)
    assert assess(base, [90.0], "maximize", 0.0, SURE).verdict == "suspect"
    assert assess(base, [90.0, 91.0], "maximize", 0.0, SURE, suspect=90.0).verdict == "worse"
    assert assess(base, [90.0, 100.0], "maximize", 0.0, SURE, suspect=90.0).verdict == "ok"  # the second saw nothing
    assert assess(base, [90.0, 91.0], "maximize", 0.2, SURE, suspect=90.0).verdict == "ok"  # a fifth would matter
    assert assess(base, [110.0], "maximize", 0.0, SURE).verdict == "better"


def test_without_noise_the_change_that_matters_decides() -> None:
    base = Baseline(0.9, 0.0, 9, 10)
    assert assess(base, [0.9], "maximize", 0.01, SURE).verdict == "ok"
    assert assess(base, [0.895], "maximize", 0.01, SURE).verdict == "ok"
    assert assess(base, [0.88], "maximize", 0.01, SURE).verdict == "suspect"


def test_the_ewma_is_that_of_its_formula_and_forgets_one_outlier() -> None:
    base = Baseline(0.0, 1.0, 49, 10)
    since = [-0.5, -1.0, -0.2, -0.9]
    z = 0.0
    for x in since:
        z = 0.3 * x + 0.7 * z
    assert assess(base, since, "maximize", 0.0, SURE).ewma == pytest.approx(z)
    outlier = assess(base, [-40.0, 0.0], "maximize", 0.0, SURE, suspect=-40.0)
    assert outlier.verdict == "ok"


def rates(
    rng: np.random.Generator, months: int, *, shift: float = 0.0, drift: float = 0.0, looks: int = 30, n: int = 5,
    reruns: int = 12, series: int = 34,
) -> tuple[float, float]:  # fmt: skip
    """Return the share of series with an alarm within `looks` reruns, and the share of first looks that were suspect.

    `shift` and `drift` (for each rerun) are in standard deviations of one training.
    """
    level = levels(series, 30)
    alarms = suspects = total = 0
    for _ in range(months):
        base = baseline(samples(rng, reruns, n))
        since: list[float] = []
        for look in range(looks):
            mean = -shift - drift * (look + 1)
            since.append(mean + rng.normal() / math.sqrt(n))
            found = assess(base, since, "maximize", 0.0, level)
            total += 1
            if found.verdict == "suspect":
                suspects += 1
                since.append(mean + rng.normal() / math.sqrt(n))
                found = assess(base, since, "maximize", 0.0, level, suspect=since[-2])
            if found.verdict in control_chart.ALARMS:
                alarms += 1
                break
    return alarms / months, suspects / total


def test_false_alarms_are_rare_and_true_ones_come() -> None:
    rng = np.random.default_rng(0)
    false, repeated = rates(rng, 2000)
    assert 34 * false < 0.05 + 3 * math.sqrt(34 * 0.05 / 2000)  # of a suite of 34 series in a month
    assert 0.006 < repeated < 0.014
    assert rates(rng, 1000, shift=2.0, looks=1)[0] > 0.87  # asked for: .90 (the script below measures it finely)
    assert rates(rng, 500, drift=0.15, looks=20)[0] > 0.97


def test_a_month_has_one_budget_of_false_alarms() -> None:
    assert levels(34, 30).alarm == pytest.approx(control_chart.MONTHLY_ALARMS / 1020)
    assert levels(0, 30).alarm == pytest.approx(control_chart.MONTHLY_ALARMS / 1)
    assert control_chart.MONTHLY_ALARMS + control_chart.MONTHLY_DRIFTS <= 0.05


if __name__ == "__main__":
    generator = np.random.default_rng(1)
    for size in (6, 8, 10, 12, 18):
        alarms, again = rates(generator, 40_000, reruns=size)
        month = 1 - (1 - alarms) ** 34
        found = rates(generator, 20_000, shift=2.0, looks=1, reruns=size)[0]
        slow = rates(generator, 4_000, drift=0.15, looks=20, reruns=size)[0]
        print(
            f"baseline of {size:2d}: false alarms {alarms / 30:.1e} a series and rerun, {month:.3f} a month of 34; "
            f"repeated {again:.3f} a series; 2 sd found at once {found:.3f}; .15 sd a rerun found in 20 {slow:.3f}",
            flush=True,
        )
