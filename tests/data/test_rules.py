"""Duplicates, splits and leaks: which rows each rule finds, and what becomes of them."""

import json
import random
from collections import Counter

import numpy as np
import pytest
from prepared import LONG, OTHER, Prepare, Row, chat, fates, pair, placed_rows, quarantined, sft

from llm_engineering.config.data import DataConfig, FileSource
from llm_engineering.data.examples import RECORD
from llm_engineering.data.preparation import PreparedRows
from llm_engineering.data.rules import EVAL, TEST, TRAIN, Fates, draw_splits, prove_splits
from llm_engineering.errors import DataError, ProofError

NEARLY = LONG[: -len("down")] + "under"  # 27 of 29 shingles, 0.93
NEARLY_OTHER = OTHER[: -len("stone")] + "rock"


def reasons(prepared: PreparedRows) -> list[tuple[int, str]]:
    """Return the numbers and reasons of the dropped rows."""
    return [(line["row"], line["reason"]) for line in quarantined(prepared)]


def test_first_of_equal_rows_stays(prepare: Prepare) -> None:
    prepared = prepare([[sft("Q", "A"), sft("P", "A"), sft("q ", "A"), sft("P", "B"), sft("Q", "A")]])
    assert reasons(prepared) == [(3, "exact duplicate"), (5, "exact duplicate")]


def test_answers_are_equal_only_to_the_letter_and_prompts_whatever_their_case(prepare: Prepare) -> None:
    prepared = prepare([[sft("Q", "A"), sft("Q", "a"), sft("q", "A")]], audit=False)
    assert reasons(prepared) == [(3, "exact duplicate")]


def test_conversations_are_equal_with_all_their_turns(prepare: Prepare) -> None:
    rows = [chat("a", "1", "b", "2"), chat("a", "0", "b", "2"), chat("A", "1", "B", "2"), chat("b", "2")]
    assert reasons(prepare([rows])) == [(3, "exact duplicate")]


def calling(city: str) -> Row:
    """Return a conversation whose only words that differ are the arguments of a call."""
    call = {"type": "function", "function": {"name": "weather", "arguments": {"city": city}}}
    return {
        "messages": [
            {"role": "user", "content": "How warm is it there?"},
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "content": "18"},
            {"role": "assistant", "content": "It is warm."},
        ],
        "tools": [{"type": "function", "function": {"name": "weather", "parameters": {}}}],
    }


def test_conversations_that_call_tools_with_other_arguments_are_no_duplicates(prepare: Prepare) -> None:
    assert reasons(prepare([[calling("Bern"), calling("Rome"), calling("Bern")]])) == [(3, "exact duplicate")]


def test_pair_contradicts_an_earlier_one_with_the_answers_swapped(prepare: Prepare) -> None:
    pairs = [
        pair("Q", "A", "B"),
        pair("Q", "B", "A"),  # the other way round
        pair("q", "B", "A"),  # again
        pair("Q", "A", "B"),  # the first one again
        pair("Q", "A", "C"),
        pair("P", "B", "A"),  # another prompt
    ]
    prepared = prepare([], [pairs])
    assert reasons(prepared) == [(2, "contradictory pair"), (3, "contradictory pair"), (4, "exact duplicate")]
    kept = prepare([], [pairs], rules={"contradictory_pair": "keep"})
    assert reasons(kept) == [(3, "exact duplicate"), (4, "exact duplicate")]
    assert kept.report.sources[0].found == {"contradictory pair": 1}
    with pytest.raises(DataError) as caught:
        prepare([], [pairs], rules={"contradictory_pair": "error"})
    assert str(caught.value) == (
        "preference-0.jsonl, line 2: contradictory pair; 2 in all. Mend the data or set "
        "data.rules.contradictory_pair: drop."
    )


def test_contradictory_pair_of_long_answers_that_is_kept_is_no_near_duplicate(prepare: Prepare) -> None:
    pairs = [pair("Q", f"{LONG} {OTHER}", f"{OTHER} {LONG}"), pair("Q", f"{OTHER} {LONG}", f"{LONG} {OTHER}")]
    report = prepare([], [pairs], rules={"contradictory_pair": "keep"}).report
    assert (fates(report.sources[0]), report.sources[0].found) == ({"train": 2}, {"contradictory pair": 1})


