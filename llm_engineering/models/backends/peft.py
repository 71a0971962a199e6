"""Models as transformers loads them and PEFT computes with them."""

from pathlib import Path
from typing import TYPE_CHECKING

from llm_engineering.models.checkpoints import load_model

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import BitsAndBytesConfig, PreTrainedModel


def start() -> None:
    """Do nothing: the order of imports is free."""


def load(
    folder: Path,
    dtype: "torch.dtype",
    *,
    attention: str = "auto",
    quantization: "BitsAndBytesConfig | None" = None,
    in_main_memory: bool = False,
) -> "PreTrainedModel":
    """Return the causal language model in a folder, on the machine's device unless it is to stay in main memory."""
    return load_model(folder, dtype, attention=attention, quantization=quantization, in_main_memory=in_main_memory)


def speed_up(model: "PeftModel", *, gradient_checkpointing: bool) -> None:
    """Do nothing: the trainers have their own fast path."""
