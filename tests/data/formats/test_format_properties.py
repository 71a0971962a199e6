"""Whatever stands in a row: it is read as texts in turn, or refused for a reason of the list."""

from itertools import pairwise
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_engineering.artifacts import DropReason
from llm_engineering.config.schema import FileSource
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

PREFERENCE_NAMES = [format.name for format in FORMATS["preference"]]
CASES = [("sft", format) for formats in FORMATS.values() for format in formats] + [
    ("preference", format) for format in FORMATS["preference"]
]
WORDS = ["", " ", "x", "Hi \U0001f600", "שלום", "\ud800", "0", "1", "[]", "{", '{"name": "f", "arguments": {"a": 1}}']
WORDS += [
    "\n\nHuman: a\n\nAssistant: b",
    "\n\nHuman: a\n\nAssistant: c",
    "<p>a &lt; b</p>",
    "<pre><code>x\n</code></pre>",
]
ROLES = ["system", "developer", "user", "assistant", "tool", "human", "gpt", "function", "function_call", "observation"]
KEYS = [
    "role",
    "content",
    "from",
    "value",
    "tool_calls",
    "function_call",
    "name",
    "arguments",
    "function",
    "type",
    "text",
]
KEYS += ["response", "overall_score", "pm_score", "tool_call_id", "id", "parameters"]

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-1, 2)
    | st.just(10**400)
    | st.floats()
    | st.sampled_from(WORDS + ROLES)
    | st.text(max_size=8)
)
anything = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=2), inner, max_size=4)
    ),
    max_leaves=8,
)
texts = st.sampled_from(WORDS) | st.text(max_size=8)
content = (
    texts | st.none() | st.lists(st.fixed_dictionaries({"type": st.sampled_from(["text", "image"]), "text": texts}))
)
tool_call = st.fixed_dictionaries({"function": st.fixed_dictionaries({"name": texts, "arguments": anything})})
message = st.fixed_dictionaries(
    {"role": st.sampled_from(ROLES), "content": content},
    optional={"tool_calls": st.none() | st.lists(tool_call, max_size=2), "name": anything, "function_call": anything},
)
turn = st.fixed_dictionaries({"from": st.sampled_from(ROLES), "value": texts})
answer = st.fixed_dictionaries(
    {"response": texts, "text": texts, "overall_score": scalars, "pm_score": st.integers(-2, 5)}
)
plausible = (
    texts
    | st.lists(message, max_size=5)
    | st.lists(turn, max_size=5)
    | turn
    | st.lists(answer, max_size=4)
    | st.lists(st.lists(texts, min_size=2, max_size=2), max_size=2)
    | st.sampled_from([0, 1, 2.5])
)


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
    columns = st.fixed_dictionaries(dict.fromkeys(format.columns, plausible | anything))
    row = data.draw(columns | st.dictionaries(st.sampled_from(format.columns), anything))
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
            st.sampled_from(["chosen", "rejected", "conversations", "answers", "question"]), plausible | anything
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
    "👩‍👩‍👧 naïve — “quotes” \u202bשלום\u202c مرحبا 日本語",
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
        assert reading.read(row) == [Conversation([user, assistant])], name
