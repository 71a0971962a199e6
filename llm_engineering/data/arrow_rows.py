"""Rows of Parquet and Arrow files, batch by batch."""

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from llm_engineering.data.files import CHUNK, DataFile
from llm_engineering.data.rowsets import BATCH_ROWS
from llm_engineering.errors import DataError

if TYPE_CHECKING:
    import pyarrow
T = TypeVar("T")


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


def parquet_batches(file: DataFile) -> "Iterator[pyarrow.RecordBatch]":
    """Yield the batches of a Parquet file."""
    from pyarrow import parquet

    with file.seekable() as stream:
        with _opening(file, "Parquet"):
            table = parquet.ParquetFile(stream, buffer_size=CHUNK)
        yield from _guarded(file, table.iter_batches(BATCH_ROWS))


def arrow_batches(file: DataFile) -> "Iterator[pyarrow.RecordBatch]":
    """Yield the batches of an IPC file or an IPC stream, which datasets writes."""
    import pyarrow

    with file.seekable() as stream:
        with _opening(file, "Arrow"):
            is_file = stream.read(6) == b"ARROW1"
            stream.seek(0)
            table = pyarrow.ipc.open_file(stream) if is_file else pyarrow.ipc.open_stream(stream)
        batches = map(table.get_batch, range(table.num_record_batches)) if is_file else table
        for batch in _guarded(file, batches):
            yield from sliced(batch)


@contextmanager
def _opening(file: DataFile, kind: str) -> Iterator[None]:
    import pyarrow

    with file.reading():
        try:
            yield
        except (pyarrow.ArrowException, OSError) as error:
            raise DataError(f"{file.address} is no {kind} file that can be read: {error}") from error


def sliced(table: Any) -> Iterator[Any]:
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
