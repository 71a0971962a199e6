"""What the machine can do."""

from importlib.util import find_spec
from typing import TYPE_CHECKING, Literal

from llm_engineering.config.hardware import HardwareConfig, TorchrunHardware
from llm_engineering.config.stage import Optimizer
from llm_engineering.errors import ConfigError
from llm_engineering.reports.folders import StageName

if TYPE_CHECKING:
    import torch


def pick_device() -> "torch.device":
    """Return the GPU if there is one, else the CPU."""
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def pick_dtype(asked: Literal["auto", "float32", "tf32", "bfloat16", "float16"]) -> "torch.dtype":
    """Return the precision of weights; ``auto`` is bfloat16 on a GPU that has it, float16 on another, else float32.

    Raises:
        ConfigError: A precision was asked for that the hardware lacks.
    """
    import torch
    from transformers.utils import is_torch_tf32_available

    has_gpu = torch.cuda.is_available()
    if asked == "auto":
        if not has_gpu:
            return torch.float32
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    if asked == "tf32":
        if not is_torch_tf32_available():
            raise ConfigError(
                "model.dtype tf32 needs an NVIDIA GPU that has it (Ampere or newer). Use auto or float32."
            )
        return torch.float32
    if asked == "float16" and not has_gpu:
        raise ConfigError("model.dtype float16 needs a GPU and there is none. Use auto, float32 or bfloat16.")
    if asked == "bfloat16" and has_gpu and not torch.cuda.is_bf16_supported():
        raise ConfigError("model.dtype bfloat16 is not supported by this GPU. Use auto, float16 or float32.")
    dtype: torch.dtype = getattr(torch, asked)
    return dtype


def pick_optimizer(asked: Optimizer) -> str:
    """Return transformers' name of the optimizer: AdamW where the asked one cannot run here."""
    needs_bitsandbytes = "8bit" in asked or "paged" in asked
    return "adamw_torch_fused" if needs_bitsandbytes and not _has_bitsandbytes() else asked


def _has_bitsandbytes() -> bool:
    import torch

    return torch.cuda.is_available() and find_spec("bitsandbytes") is not None


def require_bitsandbytes(bits: int) -> None:
    """Refuse weights in few bits where they cannot be computed with.

    Raises:
        ConfigError: There is no CUDA GPU, or the package is missing.
    """
    import torch

    if not torch.cuda.is_available():
        raise ConfigError(f"adapter.type qlora ({bits} bits) needs a CUDA GPU and there is none. Use lora or dora.")
    if not _has_bitsandbytes():
        raise ConfigError("adapter.type qlora needs bitsandbytes. Install the extra cuda, or use lora or dora.")


def require_liger(stage: StageName, asked: bool) -> bool:
    """Return whether Liger's kernels are used.

    Raises:
        ConfigError: They are asked for and cannot run here.
    """
    import torch

    if asked and not (torch.cuda.is_available() and find_spec("liger_kernel")):
        raise ConfigError(
            f"{stage}.liger_kernel needs a CUDA GPU and the package liger-kernel. Install it, or set it to false."
        )
    return asked


def require_devices(hardware: HardwareConfig) -> None:
    """Refuse more processes than this machine has devices for, and strategies that cannot run on them.

    It is asked where training happens: another machine may have what this one lacks.

    Raises:
        ConfigError: The GPUs, or the cores where there is no GPU, are too few; or DeepSpeed is missing.
    """
    import torch

    if not isinstance(hardware, TorchrunHardware):
        return
    devices, name = count_devices()
    if hardware.processes > devices:
        raise ConfigError(
            f"hardware.processes {hardware.processes} is more than this machine has {name} ({devices}). Lower it, or "
            "use hardware {type: local}."
        )
    if hardware.strategy.startswith("deepspeed") and find_spec("deepspeed") is None:
        raise ConfigError(
            f"hardware.strategy {hardware.strategy} needs DeepSpeed. Install the extra: pip install "
            "'llm-engineering[deepspeed]', or use fsdp."
        )
    if hardware.is_sharded and not torch.cuda.is_available():
        raise ConfigError(
            f"hardware.strategy {hardware.strategy} shares weights out among GPUs and there is none. Use ddp."
        )


def count_devices() -> tuple[int, str]:
    """Return how many processes can train here, each on a device of its own, and what the devices are."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.device_count(), "GPUs"
    return usable_cores(), "CPU cores, without a GPU"


def usable_cores() -> int:
    """Return how many CPU cores this process may use."""
    import os

    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def require_attention(asked: str, dtype: "torch.dtype") -> None:
    """Refuse an attention kernel that cannot run here.

    Raises:
        ConfigError: FlashAttention was asked for where it is not installed, or not in half precision.
    """
    import torch
    from transformers.utils import is_flash_attn_2_available

    if asked != "flash_attention_2":
        return
    if not is_flash_attn_2_available():
        raise ConfigError("model.attention flash_attention_2 needs a CUDA GPU and flash-attn. Use auto or sdpa.")
    if dtype == torch.float32:
        raise ConfigError(
            "model.attention flash_attention_2 needs model.dtype bfloat16 or float16. Use those, or sdpa."
        )


def describe_hardware() -> str:
    """Return one phrase, such as ``CPU, 2 threads`` or the GPU's name."""
    import torch

    if torch.cuda.is_available():
        return str(torch.cuda.get_device_name())
    threads = torch.get_num_threads()
    return f"CPU, {threads} thread{'' if threads == 1 else 's'}"


def describe_machine() -> str:
    """Return what computes, and on what: ``CPU, 2 threads; Linux x86_64, 2 cores; Python 3.11.9``."""
    import os
    import platform

    cores = os.cpu_count() or 1
    system = f"{platform.system()} {platform.machine()}, {cores} core{'' if cores == 1 else 's'}"
    return f"{describe_hardware()}; {system}; Python {platform.python_version()}"


def matmul_speed(dtype: "torch.dtype", seconds: float = 0.2) -> float:
    """Return the FLOP/s of a large matrix product here, the best of several.

    Args:
        dtype: Precision of the matrices.
        seconds: For about so long it is measured.
    """
    import time

    import torch

    device = pick_device()
    side = 4096 if device.type == "cuda" else 768
    left, right = (torch.ones(side, side, device=device, dtype=dtype) for _ in range(2))
    shortest, until = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < until:
        started = time.perf_counter()
        product = left @ right
        if device.type == "cuda":
            torch.cuda.synchronize()
        del product
        shortest = min(shortest, time.perf_counter() - started)
    return float(2 * side**3 / shortest)
