"""What formats make of a row: conversations and preference pairs, or the reason why the row is dropped."""

from dataclasses import dataclass
from typing import Any

from llm_engineering.reports.data import DropReason

Message = dict[str, Any]
"""What chat templates of ``transformers`` take.

``role`` is system, developer, user, assistant or tool. ``content`` is text, empty only where there is nothing to say
beside ``tool_calls``, or where a user or a tool says nothing. Optional are ``name``, ``tool_call_id`` and
``tool_calls``, a list of ``{"type": "function", "function": {"name": ..., "arguments": {...}}}``.
"""


class RowProblem(Exception):
    """Why one row is dropped."""

    def __init__(self, reason: DropReason, detail: str) -> None:
        super().__init__(detail)
        self.reason: DropReason = reason


@dataclass(frozen=True)
class Conversation:
    """Messages that end with the assistant."""

    messages: list[Message]
    tools: list[dict[str, Any]] | None = None
    """Functions that the assistant may call, as JSON schemas."""
    score_ratio: float | None = None
    """That of the pair whose prompt and chosen answer it is."""

    @property
    def answer(self) -> str:
        """The text of the last assistant message; empty where it only calls tools."""
        text: str = self.messages[-1]["content"]
        return text

    @property
    def prompt(self) -> list[Message]:
        """The messages before the last answer."""
        return self.messages[:-1]


@dataclass(frozen=True)
class Pair:
    """A prompt and two answers, the first one preferred."""

    prompt: list[Message]
    chosen: str
    rejected: str
    tools: list[dict[str, Any]] | None = None
    """Functions that the assistant may call, as JSON schemas."""
    score_ratio: float | None = None
    """Score of the chosen answer over that of the rejected one, where both are positive."""

    @property
    def conversation(self) -> Conversation:
        """The prompt and the chosen answer."""
        return Conversation([*self.prompt, {"role": "assistant", "content": self.chosen}], self.tools, self.score_ratio)


Example = Conversation | Pair
