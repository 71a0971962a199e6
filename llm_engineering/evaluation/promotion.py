"""Decide which model of a run is promoted: DPO only where it does no harm."""

import math
from collections.abc import Mapping

from llm_engineering.artifacts import EvaluationReport, ModelScores, PromotionCheck, PromotionDecision
from llm_engineering.config.schema import PromotionConfig
from llm_engineering.evaluation.metrics import LOWER_IS_BETTER
from llm_engineering.evaluation.scoring import parent_of

ROUNDING = 1e-9
"""1.0 - 0.97 is a little more than 0.03 in binary, and is a loss of 0.03 all the same."""


def compare(
    candidate: str,
    against: str,
    scores: Mapping[str, ModelScores],
    tolerances: Mapping[str, float],
) -> list[PromotionCheck]:
    """Return one check for every metric that is named in the tolerances and measured for both models."""
    left, right = scores[candidate].metrics, scores[against].metrics
    return [
        PromotionCheck(
            candidate=candidate,
            against=against,
            metric=metric,
            candidate_value=left[metric].value,
            against_value=right[metric].value,
            tolerance=tolerance,
            passed=_loss(metric, left[metric].value, right[metric].value) <= tolerance + ROUNDING,
        )
        for metric, tolerance in tolerances.items()
        if metric in left and metric in right
    ]


def _loss(metric: str, candidate: float, against: float) -> float:
    """Return by how much the candidate is worse; not a number counts as infinitely worse."""
    loss = candidate - against if metric in LOWER_IS_BETTER else against - candidate
    return math.inf if math.isnan(loss) else loss


def decide(evaluation: EvaluationReport, config: PromotionConfig, incumbent: str | None) -> PromotionDecision:
    """Return the decision of a run.

    DPO is promoted if it is no worse than its own SFT model and than the incumbent on every metric that decides; else
    SFT is, if it is no worse than the incumbent; else the incumbent stays.

    Args:
        evaluation: Scores of ``base``, ``sft``, ``dpo`` and, where there is one, ``incumbent``, on the same questions.
        config: Which metrics decide, and how much worse they may be.
        incumbent: The version that holds the stage now.
    """
    checks: list[PromotionCheck] = []
    reasons: list[str] = []
    for candidate in ("dpo", "sft"):
        if candidate not in evaluation.models:
            continue
        against = [name for name in (parent_of(candidate, evaluation.models), "incumbent") if name in evaluation.models]
        made = [c for name in against for c in compare(candidate, name, evaluation.models, config.tolerances)]
        checks += made
        compared = {check.against for check in made}
        if not compared or compared != set(against):
            reasons.append(f"{candidate.upper()} has no metric in common with what it is compared with")
            continue
        failed = [check for check in made if not check.passed]
        if not failed:
            reasons.append(f"{candidate.upper()} is no worse than {_names(against)} on {_metrics(made)}")
            return PromotionDecision(
                promoted="dpo" if candidate == "dpo" else "sft",
                stage=config.stage,
                reason="; ".join(reasons) + ".",
                checks=checks,
                incumbent=incumbent,
            )
        reasons.append(f"{candidate.upper()} is worse: " + ", ".join(_say(check) for check in failed))
    reasons.append("the incumbent stays" if incumbent else "nothing is promoted")
    return PromotionDecision(
        promoted=None, stage=config.stage, reason="; ".join(reasons) + ".", checks=checks, incumbent=incumbent
    )


def _names(against: list[str]) -> str:
    spoken = {"sft": "its SFT model", "base": "the base", "incumbent": "the incumbent"}
    return " and ".join(spoken[name] for name in against)


def _metrics(checks: list[PromotionCheck]) -> str:
    return ", ".join(dict.fromkeys(check.metric for check in checks))


def _say(check: PromotionCheck) -> str:
    allowed = f" (a loss of {check.tolerance:g} is allowed)" if check.tolerance else ""
    return (
        f"{check.metric} {check.candidate_value:.3f} against {check.against_value:.3f} of {_names([check.against])}"
        f"{allowed}"
    )
