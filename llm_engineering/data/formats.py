"""From the columns people have to conversations and preference pairs.

A format is one function and one line in :data:`SFT_FORMATS` or :data:`PREFERENCE_FORMATS`. The function gets a row
whose columns already have the format's names, and raises :class:`RowProblem` for a row that cannot be used.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from llm_engineering.artifacts import DropReason
from llm_engineering.config.schema import RowSource
from llm_engineering.errors import DataError

Message = dict[str, str]
ROLES = ("system", "user", "assistant")


class RowProblem(Exception):
    """Why one row is dropped."""

    def __init__(self, reason: DropReason, detail: str) -> None:
        super().__init__(detail)
        self.reason: DropReason = reason


@dataclass(frozen=True)
class Conversation:
    """Messages that end with the assistant."""

    messages: list[Message]

    @property
    def answer(self) -> str:
        """The last assistant message."""
        return self.messages[-1]["content"]


@dataclass(frozen=True)
class Pair:
    """A prompt and two answers, the first one preferred."""

    prompt: list[Message]
    chosen: str
    rejected: str


@dataclass(frozen=True)
class Format:
    """How rows with certain columns become conversations or pairs."""

    name: str
    required: tuple[str, ...]
    optional: tuple[str, ...]
    read: Callable[[Mapping[str, Any]], Conversation | Pair]

    @property
    def columns(self) -> tuple[str, ...]:
        """All columns that the format knows."""
        return (*self.required, *self.optional, *EXTRA_COLUMNS)


def text(row: Mapping[str, Any], column: str) -> str:
    """Return a column that has to be text."""
    value = row.get(column)
    if not isinstance(value, str):
        raise RowProblem("not text", f"{column} is {type(value).__name__}, not text")
    return value.strip()


def answer_text(row: Mapping[str, Any], column: str) -> str:
    """Return a column that has to be text with something in it."""
    value = text(row, column)
    if not value:
        raise RowProblem("empty answer", f"{column} is empty")
    return value


def _system(row: Mapping[str, Any], column: str) -> list[Message]:
    """Return the system message, if the row has one that is not blank."""
    if row.get(column) is None:
        return []
    content = text(row, column)
    return [{"role": "system", "content": content}] if content else []


def _user(content: str) -> Message:
    return {"role": "user", "content": content}


def _assistant(content: str) -> Message:
    return {"role": "assistant", "content": content}


def check_messages(messages: Any) -> list[Message]:
    """Return messages with known roles in turn: an optional system message, then user and assistant alternating."""
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise RowProblem("not text", "messages is no list of objects with role and content")
    clean = []
    for message in messages:
        role, content = message.get("role"), message.get("content")
        if role not in ROLES:
            raise RowProblem("bad role order", f"the role {role!r} is none of {', '.join(ROLES)}")
        if not isinstance(content, str):
            raise RowProblem("not text", f"the content of a {role} message is {type(content).__name__}, not text")
        clean.append({"role": role, "content": content.strip()})
    turns = clean[1:] if clean and clean[0]["role"] == "system" else clean
    for position, message in enumerate(turns):
        if message["role"] != ("user", "assistant")[position % 2]:
            raise RowProblem("bad role order", f"turn {position + 1} is by the {message['role']}")
    return clean


def _messages(row: Mapping[str, Any]) -> Conversation:
    messages = check_messages(row["messages"])
    if not messages or messages[-1]["role"] != "assistant":
        raise RowProblem("bad role order", "the conversation does not end with the assistant")
    if not all(message["content"] for message in messages if message["role"] == "assistant"):
        raise RowProblem("empty answer", "an assistant message is empty")
    return Conversation(messages)


def _alpaca(row: Mapping[str, Any]) -> Conversation:
    question = text(row, "instruction")
    extra = text(row, "input") if row.get("input") is not None else ""
    question = f"{question}\n\n{extra}" if extra else question
    return Conversation([*_system(row, "system"), _user(question), _assistant(answer_text(row, "output"))])


def _question_answer(row: Mapping[str, Any]) -> Conversation:
    prompt = [*_system(row, "system_prompt"), _user(text(row, "question"))]
    return Conversation([*prompt, _assistant(answer_text(row, "answer"))])


def _prompt_completion(row: Mapping[str, Any]) -> Conversation:
    if isinstance(row["prompt"], list) and isinstance(row["completion"], list):
        return _messages({"messages": row["prompt"] + row["completion"]})
    return Conversation([_user(text(row, "prompt")), _assistant(answer_text(row, "completion"))])


def _chosen_rejected(row: Mapping[str, Any]) -> Pair:
    prompt = row["prompt"]
    messages = check_messages(prompt) if isinstance(prompt, list) else [_user(text(row, "prompt"))]
    if not messages or messages[-1]["role"] != "user":
        raise RowProblem("bad role order", "the prompt does not end with the user")
    messages = check_messages([*_system(row, "system"), *messages])
    return Pair(messages, _reply(row, "chosen", messages), _reply(row, "rejected", messages))


def _reply(row: Mapping[str, Any], column: str, prompt: list[Message]) -> str:
    """Return an answer given as text, or as an assistant message that may follow the prompt's messages."""
    value = row[column]
    if not isinstance(value, list):
        return answer_text(row, column)
    last = value[-1] if value else None
    if not isinstance(last, dict) or last.get("role") != "assistant":
        raise RowProblem("bad role order", f"{column} does not end with the assistant")
    before = check_messages(value[:-1])
    if before and before not in (prompt, prompt[1:]):
        raise RowProblem("bad role order", f"{column} repeats another prompt than the row's")
    return answer_text({column: last.get("content")}, column)


