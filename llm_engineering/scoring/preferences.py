"""What log-probabilities of preference pairs say, and how much of it the answers' lengths explain.

Every function returns outcomes: per-unit values whose mean is the metric. Pairs of one unit (one prompt, mostly) are
dependent, so that they are averaged first. A pair whose log-probabilities are no numbers makes its unit's value NaN.
"""

from collections.abc import Sequence
from math import isfinite, nan

from llm_engineering.reports.evaluation import Metric
from llm_engineering.scoring.metrics import by_unit, mean, rate

LIKE_LENGTH = 0.1
"""Answers are of like length if they differ by at most this share of the longer one's tokens."""

Logps = Sequence[tuple[float, float]]
"""Summed log-probabilities of every pair's chosen and rejected answer, in nats."""
Lengths = Sequence[tuple[int, int]]
"""Tokens of every pair's chosen and rejected answer, end token included."""


def ranking(logps: Logps, lengths: Lengths, units: Sequence[str]) -> dict[str, list[float]]:
    """Return how often the chosen answer has the higher log-probability per token; needs no reference."""
    wins = [_win(chosen / n, rejected / m) for (chosen, rejected), (n, m) in zip(logps, lengths, strict=True)]
    return _by_length("ranking_accuracy", wins, lengths, units)


def rewards(
    policy: Logps, reference: Logps, beta: float, lengths: Lengths, units: Sequence[str]
) -> dict[str, list[float]]:
    """Return accuracy, margin and both sides of the implicit reward (Rafailov et al. 2023, section 4)."""
    chosen, rejected = ([beta * (p[side] - r[side]) for p, r in zip(policy, reference, strict=True)] for side in (0, 1))
    wins = [_win(c, r) for c, r in zip(chosen, rejected, strict=True)]
    return {
        **_by_length("preference_accuracy", wins, lengths, units),
        "preference_margin": by_unit([c - r for c, r in zip(chosen, rejected, strict=True)], units),
        "chosen_reward": by_unit(chosen, units),
        "rejected_reward": by_unit(rejected, units),
    }


def length_baselines(lengths: Lengths, units: Sequence[str]) -> dict[str, Metric]:
    """Return how often the chosen answer is longer, and how often preferring the longer one is right.

    They say nothing of a model: they are what its accuracies have to be held against. Equal lengths count half in the
    second.
    """
    longer = [float(n > m) for n, m in lengths]
    guessed = [0.5 if n == m else float(n > m) for n, m in lengths]
    return {"chosen_longer": rate(by_unit(longer, units)), "longer_wins": mean(by_unit(guessed, units))}


def length_note(lengths: Lengths) -> str | None:
    """Return a sentence where no pair has answers of like length, so that accuracy on those is not measured."""
    if not lengths or any(_alike(n, m) for n, m in lengths):
        return None
    return (
        f"No held-out pair has answers of like length (within {LIKE_LENGTH:.0%} of the longer one's tokens): the "
        "accuracies on such pairs are left out, and length may explain the others."
    )


def _by_length(name: str, wins: Sequence[float], lengths: Lengths, units: Sequence[str]) -> dict[str, list[float]]:
    """Return an accuracy on all pairs, and on those of like length and whose chosen answer is longer or shorter."""
    kept = {
        name: [True] * len(wins),
        f"{name}_like_length": [_alike(n, m) for n, m in lengths],
        f"{name}_chosen_longer": [n > m for n, m in lengths],
        f"{name}_chosen_shorter": [n < m for n, m in lengths],
    }
    return {
        part: by_unit(
            [win for win, keep in zip(wins, chosen, strict=True) if keep],
            [unit for unit, keep in zip(units, chosen, strict=True) if keep],
        )
        for part, chosen in kept.items()
        if any(chosen)
    }


def _alike(first: int, second: int) -> bool:
    return abs(first - second) <= LIKE_LENGTH * max(first, second)


def _win(first: float, second: float) -> float:
    """Return 1 where the first is larger, NaN where either is no number; a tie is no win."""
    return float(first > second) if isfinite(first) and isfinite(second) else nan
