"""Step: what became of every held-out pair and question, as a page with a table that one can filter."""

from typing import Annotated

from zenml import step
from zenml.types import HTMLString

from llm_engineering.evaluation.changes import read_changes
from llm_engineering.reporting.outcomes_page import render_outcomes
from llm_engineering.reports.folders import Folder


@step
def show_outcomes(outcomes: Folder) -> Annotated[HTMLString, "outcome_table"]:
    """Show which pairs and answers each model learned and lost; apart from evaluating, which no look depends on."""
    return HTMLString(render_outcomes(read_changes(outcomes)))
