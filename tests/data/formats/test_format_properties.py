"""Whatever stands in a row: it is read as texts in turn, or refused for a reason of the list."""

from itertools import pairwise
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_engineering.config.data import FileSource
from llm_engineering.data.formats import (
    FORMATS,
    Conversation,
    Example,
    Format,
    Pair,
    Reading,
    RowProblem,
    choose_format,
)
from llm_engineering.errors import DataError
from llm_engineering.reports.data import DropReason

PREFERENCE_NAMES = [format.name for format in FORMATS["preference"]]
CASES = [("sft", format) for formats in FORMATS.values() for format in formats] + [
    ("preference", format) for format in FORMATS["preference"]
]
WORDS = ("", " ", "x", "Hi \U0001f600", "\ud800", "0", "1", "[]", "{", "<p>a &lt; b</p>", '{"name": "f"}')
TRANSCRIPTS = ("\n\nHuman: a\n\nAssistant: b", "\n\nHuman: a\n\nAssistant: c")
ROLES = ("system", "developer", "user", "assistant", "tool", "human", "gpt", "function", "function_call", "observation")
KEYS = ("role", "content", "from", "value", "tool_calls", "function_call", "name", "arguments", "function", "type")
MORE_KEYS = ("text", "response", "overall_score", "pm_score", "tool_call_id", "id", "parameters")
SPOKEN = ("user assistant", "system user assistant", "developer user assistant user assistant", "user", "system user")
CALLED = ("user calling", "user calling tool", "user calling tool tool assistant", "user calling tool calling tool")
ORDERS = [order.split() for order in (*SPOKEN, *CALLED, "user user", "user assistant tool", "calling", "")]

texts = st.sampled_from((*WORDS, *TRANSCRIPTS)) | st.text(max_size=8)
scalars = (
    st.none() | st.booleans() | st.integers(-1, 2) | st.just(10**400) | st.floats() | texts | st.sampled_from(ROLES)
)
keys = st.sampled_from((*KEYS, *MORE_KEYS)) | st.text(max_size=2)
anything = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=8,
)
calls = st.fixed_dictionaries({"name": texts, "arguments": st.sampled_from([{}, {"a": None}, "{}", "{", None])})


