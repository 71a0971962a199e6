"""Messages as chat templates take them: known roles in turn, texts as text, tool calls as objects."""

from typing import Any, Literal

from llm_engineering.data.formats.columns import Row, shown
from llm_engineering.data.formats.content import Message, RowProblem
from llm_engineering.data.formats.tools import function_calls

ROLES = ("system", "developer", "user", "assistant", "tool")
ALIASES = {
    "human": "user",
    "gpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "function": "tool",
    "ipython": "tool",
}
"""Other names of the roles, understood where nothing else in the conversation goes by the same role."""
ROLE_OF = {role: role for role in ROLES} | ALIASES
MEDIA = {"image": "an image", "audio": "audio", "video": "a video"}
MEDIA_COLUMNS = ("image", "images", "audios", "videos")
"""Columns that go with placeholders in the texts."""
FOLLOWERS = {"user": ("assistant",), "assistant": ("user",), "tool": ("tool", "assistant")}
"""Who may speak after whom; after an assistant that calls a tool, only the tool."""
CALL_IN_TEXT = "<tool_call>"
"""How data sets in the manner of Hermes write a call into an assistant's text."""


def check_messages(
    messages: Any, ends_with: Literal["assistant", "user"] | None = None, column: str = "messages"
) -> list[Message]:
    """Return messages with known roles in turn, without what chat templates do not know.

    Args:
        messages: A list of objects with ``role`` and ``content``.
        ends_with: Who has to speak last; for a prompt, ``user`` also means a tool.
        column: What problems call the list.

    Raises:
        RowProblem: What is wrong with them.
    """
    return check_order(clean_messages(messages, column), ends_with)


def clean_messages(messages: Any, column: str = "messages") -> list[Message]:
    """Return messages with known roles, whatever their order."""
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise RowProblem("not text", f"{column} is no list of objects with role and content")
    _check_names(messages)
    return [_clean(message) for message in messages]


def check_order(messages: list[Message], ends_with: Literal["assistant", "user"] | None = None) -> list[Message]:
    """Return messages whose roles are in turn and whose answers say something, a blank system message left out.

    An optional system or developer message, then user and assistant alternating. An assistant that calls tools is
    followed by what they gave, and that by the assistant. A call may also be written into the text.
    """
    opens = bool(messages) and messages[0]["role"] in ("system", "developer")
    turns = messages[1:] if opens else messages
    allowed: tuple[str, ...] = ("user",)
    for position, message in enumerate(turns):
        role = message["role"]
        if role not in allowed:
            raise RowProblem("bad role order", f"turn {position + 1} is by the {role}")
        allowed = ("tool",) if "tool_calls" in message else FOLLOWERS[role]
        if role == "assistant" and CALL_IN_TEXT in message["content"]:
            allowed = ("tool", *allowed)
    last = turns[-1]["role"] if turns else None
    if ends_with == "assistant" and last != "assistant":
        raise RowProblem("bad role order", "the conversation does not end with the assistant")
    if ends_with == "user" and last not in ("user", "tool"):
        raise RowProblem("bad role order", "the prompt does not end with the user")
    for message in turns:
        if not message["content"] and message["role"] == "assistant" and "tool_calls" not in message:
            raise RowProblem("empty answer", "an assistant message is empty")
    return turns if opens and not messages[0]["content"] else messages


def split_answer(messages: list[Message], column: str) -> tuple[list[Message], str]:
    """Return the messages before the last one and its text, which has to be the assistant's."""
    checked = check_order(messages)
    if not checked or checked[-1]["role"] != "assistant":
        raise RowProblem("bad role order", f"{column} does not end with the assistant")
    if "tool_calls" in checked[-1]:
        raise RowProblem("not text", f"{column} ends with a tool call; answers of a pair have to be text")
    return checked[:-1], checked[-1]["content"]


def refuse_media(row: Row) -> None:
    """Refuse a row whose texts belong to pictures or sounds."""
    for column in MEDIA_COLUMNS:
        if row.get(column):
            raise RowProblem("not text", f"the row has {column}; pictures, sounds and videos are not supported")


def _check_names(messages: list[Message]) -> None:
    """Refuse unknown roles, and two names for one role: they could be two different speakers."""
    known: dict[str, str] = {}
    for message in messages:
        name = message.get("role")
        if not isinstance(name, str) or name not in ROLE_OF:
            raise RowProblem("bad role order", f"the role {shown(name)} is none of {', '.join(ROLES)}")
        role = ROLE_OF[name]
        if known.setdefault(role, name) != name:
            alias = name if name in ALIASES else known[role]
            raise RowProblem("bad role order", f"the role {alias!r} and another name of the {role} are both there")


def _clean(message: Message) -> Message:
    role: str = ROLE_OF[message["role"]]
    content = message.get("content")
    if isinstance(content, str) and len(message) == 2:
        return {"role": role, "content": content.strip()}
    clean: Message = {"role": role, "content": ""}
    calls = _calls_of(message) if role == "assistant" else []
    if content is not None or not calls:
        clean["content"] = _joined(content, role)
    if calls:
        clean["tool_calls"] = calls
    for key in ("name", "tool_call_id"):
        value = message.get(key)
        if value is None:
            continue
        if not isinstance(value, str):
            raise RowProblem("not text", f"the {role}'s {key} is {type(value).__name__}, not text")
        clean[key] = value
    return clean


def _joined(content: Any, role: str) -> str:
    """Return the text of a message, which may stand in parts."""
    if isinstance(content, str):
        return content.strip()
    if not isinstance(content, list):
        raise RowProblem("not text", f"the {role}'s content is {type(content).__name__}, not text")
    return "".join(_part(part, role) for part in content).strip()


def _part(part: Any, role: str) -> str:
    if isinstance(part, str):
        return part
    kind = part.get("type") if isinstance(part, dict) else None
    for medium, called in MEDIA.items():
        if isinstance(kind, str) and medium in kind:
            raise RowProblem("not text", f"the {role}'s content holds {called}, which is not supported")
    if kind in (None, "text", "input_text", "output_text") and isinstance(part, dict):
        value = part.get("text")
        if isinstance(value, str):
            return value
    raise RowProblem("not text", f"the {role}'s content holds {shown(part)}, which is not text")


def _calls_of(message: Message) -> list[dict[str, Any]]:
    calls = message.get("tool_calls")
    if calls is None:  # the key of OpenAI's first function calls
        return [] if message.get("function_call") is None else function_calls(message["function_call"])
    if not isinstance(calls, list):
        raise RowProblem("unparsable", f"tool_calls is {type(calls).__name__}, not a list")
    return function_calls(calls)
