"""What changes with the content of files: hashes, kept for as long as a file is what it was."""

import hashlib
import json
import logging
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from llm_engineering.data.files import CHUNK, DataFile
from llm_engineering.reports.folders import hash_file, hash_files

RACY_SECONDS = 2
"""A file that was changed so shortly before it was hashed may change again without a newer time stamp."""
SMALL = 1 << 20
"""A stored file of at most so many bytes is read whenever it is asked for, whatever its time stamps say."""
_CONTENT_FACTS = {
    *("etag", "content-md5", "digest", "md5hash", "md5", "crc32c", "checksum", "sha", "sha256", "blob_id"),
    *("last-modified", "lastmodified", "last_modified", "mtime", "updated", "modified"),
    *("versionid", "version_id", "generation"),
}
"""What file systems say of a file that changes with its content."""

_log = logging.getLogger(__name__)


def hash_data_files(files: list[DataFile], memo: Path | None = None) -> dict[str, str]:
    """Return for each file, by its address, what changes with its content.

    That is the sha256 of a local file. Of a remote one it is what the file system says of its content (etag, checksum,
    time of change), or the sha256 where it says nothing.

    Args:
        files: The files.
        memo: A JSON file that keeps the hashes of local files, so that an unchanged file is not read again. One that is
            missing or damaged is written anew.

    Raises:
        DataError: A file cannot be read.
    """
    known = _Memo(memo)
    hashes: dict[str, set[str]] = {}
    for file in files:  # addresses that differ in their queries alone come together
        here = file.remote is None
        content = known.sha256(file.path, partial(_content_hash, file)) if here else _remote_hash(file)
        hashes.setdefault(file.address, set()).add(content)
    known.save()
    return {address: " ".join(sorted(found)) for address, found in hashes.items()}


def hash_folder(folder: Path, memo: Path) -> str:
    """Return :func:`~llm_engineering.reports.folders.hash_files` of a folder, large files as the memo knows them."""
    known = _Memo(memo)

    def hash_of(path: Path) -> str:
        content = partial(hash_file, path)
        return content() if path.stat().st_size <= SMALL else known.sha256(str(path), content)

    sha256 = hash_files(folder, hash_of=hash_of)
    known.save()
    return sha256


class _Memo:
    """Hashes of local files, each valid as long as size, times and inode of the file are what they were."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.known: dict[str, list[Any]] = {}
        self.changed = False
        if path is not None and path.is_file():
            try:
                known = json.loads(path.read_bytes())
            except (ValueError, OSError):
                known = None
            if isinstance(known, dict):
                self.known = {file: entry for file, entry in known.items() if isinstance(entry, list)}

    def sha256(self, path: str, content: Callable[[], str]) -> str:
        now = time.time_ns()
        state = _state(path)
        entry = self.known.get(path, [])
        if entry[:-1] == state and isinstance(entry[-1], str):
            return entry[-1]
        sha256 = content()
        settled = now - max(state[1], state[2]) >= RACY_SECONDS * 10**9
        if settled and _state(path) == state:
            self.known[path] = [*state, sha256]
            self.changed = True
        return sha256

    def save(self) -> None:
        if self.path is None or not self.changed:
            return
        kept = {path: entry for path, entry in self.known.items() if Path(path).is_file()}
        new = self.path.with_name(f"{self.path.name}.{os.getpid()}")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            new.write_text(json.dumps(kept), encoding="utf-8")
            new.replace(self.path)
        except OSError as error:
            new.unlink(missing_ok=True)
            _log.warning("The hashes of files cannot be kept in %s: %s.", self.path, error.strerror)


def _state(path: str) -> list[int]:
    # The time of the inode's last change: one that restores the time of the content cannot restore it.
    stat = Path(path).stat()
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]


def _content_hash(file: DataFile) -> str:
    digest = hashlib.sha256()
    with file.reading(), file.open() as stream:
        while chunk := stream.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _remote_hash(file: DataFile) -> str:
    with file.reading():
        info = file.remote.info(file.path)
    facts = sorted((key.lower(), str(value)) for key, value in info.items() if key.lower() in _CONTENT_FACTS and value)
    if not facts:
        return _content_hash(file)
    return hashlib.sha256(json.dumps([info.get("size"), facts]).encode()).hexdigest()
