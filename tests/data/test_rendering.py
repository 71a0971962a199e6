import copy
from collections.abc import Callable
from typing import Any
from unicodedata import normalize

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_engineering.data.formats import Conversation, Example, Message, Pair, RowProblem
from llm_engineering.data.rendering import ChatRenderer, Rendered, TrainOn
from llm_engineering.data.rowsets import IGNORED
from llm_engineering.errors import ModelError
from llm_engineering.models.chat import TEMPLATES, ChatTokenizer

Chats = Callable[[str], ChatTokenizer]
WithTemplate = Callable[..., ChatRenderer]

# llama's tokenizer: <|endoftext|> 0, <|im_start|> 1, <|im_end|> 2, and every byte is a token
START, END = 1, 2
HI, HO = [{"role": "user", "content": "Hi"}], [{"role": "assistant", "content": "Ho"}]
BYE, BEY = [{"role": "user", "content": "Bye"}], [{"role": "assistant", "content": "Bey"}]
SYSTEM = [{"role": "system", "content": "Be."}]
TOOLS = [{"type": "function", "function": {"name": "town", "description": "Où? <b>", "parameters": {}}}]
CALL: list[Message] = [
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"type": "function", "function": {"name": "town", "arguments": {"z": "<é>", "a": 1}}}],
    }
]
RESULT: list[Message] = [{"role": "tool", "content": "Paris", "name": "town"}]


@pytest.fixture
def renderer(chats: Chats) -> ChatRenderer:
    return ChatRenderer(chats("llama").tokenizer)


@pytest.fixture
def with_template(chats: Chats) -> WithTemplate:
    """Return a function that gives a renderer of a family with another template."""

    def make(family: str, template: str, train_on: TrainOn = "all_turns") -> ChatRenderer:
        tokenizer = copy.deepcopy(chats(family).tokenizer)
        tokenizer.chat_template = template
        return ChatRenderer(tokenizer, train_on)

    return make


def rendered(renderer: ChatRenderer, example: Example) -> Rendered:
    [row] = renderer.render([example])
    assert isinstance(row, Rendered), row
    return row


def problem(renderer: ChatRenderer, example: Example) -> tuple[str, str]:
    [row] = renderer.render([example])
    assert isinstance(row, RowProblem), row
    return row.reason, str(row)


def pieces(renderer: ChatRenderer, ids: list[int]) -> list[str]:
    return [renderer.tokenizer.decode([token]) for token in ids]


def coloured(renderer: ChatRenderer, example: Example) -> str:
    """Return a row's text with what carries loss in double brackets, the first answer of a pair at its end."""
    row = rendered(renderer, example)
    runs: list[tuple[bool, list[int]]] = []
    labels = row.prompt_labels + row.answers[0]
    for token, label in zip(row.prompt_ids + row.answers[0], labels, strict=True):
        assert label in (IGNORED, token)
        trained = label != IGNORED
        if not runs or runs[-1][0] != trained:
            runs.append((trained, []))
        runs[-1][1].append(token)
    decode = renderer.tokenizer.decode
    return "".join(f"[[{decode(ids)}]]" if trained else decode(ids) for trained, ids in runs)


def test_only_the_answer_and_its_eos_carry_loss_token_by_token(renderer: ChatRenderer) -> None:
    row = rendered(renderer, Conversation(HI + HO))
    prompt = ["<|im_start|>", *"user\nHi", "<|im_end|>", "\n", "<|im_start|>", *"assistant\n"]
    assert pieces(renderer, row.prompt_ids) == prompt
    h, o = renderer.tokenizer.convert_tokens_to_ids(["H", "o"])
    assert row.answers == [[h, o, END]]
    assert row.prompt_labels == [IGNORED] * 21  # 1 + 7 + 1 + 1 + 1 + 10


def test_every_answer_of_a_conversation_carries_loss_and_nothing_between_does(renderer: ChatRenderer) -> None:
    assert coloured(renderer, Conversation(SYSTEM + HI + HO + BYE + BEY)) == (
        "<|im_start|>system\nBe.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n[[Ho<|im_end|>]]\n"
        "<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\n[[Bey<|im_end|>]]"
    )


