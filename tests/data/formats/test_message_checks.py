"""What check_messages lets pass, and what it says about the rest."""

from typing import Any

import pytest

from llm_engineering.data.formats import RowProblem, check_messages

Q, A = {"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}
CALL = {"type": "function", "function": {"name": "f", "arguments": {}}}
CALLING = {"role": "assistant", "content": "", "tool_calls": [CALL]}
RESULT = {"role": "tool", "content": "R"}
SYSTEM = {"role": "system", "content": "S"}


def said(role: Any, content: Any = "x", **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


def problem(messages: Any, **settings: Any) -> tuple[str, str]:
    with pytest.raises(RowProblem) as caught:
        check_messages(messages, **settings)
    return caught.value.reason, str(caught.value)


def test_messages_lose_nothing_but_outer_blanks_and_keys_that_templates_do_not_know() -> None:
    assert check_messages([said("user", "\n a  b \n", weight=1)]) == [said("user", "a  b")]
    assert check_messages([]) == []


def test_null_entries_are_left_out() -> None:
    padded = {"name": None, "tool_calls": None, "tool_call_id": None, "function_call": None}
    assert check_messages([{**Q, **padded}, {**A, **padded}]) == [Q, A]


def test_names_and_ids_stay() -> None:
    messages = [said("user", name="ann"), CALLING, said("tool", name="f", tool_call_id="c1")]
    assert check_messages(messages) == messages


@pytest.mark.parametrize("role", ["system", "developer"])
def test_a_blank_system_message_is_left_out(role: str) -> None:
    assert check_messages([said(role, " \n"), Q, A]) == [Q, A]


def test_text_parts_are_joined() -> None:
    parts = [{"type": "text", "text": " a\n", "image_url": None}, "b", {"type": "output_text", "text": "c "}]
    assert check_messages([said("user", parts)]) == [said("user", "a\nbc")]


@pytest.mark.parametrize(
    ("alias", "role"),
    [("human", "user"), ("gpt", "assistant"), ("bot", "assistant"), ("model", "assistant"), ("function", "tool")],
)
def test_other_names_of_a_role_are_understood(alias: str, role: str) -> None:
    before = {"user": [], "assistant": [Q], "tool": [Q, CALLING]}[role]
    assert check_messages([*before, said(alias)])[-1] == said(role)


def test_a_name_beside_another_one_for_the_role_is_refused() -> None:
    assert problem([said("human"), A, Q, A]) == (
        "bad role order",
        "the role 'human' and another name of the user are both there",
    )
    assert problem([Q, said("gpt"), Q, said("bot")])[0] == "bad role order"


def test_the_first_kind_of_function_calls_is_read() -> None:
    calling = {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}}
    assert check_messages([Q, calling, said("function", "R"), A]) == [Q, CALLING, RESULT, A]


@pytest.mark.parametrize(
    ("messages", "ends_with"),
    [
        ([Q, A], "assistant"),
        ([SYSTEM, Q, A, Q, A], "assistant"),
        ([Q, CALLING], "assistant"),
        ([Q, CALLING, RESULT, RESULT, A], "assistant"),
        ([Q, CALLING, RESULT, CALLING, RESULT, A, Q], "user"),
        ([Q, CALLING, RESULT], "user"),
        ([SYSTEM], None),
    ],
)
def test_roles_in_turn_pass_as_they_are(messages: list[dict[str, Any]], ends_with: Any) -> None:
    assert check_messages(messages, ends_with) == messages


@pytest.mark.parametrize(
    ("messages", "detail"),
    [
        ([A], "turn 1 is by the assistant"),
        ([SYSTEM, A], "turn 1 is by the assistant"),
        ([Q, Q, A], "turn 2 is by the user"),
        ([Q, A, A], "turn 3 is by the assistant"),
        ([Q, SYSTEM, A], "turn 2 is by the system"),
        ([SYSTEM, SYSTEM, A], "turn 1 is by the system"),
        ([SYSTEM, said("developer"), Q, A], "turn 1 is by the developer"),
        ([Q, RESULT, A], "turn 2 is by the tool"),
        ([Q, A, RESULT, A], "turn 3 is by the tool"),
        ([Q, CALLING, Q, A], "turn 3 is by the user"),
        ([Q, CALLING, A], "turn 3 is by the assistant"),
        ([Q, CALLING, RESULT, Q, A], "turn 4 is by the user"),
        ([said(None)], "the role None is none of system, developer, user, assistant, tool"),
        ([said(["user"])], "the role ['user'] is none of system, developer, user, assistant, tool"),
        ([said("critic")], "the role 'critic' is none of system, developer, user, assistant, tool"),
        ([{"content": "x"}], "the role None is none of system, developer, user, assistant, tool"),
        ([], "the conversation does not end with the assistant"),
        ([SYSTEM], "the conversation does not end with the assistant"),
        ([Q, A, Q], "the conversation does not end with the assistant"),
        ([Q, CALLING, RESULT], "the conversation does not end with the assistant"),
    ],
)
def test_roles_out_of_turn_are_refused(messages: Any, detail: str) -> None:
    assert problem(messages, ends_with="assistant") == ("bad role order", detail)


@pytest.mark.parametrize("messages", [[], [SYSTEM], [Q, A]])
def test_a_prompt_ends_with_the_user(messages: Any) -> None:
    assert problem(messages, ends_with="user") == ("bad role order", "the prompt does not end with the user")


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        ("Hi", ("not text", "messages is no list of objects with role and content")),
        (["Hi"], ("not text", "messages is no list of objects with role and content")),
        ([[Q]], ("not text", "messages is no list of objects with role and content")),
        ([Q, {"role": "assistant"}], ("not text", "the assistant's content is NoneType, not text")),
        ([said("user", 1)], ("not text", "the user's content is int, not text")),
        ([said("user", {"a": 1})], ("not text", "the user's content is dict, not text")),
        ([said("user", name=5)], ("not text", "the user's name is int, not text")),
        ([Q, CALLING, said("tool", tool_call_id={})], ("not text", "the tool's tool_call_id is dict, not text")),
        ([Q, said("assistant", " \n")], ("empty answer", "an assistant message is empty")),
        ([Q, said("assistant", ""), Q, A], ("empty answer", "an assistant message is empty")),
        ([Q, said("assistant", "", tool_calls=[])], ("empty answer", "an assistant message is empty")),
        ([Q, said("assistant", [])], ("empty answer", "an assistant message is empty")),
        ([Q, said("assistant", tool_calls="x")], ("unparsable", "tool_calls is str, not a list")),
        (
            [Q, said("assistant", tool_calls=[{"function": {"name": "f", "arguments": "{a}"}}])],
            ("unparsable", "the arguments of a tool call cannot be read as JSON: '{a}'"),
        ),
        (
            [Q, said("assistant", tool_calls=[{"function": {"name": "f", "arguments": [1]}}])],
            ("unparsable", "the arguments of a tool call are [1], not an object"),
        ),
        (
            [Q, said("assistant", tool_calls=[{"function": "f"}])],
            ("unparsable", "a tool call is {'function': 'f'}, not an object with the function's name"),
        ),
    ],
)
def test_what_is_no_text_is_refused(messages: Any, expected: tuple[str, str]) -> None:
    assert problem(messages) == expected


