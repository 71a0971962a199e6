"""Folders in artifact stores that are no file system of this machine: copied there and back, listed, removed.

Stores of object storage have an fsspec file system, which copies many files at once and long ones in parts. Any other
store is gone through file by file, in pieces, by what ZenML asks of every store.
"""

from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from zenml.client import Client
from zenml.io import fileio
from zenml.io.fileio import convert_to_str
from zenml.utils import io_utils

from llm_engineering.errors import StoreError
from llm_engineering.reports.folders import hash_files


def is_remote(address: str) -> bool:
    """Return whether an address is no path of this machine's file systems."""
    return bool(io_utils.is_remote(address))


def store_address() -> str:
    """Return where the artifact store of the active stack is."""
    return str(Client().active_stack.artifact_store.path)


def hash_memo() -> Path:
    """Return the file that keeps hashes of local files, in ZenML's folder."""
    return Path(io_utils.get_global_config_directory()) / "llm-engineering-file-hashes.json"


def give_up(address: str, what: str) -> StoreError:
    """Return the error of an artifact that cannot be used; its step is not taken from the cache any more.

    Args:
        address: Where the artifact is stored.
        what: What is wrong with it.
    """
    found = next(iter(Client().list_artifact_versions(uri=address, size=1, hydrate=True).items), None)
    if found is None or found.producer_step_run_id is None:
        return StoreError(f"What is stored at {address} {what}. Remove it and run again, which stores it anew.")
    step = Client().update_step_run(found.producer_step_run_id, cache_expires_at=datetime.now(UTC))
    return StoreError(
        f"The artifact {found.name} (version {found.version}) at {address} {what}. Run again what made it: its step "
        f"{step.name} is not taken from the cache then and makes it anew."
    )


def upload(folder: Path, address: str, last: str | None = None) -> None:
    """Copy a folder's files below an address.

    Args:
        folder: Where the files are.
        address: Where they go.
        last: The name of a file that is copied once all others are there.

    Raises:
        OSError: A file was removed meanwhile; whatever else the store's library raises.
    """
    names = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file()]
    for part in ([name for name in names if name != last], [name for name in names if name == last]):
        _put([(folder / name, f"{address}/{name}") for name in part])


def upload_file(path: Path, address: str) -> None:
    """Copy one file to an address."""
    _put([(path, address)])


def download(address: str, folder: Path, wanted: Callable[[str], bool] = lambda name: True) -> None:
    """Copy what lies below an address into a folder.

    Args:
        address: Where the files are.
        folder: Where they go; made if it is missing.
        wanted: Says of a relative name whether its file is copied.
    """
    folder.mkdir(parents=True, exist_ok=True)
    names = [name for name in files_below(address) if wanted(name)]
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
    _get([(f"{address}/{name}", folder / name) for name in names])


def download_whole(address: str, folder: Path, sha256: str) -> None:
    """Copy what lies below an address into a folder, and see that it is what was stored.

    Raises:
        StoreError: It is something else.
    """
    download(address, folder)
    if hash_files(folder) != sha256:
        raise StoreError(
            f"What is stored at {address} is not what was stored there: a file is missing, added or damaged. Run with "
            "--no-cache to make it again."
        )


def files_below(address: str) -> list[str]:
    """Return the names of all files below an address, relative to it, sorted."""
    _look_anew(address)
    found: list[str] = []
    for folder, _, names in fileio.walk(address):
        below = convert_to_str(folder).rstrip("/").removeprefix(address.rstrip("/")).strip("/")
        found += [f"{below}/{convert_to_str(name)}".lstrip("/") for name in names]
    return sorted(found)


def entries(address: str) -> list[str]:
    """Return the names of what lies directly below an address; nothing where there is no such place."""
    _look_anew(address)
    if not fileio.isdir(address):
        return []
    return sorted(convert_to_str(name).strip("/") for name in fileio.listdir(address))


def remove(address: str, first: str | None = None) -> None:
    """Remove everything below an address, one file before all others where it is named."""
    if first is not None and fileio.exists(f"{address}/{first}"):
        fileio.remove(f"{address}/{first}")
    if fileio.isdir(address):
        fileio.rmtree(address)


def _put(pairs: Iterable[tuple[Path, str]]) -> None:
    copies = [(str(path), address) for path, address in pairs]
    system = _file_system(address for _, address in copies)
    if system is not None:
        system.put([path for path, _ in copies], [address for _, address in copies])
        return
    for path, address in copies:
        fileio.makedirs(address.rpartition("/")[0])
        fileio.copy(path, address, overwrite=True)


def _get(pairs: Iterable[tuple[str, Path]]) -> None:
    copies = [(address, str(path)) for address, path in pairs]
    system = _file_system(address for address, _ in copies)
    if system is not None:
        system.get([address for address, _ in copies], [path for _, path in copies])
        return
    for address, path in copies:
        fileio.copy(address, path, overwrite=True)


def _file_system(addresses: Iterable[str]) -> Any:
    """Return the fsspec file system behind the active stack's store; None where it has none, or lies elsewhere."""
    asked = list(addresses)
    if not asked or not all(map(is_remote, asked)):
        return None
    store = Client().active_stack.artifact_store
    return getattr(store, "filesystem", None) if all(address.startswith(store.path) for address in asked) else None


def _look_anew(address: str) -> None:
    """Forget earlier listings, which fsspec keeps: other processes write there, too."""
    system = _file_system([address])
    if system is not None:
        system.invalidate_cache()


def load_artifacts(versions: Mapping[str, str]) -> dict[str, object]:
    """Return what versions of artifacts hold, by their sources' names; in a step, they become inputs of it.

    Raises:
        StoreError: A version cannot be loaded any more.
    """
    return {name: _load(name, UUID(version)) for name, version in versions.items()}


def _load(name: str, version: UUID) -> object:
    try:
        return Client().get_artifact_version(version).load()
    except Exception as error:  # materializers and artifact stores raise what they like
        raise StoreError(
            f"The artifact {name} cannot be loaded: {error}. Name another version, or store it anew."
        ) from error
