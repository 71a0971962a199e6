"""Training rows as a reader sees them: token by token, as the trainer gets them, private data masked."""

from typing import TYPE_CHECKING, Literal

import numpy as np

from llm_engineering.data.examples import KINDS
from llm_engineering.data.private import mask_private
from llm_engineering.data.rowsets import IGNORED
from llm_engineering.data.rules import TRAIN, Fates
from llm_engineering.data.tokens import TrainingRow
from llm_engineering.reports.data import RenderedPart, RenderedRow, Token
from llm_engineering.reports.folders import RowKind, Split

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ROWS = 20
TRUNCATED = 3
"""Of each kind, at most so many that lost tokens, so that a reader sees what that looks like."""

PartName = Literal["conversation", "prompt", "chosen", "rejected"]
_BROKEN = "\N{REPLACEMENT CHARACTER}"


def preview_row(
    kind: RowKind, source: str, number: int, split: Split, row: TrainingRow, tokenizer: "PreTrainedTokenizerBase"
) -> RenderedRow:
    """Return one training row for readers."""
    lost = row.answers_lost or (0,) * len(row.answers)
    if kind == "sft":
        cut = row.prompt_cut if row.prompt_cut is not None else len(row.input_ids) if lost[0] else None
        parts = [_part("conversation", row.input_ids, row.labels, cut, row.tokens_lost, tokenizer)]
    else:
        parts = [_part("prompt", row.prompt_ids, row.prompt_labels, row.prompt_cut, row.prompt_lost, tokenizer)]
        names: tuple[PartName, PartName] = ("chosen", "rejected")
        for name, answer, gone in zip(names, row.answers, lost, strict=True):
            parts.append(_part(name, answer, answer, len(answer) if gone else None, gone, tokenizer))
    return RenderedRow(kind=kind, source=source, row=number, split=split, parts=parts)


def _part(
    name: PartName,
    ids: list[int],
    labels: list[int],
    cut_at: int | None,
    lost: int,
    tokenizer: "PreTrainedTokenizerBase",
) -> RenderedPart:
    # all_special_ids has only those with a role such as EOS; a template's tokens are special without one
    special = {number for number, added in tokenizer.added_tokens_decoder.items() if added.special}
    texts = _texts(ids, special, tokenizer)
    masked = mask_private("".join(texts))
    tokens, at = [], 0
    for token, label, text in zip(ids, labels, texts, strict=True):
        tokens.append(Token(text=masked[at : at + len(text)], trained=label != IGNORED, special=token in special))
        at += len(text)
    return RenderedPart(name=name, tokens=tokens, cut_at=cut_at, tokens_lost=lost)


def _texts(ids: list[int], special: set[int], tokenizer: "PreTrainedTokenizerBase") -> list[str]:
    """Return the text that each token adds behind its neighbour; a character of several tokens stands at the last."""
    texts: list[str] = []
    start = 0
    for end in range(1, len(ids) + 1):
        before = tokenizer.decode(ids[start - 1 : start]) if start else ""
        text = tokenizer.decode(ids[max(start - 1, 0) : end]).removeprefix(before)
        if text.endswith(_BROKEN) and end < len(ids) and ids[end] not in special:
            texts.append("")
            continue
        texts.append(text)
        start = end
    return texts


class Preview:
    """Chooses the rows that are shown: some that lost tokens, the others drawn by the seed."""

    def __init__(self, fates: Fates, seed: int) -> None:
        draw = np.random.default_rng(seed)
        sets = [items for kind in range(len(KINDS)) if len(items := fates.of(kind, TRAIN))]
        self._each = ROWS // max(len(sets), 1)
        drawn = [draw.choice(items, size=min(self._each, len(items)), replace=False) for items in sets]
        self._drawn = {int(item) for items in drawn for item in items}
        self._cut: dict[RowKind, list[RenderedRow]] = {kind: [] for kind in KINDS}
        self._whole: dict[RowKind, list[RenderedRow]] = {kind: [] for kind in KINDS}

    def offer(
        self,
        item: int,
        kind: RowKind,
        row: TrainingRow,
        tokenizer: "PreTrainedTokenizerBase",
        *,
        source: str,
        number: int,
        split: Split,
    ) -> None:
        """Take a row if it is to be shown; ``item`` is its place among the examples."""
        into = self._cut if row.tokens_lost and len(self._cut[kind]) < TRUNCATED else self._whole
        if into is self._cut or item in self._drawn:
            into[kind].append(preview_row(kind, source, number, split, row, tokenizer))

    def rows(self) -> list[RenderedRow]:
        """Return the rows, SFT before pairs."""
        return [row for kind in KINDS for row in (self._whole[kind] + self._cut[kind])[-self._each :]]
