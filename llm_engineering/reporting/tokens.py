"""Training rows token by token, as compact HTML: what carries loss, what is special, and where tokens were cut.

A row of two thousand tokens has to stay small, so the elements are short: ``i`` is a token, ``b`` a special one,
``mark`` a stretch that carries loss, ``em`` a place where tokens are missing.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from itertools import groupby

from markupsafe import Markup

from llm_engineering.reporting.page import REPLACEMENT, harmless
from llm_engineering.reporting.wording import count, counted
from llm_engineering.reports.data import RenderedPart, RenderedRow, Token
from llm_engineering.reports.folders import RowKind, Split

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
