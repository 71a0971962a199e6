import math

import pytest

from llm_engineering.config.metrics import METRICS
from llm_engineering.config.promotion import PromotionConfig
from llm_engineering.evaluation.promotion import answered, compare, decide, forced, overtaken, settled, unanswered
from llm_engineering.reports.evaluation import EvaluationReport, Metric, ModelScores
from llm_engineering.reports.promotion import Force, PromotionDecision

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
    checks = compare("dpo", "sft", models, PromotionConfig(tolerances={"answer_accuracy": 0.03}))
    assert [check.passed for check in checks] == [passed]


@pytest.mark.parametrize("metric", [name for name, row in METRICS.items() if row.better == "lower"])
def test_lower_is_better_for_losses(metric):
    models = report(sft={metric: 0.5}, dpo={metric: 0.4}).models
    assert compare("dpo", "sft", models, PromotionConfig(tolerances={metric: 0.0}))[0].passed
    assert not compare("sft", "dpo", models, PromotionConfig(tolerances={metric: 0.0}))[0].passed


def test_metric_without_a_tolerance_does_not_decide():
    models = report(sft={"repetition": 0.0, "perplexity": 1.0}, dpo={"repetition": 0.05, "perplexity": 99.0})
    decision = decide(models, RULES, None)
    assert decision.promoted == "dpo"
    assert [check.metric for check in decision.checks] == ["repetition"]


def test_stage_of_the_configuration_is_the_one_promoted_to():
    rules = PromotionConfig(stage="production", tolerances={"answer_accuracy": 1.0})
    assert decide(report(base=scores(1, 1), sft=scores(0, 0)), rules, None).stage == "production"


def on_units(**models):
    """Return models measured on the same units: by name, the outcomes of every metric."""
    return {
        name: ModelScores(
            checkpoint_sha256=name,
            metrics={m: Metric(value=sum(v) / len(v), units=len(v)) for m, v in outcomes.items()},
            outcomes=outcomes,
        )
        for name, outcomes in models.items()
    }


def rate(hits, units):
    return [1.0] * hits + [0.0] * (units - hits)


def accuracy_check(dpo, sft, **rules):
    models = on_units(dpo={"answer_accuracy": dpo}, sft={"answer_accuracy": sft})
    (check,) = compare("dpo", "sft", models, PromotionConfig(tolerances={"answer_accuracy": 0.03}, **rules))
    return check


def test_interval_within_the_tolerance_is_no_worse():
    check = accuracy_check(rate(200, 201), rate(201, 201))  # Newcombe: -0.005 less 0.0227, the Wilson end of 200/201
    assert (check.verdict, check.passed, check.note) == ("no worse", True, "")
    assert check.paired.units == 201
    assert check.paired.p_value == 1.0
    assert -0.03 < check.paired.low < -0.0275


def test_interval_beyond_the_tolerance_is_worse():
    check = accuracy_check(rate(100, 201), rate(201, 201))
    assert (check.verdict, check.passed) == ("worse", False)
    assert check.paired.high < -0.03


def test_open_interval_leaves_it_to_the_value():
    check = accuracy_check(rate(194, 201), rate(199, 201))  # a loss of 2.5 points, and up to 5.6 of them not excluded
    assert (check.verdict, check.passed) == ("undecided", True)
    assert check.note == "the interval leaves it open, the value decides"
    check = accuracy_check(rate(191, 201), rate(199, 201))  # 4 points
    assert (check.verdict, check.passed) == ("undecided", False)


def test_open_interval_is_refused_where_the_configuration_asks_for_proof():
    check = accuracy_check(rate(194, 201), rate(199, 201), undecided="refuse")
    assert (check.verdict, check.passed) == ("undecided", False)
    decision = decide(
        report().model_copy(
            update={
                "models": on_units(dpo={"answer_accuracy": rate(199, 201)}, sft={"answer_accuracy": rate(201, 201)})
            }
        ),
        PromotionConfig(tolerances={"answer_accuracy": 0.03}, undecided="refuse"),
        None,
    )
    assert decision.promoted is None
    assert decision.reason.startswith(
        "DPO is not shown to be as good: answer_accuracy 0.990 against 1.000 of its SFT model (a loss of 0.03 is "
        "allowed; the interval leaves it open, and promotion.undecided asks for proof)"
    )


def test_five_questions_decide_nothing_by_luck():
    check = accuracy_check(rate(5, 5), rate(5, 5))
    assert (check.verdict, check.passed) == ("undecided", False)
    assert check.note == "5 units, fewer than promotion.least_units"
    assert accuracy_check(rate(5, 5), rate(5, 5), least_units=5).passed


def test_five_questions_decide_what_is_clear():
    assert accuracy_check(rate(5, 5), rate(0, 5)).verdict == "no worse"
    assert accuracy_check(rate(0, 5), rate(5, 5)).verdict == "worse"


def test_few_units_without_outcomes_decide_nothing_either():
    models = report(sft=scores(1.0, 0.0), dpo=scores(1.0, 1.0)).models
    rules = PromotionConfig(tolerances={"answer_accuracy": 0.03}, least_units=201)
    (check,) = compare("dpo", "sft", models, rules)
    assert (check.passed, check.verdict, check.paired) == (False, "undecided", None)
    assert check.note == "200 units, fewer than promotion.least_units"


