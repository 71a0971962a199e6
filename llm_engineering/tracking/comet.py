"""Comet behind one context manager: online with an API key, else an offline archive that ``comet upload`` sends later.

Training never depends on the tracker: what fails in here is counted and said once, never raised.
"""

import json
import logging
import os
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from http.client import HTTPException
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

from llm_engineering.config.leaves import leaves
from llm_engineering.config.tracking import CometTracking, TrackingConfig
from llm_engineering.reports.training import TrackerLink
from llm_engineering.tracking.archives import Record, first_complete, sweep_dead
from llm_engineering.tracking.origin import Account, Origin
from llm_engineering.tracking.tracker import Tracker

DEFAULT_PROJECT = "llm-engineering"

_SECONDS_BETWEEN_LOOKS = 0.25
"""How often the thread that measures the machine looks whether it is time to; its end waits for no more."""

PROBE_SECONDS = 4.0
"""How long Comet's server has to answer at all before a stage goes on offline."""

# Comet reads its settings anew from the environment at every use. What the user has set stays as it is.
_QUIET = {
    "COMET_DISABLE_AUTO_LOGGING": "1",  # no patching of other libraries' imports
    "COMET_ERROR_TRACKING_ENABLE": "false",  # no error reports to a third party
    "COMET_INTERNAL_REPORTING": "false",
    "COMET_TIMEOUT_CLEANING": "60",  # seconds; Comet's own defaults let a lost network hold up a run for hours
    "COMET_TIMEOUT_UPLOAD": "60",
    "COMET_TIMEOUT_FILE_UPLOAD": "60",
    # Comet may take an experiment for delivered that lost its server while it ended, and throw the copy away.
    "COMET_FALLBACK_STREAMER_KEEP_OFFLINE_ZIP": "true",
}
_IMPATIENT = {
    "COMET_TIMEOUT_HTTP": "3",
    "COMET_TIMEOUT_API": "3",
    "COMET_HTTP_SESSION_RETRY_TOTAL": "0",
    "COMET_GET_OR_ADD_EXPERIMENT_RETRY_TOTAL": "0",
}


# No source code, arguments, environment variables, host or git details: they may hold secrets, and cost seconds.
_NOTHING_BY_ITSELF: dict[str, Any] = {
    "log_code": False,
    "log_graph": False,
    "parse_args": False,
    "log_git_metadata": False,
    "log_git_patch": False,
    "log_env_details": False,
    "auto_output_logging": False,
    "auto_param_logging": False,
    "auto_metric_logging": False,
    "auto_log_co2": False,
    "display_summary_level": 0,
}


@contextmanager
def tracked_stage(
    config: TrackingConfig,
    *,
    stage: str,
    name: str,
    tags: Sequence[str],
    parameters: Mapping[str, object],
    archive_dir: Path,
    origin: Origin = Origin(),  # noqa: B008 - frozen
    examples_at: Callable[[int], int] | None = None,
) -> Iterator[Tracker]:
    """Track one stage of a run as one experiment; the tracker's ``link`` says where, once the block has ended.

    An experiment is online if there is an API key (``COMET_API_KEY``, the account's, or what ``comet login`` stored)
    and Comet's server answers within seconds, else it is a zip in ``archive_dir``. An exception of the block is noted
    in the experiment and goes on. What killed processes left in ``archive_dir`` is removed.

    Args:
        config: Which tracker, and its project; without Comet nothing is done.
        stage: ``sft``, ``dpo``, ``evaluation`` or ``report``; added to the tags.
        name: The experiment's name.
        tags: What to find it by, such as the base, beside the run's own.
        parameters: Hyper-parameters; nested keys are joined by dots.
        archive_dir: Where offline archives lie; made if it is missing.
        origin: The run that the stage belongs to.
        examples_at: Gives the training examples seen until an optimizer step; they are logged with every metric.
    """
    if not isinstance(config, CometTracking):
        # TensorBoard's files would lie in the training's work folder, which is removed once the stage is over.
        with _environment({"TENSORBOARD_LOGGING_DIR": str(archive_dir.parent / "tensorboard" / name)}):
            yield Tracker(stage)
        return
    tracker = Tracker(stage, examples_at, config.log_adapter_mb)
    found_by = list(dict.fromkeys([*tags, *origin.tags(), stage]))
    with _environment(_QUIET), _listening(tracker):
        tracker.attempt("make the archive folder", lambda: archive_dir.mkdir(parents=True, exist_ok=True))
        tracker.attempt("remove what killed processes left", lambda: sweep_dead(archive_dir))
        account, key = _account(config, origin.account), _unused(origin.key_of(name), archive_dir)
        tracker.attempt("start", lambda: _start(tracker, account, key, name, found_by, archive_dir))
        tracker.attempt("log parameters", lambda: _log_parameters(tracker, parameters))
        tracker.log_others({"stage": stage, **origin.others()})
        outcome = "failed"
        try:
            yield tracker
            outcome = "completed"
        finally:
            tracker.link = _end(tracker, outcome, archive_dir)


