"""The run as a whole for the experiment tracker: the report, the data preview, the decision, the promoted model."""

from pathlib import Path
from typing import Any

from zenml import get_step_context
from zenml.client import Client

from llm_engineering.config.tracking import CometTracking
from llm_engineering.reporting.bundle import RunReports
from llm_engineering.reports.training import TrackerLink
from llm_engineering.tracking import tracked_stage
from steps.runtime.context import run_name, tracking
from steps.runtime.fetching import at_hand
from steps.runtime.tracking import archive_folder, kept_archive, stage_origin


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
