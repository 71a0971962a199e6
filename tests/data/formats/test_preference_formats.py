"""Rows as the published sets have them, and the pairs that they become."""

from typing import Any

import pytest

from llm_engineering.config.data import FileSource
from llm_engineering.data.formats import Pair, RowProblem, choose_format


def reading_of(row: dict[str, Any], **settings: Any) -> Any:
    return choose_format(FileSource(path="rows.jsonl", **settings), "preference", set(row), [row])


def read(row: dict[str, Any], **settings: Any) -> list[Any]:
    """Read one row with the format that fits its columns."""
    return list(reading_of(row, **settings).read(row))


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


def turn(speaker: str, value: Any) -> dict[str, Any]:
    return {"from": speaker, "value": value}


CHAT = [system("S"), user("Q1"), assistant("A1"), user("Q2")]
HH_PROMPT = (
    "\n\nHuman: Which birds can't fly?"
    "\n\nAssistant: Here are some of them:\n\npenguin, ostrich, kiwi"
    "\n\nHuman: What's your favorite one?"
)
HH_MESSAGES = [
    user("Which birds can't fly?"),
    assistant("Here are some of them:\n\npenguin, ostrich, kiwi"),
    user("What's your favorite one?"),
]
ULTRAFEEDBACK = {
    "source": "evol_instruct",
    "instruction": "Name a prime.",
    "models": ["alpaca-7b", "gpt-4", "llama-2-7b-chat"],
    "completions": [
        {"model": "alpaca-7b", "response": "9", "overall_score": 2.0, "principle": "honesty"},
        {"model": "gpt-4", "response": "7", "overall_score": 8.0, "principle": "honesty"},
        {"model": "llama-2-7b-chat", "response": "1", "overall_score": 4.0, "principle": "honesty"},
    ],
}
SHP = {
    "post_id": "qt3nxl",
    "domain": "askculinary_train",
    "history": "What's the best way to disassemble raspberries?",
    "score_A": 20,
    "score_B": 340,
    "human_ref_A": "Pipette and pressurised air.",
    "human_ref_B": "Freeze them, then rub.",
    "labels": 0,
    "score_ratio": 17.0,
}


