"""The training watch: what the logged curves of a stage say, with evidence and remedy. Pure functions on series.

A series is a list of ``(step, value)``. Values that are no number are left out, and a series that is too short gives no
verdict. Nothing here knows the trainer: the same functions judge while a stage trains, at its end, and in a report
that is made from stored curves with other thresholds.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean, median
from typing import Any

from llm_engineering.config.watch import (
    CollapsedWatch,
    DisplacedWatch,
    GradientWatch,
    KLWatch,
    LogRatioWatch,
    NoSignalWatch,
    OverfittingWatch,
    PlateauWatch,
    TrivialWatch,
    UnstableWatch,
    WatchActions,
    WatchConfig,
)
from llm_engineering.reports.evaluation import EvaluationReport
from llm_engineering.reports.folders import StageName
from llm_engineering.reports.training import TrainingReport, Verdict, VerdictName
from llm_engineering.scoring.intervals import smoothed

Points = Sequence[tuple[int, float]]
History = Sequence[Mapping[str, float]]
"""What was logged, one entry a step, as :attr:`TrainingReport.history` holds it."""

GENERATED = {"answer_accuracy": "right answers", "preferred_rate": "preferred answers"}
"""Shares of generated answers that tell whether generations got worse."""
RECENT = 10
"""Logged points in which jumps of the loss are counted."""
REPLAYED = 200
"""Prefixes of a history that are judged to find the step at which a verdict was first seen."""

_CLOCK = ("_runtime", "_per_second")
"""Endings of what the trainer logs about the machine, not about the model."""

REMEDIES: dict[VerdictName, str] = {
    "healthy": "Nothing needs to change.",
    "plateau": "Raise the learning rate or adapter.r; check that the rows hold what is to be learned.",
    "unstable": "Lower the learning rate, or lengthen the warm-up.",
    "overfitting": "Train for fewer epochs, set best_metric to keep the best weights, or add rows.",
    "exploding_gradients": "Lower the learning rate or max_grad_norm; look for rows unlike the rest.",
    "displaced": "Set dpo.nll_weight (1.0), raise dpo.beta or lower the learning rate.",
    "collapsed": "Set dpo.nll_weight (1.0), lower the learning rate and train for fewer steps.",
    "trivial_pairs": "Look at the pairs: what tells them apart may be their form. Use pairs from the SFT model itself.",
    "no_signal": "Check the labels of the pairs; if they are right, raise the learning rate or train longer.",
    "log_ratio_high": "Raise dpo.beta or lower the learning rate.",
    "kl_high": "Raise dpo.beta, lower the learning rate or train for fewer steps.",
}


@dataclass(frozen=True)
class Generations:
    """How the generated answers that a checker judged changed while training."""

    measured: bool
    """At least one evaluation judged generated answers."""
    fall: float = 0.0
    """Largest fall of a share from its best to the last evaluation, absolute."""
    kept: float = 1.0
    """What is left of the best of that share."""
    words: str = "no generations were measured"
    """The fall in words."""


def history_of(log: Iterable[Mapping[str, Any]]) -> list[dict[str, float]]:
    """Return a trainer's log as numbers, one entry a step, without the closing summary of the whole training."""
    entries: dict[int, dict[str, float]] = {}
    for entry in log:
        if "train_runtime" not in entry:
            numbers = {
                name: float(value)
                for name, value in entry.items()
                if isinstance(value, int | float) and not name.endswith(_CLOCK)
            }
            entries.setdefault(int(entry["step"]), {}).update(numbers)
    return [entries[step] for step in sorted(entries)]


def series(history: History, name: str) -> list[tuple[int, float]]:
    """Return one logged series without values that are no number."""
    points = ((int(entry["step"]), float(entry[name])) for entry in history if name in entry)
    return [(step, value) for step, value in points if math.isfinite(value)]


