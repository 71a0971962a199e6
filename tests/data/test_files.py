import gzip
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from llm_engineering.data import file_hashes
from llm_engineering.data.file_hashes import hash_data_files
from llm_engineering.data.files import DataFile, find_files, without_secrets
from llm_engineering.errors import DataError

ROW = '{"a": 1}\n'


def write(path: Path, content: str = ROW) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


def names(path: Path | str) -> list[str]:
    return [file.name for file in find_files(str(path))]


@pytest.fixture
def memory_files() -> Iterator["fsspec.AbstractFileSystem"]:
    system = fsspec.filesystem("memory")
    yield system
    system.store.clear()
    system.pseudo_dirs[:] = [""]


# Which files are meant


def test_kind_and_packing_are_told_by_the_name(tmp_path: Path) -> None:
    for name, kind, packing in (
        ("a.jsonl", "jsonl", None),
        ("A.JSON", "json", None),
        ("a.b.tsv.gz", "tsv", "gzip"),
        ("a.parquet.zst", "parquet", "zstd"),
        ("a.arrow", "arrow", None),
    ):
        (file,) = find_files(str(write(tmp_path / name)))
        assert (file.kind, file.packing, file.path) == (kind, packing, str(tmp_path / name))
    for name in ("a.txt", "a.gz", "a.txt.gz", "jsonl", "a.jsonl.bz2"):
        with pytest.raises(
            DataError, match=rf"{name} is none of \.json, \.jsonl, .*\.arrow, nor one of them with \.gz"
        ):
            find_files(str(write(tmp_path / name)))


def test_missing_file_names_what_lies_beside_it(tmp_path: Path) -> None:
    for name in ("b.jsonl.gz", "a.csv", "notes.txt"):
        write(tmp_path / name)
    with pytest.raises(DataError, match=r"c\.jsonl does not exist\. Beside it there are: a\.csv, b\.jsonl\.gz\.$"):
        find_files(str(tmp_path / "c.jsonl"))
    with pytest.raises(DataError, match=r"c\.jsonl does not exist\. Check the path\."):
        find_files(str(tmp_path / "nowhere" / "c.jsonl"))


def test_empty_files_and_broken_links_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "a" / "one.jsonl")
    write(tmp_path / "a" / "two.jsonl", "")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "link.jsonl").symlink_to("nowhere")
    for path in (tmp_path / "a", tmp_path / "a" / "*.jsonl", tmp_path / "a" / "two.jsonl"):
        with pytest.raises(DataError, match=r"two\.jsonl is empty\. Check that it was written"):
            find_files(str(path))
    with pytest.raises(DataError, match=r"link\.jsonl does not exist\. Mend the link"):
        find_files(str(tmp_path / "b"))


def test_of_a_folder_only_its_own_data_files_count(tmp_path: Path) -> None:
    for name in ("b.jsonl.gz", "a.jsonl", ".hidden.jsonl", "_SUCCESS", "_part.jsonl", "README.md", "LICENSE", "n.txt"):
        write(tmp_path / name)
    write(tmp_path / "sub" / "c.csv")
    (tmp_path / "link.jsonl").symlink_to("a.jsonl")
    assert names(tmp_path) == names(f"{tmp_path}/") == ["a.jsonl", "b.jsonl.gz", "link.jsonl"]


def test_several_kinds_in_one_place_are_refused(tmp_path: Path) -> None:
    for name in ("a.jsonl", "b.csv.gz", "c.parquet"):
        write(tmp_path / name)
    for path in (tmp_path, tmp_path / "*"):
        with pytest.raises(
            DataError, match=r"holds files of several kinds: csv, jsonl, parquet\. Name those .*\*\.parq"
        ):
            find_files(str(path))
    assert names(tmp_path / "*.jsonl") == ["a.jsonl"]


