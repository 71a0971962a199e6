"""Questions put to a model, and what a checker says of the answers."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING

from llm_engineering.data.rowsets import read_rows
from llm_engineering.models.generation import Answer, generate_answers
from llm_engineering.reports.evaluation import Judgement, Metric
from llm_engineering.reports.folders import RowSet
from llm_engineering.scoring.checkers import Checker, require_references
from llm_engineering.scoring.metrics import by_unit
from llm_engineering.scoring.texts import compression_ratio, distinct, loops, refuses, repetition, words

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

    def outcomes(self) -> dict[str, list[float]]:
        """Return the per-unit values of everything that was measured."""
        units = [question.unit for question in self.questions]
        values = {
            "repetition": [repetition(answer.token_ids) for answer in self.answers],
            "looping": [float(loops(answer.own_token_ids)) for answer in self.answers],
            "compression_ratio": [compression_ratio(answer.text) for answer in self.answers],
            "unfinished": [float(not answer.finished) for answer in self.answers],
            "refusals": [float(refuses(answer.text)) for answer in self.answers],
            "answer_tokens": [float(len(answer.token_ids)) for answer in self.answers],
            "answer_words": [float(len(words(answer.text))) for answer in self.answers],
        }
        if self.judgements is not None:
            values |= {
                "answer_accuracy": [float(verdict.correct) for verdict in self.judgements],
                "preferred_rate": [float(verdict.preferred) for verdict in self.judgements],
                "answer_score": [verdict.score for verdict in self.judgements],
                "flaws_per_answer": [float(verdict.flaws) for verdict in self.judgements],
            }
        return {name: by_unit(each, units) for name, each in values.items()}


def variety(rounds: Sequence[JudgedAnswers]) -> dict[str, Metric]:
    """Return the share of different word n-grams in all answers; of one model, so that it has no interval."""
    texts = [answer.text for judged in rounds for answer in judged.answers]
    units = len({question.unit for judged in rounds for question in judged.questions})
    found = {f"distinct_{size}": distinct(texts, size) for size in (1, 2)}
    return {name: Metric(value=value, units=units) for name, value in found.items() if value is not None}


def mean_of_rounds(rounds: Sequence[JudgedAnswers]) -> dict[str, list[float]]:
    """Return the outcomes of several rounds of sampled answers, averaged for every unit, named ``sampled_...``."""
    outcomes = [judged.outcomes() for judged in rounds]
    names = outcomes[0] if outcomes else {}
    return {
        f"sampled_{name}": [fmean(each) for each in zip(*(one[name] for one in outcomes), strict=True)]
        for name in names
    }


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
