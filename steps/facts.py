"""What ZenML knows about a run, for the reports."""

from datetime import UTC, datetime
from pathlib import Path

from zenml.enums import ExecutionStatus
from zenml.models import ArtifactVersionResponse, PipelineRunResponse

from llm_engineering.reporting.bundle import ModelVersion, RunFacts
from steps.materializers import FILES


def run_facts(run: PipelineRunResponse, error: str | None = None, stage: str | None = None) -> RunFacts:
    """Return the facts of a run, finished or not.

    Args:
        run: The run.
        error: The sentence that it failed with.
        stage: The stage that its model version holds.
    """
    steps = sorted(run.steps.values(), key=lambda step: step.start_time or datetime.max)
    seconds = {
        step.name: (step.end_time - step.start_time).total_seconds()
        for step in steps
        if step.start_time and step.end_time and step.status == ExecutionStatus.COMPLETED
    }
    version = run.model_version
    return RunFacts(
        name=run.name,
        id=str(run.id),
        pipeline=run.pipeline.name if run.pipeline else "",
        status="failed" if error else "completed",
        seconds=_seconds(run),
        step_seconds=seconds,
        cached_steps=[step.name for step in steps if step.status == ExecutionStatus.CACHED],
        model=ModelVersion(name=version.model.name, version=version.name, stage=stage) if version else None,
        error=error,
        artifacts={name: _place(versions[0]) for step in steps for name, versions in step.outputs.items() if versions},
    )


def _place(artifact: ArtifactVersionResponse) -> str:
    """Return the path that a person would open: the folder or page itself, where it lies in a local store."""
    inside = (Path(artifact.uri) / name for name in (FILES, "output.html"))
    return next((str(path) for path in inside if path.exists()), artifact.uri)


def _seconds(run: PipelineRunResponse) -> float:
    start = run.start_time
    if start is None:
        return 0.0
    now = datetime.now(UTC).replace(tzinfo=None) if start.tzinfo is None else datetime.now(UTC)
    return ((run.end_time or now) - start).total_seconds()
