from pathlib import Path

from llm_engineering.data.row_changes import row_changes
from llm_engineering.data.rowsets import RAW, write_rows
from llm_engineering.reports.data import RowChange
from llm_engineering.reports.folders import RowSet


def read(folder: Path, *sources: list[str]) -> RowSet:
    splits = {
        f"{i:03d}": [{"row": n, "place": f"line {n}", "data": text, "problem": None} for n, text in enumerate(texts, 1)]
        for i, texts in enumerate(sources)
    }
    return write_rows(folder, splits, RAW)


def test_rows_are_told_apart_by_their_content_not_by_their_place(tmp_path: Path) -> None:
    left = read(tmp_path / "a", ["x", "y", "z"], ["same"])
    right = read(tmp_path / "b", ["z", "x", "new", "new"], ["same"])
    assert row_changes(left, right, (["rows.jsonl", "more.jsonl"], ["rows.jsonl", "more.jsonl"])) == [
        RowChange(source="rows.jsonl", before=3, after=4, added=2, removed=1)
    ]


def test_a_source_that_one_run_has_not_is_added_or_removed_whole(tmp_path: Path) -> None:
    left, right = read(tmp_path / "a", ["x"]), read(tmp_path / "b", ["x", "y"])
    assert row_changes(left, right, (["old"], ["new"])) == [
        RowChange(source="old", before=1, after=0, added=0, removed=1),
        RowChange(source="new", before=0, after=2, added=2, removed=0),
    ]
