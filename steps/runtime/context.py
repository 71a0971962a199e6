"""What a step knows about its run."""

from collections.abc import Mapping
from math import isfinite
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from zenml import get_step_context, log_metadata

from llm_engineering.config.evaluation import OpenAIJudge
from llm_engineering.config.hardware import HardwareConfig
from llm_engineering.config.tracking import TrackingConfig
from llm_engineering.config.watch import WatchConfig
from llm_engineering.reports.training import TrackerLink, TrainingReport
from steps.runtime.places import place_of_steps
from steps.runtime.stores import is_remote, store_address, upload_file
from steps.runtime.work import work_root


def run_name() -> str:
    """Return the name of the run."""
    return str(get_step_context().pipeline_run.name)


def experiment_name() -> str:
    """Return the name of the run and, where it makes several models, the model that this step is for."""
    step = get_step_context().step_run
    model = step.name.removeprefix(step.config.name)
    return f"{run_name()}{model}"


def run_settings() -> dict[str, Any]:
    """Return what the run was given beside step parameters: it shapes no result, so that no cache key holds it."""
    return dict(get_step_context().pipeline_run.config.extra)


def tracking() -> TrackingConfig:
    """Return the configured tracker."""
    config: TrackingConfig = TypeAdapter(TrackingConfig).validate_python(run_settings()["tracking"])
    return config


def watch() -> WatchConfig:
    """Return what curves are judged by; the part of it that can change a training is a step parameter as well."""
    return WatchConfig.model_validate(run_settings()["watch"])


def judge_settings(judge: OpenAIJudge) -> OpenAIJudge:
    """Return the configured judge, with what shapes no verdict: time-outs, prices, and where its key is."""
    whole = OpenAIJudge.model_validate(run_settings()["judge"])
    assert whole.deciding == judge
    return whole


def hardware() -> HardwareConfig:
    """Return in how many processes is trained: it shapes no result, as far as it does not shape checkpoints."""
    config: HardwareConfig = TypeAdapter(HardwareConfig).validate_python(run_settings()["hardware"])
    return config


def sources() -> list[str]:
    """Return what the user calls the sources of rows."""
    return list(run_settings()["sources"])


def archive_folder() -> Path:
    """Return the folder of the tracker's offline archives."""
    return work_root().parent / "comet-offline"


def kept_archive(link: TrackerLink | None) -> TrackerLink | None:
    """Return where a tracker's offline archive is once this step's machine is gone: in the artifact store then."""
    if link is None or link.offline_archive is None or is_remote(link.offline_archive) or place_of_steps().here:
        return link
    archive = Path(link.offline_archive)
    address = f"{store_address()}/{archive_folder().name}/{archive.name}"
    upload_file(archive, address)
    archive.unlink()
    return link.model_copy(update={"offline_archive": address})


def with_kept_archive(report: TrainingReport) -> TrainingReport:
    """Return the report of a training whose tracker's archive outlives the step's machine."""
    return report.model_copy(update={"tracker": kept_archive(report.tracker)})


def log_facts(facts: Mapping[str, Any], tracker: TrackerLink | None = None) -> None:
    """Attach metadata to the step, with a link to the tracker that the dashboard makes clickable."""
    from zenml.metadata.metadata_types import Uri

    link: dict[str, Any] = {}
    if tracker is not None and tracker.url:
        link = {"comet": Uri(tracker.url)}
    elif tracker is not None and tracker.offline_archive:
        link = {"comet_offline_archive": tracker.offline_archive}
    if link and tracker is not None and tracker.key:
        link["comet_experiment"] = tracker.key
    log_metadata({**{name: as_metadata(value) for name, value in facts.items() if value is not None}, **link})


def as_metadata(value: Any) -> Any:
    """Return a value whose numbers are in words where JSON has none for them: the dashboard could not send them."""
    if isinstance(value, Mapping):
        return {name: as_metadata(each) for name, each in value.items()}
    if isinstance(value, list):
        return [as_metadata(each) for each in value]
    return str(value) if isinstance(value, float) and not isfinite(value) else value
