import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from prepared import Prepare, prepare_in

from llm_engineering.data.preparation import PreparedRows
from llm_engineering.models.chat import ChatTokenizer


@pytest.fixture
def prepare(chats: Callable[[str], ChatTokenizer], tmp_path: Path) -> Prepare:
    """Return a function that prepares rows with llama's tokenizer: no row is held out, any share may be dropped."""

    def run(sft: Sequence[Any] = (), preference: Sequence[Any] = (), seed: int = 0, **rules: Any) -> PreparedRows:
        return prepare_in(Path(tempfile.mkdtemp(dir=tmp_path)), chats("llama"), sft, preference, seed, **rules)

    return run


@pytest.fixture
def decode(chats: Callable[[str], ChatTokenizer]) -> Callable[[list[int]], str]:
    tokenizer = chats("llama").tokenizer
    return lambda ids: str(tokenizer.decode(ids))
