from typing import Any

import pytest

from llm_engineering.config.schema import FileSource
from llm_engineering.data.formats import (
    FORMATS,
    Conversation,
    Pair,
    RowProblem,
    check_messages,
    choose_format,
)
from llm_engineering.errors import DataError


def source(**settings: Any) -> FileSource:
    return FileSource(path="rows.jsonl", **settings)


def read(kind: str, row: dict[str, Any], **settings: Any) -> Conversation | Pair:
    """Read one row with the format that fits its columns."""
    reading = choose_format(source(**settings), kind, set(row))
    return reading.format.read(reading.rename(row))


def problem(kind: str, row: dict[str, Any], **settings: Any) -> tuple[str, str]:
    with pytest.raises(RowProblem) as caught:
        read(kind, row, **settings)
    return caught.value.reason, str(caught.value)


def system(content: str) -> dict[str, str]:
    return {"role": "system", "content": content}


def user(content: str) -> dict[str, str]:
    return {"role": "user", "content": content}


def assistant(content: str) -> dict[str, str]:
    return {"role": "assistant", "content": content}


@pytest.mark.parametrize(
    ("name", "row", "messages"),
    [
        (
            "messages",
            {"messages": [system(" S "), user("Q1\n"), assistant("A1"), user("Q2"), assistant(" A2 ")], "id": 7},
            [system("S"), user("Q1"), assistant("A1"), user("Q2"), assistant("A2")],
        ),
        ("messages", {"messages": [{**user(""), "name": "x"}, assistant("A")]}, [user(""), assistant("A")]),
        ("alpaca", {"instruction": "I", "output": "O"}, [user("I"), assistant("O")]),
        (
            "alpaca",
            {"instruction": " I ", "input": " X ", "output": " O\n", "system": "S"},
            [system("S"), user("I\n\nX"), assistant("O")],
        ),
        (
            "alpaca",
            {"instruction": "I", "input": "", "output": "O", "system": None},
            [user("I"), assistant("O")],
        ),
        ("alpaca", {"instruction": "I", "input": None, "output": "O", "system": " "}, [user("I"), assistant("O")]),
        ("question_answer", {"question": "Q", "answer": "A"}, [user("Q"), assistant("A")]),
        ("question_answer", {"instruction": "Q", "answer": "A"}, [user("Q"), assistant("A")]),
        ("question_answer", {"query": "Q", "response": "A"}, [user("Q"), assistant("A")]),
        (
            "question_answer",
            {"question": "Q", "response": "A", "system_prompt": "S"},
            [system("S"), user("Q"), assistant("A")],
        ),
        ("prompt_completion", {"prompt": "P", "completion": "C"}, [user("P"), assistant("C")]),
        (
            "prompt_completion",
            {"prompt": [system("S"), user("P")], "completion": [assistant("C")]},
            [system("S"), user("P"), assistant("C")],
        ),
    ],
)
def test_columns_become_a_conversation(name: str, row: dict[str, Any], messages: list[dict[str, str]]) -> None:
    assert choose_format(source(), "sft", set(row)).format.name == name
    assert read("sft", row) == Conversation(messages)


CHAT = [system("S"), user("Q1"), assistant("A1"), user("Q2")]