@pytest.mark.parametrize(
    ("name", "row", "pair"),
    [
        ("chosen_rejected", {"prompt": " P ", "chosen": " C ", "rejected": "R\n"}, Pair([user("P")], "C", "R")),
        ("chosen_rejected", {"instruction": "P", "chosen": "C", "rejected": "R"}, Pair([user("P")], "C", "R")),
        (
            "chosen_rejected",
            {"instruction": "I", "input": "X", "chosen": "C", "rejected": "R"},
            Pair([user("I\n\nX")], "C", "R"),
        ),
        (
            "chosen_rejected",
            {"question": "P", "chosen": "C", "rejected": "R", "system": "S"},
            Pair([system("S"), user("P")], "C", "R"),
        ),
        ("chosen_rejected", {"prompt": CHAT, "chosen": "C", "rejected": "R", "input": ""}, Pair(CHAT, "C", "R")),
        (
            "chosen_rejected",
            {"prompt": CHAT, "chosen": [assistant("C")], "rejected": [assistant("R")]},
            Pair(CHAT, "C", "R"),
        ),
        (  # answers that repeat the prompt, with and without its system message
            "chosen_rejected",
            {"prompt": CHAT, "chosen": [*CHAT, assistant("C")], "rejected": [*CHAT[1:], assistant("R")]},
            Pair(CHAT, "C", "R"),
        ),
        (  # UltraFeedback, binarized
            "chosen_rejected",
            {
                "prompt": "P ",
                "prompt_id": "a1",
                "chosen": [user("P"), assistant("C")],
                "rejected": [user("P"), assistant("R")],
                "score_chosen": 8.0,
                "score_rejected": 2.0,
            },
            Pair([user("P")], "C", "R"),
        ),
        (
            "chosen_rejected",
            {
                "prompt": "P",
                "chosen": [{"role": "human", "content": "P"}, {"role": "gpt", "content": "C"}],
                "rejected": "R",
            },
            Pair([user("P")], "C", "R"),
        ),
        (
            "implicit_prompt",
            {"chosen": [*CHAT, assistant("C")], "rejected": [*CHAT, assistant("R")]},
            Pair(CHAT, "C", "R"),
        ),
        (
            "implicit_prompt",
            {"chosen": "The sky is blue.", "rejected": "The sky is black.\n"},
            Pair([user("The sky is")], "blue.", "black."),
        ),
        (
            "hh_rlhf",
            {
                "chosen": f"{HH_PROMPT}\n\nAssistant: I haven't even thought about it.",
                "rejected": f"{HH_PROMPT}\n\nAssistant: Ha!\n\nI like them all.",
            },
            Pair(HH_MESSAGES, "I haven't even thought about it.", "Ha!\n\nI like them all."),
        ),
        ("ultrafeedback", ULTRAFEEDBACK, Pair([user("Name a prime.")], "7", "9", score_ratio=4.0)),
        (
            "sharegpt_ranking",
            {
                "conversations": [turn("human", "Q1"), turn("gpt", "A1"), turn("human", "Q2")],
                "chosen": turn("gpt", "C "),
                "rejected": turn("gpt", "R"),
                "system": "S",
            },
            Pair(CHAT, "C", "R"),
        ),
        (
            "shp",
            SHP,
            Pair([user(SHP["history"])], "Freeze them, then rub.", "Pipette and pressurised air.", score_ratio=17.0),
        ),
        (
            "shp",
            SHP | {"labels": "1", "score_ratio": "2.5"},  # as CSV gives it
            Pair([user(SHP["history"])], "Pipette and pressurised air.", "Freeze them, then rub.", score_ratio=2.5),
        ),
        (
            "shp",
            SHP | {"labels": 1, "score_ratio": None},
            Pair([user(SHP["history"])], "Pipette and pressurised air.", "Freeze them, then rub."),
        ),
    ],
)
def test_a_row_becomes_a_pair(name: str, row: dict[str, Any], pair: Pair) -> None:
    assert reading_of(row).format.name == name
    assert read(row) == [pair]


def test_a_tool_may_have_spoken_last_before_ranked_answers() -> None:
    row = {
        "conversations": [
            turn("human", "Is it warm?"),
            turn("function_call", '{"name": "weather", "arguments": {}}'),
            turn("observation", "24"),
        ],
        "chosen": turn("gpt", "Yes, 24 degrees."),
        "rejected": turn("gpt", "24"),
        "tools": '[{"name": "weather"}]',
    }
    calling = {"type": "function", "function": {"name": "weather", "arguments": {}}}
    assert read(row) == [
        Pair(
            [
                user("Is it warm?"),
                {"role": "assistant", "content": "", "tool_calls": [calling]},
                {"role": "tool", "content": "24"},
            ],
            "Yes, 24 degrees.",
            "24",
            tools=[{"type": "function", "function": {"name": "weather"}}],
        )
    ]


QUESTION = "<p>How do I <em>reverse</em> a list in <a href='https://x.org/a_b'>Python</a>?</p>\n"
ANSWERS = [
    {
        "answer_id": 1,
        "author": "ann",
        "pm_score": 1,
        "selected": False,
        "text": "<p>Use <code>my_list[::-1]</code> &amp; copy.</p>",
    },
    {
        "answer_id": 2,
        "author": "bob",
        "pm_score": 5,
        "selected": True,
        "text": "<p>In place:</p>\n\n<pre><code>if a &lt; b:\n    my_list.reverse()\n</code></pre>\n",
    },
    {"answer_id": 3, "author": "cid", "pm_score": 1, "selected": False, "text": "<p>2 * 3 is no answer.</p>"},
    {"answer_id": 4, "author": "dan", "pm_score": -1, "selected": False, "text": "<p><img src='x.png'> No.</p>"},
    {"answer_id": 5, "author": "eve", "pm_score": 9, "selected": False, "text": "<p><img src='x.png'></p>"},
]


