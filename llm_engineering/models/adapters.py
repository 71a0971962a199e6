"""What is trained of a model: low-rank adapters by PEFT, or all of its weights."""

from typing import TYPE_CHECKING

from llm_engineering.config.hardware import HardwareConfig
from llm_engineering.config.model import (
    AdapterConfig,
    DoraAdapter,
    FullFineTuning,
    ModelConfig,
    QloraAdapter,
    UnslothBackend,
)
from llm_engineering.errors import ConfigError
from llm_engineering.models.backends import pick_backend
from llm_engineering.models.checkpoints import require_finite
from llm_engineering.models.hardware import pick_dtype, require_attention, require_bitsandbytes

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from peft import LoraConfig
    from transformers import BitsAndBytesConfig, PreTrainedModel


def load_for_training(
    folder: "Path", model: ModelConfig, adapter: AdapterConfig, hardware: HardwareConfig | None = None
) -> "PreTrainedModel":
    """Return the model in a folder as it is trained: quantised for QLoRA, in float32 where all weights are trained.

    What is to be shared out among processes stays in main memory, unless it is quantised: that is done on the GPU.

    Updates of a half-precision weight would be rounded away where they are small (mixed precision, Micikevicius et al.
    2018, arXiv:1710.03740, section 3.1); products are still computed in ``model.dtype``, by autocast.

    Raises:
        ConfigError: The hardware or a package does not allow what is configured.
        ModelError: The folder holds no complete causal language model, or weights that are no numbers.
    """
    import torch

    dtype, load = require_hardware(model, adapter), pick_backend(model.backend).load
    is_shared_out = hardware is not None and hardware.sharding != "none"
    if isinstance(adapter, QloraAdapter):
        how = quantization(adapter.bits, dtype, dtype if is_shared_out else None)
        loaded = load(folder, dtype, attention=model.attention, quantization=how)
    else:
        weights = torch.float32 if isinstance(adapter, FullFineTuning) else dtype
        loaded = load(folder, weights, attention=model.attention, in_main_memory=is_shared_out)
    require_finite(loaded, folder)
    return loaded


def require_backend(model: ModelConfig, adapter: AdapterConfig) -> None:
    """Refuse what no machine can train with the configured backend.

    Raises:
        ConfigError: The backend does not train all weights.
    """
    if isinstance(adapter, FullFineTuning) and isinstance(model.backend, UnslothBackend):
        raise ConfigError(
            "adapter.type full needs model.backend {type: peft}: Unsloth's kernels compute the gradients of adapters "
            "alone. Set that, or adapter.type lora."
        )


def require_hardware(model: ModelConfig, adapter: AdapterConfig) -> "torch.dtype":
    """Return the precision of the weights, if this machine can train in the configured way.

    Raises:
        ConfigError: The hardware, a package or the backend does not allow it.
    """
    require_backend(model, adapter)
    dtype = pick_dtype(model.dtype)
    require_attention(model.attention, dtype)
    if isinstance(adapter, QloraAdapter):
        require_bitsandbytes(adapter.bits)
    return dtype


def quantization(bits: int, dtype: "torch.dtype", storage: "torch.dtype | None" = None) -> "BitsAndBytesConfig":
    """Return how weights are kept: in 4 bits as NormalFloat, its scales quantised too (QLoRA, section 3); or in 8.

    Args:
        bits: 4 or 8.
        dtype: Precision of products.
        storage: What the tensors that hold 4-bit weights say they are; FSDP shares out only those of floats.
    """
    from transformers import BitsAndBytesConfig

    if bits == 8:
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        bnb_4bit_quant_storage=storage,
    )


def adapter_config(config: AdapterConfig, model: "PreTrainedModel") -> "LoraConfig | None":
    """Return PEFT's configuration of the adapter; none where all weights are trained.

    Raises:
        ConfigError: There are no targets, or one of them matches no linear layer of the model.
    """
    if isinstance(config, FullFineTuning):
        return None
    from peft import LoraConfig
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    linear = {name.rsplit(".", 1)[-1] for name, m in model.named_modules() if isinstance(m, nn.Linear | Conv1D)}
    if config.targets != "all-linear":
        missing = sorted(set(config.targets) - linear)
        if missing or not config.targets:
            raise ConfigError(
                f"adapter.targets {missing} match no linear layer of the model. There are: {', '.join(sorted(linear))}."
            )
    return LoraConfig(
        r=config.r,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules=config.targets,
        use_dora=isinstance(config, DoraAdapter),
        use_rslora=config.rank_stabilized,
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in model.modules()),
        task_type="CAUSAL_LM",
    )