@pytest.mark.parametrize(
    ("row", "pair"),
    [
        ({"prompt": " P ", "chosen": " C ", "rejected": "R\n"}, Pair([user("P")], "C", "R")),
        ({"instruction": "P", "chosen": "C", "rejected": "R"}, Pair([user("P")], "C", "R")),
        ({"question": "P", "chosen": "C", "rejected": "R", "system": "S"}, Pair([system("S"), user("P")], "C", "R")),
        ({"prompt": CHAT, "chosen": "C", "rejected": "R"}, Pair(CHAT, "C", "R")),
        ({"prompt": CHAT, "chosen": [assistant("C")], "rejected": [assistant("R")]}, Pair(CHAT, "C", "R")),
        (  # answers that repeat the prompt, with and without its system message
            {"prompt": CHAT, "chosen": [*CHAT, assistant("C")], "rejected": [*CHAT[1:], assistant("R")]},
            Pair(CHAT, "C", "R"),
        ),
        (
            {"prompt": "P ", "chosen": [user("P"), assistant("C")], "rejected": [user("P"), assistant("R")]},
            Pair([user("P")], "C", "R"),
        ),
    ],
)
def test_columns_become_a_pair(row: dict[str, Any], pair: Pair) -> None:
    assert read("preference", row) == pair


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"messages": "Hi"}, ("not text", "messages is no list of objects with role and content")),
        ({"messages": ["Hi"]}, ("not text", "messages is no list of objects with role and content")),
        (
            {"messages": [user("Q"), {"role": "assistant"}]},
            ("not text", "the content of a assistant message is NoneTy"),
        ),
        ({"messages": [user("Q"), {"role": "tool", "content": "x"}]}, ("bad role order", "the role 'tool' is none of")),
        ({"messages": [{"role": ["user"], "content": "x"}]}, ("bad role order", "the role ['user'] is none of")),
        ({"messages": []}, ("bad role order", "the conversation does not end with the assistant")),
        ({"messages": [system("S")]}, ("bad role order", "the conversation does not end with the assistant")),
        ({"messages": [user("Q")]}, ("bad role order", "the conversation does not end with the assistant")),
        ({"messages": [assistant("A")]}, ("bad role order", "turn 1 is by the assistant")),
        ({"messages": [system("S"), assistant("A")]}, ("bad role order", "turn 1 is by the assistant")),
        ({"messages": [user("Q"), user("Q"), assistant("A")]}, ("bad role order", "turn 2 is by the user")),
        ({"messages": [user("Q"), system("S"), assistant("A")]}, ("bad role order", "turn 2 is by the system")),
        ({"messages": [system("S"), system("S"), assistant("A")]}, ("bad role order", "turn 1 is by the system")),
        ({"messages": [user("Q"), assistant(" \n")]}, ("empty answer", "an assistant message is empty")),
        (
            {"messages": [user("Q"), assistant(""), user("Q"), assistant("A")]},
            ("empty answer", "an assistant message is empty"),
        ),
        ({"instruction": "I", "output": ""}, ("empty answer", "output is empty")),
        ({"instruction": "I", "output": 4}, ("not text", "output is int, not text")),
        ({"instruction": None, "output": "O"}, ("not text", "instruction is NoneType, not text")),
        ({"instruction": "I", "input": ["x"], "output": "O"}, ("not text", "input is list, not text")),
        ({"instruction": "I", "output": "O", "system": 1}, ("not text", "system is int, not text")),
        ({"question": "Q", "answer": " "}, ("empty answer", "answer is empty")),
        ({"prompt": [user("P")], "completion": "C"}, ("not text", "prompt is list, not text")),
        ({"prompt": "P", "completion": [assistant("C")]}, ("not text", "completion is list, not text")),
        ({"prompt": [user("P")], "completion": []}, ("bad role order", "the conversation does not end with the assis")),
    ],
)
def test_sft_row_that_cannot_be_used_says_why(row: dict[str, Any], expected: tuple[str, str]) -> None:
    reason, detail = problem("sft", row)
    assert (reason, detail[: len(expected[1])]) == expected


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"chosen": ""}, ("empty answer", "chosen is empty")),
        ({"rejected": None}, ("not text", "rejected is NoneType, not text")),
        ({"prompt": 3}, ("not text", "prompt is int, not text")),
        ({"prompt": []}, ("bad role order", "the prompt does not end with the user")),
        ({"prompt": [user("Q"), assistant("A")]}, ("bad role order", "the prompt does not end with the user")),
        ({"prompt": CHAT, "system": "Another"}, ("bad role order", "turn 1 is by the system")),
        ({"chosen": []}, ("bad role order", "chosen does not end with the assistant")),
        ({"chosen": ["C"]}, ("bad role order", "chosen does not end with the assistant")),
        ({"rejected": [user("R")]}, ("bad role order", "rejected does not end with the assistant")),
        ({"rejected": [{"role": "assistant"}]}, ("not text", "rejected is NoneType, not text")),
        (
            {"chosen": [user("P"), assistant("A"), user("more"), assistant("C")]},
            ("bad role order", "chosen repeats another prompt than the row's"),
        ),
    ],
)
def test_pair_that_cannot_be_used_says_why(change: dict[str, Any], expected: tuple[str, str]) -> None:
    assert problem("preference", {"prompt": "P", "chosen": "C", "rejected": "R", **change}) == expected


