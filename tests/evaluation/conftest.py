from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from llm_engineering.config.model import ModelConfig
from llm_engineering.models.chat import load_chat_tokenizer
from llm_engineering.models.checkpoints import load_model, locate_base
from llm_engineering.reports.folders import Checkpoint


class TableModel(torch.nn.Module):
    """Gives every token the logits that a table has for the token before it: likelihoods can be worked out by hand."""

    def __init__(self, logits: Sequence[Sequence[float]]) -> None:
        super().__init__()
        self.table = torch.nn.Parameter(torch.tensor(logits))
        self.device = torch.device("cpu")
        self.config = SimpleNamespace(get_text_config=lambda: SimpleNamespace(vocab_size=len(logits[0])))

    def forward(self, input_ids: torch.Tensor, **kwargs: Any) -> SimpleNamespace:
        return SimpleNamespace(logits=self.table[input_ids])


@pytest.fixture
def table_model() -> Callable[[Sequence[Sequence[float]]], TableModel]:
    return TableModel


@pytest.fixture(scope="session")
def embedded() -> Checkpoint:
    return locate_base(ModelConfig())


@pytest.fixture(scope="session")
def embedded_model(embedded: Checkpoint) -> Any:
    return load_model(embedded.path, torch.float32)


@pytest.fixture(scope="session")
def embedded_tokenizer(embedded: Checkpoint) -> Any:
    return load_chat_tokenizer(embedded, ModelConfig()).tokenizer