def test_a_data_file_in_a_packing_that_is_not_read_is_not_passed_over(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl")
    write(tmp_path / "b.jsonl.bz2")
    with pytest.raises(DataError, match=r"b\.jsonl\.bz2 is packed in a way that is not read"):
        find_files(str(tmp_path))


def test_a_folder_without_data_files_is_refused_and_names_its_folders(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty stands for no data file \(\.json, .* with \.gz or \.zst\)\. Check"):
        find_files(str(tmp_path / "empty"))
    write(tmp_path / "test" / "a.jsonl")
    with pytest.raises(DataError, match=r"holds no data files, but the folders empty, test\. Name one of them"):
        find_files(str(tmp_path))


def test_of_a_saved_data_set_its_own_arrow_files_are_read(tmp_path: Path) -> None:
    import datasets

    datasets.Dataset.from_dict({"a": ["1", "2"]}).save_to_disk(tmp_path / "set", num_shards=2)
    write(tmp_path / "set" / "cache-0123.arrow")  # datasets keeps results of `map` beside the data
    assert names(tmp_path / "set") == ["data-00000-of-00002.arrow", "data-00001-of-00002.arrow"]
    write(tmp_path / "set" / "state.json", "[]")
    with pytest.raises(DataError, match=r"state\.json does not name the folder's data files"):
        find_files(str(tmp_path / "set"))


def test_a_pattern_gives_its_matches_sorted_by_path(tmp_path: Path) -> None:
    for name in ("b/2.jsonl", "b/1.jsonl", "a/deep/3.jsonl", "a/.cache/4.jsonl", "5.jsonl", "a/n.txt"):
        write(tmp_path / name)
    assert names(tmp_path / "**" / "*.jsonl") == ["5.jsonl", "a/deep/3.jsonl", "b/1.jsonl", "b/2.jsonl"]
    assert names(tmp_path / "b" / "[12].jsonl") == ["1.jsonl", "2.jsonl"]
    assert [file.path for file in find_files(f"{tmp_path}/?/1.jsonl")] == [f"{tmp_path}/b/1.jsonl"]
    with pytest.raises(DataError, match=r"\*\.csv stands for no data file"):
        find_files(str(tmp_path / "*.csv"))
    with pytest.raises(DataError, match=r"is no valid pattern: .*Write such as"):
        find_files(str(tmp_path / "a**.jsonl"))


def test_a_file_whose_name_looks_like_a_pattern_is_itself(tmp_path: Path) -> None:
    write(tmp_path / "rows[1].jsonl")
    write(tmp_path / "rows1.jsonl")
    assert names(tmp_path / "rows[1].jsonl") == ["rows[1].jsonl"]


# Addresses


def test_files_folders_and_patterns_are_found_at_addresses(memory_files: "fsspec.AbstractFileSystem") -> None:
    for name in ("b.jsonl", "a.jsonl", ".hidden.jsonl", "README.md", "sub/c.jsonl"):
        memory_files.pipe(f"/rows/{name}", ROW.encode())
    assert names("memory://rows/b.jsonl") == ["b.jsonl"]
    assert names("memory://rows") == ["a.jsonl", "b.jsonl"]
    assert names("memory://rows/*.jsonl") == ["a.jsonl", "b.jsonl"]
    assert names("memory://rows/**/*.jsonl") == ["a.jsonl", "b.jsonl", "sub/c.jsonl"]
    assert find_files("memory://rows")[0].address == "memory:///rows/a.jsonl"
    memory_files.pipe("/rows/d.csv", b"a\n1\n")
    with pytest.raises(DataError, match=r"memory://rows holds files of several kinds: csv, jsonl"):
        find_files("memory://rows")


def test_a_file_address_is_a_local_path(tmp_path: Path) -> None:
    (file,) = find_files(f"file://{write(tmp_path / 'a.jsonl')}")
    assert file.remote is None


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("s3://bucket/rows.jsonl", r"s3://bucket/rows\.jsonl needs the package s3fs; install it\.$"),
        ("gs://bucket/*.jsonl", r"needs the package gcsfs; install it\.$"),
        ("az://box/rows.jsonl", r"needs the package adlfs; install it\.$"),
        ("nope://x/a.jsonl", r"nope://x/a\.jsonl cannot be read: Protocol not known: nope\. Check file, address"),
        ("memory://x/a.jsonl", r"memory://x/a\.jsonl cannot be read: it does not exist\. Check file, address"),
        (
            "https://127.0.0.1:9/a.csv?key=secret",
            r"https://127\.0\.0\.1:9/a\.csv cannot be read: .*Check file, address",
        ),
    ],
)
def test_an_address_that_cannot_be_read_is_one_sentence(address: str, said: str) -> None:
    with pytest.raises(DataError, match=said) as caught:
        find_files(address)
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)


def test_logins_and_queries_are_not_shown() -> None:
    assert without_secrets("https://me:pass@host/a.csv?token=1 and more") == "https://host/a.csv and more"
    assert without_secrets("s3://bucket/a@b?.csv") == "s3://bucket/a@b?.csv"


# Hashes


Opened = list[str]


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Opened:
    """Return the names of the data files that are opened from now on."""
    names: Opened = []
    real: Callable[[DataFile], Any] = DataFile.open

    def probe(file: DataFile) -> Any:
        names.append(file.name)
        return real(file)

    monkeypatch.setattr(DataFile, "open", probe)
    return names


