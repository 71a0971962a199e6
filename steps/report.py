"""Step: the run's report as one HTML page."""

from typing import Annotated

from zenml import step
from zenml.types import HTMLString

from llm_engineering.reporting.bundle import Measured
from llm_engineering.reporting.run_page import render_report
from llm_engineering.reports.promotion import ExportReport, PromotionDecision
from steps.runtime.context import log_facts
from steps.runtime.facts import publish, run_reports, show_in_dashboard, this_run
from steps.runtime.traits import traits


@traits(tracked="report")
@step(enable_cache=False)
def report(
    measured: Measured, decision: PromotionDecision, export_report: ExportReport
) -> Annotated[HTMLString, "report"]:
    """Put everything that the run measured and proved on one page."""
    reports = run_reports(this_run(), measured, decision, export_report)
    page = render_report(reports)
    link = publish(page, reports)
    if link is not None:
        log_facts({}, link)
    show_in_dashboard(reports.model_copy(update={"published": link}))
    return HTMLString(page)
