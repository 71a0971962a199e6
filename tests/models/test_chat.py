import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from llm_engineering.config.model import ModelConfig, SpecialTokens
from llm_engineering.errors import ConfigError, ModelError
from llm_engineering.models.chat import TEMPLATES, ChatTokenizer, instruct_warning, load_chat_tokenizer
from llm_engineering.models.checkpoints import locate_base
from llm_engineering.reports.folders import Checkpoint

Folders = Callable[[str], Path]
Checkpoints = Callable[[str], Checkpoint]
Chats = Callable[[str], ChatTokenizer]

PAD_NOTE = "The tokenizer has no padding token; EOS pads, and the loss mask keeps every real EOS."


@pytest.fixture
def bare_llama(model_folders: Folders, tmp_path: Path) -> Callable[..., Checkpoint]:
    """Return a function that gives a llama folder with another chat template, or other and more special tokens."""

    def make(template: str | None, added: Sequence[str] = (), **tokens: str | None) -> Checkpoint:
        from transformers import AutoTokenizer

        folder = Path(shutil.copytree(model_folders("llama"), tmp_path / "model"))
        (folder / "chat_template.jinja").unlink()
        tokenizer = AutoTokenizer.from_pretrained(folder)
        tokenizer.chat_template = template
        tokenizer.add_tokens(list(added), special_tokens=True)
        for name, token in tokens.items():
            setattr(tokenizer, name, token)
        tokenizer.save_pretrained(folder)
        return locate_base(ModelConfig(base=str(folder)))

    return make


@pytest.mark.parametrize(
    ("family", "template", "eos", "pad", "notes"),
    [
        ("llama", "the model's own", "<|im_end|>", "<|endoftext|>", ()),
        ("qwen2", "the model's own", "<|im_end|>", "<|endoftext|>", ()),
        (
            "gpt2",
            "Alpaca (the model has no template and no ChatML tokens)",
            "<|endoftext|>",
            "<|endoftext|>",
            (PAD_NOTE,),
        ),
        (
            "gpt_neox",
            "ChatML (the model has no template; its vocabulary has ChatML's tokens)",
            "<|im_end|>",
            "<|im_end|>",
            ("The template ends answers with <|im_end|>, which replaces '<|endoftext|>' as EOS token.", PAD_NOTE),
        ),
    ],
)
def test_auto_takes_the_models_own_template_then_chatml_then_alpaca(
    family: str, template: str, eos: str, pad: str, notes: tuple[str, ...], model_checkpoints: Checkpoints
) -> None:
    chat = load_chat_tokenizer(model_checkpoints(family), ModelConfig())
    assert (chat.template, chat.notes) == (template, notes)
    assert (chat.tokenizer.eos_token, chat.tokenizer.pad_token) == (eos, pad)
    assert chat.tokenizer.padding_side == "left"


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox"])
@pytest.mark.parametrize("template", ["auto", "alpaca"])
def test_no_token_is_added(family: str, template: str, model_checkpoints: Checkpoints) -> None:
    # 256 bytes, 60 merges, and <|endoftext|> or all three special tokens
    chat = load_chat_tokenizer(model_checkpoints(family), ModelConfig(chat_template=template))
    assert len(chat.tokenizer) == 256 + 60 + {"gpt2": 1, "gpt_neox": 3}[family]


def test_bundled_templates_render_as_documented(model_checkpoints: Checkpoints) -> None:
    messages = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Ho"},
        {"role": "user", "content": "Bye"},
    ]
    system = {"role": "system", "content": "Be short."}
    alpaca = load_chat_tokenizer(model_checkpoints("gpt2"), ModelConfig(chat_template="alpaca")).tokenizer
    assert alpaca.apply_chat_template([system, *messages], tokenize=False, add_generation_prompt=True) == (
        "Be short.\n\n### Instruction:\nHi\n\n### Response:\nHo<|endoftext|>\n\n"
        "### Instruction:\nBye\n\n### Response:\n"
    )
    assert alpaca.apply_chat_template(messages[:1], tokenize=False, add_generation_prompt=True) == (
        "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
        "### Instruction:\nHi\n\n### Response:\n"
    )
    chatml = load_chat_tokenizer(model_checkpoints("gpt_neox"), ModelConfig(chat_template="chatml")).tokenizer
    assert chatml.apply_chat_template([system, *messages], tokenize=False, add_generation_prompt=True) == (
        "<|im_start|>system\nBe short.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHo<|im_end|>\n"
        "<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\n"
    )