def _account(config: CometTracking, given: Account) -> Account:
    """Return whose Comet an experiment goes to: the configuration's, else what is given, else Comet's own default."""
    project, workspace = config.project or given.project or DEFAULT_PROJECT, config.workspace or given.workspace
    return replace(given, project=project, workspace=workspace)


def _unused(key: str | None, archive_dir: Path) -> str | None:
    """Return a key, or None where an archive has it already: the stage is tried again."""
    return None if any(archive_dir.glob(f"{key}*.zip")) else key


def _start(tracker: Tracker, account: Account, key: str | None, name: str, tags: list[str], archive_dir: Path) -> None:
    """Open an experiment: online where that is possible, else offline."""
    import comet_ml

    folder = str(archive_dir)
    settings = comet_ml.ExperimentConfig(**_NOTHING_BY_ITSELF, name=name, tags=tags, offline_directory=folder)

    def start(online: bool) -> Any:
        return comet_ml.start(
            api_key=account.api_key if online else None,
            online=online,
            mode="create",
            experiment_key=key,
            project_name=account.project,
            workspace=account.workspace,
            experiment_config=settings,
        )

    if account.api_key or comet_ml.get_config("comet.api_key"):
        tracker.experiment = _start_online(tracker, lambda: start(online=True))
    if tracker.experiment is None:
        tracker.experiment = start(online=False)
    experiment = tracker.experiment
    tracker.record = Record(archive_dir, experiment.id, name, experiment.tmpdir)
    tracker.attempt("measure the machine", lambda: _measure_machine(experiment))


def _measure_machine(experiment: Any) -> None:
    """Start Comet's own measurements of CPU, memory and GPUs.

    Comet starts them with ``log_env_details`` alone, which also tells of packages, addresses, users and the cloud's
    metadata service; so they are started here.
    """
    from comet_ml.system.cpu.cpu_metrics_data_logger import CPUMetricsDataLogger
    from comet_ml.system.gpu.gpu_metrics_data_logger import GPUMetricsDataLogger
    from comet_ml.system.system_metrics_logging_thread import SystemMetricsLoggingThread

    interval = experiment.config["comet.system_cpu_interval"]
    loggers = [
        CPUMetricsDataLogger(
            interval, experiment._log_cpu_details, include_cpu_per_core=False, include_compute_metrics=False
        ),
        GPUMetricsDataLogger(interval, experiment._log_gpu_details),
    ]
    available = [logger for logger in loggers if logger.available()]
    thread = SystemMetricsLoggingThread(metric_data_loggers=available, probe_interval=_SECONDS_BETWEEN_LOOKS)
    thread.start()
    experiment.system_metrics_thread = thread  # Comet ends it with the experiment


