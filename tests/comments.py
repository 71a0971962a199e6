"""Python code with a docstring and a comment more in every function and class."""

import ast


def commented(source: str) -> str:
    """Return code that means the same: every body that begins on a line of its own begins with two lines more."""
    lines = source.splitlines(keepends=True)
    nodes = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef | ast.ClassDef))
    for number in sorted({_first_line(node.body[0]) for node in nodes}, reverse=True):
        line = lines[number - 1]
        indent = line[: len(line) - len(line.lstrip())]
        lines.insert(number - 1, f'{indent}"""Say it in other words."""\n{indent}# and remark on it\n')
    return "".join([*lines, "# the end\n"])


def _first_line(statement: ast.stmt) -> int:
    decorators = getattr(statement, "decorator_list", [])
    return min(node.lineno for node in (statement, *decorators))
