"""Conversations as tokens: what is trained is what is served, and only answers carry loss."""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import TYPE_CHECKING, Literal

from llm_engineering.data.examples import texts_of
from llm_engineering.data.formats import Conversation, Example, Message, RowProblem
from llm_engineering.data.rowsets import IGNORED
from llm_engineering.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

GROUP_CHARACTERS = 1 << 20
"""Characters that are tokenised at once: the tokenizer needs some hundred bytes for each of its tokens."""
TrainOn = Literal["all_turns", "last_turn"]
_OTHER_TOKENS = (
    "The tokenizer cuts a prompt into other tokens in training than when it is served. Use model.chat_template chatml "
    "or alpaca, or a template whose turns begin with a special token."
)
_LAST_TURN = ", or train on the last turn only (data.train_on last_turn)"
_GENERATION_PROMPT = 100
"""Characters at a prompt's end in which a template may begin the answer, with <think> for example."""
_PROBE = "\ue000"
"""Stands for a message's text where only what surrounds it matters; of Unicode's private use, so in no template."""


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

    @cached_property
    def texts(self) -> list[tuple[str, str]]:
        """All that is to be tokenised, each behind the text that comes before it."""
        turns = [text for text, _ in self.turns]
        pieces = [*zip(["", *turns[:-1]], turns, strict=True), *((turns[-1], answer) for answer in self.answers)]
        return pieces if self.served is None else [*pieces, ("", self.served)]


