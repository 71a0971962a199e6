"""Verdicts on stored curves, whichever stage they are of, by other thresholds than it trained with."""

from llm_engineering.config.watch import (
    KLWatch,
    WatchConfig,
)
from llm_engineering.reports.evaluation import EvaluationReport
from llm_engineering.reports.folders import StageName
from llm_engineering.reports.training import TrainingReport, Verdict
from llm_engineering.training.dpo_watch import judge_dpo
from llm_engineering.training.watch import Judge, judge_sft, watched

REMEDY = "Raise dpo.beta, lower the learning rate or train for fewer steps."
"""Against a KL that is too high."""
JUDGES: dict[StageName, Judge] = {"sft": judge_sft, "dpo": judge_dpo}


def judged_anew(report: TrainingReport, watch: WatchConfig, evaluation: EvaluationReport | None) -> TrainingReport:
    """Return a report, and that of a first attempt, with the verdicts of these thresholds.

    A cached training keeps its curves; only what is said of them follows the configuration of the run that shows it.
    DPO's is judged by the evaluation too, where there is one.
    """
    first = judged_anew(report.first_attempt, watch, None) if report.first_attempt else None
    judged = watched(report, watch, JUDGES[report.stage])
    verdicts = judged.verdicts
    has_reference = report.stage == "dpo" and report.first_loss is None
    if has_reference and evaluation is not None and (high := kl_high(evaluation, watch.kl_high)):
        verdicts = [*(verdict for verdict in verdicts if verdict.name != "healthy"), high]
    return judged.model_copy(update={"first_attempt": first, "verdicts": verdicts})


def kl_high(evaluation: EvaluationReport, at: KLWatch) -> Verdict | None:
    """Return whether the KL of the DPO model from its parent is too high: per answer, or per token times tokens."""
    scores = evaluation.models.get("dpo")
    measured = {name: metric.value for name, metric in scores.metrics.items()} if scores else {}
    if "kl_per_answer" in measured:
        nats, words = measured["kl_per_answer"], ""
    elif {"kl_per_token", "answer_tokens"} <= measured.keys():
        per_token, tokens = measured["kl_per_token"], measured["answer_tokens"]
        nats, words = per_token * tokens, f" ({per_token:.3g} a token, {tokens:.3g} tokens an answer)"
    else:
        return None
    if not nats > at.nats:
        return None
    evidence = f"The evaluation measured a KL of {nats:.3g} nats an answer{words}, above {at.nats:g}."
    return Verdict(name="kl_high", evidence=evidence, remedy=REMEDY)
