"""Rows as the published sets have them, and the conversations that they become."""

import json
from typing import Any

import pytest

from llm_engineering.config.data import FileSource
from llm_engineering.data.formats import Conversation, RowProblem, choose_format


def read(row: dict[str, Any], **settings: Any) -> Conversation:
    """Read one row with the format that fits its columns."""
    reading = choose_format(FileSource(path="rows.jsonl", **settings), "sft", set(row), [row])
    (example,) = reading.read(row)
    assert isinstance(example, Conversation)
    return example


def format_of(row: dict[str, Any]) -> str:
    return choose_format(FileSource(path="rows.jsonl"), "sft", set(row), [row]).format.name


def problem(row: dict[str, Any], **settings: Any) -> tuple[str, str]:
    with pytest.raises(RowProblem) as caught:
        read(row, **settings)
    return caught.value.reason, str(caught.value)


def system(content: str) -> dict[str, Any]:
    return {"role": "system", "content": content}


def user(content: str) -> dict[str, Any]:
    return {"role": "user", "content": content}


def assistant(content: str) -> dict[str, Any]:
    return {"role": "assistant", "content": content}


def call(name: str, **arguments: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


def turn(speaker: str, value: Any) -> dict[str, Any]:
    return {"from": speaker, "value": value}


OPEN_ORCA = {
    "id": "niv.242684",
    "system_prompt": "",
    "question": "You will be given a definition of a task first, then some input of the task.\n\nOutput:",
    "response": '[\n  ["AFC Ajax (amateurs)", "has ground", "Sportpark De Toekomst"]\n]',
}
DOLLY = {
    "instruction": "When did Virgin Australia start operating?",
    "context": "Virgin Australia commenced services on 31 August 2000 as Virgin Blue.",
    "response": "Virgin Australia commenced services on 31 August 2000 as Virgin Blue.",
    "category": "closed_qa",
}
ALPACA = {
    "instruction": "Classify the following into animals, plants, and minerals",
    "input": "Oak tree, copper ore, elephant",
    "output": "Oak tree: Plant \n Copper ore: Mineral \n Elephant: Animal",
    "text": "Below is an instruction ...",
}


@pytest.mark.parametrize(
    ("name", "row", "messages"),
    [
        (
            "messages",
            {"messages": [system(" S "), user("Q1\n"), assistant("A1"), user("Q2"), assistant(" A2 ")], "id": 7},
            [system("S"), user("Q1"), assistant("A1"), user("Q2"), assistant("A2")],
        ),
        ("messages", {"messages": [user(""), assistant("A")]}, [user(""), assistant("A")]),
        (
            "sharegpt",
            {
                "id": "QWJhYvA_0",
                "conversations": [turn("human", "Hi "), turn("gpt", "Hello"), turn("user", "?"), turn("chatgpt", "!")],
            },
            [user("Hi"), assistant("Hello"), user("?"), assistant("!")],
        ),
        (
            "sharegpt",
            {"system": "S", "conversations": [turn("human", "Q"), turn("bard", "A")], "tools": ""},
            [system("S"), user("Q"), assistant("A")],
        ),
        (
            "sharegpt",
            {"conversations": [turn("system", " "), turn("human", "Q"), turn("model", "A")], "images": []},
            [user("Q"), assistant("A")],
        ),
        ("alpaca", {"instruction": "I", "output": "O"}, [user("I"), assistant("O")]),
        (
            "alpaca",
            ALPACA,
            [
                user("Classify the following into animals, plants, and minerals\n\nOak tree, copper ore, elephant"),
                assistant("Oak tree: Plant \n Copper ore: Mineral \n Elephant: Animal"),
            ],
        ),
        (
            "alpaca",
            {"instruction": " I ", "input": " X ", "output": " O\n", "system": "S"},
            [system("S"), user("I\n\nX"), assistant("O")],
        ),
        ("alpaca", {"instruction": "I", "input": "", "output": "O", "system": None}, [user("I"), assistant("O")]),
        ("alpaca", {"instruction": "I", "input": None, "output": "O", "system": " "}, [user("I"), assistant("O")]),
        (
            "alpaca",
            {"instruction": "I", "input": "X", "output": "O", "system": "S", "history": [["Q1", "A1"], ["Q2", "A2"]]},
            [system("S"), user("Q1"), assistant("A1"), user("Q2"), assistant("A2"), user("I\n\nX"), assistant("O")],
        ),
        ("alpaca", {"instruction": "I", "output": "O", "history": []}, [user("I"), assistant("O")]),
        ("alpaca", {"instruction": "I", "output": "O", "history": None}, [user("I"), assistant("O")]),
        ("question_answer", {"question": "Q", "answer": "A"}, [user("Q"), assistant("A")]),
        ("question_answer", {"instruction": "Q", "answer": "A"}, [user("Q"), assistant("A")]),
        ("question_answer", {"query": "Q", "response": "A"}, [user("Q"), assistant("A")]),
        ("question_answer", {"system": "S", "question": "Q", "answer": "A"}, [system("S"), user("Q"), assistant("A")]),
        (
            "question_answer",
            OPEN_ORCA,
            [
                user("You will be given a definition of a task first, then some input of the task.\n\nOutput:"),
                assistant('[\n  ["AFC Ajax (amateurs)", "has ground", "Sportpark De Toekomst"]\n]'),
            ],
        ),
        (
            "question_answer",
            OPEN_ORCA | {"system_prompt": "You are an AI assistant.", "question": "Q", "response": "A"},
            [system("You are an AI assistant."), user("Q"), assistant("A")],
        ),
        (
            "dolly",
            DOLLY,
            [
                user(
                    "When did Virgin Australia start operating?\n\n"
                    "Virgin Australia commenced services on 31 August 2000 as Virgin Blue."
                ),
                assistant("Virgin Australia commenced services on 31 August 2000 as Virgin Blue."),
            ],
        ),
        ("dolly", DOLLY | {"instruction": "Q", "context": "", "response": "A"}, [user("Q"), assistant("A")]),
        ("prompt_completion", {"prompt": "P", "completion": "C"}, [user("P"), assistant("C")]),
        (
            "prompt_completion",
            {"prompt": [system("S"), user("P")], "completion": [assistant("C")]},
            [system("S"), user("P"), assistant("C")],
        ),
    ],
)
def test_a_row_becomes_a_conversation(name: str, row: dict[str, Any], messages: list[dict[str, Any]]) -> None:
    assert format_of(row) == name
    assert read(row) == Conversation(messages)


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "P", "chosen": "A", "rejected": "B"},
        {"chosen": "\n\nHuman: P\n\nAssistant: A", "rejected": "\n\nHuman: P\n\nAssistant: B"},
        {"chosen": [user("P"), assistant("A")], "rejected": [user("P"), assistant("B")]},
        {"conversations": [turn("human", "P")], "chosen": turn("gpt", "A"), "rejected": turn("gpt", "B")},
        {"history": "P", "human_ref_A": "B", "human_ref_B": "A", "labels": 0, "score_ratio": 2.0},
        {
            "instruction": "P",
            "completions": [
                {"response": "C", "overall_score": 5},
                {"response": "A", "overall_score": 9},
                {"response": "B", "overall_score": 1},
            ],
        },
        {
            "question": "<p>P</p>",
            "answers": [
                {"text": "C", "pm_score": 2},
                {"text": "A", "pm_score": 4},
                {"text": "B", "pm_score": 0},
            ],
        },
    ],
)
def test_the_best_answer_of_a_preference_row_is_a_conversation(row: dict[str, Any]) -> None:
    assert read(row).messages == [user("P"), assistant("A")]


