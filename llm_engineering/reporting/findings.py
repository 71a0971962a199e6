"""What the audit's numbers mean, in sentences that every report shows alike."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from llm_engineering.reporting.wording import count, counted, percent
from llm_engineering.reports.data import DataAudit, Overlap, PreferenceAudit, TextAudit
from llm_engineering.reports.folders import RowKind

LONGER_WINS = 0.65
"""From which accuracy of "the longer answer wins" on length alone predicts the preference."""
SHORTER_WINS = 0.35
"""Up to which accuracy the shorter answer wins as predictably."""
LISTED = 3
"""Overlaps and languages that a sentence names; the tables have all."""

_EXAMPLES: dict[RowKind, tuple[str, str]] = {"sft": ("SFT example", ""), "preference": ("preference pair", "")}
PRIVATE: dict[Literal["e-mail", "phone", "key"], str] = {
    "e-mail": "an e-mail address",
    "phone": "a telephone number",
    "key": "a secret key",
}


@dataclass(frozen=True)
class Finding:
    """One sentence about the data."""

    text: str
    warning: bool = False
    """A reader should look into it before training."""


def findings(audit: DataAudit) -> list[Finding]:
    """Return what the audit says, first what is shared between the sets, then the pairs, then the texts."""
    found = list(_overlaps(audit))
    if audit.preference and audit.preference.pairs:
        found += _preference(audit.preference)
    for kind, texts in audit.texts.items():
        found += _texts(kind, texts)
    return found


def length_bias(audit: PreferenceAudit) -> Finding:
    """Return whether the length of the answers alone predicts which one is preferred."""
    wins = audit.longer_wins
    different = counted(audit.pairs - audit.identical, "pair")
    measured = f"Preferring the longer answer is right for {percent(wins)} of {different}"
    if wins >= LONGER_WINS:
        return Finding(f"{measured}: length alone predicts the preference, and DPO may learn to write at length.", True)
    if wins <= SHORTER_WINS:
        return Finding(f"{measured}: the shorter one wins, and DPO may learn to be brief whatever is asked.", True)
    return Finding(f"{measured}: length alone does not predict the preference.")


def _overlaps(audit: DataAudit) -> Iterator[Finding]:
    leaks = [overlap for overlap in audit.overlaps if _held_out(overlap) and overlap.exact + overlap.near]
    if leaks:
        named = "; ".join(_shared(leak) for leak in leaks[:LISTED])
        more = f"; {count(len(leaks) - LISTED)} more such overlaps" if len(leaks) > LISTED else ""
        yield Finding(f"Held-out prompts stood in training sets: {named}{more}. Such training rows are left out.", True)
    elif any(_held_out(overlap) for overlap in audit.overlaps):
        yield Finding("No prompt of a training set is held out elsewhere, exactly or nearly.")


def _held_out(overlap: Overlap) -> bool:
    return overlap.first.endswith("/train") != overlap.second.endswith("/train")


def _shared(overlap: Overlap) -> str:
    if not overlap.exact:
        return f"{count(overlap.near)} of {overlap.first} nearly in {overlap.second}"
    near = f" and nearly {count(overlap.near)} more" if overlap.near else ""
    return f"{count(overlap.exact)} of {overlap.first} in {overlap.second}{near}"


def _preference(audit: PreferenceAudit) -> Iterator[Finding]:
    if math.isfinite(audit.longer_wins):
        yield length_bias(audit)
    without_signal = [
        *([f"{counted(audit.identical, 'pair prefers', 'pairs prefer')} an answer to itself"] * bool(audit.identical)),
        *([f"{counted(audit.contradictory, 'contradicts', 'contradict')} an earlier one"] * bool(audit.contradictory)),
    ]
    if without_signal:
        yield Finding(f"Pairs without a signal: {' and '.join(without_signal)}.")
    if math.isfinite(audit.overlap):
        yield Finding(f"Chosen and rejected answers share {percent(audit.overlap)} of their words, on average.")


def _texts(kind: RowKind, texts: TextAudit) -> Iterator[Finding]:
    one, many = _EXAMPLES[kind]
    examples = counted(texts.examples, one, many or None)
    repeated = f", {count(texts.near_prompts)} of them nearly an earlier one" if texts.near_prompts else ""
    yield Finding(
        f"{examples} with {counted(texts.prompts, 'distinct prompt')}{repeated}; "
        f"{counted(texts.duplicate_answers, 'answer repeats', 'answers repeat')} an earlier one, "
        f"{counted(texts.short_answers, 'has', 'have')} fewer than three words."
    )
    if private := {name: number for name, number in texts.private.items() if number}:
        named = ", ".join(f"{PRIVATE[name]} in {count(number)}" for name, number in private.items())
        yield Finding(
            f"Among {examples} there is something like {named}; it is masked in reports, not in what is trained on.",
            warning="key" in private,
        )
    if texts.non_printing:
        yield Finding(f"{count(texts.non_printing)} of {examples} have control or invisible characters.", True)


def languages(texts: TextAudit) -> list[tuple[str, float]]:
    """Return languages with their share of the examples that were looked at."""
    sample = max(texts.language_sample, 1)
    return [(language, number / sample) for language, number in texts.languages.items()]
