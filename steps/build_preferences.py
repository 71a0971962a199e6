"""Step: preference pairs from the run's own SFT model."""

from typing import Annotated

from zenml import step

from llm_engineering.config.data import SampleSettings
from llm_engineering.config.model import ModelConfig
from llm_engineering.reports.data import PreferenceReport
from llm_engineering.reports.folders import Checkpoint, RowSet
from llm_engineering.training import preferences as library
from steps.runtime.context import log_facts
from steps.runtime.fetching import at_hand
from steps.runtime.traits import traits
from steps.runtime.work import scratch_folder


@traits(gpu=True)
@step
def build_preferences(
    sft_model: Checkpoint,
    questions: RowSet,
    preference_rows: RowSet,
    sample: SampleSettings,
    model: ModelConfig,
    max_length: int,
    checker_sha256: str,  # in the cache key: an edited checker judges anew
    seed: int,
) -> tuple[Annotated[RowSet, "sampled_preference_rows"], Annotated[PreferenceReport, "preference_report"]]:
    """Sample answers, let the checker order them, and add the pairs to those from files."""
    rows, report = library.build_preferences(
        sample,
        at_hand(sft_model),
        questions,
        preference_rows,
        model,
        max_length=max_length,
        seed=seed,
        folder=scratch_folder(),
    )
    log_facts(report.model_dump())
    return rows, report
