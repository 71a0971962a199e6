"""Step: what was measured before the decision, as one value."""

from typing import Annotated

from zenml import step

from llm_engineering.reporting.bundle import Measured
from llm_engineering.reporting.gathering import gather
from llm_engineering.reports.data import DatasetReport, PreferenceReport
from llm_engineering.reports.evaluation import EvaluationReport
from llm_engineering.reports.training import MergeReport, TrainingReport
from steps.runtime.context import watch


@step(enable_cache=False)
def gather_measured(
    dataset_report: DatasetReport,
    trainings: list[TrainingReport],
    merges: list[MergeReport],
    evaluation_report: EvaluationReport,
    preference_report: PreferenceReport | None = None,
) -> Annotated[Measured, "measured"]:
    """Judge the curves, cached ones too, by the thresholds of this run; what follows is told the same."""
    return gather(watch(), dataset_report, trainings, merges, evaluation_report, preference_report)