WEATHER = {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}


def test_sharegpt_turns_call_tools_and_get_their_results() -> None:
    row = {
        "conversations": [
            turn("human", "Is it warm in Bern and Chur?"),
            turn("function_call", '{"name": "weather", "arguments": {"city": "Bern"}}'),
            turn("observation", '{"celsius": 24}'),
            turn("function_call", '[{"name": "weather", "arguments": "{\\"city\\": \\"Chur\\"}"}]'),
            turn("function_response", "19"),
            turn("gpt", "Bern is warmer."),
        ],
        "tools": json.dumps([WEATHER]),
    }
    assert read(row) == Conversation(
        [
            user("Is it warm in Bern and Chur?"),
            {"role": "assistant", "content": "", "tool_calls": [call("weather", city="Bern")]},
            {"role": "tool", "content": '{"celsius": 24}'},
            {"role": "assistant", "content": "", "tool_calls": [call("weather", city="Chur")]},
            {"role": "tool", "content": "19"},
            assistant("Bern is warmer."),
        ],
        tools=[{"type": "function", "function": WEATHER}],
    )


def test_openai_messages_call_tools_and_get_their_results() -> None:
    tool = {"type": "function", "function": WEATHER}
    row = {
        "messages": [
            {"role": "developer", "content": "Be brief."},
            user("Is it warm?"),
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Bern"}'}},
                    {"id": "c2", "type": "function", "function": {"name": "weather", "arguments": {"city": "Chur"}}},
                ],
            },
            {"role": "tool", "content": "24", "tool_call_id": "c1", "name": "weather"},
            {"role": "tool", "content": [{"type": "text", "text": "19"}], "tool_call_id": "c2"},
            assistant("Yes."),
        ],
        "tools": [tool],
        "parallel_tool_calls": False,
    }
    assert read(row) == Conversation(
        [
            {"role": "developer", "content": "Be brief."},
            user("Is it warm?"),
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [
                    {"id": "c1", **call("weather", city="Bern")},
                    {"id": "c2", **call("weather", city="Chur")},
                ],
            },
            {"role": "tool", "content": "24", "name": "weather", "tool_call_id": "c1"},
            {"role": "tool", "content": "19", "tool_call_id": "c2"},
            assistant("Yes."),
        ],
        tools=[tool],
    )


