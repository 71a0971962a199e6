from collections.abc import Callable
from typing import Any

import pytest

from llm_engineering.data.formats import Pair
from llm_engineering.data.rendering import IGNORED, ChatRenderer
from llm_engineering.data.tokens import pair_tokens
from llm_engineering.errors import ModelError
from llm_engineering.models.chat import TEMPLATES, ChatTokenizer

Chats = Callable[[str], ChatTokenizer]

# llama's tokenizer: <|endoftext|> 0, <|im_start|> 1, <|im_end|> 2, and every byte is a token
START, END = 1, 2
HI, HO = [{"role": "user", "content": "Hi"}], [{"role": "assistant", "content": "Ho"}]
BYE, BEY = [{"role": "user", "content": "Bye"}], [{"role": "assistant", "content": "Bey"}]
SYSTEM = [{"role": "system", "content": "Be."}]


@pytest.fixture
def renderer(chats: Chats) -> ChatRenderer:
    return ChatRenderer(chats("llama").tokenizer)


@pytest.fixture
def with_template(chats: Chats) -> Callable[[str, str], ChatRenderer]:
    """Return a function that gives a renderer of a family with another template."""
    import copy

    def make(family: str, template: str) -> ChatRenderer:
        tokenizer = copy.deepcopy(chats(family).tokenizer)
        tokenizer.chat_template = template
        return ChatRenderer(tokenizer)

    return make


def pieces(renderer: ChatRenderer, ids: list[int]) -> list[str]:
    return [renderer.tokenizer.decode([token]) for token in ids]


def test_only_the_answer_and_its_eos_carry_loss_token_by_token(renderer: ChatRenderer) -> None:
    row = renderer.conversation(HI + HO)
    prompt = ["<|im_start|>", *"user\nHi", "<|im_end|>", "\n", "<|im_start|>", *"assistant\n"]
    assert pieces(renderer, row.input_ids) == [*prompt, "H", "o", "<|im_end|>"]
    h, o = renderer.tokenizer.convert_tokens_to_ids(["H", "o"])
    assert row.labels == [IGNORED] * len(prompt) + [h, o, END]
    assert row.last_answer == len(prompt) == 21  # 1 + 7 + 1 + 1 + 1 + 10


def test_every_answer_of_a_conversation_carries_loss_and_nothing_between_does(renderer: ChatRenderer) -> None:
    row = renderer.conversation(SYSTEM + HI + HO + BYE + BEY)
    labelled = [
        (piece, label != IGNORED) for piece, label in zip(pieces(renderer, row.input_ids), row.labels, strict=True)
    ]
    assert labelled == [
        ("<|im_start|>", False),
        *((byte, False) for byte in "system\nBe."),
        ("<|im_end|>", False),
        ("\n", False),
        ("<|im_start|>", False),
        *((byte, False) for byte in "user\nHi"),
        ("<|im_end|>", False),
        ("\n", False),
        ("<|im_start|>", False),
        *((byte, False) for byte in "assistant\n"),
        ("H", True),
        ("o", True),
        ("<|im_end|>", True),
        ("\n", False),
        ("<|im_start|>", False),
        *((byte, False) for byte in "user\nBye"),
        ("<|im_end|>", False),
        ("\n", False),
        ("<|im_start|>", False),
        *((byte, False) for byte in "assistant\n"),
        ("B", True),
        ("e", True),
        ("y", True),
        ("<|im_end|>", True),
    ]
    assert all(label in (IGNORED, token) for token, label in zip(row.input_ids, row.labels, strict=True))
    assert row.last_answer == len(row.input_ids) - 4


def test_prompt_as_trained_is_the_prompt_as_served(family: str, chats: Chats) -> None:
    tokenizer = chats(family).tokenizer
    renderer = ChatRenderer(tokenizer)
    for prompt in (HI, SYSTEM + HI, SYSTEM + HI + HO + BYE, HI + HO + BYE + BEY + HI):
        served = tokenizer.apply_chat_template(prompt, tokenize=True, add_generation_prompt=True)["input_ids"]
        row = renderer.conversation(prompt + BEY)
        assert row.input_ids[: row.last_answer] == served == renderer.prompt_ids(prompt)
        assert row.input_ids[row.last_answer :] == renderer.answer_ids(prompt, "Bey")


def test_answers_end_with_exactly_one_eos(family: str, chats: Chats) -> None:
    renderer = ChatRenderer(chats(family).tokenizer)
    row = renderer.conversation(HI + HO + BYE + BEY)
    assert [label for label in row.labels if label == renderer.eos_token_id] == [renderer.eos_token_id] * 2
    assert row.labels[-1] == renderer.eos_token_id


def test_padding_token_that_is_eos_takes_no_loss_from_a_real_eos(chats: Chats) -> None:
    tokenizer = chats("gpt2").tokenizer
    assert tokenizer.pad_token_id == tokenizer.eos_token_id
    assert ChatRenderer(tokenizer).conversation(HI + HO).labels[-1] == tokenizer.eos_token_id


