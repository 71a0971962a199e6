"""The ZenML store: opened without a server, one process at a time, and cleared of runs that died."""

import os
import socket
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.client import HTTPException
from pathlib import Path
from urllib.request import urlopen

import zenml
from alembic.util import CommandError
from filelock import FileLock, Timeout
from sqlalchemy.exc import DatabaseError
from zenml.client import Client
from zenml.config.global_config import GlobalConfiguration
from zenml.enums import AuthScheme, ExecutionStatus
from zenml.exceptions import RunInterruptedException
from zenml.models import PipelineRunResponse, PipelineRunUpdate, ServerDeploymentType, StepRunUpdate
from zenml.utils import source_utils
from zenml.utils.io_utils import get_global_config_directory

from llm_engineering.errors import StoreError, no_space
from llm_engineering.interrupts import ignore_interrupts
from pipelines.checkup import RUNNING, is_half_made
from steps.runtime.caching import REPOSITORY
from steps.runtime.work import sweep_work_folders

SECONDS_TO_ANSWER = 5.0
SECONDS_TO_WRITE = 60.0
"""How long another process may be writing the store, as in ZenML."""


def open_store() -> None:
    """Make the store ready: initialise it if it is fresh, and set the root that step sources are named from.

    What is made of it is closed to other users, whatever the umask: secrets may lie there.

    Raises:
        StoreError: The store cannot be reached or written.
        SpaceError: The disk is full.
    """
    folder = Path(get_global_config_directory())
    before = os.umask(0o077)
    try:
        _require_server()
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / "llm-engineering-init.lock"):
            _put_half_made_aside(GlobalConfiguration().store_configuration.url)
            _ = GlobalConfiguration().zen_store
            _ = Client().active_stack
    except (OSError, CommandError, DatabaseError, sqlite3.DatabaseError, RuntimeError) as error:
        raise no_space(error) or _cannot_use(folder, error) from error
    finally:
        os.umask(before)
    source_utils.set_custom_source_root(str(REPOSITORY))


def _cannot_use(folder: Path, error: Exception) -> StoreError:
    if isinstance(error, OSError):
        return StoreError(
            f"ZenML's folder {folder} cannot be used ({error.strerror}). Free space, or set ZENML_CONFIG_PATH."
        )
    return StoreError(
        f"ZenML {zenml.__version__} cannot use the store in {folder} ({str(error).splitlines()[0]}). If a newer "
        "ZenML made it, install that version; else set ZENML_CONFIG_PATH to another folder."
    )


def _put_half_made_aside(url: str) -> None:
    """Rename a local store that the first start did not complete: ZenML would fail on it, and so makes it anew."""
    path = Path(url.removeprefix("sqlite:///"))
    if not path.is_file():  # fresh, or a server's address
        return
    with closing(sqlite3.connect(path, timeout=SECONDS_TO_WRITE)) as store:
        half_made = is_half_made(store)  # undoes the transaction that was open, too: its journal goes
    if half_made:
        path.replace(path.with_name(f"{path.name}.half-made"))


def _require_server() -> None:
    """Refuse a server that is gone, which ZenML would wait for half a minute at every start."""
    server = server_of_store()
    if server is None:
        return
    try:
        with urlopen(f"{server}/health", timeout=SECONDS_TO_ANSWER):
            pass
    except (OSError, HTTPException) as error:
        raise StoreError(
            f"ZenML is switched to the server {server}, which does not answer ({getattr(error, 'reason', error)}). "
            "Start it again, or go back to the local store with `python tools/dashboard.py --reset`."
        ) from error


def server_of_store() -> str | None:
    """Return the address of the server that the runs are on; None for the local store."""
    url = GlobalConfiguration().store_configuration.url
    return url if url.startswith("http") else None


def use_local_store() -> str | None:
    """Switch from a server to the local store; return the address of the server that was left, if one was."""
    left = server_of_store()
    if left:
        GlobalConfiguration().set_default_store()
    return left


def skip_survey() -> None:
    """Answer the questions that the dashboard asks at the first visit, and spare its news: nobody is to be told."""
    user = Client().active_user
    if not user.user_metadata.get("finished_onboarding_survey"):
        answers = {"awareness_channels": ["other"], "finished_onboarding_survey": True}
        Client().update_user(user.id, updated_metadata=answers, updated_email_opt_in=False)
        Client().update_server_settings(
            updated_name=Client().get_settings().server_name,  # what is not named is set to null
            updated_enable_analytics=False,
            updated_enable_announcements=False,
            updated_enable_updates=False,
        )


def runs_page() -> str:
    """Return where the dashboard lists the runs, below its address."""
    return f"/projects/{Client().active_project.name}/runs"


def server_environment() -> dict[str, str]:
    """Return the environment of a server over the local store: no account, a configuration folder of its own."""
    configuration = GlobalConfiguration()
    return {
        "ZENML_SERVER": "true",
        "ZENML_SERVER_ALLOW_LOCAL_FILE_ACCESS": "true",
        "ZENML_SERVER_AUTH_SCHEME": AuthScheme.NO_AUTH.value,
        "ZENML_SERVER_AUTO_ACTIVATE": "true",
        "ZENML_SERVER_DEPLOYMENT_TYPE": ServerDeploymentType.LOCAL.value,
        "ZENML_CONFIG_PATH": str(Path(get_global_config_directory()) / "llm-engineering-dashboard"),
        "ZENML_LOCAL_STORES_PATH": configuration.local_stores_path,
        "ZENML_USER_ID": str(configuration.user_id),
    }


def _locks() -> Path:
    folder = Path(get_global_config_directory()) / "llm-engineering-runs" / socket.gethostname()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def alive(run_name: str) -> Iterator[None]:
    """Hold a lock that says that this run's process lives; a run that is interrupted is failed once the block ends."""
    path = _locks() / f"{run_name}.lock"
    with FileLock(path):
        try:
            yield
        except (KeyboardInterrupt, RunInterruptedException):
            ignore_interrupts()
            _bury(run_name)  # ZenML does not get to it where Ctrl-C is pressed again
            raise
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
        if _bury(path.stem):
            dead.append(path.stem)
        path.unlink(missing_ok=True)
        lock.release()
    sweep_work_folders()
    return dead


def _bury(run_name: str) -> bool:
    """Mark a run as failed where ZenML says that it is running; return whether it did."""
    found = Client().list_pipeline_runs(name=run_name, size=1, hydrate=True).items
    running = bool(found) and found[0].status in RUNNING
    if running:
        _mark_failed(found[0])
    return running


def _mark_failed(run: PipelineRunResponse) -> None:
    store = Client().zen_store
    for step in run.steps.values():
        if step.status in RUNNING:
            store.update_run_step(step.id, StepRunUpdate(status=ExecutionStatus.FAILED))
    store.update_run(run.id, PipelineRunUpdate(status=ExecutionStatus.FAILED))
