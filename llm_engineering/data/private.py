"""Private data that stands in texts by mistake: found by pattern, counted, and masked where rows are shown."""

import re
from typing import Literal

PrivateKind = Literal["e-mail", "phone", "key"]

_PATTERNS: dict[PrivateKind, re.Pattern[str]] = {
    "e-mail": re.compile(r"(?<![\w.+-])[\w.+-]+@[\w-]+(?:\.[\w-]+)*\.[^\W\d_]{2,}"),
    "phone": re.compile(
        r"(?<![\w./+-])(?:"
        r"\+[0-9](?:[ ()-]{0,2}[0-9]){7,14}"  # international
        r"|(?:\+?1[ .-])?(?:[0-9]{3}([ .-])[0-9]{3}\1|\([0-9]{3}\)[ -]?[0-9]{3}[ .-])[0-9]{4}"  # North America
        r"|\(0[0-9]{1,4}\)[ -]?[0-9](?:[ -]?[0-9]){4,8}"  # elsewhere the area begins with a zero
        r"|0[0-9]{1,4}[ /-][0-9](?:[ -]?[0-9]){6,8}"
        r")(?!\w|-\w|[.,:][0-9])"
    ),
    "key": re.compile(
        r"(?<![A-Za-z0-9_-])(?:sk-[\w-]{20,}|AKIA[0-9A-Z]{16}|gh[pousr]_\w{36,}|xox[abprs]-[\w-]{10,}"
        r"|hf_[A-Za-z0-9]{30,}|AIza[\w-]{35}|eyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]{10,})"
        r"|-----BEGIN [A-Z ]*PRIVATE KEY-----(?:[^-]*-----END [A-Z ]*PRIVATE KEY-----)?"
    ),
}
"""Each begins where no part of it may stand before: else a long text would be searched from every place in it."""
_SIGNS: dict[PrivateKind, re.Pattern[str]] = {
    "e-mail": re.compile("@"),
    "phone": re.compile(r"[0-9](?:[ ()./-]{0,2}[0-9]){6}"),
    "key": re.compile("sk-|AKIA|gh[pousr]_|xox|hf_|AIza|PRIVATE KEY|eyJ"),
}
"""What a text without private data lacks, and what is found faster than the pattern itself."""


def private_kinds(text: str) -> list[PrivateKind]:
    """Return which kinds of private data seem to stand in a text."""
    return [kind for kind, sign in _SIGNS.items() if sign.search(text) and _PATTERNS[kind].search(text)]


def mask_private(text: str) -> str:
    """Return a text of the same length with private data replaced by dots."""
    for kind in private_kinds(text):
        text = _PATTERNS[kind].sub(lambda match: "•" * len(match[0]), text)
    return text