def judge(history: History, stage: StageName, planned_steps: int, watch: WatchConfig) -> list[Verdict]:
    """Return what is wrong by what was logged so far; ``first_seen`` is left open.

    Args:
        history: The log so far, one entry a step.
        stage: Its stage.
        planned_steps: Updates that the stage makes if nothing stops it.
        watch: The thresholds.
    """
    logged = [series(history, name) for name in ("loss", "eval_loss", "grad_norm", "learning_rate")]
    loss, held_out_loss, norms, rates = logged
    shaky = unstable(loss, watch, watch.unstable)
    found = [
        shaky,
        overfitting(loss, held_out_loss, watch, watch.overfitting),
        exploding_gradients(norms, watch, watch.exploding_gradients),
    ]
    if stage == "dpo":
        found += _judge_preferences(history, loss, planned_steps, watch)
    elif shaky is None:  # the two ask for opposite rates
        found.append(plateau(loss, rates, norms, watch, watch.plateau))
    return [verdict for verdict in found if verdict is not None]


def acting(verdicts: Iterable[Verdict], actions: WatchActions) -> list[Verdict]:
    """Return the verdicts that are configured to do more than warn."""
    return [verdict for verdict in verdicts if getattr(actions, verdict.name, "warn") != "warn"]


def watched(report: TrainingReport, watch: WatchConfig, evaluation: EvaluationReport | None = None) -> TrainingReport:
    """Return a stage's report with the verdicts that its curves and, for DPO, the evaluation give by these thresholds.

    Each verdict that holds at the end carries the step at which it was first seen, to a two-hundredth of the log.
    Where none does and enough was logged, the stage is healthy.
    """
    found = judge(report.history, report.stage, report.planned_steps, watch)
    unseen = {verdict.name for verdict in found}
    dated: dict[str, int] = {}
    for prefix in _prefixes(report.history) if found else ():
        now = {verdict.name for verdict in judge(prefix, report.stage, report.planned_steps, watch)}
        dated |= dict.fromkeys(now & unseen, int(prefix[-1]["step"]))
        unseen -= now
    verdicts = [verdict.model_copy(update={"first_seen": dated[verdict.name]}) for verdict in found]
    if report.stage == "dpo" and evaluation is not None and report.first_loss is None:  # else: no reference
        verdicts += [verdict for verdict in [kl_high(evaluation, watch.kl_high)] if verdict]
    return report.model_copy(update={"verdicts": verdicts or _healthy(report.history, watch)})


def judged_anew(report: TrainingReport, watch: WatchConfig, evaluation: EvaluationReport | None) -> TrainingReport:
    """Return a report, and that of a first attempt, with the verdicts of these thresholds.

    A cached training keeps its curves; only what is said of them follows the configuration of the run that shows it.
    """
    first = judged_anew(report.first_attempt, watch, None) if report.first_attempt else None
    return watched(report, watch, evaluation).model_copy(update={"first_attempt": first})


def plateau(loss: Points, rates: Points, norms: Points, watch: WatchConfig, at: PlateauWatch) -> Verdict | None:
    """Return whether the loss stands still after the warm-up, while the rate is at half its peak or more."""
    peak = max((rate for _, rate in rates), default=0.0)
    risen = next((step for step, rate in rates if rate >= 0.99 * peak), 0)
    low = {step for step, rate in rates if rate < 0.5 * peak}
    stretch = [(step, value) for step, value in loss if step >= risen and step not in low]
    half = len(stretch) // 2
    if half < watch.min_points:
        return None
    before, after = (fmean(value for _, value in part) for part in (stretch[:half], stretch[half:]))
    start = _start(loss)
    if before <= 0 or (before - after) / before >= at.fall or after < at.converged * start:
        return None
    evidence = (
        f"From step {stretch[0][0]} to {stretch[-1][0]}, with the learning rate at half its peak or more, the training "
        f"loss went from {before:.3g} to {after:.3g} (means of the halves); it began at {start:.3g}"
    )
    return _verdict("plateau", f"{evidence}{_weak(norms, watch)}.")


