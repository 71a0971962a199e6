"""Training rows as a reader sees them: exactly the stored tokens, what carries loss, what was cut, nothing private."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prepared import LONG, OTHER, Prepare, Row, chat, pair, placed_rows, prepare_in, sft

from llm_engineering.data.preparation import PreparedRows
from llm_engineering.data.preview import preview_row
from llm_engineering.data.rowsets import IGNORED, read_rows
from llm_engineering.data.tokens import TrainingRow
from llm_engineering.models.chat import ChatTokenizer
from llm_engineering.reports.data import RenderedPart, RenderedRow, Token

Decode = Callable[[list[int]], str]
NOTHING_PRIVATE = st.characters(exclude_categories=["Cs", "Nd"], exclude_characters="@")


def text(part: RenderedPart) -> str:
    return "".join(token.text for token in part.tokens)


def stored(prepared: PreparedRows) -> dict[tuple[str, str, int], Row]:
    """Return the stored rows by kind, split and number."""
    sets = {"sft": prepared.sft, "preference": prepared.preference}
    return {
        (kind, split, row["row"]): dict(row)
        for kind, rows in sets.items()
        for split in placed_rows(rows)
        for row in read_rows(rows, split)
    }


def shown(prepared: PreparedRows) -> list[RenderedRow]:
    return prepared.report.examples


def test_a_conversation_is_shown_token_by_token(prepare: Prepare) -> None:
    [row] = shown(prepare([[chat("a", "b", "c", "d")]]))
    assert (row.kind, row.source, row.row, row.split) == ("sft", "sft-0.jsonl", 1, "train")
    [part] = row.parts
    around = [Token(text="<|im_start|>", special=True), *(Token(text=each) for each in "user\n")]
    behind = [
        Token(text="<|im_end|>", special=True),
        Token(text="\n"),
        Token(text="<|im_start|>", special=True),
        *(Token(text=each) for each in "assistant\n"),
    ]
    end = Token(text="<|im_end|>", trained=True, special=True)
    answers = [Token(text="b", trained=True), end], [Token(text="d", trained=True), end]
    asked = [[*around, Token(text=question), *behind] for question in "ac"]
    assert part.tokens == [*asked[0], *answers[0], Token(text="\n"), *asked[1], *answers[1]]
    assert (part.name, part.cut_at, part.tokens_lost) == ("conversation", None, 0)


def test_a_pair_is_shown_in_three_parts(prepare: Prepare, decode: Decode) -> None:
    [row] = shown(prepare([], [[pair("Why?", "So.", "No.")]]))
    assert [part.name for part in row.parts] == ["prompt", "chosen", "rejected"]
    assert [text(part) for part in row.parts] == [
        "<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n",
        "So.<|im_end|>",
        "No.<|im_end|>",
    ]
    assert [{token.trained for token in part.tokens} for part in row.parts] == [{False}, {True}, {True}]


STRANGE = [
    sft("Zürich? 東京? 👩‍👩‍👧", "שלום ‏العربية 🙂🙃"),
    sft("broken \ufffd\ufffd\ufffd\ufffd\ufffd text", "\ufffd and \ufffd\ufffd"),
    sft("nul \x00 and \u200b", "  spaces   and\ttabs  ."),
    sft("<script>alert(1)</script>", "a & b < c"),
    sft("e\u0301 " + "🙂" * 30, "क्षि नमस्ते"),
]


@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt2"])
def test_what_is_shown_is_what_is_stored(family: str, chats: Callable[[str], ChatTokenizer], tmp_path: Path) -> None:
    pairs = [pair(row["question"], row["answer"], f"no {row['answer']}") for row in STRANGE]
    prepared = prepare_in(tmp_path, chats(family), [STRANGE], [pairs], 0)
    decode, rows = chats(family).tokenizer.decode, stored(prepared)
    assert len(shown(prepared)) == 10
    for row in shown(prepared):
        kept = rows[row.kind, row.split, row.row]
        if row.kind == "sft":
            expected = [(kept["input_ids"], kept["labels"])]
        else:
            prompt = kept["prompt_ids"]
            expected = [(prompt, [IGNORED] * len(prompt))]
            expected += [(kept[side], kept[side]) for side in ("chosen_ids", "rejected_ids")]
        for part, (ids, labels) in zip(row.parts, expected, strict=True):
            assert text(part) == decode(ids)
            assert [token.trained for token in part.tokens] == [label != IGNORED for label in labels]
            assert len(part.tokens) == len(ids)
    special = {token.text for row in shown(prepared) for part in row.parts for token in part.tokens if token.special}
    assert special == {"llama": {"<|im_start|>", "<|im_end|>"}, "qwen2": {"<|im_start|>", "<|im_end|>"}}.get(
        family, {"<|endoftext|>"}
    )


@settings(max_examples=150, deadline=None, derandomize=True)
@given(said=st.text(NOTHING_PRIVATE, max_size=30), start=st.integers(0, 12), end=st.integers(0, 12))
def test_tokens_cut_in_the_middle_of_a_character_join_to_what_they_decode_to(
    chats: Callable[[str], ChatTokenizer], said: str, start: int, end: int
) -> None:
    tokenizer = chats("llama").tokenizer
    ids = tokenizer(f"<|im_start|>{said} 🙂")["input_ids"]
    ids = ids[start : max(len(ids) - end, start)] or ids
    row = TrainingRow(ids, [IGNORED] * len(ids), [[*ids, tokenizer.eos_token_id]])
    [part] = preview_row("sft", "s", 1, "train", row, tokenizer).parts
    assert len(part.tokens) == len(row.input_ids)
    assert text(part) == tokenizer.decode(row.input_ids)


def test_a_character_of_several_tokens_stands_at_its_last_one(prepare: Prepare) -> None:
    [row] = shown(prepare([[sft("Q", "é🙂!")]]))
    answer = [token.text for token in row.parts[0].tokens if token.trained]
    assert answer == ["", "é", "", "", "", "🙂", "!", "<|im_end|>"]


def test_cuts_are_marked_where_they_are(prepare: Prepare, decode: Decode) -> None:
    rows = [sft("abcdefgh", "xy"), sft("q", "x" * 30)]
    first, second = shown(prepare([rows], max_length=24))
    # 19 + 8 + 3 tokens lose 6 at the start; of 20 + 31 the prompt keeps 12, the answer 12
    assert (first.parts[0].cut_at, first.parts[0].tokens_lost) == (0, 6)
    assert text(first.parts[0]).startswith("abcdefgh<|im_end|>")
    assert (second.parts[0].cut_at, second.parts[0].tokens_lost) == (0, 8 + 19)
    [kept] = shown(prepare([([sft("abcdefgh", "xy")], {"truncate": "keep_start"})], max_length=24))
    assert kept.parts[0].tokens_lost == 6
    # what the template puts behind the question stays: <|im_end|>, a line break, <|im_start|> and "assistant\n"
    assert text(kept.parts[0])[: len("<|im_start|>user\nab")] == "<|im_start|>user\nab"
    assert kept.parts[0].cut_at == 1 + 5 + 2
    [only] = shown(prepare([], [[pair("abcdefgh", "x" * 30, "y" * 3)]], max_length=24))
    prompt, chosen, rejected = only.parts
    assert (prompt.cut_at, prompt.tokens_lost) == (0, 27 - 12)
    assert (chosen.cut_at, chosen.tokens_lost, len(chosen.tokens)) == (12, 19, 12)
    assert (rejected.cut_at, rejected.tokens_lost) == (None, 0)


def test_private_data_is_masked_token_by_token(prepare: Prepare) -> None:
    rows = [sft("Write to ann@example.org now", "Call +49 30 1234567, or 🙂 sk-0123456789abcdefghij.")]
    prepared = prepare([rows])
    [row] = shown(prepared)
    [kept] = read_rows(prepared.sft, "train")
    whole = text(row.parts[0])
    assert f"Write to {'•' * 15} now" in whole
    assert f"Call {'•' * 14}, or 🙂 {'•' * 23}.<|im_end|>" in whole
    assert len(row.parts[0].tokens) == len(kept["input_ids"])
    assert row.parts[0].tokens[-2].text == "."


def test_at_most_twenty_rows_are_shown_ten_of_a_kind(prepare: Prepare) -> None:
    rows, pairs = [sft(f"Q {n}?", f"{n}") for n in range(50)], [pair(f"P {n}?", f"{n}", "R") for n in range(50)]
    assert [row.kind for row in shown(prepare([rows]))] == ["sft"] * 20
    assert [row.kind for row in shown(prepare([rows], [pairs]))] == ["sft"] * 10 + ["preference"] * 10
    few = shown(prepare([rows[:3]], [pairs]))
    assert [row.kind for row in few] == ["sft"] * 3 + ["preference"] * 10


def test_rows_are_drawn_by_the_seed_from_the_training_rows(prepare: Prepare) -> None:
    rows = [sft(f"Q {n}?", f"{n}") for n in range(60)]
    first, again, other = (shown(prepare([rows], seed=seed, evaluation_share=0.3)) for seed in (1, 1, 2))
    assert first == again
    assert {row.row for row in first} != {row.row for row in other}
    assert {row.split for row in [*first, *other]} == {"train"}
    assert len({row.row for row in first}) == 20
    assert max(row.row for row in first) > 30


def test_some_rows_that_lost_tokens_are_always_shown(prepare: Prepare) -> None:
    rows = [sft(f"Q {n}?", f"{n}") for n in range(60)] + [sft(f"{LONG} {n}", f"{n} {OTHER}") for n in range(10)]
    found = shown(prepare([rows], max_length=128, rules={"near_duplicate": "keep"}))
    cut = [row.row for row in found if row.parts[0].tokens_lost]
    assert len(found) == 20
    assert set(cut) >= {61, 62, 63}