SFT_FORMATS = (
    Format("messages", ("messages",), (), _messages),
    Format("alpaca", ("instruction", "output"), ("input", "system"), _alpaca),
    Format("question_answer", ("question", "answer"), ("system_prompt",), _question_answer),
    Format("prompt_completion", ("prompt", "completion"), (), _prompt_completion),
)
PREFERENCE_FORMATS = (Format("chosen_rejected", ("prompt", "chosen", "rejected"), ("system",), _chosen_rejected),)
FORMATS = {"sft": SFT_FORMATS, "preference": PREFERENCE_FORMATS}
SYNONYMS = {
    "question": ("question", "instruction", "query"),
    "answer": ("answer", "response"),
    "prompt": ("prompt", "instruction", "question"),
}
"""Names that a data set may use for a format's column, besides those that ``columns`` maps."""
EXTRA_COLUMNS = ("reference", "unit", "split")
"""Columns that any row may have: the answer a checker compares with, the independent unit, the split it belongs to."""


@dataclass(frozen=True)
class Reading:
    """A format, and which column of the data set gives each of its columns."""

    format: Format
    columns: dict[str, str]

    def rename(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Return the row with the format's column names.

        Raises:
            RowProblem: The row lacks a column.
        """
        missing = [own for name, own in self.columns.items() if own not in row and name in self.format.required]
        if missing:
            raise RowProblem("not text", f"column {missing[0]} is missing")
        return {name: row[own] for name, own in self.columns.items() if own in row}


def choose_format(source: RowSource, kind: str, present: set[str]) -> Reading:
    """Return the format of a source: the named one, or the only one whose columns are there.

    Args:
        source: Names a format or says ``auto``; ``columns`` maps the format's column names to the data set's.
        kind: ``sft`` or ``preference``.
        present: Columns of the data set.

    Raises:
        DataError: No format or several fit, or a column is missing.
    """
    formats = FORMATS[kind]
    mapped = set(source.columns)
    there = f"The columns are: {_listed(present)}."
    unknown = sorted(set(source.columns.values()) - present)
    if unknown:
        raise DataError(f"{source.name} has no column {unknown[0]!r}, which `columns` names. {there}")
    if source.format != "auto":
        named = next((f for f in formats if f.name == source.format), None)
        if named is None:
            names = ", ".join(f.name for f in formats)
            raise DataError(f"{source.name}: {source.format!r} is no {kind} format. There are: {names}.")
        stray = sorted(mapped - set(named.columns))
        if stray:
            raise DataError(
                f"{source.name}: `columns` maps {stray[0]!r}, but the format {named.name} has the columns "
                f"{', '.join(named.columns)}."
            )
        reading = _match(named, source, present)
        if reading is None:
            needs = ", ".join(named.required)
            raise DataError(
                f"{source.name} lacks a column that the format {named.name} needs ({needs}). {there} Map names with "
                "`columns: {" + named.required[0] + ": own_name}`."
            )
        return reading
    fitting = [reading for f in formats if mapped <= set(f.columns) and (reading := _match(f, source, present))]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        names = " and ".join(reading.format.name for reading in fitting)
        raise DataError(f"{source.name} fits the formats {names}. Name one with `format`. {there}")
    wanted = "; ".join(f"{f.name}: {', '.join(f.required)}" for f in formats)
    raise DataError(
        f"{source.name} fits no {kind} format. {there}{_say_mapped(source)} Formats and their columns: {wanted}. Map "
        "names with `columns`."
    )


def _say_mapped(source: RowSource) -> str:
    return f" `columns` maps {', '.join(sorted(source.columns))}." if source.columns else ""


def _match(format: Format, source: RowSource, present: set[str]) -> Reading | None:
    columns = {}
    for name in format.columns:
        candidates = (source.columns[name],) if name in source.columns else SYNONYMS.get(name, (name,))
        found = next((candidate for candidate in candidates if candidate in present), None)
        if found is not None:
            columns[name] = found
        elif name in format.required:
            return None
    return Reading(format, columns)


def _listed(names: set[str], most: int = 12, longest: int = 40) -> str:
    """Return names in a sentence's space."""
    shown = [name if len(name) <= longest else f"{name[:longest]}…" for name in sorted(names)[:most]]
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return (", ".join(shown) or "none") + more
