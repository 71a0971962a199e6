"""Rows on their way through the rules: what a row is until it is kept or dropped, and the counts of its source."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any

from llm_engineering.artifacts import DropReason, RowKind, SourceLedger, Split
from llm_engineering.config.schema import RowSource
from llm_engineering.data.formats import Conversation, Message, Pair, Reading, RowProblem, choose_format
from llm_engineering.data.rowsets import Row
from llm_engineering.errors import DataError

SPLITS: tuple[Split, ...] = ("train", "eval", "test")


@dataclass
class Candidate:
    """A row that can be used, until the rules decide."""

    kind: RowKind
    source: int
    row: int
    content: Conversation | Pair
    extra: Mapping[str, Any]
    prompt_key: str
    opening_key: str
    """Key of the first question: conversations that share a prompt at any turn share it, so splits are drawn by it."""
    split: Split | None
    dropped: DropReason | None = None
    prompt_ids: list[int] = field(default_factory=list)
    """The prompt as it is trained, cut where it was too long."""

    @property
    def prompt(self) -> list[Message]:
        """The messages before the last answer."""
        return self.content.messages[:-1] if isinstance(self.content, Conversation) else self.content.prompt

    @property
    def texts(self) -> list[str]:
        """Everything that somebody said in the row."""
        content = self.content
        if isinstance(content, Conversation):
            return [message["content"] for message in content.messages]
        return [*(message["content"] for message in content.prompt), content.chosen, content.rejected]


@dataclass
class Tally:
    """Counts of one source while its rows are handled."""

    source: RowSource
    kind: RowKind
    format: str
    rows: int
    fates: Counter[str] = field(default_factory=Counter)
    dropped: Counter[DropReason] = field(default_factory=Counter)
    first_problem: dict[DropReason, str] = field(default_factory=dict)
    """What was wrong with the first row that could not be read, for each reason."""
    truncated: int = 0
    tokens_lost: int = 0
    trained_tokens_lost: int = 0
    repeated_prompts: int = 0

    def why(self, reason: DropReason) -> str:
        """Return how many rows were dropped for a reason, and what was wrong with the first."""
        first = f" (first {self.first_problem[reason]})" if reason in self.first_problem else ""
        return f"{self.dropped[reason]} {reason}{first}"

    def ledger(self) -> SourceLedger:
        """Return the ledger of the source."""
        return SourceLedger(
            kind=self.kind,
            source=self.source.name,
            format=self.format,
            rows=self.rows,
            train=self.fates["train"],
            eval=self.fates["eval"],
            test=self.fates["test"],
            dropped=dict(self.dropped),
            truncated=self.truncated,
            tokens_lost=self.tokens_lost,
            trained_tokens_lost=self.trained_tokens_lost,
            repeated_prompts=self.repeated_prompts,
        )


def read_candidates(rows: Iterable[Row], source: RowSource, kind: RowKind, index: int) -> tuple[Tally, list[Candidate]]:
    """Return the rows of one source that its format can read, and the tally that counts the others."""
    parsed = [
        (row["row"], json.loads(row["data"]) if row["data"] is not None else None, row["problem"]) for row in rows
    ]
    objects = [data for _, data, _ in parsed if isinstance(data, dict)]
    if not objects:
        raise DataError(f"{source.name} has no row that is a JSON object. Check that the file is what you meant.")
    reading = choose_format(source, kind, {column for data in objects for column in data})
    tally = Tally(source, kind, reading.format.name, len(parsed))
    candidates = []
    for number, data, unreadable in parsed:
        try:
            if not isinstance(data, dict):
                raise RowProblem("unparsable", unreadable or "it is no JSON object")
            candidates.append(_read_candidate(data, number, reading, source, kind, index))
        except RowProblem as problem:
            tally.dropped[problem.reason] += 1
            tally.first_problem.setdefault(problem.reason, f"row {number}: {problem}")
    return tally, candidates


def _read_candidate(
    data: Mapping[str, Any], number: int, reading: Reading, source: RowSource, kind: RowKind, index: int
) -> Candidate:
    row = reading.rename(data)
    content = reading.format.read(row)
    prompt = content.messages[:-1] if isinstance(content, Conversation) else content.prompt
    opening = list(takewhile(lambda message: message["role"] != "assistant", prompt))
    split = source.split or row.get("split") or None
    if split is not None and split not in SPLITS:
        raise DataError(f"{source.name}, row {number}: split is {split!r}. Use one of {', '.join(SPLITS)}.")
    extra = {column: _as_text(row, column) for column in ("reference", "unit") if row.get(column) is not None}
    return Candidate(kind, index, number, content, extra, prompt_key(prompt), prompt_key(opening), split)


def _as_text(row: Mapping[str, Any], column: str) -> str:
    """Return a column as text, also where it is a number or a structure, such as the right answer to a sum."""
    value = row[column]
    return value.strip() if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def prompt_key(prompt: Sequence[Message]) -> str:
    """Return what makes two prompts the same: roles and words, whatever their case and spacing."""
    words = [f"{message['role']}:{' '.join(message['content'].casefold().split())}" for message in prompt]
    return hashlib.sha256("\n".join(words).encode("utf-8", "surrogatepass")).hexdigest()
