"""Rows as they are: read in a stream from files, the hub, artifacts or the embedded domain, each with its place."""

import codecs
import csv
import io
import json
import re
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing, contextmanager
from itertools import chain, islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, AnyStr, NamedTuple, TypeVar

from llm_engineering.config.data import ArtifactSource, EmbeddedSource, FileSource, HubSource, RowSource
from llm_engineering.data.files import CHUNK, PACKED_CHUNK, DataFile, find_files, stored_files
from llm_engineering.data.nesting import MAX_NESTING, too_deep
from llm_engineering.data.rowsets import BATCH_ROWS
from llm_engineering.errors import DataError
from llm_engineering.reports.folders import Folder, RowSet

if TYPE_CHECKING:
    import pyarrow

T = TypeVar("T")
Rows = Generator["RawRow", None, None]
"""Lists and objects inside one another; rows beyond would exhaust the stack of whoever reads them next."""
MAX_FIELD = 1 << 28
"""Characters of one CSV field; a quote that is never closed would take the rest of the file into memory."""
MAX_SHOWN = 100
"""Characters that are shown of a value that JSON does not have, such as an image."""
_HALF_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_WHITE = re.compile(r"[ \t\n\r]*")


class RawRow(NamedTuple):
    """A row as it was read."""

    place: str
    """Where it stands: ``rows.jsonl, line 17``."""
    data: str | None
    """Its JSON, or none."""
    problem: str | None
    """Why there is none, or why it cannot be used."""


def read_source(source: RowSource, seed: int, artifact: object = None) -> Iterator[RawRow]:
    """Yield the rows of one source, one after the other; the whole source is never held.

    Args:
        source: Where the rows are.
        seed: Seeds the embedded generator.
        artifact: What the artifact of an :class:`ArtifactSource` holds; of a :class:`FileSource`, a folder with its
            files where they lie elsewhere.

    Raises:
        DataError: The source cannot be read at all, or is empty.
    """
    is_empty = True
    with closing(_read(source, seed, artifact)) as rows:
        for row in islice(rows, source.first):
            is_empty = False
            yield row
    if is_empty:
        raise DataError(f"{source.name} has no rows. Check that the file was written, or remove the source.")


def count_rows(source: RowSource, seed: int, artifact: object = None) -> int | None:
    """Return how many rows a source has, None where the hub does not say; they are read, but not kept.

    Args:
        source: As for :func:`read_source`.
        seed: As there.
        artifact: As there.

    Raises:
        DataError: The source cannot be read.
    """
    if not isinstance(source, HubSource):
        return sum(1 for _ in read_source(source, seed, artifact))
    from datasets import load_dataset_builder

    with _hub_errors(source):
        splits = load_dataset_builder(source.hub, source.subset, revision=source.revision).info.splits or {}
    rows = splits[source.hub_split].num_examples if source.hub_split in splits else None
    return min(rows, source.first) if rows and source.first else rows


def _read(source: RowSource, seed: int, artifact: object) -> Rows:
    if isinstance(source, FileSource):
        files = stored_files(artifact.path) if isinstance(artifact, Folder) else find_files(source.path)
        return chain_rows(map(read_file, files))
    if isinstance(source, HubSource):
        return _numbered(source.name, _read_hub(source))
    if isinstance(source, ArtifactSource):
        return read_artifact(source.name, artifact)
    assert isinstance(source, EmbeddedSource)
    from llm_engineering.embedded.zoo import training_rows

    return _numbered(source.name, ((row, None) for row in training_rows(seed)))


def chain_rows(parts: Iterable[Iterator[RawRow]]) -> Rows:
    """Yield the rows of one part after the other."""
    for part in parts:
        yield from part


def _numbered(name: str, values: Iterable[tuple[Any, str | None]]) -> Rows:
    for number, (value, problem) in enumerate(values, start=1):
        yield raw_row(f"{name}, row {number}", value, problem)


