"""Rows of one file: JSON lines, JSON, CSV, Parquet or Arrow, read in a stream."""

import codecs
import csv
import io
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any, AnyStr

from llm_engineering.data.arrow_rows import arrow_batches, batch_rows, parquet_batches
from llm_engineering.data.files import CHUNK, PACKED_CHUNK, DataFile
from llm_engineering.data.raw_rows import RawRow, Rows, checked, numbered, raw_row
from llm_engineering.errors import DataError

MAX_FIELD = 1 << 28
"""Characters of one CSV field; a quote that is never closed would take the rest of the file into memory."""
_HALF_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_WHITE = re.compile(r"[ \t\n\r]*")


def read_file(file: DataFile) -> Rows:
    """Yield the rows of one file, each with its line or its number in the file.

    Raises:
        DataError: The file cannot be read, or is none of its kind.
    """
    if file.kind in ("parquet", "arrow"):
        batches = parquet_batches(file) if file.kind == "parquet" else arrow_batches(file)
        return numbered(file.name, (row for batch in batches for row in batch_rows(batch)))
    readers = {"jsonl": _read_json_lines, "json": _read_json, "csv": _read_csv, "tsv": _read_csv}
    return readers[file.kind](file)


def _lines(file: DataFile, stream: IO[AnyStr]) -> Iterator[tuple[int, AnyStr]]:
    """Yield numbers and lines; lines are read in blocks."""
    number = 0
    size = PACKED_CHUNK if file.packing else CHUNK
    while True:
        with file.reading(f"line {number}" if number else ""):
            lines = stream.readlines(size)
        if not lines:
            return
        for line in lines:
            number += 1
            yield number, line


def _read_json_lines(file: DataFile) -> Rows:
    with _opened(file) as stream:
        for number, line in _lines(file, stream):
            stripped = line.strip()
            if stripped:
                yield _json_row(f"{file.name}, line {number}", stripped.removeprefix(codecs.BOM_UTF8))


def _json_row(place: str, line: bytes) -> RawRow:
    try:
        text = line.decode()
        value = json.loads(text)
        if "\\u" in text and _HALF_SURROGATE.search(text):  # a whole pair is an emoji, a half has no encoding
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        return RawRow(place, None, str(error))
    return checked(place, text, value)


def _read_json(file: DataFile) -> Rows:
    """Yield the entries of a list; its text is held, but of its objects one at a time."""
    with _opened(file) as stream, file.reading():
        raw = stream.read()
    try:
        text = raw.decode(json.detect_encoding(raw), "surrogatepass")
        del raw
        for number, (start, end, value) in enumerate(_entries(text, file), start=1):
            place = f"{file.name}, row {number}"
            try:
                text[start:end].encode()
                yield (
                    raw_row(place, value)
                    if _HALF_SURROGATE.search(text, start, end)
                    else checked(place, text[start:end], value)
                )
            except UnicodeEncodeError as error:
                yield RawRow(place, None, str(error))
    except (ValueError, RecursionError) as error:
        hint = "If it holds one object a line, name it .jsonl."
        raise DataError(f"{file.address} is no valid JSON: {error}. {hint}") from error


def _entries(text: str, file: DataFile) -> Iterator[tuple[int, int, Any]]:
    """Yield start, end and value of the entries of a JSON list.

    Raises:
        ValueError: The text is no valid JSON.
        DataError: It is something else than a list.
    """
    decode = json.JSONDecoder().raw_decode
    position = _after_white(text, 0)
    if text[position : position + 1] != "[":
        json.loads(text)
        raise DataError(
            f"{file.address} holds no list of rows. Write a list of objects, or one object a line as .jsonl."
        )
    position = _after_white(text, position + 1)
    closed = text[position : position + 1] == "]"
    while not closed:
        value, end = decode(text, position)
        yield position, end, value
        position = _after_white(text, end)
        closed = text[position : position + 1] == "]"
        if not closed:
            if text[position : position + 1] != ",":
                raise json.JSONDecodeError("Expecting ',' delimiter", text, position)
            position = _after_white(text, position + 1)
    end = _after_white(text, position + 1)
    if end != len(text):
        raise json.JSONDecodeError("Extra data", text, end)


def _after_white(text: str, position: int) -> int:
    match = _WHITE.match(text, position)
    assert match is not None
    return match.end()


def _read_csv(file: DataFile) -> Rows:
    csv.field_size_limit(MAX_FIELD)  # a process has one limit; the default is 128 KiB
    with (
        _opened(file) as stream,
        # Bytes that are no UTF-8 become half surrogates, which are found in the row that they are in.
        io.TextIOWrapper(stream, encoding="utf-8-sig", newline="", errors="surrogateescape") as text,
    ):
        lines = (line for _, line in _lines(file, text))
        # Strict: else a quote that is never closed swallows all rows behind it.
        reader = csv.reader(lines, "excel" if file.kind == "csv" else "excel-tab", strict=True)
        header: list[str] | None = None
        for number, values in _records(file, reader):
            if header is None:
                header = _header(file, values)
            elif len(values) != len(header):
                yield RawRow(f"{file.name}, line {number}", None, "another number of columns than the header has")
            else:
                yield raw_row(f"{file.name}, line {number}", dict(zip(header, values, strict=True)))


def _records(file: DataFile, reader: Any) -> Iterator[tuple[int, list[str]]]:
    """Yield the records that are not blank, each with the line that it begins in."""
    while True:
        number = reader.line_num + 1
        try:
            values = next(reader, None)
        except csv.Error as error:
            kind = file.kind.upper()
            raise DataError(f"{file.address}, line {number} is no valid {kind}: {error}. Mend it there.") from error
        if values is None:
            return
        if values:
            yield number, values


def _header(file: DataFile, names: list[str]) -> list[str]:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(f"{file.address} has several columns {twice[0]!r}. Give each its own name in the header.")
    return names


@contextmanager
def _opened(file: DataFile) -> Iterator[IO[bytes]]:
    with file.reading():
        stream = file.unpacked()
    with stream:
        yield stream