def test_a_tool_call_may_be_the_answer() -> None:
    calling = {"role": "assistant", "content": "", "tool_calls": [call("now")]}
    conversation = read({"messages": [user("What time is it?"), calling]})
    assert conversation == Conversation([user("What time is it?"), calling])
    assert (conversation.answer, conversation.prompt) == ("", [user("What time is it?")])


def test_arguments_given_as_an_object_lose_the_nulls_that_arrow_adds_and_json_text_keeps_its_own() -> None:
    given = [{"function": {"name": "f", "arguments": {"a": 1, "b": None}}}, {"name": "f", "arguments": '{"b": null}'}]
    row = {
        "messages": [user("Q"), {"role": "assistant", "tool_calls": given}],
        "tools": [
            {"type": "function", "function": {"name": "f", "parameters": {"a": {"type": "number", "enum": None}}}}
        ],
    }
    assert read(row) == Conversation(
        [user("Q"), {"role": "assistant", "content": "", "tool_calls": [call("f", a=1), call("f", b=None)]}],
        tools=[{"type": "function", "function": {"name": "f", "parameters": {"a": {"type": "number"}}}}],
    )


def test_tools_given_as_json_text_keep_their_nulls() -> None:
    row = {"messages": [user("Q"), assistant("A")], "tools": '[{"name": "f", "default": null}]'}
    assert read(row).tools == [{"type": "function", "function": {"name": "f", "default": None}}]


