"""The ZenML store: opened without a server, one process at a time, and cleared of runs that died."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from zenml.client import Client
from zenml.config.global_config import GlobalConfiguration
from zenml.enums import ExecutionStatus
from zenml.models import PipelineRunResponse, PipelineRunUpdate, StepRunUpdate
from zenml.utils import source_utils
from zenml.utils.io_utils import get_global_config_directory

from llm_engineering.errors import StoreError
from steps.caching import REPOSITORY
from steps.work import sweep_work_folders

_RUNNING = (ExecutionStatus.RUNNING, ExecutionStatus.INITIALIZING, ExecutionStatus.PROVISIONING)


def open_store() -> None:
    """Make the store ready: initialise it if it is fresh, and set the root that step sources are named from.

    Raises:
        StoreError: The store cannot be reached or written.
    """
    folder = Path(get_global_config_directory())
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / "llm-engineering-init.lock"):
            _ = GlobalConfiguration().zen_store
            _ = Client().active_stack
    except OSError as error:
        raise StoreError(
            f"ZenML's folder {folder} cannot be used ({error.strerror}). Free space, or set ZENML_CONFIG_PATH."
        ) from error
    source_utils.set_custom_source_root(str(REPOSITORY))


def _locks() -> Path:
    folder = Path(get_global_config_directory()) / "llm-engineering-runs" / socket.gethostname()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def alive(run_name: str) -> Iterator[None]:
    """Hold a lock that says that this run's process lives."""
    path = _locks() / f"{run_name}.lock"
    with FileLock(path):
        yield
        path.unlink(missing_ok=True)


def bury_dead_runs() -> list[str]:
    """Mark runs of this host as failed whose process is gone, and return their names.

    ZenML leaves the run of a killed process ``running`` for ever. Trainings that they had begun are taken up again by
    the next run with the same inputs.
    """
    dead = []
    for path in sorted(_locks().glob("*.lock")):
        lock = FileLock(path)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            continue
        found = Client().list_pipeline_runs(name=path.stem, size=1, hydrate=True).items
        if found and found[0].status in _RUNNING:
            _mark_failed(found[0])
            dead.append(found[0].name)
        path.unlink(missing_ok=True)
        lock.release()
    sweep_work_folders()
    return dead


def _mark_failed(run: PipelineRunResponse) -> None:
    store = Client().zen_store
    for step in run.steps.values():
        if step.status in _RUNNING:
            store.update_run_step(step.id, StepRunUpdate(status=ExecutionStatus.FAILED))
    store.update_run(run.id, PipelineRunUpdate(status=ExecutionStatus.FAILED))