@pytest.mark.parametrize(
    ("rule", "reason", "rows"),
    [
        ("exact_duplicate", "exact duplicate", [sft("Q", "A"), sft("Q", "A"), sft("Q", "A")]),
        ("near_duplicate", "near-duplicate", [sft("Q", LONG), sft("Q", NEARLY), sft("Q", LONG + "!")]),
    ],
)
def test_duplicates_are_dropped_kept_or_stop_the_run(rule: str, reason: str, rows: list[Row], prepare: Prepare) -> None:
    assert reasons(prepare([rows])) == [(2, reason), (3, reason)]
    kept = prepare([rows], rules={rule: "keep"})
    assert (reasons(kept), kept.report.sources[0].found) == ([], {reason: 2})
    with pytest.raises(DataError) as caught:
        prepare([rows], rules={rule: "error"})
    assert str(caught.value) == (
        f"sft-0.jsonl, line 2: {reason}; 2 in all. Mend the data or set data.rules.{rule}: drop."
    )


def test_identical_pair_is_found_before_it_can_be_a_duplicate(prepare: Prepare) -> None:
    pairs = [pair("Q", "A", "A"), pair("Q", "A", " A"), pair("Q", "A", "B")]
    assert reasons(prepare([], [pairs])) == [(1, "identical pair"), (2, "identical pair")]


@pytest.mark.parametrize(
    ("first", "second", "reason"),
    [
        (sft(LONG, OTHER), sft(NEARLY, OTHER), "near-duplicate"),
        (sft(LONG, OTHER), sft(NEARLY, NEARLY_OTHER), "near-duplicate"),
        (sft(LONG, OTHER), sft(LONG.upper() + "?", OTHER), "near-duplicate"),
        (sft(LONG, OTHER), sft(LONG.upper(), OTHER), "exact duplicate"),
        (sft(LONG, OTHER), sft(LONG, "Another answer."), None),
        (sft(LONG, OTHER), sft(OTHER, LONG), None),
        (sft("Name a prime.", "Seven."), sft("Name a prime!", "Seven."), "near-duplicate"),
        (sft("Name a prime.", "Seven."), sft("Name a cube.", "Seven."), None),
        (sft("What is 17 + 4?", "It is a number."), sft("What is 17 - 4?", "It is a number."), None),
        (sft("🙂", "👍"), sft("🙃", "👍"), None),
        (sft("今天天气怎么样?", "很好。"), sft("昨天天气怎么样?", "很好。"), None),
        (sft("今天天气怎么样?", "很好。"), sft("今天天气怎么样。", "很好。"), "near-duplicate"),
    ],
)
def test_rows_are_nearly_the_same_in_prompt_and_answer(
    first: Row, second: Row, reason: str | None, prepare: Prepare
) -> None:
    assert reasons(prepare([[first, second]])) == ([(2, reason)] if reason else [])


def asked(system: str, question: str, answer: str) -> Row:
    return {"system_prompt": system, "question": question, "answer": answer}


@pytest.mark.parametrize(
    ("first", "second", "reason"),
    [
        (asked(LONG, "Is it so?", "yes"), asked(OTHER, "Is it so?", "yes"), None),
        (asked(LONG, "Is it so?", "yes"), asked(NEARLY, "Is it so?", "yes"), "near-duplicate"),
        (asked(LONG, "Is it so?", "yes"), asked("", "Is it so?", "yes"), None),
        (asked(LONG, "Name a town.", "Bern"), asked(LONG, "Name a city.", "Bern"), None),
    ],
)
def test_system_prompts_and_questions_have_to_be_alike_both(
    first: Row, second: Row, reason: str | None, prepare: Prepare
) -> None:
    assert reasons(prepare([[first, second]])) == ([(2, reason)] if reason else [])


