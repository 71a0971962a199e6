"""What code a run was made with: recorded when it starts, so that two runs can be told apart later."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from zenml import log_metadata
from zenml.client import Client
from zenml.models import PipelineRunResponse

from steps.runtime.caching import REPOSITORY, code_dependencies, packages

STEPS = (
    "load_datasets",
    "format_datasets",
    "train_sft",
    "merge",
    "build_preferences",
    "score_reference",
    "train_dpo",
    "evaluate",
)
"""The modules of steps whose results the code shapes; reports and decisions are not among them."""
KEY = "code"


def code_facts() -> dict[str, Any]:
    """Return the versions of the packages, and the hashes of the files that results depend on."""
    files = sorted({file for step in STEPS for file in code_dependencies(f"steps.{step}")})
    hashes = {file: hashlib.sha256((REPOSITORY / file).read_bytes()).hexdigest()[:12] for file in files}
    return {"packages": packages(), "modules": hashes}


@contextmanager
def recorded(run: str, facts: dict[str, Any]) -> Iterator[None]:
    """Attach the facts to a run as metadata once it has ended, or failed: so they are in no step's configuration."""
    try:
        yield
    finally:
        if Client().list_pipeline_runs(name=run, size=1).items:
            log_metadata(metadata={KEY: facts}, run_id_name_or_prefix=run)


def recorded_code(run: PipelineRunResponse) -> dict[str, dict[str, str]]:
    """Return the facts of a run; empty for one that was made before they were recorded, or was killed."""
    found = run.run_metadata.get(KEY)
    return found if isinstance(found, dict) else {}
