"""What a model is made of, from its config.json alone: no weights are read, and none are allocated."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from llm_engineering.errors import ModelError
from llm_engineering.models.auto_classes import build_model, read_config

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel


@dataclass(frozen=True)
class LinearLayers:
    """Linear layers of one name and size."""

    name: str
    """The last part of their names, as adapters target them."""
    inputs: int
    outputs: int
    count: int

    @property
    def parameters(self) -> int:
        """Weights of all of them, biases apart."""
        return self.count * self.inputs * self.outputs


@dataclass(frozen=True)
class ModelShape:
    """Sizes of a causal language model."""

    model_type: str
    parameters: int
    hidden: int
    layers: int
    vocabulary: int
    key_value_width: int
    """Numbers that a layer keeps of a token for its keys, and again for its values."""
    tied: bool
    """Input and output embeddings are one matrix."""
    linear: tuple[LinearLayers, ...]
    """All linear layers but the output head."""

    @property
    def linear_parameters(self) -> int:
        """Weights of the linear layers, the head apart."""
        return sum(layer.parameters for layer in self.linear)

    @property
    def multiplied(self) -> int:
        """Parameters that every token is multiplied with: all but the input embeddings, which are looked up."""
        return self.parameters - (0 if self.tied else self.vocabulary * self.hidden)


def read_architecture(folder: Path) -> "PretrainedConfig":
    """Return the language model's configuration in a folder.

    Raises:
        ModelError: transformers does not know it.
    """
    text: PretrainedConfig = read_config(folder).get_text_config()
    return text


def build_without_weights(folder: Path) -> "PreTrainedModel":
    """Return the model in a folder with all of its layers, none of which has memory.

    Raises:
        ModelError: transformers cannot build it.
    """
    import torch

    try:
        with torch.device("meta"):
            return build_model(read_architecture(folder))
    except (ValueError, RuntimeError, TypeError, AttributeError) as error:
        raise ModelError(f"{folder} is no causal language model that transformers can build: {error}") from error


def read_shape(folder: Path) -> ModelShape:
    """Return the shape of the model in a folder.

    Raises:
        ModelError: transformers cannot build it.
    """
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    config, model = read_architecture(folder), build_without_weights(folder)
    head = model.get_output_embeddings()
    found: Counter[tuple[str, int, int]] = Counter()
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | Conv1D) and module is not head:
            sizes = tuple(module.weight.shape)
            outputs, inputs = sizes if isinstance(module, nn.Linear) else sizes[::-1]
            found[name.rsplit(".", 1)[-1], inputs, outputs] += 1
    heads = config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    return ModelShape(
        model_type=config.model_type,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        hidden=config.hidden_size,
        layers=config.num_hidden_layers,
        vocabulary=config.vocab_size,
        key_value_width=width * (getattr(config, "num_key_value_heads", None) or heads),
        tied=bool(config.tie_word_embeddings),
        linear=tuple(LinearLayers(*layer, count) for layer, count in sorted(found.items())),
    )
