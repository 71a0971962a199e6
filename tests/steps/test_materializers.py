import stat
from pathlib import Path

import pytest

from llm_engineering.reports.folders import RowSet, hash_files
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


def test_equal_contents_have_equal_cache_keys(rows: RowSet, tmp_path: Path) -> None:
    elsewhere = rows.model_copy(update={"path": tmp_path / "elsewhere"})
    materializer = FolderMaterializer(str(tmp_path))
    assert materializer.compute_content_hash(rows) == materializer.compute_content_hash(elsewhere)
