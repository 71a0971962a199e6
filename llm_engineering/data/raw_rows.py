"""A row as it was read: its JSON, or why there is none, and where it stands."""

import json
from collections.abc import Generator, Iterable, Iterator
from typing import Any, NamedTuple

from llm_engineering.data.nesting import MAX_NESTING, too_deep

Rows = Generator["RawRow", None, None]
MAX_SHOWN = 100
"""Characters that are shown of a value that JSON does not have, such as an image."""


class RawRow(NamedTuple):
    """A row as it was read."""

    place: str
    """Where it stands: ``rows.jsonl, line 17``."""
    data: str | None
    """Its JSON, or none."""
    problem: str | None
    """Why there is none, or why it cannot be used."""


def chain_rows(parts: Iterable[Iterator[RawRow]]) -> Rows:
    """Yield the rows of one part after the other."""
    for part in parts:
        yield from part


def numbered(name: str, values: Iterable[tuple[Any, str | None]]) -> Rows:
    """Yield values, or what is wrong with them, as the numbered rows of a source."""
    for number, (value, problem) in enumerate(values, start=1):
        yield raw_row(f"{name}, row {number}", value, problem)


def raw_row(place: str, value: Any, problem: str | None = None) -> RawRow:
    """Return a value as a row, or why it cannot be one."""
    if problem is not None:
        return RawRow(place, None, problem)
    try:
        text = json.dumps(value, ensure_ascii=False, default=_no_json)
        text.encode()
    except (ValueError, TypeError, RecursionError) as error:
        return RawRow(place, None, str(error))
    return checked(place, text, value)


def checked(place: str, text: str, value: Any) -> RawRow:
    """Return a row whose JSON is known, or why it cannot be used."""
    if too_deep(text, value):
        return RawRow(place, None, f"more than {MAX_NESTING} lists and objects inside one another")
    return RawRow(place, text, None)


def _no_json(value: Any) -> Any:
    """Return a value that JSON does not have so that it can be seen, and is not taken for text."""
    if hasattr(value, "tolist"):  # what pandas makes of lists and numbers
        return value.tolist()
    shown = str(value[:MAX_SHOWN] if isinstance(value, bytes) else value)
    return {type(value).__name__: shown if len(shown) <= MAX_SHOWN else f"{shown[:MAX_SHOWN]}…"}
