"""Step: supervised fine-tuning."""

from typing import Annotated

from zenml import step

from llm_engineering.config.sft import SFTStageConfig
from llm_engineering.config.training import TrainingSettings
from llm_engineering.reports.folders import Checkpoint, RowSet
from llm_engineering.reports.training import TrainingReport
from llm_engineering.training import sft as library
from steps.runtime.context import log_facts
from steps.runtime.resumable import training_folder
from steps.runtime.stages import stage_inputs
from steps.runtime.tracking import with_kept_archive
from steps.runtime.traits import traits


@traits(gpu=True, tracked="sft", resumable=True)
@step
def train_sft(
    sft_rows: RowSet,
    questions: RowSet,
    base: Checkpoint,
    sft: SFTStageConfig,
    settings: TrainingSettings,
    preflight: bool,  # an input, so that nothing is trained before it has passed
) -> tuple[Annotated[Checkpoint, "sft_adapter"], Annotated[TrainingReport, "sft_report"]]:
    """Train an adapter on the answers of the conversations."""
    with training_folder() as (work_dir, finished):
        if finished:
            checkpoint, report = finished["sft_adapter"], finished["sft_report"]
        else:
            inputs = stage_inputs(base, sft_rows, questions, settings, work_dir)
            checkpoint, report = library.launch_sft(sft, inputs)
    report = with_kept_archive(report)
    verdicts = [verdict.name for verdict in report.verdicts]
    log_facts(
        {**report.metrics, "steps": report.steps, "seconds": report.seconds, "verdicts": verdicts}, report.tracker
    )
    return checkpoint, report
