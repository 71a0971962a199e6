"""Conversations with one model or several side by side, each with its own answers in its history."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING

from llm_engineering.config.model import ModelConfig
from llm_engineering.data.rendering import ChatRenderer
from llm_engineering.errors import StoreError
from llm_engineering.models.chat import load_chat_tokenizer
from llm_engineering.models.checkpoints import load_model
from llm_engineering.models.hardware import pick_dtype
from llm_engineering.models.streaming import Sampling, stream_answer
from llm_engineering.reports.folders import Checkpoint

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass
class Conversation:
    """What was said between a person and one model."""

    name: str
    """What the model is called."""
    model: "PreTrainedModel"
    tokenizer: "PreTrainedTokenizerBase"
    messages: list[dict[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._renderer = ChatRenderer(self.tokenizer)

    @property
    def turns(self) -> int:
        """How many answers the model has given."""
        return sum(message["role"] == "assistant" for message in self.messages)

    def begin(self, system: str | None) -> None:
        """Forget what was said, and start with a system prompt if there is one."""
        self.messages = [{"role": "system", "content": system}] if system else []

    def ask(self, text: str, sampling: Sampling, stop: Event) -> Iterator[str]:
        """Yield the answer piece by piece; question and answer are kept once it has ended, stopped or not.

        Every turn has a seed of its own, so that the same words do not draw the same answer twice.

        Raises:
            ModelError: The chat template refuses the conversation, or it is too long.
        """
        asked = [*self.messages, {"role": "user", "content": text}]
        own = replace(sampling, seed=sampling.seed + self.turns)
        pieces = []
        for piece in stream_answer(self.model, self.tokenizer, self._renderer.prompt_ids(asked), own, stop):
            pieces.append(piece)
            yield piece
        self.messages = [*asked, {"role": "assistant", "content": "".join(pieces).strip()}]


def open_conversation(name: str, checkpoint: Checkpoint) -> Conversation:
    """Load a model to talk to, with its own chat template and end tokens.

    Raises:
        ModelError: The folder cannot be loaded.
    """
    chat = load_chat_tokenizer(checkpoint, ModelConfig(base=checkpoint.base))
    return Conversation(name, load_model(checkpoint.path, pick_dtype("auto")), chat.tokenizer)


def save_conversations(conversations: list[Conversation], path: Path) -> None:
    """Write one line a model, in the format ``messages``, which ``data.sft`` reads.

    Raises:
        StoreError: The file cannot be written.
    """
    lines = [json.dumps({"model": each.name, "messages": each.messages}, ensure_ascii=False) for each in conversations]
    try:
        path.expanduser().write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    except OSError as error:
        raise StoreError(f"{path} cannot be written: {error.strerror}. Name another file.") from error
