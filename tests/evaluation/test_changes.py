import json
from math import nan

import pytest

from llm_engineering.evaluation.changes import (
    CHANGES_FILE,
    PairText,
    answer_changes,
    count_outcomes,
    pair_changes,
    pair_outcome,
    read_changes,
    write_changes,
)
from llm_engineering.models.generation import Answer
from llm_engineering.reports.evaluation import Judgement
from llm_engineering.scoring.answers import JudgedAnswers, Question


@pytest.mark.parametrize(
    ("parent", "model", "base", "outcome"),
    [
        (-0.1, 0.1, None, "learned"),
        (0.1, -0.1, None, "unlearned"),
        (0.1, 0.3, None, "already right"),
        (-0.1, -0.3, None, "never learned"),
        (0.0, 0.1, None, "learned"),  # a tie is wrong
        (0.1, 0.0, None, "unlearned"),
        (-0.3, -0.3, None, "suspected flipped label"),
        (-0.3, -0.3, -0.3, "suspected flipped label"),
        (-0.3, -0.3, 0.1, "never learned"),  # the base disagrees
        (-0.3, -0.15, -0.3, "never learned"),  # not clearly
        (-0.3, 0.1, -0.3, "learned"),
        (nan, 0.1, None, "not a number"),
        (0.1, 0.1, nan, "not a number"),
    ],
)
def test_the_outcome_of_a_pair_follows_from_its_rankings(parent, model, base, outcome):
    assert pair_outcome(parent, model, base) == outcome


def pair(**given):
    return PairText(**({"unit": "u", "source": 0, "row": 7, "prompt": "p", "chosen": "c", "rejected": "r"} | given))


def test_a_row_has_log_probabilities_per_token_and_the_reward_margin():
    (row,) = pair_changes(
        ("dpo", "sft"), [pair(lengths=(4, 2))], ([(-2.0, -6.0)], [(-6.0, -2.0)], [(-8.0, -8.0)]), beta=0.5
    )
    assert (row.model, row.parent, row.outcome, row.row) == ("dpo", "sft", "learned", 7)
    assert (row.model_chosen_logp, row.model_rejected_logp) == (-0.5, -3.0)
    assert (row.parent_chosen_logp, row.parent_rejected_logp) == (-1.5, -1.0)
    assert row.reward_margin == 4.0  # .5 ((-2 + 6) - (-6 + 2))


def judged(*verdicts):
    questions = [Question(f"u{i}", json.dumps([{"role": "user", "content": f"q{i}"}]), [1], "ref") for i in range(3)]
    answers = [Answer(f"a{i}{verdict}", [1], True) for i, verdict in enumerate(verdicts)]
    return JudgedAnswers(
        questions, answers, [Judgement(correct=verdict, preferred=verdict, score=0.0) for verdict in verdicts]
    )


def test_answers_that_changed_sides_are_listed_with_both_texts():
    model, parent = judged(True, False, True), judged(False, True, True)
    corrected, regressed = answer_changes(("dpo", "sft"), model, parent)
    assert (corrected.outcome, corrected.prompt, corrected.reference) == ("corrected", "q0", "ref")
    assert (regressed.outcome, regressed.parent_answer, regressed.model_answer) == ("regressed", "a1True", "a1False")
    unjudged = JudgedAnswers(model.questions, model.answers, None)
    assert list(answer_changes(("dpo", "sft"), unjudged, unjudged)) == []


def test_rows_are_written_as_json_lines_and_read_back(tmp_path):
    pairs = pair_changes(
        ("dpo", "sft"),
        [pair(chosen="two\nlines\u2028here", lengths=(1, 1))] * 2,
        ([(-1.0, -2.0), (nan, -1.0)], [(-2.0, -1.0), (-1.0, -2.0)], None),
        beta=1.0,
    )
    changes = [*pairs, *answer_changes(("sft", "base"), judged(True, True, True), judged(False, True, True))]
    folder = write_changes(changes, tmp_path / "outcomes")
    lines = (folder.path / CHANGES_FILE).read_text().split("\n")[:-1]
    assert [json.loads(line)["outcome"] for line in lines] == ["learned", "not a number", "corrected"]
    assert json.loads(lines[1])["model_chosen_logp"] is None
    assert read_changes(folder) == changes
    assert count_outcomes(changes) == {"dpo": {"learned": 1, "not a number": 1}, "sft": {"corrected": 1}}


def test_nothing_to_follow_is_an_empty_file(tmp_path):
    assert read_changes(write_changes([], tmp_path)) == []
