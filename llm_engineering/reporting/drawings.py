"""Drawings as static SVG: the same numbers give the same text, byte for byte.

Lines take their colours from CSS variables of the page and axes take the text's colour, so that one drawing reads on
light and dark ground.
"""

import io
import re
import warnings
from collections.abc import Callable
from html import escape
from typing import TYPE_CHECKING, Any, Literal

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
