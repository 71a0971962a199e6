"""Examples as arrays: what rules, splits and audit have to know of every example, without its text."""

import hashlib
import json
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from llm_engineering.config.data import RowSource
from llm_engineering.data.formats import Example, Message, Pair, Reading, RowProblem, choose_format
from llm_engineering.data.rowsets import read_batches, read_rows, source_split
from llm_engineering.errors import DataError
from llm_engineering.reports.data import DropReason
from llm_engineering.reports.folders import RowKind, RowSet, Split

SPLITS: tuple[Split, ...] = ("train", "eval", "test")
KINDS: tuple[RowKind, ...] = ("sft", "preference")
REASONS: tuple[DropReason, ...] = get_args(DropReason)
KEPT = NOT_PLACED = -1
"""No reason to drop an example; no split that an example was placed in."""
SAMPLED_ROWS = 100
"""Rows whose values decide about the format, where the columns do not."""
LONGEST_ROW = 1_000_000
"""Characters of JSON; a longer row is dropped as too long without being looked at: tokens take memory."""

RECORD = np.dtype(
    [
        ("kind", "i1"),
        ("source", "i4"),
        ("row", "i8"),
        ("prompt", "u8"),
        ("opening", "u8"),
        ("answer", "u8"),
        ("rejected", "u8"),
        ("placed", "i1"),
        ("score_ratio", "f4"),
    ]
)
"""One example: indices into KINDS and SPLITS, its row, and the keys of its texts.

``opening`` is the key of the messages before the first answer: conversations that share a prompt at any turn share it.
"""
Keys = NDArray[np.uint64]
Records = NDArray[Any]
"""An array of :data:`RECORD`."""


@dataclass(frozen=True)
class SourceRows:
    """One source and how its rows are read."""

    index: int
    name: str
    kind: RowKind
    source: RowSource
    raw: RowSet
    reading: Reading
    unused: list[str]
    """Columns that the format does not know."""

    @classmethod
    def open(cls, raw: RowSet, index: int, name: str, kind: RowKind, source: RowSource) -> "SourceRows":
        """Choose the source's format by the columns of all rows and the values of the first.

        Raises:
            DataError: No row is an object, or the format is not clear.
        """
        sample: list[Mapping[str, Any]] = []
        present: set[str] = set()
        problem = "it is no JSON object"
        for batch in read_batches(raw, source_split(index)):
            for row in batch:
                data = json.loads(row["data"]) if row["data"] is not None else None
                if isinstance(data, dict):
                    present.update(data)
                    sample += [data] * (len(sample) < SAMPLED_ROWS)
                elif not sample:
                    problem = f"{row['place']}: {row['problem'] or problem}"
        if not sample:
            raise DataError(
                f"{name} has no row that is a JSON object (last looked at {problem}). Check its kind and encoding; a "
                "list of objects belongs into a .json file."
            )
        reading = choose_format(source, kind, present, sample)
        return cls(index, name, kind, source, raw, reading, sorted(present - set(reading.columns.values())))

    def place(self, row: int) -> str:
        """Return where a row stands."""
        return str(read_rows(self.raw, source_split(self.index))[row - 1]["place"])

    def batches(self) -> Iterator[list["ReadRow"]]:
        """Yield the source's rows, read by its format, a batch at a time."""
        for batch in read_batches(self.raw, source_split(self.index)):
            yield [self._read(raw) for raw in batch]

    def _read(self, raw: Mapping[str, Any]) -> "ReadRow":
        try:
            if raw["data"] is not None and len(raw["data"]) > LONGEST_ROW:
                raise RowProblem("too long", f"{len(raw['data']):,} characters; {LONGEST_ROW:,} are the most")
            data = json.loads(raw["data"]) if raw["data"] is not None else None
            if not isinstance(data, dict):
                raise RowProblem("unparsable", raw["problem"] or "it is no JSON object")
            examples = self.reading.read(data)
            for example in examples:
                _require_words(example)
            return ReadRow(raw, data, examples, self._placed(raw, data))
        except RowProblem as problem:
            return ReadRow(raw, None, [], NOT_PLACED, problem)

    def _placed(self, raw: Mapping[str, Any], data: Mapping[str, Any]) -> int:
        column = self.reading.columns.get("split")
        split = self.source.split or (data.get(column) if column else None) or None
        if split is None:
            return NOT_PLACED
        if split not in SPLITS:
            raise DataError(f"{raw['place']}: split is {split!r}. Use one of {', '.join(SPLITS)}.")
        return SPLITS.index(split)

    def extra(self, row: "ReadRow", column: str) -> str | None:
        """Return a further column as text, also where it is a number or a structure, such as the answer to a sum."""
        own = self.reading.columns.get(column)
        value = row.data.get(own) if own and row.data else None
        if value is None:
            return None
        return value.strip() if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


