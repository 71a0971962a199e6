"""Decide which model of a run is promoted: DPO only where it does no harm.

A check asks whether the candidate is worse than another model by no more than the tolerance: a test of
non-inferiority. Where both have outcomes on the same units, the 95 % interval of their paired difference answers. All
checks have to pass, so that no correction for their number is needed.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Literal

from llm_engineering.config.metrics import higher_is_better
from llm_engineering.config.promotion import PromotionConfig
from llm_engineering.evaluation.evaluator import parent_of
from llm_engineering.evaluation.paired import paired_difference
from llm_engineering.reports.evaluation import EvaluationReport, ModelScores, PairedDifference
from llm_engineering.reports.promotion import CheckVerdict, Force, PromotionCheck, PromotionDecision

ROUNDING = 1e-9
"""1.0 - 0.97 is a little more than 0.03 in binary, and is a loss of 0.03 all the same."""
Candidate = Literal["dpo", "sft"]
SPOKEN = {"sft": "its SFT model", "base": "the base", "incumbent": "the incumbent"}


def compare(
    candidate: str, against: str, scores: Mapping[str, ModelScores], config: PromotionConfig
) -> list[PromotionCheck]:
    """Return one check for every metric that is named in the tolerances and measured for both models."""
    left, right = scores[candidate], scores[against]
    shared = [metric for metric in config.tolerances if metric in left.metrics and metric in right.metrics]
    return [_check(candidate, against, metric, (left, right), config) for metric in shared]


def _check(
    candidate: str, against: str, metric: str, scores: tuple[ModelScores, ModelScores], config: PromotionConfig
) -> PromotionCheck:
    measured, other = (each.metrics[metric] for each in scores)
    tolerance = config.tolerances[metric]
    paired: PairedDifference | None = None
    verdict: CheckVerdict
    if not (math.isfinite(measured.value) and math.isfinite(other.value)):
        verdict, passed, note = "worse", False, "not a number"
    elif scores[0].checkpoint_sha256 and scores[0].checkpoint_sha256 == scores[1].checkpoint_sha256:
        verdict, passed, note = "no worse", True, "the same weights"
    else:
        paired = _paired(candidate, against, metric, scores)
        verdict = _judge(metric, paired, tolerance)
        passed, note = verdict == "no worse", ""
        if verdict == "undecided":
            units = paired.units if paired else min(measured.units, other.units)
            harm = loss(metric, measured.value - other.value)
            passed, note = _by_value(harm, tolerance, units, paired is not None, config)
    return PromotionCheck(
        candidate=candidate,
        against=against,
        metric=metric,
        candidate_value=measured.value,
        against_value=other.value,
        tolerance=tolerance,
        passed=passed,
        verdict=verdict,
        paired=paired,
        note=note,
    )


def _paired(
    candidate: str, against: str, metric: str, scores: tuple[ModelScores, ModelScores]
) -> PairedDifference | None:
    """Return the paired difference; None where a model has no outcomes, or the outcomes of other units."""
    left, right = (each.outcomes.get(metric, []) for each in scores)
    if not left or len(left) != len(right):
        return None
    return paired_difference(candidate, against, metric, left, right)


def _judge(metric: str, paired: PairedDifference | None, tolerance: float) -> CheckVerdict:
    """Return what the interval says: both of its ends within the tolerance, both beyond it, or neither."""
    if paired is None or paired.low is None or paired.high is None:
        return "undecided"
    least, most = sorted((loss(metric, paired.low), loss(metric, paired.high)))
    if most <= tolerance + ROUNDING:
        return "no worse"
    return "worse" if least > tolerance + ROUNDING else "undecided"


def _by_value(harm: float, tolerance: float, units: int, has_pairs: bool, config: PromotionConfig) -> tuple[bool, str]:
    """Return whether an undecided check passes, and why."""
    opened = "the interval leaves it open" if has_pairs else "no outcomes per unit are stored"
    if config.undecided == "refuse":
        return False, f"{opened}, and promotion.undecided asks for proof"
    if units < config.least_units:
        return False, f"{units} unit{'' if units == 1 else 's'}, fewer than promotion.least_units"
    return harm <= tolerance + ROUNDING, f"{opened}, the value decides"


def loss(metric: str, difference: float) -> float:
    """Return by how much a model is worse whose value differs by so much."""
    better = higher_is_better(metric)
    assert better is not None, f"{metric} has no direction; no configuration names it"
    return -difference if better else difference


def decide(
    evaluation: EvaluationReport,
    config: PromotionConfig,
    incumbent: str | None,
    candidates: Sequence[Candidate] = ("dpo", "sft"),
) -> PromotionDecision:
    """Return the decision of a run.

    DPO is promoted if it is no worse than its own SFT model and than the incumbent on every metric that decides; else
    SFT is, if it is no worse than the incumbent; else the incumbent stays.

    Args:
        evaluation: Scores of ``base``, ``sft``, ``dpo`` and, where there is one, ``incumbent``, on the same questions.
        config: Which metrics decide, how much worse they may be, and what is done where the evidence is thin.
        incumbent: The version that holds the stage now.
        candidates: Which models may be promoted, the best first.
    """
    checks: list[PromotionCheck] = []
    reasons: list[str] = []
    notes: list[str] = []
    promoted: Candidate | None = None
    for candidate in candidates:
        if candidate not in evaluation.models:
            continue
        against = [name for name in (parent_of(candidate, evaluation.models), "incumbent") if name in evaluation.models]
        made = [c for name in against for c in compare(candidate, name, evaluation.models, config)]
        checks += made
        notes += _one_sided(candidate, against, evaluation.models, config)
        passed, reason = _outcome(candidate, against, made)
        reasons.append(reason)
        if passed:
            promoted = candidate
            break
    if promoted is None:
        reasons.append("the incumbent stays" if incumbent else "nothing is promoted")
    return PromotionDecision(
        promoted=promoted,
        stage=config.stage,
        reason="; ".join(reasons) + ".",
        checks=checks,
        incumbent=incumbent,
        notes=list(dict.fromkeys(notes)),
    )


def settled(
    decision: PromotionDecision, model: str, version: str, notes: Sequence[str] = (), *, approval: bool = False
) -> PromotionDecision:
    """Return a decision as it is carried out for a version of a model.

    Args:
        decision: From :func:`decide`.
        model: The name of the model in the registry.
        version: Its version that was decided on.
        notes: What a reader should know of the incumbent.
        approval: A person has to say yes first: nothing is promoted yet, and the reason says where to ask.
    """
    reason = " ".join([decision.reason, *(f"Note: {note.rstrip('.')}." for note in notes if note)])
    settled = decision.model_copy(update={"version": version, "reason": reason})
    if not approval or decision.promoted is None:
        return settled
    command = f"python tools/promote.py {version} {decision.stage} --name {model}"
    asked = f"{reason} promotion.approval wants a person's yes first: {command}"
    return settled.model_copy(update={"promoted": None, "chosen": decision.promoted, "reason": asked})


def forced(decision: PromotionDecision, model: Candidate, force: Force) -> PromotionDecision:
    """Return the decision with which somebody overrules the gate: what it said stays in the reason and the checks."""
    said = f"{force.user} forced it ({force.reason}). The gate said: {decision.reason}"
    return decision.model_copy(update={"promoted": model, "forced": force, "reason": said})


def answered(decision: PromotionDecision, approved: bool | None) -> PromotionDecision:
    """Return a decision after a person was asked; None: nobody was, since the gate had refused or nothing asks."""
    if approved is None:
        return decision
    if approved:
        said = f"{decision.reason} A person approved it."
        return decision.model_copy(update={"approved": True, "reason": said})
    said = f"{decision.reason} A person was asked and said no: nothing is promoted."
    return decision.model_copy(
        update={"approved": False, "promoted": None, "chosen": decision.promoted, "reason": said}
    )


def overtaken(decision: PromotionDecision, incumbent: str | None) -> PromotionDecision:
    """Return a decision when the stage is to be moved; it is void where another version holds the stage by now.

    Args:
        decision: What was decided, against the incumbent of that time.
        incumbent: The version that a new one is compared with now.
    """
    if decision.promoted is None or decision.forced is not None or decision.incumbent == incumbent:
        return decision
    then, now = (f"version {name}" if name else "no version" for name in (decision.incumbent, incumbent))
    said = (
        f"{decision.reason} Meanwhile the incumbent of {decision.stage} has changed, from {then} to {now}: nothing is "
        "promoted. Ask anew."
    )
    return decision.model_copy(update={"promoted": None, "chosen": decision.promoted, "reason": said})


def unanswered(decision: PromotionDecision, why: str) -> PromotionDecision:
    """Return a decision that nobody approved: in time, or since the question was withdrawn."""
    said = f"{decision.reason} A person was asked, and {why}: nothing is promoted."
    return decision.model_copy(update={"promoted": None, "chosen": decision.promoted, "reason": said})


def _outcome(candidate: str, against: list[str], made: list[PromotionCheck]) -> tuple[bool, str]:
    """Return whether a candidate may be promoted, and why or why not."""
    name = candidate.upper()
    compared = {check.against for check in made}
    if not compared or compared != set(against):
        return False, f"{name} has no metric in common with what it is compared with"
    failed = [check for check in made if not check.passed]
    if not failed:
        by_value = [check for check in made if check.paired and check.verdict == "undecided"]
        which = "all" if by_value == made else _metrics(by_value)
        said = f" ({which} by value, since the interval leaves it open)" if by_value else ""
        return True, f"{name} is no worse than {_names(against)} on {_metrics(made)}{said}"
    worse = [check for check in failed if not _within(check)]
    parts = [f"{name} is worse: " + ", ".join(map(_say, worse))] if worse else []
    thin = [check for check in failed if _within(check)]
    if thin:
        parts.append(f"{name} is not shown to be as good: " + ", ".join(map(_say, thin)))
    return False, "; ".join(parts)


def _within(check: PromotionCheck) -> bool:
    harm = loss(check.metric, check.candidate_value - check.against_value)
    return check.verdict == "undecided" and harm <= check.tolerance + ROUNDING


def _one_sided(
    candidate: str, against: list[str], models: Mapping[str, ModelScores], config: PromotionConfig
) -> list[str]:
    """Return a sentence for every model that lacks metrics of the candidate's, or has some that the candidate lacks."""
    told = []
    own = set(models[candidate].metrics)
    for name in against:
        others = set(models[name].metrics)
        extra = own - others
        for missing in (extra, others - own):
            metrics = [metric for metric in config.tolerances if metric in missing]
            if metrics:
                names = (candidate.upper(), SPOKEN[name])
                here, there = names if missing is extra else names[::-1]
                told.append(
                    f"Measured for {here} and not for {there}, so that it decides nothing between them: "
                    f"{', '.join(metrics)}."
                )
    return told


def _names(against: list[str]) -> str:
    return " and ".join(SPOKEN[name] for name in against)


def _metrics(checks: list[PromotionCheck]) -> str:
    return ", ".join(dict.fromkeys(check.metric for check in checks))


def _say(check: PromotionCheck) -> str:
    allowed = [f"a loss of {check.tolerance:g} is allowed"] if check.tolerance else []
    thin = [check.note] if check.verdict == "undecided" and _within(check) else []
    said = f" ({'; '.join([*allowed, *thin])})" if allowed or thin else ""
    return (
        f"{check.metric} {check.candidate_value:.3f} against {check.against_value:.3f} of {_names([check.against])}"
        f"{said}"
    )
