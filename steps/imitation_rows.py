"""Step: the chosen answers of the pairs as SFT rows, for the controls of a comparison."""

from typing import Annotated

from zenml import step

from llm_engineering.config.model import ModelConfig
from llm_engineering.models.chat import load_chat_tokenizer
from llm_engineering.reports.folders import Checkpoint, RowSet
from llm_engineering.training import imitation as library
from steps.runtime.context import log_facts
from steps.runtime.fetching import described
from steps.runtime.work import scratch_folder


@step
def imitation_rows(
    preference_rows: RowSet,
    questions: RowSet,
    base: Checkpoint,
    model: ModelConfig,
    checker: str | None,
    checker_sha256: str,  # in the cache key: an edited checker judges anew
) -> Annotated[RowSet, "imitation_rows"]:
    """Keep the chosen answers, or those of them that the checker finds nothing wrong with."""
    tokenizer = load_chat_tokenizer(described(base), model).tokenizer
    rows = library.imitation_rows(preference_rows, questions, tokenizer, checker, scratch_folder())
    log_facts({"rows": rows.rows, "kept_by": checker or "none: every chosen answer"})
    return rows
