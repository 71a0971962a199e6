"""Paired differences in plain words: better, worse, or no difference shown."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from llm_engineering.config.metrics import METRICS, higher_is_better, row_of
from llm_engineering.reporting.wording import in_order, number, within_sentence
from llm_engineering.reports.evaluation import PairedDifference

SIGNIFICANT = 0.05
"""Below which p-value a difference counts as shown, if its interval leaves out 0 as well."""
Verdict = Literal["better", "worse", "higher", "lower", "no difference shown"]


@dataclass(frozen=True)
class DifferenceInWords:
    """One difference as it is written."""

    metric: str
    difference: str
    interval: str
    p_value: str
    units: int
    verdict: Verdict


@dataclass(frozen=True)
class ComparisonOfTwo:
    """All that is known of one model against another."""

    candidate: str
    against: str
    summary: str
    differences: list[DifferenceInWords]


def verdict_on(found: PairedDifference) -> Verdict:
    """Return what a difference says; ``higher`` or ``lower`` where neither direction is a success by itself."""
    if not _is_shown(found):
        return "no difference shown"
    better = higher_is_better(found.metric)
    if better is None:
        return "higher" if found.difference > 0 else "lower"
    return "better" if better == (found.difference > 0) else "worse"


def _is_shown(found: PairedDifference) -> bool:
    if found.p_value is None or not found.p_value < SIGNIFICANT:
        return False
    return found.low is None or found.high is None or found.low > 0 or found.high < 0


def p_text(p_value: float | None) -> str:
    """Return a p-value as it is written: ``p < 0.001``, ``p = 0.032``; a dash where there is none."""
    if p_value is None or not math.isfinite(p_value):
        return "-"
    return "p < 0.001" if p_value < 0.001 else f"p = {p_value:.3f}"


def signed(metric: str, difference: float) -> str:
    """Return a difference with its sign and unit: ``+91.2 points``, ``-0.10 nats/token``."""
    unit = "points" if row_of(metric).is_share else row_of(metric).unit
    return f"{_signed(metric, difference)} {unit}".rstrip()


def _signed(metric: str, value: float) -> str:
    written = number(metric, abs(value))
    sign = "" if not float(written.replace(",", "")) else "+" if value > 0 else "-"
    return sign + written


def compared_in_words(differences: Sequence[PairedDifference]) -> list[ComparisonOfTwo]:
    """Return one entry for every two models, in the order in which they first come.

    Where two models are compared both ways, the later one of both is kept: it says the same.
    """
    both = list(dict.fromkeys((found.candidate, found.against) for found in differences))
    pairs = [(one, other) for at, (one, other) in enumerate(both) if (other, one) not in both[at + 1 :]]
    return [
        _of_two(pair, [found for found in differences if (found.candidate, found.against) == pair]) for pair in pairs
    ]


def _of_two(pair: tuple[str, str], differences: list[PairedDifference]) -> ComparisonOfTwo:
    known = in_order((found.metric for found in differences), METRICS)
    ordered = sorted(differences, key=lambda found: known.index(found.metric))
    return ComparisonOfTwo(*pair, _summary(ordered), [_in_words(found) for found in ordered])


def _summary(differences: list[PairedDifference]) -> str:
    """Return one sentence: what is better, what is worse, what is otherwise different, what shows no difference."""
    order: tuple[Verdict, ...] = ("better", "worse", "higher", "lower")
    told = [
        f"{verdict} in {_listed([found for found in differences if verdict_on(found) == verdict])}"
        for verdict in order
        if any(verdict_on(found) == verdict for found in differences)
    ]
    if not told:
        return "No difference shown."
    rest = sum(verdict_on(found) == "no difference shown" for found in differences)
    sentence = "; ".join(told + ([f"no difference shown in {rest} more"] if rest else []))
    return f"{sentence[0].upper()}{sentence[1:]}."


def _listed(differences: list[PairedDifference]) -> str:
    labels = [within_sentence(row_of(found.metric).label) for found in differences]
    gains = [signed(found.metric, found.difference) for found in differences]
    return ", ".join(f"{label} ({gain})" for label, gain in zip(labels, gains, strict=True))


def _in_words(found: PairedDifference) -> DifferenceInWords:
    ends = [_signed(found.metric, end) for end in (found.low, found.high) if end is not None]
    return DifferenceInWords(
        metric=row_of(found.metric).label,
        difference=signed(found.metric, found.difference),
        interval=" to ".join(ends) if len(ends) == 2 else "",
        p_value=p_text(found.p_value),
        units=found.units,
        verdict=verdict_on(found),
    )
