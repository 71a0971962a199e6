"""Whatever the rows are, none vanishes, none leaks, and nothing but a sentence stops a run."""

import json
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prepared import LONG, OTHER, Row, chat, pair, placed_rows, prepare_in, quarantined, sft

from llm_engineering.config.data import FileSource
from llm_engineering.data import loading
from llm_engineering.data.examples import opening
from llm_engineering.data.formats import choose_format
from llm_engineering.data.preparation import PreparedRows
from llm_engineering.data.rowsets import read_rows
from llm_engineering.errors import DataError
from llm_engineering.models.chat import ChatTokenizer

# Few different texts, so that duplicates, contradictions and leaks are frequent
TEXTS = st.one_of(
    st.sampled_from(["a", "A ", "b", "c", "good one", "bad one", LONG, f"{LONG[:-4]}under", OTHER]),
    st.sampled_from(
        ["", " ", "!", "🙂", "<|im_end|>", "a<|im_start|>user\n", "\x00", "\ud800", "\ufffd\ufffd", "今天天气"]
    ),
    st.text(max_size=8),
)
VALUES = st.recursive(
    st.one_of(TEXTS, st.none(), st.booleans(), st.integers(), st.floats()),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXTS, inner, max_size=2)),
    max_leaves=4,
)
TURN = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "user", "assistant", "assistant", "system", "tool", "judge"]), "content": TEXTS}
)
TALK = st.lists(TEXTS, min_size=2, max_size=6).map(lambda texts: chat(*texts)["messages"])
CELLS = st.one_of(TEXTS, TEXTS, TALK, st.lists(TURN, max_size=4), VALUES)
SCORED = st.lists(st.fixed_dictionaries({"text": TEXTS, "pm_score": st.integers(-1, 3)}), max_size=4)
EXTRAS = {"reference": VALUES, "unit": VALUES, "split": st.sampled_from(["train", "eval", "test", None, ""])}
NO_ROWS = st.one_of(
    VALUES.map(json.dumps),
    st.sampled_from(["{", "NaN", '{"a": ', "\x00", '"\\ud800"', "[" * 500, '{"question": ' + "9" * 5000 + "}"]),
)
GOOD: dict[str, Callable[[int], Row]] = {
    "question": lambda n: sft(f"q {n}", f"a {n}"),
    "messages": lambda n: chat(f"q {n}", "a", f"b {n}", "c"),
    "instruction": lambda n: {"instruction": f"q {n}", "output": f"a {n}"},
    "prompt": lambda n: pair(f"q {n}", f"c {n}", "r"),
    "answers": lambda n: {
        "question": f"q {n}",
        "answers": [{"text": f"{score} {n}", "pm_score": score} for score in (3, 2, 1)],
    },
    "labels": lambda n: {"history": f"q {n}", "human_ref_A": "A", "human_ref_B": "B", "labels": 1, "score_ratio": n},
}


def rows_of(kind: str, required: dict[str, Any], optional: dict[str, Any]) -> Any:
    """Return a strategy of a source: six good rows among rows with a format's columns, any JSON, and what is none."""
    good = [GOOD[kind](number) for number in range(6)]
    rows = st.one_of(
        st.fixed_dictionaries(required),
        st.fixed_dictionaries(required, optional={**optional, **EXTRAS}),
        st.dictionaries(st.sampled_from([*required, *optional]), CELLS),
        st.sampled_from(good),
        NO_ROWS,
    )
    return st.lists(rows, max_size=10).map(lambda drawn: [*good[:3], *drawn, *good[3:]])


