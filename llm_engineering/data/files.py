"""Data files: found by path, folder, pattern or fsspec address, opened and unpacked."""

import errno
import glob
import io
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from llm_engineering.errors import DataError

KINDS = ("json", "jsonl", "csv", "tsv", "parquet", "arrow")
PACKINGS = {"gz": "gzip", "zst": "zstd"}
HIDDEN = (".", "_")
"""How names begin that are passed over in a folder: ``.cache``, ``_SUCCESS``."""
UNREAD_PACKINGS = (".bz2", ".xz", ".zip", ".7z", ".lz4", ".zstd", ".gzip", ".snappy")
"""Endings of data files that are not read; to pass over one in a folder would lose rows silently."""
CHUNK = 1 << 20
"""Bytes that are read at once."""
PACKED_CHUNK = 1 << 16
"""The same of an archive: what was read of it beyond the last chunk is lost where it is cut off."""


@dataclass(frozen=True)
class DataFile:
    """One file of a source."""

    path: str
    """Its local path, or its path in ``remote``."""
    name: str
    """What places and messages call it: its path below the folder or the fixed part of the pattern."""
    kind: str
    """One of KINDS."""
    packing: str | None
    """One of the values of PACKINGS."""
    remote: Any = None
    """The fsspec file system; none: the file is local."""

    @property
    def address(self) -> str:
        """Where the file is, without login and query."""
        return self.path if self.remote is None else without_secrets(self.remote.unstrip_protocol(self.path))

    @contextmanager
    def reading(self, after: str = "") -> Iterator[None]:
        """Say in one sentence what goes wrong while the file is read.

        Args:
            after: How far it was read, such as ``line 17``.

        Raises:
            DataError: Says what, where, and what to do.
        """
        import pyarrow

        # Every fsspec file system raises the errors of the library below it: botocore's, aiohttp's, paramiko's.
        faults = (OSError, EOFError, pyarrow.ArrowException) if self.remote is None else (Exception,)
        try:
            yield
        except faults as error:
            far = f" beyond {after}" if after else ""
            if isinstance(error, DataError | MemoryError):
                raise
            if self.packing and self.remote is None:
                raise DataError(
                    f"{self.address} cannot be unpacked{far}: {_reason(error)}. It is damaged or cut off; pack it anew."
                ) from error
            hint = "Check the file." if self.remote is None else "Check file, address, network and login."
            raise DataError(f"{self.address} cannot be read{far}: {_reason(error)}. {hint}") from error

    def open(self) -> IO[bytes]:
        """Return the file's bytes as they are."""
        if self.remote is None:
            return Path(self.path).open("rb")
        stream: IO[bytes] = self.remote.open(self.path, "rb")
        return stream

    def unpacked(self) -> IO[bytes]:
        """Return the file's bytes, unpacked while they are read; a cut-off archive is an error at its end."""
        raw = self.open()
        if self.packing is None:
            return io.BufferedReader(raw, CHUNK)  # type: ignore[type-var]
        import pyarrow

        # fsspec's own reader of zst has no lines, and zstandard's takes a cut-off archive for a whole one.
        return io.BufferedReader(pyarrow.CompressedInputStream(raw, self.packing), PACKED_CHUNK)

    @contextmanager
    def seekable(self) -> Iterator[Any]:
        """Give the file's bytes for reading out of order; through a temporary file where it must be."""
        import pyarrow

        with ExitStack() as opened:
            with self.reading():
                if self.packing is None and self.remote is None:
                    stream = opened.enter_context(pyarrow.memory_map(self.path))
                else:
                    stream = opened.enter_context(self.open())
                    if self.packing or not _can_seek(stream):
                        stream = opened.enter_context(tempfile.TemporaryFile())
                        with self.unpacked() as packed:
                            shutil.copyfileobj(packed, stream, CHUNK)
                        stream.seek(0)
            yield stream


def _can_seek(stream: IO[bytes]) -> bool:
    """Return whether a file can be read out of order; some web servers send whole files only."""
    try:
        stream.seek(0, io.SEEK_END)
        stream.seek(0)
    except (OSError, ValueError):
        return False
    return True


