"""What reports show of data: the ledger, what the audit found, and rows token by token.

A row of two thousand tokens has to stay small, so its elements are short: ``i`` is a token, ``b`` a special one,
``mark`` a stretch that carries loss, ``em`` a place where tokens are missing.
"""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from itertools import groupby
from typing import Literal

from markupsafe import Markup

from llm_engineering.plain_text import REPLACEMENT, harmless
from llm_engineering.reporting.words import REASONS, count, counted, in_order, percent
from llm_engineering.reports.data import (
    DataAudit,
    DropReason,
    Overlap,
    PreferenceAudit,
    RenderedPart,
    RenderedRow,
    SourceLedger,
    TextAudit,
    Token,
)
from llm_engineering.reports.folders import RowKind, Split

ROW_KINDS: tuple[RowKind, ...] = ("sft", "preference")
_SUMMED = (
    "rows",
    "train",
    "eval",
    "test",
    "examples",
    "truncated",
    "tokens_lost",
    "trained_tokens_lost",
    "answers_cut",
    "repeated_prompts",
)


@dataclass(frozen=True)
class Problem:
    """One reason, and what became of the rows of one source that it was found in."""

    reason: DropReason
    dropped: int
    kept: int
    first: str | None
    """What was wrong with the first row, and where it stands."""


def together(sources: Sequence[SourceLedger]) -> SourceLedger:
    """Return the sum of the ledgers of one kind; sums reconcile as their parts do."""
    dropped, found = (Counter[DropReason]() for _ in range(2))
    for source in sources:
        dropped.update(source.dropped)
        found.update(source.found)
    sums = {name: sum(getattr(source, name) for source in sources) for name in _SUMMED}
    return SourceLedger(
        kind=sources[0].kind,
        source="Together",
        format=f"{len(sources)} sources",
        dropped=dict(dropped),
        found=dict(found),
        **sums,
    )


def reconciliation(ledger: SourceLedger) -> str:
    """Return the fates as a sum: ``100 read = 88 train + 5 eval + 7 dropped``."""
    fates = {"train": ledger.train, "eval": ledger.eval, "test": ledger.test, "dropped": sum(ledger.dropped.values())}
    parts = " + ".join(f"{count(rows)} {fate}" for fate, rows in fates.items() if rows)
    return f"{count(ledger.rows)} read = {parts or '0'}"


def problems(ledger: SourceLedger) -> list[Problem]:
    """Return every reason that was found in a source, in the order in which it is looked for."""
    reasons = in_order([*ledger.dropped, *ledger.found, *ledger.first_problem], REASONS)
    return [
        Problem(reason, ledger.dropped.get(reason, 0), ledger.found.get(reason, 0), ledger.first_problem.get(reason))
        for reason in reasons
    ]


def mix(ledger: SourceLedger) -> str | None:
    """Return what the mix asks of a source and what it got; None where it asks nothing and nothing is known."""
    obtained = None if ledger.share is None else f"{percent(ledger.share)} of training"
    parts = [part for part in (f"{ledger.asked} asked" if ledger.asked else None, obtained) if part]
    return ", ".join(parts) or None


def kinds(sources: Sequence[SourceLedger]) -> Iterator[tuple[RowKind, list[SourceLedger], SourceLedger]]:
    """Yield every kind that rows were read of, with its ledgers and their sum."""
    for kind in ROW_KINDS:
        if ledgers := [source for source in sources if source.kind == kind]:
            yield kind, ledgers, together(ledgers)


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


SHOWN = 80
"""Tokens of a part that are shown at once; the others fold."""
FOLDED = 2048
"""Tokens that fold at most. Of a longer part the middle is left out: its start and its end tell most."""
_FOLD_AT_LEAST = 20
_HIDDEN = [0xAD, 0x200B, 0x2060, 0xFEFF, *range(0xE0000, 0xE0080)]
"""Characters without a width, save the joiners that emoji and some scripts are made with."""
_VISIBLE = str.maketrans({" ": "·", "\n": "↵", "\r": "␍", "\t": "⇥", "\N{NO-BREAK SPACE}": "⍽"}) | dict.fromkeys(
    _HIDDEN, REPLACEMENT
)


