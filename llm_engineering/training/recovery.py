"""Checkpoints of a training in progress: valid only with a manifest of hashes, which is written last."""

import json
import logging
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from llm_engineering.errors import TrainingError
from llm_engineering.reports.folders import flush, hash_files

_log = logging.getLogger(__name__)
MANIFEST = "manifest.json"
_NAME = re.compile(r"checkpoint-(\d+)")
_WRITERS = ("inline_container.cc", "(os error ")
"""Stand in what torch.save (a RuntimeError) and tokenizers (an Exception) raise where a file cannot be written."""


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Say in a sentence that a folder cannot be written, and remove what was written of it: the disk may be full.

    Raises:
        TrainingError: No space is left, or the like.
    """
    from safetensors import SafetensorError

    try:
        yield
    except Exception as error:
        if not isinstance(error, OSError | SafetensorError) and not any(text in str(error) for text in _WRITERS):
            raise
        shutil.rmtree(folder, ignore_errors=True)
        reason = "PyTorch could not write a file" if isinstance(error, RuntimeError) else error
        raise TrainingError(
            f"{folder} cannot be written: {reason}. Free some space and run again; training goes on from the "
            "checkpoint before."
        ) from error


def seal(checkpoint: Path) -> None:
    """Make a complete checkpoint valid.

    Its files are on the disk before its manifest is, and the manifest is before the checkpoint before is removed: a
    machine that loses its power keeps one of them.
    """
    content = json.dumps({"sha256": hash_files(checkpoint)})
    for path in checkpoint.rglob("*"):
        flush(path)
    (checkpoint / MANIFEST).write_text(content, encoding="utf-8")
    for path in (checkpoint / MANIFEST, checkpoint, checkpoint.parent):
        flush(path)


def is_whole(checkpoint: Path) -> bool:
    """Return whether a checkpoint is exactly as it was sealed."""
    manifest = checkpoint / MANIFEST
    if not manifest.is_file():
        return False
    try:
        expected = json.loads(manifest.read_text(encoding="utf-8"))["sha256"]
    except (ValueError, KeyError, TypeError):
        return False
    return bool(hash_files(checkpoint, leave_out=MANIFEST) == expected)


def step_of(checkpoint: Path) -> int:
    """Return the number of updates that a checkpoint folder's name gives."""
    match = _NAME.fullmatch(checkpoint.name)
    assert match, checkpoint
    return int(match[1])


def is_finished(checkpoint: Path) -> bool:
    """Return whether training had ended, by its number of steps or early, when a checkpoint was written."""
    state = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    return bool(state["stateful_callbacks"]["TrainerControl"]["args"]["should_training_stop"])


def logged_until(checkpoint: Path) -> list[dict[str, float]]:
    """Return what a training had logged until a checkpoint; every entry has ``step``."""
    state = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    history: list[dict[str, float]] = state["log_history"]
    return history


def last_checkpoint(work_dir: Path) -> Path | None:
    """Return the newest valid checkpoint in a work folder; torn ones are removed."""
    found = [path for path in work_dir.glob("checkpoint-*") if _NAME.fullmatch(path.name)]
    for checkpoint in sorted(found, key=step_of, reverse=True):
        if is_whole(checkpoint):
            return checkpoint
        _log.warning("Checkpoint %s was cut off while it was written; the one before it is used.", checkpoint.name)
        shutil.rmtree(checkpoint)
    return None
