"""Start one pipeline: in this process, or wherever the active stack executes it."""

import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from zenml import Model
from zenml.client import Client
from zenml.enums import ExecutionMode
from zenml.exceptions import RunInterruptedException
from zenml.models import PipelineRunResponse

from llm_engineering.errors import PipelineError
from pipelines import training as pipelines
from pipelines.comparison import comparison
from pipelines.launching.code_archive import sending_code
from pipelines.launching.follow import failure_of, follow, submitting
from pipelines.launching.packing import Packer
from pipelines.launching.preflight import Job
from pipelines.launching.prepare import Launch
from pipelines.store import alive
from pipelines.sweep import sweep
from steps.runtime.caching import packages
from steps.runtime.context import Place
from steps.runtime.facts import origin
from steps.runtime.run_records import code_facts, recorded
from steps.runtime.work import release_work_folders

PIPELINES: dict[Job, Any] = {
    "training": pipelines.training,
    "sft": pipelines.sft,
    "dpo": pipelines.dpo,
    "evaluation": pipelines.evaluation,
    "comparison": comparison,
    "sweep": sweep,
}


def start(launch: Launch, *, cache: bool, started: Callable[[str], None]) -> PipelineRunResponse:
    """Run the pipeline to its end: in this process, or wherever the active stack executes it.

    Args:
        launch: From :func:`prepare`.
        cache: Whether results of earlier runs may be taken.
        started: Called with the run's name before the first step.

    Raises:
        KeyboardInterrupt: Somebody stopped it.
        PipelineError: A step failed elsewhere, or nobody watches the run any more, which goes on.
    """
    run_name = f"{launch.config.name}-{datetime.now(UTC):%Y%m%d-%H%M%S}-{uuid.uuid4().hex[:6]}"
    ready = packed(launch, uploads=True)
    started(run_name)
    pipeline = configured(ready, run_name=run_name, enable_cache=cache)
    if launch.place.orchestrated_here:
        with sending_code():  # step operators may be sent it
            return _run_here(ready, pipeline, run_name)
    with sending_code(), recorded(run_name, code_facts()), submitting(run_name):
        run = pipeline(ready.config, ready.base, **ready.arguments)
    return follow(run.id)


def packed(launch: Launch, *, uploads: bool) -> Launch:
    """Return a launch as its steps are given it: what they cannot find on their machines travels as an artifact.

    Args:
        launch: From :func:`prepare`.
        uploads: Store what is not stored yet.
    """
    packer = Packer(launch.place, uploads)
    return replace(
        launch,
        config=packer.settings(launch.config),
        base=packer.model(launch.base),
        arguments=packer.arguments(launch.config, launch.arguments),
    )


def _run_here(launch: Launch, pipeline: Any, run_name: str) -> PipelineRunResponse:
    """Run the pipeline in this process; step operators may execute its steps elsewhere."""
    keep, code = True, code_facts()
    try:
        with alive(run_name), recorded(run_name, code), _errors_of_steps(launch.place, run_name):
            run: PipelineRunResponse = pipeline(launch.config, launch.base, **launch.arguments)
        keep = False
        return run
    except RunInterruptedException as error:  # what ZenML makes of a signal that arrives while it starts a step
        raise KeyboardInterrupt from error
    finally:
        release_work_folders(keep=keep)


@contextmanager
def _errors_of_steps(place: Place, run_name: str) -> Iterator[None]:
    """Replace what ZenML says of a step that failed elsewhere by what the step said."""
    try:
        yield
    except Exception as error:  # step operators raise what they like
        found = Client().list_pipeline_runs(name=run_name, size=1, hydrate=True).items
        if place.here or isinstance(error, PipelineError) or not found:
            raise
        raise failure_of(found[0]) from error


def tags_of(launch: Launch) -> list[str]:
    """Return what runs are found by in the dashboard: the job, the recipe, the base and the data."""
    config = launch.config
    sources = [f"data:{Path(name).name}" for name in config.data.source_names]
    return [launch.job, f"recipe:{config.name}", f"base:{Path(config.model.base).name}", *dict.fromkeys(sources)]


def configured(launch: Launch, pipeline: Any = None, **options: Any) -> Any:
    """Return the launch's pipeline, or another in its place, with its model, tags and settings."""
    config = launch.config
    unmade = launch.job == "evaluation" and launch.model_version is None  # whatever a person named
    several = launch.job in ("comparison", "sweep")  # models of their own: the newest version of `name` is a training's
    name = f"{config.name}-{launch.job}" if several else config.name
    return (pipeline or PIPELINES[launch.job]).with_options(
        model=None if unmade else Model(name=name, version=launch.model_version),
        tags=tags_of(launch),
        execution_mode=_execution_mode(several=several),
        extra={
            **{name: getattr(config, name).model_dump(mode="json") for name in ("tracking", "watch", "hardware")},
            "sources": config.data.source_names,
            "origin": origin(config.seed),
            "judge": config.evaluation.judge.model_dump(mode="json") if config.evaluation.judge else None,
            "configuration": config.model_dump(mode="json"),
            "known_weights": launch.known_weights,
            "packages": packages(),
        },
        **(launch.target.options if launch.target else {}),
        **options,
    )


def _execution_mode(*, several: bool) -> ExecutionMode:
    """Return what becomes of the other steps when one fails; most remote orchestrators refuse to stop them."""
    fast = ExecutionMode.FAIL_FAST in Client().active_stack.orchestrator.supported_execution_modes
    return ExecutionMode.FAIL_FAST if fast and not several else ExecutionMode.CONTINUE_ON_FAILURE