def test_rows_that_tell_in_the_system_prompt_what_is_asked_about_are_prompts_of_their_own(prepare: Prepare) -> None:
    rows = [asked(essay(n), "Is this review positive?", "yes") for n in range(20)]
    report = prepare([rows], evaluation_share=0.2).report
    assert fates(report.sources[0]) == {"train": 16, "eval": 4}


def test_same_prompt_with_another_answer_is_only_counted(prepare: Prepare) -> None:
    [ledger] = prepare([[sft(LONG, OTHER), sft(LONG, "No."), sft(LONG, "Yes."), sft("Q", "No.")]]).report.sources
    assert (fates(ledger), ledger.found, ledger.repeated_prompts) == ({"train": 4}, {}, 2)


def test_without_the_audit_nothing_is_nearly_the_same(prepare: Prepare) -> None:
    train = [sft(LONG, OTHER), sft(NEARLY, OTHER), sft("Q", "A")], {"split": "train"}
    held = [sft(NEARLY + "?", "x")], {"split": "test"}
    report = prepare([train, held], audit=False).report
    assert [fates(ledger) for ledger in report.sources] == [{"train": 3}, {"test": 1}]
    assert report.audit is None
    report = prepare([train, held]).report
    assert fates(report.sources[0]) == {"train": 1, "near-duplicate": 1, "leaked into evaluation": 1}


def test_rows_in_different_splits_are_not_held_against_each_other(prepare: Prepare) -> None:
    rows = [sft("Q", "A"), sft("Q", "A")]
    sources = [([*rows, sft(split, "A")], {"split": split}) for split in ("train", "eval", "test")]
    # each split drops its own second row; then test wins over eval and eval over train
    assert [fates(ledger) for ledger in prepare(sources).report.sources] == [
        {"train": 1, "exact duplicate": 1, "leaked into evaluation": 1},
        {"eval": 1, "exact duplicate": 1, "leaked into evaluation": 1},
        {"test": 2, "exact duplicate": 1},
    ]


def test_kinds_are_not_held_against_each_other(prepare: Prepare) -> None:
    report = prepare([[sft(LONG, OTHER)]], [[pair(LONG, OTHER, "No.")]]).report
    assert [fates(ledger) for ledger in report.sources] == [{"train": 1}, {"train": 1}]


def test_row_of_several_pairs_goes_where_its_kept_pairs_go(prepare: Prepare) -> None:
    def ranked(question: str, *answers: str) -> Row:
        scored = enumerate(reversed(answers), start=1)
        return {"question": question, "answers": [{"text": text, "pm_score": score} for score, text in scored]}

    # three answers are three pairs, best against worst first; of the second row the first pair is there already
    rows = [ranked("Q", "good", "bad"), ranked("Q", "good", "fair", "bad"), ranked("P", "x", "y", "z")]
    prepared = prepare([], [rows])
    [ledger] = prepared.report.sources
    assert (fates(ledger), ledger.examples) == ({"train": 3}, 1 + 2 + 3)
    assert placed_rows(prepared.preference) == {"train": [(0, 1), (0, 2), (0, 2), (0, 3), (0, 3), (0, 3)]}
    assert quarantined(prepared) == []


# Splits

WORDS = [f"{a}{b}{c}" for a in "bdfgklmnprst" for b in "aeiou" for c in "lmnrst"]


def essay(number: int, changed: str = "") -> str:
    """Return 60 words of its own; where one is changed, 57 of 61 shingles are shared at least, 0.92."""
    words = random.Random(number).choices(WORDS, k=60)
    return " ".join([*words[:-1], changed or words[-1]])


def held_out(prepared: PreparedRows, rows: list[Row], split: str = "eval") -> set[str]:
    return {rows[row - 1]["question"] for _, row in placed_rows(prepared.sft).get(split, [])}


