"""Turns of ShareGPT: objects with ``from`` and ``value``."""

from typing import Any

from llm_engineering.data.formats.columns import shown
from llm_engineering.data.formats.content import Message, RowProblem
from llm_engineering.data.formats.tools import function_calls

SPEAKERS = {
    "system": "system",
    "human": "user",
    "user": "user",
    **dict.fromkeys(("gpt", "assistant", "chatgpt", "bing", "bard", "model", "function_call"), "assistant"),
    **dict.fromkeys(("tool", "observation", "function_response"), "tool"),
}
"""Roles of those who speak in ShareGPT turns."""


def sharegpt_turns(value: Any, column: str) -> list[Message]:
    """Return the messages of ShareGPT turns, objects with ``from`` and ``value``."""
    if not isinstance(value, list):
        raise RowProblem("not text", f"{column} is {type(value).__name__}, not a list of turns")
    return [sharegpt_turn(turn, column) for turn in value]


def sharegpt_turn(turn: Any, column: str) -> Message:
    """Return the message of one ShareGPT turn."""
    if not isinstance(turn, dict):
        raise RowProblem("not text", f"{column} holds {type(turn).__name__}, not an object with from and value")
    speaker, value = turn.get("from"), turn.get("value")
    role = SPEAKERS.get(speaker) if isinstance(speaker, str) else None
    if role is None:
        raise RowProblem("bad role order", f"the speaker {shown(speaker)} is none of {', '.join(SPEAKERS)}")
    if not isinstance(value, str):
        raise RowProblem("not text", f"what the {speaker} says is {type(value).__name__}, not text")
    if speaker == "function_call":
        calls = function_calls(value)
        if not calls:
            raise RowProblem("empty answer", "a function_call calls nothing")
        return {"role": role, "content": "", "tool_calls": calls}
    return {"role": role, "content": value.strip()}