def _start_online(tracker: Tracker, start: Callable[[], Any]) -> Any:
    """Return a live experiment, or None, and say so, where Comet cannot be reached or refuses."""
    import comet_ml

    server, before = comet_ml.get_backend_address(), tracker.failures
    if not _answers(server, PROBE_SECONDS):
        tracker.failed(f"does not answer at {server}: logging to an offline archive")
        return None
    with _environment(_IMPATIENT):
        experiment = tracker.attempt("go online", start)
    if experiment is not None and experiment.alive:
        return experiment
    if tracker.failures == before:
        tracker.failed("did not take the experiment: logging to an offline archive")
    return None


def _answers(url: str, seconds: float) -> bool:
    """Return whether any server answers; asked in a thread, for name resolution keeps to no timeout."""
    answers: SimpleQueue[bool] = SimpleQueue()

    def ask() -> None:
        try:
            with urlopen(url, timeout=seconds):
                answers.put(True)
        except HTTPError as answer:
            answer.close()
            answers.put(True)
        except (OSError, HTTPException, ValueError) as error:
            # Comet's own settings may trust a certificate that Python's do not.
            answers.put(isinstance(getattr(error, "reason", None), ssl.SSLCertVerificationError))

    threading.Thread(target=ask, name="comet-probe", daemon=True).start()
    try:
        return answers.get(timeout=seconds)
    except Empty:
        return False


def _log_parameters(tracker: Tracker, parameters: Mapping[str, object]) -> None:
    if tracker.experiment is not None:
        plain = (str, int, float)
        tracker.experiment.log_parameters(
            {
                name: value if isinstance(value, plain) else json.dumps(value, default=str)
                for name, value in leaves(parameters)
            }
        )


def _end(tracker: Tracker, outcome: str, archive_dir: Path) -> TrackerLink:
    """Close the experiment and return where it is."""
    experiment, url, archive = tracker.experiment, None, None
    if experiment is not None:
        tracker.attempt("log the outcome", lambda: experiment.log_other("outcome", outcome))
        tracker.attempt("end", experiment.end)
        url = tracker.attempt("name its address", lambda: experiment.url) or None
        archive = tracker.attempt("read the archive", lambda: first_complete(archive_dir.glob(f"{experiment.id}*.zip")))
        if url and archive and not tracker.failures and _is_there():
            archive.unlink()  # all of it was delivered
            archive = None
        if not url and not archive:
            tracker.failed(f"left no complete archive in {archive_dir}")
    if tracker.record is not None:
        tracker.attempt("remove its record", tracker.record.close)
    return TrackerLink(
        stage=tracker.stage,
        key=tracker.key,
        url=url,
        offline_archive=str(archive) if archive else None,
        failures=tracker.failures,
    )


def _is_there() -> bool:
    """Return whether Comet's server answers at the end, too: it may have been lost without a word."""
    import comet_ml

    return _answers(comet_ml.get_backend_address(), PROBE_SECONDS)


@contextmanager
def _environment(defaults: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables that are not set, for the time of the block."""
    added = {name: value for name, value in defaults.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


class _Listener(logging.Handler):
    """Counts the errors that Comet logs instead of raising."""

    def __init__(self, tracker: Tracker) -> None:
        super().__init__(logging.ERROR)
        self._tracker = tracker

    def emit(self, record: logging.LogRecord) -> None:
        self._tracker.failed(f"reports: {record.getMessage().strip().splitlines()[0]}")


@contextmanager
def _listening(tracker: Tracker) -> Iterator[None]:
    """Keep Comet's messages off the terminal and count its errors.

    What the user asked for by COMET_LOGGING_CONSOLE or COMET_LOGGING_FILE stays.
    """
    tracker.attempt("be imported", _import_comet)
    logger, listener = logging.getLogger("comet_ml"), _Listener(tracker)
    if "COMET_LOGGING_CONSOLE" not in os.environ:
        logger.handlers = [handler for handler in logger.handlers if type(handler) is not logging.StreamHandler]
    logger.addHandler(listener)
    try:
        yield
    finally:
        logger.removeHandler(listener)


def _import_comet() -> None:
    import comet_ml  # noqa: F401 - its import sets up the logger that is listened to
