"""What sums of nats over units say: the loss on held-out rows, and the KL of a policy from its reference.

Every function returns the metric, and the outcomes whose mean it is; no outcomes where it is no mean over units.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, fsum, isfinite

from llm_engineering.reports.evaluation import Metric
from llm_engineering.scoring.intervals import grouped, ratio

Measured = tuple[Metric, list[float]]


@dataclass(frozen=True)
class UnitSums:
    """Sums over the rows of every unit; rows of one unit are dependent."""

    nats: list[float]
    tokens: list[float]
    rows: list[float]


def unit_sums(nats: Sequence[float], tokens: Sequence[int], units: Sequence[str]) -> UnitSums:
    """Return the sums of every unit.

    Args:
        nats: Of every row: minus its summed log-probability, or the KL along it.
        tokens: Its tokens that are scored; an answer that was cut off counts with the tokens it has.
        units: What each row belongs to.
    """
    return UnitSums(*([fsum(group) for group in grouped(each, units)] for each in (nats, tokens, [1] * len(nats))))


def held_out_loss(sums: UnitSums) -> Measured:
    """Return the loss per token: all nats over all tokens.

    A unit's outcome is its nats, over the tokens that a unit has on average: so the mean of the outcomes is the loss,
    and two models compare pair by pair.
    """
    mean_tokens = fsum(sums.tokens) / len(sums.tokens)
    return ratio(sums.nats, sums.tokens), [own / mean_tokens for own in sums.nats]


def perplexity(sums: UnitSums) -> Measured:
    """Return e to the power of the loss; it is no mean of anything, and its interval is the loss's, so taken."""
    loss = ratio(sums.nats, sums.tokens)
    ends = {name: _exp(end) for name in ("low", "high") if (end := getattr(loss, name)) is not None}
    return Metric(value=_exp(loss.value), units=loss.units, **ends), []


def _exp(value: float) -> float:
    return exp(min(value, 700.0)) if isfinite(value) else value


def kl_per_token(sums: UnitSums) -> Measured:
    """Return nats a token: all nats over all tokens, so that a long answer weighs as much as it is long."""
    return ratio(sums.nats, sums.tokens), []


def kl_per_answer(sums: UnitSums) -> Measured:
    """Return nats an answer."""
    return ratio(sums.nats, sums.rows), []
