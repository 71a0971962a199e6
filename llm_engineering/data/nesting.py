"""How deep JSON may be nested: what can just be read may be too deep to be written again."""

from typing import Any

MAX_NESTING = 200
"""Lists and objects inside one another; rows beyond would exhaust the stack of whoever reads them next."""


def too_deep(text: str, value: Any) -> bool:
    """Return whether a value has more than MAX_NESTING lists and objects inside one another; ``text`` is its JSON."""
    return text.count("[") + text.count("{") > MAX_NESTING and _depth(value) > MAX_NESTING


def _depth(value: Any) -> int:
    level, depth = [value], 0
    while level := [item for item in level if isinstance(item, dict | list | tuple)]:
        depth += 1
        level = [child for item in level for child in (item.values() if isinstance(item, dict) else item)]
    return depth
