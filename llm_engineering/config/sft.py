"""Supervised fine-tuning."""

from llm_engineering.config.block import PositiveFloat, Rate
from llm_engineering.config.stage import StageConfig


class SFTStageConfig(StageConfig):
    """Supervised fine-tuning: cross-entropy on the answer tokens."""

    learning_rate: Rate = 2.0e-4
    """Peak rate, after the warm-up."""
    disable_dropout: bool = False
    """Take out the dropout that the base model was built with; DPO always does. ``adapter.dropout`` stays."""
    neftune_alpha: PositiveFloat | None = None
    """Noise on the embeddings (NEFTune, Jain et al. 2023, arXiv:2310.05914; theirs: 5 to 15); not on the fast path."""