def test_stack_exchange_answers_become_pairs_the_largest_difference_first() -> None:
    prompt = [user("How do I *reverse* a list in Python?")]
    code = "In place:\n\n```\nif a < b:\n    my_list.reverse()\n```"
    slices, numbers = "Use `my_list[::-1]` & copy.", "2 * 3 is no answer."
    assert read({"qid": 7, "question": QUESTION, "answers": ANSWERS, "metadata": []}) == [
        Pair(prompt, code, "No."),  # 5 - -1 = 6; a negative score has no ratio
        Pair(prompt, code, slices, score_ratio=5.0),  # 5 - 1 = 4
        Pair(prompt, code, numbers, score_ratio=5.0),
        Pair(prompt, slices, "No."),  # 1 - -1 = 2; slices and numbers score alike
        Pair(prompt, numbers, "No."),
    ]


@pytest.mark.parametrize(
    ("chosen", "rejected", "prompt", "answers"),
    [
        ("Say yes: yes", "Say yes: no", "Say yes:", ("yes", "no")),
        ("A b\nc", "A b d", "A b", ("c", "d")),  # a word ends in both
        ("A bc", "A bd", "A", ("bc", "bd")),  # a word is not cut
        ("A b c", "A b", "A", ("b c", "b")),  # something is left of the shorter one
        ("😀 ½ שלום עולם", "😀 ½ שלום לך", "😀 ½ שלום", ("עולם", "לך")),
    ],
)
def test_the_common_beginning_ends_before_a_word(
    chosen: str, rejected: str, prompt: str, answers: tuple[str, str]
) -> None:
    row = {"chosen": chosen, "rejected": rejected}
    assert read(row, format="implicit_prompt") == [Pair([user(prompt)], *answers)]


BASE = {"prompt": "P", "chosen": "C", "rejected": "R"}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"chosen": ""}, ("empty answer", "chosen is empty")),
        ({"rejected": None}, ("not text", "rejected is NoneType, not text")),
        ({"prompt": 3}, ("not text", "prompt is int, not text")),
        ({"prompt": []}, ("bad role order", "the prompt does not end with the user")),
        ({"prompt": [user("Q"), assistant("A")]}, ("bad role order", "the prompt does not end with the user")),
        ({"prompt": [user("Q")], "input": "X"}, ("not text", "prompt is list, not text")),
        ({"prompt": CHAT, "system": "Another"}, ("bad role order", "turn 1 is by the system")),
        ({"chosen": []}, ("bad role order", "chosen does not end with the assistant")),
        ({"chosen": ["C"]}, ("not text", "chosen is no list of objects with role and content")),
        ({"chosen": {"role": "assistant", "content": "C"}}, ("not text", "chosen is dict, not text")),
        ({"rejected": [user("R")]}, ("bad role order", "rejected does not end with the assistant")),
        ({"rejected": [{"role": "assistant"}]}, ("not text", "the assistant's content is NoneType, not text")),
        ({"rejected": [assistant(" ")]}, ("empty answer", "an assistant message is empty")),
        (
            {"chosen": [user("P"), assistant("A"), user("more"), assistant("C")]},
            ("bad role order", "chosen repeats another prompt than the row's"),
        ),
        (
            {"chosen": [{"role": "assistant", "tool_calls": [{"name": "f"}]}]},
            ("not text", "chosen ends with a tool call; answers of a pair have to be text"),
        ),
    ],
)
def test_a_prompt_with_answers_that_cannot_be_used_says_why(change: dict[str, Any], expected: tuple[str, str]) -> None:
    assert problem({**BASE, **change}) == expected