def test_near_prompts_are_drawn_together(prepare: Prepare) -> None:
    rows = [sft(essay(n, changed), f"answer {changed} to {n}") for n in range(20) for changed in ("", "one", "two")]
    prepared = prepare([rows], evaluation_share=0.3, max_length=512)
    held = Counter((row - 1) // 3 for _, row in placed_rows(prepared.sft)["eval"])
    # 60 prompts in 20 clusters of three: 18 are held out, none of a cluster without the others
    assert sorted(held.values()) == [3] * 6
    assert fates(prepared.report.sources[0]) == {"train": 42, "eval": 18}


def test_split_is_the_same_in_any_order_of_the_rows(prepare: Prepare) -> None:
    rows = [sft(essay(n, changed), f"{n} {changed}") for n in range(15) for changed in ("", "one")]
    rows += [sft(f"Question {n}?", f"{n}") for n in range(30)]
    shuffled = random.Random(5).sample(rows, k=len(rows))
    first, second = (prepare([own], evaluation_share=0.2, test_share=0.1, seed=3) for own in (rows, shuffled))
    for split, number in (("eval", 12), ("test", 6)):
        assert held_out(first, rows, split) == held_out(second, shuffled, split)
        assert len(held_out(first, rows, split)) == number  # of 60 prompts


def test_a_further_row_moves_few_others(prepare: Prepare) -> None:
    rows = [sft(f"Question {n}?", f"{n}") for n in range(100)]
    more = [*rows, sft("One more?", "Yes.")]
    first, second = (held_out(prepare([own], evaluation_share=0.2, seed=1), own) for own in (rows, more))
    assert len(first) == 20
    assert len(first & second) >= 19


@pytest.mark.parametrize(
    ("prompts", "evaluation", "test", "expected"),
    [
        (50, 0.1, 0.0, {"train": 45, "eval": 5}),
        (50, 0.0, 0.1, {"train": 45, "test": 5}),
        (50, 0.5, 0.49, {"train": 1, "eval": 25, "test": 24}),  # round(24.5) is 24
        (3, 0.1, 0.1, {"train": 1, "eval": 1, "test": 1}),
        (2, 0.1, 0.1, {"train": 1, "test": 1}),
        (1, 0.1, 0.1, {"train": 1}),
        (50, 0.0, 0.0, {"train": 50}),
    ],
)
def test_shares_are_of_the_prompts(
    prompts: int, evaluation: float, test: float, expected: dict[str, int], prepare: Prepare
) -> None:
    rows = [sft(f"Question {n}?", str(n)) for n in range(prompts)]
    report = prepare([rows], evaluation_share=evaluation, test_share=test).report
    assert fates(report.sources[0]) == expected


def test_rows_without_a_split_stay_with_the_given_rows_of_their_prompt(prepare: Prepare) -> None:
    rows = [sft(f"Question {n}?", "free") for n in range(20)]
    given = ([sft(f"question {n}?", "given") for n in range(10)], {"split": "eval"})
    report = prepare([rows, given], evaluation_share=0.5).report
    # ten prompts are free, five of them are held out; the rows of the ten given ones leave train as leaks
    assert [fates(ledger) for ledger in report.sources] == [
        {"train": 5, "eval": 5, "leaked into evaluation": 10},
        {"eval": 10},
    ]


def test_near_leaks_leave_the_training_rows_too(prepare: Prepare) -> None:
    train = ([sft(LONG, "1"), sft(OTHER, "2"), sft("Q", "3")], {"split": "train"})
    held = ([sft(NEARLY, "4"), sft("P", "4")], {"split": "eval"})
    tested = ([sft(NEARLY_OTHER, "5"), sft(LONG + "!", "6")], {"split": "test"})
    prepared = prepare([train, held, tested])
    assert placed_rows(prepared.sft) == {"train": [(0, 3)], "eval": [(1, 2)], "test": [(2, 1), (2, 2)]}
    with pytest.raises(DataError) as caught:
        prepare([train, tested], rules={"leak": "error"})
    assert str(caught.value) == (
        "sft-0.jsonl, line 1: leaked into evaluation; 2 in all. Mend the data or set data.rules.leak: drop."
    )


def test_conversation_leaks_by_its_opening(prepare: Prepare) -> None:
    train = ([chat("a", "1", "b", "2"), chat("b", "1"), chat("c", "1", "a", "2")], {"split": "train"})
    held = ([chat("A", "x", "z", "y")], {"split": "test"})
    pairs = ([pair("a", "C", "R"), pair("b", "C", "R")], {"split": "train"})
    report = prepare([train, held], [pairs]).report
    assert [fates(ledger) for ledger in report.sources] == [
        {"train": 2, "leaked into evaluation": 1},
        {"test": 1},
        {"train": 1, "leaked into evaluation": 1},
    ]


def table_of(*rows: tuple[int, int, int]) -> Fates:
    """Return examples of (prompt key, opening key, split)."""
    table = np.zeros(len(rows), dtype=RECORD)
    table["prompt"], table["opening"], table["placed"] = np.array(rows, dtype=np.int64).reshape(-1, 3).T
    none = np.zeros(0, dtype=np.int64)
    return Fates(
        table,
        none,
        none.astype(np.uint64),
        [FileSource(path="rows.jsonl")],
        lambda source, row: f"rows.jsonl, line {row}",
    )


def test_proof_fails_where_a_held_out_prompt_stands_in_train() -> None:
    clean = table_of((1, 1, TRAIN), (2, 2, EVAL), (3, 3, TEST))
    prove_splits(clean)
    for leaking in (table_of((1, 1, TRAIN), (1, 1, EVAL)), table_of((7, 1, TEST), (7, 2, TRAIN), (7, 3, TRAIN))):
        with pytest.raises(ProofError, match=r"1 held-out prompts stand in a train split; nothing was trained"):
            prove_splits(leaking)


@pytest.mark.parametrize(("turn_of", "prompt_of"), [(TRAIN, EVAL), (TEST, TRAIN)])
def test_proof_looks_at_every_turn(turn_of: int, prompt_of: int) -> None:
    fates = table_of((10, 1, turn_of), (20, 2, prompt_of))
    fates.turn_example, fates.turn_key = np.array([0]), np.array([20], dtype=np.uint64)
    with pytest.raises(ProofError, match="1 held-out prompts"):
        prove_splits(fates)
    fates.reason[0] = 0  # a dropped example proves nothing
    prove_splits(fates)


def test_drawing_needs_no_examples() -> None:
    fates = table_of()
    draw_splits(fates, DataConfig(), None, 0)
    prove_splits(fates)
    assert len(fates.split) == 0


def test_dropped_rows_hold_no_prompt_out(prepare: Prepare) -> None:
    # a held-out row that is dropped before splits are drawn takes no training row with it
    train, held = ([sft("a", "1")], {"split": "train"}), ([sft("a", ""), sft("b", "2")], {"split": "test"})
    report = prepare([train, held]).report
    assert [fates(ledger) for ledger in report.sources] == [{"train": 1}, {"empty answer": 1, "test": 1}]


def test_questions_are_every_distinct_held_out_prompt_and_64_of_train(prepare: Prepare) -> None:
    rows = [sft(f"Question {n // 2}?", str(n)) for n in range(240)]
    prepared = prepare([rows], evaluation_share=0.25)
    assert {split: n for split, n in prepared.questions.rows.items() if n} == {"train": 64, "eval": 30}
    units = [q["unit"] for split in ("train", "eval") for q in questions_of(prepared, split)]
    assert len(set(units)) == 94
    asked = {json.loads(q["prompt"])[0]["content"] for q in questions_of(prepared, "eval")}
    assert asked == held_out(prepared, rows)
    sampled = prepare([rows], evaluation_share=0.25, sample={"checker": "exact"})
    assert sampled.questions.rows["train"] == 90


def questions_of(prepared: PreparedRows, split: str) -> list[Row]:
    from llm_engineering.data.rowsets import read_rows

    return [dict(row) for row in read_rows(prepared.questions, split)]


def test_one_character_written_in_two_ways_is_the_same(prepare: Prepare) -> None:
    report = prepare([[sft("Caf\u00e9?", "Oui."), sft("Cafe\u0301?", "Oui.")]]).report
    assert fates(report.sources[0]) == {"train": 1, "exact duplicate": 1}
