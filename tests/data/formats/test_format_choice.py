"""Which format a data set is taken for, by its columns and its first rows."""

from typing import Any

import pytest

from llm_engineering.config.data import FileSource
from llm_engineering.data.formats import FORMATS, Conversation, Reading, RowProblem, choose_format
from llm_engineering.errors import DataError
from llm_engineering.reports.folders import RowKind


def source(**settings: Any) -> FileSource:
    return FileSource(path="rows.jsonl", **settings)


def choose(kind: RowKind, *rows: dict[str, Any], **settings: Any) -> Reading:
    return choose_format(source(**settings), kind, {column for row in rows for column in row}, rows)


def user(content: str) -> dict[str, Any]:
    return {"role": "user", "content": content}


def assistant(content: str) -> dict[str, Any]:
    return {"role": "assistant", "content": content}


TEXTS = {"chosen": "The sky is blue", "rejected": "The sky is green"}
TRANSCRIPTS = {"chosen": "\n\nHuman: Hi\n\nAssistant: Hello", "rejected": "\n\nHuman: Hi\n\nAssistant: Go"}
CHATS = {"chosen": [user("Hi"), assistant("Hello")], "rejected": [user("Hi"), assistant("Go")]}


@pytest.mark.parametrize(
    ("row", "name"),
    [
        (TEXTS, "implicit_prompt"),
        (CHATS, "implicit_prompt"),
        (TRANSCRIPTS, "hh_rlhf"),
        ({**CHATS, "prompt": "Hi", "prompt_id": "x", "score_chosen": 8.0}, "chosen_rejected"),
        ({**TRANSCRIPTS, "prompt": "Hi"}, "chosen_rejected"),
        ({**CHATS, "messages": CHATS["chosen"], "prompt": "Hi"}, "chosen_rejected"),
        (
            {"conversations": [], "chosen": {"from": "gpt", "value": "A"}, "rejected": {"from": "gpt", "value": "B"}},
            "sharegpt_ranking",
        ),
        ({"conversations": [], **CHATS}, "implicit_prompt"),
        ({"instruction": "I", "completions": [{"response": "A"}]}, "ultrafeedback"),
        ({"question": "Q", "answers": [{"pm_score": 1, "text": "A"}]}, "stack_exchange"),
    ],
)
def test_values_decide_between_preference_formats_with_the_same_columns(row: dict[str, Any], name: str) -> None:
    assert choose("preference", row).format.name == name


@pytest.mark.parametrize(
    ("columns", "name"),
    [
        ({"instruction", "context", "response", "category"}, "dolly"),
        ({"instruction", "response"}, "question_answer"),
        ({"id", "system_prompt", "question", "response"}, "question_answer"),
        ({"instruction", "input", "output", "text"}, "alpaca"),
        ({"messages", "prompt", "prompt_id"}, "messages"),
        ({"instruction", "chosen", "rejected"}, "chosen_rejected"),
        ({"history", "human_ref_A", "human_ref_B", "labels", "score_A", "score_B"}, "shp"),
    ],
)
def test_columns_decide_between_sft_formats(columns: set[str], name: str) -> None:
    assert choose_format(source(), "sft", columns).format.name == name


@pytest.mark.parametrize("column", ["conversation", "conversations"])
def test_values_tell_openai_from_sharegpt_under_the_same_name(column: str) -> None:
    openai = {column: [user("Q"), assistant("A")]}
    sharegpt = {column: [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}], "id": "x"}
    assert choose("sft", openai).format.name == "messages"
    assert choose("sft", sharegpt, {column: None}, {column: "Q"}, sharegpt).format.name == "sharegpt"
    assert choose("sft", openai).read(openai) == choose("sft", sharegpt).read(sharegpt)


def test_a_few_broken_rows_do_not_change_the_format() -> None:
    broken = [{"chosen": None, "rejected": None}, {"chosen": 3, "rejected": []}, TEXTS, {"chosen": "x"}]
    assert choose("preference", *broken, *[TRANSCRIPTS] * 3).format.name == "hh_rlhf"


def test_values_that_are_half_of_one_format_and_half_of_another_fit_both() -> None:
    with pytest.raises(DataError, match="fits the formats implicit_prompt and hh_rlhf"):
        choose("preference", TEXTS, TRANSCRIPTS)


def test_values_that_fit_no_format_with_these_columns_are_pointed_at() -> None:
    with pytest.raises(DataError) as caught:
        choose("preference", {"chosen": "Yes", "rejected": "No", "task": "Is it?"})
    assert (
        "The columns are: chosen, rejected, task. The columns are those of implicit_prompt and hh_rlhf, but most of"
        in (str(caught.value))
    )
    assert choose("preference", {"chosen": "Yes", "rejected": "No", "task": "Is it?"}, columns={"prompt": "task"})


def test_a_named_format_is_taken_whatever_the_values() -> None:
    assert choose("preference", TEXTS, format="hh_rlhf").format.name == "hh_rlhf"


def test_a_preference_set_gives_its_chosen_side_to_sft() -> None:
    row = {"prompt": "P", "chosen": "C", "rejected": "R"}
    assert choose("sft", row).read(row) == [Conversation([user("P"), assistant("C")])]
    assert choose("sft", row, format="chosen_rejected").read(row) == choose("sft", row).read(row)


