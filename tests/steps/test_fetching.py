from pathlib import Path

import pytest

from llm_engineering.config.model import ModelConfig
from llm_engineering.errors import ModelError, StoreError
from llm_engineering.models.checkpoints import locate_base
from llm_engineering.reports.folders import Checkpoint, Folder, FromPackage, hash_contents, hash_files
from steps.runtime.fetching import at_hand, described
from steps.runtime.stores import download_whole, upload


def test_the_bundled_base_is_found_where_the_package_is() -> None:
    here = locate_base(ModelConfig())
    travelling = here.model_copy(update={"path": Path("embedded"), "fetch": FromPackage(type="package")})
    assert at_hand(travelling) == here
    assert described(travelling) == here


def test_another_base_than_the_submitters_is_refused() -> None:
    here = locate_base(ModelConfig())
    other = here.model_copy(update={"weights_sha256": "0" * 64, "fetch": FromPackage(type="package")})
    with pytest.raises(ModelError, match="are not the same here as where the run was submitted"):
        at_hand(other)


def test_a_model_that_is_here_is_taken_as_it_is(tmp_path: Path) -> None:
    model = Checkpoint(path=tmp_path, sha256="", kind="model", weights_sha256="w", base="b", base_sha256="w")
    assert at_hand(model) is model


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    path = tmp_path / "folder"
    (path / "inner").mkdir(parents=True)
    (path / "a.txt").write_text("a")
    (path / "inner" / "b.txt").write_text("b")
    return Folder(path=path, sha256=hash_files(path))


def test_what_comes_back_from_a_store_is_what_was_stored(folder: Folder, tmp_path: Path) -> None:
    upload(folder.path, str(tmp_path / "store"))
    download_whole(str(tmp_path / "store"), tmp_path / "back", folder.sha256)
    assert hash_files(tmp_path / "back") == folder.sha256


def test_a_damaged_file_in_a_store_is_noticed(folder: Folder, tmp_path: Path) -> None:
    upload(folder.path, str(tmp_path / "store"))
    (tmp_path / "store" / "a.txt").write_text("another")
    with pytest.raises(StoreError, match="is not what was stored there"):
        download_whole(str(tmp_path / "store"), tmp_path / "back", folder.sha256)


def test_the_hash_of_named_contents_is_that_of_the_folder(folder: Folder) -> None:
    # sha256 of "a" and of "b"
    contents = {
        "inner/b.txt": "3e23e8160039594a33894f6564e1b1348bbd7a0088d42c4acb73eeaed59c009d",
        "a.txt": "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb",
    }
    assert hash_contents(contents) == folder.sha256
