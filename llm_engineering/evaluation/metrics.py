"""Metrics as pure functions of answers, judgements and log-probabilities."""

from collections.abc import Sequence
from math import fsum
from statistics import fmean

from llm_engineering.artifacts import Metric

CONFIDENCE = 0.95
_PER_ANSWER = ("repetition", "unfinished", "flaws_per_answer")
LOWER_IS_BETTER = frozenset({"held_out_loss", "perplexity", *_PER_ANSWER, *(f"sampled_{name}" for name in _PER_ANSWER)})
"""Metrics of which less is better."""


def proportion(outcomes: Sequence[float]) -> Metric:
    """Return a rate of 0/1 outcomes with its Wilson interval (Wilson 1927)."""
    from scipy.stats import binomtest

    hits = round(sum(outcomes))
    interval = binomtest(hits, len(outcomes)).proportion_ci(CONFIDENCE, method="wilson")
    return Metric(value=hits / len(outcomes), low=interval.low, high=interval.high, units=len(outcomes))


def mean(values: Sequence[float]) -> Metric:
    """Return a mean with its bootstrap interval (percentile, 2000 resamples, fixed seed)."""
    import numpy as np

    data = np.asarray(values, dtype=float)
    if len(data) < 2:
        return Metric(value=float(data.mean()), units=len(data))
    draws = np.random.default_rng(0).integers(0, len(data), (2000, len(data)))
    low, high = np.quantile(data[draws].mean(axis=1), [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Metric(value=float(data.mean()), low=float(low), high=float(high), units=len(data))


def ratio(numerators: Sequence[float], denominators: Sequence[float]) -> Metric:
    """Return a ratio of sums with its bootstrap interval over the units (percentile, 2000 resamples, fixed seed)."""
    import numpy as np

    above, below = np.asarray(numerators, dtype=float), np.asarray(denominators, dtype=float)
    value = float(above.sum() / below.sum())
    if len(above) < 2:
        return Metric(value=value, units=len(above))
    draws = np.random.default_rng(0).integers(0, len(above), (2000, len(above)))
    drawn = above[draws].sum(axis=1) / np.maximum(below[draws].sum(axis=1), np.finfo(float).tiny)
    low, high = np.quantile(drawn, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Metric(value=value, low=float(low), high=float(high), units=len(above))


def divergence(nats: Sequence[float], tokens: Sequence[int], units: Sequence[str]) -> dict[str, Metric]:
    """Return the KL of a policy from its reference, in nats a token and an answer, with intervals over the units.

    Nats a token are all nats over all tokens, so that a long answer weighs as much as it is long.

    Args:
        nats: KL along every answer that was sampled from the policy.
        tokens: Their tokens; an answer that was cut off counts with the tokens it has.
        units: What each answer's prompt belongs to; answers of one unit are dependent.
    """
    if not sum(tokens):
        return {}
    sums = [[fsum(group) for group in grouped(each, units)] for each in (nats, tokens, [1] * len(nats))]
    return {"kl_per_token": ratio(sums[0], sums[1]), "kl_per_answer": ratio(sums[0], sums[2])}


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


def repetition(token_ids: Sequence[int], size: int = 3) -> float:
    """Return the share of an answer's token n-grams that stood in it before; 0 for a short answer."""
    grams = [tuple(token_ids[i : i + size]) for i in range(len(token_ids) - size + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def smoothed(points: Sequence[tuple[int, float]], span: int) -> list[tuple[int, float]]:
    """Return the exponential moving average with weight ``2 / (span + 1)``, corrected for its start at zero."""
    weight = 2 / (span + 1)
    mean, missing, result = 0.0, 1.0, []
    for step, value in points:
        mean += weight * (value - mean)
        missing *= 1 - weight
        result.append((step, mean / (1 - missing)))
    return result
