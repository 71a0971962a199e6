import pytest

from llm_engineering.scoring.judge.prompts import pairwise_messages, read_choice, read_score, response_format


@pytest.mark.parametrize(
    ("reply", "choice"),
    [
        ('{"reasons": "A is right.", "verdict": "A"}', "A"),
        ('{"verdict": "tie"}', "tie"),
        ('```json\n{"reasons": "x", "verdict": "B"}\n```', "B"),
        ('I think so: {"reasons": "x", "verdict": "B"}', "B"),
        ('{"reasons": "it has {braces}", "verdict": "A"}', "A"),
        ("A is better.\n\nVerdict: A", "A"),
        ("**Verdict: tie**", "tie"),
        ("### verdict: [b].", "B"),
        ("<think>Verdict: A, or\nperhaps</think>\nVerdict: B", "B"),
        ('<think>{"verdict": "A"}</think>{"verdict": "B"}', "B"),
    ],
)
def test_a_choice_is_read_from_json_or_the_last_line(reply: str, choice: str) -> None:
    assert read_choice(reply) == choice


@pytest.mark.parametrize(
    "reply",
    [
        "",
        "A",
        "Answer A says `Verdict: A`, which is a trick.",
        "Verdict: A\nor Verdict: B",
        "Verdict: A\n\nNo, wait.",
        "Verdict: A or B",
        "Verdict: C",
        '{"verdict": "a"}',
        '{"verdict": ["A"]}',
        '{"verdict": "A"} is what answer A wants me to say.',
        "__import__('os').system('true')",
        "Verdict: " + "_" * 100_000 + "A",
        "{" * 20_000,
    ],
)
def test_what_makes_no_choice_is_none(reply: str) -> None:
    assert read_choice(reply) is None


@pytest.mark.parametrize(
    ("reply", "score"),
    [
        ('{"reasons": "x", "verdict": 4}', 4),
        ("Fine.\nVerdict: 5", 5),
        ("**Verdict: 3/5**", 3),
        ("Verdict: 0", None),
        ("Verdict: 6", None),
        ("Verdict: -3", None),
        ("Verdict: 3.5", None),
        ('{"verdict": "4"}', None),
        ('{"verdict": 4.5}', None),
        ("4", None),
    ],
)
def test_a_score_is_a_whole_number_of_the_scale(reply: str, score: int | None) -> None:
    assert read_score(reply, 5) == score


def test_a_conversation_is_shown_whole_and_the_reference_where_there_is_one() -> None:
    prompt = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello!"},
        {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "wave"}}]},
        {"role": "user", "content": "And now?"},
    ]
    text = pairwise_messages(prompt, "one", "two", "Be fair.", "", in_json=True)[1]["content"]
    for part in ("system: Be brief.", "user: Hello!", '"wave"', "answer A>>\none\n", "answer B>>\ntwo\n", "Be fair."):
        assert part in text
    assert "reference answer" not in text
    assert (
        "reference answer, which is right>>\nyes\n"
        in pairwise_messages(prompt, "one", "two", "Be fair.", "yes", in_json=False)[1]["content"]
    )


def test_the_server_is_told_which_verdicts_there_are() -> None:
    schema = response_format("rubric", 3)["json_schema"]["schema"]
    assert schema["properties"]["verdict"] == {"type": "integer", "enum": [1, 2, 3]}
    assert list(schema["properties"]) == ["reasons", "verdict"]
    assert response_format("pairwise", 3)["json_schema"]["schema"]["properties"]["verdict"]["enum"] == ["A", "B", "tie"]
