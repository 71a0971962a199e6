import copy
from collections.abc import Callable
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_engineering.config.data import DataConfig, FileSource
from llm_engineering.data.formats import Conversation, Example, Pair, RowProblem
from llm_engineering.data.rendering import ChatRenderer, Rendered
from llm_engineering.data.rowsets import IGNORED
from llm_engineering.data.tokens import RowMaker, TrainingRow, require_length
from llm_engineering.errors import ConfigError, DataError, ProofError
from llm_engineering.models.chat import TEMPLATES, ChatTokenizer

Chats = Callable[[str], ChatTokenizer]
Keep = Literal["keep_end", "keep_start"]

# llama's tokenizer: a byte is a token. A ChatML prompt of one user message has 19 tokens more than the message:
# <|im_start|> "user\n" (6) before it, and <|im_end|> "\n" <|im_start|> "assistant\n" (13) behind it.
BEFORE, CLOSING = 6, 13
SOURCES = {keep: FileSource(path="rows.jsonl", truncate=keep) for keep in ("keep_end", "keep_start")}


def asked(length: int) -> list[dict[str, str]]:
    return [{"role": "user", "content": "q" * length}]


def said(length: int) -> list[dict[str, str]]:
    """Return an answer of so many tokens, EOS included."""
    return [{"role": "assistant", "content": "a" * (length - 1)}]


def single(prompt: int, answer: int) -> Conversation:
    """Return a conversation whose prompt and answer have so many tokens."""
    return Conversation(asked(prompt - BEFORE - CLOSING) + said(answer))


def pair(prompt: int, chosen: int, rejected: int) -> Pair:
    return Pair(asked(prompt - BEFORE - CLOSING), "c" * (chosen - 1), "r" * (rejected - 1))


@pytest.fixture
def renderer(chats: Chats) -> ChatRenderer:
    return ChatRenderer(chats("llama").tokenizer)


@pytest.fixture
def with_bos(chats: Chats) -> Callable[[str], ChatRenderer]:
    """Return a function that gives a renderer whose BOS is token 0."""

    def make(template: str) -> ChatRenderer:
        tokenizer = copy.deepcopy(chats("llama").tokenizer)
        tokenizer.bos_token = "<|endoftext|>"
        tokenizer.chat_template = template
        return ChatRenderer(tokenizer)

    return make


def made(renderer: ChatRenderer, example: Example, data: DataConfig, keep: Keep = "keep_end") -> TrainingRow:
    [row] = RowMaker(data, renderer).make([example], SOURCES[keep], ["rows.jsonl, line 7"])
    assert isinstance(row, TrainingRow), row
    return row


def whole(renderer: ChatRenderer, example: Example) -> Rendered:
    [row] = renderer.render([example])
    assert isinstance(row, Rendered)
    return row


@pytest.mark.parametrize("too_long", ["truncate_prompt", "drop", "error"])
def test_row_that_just_fits_stays_whole(
    too_long: Literal["truncate_prompt", "drop", "error"], renderer: ChatRenderer
) -> None:
    example = single(25, 7)
    full = whole(renderer, example)
    row = made(renderer, example, DataConfig(max_length=32, max_prompt_length=25, too_long=too_long))
    assert (row.input_ids, row.labels) == (full.prompt_ids + full.answers[0], [IGNORED] * 25 + full.answers[0])
    assert (row.tokens, row.trained_tokens, row.turns) == (32, 7, 1)
    assert (row.tokens_lost, row.trained_lost, row.answers_cut, row.prompt_cut) == (0, 0, 0, None)


