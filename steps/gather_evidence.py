"""Step: one evaluation report of all that was measured."""

from typing import Annotated

from zenml import step

from llm_engineering.evaluation.evidence import with_evidence
from llm_engineering.reports.evaluation import EvaluationReport, HarnessReport, JudgeReport


@step
def gather_evidence(
    evaluation_report: EvaluationReport,
    judge_report: JudgeReport | None = None,
    harness_report: HarnessReport | None = None,
) -> Annotated[EvaluationReport, "evaluation_report"]:
    """Lay the metrics of the judge and of the harness into the evaluation's report."""
    return with_evidence(evaluation_report, judge_report, harness_report)
