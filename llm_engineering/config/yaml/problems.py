"""Says in plain words what is wrong with a configuration, where, and which key was probably meant."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import date
from difflib import get_close_matches
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, Tag, ValidationError
from pydantic_core import ErrorDetails

from llm_engineering.config.yaml.layers import Node, Place

MAX_SHOWN = 5
_EXPECTED = {
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
    "string_type": "must be text",
    "string_too_long": "must have at most {max_length} characters",
    "list_type": "must be a list",
    "dict_type": "must be a block of keys",
    "model_type": "must be a block of keys",
    "model_attributes_type": "must be a block of keys",
    "greater_than": "must be greater than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
}


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that ``name`` is probably a misspelling of, if there is one."""
    return next(iter(get_close_matches(name, list(known), n=1)), None)


def one_of(names: Sequence[str]) -> str:
    """Return names as a reader lists them: ``a``, ``a or b``, ``a, b or c``."""
    return " or ".join(part for part in (", ".join(names[:-1]), names[-1]) if part)


@dataclass(frozen=True)
class _Problem:
    """One thing that is wrong with one key."""

    place: Place
    key: str
    says: str
    """What is wrong, to be read after the key."""
    got: str = ""
    """What was found instead, where showing it helps."""
    union: str | None = None
    """The key whose alternative forms were all tried, if the problem is with one of them."""

    def __str__(self) -> str:
        subject = self.key + ("" if self.says.startswith(":") or not self.key else " ")
        sentence = f"{self.place}: {subject}{self.says}{', got ' if self.got else ''}{self.got}"
        return sentence if sentence.endswith("?") else sentence + "."


@dataclass(frozen=True)
class _Spot:
    """What an error's location means in the tree of nodes and in the schema."""

    key: str
    node: Node
    """The value, or the innermost block there is where the value is missing."""
    shape: Any
    """The annotation of the value; none where the schema ends."""
    parent: Any
    """The annotation of the block around it."""
    union: str | None


def describe(error: ValidationError, tree: Node, schema: type[BaseModel]) -> str:
    """Return one sentence a line for each problem, in the order of the layers and their lines; at most five."""
    problems = _join_alternatives([_problem(detail, tree, schema) for detail in error.errors(include_url=False)])
    problems.sort(key=lambda problem: (problem.place.layer, problem.place.line or 0))
    lines = [str(problem) for problem in problems]
    more = [f"…and {len(lines) - MAX_SHOWN} more"] if len(lines) > MAX_SHOWN else []
    return "\n".join(lines[:MAX_SHOWN] + more)


def _join_alternatives(problems: list[_Problem]) -> list[_Problem]:
    """Make one problem of a value that fits none of its alternative forms."""
    groups: dict[str, list[_Problem]] = {}
    for problem in problems:
        groups.setdefault(problem.union or f"{problem.key} {problem.says}", []).append(problem)
    joined: list[_Problem] = []
    for union, group in groups.items():
        inside = [problem for problem in group if problem.key != union]
        if group[0].union is None or inside:  # right in form, wrong inside: only what is inside helps
            joined += inside or group
        else:
            says = " or ".join(problem.says.removeprefix("must be ") for problem in group)
            joined.append(replace(group[0], says=f"must be {says}"))
    return joined


def _problem(detail: ErrorDetails, tree: Node, schema: type[BaseModel]) -> _Problem:
    spot = _locate(detail["loc"], tree, schema)
    kind, value, context = detail["type"], detail["input"], detail.get("ctx", {})
    problem = _Problem(spot.node.place, spot.key, f": {detail['msg']}", "", spot.union)
    if kind in _EXPECTED:
        says = _EXPECTED[kind].format(**{name: _number(limit) for name, limit in context.items()})
        quotes = "; put it in quotes" if kind == "string_type" and isinstance(value, int | float | date) else ""
        return replace(problem, says=says, got=_shown(value) + quotes)
    if kind == "extra_forbidden":
        return replace(problem, says=_unknown_key(str(detail["loc"][-1]), list(spot.parent.model_fields)))
    if kind == "missing":
        return replace(problem, says="is missing")
    if kind == "literal_error":
        return replace(problem, says=f"must be {_plain_literals(context['expected'])}", got=_shown(value))
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        return _wrong_type_tag(problem, spot, value)
    if kind == "source_kind":
        return _wrong_source(problem, spot, value)
    if kind == "value_error":
        return _broken_rule(problem, spot, str(context["error"]), value)
    return problem


