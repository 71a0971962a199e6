"""Step: write the model card of the promoted model, and export the model where that is configured."""

from collections.abc import Callable
from typing import Annotated

from zenml import step
from zenml.types import MarkdownString

from llm_engineering.config.export import ExportConfig
from llm_engineering.config.model import ModelConfig
from llm_engineering.models.chat import load_chat_tokenizer
from llm_engineering.models.checkpoints import max_positions
from llm_engineering.models.export import export_all
from llm_engineering.models.hardware import pick_dtype
from llm_engineering.reporting.bundle import Measured
from llm_engineering.reporting.card import CardFacts, render_card
from llm_engineering.reports.folders import Checkpoint, RowSet
from llm_engineering.reports.promotion import Export as Exported
from llm_engineering.reports.promotion import ExportReport, PromotionDecision
from llm_engineering.scoring.answers import read_probes
from steps.runtime.context import log_facts
from steps.runtime.facts import run_configuration, run_reports, this_run
from steps.runtime.fetching import at_hand, described
from steps.runtime.traits import traits
from steps.runtime.work import scratch_folder


@traits(gpu=True)
@step(enable_cache=False)
def export(
    measured: Measured,
    decision: PromotionDecision,
    base: Checkpoint,
    models: list[Checkpoint],  # one a training, in their order
    questions: RowSet,
) -> tuple[Annotated[MarkdownString, "model_card"], Annotated[ExportReport, "export_report"]]:
    """Describe and export what was promoted; an export that fails is no failure of the run, but is said."""
    promoted = measured.promoted(decision, models)
    if promoted is None:
        return MarkdownString("No model of this run was promoted: there is no card."), ExportReport()
    run = this_run()
    reports, config = run_reports(run, measured, decision), run_configuration(run)

    def card(exported: Exported) -> str:
        longest = max_positions(described(promoted).path)
        return render_card(CardFacts(config, described(base), reports, longest, exported))

    exports = _export(at_hand(promoted), questions, config.export, config.model, card) if config.export.is_asked else []
    log_facts({each.format: each.model_dump(mode="json", exclude_none=True) for each in exports})
    return MarkdownString(card(Exported(format="merged"))), ExportReport(exports=exports)


def _export(
    promoted: Checkpoint, questions: RowSet, config: ExportConfig, model: ModelConfig, card: Callable[[Exported], str]
) -> list[Exported]:
    return export_all(
        promoted,
        config,
        load_chat_tokenizer(promoted, ModelConfig(base=promoted.base)).tokenizer,
        read_probes(questions, config.parity.prompts),
        dtype=pick_dtype(model.dtype),
        card=card,
        scratch=scratch_folder(),
    )