def test_only_the_last_answer_carries_loss_where_asked(chats: Chats) -> None:
    last = ChatRenderer(chats("llama").tokenizer, "last_turn")
    assert coloured(last, Conversation(HI + HO + BYE + BEY)) == (
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHo<|im_end|>\n"
        "<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\n[[Bey<|im_end|>]]"
    )


def test_earlier_answers_of_a_pair_carry_no_loss_and_both_answers_end_with_eos(renderer: ChatRenderer) -> None:
    pair = Pair(HI + HO + BYE, "Bey", "No!")
    assert coloured(renderer, pair) == (
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHo<|im_end|>\n"
        "<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\n[[Bey<|im_end|>]]"
    )
    row = rendered(renderer, pair)
    assert ["".join(pieces(renderer, ids)) for ids in row.answers] == ["Bey<|im_end|>", "No!<|im_end|>"]


def test_calls_and_answers_carry_loss_and_what_tools_give_does_not(renderer: ChatRenderer) -> None:
    assert coloured(renderer, Conversation(HI + CALL + RESULT + HO, TOOLS)) == (
        "<|im_start|>system\nYou may call these tools:\n<tools>\n"
        '{"type": "function", "function": {"name": "town", "description": "Où? <b>", "parameters": {}}}\n</tools>\n'
        "A call is a JSON object with name and arguments:\n"
        '<tool_call>\n{"name": ..., "arguments": ...}\n</tool_call><|im_end|>\n'
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
        '[[<tool_call>\n{"name": "town", "arguments": {"z": "<é>", "a": 1}}\n</tool_call><|im_end|>]]\n'
        "<|im_start|>tool\nParis<|im_end|>\n<|im_start|>assistant\n[[Ho<|im_end|>]]"
    )


def test_a_call_may_be_the_last_answer_and_stand_behind_words_and_other_calls(renderer: ChatRenderer) -> None:
    two = [{**CALL[0], "content": "Wait.", "tool_calls": CALL[0]["tool_calls"] * 2}]
    row = rendered(renderer, Conversation(HI + two, TOOLS))
    call = '\n<tool_call>\n{"name": "town", "arguments": {"z": "<é>", "a": 1}}\n</tool_call>'
    assert renderer.tokenizer.decode(row.answers[0]) == f"Wait.{call}{call}<|im_end|>"


def test_tools_stand_in_the_system_message_whoever_wrote_it(renderer: ChatRenderer) -> None:
    for role in ("system", "developer"):
        row = rendered(renderer, Conversation([{"role": role, "content": "Be."}, *HI, *HO], TOOLS))
        text = renderer.tokenizer.decode(row.prompt_ids)
        assert text.startswith("<|im_start|>system\nBe.\n\nYou may call these tools:\n<tools>\n{")
        assert text.count("Be.") == text.count("<|im_start|>system") == 1


def test_developer_is_the_system_to_a_template_that_does_not_know_the_role(with_template: WithTemplate) -> None:
    developer = [{"role": "developer", "content": "Be."}]
    for template, role in (
        (PLAIN, "system"),
        ("{# 'developer' #}" + PLAIN, "developer"),
        ("{# developer #}" + PLAIN, "system"),
    ):
        text = coloured(with_template("llama", template), Conversation(developer + HI + HO))
        assert text.startswith(f"<|im_start|>{role}\nBe.<|im_end|>\n<|im_start|>user\nHi")


def test_prompt_as_trained_is_the_prompt_as_served(family: str, chats: Chats) -> None:
    tokenizer = chats(family).tokenizer
    renderer = ChatRenderer(tokenizer)
    for prompt in (HI, SYSTEM + HI, SYSTEM + HI + HO + BYE, HI + HO + BYE + BEY + HI):
        served = tokenizer.apply_chat_template(prompt, tokenize=True, add_generation_prompt=True)["input_ids"]
        assert rendered(renderer, Conversation(prompt + BEY)).prompt_ids == served == renderer.prompt_ids(prompt)
        assert rendered(renderer, Pair(prompt, "a", "b")).prompt_ids == served


def test_a_batch_gives_what_its_examples_give_alone(family: str, chats: Chats) -> None:
    renderer = ChatRenderer(chats(family).tokenizer)
    bad = Conversation([{"role": "user", "content": "a<|endoftext|>b"}, *HO])
    examples = [Conversation(HI + HO + BYE + BEY), Pair(SYSTEM + HI, "x", "y"), bad, Conversation(BYE + BEY)]
    together = renderer.render(examples)
    assert [together[0], together[1], together[3]] == [rendered(renderer, examples[i]) for i in (0, 1, 3)]
    assert str(together[2]) == "it holds <|endoftext|>"
    assert renderer.render([]) == []


