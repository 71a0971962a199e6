"""What all pages share: one template engine that escapes everything, and no character that could harm a page."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from llm_engineering.plain_text import harmless
from llm_engineering.reporting.drawings import Curve
from llm_engineering.reporting.words import count, counted, duration, model_label, percent, within_sentence


def render_page(template: str, **values: object) -> str:
    """Return a page from one of the templates beside this module."""
    environment = template_engine(autoescape=True)
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


def template_engine(**options: Any) -> Environment:
    """Return what renders the templates beside this module; a name that they do not know is an error."""
    return Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        **options,
    )


def drawn(curves: Iterable[Curve]) -> list[tuple[str, Markup]]:
    """Return drawings by their titles, to be put into a page as they are: they are our own."""
    return [(curve.title, Markup(curve.svg)) for curve in curves]


def with_code(text: str) -> Markup:
    """Return a sentence with what stands between backticks as code; an odd backtick is a backtick."""
    shapes = Markup("{}"), Markup("<code>{}</code>")
    pieces = re.split(r"`([^`\n]+)`", text)
    return Markup("").join(shapes[at % 2].format(piece) for at, piece in enumerate(pieces))
