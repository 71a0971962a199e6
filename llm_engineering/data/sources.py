"""Rows as they are: read in a stream from files, the hub, artifacts or the embedded domain, each with its place."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import chain, islice
from pathlib import Path
from typing import Any

from llm_engineering.config.data import ArtifactSource, EmbeddedSource, FileSource, HubSource, RowSource
from llm_engineering.data.arrow_rows import batch_rows, sliced
from llm_engineering.data.file_rows import read_file
from llm_engineering.data.files import find_files, stored_files
from llm_engineering.data.raw_rows import RawRow, Rows, chain_rows, numbered
from llm_engineering.data.rowsets import BATCH_ROWS
from llm_engineering.errors import DataError
from llm_engineering.reports.folders import Folder, RowSet


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
        return numbered(source.name, _read_hub(source))
    if isinstance(source, ArtifactSource):
        return read_artifact(source.name, artifact)
    assert isinstance(source, EmbeddedSource)
    from llm_engineering.embedded.zoo import training_rows

    return numbered(source.name, ((row, None) for row in training_rows(seed)))


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
        return numbered(name, ((row, None) for row in value))
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
    return numbered(name, chain.from_iterable(tables))


def _tables(value: object) -> Iterator[Iterator[tuple[Any, str | None]]] | None:
    import pandas  # type: ignore[import-untyped]
    import pyarrow
    from datasets import Dataset

    if isinstance(value, pyarrow.Table):
        return (batch_rows(table) for table in sliced(value))
    if isinstance(value, Dataset):
        return (batch_rows(table) for table in value.with_format("arrow").iter(BATCH_ROWS))
    if isinstance(value, pandas.DataFrame):
        return (_frame_rows(value.iloc[start : start + BATCH_ROWS]) for start in range(0, len(value), BATCH_ROWS))
    return None


def _frame_rows(frame: Any) -> Iterator[tuple[Any, str | None]]:
    """Yield the rows of a data frame; what is missing there (NaN, NaT) is null."""
    present = frame.astype(object).where(frame.notna(), None)
    return ((row, None) for row in present.to_dict("records"))
