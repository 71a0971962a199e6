"""Examples as arrays: what rules, splits and audit have to know of every example, without its text."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from llm_engineering.artifacts import DropReason, RowKind, RowSet, Split
from llm_engineering.config.schema import RowSource
from llm_engineering.data.formats import Example, Message, Pair, Reading, RowProblem, choose_format
from llm_engineering.data.rowsets import read_batches
from llm_engineering.errors import DataError

SPLITS: tuple[Split, ...] = ("train", "eval", "test")
KINDS: tuple[RowKind, ...] = ("sft", "preference")
REASONS: tuple[DropReason, ...] = get_args(DropReason)
KEPT = NOT_PLACED = -1
"""No reason to drop an example; no split that an example was placed in."""
SAMPLED_ROWS = 1000
"""Rows whose columns decide about the format."""

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
    kind: RowKind
    source: RowSource
    raw: RowSet
    reading: Reading
    unused: list[str]
    """Columns of the first rows that the format does not know."""

    @classmethod
    def open(cls, raw: RowSet, index: int, kind: RowKind, source: RowSource) -> "SourceRows":
        """Choose the source's format by its first rows.

        Raises:
            DataError: No row is an object, or the format is not clear.
        """
        sample: list[Mapping[str, Any]] = []
        for batch in read_batches(raw, _split_name(index)):
            parsed = (json.loads(row["data"]) for row in batch if row["data"] is not None)
            sample += [row for row in parsed if isinstance(row, dict)]
            if len(sample) >= SAMPLED_ROWS:
                break
        if not sample:
            raise DataError(f"{source.name} has no row that is a JSON object. Check that the file is what you meant.")
        present = {column for row in sample for column in row}
        reading = choose_format(source, kind, present, sample[:100])
        return cls(index, kind, source, raw, reading, sorted(present - set(reading.columns.values())))

    def batches(self) -> Iterator[list["ReadRow"]]:
        """Yield the source's rows, read by its format, a batch at a time."""
        for batch in read_batches(self.raw, _split_name(self.index)):
            yield [self._read(raw) for raw in batch]

    def _read(self, raw: Mapping[str, Any]) -> "ReadRow":
        try:
            data = json.loads(raw["data"]) if raw["data"] is not None else None
            if not isinstance(data, dict):
                raise RowProblem("unparsable", raw["problem"] or "it is no JSON object")
            return ReadRow(raw, data, self.reading.read(data), self._placed(raw, data))
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
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def _split_name(index: int) -> str:
    return f"{index:03d}"
