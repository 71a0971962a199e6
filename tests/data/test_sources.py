import json
from datetime import date
from decimal import Decimal
from pathlib import Path

import pytest

from llm_engineering.config.schema import DataConfig, EmbeddedSource, FileSource, HubSource
from llm_engineering.data.loading import file_hashes, load_raw_rows
from llm_engineering.data.rowsets import RAW, SFT, read_rows, write_rows
from llm_engineering.data.sources import read_source
from llm_engineering.errors import DataError

Outcome = tuple[object, str | None]


def read(path: Path, first: int | None = None) -> list[Outcome]:
    """Return the data of every row, or its problem."""
    rows = list(read_source(FileSource(path=str(path), first=first), 3, seed=0))
    assert [(row["source"], row["row"]) for row in rows] == [(3, number + 1) for number in range(len(rows))]
    return [(None if row["data"] is None else json.loads(row["data"]), row["problem"]) for row in rows]


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_every_json_line_is_a_row_and_blank_lines_are_none(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", '{"a": "é"}\n\n  \r\n{"a": null, "b": [1, {"c": 2.5}]}\r\n[1]\nnull')
    assert read(path) == [({"a": "é"}, None), ({"a": None, "b": [1, {"c": 2.5}]}, None), ([1], None), (None, None)]


def test_broken_lines_are_rows_with_a_problem(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.jsonl",
        b'{"a": 1}\n{"a": \n{"a": "\xff\xfe"}\n{"a": "\x00"}\nplain text\n{"a": 2} trailing\n{"a": 3}\n',
    )
    outcomes = read(path)
    assert [data for data, _ in outcomes] == [{"a": 1}, None, None, None, None, None, {"a": 3}]
    said = ("Expecting value", "can't decode byte 0xff", "Invalid control character", "Expecting value", "Extra data")
    for (_, problem), words in zip(outcomes[1:6], said, strict=True):
        assert problem is not None
        assert words in problem


def test_byte_order_mark_is_no_part_of_the_first_row(tmp_path: Path) -> None:
    for name, content in (
        ("a.jsonl", '{"a": "1"}'),
        ("a.json", '[{"a": "1"}]'),
        ("a.csv", "a\n1\n"),
    ):
        assert read(write(tmp_path / name, b"\xef\xbb\xbf" + content.encode())) == [({"a": "1"}, None)]


def test_text_that_no_encoding_has_is_a_problem_of_its_row(tmp_path: Path) -> None:
    # half a surrogate pair, as an escape and as bytes; a whole pair is an emoji
    path = write(tmp_path / "a.jsonl", b'{"a": "\\ud83d"}\n{"a": "\\ud83d\\ude00"}\n{"a": "\xed\xa0\xbd"}\n')
    first, second, third = read(path)
    assert second == ({"a": "😀"}, None)
    for data, problem in (first, third):
        assert data is None
        assert "surrogates not allowed" in str(problem)


def test_nesting_too_deep_to_read_is_a_problem_of_its_row(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", "[" * 100_000 + '\n{"a": 1}\n')
    outcomes = read(path)
    assert outcomes[1] == ({"a": 1}, None)
    assert "recursion" in str(outcomes[0][1])
    with pytest.raises(DataError, match="is no valid JSON"):
        read(write(tmp_path / "a.json", "[" * 100_000))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"a": 1}', "holds no list of rows"),
        ('"text"', "holds no list of rows"),
        ('{"a": 1}\n{"a": 2}\n', r"is no valid JSON: Extra data.*name it \.jsonl"),
        ("[1, 2", "is no valid JSON"),
        (b"\xff\xff", "is no valid JSON"),
        ("[]", "has no rows"),
    ],
)
def test_json_that_is_no_list_of_rows_is_refused(content: str | bytes, said: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"a\.json {said}"):
        read(write(tmp_path / "a.json", content))


def test_csv_rows_of_another_width_than_the_header_are_problems(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", 'a,b\n1,2\n3\n4,5,6\n"x, ""y""\nz",\n\n7,8\n')
    ragged = "another number of columns than the header has"
    assert read(path) == [
        ({"a": "1", "b": "2"}, None),
        (None, ragged),
        (None, ragged),
        ({"a": 'x, "y"\nz', "b": ""}, None),
        ({"a": "7", "b": "8"}, None),
    ]


def test_csv_bytes_that_are_no_utf8_are_a_problem_of_their_row(tmp_path: Path) -> None:
    first, second = read(write(tmp_path / "a.csv", b"a\ncaf\xe9\nfine\n"))
    assert first[0] is None
    assert "surrogates not allowed" in str(first[1])
    assert second == ({"a": "fine"}, None)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('a,b\n1,2\n"3,4\n5,6\n7,8\n', r"line 3 is no valid CSV: unexpected end of data"),
        ("a\n" + "x" * 200_000 + "\n", r"line 2 is no valid CSV: field larger than field limit"),
    ],
    ids=["quote never closed", "field too large"],
)
def test_csv_whose_rows_cannot_be_told_apart_is_refused(content: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=said):
        read(write(tmp_path / "a.csv", content))


