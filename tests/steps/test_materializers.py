import os
import stat
import time
from pathlib import Path
from typing import Any

import pytest

from llm_engineering.data import file_hashes
from llm_engineering.errors import StoreError
from llm_engineering.reports.folders import RowSet, hash_files
from steps.runtime import materializers
from steps.runtime.materializers import FILES, FolderMaterializer


@pytest.fixture
def rows(tmp_path: Path) -> RowSet:
    folder = tmp_path / "work"
    (folder / "train").mkdir(parents=True)
    (folder / "train" / "data.arrow").write_bytes(b"rows")
    return RowSet(path=folder, sha256=hash_files(folder), rows={"train": 1})


def test_a_folder_is_linked_into_the_store_not_copied(rows: RowSet, tmp_path: Path) -> None:
    store = tmp_path / "store"
    store.mkdir()
    FolderMaterializer(str(store)).save(rows)
    stored = store / FILES / "train" / "data.arrow"
    assert stored.samefile(rows.path / "train" / "data.arrow")
    assert stat.S_IMODE(stored.stat().st_mode) == 0o444


def test_what_is_loaded_is_what_was_saved_at_its_new_place(rows: RowSet, tmp_path: Path) -> None:
    store = tmp_path / "store"
    store.mkdir()
    materializer = FolderMaterializer(str(store))
    materializer.save(rows)
    loaded = materializer.load(RowSet)
    assert loaded == rows.model_copy(update={"path": store / FILES})
    assert hash_files(loaded.path) == rows.sha256


@pytest.fixture
def stored(rows: RowSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FolderMaterializer:
    """Return the materializer of stored rows, beside ZenML's store: nobody is asked which step made them."""
    monkeypatch.setattr(materializers, "hash_memo", lambda: tmp_path / "memo.json")
    monkeypatch.setattr(materializers, "give_up", lambda address, what: StoreError(f"{address} {what}"))
    monkeypatch.setattr(file_hashes, "RACY_SECONDS", 0.02)
    (rows.path / "train" / "large.arrow").write_bytes(b"r" * (file_hashes.SMALL + 1))
    store = tmp_path / "store"
    store.mkdir()
    materializer = FolderMaterializer(str(store))
    materializer.save(rows.model_copy(update={"sha256": hash_files(rows.path)}))
    time.sleep(0.03)  # until the files are old enough for their hashes to be kept
    materializer.load(RowSet)
    return materializer


@pytest.mark.parametrize("name", ["files/train/data.arrow", "files/train/large.arrow", "folder.json"])
def test_zeros_in_what_is_stored_are_refused(name: str, stored: FolderMaterializer) -> None:
    path = Path(stored.uri) / name
    before = path.stat()
    path.chmod(0o644)
    path.write_bytes(bytes(before.st_size))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(StoreError, match=f"{stored.uri} is damaged"):
        stored.load(RowSet)


@pytest.mark.parametrize("name", ["files/train/large.arrow", "folder.json", "files"])
def test_what_is_stored_is_refused_when_a_part_is_gone(name: str, stored: FolderMaterializer, tmp_path: Path) -> None:
    (Path(stored.uri) / name).rename(tmp_path / "elsewhere")
    with pytest.raises(StoreError, match=r"is (damaged|gone)"):
        stored.load(RowSet)


def test_large_files_are_read_once_for_as_long_as_they_are_what_they_were(
    stored: FolderMaterializer, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, real = list[str](), Path.open

    def probe(path: Path, *arguments: Any, **named: Any) -> Any:
        read.append(path.name)
        return real(path, *arguments, **named)

    monkeypatch.setattr(Path, "open", probe)
    for _ in range(2):
        stored.load(RowSet)
    assert (read.count("data.arrow"), read.count("large.arrow")) == (2, 0)
    (Path(stored.uri) / FILES / "train" / "large.arrow").touch()
    stored.load(RowSet)
    assert read.count("large.arrow") == 1


def test_equal_contents_have_equal_cache_keys(rows: RowSet, tmp_path: Path) -> None:
    elsewhere = rows.model_copy(update={"path": tmp_path / "elsewhere"})
    materializer = FolderMaterializer(str(tmp_path))
    assert materializer.compute_content_hash(rows) == materializer.compute_content_hash(elsewhere)
