"""Which models are measured together, and with whose tokens."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from llm_engineering.config.model import ModelConfig
from llm_engineering.data.rendering import ChatRenderer, TemplateRefusal
from llm_engineering.errors import ConfigError, ModelError
from llm_engineering.models.chat import load_chat_tokenizer, require_template_tokens
from llm_engineering.reports.folders import Checkpoint
from llm_engineering.scoring.answers import Question

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_PROBE = "What is 12 × 34? \u201eÄpfel\u201c, naïve\tcafé - 東京!"
"""Cut into other tokens by most tokenizers that differ in more than their vocabulary."""


def own_tokenizers(
    checkpoints: Mapping[str, Checkpoint], model: ModelConfig, rows: "PreTrainedTokenizerBase"
) -> "dict[str, PreTrainedTokenizerBase]":
    """Return the tokenizers of models, by name, that cut, wrap or end text in another way than the rows' does.

    Args:
        checkpoints: Models by name.
        model: Which chat template and special tokens are asked for; ``auto`` is each model's own template.
        rows: The tokenizer that the rows were tokenised with.

    Raises:
        ModelError: A model's template needs tokens that it lacks, or its tokenizer cannot be loaded.
        ConfigError: The configured template or special tokens do not fit a model.
    """
    found = {}
    for name, checkpoint in checkpoints.items():
        try:
            chat = load_chat_tokenizer(checkpoint, model)
            require_template_tokens(chat.tokenizer)
        except (ConfigError, ModelError) as error:
            raise type(error)(f"The model {name!r} cannot be asked: {error}") from error
        if not speak_alike(chat.tokenizer, rows):
            found[name] = chat.tokenizer
    return found


def speak_alike(left: "PreTrainedTokenizerBase", right: "PreTrainedTokenizerBase") -> bool:
    """Return whether the same token ids mean the same text, and the same messages make the same prompt."""
    return _ways(left) == _ways(right)


def _ways(tokenizer: "PreTrainedTokenizerBase") -> tuple[object, ...]:
    """Return what decides which tokens a model is given."""
    probe = tokenizer(_PROBE, add_special_tokens=False)["input_ids"]
    return tokenizer.get_vocab(), str(tokenizer.chat_template), tokenizer.eos_token_id, probe


def asked_anew(
    questions: Sequence[Question], rows: "PreTrainedTokenizerBase", own: "PreTrainedTokenizerBase", name: str
) -> list[Question]:
    """Return questions as a model's own tokenizer and template render them.

    Args:
        questions: Rendered for the rows' tokenizer.
        rows: That tokenizer.
        own: The model's.
        name: The model's, for messages.

    Raises:
        ModelError: A question was cut or has tools, of which only the tokens are left; or the template refuses one.
    """
    there, here = ChatRenderer(rows), ChatRenderer(own)
    rendered = []
    for question in questions:
        messages = json.loads(question.prompt)
        try:
            if there.prompt_ids(messages) != question.prompt_ids:
                raise ModelError(
                    f"The model {name!r} has its own tokens or template, and the question {question.shown[:80]!r} "
                    "cannot be rendered for it: it was cut, or it has tools. Raise data.max_length, leave such rows "
                    "out, or set model.base to that model."
                )
            rendered.append(replace(question, prompt_ids=here.prompt_ids(messages)))
        except TemplateRefusal as error:
            raise ModelError(f"The model {name!r} cannot be asked: {error}") from error
    return rendered