@dataclass(frozen=True)
class ReadRow:
    """One row as its format reads it: examples, or a problem."""

    raw: Mapping[str, Any]
    data: Mapping[str, Any] | None
    examples: Sequence[Example]
    placed: int
    problem: RowProblem | None = None


def _require_words(example: Example) -> None:
    """Refuse questions and answers that show nothing."""
    if any(message["role"] == "user" and _is_blank(message["content"]) for message in example.prompt):
        raise RowProblem("empty prompt", "a user's message is empty")
    if isinstance(example, Pair):
        answers = [example.chosen, example.rejected]
    else:
        answers = [m["content"] for m in example.messages if m["role"] == "assistant" and "tool_calls" not in m]
    if any(map(_is_blank, answers)):
        raise RowProblem("empty answer", "an answer has only invisible characters")


def _is_blank(text: str) -> bool:
    """Return whether nothing of a text can be seen: it has only spaces, control and format characters."""
    return not text[:1].isalnum() and all(unicodedata.category(each)[0] in "ZC" for each in text)


def opening(example: Example) -> list[Message]:
    """Return the messages before the first answer."""
    return list(takewhile(lambda message: message["role"] != "assistant", example.prompt))


def texts_of(example: Example) -> list[str]:
    """Return everything that somebody said in an example, calls of tools as JSON."""
    messages = example.prompt if isinstance(example, Pair) else example.messages
    said = [message["content"] for message in messages]
    called = [json.dumps(m["tool_calls"], ensure_ascii=False) for m in messages if "tool_calls" in m]
    return [*said, *called, *((example.chosen, example.rejected) if isinstance(example, Pair) else ())]


def records(rows: Sequence[ReadRow], source: SourceRows) -> tuple[Records, list[tuple[int, int]]]:
    """Return a batch's examples as :data:`RECORD`, and the keys of prompts before earlier answers.

    The latter are pairs of an example's position in the batch and a key.
    """
    table = [_record(example, row, source.index) for row in rows for example in row.examples]
    examples = (example for row in rows for example in row.examples)
    turns = [(position, key) for position, example in enumerate(examples) for key in _turn_keys(example)]
    return np.array(table, dtype=RECORD), turns


def _record(example: Example, row: ReadRow, source: int) -> tuple[Any, ...]:
    prompt = prompt_key(example.prompt)
    first = opening(example)
    begins = prompt if len(first) == len(example.prompt) else prompt_key(first)
    number, placed = row.raw["row"], row.placed
    ratio = np.inf if example.score_ratio is None else example.score_ratio
    if isinstance(example, Pair):
        chosen, rejected = text_key(example.chosen), text_key(example.rejected)
        return 1, source, number, prompt, begins, chosen, rejected, placed, ratio
    answer = text_key(as_written(example.messages[-1]) + (json.dumps(example.tools) if example.tools else ""))
    return 0, source, number, prompt, begins, answer, 0, placed, ratio


def as_written(message: Message) -> str:
    """Return a message's text with the tools that it calls."""
    calls = message.get("tool_calls")
    return f"{message['content']}\n{json.dumps(calls, sort_keys=True)}" if calls else str(message["content"])


def _turn_keys(example: Example) -> Iterator[int]:
    for turn, message in enumerate(example.prompt):
        if message["role"] == "assistant":
            yield prompt_key(example.prompt[:turn])


def prompt_key(prompt: Sequence[Message]) -> int:
    """Return what makes two prompts the same: roles, words and calls of tools, whatever their case and spacing."""
    return text_key("\n".join([f"{m['role']}:{' '.join(as_written(m).casefold().split())}" for m in prompt]))


def text_key(text: str) -> int:
    """Return a 64-bit key; two of a million texts share one by chance once in thirty million sets."""
    same = unicodedata.normalize("NFKC", text)  # one character may be written in several ways
    digest = hashlib.blake2b(same.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little")
