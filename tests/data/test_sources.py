import gzip
import io
import json
import random
from collections.abc import Callable, Iterator
from datetime import date
from decimal import Decimal
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread

import fsspec
import pyarrow
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from llm_engineering.config.data import ArtifactSource, EmbeddedSource, FileSource, HubSource
from llm_engineering.data.rowsets import RAW, SFT, read_rows, write_rows
from llm_engineering.data.sources import read_source
from llm_engineering.errors import DataError

Outcome = tuple[object, str | None]
PACK: dict[str, Callable[[bytes], bytes]] = {"gz": gzip.compress, "zst": zstandard.compress}


@pytest.fixture
def memory_files() -> Iterator["fsspec.AbstractFileSystem"]:
    files = fsspec.filesystem("memory")
    yield files
    files.store.clear()
    files.pseudo_dirs[:] = [""]


def read(path: Path, first: int | None = None) -> list[Outcome]:
    """Return the data of every row, or its problem."""
    rows = read_source(FileSource(path=str(path), first=first), seed=0)
    return [(None if row.data is None else json.loads(row.data), row.problem) for row in rows]


def places(path: Path) -> list[str]:
    return [row.place for row in read_source(FileSource(path=str(path)), seed=0)]


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
    assert first[0] is third[0] is None
    assert "surrogates not allowed" in str(first[1])
    assert "can't decode byte 0xed" in str(third[1])


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


def test_csv_whose_rows_cannot_be_told_apart_is_refused(tmp_path: Path) -> None:
    content = 'a,b\n1,2\n\n"3,4\n5,6\n7,8\n'
    with pytest.raises(DataError, match=r"a\.csv, line 4 is no valid CSV: unexpected end of data"):
        read(write(tmp_path / "a.csv", content))
    with pytest.raises(DataError, match=r"a\.tsv, line 4 is no valid TSV: unexpected end of data"):
        read(write(tmp_path / "a.tsv", content.replace(",", "\t")))


def test_csv_header_that_names_a_column_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.csv has several columns 'x'\. Give each its own name in the header"):
        read(write(tmp_path / "a.csv", "x,y,x\n1,2,3\n"))


