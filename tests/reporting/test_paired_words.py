import pytest

from llm_engineering.reporting.words import compared_in_words, p_text, signed, verdict_on
from llm_engineering.reports.evaluation import PairedDifference


def difference(metric: str, value: float, low: float | None, high: float | None, p: float | None) -> PairedDifference:
    return PairedDifference(
        candidate="dpo", against="sft", metric=metric, difference=value, low=low, high=high, p_value=p, units=200
    )


@pytest.mark.parametrize(
    ("found", "verdict"),
    [
        (difference("answer_accuracy", 0.2, 0.1, 0.3, 0.001), "better"),
        (difference("answer_accuracy", -0.2, -0.3, -0.1, 0.001), "worse"),
        (difference("perplexity", -0.2, -0.3, -0.1, 0.001), "better"),
        (difference("flaws_per_answer", 0.2, 0.1, 0.3, 0.001), "worse"),
        (difference("answer_tokens", -9.0, -10.0, -8.0, 0.001), "lower"),
        (difference("house_style", 9.0, 8.0, 10.0, 0.001), "higher"),
        (difference("answer_accuracy", 0.2, -0.01, 0.3, 0.04), "no difference shown"),
        (difference("answer_accuracy", 0.2, 0.01, 0.3, 0.06), "no difference shown"),
        (difference("answer_accuracy", 1.0, None, None, None), "no difference shown"),
    ],
)
def test_a_difference_is_shown_only_if_p_value_and_interval_agree(found: PairedDifference, verdict: str) -> None:
    assert verdict_on(found) == verdict


def test_p_values_are_written_with_three_digits() -> None:
    assert [p_text(p) for p in (None, float("nan"), 0.0004, 0.0324, 1.0)] == [
        "-",
        "-",
        "p < 0.001",
        "p = 0.032",
        "p = 1.000",
    ]


def test_differences_carry_sign_and_unit_and_none_where_they_are_rounded_away() -> None:
    assert signed("answer_accuracy", 0.912) == "+91.2 points"
    assert signed("kl_per_token", -0.0213) == "-0.0213 nats/token"
    assert signed("answer_accuracy", -0.00001) == "0.0 points"


def test_two_models_that_are_compared_both_ways_are_told_once() -> None:
    there = difference("answer_accuracy", 0.2, 0.1, 0.3, 0.001)
    back = there.model_copy(update={"candidate": "sft", "against": "dpo"})
    assert [(two.candidate, two.against) for two in compared_in_words([there, back])] == [("sft", "dpo")]


def test_two_models_are_summed_up_in_one_sentence() -> None:
    (two,) = compared_in_words(
        [
            difference("kl_per_token", 0.02, 0.01, 0.03, 0.001),
            difference("preferred_rate", 0.935, 0.9, 0.97, 0.0),
            difference("answer_accuracy", -0.02, -0.05, 0.01, 0.2),
            difference("perplexity", 0.2, 0.1, 0.3, 0.01),
        ]
    )
    assert two.summary == (
        "Better in preferred answers (+93.5 points); worse in perplexity (+0.20); "
        "higher in KL from reference (+0.0200 nats/token); no difference shown in 1 more."
    )
    assert [found.metric for found in two.differences][:2] == ["Right answers", "Preferred answers"]
