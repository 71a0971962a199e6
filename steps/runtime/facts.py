"""What ZenML knows of a run, for the reports; and what the reports say of it, for the dashboard and the tracker."""

import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from zenml import add_tags, get_step_context, log_metadata
from zenml.client import Client
from zenml.enums import ExecutionStatus
from zenml.models import ArtifactVersionResponse, PipelineRunResponse

from llm_engineering.config.leaves import leaves
from llm_engineering.config.run import RunConfig
from llm_engineering.config.tracking import CometTracking
from llm_engineering.config.yaml.loader import dump_config
from llm_engineering.evaluation.changes import CHANGES_FILE
from llm_engineering.models.hardware import describe_machine
from llm_engineering.reporting.bundle import Measured, ModelVersion, RunFacts, RunReports
from llm_engineering.reporting.summary import build_summary
from llm_engineering.reports.promotion import ExportReport, PromotionDecision
from llm_engineering.reports.training import TrackerLink
from llm_engineering.tracking import tracked_stage
from steps.runtime.caching import REPOSITORY, packages
from steps.runtime.context import run_name, tracking
from steps.runtime.fetching import at_hand
from steps.runtime.materializers import FILES, FolderMaterializer
from steps.runtime.stores import is_remote
from steps.runtime.tracking import archive_folder, kept_archive, stage_origin


def origin(seed: int, repository: Path = REPOSITORY) -> dict[str, Any]:
    """Return what a run is started from, as fields of :class:`RunFacts`; a missing git, or none at all, is no error."""
    commit, changed = (_git(repository, *words) for words in (("rev-parse", "HEAD"), ("status", "--porcelain")))
    return {
        "seed": seed,
        "code_commit": commit or None,
        "code_dirty": None if changed is None else bool(changed),
        "hardware": describe_machine(),
    }


def _git(repository: Path, *words: str) -> str | None:
    """Return what git says of a folder that is a repository's root; None where it is none, or there is no git."""
    if not (repository / ".git").exists():  # else git would answer for a repository that it lies in
        return None
    try:
        said = subprocess.run(["git", *words], cwd=repository, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return said.stdout.strip()


def this_run() -> PipelineRunResponse:
    """Return the run of this step, as far as it has come."""
    return Client().get_pipeline_run(get_step_context().pipeline_run.id)


def run_configuration(run: PipelineRunResponse) -> RunConfig:
    """Return the configuration that a run was started with."""
    return RunConfig.model_validate(run.config.extra["configuration"])


def run_reports(
    run: PipelineRunResponse,
    measured: Measured,
    decision: PromotionDecision | None = None,
    exports: ExportReport | None = None,
    error: str | None = None,
) -> RunReports:
    """Return all that is known of a run: the one place where it is put together, for every page and summary.

    Args:
        run: The run, finished or not.
        measured: What it measured.
        decision: What was decided on that.
        exports: What became of the promoted model.
        error: The sentence that the run failed with.
    """
    return RunReports(
        **dict(measured),
        run=run_facts(run, error, decision.stage if decision and decision.promoted else None),
        decision=decision,
        exports=exports,
        config_yaml=dump_config(run_configuration(run)),
        published=_published(run),
        packages=packages(),
    )


def _published(run: PipelineRunResponse) -> TrackerLink | None:
    """Return where the report was logged, from its step's metadata: nothing comes after the report."""
    step = run.steps.get("report")
    facts = step.run_metadata if step else {}
    url, archive = facts.get("comet"), facts.get("comet_offline_archive")
    if not url and not archive:
        return None
    key = facts.get("comet_experiment")
    return TrackerLink(
        stage="report",
        url=str(url) if url else None,
        offline_archive=str(archive) if archive else None,
        key=str(key) if key else None,
    )


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
        **run.config.extra.get("origin", {}),
        artifacts={name: place_of(found[0]) for step in steps for name, found in step.outputs.items() if found},
    )


