"""What a check says, and how checks are kept from each other's troubles."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "note", "problem"]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    check: str
    level: Level
    """``note``: a run works without it, or in another way. ``problem``: it does not."""
    text: str
    remedy: str = ""
    """What to do, in a sentence, unless all is well."""


Check = Callable[[], Iterable[Finding]]


def examine(checks: Mapping[str, Check]) -> Iterator[Finding]:
    """Yield what the checks find; one that breaks is a problem of its own, and the others go on.

    Args:
        checks: By the name of what each looks at.
    """
    for name, check in checks.items():
        try:
            yield from check()
        except Exception as error:  # noqa: BLE001 - a broken package raises anything at its import
            said = next(iter(str(error).splitlines()), "")
            yield Finding(
                name,
                "problem",
                f"could not be examined: {type(error).__name__}: {said}".rstrip(": "),
                "Run `make install`, which installs the pinned packages anew, and use .venv/bin/python.",
            )
