"""Step: direct preference optimization."""

from dataclasses import replace
from typing import Annotated

from zenml import step

from llm_engineering.config.dpo import DPOStageConfig
from llm_engineering.config.training import TrainingSettings
from llm_engineering.reports.folders import Checkpoint, ReferenceLogProbs, RowSet
from llm_engineering.reports.training import TrainingReport
from llm_engineering.training import dpo as library
from steps.runtime.context import log_facts
from steps.runtime.resumable import training_folder
from steps.runtime.stages import stage_inputs
from steps.runtime.tracking import with_kept_archive
from steps.runtime.traits import traits


@traits(gpu=True, tracked="dpo", resumable=True)
@step
def train_dpo(
    preference_rows: RowSet,
    questions: RowSet,
    policy: Checkpoint,
    dpo: DPOStageConfig,
    settings: TrainingSettings,
    preflight: bool,  # an input, so that nothing is trained before it has passed
    reference_log_probs: ReferenceLogProbs | None = None,
) -> tuple[Annotated[Checkpoint, "dpo_adapter"], Annotated[TrainingReport, "dpo_report"]]:
    """Train a fresh adapter on preference pairs; ``policy`` with the adapter off is the frozen reference."""
    with training_folder() as (work_dir, finished):
        if finished:
            checkpoint, report = finished["dpo_adapter"], finished["dpo_report"]
        else:
            inputs = stage_inputs(policy, preference_rows, questions, settings, work_dir)
            checkpoint, report = library.launch_dpo(dpo, replace(inputs, reference=reference_log_probs))
    report = with_kept_archive(report)
    verdicts = [verdict.name for verdict in report.verdicts]
    proof = report.proof.model_dump() if report.proof else None
    log_facts(
        {**report.metrics, "steps": report.steps, "seconds": report.seconds, "verdicts": verdicts, "reference": proof},
        report.tracker,
    )
    return checkpoint, report