def show_in_dashboard(reports: RunReports) -> None:
    """Attach to the run what is worth reading, a section for each part; and the stage, as a tag."""
    from zenml.metadata.metadata_types import Uri

    summary = build_summary(reports)
    measured: Any = summary["models"]
    sections: dict[str, Any] = {name: _lines(summary[name]) for name in ("promotion", "model", "data", "proofs")}
    sections |= {f"metrics of {name}": _lines(metrics) for name, metrics in measured.items()}
    origin = {"seed", "code_commit", "code_dirty", "hardware"}
    sections["origin"] = reports.run.model_dump(include=origin, exclude_none=True)
    sections["verdicts"] = {
        training.stage: ", ".join(verdict.name for verdict in training.verdicts) for training in reports.trainings()
    }
    if reports.dataset:
        sections["data fingerprints"] = dict(reports.dataset.fingerprints)
    links = {link.stage: Uri(link.url) if link.url else link.offline_archive for link in reports.trackers()}
    sections["tracker"] = {stage: link for stage, link in links.items() if link}
    log_metadata(
        metadata={name: facts for name, facts in sections.items() if facts}, run_id_name_or_prefix=reports.run.id
    )
    if reports.decision and reports.decision.promoted:
        add_tags(tags=[f"stage:{reports.decision.stage}"], run=reports.run.id)


def _lines(value: Any) -> dict[str, Any]:
    """Return nested values side by side, so that each is a line of the dashboard; what is not known is left out."""
    return {name: leaf for name, leaf in leaves(value or {}, between=": ") if leaf is not None}


def place_of(artifact: ArtifactVersionResponse) -> str:
    """Return the path or address that a person would open: the folder or page itself."""
    if is_remote(artifact.uri):  # whose files are not asked for, one by one, over the network
        inside = {FolderMaterializer.__name__: f"/{FILES}", "StructuredStringMaterializer": "/output.html"}
        return f"{artifact.uri}{inside.get(artifact.materializer.attribute or '', '')}"
    inside_here = (Path(artifact.uri) / name for name in (f"{FILES}/{CHANGES_FILE}", FILES, "output.html"))
    return next((str(path) for path in inside_here if path.exists()), artifact.uri)


def _seconds(run: PipelineRunResponse) -> float:
    start = run.start_time
    if start is None:
        return 0.0
    now = datetime.now(UTC).replace(tzinfo=None) if start.tzinfo is None else datetime.now(UTC)
    return ((run.end_time or now) - start).total_seconds()


def publish(page: str, reports: RunReports) -> TrackerLink | None:
    """Log what is known once a run is over as one experiment, and return where; None where nothing is tracked."""
    config = tracking()
    if not isinstance(config, CometTracking):
        return None
    known = stage_origin()
    with tracked_stage(
        config,
        stage="report",
        name=f"{run_name()}-report",
        tags=[Path(known.configuration["model"]["base"]).name],
        parameters=known.configuration,
        archive_dir=archive_folder(),
        origin=known,
    ) as tracker:
        tracker.log_text("report.html", page)
        tracker.log_text("configuration.yaml", reports.config_yaml)
        preview = _output("data_preview")
        if preview is not None:
            tracker.log_text("data-preview.html", str(preview))
        if reports.evaluation is not None:
            tracker.log_evaluation(reports.evaluation)
        if reports.decision is not None:
            promoted = reports.decision.promoted
            tracker.log_others({"promoted": promoted or "nothing", "reason": reports.decision.reason})
            if promoted and config.log_model:
                tracker.log_model(f"{promoted}-model", at_hand(_output(f"{promoted}_model")).path)
    return kept_archive(tracker.link)


def _output(name: str) -> Any:
    """Return an artifact that the run has made, or None."""
    steps = Client().get_pipeline_run(get_step_context().pipeline_run.id).steps.values()
    found = [versions[0] for step in steps for output, versions in step.outputs.items() if output == name]
    return found[0].load() if found else None
