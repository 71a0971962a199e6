"""Follow a run that another machine executes: say which step begins and ends, until the run has ended."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from uuid import UUID

import requests
from zenml.client import Client
from zenml.enums import ExecutionStatus
from zenml.models import PipelineRunResponse, StepRunResponse
from zenml.utils.dashboard_utils import get_run_url
from zenml.utils.string_utils import get_human_readable_time

from llm_engineering.errors import PipelineError, StoppedFollowing, TrainingError, error_named
from pipelines.checkup import RUNNING
from pipelines.launching.step_facts import StepFact, tell

SECONDS_BETWEEN_LOOKS = 2.0


def follow(run_id: UUID, seconds: float = SECONDS_BETWEEN_LOOKS) -> PipelineRunResponse:
    """Wait for the end of a run, however long that takes, and return it as it ended.

    Args:
        run_id: Of a run that was submitted.
        seconds: Between two looks.

    Raises:
        PipelineError: A step failed; it is the error that the step raised, where it is one of this project's.
        StoppedFollowing: Somebody pressed Ctrl-C, or the server answers no more; the run goes on.
    """
    told: set[tuple[UUID, ExecutionStatus]] = set()
    run = Client().get_pipeline_run(run_id)
    with _watching(run):
        while True:
            _tell(run, told)
            if run.status.is_finished:
                break
            time.sleep(seconds)
            run = Client().get_pipeline_run(run_id)
    if not run.status.is_successful:
        raise failure_of(run)
    return run


@contextmanager
def submitting(run_name: str) -> Iterator[None]:
    """Say what becomes of a run if Ctrl-C comes while it is submitted, or while its orchestrator waits for it.

    Raises:
        StoppedFollowing: The run had been submitted, and goes on.
    """
    try:
        yield
    except KeyboardInterrupt as error:
        found = Client().list_pipeline_runs(name=run_name, size=1, hydrate=True).items
        if not found:
            raise
        raise StoppedFollowing(f"It is no longer watched. {_again(found[0])}") from error


@contextmanager
def _watching(run: PipelineRunResponse) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt as error:
        raise StoppedFollowing(f"It is no longer watched. {_again(run)}") from error
    except requests.exceptions.ConnectionError as error:  # ZenML's own attempts are over by then
        raise StoppedFollowing(f"The ZenML server does not answer any more. {_again(run)}") from error


def _again(run: PipelineRunResponse) -> str:
    address = get_run_url(run)
    return (
        f"The run {run.name} goes on. See it {f'at {address}' if address else 'in the dashboard'} or with `zenml "
        f"pipeline runs list --name {run.name}`, and end it with `zenml pipeline runs stop {run.id}`."
    )


def _tell(run: PipelineRunResponse, told: set[tuple[UUID, ExecutionStatus]]) -> None:
    """Say what has become of steps since the last look."""
    for step in sorted(run.steps.values(), key=lambda step: step.start_time or datetime.max):
        mark = (step.id, ExecutionStatus.RUNNING if step.status in RUNNING else step.status)
        if mark not in told:
            told.add(mark)
            _tell_step(step)


def _tell_step(step: StepRunResponse) -> None:
    if step.status in RUNNING:
        tell(StepFact(step.name, "begun"))
    elif step.status == ExecutionStatus.CACHED:
        tell(StepFact(step.name, "cached"))
    elif step.status == ExecutionStatus.COMPLETED and step.start_time and step.end_time:
        seconds = (step.end_time - step.start_time).total_seconds()
        tell(StepFact(step.name, "finished", get_human_readable_time(seconds)))


def failure_of(run: PipelineRunResponse) -> PipelineError:
    """Return the error that a run failed with elsewhere: the first failed step's own, where it is one of ours."""
    failed = [step for step in run.steps.values() if step.status == ExecutionStatus.FAILED]
    address = get_run_url(run)
    look = f" Its log is {f'at {address}' if address else 'in the dashboard'}."
    if not failed:
        return TrainingError(f"The run {run.name} ended as {run.status.value}; no step says why.{look}")
    step = min(failed, key=lambda step: step.start_time or datetime.max)
    known = step.exception_info
    if known is None or known.message is None:
        return TrainingError(f"The step {step.name} failed and left no word, as a killed machine does.{look}")
    return error_named(known.source or "", known.message) or TrainingError(
        f"The step {step.name} failed: {known.source or 'an error'}: {known.message}.{look}"
    )


def number_of_steps(run_name: str) -> int | None:
    """Return how many steps a run has that has begun; None where it decides that while it runs."""
    found = Client().list_pipeline_runs(name=run_name, size=1, hydrate=True).items
    snapshot = found[0].snapshot if found else None
    if snapshot is None or snapshot.is_dynamic:
        return None
    return len(snapshot.step_configurations)