def test_a_set_of_conversations_and_preferences_is_asked_about() -> None:
    row = {"prompt": "Hi", "messages": CHATS["chosen"], **CHATS}  # UltraFeedback, binarized
    with pytest.raises(DataError, match=r"rows\.jsonl fits the formats messages and chosen_rejected\. Name one with"):
        choose("sft", row)
    assert choose("sft", row, format="messages").read(row) == choose("sft", row, format="chosen_rejected").read(row)


def test_a_row_that_lacks_a_column_of_its_data_set_is_no_text() -> None:
    reading = choose_format(source(), "sft", {"instruction", "output", "input"})
    assert reading.rename({"instruction": "I", "output": "O", "other": 1}) == {"instruction": "I", "output": "O"}
    with pytest.raises(RowProblem, match="column output is missing") as caught:
        reading.read({"instruction": "I"})
    assert caught.value.reason == "not text"


def test_mapped_columns_are_read_under_the_formats_names() -> None:
    row = {"vraag": "Q", "antwoord": "A", "question": "another", "n": 17}
    reading = choose("sft", row, columns={"question": "vraag", "answer": "antwoord", "unit": "n"})
    assert reading.read(row) == [Conversation([user("Q"), assistant("A")])]
    assert reading.rename(row)["unit"] == 17


def test_mapping_decides_between_formats() -> None:
    present = {"instruction", "output", "answer"}
    mapped = source(columns={"output": "answer"})
    assert choose_format(mapped, "sft", present).columns == {"instruction": "instruction", "output": "answer"}


def test_several_fitting_formats_are_named() -> None:
    present = {"instruction", "output", "answer"}
    with pytest.raises(DataError, match=r"rows\.jsonl fits the formats alpaca and question_answer\. Name one"):
        choose_format(source(), "sft", present)
    assert choose_format(source(format="alpaca"), "sft", present).format.name == "alpaca"


def test_a_column_that_is_mapped_as_reference_makes_no_format_fuller() -> None:
    mapped = source(columns={"reference": "answer"})
    with pytest.raises(DataError, match="fits the formats alpaca and question_answer"):
        choose_format(mapped, "sft", {"instruction", "output", "answer"})


def test_columns_that_fit_no_format_are_listed_beside_the_formats() -> None:
    with pytest.raises(DataError) as caught:
        choose_format(source(), "preference", {"text", "label"})
    assert str(caught.value) == (
        "rows.jsonl fits no preference format. The columns are: label, text. Formats and their columns: "
        "chosen_rejected: prompt, chosen, rejected; implicit_prompt: chosen, rejected; hh_rlhf: chosen, rejected; "
        "ultrafeedback: instruction, completions; sharegpt_ranking: conversations, chosen, rejected; "
        "shp: history, human_ref_A, human_ref_B, labels; stack_exchange: question, answers. Map names with `columns`."
    )


def test_raw_text_is_refused_with_a_hint_at_what_sft_needs() -> None:
    with pytest.raises(DataError, match=r"fits no sft format.* looks like raw text for pre-training"):
        choose_format(source(), "sft", {"text"})


@pytest.mark.parametrize(
    ("kind", "settings", "said"),
    [
        (
            "sft",
            {"format": "alpaca"},
            r"lacks a column that the format alpaca needs .* The columns are: answer, question\. Map",
        ),
        ("sft", {"format": "csv"}, r"'csv' is no sft format\. There are: messages, sharegpt, .*, stack_exchange\."),
        ("preference", {"format": "alpaca"}, r"'alpaca' is no preference format\. There are: chosen_rejected, impl"),
        (
            "sft",
            {"columns": {"question": "frage"}},
            r"has no column 'frage', which `columns` names\. The columns are: answer,",
        ),
        (
            "sft",
            {"format": "question_answer", "columns": {"instruction": "question"}},
            r"`columns` maps 'instruction', but the format question_answer has the columns question, answer, system_pr",
        ),
        (
            "sft",
            {"columns": {"qestion": "question"}},
            r"fits no sft format\. The columns are: .* `columns` maps qestion\.",
        ),
    ],
)
def test_settings_that_do_not_fit_the_columns_are_refused(kind: RowKind, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=said):
        choose_format(source(**settings), kind, {"question", "answer"})


def test_every_format_reads_from_exactly_its_required_columns() -> None:
    for kind, formats in FORMATS.items():
        for format in formats:
            reading = choose_format(source(format=format.name), kind, set(format.required))
            assert set(reading.columns) == set(format.required)
            for column in format.required:
                with pytest.raises(DataError, match="lacks a column"):
                    choose_format(source(format=format.name), kind, set(format.required) - {column})


def test_formats_have_different_names() -> None:
    names = [format.name for formats in FORMATS.values() for format in formats]
    assert len(set(names)) == len(names)


def test_a_column_that_is_mapped_fills_no_second_place() -> None:
    source = FileSource(path="rows.jsonl", columns={"instruction": "input"})
    row = {"input": "Say it.", "output": "It."}
    reading = choose_format(source, "sft", set(row), [row])
    assert reading.columns == {"instruction": "input", "output": "output"}