def test_prompt_loses_its_start_or_its_middle_before_the_answer_loses_anything(renderer: ChatRenderer) -> None:
    example, data = single(39, 3), DataConfig(max_length=32)
    full = whole(renderer, example).prompt_ids
    end = made(renderer, example, data)  # 39 + 3 - 32 = 10 tokens too many
    assert (end.prompt_ids, end.prompt_cut, end.prompt_lost) == (full[10:], 0, 10)
    start = made(renderer, example, data, "keep_start")  # 32 - 3 - 13 = 16 tokens before the closing ones
    assert (start.prompt_ids, start.prompt_cut, start.prompt_lost) == (full[:16] + full[-CLOSING:], 16, 10)
    for row in (end, start):
        assert (row.tokens, row.trained_tokens, row.tokens_lost, row.trained_lost, row.answers_cut) == (32, 3, 10, 0, 0)
        assert row.labels == [IGNORED] * 29 + row.answers[0]


@pytest.mark.parametrize(
    ("prompt", "answer", "max_length", "kept", "answer_lost"),
    [
        (39, 30, 32, 16, 14),  # half of 32 for the prompt; 30 - 16
        (21, 41, 32, 16, 25),  # 41 - 16
        (21, 61, 64, 21, 18),  # a prompt below half stays whole: 61 - (64 - 21)
        (39, 41, 81, 39, 0),  # 40 for the prompt at least, 81 // 2; one token is left over
        (42, 41, 81, 40, 0),  # 81 - 41 = 40, which is half as well
        (42, 42, 81, 40, 1),
        (60, 30, 64, 34, 0),  # 64 - 30, more than half
    ],
)
@pytest.mark.parametrize("keep", ["keep_end", "keep_start"])
def test_prompt_keeps_half_of_the_row_and_the_answer_loses_its_end(
    prompt: int, answer: int, max_length: int, kept: int, answer_lost: int, keep: Keep, renderer: ChatRenderer
) -> None:
    example = single(prompt, answer)
    row = made(renderer, example, DataConfig(max_length=max_length), keep)
    assert len(row.prompt_ids) == len(row.prompt_labels) == kept
    assert row.answers == [whole(renderer, example).answers[0][: answer - answer_lost]]
    assert (row.prompt_lost, sum(row.answers_lost), row.trained_lost) == (prompt - kept, answer_lost, answer_lost)
    assert (row.tokens_lost, row.answers_cut) == (prompt - kept + answer_lost, int(answer_lost > 0))
    assert (row.tokens, row.trained_tokens) == (kept + answer - answer_lost, answer - answer_lost)


def test_max_prompt_length_is_a_hard_limit_of_the_prompt_alone(renderer: ChatRenderer) -> None:
    data = DataConfig(max_length=64, max_prompt_length=25)
    row = made(renderer, single(39, 3), data)  # 42 tokens would fit
    assert (len(row.prompt_ids), row.prompt_lost, row.answers_lost, row.tokens) == (25, 14, (0,), 28)
    row = made(renderer, single(39, 50), data)  # 64 - 25 = 39 for the answer
    assert (len(row.prompt_ids), row.prompt_lost, row.answers_lost, row.tokens) == (25, 14, (11,), 64)
    row = made(renderer, single(39, 50), DataConfig(max_length=64, max_prompt_length=60))  # half of 64 and no more
    assert (len(row.prompt_ids), row.prompt_lost, row.answers_lost) == (32, 7, (18,))


def test_both_answers_of_a_pair_get_the_same_room(renderer: ChatRenderer) -> None:
    example = pair(39, 31, 51)
    row = made(renderer, example, DataConfig(max_length=64))  # 32 for the prompt, 32 for an answer
    assert (len(row.prompt_ids), row.answers_lost, row.answers_cut) == (32, (0, 19), 1)
    assert (row.tokens_lost, row.trained_lost) == (7 + 19, 19)
    assert (row.tokens, row.trained_tokens) == (2 * 32 + 31 + 32, 31 + 32)
    row = made(renderer, example, DataConfig(max_length=32))  # 16 and 16
    assert (row.answers_lost, row.answers_cut, row.trained_lost) == ((15, 35), 2, 50)
    assert [len(answer) for answer in row.answers] == [16, 16]
    row = made(renderer, example, DataConfig(max_length=90))  # whole
    assert (row.tokens, row.tokens_lost, row.answers_lost) == (2 * 39 + 31 + 51, 0, ())


