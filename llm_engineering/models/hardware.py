"""What the machine can do."""

from typing import TYPE_CHECKING, Literal

from llm_engineering.errors import ConfigError

if TYPE_CHECKING:
    import torch


def pick_device() -> "torch.device":
    """Return the GPU if there is one, else the CPU."""
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def pick_dtype(asked: Literal["auto", "float32", "bfloat16", "float16"]) -> "torch.dtype":
    """Return the precision of weights; ``auto`` is bfloat16 on a GPU that has it, else float32.

    Raises:
        ConfigError: Half precision was asked for where the hardware lacks it.
    """
    import torch

    has_gpu = torch.cuda.is_available()
    if asked == "auto":
        return torch.bfloat16 if has_gpu and torch.cuda.is_bf16_supported() else torch.float32
    if asked == "float16" and not has_gpu:
        raise ConfigError("model.dtype float16 needs a GPU and there is none. Use auto, float32 or bfloat16.")
    if asked == "bfloat16" and has_gpu and not torch.cuda.is_bf16_supported():
        raise ConfigError("model.dtype bfloat16 is not supported by this GPU. Use auto, float16 or float32.")
    dtype: torch.dtype = getattr(torch, asked)
    return dtype


def describe_hardware() -> str:
    """Return one phrase, such as ``CPU, 2 threads`` or the GPU's name."""
    import torch

    if torch.cuda.is_available():
        return str(torch.cuda.get_device_name())
    threads = torch.get_num_threads()
    return f"CPU, {threads} thread{'' if threads == 1 else 's'}"
