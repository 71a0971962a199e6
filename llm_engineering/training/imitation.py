"""Rows for the controls of DPO: the chosen answers of the pairs, all of them or the clean ones alone, as SFT rows.

The controls ask what the comparison of two answers adds: SFT that goes on on the better ones sees the same answers.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from llm_engineering.data.rowsets import SFT, Row, read_rows, write_rows
from llm_engineering.errors import DataError
from llm_engineering.reports.folders import RowSet
from llm_engineering.scoring.answers import read_questions
from llm_engineering.scoring.checkers import load_checker
from llm_engineering.scoring.likelihood import labelled

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SPLITS = ("train", "eval")


def imitation_rows(
    pairs: RowSet, questions: RowSet, tokenizer: "PreTrainedTokenizerBase", checker: str | None, folder: Path
) -> RowSet:
    """Write the chosen answers of pairs as SFT rows: the very tokens that DPO sees.

    Args:
        pairs: Preference rows.
        questions: Have the references that the checker compares with.
        tokenizer: Turns answers into text for the checker.
        checker: Keeps only the answers with which it finds nothing wrong; None: all are kept.
        folder: Where the rows are written.

    Raises:
        DataError: No answer is left to train on.
    """
    rows = {split: list(_rows(pairs, questions, split, tokenizer, checker)) for split in SPLITS}
    if not rows["train"]:
        raise DataError(
            f"No chosen answer of the {pairs.rows.get('train', 0)} training pairs is clean: {checker} prefers none, or "
            "their questions have no reference. Raise num_samples, or leave the recipe sft_clean out."
            if checker
            else "There are no preference pairs to train on. Check data.preference."
        )
    return write_rows(folder, rows, SFT).model_copy(update={"most": pairs.most or pairs.rows["train"]})


def _rows(
    pairs: RowSet, questions: RowSet, split: str, tokenizer: "PreTrainedTokenizerBase", checker: str | None
) -> Iterator[Row]:
    judge = load_checker(checker) if checker else None
    references = {tuple(question.prompt_ids): question.reference for question in read_questions(questions, split)}
    for pair in read_rows(pairs, split):
        if judge is not None:
            reference = references.get(tuple(pair["prompt_ids"]))
            answer = tokenizer.decode(pair["chosen_ids"], skip_special_tokens=True).strip()
            if not reference or not judge(answer, reference).preferred:
                continue
        input_ids, labels = labelled(pair["prompt_ids"], pair["chosen_ids"])
        yield {"source": pair["source"], "row": pair["row"], "input_ids": input_ids, "labels": labels}
