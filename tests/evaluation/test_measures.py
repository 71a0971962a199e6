"""The table of metrics: one row and one function make a metric that is measured, worded, ranked, and decides."""

import pytest

from llm_engineering.config.metrics import GROUPS, METRICS, MetricRow, higher_is_better, row_of, with_variants
from llm_engineering.config.promotion import PromotionConfig
from llm_engineering.evaluation.promotion import compare
from llm_engineering.evaluation.variants import best_of
from llm_engineering.models.generation import Answer
from llm_engineering.reporting.run_views import score_table
from llm_engineering.reports.evaluation import EvaluationReport, ModelScores
from llm_engineering.scoring.answers import JudgedAnswers, Question
from llm_engineering.scoring.measures import answer_outcomes, function_of, mean_of_rounds, summarise


def shouting(answer: Answer) -> float:
    return sum(letter.isupper() for letter in answer.text) / len(answer.text)


SHOUTING = MetricRow(
    "shouting", "Capital letters", f"{__name__}:shouting", "lower", "%", group="Greedy answers", takes="answer"
)


@pytest.fixture
def with_shouting(monkeypatch: pytest.MonkeyPatch) -> None:
    for row in with_variants([SHOUTING]):
        monkeypatch.setitem(METRICS, row.name, row)


def said(text: str) -> JudgedAnswers:
    return JudgedAnswers([Question("u", "[]", [1], "")], [Answer(text, [1], True)], None)


@pytest.mark.usefixtures("with_shouting")
def test_a_metric_is_one_row_and_one_function() -> None:
    outcomes = {
        name: {**answer_outcomes(said(text)), **mean_of_rounds([said(text), said("HI")])}
        for name, text in (("sft", "ABcd"), ("dpo", "Abcd"))
    }
    assert [outcomes[name]["shouting"] for name in ("sft", "dpo")] == [[0.5], [0.25]]  # 2 and 1 of 4 letters
    assert outcomes["dpo"]["sampled_shouting"] == [0.625]  # (1 / 4 + 1) / 2
    models = {
        name: ModelScores(checkpoint_sha256=name, metrics=summarise(found), outcomes=found)
        for name, found in outcomes.items()
    }
    report = EvaluationReport(
        fingerprint="", split="test", questions=1, pairs=0, models=models, samples=[], seconds=1.0
    )
    shown = {row.label: row for group in score_table(report).groups for row in group.rows}
    cells = [(cell.value, cell.best) for cell in shown["Capital letters"].cells if cell]
    assert (cells, shown["Capital letters"].direction) == ([("50.0 %", False), ("25.0 %", True)], "lower is better")
    assert "Capital letters, sampled" in shown
    assert best_of(report, "shouting")[0] == "dpo"
    rules = PromotionConfig(tolerances={"shouting": 0.1}, least_units=1)
    assert [check.passed for check in compare("dpo", "sft", models, rules)] == [True]
    assert [check.passed for check in compare("sft", "dpo", models, rules)] == [False]


def test_every_metric_that_is_measured_here_has_a_function_and_every_one_a_group() -> None:
    assert all(callable(function_of(row)) for row in METRICS.values() if row.takes)
    assert {row.group for row in METRICS.values()} <= {*GROUPS}


@pytest.mark.parametrize(
    ("metric", "label", "higher", "unit"),
    [
        ("judge_win_rate/sft", "Judged better than SFT", True, "%"),
        ("judge_win_rate/mine", "Judged better than mine", True, "%"),
        ("harness/arc_easy/acc_norm", "arc_easy/acc_norm", True, "%"),
        ("harness/gsm8k/exact_match,strict-match", "gsm8k/exact_match,strict-match", True, "%"),
        ("harness/wikitext/word_perplexity", "wikitext/word_perplexity", False, ""),
        ("harness/own/charm", "own/charm", None, ""),
        ("sampled_refusals", "Refusals, sampled", False, "%"),
        ("preference_accuracy_chosen_longer", "Chosen rewarded more, chosen longer", True, "%"),
        ("charm", "charm", None, ""),
    ],
)
def test_names_that_are_made_while_measuring_have_rows_by_rule(
    metric: str, label: str, higher: bool | None, unit: str
) -> None:
    assert (row_of(metric).label, higher_is_better(metric), row_of(metric).unit) == (label, higher, unit)
