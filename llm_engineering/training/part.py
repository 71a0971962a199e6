"""What the parts of a trainer stand on."""

from collections.abc import Callable
from typing import Any

from transformers import Trainer

from llm_engineering.reports.folders import StageName

Probe = Callable[[Any], dict[str, float]]
"""Measures something of a trainer's model at an evaluation, beside TRL's metrics on the held-out rows."""


class TrainerPart(Trainer):  # type: ignore[misc]  # transformers is untyped
    """A part of a trainer: it does one thing, and what stands behind it, TRL's trainer at last, does the rest.

    ``super()`` goes from part to part in the order in which a trainer names them, and ends at TRL's.
    """

    stage: StageName
    accelerator: Any
    _metrics: dict[str, dict[str, list[float]]]
    """What TRL logs next, by mode and name."""
    _total_train_tokens: int
