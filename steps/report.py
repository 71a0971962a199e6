"""Step: the run's report as one HTML page."""

from typing import Annotated

from zenml import get_step_context, step
from zenml.client import Client
from zenml.types import HTMLString

from llm_engineering.reporting.bundle import RunReports
from llm_engineering.reporting.run_page import render_report
from llm_engineering.reports.data import DatasetReport, PreferenceReport
from llm_engineering.reports.evaluation import EvaluationReport
from llm_engineering.reports.promotion import ExportReport, PromotionDecision
from llm_engineering.reports.training import MergeReport, TrainingReport
from llm_engineering.training.watch import judged_anew
from steps.runtime.caching import packages
from steps.runtime.context import log_facts, watch
from steps.runtime.facts import run_facts, show_in_dashboard
from steps.runtime.publishing import publish
from steps.runtime.traits import traits


@traits(tracked="report")
@step(enable_cache=False)
def report(
    decision: PromotionDecision,
    dataset_report: DatasetReport,
    evaluation_report: EvaluationReport,
    configuration: str,
    sft_report: TrainingReport | None = None,
    sft_merge_report: MergeReport | None = None,
    preference_report: PreferenceReport | None = None,
    dpo_report: TrainingReport | None = None,
    dpo_merge_report: MergeReport | None = None,
    export_report: ExportReport | None = None,
) -> Annotated[HTMLString, "report"]:
    """Put everything that the run measured and proved on one page."""
    run = Client().get_pipeline_run(get_step_context().pipeline_run.id)
    merges = {"sft": sft_merge_report, "dpo": dpo_merge_report}
    reports = RunReports(
        run=run_facts(run, stage=decision.stage if decision.promoted else None),
        dataset=dataset_report,
        preferences=preference_report,
        sft=judged_anew(sft_report, watch(), evaluation_report),
        dpo=judged_anew(dpo_report, watch(), evaluation_report),
        merges={stage: merge for stage, merge in merges.items() if merge is not None},
        evaluation=evaluation_report,
        decision=decision,
        exports=export_report,
        config_yaml=configuration,
        packages=packages(),
    )
    page = render_report(reports)
    link = publish(page, reports)
    if link is not None:
        log_facts({}, link)
    show_in_dashboard(reports.model_copy(update={"published": link}))
    return HTMLString(page)
