"""How lengths and turns are spread, as static SVG bars."""

from typing import TYPE_CHECKING

from llm_engineering.reporting.curves import Curve
from llm_engineering.reporting.drawings import COLOURS, drawing
from llm_engineering.reports.data import DatasetReport, Histogram

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def data_histograms(report: DatasetReport) -> list[Curve]:
    """Return the token lengths of every kind and split, and the turns of the conversations, as far as counted."""
    drawn = [(f"Tokens a row, {name}", "tokens", histogram) for name, histogram in report.lengths.items()]
    if report.turns:
        drawn.append(("Answers a conversation", "answers", report.turns))
    return [Curve(title, _draw(title, unit, bars)) for title, unit, bars in drawn if any(bars.counts)]


def _draw(title: str, unit: str, histogram: Histogram) -> str:
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
