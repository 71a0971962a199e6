"""The rows of the controls: chosen answers of the pairs, all or the clean ones alone."""

from collections.abc import Callable
from pathlib import Path

import pytest

from llm_engineering.data.rowsets import PREFERENCE, QUESTIONS, read_rows, write_rows
from llm_engineering.errors import DataError
from llm_engineering.models.chat import ChatTokenizer
from llm_engineering.reports.folders import RowSet
from llm_engineering.training.imitation import imitation_rows

Chats = Callable[[str], ChatTokenizer]


def pair(row: int, prompt: list[int], chosen: list[int]) -> dict[str, object]:
    return {"source": -1, "row": row, "prompt_ids": prompt, "chosen_ids": chosen, "rejected_ids": [9]}


def question(prompt: list[int], reference: str) -> dict[str, object]:
    return {"unit": "u", "prompt": "[]", "prompt_ids": prompt, "reference": reference}


@pytest.fixture
def rows(chats: Chats, tmp_path: Path) -> tuple[RowSet, RowSet, ChatTokenizer]:
    chat = chats("llama")
    yes, no = (chat.tokenizer(text)["input_ids"] for text in ("yes", "no"))
    pairs = {"train": [pair(1, [1, 2], yes), pair(2, [3], no), pair(3, [4], yes)], "eval": [pair(1, [5], yes)]}
    asked = {"train": [question([1, 2], "yes"), question([3], "yes")], "eval": [question([5], "yes")]}
    return write_rows(tmp_path / "pairs", pairs, PREFERENCE), write_rows(tmp_path / "asked", asked, QUESTIONS), chat


def test_every_chosen_answer_is_a_row_whose_prompt_carries_no_loss(
    rows: tuple[RowSet, RowSet, ChatTokenizer], tmp_path: Path
) -> None:
    pairs, questions, chat = rows
    made = imitation_rows(pairs, questions, chat.tokenizer, None, tmp_path / "rows")
    assert made.rows == {"train": 3, "eval": 1}
    yes = chat.tokenizer("yes")["input_ids"]
    assert read_rows(made, "train")[0] == {
        "source": -1,
        "row": 1,
        "input_ids": [1, 2, *yes],
        "labels": [-100, -100, *yes],
    }


def test_the_checker_keeps_only_answers_that_it_prefers(
    rows: tuple[RowSet, RowSet, ChatTokenizer], tmp_path: Path
) -> None:
    pairs, questions, chat = rows
    made = imitation_rows(pairs, questions, chat.tokenizer, "exact", tmp_path / "rows")
    assert [row["row"] for row in read_rows(made, "train")] == [1]  # 2 is wrong, 3 has no reference
    assert made.rows["eval"] == 1


def test_no_clean_answer_is_said(rows: tuple[RowSet, RowSet, ChatTokenizer], tmp_path: Path) -> None:
    pairs, questions, chat = rows
    with pytest.raises(DataError, match="No chosen answer of the 3 training pairs is clean: numeric prefers none"):
        imitation_rows(pairs, questions, chat.tokenizer, "numeric", tmp_path / "rows")