def raw_row(place: str, value: Any, problem: str | None = None) -> RawRow:
    """Return a value as a row, or why it cannot be one."""
    if problem is not None:
        return RawRow(place, None, problem)
    try:
        text = json.dumps(value, ensure_ascii=False, default=_no_json)
        text.encode()
    except (ValueError, TypeError, RecursionError) as error:
        return RawRow(place, None, str(error))
    return _checked(place, text, value)


def _checked(place: str, text: str, value: Any) -> RawRow:
    if too_deep(text, value):
        return RawRow(place, None, f"more than {MAX_NESTING} lists and objects inside one another")
    return RawRow(place, text, None)


def _no_json(value: Any) -> Any:
    """Return a value that JSON does not have so that it can be seen, and is not taken for text."""
    if hasattr(value, "tolist"):  # what pandas makes of lists and numbers
        return value.tolist()
    shown = str(value[:MAX_SHOWN] if isinstance(value, bytes) else value)
    return {type(value).__name__: shown if len(shown) <= MAX_SHOWN else f"{shown[:MAX_SHOWN]}…"}


def read_file(file: DataFile) -> Rows:
    """Yield the rows of one file, each with its line or its number in the file.

    Raises:
        DataError: The file cannot be read, or is none of its kind.
    """
    if file.kind in ("parquet", "arrow"):
        batches = _parquet_batches(file) if file.kind == "parquet" else _arrow_batches(file)
        return _numbered(file.name, (row for batch in batches for row in batch_rows(batch)))
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
    return _checked(place, text, value)


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
                    else _checked(place, text[start:end], value)
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


def _guarded(file: DataFile, values: Iterable[T]) -> Iterator[T]:
    """Yield values whose making reads a file."""
    iterator, number = iter(values), 0
    while True:
        with file.reading(f"batch {number}" if number else ""):
            value = next(iterator, None)
        if value is None:
            return
        number += 1
        yield value


def _parquet_batches(file: DataFile) -> "Iterator[pyarrow.RecordBatch]":
    from pyarrow import parquet

    with file.seekable() as stream:
        with _opening(file, "Parquet"):
            table = parquet.ParquetFile(stream, buffer_size=CHUNK)
        yield from _guarded(file, table.iter_batches(BATCH_ROWS))


def _arrow_batches(file: DataFile) -> "Iterator[pyarrow.RecordBatch]":
    """Yield the batches of an IPC file or an IPC stream, which datasets writes."""
    import pyarrow

    with file.seekable() as stream:
        with _opening(file, "Arrow"):
            is_file = stream.read(6) == b"ARROW1"
            stream.seek(0)
            table = pyarrow.ipc.open_file(stream) if is_file else pyarrow.ipc.open_stream(stream)
        batches = map(table.get_batch, range(table.num_record_batches)) if is_file else table
        for batch in _guarded(file, batches):
            yield from _sliced(batch)


@contextmanager
def _opening(file: DataFile, kind: str) -> Iterator[None]:
    import pyarrow

    with file.reading():
        try:
            yield
        except (pyarrow.ArrowException, OSError) as error:
            raise DataError(f"{file.address} is no {kind} file that can be read: {error}") from error


def _sliced(table: Any) -> Iterator[Any]:
    """Yield a table, a batch or a data set in pieces of BATCH_ROWS."""
    for start in range(0, table.num_rows, BATCH_ROWS):
        yield table.slice(start, BATCH_ROWS)


def batch_rows(batch: Any) -> Iterator[tuple[Any, str | None]]:
    """Yield the rows of an Arrow batch or table, or what is wrong with them; nothing is decoded but nested JSON."""
    import pyarrow

    decoders = {field.name: decoder for field in batch.schema if (decoder := _json_decoder(field.type)) is not None}
    try:
        rows = batch.to_pylist()
        for row in rows:
            row.update({name: decode(row[name]) for name, decode in decoders.items()})
    # Text that is no UTF-8, dates that Python does not have: each is the problem of its own row.
    except (ValueError, OverflowError, pyarrow.ArrowException) as error:
        if batch.num_rows == 1:
            yield None, str(error)
            return
        for index in range(batch.num_rows):
            yield from batch_rows(batch.slice(index, 1))
    else:
        yield from ((row, None) for row in rows)


