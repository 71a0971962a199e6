"""How much of every source is trained on, as asked and as obtained."""

from collections import Counter
from typing import Any

import pytest
from prepared import Prepare, Row, fates, pair, placed_rows, quarantined, sft

from llm_engineering.data.preparation import PreparedRows


def rows(name: str, number: int) -> list[Row]:
    return [sft(f"{name} {n}?", f"{name}{n}") for n in range(number)]


def shp(prompt: str, number: int, ratio: float | None) -> Row:
    return {"history": prompt, "human_ref_A": f"A{number}", "human_ref_B": "B", "labels": 1, "score_ratio": ratio}


def obtained(prepared: PreparedRows) -> list[int]:
    return [ledger.examples for ledger in prepared.report.sources]


@pytest.mark.parametrize(
    ("weights", "numbers", "expected"),
    [
        ((2, 1), (40, 40), [40, 20]),
        ((2, 1), (40, 10), [20, 10]),
        ((2, 1), (40, 20), [40, 20]),
        ((0.5, 0.25), (40, 10), [20, 10]),
        ((1, 1, 2), (10, 20, 30), [10, 10, 20]),
        ((1, 3), (10, 10), [3, 10]),  # 10 / 3 is rounded
        ((5,), (7,), [7]),
        ((1, 100), (10, 10), [0, 10]),
    ],
)
def test_weights_give_their_ratio_and_nothing_twice(
    weights: tuple[float, ...], numbers: tuple[int, ...], expected: list[int], prepare: Prepare
) -> None:
    sources = [(rows("abc"[i], n), {"weight": w}) for i, (n, w) in enumerate(zip(numbers, weights, strict=True))]
    prepared = prepare(sources)
    assert obtained(prepared) == expected
    placed = placed_rows(prepared.sft)["train"]
    assert len(set(placed)) == len(placed) == sum(expected)
    for ledger, number, weight, kept in zip(prepared.report.sources, numbers, weights, expected, strict=True):
        assert fates(ledger) == {k: v for k, v in (("train", kept), ("over the mix", number - kept)) if v}
        assert ledger.asked == f"weight {weight:g}"
        mixed = sum(map(bool, expected)) > 1
        assert ledger.share == (pytest.approx(kept / sum(expected)) if mixed else None)
    assert Counter(line["reason"] for line in quarantined(prepared))["over the mix"] == sum(numbers) - sum(expected)


def test_weights_count_what_the_rules_have_left(prepare: Prepare) -> None:
    first = [*rows("a", 10), *rows("a", 10), sft("a", "")]
    prepared = prepare([(first, {"weight": 1}), (rows("b", 30), {"weight": 2})])
    assert [fates(ledger) for ledger in prepared.report.sources] == [
        {"train": 10, "exact duplicate": 10, "empty answer": 1},
        {"train": 20, "over the mix": 10},
    ]


def test_count_takes_so_many_training_examples(prepare: Prepare) -> None:
    prepared = prepare([(rows("a", 30), {"count": 12}), (rows("b", 5), {"count": 12}), rows("c", 3)])
    assert obtained(prepared) == [12, 5, 3]
    assert [ledger.asked for ledger in prepared.report.sources] == ["count 12", "count 12", None]
    assert [ledger.share for ledger in prepared.report.sources] == [0.6, 0.25, 0.15]
    assert [note for note in prepared.report.notes if "asked" in note] == [
        "sft-1.jsonl: 12 training examples were asked for, 5 are there."
    ]


def test_what_is_taken_is_drawn_by_the_seed_and_in_the_order_of_the_rows(prepare: Prepare) -> None:
    def taken(seed: int, *sources: Any) -> list[tuple[int, int]]:
        return placed_rows(prepare(sources, seed=seed).sft)["train"]

    source = (rows("a", 100), {"count": 20})
    assert taken(1, source) == taken(1, source) == sorted(taken(1, source))
    assert taken(1, source) != taken(2, source)
    assert max(row for _, row in taken(1, source)) > 50
    assert taken(1, source) == taken(1, source, rows("b", 10))[:20]  # other sources change nothing


