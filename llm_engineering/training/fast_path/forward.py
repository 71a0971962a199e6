"""The forward pass of a causal language model over a flat row, and its count."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from llm_engineering.training.fast_path.attention import IMPLEMENTATION, Segments, register
from llm_engineering.training.fast_path.head import TokenScores, score_tokens
from llm_engineering.training.fast_path.layout import FlatRows
from llm_engineering.training.fast_path.lora import fuse_adapters

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class FastForward:
    """Runs a causal language model on flat rows; adapters act as they do in the model's own forward pass."""

    def __init__(self, model: "PreTrainedModel") -> None:
        """Prepare the model: its attention takes segments, its adapters are one operation a layer.

        Args:
            model: The causal language model itself, without PEFT's wrapper; see ``support`` for which ones may be.
        """
        register()
        model.set_attn_implementation(IMPLEMENTATION)
        fuse_adapters(model)
        self.model: Any = model
        self.layers: int = model.config.get_text_config().num_hidden_layers
        self.passes = 0
        """Passes over flat rows so far."""

    def hidden_states(self, rows: FlatRows) -> Tensor:
        """Return the last hidden states, (N, E), of all tokens of the flat row."""
        segments = Segments(rows.segments)
        output = self.model.base_model(
            input_ids=rows.input_ids_N[None],
            position_ids=rows.position_ids_N[None],
            # transformers hands a mask of four axes on as it is, and builds none
            attention_mask=torch.ones(1, 1, 1, 1, dtype=torch.bool, device=rows.input_ids_N.device),
            use_cache=False,
            segments=segments,
        )
        assert segments.layers == self.layers, "Attention did not run over segments."
        self.passes += 1
        hidden_NE: Tensor = output.last_hidden_state[0]
        return hidden_NE

    def score(self, hidden_KE: Tensor, targets_K: Tensor, statistics: bool) -> TokenScores:
        """Return what the head says of tokens, given the hidden states before them."""
        return score_tokens(self.model.get_output_embeddings(), hidden_KE, targets_K, statistics)
