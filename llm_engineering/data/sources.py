"""Rows as they are: read from files, the hub or the embedded domain, each with its source and row number."""

import csv
import json
import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from llm_engineering.config.schema import EmbeddedSource, FileSource, RowSource
from llm_engineering.data.rowsets import Row
from llm_engineering.errors import DataError

FILE_KINDS = (".json", ".jsonl", ".csv", ".parquet")


def read_source(source: RowSource, index: int, seed: int) -> Iterator[Row]:
    """Yield the rows of one source in the form of :data:`~llm_engineering.data.rowsets.RAW`.

    Args:
        source: Where the rows are.
        index: The source's place in the configuration; it is kept with every row.
        seed: Seeds the embedded generator.

    Raises:
        DataError: The source cannot be read at all, or is empty.
    """
    number = 0
    for number, (data, problem) in enumerate(islice(_read(source, seed), source.first), start=1):
        text = None
        if problem is None:
            try:
                text = json.dumps(data, ensure_ascii=False, default=_no_text)
                text.encode()
            except (ValueError, RecursionError) as error:
                text, problem = None, str(error)
        yield {"source": index, "row": number, "data": text, "problem": problem}
    if number == 0:
        raise DataError(f"{source.name} has no rows. Check that the file was written, or remove the source.")


def _no_text(value: Any) -> dict[str, str]:
    """Return a value that JSON does not have so that it can be seen, and is not taken for text."""
    return {type(value).__name__: str(value)}


def _read(source: RowSource, seed: int) -> Iterator[tuple[Any, str | None]]:
    if isinstance(source, EmbeddedSource):
        from llm_engineering.embedded.zoo import training_rows

        return ((row, None) for row in training_rows(seed))
    if isinstance(source, FileSource):
        return _read_file(Path(source.path))
    from datasets import load_dataset
    from datasets.exceptions import DatasetNotFoundError

    try:
        rows = load_dataset(source.hub, source.subset, split=source.hub_split, revision=source.revision)
    except (DatasetNotFoundError, ValueError, OSError) as error:
        raise DataError(
            f"The data set {source.hub!r} cannot be had from the hub: {str(error).splitlines()[0]} Check the id, "
            "hub_split, the network and your hub login."
        ) from error
    return ((row, None) for row in rows)


def check_file(path: Path) -> None:
    """Refuse a path that is no readable data file.

    Raises:
        DataError: It is missing, a folder, empty or of an unknown kind.
    """
    if path.is_dir():
        raise DataError(f"{path} is a folder. Name one of its files.")
    if not path.is_file():
        beside = sorted(p.name for p in path.parent.glob("*") if p.suffix in FILE_KINDS) if path.parent.is_dir() else []
        hint = f" Beside it there are: {', '.join(beside[:8])}." if beside else " Check the path."
        raise DataError(f"{path} does not exist.{hint}")
    if path.suffix not in FILE_KINDS:
        raise DataError(f"{path} is none of {', '.join(FILE_KINDS)}. Convert it to JSON lines.")
    if path.stat().st_size == 0:
        raise DataError(f"{path} is empty. Check that it was written.")
    if not os.access(path, os.R_OK):
        raise DataError(f"{path} may not be read. Change its permissions.")


def _read_file(path: Path) -> Iterator[tuple[Any, str | None]]:
    check_file(path)
    if path.suffix == ".jsonl":
        yield from _read_json_lines(path)
    elif path.suffix == ".json":
        yield from _read_json(path)
    elif path.suffix == ".csv":
        yield from _read_csv(path)
    else:
        import pyarrow
        from pyarrow import parquet

        try:
            for batch in parquet.ParquetFile(path).iter_batches():
                yield from ((row, None) for row in batch.to_pylist())
        except (pyarrow.ArrowException, OSError) as error:
            raise DataError(f"{path} is no Parquet file that can be read: {error}") from error


def _read_csv(path: Path) -> Iterator[tuple[Any, str | None]]:
    with path.open(encoding="utf-8-sig", newline="", errors="surrogateescape") as file:
        reader = csv.DictReader(file, strict=True)  # else a quote that is never closed swallows all rows behind it
        try:
            for row in reader:
                extra = None in row or None in row.values()
                yield row, "another number of columns than the header has" if extra else None
        except csv.Error as error:
            raise DataError(f"{path}, line {reader.line_num + 1} is no valid CSV: {error}. Mend it there.") from error


def _read_json_lines(path: Path) -> Iterator[tuple[Any, str | None]]:
    with path.open("rb") as file:
        for line in file:
            if not line.strip():
                continue
            try:
                yield json.loads(line), None
            except (ValueError, RecursionError) as error:
                yield None, str(error)


def _read_json(path: Path) -> Iterator[tuple[Any, str | None]]:
    try:
        rows = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is no valid JSON: {error}. If it holds one object a line, name it .jsonl.") from error
    if not isinstance(rows, list):
        raise DataError(f"{path} holds no list of rows. Write a list of objects, or one object a line as .jsonl.")
    yield from ((row, None) for row in rows)
