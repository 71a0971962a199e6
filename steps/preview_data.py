"""Step: the data preview that people open."""

from typing import Annotated

from zenml import step
from zenml.types import HTMLString

from llm_engineering.reporting.data_page import render_data_preview
from llm_engineering.reports.data import DatasetReport


@step
def preview_data(dataset_report: DatasetReport) -> Annotated[HTMLString, "data_preview"]:
    """Show the ledger, the audit and some rows token by token; apart from formatting, which no look depends on."""
    return HTMLString(render_data_preview(dataset_report))
