"""What the fast path changes in TRL's trainers: the forward pass, and nothing else.

Collator, sampler, losses, metrics, accumulation, checkpoints and evaluation stay TRL's. Shapes: B rows (chosen, then
rejected), T tokens of a padded row, N of the flat row, K scored tokens, E width of the hidden states.
"""

import logging
from typing import Any, Literal

from torch import Tensor

from llm_engineering.models.flat.forward import FastForward
from llm_engineering.models.flat.support import base_model, reason_against
from llm_engineering.training.part import TrainerPart
from llm_engineering.training.upstream import reason_against_fast_path

_log = logging.getLogger(__name__)

FastPathSetting = Literal["auto", "off"]


class FastPath(TrainerPart):
    """What both trainers do alike: choose a path once, and prove in every step that it ran."""

    fast: FastForward | None = None
    """None on TRL's own path."""
    path: str = ""
    """Which path runs, in words: ``fast``, or ``TRL's own`` and why."""

    def __init__(self, *args: Any, fast_path: FastPathSetting = "auto", **kwargs: Any) -> None:
        self._fast_path = fast_path
        super().__init__(*args, **kwargs)
        self.choose_path()

    def choose_path(self) -> None:
        """Take the fast path where it holds; warn once where it does not. Does nothing when called again."""
        if self.path:
            return
        reason = self._reason_against()
        self.path = f"TRL's own: {reason}" if reason else "fast"
        if reason and self._fast_path != "off":
            _log.warning("%s takes TRL's own path, which is slower: %s.", self.stage.upper(), reason)
        if not reason:
            self.fast = FastForward(base_model(self.model))
            self._hook_in(self.fast)

    def _reason_against(self) -> str | None:
        if self._fast_path == "off":
            return "off by configuration"
        return reason_against_fast_path(self.stage, self) or reason_against(self, self.stage)

    def _hook_in(self, fast: FastForward) -> None:
        """Let TRL's trainer call the fast forward pass, where overriding its methods does not do."""

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """Return TRL's loss of one batch."""
        before = self.fast.passes if self.fast else -1
        loss: Tensor = super().training_step(*args, **kwargs)
        assert self.fast is None or self.fast.passes > before, "The fast path was chosen and did not run."
        return loss
