"""Step: measure models on the same held-out rows and questions."""

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated

from zenml import step

from llm_engineering.config.measuring import Lineup, Measuring
from llm_engineering.evaluation import measuring as library
from llm_engineering.evaluation.changes import write_changes
from llm_engineering.reports.evaluation import EvaluationReport
from llm_engineering.reports.folders import Checkpoint, Folder, RowSet
from llm_engineering.tracking import Tracker, tracked_stage
from steps.runtime.context import log_facts, run_name, tracking
from steps.runtime.fetching import all_at_hand, described
from steps.runtime.tracking import archive_folder, kept_archive, stage_origin
from steps.runtime.traits import traits
from steps.runtime.work import scratch_folder


@traits(gpu=True, tracked="evaluation")
@step
def evaluate(
    base: Checkpoint,
    models: list[Checkpoint],
    held_out: list[RowSet],  # conversations, pairs, questions
    measuring: Measuring,
    lineup: Lineup,
) -> tuple[Annotated[EvaluationReport, "evaluation_report"], Annotated[Folder, "outcomes"]]:
    """Generate, check and score; all models see the same questions and seeds, each is held against its parent."""
    base, here = described(base), all_at_hand(lineup.named(base, models))
    evaluator = library.evaluator_of(lineup, here, measuring, held_out, base)
    with _tracked(measuring, base, evaluator.held_out.fingerprint) as tracker:
        report = library.evaluate(evaluator, lineup, here)
        tracker.log_evaluation(report)
    report = report.model_copy(update={"tracker": kept_archive(tracker.link)})
    _log(report)
    return report, write_changes(evaluator.changes, scratch_folder())


def _tracked(measuring: Measuring, base: Checkpoint, fingerprint: str) -> AbstractContextManager[Tracker]:
    return tracked_stage(
        tracking(),
        stage="evaluation",
        name=f"{run_name()}-evaluation",
        tags=[run_name(), Path(base.base).name, f"data:{fingerprint[:12]}"],
        parameters=measuring.model_dump(mode="json", exclude={"checker_sha256", "first"}),
        archive_dir=archive_folder(),
        origin=stage_origin(),
    )


def _log(report: EvaluationReport) -> None:
    for name, scores in report.models.items():
        log_facts({name: {metric: value.value for metric, value in scores.metrics.items()}})
    log_facts({"questions": report.questions, "pairs": report.pairs, "split": report.split}, report.tracker)
    log_facts({f"{name}_outcomes": counts for name, counts in report.changes.items()})
