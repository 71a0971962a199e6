"""What loads a model for training and may speed it up: one module a backend, with the functions of :class:`Backend`."""

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from llm_engineering.config.model import BackendConfig, UnslothBackend

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import BitsAndBytesConfig, PreTrainedModel


class Backend(Protocol):
    """What SFT and DPO ask of a backend. The adapter itself is PEFT's, whoever computes with it."""

    def start(self) -> None:
        """Import what has to be imported before transformers, TRL and PEFT.

        Raises:
            ConfigError: It is not installed, does not run on this machine, or it is too late.
        """

    def load(
        self,
        folder: Path,
        dtype: "torch.dtype",
        *,
        attention: str = "auto",
        quantization: "BitsAndBytesConfig | None" = None,
        in_main_memory: bool = False,
    ) -> "PreTrainedModel":
        """Return the causal language model in a folder, on the machine's device, for training.

        Arguments are those of ``checkpoints.load_model``.

        Raises:
            ModelError: The folder holds something else, not all of the weights, or others than are loaded.
        """

    def speed_up(self, model: "PeftModel", *, gradient_checkpointing: bool) -> None:
        """Change how a model computes, once the trainer has attached the adapter; never what it computes."""


def pick_backend(config: BackendConfig) -> Backend:
    """Return the module of the configured backend."""
    if isinstance(config, UnslothBackend):
        from llm_engineering.models.backends import unsloth

        return unsloth
    from llm_engineering.models.backends import peft

    return peft