# Two turns, "Hi" "Ho" "Bye": 21 tokens, 3 trained ones at 21 to 23, a line end, and 22 tokens: 47.
@pytest.mark.parametrize(
    ("answer", "keep", "lost", "trained_lost", "turns"),
    [
        (4, "keep_end", 19, 0, 2),
        (7, "keep_end", 22, 1, 2),
        (8, "keep_end", 23, 2, 2),  # EOS alone is left of the first answer
        (9, "keep_end", 24, 3, 1),
        (4, "keep_start", 19, 3, 1),  # 28 - 13 = 15 stay; 15 to 33 go
    ],
)
def test_loss_of_earlier_answers_is_counted(
    answer: int, keep: Keep, lost: int, trained_lost: int, turns: int, renderer: ChatRenderer
) -> None:
    first = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]
    example = Conversation([*first, {"role": "user", "content": "Bye"}, *said(answer)])
    full = whole(renderer, example)
    assert (len(full.prompt_ids), full.prompt_labels[21:24]) == (47, full.prompt_ids[21:24])
    uncut = made(renderer, example, DataConfig(max_length=64))
    assert (uncut.turns, uncut.tokens, uncut.trained_tokens) == (2, 47 + answer, 3 + answer)
    row = made(renderer, example, DataConfig(max_length=32), keep)
    assert (row.prompt_lost, row.trained_lost, row.turns) == (lost, trained_lost, turns)
    assert row.trained_tokens == 3 + answer - trained_lost
    assert [token for token, label in zip(row.prompt_ids, row.prompt_labels, strict=True) if label != IGNORED] == (
        full.prompt_ids[24 - (3 - trained_lost) : 24]
    )


def test_bos_stays_where_a_prompt_is_cut(with_bos: Callable[[str], ChatRenderer]) -> None:
    renderer = with_bos("{{- bos_token -}}" + (TEMPLATES / "chatml.jinja").read_text())
    example = single(39, 3)  # and BOS: 43 tokens
    full = whole(renderer, example).prompt_ids
    row = made(renderer, example, DataConfig(max_length=32))
    assert (row.prompt_ids, row.prompt_cut, row.prompt_lost) == ([0, *full[12:]], 1, 11)
    row = made(renderer, example, DataConfig(max_length=32), "keep_start")
    assert (row.prompt_ids, row.prompt_cut) == (full[:16] + full[-13:], 16)
    row = made(renderer, example, DataConfig(max_length=8), "keep_start")  # no room for all closing tokens
    assert (row.prompt_ids, row.prompt_cut, row.prompt_lost) == ([0, *full[-4:]], 1, 35)


def test_end_of_the_closing_tokens_stays_where_there_is_no_room_for_all(renderer: ChatRenderer) -> None:
    example = single(39, 30)
    row = made(renderer, example, DataConfig(max_length=8), "keep_start")
    assert renderer.tokenizer.decode(row.prompt_ids) == "ant\n"
    assert (row.prompt_cut, row.prompt_lost, row.answers_lost) == (0, 35, (26,))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"max_length": 32}, "42 tokens; data.max_length is 32"),
        ({"max_length": 41, "max_prompt_length": 40}, "42 tokens; data.max_length is 41"),
        ({"max_length": 64, "max_prompt_length": 38}, "39 tokens of prompt; data.max_prompt_length is 38"),
    ],
)
def test_long_row_is_dropped_or_stops_the_run_where_asked(
    data: dict[str, int], said: str, renderer: ChatRenderer
) -> None:
    maker = RowMaker(DataConfig(**data, too_long="drop"), renderer)
    [row, short] = maker.make(
        [single(39, 3), single(20, 3)], SOURCES["keep_end"], ["rows.jsonl, line 1", "rows.jsonl, line 2"]
    )
    assert isinstance(row, RowProblem)
    assert (row.reason, str(row)) == ("too long", said)
    assert isinstance(short, TrainingRow)
    maker = RowMaker(DataConfig(**data, too_long="error"), renderer)
    with pytest.raises(DataError) as error:
        maker.make([single(20, 3), single(39, 3)], SOURCES["keep_end"], ["rows.jsonl, line 1", "rows.jsonl, line 2"])
    advice = "Raise it, or set data.too_long to truncate_prompt or drop."
    assert str(error.value) == f"rows.jsonl, line 2 has {said}. {advice}"