@st.composite
def messages(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Draw messages whose roles are mostly in turn."""
    found = []
    for role in draw(st.sampled_from(ORDERS)):
        content = draw(texts | texts.map(lambda text: [{"type": "text", "text": text}]))
        found.append({"role": role, "content": content, "name": draw(st.none() | texts)})
        if role == "calling":
            found[-1] |= {"role": "assistant", "tool_calls": draw(st.lists(calls, min_size=1, max_size=2))}
    return found


@st.composite
def turns(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Draw ShareGPT turns whose speakers are mostly in turn."""
    names = {"user": "human", "assistant": "gpt", "tool": "observation", "calling": "function_call"}
    order = [names.get(role, role) for role in draw(st.sampled_from(ORDERS))]
    called = st.sampled_from(['{"name": "f", "arguments": {"a": 1}}', '[{"name": "f"}, {"name": "g"}]', "{", "[]"])
    return [{"from": name, "value": draw(called if name == "function_call" else texts)} for name in order]


replies = st.fixed_dictionaries({"from": st.sampled_from(["gpt", "human"]), "value": texts})
answers = st.lists(
    st.fixed_dictionaries(
        {"response": texts, "text": texts, "overall_score": st.integers(0, 5), "pm_score": st.integers(-2, 5)}
    ),
    max_size=4,
)
choices = messages() | texts | replies
FITTING: dict[str, st.SearchStrategy[Any]] = {
    **dict.fromkeys(("image", "images", "audios", "videos"), st.sampled_from([None, []])),
    **dict.fromkeys(("completions", "answers"), answers),
    **dict.fromkeys(("prompt", "completion"), texts | messages()),
    **dict.fromkeys(("chosen", "rejected"), choices),
    "messages": messages(),
    "conversations": turns(),
    "history": st.lists(st.lists(texts, min_size=2, max_size=2), max_size=2) | texts,
    "labels": st.sampled_from([0, 1]),
    "score_ratio": st.floats(1, 9),
    "tools": st.none() | st.lists(calls) | st.just('[{"name": "f"}]'),
}


def rows_of(format: Format) -> st.SearchStrategy[dict[str, Any]]:
    """Return rows that mostly fit a format, with anything at all in one column, or in all that there are."""
    fitting = st.fixed_dictionaries({column: FITTING.get(column, texts) for column in format.columns})
    odd = st.dictionaries(st.sampled_from(format.columns), anything, max_size=1)
    return st.builds(dict.__or__, fitting, odd) | st.dictionaries(st.sampled_from(format.columns), anything)


def reading_of(kind: Any, format: Format) -> Reading:
    return choose_format(FileSource(path="rows.jsonl", format=format.name), kind, set(format.columns))


def check_turns(messages: list[dict[str, Any]]) -> None:
    """Hold messages against the order of roles, written as the pairs that may follow each other."""
    assert all(type(each["role"]) is str and type(each["content"]) is str for each in messages)
    roles = ["calling" if "tool_calls" in each else each["role"] for each in messages]
    if roles[0] in ("system", "developer"):
        assert messages[0]["content"]
        roles = roles[1:]
    assert roles[0] == "user"
    allowed = {
        ("user", "assistant"),
        ("user", "calling"),
        ("assistant", "user"),
        ("calling", "tool"),
        ("tool", "tool"),
        ("tool", "assistant"),
        ("tool", "calling"),
    }
    assert set(pairwise(roles)) <= allowed
    for each in messages:
        assert each.keys() <= {"role", "content", "tool_calls", "name", "tool_call_id"}
        assert each["content"].strip() == each["content"]
        assert each["content"] or each["role"] != "assistant" or each["tool_calls"]
        for call in each.get("tool_calls", []):
            assert call["type"] == "function"
            assert type(call["function"]["name"]) is str
            assert type(call["function"]["arguments"]) is dict


def check_example(example: Example) -> None:
    assert example.tools is None or all(type(tool["function"]["name"]) is str for tool in example.tools)
    if isinstance(example, Conversation):
        check_turns(example.messages)
        assert example.messages[-1]["role"] == "assistant"
    else:
        check_turns(example.prompt)
        assert example.prompt[-1]["role"] in ("user", "tool")
        assert all(type(answer) is str and answer.strip() for answer in (example.chosen, example.rejected))
        assert example.score_ratio is None or type(example.score_ratio) is float


@pytest.mark.parametrize(("kind", "format"), CASES, ids=lambda each: getattr(each, "name", each))
@settings(max_examples=60)
@given(data=st.data())
def test_any_row_is_read_or_refused_for_a_known_reason(kind: str, format: Format, data: st.DataObject) -> None:
    row = data.draw(rows_of(format))
    reason = None
    examples: list[Example] = []
    try:
        examples = reading_of(kind, format).read(row)
    except RowProblem as problem:
        reason = problem.reason
        str(problem).encode()  # it is written to the quarantine file
    assert (reason in get_args(DropReason)) != bool(examples)
    for example in examples:
        assert isinstance(example, Conversation if kind == "sft" else Pair)
        check_example(example)


@given(
    rows=st.lists(
        st.dictionaries(
            st.sampled_from(["chosen", "rejected", "conversations", "answers", "question"]),
            choices | turns() | answers | anything,
        )
    )
)
def test_any_sample_gives_a_format_or_a_data_error(rows: list[dict[str, Any]]) -> None:
    present = {"chosen", "rejected", "conversations", "answers", "question", "completions", "instruction"}
    said = "fits"
    try:
        name = choose_format(FileSource(path="rows.jsonl"), "preference", present, rows).format.name
    except DataError as error:
        name, said = PREFERENCE_NAMES[0], str(error)
    assert name in PREFERENCE_NAMES
    assert "fits" in said


EXOTIC = [
    "👩‍👩‍👧 naïve — “quotes” \u202bשלום\u202c مرحبا 日本語",  # noqa: RUF001
    "a\r\nb\tc\x00d",
    "if x:\n\n\n        return  1  # two  spaces",
    "e\u0301 ≠ é, ﬁ ≠ fi",
]


@pytest.mark.parametrize("text", EXOTIC)
def test_inner_text_is_never_changed(text: str) -> None:
    user, assistant = {"role": "user", "content": text}, {"role": "assistant", "content": text}
    rows = {
        "messages": {"messages": [user, assistant]},
        "sharegpt": {"conversations": [{"from": "human", "value": text}, {"from": "gpt", "value": text}]},
        "alpaca": {"instruction": text, "output": text},
        "question_answer": {"question": text, "answer": text},
        "dolly": {"instruction": text, "context": "", "response": text},
        "prompt_completion": {"prompt": text, "completion": text},
        "chosen_rejected": {"prompt": text, "chosen": text, "rejected": "R"},
        "hh_rlhf": {
            column: f"\n\nHuman: {text}\n\nAssistant: {said}" for column, said in (("chosen", text), ("rejected", "R"))
        },
        "ultrafeedback": {
            "instruction": text,
            "completions": [{"response": text, "overall_score": 2}, {"response": "R", "overall_score": 1}],
        },
        "sharegpt_ranking": {
            "conversations": [{"from": "human", "value": text}],
            "chosen": {"from": "gpt", "value": text},
            "rejected": {"from": "gpt", "value": "R"},
        },
        "shp": {"history": text, "human_ref_A": text, "human_ref_B": "R", "labels": 1},
    }
    for name, row in rows.items():
        reading = choose_format(FileSource(path="rows.jsonl", format=name), "sft", set(row))
        assert [example.messages for example in reading.read(row)] == [[user, assistant]], name
