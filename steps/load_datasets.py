"""Step: read the configured sources as they are."""

from typing import Annotated

from zenml import step

from llm_engineering.config.data import DataConfig
from llm_engineering.data.loading import Origins, load_raw_rows
from llm_engineering.reports.folders import RowSet
from steps.runtime.context import log_facts
from steps.runtime.stores import load_artifacts
from steps.runtime.work import scratch_folder


@step
def load_datasets(
    data: DataConfig,
    origins: Origins,  # in the cache key: an edited file or a newer artifact is read again
    seed: int,
) -> Annotated[RowSet, "raw_rows"]:
    """Read every source; nothing is dropped or changed."""
    rows = load_raw_rows(data, seed, scratch_folder(), load_artifacts(origins.artifacts))
    log_facts({"rows": dict(zip(data.source_names, rows.rows.values(), strict=True))})
    return rows
