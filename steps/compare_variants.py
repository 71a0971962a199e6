"""Step: put what was made of all recipes side by side."""

from typing import Annotated, Literal

from pydantic import BaseModel
from zenml import step
from zenml.types import HTMLString

from llm_engineering.config.yaml.loader import dump_config
from llm_engineering.evaluation.variants import compare
from llm_engineering.reporting.comparison_page import render_comparison
from llm_engineering.reports.data import DatasetReport
from llm_engineering.reports.evaluation import ComparisonReport, EvaluationReport, Variant
from llm_engineering.reports.training import MergeReport, TrainingReport
from llm_engineering.training.verdicts import judged_anew
from steps.runtime.caching import packages
from steps.runtime.context import log_facts, watch
from steps.runtime.facts import run_configuration, run_facts, this_run


class Entry(BaseModel):
    """One variant, and which reports are about it: their numbers in the lists that the step is given."""

    variant: Variant
    trainings: list[int] = []
    merges: list[int] = []


class Comparing(BaseModel):
    """What is compared, and how."""

    kind: Literal["comparison", "sweep"]
    entries: list[Entry]
    tested: list[str]
    """Metrics whose differences are tested."""
    metric: str | None = None
    """What the variants are ranked by."""
    against: dict[str, list[str]] | None = None
    """Whom a variant is tested against; None: each against the best one."""
    notes: list[str] = []


@step(enable_cache=False)
def compare_variants(
    comparing: Comparing,
    trainings: list[TrainingReport],
    merges: list[MergeReport],
    evaluations: list[EvaluationReport],
    dataset: DatasetReport | None = None,
) -> tuple[Annotated[ComparisonReport, "comparison_report"], Annotated[HTMLString, "comparison_page"]]:
    """Compare the variants in pairs, rank them where a metric is named, and show them on one page."""
    kind, metric, tested, against = comparing.kind, comparing.metric, comparing.tested, comparing.against
    judged = [judged_anew(training, watch(), None) for training in trainings]
    variants = [_with_reports(entry, judged, merges) for entry in comparing.entries]
    run = this_run()
    facts, configuration = run_facts(run), dump_config(run_configuration(run))
    report = compare(kind, variants, evaluations, metric, tested, against, comparing.notes, facts.seconds)
    log_facts({"best": report.best, "failed": {one.name: one.error for one in report.variants if one.error}})
    page = render_comparison(report, facts, dataset=dataset, config_yaml=configuration, packages=packages())
    return report, HTMLString(page)


def _with_reports(entry: Entry, trainings: list[TrainingReport], merges: list[MergeReport]) -> Variant:
    own = {
        "trainings": [trainings[number] for number in entry.trainings],
        "merges": [merges[number] for number in entry.merges],
    }
    return entry.variant.model_copy(update=own)