@dataclass(frozen=True)
class PartView:
    """A part of a row, ready for a template."""

    name: str
    tokens: int
    trained: int
    tokens_lost: int
    shown: Markup
    folded: Markup
    """What folds away; empty where all is shown."""
    fold: str
    """What is in the fold."""


@dataclass(frozen=True)
class RowView:
    """A row, ready for a template."""

    kind: RowKind
    source: str
    row: int
    split: Split
    parts: list[PartView]


def row_view(row: RenderedRow) -> RowView:
    """Return a row with its tokens as HTML; their text is escaped."""
    return RowView(row.kind, row.source, row.row, row.split, [_part(part) for part in row.parts])


def visible(text: str) -> str:
    """Return the text of a token with white space that can be seen, and nothing that acts on a page."""
    return harmless(text).translate(_VISIBLE)


def _part(part: RenderedPart) -> PartView:
    tokens = part.tokens
    end = SHOWN if len(tokens) >= SHOWN + _FOLD_AT_LEAST else len(tokens)
    rest = tokens[end:]
    return PartView(
        name=part.name,
        tokens=len(tokens),
        trained=sum(token.trained for token in tokens),
        tokens_lost=part.tokens_lost,
        shown=_html(part, 0, end),
        folded=_folded(part, end) if rest else Markup(),
        fold=_fold(part, rest, end),
    )


def _fold(part: RenderedPart, rest: Sequence[Token], start: int) -> str:
    trained = sum(token.trained for token in rest)
    cut = _cut(part)
    with_cut = "; tokens were cut out among them" if cut is not None and cut >= start else ""
    return f"{counted(len(rest), 'more token')}, {count(trained)} trained{with_cut}"


def _folded(part: RenderedPart, start: int) -> Markup:
    """Return what folds, without the middle where it is too long for a page."""
    end = len(part.tokens)
    if end - start <= FOLDED:
        return _html(part, start, end)
    first, last = start + FOLDED // 2, end - FOLDED // 2
    gap = Markup("<em>… {} not on this page …</em>").format(counted(last - first, "token"))
    cut = _cut(part)
    if cut is not None and first <= cut < last:
        gap += _cut_mark(part)
    return _html(part, start, first) + gap + _html(part, last, end)


def _html(part: RenderedPart, start: int, end: int) -> Markup:
    """Return the tokens from ``start`` to before ``end``, with the cut if it lies there."""
    cut = _cut(part)
    if cut is None or not (start <= cut < end or cut == end == len(part.tokens)):
        return _stretches(part.tokens[start:end])
    return _stretches(part.tokens[start:cut]) + _cut_mark(part) + _stretches(part.tokens[cut:end])


def _cut(part: RenderedPart) -> int | None:
    return part.cut_at if part.tokens_lost else None


def _cut_mark(part: RenderedPart) -> Markup:
    return Markup("<em>✂ {} cut</em>").format(counted(part.tokens_lost, "token"))


def _stretches(tokens: Sequence[Token]) -> Markup:
    return Markup("").join(_stretch(trained, group) for trained, group in groupby(tokens, lambda token: token.trained))


def _stretch(trained: bool, tokens: Iterator[Token]) -> Markup:
    inner = Markup("").join(map(_token, tokens))
    return Markup("<mark>") + inner + Markup("</mark>") if trained else inner


def _token(token: Token) -> Markup:
    name = "b" if token.special else "i"
    line_end = "<br>" if "\n" in token.text else ""
    text = escape(visible(token.text), quote=False)  # quotes mean nothing between tags, and would take five bytes
    return Markup(f"<{name}>{text}</{name}>{line_end}")
