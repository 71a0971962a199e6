"""What ZenML knows for the experiment tracker: a stage's run, whose Comet it logs to, where archives are kept."""

import logging
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from zenml import get_step_context
from zenml.client import Client
from zenml.enums import StackComponentType
from zenml.models import PipelineRunResponse, StepRunResponse

from llm_engineering.config.tracking import CometTracking, TrackingConfig
from llm_engineering.errors import ConfigError, StoreError
from llm_engineering.reports.training import TrackerLink, TrainingReport
from llm_engineering.tracking import Account, Origin
from llm_engineering.tracking.origin import experiment_key
from steps.runtime.context import place_of_steps, run_name, run_settings, tracking
from steps.runtime.stores import is_remote, store_address, upload_file
from steps.runtime.traits import traits_of
from steps.runtime.work import work_root

if TYPE_CHECKING:
    from zenml.integrations.comet.flavors.comet_experiment_tracker_flavor import CometExperimentTrackerConfig

_log = logging.getLogger(__name__)

SECRET_KEY = "api_key"
"""The value of a secret that is Comet's API key."""


def stage_origin() -> Origin:
    """Return what names the run of this step for the tracker; it shapes no result."""
    context = get_step_context()
    run, configuration = context.pipeline_run, run_settings()["configuration"]
    if not isinstance(tracking(), CometTracking):
        return Origin(run=run_name(), configuration=configuration)
    return Origin(
        run=run_name(),
        run_id=str(run.id),
        step=context.step_run.name,
        recipe=configuration["name"],
        model_version=_model_version(),
        git_commit=_git_commit(),
        configuration=configuration,
        experiments=_experiments(run, context.step_run.name),
        account=_account(),
    )


def _account() -> Account:
    """Return the account, or an empty one, and say so, where it is gone since the run was submitted."""
    try:
        return comet_account(tracking())
    except ConfigError as error:
        _log.warning("%s", error)
        return Account()


def comet_account(config: TrackingConfig) -> Account:
    """Return whose Comet a run logs to: key, workspace and project, as far as ZenML knows them.

    COMET_API_KEY stands before the configured secret, and that before the Comet tracker of the active stack, of which
    only the settings are read.

    Raises:
        ConfigError: A secret is not there, or holds no key.
    """
    if not isinstance(config, CometTracking):
        return Account()
    tracker = _stack_tracker()
    account = Account(workspace=tracker.workspace, project=tracker.project_name) if tracker else Account()
    if os.environ.get("COMET_API_KEY"):  # Comet reads that one itself
        return account
    key = _of_secret(config.secret) if config.secret else _of_stack(tracker) if tracker else None
    return replace(account, api_key=key)


def _of_secret(name: str) -> str:
    make = f"Make it with `zenml secret create {name} --{SECRET_KEY}=...`"
    try:
        values = Client().get_secret(name).secret_values
    except (KeyError, NotImplementedError) as error:
        raise ConfigError(f"tracking.secret names the ZenML secret {name!r}, which does not exist. {make}.") from error
    if not values.get(SECRET_KEY):
        raise ConfigError(f"The ZenML secret {name!r} (tracking.secret) has no value {SECRET_KEY}. {make}.")
    return values[SECRET_KEY]


def has_stack_tracker() -> bool:
    """Return whether the active stack has a Comet tracker, whose key runs then use."""
    return _stack_tracker() is not None


def _stack_tracker() -> "CometExperimentTrackerConfig | None":
    """Return the settings of the active stack's Comet tracker, which itself is never started."""
    trackers = Client().active_stack_model.components.get(StackComponentType.EXPERIMENT_TRACKER, [])
    settings = next((tracker.configuration for tracker in trackers if tracker.flavor_name == "comet"), None)
    if settings is None:
        return None
    from zenml.integrations.comet.flavors.comet_experiment_tracker_flavor import CometExperimentTrackerConfig

    return CometExperimentTrackerConfig(**settings)


def _of_stack(tracker: "CometExperimentTrackerConfig") -> str:
    try:
        return tracker.api_key  # may be a reference to a secret, which is looked up here
    except KeyError as error:
        raise ConfigError(
            f"The Comet tracker of the active ZenML stack cannot be used: {error.args[0]} Make the secret, or set "
            "COMET_API_KEY."
        ) from error


def _model_version() -> str:
    model = get_step_context().pipeline_run.model_version
    return f"{model.model.name}:{model.name}" if model else ""


def _git_commit() -> str:
    """Return the commit of the code that the run was started with; empty where there is none."""
    started = run_settings()["origin"]
    return f"{started['code_commit'] or ''}{'-dirty' if started['code_dirty'] else ''}"


def _experiments(run: PipelineRunResponse, own: str) -> dict[str, str]:
    """Return the keys of the run's other experiments: of stages that are done, and of those to come."""
    done = Client().get_pipeline_run(run.id).steps
    planned = run.snapshot.step_configurations if run.snapshot and not run.snapshot.is_dynamic else {}
    keys = {}
    for step, planned_step in planned.items():
        stage = traits_of(planned_step.config).tracked
        if stage is None or step == own:
            continue
        if step in done and done[step].outputs:
            link = _link_of(done[step])
            key = link.key if link else None
        else:
            key = experiment_key(str(run.id), step, f"{run.name}-{stage}")
        if key:
            keys[stage] = key
    return keys


def _link_of(step: StepRunResponse) -> TrackerLink | None:
    """Return where a finished stage was logged, by this run or by the one whose result was taken."""
    report = next((versions[0] for name, versions in step.outputs.items() if name.endswith("_report")), None)
    try:
        return getattr(report.load(), "tracker", None) if report else None
    except (StoreError, FileNotFoundError):
        return None


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
