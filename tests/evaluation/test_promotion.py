import math

import pytest

from llm_engineering.artifacts import EvaluationReport, Metric, ModelScores
from llm_engineering.config.schema import PromotionConfig
from llm_engineering.evaluation.promotion import LOWER_IS_BETTER, compare, decide

RULES = PromotionConfig(tolerances={"preferred_rate": 0.0, "answer_accuracy": 0.03, "repetition": 0.05})


def report(**models):
    return EvaluationReport(
        fingerprint="f",
        split="test",
        questions=200,
        pairs=0,
        models={
            name: ModelScores(
                checkpoint_sha256=name,
                metrics={metric: Metric(value=value, units=200) for metric, value in metrics.items()},
            )
            for name, metrics in models.items()
        },
        samples=[],
        seconds=1.0,
    )


def scores(accuracy, preferred):
    return {"answer_accuracy": accuracy, "preferred_rate": preferred}


def test_better_dpo_is_promoted():
    decision = decide(report(base=scores(0, 0), sft=scores(1.0, 0.0), dpo=scores(0.99, 0.9)), RULES, None)
    assert (decision.promoted, decision.stage, decision.incumbent) == ("dpo", "staging", None)
    assert decision.reason == "DPO is no worse than its SFT model on preferred_rate, answer_accuracy."
    assert [(c.candidate, c.against, c.metric, c.passed) for c in decision.checks] == [
        ("dpo", "sft", "preferred_rate", True),
        ("dpo", "sft", "answer_accuracy", True),
    ]


def test_worse_dpo_leaves_the_place_to_sft():
    decision = decide(report(base=scores(0.1, 0), sft=scores(1.0, 0.2), dpo=scores(0.6, 0.5)), RULES, None)
    assert decision.promoted == "sft"
    assert decision.reason == (
        "DPO is worse: answer_accuracy 0.600 against 1.000 of its SFT model (a loss of 0.03 is allowed); "
        "SFT is no worse than the base on preferred_rate, answer_accuracy."
    )


def test_dpo_worse_than_the_incumbent_is_not_promoted_and_neither_is_a_worse_sft():
    models = report(base=scores(0.0, 0.0), sft=scores(0.9, 0.1), dpo=scores(0.9, 0.5), incumbent=scores(0.9, 0.7))
    decision = decide(models, RULES, "7")
    assert (decision.promoted, decision.incumbent) == (None, "7")
    assert decision.reason == (
        "DPO is worse: preferred_rate 0.500 against 0.700 of the incumbent; "
        "SFT is worse: preferred_rate 0.100 against 0.700 of the incumbent; the incumbent stays."
    )


def test_dpo_as_good_as_the_incumbent_replaces_it():
    models = report(sft=scores(0.9, 0.1), dpo=scores(0.9, 0.5), incumbent=scores(0.9, 0.5))
    decision = decide(models, RULES, "7")
    assert decision.promoted == "dpo"
    assert decision.reason == (
        "DPO is no worse than its SFT model and the incumbent on preferred_rate, answer_accuracy."
    )
    assert len(decision.checks) == 4


def test_worse_dpo_and_sft_than_base_promote_nothing():
    models = report(base=scores(0.5, 0.5), sft=scores(0.4, 0.5), dpo=scores(0.3, 0.5))
    decision = decide(models, RULES, None)
    assert decision.promoted is None
    assert decision.reason == (
        "DPO is worse: answer_accuracy 0.300 against 0.400 of its SFT model (a loss of 0.03 is allowed); "
        "SFT is worse: answer_accuracy 0.400 against 0.500 of the base (a loss of 0.03 is allowed); "
        "nothing is promoted."
    )


def test_run_without_dpo_promotes_its_sft_model():
    decision = decide(report(base=scores(0, 0), sft=scores(1, 0)), RULES, None)
    assert decision.promoted == "sft"
    assert decision.reason == "SFT is no worse than the base on preferred_rate, answer_accuracy."


def test_run_without_sft_compares_dpo_with_the_base():
    decision = decide(report(base=scores(0.5, 0), dpo=scores(0.5, 1)), RULES, None)
    assert (decision.promoted, decision.checks[0].against) == ("dpo", "base")
    assert decision.reason == "DPO is no worse than the base on preferred_rate, answer_accuracy."


@pytest.mark.parametrize("candidate", [math.nan, -math.inf])
def test_metric_that_is_no_number_is_worse_than_any_other(candidate):
    decision = decide(report(base=scores(0, 0), sft=scores(0.1, 0), dpo=scores(candidate, 1)), RULES, None)
    assert decision.promoted == "sft"
    assert f"DPO is worse: answer_accuracy {candidate:.3f} against 0.100 of its SFT model" in decision.reason


def test_two_values_that_are_no_numbers_do_not_pass_either():
    decision = decide(report(base=scores(0, 0), sft=scores(math.nan, 0), dpo=scores(math.nan, 1)), RULES, None)
    assert decision.promoted is None


def test_no_common_metric_promotes_nothing():
    decision = decide(report(base={}, sft={"perplexity": 3.0}, dpo={"perplexity": 2.0}), RULES, None)
    assert (decision.promoted, decision.checks) == (None, [])
    assert decision.reason == (
        "DPO has no metric in common with what it is compared with; "
        "SFT has no metric in common with what it is compared with; nothing is promoted."
    )


def test_incumbent_that_shares_no_metric_is_not_replaced():
    models = report(base=scores(0, 0), sft=scores(1, 0), dpo=scores(1, 1), incumbent={"perplexity": 3.0})
    decision = decide(models, RULES, "7")
    assert decision.promoted is None
    assert decision.reason.startswith("DPO has no metric in common")
    assert decision.reason.endswith("the incumbent stays.")


def test_base_alone_promotes_nothing():
    decision = decide(report(base=scores(1, 1)), RULES, None)
    assert (decision.promoted, decision.reason) == (None, "nothing is promoted.")


@pytest.mark.parametrize(
    ("accuracy", "passed"),
    [(0.97, True), (0.9699, False), (1.0, True)],  # 1.0 - 0.97 is 0.030000000000000027 in binary
)
def test_loss_as_large_as_the_tolerance_is_allowed(accuracy, passed):
    models = report(sft=scores(1.0, 0), dpo=scores(accuracy, 0)).models
    checks = compare("dpo", "sft", models, {"answer_accuracy": 0.03})
    assert [check.passed for check in checks] == [passed]


@pytest.mark.parametrize("metric", sorted(LOWER_IS_BETTER))
def test_lower_is_better_for_losses(metric):
    models = report(sft={metric: 0.5}, dpo={metric: 0.4}).models
    assert compare("dpo", "sft", models, {metric: 0.0})[0].passed
    assert not compare("sft", "dpo", models, {metric: 0.0})[0].passed


def test_metric_without_a_tolerance_does_not_decide():
    models = report(sft={"repetition": 0.0, "perplexity": 1.0}, dpo={"repetition": 0.05, "perplexity": 99.0})
    decision = decide(models, RULES, None)
    assert decision.promoted == "dpo"
    assert [check.metric for check in decision.checks] == ["repetition"]


def test_stage_of_the_configuration_is_the_one_promoted_to():
    rules = PromotionConfig(stage="production", tolerances={"answer_accuracy": 1.0})
    assert decide(report(base=scores(1, 1), sft=scores(0, 0)), rules, None).stage == "production"
