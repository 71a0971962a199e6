"""What every block of the configuration is made of."""

import re
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field


def _check_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise ValueError("must consist of letters, digits, '.', '_' and '-', the first a letter or digit")
    return name


def _check_measured_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,39}", name):
        raise ValueError("must consist of at most 40 letters, digits, '_' and '-', the first a letter or digit")
    return name


Share = Annotated[float, Field(ge=0, le=1)]
PositiveInt = Annotated[int, Field(gt=0, le=10**9)]
PositiveFloat = Annotated[float, Field(gt=0)]
Rate = Annotated[float, Field(gt=0, le=1)]
ModelName = Annotated[str, Field(max_length=80), AfterValidator(_check_name)]
MeasuredName = Annotated[str, AfterValidator(_check_measured_name)]


class Block(BaseModel):
    """The base of every block: strict about keys, never changed once validated."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)


def is_default(block: Block, name: str) -> bool:
    """Return whether a field has the value that it has where nobody sets it."""
    return bool(getattr(block, name) == type(block).model_fields[name].default)
