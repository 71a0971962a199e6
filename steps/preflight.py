"""Step: what a run is about to do, held against its rows."""

import logging
from typing import Annotated

from zenml import step

from llm_engineering.planning.intent import CountedRows, Intent, check_rows, require_libraries
from llm_engineering.reports.folders import RowSet
from steps.runtime.context import log_facts

_log = logging.getLogger(__name__)
OUTPUT = "preflight"


@step(enable_cache=False)  # what it warns of is said in every run
def preflight(
    sft_rows: RowSet, preference_rows: RowSet, questions: RowSet, intent: Intent
) -> Annotated[bool, "preflight"]:
    """Refuse what cannot work with these libraries and rows; trainings wait for its output, which never differs."""
    require_libraries(intent)
    warnings = check_rows(intent, CountedRows(sft_rows, preference_rows, questions))
    for warning in warnings:
        _log.warning(warning)
    log_facts({"warnings": warnings})
    return True
