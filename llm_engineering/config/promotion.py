"""When a model is promoted."""

from typing import Annotated, Literal

from pydantic import Field

from llm_engineering.config.block import Block, PositiveFloat, PositiveInt
from llm_engineering.config.metrics import DecidingMetric


class PromotionConfig(Block):
    """When the aligned model replaces the one in use."""

    stage: Literal["staging", "production"] = "staging"
    """The stage of the ZenML model that the better version gets."""
    tolerances: dict[DecidingMetric, Annotated[float, Field(ge=0)]] = {
        "preferred_rate": 0.02,
        "answer_accuracy": 0.03,
        "ranking_accuracy": 0.02,
        "repetition": 0.05,
        "unfinished": 0.05,
    }
    """How much worse a metric may be, absolute; only metrics named here and measured decide.

    Keys in a configuration are laid over these; a tolerance of 1 takes a metric out of the decision.
    """
    undecided: Literal["value", "refuse"] = "value"
    """Where the interval of a loss holds the tolerance: the measured value decides, or the check fails."""
    least_units: PositiveInt = 30
    """An undecided check on fewer independent units than this fails, whatever its value."""
    approval: bool = False
    """A person has to say yes: training moves no stage, and tools/promote.py asks in the dashboard."""
    approval_minutes: PositiveFloat = 60.0
    """How long tools/promote.py waits for the answer; none promotes nothing."""
