"""The pipeline that gives a version of an earlier run a stage; it is dynamic, so that a person can be asked."""

import logging
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from zenml import Model, pipeline, wait
from zenml.client import Client
from zenml.enums import ExecutionStatus, RunWaitConditionResolution, RunWaitConditionStatus
from zenml.models import ModelVersionResponse, PipelineRunResponse

from llm_engineering.config.promotion import PromotionConfig
from llm_engineering.evaluation.promotion import unanswered
from llm_engineering.reports.promotion import Force, PromotionDecision
from pipelines.store import alive
from steps.promote_version import judge_version, move_stage
from steps.runtime.registry import record_decision

_log = logging.getLogger(__name__)
POLL_SECONDS = 2


@dataclass(frozen=True)
class Order:
    """What is to be done with a version."""

    version: ModelVersionResponse
    stage: str
    rules: PromotionConfig
    """With ``approval`` as it was asked for."""
    force: Force | None = None

    @property
    def words(self) -> str:
        """The version and the stage, as a person says it."""
        return f"version {self.version.name} of {self.version.model.name} to {self.stage}"


@pipeline(dynamic=True, enable_cache=False)
def promotion(stage: str, rules: PromotionConfig, run: str, question: str, force: Force | None = None) -> None:
    """Ask the gate; ask a person where that is configured and the gate lets pass; move the stage."""
    gate_decision = judge_version(stage, rules, force)
    approved = None
    if rules.approval and force is None and gate_decision.load().promoted is not None:
        _log.info("%s Waiting up to %g min for a person's answer. Give it", question, rules.approval_minutes)
        _log.info("in the dashboard (make dashboard): the run %s, or", run)
        _log.info("by a command: zenml pipeline runs wait-conditions resolve --interactive --run %s", run)
        seconds = int(60 * rules.approval_minutes)
        approved = wait(schema=bool, question=question, timeout=seconds, poll_interval=POLL_SECONDS)
    move_stage(gate_decision, approved)


def carry_out(order: Order, started: Callable[[str], None]) -> PromotionDecision:
    """Run the pipeline to its end in this process, and return what was decided.

    Args:
        order: What is to be done.
        started: Called with the run's name before the first step.

    Raises:
        KeyboardInterrupt: Somebody stopped it.
    """
    model = order.version.model.name
    name = f"promotion-{model}-{order.version.name}-{datetime.now(UTC):%Y%m%d-%H%M%S}-{uuid.uuid4().hex[:6]}"
    started(name)
    with alive(name):
        run = promotion.with_options(
            run_name=name, model=Model(name=model, version=str(order.version.name)), tags=["promotion"]
        )(
            stage=order.stage,
            rules=order.rules,
            run=name,
            question=f"Promote {order.words}?",
            force=order.force,
        )
    run = Client().get_pipeline_run(name)
    if run.status == ExecutionStatus.PAUSED:
        _withdraw_question(run)
        return _record_unanswered(order, run, f"nobody answered within {order.rules.approval_minutes:g} min")
    if run.status == ExecutionStatus.STOPPED:
        return _record_unanswered(order, run, "the question was aborted")
    decision: PromotionDecision = run.steps["move_stage"].outputs["stage_decision"][0].load()
    return decision


def _withdraw_question(run: PipelineRunResponse) -> None:
    """Withdraw a question that nobody answered, so that no late answer promotes anything."""
    pending = Client().list_run_wait_conditions(pipeline_run=run.id, status=RunWaitConditionStatus.PENDING.value)
    for condition in pending.items:
        Client().resolve_run_wait_condition(condition.id, RunWaitConditionResolution.ABORT)


def _record_unanswered(order: Order, run: PipelineRunResponse, why: str) -> PromotionDecision:
    gate_decision: PromotionDecision = run.steps["judge_version"].outputs["gate_decision"][0].load()
    decision = unanswered(gate_decision, why)
    record_decision(order.version.model.name, str(order.version.name), decision)
    return decision
