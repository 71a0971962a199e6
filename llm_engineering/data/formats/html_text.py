"""HTML of question-and-answer sites as Markdown text, its code kept."""

import re
from functools import cache
from typing import TYPE_CHECKING, Any

from llm_engineering.data.formats.content import RowProblem

if TYPE_CHECKING:
    from markdownify import MarkdownConverter

LANGUAGE = re.compile(r"lang(?:uage)?-([\w+#-]+)")


def html_text(html: str, what: str) -> str:
    """Return HTML as text: code in fenced blocks, links as their words, no pictures, nothing escaped.

    Raises:
        RowProblem: The parser gives the text up.
    """
    if "<" not in html and "&" not in html:
        return html
    from bs4 import BeautifulSoup, ParserRejectedMarkup

    try:
        # In an element, since BeautifulSoup warns of texts that look like XML or like a file's name.
        converted: str = _converter().convert_soup(BeautifulSoup(f"<div>{html}</div>", "html.parser"))
    except (ParserRejectedMarkup, RecursionError) as error:
        raise RowProblem("unparsable", f"{what} is no HTML that can be read") from error
    return converted.strip()


@cache
def _converter() -> "MarkdownConverter":
    from markdownify import MarkdownConverter

    return MarkdownConverter(
        strip=["a", "img"],
        bullets="-",
        heading_style="atx",
        sub_symbol="<sub>",
        sup_symbol="<sup>",
        escape_asterisks=False,
        escape_underscores=False,
        code_language_callback=_language,
    )


def _language(element: Any) -> str:
    """Return the language of a code block, which its class names as ``lang-py``."""
    found = LANGUAGE.search(" ".join(element.get("class") or ()))
    return found[1] if found else ""
