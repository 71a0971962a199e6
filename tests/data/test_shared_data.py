"""The whole real data sets through the preparation, where they lie beside the repository."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llm_engineering.config.data import DataConfig
from llm_engineering.config.model import ModelConfig
from llm_engineering.data.loading import load_raw_rows
from llm_engineering.data.preparation import PreparedRows, prepare_rows
from llm_engineering.data.rowsets import read_rows
from llm_engineering.models.chat import load_chat_tokenizer
from llm_engineering.models.checkpoints import locate_base

SHARED = Path(__file__).parents[3] / "shared" / "data"
pytestmark = pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data sets are not here")

Row = dict[str, str]


def rows_of(name: str) -> list[Row]:
    return [json.loads(line) for line in (SHARED / name).read_text(encoding="utf-8").splitlines()]


def key(row: Row) -> str:
    return " ".join(row["instruction"].casefold().split())


@pytest.fixture(scope="module")
def prepare(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., PreparedRows]:
    def run(**settings: Any) -> PreparedRows:
        folder = tmp_path_factory.mktemp("shared")
        data = DataConfig.model_validate(settings)
        chat = load_chat_tokenizer(locate_base(ModelConfig()), ModelConfig())
        return prepare_rows(load_raw_rows(data, 0, folder / "raw"), data, chat, 0, folder / "prepared")

    return run


@pytest.fixture(scope="module")
def with_test_files(prepare: Callable[..., PreparedRows]) -> PreparedRows:
    """The published test files as the test split."""
    sources = {
        kind: [
            {"path": str(SHARED / f"llm_twin_{name}_train.jsonl")},
            {"path": str(SHARED / f"llm_twin_{name}_test.jsonl"), "split": "test"},
        ]
        for kind, name in (("sft", "instruct"), ("preference", "preference"))
    }
    return prepare(**sources, evaluation_share=0.0)


def test_every_row_is_accounted_for_and_the_identical_pairs_are_counted(prepare: Callable[..., PreparedRows]) -> None:
    report = prepare(
        sft=[{"path": str(SHARED / "llm_twin_instruct_train.jsonl")}],
        preference=[{"path": str(SHARED / "llm_twin_preference_train.jsonl")}],
        test_share=0.1,
    ).report
    instruct, preference = report.sources
    assert (instruct.format, preference.format) == ("question_answer", "chosen_rejected")
    assert (instruct.rows, preference.rows) == (2250, 381)
    assert preference.dropped["identical pair"] == 54
    for ledger in report.sources:
        assert ledger.train + ledger.eval + ledger.test + sum(ledger.dropped.values()) == ledger.rows
        assert min(ledger.train, ledger.eval, ledger.test) > 0
    assert preference.first_problem["identical pair"].endswith(": chosen equals rejected")
    assert instruct.repeated_prompts > 0


def test_identical_pairs_can_be_refused_instead(prepare: Callable[..., PreparedRows]) -> None:
    from llm_engineering.errors import DataError

    with pytest.raises(DataError, match=r"llm_twin_preference_train\.jsonl, line \d+: identical pair; 54 in all"):
        prepare(
            preference=[{"path": str(SHARED / "llm_twin_preference_train.jsonl")}], rules={"identical_pair": "error"}
        )


def test_prompts_of_the_test_files_leave_the_training_rows(with_test_files: PreparedRows) -> None:
    train, test, pairs, test_pairs = with_test_files.report.sources
    held = {key(row) for row in rows_of("llm_twin_instruct_test.jsonl")}
    held |= {
        key(row)
        for row in rows_of("llm_twin_preference_test.jsonl")
        if row["chosen"].strip() != row["rejected"].strip()
    }
    published = rows_of("llm_twin_instruct_train.jsonl")
    leaking = sum(key(row) in held for row in published)
    assert leaking > 69  # 69 test prompts stand in train, most of them more than once
    assert train.dropped == {"leaked into evaluation": leaking + 1}  # one prompt is nearly that of a test row
    assert train.train == 2250 - leaking - 1
    assert test.test + sum(test.dropped.values()) == 250
    assert "leaked into evaluation" not in {**test.dropped, **test_pairs.dropped}
    assert pairs.dropped["identical pair"] == 54
    kept = {key(published[row["row"] - 1]) for row in read_rows(with_test_files.sft, "train")}
    assert not kept & held


def test_rows_that_were_cut_are_counted_within_the_kept_ones(with_test_files: PreparedRows) -> None:
    report = with_test_files.report
    assert all(longest <= 512 for longest in report.longest.values())
    assert report.longest["sft/train"] <= 512
    for ledger in report.sources:
        assert ledger.truncated <= ledger.train + ledger.eval + ledger.test
        assert (ledger.truncated == 0) == (ledger.tokens_lost == 0)
    assert report.tokens["sft/train"] == sum(len(row["input_ids"]) for row in read_rows(with_test_files.sft, "train"))
