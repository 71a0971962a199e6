"""What shapes a training of either stage, as one value; it holds nothing of the other stage."""

from llm_engineering.config.block import Block
from llm_engineering.config.evaluation import EvaluationConfig
from llm_engineering.config.model import AdapterConfig, ModelConfig
from llm_engineering.config.watch import WatchConfig


class TrainingSettings(Block):
    """Everything that shapes a training beside its stage's own settings, its model and its rows."""

    model: ModelConfig
    adapter: AdapterConfig
    evaluation: EvaluationConfig
    """By what the model is measured while it trains."""
    acting: WatchConfig
    """What of the watch can stop or restart the training."""
    checker_sha256: str
    """Hash of a user's checker, and of a user's own loss: an edited one trains anew."""
    sharding: str
    """Checkpoints of one kind of sharding are of no use to another."""
    seed: int