def unstable(loss: Points, watch: WatchConfig, at: UnstableWatch) -> Verdict | None:
    """Return whether the smoothed loss stands far above its lowest, by more than noise, or jumps again and again."""
    if len(loss) < watch.min_points:
        return None
    curve, start = smoothed(loss, watch.smoothing), _start(loss)
    settled = [(loss[1][0], fmean(map(_value, loss[:3]))), *curve[watch.min_points - 1 :]]
    lowest, now = min(settled, key=_value), curve[-1]
    if now[1] - lowest[1] > max(at.rise * start, 4 * _noise(loss, watch.smoothing)):
        return _verdict(
            "unstable",
            f"The smoothed training loss rose from {lowest[1]:.3g} at step {lowest[0]} to {now[1]:.3g} at step "
            f"{now[0]}; it began at {start:.3g}.",
        )
    jumps = [
        (step, value)
        for (step, value), (_, before) in list(zip(loss[1:], curve, strict=False))[-RECENT:]
        if value - before > at.spike * start
    ]
    if len(jumps) < at.spikes:
        return None
    highest = max(jumps, key=_value)
    return _verdict(
        "unstable",
        f"The training loss jumped {len(jumps)} times since step {jumps[0][0]}, to {highest[1]:.3g} at step "
        f"{highest[0]}; it began at {start:.3g}.",
    )


def overfitting(loss: Points, held_out: Points, watch: WatchConfig, at: OverfittingWatch) -> Verdict | None:
    """Return whether the last two held-out losses stand above the lowest while the training loss fell or stood."""
    if len(held_out) < 3 or len(loss) < watch.min_points:
        return None
    lowest, now = min(held_out, key=_value), held_out[-1]
    allowed = lowest[1] + max(at.rise * abs(lowest[1]), at.least)
    trained = [point for point in smoothed(loss, watch.smoothing) if point[0] <= lowest[0]]
    if not trained or min(value for _, value in held_out[-2:]) <= allowed:
        return None
    fitted = smoothed(loss, watch.smoothing)[-1]
    if fitted[1] > trained[-1][1]:
        return None
    return _verdict(
        "overfitting",
        f"The held-out loss rose from {lowest[1]:.3g} at step {lowest[0]} to {now[1]:.3g} at step {now[0]}, while the "
        f"training loss went from {trained[-1][1]:.3g} to {fitted[1]:.3g}.",
    )


def exploding_gradients(norms: Points, watch: WatchConfig, at: GradientWatch) -> Verdict | None:
    """Return whether the median of the last gradient norms, before clipping, is too high."""
    last = norms[-watch.min_points :]
    if len(last) < watch.min_points or median(value for _, value in last) <= at.high:
        return None
    return _verdict(
        "exploding_gradients",
        f"From step {last[0][0]} to {last[-1][0]} the median of the gradient norm before clipping is "
        f"{median(value for _, value in last):.3g}, above {at.high:g}; it began at {norms[0][1]:.3g}.",
    )


def displaced(
    chosen: Points, rejected: Points, answers: Generations, watch: WatchConfig, at: DisplacedWatch
) -> Verdict | None:
    """Return whether both log-ratios fell, and with them the generated answers where a checker judges them.

    Args:
        chosen: Mean log-ratio of the chosen answers to the reference, in nats an answer.
        rejected: The same of the rejected ones.
        answers: What became of the generated answers; they weigh more than any sign.
        watch: Smoothing and shortest series.
        at: The thresholds.
    """
    fallen = _both_fallen(chosen, rejected, at.nats, watch)
    if fallen is None or (answers.measured and answers.fall < at.drop):
        return None
    return _verdict("displaced", f"{fallen}; {answers.words}.")


def collapsed(
    loss: Points, chosen: Points, rejected: Points, answers: Generations, watch: WatchConfig, at: CollapsedWatch
) -> Verdict | None:
    """Return whether both log-ratios fell with generations that are broken, or a loss near 0 where none are measured.

    Arguments are those of :func:`displaced`.
    """
    fallen = _both_fallen(chosen, rejected, at.nats, watch)
    if fallen is None or len(loss) < watch.min_points:
        return None
    (step, now), start = smoothed(loss, watch.smoothing)[-1], _start(loss)
    broken = answers.kept <= at.broken if answers.measured else now < at.loss * start
    if not broken:
        return None
    return _verdict(
        "collapsed", f"{fallen}; the loss is {now:.3g} at step {step} ({start:.3g} at first); {answers.words}."
    )


