"""Drawings as static SVG: the same numbers give the same text, byte for byte.

Lines take their colours from CSS variables of the page and axes take the text's colour, so that one drawing reads on
light and dark ground.
"""

import io
import re
from collections.abc import Callable
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.typing import RcKeyType

# Colours that matplotlib writes, and what the page reads in their place (Okabe and Ito's palette, colour-blind-safe).
AXES = "#010203"
"""The colour of the text."""
_SHOWN_AS = {
    AXES: "currentColor",
    "#010204": "var(--curve-1, #0072b2)",
    "#010205": "var(--curve-2, #d55e00)",
    "#010206": "var(--curve-3, #009e73)",
}
COLOURS = [colour for colour in _SHOWN_AS if colour != AXES]
"""What to draw with; the page chooses what is seen."""

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


def drawing(name: str, plot: Callable[["Axes"], None]) -> str:
    """Return a drawing as compact SVG without date, fonts, or ids that another drawing has."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_RC | {"svg.hashsalt": name}):
        figure = Figure(figsize=(3.9, 2.4), layout="constrained")
        FigureCanvasSVG(figure)
        figure.patch.set_visible(False)
        axes = figure.add_subplot()
        axes.patch.set_visible(False)
        axes.grid(visible=True, axis="y")
        plot(axes)
        if len(axes.get_legend_handles_labels()[0]) > 1:
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