@pytest.fixture
def old(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], Path]:
    """Return a function that waits until a file is old enough for its hash to be kept: 20 ms here."""
    monkeypatch.setattr(file_hashes, "RACY_SECONDS", 0.02)

    def wait(path: Path) -> Path:
        time.sleep(max(0.0, path.stat().st_ctime + 0.03 - time.time()))
        return path

    return wait


def test_an_unchanged_file_is_not_read_again_and_an_edited_one_is(
    tmp_path: Path, opened: Opened, old: Callable[[Path], Path]
) -> None:
    memo = tmp_path / "deep" / "memo.json"
    write(tmp_path / "b.jsonl")
    path = old(write(tmp_path / "a.jsonl"))
    found = find_files(str(tmp_path / "*.jsonl"))
    first = hash_data_files(found, memo)
    assert opened == ["a.jsonl", "b.jsonl"]
    assert first[str(path)] == first[str(tmp_path / "b.jsonl")]
    assert hash_data_files(found, memo) == first
    assert opened == ["a.jsonl", "b.jsonl"]

    before = path.stat()
    path.write_text('{"a": 2}\n')  # as long as before
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    second = hash_data_files(found, memo)
    assert second[str(path)] != first[str(path)]
    assert opened == ["a.jsonl", "b.jsonl", "a.jsonl"]


def test_the_hash_of_a_file_that_was_just_written_is_not_kept(tmp_path: Path, opened: Opened) -> None:
    memo = tmp_path / "memo.json"
    found = find_files(str(write(tmp_path / "a.jsonl")))
    for _ in range(2):
        hash_data_files(found, memo)
    assert opened == ["a.jsonl", "a.jsonl"]
    assert not memo.exists()


@pytest.mark.parametrize("damage", ["{", "[1]", "\x00", '{"FILE": 3}', '{"FILE": []}', '{"FILE": [1, 2, 3, 4, 5]}'])
def test_a_damaged_memo_is_written_anew(
    damage: str, tmp_path: Path, opened: Opened, old: Callable[[Path], Path]
) -> None:
    path = old(write(tmp_path / "a.jsonl"))
    memo = write(tmp_path / "memo.json", damage.replace("FILE", str(path)))
    found = find_files(str(path))
    expected = hashlib.sha256(ROW.encode()).hexdigest()
    assert hash_data_files(found, memo) == hash_data_files(found, memo) == {str(path): expected}
    assert opened == ["a.jsonl"]
    assert json.loads(memo.read_text())[str(path)][-1] == expected


def test_files_that_are_gone_leave_the_memo(tmp_path: Path, old: Callable[[Path], Path]) -> None:
    memo = tmp_path / "memo.json"
    gone, path = write(tmp_path / "gone.jsonl"), old(write(tmp_path / "a.jsonl"))
    hash_data_files(find_files(str(tmp_path / "*.jsonl")), memo)
    gone.unlink()
    old(write(path, "[]"))
    hash_data_files(find_files(str(path)), memo)
    assert list(json.loads(memo.read_text())) == [str(path)]


def test_a_changed_remote_file_has_another_hash(memory_files: "fsspec.AbstractFileSystem") -> None:
    memory_files.pipe("/rows/a.jsonl", b"{}\n")
    before = hash_data_files(find_files("memory://rows/a.jsonl"))
    assert list(before) == ["memory:///rows/a.jsonl"]
    assert hash_data_files(find_files("memory://rows/a.jsonl")) == before
    memory_files.pipe("/rows/a.jsonl", b"[]\n")
    assert hash_data_files(find_files("memory://rows/a.jsonl")) != before


def test_a_remote_file_whose_store_knows_its_content_is_not_read(
    memory_files: "fsspec.AbstractFileSystem", monkeypatch: pytest.MonkeyPatch, opened: Opened
) -> None:
    memory_files.pipe("/rows/a.jsonl.gz", gzip.compress(ROW.encode()))
    real = memory_files.info
    tag = '"1"'
    monkeypatch.setattr(type(memory_files), "info", lambda _, path, **__: {**real(path), "ETag": tag})
    first = hash_data_files(find_files("memory://rows/a.jsonl.gz"))
    assert hash_data_files(find_files("memory://rows/a.jsonl.gz")) == first
    tag = '"2"'
    assert hash_data_files(find_files("memory://rows/a.jsonl.gz")) != first
    assert opened == []


def test_a_memo_that_cannot_be_written_stops_nothing(
    tmp_path: Path, old: Callable[[Path], Path], caplog: pytest.LogCaptureFixture
) -> None:
    found = find_files(str(old(write(tmp_path / "a.jsonl"))))
    (tmp_path / "memo.json").mkdir()
    assert list(hash_data_files(found, tmp_path / "memo.json")) == [str(tmp_path / "a.jsonl")]
    assert "cannot be kept in" in caplog.text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jsonl", "memo.json"]