CALLS = [
    {"id": "1", "type": "function", "function": {"name": "sum", "arguments": {"b": [1, "é <&>"], "a": None}}},
    {"type": "function", "function": {"name": "now", "arguments": {}}},
]
TOOL = {"type": "function", "function": {"name": "sum", "description": "Größe > 'x'", "parameters": {"z": 1, "a": 2}}}
WITH_TOOLS = [
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "", "tool_calls": CALLS},
    {"role": "tool", "content": "1", "tool_call_id": "1"},
    {"role": "tool", "content": "noon"},
    {"role": "assistant", "content": "Ho", "tool_calls": CALLS[1:]},
]


@pytest.mark.parametrize("system", ["", "Be short."])
def test_chatml_writes_tools_and_calls_as_json_in_their_own_order(system: str, model_checkpoints: Checkpoints) -> None:
    tokenizer = load_chat_tokenizer(model_checkpoints("gpt_neox"), ModelConfig(chat_template="chatml")).tokenizer
    messages = [{"role": "system", "content": system}, *WITH_TOOLS] if system else WITH_TOOLS
    now = '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call><|im_end|>\n'
    assert tokenizer.apply_chat_template(messages, tools=[TOOL, TOOL], tokenize=False, add_generation_prompt=True) == (
        "<|im_start|>system\n"
        + ("Be short.\n\n" if system else "")
        + "You may call these tools:\n<tools>\n"
        + 2
        * (
            '{"type": "function", "function": {"name": "sum", "description": "Größe > \'x\'", '
            '"parameters": {"z": 1, "a": 2}}}\n'
        )
        + "</tools>\nA call is a JSON object with name and arguments:\n"
        '<tool_call>\n{"name": ..., "arguments": ...}\n</tool_call><|im_end|>\n'
        "<|im_start|>user\nHi<|im_end|>\n"
        '<|im_start|>assistant\n<tool_call>\n{"name": "sum", "arguments": {"b": [1, "é <&>"], "a": null}}\n</tool_call>'
        f"\n{now}<|im_start|>tool\n1<|im_end|>\n<|im_start|>tool\nnoon<|im_end|>\n"
        f"<|im_start|>assistant\nHo\n{now}<|im_start|>assistant\n"
    )


def test_chatml_without_tools_is_chatml_as_it_always_was(model_checkpoints: Checkpoints) -> None:
    tokenizer = load_chat_tokenizer(model_checkpoints("gpt_neox"), ModelConfig(chat_template="chatml")).tokenizer
    roles = ("system", "user", "assistant", "tool", "user")
    messages = [{"role": role, "content": f" {role} <b>\n\n'é'"} for role in roles]
    for tools in (None, []):
        text = tokenizer.apply_chat_template(messages, tools=tools, tokenize=False)
        assert text == "".join(f"<|im_start|>{role}\n {role} <b>\n\n'é'<|im_end|>\n" for role in roles)
    calls: list[dict[str, object]] = [{"role": "assistant", "content": "Ho", "tool_calls": none} for none in ([], None)]
    assert tokenizer.apply_chat_template(calls, tokenize=False) == 2 * "<|im_start|>assistant\nHo<|im_end|>\n"