def test_alpaca_on_gpt2_ends_with_the_models_own_eos(chats: Chats) -> None:
    renderer = ChatRenderer(chats("gpt2").tokenizer)
    row = renderer.conversation(SYSTEM + HI + HO + BYE + BEY)
    decode = renderer.tokenizer.decode
    assert decode(row.input_ids) == (
        "Be.\n\n### Instruction:\nHi\n\n### Response:\nHo<|endoftext|>\n\n"
        "### Instruction:\nBye\n\n### Response:\nBey<|endoftext|>"
    )
    assert decode([label for label in row.labels if label != IGNORED]) == "Ho<|endoftext|>Bey<|endoftext|>"
    assert row.input_ids[-1] == 0 == renderer.tokenizer.convert_tokens_to_ids("<|endoftext|>")


def test_no_second_bos_is_added_to_the_one_that_a_template_writes(
    with_template: Callable[[str, str], ChatRenderer],
) -> None:
    # a tokenizer that puts its BOS before whatever it is given, under a template that writes BOS itself
    from tokenizers.processors import TemplateProcessing

    chatml = (TEMPLATES / "chatml.jinja").read_text()
    renderer = with_template("llama", "{{- bos_token -}}" + chatml)
    renderer.tokenizer.bos_token = "<|endoftext|>"
    renderer.tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)]
    )
    assert renderer.tokenizer("H")["input_ids"][0] == 0
    row = renderer.conversation(HI + HO + BYE + BEY)
    assert row.input_ids[0] == 0
    assert row.input_ids.count(0) == 1
    assert renderer.prompt_ids(HI).count(0) == 1
    assert 0 not in renderer.answer_ids(HI, "Ho")


def test_pair_shares_its_prompt_and_both_answers_end_with_eos(renderer: ChatRenderer) -> None:
    row = pair_tokens(Pair(HI, "Ho", "No!"), renderer)
    assert {name: "".join(pieces(renderer, ids)) for name, ids in row.items()} == {
        "prompt_ids": "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
        "chosen_ids": "Ho<|im_end|>",
        "rejected_ids": "No!<|im_end|>",
    }


def test_end_token_that_stands_in_an_answer_does_not_cut_it(renderer: ChatRenderer) -> None:
    ids = renderer.answer_ids(HI, "a<|im_end|>b")
    assert pieces(renderer, ids) == ["a", "<|im_end|>", "b", "<|im_end|>"]


MESSAGE = "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
GENERATION = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
BROKEN: list[Any] = [
    pytest.param(  # a count at the start that grows with the conversation
        "{{ messages | length }}{% for m in messages %}" + MESSAGE + "{% endfor %}" + GENERATION,
        "changes earlier turns when a later one is added",
        id="writes the number of turns first",
    ),
    pytest.param(  # as reasoning models do: earlier answers are shortened
        "{% for m in messages %}{% if m.role == 'assistant' and not loop.last %}<|im_start|>assistant\n<|im_end|>\n"
        "{% else %}" + MESSAGE + "{% endif %}{% endfor %}" + GENERATION,
        "changes earlier turns when a later one is added",
        id="leaves out earlier answers",
    ),
    pytest.param(
        "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}",
        r"does not end an answer with the EOS token '<\|im_end\|>'",
        id="writes no EOS",
    ),
    pytest.param(
        "{% for m in messages %}{% if m.role == 'user' %}" + MESSAGE + "{% else %}{{ m.content }}{% endif %}"
        "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
        "changes earlier turns when a later one is added",
        id="has a generation prompt that no answer follows",
    ),
    pytest.param(
        "{% for m in messages %}{% if m.role == 'user' %}" + MESSAGE + "{% else %}{{ raise_exception('Only me!') }}"
        "{% endif %}{% endfor %}" + GENERATION,
        r"refuses a conversation \(Only me!\)",
        id="raises",
    ),
    pytest.param("{% for m in messages %}", "refuses a conversation", id="has wrong syntax"),
]


@pytest.mark.parametrize(("template", "said"), BROKEN)
def test_template_that_no_mask_fits_is_refused(
    template: str, said: str, with_template: Callable[[str, str], ChatRenderer]
) -> None:
    with pytest.raises(ModelError, match=said):
        with_template("llama", template).conversation(HI + HO + BYE + BEY)


@pytest.mark.parametrize(("template", "said"), [BROKEN[2].values, BROKEN[3].values])
def test_template_that_no_answer_fits_is_refused_for_pairs_too(
    template: str, said: str, with_template: Callable[[str, str], ChatRenderer]
) -> None:
    with pytest.raises(ModelError, match=said):
        pair_tokens(Pair(HI, "Ho", "No"), with_template("llama", template))


def test_turns_whose_tokens_run_into_each_other_are_refused(with_template: Callable[[str, str], ChatRenderer]) -> None:
    # EOS is plain text here: "is" and " a" of the next turn have merges of their own, "###" + "#" too
    renderer = with_template(
        "qwen2", "{% for m in messages %}{{ m.content }}{% if m.role != 'user' %}#{% endif %}{% endfor %}"
    )
    renderer.eos_token = "#"
    hashes = [{"role": "user", "content": "##"}]
    with pytest.raises(ModelError, match="cuts a prompt into other tokens in training than when it is served"):
        renderer.conversation(HI + HO + hashes + BEY)