def _json_decoder(kind: Any) -> Callable[[Any], Any] | None:
    """Return what decodes values of an Arrow type that hold JSON as text, which datasets does with mixed values."""
    import pyarrow

    if isinstance(kind, pyarrow.JsonType):
        return lambda value: None if value is None else json.loads(value)
    if pyarrow.types.is_list(kind) or pyarrow.types.is_large_list(kind):
        inner = _json_decoder(kind.value_type)
        return None if inner is None else lambda values: None if values is None else [inner(value) for value in values]
    if pyarrow.types.is_struct(kind):
        fields = {field.name: decoder for field in kind if (decoder := _json_decoder(field.type)) is not None}
        return _struct_decoder(fields) if fields else None
    return None


def _struct_decoder(fields: dict[str, Callable[[Any], Any]]) -> Callable[[Any], Any]:
    def decode(value: Any) -> Any:
        if value is None:
            return None
        return {name: fields[name](item) if name in fields else item for name, item in value.items()}

    return decode


def _read_hub(source: HubSource) -> Iterator[tuple[Any, str | None]]:
    """Yield the rows of a data set of the hub; with ``first`` no more is downloaded than they need."""
    from datasets import load_dataset

    with _hub_errors(source):
        rows = load_dataset(
            source.hub,
            source.subset,
            split=source.hub_split,
            revision=source.revision,
            streaming=source.first is not None,
        )
        # As Arrow: images and audio stay the bytes that they are.
        tables = iter(rows.with_format("arrow").iter(min(BATCH_ROWS, source.first or BATCH_ROWS)))
    while True:
        with _hub_errors(source):
            table = next(tables, None)
        if table is None:
            return
        yield from batch_rows(table)


@contextmanager
def _hub_errors(source: HubSource) -> Iterator[None]:
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise DataError(
            f"The data set {source.hub!r} cannot be had from the hub: {lines[0].rstrip('.')}. Check the id, "
            "hub_split, the network and your hub login."
        ) from error


def read_artifact(name: str, value: object) -> Rows:
    """Yield the rows of what a pipeline stored.

    Args:
        name: What messages call it.
        value: A list, a pandas DataFrame, an Arrow table, a Dataset, a folder of rows, or the path of data files.

    Raises:
        DataError: It is something else, or its files cannot be read.
    """
    if isinstance(value, list):
        return _numbered(name, ((row, None) for row in value))
    if isinstance(value, RowSet):
        return chain_rows(map(read_file, find_files(f"{value.path}/**/*.arrow")))
    if isinstance(value, Folder):
        return chain_rows(map(read_file, find_files(str(value.path))))
    if isinstance(value, str | Path):
        return chain_rows(map(read_file, find_files(str(value))))
    tables = _tables(value)
    if tables is None:
        raise DataError(
            f"The artifact {name} is a {type(value).__name__}. Store a list of objects, a DataFrame, an Arrow table, a "
            "Dataset or a folder of data files."
        )
    return _numbered(name, chain.from_iterable(tables))


def _tables(value: object) -> Iterator[Iterator[tuple[Any, str | None]]] | None:
    import pandas  # type: ignore[import-untyped]
    import pyarrow
    from datasets import Dataset

    if isinstance(value, pyarrow.Table):
        return (batch_rows(table) for table in _sliced(value))
    if isinstance(value, Dataset):
        return (batch_rows(table) for table in value.with_format("arrow").iter(BATCH_ROWS))
    if isinstance(value, pandas.DataFrame):
        return (_frame_rows(value.iloc[start : start + BATCH_ROWS]) for start in range(0, len(value), BATCH_ROWS))
    return None


def _frame_rows(frame: Any) -> Iterator[tuple[Any, str | None]]:
    """Yield the rows of a data frame; what is missing there (NaN, NaT) is null."""
    present = frame.astype(object).where(frame.notna(), None)
    return ((row, None) for row in present.to_dict("records"))
