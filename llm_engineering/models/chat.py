"""Tokenizers ready for chat: which template renders, which token ends an answer, which one pads."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from llm_engineering.config.model import ModelConfig, TemplateText
from llm_engineering.errors import ConfigError, ModelError
from llm_engineering.models.auto_classes import read_tokenizer
from llm_engineering.reports.folders import Checkpoint

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TEMPLATES = Path(__file__).parent / "templates"
TEMPLATE_TOKENS: dict[str, tuple[str, ...]] = {
    "chatml": ("<|im_start|>", "<|im_end|>"),
    "llama3": ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    "alpaca": (),
}
"""The bundled templates, and the tokens that each needs; the last one ends a turn."""
INSTRUCT_MARKS = ("-Instruct", "-it", "-chat", "-chat-hf")
"""How the names of instruct-tuned models end."""


@dataclass(frozen=True)
class ChatTokenizer:
    """A tokenizer whose chat template, EOS and padding are settled."""

    tokenizer: "PreTrainedTokenizerBase"
    template: str
    """Which template it is, and why."""
    notes: tuple[str, ...]
    own_template: bool = False
    """The tokenizer came with a template of its own, whether it is used or not."""


def load_chat_tokenizer(base: Checkpoint, config: ModelConfig) -> ChatTokenizer:
    """Return the tokenizer of a model folder with the configured template, EOS and padding.

    Raises:
        ConfigError: A configured token is not in the vocabulary, or the template cannot be had.
        ModelError: The tokenizer cannot be loaded or has no EOS.
    """
    tokenizer = read_tokenizer(base.path)
    notes: list[str] = []
    own_template = bool(tokenizer.chat_template)
    template_text, template = _choose_template(tokenizer, config.chat_template)
    vocabulary = tokenizer.get_vocab()
    asked = config.special_tokens
    if asked.bos is None:
        tokenizer.bos_token = None
        notes.append("There is no BOS token, as configured.")
    for role, token in (("eos", asked.eos), ("pad", asked.pad), ("bos", None if asked.bos == "auto" else asked.bos)):
        if token is not None and token not in vocabulary:
            raise ConfigError(
                f"model.special_tokens.{role} {token!r} is not in the tokenizer's vocabulary. Name a token that is; "
                "none is added silently."
            )
        if token is not None:
            setattr(tokenizer, f"{role}_token", token)
            notes.append(f"The {role.upper()} token is {token!r}, as configured.")
    if tokenizer.eos_token_id is None:
        raise ModelError(f"The tokenizer of {base.base} has no EOS token. Name one with model.special_tokens.eos.")
    ends = [tokens[-1] for tokens in TEMPLATE_TOKENS.values() if tokens]
    end = next((token for token in ends if token in template_text and token in vocabulary), None)
    if end and config.special_tokens.eos is None and tokenizer.eos_token != end:
        notes.append(f"The template ends answers with {end}, which replaces {tokenizer.eos_token!r} as EOS token.")
        tokenizer.eos_token = end
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
        notes.append("The tokenizer has no padding token; EOS pads, and the loss mask keeps every real EOS.")
    tokenizer.chat_template = template_text
    tokenizer.padding_side = "left"
    return ChatTokenizer(tokenizer, template, tuple(notes), own_template)


def require_template_tokens(tokenizer: "PreTrainedTokenizerBase") -> None:
    """Refuse a tokenizer whose chat template writes a known template's tokens that are not in the vocabulary.

    Raises:
        ModelError: Names them; they would be cut into pieces that the model has never seen as marks of a turn.
    """
    vocabulary = tokenizer.get_vocab()
    known = [token for tokens in TEMPLATE_TOKENS.values() for token in tokens]
    missing = [token for token in known if token in str(tokenizer.chat_template) and token not in vocabulary]
    if missing:
        raise ModelError(
            f"its chat template writes {' and '.join(missing)}, which its vocabulary lacks. Save the tokenizer that "
            "belongs to the model into its folder, or set model.chat_template to alpaca."
        )


def _choose_template(tokenizer: "PreTrainedTokenizerBase", asked: str | TemplateText) -> tuple[str, str]:
    """Return the template's text and a phrase that says which one it is and why."""
    if isinstance(asked, TemplateText):
        return asked.text, _of_file(asked.name)
    own = tokenizer.chat_template
    if isinstance(own, dict):  # several named templates
        own = own.get("default")
    vocabulary = tokenizer.get_vocab()
    missing = {name: [t for t in tokens if t not in vocabulary] for name, tokens in TEMPLATE_TOKENS.items()}
    if asked == "auto":
        if own:
            return own, "the model's own"
        if not missing["chatml"]:
            return _bundled("chatml"), "ChatML (the model has no template; its vocabulary has ChatML's tokens)"
        return _bundled("alpaca"), "Alpaca (the model has no template and no ChatML tokens)"
    if asked == "model":
        if not own:
            raise ConfigError("model.chat_template is `model`, but the model has none. Use auto, chatml or alpaca.")
        return own, "the model's own, as configured"
    if missing.get(asked):
        are = "is" if len(missing[asked]) == 1 else "are"
        raise ConfigError(
            f"model.chat_template is {asked}, but {' and '.join(missing[asked])} {are} not in the vocabulary. Use "
            "alpaca."
        )
    if asked in TEMPLATE_TOKENS:
        return _bundled(asked), f"{asked}, as configured"
    return read_template(asked), _of_file(Path(asked).name)


def _of_file(name: str) -> str:
    return f"the file {name}"


def read_template(asked: str) -> str:
    """Return the text of a template file.

    Raises:
        ConfigError: There is none, or it is no text.
    """
    if not Path(asked).is_file():
        raise ConfigError(
            f"model.chat_template {asked!r} is neither auto, model, {', '.join(TEMPLATE_TOKENS)} nor a file. Check "
            "the path."
        )
    try:
        return Path(asked).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"model.chat_template {asked!r} is no UTF-8 text. Save the template as UTF-8.") from error


def _bundled(name: str) -> str:
    return (TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8")


def instruct_warning(base: str, chat: ChatTokenizer) -> str | None:
    """Return a warning for a base that looks instruct-tuned already, None for one that does not."""
    name = Path(base).name
    marks = [f"its name ends in {mark}" for mark in INSTRUCT_MARKS if name.lower().endswith(mark.lower())]
    marks += ["its tokenizer has a chat template"] if chat.own_template else []
    if not marks:
        return None
    return (
        f"{name} looks instruct-tuned already ({' and '.join(marks)}): SFT will change what it can do. Start from the "
        "base model where you want your own data alone to speak, and keep evaluation.prompts of what must not suffer."
    )