def test_answers_end_with_exactly_one_eos(family: str, chats: Chats) -> None:
    renderer = ChatRenderer(chats(family).tokenizer)
    row = rendered(renderer, Conversation(HI + HO + BYE + BEY))
    assert row.prompt_labels.count(renderer.eos_token_id) == 1
    assert row.answers[0].count(renderer.eos_token_id) == 1
    assert row.answers[0][-1] == renderer.eos_token_id


def test_padding_token_that_is_eos_takes_no_loss_from_a_real_eos(chats: Chats) -> None:
    tokenizer = chats("gpt2").tokenizer
    assert tokenizer.pad_token_id == tokenizer.eos_token_id
    assert rendered(ChatRenderer(tokenizer), Conversation(HI + HO)).answers[0][-1] == tokenizer.eos_token_id


def test_alpaca_on_gpt2_ends_with_the_models_own_eos(chats: Chats) -> None:
    renderer = ChatRenderer(chats("gpt2").tokenizer)
    example = Conversation(SYSTEM + HI + HO + BYE + BEY)
    assert coloured(renderer, example) == (
        "Be.\n\n### Instruction:\nHi\n\n### Response:\n[[Ho<|endoftext|>]]\n\n"
        "### Instruction:\nBye\n\n### Response:\n[[Bey<|endoftext|>]]"
    )
    end = rendered(renderer, example).answers[0][-1]
    assert end == 0 == renderer.tokenizer.convert_tokens_to_ids("<|endoftext|>")


def test_no_second_bos_is_added_to_the_one_that_a_template_writes(with_template: WithTemplate) -> None:
    # a tokenizer that puts its BOS before whatever it is given, under a template that writes BOS itself
    from tokenizers.processors import TemplateProcessing

    chatml = (TEMPLATES / "chatml.jinja").read_text()
    renderer = with_template("llama", "{{- bos_token -}}" + chatml)
    renderer.tokenizer.bos_token = "<|endoftext|>"
    renderer.tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)]
    )
    assert renderer.tokenizer("H")["input_ids"][0] == 0
    row = rendered(renderer, Conversation(HI + HO + BYE + BEY))
    assert row.prompt_ids[0] == 0
    assert row.prompt_ids.count(0) == 1
    assert renderer.prompt_ids(HI).count(0) == 1
    assert 0 not in row.answers[0]


MESSAGE = "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
GENERATION = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
PLAIN = "{% for m in messages %}" + MESSAGE + "{% endfor %}" + GENERATION
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
]


@pytest.mark.parametrize(("template", "said"), BROKEN)
def test_template_that_no_mask_fits_is_refused(template: str, said: str, with_template: WithTemplate) -> None:
    with pytest.raises(ModelError, match=said):
        with_template("llama", template).render([Conversation(HI + HO + BYE + BEY)])


@pytest.mark.parametrize(("template", "said"), [BROKEN[2].values, BROKEN[3].values])
def test_template_that_no_answer_fits_is_refused_for_pairs_too(
    template: str, said: str, with_template: WithTemplate
) -> None:
    with pytest.raises(ModelError, match=said):
        with_template("llama", template).render([Pair(HI, "Ho", "No")])


def test_template_with_wrong_syntax_stops_the_run_and_names_the_line(with_template: WithTemplate) -> None:
    for template, said in (
        ("{# #}\n{% for m in messages %}", "line 2: Unexpected end of template"),
        ("{{ 1 | no }}", "line 1: No filter named 'no'"),
    ):
        with pytest.raises(ModelError, match=f"The chat template has an error in {said}"):
            with_template("llama", template).render([Conversation(HI + HO)])


def test_template_that_shortens_earlier_answers_may_train_the_last_one(with_template: WithTemplate) -> None:
    template = BROKEN[1].values[0]
    advice = r"renders every turn once, or train on the last turn only \(data\.train_on last_turn\)"
    with pytest.raises(ModelError, match=advice):
        with_template("llama", template).render([Conversation(HI + HO + BYE + BEY)])
    assert coloured(with_template("llama", template, "last_turn"), Conversation(HI + HO + BYE + BEY)) == (
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n<|im_end|>\n"
        "<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\n[[Bey<|im_end|>]]"
    )


