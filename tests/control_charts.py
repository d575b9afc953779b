"""How often a suite raises a false alarm, and how often it finds a change, for several kinds of noise.

    python tests/control_charts.py [--suites 1000] [--reruns 12]      a minute or two for each kind of noise

A suite is simulated like `smoke`: 28 series with five trainings a rerun, and six speeds with one, over a month of 30
daily reruns after a baseline. The unit is the standard deviation of one training, for speeds that of one value. Kinds:

    normal              independent and normal trainings
    t3                  trainings of Student's t distribution with 3 degrees of freedom
    rerun effect S      all trainings of a rerun, and of its confirmation, share a normal effect of standard deviation S
    autocorrelation A   successive speeds are correlated by A, as are a speed and its confirmation; the rest is normal

The columns show the share of months with a false alarm, and the shares of series that are called worse, or drifting,
in the first rerun (with its confirmation) and within three reruns after all trainings got worse by two deviations.
Each share has its standard error. Speeds count for the first column only.
"""

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipeline.benchmark import control_chart
from pipeline.benchmark.control_chart import Baseline, Levels, Sample

SERIES, SPEEDS, SEEDS, MONTH = 28, 6, 5, 30
KINDS = (
    "normal", "t3", "rerun effect 0.2", "rerun effect 0.3", "rerun effect 0.45", "autocorrelation 0.6",
    "autocorrelation 0.9",
)  # fmt: skip
Values = NDArray[np.float64]


def trainings(rng: np.random.Generator, kind: str, series: int, reruns: int, looks: int) -> tuple[Values, Values]:
    """Draw trainings of all reruns, baseline first, and of the confirmations of the looks: (series, reruns, SEEDS)."""
    name, _, size = kind.rpartition(" ")
    shapes = (series, reruns + looks, SEEDS), (series, looks, SEEDS)
    if kind == "t3":
        first, second = (rng.standard_t(3, size=shape) / math.sqrt(3) for shape in shapes)
    else:
        first, second = (rng.normal(size=shape) for shape in shapes)
    if name == "rerun effect":
        effect = float(size) * rng.normal(size=(series, reruns + looks, 1))
        return first + effect, second + effect[:, reruns:]
    return first, second


def speeds(rng: np.random.Generator, kind: str, reruns: int) -> tuple[Values, Values]:
    """Draw speeds of all reruns, and of the confirmations of a month: (SPEEDS, reruns, 1)."""
    name, _, size = kind.rpartition(" ")
    correlation = float(size) if name == "autocorrelation" else 0.0
    rest = math.sqrt(1 - correlation**2)
    first = rng.normal(size=(SPEEDS, reruns + MONTH, 1))
    for i in range(1, first.shape[1]):
        first[:, i] = correlation * first[:, i - 1] + rest * first[:, i]
    return first, correlation * first[:, reruns:] + rest * rng.normal(size=(SPEEDS, MONTH, 1))


def baselines(drawn: Sequence[Values], reruns: int) -> list[Baseline]:
    """Return the baselines of all series, from the first reruns of each."""
    samples = [
        [Sample(float(v.mean()), float(v.std(ddof=1)) if len(v) > 1 else math.nan, len(v)) for v in values[:reruns]]
        for values in drawn
    ]
    noise = control_chart.noise(samples)
    return [control_chart.baseline(s, noise) for s in samples]


def first_alarm(base: Baseline, values: Values, second: Values, level: Levels) -> int:
    """Return the first rerun with an alarm, counted from 0, or the number of reruns if there is none."""
    for i in range(len(values)):
        since = values[: i + 1].tolist()
        found = control_chart.assess(base, since, "maximize", 0.0, level)
        if found.verdict == "suspect":
            both = [*since, float(second[i])]
            found = control_chart.assess(base, both, "maximize", 0.0, level, suspect=since[-1])
        if found.verdict in control_chart.ALARMS:
            return i
    return len(values)


def false_alarms(rng: np.random.Generator, kind: str, suites: int, reruns: int) -> float:
    """Return the share of suites with a false alarm within a month."""
    level = control_chart.levels(SERIES + SPEEDS, MONTH)
    alarms = 0
    for _ in range(suites):
        (first, second), (speed, again) = trainings(rng, kind, SERIES, reruns, MONTH), speeds(rng, kind, reruns)
        means = [v.mean(1) for v in (*first[:, reruns:], *speed[:, reruns:])]
        seconds = [v.mean(1) for v in (*second, *again)]
        found = baselines([*first, *speed], reruns)
        alarms += any(first_alarm(b, m, s, level) < MONTH for b, m, s in zip(found, means, seconds, strict=True))
    return alarms / suites


def detections(
    rng: np.random.Generator, kind: str, suites: int, reruns: int, shift: float = 2.0
) -> tuple[float, float]:
    """Return the shares of series that raise an alarm at the first rerun that is worse, and within three."""
    level = control_chart.levels(SERIES + SPEEDS, MONTH)
    at: list[int] = []
    for _ in range(suites):
        first, second = trainings(rng, kind, SERIES, reruns, 3)
        found = baselines(first, reruns)
        later = zip(found, first[:, reruns:].mean(2) - shift, second.mean(2) - shift, strict=True)
        at += [first_alarm(b, m, s, level) for b, m, s in later]
    return float(np.mean(np.array(at) == 0)), float(np.mean(np.array(at) < 3))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suites", type=int, default=1000)
    parser.add_argument("--reruns", type=int, default=12, help="reruns in the baseline")
    parser.add_argument("--seed", type=int, default=2)
    parser.add_argument("--kinds", nargs="+", default=KINDS, choices=KINDS)
    arguments = parser.parse_args()
    suites, reruns = arguments.suites, arguments.reruns
    few = max(1, suites // 4)
    print("| noise | false alarms a suite and month | found at once | within three reruns |\n|---|---|---|---|")
    for kind in arguments.kinds:
        rng = np.random.default_rng(arguments.seed)
        shares = [(false_alarms(rng, kind, suites, reruns), suites)]
        shares += [(share, few * SERIES) for share in detections(rng, kind, few, reruns)]
        cells = [f"{share:.1%} ± {math.sqrt(share * (1 - share) / n):.1%}" for share, n in shares]
        print(f"| {' | '.join([kind, *cells])} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
