"""Conversations as tokens: what is trained is what is served, and only answers carry loss."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from llm_engineering.data.examples import texts_of
from llm_engineering.data.formats import Conversation, Example, Message, RowProblem
from llm_engineering.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IGNORED = -100
"""The label of a token without loss."""
TrainOn = Literal["all_turns", "last_turn"]


class TemplateRefusal(ModelError):
    """The chat template cannot render a conversation."""


@dataclass
class Rendered:
    """An example as it is served and trained: the prompt, and one answer or two.

    Labels of a prompt are -100 but for earlier answers of a conversation; all tokens of an answer carry loss.
    """

    prompt_ids: list[int]
    prompt_labels: list[int]
    answers: list[list[int]]
    """The last answer of a conversation; or the chosen and the rejected one. Each ends with EOS."""
    closing: int
    """Tokens at the prompt's end that the template puts behind the last message's text."""


@dataclass
class _Plan:
    """The texts of one example that are tokenised apart, in order."""

    turns: list[tuple[str, bool]]
    """Pieces of the prompt, and whether they carry loss."""
    answers: list[str]
    closing: int
    served: str | None = None
    """The whole prompt, where it was put together from several pieces: its tokens have to be the same."""
    tokens: list[list[int]] = field(default_factory=list)

    @property
    def texts(self) -> list[str]:
        """All that is to be tokenised."""
        pieces = [*(text for text, _ in self.turns), *self.answers]
        return pieces if self.served is None else [*pieces, self.served]


class ChatRenderer:
    """Renders examples with a tokenizer's chat template, and tokenises a batch of them at once.

    No generation tags are needed in the template: every assistant turn is what the template adds to its own generation
    prompt, up to and including the EOS token. A template that rewrites earlier turns is refused where they are to be
    trained, since no mask would be right for it.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", train_on: TrainOn = "all_turns") -> None:
        self.tokenizer = tokenizer
        self.train_on = train_on
        self.eos_token: str = tokenizer.eos_token
        self.eos_token_id: int = tokenizer.eos_token_id
        self.special_tokens = sorted(
            token.content for token in tokenizer.added_tokens_decoder.values() if token.special
        )
        self._beginnings = {token[:2] for token in self.special_tokens}  # there may be hundreds of tokens
        self._closings: dict[str, int] = {}
        self._template = str(tokenizer.chat_template)
        self._as_system = "developer" not in self._template

    def special_token_in(self, texts: Iterable[str]) -> str | None:
        """Return a special token that stands in a text: it would be read as the end of a turn, or begin one."""
        suspects = [text for text in texts if any(beginning in text for beginning in self._beginnings)]
        return next((token for text in suspects for token in self.special_tokens if token in text), None)

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """Return the tokens that a server would feed the model for ``messages``, generation prompt included."""
        return self._tokenize([self._render(messages, None, answer_follows=True)])[0]

    def render(self, examples: Sequence[Example]) -> list[Rendered | RowProblem]:
        """Return every example as tokens, or why the template cannot render it.

        Raises:
            ModelError: The template rewrites earlier turns, leaves out EOS, or makes other tokens of a prompt than a
                server would.
        """
        plans = [self._try(example) for example in examples]
        good = [plan for plan in plans if isinstance(plan, _Plan)]
        tokens = iter(self._tokenize([text for plan in good for text in plan.texts]))
        for plan in good:
            plan.tokens = [next(tokens) for _ in plan.texts]
        return [self._put_together(plan) if isinstance(plan, _Plan) else plan for plan in plans]

    def _try(self, example: Example) -> _Plan | RowProblem:
        if token := self.special_token_in(texts_of(example)):
            return RowProblem("special token in text", f"it holds {token}")
        try:
            return self._plan(example)
        except TemplateRefusal as refusal:
            return RowProblem("not renderable", str(refusal))

    def _plan(self, example: Example) -> _Plan:
        """Return the texts of an example, split where loss begins and ends."""
        self._require_tools(example)
        prompt, tools = example.prompt, example.tools
        served = self._render(prompt, tools, answer_follows=True)
        if isinstance(example, Conversation):
            answers = [self._answer(served, example.messages, tools)]
        else:
            sides = (example.chosen, example.rejected)
            answers = [self._answer(served, [*prompt, {"role": "assistant", "content": s}], tools) for s in sides]
        closing = self._closing(served, prompt[-1]["content"])
        earlier = [i for i, message in enumerate(prompt) if message["role"] == "assistant"]
        if not earlier or not isinstance(example, Conversation) or self.train_on == "last_turn":
            return _Plan([(served, False)], answers, closing)
        turns, done = [], ""
        for position in earlier:
            before = self._render(prompt[:position], tools, answer_follows=True)
            answer = self._answer(before, prompt[: position + 1], tools)
            turns += [(_rest(before, done), False), (answer, True)]
            done = before + answer
        return _Plan([*turns, (_rest(served, done), False)], answers, closing, served)

    def _put_together(self, plan: _Plan) -> Rendered:
        """Join the tokens of a plan, and hold the prompt as it was put together against the prompt as it is served."""
        prompt: list[int] = []
        labels: list[int] = []
        for (_, trained), ids in zip(plan.turns, plan.tokens, strict=False):
            if trained and ids[-1:] != [self.eos_token_id]:
                raise ModelError(f"The tokenizer makes no EOS token of {self.eos_token!r} at the end of an answer.")
            prompt += ids
            labels += ids if trained else [IGNORED] * len(ids)
        if plan.served is not None and prompt != plan.tokens[-1]:
            raise ModelError(
                "The tokenizer cuts a prompt into other tokens in training than when it is served. Use "
                "model.chat_template chatml or alpaca, or a template whose turns begin with a special token."
            )
        first = len(plan.turns)
        return Rendered(prompt, labels, plan.tokens[first : first + len(plan.answers)], plan.closing)

    def _closing(self, served: str, last: str) -> int:
        """Return how many tokens the template puts behind the last message of a prompt; few texts, so kept."""
        closing = served.rpartition(last)[2] if last and last in served else ""
        if closing not in self._closings:
            self._closings[closing] = len(self._tokenize([closing])[0])
        return self._closings[closing]

    def _require_tools(self, example: Example) -> None:
        messages = example.messages if isinstance(example, Conversation) else example.prompt
        calls = any("tool_calls" in message for message in messages)
        for name, used in (("tools", example.tools), ("tool_calls", calls)):
            if used and name not in self._template:
                raise TemplateRefusal(f"the chat template knows no {name}, which would be left out silently")

    def _render(self, messages: Sequence[Message], tools: list[Message] | None, *, answer_follows: bool) -> str:
        from jinja2 import TemplateError

        if self._as_system and messages and messages[0]["role"] == "developer":
            messages = [{**messages[0], "role": "system"}, *messages[1:]]
        try:
            text = self.tokenizer.apply_chat_template(
                list(messages), tools=tools, tokenize=False, add_generation_prompt=answer_follows
            )
        except (TemplateError, ArithmeticError, TypeError, ValueError) as error:
            raise TemplateRefusal(
                f"The chat template refuses a conversation ({error}). Use model.chat_template chatml or alpaca, or "
                "remove what it does not know (system messages, for example) from the data."
            ) from error
        return str(text)

    def _tokenize(self, texts: list[str]) -> list[list[int]]:
        if not texts:
            return []
        encoded = self.tokenizer(texts, add_special_tokens=False, return_attention_mask=False, verbose=False)
        ids: list[list[int]] = encoded["input_ids"]
        return ids

    def _answer(self, served: str, messages: Sequence[Message], tools: list[Message] | None) -> str:
        """Return an answer's text as the template adds it to the served prompt, up to and including EOS."""
        added = _rest(self._render(messages, tools, answer_follows=False), served)
        head, eos, _ = added.rpartition(self.eos_token)
        if not eos:
            raise ModelError(
                f"The chat template does not end an answer with the EOS token {self.eos_token!r}, so that the model "
                "would never learn to stop. Name the template's end token with model.special_tokens.eos, or use "
                "model.chat_template alpaca."
            )
        return head + eos


def _rest(whole: str, start: str) -> str:
    if not whole.startswith(start):
        raise ModelError(
            "The chat template changes earlier turns when a later one is added, so that no loss mask fits. Use "
            "model.chat_template chatml or alpaca, or a template file that renders every turn once."
        )
    return whole[len(start) :]