def test_one_conversation_that_a_template_refuses_is_one_row_s_problem(with_template: WithTemplate) -> None:
    template = "{% if messages[0].role == 'system' %}{{ raise_exception('Only users!') }}{% endif %}" + PLAIN
    bad, good = with_template("llama", template).render([Conversation(SYSTEM + HI + HO), Conversation(HI + HO)])
    assert isinstance(good, Rendered)
    assert isinstance(bad, RowProblem)
    assert bad.reason == "not renderable"
    assert str(bad).startswith("The chat template refuses a conversation (Only users!). Use model.chat_template chatml")


USERS_ONLY = "{% for m in messages if m.role in ('user', 'assistant') %}" + MESSAGE + "{% endfor %}" + GENERATION
LATER_TURNS = "{% for m in messages %}{% if not loop.first %}" + MESSAGE + "{% endif %}{% endfor %}" + GENERATION
UPPER = PLAIN.replace("m.content", "m.content | upper")
NO_THINKING = PLAIN.replace("m.content", "m.content.split('</think>')[-1]")
NO_ARGUMENTS = "{% if tools %}{% endif %}" + PLAIN.replace("m.content", "m.content ~ ('!' if m.tool_calls else '')")


@pytest.mark.parametrize(
    ("template", "messages", "said"),
    [
        (USERS_ONLY, SYSTEM + HI + HO, "leaves out or changes what the system says"),
        (LATER_TURNS, BYE + HO + HI + BEY, "leaves out or changes what the user says"),
        (UPPER, [{"role": "user", "content": "HI"}, *HO], "leaves out or changes what the assistant says"),
        (NO_THINKING, [*HI, {"role": "assistant", "content": "<think>a</think>b"}], "changes what the assistant says"),
        (NO_ARGUMENTS, HI + CALL, "leaves out the tool town"),
        (NO_ARGUMENTS, HI + CALL + RESULT + HO, "leaves out the tool town"),
        ("{# tool_calls #}" + USERS_ONLY, HI + CALL + RESULT + HO, "changes what the tool says"),
    ],
)
@pytest.mark.parametrize("train_on", ["all_turns", "last_turn"])
def test_what_a_template_leaves_out_is_said(
    template: str, messages: list[Message], said: str, train_on: TrainOn, with_template: WithTemplate
) -> None:
    reason, detail = problem(with_template("llama", template, train_on), Conversation(messages))
    assert reason == "not renderable"
    assert said in detail


def test_alpaca_says_that_it_knows_no_tools(chats: Chats) -> None:
    renderer = ChatRenderer(chats("gpt2").tokenizer)
    assert problem(renderer, Conversation(HI + HO, TOOLS)) == (
        "not renderable",
        "the chat template knows no tools, which would be left out silently",
    )
    assert "knows no tool_calls" in problem(renderer, Conversation(HI + CALL + RESULT + HO))[1]
    assert "knows no tools" in problem(renderer, Pair(HI, "a", "b", TOOLS))[1]
    assert coloured(renderer, Conversation([{"role": "developer", "content": "Be."}, *HI, *HO])) == (
        "Be.\n\n### Instruction:\nHi\n\n### Response:\n[[Ho<|endoftext|>]]"
    )


def test_template_that_leaves_out_a_tool_is_refused(with_template: WithTemplate) -> None:
    detail = problem(with_template("llama", "{# tools #}" + PLAIN), Conversation(HI + HO, TOOLS))[1]
    assert detail == "the chat template leaves out the tool town"


def test_template_may_trim_texts_escape_them_and_set_thinking_apart(with_template: WithTemplate) -> None:
    said = 'a "b"\n\tc'
    messages = [{"role": "user", "content": f" {said} "}, {"role": "assistant", "content": "<think>a</think>b"}]
    apart = "m.content.replace('<think>', '<think>\\n').replace('</think>', '\\n</think>\\n\\n') | trim"
    trimmed = coloured(with_template("llama", PLAIN.replace("m.content", apart)), Conversation(messages))
    assert trimmed == (
        f"<|im_start|>user\n{said}<|im_end|>\n<|im_start|>assistant\n[[<think>\na\n</think>\n\nb<|im_end|>]]"
    )
    escaped = PLAIN.replace("m.content", "m.content | trim | tojson")
    text = coloured(with_template("llama", escaped), Conversation([{"role": "user", "content": said}, *HO]))
    assert text == '<|im_start|>user\n"a \\"b\\"\\n\\tc"<|im_end|>\n<|im_start|>assistant\n[["Ho"<|im_end|>]]'