class ChatRenderer:
    """Renders examples with a tokenizer's chat template, and tokenises a batch of them at once.

    No generation tags are needed in the template: every assistant turn is what the template adds to its own generation
    prompt, up to and including the EOS token. A template that rewrites earlier turns is refused where they are to be
    trained, since no mask would be right for it.

    Nothing vanishes silently: what system, user and tools say, the names of tools and calls, and every answer that
    carries loss have to stand in the rendered text, else the example is refused. White space may differ, and text may
    be written as in a JSON string. Earlier answers without loss are exempt: templates may strip the thinking from
    them, in training as when serving. The names of speakers and the ids of calls are not looked for.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", train_on: TrainOn = "all_turns") -> None:
        self.tokenizer = tokenizer
        self.train_on = train_on
        self.eos_token: str = tokenizer.eos_token
        self.eos_token_id: int = tokenizer.eos_token_id
        self.special_tokens = sorted(
            token.content for token in tokenizer.added_tokens_decoder.values() if token.special and token.content
        )
        self._beginnings = {token[:2] for token in self.special_tokens}  # there may be hundreds of tokens
        self._closings: dict[str, tuple[str, int]] = {}  # by role: a text, and how many tokens it has
        self._marks_start = self._is_start_marked()
        self._template = str(tokenizer.chat_template)
        self._as_system = not re.search("""['"]developer['"]""", self._template)  # named as a role, not in prose

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
        tokens = iter(self._tokenize_pieces([piece for plan in good for piece in plan.texts]))
        for plan in good:
            plan.tokens = [next(tokens) for _ in plan.texts]
        return [self._put_together(plan) if isinstance(plan, _Plan) else plan for plan in plans]

    def _try(self, example: Example) -> _Plan | RowProblem:
        try:
            if token := self.special_token_in(_all_texts(example)):
                return RowProblem("special token in text", f"it holds {token}")
            plan = self._plan(example)
            for _, text in plan.texts:
                text.encode()
        except TemplateRefusal as refusal:
            return RowProblem("not renderable", str(refusal))
        except RecursionError:
            return RowProblem("not renderable", "its tools or tool calls are nested too deeply")
        except UnicodeEncodeError as error:
            return RowProblem("not text", f"it holds characters that are none ({error.reason})")
        return plan

    def _plan(self, example: Example) -> _Plan:
        """Return the texts of an example, split where loss begins and ends."""
        self._require_tools(example)
        prompt, tools = example.prompt, example.tools
        served = self._render(prompt, tools, answer_follows=True)
        others = [message for message in prompt if message["role"] != "assistant"]
        _require(others, [*(tools or []), *_calls(prompt)], served)
        if isinstance(example, Conversation):
            answers = [self._answer(served, example.messages, tools)]
        else:
            sides = (example.chosen, example.rejected)
            answers = [self._answer(served, [*prompt, {"role": "assistant", "content": s}], tools) for s in sides]
        closing = self._closing(served, prompt, tools)
        earlier = [i for i, message in enumerate(prompt) if message["role"] == "assistant"]
        if not earlier or not isinstance(example, Conversation) or self.train_on == "last_turn":
            return _Plan([(served, False)], answers, closing)
        turns, done = [], ""
        for position in earlier:
            before = self._render(prompt[:position], tools, answer_follows=True)
            answer = self._answer(before, prompt[: position + 1], tools)
            turns += [(_rest(before, done, _LAST_TURN), False), (answer, True)]
            done = before + answer
        return _Plan([*turns, (_rest(served, done, _LAST_TURN), False)], answers, closing, served)

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
            raise ModelError(_OTHER_TOKENS)
        first = len(plan.turns)
        return Rendered(prompt, labels, plan.tokens[first : first + len(plan.answers)], plan.closing)

    def _closing(self, served: str, prompt: Sequence[Message], tools: list[Message] | None) -> int:
        """Return how many tokens the template puts behind the last message of a prompt; few texts, so kept."""
        role = prompt[-1]["role"]
        if role not in self._closings or not served.endswith(self._closings[role][0]):
            probe = self._render([*prompt[:-1], {**prompt[-1], "content": _PROBE}], tools, answer_follows=True)
            closing = probe.rpartition(_PROBE)[2] if _PROBE in probe else ""
            self._closings[role] = closing, len(self._tokenize_pieces([("\n", closing)])[0])
        return self._closings[role][1]

    def _require_tools(self, example: Example) -> None:
        calls = _calls(example.messages if isinstance(example, Conversation) else example.prompt)
        for name, used in (("tools", example.tools), ("tool_calls", calls)):
            if used and name not in self._template:
                raise TemplateRefusal(f"the chat template knows no {name}, which would be left out silently")

    def _render(self, messages: Sequence[Message], tools: list[Message] | None, *, answer_follows: bool) -> str:
        from jinja2 import TemplateError, TemplateSyntaxError

        if self._as_system and messages and messages[0]["role"] == "developer":
            messages = [{**messages[0], "role": "system"}, *messages[1:]]
        try:
            text = self.tokenizer.apply_chat_template(
                list(messages), tools=tools, tokenize=False, add_generation_prompt=answer_follows
            )
        except TemplateSyntaxError as error:
            raise ModelError(
                f"The chat template has an error in line {error.lineno}: {error.message}. Correct it, or use "
                "model.chat_template chatml or alpaca."
            ) from error
        except (TemplateError, ArithmeticError, TypeError, ValueError) as error:
            raise TemplateRefusal(
                f"The chat template refuses a conversation ({error}). Use model.chat_template chatml or alpaca, or "
                "remove what it does not know (system messages, for example) from the data."
            ) from error
        return str(text)

    def _tokenize(self, texts: list[str]) -> list[list[int]]:
        """Return the tokens of texts that nothing stands before."""
        call = partial(self.tokenizer, add_special_tokens=False, return_attention_mask=False, verbose=False)
        if not self.tokenizer.is_fast:
            return [ids for group in _groups(texts) for ids in call(group)["input_ids"]]
        call("")  # takes out what tokenizer.json says of truncation and padding
        encode = self.tokenizer.backend_tokenizer.encode_batch_fast  # as the call above, without offsets
        return [row.ids for group in _groups(texts) for row in encode(group, add_special_tokens=False)]

    def _tokenize_pieces(self, pieces: list[tuple[str, str]]) -> list[list[int]]:
        """Return the tokens of texts, each behind another one, without the mark of a text's start."""
        if not self._marks_start:
            return self._tokenize([text for _, text in pieces])
        anchors = [self._anchor(before) for before, _ in pieces]
        heads = {anchor: self._tokenize([anchor])[0] for anchor in set(anchors)}
        wholes = self._tokenize([anchor + text for anchor, (_, text) in zip(anchors, pieces, strict=True)])
        return [_rest_of_tokens(whole, heads[anchor]) for anchor, whole in zip(anchors, wholes, strict=True)]

    def _anchor(self, before: str) -> str:
        """Return the least that has to stand before a text, so that it is tokenised as if ``before`` did."""
        return next((token for token in self.special_tokens if before.endswith(token)), "\n" if before else "")

    def _is_start_marked(self) -> bool:
        """Return whether a text has other tokens at a start than behind a line end, as with SentencePiece."""
        end, behind, alone = self._tokenize(["\n", "\nHo", "Ho"])
        return behind[: len(end)] == end and behind[len(end) :] != alone

    def _answer(self, served: str, messages: Sequence[Message], tools: list[Message] | None) -> str:
        """Return an answer's text as the template adds it to the served prompt, up to and including EOS.

        That is the first EOS behind all that the answer says: templates may write more of them at a text's end.
        """
        added = _rest(self._render(messages, tools, answer_follows=False), served)
        calls = _calls(messages[-1:])
        if self.eos_token not in added and calls:
            raise TemplateRefusal(f"the chat template does not end a tool call with the EOS token {self.eos_token!r}")
        if self.eos_token not in added:
            raise ModelError(
                f"The chat template does not end an answer with the EOS token {self.eos_token!r}, so that the model "
                "would never learn to stop. Name the template's end token with model.special_tokens.eos, or use "
                "model.chat_template alpaca."
            )
        first, last = added.find(self.eos_token), added.rfind(self.eos_token)
        answer = added[: first + len(self.eos_token)]
        begun = served[-_GENERATION_PROMPT:]
        if first != last and (_unsaid(messages[-1:], begun + answer) or _unnamed(calls, answer)):
            answer = added[: last + len(self.eos_token)]
        _require(messages[-1:], calls, begun + answer)
        return answer