@pytest.mark.parametrize("tools", [None, [], "", " ", "[]", "null"])
def test_no_tools_are_none(tools: Any) -> None:
    assert read({"messages": [user("Q"), assistant("A")], "tools": tools}).tools is None


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"messages": [user("Q")]}, ("bad role order", "the conversation does not end with the assistant")),
        (
            {"messages": [user("Q"), assistant("A")], "tools": "[{]"},
            ("unparsable", "tools cannot be read as JSON: '[{]'"),
        ),
        ({"messages": [user("Q"), assistant("A")], "tools": 1}, ("unparsable", "tools is int, not a list of functi")),
        ({"messages": [user("Q"), assistant("A")], "tools": ["f"]}, ("unparsable", "a tool is 'f', not an object wit")),
        ({"messages": [user("Q"), assistant("A")], "images": ["x.jpg"]}, ("not text", "the row has images; pictures,")),
        ({"conversations": [turn("human", "Q"), turn("gpt", "A")], "image": "x"}, ("not text", "the row has image; p")),
        ({"conversations": [turn("alice", "Q")]}, ("bad role order", "the speaker 'alice' is none of system, human")),
        ({"conversations": [turn("human", 4)]}, ("not text", "what the human says is int, not text")),
        ({"conversations": [turn("gpt", "A")]}, ("bad role order", "turn 1 is by the assistant")),
        ({"conversations": [turn("human", "Q"), turn("gpt", "")]}, ("empty answer", "an assistant message is empty")),
        ({"conversations": [turn("human", "Q")]}, ("bad role order", "the conversation does not end with the assis")),
        (
            {"conversations": [turn("human", "Q"), turn("function_call", "weather(Bern)")]},
            ("unparsable", "a tool call cannot be read as JSON: 'weather(Bern)'"),
        ),
        (
            {"conversations": [turn("human", "Q"), turn("function_call", "[]")]},
            ("empty answer", "a function_call calls nothing"),
        ),
        (
            {"conversations": [turn("human", "Q"), turn("function_call", '{"name": "f"}'), turn("gpt", "A")]},
            ("bad role order", "turn 3 is by the assistant"),
        ),
        ({"instruction": "I", "output": ""}, ("empty answer", "output is empty")),
        ({"instruction": "I", "output": 4}, ("not text", "output is int, not text")),
        ({"instruction": None, "output": "O"}, ("not text", "instruction is NoneType, not text")),
        ({"instruction": "I", "input": ["x"], "output": "O"}, ("not text", "input is list, not text")),
        ({"instruction": "I", "output": "O", "system": 1}, ("not text", "system is int, not text")),
        ({"instruction": "I", "output": "O", "history": "Q"}, ("not text", "history is str, not a list of questions")),
        ({"instruction": "I", "output": "O", "history": [["Q"]]}, ("bad role order", "history holds something else")),
        ({"instruction": "I", "output": "O", "history": [["Q", None]]}, ("not text", "an answer of history is None")),
        (
            {"instruction": "I", "output": "O", "history": [["Q", ""]]},
            ("empty answer", "an answer of history is empty"),
        ),
        ({"question": "Q", "answer": " "}, ("empty answer", "answer is empty")),
        ({"instruction": "I", "context": {}, "response": "A"}, ("not text", "context is dict, not text")),
        ({"prompt": [user("P")], "completion": "C"}, ("not text", "prompt is list, not text")),
        ({"prompt": "P", "completion": [assistant("C")]}, ("not text", "completion is list, not text")),
        ({"prompt": [user("P")], "completion": []}, ("bad role order", "the conversation does not end with the assis")),
    ],
)
def test_a_row_that_cannot_be_used_says_why(row: dict[str, Any], expected: tuple[str, str]) -> None:
    reason, detail = problem(row)
    assert (reason, detail[: len(expected[1])]) == expected


@pytest.mark.parametrize(
    ("value", "detail"),
    [
        ("Q", "conversations is str, not a list of turns"),
        (["Q"], "conversations holds str, not an object with from and value"),
        (None, "conversations is NoneType, not a list of turns"),
    ],
)
def test_turns_that_are_no_objects_are_refused(value: Any, detail: str) -> None:
    assert problem({"conversations": value}, format="sharegpt") == ("not text", detail)
