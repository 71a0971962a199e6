"""Work that can be taken up again: its folder, found by whoever does the same work, on this machine or another."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from zenml import get_step_context

from steps.runtime.image import require_submitted_packages
from steps.runtime.mirror import mirrored
from steps.runtime.work import completed_step, is_locked, is_resumable, mirror_root, open_folder, step_folder

_log = logging.getLogger(__name__)


@contextmanager
def training_folder() -> Iterator[tuple[Path, dict[str, Any]]]:
    """Give the folder of this training, and the outputs of the same training where another run just finished it.

    Other work that can be taken up again has its folder here, too.

    Waits while another process works in it.
    """
    require_submitted_packages()
    step = get_step_context().step_run
    path = step_folder()
    waits = is_locked(path)
    if waits:
        _log.info("Another run is at the same work; this one waits and takes its result.")
    folder = open_folder(path)
    twin = completed_step(str(step.cache_key)) if waits and step.config.enable_cache is not False else None
    finished = {name: artifacts[0].load() for name, artifacts in twin.outputs.items()} if twin else {}
    root = mirror_root() if is_resumable(path) and not finished else None
    with mirrored(folder, f"{root}/{path.name}") if root else nullcontext():
        yield folder, finished