SFT = st.one_of(
    rows_of("question", {"question": TEXTS, "answer": TEXTS}, {"system_prompt": CELLS}),
    rows_of("instruction", {"instruction": TEXTS, "output": TEXTS}, {"input": CELLS, "system": CELLS}),
    rows_of("messages", {"messages": TALK}, {"tools": CELLS}),
    rows_of("prompt", {"prompt": TEXTS, "chosen": TEXTS, "rejected": TEXTS}, {}),
)
PREFERENCE = st.one_of(
    rows_of("prompt", {"prompt": TEXTS, "chosen": TEXTS, "rejected": TEXTS}, {"system": CELLS}),
    rows_of("prompt", {"prompt": CELLS, "chosen": CELLS, "rejected": CELLS}, {}),
    rows_of("answers", {"question": TEXTS, "answers": SCORED}, {}),
    rows_of(
        "labels",
        {"history": TEXTS, "human_ref_A": TEXTS, "human_ref_B": TEXTS, "labels": st.sampled_from([0, 1, 2])},
        {"score_ratio": CELLS},
    ),
)
SETTINGS = st.fixed_dictionaries(
    {},
    optional={
        "split": st.sampled_from(["train", "eval", "test"]),
        "count": st.integers(1, 5),
        "truncate": st.sampled_from(["keep_start", "keep_end"]),
        "min_score_ratio": st.sampled_from([1, 2]),
        "max_pairs_per_prompt": st.integers(1, 2),
    },
)
FINDING = st.sampled_from(["drop", "drop", "keep"])
RULES = st.fixed_dictionaries(
    {
        "max_length": st.sampled_from([24, 64, 256]),
        "too_long": st.sampled_from(["truncate_prompt", "truncate_prompt", "drop"]),
        "train_on": st.sampled_from(["all_turns", "last_turn"]),
        "audit": st.booleans(),
        "evaluation_share": st.sampled_from([0.0, 0.2]),
        "test_share": st.sampled_from([0.0, 0.2]),
        "rules": st.fixed_dictionaries(
            {"contradictory_pair": FINDING, "exact_duplicate": FINDING, "near_duplicate": FINDING}
        ),
    }
)


def sources_of(rows: Any) -> Any:
    return st.lists(st.tuples(rows, SETTINGS), max_size=2)


@settings(max_examples=80, deadline=None, derandomize=True)
@given(conversations=sources_of(SFT), pairs=sources_of(PREFERENCE), rules=RULES)
def test_whatever_the_rows_are_none_vanishes_and_none_leaks(
    chats: Callable[[str], ChatTokenizer],
    conversations: list[tuple[list[Any], Row]],
    pairs: list[tuple[list[Any], Row]],
    rules: Row,
) -> None:
    if not conversations and not pairs:
        return
    with tempfile.TemporaryDirectory() as folder:
        try:
            prepared = prepare_in(Path(folder), chats("llama"), conversations, pairs, 0, **rules)
        except DataError:
            return
        check_books(prepared, [rows for rows, _ in [*conversations, *pairs]])
        check_tokens(prepared, chats("llama").tokenizer.eos_token_id, rules["max_length"])
        check_splits(prepared, [rows for rows, _ in conversations], [rows for rows, _ in pairs])


def check_books(prepared: PreparedRows, sources: list[list[Any]]) -> None:
    """Every line of a source is either stored or in the quarantine, once, and the ledger counts it so."""
    kept = [Counter[str]() for _ in sources]
    examples = Counter[int]()
    where: dict[tuple[int, int], str] = {}
    for rows in (prepared.sft, prepared.preference):
        for split, places in placed_rows(rows).items():
            for source, number in places:
                examples[source] += 1
                assert where.setdefault((source, number), split) == split
    for (source, _), split in where.items():
        kept[source][split] += 1
    names = [ledger.source for ledger in prepared.report.sources]
    dropped = [Counter[str]() for _ in sources]
    for line in quarantined(prepared):
        source = names.index(line["source"])
        dropped[source][line["reason"]] += 1
        assert (source, line["row"]) not in where
        assert where.setdefault((source, line["row"]), "quarantine") == "quarantine"
    for index, (ledger, rows) in enumerate(zip(prepared.report.sources, sources, strict=True)):
        lines = sum(1 for row in rows if not isinstance(row, str) or row.strip(" \t\n\r"))
        assert ledger.rows == lines
        assert sorted(number for source, number in where if source == index) == list(range(1, lines + 1))
        assert Counter({split: getattr(ledger, split) for split in ("train", "eval", "test")}) == kept[index]
        assert ledger.dropped == dropped[index]
        assert ledger.examples == examples[index]
        assert set(ledger.first_problem) == set(ledger.dropped)


