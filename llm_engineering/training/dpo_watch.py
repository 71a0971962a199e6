"""What the curves of DPO say beside what every stage's say: log-ratios, reward accuracies and generated answers."""

from dataclasses import dataclass
from statistics import fmean

from llm_engineering.config.watch import (
    CollapsedWatch,
    DisplacedWatch,
    LogRatioWatch,
    NoSignalWatch,
    TrivialWatch,
    WatchConfig,
)
from llm_engineering.reports.training import Verdict, VerdictName
from llm_engineering.scoring.intervals import smoothed
from llm_engineering.training.watch import History, Points, judge_loss, series, start_of, value_of, weak_gradient

GENERATED = {"answer_accuracy": "right answers", "preferred_rate": "preferred answers"}
"""Shares of generated answers that tell whether generations got worse."""

REMEDIES: dict[VerdictName, str] = {
    "displaced": "Set dpo.nll_weight (1.0), raise dpo.beta or lower the learning rate.",
    "collapsed": "Set dpo.nll_weight (1.0), lower the learning rate and train for fewer steps.",
    "trivial_pairs": "Look at the pairs: what tells them apart may be their form. Use pairs from the SFT model itself.",
    "no_signal": "Check the labels of the pairs; if they are right, raise the learning rate or train longer.",
    "log_ratio_high": "Raise dpo.beta or lower the learning rate.",
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


def judge_dpo(history: History, planned_steps: int, watch: WatchConfig) -> list[Verdict]:
    """Return what is wrong with DPO by what was logged so far; ``first_seen`` is left open.

    Series of DPO alone are of training pairs or, where those are not logged, of held-out ones.

    Args:
        history: The log so far, one entry a step.
        planned_steps: Updates that the stage makes if nothing stops it.
        watch: The thresholds.
    """
    loss = series(history, "loss")
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
    found = [
        collapsed(loss, chosen, rejected, answers, watch, watch.collapsed),
        displaced(chosen, rejected, answers, watch, watch.displaced),
        trivial_pairs(loss, accuracy, planned_steps, watch, watch.trivial_pairs),
        silent[0] or silent[1],
        log_ratio_high(chosen, rejected, watch, watch.log_ratio_high),
    ]
    return [*judge_loss(history, watch), *(verdict for verdict in found if verdict is not None)]


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
    (step, now), start = smoothed(loss, watch.smoothing)[-1], start_of(loss)
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
    end, floor = at.early * planned_steps, at.loss * start_of(loss)
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
    right, apart = fmean(map(value_of, later)), fmean(map(value_of, margin[len(margin) // 2 :]))
    if right > at.accuracy or apart > at.margin:
        return None
    evidence = (
        f"From step {later[0][0]} to {later[-1][0]} the reward accuracy on {pairs} is {right:.0%} and the "
        f"margin {apart:.3g} on average"
    )
    return _verdict("no_signal", f"{evidence}{weak_gradient(norms, watch)}.")


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


def generations(history: History) -> Generations:
    """Return what became of the generated answers, by the share that fell most."""
    measured = {name: series(history, f"eval_{name}") for name in GENERATED}
    shares = [(words, points) for name, words in GENERATED.items() if (points := measured[name])]
    if not shares:
        return Generations(measured=False)
    words, points = max(shares, key=lambda share: _fall(share[1]))
    best, now = max(points, key=value_of), points[-1]
    return Generations(
        measured=True,
        fall=_fall(points),
        kept=now[1] / best[1] if best[1] > 0 else 1.0,
        words=f"{words} fell from {best[1]:.1%} at step {best[0]} to {now[1]:.1%} at step {now[0]}",
    )


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


def _fall(points: Points) -> float:
    return max(map(value_of, points)) - points[-1][1]


def _verdict(name: VerdictName, evidence: str) -> Verdict:
    return Verdict(name=name, evidence=evidence, remedy=REMEDIES[name])