@pytest.mark.parametrize("bos", ["<|begin_of_text|>", None])
def test_llama3_begins_with_one_bos_and_ends_turns_with_its_own_eos(
    bos: str | None, bare_llama: Callable[..., Checkpoint]
) -> None:
    reserved = ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    base = bare_llama(None, [*reserved, *([bos] if bos else [])], bos_token=bos, eos_token="<|endoftext|>")
    chat = load_chat_tokenizer(base, ModelConfig(chat_template="llama3"))
    assert chat.template == "llama3, as configured"
    assert chat.notes == ("The template ends answers with <|eot_id|>, which replaces '<|endoftext|>' as EOS token.",)
    assert chat.tokenizer.eos_token == "<|eot_id|>"
    messages = [{"role": role, "content": role.upper()} for role in ("system", "user", "assistant", "user")]
    ids = chat.tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
    assert chat.tokenizer.decode(ids) == (bos or "") + (
        "<|start_header_id|>system<|end_header_id|>\n\nSYSTEM<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nUSER<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nASSISTANT<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nUSER<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    )
    assert ids.count(chat.tokenizer.eos_token_id) == 4
    assert ids.count(chat.tokenizer.bos_token_id) == (1 if bos else 0)


def test_a_single_missing_token_is_named(bare_llama: Callable[..., Checkpoint]) -> None:
    base = bare_llama(None, ["<|start_header_id|>", "<|end_header_id|>"])
    with pytest.raises(ConfigError, match=r"is llama3, but <\|eot_id\|> is not in the vocabulary\. Use alpaca"):
        load_chat_tokenizer(base, ModelConfig(chat_template="llama3"))


def test_template_file_that_is_no_text_is_refused(model_checkpoints: Checkpoints, tmp_path: Path) -> None:
    (tmp_path / "own.jinja").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match=r"own\.jinja' is no UTF-8 text\. Save the template as UTF-8"):
        load_chat_tokenizer(model_checkpoints("llama"), ModelConfig(chat_template=str(tmp_path / "own.jinja")))


def test_configured_template_replaces_the_models_own(model_checkpoints: Checkpoints, tmp_path: Path) -> None:
    chat = load_chat_tokenizer(model_checkpoints("llama"), ModelConfig(chat_template="alpaca"))
    assert chat.template == "alpaca, as configured"
    assert chat.tokenizer.chat_template == (TEMPLATES / "alpaca.jinja").read_text()
    assert chat.tokenizer.eos_token == "<|im_end|>"  # the model's own, which Alpaca writes

    (tmp_path / "own.jinja").write_text("{{ messages[0]['content'] }}é")
    chat = load_chat_tokenizer(model_checkpoints("llama"), ModelConfig(chat_template=str(tmp_path / "own.jinja")))
    assert chat.template == "the file own.jinja"
    assert chat.tokenizer.chat_template == "{{ messages[0]['content'] }}é"

    chat = load_chat_tokenizer(model_checkpoints("qwen2"), ModelConfig(chat_template="model"))
    assert chat.template == "the model's own, as configured"


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("model", "is `model`, but the model has none. Use auto, chatml or alpaca"),
        ("chatml", r"is chatml, but <\|im_start\|> and <\|im_end\|> are not in the vocabulary. Use alpaca"),
        ("llama3", r"is llama3, but <\|start_header_id\|> and <\|end_header_id\|> and <\|eot_id\|> are not in the"),
        ("chatlm", "'chatlm' is neither auto, model, chatml, llama3, alpaca nor a file. Check the path"),
    ],
)
def test_template_that_cannot_be_had_is_refused(template: str, said: str, model_checkpoints: Checkpoints) -> None:
    with pytest.raises(ConfigError, match=rf"model\.chat_template {said}"):
        load_chat_tokenizer(model_checkpoints("gpt2"), ModelConfig(chat_template=template))


def test_default_among_several_named_templates_is_the_models_own(bare_llama: Callable[..., Checkpoint]) -> None:
    base = bare_llama({"default": "{{ 'mine' }}", "tool_use": "{{ 'other' }}"})
    chat = load_chat_tokenizer(base, ModelConfig())
    assert (chat.template, chat.tokenizer.chat_template) == ("the model's own", "{{ 'mine' }}")


def test_special_tokens_are_set_and_said(model_checkpoints: Checkpoints) -> None:
    asked = SpecialTokens(eos="<|endoftext|>", pad="<|im_start|>")
    chat = load_chat_tokenizer(model_checkpoints("gpt_neox"), ModelConfig(chat_template="alpaca", special_tokens=asked))
    assert (chat.tokenizer.eos_token_id, chat.tokenizer.pad_token_id) == (0, 1)
    assert chat.notes == (
        "The EOS token is '<|endoftext|>', as configured.",
        "The PAD token is '<|im_start|>', as configured.",
    )


