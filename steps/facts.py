"""What ZenML knows about a run, for the reports."""

from datetime import UTC, datetime

from zenml.enums import ExecutionStatus
from zenml.models import ArtifactVersionResponse, PipelineRunResponse

from llm_engineering.reporting.bundle import ModelVersion, RunFacts


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
        artifacts={name: artifact.uri for step in steps for name, artifact in _outputs(step.outputs).items()},
    )


def _outputs(outputs: dict[str, list[ArtifactVersionResponse]]) -> dict[str, ArtifactVersionResponse]:
    return {name: versions[0] for name, versions in outputs.items() if versions}


def _seconds(run: PipelineRunResponse) -> float:
    start = run.start_time
    if start is None:
        return 0.0
    now = datetime.now(UTC).replace(tzinfo=None) if start.tzinfo is None else datetime.now(UTC)
    return ((run.end_time or now) - start).total_seconds()