def test_tab_separated_values_are_read_by_the_rules_of_csv(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tsv", 'a\tb\n1,5\tsays "hi"\n"x\ty"\t\n')
    assert read(path) == [({"a": "1,5", "b": 'says "hi"'}, None), ({"a": "x\ty", "b": ""}, None)]


def test_a_row_of_fifty_megabytes_is_a_row(tmp_path: Path) -> None:
    text = "x" * 50_000_000
    for name, content in (("a.jsonl", f'{{"a": "{text}"}}\n{{"a": ""}}\n'), ("a.csv", f'a\n{text}\n""\n')):
        (first, problem), second = read(write(tmp_path / name, content))
        assert first == {"a": text}
        assert problem is None
        assert second == ({"a": ""}, None)


def test_a_line_is_kept_as_it_was_written(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", '  {"b":1.50, "a":"\\u00e9\\u0000" }\t\r\n')
    (row,) = read_source(FileSource(path=str(path)), seed=0)
    assert row.data == '{"b":1.50, "a":"\\u00e9\\u0000" }'
    path = write(tmp_path / "a.json", '[\n {"b":1.50,\n  "a":"é"} ,[]]')
    assert [row.data for row in read_source(FileSource(path=str(path)), seed=0)] == ['{"b":1.50,\n  "a":"é"}', "[]"]


def test_nesting_that_only_the_next_reader_would_fail_on_is_a_problem_of_its_row(tmp_path: Path) -> None:
    deep = ['{"a": ' + "[" * depth + "]" * depth + "}" for depth in (199, 200)]
    wide = '{"a": [' + ", ".join(["{}"] * 500) + "]}"
    for name, content in (("a.jsonl", "\n".join([*deep, wide])), ("a.json", f"[{','.join([*deep, wide])}]")):
        assert [problem for _, problem in read(write(tmp_path / name, content))] == [
            None,
            "more than 200 lists and objects inside one another",
            None,
        ]


def test_places_name_file_and_line(tmp_path: Path) -> None:
    assert places(write(tmp_path / "a.jsonl", "{}\n\n \nbroken\n[]")) == [
        "a.jsonl, line 1",
        "a.jsonl, line 4",
        "a.jsonl, line 5",
    ]
    assert places(write(tmp_path / "a.json", "[{},\n{}]")) == ["a.json, row 1", "a.json, row 2"]
    assert places(write(tmp_path / "a.csv", 'x,y\n"1\n2",3\n\n4\n5,6\n')) == [
        "a.csv, line 2",
        "a.csv, line 5",
        "a.csv, line 6",
    ]


def test_parquet_values_that_json_does_not_have_stay_visible_and_are_no_text(tmp_path: Path) -> None:
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


@pytest.mark.parametrize(("name", "content"), [("a.jsonl", "\n \n"), ("a.csv", "a,b\n"), ("a.csv", "\n")])
def test_file_without_rows_is_refused(name: str, content: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has no rows\. Check that the file was written"):
        read(write(tmp_path / name, content))


def test_packed_files_read_like_plain_ones(tmp_path: Path) -> None:
    for name, content in (
        ("a.jsonl", '{"a": "1"}\n\n{"a": "2"}\n'),
        ("a.json", '[{"a": "1"}, {"a": "2"}]'),
        ("a.csv", "a\n1\n2\n"),
        ("a.tsv", "a\n1\n2\n"),
    ):
        for ending, pack in PACK.items():
            path = write(tmp_path / f"{name}.{ending}", pack(content.encode()))
            assert read(path) == [({"a": "1"}, None), ({"a": "2"}, None)]
            assert places(path)[0].startswith(f"{name}.{ending}, ")


def test_arrow_and_parquet_files_read_alike_plain_and_packed(tmp_path: Path) -> None:
    table = pyarrow.table({"a": ["1", None], "b": [[{"c": 1}], []]})
    parquet.write_table(table, tmp_path / "a.parquet")
    with pyarrow.ipc.new_file(tmp_path / "a.arrow", table.schema) as file:
        file.write(table)
    with pyarrow.ipc.new_stream(tmp_path / "b.arrow", table.schema) as stream:
        stream.write(table)
    for plain in ("a.parquet", "a.arrow", "b.arrow"):
        packed = [write(tmp_path / f"{plain}.{end}", f((tmp_path / plain).read_bytes())) for end, f in PACK.items()]
        for path in (tmp_path / plain, *packed):
            assert read(path) == [({"a": "1", "b": [{"c": 1}]}, None), ({"a": None, "b": []}, None)]
            assert places(path) == [f"{path.name}, row 1", f"{path.name}, row 2"]


@pytest.mark.parametrize("ending", ["gz", "zst"])
def test_an_archive_that_is_cut_off_names_file_and_line(ending: str, tmp_path: Path) -> None:
    lines = "".join(f'{{"a": "{random.Random(n).getrandbits(4000):x}"}}\n' for n in range(1000))
    packed = PACK[ending](lines.encode())
    with pytest.raises(DataError, match=rf"a\.jsonl\.{ending} cannot be unpacked beyond line \d\d+: .*pack it anew"):
        read(write(tmp_path / f"a.jsonl.{ending}", packed[: len(packed) // 2]))
    with pytest.raises(DataError, match=rf"b\.jsonl\.{ending} cannot be unpacked: "):
        read(write(tmp_path / f"b.jsonl.{ending}", b"no archive"))
    with pytest.raises(DataError, match=rf"c\.parquet\.{ending} cannot be unpacked: "):
        read(write(tmp_path / f"c.parquet.{ending}", packed[:-4]))
    with pytest.raises(DataError, match=r"has no rows"):
        read(write(tmp_path / f"d.jsonl.{ending}", PACK[ending](b"")))


def test_several_members_of_one_archive_are_read_as_one(tmp_path: Path) -> None:
    for ending, pack in PACK.items():
        path = write(tmp_path / f"a.jsonl.{ending}", pack(b'{"a": 1}\n') + pack(b'{"a": 2}\n'))
        assert read(path) == [({"a": 1}, None), ({"a": 2}, None)]


def test_damage_in_the_middle_of_a_parquet_file_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    parquet.write_table(pyarrow.table({"a": [str(n) for n in range(50_000)]}), path, row_group_size=10_000)
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2 : len(raw) // 2 + 2000] = bytes(2000)
    with pytest.raises(DataError, match=r"a\.parquet cannot be read beyond batch \d+: "):
        read(write(path, bytes(raw)))


def test_text_in_arrow_that_is_no_utf8_is_a_problem_of_its_row(tmp_path: Path) -> None:
    text = pyarrow.array([b"fine", b"caf\xe9", None], pyarrow.binary()).view(pyarrow.string())
    parquet.write_table(pyarrow.table({"a": text}), tmp_path / "a.parquet")
    first, second, third = read(tmp_path / "a.parquet")
    assert (first, third) == (({"a": "fine"}, None), ({"a": None}, None))
    assert second[0] is None
    assert "can't decode byte 0xe9" in str(second[1])


def test_long_values_that_json_does_not_have_are_shown_in_short(tmp_path: Path) -> None:
    parquet.write_table(pyarrow.table({"image": [b"\x00" * 100_000]}), tmp_path / "a.parquet")
    ((row, _),) = read(tmp_path / "a.parquet")
    assert isinstance(row, dict)
    assert len(row["image"]["bytes"]) < 110


def test_files_of_a_folder_are_read_in_sorted_order(tmp_path: Path) -> None:
    for name in ("b", "c", "a"):
        write(tmp_path / f"{name}.jsonl", f'{{"a": "{name}"}}\n')
    assert [row for row, _ in read(tmp_path)] == [{"a": "a"}, {"a": "b"}, {"a": "c"}]
    assert places(tmp_path) == ["a.jsonl, line 1", "b.jsonl, line 1", "c.jsonl, line 1"]
    write(tmp_path / "d.jsonl", "{}")
    assert [row for row, _ in read(tmp_path, first=2)] == [{"a": "a"}, {"a": "b"}]


def test_files_at_an_address_are_read_like_local_ones(memory_files: "fsspec.AbstractFileSystem") -> None:
    table = io.BytesIO()
    parquet.write_table(pyarrow.table({"a": ["3"]}), table)
    for name, content in (
        ("a.jsonl", b'{"a": "1"}\n'),
        ("b.jsonl.zst", PACK["zst"](b'{"a": "2"}\n')),
        ("c.parquet", table.getvalue()),
        ("d.csv", b"a\n4\n"),
        ("e.parquet.gz", PACK["gz"](table.getvalue())),
    ):
        memory_files.pipe(f"/rows/{name}", content)
    found = []
    for address in ("*.jsonl*", "c.parquet", "d.csv", "e.parquet.gz"):
        found += list(read_source(FileSource(path=f"memory://rows/{address}"), seed=0))
    assert [json.loads(str(row.data))["a"] for row in found] == ["1", "2", "3", "4", "3"]
    assert found[1].place == "b.jsonl.zst, line 1"


def test_a_remote_archive_that_is_cut_off_is_one_sentence(memory_files: "fsspec.AbstractFileSystem") -> None:
    memory_files.pipe("/rows/a.jsonl.gz", PACK["gz"](b"{}\n" * 9999)[:-9])
    with pytest.raises(DataError, match=r"memory://.*rows/a\.jsonl\.gz cannot be read.*Truncated.*Check file, address"):
        list(read_source(FileSource(path="memory://rows/a.jsonl.gz"), seed=0))


@pytest.fixture
def web(tmp_path: Path) -> Iterator[str]:
    """Serve a folder as a web server does that sends whole files only, and return its address."""

    class Silent(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Silent, directory=str(tmp_path))) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_files_on_the_web_are_read_and_missing_ones_are_one_sentence(web: str, tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl.gz", PACK["gz"](b'{"a": "1"}\n'))
    parquet.write_table(pyarrow.table({"a": ["2"]}), tmp_path / "a.parquet")
    for name, value in (("a.jsonl.gz?token=1", "1"), ("a.parquet", "2"), ("*.parquet", "2")):
        (row,) = read_source(FileSource(path=f"{web}/{name}"), seed=0)
        assert row.data == f'{{"a": "{value}"}}'
        assert "token" not in row.place
    with pytest.raises(DataError, match=r"b\.csv cannot be read: 404, .*Check file, address, network and login\.$"):
        list(read_source(FileSource(path=f"{web}/b.csv?token=secret"), seed=0))


# Mostly what the readers look at, now and then any byte.
MESS = st.lists(
    st.sampled_from([b"{", b"}", b"[", b"]", b'"', b",", b":", b"\n", b"\r\n", b"\t", b"a", b"1", b"\\ud83d", b"\x00"])
    | st.binary(min_size=1, max_size=2),
    max_size=40,
).map(b"".join)


@settings(max_examples=60, deadline=None)
@given(content=MESS, ending=st.sampled_from(["", ".gz", ".zst"]), is_packed=st.booleans())
def test_every_line_of_any_bytes_is_a_row_or_the_file_is_refused(content: bytes, ending: str, is_packed: bool) -> None:
    packed = PACK[ending[1:]](content) if ending and is_packed else content
    with TemporaryDirectory() as folder:
        for kind in ("jsonl", "json", "csv", "tsv", "parquet", "arrow"):
            path = write(Path(folder) / f"a.{kind}{ending}", packed)
            try:
                rows = list(read_source(FileSource(path=str(path)), seed=0))
            except DataError:
                continue
            assert rows
            for row in rows:
                assert (row.data is None) != (row.problem is None)
                json.loads(row.data or "null")
            if kind == "jsonl" and (is_packed or not ending):
                assert len(rows) == sum(bool(line.strip()) for line in content.split(b"\n"))


def test_hub_data_set_without_a_network_is_one_sentence() -> None:
    for first in (None, 5):
        with pytest.raises(
            DataError, match=r"The data set 'nobody/nothing' cannot be had from the hub: .*Check the id"
        ):
            list(read_source(HubSource(hub="nobody/nothing", first=first), seed=0))


def hub_rows(folder: Path, **settings: object) -> list[object]:
    rows = read_source(HubSource.model_validate({"hub": str(folder), **settings}), seed=0)
    return [json.loads(str(row.data)) for row in rows]


def test_hub_rows_are_those_of_the_split_and_subset(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    write(tmp_path / "one" / "train.jsonl", '{"a": "1"}\n{"a": "2"}\n')
    write(tmp_path / "one" / "test.jsonl", '{"a": "3"}\n')
    assert hub_rows(tmp_path / "one") == [{"a": "1"}, {"a": "2"}]
    assert hub_rows(tmp_path / "one", first=1) == [{"a": "1"}]
    assert hub_rows(tmp_path / "one", hub_split="test", first=9) == [{"a": "3"}]
    with pytest.raises(DataError, match=r"cannot be had from the hub: .*nope"):
        hub_rows(tmp_path / "one", hub_split="nope")


def test_hub_rows_with_mixed_values_stay_as_they_were(tmp_path: Path) -> None:
    # datasets keeps such values as JSON text inside
    row_one, row_two = {"a": {"x": 1, "y": [1, "s"]}}, {"a": {"x": "s", "y": None}}
    (tmp_path / "mixed").mkdir()
    write(tmp_path / "mixed" / "train.jsonl", f"{json.dumps(row_one)}\n{json.dumps(row_two)}\n")
    assert hub_rows(tmp_path / "mixed") == [row_one, row_two]
    assert hub_rows(tmp_path / "mixed", first=2) == [row_one, row_two]


def test_images_of_a_hub_data_set_are_not_decoded_and_are_no_text(tmp_path: Path) -> None:
    import datasets

    rows = datasets.Dataset.from_dict({"a": ["x"], "image": [{"bytes": b"no image at all", "path": None}]})
    (tmp_path / "images").mkdir()
    rows.cast_column("image", datasets.Image()).to_parquet(tmp_path / "images" / "train.parquet")
    expected = [{"a": "x", "image": {"bytes": {"bytes": "b'no image at all'"}, "path": None}}]
    assert hub_rows(tmp_path / "images") == expected
    assert hub_rows(tmp_path / "images", first=1) == expected


ARTIFACT = ArtifactSource(artifact="rows", version="3")


def test_artifacts_of_every_accepted_kind_give_their_rows(tmp_path: Path) -> None:
    import pandas
    from datasets import Dataset

    rows = [{"a": "1", "b": [{"c": 1}]}, {"a": None, "b": []}]
    write(tmp_path / "a.jsonl", "\n".join(map(json.dumps, rows)))
    stored = write_rows(tmp_path / "set", {"train": [{"row": 1, "place": "p", "data": "{}", "problem": None}]}, RAW)
    for value in (
        rows,
        pandas.DataFrame(rows),
        pyarrow.Table.from_pylist(rows),
        Dataset.from_list(rows),
        tmp_path / "a.jsonl",
        str(tmp_path),
    ):
        assert [json.loads(str(row.data)) for row in read_source(ARTIFACT, seed=0, artifact=value)] == rows
    (row,) = read_source(ARTIFACT, seed=0, artifact=stored)
    assert json.loads(str(row.data)) == {"row": 1, "place": "p", "data": "{}", "problem": None}


def test_a_data_frame_gives_lists_and_numbers_and_null_where_a_value_is_missing() -> None:
    import numpy
    import pandas

    frame = pandas.DataFrame(
        {
            "a": [numpy.array([{"role": "user"}], dtype=object), None],
            "b": [1.5, None],
            "c": numpy.array([1, 2], "int64"),
        }
    )
    assert [json.loads(str(row.data)) for row in read_source(ARTIFACT, seed=0, artifact=frame)] == [
        {"a": [{"role": "user"}], "b": 1.5, "c": 1},
        {"a": None, "b": None, "c": 2},
    ]


def test_rows_of_an_artifact_that_json_does_not_have_are_problems_of_their_rows() -> None:
    rows = list(read_source(ARTIFACT, seed=0, artifact=[{("a", 1): 1}, {"a": 1}, "text"]))
    assert [row.place for row in rows] == ["rows:3, row 1", "rows:3, row 2", "rows:3, row 3"]
    assert [row.data for row in rows] == [None, '{"a": 1}', '"text"']
    assert "keys must be str" in str(rows[0].problem)


def test_an_artifact_of_another_kind_is_refused() -> None:
    with pytest.raises(DataError, match=r"The artifact rows:3 is a dict\. Store a list of objects, a DataFrame"):
        list(read_source(ARTIFACT, seed=0, artifact={"a": [1]}))
    with pytest.raises(DataError, match=r"rows:3 has no rows"):
        list(read_source(ARTIFACT, seed=0, artifact=[]))


def test_embedded_rows_follow_the_seed() -> None:
    source = EmbeddedSource(embedded=True, first=40)
    assert list(read_source(source, seed=1)) == list(read_source(source, seed=1))
    assert list(read_source(source, seed=1)) != list(read_source(source, seed=2))


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
