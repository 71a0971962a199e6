"""A version against the holder of a stage: from stored evaluations, or measured anew."""

from collections.abc import Callable, Sequence

from zenml.models import ModelVersionResponse, StepRunResponse

from llm_engineering.config.measuring import Measuring
from llm_engineering.config.promotion import PromotionConfig
from llm_engineering.errors import StoreError
from llm_engineering.evaluation.evaluator import Evaluator
from llm_engineering.evaluation.incumbents import measure_incumbent, saved_tokenizer
from llm_engineering.evaluation.measuring import evaluator_for
from llm_engineering.evaluation.promotion import Candidate, decide, forced, settled
from llm_engineering.reports.evaluation import EvaluationReport
from llm_engineering.reports.folders import Checkpoint
from llm_engineering.reports.promotion import Force, PromotionDecision
from steps.runtime.fetching import at_hand, described
from steps.runtime.registry import evaluation_of, find_incumbent, last_made, promoted_model, stands_for


def decide_on(
    report: EvaluationReport,
    evaluator: Callable[[], Evaluator],
    rules: PromotionConfig,
    model: str,
    version: str,
    candidates: Sequence[Candidate] = ("dpo", "sft"),
) -> tuple[PromotionDecision, EvaluationReport]:
    """Return the decision on a version, and its report with the incumbent in it.

    Args:
        report: Of the version's models.
        evaluator: Gives what they were measured with: an incumbent that was measured on other questions, rows or
            settings is measured anew.
        rules: Stage, tolerances, and what is done where the evidence is thin.
        model: The name of the model in the registry.
        version: Its version that is decided on.
        candidates: Which of its models may be promoted, the best first.
    """
    incumbent, note = find_incumbent(model, rules.stage, version)
    notes = [note]
    if incumbent is not None:
        scores = incumbent.scores
        if incumbent.fingerprint != report.fingerprint:
            scores, remark = measure_incumbent(evaluator(), at_hand(incumbent.checkpoint))
            notes.append(remark)
        report = report.model_copy(update={"models": {**report.models, "incumbent": scores}})
    decision = decide(report, rules, incumbent.version if incumbent else None, candidates)
    return settled(decision, model, version, notes, approval=rules.approval), report


def gate(
    version: ModelVersionResponse, stage: str, rules: PromotionConfig, force: Force | None = None
) -> PromotionDecision:
    """Return whether a version gets a stage. Archiving asks nothing; who forces it gets the stage whatever is said.

    Raises:
        StoreError: The version has no model; or no evaluation, and nobody forces it.
    """
    if stage == "archived":
        return PromotionDecision(promoted=None, stage=stage, reason="Archiving asks nothing.", version=version.name)
    if force is None:
        return decide_on_stored(version, rules)
    model = stands_for(version) or last_made(version)
    if model is None:
        raise StoreError(f"Version {version.name} of {version.model.name!r} has no model. Name another version.")
    try:
        decision = decide_on_stored(version, rules)
    except StoreError as error:
        decision = PromotionDecision(promoted=None, stage=stage, reason=str(error), version=version.name)
    return forced(decision, model, force)


def decide_on_stored(version: ModelVersionResponse, rules: PromotionConfig) -> PromotionDecision:
    """Return the decision on a version of an earlier run, by its newest stored evaluation.

    Raises:
        StoreError: The version has no model or no evaluation any more.
    """
    model, checkpoint = stands_for(version), promoted_model(version)
    report, step = evaluation_of(version)
    if model is None or checkpoint is None or model not in report.models:
        raise StoreError(
            f"Version {version.name} of {version.model.name!r} has no model that was measured and decided on. Name "
            "another version."
        )
    decision, _ = decide_on(
        report,
        lambda: _evaluator(step, checkpoint),
        rules.model_copy(update={"approval": False}),  # the pipeline asks, once the gate has spoken
        version.model.name,
        str(version.name),
        (model,),
    )
    return decision


def _evaluator(step: StepRunResponse, model: Checkpoint) -> Evaluator:
    """Return what a stored evaluation was made with; the tokenizer is the one that the model was saved with."""
    rows = [artifact.load() for artifact in step.inputs["held_out"]]
    measuring = Measuring.model_validate(step.config.parameters["measuring"])
    return evaluator_for(measuring, rows, saved_tokenizer(described(model)))