def find_files(path: str) -> list[DataFile]:
    """Return the data files that a path, a folder, a pattern or an address stands for, sorted.

    Of a folder its own files are read, not those of its sub-folders, which are often splits; a pattern such as
    ``rows/**/*.jsonl`` reads those too. Hidden files, those that begin with ``_``, and whatever is no data file are
    left out. Of a folder that ``save_to_disk`` of datasets wrote, those Arrow files are read that ``state.json`` names.

    Raises:
        DataError: There is no such file, or it cannot be read, is empty or of an unknown kind; or several kinds of
            files lie together.
    """
    if "://" not in path or path.startswith("file://"):
        return _find_local(path.removeprefix("file://"))
    return _find_remote(path)


def stored_files(folder: Path) -> list[DataFile]:
    """Return the data files of a folder that holds what :func:`find_files` had found elsewhere, by the same names."""
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return [DataFile(str(folder / name), name, *_known_kind(name, name)) for name in names]


def _find_local(path: str) -> list[DataFile]:
    here = Path(path)
    if here.is_dir():
        found = _files_of_folder(here)
    elif glob.has_magic(path) and not here.exists():
        found = _files_of_pattern(here)
    else:
        found = [_named_file(here)]
    for file in found:
        _check_local(Path(file.path))
    return found


def _files_of_folder(folder: Path) -> list[DataFile]:
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise DataError(f"{folder} cannot be listed: {error.strerror}. Change its permissions.") from error
    names = _saved_by_datasets(folder) or [entry.name for entry in entries if not entry.is_dir()]
    found = [DataFile(str(folder / name), name, *kind) for name, kind in _data_names(names, str(folder))]
    _check_found(found, str(folder), [e.name for e in entries if e.is_dir() and not e.name.startswith(HIDDEN)])
    return found


def _files_of_pattern(pattern: Path) -> list[DataFile]:
    fixed = next(index for index, part in enumerate(pattern.parts) if glob.has_magic(part))
    root, rest = Path(*pattern.parts[:fixed]), Path(*pattern.parts[fixed:])
    try:
        names = sorted(path.relative_to(root).as_posix() for path in root.glob(str(rest)) if path.is_file())
    except ValueError as error:
        raise DataError(f"{pattern} is no valid pattern: {error}. Write such as rows/**/*.jsonl.") from error
    found = [DataFile(str(root / name), name, *kind) for name, kind in _data_names(names, str(pattern), hidden=(".",))]
    _check_found(found, str(pattern))
    return found


def _named_file(path: Path) -> DataFile:
    if not path.is_file():
        beside = sorted(p.name for p in path.parent.iterdir() if _kind(p.name)) if path.parent.is_dir() else []
        hint = f" Beside it there are: {', '.join(beside[:8])}." if beside else " Check the path."
        raise DataError(f"{path} does not exist.{hint}")
    return DataFile(str(path), path.name, *_known_kind(path.name, str(path)))


def _check_local(path: Path) -> None:
    if not path.is_file():
        raise DataError(f"{path} does not exist. Mend the link, or name the files.")
    if path.stat().st_size == 0:
        raise DataError(f"{path} is empty. Check that it was written.")
    if not os.access(path, os.R_OK):
        raise DataError(f"{path} may not be read. Change its permissions.")


def _saved_by_datasets(folder: Path) -> list[str]:
    """Return the files of a folder that save_to_disk wrote; files of its cache lie beside them."""
    if (folder / "dataset_dict.json").is_file():
        splits = ", ".join(sorted(path.name for path in folder.iterdir() if path.is_dir()))
        raise DataError(f"{folder} holds several splits: {splits}. Name the folder of one.")
    state = folder / "state.json"
    if not state.is_file() or not (folder / "dataset_info.json").is_file():
        return []
    try:
        return [str(file["filename"]) for file in json.loads(state.read_bytes())["_data_files"]]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{state} does not name the folder's data files. Name them: {folder}/*.arrow.") from error