def _rest(whole: str, start: str, advice: str = "") -> str:
    if not whole.startswith(start):
        raise ModelError(
            "The chat template changes earlier turns when a later one is added, so that no loss mask fits. Use "
            f"model.chat_template chatml or alpaca, or a template file that renders every turn once{advice}."
        )
    return whole[len(start) :]


def _rest_of_tokens(whole: list[int], start: list[int]) -> list[int]:
    if whole[: len(start)] != start:
        raise ModelError(_OTHER_TOKENS)
    return whole[len(start) :]


def _all_texts(example: Example) -> list[str]:
    """Return all text of an example that a template may write."""
    names = [message["name"] for message in example.prompt if "name" in message]
    tools = [json.dumps(example.tools, ensure_ascii=False)] if example.tools else []
    return [*texts_of(example), *names, *tools]


def _calls(messages: Sequence[Message]) -> list[Message]:
    return [call for message in messages for call in message.get("tool_calls", ())]


def _require(messages: Sequence[Message], functions: Sequence[Message], text: str) -> None:
    """Refuse a text that leaves out what a message says, or a tool or a call of one."""
    if role := _unsaid(messages, text):
        raise TemplateRefusal(f"the chat template leaves out or changes what the {role} says")
    if name := _unnamed(functions, text):
        raise TemplateRefusal(f"the chat template leaves out the tool {name}")


def _unsaid(messages: Sequence[Message], text: str) -> str | None:
    """Return who says something that a text leaves out; white space may differ, or be escaped as in JSON."""
    for message in messages:
        said = message["content"]
        if said in text or json.dumps(said, ensure_ascii=False)[1:-1] in text:
            continue
        if "".join(said.split()) not in "".join(text.split()):
            return str(message["role"])
    return None


def _unnamed(functions: Sequence[Message], text: str) -> str | None:
    """Return the name of a tool that a text leaves out."""
    names = (str(function["function"]["name"]) for function in functions)
    return next((name for name in names if name not in text), None)


def _groups(texts: list[str]) -> Iterator[list[str]]:
    """Yield successive texts that together have not many more than GROUP_CHARACTERS."""
    start = characters = 0
    for end, text in enumerate(texts, start=1):
        characters += len(text)
        if characters >= GROUP_CHARACTERS or end == len(texts):
            yield texts[start:end]
            start, characters = end, 0
