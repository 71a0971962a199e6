"""Reports whose every text is an attack on the page that shows it."""

from typing import Any, TypeVar

from pydantic import BaseModel

M = TypeVar("M", bound=BaseModel)

HOSTILE = (
    "<script>document.title='broken in'</script>"
    "<img src=x onerror=\"document.title='broken in'\"></td></table></details>"
    "\N{RIGHT-TO-LEFT OVERRIDE}gnp.exe {{ 7 * 7 }} &amp; \N{ZEBRA FACE}\N{ROCKET}\N{CJK UNIFIED IDEOGRAPH-4E2D} "
    + "W"
    * 120
)
KEPT = ("history", "config_yaml")
"""Fields whose words are the project's own, and one that is long enough as it is."""


def spoiled(report: M) -> M:
    """Return a report with HOSTILE before every text that is not one of a fixed few; equal texts stay equal."""
    fields = {name: field.annotation for name, field in type(report).model_fields.items() if name not in KEPT}
    return report.model_copy(update={name: _spoiled(getattr(report, name), kind) for name, kind in fields.items()})


def _spoiled(value: Any, kind: Any) -> Any:
    if isinstance(value, BaseModel):
        return spoiled(value)
    if isinstance(value, str):
        return value if "Literal" in str(kind) else HOSTILE + value
    if isinstance(value, list):
        return [_spoiled(each, kind) for each in value]
    if isinstance(value, dict):
        return {_spoiled(key, kind): _spoiled(each, kind) for key, each in value.items()}
    return value
