"""Means, rates and ratios over independent units, with their 95 % intervals."""

from collections.abc import Iterator, Sequence
from math import nan
from statistics import fmean
from typing import TYPE_CHECKING

from llm_engineering.reports.evaluation import Metric

if TYPE_CHECKING:
    import numpy as np

CONFIDENCE = 0.95
RESAMPLES = 2000
DRAWS_AT_ONCE = 2**22
"""Drawn units that are held in memory: 32 MB."""


def proportion(outcomes: Sequence[float]) -> Metric:
    """Return a rate of 0/1 outcomes with its Wilson interval (Wilson 1927)."""
    from scipy.stats import binomtest

    hits = round(sum(outcomes))
    interval = binomtest(hits, len(outcomes)).proportion_ci(CONFIDENCE, method="wilson")
    return Metric(value=hits / len(outcomes), low=interval.low, high=interval.high, units=len(outcomes))


def mean(values: Sequence[float]) -> Metric:
    """Return a mean with its bootstrap interval (percentile, 2000 resamples, fixed seed).

    Values that are no numbers are not left out: they make the mean NaN, without an interval.
    """
    import numpy as np

    data = np.asarray(values, dtype=float)
    if not np.isfinite(data).all():
        return Metric(value=nan, units=len(data))
    if len(data) < 2:
        return Metric(value=float(data.mean()), units=len(data))
    low, high = _ends([data[draws].mean(axis=1) for draws in _resamples(len(data))])
    return Metric(value=float(data.mean()), low=low, high=high, units=len(data))


def ratio(numerators: Sequence[float], denominators: Sequence[float]) -> Metric:
    """Return a ratio of sums with its bootstrap interval over the units (percentile, 2000 resamples, fixed seed)."""
    import numpy as np

    above, below = np.asarray(numerators, dtype=float), np.asarray(denominators, dtype=float)
    if not np.isfinite(above).all():
        return Metric(value=nan, units=len(above))
    value = float(above.sum() / below.sum())
    if len(above) < 2:
        return Metric(value=value, units=len(above))
    tiny = np.finfo(float).tiny
    drawn = [above[d].sum(axis=1) / np.maximum(below[d].sum(axis=1), tiny) for d in _resamples(len(above))]
    low, high = _ends(drawn)
    return Metric(value=value, low=low, high=high, units=len(above))


def _resamples(units: int) -> "Iterator[np.ndarray]":
    """Yield which units every resample draws, a row each, as many rows at a time as memory should hold."""
    import numpy as np

    random, left = np.random.default_rng(0), RESAMPLES
    while left:
        rows = min(left, max(1, DRAWS_AT_ONCE // units))
        yield random.integers(0, units, (rows, units))
        left -= rows


def _ends(drawn: "list[np.ndarray]") -> tuple[float, float]:
    import numpy as np

    low, high = np.quantile(np.concatenate(drawn), [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


def rate(outcomes: Sequence[float]) -> Metric:
    """Return a mean with the Wilson interval where all outcomes are 0 or 1, else with the bootstrap's."""
    return proportion(outcomes) if all(value in (0.0, 1.0) for value in outcomes) else mean(outcomes)


def by_unit(values: Sequence[float], units: Sequence[str]) -> list[float]:
    """Return the mean of every unit's values, in the order in which the units first appear."""
    return [fmean(group) for group in grouped(values, units)]


def grouped(values: Sequence[float], units: Sequence[str]) -> list[list[float]]:
    """Return the values of every unit, in the order in which the units first appear."""
    groups: dict[str, list[float]] = {}
    for value, unit in zip(values, units, strict=True):
        groups.setdefault(unit, []).append(value)
    return list(groups.values())


def smoothed(points: Sequence[tuple[int, float]], span: int) -> list[tuple[int, float]]:
    """Return the exponential moving average with weight ``2 / (span + 1)``, corrected for its start at zero."""
    weight = 2 / (span + 1)
    mean, missing, result = 0.0, 1.0, []
    for step, value in points:
        mean += weight * (value - mean)
        missing *= 1 - weight
        result.append((step, mean / (1 - missing)))
    return result