def test_older_reports_without_outcomes_are_compared_by_value():
    (check,) = compare(
        "dpo",
        "sft",
        report(sft=scores(1, 0), dpo=scores(1, 1)).models,
        PromotionConfig(tolerances={"answer_accuracy": 0.03}),
    )
    assert (check.passed, check.note) == (True, "no outcomes per unit are stored, the value decides")


def test_outcomes_of_other_units_are_not_paired():
    models = on_units(dpo={"answer_accuracy": rate(40, 40)}, sft={"answer_accuracy": rate(50, 50)})
    (check,) = compare("dpo", "sft", models, PromotionConfig(tolerances={"answer_accuracy": 0.03}))
    assert check.paired is None
    assert check.passed


def test_losses_are_paired_with_their_own_direction():
    worse = [0.5 + 0.01 * (i % 3) for i in range(60)]
    models = on_units(dpo={"repetition": worse}, sft={"repetition": [0.0] * 60})
    rules = PromotionConfig(tolerances={"repetition": 0.05})
    assert compare("dpo", "sft", models, rules)[0].verdict == "worse"
    assert compare("sft", "dpo", models, rules)[0].verdict == "no worse"


def test_the_same_weights_are_no_worse_however_few_the_units():
    models = on_units(dpo={"answer_accuracy": rate(2, 3)}, incumbent={"answer_accuracy": rate(2, 3)})
    models["incumbent"] = models["incumbent"].model_copy(update={"checkpoint_sha256": "dpo"})
    (check,) = compare("dpo", "incumbent", models, RULES)
    assert (check.passed, check.note) == (True, "the same weights")


def test_value_that_is_no_number_fails_without_a_paired_test():
    check = accuracy_check([math.nan] * 40, rate(40, 40))
    assert (check.passed, check.verdict, check.note, check.paired) == (False, "worse", "not a number", None)


def test_what_passed_by_value_is_said():
    models = on_units(dpo={"answer_accuracy": rate(194, 201)}, sft={"answer_accuracy": rate(199, 201)})
    decision = decide(report().model_copy(update={"models": models}), RULES, None)
    assert decision.promoted == "dpo"
    assert decision.reason == (
        "DPO is no worse than its SFT model on answer_accuracy (all by value, since the interval leaves it open)."
    )


def test_metric_of_one_side_alone_is_said():
    models = report(sft=scores(1, 0), dpo={**scores(1, 1), "repetition": 0.0}, incumbent={"answer_accuracy": 1.0})
    decision = decide(models, RULES, "3")
    assert decision.promoted == "dpo"
    assert decision.notes == [
        "Measured for DPO and not for its SFT model, so that it decides nothing between them: repetition.",
        "Measured for DPO and not for the incumbent, so that it decides nothing between them: preferred_rate, "
        "repetition.",
    ]


def test_only_the_candidates_that_are_asked_for_are_judged():
    models = report(base=scores(0, 0), sft=scores(1, 0), dpo=scores(0, 0))
    assert decide(models, RULES, None, candidates=("dpo",)).promoted is None
    assert decide(models, RULES, None, candidates=("sft",)).promoted == "sft"


def decision_for_dpo():
    return decide(report(base=scores(0, 0), sft=scores(1, 0), dpo=scores(1, 1)), RULES, None)


def test_approval_keeps_the_stage_and_says_where_to_ask():
    held = settled(decision_for_dpo(), "demo", "3", approval=True)
    assert (held.promoted, held.chosen, held.version) == (None, "dpo", "3")
    assert held.reason.endswith(
        "promotion.approval wants a person's yes first: python tools/promote.py 3 staging --name demo"
    )


def test_notes_on_the_incumbent_stand_in_the_reason():
    assert settled(decision_for_dpo(), "demo", "3", ["it is gone", ""]).reason.endswith(". Note: it is gone.")


def test_who_forces_it_overrules_the_gate_and_keeps_what_it_said():
    refused = decide(report(base=scores(0, 0), sft=scores(1, 0), dpo=scores(0, 0)), RULES, None, ("dpo",))
    decision = forced(refused, "dpo", Force(user="ada", reason="a demo"))
    assert (decision.promoted, decision.forced.user) == ("dpo", "ada")
    assert decision.reason.startswith("ada forced it (a demo). The gate said: DPO is worse")
    assert decision.checks == refused.checks


def test_only_a_yes_promotes():
    asked = decision_for_dpo()
    assert answered(asked, None) == asked
    assert (answered(asked, True).promoted, answered(asked, True).approved) == ("dpo", True)
    assert (answered(asked, False).promoted, answered(asked, False).approved) == (None, False)
    assert (unanswered(asked, "").promoted, unanswered(asked, "").approved) == (None, None)
    assert unanswered(asked, "nobody answered").reason.endswith(
        "A person was asked, and nobody answered: nothing is promoted."
    )


def test_a_decision_is_void_once_another_version_holds_the_stage() -> None:
    gate = PromotionDecision(promoted="dpo", stage="production", reason="DPO is no worse.", incumbent="3")
    assert overtaken(gate, "3") == gate
    late = overtaken(gate, "4")
    assert (late.promoted, late.chosen) == (None, "dpo")
    assert "has changed, from version 3 to version 4: nothing is promoted." in late.reason
    assert overtaken(forced(gate, "dpo", Force(user="me", reason="today")), "4").promoted == "dpo"
