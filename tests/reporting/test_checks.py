import io

from rich.console import Console

from llm_engineering.reporting.run_text import checks_table
from llm_engineering.reporting.run_views import check_view, evidence, signed_number
from llm_engineering.reports.evaluation import PairedDifference
from llm_engineering.reports.promotion import PromotionCheck, PromotionDecision

PAIRED = PairedDifference(
    candidate="dpo",
    against="sft",
    metric="answer_accuracy",
    difference=-0.005,
    low=-0.0277,
    high=0.0139,
    p_value=1.0,
    units=201,
)
CHECK = PromotionCheck(
    candidate="dpo",
    against="sft",
    metric="answer_accuracy",
    candidate_value=0.995,
    against_value=1.0,
    tolerance=0.03,
    passed=True,
    verdict="no worse",
    paired=PAIRED,
)


def test_evidence_is_a_signed_difference_with_interval_p_value_and_units() -> None:
    assert evidence(PAIRED) == "\N{MINUS SIGN}0.5 % (\N{MINUS SIGN}2.8 to +1.4), p = 1, 201 units"


def test_a_single_unit_has_no_interval() -> None:
    one = PAIRED.model_copy(update={"low": None, "high": None, "p_value": None, "units": 1})
    assert evidence(one) == "\N{MINUS SIGN}0.5 %, 1 unit"


def test_zero_has_no_sign() -> None:
    assert signed_number("answer_accuracy", -0.00001) == "0.0"


def test_a_decision_that_was_stored_before_there_was_evidence_is_shown() -> None:
    view = check_view(CHECK.model_copy(update={"paired": None, "verdict": None}))
    assert (view["verdict"], view["evidence"]) == ("passed", "values alone")


def test_the_table_shows_thresholds_evidence_and_outcome() -> None:
    open_one = CHECK.model_copy(update={"passed": False, "verdict": "undecided", "note": "5 units, too few"})
    decision = PromotionDecision(promoted=None, stage="staging", reason="", checks=[CHECK, open_one])
    console = Console(width=200, file=io.StringIO(), record=True)
    console.print(checks_table(decision))
    text = console.export_text()
    assert "3.0 %" in text
    assert "✓ no worse" in text
    assert "✗ undecided, 5 units, too few" in text
