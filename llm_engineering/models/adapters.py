"""Low-rank adapters by PEFT."""

from typing import TYPE_CHECKING

from llm_engineering.config.schema import DoraAdapter, LoraAdapter
from llm_engineering.errors import ConfigError

if TYPE_CHECKING:
    from peft import LoraConfig
    from transformers import PreTrainedModel


def adapter_config(config: LoraAdapter, model: "PreTrainedModel") -> "LoraConfig":
    """Return PEFT's configuration of the adapter.

    Raises:
        ConfigError: There are no targets, or one of them matches no linear layer of the model.
    """
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
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in model.modules()),
        task_type="CAUSAL_LM",
    )