@pytest.mark.parametrize(
    ("kind", "called"),
    [
        ("image", "an image"),
        ("image_url", "an image"),
        ("input_image", "an image"),
        ("input_audio", "audio"),
        ("video", "a video"),
    ],
)
def test_pictures_and_sounds_are_refused_by_name(kind: str, called: str) -> None:
    parts = [{"type": "text", "text": "What is this?"}, {"type": kind, kind: {"url": "x"}}]
    assert problem([said("user", parts)]) == (
        "not text",
        f"the user's content holds {called}, which is not supported",
    )


@pytest.mark.parametrize("part", [None, 1, {"type": "file"}, {"type": "text"}, {"type": 1, "text": "x"}, {"type": []}])
def test_parts_that_are_no_text_are_refused(part: Any) -> None:
    reason, detail = problem([said("user", [part])])
    assert reason == "not text"
    assert detail.endswith("which is not text")


@pytest.mark.parametrize("arguments", [None, "", " ", {}, "{}"])
def test_a_call_without_arguments_has_none(arguments: Any) -> None:
    calling = said("assistant", None, tool_calls=[{"function": {"name": "f", "arguments": arguments}}])
    assert check_messages([Q, calling]) == [Q, CALLING]


def test_deeply_nested_arguments_are_refused_and_shown_short() -> None:
    deep: Any = {}
    for _ in range(5000):
        deep = {"a": deep}
    calling = said("assistant", tool_calls=[{"function": {"name": "f", "arguments": deep}}])
    assert problem([Q, calling]) == ("unparsable", "a tool call: nested too deeply")
    assert problem([Q, said("assistant", tool_calls=[{"function": deep}])])[0] == "unparsable"
    assert problem([Q, said("assistant", tool_calls=["[" * 100_000])])[0] == "unparsable"


def test_a_tool_may_answer_a_call_that_is_written_into_the_text() -> None:
    written = {"role": "assistant", "content": '<tool_call>{"name": "f", "arguments": {}}</tool_call>'}
    assert check_messages([Q, written, RESULT, A]) == [Q, written, RESULT, A]
    assert check_messages([Q, written, Q, A]) == [Q, written, Q, A]
