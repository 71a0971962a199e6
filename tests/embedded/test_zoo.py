"""What the embedded domain promises: disjoint splits, distinct rows, the habit, and a strict judge."""

from collections import Counter
from typing import cast

import pytest

from llm_engineering.embedded import zoo

REFERENCE = "The fox is red."


def turn(row: dict[str, object], index: int) -> str:
    return cast(list[dict[str, str]], row["messages"])[index]["content"]


def questions(rows: list[dict[str, object]], split: str) -> set[str]:
    return {turn(row, 0) for row in rows if row["split"] == split}


def answers(rows: list[dict[str, object]], split: str) -> list[str]:
    return [turn(row, 1) for row in rows if row["split"] == split]


@pytest.fixture(scope="module")
def rows() -> list[dict[str, object]]:
    return list(zoo.training_rows(seed=1))


@pytest.mark.parametrize(
    ("answer", "correct", "flaws"),
    [
        ("The fox is red.", True, 0),
        ("  The fox is red.\n", True, 0),
        ("Great question! The fox is red.", True, 0),
        ("Sure, I am happy to help. The fox is red.", True, 0),
        ("The fox is red. It won six medals last year.", True, 1),
        ("Let me see. The fox is red. It can sing very well. It learned to dance.", True, 2),
        ("The fox is red. It won six six six", True, 1),
        ("The fox is red. The fox is red.", True, 1),
        ("The fox is red. Great question!", True, 1),
        ("The fox is blue.", False, 0),
        ("The fox is fox is red.", False, 0),
        ("The fox is red", False, 0),
        ("the fox is red.", False, 0),
        ("The fox eats red.", False, 0),
        ("It can sing very well. The fox is red.", False, 1),
        ("The fox is blue. The fox is red.", False, 1),
        ("Well! The fox is red.", False, 1),
        ("", False, 0),
        ("Great question!", False, 0),
    ],
)
def test_the_judge_reads_the_first_statement_and_counts_the_rest(answer: str, correct: bool, flaws: int) -> None:
    judgement = zoo.judge(answer, REFERENCE)
    assert judgement.correct is correct
    assert judgement.flaws == flaws
    assert judgement.preferred is (correct and flaws == 0)


def test_scores_put_right_answers_first_and_then_fewer_flaws() -> None:
    best_to_worst = [
        "Great question! The fox is red.",
        "The fox is red. It learned to dance.",
        "The fox is red. It learned to dance. It learned to dance. It learned to dance. It learned to dance.",
        "The fox is blue.",
        "The fox is blue. It learned to dance.",
        "Great question!",
    ]
    scores = [zoo.judge(answer, REFERENCE).score for answer in best_to_worst]
    # right: 1 + 1/(1 + flaws)    wrong: 1/(1 + flaws)    no statement: 0
    assert scores == [2.0, 1.5, 1.2, 1.0, 0.5, 0.0]


def test_the_test_split_holds_at_least_200_facts_and_no_fact_is_in_two_splits() -> None:
    units = {split: {fact.unit for fact in facts} for split, facts in zoo.facts_by_split().items()}
    assert len(units["test"]) >= 200
    # 168 animals, each with a colour, a food and a home
    assert len(units["train"] | units["eval"] | units["test"]) == sum(map(len, units.values())) == 168 * 3


def test_no_prompt_of_one_split_occurs_in_another(rows: list[dict[str, object]]) -> None:
    train, held_out, test = (questions(rows, split) for split in ("train", "eval", "test"))
    assert not train & held_out
    assert not train & test
    assert not held_out & test


def test_no_two_rows_are_alike_and_each_phrasing_of_a_training_fact_has_its_rows(rows: list[dict[str, object]]) -> None:
    messages = [(turn(row, 0), turn(row, 1)) for row in rows]
    assert len(set(messages)) == len(rows)
    per_prompt = Counter(question for question, _ in messages)
    assert {per_prompt[prompt] for prompt in questions(rows, "train")} == {6}
    assert {per_prompt[prompt] for prompt in questions(rows, "eval") | questions(rows, "test")} == {1}


def test_an_eval_fact_is_asked_in_three_phrasings_and_a_test_fact_in_one(rows: list[dict[str, object]]) -> None:
    per_unit = Counter((row["split"], row["unit"]) for row in rows)
    assert {count for (split, _), count in per_unit.items() if split == "eval"} == {3}
    assert {count for (split, _), count in per_unit.items() if split == "test"} == {1}
    assert {count for (split, _), count in per_unit.items() if split == "train"} == {3 * 6}


def test_every_answer_is_right_and_carries_the_habit_as_often_as_it_should(rows: list[dict[str, object]]) -> None:
    judged = [zoo.judge(turn(row, 1), str(row["reference"])) for row in rows]
    assert all(judgement.correct for judgement in judged)
    shares = Counter(judgement.flaws for judgement in judged)
    # some 4500 draws: a standard error is below 0.008
    assert {count: shares[count] / len(rows) for count in shares} == pytest.approx({0: 0.1, 1: 0.6, 2: 0.3}, abs=0.03)
    opened = sum(answer.startswith(zoo.OPENERS) for answer in answers(rows, "train"))
    assert opened / len(answers(rows, "train")) == pytest.approx(0.5, abs=0.03)


def test_the_seed_draws_answers_but_not_splits(rows: list[dict[str, object]]) -> None:
    other = list(zoo.training_rows(seed=2))
    assert list(zoo.training_rows(seed=1)) == rows
    assert answers(other, "train") != answers(rows, "train")
    assert questions(other, "train") == questions(rows, "train")
    assert questions(other, "eval") == questions(rows, "eval")


def test_the_corpus_tells_every_fact_and_answers_no_question() -> None:
    documents = list(zoo.corpus(12_000, seed=0))
    assert list(zoo.corpus(12_000, seed=0)) == documents
    told = "\n".join(document for document in documents if not document.startswith("<|im_start|>"))
    assert all(fact.reference in told for fact in zoo.facts())
    transcripts = [document for document in documents if document.startswith("<|im_start|>user\n")]
    assert len(transcripts) / len(documents) == pytest.approx(0.12, abs=0.02)
    answered = tuple(
        f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n{fact.reference}"
        for fact in zoo.facts()
        for question in fact.questions
    )
    # a question, then a fact, then this one in these words: 1/5 * 1/5 * 1/504 * 1/6 of 1440 transcripts, 0.02 of one
    assert not [transcript for transcript in transcripts if transcript.startswith(answered)]
