"""Where steps write: work folders on the artifact store's file system, locked, and resumable for training.

A training's folder is named by the step's cache key, that is, by the hash of everything that shapes its result: a run
that was killed finds its checkpoints when it is started again. Folders are removed once the step's artifacts are safe.
"""

import logging
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from zenml import get_step_context
from zenml.client import Client
from zenml.enums import ExecutionStatus
from zenml.models import StepRunResponse

_log = logging.getLogger(__name__)
_held: dict[Path, FileLock] = {}


def work_root() -> Path:
    """Return the folder of all work folders: in the local artifact store, else in ZenML's local folder."""
    from zenml.utils.io_utils import get_global_config_directory, is_remote

    store = Client().active_stack.artifact_store.path
    return Path(get_global_config_directory() if is_remote(store) else store) / "work"


def scratch_folder() -> Path:
    """Return a fresh folder for what this step writes."""
    step = get_step_context().step_run
    return _open(work_root() / f"{step.name}-{step.id}")


@contextmanager
def plan_folder() -> Iterator[Path]:
    """Give a folder where a run would write, so that there is room for as much; it is removed in the end."""
    try:
        yield _open(work_root() / f"plan-{uuid.uuid4()}")
    finally:
        release_work_folders()


def training_folder() -> tuple[Path, dict[str, Any]]:
    """Return the folder of this training, and the outputs of the same training where another run just finished it.

    Other work that can be taken up again has its folder here, too.

    Waits while another process works in it.
    """
    step = get_step_context().step_run
    path = work_root() / f"{step.config.name}-{step.cache_key}"  # `step.name` also says which model of a comparison
    waits = _is_locked(path)
    if waits:
        _log.info("Another run is at the same work; this one waits and takes its result.")
    folder = _open(path)
    twin = _completed(str(step.cache_key)) if waits and step.config.enable_cache is not False else None
    return folder, {name: artifacts[0].load() for name, artifacts in twin.outputs.items()} if twin else {}


def _open(path: Path) -> Path:
    release_work_folders()
    lock = _lock(path)
    lock.acquire()
    path.mkdir(parents=True, exist_ok=True)
    _held[path] = lock
    return path


def _lock(path: Path) -> FileLock:
    """Return the lock of a work folder.

    A training's lock file stays: removing it under a waiting process would split it. Nobody waits for the others.
    """
    locks = path.parent.parent / "work-locks"
    locks.mkdir(parents=True, exist_ok=True)
    return FileLock(locks / f"{path.name}.lock")


def _is_locked(path: Path) -> bool:
    lock = _lock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    lock.release()
    return False


def release_work_folders(*, keep: bool = False) -> None:
    """Give up the folders of this process's earlier steps; their artifacts are safe, unless ``keep`` says otherwise."""
    for path, lock in _held.items():
        if not keep:
            shutil.rmtree(path, ignore_errors=True)
        lock.release()
        if not _is_resumable(path):
            Path(lock.lock_file).unlink(missing_ok=True)
    _held.clear()


def keep_work_folder(path: Path) -> None:
    """Give up a folder and leave what is in it: its work is not complete, and a later run takes it up."""
    _held.pop(path).release()


def sweep_work_folders() -> None:
    """Remove what dead runs left behind, save for trainings that can be taken up again."""
    for path in _folders():
        resumable = _is_resumable(path) and _completed(path.name.partition("-")[2]) is None
        if not resumable and not _is_locked(path):
            shutil.rmtree(path, ignore_errors=True)


def _is_resumable(path: Path) -> bool:
    return path.name.startswith(("train_", "judge"))


def _folders() -> Iterator[Path]:
    root = work_root()
    return (path for path in root.iterdir() if path.is_dir()) if root.is_dir() else iter(())


def _completed(cache_key: str) -> StepRunResponse | None:
    """Return the newest completed step run with a cache key; one whose work was not complete has expired."""
    found = Client().list_run_steps(
        cache_key=cache_key,
        cache_expired=False,
        status=ExecutionStatus.COMPLETED,
        sort_by="desc:created",
        size=1,
        hydrate=True,
    )
    return found.items[0] if found.items else None