@pytest.mark.parametrize(
    ("format", "row", "expected"),
    [
        (
            "implicit_prompt",
            {"chosen": "Yes", "rejected": "No"},
            ("bad role order", "chosen and rejected have no prompt in common"),
        ),
        (
            "implicit_prompt",
            {"chosen": [user("P"), assistant("C")], "rejected": [user("Q"), assistant("R")]},
            ("bad role order", "chosen and rejected differ before the last answer"),
        ),
        (
            "implicit_prompt",
            {"chosen": [user("P"), assistant("C")], "rejected": "R"},
            ("not text", "rejected is no list of objects with role and content"),
        ),
        (
            "implicit_prompt",
            {"chosen": [user("P")], "rejected": [user("P")]},
            ("bad role order", "chosen does not end with the assistant"),
        ),
        ("implicit_prompt", {"chosen": "A b", "rejected": {}}, ("not text", "rejected is dict, not text")),
        (
            "hh_rlhf",
            {"chosen": "\n\nHuman: P\n\nAssistant: C", "rejected": "\n\nHuman: Q\n\nAssistant: R"},
            ("bad role order", "chosen and rejected differ before the last answer"),
        ),
        (
            "hh_rlhf",
            {"chosen": "\n\nHuman: P\n\nAssistant: C\n\nHuman: D", "rejected": "\n\nHuman: P\n\nAssistant: R"},
            ("bad role order", "chosen does not end with the assistant"),
        ),
        (
            "hh_rlhf",
            {"chosen": "\n\nHuman: P\n\nHuman: P\n\nAssistant: C", "rejected": "\n\nHuman: P\n\nAssistant: R"},
            ("bad role order", "turn 2 is by the user"),
        ),
        (
            "hh_rlhf",
            {"chosen": "\n\nHuman: P\n\nAssistant: C", "rejected": "\n\nHuman: P\n\nAssistant:"},
            ("empty answer", "an assistant message is empty"),
        ),
        (
            "hh_rlhf",
            {"chosen": "\n\nHuman: P\n\nAssistant: C", "rejected": "R"},
            ("bad role order", "rejected does not begin with Human:"),
        ),
        (
            "ultrafeedback",
            ULTRAFEEDBACK | {"completions": ULTRAFEEDBACK["completions"][:1]},
            ("filtered by rule", "no completion is better than another"),
        ),
        (
            "ultrafeedback",
            ULTRAFEEDBACK | {"completions": []},
            ("filtered by rule", "no completion is better than another"),
        ),
        (
            "ultrafeedback",
            ULTRAFEEDBACK | {"completions": [{"response": "7", "overall_score": 3}, {"response": "9"}]},
            ("unparsable", "overall_score is None, not a number"),
        ),
        (
            "ultrafeedback",
            ULTRAFEEDBACK | {"completions": ["7", "9"]},
            ("not text", "completions is no list of objects"),
        ),
        (
            "sharegpt_ranking",
            {"conversations": [turn("human", "Q")], "chosen": turn("human", "C"), "rejected": turn("gpt", "R")},
            ("bad role order", "turn 2 is by the user"),
        ),
        (
            "sharegpt_ranking",
            {"conversations": [turn("human", "Q")], "chosen": turn("gpt", "C"), "rejected": "R"},
            ("not text", "rejected holds str, not an object with from and value"),
        ),
        (
            "sharegpt_ranking",
            {
                "conversations": [turn("human", "Q"), turn("gpt", "A")],
                "chosen": turn("gpt", "C"),
                "rejected": turn("gpt", "R"),
            },
            ("bad role order", "the prompt does not end with the user"),
        ),
        ("shp", SHP | {"labels": 2}, ("unparsable", "labels is 2, not 1 (A is better) or 0 (B is better)")),
        ("shp", SHP | {"labels": None}, ("unparsable", "labels is None, not a number")),
        ("shp", SHP | {"score_ratio": "much"}, ("unparsable", "score_ratio is 'much', not a number")),
        ("shp", SHP | {"human_ref_B": " "}, ("empty answer", "human_ref_B is empty")),
        (
            "stack_exchange",
            {"question": QUESTION, "answers": [ANSWERS[0], ANSWERS[2], ANSWERS[4]]},
            ("filtered by rule", "no answer is better than another"),
        ),
        (
            "stack_exchange",
            {"question": QUESTION, "answers": [{"text": "x", "pm_score": True}]},
            ("unparsable", "pm_score is True, not a number"),
        ),
        (
            "stack_exchange",
            {"question": "<![x", "answers": ANSWERS},
            ("unparsable", "question is no HTML that can be read"),
        ),
    ],
)
def test_ranked_answers_that_cannot_be_used_say_why(
    format: str, row: dict[str, Any], expected: tuple[str, str]
) -> None:
    assert problem(row, format=format) == expected