def test_answer_ends_at_its_first_eos_where_a_template_ends_the_text_with_another(with_template: WithTemplate) -> None:
    template = PLAIN + "{% if not add_generation_prompt %}{{ eos_token }}{% endif %}"  # as Phi-3's does
    assert coloured(with_template("llama", template), Conversation(HI + HO + BYE + BEY)) == (
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n[[Ho<|im_end|>]]\n"
        "<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\n[[Bey<|im_end|>]]"
    )


def test_answer_that_a_template_writes_in_two_turns_ends_at_its_last_eos(with_template: WithTemplate) -> None:
    template = PLAIN.replace(
        "<|im_end|>", "<|im_end|>{% if m.tool_calls %}{{ m.tool_calls | tojson }}<|im_end|>{% endif %}"
    )
    calling = [{**CALL[0], "content": "Wait."}]
    call = '[{"type": "function", "function": {"name": "town", "arguments": {"z": "<é>", "a": 1}}}]'
    assert coloured(with_template("llama", template), Conversation(HI + calling)) == (
        f"<|im_start|>user\nHi<|im_end|><|im_start|>assistant\n[[Wait.<|im_end|>{call}<|im_end|>]]"
    )


def test_generation_prompt_may_begin_the_answer(with_template: WithTemplate) -> None:
    template = PLAIN.replace("assistant\n{% endif", "assistant\n<think>\n{% endif")
    thinking = [{"role": "assistant", "content": "<think>\na</think>b"}]
    assert coloured(with_template("llama", template), Conversation(HI + thinking)) == (
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n<think>\n[[a</think>b<|im_end|>]]"
    )


def test_template_that_ends_answers_with_eos_but_no_calls_is_refused_for_calls_alone(
    with_template: WithTemplate,
) -> None:
    end = "{% if m.tool_calls %}{{ m.tool_calls | tojson }}{% else %}<|im_end|>{% endif %}"
    renderer = with_template("llama", PLAIN.replace("<|im_end|>", end))
    assert problem(renderer, Conversation(HI + CALL)) == (
        "not renderable",
        "the chat template does not end a tool call with the EOS token '<|im_end|>'",
    )
    assert coloured(renderer, Conversation(HI + HO)).endswith("[[Ho<|im_end|>]]")


def test_turns_whose_tokens_run_into_each_other_are_refused(with_template: WithTemplate) -> None:
    # EOS is plain text here: "is" and " a" of the next turn have merges of their own, "###" + "#" too
    renderer = with_template(
        "qwen2", "{% for m in messages %}{{ m.content }}{% if m.role != 'user' %}#{% endif %}{% endfor %}"
    )
    renderer.eos_token = "#"
    renderer.eos_token_id = renderer.tokenizer.convert_tokens_to_ids("#")
    hashes = [{"role": "user", "content": "##"}]
    with pytest.raises(ModelError, match="cuts a prompt into other tokens in training than when it is served"):
        renderer.render([Conversation(HI + HO + hashes + BEY)])


def test_eos_that_the_tokenizer_takes_apart_is_refused(with_template: WithTemplate) -> None:
    renderer = with_template("llama", PLAIN.replace("<|im_end|>", "</s>"))
    renderer.eos_token = "</s>"
    with pytest.raises(ModelError, match="The tokenizer makes no EOS token of '</s>' at the end of an answer"):
        renderer.render([Conversation(HI + HO + BYE + BEY)])


SPECIAL = "a<|im_end|>b"


