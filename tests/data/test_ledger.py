"""Every row has one fate, and dropped rows stand in the quarantine once."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
from prepared import LONG, Prepare, Row, chat, fates, pair, placed_rows, prepare_in, quarantined, sft
from pydantic import ValidationError

from llm_engineering.config.data import DataConfig
from llm_engineering.data.loading import load_raw_rows
from llm_engineering.data.preparation import prepare_rows
from llm_engineering.errors import DataError
from llm_engineering.models.chat import ChatTokenizer
from llm_engineering.reports.data import DropReason, SourceLedger

PAIRS: list[tuple[Any, DropReason | None]] = [
    (pair("Q", "A", "B"), None),
    ("{broken", "unparsable"),
    ("[1]", "unparsable"),
    (pair("Q1", "A", 3), "not text"),
    ({"prompt": "Q2", "chosen": "A"}, "not text"),
    (pair([{"role": "assistant", "content": "Hi"}], "A", "B"), "bad role order"),
    (pair("Q3", "", "B"), "empty answer"),
    (pair("Q", "A", "A"), "identical pair"),
    (pair("Q", "B", "A"), "contradictory pair"),
    (pair("q", "A", "B"), "exact duplicate"),
    (pair("Q?", "A", "B."), "near-duplicate"),
    (pair("held out", "A", "B"), "leaked into evaluation"),
    (pair("Q4", "A<|im_end|>", "B"), "special token in text"),
    (pair([{"role": "user", "content": "Hi"}, {"role": "tool", "content": "18"}], "A", "B"), "bad role order"),
    (pair("Q5", "A" * 300, "B"), "too long"),
    (pair(" \u200b", "A", "B"), "empty prompt"),
    (pair("Q7", "A", "\u200b\ufeff"), "empty answer"),
    (pair("Q6", "A", "B"), None),
]
HELD = ([pair("Held out", "C", "D")], {"split": "test"})


def test_row_of_every_kind_is_counted_and_put_aside_once(prepare: Prepare) -> None:
    rows = [row for row, _ in PAIRS]
    prepared = prepare([], [rows, HELD], max_length=100, too_long="drop")
    expected = [(number, reason) for number, (_, reason) in enumerate(PAIRS, start=1) if reason]
    lines = quarantined(prepared)
    assert [(line["row"], line["reason"]) for line in lines] == expected
    ledger = prepared.report.sources[0]
    assert ledger.dropped == {reason: [r for _, r in expected].count(reason) for _, reason in expected}
    assert (ledger.rows, ledger.train) == (18, 2)
    assert placed_rows(prepared.preference) == {"train": [(0, 1), (0, 18)], "test": [(1, 1)]}
    assert {line["source"] for line in lines} == {"preference-0.jsonl"}
    for line, (number, reason) in zip(lines, expected, strict=True):
        assert line["place"] == f"preference-0.jsonl, line {number}"
        assert line["detail"]
        assert line["data"] == (None if rows[number - 1] == "{broken" else as_read(rows[number - 1]))
        if lines.index(line) == [r for _, r in expected].index(reason):
            assert ledger.first_problem[reason] == f"{line['place']}: {line['detail']}"


def as_read(row: Any) -> Any:
    return json.loads(row) if isinstance(row, str) else row


def test_reasons_that_come_from_the_configuration_are_put_aside_too(prepare: Prepare) -> None:
    shp = {"history": "Q", "human_ref_A": "A", "human_ref_B": "B", "labels": 1}
    rows = [{**shp, "history": f"Q{n}", "score_ratio": n} for n in (1, 2, 3, 4)]
    prepared = prepare([], [(rows, {"min_score_ratio": 2, "count": 1})])
    assert fates(prepared.report.sources[0]) == {"train": 1, "filtered by rule": 1, "over the mix": 2}
    assert sorted(line["reason"] for line in quarantined(prepared)) == ["filtered by rule"] + ["over the mix"] * 2


def test_row_that_the_template_refuses_is_put_aside(chats: Callable[[str], ChatTokenizer], tmp_path: Path) -> None:
    # Alpaca's template, which gpt2 gets, has no place for tools
    calls = [{"type": "function", "function": {"name": "f", "arguments": {}}}]
    row = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "", "tool_calls": calls}]}
    prepared = prepare_in(tmp_path, chats("gpt2"), [[row, chat("a", "b")]], [], 0)
    assert [(line["row"], line["reason"]) for line in quarantined(prepared)] == [(1, "not renderable")]


def test_the_reasons_above_are_all_there_are() -> None:
    shown = {reason for _, reason in PAIRS} - {None}
    assert shown | {"filtered by rule", "over the mix", "not renderable"} == set(get_args(DropReason))


def test_row_of_several_pairs_counts_once(prepare: Prepare) -> None:
    def ranked(question: str, *scores: int) -> Row:
        answers = [{"text": f"{question} {score}", "pm_score": score} for score in scores]
        return {"question": question, "answers": answers}

    rows = [ranked("a", 3, 2, 1), ranked("b", 2, 1), ranked("c", 1, 1), ranked("d", 4, 3, 2, 1)]
    prepared = prepare([], [rows])
    [ledger] = prepared.report.sources
    # 3, 1, 0 and 6 pairs
    assert (fates(ledger), ledger.examples) == ({"train": 3, "filtered by rule": 1}, 10)
    assert ledger.repeated_prompts == 2 + 0 + 5
    assert prepared.preference.rows["train"] == 10
    [only] = quarantined(prepared)
    assert (only["row"], only["data"]) == (3, rows[2])
    [ledger] = prepare([], [(rows, {"max_pairs_per_prompt": 2})]).report.sources
    assert (fates(ledger), ledger.examples) == ({"train": 3, "filtered by rule": 1}, 2 + 1 + 2)


def test_row_is_dropped_where_all_its_pairs_are_and_named_by_the_first_reason(prepare: Prepare) -> None:
    row = {"question": "a", "answers": [{"text": text, "pm_score": score} for text, score in (("x", 2), ("y", 1))]}
    prepared = prepare([], [[row, row]])
    assert [(line["row"], line["reason"]) for line in quarantined(prepared)] == [(2, "exact duplicate")]


def test_fates_that_do_not_add_up_are_refused() -> None:
    facts: dict[str, Any] = {"kind": "sft", "source": "s", "format": "f"}
    SourceLedger(**facts, rows=6, train=1, eval=1, test=1, dropped={"too long": 2, "unparsable": 1})
    with pytest.raises(ValidationError, match="7 rows read, 6 accounted for"):
        SourceLedger(**facts, rows=7, train=1, eval=1, test=1, dropped={"too long": 2, "unparsable": 1})


def test_quarantine_of_a_printed_list_is_one_object_a_line(
    chats: Callable[[str], ChatTokenizer], tmp_path: Path
) -> None:
    rows = [sft("Q", "A"), sft("Q\n\u2028", "\r\n", more={"a": [1, "\t"]}), sft("Ünïcode 🙂", "")]
    (tmp_path / "rows.json").write_text(json.dumps(rows, indent=4).replace("\n", "\r\n"), newline="")
    data = DataConfig.model_validate({"sft": [{"path": str(tmp_path / "rows.json")}], "max_dropped_share": 1})
    prepared = prepare_rows(load_raw_rows(data, 0, tmp_path / "raw"), data, chats("llama"), 0, tmp_path / "prepared")
    assert [line["data"] for line in quarantined(prepared)] == rows[1:]
    assert (prepared.quarantine.path / "quarantine.jsonl").read_bytes().count(b"\n") == 2


@pytest.mark.parametrize(("share", "stops"), [(0.3, True), (0.39, True), (0.4, False), (1.0, False)])
def test_run_stops_where_more_rows_are_faulty_than_allowed(share: float, stops: bool, prepare: Prepare) -> None:
    rows = [sft("Q", "A"), sft("Q", ""), sft("Q", "A"), sft("P", "A"), sft("R", "A")]
    if not stops:
        assert fates(prepare([rows], max_dropped_share=share).report.sources[0])["train"] == 3
        return
    with pytest.raises(DataError) as caught:
        prepare([rows], max_dropped_share=share)
    assert str(caught.value) == (
        f"sft-0.jsonl: 2 of 5 rows were dropped, more than data.max_dropped_share {share:.0%} allows: 1 empty answer "
        "(first sft-0.jsonl, line 2: answer is empty), 1 exact duplicate (first sft-0.jsonl, line 3: an earlier row "
        "has the same prompt and answers). Mend the data or raise the share."
    )


@pytest.mark.parametrize(("faulty", "rows", "share"), [(29, 100, 0.29), (7, 100, 0.07), (57, 100, 0.57)])
def test_just_the_allowed_share_does_not_stop_the_run(faulty: int, rows: int, share: float, prepare: Prepare) -> None:
    # 0.29 * 100 is 28.999999999999996 in floating point
    lines = [sft(f"Question {n}?", "" if n < faulty else str(n)) for n in range(rows)]
    assert fates(prepare([lines], max_dropped_share=share, audit=False).report.sources[0])["train"] == rows - faulty


def test_rows_that_the_configuration_leaves_out_do_not_stop_the_run(prepare: Prepare) -> None:
    rows = [sft(f"Question {n}?", str(n)) for n in range(20)]
    report = prepare([(rows, {"count": 1})], max_dropped_share=0.0).report
    assert fates(report.sources[0]) == {"train": 1, "over the mix": 19}


def test_kept_findings_do_not_stop_the_run(prepare: Prepare) -> None:
    report = prepare([[sft("Q", "A")] * 4], max_dropped_share=0.0, rules={"exact_duplicate": "keep"}).report
    assert (fates(report.sources[0]), report.sources[0].found) == ({"train": 4}, {"exact duplicate": 3})


def test_each_source_is_held_against_the_share(prepare: Prepare) -> None:
    good, bad = [sft(f"Question {n}?", str(n)) for n in range(98)], [sft("P", "A"), sft("Q", "")]
    with pytest.raises(DataError, match=r"^sft-1\.jsonl: 1 of 2 rows were dropped, more than .* 20% allows"):
        prepare([good, bad], max_dropped_share=0.2)


def test_too_long_rows_stop_the_run_where_so_configured(prepare: Prepare) -> None:
    with pytest.raises(DataError) as caught:
        prepare([[sft("Q", "A"), sft(LONG, "A")]], max_length=64, too_long="error")
    # 19 + 155 + 1 + 1
    assert len(LONG) == 155
    assert "sft-0.jsonl, line 2 has 176 tokens; data.max_length is 64. Raise it, or set data.too_long to" in str(
        caught.value
    )


def test_nothing_left_stops_the_run(prepare: Prepare) -> None:
    with pytest.raises(DataError, match=r"sft-0\.jsonl: no rows are left, all 2 were dropped: 2 empty answer"):
        prepare([[sft("Q", ""), sft("P", "")]])
    with pytest.raises(DataError, match=r"No preference rows are left to train on"):
        prepare([[sft("Q", "A")]], [([pair("P", "A", "B")], {"min_score_ratio": 1, "split": "eval"})])
    shp = {"history": "Q", "human_ref_A": "A", "human_ref_B": "B", "labels": 1, "score_ratio": 1.5}
    with pytest.raises(DataError, match=r"No preference rows are left to train on"):
        prepare([], [([shp], {"min_score_ratio": 2})])


def test_tokens_lost_add_up(prepare: Prepare) -> None:
    rows = [sft("x" * n, "y" * m) for n, m in ((5, 5), (80, 5), (5, 80), (80, 80), (40, 3))]
    prepared = prepare([rows], max_length=64)
    [ledger] = prepared.report.sources
    whole = sum(20 + len(row["question"]) + len(row["answer"]) for row in rows)
    assert whole - prepared.report.tokens["sft/train"] == ledger.tokens_lost
    trained = sum(1 + len(row["answer"]) for row in rows)
    assert trained - prepared.report.trained_tokens["sft/train"] == ledger.trained_tokens_lost
    assert (ledger.truncated, ledger.answers_cut) == (3, 2)


def test_examples_and_shares_of_sources_are_those_of_the_training_rows(prepare: Prepare) -> None:
    first, second = ([sft(f"{name} {n}?", str(n)) for n in range(number)] for name, number in (("a", 30), ("b", 10)))
    prepared = prepare([first, second, ([sft("c", "d")], {"split": "test"})])
    assert [ledger.share for ledger in prepared.report.sources] == [0.75, 0.25, 0.0]
    assert [ledger.examples for ledger in prepared.report.sources] == [30, 10, 1]


def test_pair_whose_answers_differ_only_in_what_is_cut_teaches_nothing(prepare: Prepare) -> None:
    rows = [pair("P", "y" * 90 + "a", "y" * 90 + "b"), pair("Q", "a", "b")]
    prepared = prepare([], [rows], max_length=64, max_dropped_share=1)
    [line] = quarantined(prepared)
    assert (line["row"], line["reason"]) == (1, "too long")
    assert line["detail"] == "its answers are the same within data.max_length 64"


def test_conversations_that_differ_in_their_tools_alone_are_no_duplicates(prepare: Prepare) -> None:
    tools = [{"name": name, "parameters": {"type": "object"}} for name in ("f", "g")]
    prepared = prepare([[{**chat("a", "b"), "tools": [tool]} for tool in tools]])
    assert fates(prepared.report.sources[0]) == {"train": 2}


def test_columns_that_only_the_last_rows_have_are_used(prepare: Prepare) -> None:
    rows = [sft(f"Question number {n}?", f"Answer number {n}.") for n in range(1200)]
    rows += [sft(f"Held out {n}?", "Yes.", split="test", other=1) for n in range(3)]
    report = prepare([rows], rules={"near_duplicate": "keep"}).report
    assert fates(report.sources[0]) == {"train": 1200, "test": 3}
    assert report.notes == ["sft-0.jsonl: columns that the format question_answer does not use: other."]


def test_row_of_more_than_a_million_characters_is_too_long_unseen(prepare: Prepare) -> None:
    rows = [sft("Q", "A"), sft("P", "x " * 500_001)]
    [line] = quarantined(prepare([rows], max_dropped_share=1))
    assert (line["row"], line["reason"]) == (2, "too long")
    assert line["detail"].startswith("1,000,0")
    with pytest.raises(DataError, match=r"sft-0\.jsonl, line 2 is too long"):
        prepare([rows], too_long="error")


def test_sources_of_one_name_are_told_apart_by_their_folders(
    chats: Callable[[str], ChatTokenizer], tmp_path: Path
) -> None:
    for folder, text in (("x", "A"), ("y", "B")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "z.jsonl").write_text(json.dumps(sft(f"Q {text}", text)) + "\n" + json.dumps(sft("", "")))
    paths = [{"path": str(tmp_path / folder / "z.jsonl")} for folder in ("x", "y")]
    data = DataConfig.model_validate({"sft": paths, "max_dropped_share": 1, "evaluation_share": 0})
    raw = load_raw_rows(data, 0, tmp_path / "raw")
    prepared = prepare_rows(raw, data, chats("llama"), 0, tmp_path / "rows")
    assert [source.source for source in prepared.report.sources] == ["x/z.jsonl", "y/z.jsonl"]
    assert [line["source"] for line in quarantined(prepared)] == ["x/z.jsonl", "y/z.jsonl"]


def test_source_without_an_object_says_what_its_rows_are(prepare: Prepare) -> None:
    with pytest.raises(DataError, match=r"sft-0\.jsonl has no row that is a JSON object \(last looked at sft-0"):
        prepare([["[1]", "{broken"]])