def test_bos_is_the_tokenizers_own_a_configured_one_or_none(model_checkpoints: Checkpoints, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    base = model_checkpoints("gpt2")

    def loaded(**asked: str | None) -> ChatTokenizer:
        return load_chat_tokenizer(base, ModelConfig(special_tokens=SpecialTokens(**asked)))

    assert loaded().tokenizer.bos_token == "<|endoftext|>"
    other = next(token for token in loaded().tokenizer.get_vocab() if token != "<|endoftext|>")
    chosen, none = loaded(bos=other), loaded(bos=None)
    assert chosen.tokenizer.bos_token == other
    assert f"The BOS token is {other!r}, as configured." in chosen.notes
    assert (none.tokenizer.bos_token, none.tokenizer.bos_token_id) == (None, None)
    assert "There is no BOS token, as configured." in none.notes
    none.tokenizer.save_pretrained(tmp_path)
    assert AutoTokenizer.from_pretrained(tmp_path).bos_token is None


@pytest.mark.parametrize("role", ["eos", "pad", "bos"])
def test_special_token_outside_the_vocabulary_is_refused(role: str, model_checkpoints: Checkpoints) -> None:
    config = ModelConfig(special_tokens=SpecialTokens(**{role: "<|stop|>"}))
    with pytest.raises(ConfigError, match=rf"special_tokens\.{role} '<\|stop\|>' is not in the tokenizer's vocabulary"):
        load_chat_tokenizer(model_checkpoints("llama"), config)


def test_configured_eos_stands_against_chatmls(model_checkpoints: Checkpoints) -> None:
    config = ModelConfig(special_tokens=SpecialTokens(eos="<|endoftext|>"))
    assert load_chat_tokenizer(model_checkpoints("llama"), config).tokenizer.eos_token == "<|endoftext|>"


def test_tokenizer_without_eos_is_refused(bare_llama: Callable[..., Checkpoint]) -> None:
    base = bare_llama(None, eos_token=None)
    with pytest.raises(ModelError, match=r"has no EOS token\. Name one with model\.special_tokens\.eos"):
        load_chat_tokenizer(base, ModelConfig(chat_template="alpaca"))


def test_template_of_a_foreign_vocabulary_does_not_give_an_end_token_that_is_no_token(
    model_checkpoints: Checkpoints,
) -> None:
    config = ModelConfig(chat_template=str(TEMPLATES / "chatml.jinja"))
    tokenizer = load_chat_tokenizer(model_checkpoints("gpt2"), config).tokenizer
    assert (tokenizer.eos_token, tokenizer.eos_token_id) == ("<|endoftext|>", 0)


@pytest.mark.parametrize("text", ["", '{"version": "1.0", "added_to', "{}"])
def test_damaged_tokenizer_is_one_sentence(text: str, model_folders: Folders, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(model_folders("llama"), tmp_path / "model"))
    (folder / "tokenizer.json").write_text(text)
    base = locate_base(ModelConfig(base=str(folder)))
    with pytest.raises(ModelError, match=rf"The tokenizer in {folder} cannot be loaded"):
        load_chat_tokenizer(base, ModelConfig())


@pytest.mark.parametrize(
    ("base", "own_template", "marks"),
    [
        ("org/Llama-3.2-1B-Instruct", False, "its name ends in -Instruct"),
        ("org/gemma-2b-it", True, "its name ends in -it and its tokenizer has a chat template"),
        ("/models/mine", True, "its tokenizer has a chat template"),
    ],
)
def test_an_instruct_tuned_base_earns_a_warning(base: str, own_template: bool, marks: str, chats: Chats) -> None:
    warning = instruct_warning(base, replace(chats("qwen2"), own_template=own_template))
    assert warning is not None
    assert f"{Path(base).name} looks instruct-tuned already ({marks})" in warning


def test_a_base_model_earns_no_warning(chats: Chats) -> None:
    assert instruct_warning("org/Llama-3.2-1B", chats("gpt2")) is None


def test_a_template_of_the_tokenizers_own_is_noticed(chats: Chats) -> None:
    assert chats("qwen2").own_template
    assert not chats("gpt2").own_template
