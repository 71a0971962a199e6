"""What all pages share: one template engine that escapes everything, and no character that could harm a page."""

import re
from collections.abc import Iterable
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from llm_engineering.reporting.drawings import Curve
from llm_engineering.reporting.words import count, counted, duration, model_label, percent, within_sentence

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_HARMFUL = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f"  # control characters
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # marks that reorder the text around them
    "\ud800-\udfff\ufffe\uffff]"  # no text at all
)


def render_page(template: str, **values: object) -> str:
    """Return a page from one of the templates beside this module."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "thousands": count,
        "counted": counted,
        "percent": percent,
        "duration": duration,
        "model": model_label,
        "within_sentence": within_sentence,
        "with_code": with_code,
    }
    return harmless(environment.get_template(template).render(**values))


def drawn(curves: Iterable[Curve]) -> list[tuple[str, Markup]]:
    """Return drawings by their titles, to be put into a page as they are: they are our own."""
    return [(curve.title, Markup(curve.svg)) for curve in curves]


def with_code(text: str) -> Markup:
    """Return a sentence with what stands between backticks as code; an odd backtick is a backtick."""
    shapes = Markup("{}"), Markup("<code>{}</code>")
    pieces = re.split(r"`([^`\n]+)`", text)
    return Markup("").join(shapes[at % 2].format(piece) for at, piece in enumerate(pieces))


def harmless(text: str) -> str:
    """Return text whose control, reordering and surrogate characters are replaced; line ends and tabs stay."""
    return _HARMFUL.sub(REPLACEMENT, text)


def plain(text: str) -> str:
    """Return text without characters that could move the cursor, colour the terminal or reorder a line."""
    return harmless(text).replace("\r", REPLACEMENT)
