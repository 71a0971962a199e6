"""Step: put what was made of all recipes side by side."""

from typing import Annotated, Literal

from pydantic import BaseModel
from zenml import get_step_context, step
from zenml.client import Client
from zenml.types import HTMLString

from llm_engineering.evaluation.variants import compare
from llm_engineering.reporting.comparison_page import render_comparison
from llm_engineering.reports.data import DatasetReport
from llm_engineering.reports.evaluation import ComparisonReport, EvaluationReport, Variant
from llm_engineering.reports.training import MergeReport, TrainingReport
from llm_engineering.training.watch import judged_anew
from steps.runtime.caching import packages
from steps.runtime.context import log_facts, watch
from steps.runtime.facts import run_facts


class Entry(BaseModel):
    """One variant, and which reports are about it: their numbers in the lists that the step is given."""

    variant: Variant
    trainings: list[int] = []
    merges: list[int] = []


@step(enable_cache=False)
def compare_variants(
    kind: Literal["comparison", "sweep"],
    entries: list[Entry],
    trainings: list[TrainingReport],
    merges: list[MergeReport],
    evaluations: list[EvaluationReport],
    metric: str | None,
    tested: list[str],
    configuration: str,
    dataset: DatasetReport | None = None,
    against: dict[str, list[str]] | None = None,
    notes: list[str] | None = None,
) -> tuple[Annotated[ComparisonReport, "comparison_report"], Annotated[HTMLString, "comparison_page"]]:
    """Compare the variants in pairs, rank them where a metric is named, and show them on one page."""
    judged = [judged_anew(training, watch(), None) for training in trainings]
    variants = [
        entry.variant.model_copy(
            update={
                "trainings": [judged[number] for number in entry.trainings],
                "merges": [merges[number] for number in entry.merges],
            }
        )
        for entry in entries
    ]
    run = run_facts(Client().get_pipeline_run(get_step_context().pipeline_run.id))
    report = compare(kind, variants, evaluations, metric, tested, against, notes or [], run.seconds)
    log_facts({"best": report.best, "failed": {one.name: one.error for one in report.variants if one.error}})
    page = render_comparison(report, run, dataset=dataset, config_yaml=configuration, packages=packages())
    return report, HTMLString(page)
