"""Numbers as text: with their standard errors, intervals and units, and probabilities that are never 0 or 1."""

import math
from collections.abc import Sequence

from pipeline.compare.statistics import Mean


def number(mean: Mean) -> str:
    """Return a mean with its standard error, to two digits of the error."""
    if not mean.is_known:
        return f"{mean.value:.4g}"
    return f"{mean.value:.{places(mean)}f} ± {mean.error:.{places(mean)}f}"


def limits(mean: Mean, unit: str) -> tuple[float, float]:
    """Return the interval of a mean. That of a share ends at 0 and at 1."""
    low, high = mean.interval()
    return (max(low, 0.0), min(high, 1.0)) if unit == "share" and mean.is_known else (low, high)


def interval(mean: Mean, unit: str) -> str:
    return bounds(limits(mean, unit), places(mean)) if mean.is_known else "unknown"


def bounds(interval: tuple[float, float], places: int) -> str:
    return f"[{interval[0]:.{places}f}, {interval[1]:.{places}f}]"


def places(mean: Mean) -> int:
    return min(max(1 - math.floor(math.log10(mean.error)), 0), 8) if mean.is_known else 4


def listed(names: Sequence[str]) -> str:
    """Return names in a sentence, such as `a, b and c`."""
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def in_unit(number: str, unit: str) -> str:
    """Return a number with its unit; a share has none."""
    return number if unit == "share" else f"{number} {unit}"


def probability(value: float) -> str:
    """Return a probability as text. Values near 0 or 1 are written as "< 0.01" or "> 0.99"."""
    return "< 0.01" if value < 0.01 else "> 0.99" if value > 0.99 else f"{value:.2f}"


def probability_in_words(value: float) -> str:
    """Return a probability in words. Values near 0 or 1 become "below 0.01" or "above 0.99"."""
    if 0.005 <= value <= 0.995:
        return f"probability {value:.2f}"
    return "a probability above 0.99" if value > 0.5 else "a probability below 0.01"
