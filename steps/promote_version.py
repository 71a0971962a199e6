"""Steps: judge a version of an earlier run against the holder of a stage, and move the stage."""

from typing import Annotated

from zenml import get_step_context, step

from llm_engineering.config.promotion import PromotionConfig
from llm_engineering.evaluation.promotion import answered, overtaken
from llm_engineering.reports.promotion import Force, PromotionDecision
from steps.runtime.context import log_facts
from steps.runtime.registry import find_incumbent, gate, model_version, record_decision
from steps.runtime.traits import traits


@traits(gpu=True)
@step(enable_cache=False)
def judge_version(
    stage: str, rules: PromotionConfig, force: Force | None = None
) -> Annotated[PromotionDecision, "gate_decision"]:
    """Ask the gate; a forced promotion keeps what it said, and archiving asks nothing."""
    context = get_step_context().model
    decision = gate(model_version(context.name, str(context.version)), stage, rules, force)
    log_facts({"promoted": decision.promoted or "nothing", "reason": decision.reason})
    return decision


@step(enable_cache=False)
def move_stage(
    gate_decision: PromotionDecision, approved: bool | None = None
) -> Annotated[PromotionDecision, "stage_decision"]:
    """Give the version the stage, where the gate and the person who was asked let it pass; record it in any case."""
    context = get_step_context().model
    decision = answered(gate_decision, approved)
    if decision.promoted is not None:
        incumbent, _ = find_incumbent(context.name, decision.stage, str(context.version))
        decision = overtaken(decision, incumbent.version if incumbent else None)
    record_decision(context.name, str(context.version), decision)
    log_facts({"promoted": decision.promoted or "nothing", "reason": decision.reason})
    if decision.promoted is not None or decision.stage == "archived":
        context.set_stage(decision.stage, force=True)  # last: what fails before leaves the holder in place
    return decision
