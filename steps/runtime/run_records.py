"""Runs as they were recorded, with the code they were made with: found by name, id or model version, and compared."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

from zenml import log_metadata
from zenml.client import Client
from zenml.models import PipelineRunResponse
from zenml.steps import BaseStep
from zenml.types import HTMLString

from llm_engineering.config.leaves import leaves
from llm_engineering.data.row_changes import row_changes
from llm_engineering.errors import StoreError
from llm_engineering.reporting.differences import RunDifferences, RunRecord, compare_runs
from llm_engineering.reports.data import DatasetReport
from llm_engineering.reports.evaluation import EvaluationReport
from llm_engineering.reports.folders import Checkpoint, RowSet
from llm_engineering.reports.training import TrainingReport
from steps.runtime.caching import code_digests, packages
from steps.runtime.fetching import described
from steps.runtime.registry import model_version
from steps.runtime.traits import all_steps

T = TypeVar("T")
LISTED = 10
"""Recent runs that are named where one does not exist."""


def find_run(asked: str) -> PipelineRunResponse:
    """Return a run by its name, its id or a beginning of them, or the run that made ``NAME@VERSION_OR_STAGE``.

    Raises:
        StoreError: There is none; it lists recent ones.
    """
    name, at, version = asked.partition("@")
    if at:
        found = model_version(name, version)
        runs = Client().list_pipeline_runs(model_version_id=found.id, sort_by="asc:created", size=1, hydrate=True).items
        if not runs:
            raise StoreError(f"The run that made version {found.name} of {name!r} is gone. Name another run.")
        return runs[0]
    try:
        return Client().get_pipeline_run(asked)
    except (KeyError, ValueError) as error:
        recent = [run.name for run in Client().list_pipeline_runs(size=LISTED, sort_by="desc:created").items]
        listed = f"Recent runs: {', '.join(recent)}." if recent else "There are none yet."
        raise StoreError(f"There is no run {asked!r}, or several begin so. {listed}") from error


def run_record(run: PipelineRunResponse) -> RunRecord:
    """Return what is recorded of a run, as far as it came."""
    parameters = run.config.parameters or {}
    origin = run.config.extra.get("origin", {})
    trained = {stage: _output(run, f"{stage}_report", TrainingReport) for stage in ("sft", "dpo")}
    model = next((m for m in (_output(run, f"{s}_model", Checkpoint) for s in ("dpo", "sft")) if m), None)
    rows, code = raw_rows(run), recorded_code(run)
    version = run.model_version
    return RunRecord(
        name=run.name,
        version=f"{version.model.name}@{version.name}" if version else None,
        config={key: _written(value) for key, value in leaves(parameters.get("config", {}), _block)},
        base_sha256=parameters.get("base", {}).get("weights_sha256"),
        raw_sha256=rows.sha256 if rows else None,
        **_template(model),
        commit=origin.get("code_commit"),
        dirty=origin.get("code_dirty"),
        modules=code.get("modules", {}),
        packages=code.get("packages", {}),
        hardware={f"hardware of {stage.upper()}": report.hardware for stage, report in trained.items() if report},
        dataset=_output(run, "dataset_report", DatasetReport),
        evaluation=_output(run, "evaluation_report", EvaluationReport),
    )


def raw_rows(run: PipelineRunResponse) -> RowSet | None:
    """Return the rows of a run as they were read; None where it read none, or they are gone."""
    return _output(run, "raw_rows", RowSet)


def source_names(run: PipelineRunResponse) -> list[str]:
    """Return what the user calls the sources of a run's rows."""
    return list(run.config.extra.get("sources", []))


def _output(run: PipelineRunResponse, name: str, kind: type[T]) -> T | None:
    artifact = next((step.outputs[name][0] for step in run.steps.values() if step.outputs.get(name)), None)
    try:
        loaded = artifact.load() if artifact else None
    except (StoreError, FileNotFoundError):
        return None
    return loaded if isinstance(loaded, kind) else None


def _template(model: Checkpoint | None) -> dict[str, Any]:
    """Return the chat template's hash and the special tokens of the model that a run made."""
    if model is None:
        return {}
    model = described(model)
    template = model.path / "chat_template.jinja"
    tokens = json.loads((model.path / "tokenizer_config.json").read_bytes())
    return {
        "template_sha256": hashlib.sha256(template.read_bytes()).hexdigest() if template.is_file() else None,
        "special_tokens": {
            key: str(value) for key, value in sorted(tokens.items()) if key.endswith("_token") and value is not None
        },
    }


def _block(value: Any) -> Mapping[str, Any] | None:
    """Return the block that a value of a configuration is; the entries of a list of blocks go by number."""
    if isinstance(value, list) and any(isinstance(each, Mapping) for each in value):
        return {str(i): each for i, each in enumerate(value)}
    return value if isinstance(value, Mapping) and value else None


def _written(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "none"}[value]
    if isinstance(value, float):
        return f"{value:g}"
    return value if isinstance(value, str) else json.dumps(value)


def compare_stored(left: PipelineRunResponse, right: PipelineRunResponse) -> RunDifferences:
    """Return how two runs differ; rows are read only where their hashes differ."""
    rows = raw_rows(left), raw_rows(right)
    changes = []
    if rows[0] is not None and rows[1] is not None and rows[0].sha256 != rows[1].sha256:
        changes = row_changes(rows[0], rows[1], (source_names(left), source_names(right)))
    return compare_runs(run_record(left), run_record(right), changes)


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
