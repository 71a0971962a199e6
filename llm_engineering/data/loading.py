"""Read all configured sources into raw rows."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from llm_engineering.config.data import ArtifactSource, DataConfig, FileSource
from llm_engineering.data.file_hashes import hash_data_files
from llm_engineering.data.files import find_files
from llm_engineering.data.raw_rows import RawRow
from llm_engineering.data.rowsets import BATCH_ROWS, RAW, RowWriter, source_split
from llm_engineering.data.sources import read_source
from llm_engineering.errors import DataError
from llm_engineering.progress import Work
from llm_engineering.reports.folders import RowSet

BATCH_CHARACTERS = 1 << 22
"""Characters of JSON that are held at once; a batch of long rows has fewer rows."""


class Origins(BaseModel):
    """What the rows are read from, as it is now: other origins, other rows."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    files: dict[str, str] = {}
    """What changes with the content of every file, by its address."""
    artifacts: dict[str, str] = {}
    """The id of the version of every artifact, by the name of its source; of local files that were stored for steps
    that run elsewhere, by their path."""


def file_hashes(data: DataConfig, memo: Path | None = None) -> dict[str, str]:
    """Return what changes with the content of every data file, and refuse missing ones.

    Args:
        data: The sources.
        memo: As for :func:`~llm_engineering.data.files.hash_data_files`.

    Raises:
        DataError: There are no sources, or one of them has no readable file.
    """
    if not data.sft and not data.preference:
        raise DataError("No data: name sources in data.sft and data.preference.")
    paths = [source.path for _, source in data.row_sources if isinstance(source, FileSource)]
    return hash_data_files([file for path in paths for file in find_files(path)], memo)


def load_raw_rows(data: DataConfig, seed: int, folder: Path, artifacts: Mapping[str, object] | None = None) -> RowSet:
    """Read every source and write its rows as they are, one split a source, in the order of the configuration.

    Args:
        data: The sources.
        seed: Seeds the embedded generator.
        folder: Where the rows are written.
        artifacts: What the artifacts hold that sources name, by the keys of ``Origins.artifacts``.

    Raises:
        DataError: A source cannot be read or is empty.
    """
    contents = artifacts or {}
    with RowWriter(folder, RAW) as writer:
        for index, (_, source) in enumerate(data.row_sources):
            if isinstance(source, ArtifactSource) and source.name not in contents:
                raise DataError(f"The artifact {source.name} has not been loaded. Hand in what it holds.")
            with Work(f"{source.name}: read") as work:
                key = source.path if isinstance(source, FileSource) else source.name
                for rows in _batches(read_source(source, seed, contents.get(key))):
                    places, texts, problems = zip(*rows, strict=True)
                    numbers = range(work.done + 1, work.done + 1 + len(rows))
                    columns = {"row": numbers, "place": places, "data": texts, "problem": problems}
                    writer.write(source_split(index), columns)
                    work(len(rows))
        return writer.close()


def _batches(rows: Iterator[RawRow]) -> Iterator[list[RawRow]]:
    """Yield rows in batches that are limited in number and in length."""
    batch: list[RawRow] = []
    characters = 0
    for row in rows:
        batch.append(row)
        characters += len(row.data or "")
        if len(batch) == BATCH_ROWS or characters >= BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch
