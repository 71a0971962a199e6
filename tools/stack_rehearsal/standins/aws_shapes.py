"""Holds a request against AWS's own description of its API: the limits that moto does not know.

botocore ships the description, and checks types and required members before it sends a request; lengths, patterns and
the lists of allowed values only the service checks.
"""

import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any


@cache
def sagemaker_model() -> Any:
    """Return botocore's description of SageMaker."""
    from botocore.session import Session

    return Session().get_service_model("sagemaker")


def faults_of(operation: str, request: Mapping[str, Any], *, without: frozenset[str] = frozenset()) -> list[str]:
    """Return what SageMaker would refuse in a request: a sentence for each fault.

    Args:
        operation: ``CreateTrainingJob`` and the like.
        request: Its members.
        without: Required members that somebody else will add.
    """
    shape = sagemaker_model().operation_model(operation).input_shape
    return list(_faults(shape, request, operation, without))


def _faults(shape: Any, value: Any, where: str, without: frozenset[str] = frozenset()) -> Iterator[str]:
    match shape.type_name:
        case "structure":
            yield from _structure_faults(shape, value, where, without)
        case "map":
            yield from _size_faults(shape, len(value), where, "entries")
            for key, item in value.items():
                yield from _faults(shape.key, key, f"a name in {where}")
                yield from _faults(shape.value, item, f"{where}.{key}")
        case "list":
            yield from _size_faults(shape, len(value), where, "entries")
            for index, item in enumerate(value):
                yield from _faults(shape.member, item, f"{where}[{index}]")
        case "string":
            yield from _string_faults(shape, value, where)
        case "integer" | "long" | "float" | "double":
            yield from _size_faults(shape, value, where, "")


def _structure_faults(shape: Any, value: Mapping[str, Any], where: str, without: frozenset[str]) -> Iterator[str]:
    for name in sorted({*shape.required_members} - value.keys() - without):
        yield f"{where} lacks {name}."
    for name, item in value.items():
        if name not in shape.members:
            yield f"{where} has no member {name}."
        elif item is not None:
            yield from _faults(shape.members[name], item, f"{where}.{name}")


def _string_faults(shape: Any, value: Any, where: str) -> Iterator[str]:
    if not isinstance(value, str):
        yield f"{where} is no text."
        return
    yield from _size_faults(shape, len(value), where, "characters")
    allowed = getattr(shape, "enum", None)
    if allowed and value not in allowed:
        yield f"{where} is {value!r}, which is none of the {len(allowed)} values that SageMaker knows."
    pattern = shape.metadata.get("pattern")
    if pattern and not re.fullmatch(pattern, value):
        yield f"{where} does not match {pattern}."


def _size_faults(shape: Any, size: float, where: str, unit: str) -> Iterator[str]:
    least, most = shape.metadata.get("min"), shape.metadata.get("max")
    if least is not None and size < least:
        yield f"{where} has {size} {unit}".rstrip() + f", fewer than {least}."
    if most is not None and size > most:
        yield f"{where} has {size} {unit}".rstrip() + f", more than {most}."
