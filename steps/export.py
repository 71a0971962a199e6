"""Step: write the model card of the promoted model, and export the model where that is configured."""

from collections.abc import Callable
from typing import Annotated

from zenml import get_step_context, step
from zenml.client import Client
from zenml.types import MarkdownString

from llm_engineering.config.model import ModelConfig
from llm_engineering.config.run import RunConfig
from llm_engineering.models.chat import load_chat_tokenizer
from llm_engineering.models.checkpoints import max_positions
from llm_engineering.models.export import export_all
from llm_engineering.models.hardware import pick_dtype
from llm_engineering.reporting.bundle import RunReports
from llm_engineering.reporting.card import CardFacts, render_card
from llm_engineering.reports.data import DatasetReport, PreferenceReport
from llm_engineering.reports.evaluation import EvaluationReport
from llm_engineering.reports.folders import Checkpoint, RowSet
from llm_engineering.reports.promotion import Export as Exported
from llm_engineering.reports.promotion import ExportReport, PromotionDecision
from llm_engineering.reports.training import MergeReport, TrainingReport
from llm_engineering.scoring.answers import read_probes
from steps.runtime.caching import packages
from steps.runtime.context import log_facts
from steps.runtime.facts import run_facts
from steps.runtime.fetching import at_hand, described
from steps.runtime.traits import traits
from steps.runtime.work import scratch_folder


@traits(gpu=True)
@step(enable_cache=False)
def export(
    decision: PromotionDecision,
    dataset_report: DatasetReport,
    evaluation_report: EvaluationReport,
    base: Checkpoint,
    questions: RowSet,
    config: RunConfig,
    sft_model: Checkpoint | None = None,
    dpo_model: Checkpoint | None = None,
    sft_report: TrainingReport | None = None,
    sft_merge_report: MergeReport | None = None,
    preference_report: PreferenceReport | None = None,
    dpo_report: TrainingReport | None = None,
    dpo_merge_report: MergeReport | None = None,
) -> tuple[Annotated[MarkdownString, "model_card"], Annotated[ExportReport, "export_report"]]:
    """Describe and export what was promoted; an export that fails is no failure of the run, but is said."""
    promoted = {"sft": sft_model, "dpo": dpo_model}.get(decision.promoted or "")
    if promoted is None:
        return MarkdownString("No model of this run was promoted: there is no card."), ExportReport()
    run = Client().get_pipeline_run(get_step_context().pipeline_run.id)
    merges = {"sft": sft_merge_report, "dpo": dpo_merge_report if decision.promoted == "dpo" else None}
    reports = RunReports(
        run=run_facts(run, stage=decision.stage),
        dataset=dataset_report,
        preferences=preference_report if decision.promoted == "dpo" else None,
        sft=sft_report,
        dpo=dpo_report,
        merges={stage: merge for stage, merge in merges.items() if merge is not None},
        evaluation=evaluation_report,
        decision=decision,
        packages=packages(),
    )

    def card(exported: Exported) -> str:
        longest = max_positions(described(promoted).path)
        return render_card(CardFacts(config, described(base), reports, longest, exported))

    exports = _export(at_hand(promoted), questions, config, card) if config.export.is_asked else []
    log_facts({each.format: each.model_dump(mode="json", exclude_none=True) for each in exports})
    return MarkdownString(card(Exported(format="merged"))), ExportReport(exports=exports)


def _export(
    promoted: Checkpoint, questions: RowSet, config: RunConfig, card: Callable[[Exported], str]
) -> list[Exported]:
    return export_all(
        promoted,
        config.export,
        load_chat_tokenizer(promoted, ModelConfig(base=promoted.base)).tokenizer,
        read_probes(questions, config.export.parity.prompts),
        dtype=pick_dtype(config.model.dtype),
        card=card,
        scratch=scratch_folder(),
    )
