"""Steps: merge an adapter into its base, and prove it."""

from typing import Annotated

from zenml import step

from llm_engineering.config.model import ModelConfig
from llm_engineering.reports.folders import Checkpoint, RowSet, StageName
from llm_engineering.reports.training import MergeReport
from llm_engineering.training.merging import merge_stage
from steps.runtime.context import log_facts
from steps.runtime.fetching import at_hand
from steps.runtime.traits import traits
from steps.runtime.work import scratch_folder


@traits(gpu=True)
@step
def merge_sft(
    base: Checkpoint, sft_adapter: Checkpoint, questions: RowSet, model: ModelConfig
) -> tuple[Annotated[Checkpoint, "sft_model"], Annotated[MergeReport, "sft_merge_report"]]:
    """Merge the SFT adapter into the base."""
    merged, report = _merge("sft", base, sft_adapter, questions, model)
    return merged, report


@traits(gpu=True)
@step
def merge_dpo(
    policy: Checkpoint, dpo_adapter: Checkpoint, questions: RowSet, model: ModelConfig
) -> tuple[Annotated[Checkpoint, "dpo_model"], Annotated[MergeReport, "dpo_merge_report"]]:
    """Merge the DPO adapter into the model it was trained on."""
    merged, report = _merge("dpo", policy, dpo_adapter, questions, model)
    return merged, report


def _merge(
    stage: StageName, base: Checkpoint, adapter: Checkpoint, questions: RowSet, model: ModelConfig
) -> tuple[Checkpoint, MergeReport]:
    merged, report = merge_stage(stage, at_hand(base), at_hand(adapter), questions, model, scratch_folder())
    log_facts(report.model_dump(exclude={"stage"}))
    return merged, report