def _find_remote(address: str) -> list[DataFile]:
    shown = without_secrets(address)
    probe = DataFile(address, shown, "", None, _Unopened())
    with probe.reading():
        system, path = _file_system(address)
        system.invalidate_cache()
        is_web = address.startswith(("http://", "https://"))
        if "*" in path or (glob.has_magic(path) and not is_web):  # ? and [ belong to the query of a web address
            names, folders = sorted(system.glob(path)), None
            root = path[: re.search(r"[*?[]", path).start()].rpartition("/")[0]  # type: ignore[union-attr]
        elif system.info(path)["type"] == "directory":
            entries = system.ls(path, detail=True)
            names = sorted(entry["name"] for entry in entries if entry["type"] == "file")
            folders = sorted(entry["name"].rpartition("/")[2] for entry in entries if entry["type"] == "directory")
            root = path
        else:
            name = path.partition("?")[0].rpartition("/")[2] if is_web else path.rpartition("/")[2]
            return [DataFile(path, name, *_known_kind(name, shown), system)]
    root = root.strip("/")
    below = {name.lstrip("/").removeprefix(root).lstrip("/"): name for name in names}
    found = [DataFile(below[name], name, *kind, system) for name, kind in _data_names(list(below), shown)]
    _check_found(found, shown, folders)
    return found


class _Unopened:
    """Stands for a file system that is not there yet."""

    def unstrip_protocol(self, address: str) -> str:
        return address


def _file_system(address: str) -> tuple[Any, str]:
    import fsspec  # type: ignore[import-untyped]
    from fsspec.registry import known_implementations  # type: ignore[import-untyped]

    protocol = address.partition("://")[0].rpartition("::")[2]
    try:
        system, path = fsspec.core.url_to_fs(address)
    except ImportError as error:
        package = known_implementations.get(protocol, {}).get("class", protocol).partition(".")[0]
        raise DataError(f"{without_secrets(address)} needs the package {package}; install it.") from error
    return system, path


def _data_names(
    names: list[str], where: str, hidden: tuple[str, ...] = HIDDEN
) -> Iterator[tuple[str, tuple[str, str | None]]]:
    """Yield the names of data files with their kinds."""
    for name in names:
        file = name.rpartition("/")[2]
        if any(part.startswith(hidden) for part in name.split("/")):
            continue
        kind = _kind(file)
        if kind is not None:
            yield name, kind
        elif file.lower().endswith(UNREAD_PACKINGS) and _kind(file.rpartition(".")[0]):
            raise DataError(f"{where}: {name} is packed in a way that is not read. Unpack it, or name a pattern.")


def _check_found(found: list[DataFile], where: str, folders: list[str] | None = None) -> None:
    kinds = sorted({file.kind for file in found})
    if len(kinds) > 1:
        raise DataError(
            f"{where} holds files of several kinds: {', '.join(kinds)}. Name those to read by a pattern, such as "
            f"*.{kinds[-1]}."
        )
    if not found and folders:
        raise DataError(
            f"{where} holds no data files, but the folders {', '.join(folders[:8])}. Name one of them, or all by a "
            "pattern, such as **/*.jsonl."
        )
    if not found:
        known = ", ".join(f".{kind}" for kind in KINDS)
        raise DataError(f"{where} stands for no data file ({known}, or one of them with .gz or .zst). Check the path.")


def _kind(name: str) -> tuple[str, str | None] | None:
    """Return kind and packing of a file by its name, or none if it is no data file's."""
    parts = name.lower().split(".")
    packing = PACKINGS[parts.pop()] if parts[-1] in PACKINGS else None
    return (parts[-1], packing) if len(parts) > 1 and parts[-1] in KINDS else None


def _known_kind(name: str, where: str) -> tuple[str, str | None]:
    kind = _kind(name)
    if kind is None:
        known = ", ".join(f".{kind}" for kind in KINDS)
        raise DataError(f"{where} is none of {known}, nor one of them with .gz or .zst. Convert it to JSON lines.")
    return kind


def without_secrets(address: str) -> str:
    """Return an address without login and query."""
    without_query = re.sub(r"(https?://[^\s'\"?]*)\?[^\s'\"]*", r"\1", address)
    return re.sub(r"(://)[^/@\s]*@", r"\1", without_query)


def _reason(error: BaseException) -> str:
    """Return the innermost error's first line."""
    while error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, OSError) and error.strerror and error.errno in errno.errorcode:
        return error.strerror
    if type(error) is FileNotFoundError:  # fsspec gives the path alone
        return "it does not exist"
    lines = str(error).strip().splitlines()
    return without_secrets(lines[0]).rstrip(".") if lines else type(error).__name__