def _unknown_key(key: str, known: list[str]) -> str:
    meant = nearest(key, known)
    return (
        f"is not a known key; did you mean {meant}?" if meant else f"is not a known key; known here: {', '.join(known)}"
    )


def _wrong_type_tag(problem: _Problem, spot: _Spot, block: Any) -> _Problem:
    node = spot.node.child("type") or spot.node
    got = _shown(block["type"]) if isinstance(block, dict) and "type" in block else "none"
    return replace(
        problem, place=node.place, key=f"{spot.key}.type", says=f"must be {one_of(list(_tags(spot.shape)))}", got=got
    )


def _wrong_source(problem: _Problem, spot: _Spot, value: Any) -> _Problem:
    kinds = _tags(spot.shape)
    if not isinstance(value, dict):
        return replace(problem, says=f"must be a block with the key {one_of(list(kinds))}", got=_shown(value))
    known = {key for member in kinds.values() for key in member.model_fields}
    for key in value:
        meant = nearest(key, kinds) if key not in known else None
        if meant and not any(kind in value for kind in kinds):
            node = spot.node.child(key) or spot.node
            says = f"is not a known key; did you mean {meant}?"
            return replace(problem, place=node.place, key=f"{spot.key}.{key}", says=says)
    return replace(problem, says=f"needs exactly one of the keys {one_of(list(kinds))}")


def _broken_rule(problem: _Problem, spot: _Spot, rule: str, value: Any) -> _Problem:
    if not isinstance(spot.node.value, dict):
        return replace(problem, says=rule, got=_shown(value))
    # The layer to blame is the last one that set a key which the rule speaks of.
    words = rule.replace(",", " ").split()
    layers = [child.place.layer for key, child in spot.node.value.items() if key in words]
    blamed = [place for place in spot.node.places if layers and place.layer == max(layers)]
    return replace(problem, place=(blamed or [spot.node.place])[-1], says=f": {rule}" if spot.key else rule)


def _locate(loc: tuple[int | str, ...], tree: Node, schema: type[BaseModel]) -> _Spot:
    """Follow an error's location, in which pydantic names the alternatives of unions besides the keys."""
    keys: list[str] = []
    node, shape, parent, union = tree, _unwrap(schema), None, None
    for part in loc:
        if get_origin(shape) in (Union, UnionType):
            tags = _tags(shape)
            union = None if tags else ".".join(keys)
            shape = tags.get(str(part))
            continue
        if part == "[key]":  # not the value is wrong, but what it is called
            continue
        keys.append(str(part))
        parent, shape = shape, _unwrap(_below(shape, part))
        node = node.child(part) or node
    return _Spot(".".join(keys), node, shape, parent, union)


def _below(shape: Any, part: int | str) -> Any:
    if isinstance(shape, type) and issubclass(shape, BaseModel):
        field = shape.model_fields.get(str(part))
        return field.annotation if field else None
    arguments = get_args(shape)
    return arguments[-1] if get_origin(shape) in (list, dict) else None


def _unwrap(shape: Any) -> Any:
    """Take the metadata and the ``None`` off an annotation."""
    if get_origin(shape) is Annotated:
        return _unwrap(get_args(shape)[0])
    if get_origin(shape) in (Union, UnionType):
        forms = [form for form in get_args(shape) if form is not NoneType]
        return _unwrap(forms[0]) if len(forms) == 1 else shape
    return shape


def _tags(shape: Any) -> dict[str, type[BaseModel]]:
    """Return the blocks of a tagged union by their tags; nothing for a union of other things."""
    tagged: dict[str, type[BaseModel]] = {}
    for form in get_args(shape):
        block = _unwrap(form)
        if isinstance(block, type) and issubclass(block, BaseModel):
            tag = next((mark.tag for mark in getattr(form, "__metadata__", ()) if isinstance(mark, Tag)), None)
            name = tag or (str(block.model_fields["type"].default) if "type" in block.model_fields else None)
            tagged |= {name: block} if name else {}
    return tagged


def _plain_literals(expected: str) -> str:
    return expected.replace("'", "").replace("True", "true").replace("False", "false")


def _number(limit: Any) -> Any:
    return int(limit) if isinstance(limit, float) and limit.is_integer() else limit


def _shown(value: Any) -> str:
    """Return a found value as the user wrote it, cut short; a list or block by its name only."""
    if isinstance(value, dict | list):
        return "a list" if isinstance(value, list) else "a block of keys"
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    if isinstance(value, str):
        return repr(value if len(value) <= 60 else value[:60] + "…")
    return str(value)
