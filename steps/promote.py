"""Step: decide which model of the run is promoted, and move the stage."""

from typing import Annotated, Any

from zenml import get_step_context, log_metadata, step

from llm_engineering.config.measuring import Measuring
from llm_engineering.config.promotion import PromotionConfig
from llm_engineering.evaluation.measuring import evaluator_for
from llm_engineering.models.chat import load_chat_tokenizer
from llm_engineering.reports.data import DatasetReport
from llm_engineering.reports.evaluation import EvaluationReport
from llm_engineering.reports.folders import Checkpoint, RowSet
from llm_engineering.reports.promotion import PromotionDecision
from llm_engineering.reports.training import LossProof, MergeReport, TrainingReport
from steps.runtime.context import as_metadata, log_facts
from steps.runtime.deciding import decide_on
from steps.runtime.fetching import described
from steps.runtime.registry import record_decision
from steps.runtime.traits import traits


@traits(gpu=True)
@step(enable_cache=False)
def promote(
    evaluation_report: EvaluationReport,
    dataset_report: DatasetReport,
    base: Checkpoint,
    held_out: list[RowSet],  # conversations, pairs, questions
    measuring: Measuring,
    promotion: PromotionConfig,
    configuration: str,
    sft_model: Checkpoint | None = None,
    dpo_model: Checkpoint | None = None,
    sft_merge_report: MergeReport | None = None,
    dpo_merge_report: MergeReport | None = None,
    dpo_report: TrainingReport | None = None,
) -> Annotated[PromotionDecision, "promotion_decision"]:
    """Promote DPO, SFT or nothing; an incumbent that was measured otherwise is measured anew."""
    version = get_step_context().model
    decision, evaluation_report = decide_on(
        evaluation_report,
        lambda: evaluator_for(measuring, held_out, load_chat_tokenizer(described(base), measuring.model).tokenizer),
        promotion,
        version.name,
        str(version.version),
    )
    promoted = {"sft": sft_model, "dpo": dpo_model}.get(decision.promoted or "")
    merges = [merge for merge in (sft_merge_report, dpo_merge_report) if merge]
    proofs = _proofs(dataset_report, merges, dpo_report.proof if dpo_report else None)
    identity = {"data_fingerprints": dataset_report.fingerprints, "configuration": configuration, "proofs": proofs}
    _log(decision, evaluation_report, promoted.weights_sha256 if promoted else "none", identity)
    record_decision(version.name, str(version.version), decision)
    if promoted is not None:
        version.set_stage(promotion.stage, force=True)  # last, so that what fails before leaves the incumbent in place
    return decision


def _proofs(dataset: DatasetReport, merges: list[MergeReport], of_dpo: LossProof | None) -> dict[str, Any]:
    return {
        "mask": dataset.mask_proof,
        "splits": dataset.split_proof,
        "merge": [merge.model_dump() for merge in merges],
        "reference": of_dpo.model_dump() if of_dpo else "not applicable",
    }


def _log(
    decision: PromotionDecision, evaluation: EvaluationReport, weights_sha256: str, identity: dict[str, Any]
) -> None:
    """Attach the decision to the step, and everything that tells versions apart to the model version."""
    facts = {"promoted": decision.promoted or "nothing", "reason": decision.reason}
    log_facts({**facts, "checks": [check.model_dump() for check in decision.checks]})
    metrics = {
        name: {metric: value.value for metric, value in scores.metrics.items()}
        for name, scores in evaluation.models.items()
    }
    stage = decision.stage if decision.promoted else "none"
    version_facts = {**facts, "stage": stage, "weights_sha256": weights_sha256, "metrics": metrics, **identity}
    log_metadata(metadata=as_metadata(version_facts), infer_model=True)
