"""Step: decide which model of the run is promoted, and move the stage."""

from typing import Annotated, Any

from zenml import get_step_context, log_metadata, step

from llm_engineering.config.measuring import Measuring
from llm_engineering.config.promotion import PromotionConfig
from llm_engineering.evaluation.measuring import evaluator_for
from llm_engineering.models.chat import load_chat_tokenizer
from llm_engineering.reporting.bundle import Measured, RunReports
from llm_engineering.reports.evaluation import EvaluationReport
from llm_engineering.reports.folders import Checkpoint, RowSet
from llm_engineering.reports.promotion import PromotionDecision
from steps.runtime.context import as_metadata, log_facts
from steps.runtime.facts import run_reports, this_run
from steps.runtime.fetching import described
from steps.runtime.registry import decide_on, record_decision
from steps.runtime.traits import traits


@traits(gpu=True)
@step(enable_cache=False)
def promote(
    measured: Measured,
    base: Checkpoint,
    models: list[Checkpoint],  # one a training, in their order
    held_out: list[RowSet],  # conversations, pairs, questions
    measuring: Measuring,
    promotion: PromotionConfig,
) -> Annotated[PromotionDecision, "promotion_decision"]:
    """Promote DPO, SFT or nothing; an incumbent that was measured otherwise is measured anew."""
    version = get_step_context().model
    assert measured.evaluation is not None, "nothing is decided before it is measured"
    decision, evaluation = decide_on(
        measured.evaluation,
        lambda: evaluator_for(measuring, held_out, load_chat_tokenizer(described(base), measuring.model).tokenizer),
        promotion,
        version.name,
        str(version.version),
    )
    promoted = measured.promoted(decision, models)
    _log(decision, evaluation, promoted, run_reports(this_run(), measured, decision))
    record_decision(version.name, str(version.version), decision)
    if promoted is not None:
        version.set_stage(promotion.stage, force=True)  # last, so that what fails before leaves the incumbent in place
    return decision


def _log(
    decision: PromotionDecision, evaluation: EvaluationReport, promoted: Checkpoint | None, reports: RunReports
) -> None:
    """Attach the decision to the step, and everything that tells versions apart to the model version."""
    facts = {"promoted": decision.promoted or "nothing", "reason": decision.reason}
    log_facts({**facts, "checks": [check.model_dump() for check in decision.checks]})
    version_facts = {
        **facts,
        "stage": decision.stage if decision.promoted else "none",
        "weights_sha256": promoted.weights_sha256 if promoted else "none",
        "metrics": {
            name: {metric: value.value for metric, value in scores.metrics.items()}
            for name, scores in evaluation.models.items()
        },
        "data_fingerprints": reports.dataset.fingerprints if reports.dataset else {},
        "configuration": reports.config_yaml,
        "proofs": _proofs(reports),
    }
    log_metadata(metadata=as_metadata(version_facts), infer_model=True)


def _proofs(reports: RunReports) -> dict[str, Any]:
    dataset, of_dpo = reports.dataset, reports.dpo.proof if reports.dpo else None
    return {
        "mask": dataset.mask_proof if dataset else "not applicable",
        "splits": dataset.split_proof if dataset else "not applicable",
        "merge": [merge.model_dump() for merge in reports.merges.values()],
        "reference": of_dpo.model_dump() if of_dpo else "not applicable",
    }
