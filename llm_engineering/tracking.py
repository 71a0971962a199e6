"""Comet behind one context manager: online with an API key, else an offline archive that ``comet upload`` sends later.

Training never depends on the tracker: what fails in here is counted and said once, never raised.
"""

import json
import logging
import os
import ssl
import threading
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, TypeVar
from urllib.error import HTTPError
from urllib.request import urlopen

from llm_engineering.artifacts import TrackerLink
from llm_engineering.config.schema import CometTracking, NoTracking

_T = TypeVar("_T")
_LOGGER = logging.getLogger(__name__)

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
    "COMET_TIMEOUT_HTTP": "4",
    "COMET_TIMEOUT_API": "4",
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


class Tracker:
    """Takes what one stage has to say; does nothing where tracking is off, and never raises where it fails."""

    def __init__(self, stage: str) -> None:
        self.link: TrackerLink | None = None
        """Where the stage was logged: known once its block has ended, and None where tracking is off."""
        self._stage = stage
        self._experiment: Any = None
        self._failures = 0

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log numbers, at an optimizer step if given; NaN and infinity are logged as what they are."""
        if self._experiment is not None:
            self._attempt("log metrics", lambda: self._experiment.log_metrics(dict(metrics), step=step))

    def log_text(self, name: str, text: str) -> None:
        """Store a text as the asset ``name``, such as ``config.yaml``."""
        if self._experiment is not None:
            self._attempt(f"store {name}", lambda: self._experiment.log_asset_data(text, name=name))

    def _failed(self, message: str) -> None:
        self._failures += 1
        if self._failures == 1:
            _LOGGER.warning("Comet (%s) %s. Nothing else depends on it.", self._stage, message.rstrip(". \n"))

    def _attempt(self, what: str, action: Callable[[], _T]) -> _T | None:
        """Return the action's result, or None where it fails, which is counted once."""
        before = self._failures
        try:
            return action()
        except Exception as error:  # noqa: BLE001 - Comet raises its own, its server's, requests' and more
            if self._failures == before:
                self._failed(f"could not {what}: {type(error).__name__}: {error}")
            return None


@contextmanager
def tracked_stage(
    config: CometTracking | NoTracking,
    *,
    stage: str,
    name: str,
    tags: Sequence[str],
    parameters: Mapping[str, object],
    archive_dir: Path,
) -> Iterator[Tracker]:
    """Track one stage of a run as one experiment; the tracker's ``link`` says where, once the block has ended.

    An experiment is online if Comet knows an API key (``COMET_API_KEY``, or what ``comet login`` stored) and its
    server answers within seconds, else it is a zip in ``archive_dir``. An exception of the block is noted in the
    experiment and goes on.

    Args:
        config: Which tracker, and its project.
        stage: ``sft``, ``dpo`` or ``evaluation``; added to the tags.
        name: The experiment's name.
        tags: What to find it by, such as the run's name.
        parameters: Hyper-parameters; nested keys are joined by dots.
        archive_dir: Where offline archives lie; made if it is missing.
    """
    tracker = Tracker(stage)
    if isinstance(config, NoTracking):
        yield tracker
        return
    with _environment(_QUIET), _listening(tracker):
        tracker._attempt("make the archive folder", lambda: archive_dir.mkdir(parents=True, exist_ok=True))
        tracker._attempt("start", lambda: _start(tracker, config, name, [*tags, stage], archive_dir))
        tracker._attempt("log parameters", lambda: _log_parameters(tracker, parameters))
        outcome = "failed"
        try:
            yield tracker
            outcome = "completed"
        finally:
            tracker.link = _end(tracker, outcome, archive_dir)


def _start(tracker: Tracker, config: CometTracking, name: str, tags: list[str], archive_dir: Path) -> None:
    """Open an experiment: online where that is possible, else offline."""
    import comet_ml

    folder = str(archive_dir)
    settings = comet_ml.ExperimentConfig(**_NOTHING_BY_ITSELF, name=name, tags=tags, offline_directory=folder)

    def start(online: bool) -> Any:
        return comet_ml.start(
            online=online,
            mode="create",
            project_name=config.project,
            workspace=config.workspace,
            experiment_config=settings,
        )

    if comet_ml.get_config("comet.api_key"):
        tracker._experiment = _start_online(tracker, lambda: start(online=True))
    if tracker._experiment is None:
        tracker._experiment = start(online=False)


def _start_online(tracker: Tracker, start: Callable[[], Any]) -> Any:
    """Return a live experiment, or None, and say so, where Comet cannot be reached or refuses."""
    import comet_ml

    server, before = comet_ml.get_backend_address(), tracker._failures
    if not _answers(server, PROBE_SECONDS):
        tracker._failed(f"does not answer at {server}: logging to an offline archive")
        return None
    with _environment(_IMPATIENT):
        experiment = tracker._attempt("go online", start)
    if experiment is not None and experiment.alive:
        return experiment
    if tracker._failures == before:
        tracker._failed("did not take the experiment: logging to an offline archive")
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
    if tracker._experiment is not None:
        tracker._experiment.log_parameters(dict(_flat(parameters)))


def _flat(parameters: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, str | int | float]]:
    for key, value in parameters.items():
        match value:
            case Mapping():
                yield from _flat(value, f"{prefix}{key}.")
            case str() | int() | float():
                yield f"{prefix}{key}", value
            case _:
                yield f"{prefix}{key}", json.dumps(value, default=str)


def _end(tracker: Tracker, outcome: str, archive_dir: Path) -> TrackerLink:
    """Close the experiment and return where it is."""
    experiment, url, archive = tracker._experiment, None, None
    if experiment is not None:
        tracker._attempt("log the outcome", lambda: experiment.log_other("outcome", outcome))
        tracker._attempt("end", experiment.end)
        url = tracker._attempt("name its address", lambda: experiment.url) or None
        archive = tracker._attempt("read the archive", lambda: _complete(archive_dir.glob(f"{experiment.id}*.zip")))
        if url and archive and not tracker._failures and _is_there():
            archive.unlink()  # all of it was delivered
            archive = None
        if not url and not archive:
            tracker._failed(f"left no complete archive in {archive_dir}")
    return TrackerLink(
        stage=tracker._stage,
        url=url,
        offline_archive=str(archive) if archive else None,
        failures=tracker._failures,
    )


def _is_there() -> bool:
    """Return whether Comet's server answers at the end, too: it may have been lost without a word."""
    import comet_ml

    return _answers(comet_ml.get_backend_address(), PROBE_SECONDS)


def _complete(archives: Iterable[Path]) -> Path | None:
    """Return the first archive that was written to its end; a killed process leaves a zip without entries."""
    for path in archives:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                if {"experiment.json", "messages.json"} <= set(archive.namelist()):
                    return path
    return None


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
        self._tracker._failed(f"reports: {record.getMessage().strip().splitlines()[0]}")


@contextmanager
def _listening(tracker: Tracker) -> Iterator[None]:
    """Keep Comet's messages off the terminal and count its errors.

    What the user asked for by COMET_LOGGING_CONSOLE or COMET_LOGGING_FILE stays.
    """
    tracker._attempt("be imported", _import_comet)
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