def test_parquet_values_that_json_does_not_have_stay_visible_and_are_no_text(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    rows = [{"a": "text", "b": b"raw", "c": date(2026, 1, 2), "d": Decimal("1.50"), "e": [1.5, None]}]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    read_back = {"a": "text", "b": {"bytes": "b'raw'"}, "c": {"date": "2026-01-02"}, "d": {"Decimal": "1.50"}}
    assert read(tmp_path / "a.parquet") == [({**read_back, "e": [1.5, None]}, None)]


@pytest.mark.parametrize("content", [b"not parquet at all", b"PAR1" + b"\x00" * 40 + b"\x07\x00\x00\x00PAR1"])
def test_damaged_parquet_is_refused(content: bytes, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.parquet is no Parquet file that can be read"):
        read(write(tmp_path / "a.parquet", content))


def test_only_the_first_rows_are_read_where_so_configured(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", '{"a": 1}\nbroken\n{"a": 3}\n')
    assert [data for data, _ in read(path, first=2)] == [{"a": 1}, None]
    assert len(read(path, first=9)) == 3


def test_missing_file_names_what_lies_beside_it(tmp_path: Path) -> None:
    for name in ("b.jsonl", "a.csv", "notes.txt"):
        write(tmp_path / name, "x")
    with pytest.raises(DataError, match=r"c\.jsonl does not exist\. Beside it there are: a\.csv, b\.jsonl\.$"):
        read(tmp_path / "c.jsonl")
    with pytest.raises(DataError, match=r"c\.jsonl does not exist\. Check the path\."):
        read(tmp_path / "nowhere" / "c.jsonl")


def test_folder_empty_file_and_unknown_kind_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"is a folder\. Name one of its files"):
        read(tmp_path)
    with pytest.raises(DataError, match=r"a\.jsonl is empty"):
        read(write(tmp_path / "a.jsonl", ""))
    with pytest.raises(DataError, match=r"a\.txt is none of \.json, \.jsonl, \.csv, \.parquet"):
        read(write(tmp_path / "a.txt", "{}"))


@pytest.mark.parametrize(("name", "content"), [("a.jsonl", "\n \n"), ("a.csv", "a,b\n"), ("a.csv", "\n")])
def test_file_without_rows_is_refused(name: str, content: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has no rows\. Check that the file was written"):
        read(write(tmp_path / name, content))


def test_hub_data_set_without_a_network_is_one_sentence() -> None:
    with pytest.raises(DataError, match=r"The data set 'nobody/nothing' cannot be had from the hub: .*Check the id"):
        list(read_source(HubSource(hub="nobody/nothing"), 0, seed=0))


def test_embedded_rows_follow_the_seed() -> None:
    source = EmbeddedSource(embedded=True, first=40)
    assert list(read_source(source, 0, seed=1)) == list(read_source(source, 0, seed=1))
    assert list(read_source(source, 0, seed=1)) != list(read_source(source, 0, seed=2))


def test_raw_rows_are_kept_as_they_are_one_split_a_source(tmp_path: Path) -> None:
    sft, pairs = write(tmp_path / "a.jsonl", '{"a": 1}\nbroken\n'), write(tmp_path / "b.csv", "x\n1\n")
    data = DataConfig(sft=[{"path": str(sft)}], preference=[{"path": str(pairs)}])
    raw = load_raw_rows(data, seed=0, folder=tmp_path / "raw")
    assert raw.rows == {"000": 2, "001": 1}
    assert list(read_rows(raw, "000")) == [
        {"source": 0, "row": 1, "data": '{"a": 1}', "problem": None},
        {"source": 0, "row": 2, "data": None, "problem": "Expecting value: line 1 column 1 (char 0)"},
    ]
    assert list(read_rows(raw, "001")) == [{"source": 1, "row": 1, "data": '{"x": "1"}', "problem": None}]


def test_files_are_hashed_by_content_and_missing_ones_refused(tmp_path: Path) -> None:
    one, two = write(tmp_path / "a.jsonl", "{}"), write(tmp_path / "b.jsonl", "{}")
    data = DataConfig(sft=[{"path": str(one)}, {"embedded": True}], preference=[{"path": str(two)}])
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


ROWS = [{"source": 0, "row": n, "input_ids": list(range(n)), "labels": [-100] * n} for n in (1, 2, 3)]


def test_row_sets_come_back_as_they_were_written(tmp_path: Path) -> None:
    written = write_rows(tmp_path, {"train": ROWS, "eval": [], "test": ROWS[:1]}, SFT)
    assert written.rows == {"train": 3, "eval": 0, "test": 1}
    assert list(read_rows(written, "train")) == ROWS
    assert list(read_rows(written, "test")) == ROWS[:1]
    assert len(read_rows(written, "eval")) == 0
    assert len(read_rows(written, "no such split")) == 0


def test_equal_rows_have_equal_hashes_and_other_rows_others(tmp_path: Path) -> None:
    first = write_rows(tmp_path / "a", {"train": ROWS}, SFT)
    assert write_rows(tmp_path / "b", {"train": ROWS}, SFT).sha256 == first.sha256
    assert write_rows(tmp_path / "c", {"train": ROWS[::-1]}, SFT).sha256 != first.sha256
    assert write_rows(tmp_path / "d", {"eval": ROWS}, SFT).sha256 != first.sha256


def test_rows_that_fill_several_arrow_files_all_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "MAX_SHARD_SIZE", "20KB")  # 500 MB else
    rows = [{"source": 0, "row": n, "data": "x" * 1000, "problem": None} for n in range(100)]
    written = write_rows(tmp_path, {"000": rows}, RAW)
    assert len(list((tmp_path / "000").glob("*.arrow"))) > 1
    assert list(read_rows(written, "000")) == rows