def trivial_pairs(
    loss: Points, accuracy: Points, planned_steps: int, watch: WatchConfig, at: TrivialWatch
) -> Verdict | None:
    """Return whether the pairs were told apart early: by an accuracy of all but 1, or by a loss near 0."""
    end, floor = at.early * planned_steps, at.loss * _start(loss)
    after_a_tie = [point for point in accuracy if point[0] > 1]  # at step 1 policy and reference are equal
    for name, points, met in (
        ("reward accuracy", after_a_tie, [value >= at.accuracy for _, value in after_a_tie]),
        ("loss", loss, [value < floor for _, value in loss]),
    ):
        for first in range(len(points) - watch.min_points + 1):
            (step, value), last = points[first], points[first + watch.min_points - 1]
            if step <= end and all(met[first : first + watch.min_points]):
                return _verdict(
                    "trivial_pairs",
                    f"The {name} is {value:.3g} at step {step} of {planned_steps} already, and {last[1]:.3g} at step "
                    f"{last[0]}; no log in between says otherwise.",
                )
    return None


def no_signal(
    accuracy: Points,
    margin: Points,
    norms: Points,
    planned_steps: int,
    watch: WatchConfig,
    at: NoSignalWatch,
    pairs: str = "training pairs",
) -> Verdict | None:
    """Return whether, over the later half of what was logged, accuracy is at chance and the margin at 0.

    Args:
        accuracy: Share of the pairs whose chosen answer is rewarded more.
        margin: Mean of chosen minus rejected reward.
        norms: Gradient norms, for the evidence.
        planned_steps: Updates that the stage makes if nothing stops it.
        watch: Shortest series.
        at: The thresholds.
        pairs: Which pairs these are.
    """
    shortest = min(len(accuracy), len(margin))
    if shortest < watch.min_points or accuracy[-1][0] < at.after * planned_steps:
        return None
    later = accuracy[len(accuracy) // 2 :]
    right, apart = fmean(map(_value, later)), fmean(map(_value, margin[len(margin) // 2 :]))
    if right > at.accuracy or apart > at.margin:
        return None
    evidence = (
        f"From step {later[0][0]} to {later[-1][0]} the reward accuracy on {pairs} is {right:.0%} and the "
        f"margin {apart:.3g} on average"
    )
    return _verdict("no_signal", f"{evidence}{_weak(norms, watch)}.")


def log_ratio_high(chosen: Points, rejected: Points, watch: WatchConfig, at: LogRatioWatch) -> Verdict | None:
    """Return whether a mean log-ratio to the reference is large; on given answers, so that it is no KL."""
    for side, points in (("chosen", chosen), ("rejected", rejected)):
        if len(points) >= watch.min_points:
            step, value = smoothed(points, watch.smoothing)[-1]
            if abs(value) > at.nats:
                return _verdict(
                    "log_ratio_high",
                    f"The smoothed log-ratio of {side} answers to the reference is {value:.3g} nats an answer at step "
                    f"{step}, its size above {at.nats:g}.",
                )
    return None


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
    return _verdict("kl_high", f"The evaluation measured a KL of {nats:.3g} nats an answer{words}, above {at.nats:g}.")


def generations(history: History) -> Generations:
    """Return what became of the generated answers, by the share that fell most."""
    measured = {name: series(history, f"eval_{name}") for name in GENERATED}
    shares = [(words, points) for name, words in GENERATED.items() if (points := measured[name])]
    if not shares:
        return Generations(measured=False)
    words, points = max(shares, key=lambda share: _fall(share[1]))
    best, now = max(points, key=_value), points[-1]
    return Generations(
        measured=True,
        fall=_fall(points),
        kept=now[1] / best[1] if best[1] > 0 else 1.0,
        words=f"{words} fell from {best[1]:.1%} at step {best[0]} to {now[1]:.1%} at step {now[0]}",
    )


def _judge_preferences(history: History, loss: Points, planned_steps: int, watch: WatchConfig) -> list[Verdict | None]:
    """Return what the series of DPO alone say: on training pairs or, where those are not logged, held-out ones."""
    names = ("rewards/accuracies", "log_ratio/chosen", "log_ratio/rejected")
    accuracy, chosen, rejected = (series(history, name) or series(history, f"eval_{name}") for name in names)
    norms, answers = series(history, "grad_norm"), generations(history)
    silent = [
        no_signal(
            series(history, f"{prefix}rewards/accuracies"),
            series(history, f"{prefix}rewards/margins"),
            norms,
            planned_steps,
            watch,
            watch.no_signal,
            pairs,
        )
        for prefix, pairs in (("", "training pairs"), ("eval_", "held-out pairs"))
    ]
    return [
        collapsed(loss, chosen, rejected, answers, watch, watch.collapsed),
        displaced(chosen, rejected, answers, watch, watch.displaced),
        trivial_pairs(loss, accuracy, planned_steps, watch, watch.trivial_pairs),
        silent[0] or silent[1],
        log_ratio_high(chosen, rejected, watch, watch.log_ratio_high),
    ]


def _both_fallen(chosen: Points, rejected: Points, nats: float, watch: WatchConfig) -> str | None:
    """Return in words how far both smoothed log-ratios lie below zero, where both lie far enough."""
    if min(len(chosen), len(rejected)) < watch.min_points:
        return None
    (step, up), (_, down) = smoothed(chosen, watch.smoothing)[-1], smoothed(rejected, watch.smoothing)[-1]
    if max(up, down) > -nats:
        return None
    return (
        f"At step {step} chosen answers are {-up:.3g} nats and rejected ones {-down:.3g} nats less likely than under "
        "the reference (smoothed)"
    )


def _healthy(history: History, watch: WatchConfig) -> list[Verdict]:
    loss = series(history, "loss")
    if len(loss) < watch.min_points:
        return []
    step, now = smoothed(loss, watch.smoothing)[-1]
    went = f"The training loss went from {_start(loss):.3g} to {now:.3g} at step {step}"
    return [_verdict("healthy", f"{went}, and the curves show no sign of harm.")]


def _prefixes(history: History) -> Iterable[History]:
    """Yield beginnings of a history, each longer than the one before and the last the whole of it."""
    ends = {math.ceil(len(history) * i / REPLAYED) for i in range(1, REPLAYED + 1)}
    return (history[:end] for end in sorted(ends))


def _verdict(name: VerdictName, evidence: str) -> Verdict:
    return Verdict(name=name, evidence=evidence, remedy=REMEDIES[name])


def _value(point: tuple[int, float]) -> float:
    return point[1]


def _start(loss: Points) -> float:
    """Return the size of the loss at the start: the mean of the first three logged values."""
    return abs(fmean(map(_value, loss[:3]))) if loss else 0.0


def _noise(points: Points, span: int) -> float:
    """Return the standard deviation of the smoothed series that noise alone makes, from successive differences."""
    differences = [abs(b - a) for (_, a), (_, b) in pairwise(points)]
    weight = 2 / (span + 1)
    # the median of |a - b| is 0.954 sigma for two normal values; the average keeps w / (2 - w) of the variance
    return median(differences) / 0.954 * math.sqrt(weight / (2 - weight))


def _fall(points: Points) -> float:
    return max(map(_value, points)) - points[-1][1]


def _weak(norms: Points, watch: WatchConfig) -> str:
    """Return words for a gradient norm that is below its bounds, or none."""
    last = [value for _, value in norms[-watch.min_points :]]
    low = watch.exploding_gradients.low
    if len(last) < watch.min_points or median(last) >= low:
        return ""
    return f"; the gradient norm is {median(last):.2g}, below {low:g}"
