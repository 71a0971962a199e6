"""Drawings as static SVG: the same numbers give the same text, byte for byte.

Lines take their colours from CSS variables of the page and axes take the text's colour, so that one drawing reads on
light and dark ground. Of a curve a faint line is what was logged, the bold one its moving average, and diamonds are
held-out rows; lines differ in their kind as well as their colour.
"""

import io
import math
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any, Literal

from llm_engineering.reports.data import DatasetReport, Histogram
from llm_engineering.reports.training import TrainingReport
from llm_engineering.scoring.intervals import smoothed

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.typing import LineStyleType as LineStyle
    from matplotlib.typing import RcKeyType


# Colours that matplotlib writes, and what the page reads in their place (Okabe and Ito's palette, colour-blind-safe).
AXES = "#010203"
"""The colour of the text."""
_SHOWN_AS = {
    AXES: "currentColor",
    "#010204": "var(--curve-1, #0072b2)",
    "#010205": "var(--curve-2, #d55e00)",
    "#010206": "var(--curve-3, #009e73)",
    "#010207": "var(--curve-4, #aa4499)",
    "#010208": "var(--curve-5, #b07d00)",
    "#010209": "var(--curve-6, #3a9bd9)",
    "#01020a": "var(--curve-7, #8c4a1f)",
    "#01020b": "var(--curve-8, #5c6570)",
}
COLOURS = [colour for colour in _SHOWN_AS if colour != AXES]
"""What to draw with; the page chooses what is seen."""
STYLES: "list[LineStyle]" = ["-", (0, (5, 1.5)), (0, (1, 1.2)), (0, (6, 1.5, 1, 1.5))]
"""Kinds of lines: solid, dashed, dotted, both."""

_RC: "dict[RcKeyType, Any]" = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.edgecolor": AXES,
    "axes.labelcolor": AXES,
    "text.color": AXES,
    "xtick.color": AXES,
    "ytick.color": AXES,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "grid.color": AXES,
    "grid.alpha": 0.15,
    "grid.linewidth": 0.6,
}


def look(index: int) -> "tuple[str, LineStyle]":
    """Return the colour and the kind of line of the n-th series: together they differ for the first 32."""
    turn, colour = divmod(index, len(COLOURS))
    return COLOURS[colour], STYLES[(colour + turn) % len(STYLES)]


def drawing(
    name: str,
    plot: Callable[["Axes"], None],
    *,
    height: float = 2.4,
    grid: Literal["x", "y"] = "y",
    legend: bool = True,
) -> str:
    """Return a drawing as compact SVG without date, fonts, or ids that another drawing has.

    Args:
        name: What it shows, for readers who cannot see it; unique on its page.
        plot: Draws on the axes it is given.
        height: In inches; it is 3.9 wide.
        grid: Across which axis lines help to read it.
        legend: Whether series are named within the drawing, where there are several.
    """
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_RC | {"svg.hashsalt": name}), warnings.catch_warnings():
        # text is drawn by the page, in its fonts: what matplotlib's own font lacks does not matter
        warnings.filterwarnings("ignore", "Glyph .* missing from font", UserWarning)
        warnings.filterwarnings("ignore", "Matplotlib currently does not support", UserWarning)
        figure = Figure(figsize=(3.9, height), layout="constrained")
        FigureCanvasSVG(figure)
        figure.patch.set_visible(False)
        axes = figure.add_subplot()
        axes.patch.set_visible(False)
        axes.grid(visible=True, axis=grid)
        plot(axes)
        if legend and len(axes.get_legend_handles_labels()[0]) > 1:
            axes.legend(frameon=False, fontsize=8, handlelength=2.2)
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    return _compact(text.getvalue(), name)


def _compact(svg: str, name: str) -> str:
    """Return only what a page needs: no prologue, no style that would reach beyond the drawing, no repeated ids."""
    view = re.search(r'viewBox="([^"]*)"', svg)
    assert view, "matplotlib writes a viewBox"
    body = svg[svg.index(">", svg.index("<svg")) + 1 :]
    for superfluous in (
        r"<metadata>.*?</metadata>",
        r"<style.*?</style>",
        r"<!--.*?-->",
        r'(?<=<g) id="[^"]*"',
        r" font-family: [^;]*;",
        r' transform="rotate\(-0 [^"]*"',
        r"<defs>\s*</defs>",
    ):
        body = re.sub(superfluous, "", body, flags=re.DOTALL)
    body = re.sub(r' d="[^"]*"', lambda path: re.sub(r"(\.\d\d)\d+", r"\1", path[0]), body)
    body = body.replace("xlink:href", "href")
    for written, shown in _SHOWN_AS.items():
        body = body.replace(written, shown)
    opening = f'<svg viewBox="{view[1]}" role="img" aria-label="{escape(name)}">'
    return opening + re.sub(r"\s*\n\s*", "\n", body).strip()


Points = list[tuple[int, float]]


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
    return [Curve(chart.title, _draw_chart(report, chart)) for chart in _CHARTS if _logged(report, chart)]


def _logged(report: TrainingReport, chart: _Chart) -> bool:
    return any(_points(report, name) or _points(report, f"eval_{name}") for name in chart.series)


def _points(report: TrainingReport, name: str) -> Points:
    return [(step, value) for step, value in report.series(name) if math.isfinite(value)]


def _draw_chart(report: TrainingReport, chart: _Chart) -> str:
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
    colour, style = COLOURS[index], STYLES[index]
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


def data_histograms(report: DatasetReport) -> list[Curve]:
    """Return the token lengths of every kind and split, and the turns of the conversations, as far as counted."""
    drawn = [(f"Tokens a row, {name}", "tokens", histogram) for name, histogram in report.lengths.items()]
    if report.turns:
        drawn.append(("Answers a conversation", "answers", report.turns))
    return [Curve(title, _draw_bars(title, unit, bars)) for title, unit, bars in drawn if any(bars.counts)]


def _draw_bars(title: str, unit: str, histogram: Histogram) -> str:
    starts, ends = histogram.edges[:-1], histogram.edges[1:]
    widths = [end - start or 1.0 for start, end in zip(starts, ends, strict=True)]

    def plot(axes: "Axes") -> None:
        from matplotlib.ticker import MaxNLocator

        gap = 0.06 * min(widths)
        thinner = [width - gap for width in widths]
        axes.bar(starts, histogram.counts, width=thinner, align="edge", color=COLOURS[0], alpha=0.8, linewidth=0)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(nbins=6, integer=True))
            axis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        axes.tick_params(axis="y", length=0)
        axes.set_xlabel(unit)

    return drawing(title, plot)
