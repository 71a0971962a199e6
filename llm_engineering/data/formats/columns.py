"""Columns of one row: text, numbers, JSON, each checked."""

import json
import math
import reprlib
from collections.abc import Mapping
from typing import Any

from llm_engineering.data.formats.content import Message, RowProblem
from llm_engineering.data.nesting import MAX_NESTING, too_deep

Row = Mapping[str, Any]
_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxother = 2, 60, 60


def text(row: Row, column: str) -> str:
    """Return a column that has to be text, without white space at its ends."""
    value = row.get(column)
    if not isinstance(value, str):
        raise RowProblem("not text", f"{column} is {type(value).__name__}, not text")
    return value.strip()


def optional_text(row: Row, column: str) -> str:
    """Return a column that has to be text or null; null is empty text."""
    return "" if row.get(column) is None else text(row, column)


def answer_text(row: Row, column: str) -> str:
    """Return a column that has to be text with something in it."""
    value = text(row, column)
    if not value:
        raise RowProblem("empty answer", f"{column} is empty")
    return value


def system_message(row: Row, column: str = "system") -> list[Message]:
    """Return the system message, if the row has one that is not blank."""
    content = optional_text(row, column)
    return [{"role": "system", "content": content}] if content else []


def number(row: Row, column: str) -> float:
    """Return a column that has to be a finite number; text that spells one counts, since CSV has only text."""
    value = row.get(column)
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        try:
            result = float(value)
        except (ValueError, OverflowError):
            result = math.nan
        if math.isfinite(result):
            return result
    raise RowProblem("unparsable", f"{column} is {shown(value)}, not a number")


def score_ratio(better: float, worse: float) -> float | None:
    """Return how many times the worse score the better one is; None for scores that have no ratio."""
    ratio = better / worse if worse > 0 else math.inf
    return ratio if math.isfinite(ratio) else None


def parse_json(value: str, what: str) -> Any:
    """Return what JSON text says."""
    try:
        parsed = json.loads(value)
    except (ValueError, RecursionError) as error:
        raise RowProblem("unparsable", f"{what} cannot be read as JSON: {shown(value)}") from error
    if too_deep(value, parsed):
        raise RowProblem("unparsable", f"{what} has more than {MAX_NESTING} lists and objects inside one another")
    return parsed


def without_nulls(value: Any) -> Any:
    """Return a structure without its null entries: Arrow gives every object the keys of all others."""
    if isinstance(value, dict):
        return {key: without_nulls(each) for key, each in value.items() if each is not None}
    if isinstance(value, list):
        return [without_nulls(each) for each in value if each is not None]
    return value


def shown(value: Any) -> str:
    """Return a value in a sentence's space, however long or deep it is."""
    return _SHORT.repr(value)
