"""The forward pass of a causal language model over a flat row, and its count."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from llm_engineering.models.flat.attention import IMPLEMENTATION, Segments, register
from llm_engineering.models.flat.head import TokenScores, score_tokens
from llm_engineering.models.flat.layout import FlatRows
from llm_engineering.models.flat.lora import fuse_adapters

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
        self.last_mlp = LastMLP(model)

    def hidden_states(self, rows: FlatRows, index_K: Tensor) -> Tensor:
        """Return the last hidden states, (K, E), of some tokens of the flat row."""
        segments = Segments(rows.segments)
        # a checkpointed layer runs again in the backward pass, when nobody says which tokens are wanted
        wanted = None if self.model.is_gradient_checkpointing else torch.unique(index_K)
        with self.last_mlp.only(wanted):
            hidden_NE = self._run(rows, segments)
        assert segments.layers == self.layers, "Attention did not run over segments."
        self.passes += 1
        return hidden_NE.index_select(0, index_K)

    def _run(self, rows: FlatRows, segments: Segments) -> Tensor:
        output = self.model.base_model(
            input_ids=rows.input_ids_N[None],
            position_ids=rows.position_ids_N[None],
            # transformers hands a mask of four axes on as it is, and builds none
            attention_mask=torch.ones(1, 1, 1, 1, dtype=torch.bool, device=rows.input_ids_N.device),
            use_cache=False,
            segments=segments,
        )
        hidden_NE: Tensor = output.last_hidden_state[0]
        return hidden_NE

    def score(self, hidden_KE: Tensor, targets_K: Tensor, statistics: bool) -> TokenScores:
        """Return what the head says of tokens, given the hidden states before them."""
        return score_tokens(self.model.get_output_embeddings(), hidden_KE, targets_K, statistics)


class LastMLP:
    """Lets the last layer's MLP run on the tokens whose hidden states are wanted: nothing else reads its outputs."""

    def __init__(self, model: "PreTrainedModel") -> None:
        """Wrap the forward pass of the module named ``mlp`` in the last layer."""
        *_, self.mlp = (module for name, module in model.named_modules() if name.endswith(".mlp"))
        self.index_K: Tensor | None = None
        self.whole = self.mlp.forward
        self.mlp.forward = self

    def __call__(self, hidden_1NE: Tensor) -> Tensor:
        """Return the MLP's outputs, (1, N, E), 0 where none are wanted."""
        if self.index_K is None:
            return self.whole(hidden_1NE)  # type: ignore[no-any-return]
        wanted_1KE = self.whole(hidden_1NE.index_select(1, self.index_K))
        return wanted_1KE.new_zeros(hidden_1NE.shape).index_copy(1, self.index_K, wanted_1KE)  # type: ignore[no-any-return]

    @contextmanager
    def only(self, index_K: Tensor | None) -> Iterator[None]:
        """Want the outputs of these tokens alone, of all if None."""
        self.index_K = index_K
        try:
            yield
        finally:
            self.index_K = None