def test_row_that_lacks_a_column_of_its_data_set_is_no_text() -> None:
    reading = choose_format(source(), "sft", {"instruction", "output", "input"})
    assert reading.rename({"instruction": "I", "output": "O", "other": 1}) == {"instruction": "I", "output": "O"}
    with pytest.raises(RowProblem, match="column output is missing") as caught:
        reading.rename({"instruction": "I"})
    assert caught.value.reason == "not text"


def test_mapped_columns_are_read_under_the_formats_names() -> None:
    row = {"vraag": "Q", "antwoord": "A", "question": "another", "n": "17"}
    mapping = {"question": "vraag", "answer": "antwoord", "unit": "n"}
    assert read("sft", row, columns=mapping) == Conversation([user("Q"), assistant("A")])
    assert choose_format(source(columns=mapping), "sft", set(row)).rename(row)["unit"] == "17"


def test_mapping_decides_between_formats() -> None:
    present = {"instruction", "output", "answer"}
    mapped = source(columns={"output": "answer"})
    assert choose_format(mapped, "sft", present).columns == {"instruction": "instruction", "output": "answer"}


def test_several_fitting_formats_are_named() -> None:
    present = {"instruction", "output", "answer"}
    with pytest.raises(DataError, match=r"rows\.jsonl fits the formats alpaca and question_answer\. Name one"):
        choose_format(source(), "sft", present)
    assert choose_format(source(format="alpaca"), "sft", present).format.name == "alpaca"


def test_columns_that_fit_no_format_are_listed_beside_the_formats() -> None:
    with pytest.raises(DataError) as caught:
        choose_format(source(), "preference", {"text", "label"})
    assert str(caught.value) == (
        "rows.jsonl fits no preference format. The columns are: label, text. Formats and their columns: "
        "chosen_rejected: prompt, chosen, rejected. Map names with `columns`."
    )


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {"format": "alpaca"},
            r"lacks a column that the format alpaca needs .* The columns are: answer, question\. Map",
        ),
        (
            {"format": "sharegpt"},
            r"'sharegpt' is no sft format\. There are: messages, alpaca, question_answer, prompt_",
        ),
        ({"format": "chosen_rejected"}, r"'chosen_rejected' is no sft format"),
        (
            {"columns": {"question": "frage"}},
            r"has no column 'frage', which `columns` names\. The columns are: answer,",
        ),
        (
            {"format": "question_answer", "columns": {"instruction": "question"}},
            r"`columns` maps 'instruction', but the format question_answer has the columns question, answer, system_pr",
        ),
        ({"columns": {"qestion": "question"}}, r"fits no sft format\. The columns are: .* `columns` maps qestion\."),
    ],
)
def test_settings_that_do_not_fit_the_columns_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=said):
        choose_format(source(**settings), "sft", {"question", "answer"})


def test_every_format_reads_from_exactly_its_required_columns() -> None:
    for kind, formats in FORMATS.items():
        for format in formats:
            reading = choose_format(source(format=format.name), kind, set(format.required))
            assert set(reading.columns) == set(format.required)
            for column in format.required:
                with pytest.raises(DataError, match="lacks a column"):
                    choose_format(source(format=format.name), kind, set(format.required) - {column})


def test_checked_messages_lose_nothing_but_outer_blanks_and_other_keys() -> None:
    assert check_messages([{"role": "user", "content": "\n a  b \n", "weight": 1}]) == [user("a  b")]
    assert check_messages([]) == []
