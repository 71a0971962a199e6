"""Questions put to a model, and what a checker says of the answers."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING

from llm_engineering.artifacts import Judgement, Metric, RowSet
from llm_engineering.data.rowsets import read_rows
from llm_engineering.evaluation.checkers import Checker
from llm_engineering.evaluation.metrics import by_unit, mean, rate, repetition
from llm_engineering.models.generation import Answer, generate_answers

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

    def outcomes(self) -> dict[str, list[float]]:
        """Return the per-unit values of everything that was measured."""
        units = [question.unit for question in self.questions]
        values = {
            "repetition": [repetition(answer.token_ids) for answer in self.answers],
            "unfinished": [float(not answer.finished) for answer in self.answers],
            "answer_tokens": [float(len(answer.token_ids)) for answer in self.answers],
        }
        if self.judgements is not None:
            values |= {
                "answer_accuracy": [float(verdict.correct) for verdict in self.judgements],
                "preferred_rate": [float(verdict.preferred) for verdict in self.judgements],
                "answer_score": [verdict.score for verdict in self.judgements],
                "flaws_per_answer": [float(verdict.flaws) for verdict in self.judgements],
            }
        return {name: by_unit(each, units) for name, each in values.items()}


RATES = ("answer_accuracy", "preferred_rate", "unfinished")


def summarise(outcomes: dict[str, list[float]]) -> dict[str, Metric]:
    """Return every outcome as a metric with its interval over the units."""
    return {name: rate(values) if name in RATES else mean(values) for name, values in outcomes.items()}


def average(outcomes: dict[str, list[float]]) -> dict[str, float]:
    """Return the mean of every outcome over the units."""
    return {name: fmean(values) for name, values in outcomes.items()}


def ask(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    questions: Sequence[Question],
    checker: Checker | None,
    *,
    max_new_tokens: int,
    batch_size: int,
    temperature: float = 0.0,
    seed: int = 0,
) -> JudgedAnswers:
    """Generate an answer to every question and judge it, where there is a checker."""
    answers = generate_answers(
        model,
        tokenizer,
        [question.prompt_ids for question in questions],
        max_new_tokens=max_new_tokens,
        batch_size=batch_size,
        temperature=temperature,
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
