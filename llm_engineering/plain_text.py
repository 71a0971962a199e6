"""Text that comes from files, models or errors, without characters that could harm what shows it."""

import re

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_HARMFUL = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f"  # control characters
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # marks that reorder the text around them
    "\ud800-\udfff\ufffe\uffff]"  # no text at all
)


def harmless(text: str) -> str:
    """Return text whose control, reordering and surrogate characters are replaced; line ends and tabs stay."""
    return _HARMFUL.sub(REPLACEMENT, text)


def plain(text: str) -> str:
    """Return text without characters that could move the cursor, colour the terminal or reorder a line."""
    return harmless(text).replace("\r", REPLACEMENT)
