"""Work that can be taken up again: its folder, found by whoever does the same work, on this machine or another.

Where the folder goes with its machine, what the work could be taken up from is copied to the artifact store as it
appears. A training writes a checkpoint and seals it by a manifest (:mod:`llm_engineering.training.recovery`). The
mirror watches the folder from a thread of the step's process, whoever writes there, and copies every sealed
checkpoint, its manifest last, and the small files beside them. Training does not depend on it: what fails is said once
and tried again.
"""

import logging
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path, PurePosixPath
from typing import Any

from zenml import get_step_context

from llm_engineering.training.recovery import MANIFEST, is_whole, last_checkpoint, step_of
from steps.runtime.context import require_submitted_packages
from steps.runtime.stores import download, files_below, remove, upload, upload_file
from steps.runtime.work import completed_step, is_in_use, is_resumable, mirror_root, open_folder, step_folder

_log = logging.getLogger(__name__)
SECONDS_BETWEEN_LOOKS = 1.0
SECONDS_AFTER_A_FAILURE = 30.0


@contextmanager
def training_folder() -> Iterator[tuple[Path, dict[str, Any]]]:
    """Give the folder of this training, and the outputs of the same training where another run just finished it.

    Other work that can be taken up again has its folder here, too.

    Waits while another process works in it.
    """
    require_submitted_packages()
    step = get_step_context().step_run
    path = step_folder()
    waits = is_in_use(path)
    if waits:
        _log.info("Another run is at the same work; this one waits and takes its result.")
    folder = open_folder(path)
    twin = completed_step(str(step.cache_key)) if waits and step.config.enable_cache is not False else None
    finished = {name: artifacts[0].load() for name, artifacts in twin.outputs.items()} if twin else {}
    root = mirror_root() if is_resumable(path) and not finished else None
    with mirrored(folder, f"{root}/{path.name}") if root else nullcontext():
        yield folder, finished


@contextmanager
def mirrored(folder: Path, address: str, seconds: float = SECONDS_BETWEEN_LOOKS) -> Iterator[None]:
    """Fetch what an earlier attempt left at an address, and mirror the folder there for the time of the block.

    The last copy is made when the block ends, whichever way.

    Args:
        folder: The work folder.
        address: Where in the artifact store it is mirrored.
        seconds: Between two looks at the folder.
    """
    mirror = Mirror(folder, address)
    mirror.fetch()
    ended = threading.Event()
    watcher = threading.Thread(target=_watch, args=(mirror, ended, seconds), name=f"mirror of {folder.name}")
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()
        mirror.try_to_copy()


def _watch(mirror: "Mirror", ended: threading.Event, seconds: float) -> None:
    wait = seconds
    while not ended.wait(wait):
        wait = seconds if mirror.try_to_copy() else SECONDS_AFTER_A_FAILURE


class Mirror:
    """One work folder and its copy."""

    def __init__(self, folder: Path, address: str) -> None:
        """Mirror ``folder`` at ``address``; nothing is copied yet."""
        self.folder, self.address = folder, address
        self._checkpoints: set[str] = set()
        """Those that are there, by their names below the folder."""
        self._files: dict[str, tuple[int, int]] = {}
        """The small files that are there, with time and size of what was copied."""
        self._failed = False

    def fetch(self) -> None:
        """Copy the newest whole checkpoint here, and the files beside it, where there is none as new already."""
        try:
            self._fetch()
        except Exception as error:  # noqa: BLE001 - libraries of stores raise what they like
            _log.warning("What an earlier attempt left at %s cannot be fetched: %s.", self.address, error)

    def _fetch(self) -> None:
        names = files_below(self.address)
        sealed = [PurePosixPath(name).parent for name in names if PurePosixPath(name).name == MANIFEST]
        self._checkpoints = {str(checkpoint) for checkpoint in sealed}
        for name in (name for name in names if not _inside(PurePosixPath(name), sealed)):
            beside = self.folder / name
            if "checkpoint-" not in name and not beside.exists():
                self._fetch_file(name)
        for attempt in {checkpoint.parent for checkpoint in sealed}:
            self._fetch_newest([checkpoint for checkpoint in sealed if checkpoint.parent == attempt])

    def _fetch_file(self, name: str) -> None:
        where, _, last = name.rpartition("/")
        address = f"{self.address}/{where}" if where else self.address
        download(address, self.folder / where, lambda found: found == last)

    def _fetch_newest(self, sealed: list[PurePosixPath]) -> None:
        """Fetch the newest checkpoint that is whole, of one attempt's."""
        attempt = self.folder / sealed[0].parent
        here = last_checkpoint(attempt)
        for name in sorted(sealed, key=lambda checkpoint: step_of(Path(checkpoint)), reverse=True):
            target = self.folder / name
            if here is not None and step_of(target) <= step_of(here):
                return
            download(f"{self.address}/{name}", target)
            if is_whole(target):
                _log.info("The checkpoint of step %d is fetched from %s.", step_of(target), self.address)
                return
            _log.warning("The checkpoint %s at %s is torn; the one before it is used.", name, self.address)
            shutil.rmtree(target)

    def try_to_copy(self) -> bool:
        """Copy what is new, and remove what is no longer here; return whether that went well."""
        try:
            self.copy()
        except Exception as error:  # noqa: BLE001 - likewise, and training goes on without the copy
            if not self._failed:
                _log.warning(
                    "Checkpoints cannot be copied to %s now: %s. Training goes on; if its machine is lost, what was "
                    "not copied is trained again.",
                    self.address,
                    error,
                )
            self._failed = True
            return False
        if self._failed:
            _log.info("Checkpoints are copied to %s again.", self.address)
        self._failed = False
        return True

    def copy(self) -> None:
        """Copy small files that have changed, then checkpoints that were sealed, and drop those that are gone here.

        Raises:
            Exception: What the store's library raises.
        """
        sealed = [manifest.parent for manifest in sorted(self.folder.rglob(f"checkpoint-*/{MANIFEST}"))]
        for path in self._small_files(sealed):
            name, state = self._name(path), (path.stat().st_mtime_ns, path.stat().st_size)
            if self._files.get(name) != state:
                upload_file(path, f"{self.address}/{name}")
                self._files[name] = state
        for checkpoint in sealed:
            name = self._name(checkpoint)
            if name in self._checkpoints:
                continue
            try:
                upload(checkpoint, f"{self.address}/{name}", last=MANIFEST)
            except FileNotFoundError:
                if (checkpoint / MANIFEST).is_file():
                    raise
                continue  # a newer one has replaced it meanwhile
            self._checkpoints.add(name)
        self._drop({self._name(checkpoint) for checkpoint in sealed})

    def _drop(self, here: set[str]) -> None:
        """Remove copies of what is no longer kept here, once there is a newer one."""
        if not here & self._checkpoints:
            return
        for name in sorted(self._checkpoints - here):
            remove(f"{self.address}/{name}", first=MANIFEST)
            self._checkpoints.discard(name)

    def _small_files(self, sealed: list[Path]) -> list[Path]:
        """Return the files in the folder itself and beside checkpoints; a leading dot says that one is half written."""
        folders = {self.folder, *(checkpoint.parent for checkpoint in sealed)}
        return sorted(
            path
            for folder in folders
            if folder.is_dir()
            for path in folder.iterdir()
            if path.is_file() and not path.name.startswith(".")
        )

    def _name(self, path: Path) -> str:
        return path.relative_to(self.folder).as_posix()


def _inside(name: PurePosixPath, folders: list[PurePosixPath]) -> bool:
    return any(folder in name.parents for folder in folders)
