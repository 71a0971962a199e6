"""Two models on the same units: by how much they differ, and whether chance alone would do that."""

from collections.abc import Sequence
from math import isfinite, sqrt

from llm_engineering.reports.evaluation import ModelScores, PairedDifference
from llm_engineering.scoring.intervals import DRAWS_AT_ONCE, mean, proportion

PERMUTATIONS = 9999


def paired_differences(
    candidate: str, against: str, scores: tuple[ModelScores, ModelScores], metrics: Sequence[str] | None = None
) -> list[PairedDifference]:
    """Return the difference of every metric that both models have outcomes of, or of those that are named.

    Args:
        candidate: The name of the first model.
        against: The name of the second.
        scores: Theirs, from one report or from reports with equal fingerprints.
        metrics: Names, in the order of the result.
    """
    left, right = (each.outcomes for each in scores)
    shared = [name for name in (left if metrics is None else metrics) if name in left and name in right]
    return [paired_difference(candidate, against, name, left[name], right[name]) for name in shared]


def paired_difference(
    candidate: str, against: str, metric: str, left: Sequence[float], right: Sequence[float]
) -> PairedDifference:
    """Return the mean difference of two series over the same units, with its 95 % interval and p-value.

    0/1 outcomes get the interval of Newcombe (1998, Statistics in Medicine 17, method 10) and the exact McNemar test;
    others the bootstrap's percentiles and a sign-flip permutation test (all of the flips where they are few). Outcomes
    that are no numbers give a difference of NaN, without interval and p-value.
    """
    low, high, p_value = _test(left, right)
    return PairedDifference(
        candidate=candidate,
        against=against,
        metric=metric,
        difference=(sum(left) - sum(right)) / len(left),
        low=low,
        high=high,
        p_value=p_value,
        units=len(left),
    )


def _test(left: Sequence[float], right: Sequence[float]) -> tuple[float | None, float | None, float | None]:
    if not all(isfinite(value) for value in (*left, *right)):
        return None, None, None
    binary = all(value in (0.0, 1.0) for value in (*left, *right))
    return _binary(left, right) if binary else _continuous(left, right)


def _binary(left: Sequence[float], right: Sequence[float]) -> tuple[float, float, float]:
    from scipy.stats import binomtest

    a, b = proportion(left), proportion(right)
    won = sum(x > y for x, y in zip(left, right, strict=True))
    lost = sum(x < y for x, y in zip(left, right, strict=True))
    p_value = binomtest(won, won + lost).pvalue if won + lost else 1.0
    assert a.low is not None
    assert a.high is not None
    assert b.low is not None
    assert b.high is not None
    below = (a.value - a.low, b.high - b.value)
    above = (a.high - a.value, b.value - b.low)
    phi = _phi(left, right, won, lost)
    down, up = (sqrt(max(0.0, x * x - 2 * phi * x * y + y * y)) for x, y in (below, above))
    return a.value - b.value - down, a.value - b.value + up, float(p_value)


def _phi(left: Sequence[float], right: Sequence[float], won: int, lost: int) -> float:
    """Return the correlation of two 0/1 series, with Newcombe's correction for continuity where it is positive."""
    both = sum(x == y == 1.0 for x, y in zip(left, right, strict=True))
    neither = len(left) - both - won - lost
    margins = (both + won) * (lost + neither) * (both + lost) * (won + neither)
    if not margins:
        return 0.0
    covariance = float(both * neither - won * lost)
    if covariance > 0:
        covariance = max(0.0, covariance - len(left) / 2)
    return covariance / sqrt(margins)


def _continuous(left: Sequence[float], right: Sequence[float]) -> tuple[float | None, float | None, float | None]:
    import numpy as np
    from scipy.stats import permutation_test

    differences = np.subtract(left, right)
    if len(differences) < 2:
        return None, None, None
    interval = mean(differences.tolist())
    tested = permutation_test(
        (differences,),
        np.mean,
        permutation_type="samples",
        n_resamples=PERMUTATIONS,
        vectorized=True,
        batch=max(1, DRAWS_AT_ONCE // len(differences)),
        rng=np.random.default_rng(0),
    )
    return interval.low, interval.high, float(tested.pvalue)
