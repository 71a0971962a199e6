"""What log-probabilities of preference pairs say, and how much of it the answers' lengths explain.

A pair whose log-probabilities are no numbers has no value (NaN), and makes that of its unit none.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite, nan

LIKE_LENGTH = 0.1
"""Answers are of like length if they differ by at most this share of the longer one's tokens."""

Logps = Sequence[tuple[float, float]]
"""Summed log-probabilities of every pair's chosen and rejected answer, in nats."""
Lengths = Sequence[tuple[int, int]]
"""Tokens of every pair's chosen and rejected answer, end token included."""


@dataclass(frozen=True)
class ScoredPair:
    """One preference pair under a model and, where rewards are measured, under its parent."""

    logps: tuple[float, float]
    """Summed log-probabilities of the chosen and the rejected answer, in nats."""
    lengths: tuple[int, int]
    """Their tokens."""
    parent_logps: tuple[float, float] = (nan, nan)
    beta: float = nan
    """Scales the implicit reward."""


def ranked_right(pair: ScoredPair) -> float:
    """Return 1 where the chosen answer has the higher log-probability per token; needs no parent."""
    return _win(pair.logps[0] / pair.lengths[0], pair.logps[1] / pair.lengths[1])


def rewarded_right(pair: ScoredPair) -> float:
    """Return 1 where the chosen answer has the higher implicit reward."""
    return _win(chosen_reward(pair), rejected_reward(pair))


def margin(pair: ScoredPair) -> float:
    """Return by how much more the chosen answer is rewarded."""
    return chosen_reward(pair) - rejected_reward(pair)


def chosen_reward(pair: ScoredPair) -> float:
    """Return the implicit reward of the chosen answer (Rafailov et al. 2023, section 4)."""
    return pair.beta * (pair.logps[0] - pair.parent_logps[0])


def rejected_reward(pair: ScoredPair) -> float:
    """Return the implicit reward of the rejected answer."""
    return pair.beta * (pair.logps[1] - pair.parent_logps[1])


def longer(lengths: tuple[int, int]) -> float:
    """Return 1 where the chosen answer is longer."""
    return float(lengths[0] > lengths[1])


def longer_wins(lengths: tuple[int, int]) -> float:
    """Return 1 where preferring the longer answer is right; equal lengths count half."""
    return 0.5 if lengths[0] == lengths[1] else longer(lengths)


def in_slice(behind: str, lengths: tuple[int, int]) -> bool:
    """Return whether a pair belongs to one of the ``SLICES`` of `llm_engineering/config/metrics.py`."""
    chosen, rejected = lengths
    if behind == "_like_length":
        return _alike(chosen, rejected)
    return chosen > rejected if behind == "_chosen_longer" else chosen < rejected


def length_note(lengths: Lengths) -> str | None:
    """Return a sentence where no pair has answers of like length, so that accuracy on those is not measured."""
    if not lengths or any(_alike(n, m) for n, m in lengths):
        return None
    return (
        f"No held-out pair has answers of like length (within {LIKE_LENGTH:.0%} of the longer one's tokens): the "
        "accuracies on such pairs are left out, and length may explain the others."
    )


def _alike(first: int, second: int) -> bool:
    return abs(first - second) <= LIKE_LENGTH * max(first, second)


def _win(first: float, second: float) -> float:
    """Return 1 where the first is larger, NaN where either is no number; a tie is no win."""
    return float(first > second) if isfinite(first) and isfinite(second) else nan
