import json

import pytest

from llm_engineering.config.evaluation import EvaluationConfig
from llm_engineering.data.rowsets import PREFERENCE, QUESTIONS, SFT, write_rows
from llm_engineering.evaluation.held_out import pair_texts, read_held_out

ALL = EvaluationConfig()


def prompt(text):
    return json.dumps([{"role": "user", "content": text}])


@pytest.fixture
def sets(tmp_path):
    conversations = [
        {"source": 0, "row": 1, "input_ids": [5, 6, 7], "labels": [-100, -100, 7]},
        {"source": 0, "row": 2, "input_ids": [5, 6, 8, 9], "labels": [-100, -100, 8, 9]},  # the same first prompt
        {"source": 0, "row": 3, "input_ids": [4, 4, 9], "labels": [-100, -100, 9]},  # no question has it
    ]
    pairs = [
        {"source": 1, "row": 4, "prompt_ids": [5, 6], "chosen_ids": [7], "rejected_ids": [8, 9]},
        {"source": 1, "row": 5, "prompt_ids": [4, 4], "chosen_ids": [7], "rejected_ids": [9]},
        {"source": 1, "row": 6, "prompt_ids": [4, 4], "chosen_ids": [8], "rejected_ids": [9]},
    ]
    questions = [
        {"unit": "zebra", "prompt": prompt("Colour?"), "prompt_ids": [5, 6], "reference": ""},
        {"unit": "otter", "prompt": prompt("Home?"), "prompt_ids": [5, 5], "reference": ""},
    ]
    rows = {"sft": (conversations, SFT), "preference": (pairs, PREFERENCE), "questions": (questions, QUESTIONS)}
    return {kind: write_rows(tmp_path / kind, {"eval": each}, schema) for kind, (each, schema) in rows.items()}


def test_a_row_belongs_to_the_question_with_its_prompt_else_the_prompt_is_the_unit(sets):
    held_out = read_held_out(**sets, config=ALL, seed=0)
    assert held_out.conversation_units[:2] == ["zebra", "zebra"]
    assert held_out.pair_units[0] == "zebra"
    assert held_out.pair_units[1] == held_out.pair_units[2] == held_out.conversation_units[2]
    assert len(set(held_out.conversation_units + held_out.pair_units)) == 2
    assert held_out.pair_lengths == [(1, 2), (1, 1), (1, 1)]


def test_questions_that_are_not_asked_still_name_units(sets):
    few = read_held_out(**sets, config=EvaluationConfig(max_questions=1), seed=0)
    assert len(few.questions) == 1
    assert few.pair_units[0] == "zebra"


def test_which_models_are_measured_is_no_part_of_the_fingerprint(sets):
    named = EvaluationConfig(models={"base": "a", "mine": "b"}, parents={"mine": "base"})
    assert (
        read_held_out(**sets, config=named, seed=0).fingerprint == read_held_out(**sets, config=ALL, seed=0).fingerprint
    )


def test_an_edited_checker_is_another_fingerprint(sets):
    found = {read_held_out(**sets, config=ALL, seed=0, checker_sha256=each).fingerprint for each in ("", "a", "b")}
    assert len(found) == 3


class Letters:
    """Reads token 0 as a, 1 as b, and so on."""

    def decode(self, ids, skip_special_tokens):
        assert skip_special_tokens
        return "".join(chr(ord("a") + token) for token in ids)


def test_pairs_are_shown_with_the_question_or_else_the_tokens_of_their_prompt(sets):
    held_out = read_held_out(**sets, config=ALL, seed=0)
    first, second, _ = pair_texts(held_out, Letters())
    assert (first.prompt, first.chosen, first.rejected) == ("Colour?", "h", "ij")
    assert (first.unit, first.source, first.row, first.lengths) == ("zebra", 1, 4, (1, 2))
    assert second.prompt == "ee"


def test_long_texts_are_shortened_in_the_middle(sets, tmp_path):
    pair = {"source": 0, "row": 1, "prompt_ids": [5, 6], "chosen_ids": [0] * 500 + [1] * 500, "rejected_ids": [9]}
    long = write_rows(tmp_path / "long", {"eval": [pair]}, PREFERENCE)
    (text,) = pair_texts(read_held_out(**sets | {"preference": long}, config=ALL, seed=0), Letters())
    assert text.chosen == "a" * 300 + " ... " + "b" * 300


def test_rows_that_are_held_out_elsewhere_are_said_not_to_be_measured(sets, tmp_path):
    row = {"source": 0, "row": 1, "input_ids": [5, 6, 7], "labels": [-100, -100, 7]}
    tested = write_rows(tmp_path / "tested", {"test": [row]}, SFT)
    held_out = read_held_out(**sets | {"sft": tested}, config=ALL, seed=0)
    assert (held_out.split, held_out.pairs) == ("test", [])
    assert held_out.notes == ["The pairs of the eval split are not measured: there is a test split, and it has none."]
    assert read_held_out(**sets, config=ALL, seed=0).notes == []
