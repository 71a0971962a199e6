"""Training curves: a faint line is what was logged, the bold one its moving average, diamonds are held-out rows.

Line styles differ as well as colours.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llm_engineering.reporting.drawings import AXES, COLOURS, drawing
from llm_engineering.reports.training import TrainingReport
from llm_engineering.scoring.intervals import smoothed

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Points = list[tuple[int, float]]

_STYLES = ["-", (0, (5, 1.5)), (0, (1, 1.2))]


@dataclass(frozen=True)
class Curve:
    """One drawing and what it shows."""

    title: str
    svg: str
    """An ``<svg>`` element to put into a page."""


@dataclass(frozen=True)
class _Chart:
    """Series of one unit on one pair of axes."""

    title: str
    series: dict[str, str]
    """Label of every series that may have been logged."""
    smooth: bool = True
    share: bool = False


_CHARTS = (
    _Chart("Loss", {"loss": "training"}),
    _Chart("Token accuracy", {"mean_token_accuracy": "training"}, share=True),
    _Chart("Rewards", {"rewards/chosen": "chosen", "rewards/rejected": "rejected"}),
    _Chart("Reward margin: chosen minus rejected", {"rewards/margins": "training"}),
    _Chart("Reward accuracy: chosen above rejected", {"rewards/accuracies": "training"}, share=True),
    _Chart("Log-probability of the answers, nats", {"logps/chosen": "chosen", "logps/rejected": "rejected"}),
    _Chart(
        "Log-ratio to the reference, nats an answer", {"log_ratio/chosen": "chosen", "log_ratio/rejected": "rejected"}
    ),
    _Chart(
        "Generated answers to held-out prompts",
        {"eval_answer_accuracy": "right", "eval_preferred_rate": "preferred"},
        smooth=False,
        share=True,
    ),
    _Chart("Score of generated answers", {"eval_answer_score": "held-out prompts"}, smooth=False),
    _Chart("KL from the reference, nats a token", {"eval_kl_per_token": "sampled answers"}, smooth=False),
)


def training_curves(report: TrainingReport) -> list[Curve]:
    """Return the curves of what one stage has logged; series that were not logged are left out."""
    return [Curve(chart.title, _draw(report, chart)) for chart in _CHARTS if _logged(report, chart)]


def _logged(report: TrainingReport, chart: _Chart) -> bool:
    return any(_points(report, name) or _points(report, f"eval_{name}") for name in chart.series)


def _points(report: TrainingReport, name: str) -> Points:
    return [(step, value) for step, value in report.series(name) if math.isfinite(value)]


def _draw(report: TrainingReport, chart: _Chart) -> str:
    def plot(axes: "Axes") -> None:
        for index, (name, label) in enumerate(chart.series.items()):
            points, held_out = _points(report, name), _points(report, f"eval_{name}")
            if points:
                _plot_line(axes, points, label, index, smooth=chart.smooth)
            if held_out:
                alone = len(chart.series) == 1
                _plot_held_out(axes, held_out, "held out" if alone else f"{label}, held out", index + alone)
        low, high = axes.get_ylim()
        if low < 0 < high:
            axes.axhline(0, color=AXES, linewidth=0.8, alpha=0.5)
        if report.best_step is not None:
            axes.axvline(report.best_step, color=AXES, linewidth=0.8, linestyle=":", label="weights kept")
        if chart.share:
            axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:g} %")
        whole_steps(axes)

    return drawing(f"{report.stage} {chart.title}", plot)


def whole_steps(axes: "Axes") -> None:
    """Name the axis of steps, which have no halves."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(nbins=7, integer=True))
    axes.set_xlabel("step")


def _plot_line(axes: "Axes", points: Points, label: str, index: int, *, smooth: bool) -> None:
    colour, style = COLOURS[index], _STYLES[index]
    if smooth and len(points) >= 5:
        axes.plot(*zip(*points, strict=True), color=colour, linewidth=0.8, alpha=0.4)
        points = smoothed(points, span=max(3, len(points) // 12))
    marker = "o" if len(points) == 1 or not smooth else None
    axes.plot(
        *zip(*points, strict=True),
        color=colour,
        linestyle=style,
        linewidth=1.8,
        marker=marker,
        markersize=3.5,
        label=label,
    )


def _plot_held_out(axes: "Axes", points: Points, label: str, index: int) -> None:
    axes.plot(
        *zip(*points, strict=True),
        color=COLOURS[index],
        linestyle=":",
        linewidth=1.0,
        marker="D",
        markersize=3.5,
        label=label,
    )
