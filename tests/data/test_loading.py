import json
from pathlib import Path

import pytest

from llm_engineering.config.data import DataConfig
from llm_engineering.data import loading
from llm_engineering.data.loading import file_hashes, load_raw_rows
from llm_engineering.data.rowsets import read_batches, read_rows
from llm_engineering.errors import DataError


def write(path: Path, content: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


def test_raw_rows_are_kept_as_they_are_one_split_a_source(tmp_path: Path) -> None:
    sft, pairs = write(tmp_path / "a.jsonl", '{"a": 1}\n\nbroken\n'), write(tmp_path / "b.csv", "x\n1\n")
    data = DataConfig.model_validate({"sft": [{"path": str(sft)}], "preference": [{"path": str(pairs)}]})
    raw = load_raw_rows(data, seed=0, folder=tmp_path / "raw")
    assert raw.rows == {"000": 2, "001": 1}
    assert list(read_rows(raw, "000")) == [
        {"row": 1, "place": "a.jsonl, line 1", "data": '{"a": 1}', "problem": None},
        {"row": 2, "place": "a.jsonl, line 3", "data": None, "problem": "Expecting value: line 1 column 1 (char 0)"},
    ]
    assert list(read_rows(raw, "001")) == [{"row": 1, "place": "b.csv, line 2", "data": '{"x": "1"}', "problem": None}]


def test_rows_of_a_folder_are_numbered_through_and_first_counts_them_all(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write(tmp_path / "rows" / f"{name}.jsonl", "{}\n" * 3)
    data = DataConfig.model_validate({"sft": [{"path": str(tmp_path / "rows"), "first": 4}]})
    rows = list(read_rows(load_raw_rows(data, seed=0, folder=tmp_path / "raw"), "000"))
    assert [(row["row"], row["place"]) for row in rows] == [
        (1, "a.jsonl, line 1"),
        (2, "a.jsonl, line 2"),
        (3, "a.jsonl, line 3"),
        (4, "b.jsonl, line 1"),
    ]


def test_rows_are_written_in_batches_and_long_rows_in_smaller_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "a.jsonl", "{}\n" * 2500)
    data = DataConfig.model_validate({"sft": [{"path": str(path)}]})
    raw = load_raw_rows(data, seed=0, folder=tmp_path / "raw")
    assert [len(batch) for batch in read_batches(raw, "000")] == [1000, 1000, 500]
    monkeypatch.setattr(loading, "BATCH_CHARACTERS", 1200)  # of two characters each
    raw = load_raw_rows(data, seed=0, folder=tmp_path / "short")
    assert [len(batch) for batch in read_batches(raw, "000")] == [600, 600, 600, 600, 100]


def test_rows_of_artifacts_are_handed_in_by_the_name_of_the_source(tmp_path: Path) -> None:
    data = DataConfig.model_validate(
        {"sft": [{"artifact": "mine"}], "preference": [{"artifact": "mine", "version": "2"}]}
    )
    contents: dict[str, object] = {"mine:latest": [{"a": 1}], "mine:2": [{"a": 2}, {"a": 3}]}
    raw = load_raw_rows(data, seed=0, folder=tmp_path / "raw", artifacts=contents)
    assert [json.loads(row["data"]) for split in ("000", "001") for row in read_rows(raw, split)] == [
        {"a": 1},
        {"a": 2},
        {"a": 3},
    ]
    with pytest.raises(DataError, match=r"The artifact mine:latest has not been loaded\. Hand in what it holds"):
        load_raw_rows(data, seed=0, folder=tmp_path / "none")


def test_files_are_hashed_by_content_and_missing_ones_refused(tmp_path: Path) -> None:
    one, two = write(tmp_path / "a.jsonl", "{}"), write(tmp_path / "b.jsonl", "{}")
    data = DataConfig.model_validate(
        {"sft": [{"path": str(one)}, {"embedded": True}], "preference": [{"path": str(two)}]}
    )
    before = file_hashes(data)
    assert list(before) == [str(one), str(two)]
    assert before[str(one)] == before[str(two)]
    write(one, "{} ")
    assert file_hashes(data)[str(one)] != before[str(one)]
    two.unlink()
    with pytest.raises(DataError, match=r"b\.jsonl does not exist"):
        file_hashes(data)
    with pytest.raises(DataError, match="No data: name sources"):
        file_hashes(DataConfig())


def test_a_new_file_in_a_folder_or_pattern_shows_in_the_hashes(tmp_path: Path) -> None:
    write(tmp_path / "rows" / "a.jsonl", "{}")
    for path in (tmp_path / "rows", tmp_path / "*" / "*.jsonl"):
        data = DataConfig.model_validate({"sft": [{"path": str(path)}]})
        before = file_hashes(data)
        added = write(tmp_path / "rows" / "b.jsonl", "[]")
        assert set(file_hashes(data)) == {*before, str(added)}
        added.unlink()
