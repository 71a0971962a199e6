"""Conversations as tokens: what is trained is what is served, and only answers carry loss."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llm_engineering.data.formats import Message
from llm_engineering.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IGNORED = -100
"""The label of a token without loss."""


@dataclass(frozen=True)
class RenderedConversation:
    """A conversation as it is trained."""

    input_ids: list[int]
    labels: list[int]
    last_answer: int
    """Position of the last answer's first token."""


class ChatRenderer:
    """Renders conversations turn by turn with a tokenizer's chat template.

    No generation tags are needed in the template: every assistant turn is what the template adds to its own generation
    prompt, up to and including the EOS token. A template that rewrites earlier turns is refused, since no mask would be
    right for it.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase") -> None:
        self.tokenizer = tokenizer
        self.eos_token: str = tokenizer.eos_token
        self.eos_token_id: int = tokenizer.eos_token_id
        self.special_tokens = frozenset(
            [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
        )

    def special_token_in(self, texts: Iterable[str]) -> str | None:
        """Return a special token that stands in a text: it would be read as the end of a turn, or begin one."""
        return next((token for text in texts for token in sorted(self.special_tokens) if token in text), None)

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """Return the tokens that a server would feed the model for ``messages``, generation prompt included."""
        return self._tokenize(self._render(messages, answer_follows=True))

    def answer_ids(self, prompt: Sequence[Message], answer: str) -> list[int]:
        """Return the tokens of one answer to ``prompt``, ending with EOS."""
        served = self._render(prompt, answer_follows=True)
        head, _ = self._split_answer(served, [*prompt, {"role": "assistant", "content": answer}])
        return self._tokenize(head)

    def conversation(self, messages: Sequence[Message]) -> RenderedConversation:
        """Return tokens and labels of a conversation; loss on every assistant turn, its EOS included.

        Raises:
            ModelError: The template rewrites earlier turns, leaves out EOS, or makes other tokens of a prompt than a
                server would.
        """
        input_ids: list[int] = []
        labels: list[int] = []
        done, last_answer = "", 0
        for position, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            served = self._render(messages[:position], answer_follows=True)
            gap = self._tokenize(self._rest(served, done))
            input_ids += gap
            labels += [IGNORED] * len(gap)
            self._require_served(messages[:position], input_ids)
            head, _ = self._split_answer(served, messages[: position + 1])
            answer = self._tokenize(head)
            last_answer = len(input_ids)
            input_ids += answer
            labels += answer
            done = served + head
        return RenderedConversation(input_ids, labels, last_answer)

    def _render(self, messages: Sequence[Message], *, answer_follows: bool) -> str:
        from jinja2 import TemplateError

        try:
            text = self.tokenizer.apply_chat_template(
                list(messages), tokenize=False, add_generation_prompt=answer_follows
            )
        except (TemplateError, ArithmeticError, TypeError, ValueError) as error:
            raise ModelError(
                f"The chat template refuses a conversation ({error}). Use model.chat_template chatml or alpaca, or "
                "remove what it does not know (system messages, for example) from the data."
            ) from error
        return str(text)

    def _tokenize(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def _rest(self, whole: str, start: str) -> str:
        if not whole.startswith(start):
            raise ModelError(
                "The chat template changes earlier turns when a later one is added, so that no loss mask fits. Use "
                "model.chat_template chatml or alpaca, or a template file that renders every turn once."
            )
        return whole[len(start) :]

    def _split_answer(self, served: str, messages: Sequence[Message]) -> tuple[str, str]:
        """Return an answer's text up to and including EOS, and what the template adds behind it."""
        added = self._rest(self._render(messages, answer_follows=False), served)
        head, eos, tail = added.rpartition(self.eos_token)
        if not eos:
            raise ModelError(
                f"The chat template does not end an answer with the EOS token {self.eos_token!r}, so that the model "
                "would never learn to stop. Name the template's end token with model.special_tokens.eos, or use "
                "model.chat_template alpaca."
            )
        return head + eos, tail

    def _require_served(self, messages: Sequence[Message], ids: list[int]) -> None:
        """Hold the prompt as it was put together against the prompt as it is served."""
        if ids != self.prompt_ids(messages):
            raise ModelError(
                "The tokenizer cuts a prompt into other tokens in training than when it is served. Use "
                "model.chat_template chatml or alpaca, or a template whose turns begin with a special token."
            )