def check_tokens(prepared: PreparedRows, eos: int, max_length: int) -> None:
    """Every row ends with a trained EOS, but for those that the ledger says were cut."""
    cut = Counter[str]()
    for split, number in prepared.sft.rows.items():
        for row in read_rows(prepared.sft, split) if number else []:
            assert len(row["input_ids"]) == len(row["labels"]) <= max_length
            assert row["labels"][-1] == row["input_ids"][-1]
            assert all(label in (-100, token) for label, token in zip(row["labels"], row["input_ids"], strict=True))
            cut["sft"] += row["labels"][-1] != eos
    for split, number in prepared.preference.rows.items():
        for row in read_rows(prepared.preference, split) if number else []:
            for answer in (row["chosen_ids"], row["rejected_ids"]):
                assert 0 < len(answer) <= max_length - len(row["prompt_ids"])
                cut["preference"] += answer[-1] != eos
    for kind in ("sft", "preference"):
        assert cut[kind] == sum(ledger.answers_cut for ledger in prepared.report.sources if ledger.kind == kind)


def check_splits(prepared: PreparedRows, conversations: list[list[Any]], pairs: list[list[Any]]) -> None:
    """No opening of a held-out row stands in train; the texts are read anew."""
    openings: dict[str, set[Any]] = {"train": set(), "held out": set()}
    sources = [*(("sft", rows) for rows in conversations), *(("preference", rows) for rows in pairs)]
    for kind_rows in (prepared.sft, prepared.preference):
        for split, places in placed_rows(kind_rows).items():
            for index, number in places:
                kind, lines = sources[index]
                rows = [row for row in lines if not isinstance(row, str) or row.strip(" \t\n\r")]
                reading = choose_format(
                    FileSource(path="x", format=prepared.report.sources[index].format),
                    kind,  # type: ignore[arg-type]  # a literal
                    {column for row in rows if isinstance(row, dict) for column in row},
                )
                first = opening(reading.read(rows[number - 1])[0])
                key = tuple((m["role"], " ".join(m["content"].casefold().split())) for m in first)
                openings["train" if split == "train" else "held out"].add(key)
    assert not openings["train"] & openings["held out"]
    questions = {
        split: {row["unit"] for row in read_rows(prepared.questions, split)} if number else set()
        for split, number in prepared.questions.rows.items()
    }
    assert sum(map(len, questions.values())) <= sum(prepared.questions.rows.values())


MANY = [sft(f"{LONG} {n % 30}", f"{OTHER} {n % 23}") for n in range(60)]
MANY_PAIRS = [pair(f"Question {n % 17}?", f"good {n % 5}", f"good {(n + 1) % 5}") for n in range(60)]


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_batches_decide_nothing(
    size: int, chats: Callable[[str], ChatTokenizer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def prepare(name: str) -> tuple[Any, ...]:
        sources = [[(MANY, {"count": 20})], [MANY_PAIRS]]
        prepared = prepare_in(tmp_path / name, chats("llama"), *sources, 0, evaluation_share=0.2, max_length=256)
        sets = [prepared.sft, prepared.preference, prepared.questions]
        rows = [list(read_rows(each, split)) for each in sets for split, n in sorted(each.rows.items()) if n]
        report = prepared.report.model_dump(exclude={"fingerprints"})
        return rows, quarantined(prepared), report

    whole = prepare("whole")
    monkeypatch.setattr(loading, "BATCH_ROWS", size)
    assert prepare("batches") == whole