@pytest.mark.parametrize(
    "example",
    [
        Conversation([{"role": "user", "content": SPECIAL}, *HO]),
        Conversation([{"role": "system", "content": SPECIAL}, *HI, *HO]),
        Conversation([*HI, {"role": "assistant", "content": SPECIAL}]),
        Conversation([*HI, {"role": "assistant", "content": SPECIAL}, *BYE, *BEY]),
        Conversation([*HI, *CALL, {"role": "tool", "content": SPECIAL}, *HO]),
        Conversation([*HI, *CALL, {"role": "tool", "content": "x", "name": SPECIAL}, *HO]),
        Conversation([*HI, {**CALL[0], "tool_calls": [{"function": {"name": "f", "arguments": {"é": [SPECIAL]}}}]}]),
        Conversation(HI + HO, [{"type": "function", "function": {"name": "f", "description": SPECIAL}}]),
        Pair(HI, SPECIAL, "a"),
        Pair(HI, "a", SPECIAL),
        Pair([{"role": "user", "content": SPECIAL}], "a", "b"),
    ],
)
def test_special_token_in_any_text_is_found(example: Example, renderer: ChatRenderer) -> None:
    assert problem(renderer, example) == ("special token in text", "it holds <|im_end|>")


@pytest.mark.parametrize("text", ["<|im_end", "im_end|>", "<|im end|>", "< |im_end|>", "<|IM_END|>", "<|im_|>end"])
def test_text_that_only_looks_like_a_special_token_is_text(text: str, renderer: ChatRenderer) -> None:
    row = rendered(renderer, Conversation([{"role": "user", "content": text}, {"role": "assistant", "content": text}]))
    assert row.prompt_ids.count(START) == 2
    assert (row.prompt_ids + row.answers[0]).count(END) == 2


def test_added_token_that_is_not_special_may_stand_in_text(chats: Chats) -> None:
    tokenizer = copy.deepcopy(chats("llama").tokenizer)
    tokenizer.add_tokens(["<think>"])
    example = Conversation([*HI, {"role": "assistant", "content": "<think>a"}])
    assert len(rendered(ChatRenderer(tokenizer), example).answers[0]) == 3  # <think>, a, EOS


def test_one_of_many_reserved_tokens_is_found(chats: Chats) -> None:
    tokenizer = copy.deepcopy(chats("llama").tokenizer)
    tokenizer.add_tokens([f"<|reserved_{i}|>" for i in range(256)], special_tokens=True)
    renderer = ChatRenderer(tokenizer)
    assert len(renderer.special_tokens) == 259
    assert renderer.special_token_in(["a < b", "<|reserved_256|>", "x<|reserved_200|>y"]) == "<|reserved_200|>"
    assert renderer.special_token_in(["a < b <| c", "<|reserved_256|>"]) is None


def test_half_a_character_and_endless_nesting_are_the_row_s_problem(renderer: ChatRenderer) -> None:
    half, deep = copy.deepcopy(CALL), copy.deepcopy(CALL)
    half[0]["tool_calls"][0]["function"]["arguments"] = {"a": "\ud800"}
    nested: list[Any] = []
    for _ in range(5000):
        nested = [nested]
    deep[0]["tool_calls"][0]["function"]["arguments"] = {"a": nested}
    rows = renderer.render([Conversation(HI + half), Conversation(HI + deep), Conversation(HI + HO)])
    problems = [(row.reason, str(row)) for row in rows if isinstance(row, RowProblem)]
    assert problems == [
        ("not text", "it holds characters that are none (surrogates not allowed)"),
        ("not renderable", "its tools or tool calls are nested too deeply"),
    ]
    assert isinstance(rows[2], Rendered)


@pytest.mark.parametrize("last", ["Hi", "assistant", "\n", "n", "s", ""])
@pytest.mark.parametrize("role", ["user", "tool"])
def test_closing_tokens_are_the_templates_whatever_the_last_message_says(
    last: str, role: str, renderer: ChatRenderer
) -> None:
    before = HI + CALL if role == "tool" else SYSTEM
    for text in ("first", last):  # what an earlier row left in memory changes nothing
        row = rendered(renderer, Conversation([*before, {"role": role, "content": text}, *HO]))
        assert row.closing == 13  # <|im_end|>, a line end, <|im_start|>, "assistant" and a line end