def test_held_out_rows_are_not_mixed(prepare: Prepare) -> None:
    placed = [sft("x", "1", split="eval"), sft("y", "1", split="test")]
    prepared = prepare([([*rows("a", 20), *placed], {"count": 5}), rows("b", 10)])
    assert fates(prepared.report.sources[0]) == {"train": 5, "eval": 1, "test": 1, "over the mix": 15}
    drawn = prepare([(rows("a", 40), {"weight": 1}), (rows("b", 40), {"weight": 4})], evaluation_share=0.25)
    first, second = (fates(ledger) for ledger in drawn.report.sources)
    assert first["eval"] + second["eval"] == 20
    assert second["train"] == 40 - second["eval"]
    assert first["train"] == round(second["train"] / 4)


def test_kinds_are_mixed_apart(prepare: Prepare) -> None:
    pairs = [pair(f"p {n}?", "C", "R") for n in range(6)]
    prepared = prepare([(rows("a", 10), {"weight": 1}), (rows("b", 10), {"weight": 2})], [pairs])
    assert obtained(prepared) == [5, 10, 6]
    assert [ledger.share for ledger in prepared.report.sources] == [pytest.approx(1 / 3), pytest.approx(2 / 3), None]


@pytest.mark.parametrize(
    ("least", "kept"),
    [(1.0, [1, 2, 3, 4, 5, 6]), (1.3, [2, 3, 4, 5, 6]), (1.31, [3, 4, 5, 6]), (3, [5, 6]), (4, [6])],
)
def test_pairs_with_a_smaller_score_ratio_are_left_out(least: float, kept: list[int], prepare: Prepare) -> None:
    ratios = [1.0, 1.3, 1.4, 2.9999, 3.0, None]
    pairs = [shp(f"Question {n}?", n, ratio) for n, ratio in enumerate(ratios)]
    prepared = prepare([], [(pairs, {"min_score_ratio": least, "format": "shp"})])
    assert placed_rows(prepared.preference)["train"] == [(0, number) for number in kept]
    left_out = {"filtered by rule": 6 - len(kept)} if len(kept) < 6 else {}
    assert fates(prepared.report.sources[0]) == {"train": len(kept), **left_out}


def test_only_the_first_pairs_of_a_prompt_are_taken_weak_ones_left_aside(prepare: Prepare) -> None:
    pairs = [shp("P", 0, 1.1), shp("P", 1, 2), shp("p ", 2, 3), shp("Q", 3, 2), shp("P", 4, 5), shp("Q", 5, 2)]
    prepared = prepare([], [(pairs, {"min_score_ratio": 1.5, "max_pairs_per_prompt": 2})])
    assert placed_rows(prepared.preference)["train"] == [(0, 2), (0, 3), (0, 4), (0, 6)]
    assert [(line["row"], line["reason"]) for line in quarantined(prepared)] == [
        (1, "filtered by rule"),
        (5, "filtered by rule"),
    ]


def test_number_of_pairs_is_counted_in_every_source(prepare: Prepare) -> None:
    first, second = ([shp("P", n, 2) for n in numbers] for numbers in ((1, 2), (3, 4)))
    prepared = prepare([], [(first, {"max_pairs_per_prompt": 1}), (second, {"max_pairs_per_prompt": 1})])
    assert placed_rows(prepared.preference)["train"] == [(0, 1), (1, 1)]


def test_chosen_answers_of_weak_pairs_are_no_conversations(prepare: Prepare) -> None:
    pairs = [shp("P", 0, 1.1), shp("Q", 1, 2)]
    prepared = prepare([(pairs, {"min_score_ratio": 1.5})])
    assert placed_rows(prepared.sft)["train"] == [(0, 2)]
