"""Where steps write: work folders, locked, and resumable for training.

They lie on the local artifact store's file system, so that hard links work; on the volume that
``LLM_ENGINEERING_WORK_DIR`` names, where the stack gives its steps one; else in ZenML's local folder, and what a
training can be taken up from is mirrored into the artifact store (:mod:`steps.runtime.resumable`).

A training's folder is named by the step's cache key, that is, by the hash of everything that shapes its result: a run
that was killed finds its checkpoints when it is started again. Folders are removed once the step's artifacts are safe.
A bucket has no locks: two machines that are at the same training both do it, and the mirror holds either's checkpoints,
which are alike.
"""

import logging
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from uuid import UUID

from filelock import FileLock
from zenml import get_step_context
from zenml.client import Client
from zenml.enums import ExecutionStatus
from zenml.models import StepRunResponse

from steps.runtime.context import require_submitted_packages
from steps.runtime.stores import entries, is_remote, remove, store_address
from steps.runtime.traits import traits_of

_log = logging.getLogger(__name__)
VOLUME = "LLM_ENGINEERING_WORK_DIR"
"""The environment variable that names a folder which the machines of all steps share."""
_RESUMABLE = "-resumable"
"""How the name of a folder ends that a later run can take up."""


@dataclass
class _Held:
    """A folder that this process works in."""

    lock: FileLock
    step: UUID | None
    """The step run that it was opened for; None outside a step."""


_held: dict[Path, _Held] = {}


def work_root() -> Path:
    """Return the folder of all work folders: on the shared volume, in the local artifact store, or in ZenML's."""
    from zenml.utils.io_utils import get_global_config_directory

    if volume := os.environ.get(VOLUME):
        return Path(volume) / "work"
    store = store_address()
    return Path(get_global_config_directory() if is_remote(store) else store) / "work"


def mirror_root() -> str | None:
    """Return where work folders are mirrored; None where they survive their step as they are."""
    store = store_address()
    return f"{store}/work" if is_remote(store) and not os.environ.get(VOLUME) else None


def scratch_folder() -> Path:
    """Return a fresh folder for what this step writes."""
    require_submitted_packages()
    return open_folder(step_folder())


def step_folder() -> Path:
    """Return where this step works: in a folder of its own, or in that of all who do the same work, if it says so."""
    step = get_step_context().step_run
    if traits_of(step.config).resumable:  # `step.name` also says which model of a comparison
        return work_root() / f"{step.config.name}-{step.cache_key}{_RESUMABLE}"
    return work_root() / f"{step.name}-{step.id}"


def input_folder(name: str) -> Path:
    """Return where this step, or outside of one this process, keeps a copy of something stored elsewhere.

    It is not there yet, unless somebody has made it before. It is removed with the step's other folders.
    """
    step = _step_id()
    if step is None:
        return Path(_process_folder().name) / name
    context = get_step_context().step_run
    return open_folder(work_root() / f"{context.name}-{step}-inputs") / name


@cache
def _process_folder() -> "tempfile.TemporaryDirectory[str]":
    return tempfile.TemporaryDirectory(prefix="artifacts-")  # removed when the process ends


@contextmanager
def plan_folder() -> Iterator[Path]:
    """Give a folder where a run would write, so that there is room for as much; it is removed in the end."""
    try:
        yield open_folder(work_root() / f"plan-{uuid.uuid4()}")
    finally:
        release_work_folders()


def open_folder(path: Path) -> Path:
    """Take a folder for the step that runs now, and give up those of the steps before it, whose artifacts are safe."""
    step = _step_id()
    if path not in _held:
        _release({other for other, held in _held.items() if held.step != step}, keep=False)
        lock = _lock(path)
        lock.acquire()
        path.mkdir(parents=True, exist_ok=True)
        _held[path] = _Held(lock, step)
        _sweep_mirrors()
    _held[path].step = step  # a step that is tried again in this process goes on in its folder
    return path


def _step_id() -> UUID | None:
    try:
        return UUID(str(get_step_context().step_run.id))
    except RuntimeError:
        return None


def _lock(path: Path) -> FileLock:
    """Return the lock of a work folder.

    A training's lock file stays: removing it under a waiting process would split it. Nobody waits for the others.
    """
    locks = path.parent.parent / "work-locks"
    locks.mkdir(parents=True, exist_ok=True)
    return FileLock(locks / f"{path.name}.lock")


def is_in_use(path: Path) -> bool:
    """Return whether another process works in a folder."""
    return path not in _held and is_locked(Path(_lock(path).lock_file))


def is_locked(path: Path) -> bool:
    """Return whether some process holds a lock on a file; it is neither made nor kept."""
    import fcntl

    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def release_work_folders(*, keep: bool = False) -> None:
    """Give up the folders of this process's earlier steps; their artifacts are safe, unless ``keep`` says otherwise.

    Where every step has a process of its own, nobody calls this at its end: the folder goes with its machine, or is
    swept from a shared volume, and its mirror by a later step.
    """
    _release(set(_held), keep=keep)


def _release(paths: set[Path], *, keep: bool) -> None:
    for path in paths:
        lock = _held.pop(path).lock
        if not keep:
            shutil.rmtree(path, ignore_errors=True)
        lock.release()
        if not is_resumable(path):
            Path(lock.lock_file).unlink(missing_ok=True)
        elif not keep and (root := mirror_root()):
            remove(f"{root}/{path.name}")


def keep_work_folder(path: Path) -> None:
    """Give up a folder and leave what is in it: its work is not complete, and a later run takes it up."""
    _held.pop(path).lock.release()


def sweep_work_folders() -> None:
    """Remove what dead runs left behind, save for trainings that can be taken up again."""
    for path in _folders():
        resumable = is_resumable(path) and not _is_done(path.name)
        if not resumable and path not in _held and not is_in_use(path):
            shutil.rmtree(path, ignore_errors=True)


@cache
def _sweep_mirrors() -> None:
    """Remove, once a process, the mirrors of work that is done, and what dead steps left on a shared volume.

    A step whose process ended with it cannot know that its artifact is safe; the steps after it can.
    """
    if os.environ.get(VOLUME):
        sweep_work_folders()
    root = mirror_root()
    for name in entries(root) if root else []:
        if is_resumable(Path(name)) and _is_done(name):
            remove(f"{root}/{name}")


def is_resumable(folder: Path) -> bool:
    """Return whether a later run can take up what is in a folder."""
    return folder.name.endswith(_RESUMABLE)


def _is_done(name: str) -> bool:
    return completed_step(name.removesuffix(_RESUMABLE).partition("-")[2]) is not None


def _folders() -> Iterator[Path]:
    root = work_root()
    return (path for path in root.iterdir() if path.is_dir()) if root.is_dir() else iter(())


def completed_step(cache_key: str) -> StepRunResponse | None:
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
