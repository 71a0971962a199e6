"""Drawings of several models in one: training curves of all variants, their metrics, and what a sweep found.

Every line has the colour and the kind of line of its variant, in all drawings of a page alike.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llm_engineering.config.metrics import row_of
from llm_engineering.reporting.compared import swept_keys, values_of
from llm_engineering.reporting.drawings import AXES, COLOURS, Curve, Points, drawing, look, whole_steps
from llm_engineering.reports.evaluation import ComparisonReport, EvaluationReport, Metric, Variant
from llm_engineering.reports.folders import StageName
from llm_engineering.reports.training import TrainingReport
from llm_engineering.scoring.intervals import smoothed

if TYPE_CHECKING:
    from matplotlib.axes import Axes


MOST_LINES = 12
"""Trainings of one stage that are drawn; more could not be told apart."""
LONGEST_LABEL = 30
"""Characters of a name within a drawing; tables have all of it."""
MOST_TICKS = 8
"""Values of a swept key that each get a place of their own; more stand on a scale."""
_WIDE = 20.0
"""From which ratio of largest to smallest value a scale is logarithmic."""
POINTS = ("kl_per_token", "answer_tokens")
"""Metrics that are drawn for every model, beside the one that ranks."""


@dataclass(frozen=True)
class Line:
    """One training of a comparison, drawn once however many variants share it."""

    label: str
    training: TrainingReport
    index: int
    """Which look it has: that of its variant, in every drawing."""


@dataclass(frozen=True)
class _Chart:
    title: str
    series: str
    smooth: bool = True
    share: bool = False


_CHARTS: dict[StageName, tuple[_Chart, ...]] = {
    "sft": (
        _Chart("SFT loss", "loss"),
        _Chart("SFT loss, held out", "eval_loss", smooth=False),
        _Chart("SFT token accuracy", "mean_token_accuracy", share=True),
    ),
    "dpo": (
        _Chart("DPO loss", "loss"),
        _Chart("Reward of chosen answers", "rewards/chosen"),
        _Chart("Reward of rejected answers", "rewards/rejected"),
        _Chart("Reward margin: chosen minus rejected", "rewards/margins"),
        _Chart("Reward accuracy: chosen above rejected", "rewards/accuracies", share=True),
        _Chart("Log-ratio of chosen answers, nats an answer", "log_ratio/chosen"),
        _Chart("Log-ratio of rejected answers, nats an answer", "log_ratio/rejected"),
        _Chart("KL from the reference, nats a token", "eval_kl_per_token", smooth=False),
        _Chart("Right answers to held-out prompts", "eval_answer_accuracy", smooth=False, share=True),
        _Chart("Preferred answers to held-out prompts", "eval_preferred_rate", smooth=False, share=True),
    ),
}


def lines(variants: Sequence[Variant], stage: StageName) -> list[Line]:
    """Return the trainings of one stage, those that variants share once, named by the variants that they belong to."""
    found: list[tuple[TrainingReport, list[Variant]]] = []
    for variant in variants:
        for training in (each for each in variant.trainings if each.stage == stage):
            owners = next((owners for known, owners in found if known == training), None)
            if owners is None:
                found.append((training, [variant]))
            else:
                owners.append(variant)
    trained = [variant.name for variant in variants if variant.trainings]
    return [Line(_label(owners, variants), training, trained.index(_owner(owners).name)) for training, owners in found]


def _label(owners: list[Variant], variants: Sequence[Variant]) -> str:
    """Return whose a training is: the variant that ends with it, else all that have it."""
    owner = _owner(owners)
    if len(owner.trainings) == 1 or len(owners) == 1:
        return owner.title
    if len(owners) == sum(bool(variant.trainings) for variant in variants):
        return "shared by all"
    return f"{owners[0].title}, and {len(owners) - 1} more"


def _owner(owners: list[Variant]) -> Variant:
    """Return the variant that a training makes by itself, else the first that has it."""
    return next((owner for owner in owners if len(owner.trainings) == 1), owners[0])


def stage_curves(found: Sequence[Line], stage: StageName) -> list[Curve]:
    """Return the curves of what the trainings of one stage have logged; series that none logged are left out."""
    drawn = found[:MOST_LINES]
    charts = (chart for chart in _CHARTS[stage] if any(_finite(line.training, chart.series) for line in drawn))
    return [Curve(chart.title, _draw(drawn, chart, stage)) for chart in charts]


def _finite(training: TrainingReport, series: str) -> Points:
    return [(step, value) for step, value in training.series(series) if math.isfinite(value)]


def _draw(found: Sequence[Line], chart: _Chart, stage: StageName) -> str:
    def plot(axes: "Axes") -> None:
        for line in found:
            if points := _finite(line.training, chart.series):
                _plot_line(axes, points, line.index, smooth=chart.smooth)
        low, high = axes.get_ylim()
        if low < 0 < high:
            axes.axhline(0, color=AXES, linewidth=0.8, alpha=0.5)
        if chart.share:
            axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:g} %")
        whole_steps(axes)

    return drawing(f"{stage} of all models: {chart.title}", plot, legend=False)


def _plot_line(axes: "Axes", points: Points, index: int, *, smooth: bool) -> None:
    colour, style = look(index)
    if smooth and len(points) >= 5:
        axes.plot(*zip(*points, strict=True), color=colour, linewidth=0.7, alpha=0.3)
        points = smoothed(points, span=max(3, len(points) // 12))
    marker = "o" if len(points) == 1 or not smooth else None
    axes.plot(*zip(*points, strict=True), color=colour, linestyle=style, linewidth=1.7, marker=marker, markersize=3.2)


def metric_points(
    evaluation: EvaluationReport, metrics: Sequence[str], models: Sequence[str], titles: Mapping[str, str]
) -> list[Curve]:
    """Return one drawing a metric: a point a model with its 95 % interval; a metric of one model alone gets none."""
    drawn = []
    for metric in dict.fromkeys(metrics):
        measured = {
            titles.get(name, name): found
            for name in models
            if name in evaluation.models and (found := evaluation.models[name].metrics.get(metric))
            if math.isfinite(found.value)
        }
        if len(measured) > 1:
            unit = row_of(metric).unit
            title = row_of(metric).label + (f", {unit}" if unit else "")
            drawn.append(Curve(title, _draw_points(metric, measured)))
    return drawn


def _draw_points(metric: str, measured: Mapping[str, Metric]) -> str:
    def plot(axes: "Axes") -> None:
        for row, found in enumerate(measured.values()):
            _plot_point(axes, metric, found, row, COLOURS[0])
        axes.set_yticks(range(len(measured)), [_shortened(label) for label in measured])
        axes.set_ylim(len(measured) - 0.4, -0.6)
        axes.tick_params(axis="y", length=0)
        axes.margins(x=0.06)

    height = 0.55 + 0.23 * len(measured)
    return drawing(f"{row_of(metric).label} of all models", plot, height=height, grid="x", legend=False)


def _plot_point(axes: "Axes", metric: str, found: Metric, row: int, colour: str) -> None:
    scale = 100 if row_of(metric).is_share else 1
    if found.low is not None and found.high is not None:
        axes.plot([scale * found.low, scale * found.high], [row, row], color=colour, linewidth=1.6, alpha=0.5)
    axes.plot([scale * found.value], [row], color=colour, marker="o", markersize=5, linestyle="")


def _shortened(label: str) -> str:
    return label if len(label) <= LONGEST_LABEL else label[: LONGEST_LABEL - 1] + "…"


def sweep_curves(report: ComparisonReport) -> list[Curve]:
    """Return the ranking metric against every swept key, over the runs that were measured."""
    metric, evaluation = report.metric, report.evaluation
    if metric is None or evaluation is None:
        return []
    measured = {
        variant.name: found
        for variant in report.variants
        if variant.name in evaluation.models and (found := evaluation.models[variant.name].metrics.get(metric))
        if math.isfinite(found.value)
    }
    runs = [variant for variant in report.variants if variant.name in measured]
    keys = swept_keys(runs)
    return [
        Curve(f"{row_of(metric).label} against {key}", _draw_sweep(metric, key, runs, measured, report.best))
        for key in keys
        if len(values_of(key, runs)) > 1
    ]


def _draw_sweep(
    metric: str, key: str, runs: Sequence[Variant], measured: Mapping[str, Metric], best: str | None
) -> str:
    scale = _scale([run.changes.get(key) for run in runs])

    def plot(axes: "Axes") -> None:
        for run, place in zip(runs, scale.places, strict=True):
            _plot_run(axes, metric, measured[run.name], place, is_best=run.name == best)
        if scale.ticks:
            axes.set_xticks(range(len(scale.ticks)), [_shortened(tick) for tick in scale.ticks])
            axes.set_xlim(-0.5, len(scale.ticks) - 0.5)
        elif min(scale.places) > 0 and max(scale.places) / min(scale.places) >= _WIDE:
            axes.set_xscale("log")
        axes.set_xlabel(_shortened(key))
        if row_of(metric).is_share:
            axes.yaxis.set_major_formatter(lambda value, _: f"{value:g} %")

    return drawing(f"{row_of(metric).label} against {key}", plot, legend=False)


@dataclass(frozen=True)
class _Scale:
    """Where runs stand along a swept key."""

    places: list[float]
    ticks: list[str]
    """What stands at 0, 1, 2 ...; empty: places are the values themselves."""


def _scale(values: Sequence[str | float | int | bool | None]) -> _Scale:
    """Return a scale of numbers where there are many, else a place for every value; runs of one value stand apart."""
    numbers = [float(value) for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
    if len(numbers) == len(values) and len({*numbers}) > MOST_TICKS:
        return _Scale(numbers, [])
    ticks = [f"{value:g}" for value in sorted({*numbers})] if len(numbers) == len(values) else []
    names = [f"{value:g}" for value in numbers] if ticks else [str(value) for value in values]
    ticks = ticks or list(dict.fromkeys(names))
    before = [names[:index].count(name) for index, name in enumerate(names)]
    most = max(names.count(name) for name in ticks)
    apart = min(0.12, 0.6 / most)
    return _Scale(
        [ticks.index(name) + apart * (n - (names.count(name) - 1) / 2) for name, n in zip(names, before, strict=True)],
        ticks,
    )


def _plot_run(axes: "Axes", metric: str, found: Metric, x: float, *, is_best: bool) -> None:
    colour, marker, size = (COLOURS[2], "D", 6.0) if is_best else (COLOURS[0], "o", 4.5)
    scale = 100 if row_of(metric).is_share else 1
    if found.low is not None and found.high is not None:
        axes.plot([x, x], [scale * found.low, scale * found.high], color=colour, linewidth=1.4, alpha=0.5)
    axes.plot([x], [scale * found.value], color=colour, marker=marker, markersize=size, linestyle="")
