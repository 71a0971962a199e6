"""Blocks within blocks, flattened."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

T = TypeVar("T")


def mapping(value: Any) -> Mapping[str, Any] | None:
    """Return what is a block of its own; None for anything else."""
    return value if isinstance(value, Mapping) else None


def leaves(
    block: Mapping[str, T], inside: Callable[[T], Mapping[str, T] | None] = mapping, between: str = "."
) -> Iterator[tuple[str, T]]:
    """Yield what stands innermost, each under the keys on the way to it: ``dpo.beta``.

    Args:
        block: Keys and values.
        inside: Returns the block that a value is; None where it is a leaf.
        between: Stands between the keys.
    """
    for key, value in block.items():
        below = inside(value)
        if below is None:
            yield key, value
        else:
            yield from ((f"{key}{between}{inner}", leaf) for inner, leaf in leaves(below, inside, between))
