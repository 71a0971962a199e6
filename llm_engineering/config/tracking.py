"""Which experiment tracker is told."""

from typing import Annotated, Literal

from pydantic import Field

from llm_engineering.config.block import Block


class CometTracking(Block):
    """Comet: online with an API key, else one offline archive a stage; docs/comet.md says what is logged."""

    type: Literal["comet"] = "comet"
    project: str | None = None
    """Comet's project; none: that of the active ZenML stack's Comet tracker, else ``llm-engineering``."""
    workspace: str | None = None
    """Comet's workspace; none: that of the active ZenML stack's Comet tracker, else your default one."""
    secret: str | None = None
    """ZenML secret whose value ``api_key`` is Comet's API key; COMET_API_KEY goes before it."""
    log_adapter_mb: Annotated[float, Field(ge=0)] = 100.0
    """Adapters up to this size, in MB, are logged as Comet models; 0: none."""
    log_model: bool = False
    """Log the promoted model, merged and in full, as a Comet model."""


class TransformersTracking(Block):
    """Trackers that transformers knows, by its own callbacks; each has its own settings."""

    type: Literal["transformers"] = "transformers"
    report_to: Annotated[list[str], Field(min_length=1)]
    """Names that transformers takes in ``report_to``, such as ``tensorboard``, ``wandb`` or ``mlflow``."""


class NoTracking(Block):
    """No experiment tracker."""

    type: Literal["none"] = "none"


TrackingConfig = Annotated[CometTracking | TransformersTracking | NoTracking, Field(discriminator="type")]
