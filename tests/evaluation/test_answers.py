import json

import pytest

from llm_engineering.data.rowsets import QUESTIONS, write_rows
from llm_engineering.errors import ConfigError
from llm_engineering.models.generation import Answer
from llm_engineering.reports.evaluation import Judgement, Metric
from llm_engineering.scoring.answers import JudgedAnswers, Question, ask, read_probes, read_questions
from llm_engineering.scoring.checkers import exact, regex
from llm_engineering.scoring.intervals import mean, proportion
from llm_engineering.scoring.measures import answer_outcomes, mean_of_rounds, summarise, variety


def question(unit, prompt_ids=(1, 2), reference="r"):
    return Question(unit, '[{"role": "user", "content": "?"}]', list(prompt_ids), reference)


@pytest.fixture
def rows(tmp_path):
    def of(split, count):
        return [
            {"unit": f"{split}{i}", "prompt": "[]", "prompt_ids": [i, i + 1], "reference": str(i)} for i in range(count)
        ]

    return write_rows(tmp_path, {"train": of("train", 3), "eval": [], "test": of("test", 20)}, QUESTIONS)


def test_questions_of_a_split_come_in_their_order(rows):
    assert [q.unit for q in read_questions(rows, "test")] == [f"test{i}" for i in range(20)]
    assert read_questions(rows, "train")[1] == Question("train1", "[]", [1, 2], "1")
    assert read_questions(rows, "eval") == []


def test_only_so_many_questions_are_drawn_by_the_seed_in_their_order(rows):
    drawn = [q.unit for q in read_questions(rows, "test", most=5, seed=1)]
    assert len(set(drawn)) == 5
    assert drawn == sorted(drawn, key=lambda unit: int(unit.removeprefix("test")))
    assert drawn == [q.unit for q in read_questions(rows, "test", most=5, seed=1)]
    assert drawn != [q.unit for q in read_questions(rows, "test", most=5, seed=2)]
    assert len(read_questions(rows, "test", most=50)) == 20


def test_probes_come_from_the_first_split_that_has_questions(rows, tmp_path):
    assert read_probes(rows, most=2) == [[0, 1], [1, 2]]
    empty = write_rows(tmp_path / "empty", {"train": []}, QUESTIONS)
    assert read_probes(empty) == []


def test_outcomes_are_averaged_over_the_phrasings_of_a_unit():
    answers = [
        Answer("abcabc", [1, 2, 3, 1, 2, 3], True),
        Answer("x", [1], False),
        Answer("y", [1, 2], True),
    ]
    judgements = [
        Judgement(correct=True, preferred=False, score=0.5, flaws=2),
        Judgement(correct=True, preferred=True, score=1.0),
        Judgement(correct=False, preferred=False, score=-1.0, flaws=1),
    ]
    outcomes = answer_outcomes(JudgedAnswers([question("u"), question("v"), question("u")], answers, judgements))
    assert outcomes == {
        "repetition": [0.125, 0.0],  # (0.25 + 0) / 2
        "looping": [0.0, 0.0],
        "compression_ratio": [pytest.approx((6 / 14 + 1 / 9) / 2), pytest.approx(1 / 9)],  # zlib adds 8 bytes
        "unfinished": [0.0, 1.0],
        "refusals": [0.0, 0.0],
        "answer_tokens": [4.0, 1.0],  # (6 + 2) / 2
        "answer_words": [1.0, 1.0],
        "answer_accuracy": [0.5, 1.0],
        "preferred_rate": [0.0, 1.0],
        "answer_score": [-0.25, 1.0],  # (0.5 - 1) / 2
        "flaws_per_answer": [1.5, 0.0],  # (2 + 1) / 2
    }


def test_answers_that_nobody_judges_have_no_accuracy():
    outcomes = answer_outcomes(JudgedAnswers([question("u")], [Answer("x", [1], True)], None))
    assert "answer_tokens" in outcomes
    assert not {"answer_accuracy", "preferred_rate", "answer_score", "flaws_per_answer"} & outcomes.keys()


def test_rates_have_wilson_intervals_and_the_rest_the_bootstrap():
    outcomes = {"answer_accuracy": [1.0, 0.0, 1.0], "answer_tokens": [1.0, 0.0, 1.0]}
    summary = summarise(outcomes)
    assert summary["answer_accuracy"] == proportion([1.0, 0.0, 1.0])
    assert summary["answer_tokens"] == mean([1.0, 0.0, 1.0])
    assert summarise({"unfinished": [0.5]})["unfinished"] == Metric(value=0.5, units=1)


def test_answers_are_judged_against_the_reference_of_their_own_question(embedded_model, embedded_tokenizer):
    def asked(text, reference):
        messages = [{"role": "user", "content": text}]
        ids = embedded_tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
        return Question(text, json.dumps(messages), ids, reference)

    # prompts of different lengths, longest first: answers have to come back in the order of the questions
    questions = [asked("Where does the otter live, and what does it eat?", "a"), asked("Hello!", "b")]
    said = ask(embedded_model, embedded_tokenizer, questions, None, max_new_tokens=12, batch_size=1).answers
    right = [Question(q.unit, q.prompt, q.prompt_ids, a.text) for q, a in zip(questions, said, strict=True)]
    judged = ask(embedded_model, embedded_tokenizer, right, exact, max_new_tokens=12, batch_size=8)
    assert answer_outcomes(judged)["answer_accuracy"] == [1.0, 1.0]
    wrong = [Question(q.unit, q.prompt, q.prompt_ids, "nothing like it") for q in questions]
    judged = ask(embedded_model, embedded_tokenizer, wrong, exact, max_new_tokens=12, batch_size=8)
    assert answer_outcomes(judged)["answer_accuracy"] == [0.0, 0.0]


def test_sampled_rounds_are_averaged_for_every_unit():
    first = JudgedAnswers([question("u"), question("v")], [Answer("a", [1, 2], True), Answer("b", [1], False)], None)
    second = JudgedAnswers([question("u"), question("v")], [Answer("a", [1], False), Answer("b", [1], False)], None)
    outcomes = mean_of_rounds([first, second])
    assert outcomes["sampled_unfinished"] == [0.5, 1.0]  # u: (0 + 1) / 2, v: (1 + 1) / 2
    assert outcomes["sampled_answer_tokens"] == [1.5, 1.0]
    assert mean_of_rounds([]) == {}


def test_variety_is_counted_over_all_answers_of_a_model():
    judged = JudgedAnswers(
        [question("u"), question("u"), question("v")],
        [Answer(text, [1], True) for text in ("the fox", "the fox", "The owl!")],
        None,
    )
    # words the fox the fox the owl: 3 of 6; pairs the-fox the-fox the-owl: 2 of 3
    assert variety([judged]) == {"distinct_1": Metric(value=0.5, units=2), "distinct_2": Metric(value=2 / 3, units=2)}
    silent = JudgedAnswers([question("u")], [Answer("", [2], True)], None)
    assert variety([silent]) == {}


def test_a_reference_that_does_not_fit_the_checker_is_refused_before_anything_is_generated():
    with pytest.raises(ConfigError, match=r"The reference of the question '\?' does not fit the checker: '\(' is no"):
        ask(None, None, [question("u", reference="(")], regex, max_new_tokens=1, batch_size=1)
