"""Step: rows to tokens, masks and splits, with the row ledger."""

from typing import Annotated

from zenml import step

from llm_engineering.config.data import DataConfig
from llm_engineering.config.model import ModelConfig
from llm_engineering.data.preparation import prepare_rows
from llm_engineering.models.chat import load_chat_tokenizer
from llm_engineering.reports.data import DatasetReport
from llm_engineering.reports.folders import Checkpoint, Folder, RowSet
from steps.runtime.context import log_facts
from steps.runtime.fetching import described
from steps.runtime.work import scratch_folder


@step
def format_datasets(
    raw_rows: RowSet, base: Checkpoint, model: ModelConfig, data: DataConfig, seed: int
) -> tuple[
    Annotated[RowSet, "sft_rows"],
    Annotated[RowSet, "preference_rows"],
    Annotated[RowSet, "questions"],
    Annotated[DatasetReport, "dataset_report"],
    Annotated[Folder, "quarantine"],
]:
    """Format, check, split and tokenise the rows, and account for every one of them."""
    prepared = prepare_rows(raw_rows, data, load_chat_tokenizer(described(base), model), seed, scratch_folder())
    report = prepared.report
    log_facts({"template": report.template, "tokens": report.tokens, "trained_tokens": report.trained_tokens})
    return prepared.sft, prepared.preference, prepared.questions, report, prepared.quarantine