def test_closing_tokens_follow_a_template_that_closes_some_prompts_in_another_way(with_template: WithTemplate) -> None:
    message = "{% if tools and m.role == 'assistant' %}!{% endif %}" + MESSAGE
    generation = GENERATION.replace("<|im_start|>", "{% if tools %}!{% endif %}<|im_start|>")
    template = "{{ tools | tojson }}{% for m in messages %}" + message + "{% endfor %}" + generation
    renderer = with_template("llama", template)
    examples = [Pair(HI, "a", "b"), Pair(HI, "a", "b", TOOLS), Pair(HI, "a", "b")]
    assert [rendered(renderer, example).closing for example in examples] == [13, 14, 13]


@pytest.fixture
def llama2(chats: Chats) -> ChatRenderer:
    """Return a renderer whose tokenizer marks the start of a text with a space, as Llama-2's and Mistral's do."""
    from tokenizers import Tokenizer, decoders, models, normalizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted({chr(i) for i in range(33, 127)} | {"\n", "\u2581"})
    vocabulary = {token: i for i, token in enumerate(["<s>", "</s>", *letters, "\u2581H", "Ho", "\u2581Ho"])}
    merges = [("\u2581", "H"), ("H", "o"), ("\u2581H", "o")]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.Fuse()])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")
    fast.chat_template = (
        "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}{{ eos_token }}\n{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
    )
    return ChatRenderer(fast)


def test_answers_get_no_space_that_marks_the_start_of_a_text(llama2: ChatRenderer) -> None:
    row = rendered(llama2, Conversation(HI + HO + BYE + HO))
    token = llama2.tokenizer.convert_tokens_to_ids
    assert row.answers == [[token("Ho"), 1]]
    assert [label for label in row.prompt_labels if label != IGNORED] == [token("Ho"), 1]
    assert row.prompt_ids == llama2.prompt_ids(HI + HO + BYE)
    whole = llama2.tokenizer.apply_chat_template(HI + HO + BYE + HO, tokenize=True)["input_ids"]
    assert row.prompt_ids + row.answers[0] == whole[: len(row.prompt_ids) + 2]
    assert row.closing == 1 + 1 + 1 + 13 + 1  # </s>, a mark, a line end, <|assistant|> and a line end
    assert rendered(llama2, Pair(HI, "Ho", "Hi")).answers == [[token("Ho"), 1], [token("H"), token("i"), 1]]


EMOJI, HEBREW, COMBINING = "\U0001f600\u200d\U0001f525", "\u05e9\u05dc\u05d5\u05dd", "\u0301"
WORDS = ("a", "The zebra", " ", "\n", "\n\n", "1234567", EMOJI, HEBREW, COMBINING, "###", ":", "<|", "\t", "é")
texts = st.lists(st.sampled_from(WORDS) | st.text(max_size=4), max_size=6).map("".join)
turns = st.lists(st.tuples(texts, texts), min_size=1, max_size=3)


@settings(max_examples=60, deadline=None)
@given(system=st.booleans(), said=turns, train_on=st.sampled_from(["all_turns", "last_turn"]))
def test_rendering_round_trips_and_the_mask_covers_the_answers(
    system: bool, said: list[tuple[str, str]], train_on: TrainOn, chats: Chats
) -> None:
    messages = SYSTEM if system else []
    for question, answer in said:  # without white space at their ends, as formats give them; answers are not empty
        messages = [*messages, {"role": "user", "content": question.strip()}]
        messages = [*messages, {"role": "assistant", "content": answer.strip() or "x"}]
    for name in ("llama", "qwen2", "gpt2", "gpt_neox"):
        renderer = ChatRenderer(chats(name).tokenizer, train_on)
        row = rendered(renderer, Conversation(messages))
        eos, decode = renderer.eos_token, renderer.tokenizer.decode
        whole = renderer.tokenizer.apply_chat_template(messages, tokenize=False)
        if name == "qwen2":  # whose tokenizer composes characters
            whole = normalize("NFC", whole)
        assert decode(row.prompt_ids + row.answers[0]) == whole[: whole.rindex(eos)] + eos
        assert row.prompt_ids == renderer.prompt_ids(messages[:-1])
        trained = [m["content"] for m in messages if m["role"] == "assistant"][0 if train_on == "all_turns" else -1 :]
        labels = [label for label in row.prompt_labels + row.answers[0] if label != IGNORED]
        assert normalize("NFC", decode(labels)) == normalize("NFC", "".join(text + eos for text in trained))
        assert all(label in (IGNORED, token) for token, label in zip(row.prompt_ids, row.prompt_labels, strict=True))
