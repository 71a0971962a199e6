"""What code a run was made with: recorded when it starts, so that two runs can be told apart later."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from zenml import log_metadata
from zenml.client import Client
from zenml.models import PipelineRunResponse
from zenml.steps import BaseStep
from zenml.types import HTMLString

from steps.runtime.caching import code_digests, packages
from steps.runtime.traits import all_steps

KEY = "code"


def code_facts() -> dict[str, Any]:
    """Return the versions of the packages, and the hashes of the files that results depend on."""
    modules = {step.entrypoint.__module__ for step in all_steps().values() if _gives_results(step)}
    digests = {file: digest[:12] for module in modules for file, digest in code_digests(module).items()}
    return {"packages": packages(), "modules": dict(sorted(digests.items()))}


def _gives_results(step: BaseStep) -> bool:
    """Return whether runs differ by what a step gives: one that always runs decides or reports, and pages only show."""
    is_page = any(output.resolved_annotation is HTMLString for output in step.entrypoint_definition.outputs.values())
    return step.configuration.enable_cache is not False and not is_page


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