@settings(max_examples=300, deadline=None)
@given(
    max_length=st.integers(8, 100),
    most=st.none() | st.integers(1, 99),
    prompt=st.integers(19, 90),
    answers=st.lists(st.integers(2, 90), min_size=1, max_size=2),
    earlier=st.integers(0, 40),
    keep=st.sampled_from(["keep_end", "keep_start"]),
)
def test_no_row_is_too_long_and_every_lost_token_is_counted(
    max_length: int, most: int | None, prompt: int, answers: list[int], earlier: int, keep: Keep, chats: Chats
) -> None:
    if most is not None and most >= max_length:
        most = None
    example: Example = single(prompt, answers[0]) if len(answers) == 1 else pair(prompt, *answers)
    if isinstance(example, Conversation) and earlier > 1:
        example = Conversation(asked(3) + said(earlier) + example.messages)
    renderer = ChatRenderer(chats("llama").tokenizer)
    full = whole(renderer, example)
    row = made(renderer, example, DataConfig(max_length=max_length, max_prompt_length=most), keep)
    kept, longest = len(row.prompt_ids), max(map(len, row.answers))

    assert 0 < longest <= max_length - kept
    assert kept <= (most or max_length)
    assert kept >= min(len(full.prompt_ids), max_length // 2, most or max_length)
    if row.prompt_lost:
        assert row.prompt_cut is not None
        cut = slice(row.prompt_cut, row.prompt_cut + row.prompt_lost)
        rest = [i for i in range(len(full.prompt_ids)) if i not in range(*cut.indices(len(full.prompt_ids)))]
        assert row.prompt_ids == [full.prompt_ids[i] for i in rest]
        assert row.prompt_labels == [full.prompt_labels[i] for i in rest]
        assert kept + longest == max_length or kept == most  # no more is cut than has to be
    assert all(answer == own[: len(answer)] for answer, own in zip(row.answers, full.answers, strict=True))
    lost = [len(own) - len(answer) for answer, own in zip(row.answers, full.answers, strict=True)]
    assert list(row.answers_lost or [0] * len(lost)) == lost
    assert not any(lost) or kept + longest == max_length
    assert row.tokens_lost == len(full.prompt_ids) - kept + sum(lost)
    before = len(full.prompt_ids) - full.prompt_labels.count(IGNORED) + sum(map(len, full.answers))
    assert row.trained_tokens + row.trained_lost == before
    assert row.tokens == kept * len(row.answers) + sum(map(len, row.answers))


def test_answer_without_a_trained_eos_is_found(renderer: ChatRenderer) -> None:
    renderer.eos_token_id = 0  # as if another token ended the answers
    for example in (single(20, 3), pair(20, 3, 4)):
        with pytest.raises(ProofError, match=r"rows\.jsonl, line 7 does not end with a trained EOS"):
            made(renderer, example, DataConfig())
    with pytest.raises(ProofError):  # the chosen answer is whole, whatever the rejected one lost
        made(renderer, pair(20, 3, 60), DataConfig(max_length=32))
    assert made(renderer, single(20, 60), DataConfig(max_length=32)).answers_cut == 1  # a cut answer has none


TWICE = "{{- bos_token -}}{{- bos_token -}}"


def test_second_bos_before_the_first_is_found(with_bos: Callable[[str], ChatRenderer], chats: Chats) -> None:
    of_eos = copy.deepcopy(chats("gpt2").tokenizer)  # whose BOS is its EOS
    of_eos.chat_template = TWICE + str(of_eos.chat_template)
    for renderer in (with_bos(TWICE + (TEMPLATES / "chatml.jinja").read_text()), ChatRenderer(of_eos)):
        for example in (single(20, 3), pair(20, 3, 4)):
            said = r"rows\.jsonl, line 7 begins with more than one BOS token '<\|endoftext\|>'"
            with pytest.raises(DataError, match=said):
                made(renderer, example, DataConfig())


LLAMA_2 = (
    "{% for m in messages %}{% if m.role == 'user' %}{{ bos_token ~ '[INST] ' ~ m.content ~ ' [/INST]' }}"
    "{% else %}{{ m.content ~ eos_token }}{% endif %}{% endfor %}"
)


@pytest.mark.parametrize("train_on", ["all_turns", "last_turn"])
def test_template_may_write_its_bos_in_every_turn(
    train_on: Literal["all_turns", "last_turn"], with_bos: Callable[[str], ChatRenderer]
) -> None:
    tokenizer = with_bos(LLAMA_2).tokenizer
    row = made(ChatRenderer(tokenizer, train_on), Conversation(2 * (asked(2) + said(3))), DataConfig())
    assert [i for i, token in enumerate(row.input_ids) if token == 0] == [0, row.input_ids.index(0, 1)]
    tokenizer.bos_token, tokenizer.chat_template = "<|im_start|>", (TEMPLATES / "chatml.jinja").read_text()
    row = made(ChatRenderer(tokenizer, train_on), Conversation(2 * (asked(2) + said(3))), DataConfig())
    assert row.input_ids.count(tokenizer.bos_token_id) == 4
    pairs = made(ChatRenderer(tokenizer, train_on), pair(20, 3, 4), DataConfig())
    assert pairs.prompt_ids.count(tokenizer.bos_token_id) == 2


def test_cut_never_leaves_two_bos_side_by_side(with_bos: Callable[[str], ChatRenderer]) -> None:
    renderer = with_bos(LLAMA_2)
    example = Conversation(asked(9) + said(3) + asked(9) + said(3))
    full = whole(renderer, example).prompt_ids
    second = full.index(0, 1)
    for kept in range(len(full) - second - 2, len(full) - second + 3):
        row = made(renderer, example, DataConfig(max_length=200, max_prompt_length=kept))
        one_more = kept == len(full) - second + 1
        assert row.prompt_ids == [0, *full[len(full) - kept + 1 + one_more :]]
        assert row.prompt_lost == len(full) - len(row.prompt_ids) == len(full) - kept + one_more


def test_eos_that_is_bos_too_may_stand_at_the_end_of_every_turn(chats: Chats) -> None:
    renderer = ChatRenderer(chats("gpt2").tokenizer)
    assert renderer.tokenizer.bos_token_id == renderer.eos_token_id
    row = made(renderer, Conversation(asked(2) + said(3) + asked(2) + said(3)), DataConfig())
    assert (row.turns, row.input_ids.count(renderer.eos_token_id)) == (2, 2)


def test_rows_that_cannot_be_rendered_keep_their_places(renderer: ChatRenderer) -> None:
    bad = Conversation([{"role": "user", "content": "<|im_end|>"}, *said(3)])
    rows = RowMaker(DataConfig(), renderer).make(
        [bad, single(20, 3), bad, pair(20, 3, 4)], SOURCES["keep_end"], list("abcd")
    )
    assert [isinstance(row, TrainingRow) for row in rows] == [False, True, False, True]
    assert isinstance(rows[3], TrainingRow)
    assert len(rows[3].answers) == 2


def test_rows_longer_than_the_models_positions_are_refused() -> None:
    require_length(DataConfig(max_length=256), 256)
    require_length(DataConfig(max_length=257), None)
    with pytest.raises(ConfigError, match=r"max_length is 257, but the model has 256 positions\. Lower it to 256"):
        require_length(DataConfig(max_length=257), 256)
