"""What Python code means: the hash of its syntax tree, without comments, docstrings and formatting."""

import ast
import hashlib
from collections.abc import Callable, Iterator
from itertools import groupby
from typing import Any

_OF_NO_MEANING = ("ctx", "kind", "type_comment", "type_ignores")
"""Fields of nodes that say what their place says too, how a string was written, or what stands in a comment."""


def meaning_of(source: bytes) -> str:
    """Return a hash that a comment, a docstring or the layout changes as little as the version of Python does.

    ``ast.dump`` differs between versions: they add fields to nodes. A field that is empty is none here.

    Raises:
        SyntaxError: The source is no Python.
    """
    words: list[str] = []
    _write(ast.parse(source), words.append)
    return hashlib.sha256(" ".join(words).encode("ascii")).hexdigest()


def _write(value: Any, word: Callable[[str], None]) -> None:
    """Write a node, or what stands in one of its fields, word by word."""
    if isinstance(value, ast.AST):
        word(f"({type(value).__name__}")
        for name in value._fields:
            _write_field(value, name, word)
        word(")")
    elif isinstance(value, list):
        word("[")
        for each in value:
            _write(each, word)
        word("]")
    else:
        word(f"{type(value).__name__} {value!a}")


def _write_field(node: ast.AST, name: str, word: Callable[[str], None]) -> None:
    value = getattr(node, name, None)
    if isinstance(node, ast.JoinedStr):
        value = list(_joined(node.values))
    elif isinstance(value, list):
        value = [each for each in value if not _does_nothing(each)]
    is_given = value not in (None, []) or isinstance(node, ast.Constant)
    if is_given and name not in _OF_NO_MEANING:
        word(name)
        _write(value, word)


def _does_nothing(statement: Any) -> bool:
    """Return whether a statement is a docstring, another lone constant, or ``pass``."""
    is_constant = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
    return is_constant or isinstance(statement, ast.Pass)


def _joined(parts: list[ast.expr]) -> Iterator[ast.expr]:
    """Yield the parts of an f-string with its text in one piece: versions cut it in different ways."""
    for is_text, group in groupby(parts, lambda part: isinstance(part, ast.Constant)):
        if not is_text:
            yield from group
        elif text := "".join(str(part.value) for part in group if isinstance(part, ast.Constant)):
            yield ast.Constant(text)
