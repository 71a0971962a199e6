"""Questions put to a model, and what a checker says of the answers."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llm_engineering.data.rowsets import read_rows
from llm_engineering.models.generation import Answer, generate_answers
from llm_engineering.reports.evaluation import Judgement
from llm_engineering.reports.folders import RowSet
from llm_engineering.scoring.checkers import Checker, require_references

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Question:
    """A prompt and the answer that a checker compares with."""

    unit: str
    prompt: str
    """The prompt's messages as JSON."""
    prompt_ids: list[int]
    reference: str

    @property
    def shown(self) -> str:
        """The last message of the prompt, which people read as the question."""
        return str(json.loads(self.prompt)[-1]["content"])


def read_questions(rows: RowSet, split: str, most: int | None = None, seed: int = 0) -> list[Question]:
    """Return the questions of one split, or ``most`` of them drawn by the seed."""
    questions = [Question(**row) for row in read_rows(rows, split)]
    if most is None or most >= len(questions):
        return questions
    import random

    kept = sorted(random.Random(seed).sample(range(len(questions)), most))
    return [questions[i] for i in kept]


@dataclass(frozen=True)
class JudgedAnswers:
    """Answers of one model to the same questions in one way of generating."""

    questions: Sequence[Question]
    answers: list[Answer]
    judgements: list[Judgement] | None


def right(judgement: Judgement) -> float:
    """Return 1 for a right answer."""
    return float(judgement.correct)


def preferred(judgement: Judgement) -> float:
    """Return 1 for an answer that is right and has nothing wrong with it."""
    return float(judgement.preferred)


def score(judgement: Judgement) -> float:
    """Return an answer's score."""
    return judgement.score


def flaws(judgement: Judgement) -> float:
    """Return how many things in an answer should not be there."""
    return float(judgement.flaws)


def ask(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    questions: Sequence[Question],
    checker: Checker | None,
    *,
    max_new_tokens: int,
    batch_size: int,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
) -> JudgedAnswers:
    """Generate an answer to every question and judge it, where there is a checker.

    Raises:
        ConfigError: The checker cannot compare with a question's reference, or cannot judge an answer.
    """
    if checker is not None:
        require_references(checker, [(question.shown, question.reference) for question in questions])
    answers = generate_answers(
        model,
        tokenizer,
        [question.prompt_ids for question in questions],
        max_new_tokens=max_new_tokens,
        batch_size=batch_size,
        temperature=temperature,
        top_p=top_p,
        seed=seed,
    )
    judged = None
    if checker is not None:
        judged = [checker(answer.text, q.reference) for answer, q in zip(answers, questions, strict=True)]
    return JudgedAnswers(questions, answers, judged)


def read_probes(rows: RowSet, most: int = 4) -> list[list[int]]:
    """Return the first prompts of the first split that has some, as token ids."""
    for split in ("eval", "test", "train"):
        questions = read_questions(rows, split)[:most]
        if questions:
            return [question.prompt_ids for question in questions]
    return []
