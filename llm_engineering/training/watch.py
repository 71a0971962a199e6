"""The training watch: what the logged curves of a stage say, with evidence and remedy. Pure functions on series.

A series is a list of ``(step, value)``. Values that are no number are left out, and a series that is too short gives no
verdict. Nothing here knows the trainer: the same functions judge while a stage trains, at its end, and in a report
that is made from stored curves with other thresholds (:mod:`llm_engineering.training.verdicts`). What DPO's curves say
alone is in :mod:`llm_engineering.training.dpo_watch`.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from statistics import fmean, median
from typing import Any

from llm_engineering.config.watch import (
    GradientWatch,
    OverfittingWatch,
    PlateauWatch,
    UnstableWatch,
    WatchActions,
    WatchConfig,
)
from llm_engineering.reports.training import TrainingReport, Verdict, VerdictName
from llm_engineering.scoring.intervals import smoothed

Points = Sequence[tuple[int, float]]
History = Sequence[Mapping[str, float]]
"""What was logged, one entry a step, as :attr:`TrainingReport.history` holds it."""

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
}


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


Judge = Callable[[History, int, WatchConfig], list[Verdict]]
"""Says what is wrong by what was logged so far, of how many updates, by which thresholds; ``first_seen`` is open."""


def judge_sft(history: History, planned_steps: int, watch: WatchConfig) -> list[Verdict]:
    """Return what is wrong with SFT by what was logged so far; ``first_seen`` is left open.

    Args:
        history: The log so far, one entry a step.
        planned_steps: Updates that the stage makes if nothing stops it.
        watch: The thresholds.
    """
    found = judge_loss(history, watch)
    if any(verdict.name == "unstable" for verdict in found):  # the two ask for opposite rates
        return found
    loss, norms, rates = (series(history, name) for name in ("loss", "grad_norm", "learning_rate"))
    still = plateau(loss, rates, norms, watch, watch.plateau)
    return [*found, still] if still else found


def judge_loss(history: History, watch: WatchConfig) -> list[Verdict]:
    """Return what the loss and the gradients say, which every stage has."""
    loss, held_out_loss, norms = (series(history, name) for name in ("loss", "eval_loss", "grad_norm"))
    found = [
        unstable(loss, watch, watch.unstable),
        overfitting(loss, held_out_loss, watch, watch.overfitting),
        exploding_gradients(norms, watch, watch.exploding_gradients),
    ]
    return [verdict for verdict in found if verdict is not None]


def acting(verdicts: Iterable[Verdict], actions: WatchActions) -> list[Verdict]:
    """Return the verdicts that are configured to do more than warn."""
    return [verdict for verdict in verdicts if getattr(actions, verdict.name, "warn") != "warn"]


def watched(report: TrainingReport, watch: WatchConfig, judge: Judge) -> TrainingReport:
    """Return a stage's report with the verdicts that its curves give by these thresholds.

    Each verdict that holds at the end carries the step at which it was first seen, to a two-hundredth of the log.
    Where none does and enough was logged, the stage is healthy.
    """
    found = judge(report.history, report.planned_steps, watch)
    unseen = {verdict.name for verdict in found}
    dated: dict[str, int] = {}
    for prefix in _prefixes(report.history) if found else ():
        now = {verdict.name for verdict in judge(prefix, report.planned_steps, watch)}
        dated |= dict.fromkeys(now & unseen, int(prefix[-1]["step"]))
        unseen -= now
    verdicts = [verdict.model_copy(update={"first_seen": dated[verdict.name]}) for verdict in found]
    return report.model_copy(update={"verdicts": verdicts or _healthy(report.history, watch)})


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
    start = start_of(loss)
    if before <= 0 or (before - after) / before >= at.fall or after < at.converged * start:
        return None
    evidence = (
        f"From step {stretch[0][0]} to {stretch[-1][0]}, with the learning rate at half its peak or more, the training "
        f"loss went from {before:.3g} to {after:.3g} (means of the halves); it began at {start:.3g}"
    )
    return _verdict("plateau", f"{evidence}{weak_gradient(norms, watch)}.")


def unstable(loss: Points, watch: WatchConfig, at: UnstableWatch) -> Verdict | None:
    """Return whether the smoothed loss stands far above its lowest, by more than noise, or jumps again and again."""
    if len(loss) < watch.min_points:
        return None
    curve, start = smoothed(loss, watch.smoothing), start_of(loss)
    settled = [(loss[1][0], fmean(map(value_of, loss[:3]))), *curve[watch.min_points - 1 :]]
    lowest, now = min(settled, key=value_of), curve[-1]
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
    highest = max(jumps, key=value_of)
    return _verdict(
        "unstable",
        f"The training loss jumped {len(jumps)} times since step {jumps[0][0]}, to {highest[1]:.3g} at step "
        f"{highest[0]}; it began at {start:.3g}.",
    )


def overfitting(loss: Points, held_out: Points, watch: WatchConfig, at: OverfittingWatch) -> Verdict | None:
    """Return whether the last two held-out losses stand above the lowest while the training loss fell or stood."""
    if len(held_out) < 3 or len(loss) < watch.min_points:
        return None
    lowest, now = min(held_out, key=value_of), held_out[-1]
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


def _healthy(history: History, watch: WatchConfig) -> list[Verdict]:
    loss = series(history, "loss")
    if len(loss) < watch.min_points:
        return []
    step, now = smoothed(loss, watch.smoothing)[-1]
    went = f"The training loss went from {start_of(loss):.3g} to {now:.3g} at step {step}"
    return [_verdict("healthy", f"{went}, and the curves show no sign of harm.")]


def _prefixes(history: History) -> Iterable[History]:
    """Yield beginnings of a history, each longer than the one before and the last the whole of it."""
    ends = {math.ceil(len(history) * i / REPLAYED) for i in range(1, REPLAYED + 1)}
    return (history[:end] for end in sorted(ends))


def _verdict(name: VerdictName, evidence: str) -> Verdict:
    return Verdict(name=name, evidence=evidence, remedy=REMEDIES[name])


def value_of(point: tuple[int, float]) -> float:
    """Return the value of a point."""
    return point[1]


def start_of(loss: Points) -> float:
    """Return the size of the loss at the start: the mean of the first three logged values."""
    return abs(fmean(map(value_of, loss[:3]))) if loss else 0.0


def _noise(points: Points, span: int) -> float:
    """Return the standard deviation of the smoothed series that noise alone makes, from successive differences."""
    differences = [abs(b - a) for (_, a), (_, b) in pairwise(points)]
    weight = 2 / (span + 1)
    # the median of |a - b| is 0.954 sigma for two normal values; the average keeps w / (2 - w) of the variance
    return median(differences) / 0.954 * math.sqrt(weight / (2 - weight))


def weak_gradient(norms: Points, watch: WatchConfig) -> str:
    """Return words for a gradient norm that is below its bounds, or none."""
    last = [value for _, value in norms[-watch.min_points :]]
    low = watch.exploding_gradients.low
    if len(last) < watch.min_points or median(last) >= low:
        return ""
    return f"; the gradient norm is {median(last):.2g}, below {low:g}"
