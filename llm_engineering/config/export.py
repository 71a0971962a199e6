"""Where the promoted model goes, and in which formats."""

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from llm_engineering.config.block import Block, PositiveFloat, PositiveInt, Share, is_default

ExportFormat = Literal["merged", "bfloat16", "int8", "int4", "gguf"]


class Likeness(Block):
    """How much like the merged model an export has to be, on the merged model's own greedy answers."""

    agreement: Share
    """Least share of the positions at which both models find the same token likeliest."""
    kl: PositiveFloat
    """Greatest mean KL divergence of the export from the merged model, in nats a token."""


class ParityConfig(Block):
    """From when on an export is too unlike the merged model to be published."""

    bfloat16: Likeness = Likeness(agreement=0.95, kl=0.01)
    int8: Likeness = Likeness(agreement=0.95, kl=0.02)
    int4: Likeness = Likeness(agreement=0.85, kl=0.1)
    gguf: Likeness = Likeness(agreement=0.95, kl=0.01)
    prompts: PositiveInt = 16
    """Held-out questions that the models are compared on."""


def _check_repository(repository: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*", repository):
        raise ValueError("must be an owner and a name, such as my-name/my-model")
    return repository


class HubExport(Block):
    """The repository on the Hugging Face hub that gets the promoted model."""

    repository: Annotated[str, Field(max_length=90), AfterValidator(_check_repository)]
    """``OWNER/NAME``; formats other than ``merged`` go to ``OWNER/NAME-FORMAT``. It is made where it is missing."""
    private: bool = True
    """Whether nobody else may see it; an export is never put into a repository that is public against this."""


class ExportConfig(Block):
    """Where the promoted model goes, and in which formats; docs/export.md describes them."""

    dir: str | None = None
    """A folder that gets the promoted model; relative paths start at the working directory.

    Formats other than ``merged`` go beside it, into a folder whose name ends in the format: ``DIR-int8``.
    """
    hub: HubExport | None = None
    formats: Annotated[list[ExportFormat], Field(min_length=1)] = ["merged"]
    """``merged`` is the model as it was measured; the others are made from it and compared with it."""
    parity: ParityConfig = ParityConfig()
    license: str | None = None
    """The licence that the model card states, by its identifier on the hub; none: ``unknown``."""

    @property
    def is_asked(self) -> bool:
        """Whether anything is to be exported."""
        return self.dir is not None or self.hub is not None

    @model_validator(mode="after")
    def _check(self) -> "ExportConfig":
        if len(set(self.formats)) < len(self.formats):
            raise ValueError("formats names one twice; remove it")
        if not self.is_asked and not is_default(self, "formats"):
            raise ValueError("formats does nothing without dir or hub; name one of them")
        return self
